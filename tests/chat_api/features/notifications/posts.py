"""Push notifications that are owed, and what becomes of them."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import select

from chat_api.features.notifications.delivery import PushDelivery, Retries
from chat_api.features.notifications.fcm import FcmClient, ServiceAccount
from chat_api.features.notifications.models import Device, OwedPush
from chat_api.features.notifications.service import Devices, Push, Pushes
from chat_api.store.engine import Store
from tests.chat_api.features.notifications.google import FakeGoogle

HELLO = Push("Hello", "How are you?", {"type": "greeting", "to": "you"})
# The lease is like no wait that is expected anywhere: what is only claimed must not look like that.
RETRIES = Retries(first=8, longest=100, attempts=3, pause=0.05, lease=77, look_again=0.05)


class Owed(NamedTuple):
    """One notification as it waits; the time until its next attempt is in seconds."""

    token: str
    title: str
    attempts: int
    wait: float


class Post:
    """Owes and delivers notifications, by a clock that stands still unless it is moved."""

    def __init__(self, store: Store, google: FakeGoogle, account: ServiceAccount) -> None:
        self.store = store
        self.google = google
        self.account = account
        self.now = datetime(2024, 10, 25, 12, tzinfo=UTC)
        self.devices = Devices(store, self.clock)
        self.pushes = Pushes(self.clock, self.wake)
        self._delivery: PushDelivery | None = None

    def clock(self) -> datetime:
        return self.now

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.wake()

    def wake(self) -> None:
        if self._delivery is not None:
            self._delivery.wake()

    @asynccontextmanager
    async def delivering(
        self, retries: Retries = RETRIES, *, drain: float = 60, patience: float = 60
    ) -> AsyncIterator[PushDelivery]:
        async with FcmClient(self.account, self.google.url, self.clock, timeout=patience) as fcm:
            # Halfway between the shortest and the longest wait of each attempt.
            delivery = PushDelivery(
                self.store, fcm, self.clock, retries=retries, jitter=lambda: 0.5
            )
            self._delivery = delivery
            try:
                async with delivery.running(drain=drain):
                    yield delivery
            finally:
                self._delivery = None

    async def register(self, user_id: int, *tokens: str) -> None:
        for token in tokens:
            await self.store.write(
                lambda unit, token=token: self.devices.register(unit, user_id, token, "android")  # type: ignore[misc]
            )

    async def owe(self, user_ids: Collection[int], push: Push = HELLO) -> bool:
        return await self.store.write(lambda unit: self.pushes.owe(unit, user_ids, push))

    async def owed(self) -> list[Owed]:
        """Return everything that waits, by device."""
        rows = await self.store.all(
            select(Device.token, OwedPush.title, OwedPush.attempts, OwedPush.next_attempt_at)
            .join(Device, Device.id == OwedPush.device_id)
            .order_by(Device.token, OwedPush.id)
        )
        return [
            Owed(token, title, attempts, (moment - self.now).total_seconds())
            for token, title, attempts, moment in rows
        ]

    async def tokens(self) -> list[str]:
        """Return the tokens of all devices."""
        return [token for (token,) in await self.store.all(select(Device.token).order_by("token"))]
