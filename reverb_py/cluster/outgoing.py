"""What this node says to the others: it waits for Redis, within bounds, and leaves by turns."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Mapping
from itertools import islice
from typing import TYPE_CHECKING

import structlog

from reverb_py.cluster.connections import (
    PATIENCE_SECONDS,
    Command,
    RedisLink,
    SpoiledKey,
    evaluation,
)
from reverb_py.cluster.keys import Keys
from reverb_py.cluster.messages import Event, encode, encode_published
from reverb_py.cluster.scripts import KEEP_LAST, ORDER, SAY_LAST
from reverb_py.cluster.topics import Topic, take

if TYPE_CHECKING:
    from reverb_py.cluster.app_bus import AppBus

__all__ = ["MAX_MESSAGES", "MAX_MESSAGE_BYTES", "MAX_OUTGOING_BYTES", "Outgoing"]

MAX_OUTGOING_BYTES = 16_777_216
"""Bytes of events that may wait for Redis; beyond it, the oldest channels' are dropped."""

MAX_MESSAGES = 10_000
"""
Answers that may wait for Redis, and orders as well; beyond it, the oldest are dropped.

As many orders are kept in Redis.
"""

MAX_MESSAGE_BYTES = 16_777_216
"""Bytes of answers that may wait for Redis, unless it is one; beyond it, the oldest are dropped."""

ORDER_SECONDS = 86_400
"""Time for which an order is kept in Redis for nodes that are away."""

_BATCH = 500
_BATCH_BYTES = 1_048_576
_QUIET_SECONDS = 60.0

_LastEvent = tuple[str, str]
"""The id of an app, and a cache channel of it."""


