"""Direct chats as their apps see them: exact JSON over HTTP, exact events on the channels."""

import asyncio
import re
from typing import Any

import pytest
from sqlalchemy import Engine, event

from tests.chat_api.client import Client
from tests.chat_api.receiver import Received
from tests.chat_api.world import World

MESSAGES = "/api/chats/1/messages"

ALI = {"id": 1, "firstName": "Ali", "lastName": "Valiyev", "email": "ali@example.com"}
VALI = {"id": 2, "firstName": "Vali", "lastName": "Aliyev", "email": "vali@example.com"}


def timeless(value: Any) -> Any:
    """Replace every time of the wire's form, so that the rest can be compared exactly."""
    match value:
        case dict():
            return {name: timeless(inner) for name, inner in value.items()}
        case list():
            return [timeless(inner) for inner in value]
        case str() if re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", value):
            return "TIME"
        case _:
            return value


def message(message_id: int, content: str, *, status: str = "sent") -> dict[str, Any]:
    return {
        "id": str(message_id),
        "chat_id": "1",
        "sender_id": "1",
        "sender_name": "Ali Valiyev",
        "content": content,
        "sent_at": "TIME",
        "status": status,
    }


async def send(client: Client, *contents: str) -> None:
    for content in contents:
        reply = await client.post(MESSAGES, {"content": content, "tempId": f"temp-{content}"})
        assert reply.status == 201, reply


async def test_a_chat_is_opened_once_whoever_asks(world: World) -> None:
    chat = {
        "id": 2,
        "participants": [ALI, {**VALI, "id": 3, "firstName": "Agent", "lastName": "Smith"}],
        "last_message": None,
        "unread_count": 0,
        "created_at": "TIME",
    }
    chat["participants"][1]["email"] = "agent@example.com"  # type: ignore[index]

    opened = await world.ali.post("/api/chats", {"user_id": 3})
    found = await world.ali.post("/api/chats", {"user_id": "3"})
    by_the_other = await (await world.stranger()).post("/api/chats", {"user_id": 1})

    assert (opened.status, timeless(opened.body)) == (201, chat)
    assert (found.status, timeless(found.body)) == (200, chat)
    assert (by_the_other.status, timeless(by_the_other.body)) == (200, chat)


async def test_twenty_requests_at_once_open_one_chat(world: World) -> None:
    replies = await asyncio.gather(
        *(world.ali.post("/api/chats", {"user_id": 4}) for _ in range(20))
    )

    assert sorted(reply.status for reply in replies) == [200] * 19 + [201]
    assert {reply.body["id"] for reply in replies} == {2}


async def test_a_message_is_stored_answered_and_told_to_both(world: World) -> None:
    reply = await world.ali.post(MESSAGES, {"content": "Salom 👋", "tempId": "temp-msg-xyz"})

    assert reply.status == 201
    assert timeless(reply.body) == {"message": message(1, "Salom 👋"), "tempId": "temp-msg-xyz"}
    events = await world.receiver.hears(2)
    payload = {"type": "message", "data": reply.body}
    assert [(event.channel, event.name, event.data) for event in events] == [
        ("private-user.1", "MessageSent", payload),
        ("private-user.2", "MessageSent", payload),
    ]


async def test_type_and_metadata_come_back_as_sent(world: World) -> None:
    metadata = {"url": "https://example.com/a.png", "size": [640, 480], "alt": "a\u0000b"}

    reply = await world.ali.post(
        MESSAGES, {"content": "", "tempId": "a", "type": "image", "metadata": metadata}
    )
    history = await world.vali.get(MESSAGES)

    assert timeless(reply.body["message"]) == {
        **message(1, ""),
        "type": "image",
        "metadata": metadata,
    }
    assert history.body["messages"] == [reply.body["message"]]


async def test_the_socket_a_message_came_from_is_left_out(world: World) -> None:
    for temp_id, socket_id in (("a", "123.456"), ("b", "123.456:private-user.2"), ("c", "abc")):
        await world.ali.post(
            MESSAGES, {"content": "x", "tempId": temp_id}, headers={"X-Socket-ID": socket_id}
        )

    events = await world.receiver.hears(6)
    assert [event.socket_id for event in events] == ["123.456"] * 2 + [None] * 4


async def test_the_same_temp_id_again_stores_and_says_nothing(world: World) -> None:
    first = await world.ali.post(MESSAGES, {"content": "one", "tempId": "same"})
    again = await world.ali.post(MESSAGES, {"content": "two", "tempId": "same"})
    by_another = await world.vali.post(MESSAGES, {"content": "three", "tempId": "same"})

    assert (first.status, again.status, by_another.status) == (201, 200, 201)
    assert again.body == first.body
    events = await world.receiver.hears(4)
    assert [event.data["data"]["message"]["content"] for event in events] == [
        "one",
        "one",
        "three",
        "three",
    ]


