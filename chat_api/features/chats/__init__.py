"""Direct chats: conversations of two people, their messages, typing signals and read marks."""
