"""
The task that hands over to Google what devices are owed.

Notifications need no order, so several are under way at once. Before one is sent it is claimed: for
the length of a lease nobody else sends it, in this process or another. If this one dies, another or
the next start does. At worst a notification is shown twice: after a crash between Google's answer
and its removal.

Nothing waits for this task, and nothing fails because of it: what can't be delivered is given up
when it has expired, or after so many attempts.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec
import structlog
from sqlalchemy import Executable, bindparam, delete, func, select, update

from chat_api.features.notifications.fcm import (
    DeadToken,
    FcmClient,
    NotAllowed,
    Rejected,
    Unavailable,
)
from chat_api.features.notifications.models import Device, OwedPush
from chat_api.features.notifications.service import Push
from chat_api.kernel.clock import Clock
from chat_api.kernel.errors import Unavailable as DatabaseUnavailable
from chat_api.kernel.measures import Measure, Samples, single
from chat_api.store.engine import Store, UnitOfWork

__all__ = ["PushDelivery", "Retries"]

_log = structlog.get_logger("chat_api.push")

_AT_ONCE: Final = 20
_REMIND_EVERY: Final = 60.0  # seconds between warnings while Google stays away

_COUNT = select(func.count(OwedPush.id))
_NEXT = select(func.min(OwedPush.next_attempt_at))
_DUE = (
    select(
        OwedPush.id,
        OwedPush.attempts,
        OwedPush.title,
        OwedPush.body,
        OwedPush.data,
        Device.token,
    )
    .join(Device, Device.id == OwedPush.device_id)
    .where(OwedPush.next_attempt_at <= bindparam("now"))
    .order_by(OwedPush.next_attempt_at, OwedPush.id)
    .limit(bindparam("limit"))
)
_EXPIRED = delete(OwedPush).where(OwedPush.expires_at <= bindparam("now")).returning(OwedPush.id)
_OF_IDS = OwedPush.id.in_(bindparam("ids", expanding=True))
_CLAIM = (
    update(OwedPush)
    .where(_OF_IDS)
    .values(next_attempt_at=bindparam("until"), attempts=OwedPush.attempts + 1)
)
_GIVE_BACK = (
    update(OwedPush)
    .where(_OF_IDS)
    .values(next_attempt_at=bindparam("now"), attempts=OwedPush.attempts - 1)
)
_POSTPONE = (
    update(OwedPush)
    .where(OwedPush.id == bindparam("of_id"), OwedPush.expires_at > bindparam("until"))
    .values(next_attempt_at=bindparam("until"))
    .returning(OwedPush.id)
)
_SETTLE = delete(OwedPush).where(OwedPush.id == bindparam("of_id"))
_DEAD = delete(Device).where(Device.token == bindparam("of_token"))


class Retries(NamedTuple):
    """
    How long to wait before trying again, in seconds: doubling from `first` up to `longest`.

    After `attempts` one notification is given up. `pause` is for how long all of them wait when
    Google allows nothing. `lease` is how long one is claimed for, and `look_again` how often what
    other processes have left is looked for.
    """

    first: float = 1.0
    longest: float = 300.0
    attempts: int = 12
    pause: float = 60.0
    lease: float = 60.0
    look_again: float = 10.0

    def delay(self, failures: int, jitter: Callable[[], float]) -> float:
        """Return the wait after so many failures; `jitter` returns values from 0 to 1."""
        full = min(self.longest, self.first * 2.0 ** min(failures - 1, 32))
        return full * (0.5 + jitter() / 2)


class _Claimed(NamedTuple):
    id: int
    attempts: int
    """Before this one."""
    push: Push
    token: str

    @classmethod
    def of_row(
        cls, push_id: int, attempts: int, title: str, body: str, data: str, token: str
    ) -> "_Claimed":
        strings = msgspec.json.decode(data, type=dict[str, str])
        return cls(push_id, attempts, Push(title, body, strings), token)


class PushDelivery:
    """Delivers what is owed in one store while `running`."""

    def __init__(
        self,
        store: Store,
        fcm: FcmClient,
        clock: Clock,
        *,
        retries: Retries = Retries(),  # noqa: B008 - immutable
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._fcm = fcm
        self._clock = clock
        self._retries = retries
        self._jitter = jitter
        self._awake = asyncio.Event()
        self._idle = asyncio.Event()
        self._under_way: dict[asyncio.Task[None], int] = {}
        self._is_ending = False
        self._is_away = False
        self._warned_at: float | None = None
        self._paused_until = 0.0
        self._sent = 0
        self._dropped = 0

    def wake(self) -> None:
        """Say that something new may be owed."""
        self._idle.clear()
        self._awake.set()

    @asynccontextmanager
    async def running(self, *, drain: float) -> AsyncIterator[None]:
        """
        Deliver while the block runs, and then up to `drain` seconds more what can be delivered.

        What is left stays for the next start.
        """
        self.wake()
        task = asyncio.create_task(self._run(), name="push-delivery")
        try:
            yield
            if not self._is_away:
                with suppress(TimeoutError):
                    async with asyncio.timeout(drain):
                        await self._idle.wait()
        finally:
            # Not cancelled, which could come between a claim and what is claimed.
            self._is_ending = True
            self.wake()
            await task
            await self._break_off()

    def measures(self) -> tuple[Measure, ...]:
        """Return what tells whether notifications get through."""

        async def owed() -> Samples:
            return {(): (await self._store.all(_COUNT))[0][0]}

        return (
            single("pushes_sent_total", "Notifications that Google has taken.", lambda: self._sent),
            single(
                "pushes_dropped_total",
                "Notifications that were given up, as their device was gone or nobody took them.",
                lambda: self._dropped,
            ),
            Measure("pushes_owed", "Notifications that Google does not have yet.", owed),
        )

    async def _run(self) -> None:
        while not self._is_ending:
            self._awake.clear()
            pause = self._retries.look_again
            try:
                pause = await self._start_what_is_due()
            except DatabaseUnavailable:
                pass  # the store has said so
            except Exception:
                _log.exception("Push notifications can't be delivered for now")
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._awake.wait()

    async def _start_what_is_due(self) -> float:
        """Start as many as may be under way, and return after how many seconds to look again."""
        look_again = self._retries.look_again
        if self._pause_left > 0:
            return self._pause_left
        room = _AT_ONCE - len(self._under_way)
        if not room:
            return look_again  # or when one has ended
        due_at: datetime | None = (await self._store.all(_NEXT))[0][0]
        wait = (due_at - self._clock()).total_seconds() if due_at is not None else look_again
        if wait > 0:
            if not self._under_way and not self._awake.is_set():
                self._idle.set()
            return min(wait, look_again)
        if self._pause_left > 0:
            return self._pause_left  # Google has refused meanwhile
        for claimed in await self._store.write(lambda unit: self._claim(unit, room)):
            task = asyncio.create_task(self._deliver(claimed), name="push")
            self._under_way[task] = claimed.id
            task.add_done_callback(self._ended)
        return 0.0 if len(self._under_way) < _AT_ONCE else look_again

    def _claim(self, unit: UnitOfWork, most: int) -> Sequence[_Claimed]:
        now = self._clock()
        if expired := len(unit.connection.execute(_EXPIRED, {"now": now}).all()):
            unit.when_committed(lambda: self._expired(expired))
        rows = unit.connection.execute(_DUE, {"now": now, "limit": most}).all()
        if rows:
            until = now + timedelta(seconds=self._retries.lease)
            unit.connection.execute(_CLAIM, {"ids": [row.id for row in rows], "until": until})
        return [_Claimed.of_row(*row) for row in rows]

    def _expired(self, count: int) -> None:
        self._dropped += count
        _log.warning("Push notifications have expired before Google took them", count=count)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._under_way[task]
        self._awake.set()

    async def _deliver(self, claimed: _Claimed) -> None:
        # Whatever fails here leaves the claim, and when that ends, the notification is due again.
        try:
            await self._attempt(claimed)
        except DatabaseUnavailable:
            pass  # the store has said so
        except Exception:
            _log.exception("A push notification failed and is tried again", push_id=claimed.id)

    async def _attempt(self, claimed: _Claimed) -> None:
        try:
            await self._send(claimed)
        except DeadToken:
            self._google_is_back()
            self._dropped += 1
            _log.info("A device is unknown to Google by now and was removed", push_id=claimed.id)
            await self._change(_DEAD, {"of_token": claimed.token})
        except Rejected as error:
            self._google_is_back()
            await self._drop(claimed, str(error))
        except NotAllowed as error:
            self._pause(str(error))
            await self._give_back([claimed.id])
        except Unavailable as error:
            self._google_is_away(str(error))
            await self._postpone(claimed, error)
        else:
            self._google_is_back()
            self._sent += 1
            await self._change(_SETTLE, {"of_id": claimed.id})

    async def _send(self, claimed: _Claimed) -> None:
        try:
            # Within the claim: when that ends, somebody else may send the same.
            async with asyncio.timeout(self._retries.lease * 0.75):
                await self._fcm.send(claimed.token, claimed.push)
        except TimeoutError:
            raise Unavailable("it did not answer in time") from None

    async def _postpone(self, claimed: _Claimed, error: Unavailable) -> None:
        failures = claimed.attempts + 1
        wait = max(error.retry_after, self._retries.delay(failures, self._jitter))
        until = self._clock() + timedelta(seconds=wait)
        change = {"of_id": claimed.id, "until": until}
        if failures >= self._retries.attempts or not await self._store.write(
            lambda unit: unit.connection.execute(_POSTPONE, change).one_or_none()
        ):
            await self._drop(claimed, str(error))

    async def _drop(self, claimed: _Claimed, reason: str) -> None:
        self._dropped += 1
        _log.warning("A push notification was given up", push_id=claimed.id, reason=reason)
        await self._change(_SETTLE, {"of_id": claimed.id})

    async def _give_back(self, ids: Sequence[int]) -> None:
        await self._change(_GIVE_BACK, {"ids": ids, "now": self._clock()})

    async def _change(self, statement: Executable, parameters: Mapping[str, Any]) -> None:
        await self._store.write(lambda unit: unit.connection.execute(statement, parameters))

    async def _break_off(self) -> None:
        unfinished = dict(self._under_way)
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
        if unfinished:
            # So that the next start need not wait for the end of the claims.
            with suppress(DatabaseUnavailable):
                await self._give_back(list(unfinished.values()))

    @property
    def _pause_left(self) -> float:
        return self._paused_until - asyncio.get_running_loop().time()

    def _pause(self, reason: str) -> None:
        now = asyncio.get_running_loop().time()
        if not self._paused_until:
            _log.error(
                "Google does not let CHAT_FCM_CREDENTIALS send push notifications; they wait",
                reason=reason,
            )
        self._is_away = True
        self._paused_until = now + self._retries.pause

    def _google_is_away(self, reason: str) -> None:
        self._is_away = True
        now = asyncio.get_running_loop().time()
        if self._warned_at is None or now - self._warned_at >= _REMIND_EVERY:
            self._warned_at = now
            _log.warning("Google does not take push notifications; they wait", reason=reason)

    def _google_is_back(self) -> None:
        if self._is_away:
            self._is_away = False
            self._warned_at = None
            self._paused_until = 0.0
            _log.info("Google takes push notifications again")