async def test_twenty_equal_requests_at_once_store_one_message(world: World) -> None:
    replies = await asyncio.gather(
        *(world.ali.post(MESSAGES, {"content": "hi", "tempId": "same"}) for _ in range(20))
    )
    await send(world.ali, "last")

    assert sorted(reply.status for reply in replies) == [200] * 19 + [201]
    assert {reply.body["message"]["id"] for reply in replies} == {replies[0].body["message"]["id"]}
    history = await world.ali.get(MESSAGES)
    assert [item["content"] for item in history.body["messages"]] == ["hi", "last"]
    events = await world.receiver.hears(4)
    assert [event.data["data"]["tempId"] for event in events] == ["same"] * 2 + ["temp-last"] * 2


async def test_history_pages_back_oldest_first(world: World) -> None:
    await send(world.ali, "1", "2", "3", "4", "5")

    newest = await world.vali.get(f"{MESSAGES}?limit=2")
    before = await world.vali.get(f"{MESSAGES}?limit=2&before=4")
    oldest = await world.vali.get(f"{MESSAGES}?limit=2&before=2")
    everything = await world.vali.get(MESSAGES)

    def contents(body: Any) -> tuple[list[str], bool]:
        return [item["content"] for item in body["messages"]], body["has_more"]

    assert contents(newest.body) == (["4", "5"], True)
    assert contents(before.body) == (["2", "3"], True)
    assert contents(oldest.body) == (["1"], False)
    assert contents(everything.body) == (["1", "2", "3", "4", "5"], False)
    assert timeless(oldest.body) == {"messages": [message(1, "1")], "has_more": False}


async def test_a_chat_without_messages_has_an_empty_history(world: World) -> None:
    reply = await world.ali.get(MESSAGES)

    assert (reply.status, reply.body) == (200, {"messages": [], "has_more": False})


async def test_chats_are_listed_with_last_message_and_unread_count(world: World) -> None:
    await world.ali.post("/api/chats", {"user_id": 3})
    await send(world.ali, "one", "two")

    of_vali = await world.vali.get("/api/chats")
    of_ali = await world.ali.get("/api/chats")
    second_page = await world.ali.get("/api/chats?limit=1&offset=1")

    assert timeless(of_vali.body) == [
        {
            "id": 1,
            "participants": [ALI, VALI],
            "last_message": message(2, "two"),
            "unread_count": 2,
            "created_at": "TIME",
        }
    ]
    assert {chat["id"]: chat["unread_count"] for chat in of_ali.body} == {1: 0, 2: 0}
    assert second_page.body == of_ali.body[1:]


async def test_typing_is_told_to_the_other_person_only(world: World) -> None:
    reply = await world.ali.post("/api/chats/1/typing", {"typing": True})
    stopped = await world.ali.post("/api/chats/1/typing", {"typing": False})
    by_default = await world.vali.post("/api/chats/1/typing", headers={"X-Socket-ID": "1.2"})

    assert (reply.status, reply.body) == (200, {"typing": True})
    assert (stopped.status, stopped.body) == (200, {"typing": False})
    assert by_default.status == 200
    events = await world.receiver.hears(2)
    assert [event._replace(key="") for event in events] == [
        Received(
            "private-user.2",
            "UserIsTyping",
            {"type": "typing", "data": {"conversation_id": 1, "user": ALI}},
            None,
            "",
        ),
        Received(
            "private-user.1",
            "UserIsTyping",
            {"type": "typing", "data": {"conversation_id": 1, "user": VALI}},
            "1.2",
            "",
        ),
    ]


async def test_reading_answers_and_tells_the_ids_newly_marked(world: World) -> None:
    await send(world.ali, "1", "2", "3", "4")
    await world.vali.post(MESSAGES, {"content": "mine", "tempId": "mine"})

    some = await world.vali.post("/api/chats/1/read", {"message_ids": ["2", 3, "2", "99", "x", 5]})
    rest = await world.vali.post("/api/chats/1/read")
    none = await world.vali.post("/api/chats/1/read", {"message_ids": ["2"]})

    assert (some.status, some.body) == (200, {"message_ids": ["2", "3"]})
    assert (rest.status, rest.body) == (200, {"message_ids": ["1", "4"]})
    assert (none.status, none.body) == (200, {"message_ids": []})
    events = (await world.receiver.hears(14))[10:]
    assert [(event.channel, event.name, event.data) for event in events] == [
        (
            f"private-user.{user_id}",
            "MessagesRead",
            {"type": "read", "data": {"conversation_id": 1, "reader_id": 2, "message_ids": ids}},
        )
        for ids in (["2", "3"], ["1", "4"])
        for user_id in (2, 1)
    ]
    history = await world.ali.get(MESSAGES)
    assert [item["status"] for item in history.body["messages"]] == ["read"] * 4 + ["sent"]
    chats = await world.vali.get("/api/chats")
    assert chats.body[0]["unread_count"] == 0


