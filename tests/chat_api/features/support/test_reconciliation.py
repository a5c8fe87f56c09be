"""Customers of whom nobody told that they came or went, and how they are found."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from chat_api.features.support.attendance import Attendance, customer_member
from chat_api.features.support.models import SupportConversation
from chat_api.features.support.reconciliation import Reconciliation
from chat_api.realtime.broadcaster import Broadcaster
from chat_api.realtime.reverb import ReverbClient
from chat_api.realtime.webhooks import Notice
from chat_api.store.outbox import Outbox
from tests.chat_api.features.support.desk import Customer, Desk
from tests.chat_api.receiver import RealtimeReceiver

INTERVAL = 60.0
AT_ONCE = 2


class Time:
    """A clock that is set by hand; far from now, so that it is nobody else's time."""

    def __init__(self) -> None:
        self.now = datetime(2125, 11, 13, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(microseconds=1)
        return self.now


@dataclass
class Watch:
    """Those who look for customers, and the server that they ask: not the one that the desk has."""

    desk: Desk
    time: Time
    server: RealtimeReceiver
    attendance: Attendance
    reconciliation: Reconciliation
    leads: bool = True

    async def member(self, customer: Customer) -> str:
        row = await self.desk.api.store.one_or_none(
            select(SupportConversation.customer_id).where(SupportConversation.id == customer.id)
        )
        assert row is not None
        return customer_member(row.customer_id)

    async def notice(self, name: str, customer: Customer) -> Notice:
        return Notice(name, presence(customer), await self.member(customer), self.time())

    async def told_of_return(self, customer: Customer) -> None:
        await self.attendance.came(await self.notice("member_added", customer))

    async def told_of_departure(self, customer: Customer) -> None:
        await self.attendance.left(await self.notice("member_removed", customer))

    async def comes(self, customer: Customer) -> None:
        """Have a customer come, whatever anybody is told."""
        assert self.server.present is not None
        self.server.present[presence(customer)] = {await self.member(customer), "3"}

    def goes(self, customer: Customer) -> None:
        """Have a customer go without a word; the agent stays."""
        assert self.server.present is not None
        self.server.present[presence(customer)] = {"3"}

    async def there(self, name: str = "a secret") -> Customer:
        """Have a customer come, and be told of it."""
        customer = await self.desk.customer(name)
        await self.comes(customer)
        await self.told_of_return(customer)
        return customer

    async def look(self) -> float:
        """Look once; afterwards time is up for whoever has left."""
        wait = await self.reconciliation.look()
        self.time.now += timedelta(seconds=5)
        await self.attendance.tell_who_has_gone()
        return wait

    async def states(self, customer: Customer) -> list[str]:
        """End a conversation and return all that was told of its state, but for that end."""
        await customer.client.ask("DELETE", customer.path)
        states = await self.desk.states(customer, "CLOSED")
        assert states.pop() == "CLOSED"
        return states


def presence(customer: Customer) -> str:
    return f"presence-conversation.{customer.id}"


@asynccontextmanager
async def watching(desk: Desk, return_of_clients: float = 0.0) -> AsyncIterator[Watch]:
    time, store = Time(), desk.api.store
    broadcaster = Broadcaster(Outbox(store), time, lambda: None)
    attendance = Attendance(store, broadcaster, time, hold=timedelta(seconds=5))
    async with (
        RealtimeReceiver() as server,
        ReverbClient(server.app, lambda: datetime.now(UTC)) as reverb,
    ):
        server.present = {}
        reconciliation = Reconciliation(
            attendance,
            reverb,
            time,
            leads=lambda: whole.leads,
            hold=0.0,
            return_of_clients=return_of_clients,
            interval=INTERVAL,
            at_once=AT_ONCE,
        )
        whole = Watch(desk, time, server, attendance, reconciliation)
        yield whole


@pytest.fixture
async def watch(desk: Desk) -> AsyncIterator[Watch]:
    async with watching(desk) as watch:
        yield watch


async def test_who_left_without_a_word_is_told_of_once_and_so_is_their_return(
    watch: Watch,
) -> None:
    customer = await watch.there()
    watch.goes(customer)

    for _ in range(3):
        await watch.look()
    await watch.told_of_departure(customer)  # late, and nothing new
    await watch.look()
    await watch.comes(customer)
    await watch.told_of_return(customer)
    await watch.look()

    assert await watch.states(customer) == ["DISCONNECTED", "QUEUED"]


async def test_their_five_seconds_count_from_when_they_were_missed(watch: Watch) -> None:
    customer = await watch.there()
    watch.goes(customer)
    await watch.reconciliation.look()

    still = await watch.attendance.tell_who_has_gone()

    assert 4.9 < still <= 5.0
    await watch.told_of_return(customer)
    await watch.look()
    assert await watch.states(customer) == ["DISCONNECTED"]  # as they are still not there


async def test_who_is_there_stays_and_is_asked_about_alone(watch: Watch) -> None:
    customer = await watch.there()

    assert await watch.look() == INTERVAL
    assert watch.server.looks == [presence(customer)]
    assert await watch.states(customer) == []


async def test_who_never_came_is_not_missed_and_neither_is_who_needs_not_be_there(
    watch: Watch,
) -> None:
    never, over = await watch.desk.customer("never"), await watch.there("over")
    await watch.states(over)
    watch.goes(over)

    await watch.look()

    assert watch.server.looks == []
    assert await watch.states(never) == []


async def test_who_comes_back_between_two_looks_has_never_been_away(watch: Watch) -> None:
    customer = await watch.there()
    watch.goes(customer)

    async def back_after_the_first(name: str) -> None:
        await watch.comes(customer)

    watch.server.before_telling = back_after_the_first
    await watch.look()

    assert watch.server.looks == [presence(customer)] * 2
    assert await watch.states(customer) == []


async def test_a_notice_that_comes_while_the_server_is_asked_is_right(watch: Watch) -> None:
    customer, other = await watch.there("one"), await watch.there("other")
    watch.goes(customer)
    await watch.told_of_departure(other)

    async def news(name: str) -> None:
        watch.time()
        if name == presence(customer):
            await watch.told_of_return(customer)
        else:
            await watch.told_of_return(other)
            await watch.told_of_departure(other)

    watch.server.before_telling = news
    await watch.reconciliation.look()
    watch.server.before_telling = None
    watch.server.present = None  # nothing more is found out
    await watch.look()

    assert await watch.states(customer) == []
    assert await watch.states(other) == ["DISCONNECTED"]


async def test_who_is_there_although_they_were_told_to_have_left_is_back(watch: Watch) -> None:
    customer = await watch.there()
    watch.goes(customer)
    await watch.look()
    await watch.comes(customer)

    for _ in range(2):
        await watch.look()

    assert await watch.states(customer) == ["DISCONNECTED", "QUEUED"]


async def test_who_has_been_gone_for_an_hour_is_not_looked_for_any_more(watch: Watch) -> None:
    customer = await watch.there()
    watch.goes(customer)
    await watch.look()
    watch.time.now += timedelta(hours=1)
    await watch.look()
    watch.server.looks.clear()

    await watch.look()
    assert watch.server.looks == []

    await watch.comes(customer)
    await watch.told_of_return(customer)
    await watch.look()
    assert watch.server.looks == [presence(customer)]


@pytest.mark.parametrize("status", [401, 403, 404, 500, 502, 503])
async def test_an_answer_that_is_an_error_says_nothing(status: int, watch: Watch) -> None:
    customer = await watch.there()
    watch.goes(customer)
    watch.server.answers = [status]

    await watch.look()

    assert watch.server.looks == [presence(customer)]
    assert await watch.states(customer) == []


async def test_a_refusal_is_about_one_customer(watch: Watch) -> None:
    both = [await watch.there("one"), await watch.there("other")]
    for customer in both:
        watch.goes(customer)
    watch.server.answers = [400]

    await watch.look()

    first, second = sorted(both, key=lambda each: each.id)
    assert await watch.states(first) == []
    assert await watch.states(second) == ["DISCONNECTED"]


async def test_a_server_that_is_asked_too_often_is_asked_again_in_its_time(watch: Watch) -> None:
    customer = await watch.there()
    watch.goes(customer)
    watch.server.answers = [429]

    await watch.look()

    assert await watch.states(customer) == ["DISCONNECTED"]


async def test_a_server_cut_off_from_its_nodes_says_nothing(watch: Watch) -> None:
    customer = await watch.there()
    watch.goes(customer)
    watch.server.is_joined = False
    await watch.look()
    watch.server.is_joined = True
    await watch.comes(customer)
    await watch.look()

    assert await watch.states(customer) == []


async def test_after_the_server_was_away_its_clients_have_time_to_come_back(desk: Desk) -> None:
    async with watching(desk, return_of_clients=600) as watch:
        customer = await watch.there()
        watch.goes(customer)

        await watch.server.go_down()
        away = [await watch.look() for _ in range(2)]
        await watch.server.go_up()
        back = [await watch.look() for _ in range(2)]

        assert away == [5.0, 5.0]
        assert all(500 < wait <= 600 for wait in back)
        assert watch.server.looks == []
        assert await watch.states(customer) == []


async def test_a_server_that_is_back_while_it_is_asked_has_lost_its_clients(watch: Watch) -> None:
    customer = await watch.there()
    watch.goes(customer)

    async def restarted(name: str) -> None:
        watch.reconciliation.look_for_all()

    watch.server.before_telling = restarted
    assert await watch.look() == 0
    watch.server.before_telling = None
    await watch.comes(customer)
    await watch.look()

    assert await watch.states(customer) == []


async def test_only_the_process_that_leads_looks(watch: Watch) -> None:
    customer = await watch.there()
    watch.goes(customer)
    watch.leads = False

    assert await watch.look() == INTERVAL
    assert watch.server.looks == []

    watch.leads = True
    await watch.look()
    assert await watch.states(customer) == ["DISCONNECTED"]


async def test_a_few_are_looked_for_at_a_time_and_all_in_turn(watch: Watch) -> None:
    names = sorted([presence(await watch.there(f"{number}")) for number in range(5)])

    waits = [await watch.look() for _ in range(4)]

    assert waits == [INTERVAL] * 4
    assert watch.server.looks == [*names, *names[:AT_ONCE]]


async def test_who_misses_one_or_looks_for_all_goes_on_at_once(watch: Watch) -> None:
    customers = [await watch.there(f"{number}") for number in range(5)]
    watch.goes(min(customers, key=lambda customer: customer.id))

    assert [await watch.look() for _ in range(4)] == [0, INTERVAL, INTERVAL, INTERVAL]

    watch.reconciliation.look_for_all()
    assert [await watch.look() for _ in range(4)] == [0, 0, INTERVAL, INTERVAL]
