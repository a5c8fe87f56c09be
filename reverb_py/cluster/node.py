"""
A node on the bus: one process, its connections to Redis, and what it does over them.

While Redis is there, a few tasks run side by side: one reads what others publish, one sends what is
published here, one has Redis know of whom the node holds channels, one renews its lease. When
anything fails, all of them end, everything is forgotten that Redis would have to confirm, and the
node begins again under a new name: under it, it holds what it holds now, and the old name is
reaped, as that of a dead node would be. So nothing that was under way when the connection broke,
and may yet arrive or not, can do harm.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import deque
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from redis.exceptions import RedisError

from reverb_py.cluster.app_bus import AppBus, RequestFigures
from reverb_py.cluster.connections import Command, RedisAddress, RedisLink, Subscription, evaluation
from reverb_py.cluster.scripts import COUNT, HOLD, LEASE, REAP, RELEASE, SNAPSHOT
from reverb_py.cluster.topics import USER_PREFIX, Change, Entry, Hold, Topic
from reverb_py.core.bus import Bus, Census
from reverb_py.core.recent_keys import KEY_SECONDS
from reverb_py.protocol.channel_names import kind_of

if TYPE_CHECKING:
    from reverb_py.core.hub import Hub

__all__ = ["MAX_MESSAGES", "MAX_OUTGOING_BYTES", "PATIENCE_SECONDS", "Node", "Scaling"]

MAX_OUTGOING_BYTES = 16_777_216
"""Bytes of events that may wait for Redis; beyond it, the oldest channel's are dropped."""

MAX_MESSAGES = 10_000
"""Answers and orders that may wait for Redis; beyond it, the oldest are dropped."""

PATIENCE_SECONDS = 1.0
"""Time after which a client is answered from what is known here."""

_BATCH = 500
_BATCH_BYTES = 1_048_576
_IDLE_SECONDS = 2.0
_CLAIM_MILLISECONDS = 5_000
_RETIRED_SECONDS = 60.0
_CANCEL_SECONDS = 0.2
_RETRY_SECONDS = (0.05, 1.0)

_encode = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """
    The deployment that a node belongs to.

    `prefix` begins every key and topic, and must have no braces: several deployments can share a
    Redis. A node that is not heard of for `lease_seconds` is taken for dead.
    """

    redis: RedisAddress
    prefix: str = "reverb:"
    lease_seconds: float = 10.0


class _Events(msgspec.Struct, array_like=True):
    """What one node published on one topic in one go: frames, each with who does not get it."""

    node: str
    events: list[tuple[bytes, str | None, str | None]]


_decode_events = msgspec.msgpack.Decoder(_Events).decode
_decode_control = msgspec.msgpack.Decoder(list[Any]).decode
_decode_census = msgspec.msgpack.Decoder(tuple[int, dict[str, tuple[int, list[str]]], int]).decode
_decode_last_event = msgspec.msgpack.Decoder(tuple[bytes, str]).decode


class _Question:
    """What was asked of all nodes, and what they have answered so far."""

    __slots__ = ("answers", "expected", "figures", "future")

    def __init__(self, figures: RequestFigures) -> None:
        self.figures = figures
        self.answers: list[Census] = []
        self.expected: int | None = None
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def look(self) -> None:
        is_complete = self.expected is not None and len(self.answers) >= self.expected
        if is_complete and not self.future.done():
            self.future.set_result(None)