async def test_many_read_marks_are_told_in_events_that_fit(world: World) -> None:
    many = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 900) "
        "INSERT INTO direct_messages (chat_id, sender_id, kind, content, sent_at) "
        "SELECT 1, 1, 'text', 'x', '2024-10-25 10:31:00.000000' FROM n"
    )
    await world.api.store.write(lambda unit: unit.connection.exec_driver_sql(many))

    reply = await world.vali.post("/api/chats/1/read")

    assert len(reply.body["message_ids"]) == 900
    events = await world.receiver.hears(6)
    told = [event.data["data"]["message_ids"] for event in events if event.channel[-1] == "1"]
    assert [len(ids) for ids in told] == [400, 400, 100]
    assert [each for ids in told for each in ids] == reply.body["message_ids"]


async def test_messages_to_a_person_open_the_chat_and_come_back(world: World) -> None:
    personal = "/api/chat/personal/messages"
    before = await world.ali.get(f"{personal}?with=3")
    sent = await world.ali.post(personal, {"recipientId": "3", "message": "hello"})
    picture = await world.ali.post(
        personal, {"recipientId": 3, "type": "image", "media": {"url": "a.png"}, "tempId": "t"}
    )
    again = await world.ali.post(
        personal, {"recipientId": 3, "type": "image", "media": {"url": "a.png"}, "tempId": "t"}
    )
    history = await (await world.stranger()).get(f"{personal}?with=1&limit=1")

    assert (before.status, before.body) == (200, {"messages": [], "has_more": False})
    assert sent.status == 201
    assert timeless(sent.body) == {
        "message": {**message(1, "hello"), "chat_id": "2"},
        "tempId": None,
    }
    assert (picture.status, again.status) == (201, 200)
    assert timeless(picture.body) == {
        "message": {
            **message(2, ""),
            "chat_id": "2",
            "type": "image",
            "metadata": {"media": {"url": "a.png"}},
        },
        "tempId": "t",
    }
    assert (history.status, history.body) == (
        200,
        {"messages": [picture.body["message"]], "has_more": True},
    )
    events = await world.receiver.hears(4)
    assert (
        sorted(event.channel for event in events) == ["private-user.1"] * 2 + ["private-user.3"] * 2
    )


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/messages", None),
        ("POST", "/messages", {"content": "x", "tempId": "t"}),
        ("POST", "/typing", {}),
        ("POST", "/read", {}),
    ],
)
async def test_a_chat_is_closed_to_others(
    world: World, method: str, path: str, body: object
) -> None:
    stranger = await world.stranger()
    await send(world.ali, "secret")

    of_others = await stranger.ask(method, f"/api/chats/1{path}", body)
    unknown = await stranger.ask(method, f"/api/chats/99{path}", body)
    anonymous = await world.nobody.ask(method, f"/api/chats/1{path}", body)

    assert (of_others.status, of_others.body) == (
        403,
        {"code": "forbidden", "message": "This chat is not yours."},
    )
    assert (unknown.status, unknown.body) == (
        404,
        {"code": "not_found", "message": "There is no such chat."},
    )
    assert (anonymous.status, anonymous.body["code"]) == (401, "unauthenticated")
    assert (await world.ali.get("/api/chats")).body[0]["last_message"]["status"] == "sent"


async def test_listing_chats_takes_the_same_number_of_queries_however_many(world: World) -> None:
    statements: list[str] = []

    async def queries_of_a_listing() -> int:
        statements.clear()
        assert (await world.ali.get("/api/chats")).status == 200
        return len(statements)

    def remember(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if "outbox" not in statement:
            statements.append(statement)

    event.listen(Engine, "before_cursor_execute", remember)
    try:
        with_one = await queries_of_a_listing()
        for user_id in (3, 4, 5):
            await world.ali.post("/api/chats", {"user_id": user_id})
        with_four = await queries_of_a_listing()
    finally:
        event.remove(Engine, "before_cursor_execute", remember)

    assert with_one == with_four == 2  # who is asking, and all the chats
