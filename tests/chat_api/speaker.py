"""Whoever has something to say, by an outbox and a relay, without the product around them."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from chat_api.realtime.broadcaster import Broadcaster, Event
from chat_api.realtime.relay import Backoff, Relay
from chat_api.realtime.reverb import ReverbClient
from chat_api.settings import Settings
from chat_api.store.engine import Store, UnitOfWork
from chat_api.store.outbox import Backlog, Outbox
from tests.chat_api.receiver import RealtimeReceiver

PATIENTLY = Backoff(first=0.01, longest=0.02, return_of_clients=60, look_again=0.02)


class Speaker:
    """Says things through an outbox and a relay of its own, by a clock that stands still."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.now = datetime(2024, 10, 25, tzinfo=UTC)
        self._store: Store
        self._broadcaster: Broadcaster
        self._relay: Relay

    @asynccontextmanager
    async def speaking(
        self, receiver: RealtimeReceiver, backoff: Backoff, drain: float
    ) -> AsyncIterator[None]:
        self._store = Store(self._url)
        outbox = Outbox(self._store)
        try:
            async with ReverbClient(receiver.app, lambda: self.now) as reverb:
                self._relay = relay = Relay(outbox, reverb, lambda: self.now, backoff=backoff)
                self._broadcaster = Broadcaster(outbox, lambda: self.now, relay.wake)
                async with relay.running(drain=drain):
                    yield
        finally:
            await self._store.close()

    async def say(
        self, channel: str, name: str, also_to: str = "", lifetime: timedelta | None = None
    ) -> str:
        channels = [channel, also_to] if also_to else [channel]
        event = Event(name, {}, lifetime)
        await self._store.write(lambda unit: self._broadcaster.publish(unit, channels, event))
        return name

    async def change(self, statement: str) -> None:
        await self._store.write(lambda unit: unit.connection.exec_driver_sql(statement))

    @asynccontextmanager
    async def writing_is_held_up(self) -> AsyncIterator[None]:
        """Have nothing written, and so nothing taken out of the outbox, while the block runs."""
        has_begun, may_end = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def hold(unit: UnitOfWork) -> None:
            loop.call_soon_threadsafe(has_begun.set)
            may_end.wait(60)

        held = asyncio.create_task(self._store.write(hold))
        await has_begun.wait()
        try:
            yield
        finally:
            may_end.set()
            await held

    async def until_sent(self, count: int) -> None:
        """Wait until the relay knows of so many events that the server has them."""
        [sent] = [each for each in self._relay.measures() if each.name == "relay_events_sent_total"]
        async with asyncio.timeout(60):
            while (await sent.read())[()] < count:
                await self._store.check()

    async def outbox_when_closed(self) -> Backlog:
        store = Store(self._url)
        backlog = await Outbox(store).backlog()
        await store.close()
        return backlog


@asynccontextmanager
async def relaying(
    settings: Settings, receiver: RealtimeReceiver, backoff: Backoff = PATIENTLY, drain: float = 60
) -> AsyncIterator[Speaker]:
    speaker = Speaker(settings.database_url)
    async with speaker.speaking(receiver, backoff, drain):
        yield speaker
