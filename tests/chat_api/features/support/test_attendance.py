"""DISCONNECTED: when it is said that a customer has gone, and that they are back."""

import hashlib
import hmac
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from chat_api.features.support.attendance import Attendance, customer_member
from chat_api.features.support.feature import Timing
from chat_api.features.support.models import SupportConversation
from chat_api.realtime.broadcaster import Broadcaster
from chat_api.realtime.webhooks import Notice
from chat_api.settings import Settings
from chat_api.store.outbox import Outbox
from tests.chat_api.client import Reply
from tests.chat_api.features.support.desk import Customer, Desk, desk_at
from tests.chat_api.receiver import APP_KEY, APP_SECRET, RealtimeReceiver

AT_ONCE = Timing(gone=0.0, told_after=0.0)
NOT_TODAY = Timing(gone=86_400.0)


async def member_of(desk: Desk, customer: Customer) -> str:
    """Return what the customer is called among the members, as they are told."""
    reply = await customer.client.post(
        "/broadcasting/auth",
        {"socket_id": "1.2", "channel_name": f"presence-conversation.{customer.id}"},
    )
    assert reply.status == 200, reply
    return str(msgspec.json.decode(reply.body["channel_data"])["user_id"])


async def webhook(desk: Desk, name: str, customer: Customer, user_id: str) -> Reply:
    """Tell the API what the realtime server would."""
    event = {
        "name": name,
        "channel": f"presence-conversation.{customer.id}",
        "user_id": user_id,
    }
    now = int(datetime.now(UTC).timestamp() * 1000)
    body = msgspec.json.encode({"time_ms": now, "events": [event]})
    signature = hmac.new(APP_SECRET.encode(), body, hashlib.sha256).hexdigest()
    return await desk.nobody.ask(
        "POST",
        "/webhooks/reverb",
        body=body,
        headers={"X-Pusher-Key": APP_KEY, "X-Pusher-Signature": signature},
    )


def is_status(status: str) -> Any:
    return lambda data: data["status"] == status and "position" not in data


