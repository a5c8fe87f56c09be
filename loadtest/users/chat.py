"""
A day of chat: staff who write to each other, customers who ask for help, agents who answer.

Everybody listens over the Pusher protocol meanwhile, and what was said must arrive.
"""

import random
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gevent
from deliveries import deliveries
from locust import FastHttpUser, tag, task
from locust.env import Environment
from locust.exception import StopUser
from pusher_client import PusherClient, PusherError

__all__ = ["Agent", "Customer", "TwoColleagues"]

DEMO_ACCOUNTS: Sequence[tuple[str, str, str]] = (
    ("ali@example.com", "password", "user"),
    ("vali@example.com", "password", "user"),
    ("agent@example.com", "password", "agent"),
    ("agent2@example.com", "password", "agent"),
)
WORDS = ("order", "of", "yesterday", "has", "not", "arrived", "yet", "where", "is", "it", "please")


class Accounts:
    """The accounts to play, each by one user at a time."""

    def __init__(self) -> None:
        self._free: dict[str, Iterator[tuple[str, str]]] = {}

    def take(self, environment: Environment, role: str) -> tuple[str, str]:
        """
        Return the email and password of an account that nobody plays yet.

        Raises:
            StopUser: There are not that many.
        """
        if role not in self._free:
            file = _options(environment).accounts
            known = _accounts_in(file) if file else DEMO_ACCOUNTS
            self._free[role] = ((email, word) for email, word, played in known if played == role)
        try:
            return next(self._free[role])
        except StopIteration:
            print(f"All accounts of the role {role} are taken: use fewer users, or --accounts")
            raise StopUser from None


def _accounts_in(file: str) -> Sequence[tuple[str, str, str]]:
    found = []
    for line in Path(file).read_text().splitlines():
        email, password, role = (part.strip() for part in line.split(","))
        found.append((email, password, role))
    return found


def _options(environment: Environment) -> Any:
    return environment.parsed_options


accounts = Accounts()


def sentence(token: str) -> str:
    """Return something to say that carries the token."""
    start = random.randrange(len(WORDS) - 4)
    return f"[{token}] " + " ".join(WORDS[start : start + random.randint(3, 12)])


def token_in(content: str) -> str:
    """Return the token that a message carries."""
    return content[1:].partition("]")[0]


class Seat:
    """One person's place: a token for the API, and a connection to the realtime server."""

    def __init__(self, user: FastHttpUser, headers: dict[str, str]) -> None:
        self.user = user
        self.headers = headers
        options = _options(user.environment)
        self.listeners: dict[str, Callable[[str, Any], None]] = {}
        self.realtime = PusherClient(
            f"{options.realtime}/app/{options.app_key}?protocol=7&client=locust&version=1.0",
            self._hear,
            self._lose,
        )

    def listen(self, channel: str, on_event: Callable[[str, Any], None]) -> None:
        """Subscribe with the leave of the API; `on_event` gets each event's name and data."""
        self.listeners[channel] = on_event
        body = {"socket_id": self.realtime.socket_id, "channel_name": channel}
        signed = self.ask("POST", "/broadcasting/auth", body)
        if signed is not None:
            self.realtime.subscribe(channel, signed)

    def ask(self, method: str, path: str, body: Any = None, name: str | None = None) -> Any:
        """Return what the API answers, or None if that is not a success; locust counts both."""
        headers = self.headers | {"X-Socket-ID": self.realtime.socket_id}
        with self.user.rest(method, path, name=name, headers=headers, json=body) as response:
            return response.js if 200 <= response.status_code < 300 else None

    def say(self, path: str, body: dict[str, Any], name: str) -> None:
        """Post a message that somebody is waiting for, under a token of its own."""
        token = deliveries.token()
        if self.ask("POST", path, {"content": sentence(token), **body}, name) is not None:
            deliveries.was_taken(token)

    def forget(self, channel: str) -> None:
        """Stop listening to a channel."""
        if self.listeners.pop(channel, None) is not None:
            self.realtime.unsubscribe(channel)

    def leave(self) -> None:
        """Close the connection."""
        self.realtime.close()

    def _hear(self, channel: str, event: str, data: Any) -> None:
        if channel in self.listeners:
            self.listeners[channel](event, data)

    def _lose(self, reason: str) -> None:
        self.user.environment.events.request.fire(
            request_type="websocket",
            name="connection",
            response_time=0,
            response_length=0,
            exception=PusherError(reason),
            context={},
        )


