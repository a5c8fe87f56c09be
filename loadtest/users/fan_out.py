"""Few publish, many listen: every event to everybody, counted one by one."""

import time
from collections import defaultdict
from typing import Any

import gevent
from deliveries import deliveries, was_delivered
from locust import tag, task
from locust.env import Environment
from locust.exception import StopUser
from pusher_client import PusherClient, PusherError

from users.direct import DirectUser, name_of_process, report

__all__ = ["Ear", "Listener", "Publisher", "Speaker", "Stream", "Subscriber"]


class Stream:
    """
    The numbered events of one publisher.

    `started` is the number of the last one that was sent. What is `uncertain` has not been answered
    with success (yet), and so may arrive or not.
    """

    def __init__(self) -> None:
        self.started = 0
        self.uncertain: set[int] = set()
        self.is_over = False


streams: dict[str, dict[int, Stream]] = defaultdict(dict)
"""The streams of each channel of this process."""


class Ear:
    """
    What one subscription hears of a channel's streams.

    It is owed every event that is sent after its making, which is when the server has said that it
    counts. An event that was on its way then may arrive as well, but not twice.
    """

    def __init__(self, channel: str) -> None:
        self._streams = streams[channel]
        self._first = {number: stream.started + 1 for number, stream in self._streams.items()}
        self._next = dict(self._first)
        self._early: set[tuple[int, int]] = set()
        self._gaps: dict[int, set[int]] = defaultdict(set)
        self._repeated = 0

    def hear(self, stream: int, number: int) -> bool:
        """Take an event, and tell whether it was new."""
        due = self._next.get(stream, 1)
        gaps = self._gaps[stream]
        if number >= due:
            gaps.update(range(due, number))
            self._next[stream] = number + 1
        elif number in gaps:
            gaps.discard(number)
        elif number < self._first.get(stream, 1) and (stream, number) not in self._early:
            self._early.add((stream, number))
        else:
            self._repeated += 1
            return False
        return True

    def missing(self, *, until_now: bool) -> int:
        """
        Return how many events have been passed over.

        With `until_now`, those are missing, too, that were sent after the last one heard.
        """
        return sum(
            len(
                self._gaps[name]
                .union(range(self._next.get(name, 1), stream.started + 1) if until_now else ())
                .difference(stream.uncertain)
            )
            for name, stream in self._streams.items()
        )

    def close(self, *, until_now: bool) -> None:
        """Settle the account; without `until_now` what was on its way is not owed."""
        owed = 0
        for name, stream in self._streams.items():
            end = stream.started + 1 if until_now else self._next.get(name, 1)
            sent = range(self._first.get(name, 1), end)
            owed += len(sent) - sum(number in sent for number in stream.uncertain)
        deliveries.settle(
            owed=owed, missing=self.missing(until_now=until_now), repeated=self._repeated
        )


class Speaker(DirectUser):
    """Somebody who publishes a stream of events at the rate of the options."""

    abstract = True
    event = "tick"

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._stream = Stream()
        self._due = time.monotonic()

    @classmethod
    def channel(cls) -> str:
        """Return the channel of this process that is published to."""
        raise NotImplementedError

    def on_start(self) -> None:
        """Begin a stream."""
        of_channel = streams[self.channel()]
        self._name = len(of_channel)
        of_channel[self._name] = self._stream

    def on_stop(self) -> None:
        """Say that no more is coming."""
        self._stream.is_over = True

    def wait_time(self) -> float:
        """Return the seconds until the next event is due."""
        now = time.monotonic()
        self._due = max(self._due + 1 / self.options.rate, now - 1)
        return max(0.0, self._due - now)

    def say(self) -> None:
        """Publish the next event of the stream."""
        stream = self._stream
        number = stream.started + 1
        stream.uncertain.add(number)
        stream.started = number
        event = {"stream": self._name, "number": number, "time": time.time_ns()}
        if self.publish(self.channel(), self.event, event):
            stream.uncertain.discard(number)


class Listener(DirectUser):
    """Somebody who listens to the stream's of a channel, from when the server says so."""

    abstract = True
    connection: PusherClient | None = None
    ear: Ear | None = None

    @classmethod
    def channel(cls) -> str:
        """Return the channel of this process that is listened to."""
        raise NotImplementedError

    def listen(self) -> None:
        """
        Connect and subscribe.

        Raises:
            PusherError, OSError: The server refuses, or nobody is there.
        """
        channel = self.channel()
        connection = self.connect(self._hear)
        try:
            signed = self.sign(connection.socket_id, channel)
            connection.subscribe(channel, signed, lambda data: self._open(channel))
        except PusherError:
            connection.close()
            raise
        self.connection = connection

    def on_stop(self) -> None:
        """Hear the last event of everybody, settle the account, and leave."""
        try:
            give_up = time.monotonic() + self.options.last_wait
            while self._is_to_wait() and time.monotonic() < give_up:
                gevent.sleep(0.05)
        finally:
            if self.ear is not None:
                self.ear.close(until_now=True)
                self.ear = None
        if self.connection is not None:
            self.connection.close()

    def _is_to_wait(self) -> bool:
        if self.ear is None:
            return False
        of_channel = streams[self.channel()].values()
        are_over = all(stream.is_over for stream in of_channel)
        return not are_over or bool(self.ear.missing(until_now=True))

    def _open(self, channel: str) -> None:
        self.ear = Ear(channel)

    def _hear(self, channel: str, event: str, data: Any) -> None:
        if self.ear is not None and self.ear.hear(data["stream"], data["number"]):
            was_delivered(self.environment, event, data["time"])


class Publisher(Speaker):
    """One of the few who publish."""

    event = "fan-out"

    @classmethod
    def channel(cls) -> str:
        """Return the channel of the fan-out."""
        return f"fan-out-{name_of_process()}"

    @tag("fan-out")
    @task
    def speak(self) -> None:
        """Publish an event."""
        self.say()


class Subscriber(Listener):
    """One of the many who listen."""

    @classmethod
    def channel(cls) -> str:
        """Return the channel of the fan-out."""
        return Publisher.channel()

    def on_start(self) -> None:
        """Subscribe."""
        began = time.perf_counter()
        try:
            self.listen()
        except (PusherError, OSError) as error:
            report(self.environment, "subscribe", began, error)
            raise StopUser from None
        report(self.environment, "subscribe", began)

    def wait_time(self) -> float:
        """Return the seconds between two pings."""
        return 10.0

    @tag("fan-out")
    @task
    def ask(self) -> None:
        """Ask whether the server is there, as clients do that hear nothing."""
        if self.connection is None:
            return
        began = time.perf_counter()
        try:
            self.connection.ping()
        except PusherError as error:
            report(self.environment, "ping", began, error)
            raise StopUser from None
        report(self.environment, "ping", began)
