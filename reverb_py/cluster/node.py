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
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import structlog
from redis.exceptions import RedisError

from reverb_py.cluster.app_bus import AppBus
from reverb_py.cluster.connections import PATIENCE_SECONDS, RedisAddress, RedisLink, Subscription
from reverb_py.cluster.departures import Departures
from reverb_py.cluster.idempotency import Claims
from reverb_py.cluster.inquiries import Inquiries, RequestFigures
from reverb_py.cluster.keys import Keys
from reverb_py.cluster.lease import Lease
from reverb_py.cluster.listening import Listening
from reverb_py.cluster.membership import Membership
from reverb_py.cluster.messages import Unintelligible
from reverb_py.cluster.outgoing import Outgoing
from reverb_py.cluster.reaping import Reaping
from reverb_py.cluster.supervision import end, go_on, until_one_fails
from reverb_py.cluster.topics import Topic
from reverb_py.core.bus import Bus
from reverb_py.core.holding import HOLD_SECONDS

if TYPE_CHECKING:
    from reverb_py.core.hub import Hub

__all__ = ["Node", "Scaling"]

_RETRY_SECONDS = (0.05, 1.0)
_QUIET_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """
    The deployment that a node belongs to.

    `prefix` begins every key and topic, and must have no braces: several deployments can share a
    Redis. A node that is not heard of for `lease_seconds` is taken for dead. A departure of which
    the backend wants to hear may be undone on any node for `hold_seconds`.
    """

    redis: RedisAddress
    prefix: str = "reverb:"
    lease_seconds: float = 10.0
    hold_seconds: float = HOLD_SECONDS