still_talking: "set[Person]" = set()
"""Who may still say something, and who therefore has to be listened to."""


class Person(FastHttpUser):
    """Somebody who does one thing after the other, with pauses."""

    abstract = True
    network_timeout = connection_timeout = 30.0

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.seats: list[Seat] = []

    def on_stop(self) -> None:
        """Hear the last word of everybody and leave."""
        still_talking.discard(self)
        give_up = time.monotonic() + _options(self.environment).last_wait
        while (still_talking or deliveries.missing) and time.monotonic() < give_up:
            gevent.sleep(0.05)
        for seat in self.seats:
            seat.leave()

    def sit_down(self, headers: dict[str, str]) -> Seat:
        """Return a new seat, which is left in the end."""
        still_talking.add(self)
        seat = Seat(self, headers)
        self.seats.append(seat)
        return seat

    def wait_time(self) -> float:
        """Return the next pause: half to one and a half times the average."""
        pause: float = _options(self.environment).pause
        return pause * (0.5 + random.random())

    def log_in(self, role: str) -> tuple[Seat, int]:
        """Play an account from here on; returns its seat and its id."""
        email, password = accounts.take(self.environment, role)
        with self.rest("POST", "/api/login", json={"email": email, "password": password}) as answer:
            if answer.status_code != 200:
                raise StopUser
            headers = {"Authorization": f"Bearer {answer.js['token']}"}
            return self.sit_down(headers), answer.js["user"]["id"]


class TwoColleagues(Person):
    """Two members of staff who write to each other."""

    weight = 4

    def on_start(self) -> None:
        """Log both in and open their chat."""
        (self.one, one_id), (self.other, other_id) = self.log_in("user"), self.log_in("user")
        for seat, user_id in ((self.one, one_id), (self.other, other_id)):
            seat.listen(f"private-user.{user_id}", self._hear)
        self.chat = self.one.ask("POST", "/api/chats", {"user_id": other_id})["id"]

    def _hear(self, event: str, data: Any) -> None:
        if event == "MessageSent":
            content = data["data"]["message"]["content"]
            deliveries.was_heard(token_in(content), "MessageSent", self.environment)

    @tag("chat")
    @task(12)
    def write(self) -> None:
        """One of the two writes."""
        self._one_of_them().say(
            f"/api/chats/{self.chat}/messages",
            {"tempId": secrets.token_hex(8)},
            "/api/chats/ID/messages",
        )

    @tag("chat")
    @task(4)
    def type(self) -> None:
        """One of the two starts to write."""
        path = f"/api/chats/{self.chat}/typing"
        self._one_of_them().ask("POST", path, {}, "/api/chats/ID/typing")

    @tag("chat")
    @task(3)
    def read(self) -> None:
        """One of the two reads all there is."""
        path = f"/api/chats/{self.chat}/read"
        self._one_of_them().ask("POST", path, {}, "/api/chats/ID/read")

    @tag("chat")
    @task(1)
    def look_back(self) -> None:
        """One of the two opens the app."""
        seat = self._one_of_them()
        seat.ask("GET", "/api/chats")
        path = f"/api/chats/{self.chat}/messages?limit=50"
        seat.ask("GET", path, name="/api/chats/ID/messages?limit")

    def _one_of_them(self) -> Seat:
        return random.choice((self.one, self.other))