async def test_a_customer_who_has_gone_and_comes_back_is_told_of(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    async with desk_at(settings, receiver, AT_ONCE) as desk:
        customer = await desk.taken()
        member = await member_of(desk, customer)

        left = await webhook(desk, "member_removed", customer, member)
        gone = await desk.hears(customer.channel, "system:event", is_status("DISCONNECTED"))
        seen_as = await (await desk.agent()).get("/api/agent/conversations")
        back = await webhook(desk, "member_added", customer, member)
        states = [
            await customer.client.ask("DELETE", customer.path),
            await desk.states(customer, "CLOSED"),
        ][1]

    assert (left.status, left.body) == (200, {})
    assert gone == {
        "conversationId": customer.id,
        "status": "DISCONNECTED",
        "agent": {"id": "3", "displayName": "Agent Smith"},
        "timestamp": gone["timestamp"],
    }
    assert [each["status"] for each in seen_as.body] == ["ASSIGNED"]
    assert back.status == 200
    assert states == ["ASSIGNED", "DISCONNECTED", "ASSIGNED", "CLOSED"]


async def test_only_the_customers_own_departure_counts(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    async with desk_at(settings, receiver, AT_ONCE) as desk:
        customer, other = await desk.taken("one"), await desk.taken("other")
        member, others_member = [await member_of(desk, each) for each in (customer, other)]

        for user_id in ("3", others_member, "customer:nobody", "", "customer:"):
            reply = await webhook(desk, "member_removed", customer, user_id)
            assert reply.status == 200
        await webhook(desk, "member_removed", other, others_member)
        await desk.hears(other.channel, "system:event", is_status("DISCONNECTED"))
        await customer.client.ask("DELETE", customer.path)
        # It is over: nobody has to be there any more.
        await webhook(desk, "member_removed", customer, member)
        await other.client.ask("DELETE", other.path)
        await desk.states(other, "CLOSED")

        assert await desk.states(customer, "CLOSED") == ["ASSIGNED", "CLOSED"]


async def test_a_departure_is_remembered_across_a_restart(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    async with desk_at(settings, receiver, NOT_TODAY) as desk:
        customer = await desk.customer()
        await webhook(desk, "member_removed", customer, await member_of(desk, customer))
    async with desk_at(settings, receiver, AT_ONCE) as desk:
        await desk.hears(customer.channel, "system:event", is_status("DISCONNECTED"))


class Time:
    """A clock that is set by hand; far from now, so that it is nobody else's time."""

    def __init__(self) -> None:
        self.now = datetime(2125, 11, 13, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@dataclass
class Watch:
    """Attendance under a clock of the test's own, with the contract's five seconds."""

    desk: Desk
    time: Time
    attendance: Attendance

    async def notice(self, name: str, customer: Customer, *, late: float = 0.0) -> Notice:
        row = await self.desk.api.store.one_or_none(
            select(SupportConversation.customer_id).where(SupportConversation.id == customer.id)
        )
        assert row is not None
        channel = f"presence-conversation.{customer.id}"
        at = self.time.now - timedelta(seconds=late)
        return Notice(name, channel, customer_member(row.customer_id), at)

    async def left(self, customer: Customer, *, late: float = 0.0) -> None:
        await self.attendance.left(await self.notice("member_removed", customer, late=late))

    async def came(self, customer: Customer) -> None:
        await self.attendance.came(await self.notice("member_added", customer))

    async def is_away(self, customer: Customer) -> bool:
        row = await self.desk.api.store.one_or_none(
            select(SupportConversation.is_customer_away).where(
                SupportConversation.id == customer.id
            )
        )
        assert row is not None
        return bool(row.is_customer_away)


@pytest.fixture
def watch(desk: Desk) -> Watch:
    time = Time()
    broadcaster = Broadcaster(Outbox(desk.api.store), time, lambda: None)
    hold = timedelta(seconds=5)
    return Watch(desk, time, Attendance(desk.api.store, broadcaster, time, hold=hold))


async def test_five_seconds_count_from_the_departure_of_which_the_server_waited_three(
    watch: Watch,
) -> None:
    customer = await watch.desk.customer()
    await watch.left(customer)

    still = await watch.attendance.tell_who_has_gone()
    watch.time.pass_by(1.9)
    still_later = await watch.attendance.tell_who_has_gone()
    early = await watch.is_away(customer)
    watch.time.pass_by(0.1)
    await watch.attendance.tell_who_has_gone()

    assert (still, round(still_later, 3), early) == (2.0, 0.1, False)
    assert await watch.is_away(customer)
    assert await watch.attendance.tell_who_has_gone() > 2  # there is nobody else


async def test_who_is_back_in_time_has_never_been_away(watch: Watch) -> None:
    customer = await watch.desk.customer()
    await watch.left(customer)
    watch.time.pass_by(1.9)
    await watch.came(customer)
    watch.time.pass_by(60)

    await watch.attendance.tell_who_has_gone()

    assert not await watch.is_away(customer)


async def test_a_notice_that_comes_late_is_not_waited_for_again(watch: Watch) -> None:
    customer = await watch.desk.customer()
    await watch.left(customer, late=2.0)

    await watch.attendance.tell_who_has_gone()

    assert await watch.is_away(customer)


async def test_a_server_whose_clock_is_ahead_makes_nobody_stay_longer(watch: Watch) -> None:
    customer = await watch.desk.customer()
    await watch.left(customer, late=-3_600.0)
    watch.time.pass_by(2.0)

    await watch.attendance.tell_who_has_gone()

    assert await watch.is_away(customer)


async def test_being_told_twice_changes_nothing(watch: Watch) -> None:
    customer = await watch.desk.customer()
    for _ in range(2):
        await watch.left(customer)
    watch.time.pass_by(2.0)
    await watch.attendance.tell_who_has_gone()
    await watch.left(customer)
    for _ in range(2):
        await watch.came(customer)
    await customer.client.ask("DELETE", customer.path)

    states = await watch.desk.states(customer, "CLOSED")

    assert states == ["DISCONNECTED", "QUEUED", "CLOSED"]