class Node:
    """
    This process among the others of its deployment.

    `trouble` says why Redis can't be used, or is None. `dropped` counts the events that other nodes
    may not have got, because too many waited or because Redis went away meanwhile; `breaks` how
    often it went away.
    """

    def __init__(self, scaling: Scaling) -> None:
        self._address = address = scaling.redis
        self._prefix = prefix = scaling.prefix
        self._lease_seconds = scaling.lease_seconds
        self.id = secrets.token_hex(8)
        self.trouble: str | None = "Redis has not been reached yet"
        self.dropped = 0
        self.breaks = 0
        self._log = structlog.get_logger("reverb_py")
        self._loop = asyncio.get_running_loop()
        self._link = RedisLink(address)
        self._subscription: Subscription | None = None
        self._numbers = count(1)
        self._name = ""
        self._retired: dict[str, float] = {}
        self._lenient_until = 0.0
        self._is_leaving = False
        self._may_change = False
        self._changing = asyncio.Lock()
        self._sending = asyncio.Lock()
        self._buses: dict[str, AppBus] = {}
        self._topics: dict[bytes, Topic] = {}
        self._idle: dict[Topic, float] = {}
        self._to_listen: dict[Topic, None] = {}
        self._to_change: dict[Hold, None] = {}
        self._to_count: dict[Topic, None] = {}
        self._to_unregister: dict[bytes, str] = {}
        self._to_look_at: dict[Topic, None] = {}
        self._registered: set[bytes] = set()
        self._outgoing: dict[bytes, list[tuple[bytes, str | None, str | None]]] = {}
        self._outgoing_bytes = 0
        self._last_events: dict[bytes, tuple[bytes, str, float]] = {}
        self._messages: deque[Command] = deque()
        self._to_recall: dict[Topic, None] = {}
        self._settled: asyncio.Future[None] | None = None
        self._questions: dict[int, _Question] = {}
        self._something_to_listen = asyncio.Event()
        self._something_to_change = asyncio.Event()
        self._something_to_look_at = asyncio.Event()
        self._something_to_send = asyncio.Event()
        self._control_topic = f"{prefix}control".encode()
        self._own_topic = f"{prefix}node.{self.id}".encode()
        self._nodes_key = f"{prefix}nodes"

    @property
    def outgoing_bytes(self) -> int:
        """Bytes of events that wait for Redis."""
        return self._outgoing_bytes

    @property
    def topics(self) -> int:
        """How many channels and watched users are of interest here, or were a moment ago."""
        return len(self._topics)

    @property
    def requests(self) -> Iterable[tuple[str, RequestFigures]]:
        """What was asked of other nodes and answered to them, by the id of the app."""
        return [(app_id, app_bus.requests) for app_id, app_bus in self._buses.items()]

    @property
    def is_away(self) -> bool:
        """Whether Redis is out of reach, so that what is known here has to do."""
        return self.trouble is not None

    def bus_of(self, hub: Hub) -> Bus:
        """Return the bus of an app's hub."""
        app_bus = self._buses.get(hub.app.id)
        if app_bus is None:
            app_bus = self._buses[hub.app.id] = AppBus(self, hub)
        else:
            app_bus.hub = hub
        return app_bus

    # Life.

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """
        Be on the bus for as long as the context lasts.

        It begins when Redis has been reached, or after `PATIENCE_SECONDS`. At its end the node
        sends what waits and leaves, so that nobody has to wait for its lease.
        """
        begun = asyncio.Event()
        tasks = [asyncio.create_task(self._stay(begun)), asyncio.create_task(self._keep_tidy())]
        try:
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await begun.wait()
            except TimeoutError:
                self._log.error("Redis can't be reached", redis=str(self._address))
            yield
        finally:
            self._is_leaving = True
            if not self.is_away:
                await self._leave()
            await _end(tasks)
            await self._close()

    async def _leave(self) -> None:
        try:
            async with asyncio.timeout(2 * PATIENCE_SECONDS):
                async with self._sending, self._changing:
                    while self._outgoing or self._messages:
                        await self._send()
                    await self._reap(self._name)
        except (RedisError, OSError, TimeoutError) as exc:
            self._log.warning("Left Redis without a word", reason=str(exc))

    async def _stay(self, begun: asyncio.Event) -> None:
        pause = _RETRY_SECONDS[0]
        while True:
            try:
                await self._live(begun)
            except (RedisError, OSError, TimeoutError) as exc:
                reason = str(exc) or type(exc).__name__
            except Exception:
                reason = "A mistake in reverb_py, which its log shows"
                self._log.exception("The bus begins again")
            if self._is_leaving:
                return
            if not self.is_away:
                pause = _RETRY_SECONDS[0]
            if begun.is_set() and self.trouble != reason:
                self._log.error(
                    "Redis is away: events stay on this node until it is back",
                    reason=reason,
                    redis=str(self._address),
                )
            self.breaks += not self.is_away
            self.trouble = reason
            self._forget()
            await self._close()
            # Nodes that lost Redis together do not come back together.
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
            pause = min(2 * pause, _RETRY_SECONDS[1])

    async def _live(self, begun: asyncio.Event) -> None:
        await self._link.open()
        self._subscription = await self._link.subscription(self._received)
        self._subscription.confirmed = self._confirmed
        await _until_one_fails([*self._subscription.readers(), self._work(begun)])

    async def _work(self, begun: asyncio.Event) -> None:
        async with asyncio.timeout(max(self._lease_seconds, 5 * self._address.timeout)):
            await self._resume()
        self.trouble = None
        if begun.is_set():
            self._log.info("Redis is back", redis=str(self._address))
        begun.set()
        await _until_one_fails(
            [
                self._keep_listening(),
                self._keep_changing(),
                self._keep_looking(),
                self._keep_sending(),
                self._keep_lease(),
            ]
        )

    async def _resume(self) -> None:
        """Have Redis know what is here, and know what is there."""
        subscription = self._subscription
        assert subscription is not None
        old = self._name
        has_forgotten = False
        if old:
            [expires] = await self._run([("ZSCORE", self._nodes_key, old)])
            has_forgotten = expires is None
        await self._take_name()
        await subscription.listen([self._control_topic, self._own_topic])
        self._to_listen.clear()
        for topic in self._topics.values():
            if topic.listeners:
                topic.is_asked_for = True
                self._to_listen[topic] = None
        await self._listen()
        await subscription.is_complete.wait()
        await self._change()
        if old:
            await self._reap(old)
            if has_forgotten:
                self._lenient_until = self._loop.time() + self._lease_seconds
        await self._look()

    async def _take_name(self) -> None:
        """Be another node from now on, which has yet to hold anything."""
        if self._name:
            self._retired[self._name] = self._loop.time()
        self._name = f"{self.id}.{next(self._numbers)}"
        await self._renew(is_new=True)
        self._registered.clear()
        self._may_change = True
        for topic in self._topics.values():
            topic.is_held_no_more()
            for hold in topic.holds.values():
                self._to_change[hold] = None
            if topic.subscribers:
                self._to_count[topic] = None

    async def _return_from_the_dead(self) -> None:
        """Hold everything again; who is present elsewhere may have changed unheard."""
        self._log.warning("This node was silent for longer than its lease, and taken for dead")
        old = self._name
        async with self._changing:
            await self._take_name()
        await self._change()
        await self._reap(old)
        for topic in self._topics.values():
            if topic.members is not None and topic.is_listening:
                self.fetch_members(topic)

    def _forget(self) -> None:
        """Forget what only Redis could confirm; who waits is answered from what is known here."""
        self._may_change = False
        self._registered.clear()
        self._to_unregister.clear()
        self._to_change.clear()
        self._to_count.clear()
        self._to_listen.clear()
        self._to_look_at.clear()
        self._to_recall.clear()
        for topic in list(self._topics.values()):
            topic.lost()
        for topic in list(self._topics.values()):
            topic.admit_all()
        self._is_settled()
        for question in self._questions.values():
            question.expected = 0
            question.look()

    async def _close(self) -> None:
        subscription, self._subscription = self._subscription, None
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                if subscription is not None:
                    await subscription.close()
                await self._link.close()
        except (RedisError, OSError, TimeoutError):
            pass  # It is of no use any more, closed or not.

    async def _run(self, commands: Iterable[Command]) -> list[Any]:
        return await self._link.run(commands)

    # Topics.

    def topic(self, app_bus: AppBus, name: str) -> Topic:
        """Return an app's topic, which is made if need be."""
        key = self._key(app_bus.app_id, name)
        topic = self._topics.get(key)
        if topic is None:
            topic = self._topics[key] = Topic(
                self,
                lambda: app_bus.hub,
                app_bus.app_id,
                name,
                key,
                has_members=app_bus.has_members(name),
                is_cached=not name.startswith(USER_PREFIX) and kind_of(name).cached,
            )
            self._idle[topic] = self._loop.time()
        return topic

    def find_topic(self, app_id: str, name: str) -> Topic | None:
        """Return an app's topic, if it is of interest here."""
        return self._topics.get(self._key(app_id, name))

    def _key(self, app_id: str, name: str) -> bytes:
        return f"{self._prefix}{{{app_id}:{name}}}".encode()

    def listen(self, topic: Topic) -> None:
        self._to_listen[topic] = None
        self._something_to_listen.set()

    def idle(self, topic: Topic) -> None:
        self._idle.pop(topic, None)
        self._idle[topic] = self._loop.time()

    def _confirmed(self, key: bytes) -> None:
        topic = self._topics.get(key)
        if topic is not None:
            topic.listening()

    async def _keep_listening(self) -> None:
        while True:
            await self._something_to_listen.wait()
            self._something_to_listen.clear()
            await self._listen()

    async def _listen(self) -> None:
        topics = list(self._to_listen)
        self._to_listen.clear()
        assert self._subscription is not None
        await self._subscription.listen([topic.key for topic in topics])

    async def _keep_tidy(self) -> None:
        """Leave topics that have been of no interest for a while, and forget them."""
        while True:
            await asyncio.sleep(_IDLE_SECONDS / 4)
            leaving = self._tidy()
            if leaving and self._subscription is not None:
                try:
                    await self._subscription.leave(leaving)
                except (RedisError, OSError):
                    pass  # Whoever reads notices as well.

    def _tidy(self) -> list[bytes]:
        """Forget idle topics; return those that are listened to no longer."""
        leaving = []
        now = self._loop.time()
        while self._idle:
            topic, since = next(iter(self._idle.items()))
            if now - since < _IDLE_SECONDS:
                break
            del self._idle[topic]
            if topic.listeners:
                continue
            if topic.is_asked_for and not topic.is_listening:
                self._idle[topic] = now
                continue
            if topic.is_listening:
                leaving.append(topic.key)
                topic.stop_listening()
            if topic in self._to_count:
                self._idle[topic] = now
            elif not topic.holds:
                del self._topics[topic.key]
                if topic.key in self._registered:
                    self._to_unregister[topic.key] = f"{topic.app_id}\0{topic.name}"
        if self._to_unregister:
            self._something_to_change.set()
        return leaving

    # Holds.

    def change(self, hold: Hold) -> None:
        if self._may_change:
            self._to_change[hold] = None
            self._something_to_change.set()
        else:
            self._drop(hold)

    def change_count(self, topic: Topic) -> None:
        if self._may_change:
            self._to_count[topic] = None
            self._something_to_change.set()

    async def _keep_changing(self) -> None:
        while True:
            await self._something_to_change.wait()
            self._something_to_change.clear()
            await self._change()

    async def _change(self) -> None:
        """Have Redis know which channels this node holds, for whom, and for how many."""
        while self._to_change or self._to_count or self._to_unregister:
            async with self._changing:
                await self._change_some()

    async def _change_some(self) -> None:
        await self._unregister()
        holds: list[Hold] = _take(self._to_change, _BATCH)
        topics: list[Topic] = _take(self._to_count, _BATCH)
        await self._register({hold.topic for hold in holds}.union(topics))
        due: list[Hold] = []
        commands: list[Command] = []
        for hold in holds:
            topic = hold.topic
            is_wanted = hold.connections > 0
            if is_wanted == hold.is_held:
                if not is_wanted:
                    self._drop(hold)
                continue
            due.append(hold)
            hold.is_held = is_wanted
            if is_wanted:
                most = 0 if hold.is_admitted else self._most_members(topic)
                commands.append(self._script(HOLD, topic, hold.user_id, hold.info, most))
            else:
                hold.version = None
                commands.append(self._script(RELEASE, topic, hold.user_id))
        for topic in topics:
            commands.append(self._script(COUNT, topic, self._name, topic.subscribers))
        answers = await self._run(commands) if commands else []
        for hold, answer in zip(due, answers, strict=False):
            self._hold_changed(hold, answer)

    def _hold_changed(self, hold: Hold, answer: list[Any]) -> None:
        topic = hold.topic
        app_bus = self._buses[topic.app_id]
        if hold.is_held:
            if answer[0] == b"full":
                hold.is_held = False
                topic.refused(hold)
            else:
                app_bus.held(hold, is_first=bool(answer[1]), is_occupied=bool(answer[2]))
                topic.held(hold, int(answer[3]))
        else:
            users = [hold.user_id] if answer[0] else []
            app_bus.released(topic.name, users, is_vacated=bool(answer[1]))
            self._drop(hold)
        if (hold.connections > 0) != hold.is_held and topic.holds.get(hold.user_id) is hold:
            self.change(hold)

    def _drop(self, hold: Hold) -> None:
        holds = hold.topic.holds
        if hold.connections == 0 and not hold.is_held and holds.get(hold.user_id) is hold:
            del holds[hold.user_id]
            if not hold.topic.listeners:
                self._idle.setdefault(hold.topic, self._loop.time())

    def _most_members(self, topic: Topic) -> int:
        if topic.name.startswith(USER_PREFIX) or topic.members is None:
            return 0
        return self._buses[topic.app_id].hub.app.max_presence_members

    async def _register(self, topics: Iterable[Topic]) -> None:
        """Have it known where this node may hold something, before it does."""
        new = [topic for topic in topics if topic.key not in self._registered]
        if new:
            names = [f"{topic.app_id}\0{topic.name}" for topic in new]
            await self._run([("SADD", f"{self._nodes_key}.{self._name}", *names)])
            self._registered.update(topic.key for topic in new)

    async def _unregister(self) -> None:
        """Have it known where this node holds nothing any more."""
        names = [name for key, name in self._to_unregister.items() if key not in self._topics]
        self._registered.difference_update(self._to_unregister.keys() - self._topics.keys())
        self._to_unregister.clear()
        if names:
            await self._run([("SREM", f"{self._nodes_key}.{self._name}", *names)])

    def _script(self, script: str, topic: Topic, *arguments: object) -> Command:
        return self._script_at(script, topic.key, self._name, *arguments)

    def _script_at(self, script: str, key: bytes, node: str, *arguments: object) -> Command:
        keys = [key + suffix for suffix in (b":counts", b":infos", b":version", b":subscribers")]
        keys.append(key + f":at:{node}".encode())
        return evaluation(script, keys, key, self._link.publish_command, *arguments)

    # Members.

    def fetch_members(self, topic: Topic) -> None:
        self._to_look_at[topic] = None
        self._something_to_look_at.set()

    async def _keep_looking(self) -> None:
        while True:
            await self._something_to_look_at.wait()
            self._something_to_look_at.clear()
            await self._look()

    async def _look(self) -> None:
        while self._to_look_at:
            topics = _take(self._to_look_at, _BATCH // 10)
            answers = await self._run([self._script(SNAPSHOT, topic) for topic in topics])
            for topic, (version, infos) in zip(topics, answers, strict=True):
                pairs = dict(zip(infos[::2], infos[1::2], strict=True))
                members = {user_id.decode(): info for user_id, info in pairs.items()}
                is_lenient = self._loop.time() < self._lenient_until
                if topic.is_listening:
                    topic.snapshot(int(version), members, is_lenient=is_lenient)
                if is_lenient:
                    self._loop.call_at(self._lenient_until, self._look_again, topic)

    def _look_again(self, topic: Topic) -> None:
        if not self.is_away and topic.is_listening:
            self.fetch_members(topic)

    # Leases.

    async def _keep_lease(self) -> None:
        assert self._subscription is not None
        while True:
            await asyncio.sleep(self._lease_seconds / 3)
            await self._subscription.check(max(self._lease_seconds, 2 * self._address.timeout))
            await self._renew(is_new=False)
            now = self._loop.time()
            for name, since in list(self._retired.items()):
                # What was under way under that name may have arrived late.
                await self._reap(name)
                if now - since > _RETIRED_SECONDS:
                    del self._retired[name]

    async def _renew(self, *, is_new: bool) -> None:
        milliseconds = int(self._lease_seconds * 1000)
        [dead] = await self._run(
            [evaluation(LEASE, [self._nodes_key], self._name, milliseconds, int(is_new))]
        )
        if self._is_leaving:
            return
        if dead is None:
            await self._return_from_the_dead()
            return
        for name in dead:
            if name.decode() != self._name:
                await self._reap(name.decode())

    async def _reap(self, name: str) -> None:
        """Take away what a node held that is not there any more. May be done by several at once."""
        key = f"{self._nodes_key}.{name}"
        while True:
            [topics] = await self._run([("SRANDMEMBER", key, _BATCH)])
            if not topics:
                break
            places = [tuple(topic.decode().split("\0", 1)) for topic in topics]
            answers = await self._run(
                [
                    self._script_at(REAP, self._key(app_id, channel), name, name)
                    for app_id, channel in places
                ]
            )
            for (app_id, channel), (is_vacated, gone) in zip(places, answers, strict=True):
                app_bus = self._buses.get(app_id)
                if app_bus is not None:
                    users = [user_id.decode() for user_id in gone]
                    app_bus.released(channel, users, is_vacated=bool(is_vacated))
            await self._run([("SREM", key, *topics)])
        await self._run([("ZREM", self._nodes_key, name)])

    # What goes out.

    def publish(
        self,
        app_id: str,
        name: str,
        frame: bytes,
        excluded: str | None,
        data: str | None,
        ttl: float,
    ) -> None:
        """Send a frame to a channel's subscribers on other nodes, at the end of the tick."""
        key = self._key(app_id, name)
        event = (frame, excluded, data)
        events = self._outgoing.get(key)
        if events is None:
            self._outgoing[key] = [event]
        else:
            events.append(event)
        if data is not None:
            self._last_events[key] = (frame, data, ttl)
            topic = self._topics.get(key)
            if topic is not None and topic.is_listening and not topic.has_last_event:
                topic.last_event_is_known()
        self._outgoing_bytes += len(frame)
        if self._outgoing_bytes > MAX_OUTGOING_BYTES:
            self._drop_oldest()
        self._something_to_send.set()

    def _drop_oldest(self) -> None:
        if self.dropped == 0:
            self._log.error(
                "Events are dropped that other nodes should have had: Redis is too slow"
            )
        key = next(iter(self._outgoing))
        events = self._outgoing.pop(key)
        self._last_events.pop(key, None)
        self._outgoing_bytes -= sum(len(frame) for frame, _, _ in events)
        self.dropped += len(events)

    def tell_all(self, message: tuple[object, ...]) -> None:
        """Send a message to all nodes, this one not included."""
        if not self.is_away:
            self._send_soon(self._publishing(self._control_topic, (self.id, *message)))

    def _send_soon(self, command: Command) -> None:
        self._messages.append(command)
        if len(self._messages) > MAX_MESSAGES:
            self._messages.popleft()
            self.dropped += 1
        self._something_to_send.set()

    def _publishing(self, topic: bytes, message: object) -> Command:
        return (self._link.publish_command, topic, _encode(message))

    def settled(self) -> Awaitable[object] | None:
        """Return what ends when Redis has everything that was published so far."""
        if self.is_away or not (self._outgoing or self._messages):
            return None
        if self._settled is None:
            self._settled = self._loop.create_future()
            self._loop.call_later(PATIENCE_SECONDS, _finish, self._settled)
        return self._settled

    def _is_settled(self) -> None:
        settled, self._settled = self._settled, None
        if settled is not None:
            _finish(settled)

    async def _keep_sending(self) -> None:
        while True:
            await self._something_to_send.wait()
            self._something_to_send.clear()
            while self._outgoing or self._messages or self._to_recall:
                async with self._sending:
                    await self._send()

    async def _send(self) -> None:
        commands = list(self._messages)
        self._messages.clear()
        settled, self._settled = self._settled, None
        size = count_sent = 0
        try:
            while self._outgoing and size < _BATCH_BYTES:
                key = next(iter(self._outgoing))
                events = self._outgoing.pop(key)
                size += sum(len(frame) for frame, _, _ in events)
                count_sent += len(events)
                last = self._last_events.pop(key, None)
                if last is not None:
                    value = _encode(last[:2])
                    commands.append(("SET", key + b":last", value, "PX", int(last[2] * 1000)))
                body = b"E" + _encode((self.id, events))
                commands.append((self._link.publish_command, key, body))
            self._outgoing_bytes -= size
            recalled = _take(self._to_recall, _BATCH)
            for topic in recalled:
                commands.append(("GET", topic.key + b":last"))
                commands.append(("PTTL", topic.key + b":last"))
            if self._outgoing and settled is not None:
                # Some of what is waited for has to wait for the next turn.
                self._settled, settled = settled, None
            answers = await self._run(commands)
        except (RedisError, OSError, TimeoutError):
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
                    self._take_last_event(topic.app_id, topic.name, value, ttl)
                    topic.last_event_is_known()

    def _take_last_event(self, app_id: str, name: str, value: bytes | None, ttl: int) -> None:
        if value is not None and ttl > 0:
            frame, data = _decode_last_event(value)
            self._buses[app_id].hub.remember(name, frame, data, ttl / 1000)

    def fetch_last_event(self, topic: Topic) -> None:
        self._to_recall[topic] = None
        self._something_to_send.set()

    # What comes in.

    def _received(self, key: bytes, message: bytes) -> None:
        topic = self._topics.get(key)
        if topic is None:
            if key == self._control_topic:
                self._told(message)
            elif key == self._own_topic:
                self._answered(message)
            return
        sign = message[:1]
        if sign == b"E":
            told = _decode_events(message[1:])
            if told.node != self.id:
                hub = self._buses[topic.app_id].hub
                for frame, excluded, data in told.events:
                    hub.deliver_from_elsewhere(topic.name, frame, excluded, data)
                    if data is not None and not topic.has_last_event:
                        # What Redis answers may be older than this.
                        topic.last_event_is_known()
        elif sign == b"=":
            words = message[1:].decode().split()
            topic.counted_elsewhere(
                sum(
                    int(number)
                    for node, number in zip(words[::2], words[1::2], strict=True)
                    if not node.startswith(self.id)
                )
            )
        elif sign in (b"+", b"-"):
            head, _, body = message[1:].partition(b"\n")
            before, version, length = (int(number) for number in head.split())
            user_id = body[:length].decode()
            info = body[length:] if sign == b"+" else None
            topic.changed(Change(before, version, user_id, info))

    def _told(self, message: bytes) -> None:
        node, kind, app_id, *rest = _decode_control(message)
        app_bus = self._buses.get(app_id)
        if node == self.id:
            return
        if kind == "terminate" and app_bus is not None:
            app_bus.hub.terminate_here(rest[0])
        elif kind == "ask":
            number, answer_to, prefix, names = rest
            census = Census({}, 0) if app_bus is None else app_bus.hub.census(prefix, names)
            channels = {
                name: (subscribers, list(user_ids))
                for name, (subscribers, user_ids) in census.channels.items()
            }
            if app_bus is not None:
                app_bus.requests.received += 1
            answer = (number, channels, census.connections)
            self._send_soon(self._publishing(answer_to.encode(), answer))

    # Requests.

    async def ask_all(self, app_id: str, prefix: str, names: Sequence[str] | None) -> list[Census]:
        """Return what the other nodes know; those that do not answer in time are left out."""
        number = next(self._numbers)
        figures = self._buses[app_id].requests
        figures.sent += 1
        begun = self._loop.time()
        question = self._questions[number] = _Question(figures)
        topic = self._own_topic.decode()
        message = (self.id, "ask", app_id, number, topic, prefix, names and list(names))
        if names is not None and not names:
            message = (*message[:-1], [])
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                [heard] = await self._run([self._publishing(self._control_topic, message)])
                question.expected = int(heard) - 1
                question.look()
                await question.future
            figures.resolved += 1
        except (RedisError, OSError, TimeoutError):
            figures.incomplete += 1  # What is known has to do.
        finally:
            del self._questions[number]
        figures.milliseconds.observe((self._loop.time() - begun) * 1000)
        return question.answers

    def _answered(self, message: bytes) -> None:
        number, channels, connections = _decode_census(message)
        question = self._questions.get(number)
        if question is not None:
            question.figures.responses += 1
            known = {name: (subscribers, users) for name, (subscribers, users) in channels.items()}
            question.answers.append(Census(dict(known), connections))
            question.look()

    async def recall(self, app_bus: AppBus, name: str) -> None:
        """Have the hub remember a cache channel's last event."""
        key = self._key(app_bus.app_id, name) + b":last"
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                value, ttl = await self._run([("GET", key), ("PTTL", key)])
        except (RedisError, OSError, TimeoutError):
            return
        self._take_last_event(app_bus.app_id, name, value, ttl)

    async def claim(self, app_id: str, keys: Sequence[str]) -> dict[str, bytes]:
        """Claim idempotency keys; return what others have answered under some of them."""
        taken: dict[str, bytes] = {}
        unknown = [self._idempotency_key(app_id, key) for key in keys]
        commands: list[Command] = []
        for key in unknown:
            commands += [("SET", key, b"", "NX", "PX", _CLAIM_MILLISECONDS), ("GET", key)]
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                answers = await self._run(commands)
                for claimed, name, is_new, value in zip(
                    keys, unknown, answers[::2], answers[1::2], strict=True
                ):
                    while not is_new and value == b"":
                        # Another node is at it.
                        await asyncio.sleep(0.02)
                        [value] = await self._run([("GET", name)])
                    if not is_new and value:
                        taken[claimed] = value[1:]
        except (RedisError, OSError, TimeoutError):
            pass  # Rather twice than not at all.
        return taken

    def answered(self, app_id: str, answers: Mapping[str, bytes]) -> None:
        """Have other nodes know what was answered under keys."""
        if not self.is_away:
            for key, body in answers.items():
                name = self._idempotency_key(app_id, key)
                milliseconds = int(KEY_SECONDS * 1000)
                self._send_soon(("SET", name, b"1" + body, "PX", milliseconds))

    def _idempotency_key(self, app_id: str, key: str) -> bytes:
        return f"{self._prefix}idempotency.{app_id}.{key}".encode()

    # Time.

    def degrade_later(self, entry: Entry) -> None:
        entry.timer = self._loop.call_later(PATIENCE_SECONDS, entry.topic.admit, entry)

    def call_later(self, then: Callable[[], None]) -> None:
        self._loop.call_later(PATIENCE_SECONDS, then)


def _take(waiting: dict[Any, None], most: int) -> list[Any]:
    taken: list[Any] = []
    while waiting and len(taken) < most:
        first = next(iter(waiting))
        del waiting[first]
        taken.append(first)
    return taken


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _until_one_fails(coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run what never ends by itself, all at once, until one of them raises."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await _end(tasks)


async def _end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks until they have ended: the Redis client loses some of the cancellations."""
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        try:
            await asyncio.wait(pending, timeout=_CANCEL_SECONDS)
        except asyncio.CancelledError:
            pass  # It has been heard; whoever called goes on to end.
    for task in tasks:
        if not task.cancelled():
            task.exception()  # Somebody else's was first.