class Agent(Person):
    """Somebody who takes customers from the queue, greets them, and answers what they say."""

    weight = 1

    def on_start(self) -> None:
        """Log in, watch the queue, and see who waits already."""
        self.seat, _ = self.log_in("agent")
        tenant = _options(self.environment).tenant
        self.seat.headers["X-Tenant-Domain"] = tenant
        self.unanswered: list[str] = []
        self.queue: list[str] = []
        self.taken: set[str] = set()
        self.seat.listen(f"private-queue.{tenant}", self._see_queue)
        waiting = self.seat.ask("GET", "/api/agent/queue?page=0&size=20")
        self._see_queue("queue:snapshot", waiting["content"])

    @tag("support")
    @task(1)
    def take(self) -> None:
        """Take whoever waits longest; another agent may be faster, or one's hands may be full."""
        conversation = next((each for each in self.queue if each not in self.taken), None)
        if conversation is None:
            return
        self.taken.add(conversation)
        path = f"/api/agent/conversations/{conversation}"
        name = "/api/agent/conversations/ID/accept"
        with self.rest("POST", f"{path}/accept", self.seat.headers, name=name, json={}) as answer:
            if answer.status_code in (409, 410):
                answer.success()
            is_mine = answer.status_code == 200
        if is_mine:
            hear = partial(self._hear, conversation)
            self.seat.listen(f"private-conversation.{conversation}", hear)
            self._say(conversation)

    @tag("support")
    @task(4)
    def answer(self) -> None:
        """Answer whom nobody has answered."""
        if self.unanswered:
            self._say(self.unanswered.pop(0))

    def _say(self, conversation: str) -> None:
        self.seat.say(
            f"/api/agent/conversations/{conversation}/messages",
            {"metadata": {"channel": "support-panel"}},
            "/api/agent/conversations/ID/messages",
        )

    def _see_queue(self, event: str, data: Any) -> None:
        if event == "queue:snapshot":
            self.queue = [entry["conversationId"] for entry in data]

    def _hear(self, conversation: str, event: str, data: Any) -> None:
        if event == "chat:message" and data["message"]["sender"]["type"] == "CUSTOMER":
            token = token_in(data["message"]["content"])
            deliveries.was_heard(token, "chat:message", self.environment)
            self.unanswered.append(conversation)
        elif event == "system:event" and data["status"] == "CLOSED":
            self.seat.forget(f"private-conversation.{conversation}")


class Customer(Person):
    """Somebody who asks for help, talks for a while once an agent greets them, and hangs up."""

    weight = 3

    seat: Seat
    conversation: str
    turns_left = 0
    is_answered = False

    def on_start(self) -> None:
        """Stand in line."""
        self._begin()

    @tag("support")
    @task
    def talk(self) -> None:
        """Say something when it is one's turn; after some turns, close and come back as another."""
        if not self.is_answered:
            return
        path, name = "/api/customer/conversations/", "/api/customer/conversations/ID/"
        if self.turns_left == 0:
            self.seat.ask("POST", f"{path}{self.conversation}/close", {}, f"{name}close")
            self.seats.remove(self.seat)
            self.seat.leave()
            self._begin()
            return
        self.turns_left -= 1
        self.is_answered = False
        self.seat.say(
            f"{path}{self.conversation}/messages",
            {"metadata": {"source": "web"}},
            f"{name}messages",
        )

    def _begin(self) -> None:
        self.turns_left = random.randint(2, 8)
        self.is_answered = False
        body = {
            "fingerprint": secrets.token_hex(16),
            "displayName": random.choice(WORDS).title(),
            "contact": "0123456789",
        }
        tenant = {"X-Tenant-Domain": _options(self.environment).tenant}
        with self.rest("POST", "/api/customer/sessions", tenant, json=body) as answer:
            if answer.status_code != 200:
                raise StopUser
            session = answer.js
        self.conversation = session["conversationId"]
        self.seat = self.sit_down({"Authorization": f"Bearer {session['token']}", **tenant})
        self.seat.listen(f"private-conversation.{self.conversation}", self._hear)
        path, name = "/api/customer/conversations/", "/api/customer/conversations/ID/messages"
        for message in (
            self.seat.ask("GET", f"{path}{self.conversation}/messages?limit=50", name=name) or ()
        ):
            if message["sender"]["type"] == "AGENT":
                deliveries.was_found(token_in(message["content"]))
                self.is_answered = True

    def _hear(self, event: str, data: Any) -> None:
        if event == "chat:message" and data["message"]["sender"]["type"] == "AGENT":
            token = token_in(data["message"]["content"])
            self.is_answered = self.is_answered or not deliveries.is_heard(token)
            deliveries.was_heard(token, "chat:message", self.environment)