class Node:
    """
    This process among the others of its deployment.

    `breaks` counts how often Redis went away, and `unintelligible` the messages on the node's
    topics that made no sense.
    """

    def __init__(self, scaling: Scaling) -> None:
        self._address = scaling.redis
        self._hold_seconds = scaling.hold_seconds
        self.id = secrets.token_hex(8)
        self._log = structlog.get_logger("reverb_py")
        self._loop = asyncio.get_running_loop()
        self._is_leaving = False
        self._hurrying: asyncio.Task[None] | None = None
        self.breaks = 0
        self.unintelligible = 0
        self._quiet_until = 0.0
        self._subscription: Subscription | None = None
        apps: dict[str, AppBus] = {}
        topics: dict[bytes, Topic] = {}
        self._apps = apps
        self._topics = topics
        self._keys = keys = Keys(scaling.prefix, self.id)
        self._link = link = RedisLink(scaling.redis)
        self._outgoing = outgoing = Outgoing(link, keys, self.id, apps, topics)
        self._inquiries = Inquiries(link, keys, self.id, apps, outgoing)
        self._claims = Claims(link, keys, outgoing)
        self._lease = lease = Lease(link, keys, self.id, scaling.lease_seconds)
        self._membership = membership = Membership(link, keys, lease, apps, topics)
        self._reaping = Reaping(link, keys, lease, membership, apps)
        self._listening = Listening(link, keys, self.id, apps, topics, lease, membership, outgoing)

    @property
    def trouble(self) -> str | None:
        """Why Redis can't be used, or None."""
        return self._link.trouble

    @property
    def dropped(self) -> int:
        """
        How many events other nodes may not have got.

        Too many waited, or Redis went away meanwhile.
        """
        return self._outgoing.dropped

    @property
    def outgoing_bytes(self) -> int:
        """Bytes of events and answers that wait for Redis."""
        return self._outgoing.waiting_bytes

    @property
    def topics(self) -> int:
        """How many channels and watched users are of interest here, or were a moment ago."""
        return len(self._topics)

    def held(self) -> dict[str, int]:
        """Return how many departures are held back that may still be undone, by the app's id."""
        return {app_id: len(app_bus.departures) for app_id, app_bus in self._apps.items()}

    @property
    def requests(self) -> Iterable[tuple[str, RequestFigures]]:
        """What was asked of other nodes and answered to them, by the id of the app."""
        return [(app_id, app_bus.requests) for app_id, app_bus in self._apps.items()]

    @property
    def is_away(self) -> bool:
        """Whether Redis is out of reach, so that what is known here has to do."""
        return self._link.is_away

    def bus_of(self, hub: Hub) -> Bus:
        """Return the bus of an app's hub."""
        app_bus = self._apps.get(hub.app.id)
        if app_bus is None:
            app_bus = self._apps[hub.app.id] = AppBus(
                hub,
                self._link,
                self._listening,
                self._outgoing,
                self._inquiries,
                self._claims,
                Departures(self._hold_seconds, partial(self._membership.settle, hub.app.id)),
            )
        else:
            app_bus.hub = hub
        return app_bus

    def hurry(self) -> None:
        """Note that the node is about to leave: the last one holds no departure back any more."""
        if not self.is_away and self._hurrying is None:
            self._hurrying = asyncio.create_task(self._hurry())

    async def _hurry(self) -> None:
        try:
            await self._reaping.hurry()
        except (RedisError, OSError, TimeoutError):
            pass  # Whoever reaps this node holds its departures.

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """
        Be on the bus for as long as the context lasts.

        It begins when Redis has been reached, or after `PATIENCE_SECONDS`. At its end the node
        sends what waits and leaves, so that nobody has to wait for its lease.
        """
        begun = asyncio.Event()
        tasks = [
            asyncio.create_task(go_on("bus", lambda: self._stay(begun))),
            asyncio.create_task(go_on("idle topics", self._keep_tidy)),
        ]
        try:
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await begun.wait()
            except TimeoutError:
                self._log.error("Redis can't be reached", redis=str(self._address))
            yield
        finally:
            self._is_leaving = True
            if self._hurrying is not None:
                await end([self._hurrying])
            if not self._link.is_away:
                await self._leave()
            await end(tasks)
            await self._close()

    async def _leave(self) -> None:
        try:
            async with asyncio.timeout(2 * PATIENCE_SECONDS):
                await self._outgoing.empty()
                await self._reaping.leave()
        except (RedisError, OSError, TimeoutError) as exc:
            self._log.warning("Left Redis without a word", reason=str(exc))

    async def _stay(self, begun: asyncio.Event) -> None:
        pause = _RETRY_SECONDS[0]
        await self._close()
        while True:
            try:
                await self._live(begun)
            except (RedisError, OSError, TimeoutError) as exc:
                reason = _reason(exc)
            except Exception:
                reason = "A mistake in reverb_py, which its log shows"
                self._log.exception("The bus begins again")
            if self._is_leaving:
                return
            if not self._link.is_away:
                pause = _RETRY_SECONDS[0]
            if begun.is_set() and self.trouble != reason:
                self._log.error(
                    "Redis is away: events stay on this node until it is back",
                    reason=reason,
                    redis=str(self._address),
                )
            self.breaks += not self.is_away
            self._link.trouble = reason
            self._forget()
            await self._close()
            # Nodes that lost Redis together do not come back together.
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
            pause = min(2 * pause, _RETRY_SECONDS[1])

    async def _live(self, begun: asyncio.Event) -> None:
        """Be on the bus with one set of connections, until one of them fails, which raises."""
        await self._link.open()
        self._subscription = subscription = await self._link.subscription(self._received)
        subscription.confirmed = self._listening.confirmed
        await until_one_fails(
            [
                *subscription.readers(),
                subscription.keep_checking(),
                self._link.keep_checking(self._keys.nodes),
                self._work(subscription, begun),
            ]
        )

    async def _work(self, subscription: Subscription, begun: asyncio.Event) -> None:
        """Take a name, and from then on keep it alive, whatever else there is to do."""
        has_forgotten = await self._membership.take_name()
        await until_one_fails(
            [
                self._lease.keep(),
                self._take_part(subscription, begun, has_forgotten=has_forgotten),
            ]
        )

    async def _take_part(
        self, subscription: Subscription, begun: asyncio.Event, *, has_forgotten: bool
    ) -> None:
        await self._resume(subscription, has_forgotten=has_forgotten)
        self._link.trouble = None
        if begun.is_set():
            self._log.info("Redis is back", redis=str(self._address))
        begun.set()
        await until_one_fails(
            [
                self._listening.keep_listening(subscription),
                self._membership.keep_changing(),
                self._reaping.keep_on(),
                self._listening.keep_looking(),
                self._outgoing.keep_sending(),
                self._keep_house(),
            ]
        )

    async def _resume(self, subscription: Subscription, *, has_forgotten: bool) -> None:
        """Have Redis know what is here, and know what is there."""
        membership, listening = self._membership, self._listening
        if has_forgotten:
            self._outgoing.keep_last_events()
        await listening.begin(subscription, [self._keys.control_topic, self._keys.own_topic])
        await self._inquiries.obey_missed(self._lease.silence, self._lease.age)
        await membership.tell_changes()
        await self._reaping.own_names()
        await membership.settle_doubtful()
        if has_forgotten:
            listening.be_lenient(self._lease.seconds)
        await listening.look()

    async def _return_from_the_dead(self) -> None:
        """Hold everything again; who is present elsewhere may have changed unheard."""
        self._log.warning("This node was silent for longer than its lease, and taken for dead")
        if await self._membership.take_name():
            self._outgoing.keep_last_events()
            self._listening.be_lenient(self._lease.seconds)
        await self._membership.tell_changes()
        await self._reaping.own_names()
        self._listening.look_again()

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(self._lease.seconds / 3)
            if self._is_leaving:
                continue
            if self._lease.is_over:
                await self._return_from_the_dead()
            self._membership.retry()
            self._listening.retry()

    def _received(self, key: bytes, message: bytes) -> None:
        """Take what was said on a topic; what makes no sense is passed over, counted and logged."""
        try:
            self._take(key, message)
        except Unintelligible as exc:
            self.unintelligible += 1
            now = self._loop.time()
            if now >= self._quiet_until:
                self._quiet_until = now + _QUIET_SECONDS
                self._log.warning(
                    "Messages on Redis are passed over that no node of this version says",
                    topic=key.decode(errors="replace"),
                    size=len(message),
                    reason=str(exc),
                    so_far=self.unintelligible,
                )

    def _take(self, key: bytes, message: bytes) -> None:
        if key == self._keys.control_topic:
            self._inquiries.told(message)
        elif key == self._keys.own_topic:
            self._inquiries.answered(message)
        else:
            self._listening.heard(key, message)

    def _forget(self) -> None:
        """Forget what only Redis could confirm; who waits is answered from what is known here."""
        self._membership.forget()
        self._listening.forget()
        self._outgoing.forget()
        self._inquiries.forget()

    async def _close(self) -> None:
        subscription, self._subscription = self._subscription, None
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                if subscription is not None:
                    await subscription.close()
                await self._link.close()
        except (RedisError, OSError, TimeoutError):
            pass  # It is of no use any more, closed or not.

    async def _keep_tidy(self) -> None:
        while True:
            try:
                await self._listening.keep_tidy()
            except (RedisError, OSError):
                pass  # Whoever reads notices as well.


def _reason(exc: Exception) -> str:
    """Say what happened as Redis said it, whose first word the client takes off."""
    text = str(exc) or type(exc).__name__
    code = getattr(exc, "status_code", None)
    return f"{code} {text}" if isinstance(code, str) and not text.startswith(code) else text
