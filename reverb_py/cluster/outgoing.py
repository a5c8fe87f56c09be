"""What this node says to the others: it waits for Redis, within bounds, and leaves by turns."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING

import structlog

from reverb_py.cluster.connections import PATIENCE_SECONDS, Command, RedisLink, SpoiledKey
from reverb_py.cluster.keys import Keys
from reverb_py.cluster.messages import Event, encode, encode_published
from reverb_py.cluster.topics import Topic, take

if TYPE_CHECKING:
    from reverb_py.cluster.app_bus import AppBus

__all__ = ["MAX_MESSAGES", "MAX_OUTGOING_BYTES", "Outgoing"]

MAX_OUTGOING_BYTES = 16_777_216
"""Bytes of events that may wait for Redis; beyond it, the oldest channel's are dropped."""

MAX_MESSAGES = 10_000
"""Answers and orders that may wait for Redis; beyond it, the oldest are dropped."""

_BATCH = 500
_BATCH_BYTES = 1_048_576


class Outgoing:
    """
    Events and messages on their way to Redis.

    What is published in one turn of the loop goes in one message a channel. Nothing is sent twice:
    `dropped` counts the events that other nodes may not have got, because too many waited or
    because Redis went away meanwhile, and the answers and orders that had no room.
    """

    def __init__(
        self,
        link: RedisLink,
        keys: Keys,
        node_id: str,
        apps: Mapping[str, AppBus],
        topics: Mapping[bytes, Topic],
    ) -> None:
        self._link = link
        self._keys = keys
        self._node_id = node_id
        self._apps = apps
        self._topics = topics
        self._loop = asyncio.get_running_loop()
        self._log = structlog.get_logger("reverb_py")
        self.dropped = 0
        self._events: dict[bytes, list[Event]] = {}
        self._bytes = 0
        self._last_events: dict[bytes, tuple[bytes, str, float]] = {}
        self._commands: deque[Command] = deque()
        self._to_recall: dict[Topic, None] = {}
        self._settled: asyncio.Future[None] | None = None
        self._sending = asyncio.Lock()
        self._something_to_send = asyncio.Event()

    def publish(
        self,
        app_id: str,
        name: str,
        frame: bytes,
        excluded: str | None,
        data: str | None,
        ttl: float,
    ) -> None:
        """
        Send a frame to a channel's subscribers on other nodes, at the end of the tick.

        `data`, where there is any, is remembered as the channel's last event for `ttl` seconds.
        """
        key = self._keys.topic(app_id, name)
        event = (frame, excluded, data)
        events = self._events.get(key)
        if events is None:
            self._events[key] = [event]
        else:
            events.append(event)
        if data is not None:
            self._last_events[key] = (frame, data, ttl)
            topic = self._topics.get(key)
            if topic is not None and topic.is_listening and not topic.has_last_event:
                topic.last_event_is_known()
        self._bytes += len(frame)
        if self._bytes > MAX_OUTGOING_BYTES:
            self._drop_oldest()
        self._something_to_send.set()

    def _drop_oldest(self) -> None:
        if self.dropped == 0:
            self._log.error(
                "Events are dropped that other nodes should have had: Redis is too slow"
            )
        key = next(iter(self._events))
        events = self._events.pop(key)
        self._last_events.pop(key, None)
        self._bytes -= sum(len(frame) for frame, _, _ in events)
        self.dropped += len(events)

    @property
    def waiting_bytes(self) -> int:
        """How many bytes of events wait for Redis."""
        return self._bytes

    def tell(self, topic: bytes, message: object) -> None:
        """Send a message on a topic."""
        self.command((self._link.publish_command, topic, encode(message)))

    def command(self, command: Command) -> None:
        """Have Redis do something, at the end of the tick; nobody waits for its answer."""
        self._commands.append(command)
        if len(self._commands) > MAX_MESSAGES:
            self._commands.popleft()
            self.dropped += 1
        self._something_to_send.set()

    def fetch_last_event(self, topic: Topic) -> None:
        """Have the hub know a topic's last event, unless one is heard before."""
        self._to_recall[topic] = None
        self._something_to_send.set()

    def settled(self) -> Awaitable[object] | None:
        """Return what ends when Redis has everything that was published so far."""
        if self._link.is_away or not (self._events or self._commands):
            return None
        if self._settled is None:
            self._settled = self._loop.create_future()
            self._loop.call_later(PATIENCE_SECONDS, _finish, self._settled)
        return self._settled

    def forget(self) -> None:
        """Redis is out of reach: nobody waits for it, and events wait until it is back."""
        self._to_recall.clear()
        settled, self._settled = self._settled, None
        if settled is not None:
            _finish(settled)

    async def keep_sending(self) -> None:
        """Send what there is, as it comes, until Redis fails, which raises."""
        while True:
            await self._something_to_send.wait()
            self._something_to_send.clear()
            while self._events or self._commands or self._to_recall:
                async with self._sending:
                    await self._send()

    async def empty(self) -> None:
        """
        Send everything that waits.

        Raises:
            redis.RedisError, OSError, TimeoutError: Redis failed.
        """
        async with self._sending:
            while self._events or self._commands:
                await self._send()

    async def _send(self) -> None:
        commands = list(self._commands)
        self._commands.clear()
        settled, self._settled = self._settled, None
        size = count_sent = 0
        try:
            while self._events and size < _BATCH_BYTES:
                key = next(iter(self._events))
                events, length = self._next_of(key)
                size += length
                count_sent += len(events)
                last = None if key in self._events else self._last_events.pop(key, None)
                if last is not None:
                    value = encode(last[:2])
                    commands.append(("SET", key + b":last", value, "PX", int(last[2] * 1000)))
                message = encode_published(self._node_id, events)
                commands.append((self._link.publish_command, key, message))
            self._bytes -= size
            recalled = take(self._to_recall, _BATCH)
            for topic in recalled:
                commands.append(("GET", topic.key + b":last"))
                commands.append(("PTTL", topic.key + b":last"))
            if self._events and settled is not None:
                # Some of what is waited for has to wait for the next turn.
                self._settled, settled = settled, None
            answers = await self._link.run(commands)
        except BaseException:
            # They may have arrived; sent again, they might arrive twice.
            self.dropped += count_sent
            raise
        finally:
            if settled is not None:
                _finish(settled)
        if recalled:
            of_last = answers[-2 * len(recalled) :]
            for topic, value, ttl in zip(recalled, of_last[::2], of_last[1::2], strict=True):
                if not topic.has_last_event:
                    if not isinstance(value, SpoiledKey):
                        self._apps[topic.app_id].remember(topic.name, value, ttl)
                    topic.last_event_is_known()

    def _next_of(self, key: bytes) -> tuple[list[Event], int]:
        """Take as many of a channel's events as one message should have; return their length."""
        events, length = self._events.pop(key), 0
        for number, (frame, _, _) in enumerate(events, 1):
            length += len(frame)
            if length >= _BATCH_BYTES and number < len(events):
                self._events = {key: events[number:], **self._events}
                return events[:number], length
        return events, length


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