class Outgoing:
    """
    Events and messages on their way to Redis.

    What is published in one turn of the loop goes in one message a channel. Nothing is sent twice
    but orders, which wait until Redis has said that it has them. `dropped` counts the events that
    other nodes may not have got, because too many waited or because Redis went away meanwhile, and
    the answers and orders that had no room.
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
        self._on_their_way: dict[bytes, bytes] = {}
        self._to_keep: dict[_LastEvent, None] = {}
        self._commands: deque[tuple[Command, int]] = deque()
        self._command_bytes = 0
        self._orders: dict[Command, None] = {}
        self._quiet_until = 0.0
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
            if topic is not None and topic.is_listening:
                self._on_their_way[key] = frame
                if not topic.has_last_event:
                    topic.last_event_is_known()
        self._bytes += len(frame)
        while self._bytes > MAX_OUTGOING_BYTES and self._events:
            self._drop_oldest()
        self._something_to_send.set()

    def _drop_oldest(self) -> None:
        key = next(iter(self._events))
        events = self._events.pop(key)
        self._last_events.pop(key, None)
        self._on_their_way.pop(key, None)
        self._bytes -= sum(len(frame) for frame, _, _ in events)
        self._has_dropped(len(events))

    def _has_dropped(self, number: int) -> None:
        """Count what had no room, and say so now and then."""
        self.dropped += number
        now = self._loop.time()
        if now >= self._quiet_until:
            self._quiet_until = now + _QUIET_SECONDS
            self._log.error(
                "What other nodes should have had is dropped: Redis is too slow or away",
                so_far=self.dropped,
            )

    @property
    def waiting_bytes(self) -> int:
        """How many bytes of events and answers wait for Redis."""
        return self._bytes + self._command_bytes

    def tell(self, topic: bytes, message: object) -> None:
        """Send a message on a topic."""
        self.command((self._link.publish_command, topic, encode(message)))

    def command(self, command: Command) -> None:
        """Have Redis do something, at the end of the tick; nobody waits for its answer."""
        length = sum(len(part) for part in command if isinstance(part, bytes))
        self._commands.append((command, length))
        self._command_bytes += length
        while len(self._commands) > MAX_MESSAGES or (
            self._command_bytes > MAX_MESSAGE_BYTES and len(self._commands) > 1
        ):
            self._command_bytes -= self._commands.popleft()[1]
            self._has_dropped(1)
        self._something_to_send.set()

    def order(self, message: object) -> None:
        """Tell all nodes something, also those that are away, and also if Redis is."""
        topic, keys = self._keys.control_topic, [self._keys.orders]
        kept = (ORDER_SECONDS * 1000, MAX_MESSAGES)
        self._orders[
            evaluation(ORDER, keys, topic, self._link.publish_command, encode(message), *kept)
        ] = None
        if len(self._orders) > MAX_MESSAGES:
            del self._orders[next(iter(self._orders))]
            self._has_dropped(1)
        self._something_to_send.set()

    def is_on_its_way(self, key: bytes) -> bool:
        """Tell whether a last event of this node has yet to come back on a topic."""
        return key in self._on_their_way

    def has_come_back(self, key: bytes, frame: bytes) -> bool:
        """Note that a last event of this node is heard; tell whether no younger one is to come."""
        if self._on_their_way.get(key, frame) != frame:
            return False
        self._on_their_way.pop(key, None)
        return True

    def is_not_heard(self, key: bytes) -> None:
        """What is on its way does not come back: this node does not listen any more."""
        self._on_their_way.pop(key, None)

    def keep_last_events(self) -> None:
        """Have Redis, which has forgotten them, know the last events that are remembered here."""
        for app_id, app_bus in self._apps.items():
            for name in app_bus.hub.last_events.channels:
                self._to_keep[app_id, name] = None
        self._something_to_send.set()

    def fetch_last_event(self, topic: Topic) -> None:
        """Have the hub know a topic's last event, unless one is heard before."""
        self._to_recall[topic] = None
        self._something_to_send.set()

    def settled(self) -> Awaitable[object] | None:
        """Return what ends when Redis has everything that was published so far."""
        if self._link.is_away or not (self._events or self._commands or self._orders):
            return None
        if self._settled is None:
            self._settled = self._loop.create_future()
            self._loop.call_later(PATIENCE_SECONDS, _finish, self._settled)
        return self._settled

    def forget(self) -> None:
        """Redis is out of reach: nobody waits for it, and events wait until it is back."""
        self._to_recall.clear()
        self._on_their_way.clear()
        settled, self._settled = self._settled, None
        if settled is not None:
            _finish(settled)

    async def keep_sending(self) -> None:
        """Send what there is, as it comes, until Redis fails, which raises."""
        while True:
            # At first, what was left when Redis failed.
            while self._is_anything_waiting or self._to_recall or self._to_keep:
                async with self._sending:
                    await self._send()
            await self._something_to_send.wait()
            self._something_to_send.clear()

    async def empty(self) -> None:
        """
        Send everything that waits.

        Raises:
            redis.RedisError, OSError, TimeoutError: Redis failed.
        """
        async with self._sending:
            while self._is_anything_waiting:
                await self._send()

    @property
    def _is_anything_waiting(self) -> bool:
        return bool(self._events or self._commands or self._orders)

    async def _send(self) -> None:
        orders = list(islice(self._orders, _BATCH))
        kept = take(self._to_keep, _BATCH)
        commands = [*orders, *self._next_commands(), *self._keeping(kept)]
        settled, self._settled = self._settled, None
        size = count_sent = 0
        try:
            while self._events and size < _BATCH_BYTES:
                key = next(iter(self._events))
                events, length = self._next_of(key)
                size += length
                count_sent += len(events)
                last = None if key in self._events else self._last_events.pop(key, None)
                message = encode_published(self._node_id, events)
                if last is None:
                    commands.append((self._link.publish_command, key, message))
                else:
                    commands.append(self._saying_last(key, message, *last))
            self._bytes -= size
            recalled = self._next_recalled()
            for topic in recalled:
                commands.append(("GET", topic.key + b":last"))
                commands.append(("PTTL", topic.key + b":last"))
            is_rest = self._events or self._commands or len(self._orders) > len(orders)
            if is_rest and settled is not None:
                # Some of what is waited for has to wait for the next turn.
                self._settled, settled = settled, None
            answers = await self._link.run(commands)
        except BaseException:
            # They may have arrived; sent again, they might arrive twice.
            self.dropped += count_sent
            self._to_keep.update(dict.fromkeys(kept))
            raise
        finally:
            if settled is not None:
                _finish(settled)
        for order, answer in zip(orders, answers, strict=False):
            self._orders.pop(order, None)
            if isinstance(answer, SpoiledKey):
                self._log.error(
                    "Something else was written to the nodes' orders in Redis: delete them",
                    key=self._keys.orders.decode(),
                    reason=str(answer),
                )
        if recalled:
            of_last = answers[-2 * len(recalled) :]
            for topic, value, ttl in zip(recalled, of_last[::2], of_last[1::2], strict=True):
                if not topic.has_last_event:
                    if not isinstance(value, SpoiledKey):
                        self._apps[topic.app_id].remember(topic.name, value, ttl)
                    topic.last_event_is_known()

    def _next_commands(self) -> list[Command]:
        """Take as many commands as one turn should have."""
        commands, size = [], 0
        while self._commands and size < _BATCH_BYTES:
            command, length = self._commands.popleft()
            size += length
            commands.append(command)
        self._command_bytes -= size
        return commands

    def _next_recalled(self) -> list[Topic]:
        """Take topics whose last event Redis is asked for, and has yet to hear none of here."""
        topics: list[Topic] = take(self._to_recall, _BATCH)
        for topic in topics:
            if topic.key in self._last_events:
                self._to_recall[topic] = None
        return [topic for topic in topics if topic not in self._to_recall]

    def _saying_last(
        self, key: bytes, message: bytes, frame: bytes, data: str, ttl: float
    ) -> Command:
        value = encode((frame, data))
        arguments = (key, self._link.publish_command, message, value, int(ttl * 1000))
        return evaluation(SAY_LAST, [key + b":last"], *arguments)

    def _keeping(self, last_events: list[_LastEvent]) -> list[Command]:
        """Return what keeps these in Redis, as far as they are remembered here."""
        commands = []
        for app_id, name in last_events:
            hub = self._apps[app_id].hub
            now = hub.clock()
            last = hub.last_events.recall(name, now)
            milliseconds = 0 if last is None else int((last.expires_at - now) * 1000)
            if last is not None and milliseconds:
                key, value = self._keys.topic(app_id, name), encode((last.frame, last.data))
                commands.append(evaluation(KEEP_LAST, [key + b":last"], value, milliseconds))
        return commands

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
