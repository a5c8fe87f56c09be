"""
Load as people make it, for locust.

    locust -f loadtest/locustfile.py --headless -u 40 -t 60s --tags chat

A day of chat (tags `chat` and `support`): members of staff write to each other, type and read;
customers ask for help, agents take them from the queue, answer, and somebody closes. Everybody
listens over the Pusher protocol meanwhile.

What was said must arrive: each message that the API took is owed to whoever listens, and how long
it took from the request to the event is the locust metric `event`. A message that has not arrived
when the run is over, or that arrived twice, fails the run (exit status 1).
"""

import random
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gevent
from dotenv import dotenv_values
from locust import FastHttpUser, events, tag, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import WorkerRunner
from pusher_client import PusherClient, PusherError

DEMO_ACCOUNTS: Sequence[tuple[str, str, str]] = (
    ("ali@example.com", "password", "user"),
    ("vali@example.com", "password", "user"),
    ("agent@example.com", "password", "agent"),
    ("agent2@example.com", "password", "agent"),
)
WORDS = ("order", "of", "yesterday", "has", "not", "arrived", "yet", "where", "is", "it", "please")
LAST_WAIT = 20.0
"""Seconds that what was said may take to arrive after the last request."""

_ENV_FILE = dotenv_values(Path(__file__).resolve().parent.parent / ".env")


@events.init_command_line_parser.add_listener
def _(parser: LocustArgumentParser) -> None:
    group = parser.add_argument_group("Chat")
    group.add_argument(
        "--realtime",
        env_var="LOCUST_REALTIME",
        default="ws://127.0.0.1:8080",
        help="Where the WebSocket server is",
    )
    group.add_argument(
        "--app-key",
        env_var="REVERB_APP_KEY",
        default=_ENV_FILE.get("REVERB_APP_KEY") or "",
        help="The app's key; from .env when left out",
    )
    group.add_argument(
        "--accounts",
        env_var="LOCUST_ACCOUNTS",
        default="",
        help="A file with an account a line: email, password, role; the demo accounts without one",
    )
    group.add_argument(
        "--tenant",
        env_var="LOCUST_TENANT",
        default="tenant1.example.com",
        help="Whose customers ask for help; best one whose queue is empty",
    )
    group.add_argument(
        "--pause",
        env_var="LOCUST_PAUSE",
        type=float,
        default=2.0,
        help="Seconds that everybody pauses, on average, between two things they do",
    )


class Deliveries:
    """
    What was said and is owed to somebody who listens, by the token that each message carries.

    A token starts with the time it was made, in nanoseconds, so that whoever hears it, in whatever
    process, knows how long it took.
    """

    def __init__(self) -> None:
        self.taken: set[str] = set()
        self.heard: set[str] = set()
        self.repeated = 0
        self._told: set[str] = set()
        self._news: dict[str, list[str]] = {"taken": [], "heard": []}

    def token(self) -> str:
        """Return the token of a message that is about to be sent."""
        return f"{time.time_ns()}-{secrets.token_hex(4)}"

    def was_taken(self, token: str) -> None:
        """Say that the API took the message: from now on it is owed."""
        self.taken.add(token)
        self._news["taken"].append(token)

    def was_found(self, token: str) -> None:
        """Say that somebody who came too late for the event found the message in the history."""
        if token not in self.heard:
            self.heard.add(token)
            self._news["heard"].append(token)

    def was_heard(self, token: str, name: str, environment: Environment) -> None:
        """Say that the event reached somebody who should hear it."""
        if token in self._told:
            self.repeated += 1
            return
        self._told.add(token)
        self.was_found(token)
        environment.events.request.fire(
            request_type="event",
            name=name,
            response_time=(time.time_ns() - int(token.partition("-")[0])) / 1e6,
            response_length=0,
            exception=None,
            context={},
        )

    @property
    def missing(self) -> set[str]:
        """Return what is owed and has not been heard so far."""
        return self.taken - self.heard

    def take_news(self) -> dict[str, Any]:
        """Return what a worker has to tell its master since the last time."""
        news, self._news = self._news, {"taken": [], "heard": []}
        repeated, self.repeated = self.repeated, 0
        return {**news, "repeated": repeated}

    def add_news(self, news: dict[str, Any]) -> None:
        """Add what a worker tells."""
        self.taken.update(news["taken"])
        self.heard.update(news["heard"])
        self.repeated += news["repeated"]


deliveries = Deliveries()


@events.report_to_master.add_listener
def _(client_id: str, data: dict[str, Any]) -> None:
    data["deliveries"] = deliveries.take_news()


@events.worker_report.add_listener
def _(client_id: str, data: dict[str, Any]) -> None:
    deliveries.add_news(data["deliveries"])


@events.quitting.add_listener
def _(environment: Environment) -> None:
    if isinstance(environment.runner, WorkerRunner):
        return
    ratio = 1 - len(deliveries.missing) / max(1, len(deliveries.taken))
    print(
        f"Deliveries: {len(deliveries.taken)} messages taken, {len(deliveries.missing)} not heard,"
        f" {deliveries.repeated} heard twice: {ratio:.2%}"
    )
    if deliveries.missing or deliveries.repeated or not deliveries.taken:
        environment.process_exit_code = 1


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
        give_up = time.monotonic() + LAST_WAIT
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
            self.is_answered = self.is_answered or token not in deliveries.heard
            deliveries.was_heard(token, "chat:message", self.environment)
