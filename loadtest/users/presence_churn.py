"""
People come into rooms and leave again, and everybody's list of members must be right.

Whoever is in a room is owed an announcement of everyone who comes or leaves. Before one leaves,
what is owed must have arrived, and the list must agree with who is there; now and then somebody
asks the server how many there are.
"""

import random
import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

import gevent
import orjson
from deliveries import deliveries, was_delivered
from locust import tag, task
from locust.env import Environment
from locust.exception import StopUser
from pusher_client import PusherError

from users.direct import DirectUser, name_of_process, report

__all__ = ["Guest"]

_ROOM_SIZE = 50
_ADDED = "pusher_internal:member_added"
_REMOVED = "pusher_internal:member_removed"


class _WrongListError(Exception):
    """Somebody's list of members, or their number, is not what it should be."""


class _Room:
    """Who is in a channel for sure, and who may be, being about to come or to leave."""

    def __init__(self, number: int) -> None:
        self.channel = f"presence-churn-{name_of_process()}-{number}"
        self.inside: dict[str, Guest] = {}
        self.moving: set[str] = set()

    def announce(self, user_id: str, kind: str) -> None:
        """Have everybody who is inside be owed this about a user."""
        for guest in self.inside.values():
            guest.owed[user_id, kind].append(time.time_ns())

    def take_back(self, user_id: str, kind: str) -> None:
        """Have nobody be owed what did not happen."""
        for guest in self.inside.values():
            if guest.owed[user_id, kind]:
                guest.owed[user_id, kind].pop()


_rooms: dict[int, _Room] = {}


class Guest(DirectUser):
    """Somebody who comes, stays a while, and leaves."""

    _count = 0

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        number, Guest._count = Guest._count, Guest._count + 1
        self.user_id = f"guest-{number}"
        self.owed: dict[tuple[str, str], deque[int]] = defaultdict(deque)
        self._room = _rooms.setdefault(number // _ROOM_SIZE, _Room(number // _ROOM_SIZE))
        self._listed: set[str] = set()
        self._is_listing = False

    def wait_time(self) -> float:
        """Return the next pause: half to one and a half times the average."""
        pause: float = self.options.pause
        return pause * (0.5 + random.random())

    def on_start(self) -> None:
        """Connect."""
        try:
            self._connection = self.connect(self._hear)
        except (PusherError, OSError) as error:
            report(self.environment, "connection", time.perf_counter(), error)
            raise StopUser from None

    def on_stop(self) -> None:
        """Leave the room as on any day."""
        try:
            if self._is_listing:
                self._leave()
        finally:
            self._settle()
        self._connection.close()
        # Who was about to come in when the run ended may have been let in since.
        self._room.inside.pop(self.user_id, None)
        self._room.moving.discard(self.user_id)

    @tag("presence-churn")
    @task(4)
    def come_or_leave(self) -> None:
        """Come in when outside, and leave when inside."""
        if self._is_listing:
            self._leave()
        else:
            self._come()

    @tag("presence-churn")
    @task(1)
    def count(self) -> None:
        """Ask how many there are, which must be right within a while."""
        room = self._room
        path, name = f"/channels/{room.channel}", "/channels/CHANNEL?info=user_count"

        def is_right() -> bool:
            surely, maybe = set(room.inside), room.inside.keys() | room.moving
            answer = self.read(path, name, {"info": "user_count"})
            surely &= set(room.inside)
            maybe |= room.inside.keys() | room.moving
            return answer is not None and (len(surely) <= answer.get("user_count", 0) <= len(maybe))

        self._expect("member count", is_right)

    def _come(self) -> None:
        room = self._room
        began = time.perf_counter()
        user = {"user_id": self.user_id, "user_info": {"name": f"Guest {self.user_id}"}}
        channel_data = orjson.dumps(user).decode()
        signed = self.sign(self._connection.socket_id, room.channel, channel_data)
        room.moving.add(self.user_id)
        room.announce(self.user_id, _ADDED)
        try:
            self._connection.subscribe(room.channel, signed, self._enter)
        except PusherError as error:
            room.take_back(self.user_id, _ADDED)
            room.moving.discard(self.user_id)
            report(self.environment, "join", began, error)
            raise StopUser from None
        report(self.environment, "join", began)

    def _enter(self, data: Any) -> None:
        """Take the list of members; from here on this one is owed the others' announcements."""
        self._listed = set(data["presence"]["ids"])
        self._is_listing = True
        self._room.moving.discard(self.user_id)
        self._room.inside[self.user_id] = self

    def _leave(self) -> None:
        room = self._room
        room.inside.pop(self.user_id, None)
        room.moving.add(self.user_id)
        self._expect("announcements", lambda: not any(self.owed.values()))
        self._expect("member list", self._is_list_right)
        self._settle()
        self._is_listing = False
        room.announce(self.user_id, _REMOVED)
        try:
            self._connection.unsubscribe(room.channel)
            self._connection.ping()
        except PusherError as error:
            report(self.environment, "leave", time.perf_counter(), error)
            raise StopUser from None
        finally:
            room.moving.discard(self.user_id)

    def _settle(self) -> None:
        missing = sum(map(len, self.owed.values()))
        deliveries.settle(owed=missing, missing=missing)
        self.owed.clear()

    def _is_list_right(self) -> bool:
        room = self._room
        return room.inside.keys() <= self._listed <= room.inside.keys() | room.moving

    def _expect(self, name: str, is_right: Callable[[], bool]) -> None:
        began = time.perf_counter()
        give_up = time.monotonic() + self.options.last_wait
        while not is_right():
            if time.monotonic() > give_up:
                error = _WrongListError(
                    f"{self._room.channel}: wrong for {self.options.last_wait:g} s"
                )
                report(self.environment, name, began, error)
                deliveries.settle(owed=1, missing=1)
                return
            gevent.sleep(0.02)
        report(self.environment, name, began)

    def _hear(self, channel: str, event: str, data: Any) -> None:
        if event not in (_ADDED, _REMOVED) or not self._is_listing:
            return
        user_id = data["user_id"]
        if (user_id in self._listed) == (event == _ADDED):
            deliveries.settle(repeated=1)
            return
        if event == _ADDED:
            self._listed.add(user_id)
        else:
            self._listed.discard(user_id)
        owed = self.owed[user_id, event]
        if owed:
            deliveries.settle(owed=1)
            was_delivered(self.environment, event.partition(":")[2], owed.popleft())
