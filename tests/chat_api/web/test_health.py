"""What health says of a relay that has died, is stuck, or gets nothing done."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from chat_api.kernel.clock import system_clock
from chat_api.kernel.routes import Answer, Call, NoInput
from chat_api.realtime.broadcaster import Broadcaster, Event
from chat_api.realtime.relay import Relay
from chat_api.realtime.reverb import ReverbClient
from chat_api.store.engine import Store
from chat_api.store.outbox import Outbox
from chat_api.web.health import Health, health_route
from tests.chat_api.receiver import RealtimeReceiver
from tests.chat_api.world import QUICKLY

ASKED: Call[Any] = Call(NoInput(), {}, "127.0.0.1", None, None)


@dataclass
class Patient:
    """A relay, and what health says of it."""

    store: Store
    relay: Relay
    broadcaster: Broadcaster
    health: Any

    async def owe(self) -> None:
        event = Event("news", {})
        await self.store.write(
            lambda unit: self.broadcaster.publish(unit, ["private-user.1"], event)
        )

    async def states(self) -> tuple[int, str, str]:
        """Return the status of the answer, of the whole and of the relay."""
        answer: Answer = await self.health.handler(ASKED)
        body = answer.body
        assert isinstance(body, Health)
        return answer.status, body.status, body.components.relay.status

    async def until(self, expected: tuple[int, str, str]) -> None:
        async with asyncio.timeout(60):
            while await self.states() != expected:
                pass


@asynccontextmanager
async def patient(
    database: str, receiver: RealtimeReceiver, *, stuck_after: float, still_after: float
) -> AsyncIterator[Patient]:
    store = Store(database)
    outbox = Outbox(store)
    try:
        async with ReverbClient(receiver.app, system_clock) as reverb:
            relay = Relay(
                outbox, reverb, system_clock, backoff=QUICKLY._replace(stuck_after=stuck_after)
            )
            route = health_route(
                store, outbox, relay, reverb, system_clock, still_after=still_after
            )
            broadcaster = Broadcaster(outbox, system_clock, relay.wake)
            yield Patient(store, relay, broadcaster, route)
    finally:
        await store.close()


async def test_a_relay_that_is_not_there_is_down_and_so_is_the_whole(
    database: str, receiver: RealtimeReceiver
) -> None:
    async with patient(database, receiver, stuck_after=100, still_after=100) as one:
        assert await one.states() == (503, "DOWN", "DOWN")
        async with one.relay.running(drain=0):
            assert await one.states() == (200, "UP", "UP")
        assert await one.states() == (503, "DOWN", "DOWN")


async def test_a_relay_that_is_stuck_is_down_until_it_goes_on(
    database: str, receiver: RealtimeReceiver
) -> None:
    receiver.answers_late = asyncio.Event()
    async with (
        patient(database, receiver, stuck_after=1.0, still_after=100) as one,
        one.relay.running(drain=0),
    ):
        await one.owe()
        await receiver.hears(1)
        await one.until((503, "DOWN", "DOWN"))

        receiver.answers_late.set()
        await one.until((200, "UP", "UP"))


async def test_events_that_stay_although_the_server_is_there_are_the_relays_fault(
    database: str, receiver: RealtimeReceiver
) -> None:
    receiver.answers = [503] * 100_000
    async with (
        patient(database, receiver, stuck_after=100, still_after=0.0) as one,
        one.relay.running(drain=0),
    ):
        assert await one.states() == (200, "UP", "UP")  # nothing is owed
        await one.owe()
        await one.until((200, "UP", "DOWN"))

        receiver.answers.clear()
        await receiver.hears(1)
        await one.until((200, "UP", "UP"))


async def test_events_that_stay_while_the_server_is_away_are_nobodys_fault(
    database: str, receiver: RealtimeReceiver
) -> None:
    await receiver.go_down()
    async with (
        patient(database, receiver, stuck_after=100, still_after=0.0) as one,
        one.relay.running(drain=0),
    ):
        await one.owe()
        for _ in range(3):
            assert await one.states() == (200, "UP", "UP")
