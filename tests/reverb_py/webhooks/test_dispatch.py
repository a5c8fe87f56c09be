"""
What an app's backend hears, over real connections, when everything works and when nothing does.

`soketi/soketi#683`, `#684`, `#830` and `#836` are what others get wrong here: no retries, no hold
of departures, and requests in which apps, kinds and filters are mixed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from dataclasses import replace

import pusher
import pytest
from aiohttp import web

from reverb_py.core.apps import Webhook
from reverb_py.testing import PATIENCE
from reverb_py.webhooks.dispatch import Webhooks
from reverb_py.webhooks.endpoint import MAX_BATCH, MAX_WAITING_SINGLY, Limits
from tests.reverb_py.webhooks.receiver import APP, Receiver, Request, receiving
from tests.reverb_py.webhooks.sending import (
    LONG_HOLD,
    SHORT_HOLD,
    app_with,
    logged,
    missed,
    occupied,
    running,
    vacated,
)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


async def test_each_kind_of_event_is_one_signed_request(receiver: Receiver) -> None:
    app = app_with(receiver.webhook(headers=(("X-Tenant", "4"),)))
    async with running(SHORT_HOLD, clock=lambda: 1_700_000_000.0) as webhooks:
        webhooks.channel_occupied(app, "presence-room")
        webhooks.member_added(app, "presence-room", "7")
        webhooks.subscription_count(app, "orders", 3)
        webhooks.cache_miss(app, "cache-prices")
        webhooks.client_event(app, "presence-room", "client-x", b'{"a": 1}', "1.2", "7")
        webhooks.client_event(app, "private-room", "client-x", b'"plain"', "1.2", None)
        webhooks.member_removed(app, "presence-room", "7")
        webhooks.channel_vacated(app, "presence-room")
        requests = await receiver.gets(8)

    assert [request.body for request in requests] == [
        b'{"time_ms":1700000000000,"events":[%b]}' % event
        for event in (
            b'{"name":"channel_occupied","channel":"presence-room"}',
            b'{"name":"member_added","channel":"presence-room","user_id":"7"}',
            b'{"name":"subscription_count","channel":"orders","subscription_count":3}',
            b'{"name":"cache_miss","channel":"cache-prices"}',
            b'{"name":"client_event","channel":"presence-room","event":"client-x",'
            b'"data":"{\\"a\\": 1}","socket_id":"1.2","user_id":"7"}',
            b'{"name":"client_event","channel":"private-room","event":"client-x",'
            b'"data":"plain","socket_id":"1.2"}',
            b'{"name":"member_removed","channel":"presence-room","user_id":"7"}',
            b'{"name":"channel_vacated","channel":"presence-room"}',
        )
    ]
    assert requests[0].path == "/hook"
    assert requests[0].key == APP.key
    assert requests[0].headers["Content-Type"] == "application/json"
    assert requests[0].headers["User-Agent"].startswith("reverb-py/")
    assert requests[0].headers["X-Tenant"] == "4"
    assert receiver.most_at_once == 1


async def test_presence_channels_have_members_instead_of_a_count(receiver: Receiver) -> None:
    """As hosted Pusher counts them, and as the frames are that tell subscribers."""
    app = app_with(receiver.webhook())
    channels = ["orders", "private-a", "private-encrypted-a", "cache-a", "my-presence-a"]
    async with running() as webhooks:
        for channel in ["presence-a", "presence-cache-a", *channels]:
            webhooks.subscription_count(app, channel, 1)

    assert [event["channel"] for event in receiver.events] == channels


async def test_the_official_library_takes_a_request_and_its_repetition(receiver: Receiver) -> None:
    backend = pusher.Pusher(app_id=APP.id, key=APP.key, secret=APP.secret)
    receiver.answers = [web.Response(status=500)]
    async with running() as webhooks:
        webhooks.channel_occupied(app_with(receiver.webhook()), "room-é")
        requests = await receiver.gets(2)

    for request in requests:
        told = backend.validate_webhook(request.key, request.signature, request.body.decode())
        assert told["events"] == [occupied("room-é")]
        assert backend.validate_webhook(request.key, "0" * 64, request.body.decode()) is None


async def test_events_keep_their_order(receiver: Receiver) -> None:
    app = app_with(receiver.webhook())
    async with running() as webhooks:
        for count in range(10):
            webhooks.subscription_count(app, "orders", count)
        events = await receiver.hears(10)

    assert [event["subscription_count"] for event in events] == list(range(10))
    assert [len(request.events) for request in receiver.requests] == [1] * 10


async def test_a_webhook_gets_only_what_it_asked_for(receiver: Receiver) -> None:
    app = app_with(
        receiver.webhook("channel_occupied", path="/occupied"),
        receiver.webhook("cache_miss", path="/misses"),
        receiver.webhook("cache_miss", path="/private", prefixes=("private-",)),
        receiver.webhook("cache_miss", path="/europe", suffixes=("-eu",)),
        receiver.webhook("member_added", path="/members"),
        webhook_batch_seconds=0.01,
    )
    async with running() as webhooks:
        for channel in ("orders", "private-orders", "orders-eu"):
            webhooks.channel_occupied(app, channel)
            webhooks.cache_miss(app, channel)
        await receiver.hears(8)

    told = {request.path: request.events for request in receiver.requests}
    misses = [{"name": "cache_miss", "channel": name} for name in ("private-orders", "orders-eu")]
    assert told == {
        "/occupied": [occupied("orders"), occupied("private-orders"), occupied("orders-eu")],
        "/misses": [{"name": "cache_miss", "channel": "orders"}, *misses],
        "/private": [misses[0]],
        "/europe": [misses[1]],
    }


async def test_requests_never_mix_apps(receiver: Receiver) -> None:
    async with receiving("the other app's secret") as other_receiver:
        app = app_with(receiver.webhook(), webhook_batch_seconds=0.02)
        other = replace(
            app,
            id="1002",
            key="other-key",
            secret="the other app's secret",
            webhooks=(other_receiver.webhook(),),
        )
        async with running() as webhooks:
            for number in range(4):
                webhooks.cache_miss(app, f"cache-{number}")
                webhooks.cache_miss(other, f"other-{number}")
            events = await receiver.hears(4)
            other_events = await other_receiver.hears(4)

        assert [event["channel"] for event in events] == [f"cache-{n}" for n in range(4)]
        assert [event["channel"] for event in other_events] == [f"other-{n}" for n in range(4)]
        assert {request.key for request in receiver.requests} == {APP.key}
        assert {request.key for request in other_receiver.requests} == {"other-key"}


async def test_the_end_of_one_app_s_channel_is_not_undone_by_another_app(
    receiver: Receiver,
) -> None:
    async with receiving() as other_receiver:
        app = app_with(receiver.webhook())
        other = replace(app, id="1002", webhooks=(other_receiver.webhook(),))
        async with running() as webhooks:
            webhooks.channel_vacated(app, "room")
            webhooks.channel_occupied(other, "room")
            assert await other_receiver.hears(1) == [occupied("room")]

        assert receiver.events == [vacated("room")]


async def test_an_app_without_webhooks_costs_nothing_and_is_not_remembered() -> None:
    async with running() as webhooks:
        webhooks.channel_occupied(APP, "room")
        webhooks.channel_vacated(APP, "room")

        assert len(asyncio.all_tasks()) == 1


# Departures


async def test_a_channel_that_is_back_in_time_was_never_away(receiver: Receiver) -> None:
    app = app_with(receiver.webhook())
    async with running() as webhooks:
        webhooks.channel_occupied(app, "room")
        webhooks.channel_vacated(app, "room")
        webhooks.channel_occupied(app, "room")
        webhooks.cache_miss(app, "room")
        await receiver.hears(2)

    assert receiver.events == [occupied("room"), {"name": "cache_miss", "channel": "room"}]


async def test_a_member_who_reloads_the_page_was_never_away(receiver: Receiver) -> None:
    app = app_with(receiver.webhook("member_added", "member_removed"))
    async with running() as webhooks:
        for _ in range(3):
            webhooks.member_added(app, "presence-room", "7")
            webhooks.member_removed(app, "presence-room", "7")
        webhooks.member_added(app, "presence-room", "7")
        webhooks.member_added(app, "presence-room", "8")
        await receiver.hears(2)

    assert [(event["name"], event["user_id"]) for event in receiver.events] == [
        ("member_added", "7"),
        ("member_added", "8"),
    ]


async def test_another_member_s_arrival_does_not_undo_a_departure(receiver: Receiver) -> None:
    app = app_with(receiver.webhook())
    async with running(SHORT_HOLD) as webhooks:
        webhooks.member_removed(app, "presence-room", "7")
        webhooks.member_added(app, "presence-room", "8")
        events = await receiver.hears(2)

    assert [(event["name"], event["user_id"]) for event in events] == [
        ("member_added", "8"),
        ("member_removed", "7"),
    ]


async def test_a_channel_that_returns_after_its_end_was_told_is_told_again(
    receiver: Receiver,
) -> None:
    app = app_with(receiver.webhook())
    async with running(SHORT_HOLD) as webhooks:
        for round_number in range(1, 4):
            webhooks.channel_occupied(app, "room")
            webhooks.channel_vacated(app, "room")
            await receiver.hears(2 * round_number)

    assert receiver.events == [occupied("room"), vacated("room")] * 3


async def test_a_webhook_for_arrivals_alone_does_not_hear_of_returns(receiver: Receiver) -> None:
    app = app_with(receiver.webhook("channel_occupied"))
    async with running() as webhooks:
        webhooks.channel_occupied(app, "room")
        webhooks.channel_vacated(app, "room")
        webhooks.channel_occupied(app, "room")
        webhooks.channel_occupied(app, "next")
        await receiver.hears(2)

    assert receiver.events == [occupied("room"), occupied("next")]


async def test_more_departures_than_can_be_held_are_told_early(receiver: Receiver) -> None:
    app = app_with(receiver.webhook())
    async with running(replace(LONG_HOLD, max_held=2)) as webhooks:
        for channel in "abcd":
            webhooks.channel_vacated(app, channel)
        assert await receiver.hears(2) == [vacated("a"), vacated("b")]


async def test_when_a_network_fails_every_departure_is_told_in_order(receiver: Receiver) -> None:
    app = app_with(receiver.webhook(), webhook_batch_seconds=0.01)
    channels = [f"room-{number}" for number in range(1_200)]
    async with running(SHORT_HOLD) as webhooks:
        for channel in channels:
            webhooks.channel_vacated(app, channel)
        assert await receiver.hears(1_200) == [vacated(channel) for channel in channels]


async def test_departures_that_nobody_wants_to_hear_of_are_not_held(receiver: Receiver) -> None:
    """They would take the places of those that matter."""
    app = app_with(receiver.webhook("channel_vacated", prefixes=("private-",)))
    async with running(replace(LONG_HOLD, max_held=1)) as webhooks:
        webhooks.channel_vacated(app, "private-room")
        for number in range(10):
            webhooks.channel_vacated(app, f"room-{number}")
            webhooks.member_removed(app, "private-room", f"{number}")
        webhooks.channel_occupied(app, "private-room")

    assert receiver.requests == []


# Batches


async def test_events_of_one_window_go_together(receiver: Receiver) -> None:
    app = app_with(receiver.webhook(), webhook_batch_seconds=0.01)
    async with running() as webhooks:
        for channel in "abc":
            webhooks.channel_occupied(app, channel)
        await receiver.hears(3)
        webhooks.channel_occupied(app, "d")
        await receiver.hears(4)

    assert [request.events for request in receiver.requests] == [
        [occupied("a"), occupied("b"), occupied("c")],
        [occupied("d")],
    ]


async def test_a_batch_has_a_hundred_events_at_most(receiver: Receiver) -> None:
    app = app_with(receiver.webhook(), webhook_batch_seconds=0.01)
    async with running() as webhooks:
        for number in range(250):
            webhooks.channel_occupied(app, f"room-{number}")
        events = await receiver.hears(250)

    assert events == [occupied(f"room-{number}") for number in range(250)]
    assert [len(request.events) for request in receiver.requests] == [100, 100, 50]


async def test_what_waits_goes_together_as_long_as_it_is_much(receiver: Receiver) -> None:
    app = app_with(receiver.webhook())
    receiver.gate.clear()
    async with running() as webhooks:
        webhooks.channel_occupied(app, "room")
        await receiver.gets(1)
        for number in range(MAX_BATCH + MAX_WAITING_SINGLY):
            webhooks.subscription_count(app, "orders", number)
        receiver.gate.set()
        events = await receiver.hears(1 + MAX_BATCH + MAX_WAITING_SINGLY)

    assert [event["subscription_count"] for event in events[1:]] == list(range(110))
    assert [len(request.events) for request in receiver.requests] == [1, 100, *[1] * 10]
    assert receiver.most_at_once == 1


async def test_channels_of_strangers_delay_nobody_by_a_request_each(receiver: Receiver) -> None:
    app = app_with(receiver.webhook())
    async with running() as webhooks:
        for number in range(5_000):
            webhooks.channel_occupied(app, f"made-up-{number}")
        webhooks.member_added(app, "presence-room", "7")
        events = await receiver.hears(5_001)

    assert events[-1] == {"name": "member_added", "channel": "presence-room", "user_id": "7"}
    assert len(receiver.requests) == 51


async def test_a_batch_of_big_events_stays_below_what_web_servers_take(receiver: Receiver) -> None:
    app = app_with(receiver.webhook(), webhook_batch_seconds=0.01)
    data = json.dumps("x" * 100_000).encode()
    async with running() as webhooks:
        for number in range(5):
            webhooks.client_event(app, "private-room", f"client-{number}", data, "1.2", None)
        await receiver.hears(5)

    assert [len(request.events) for request in receiver.requests] == [2, 2, 1]


# Failures


@pytest.mark.parametrize("status", [301, 307, 400, 404, 410, 429, 500, 503])
async def test_whatever_is_not_a_success_is_tried_again_with_a_fresh_time(
    receiver: Receiver, status: int
) -> None:
    """A repetition that said the old time would be refused by the official libraries."""
    answer = {"Location": f"http://127.0.0.1:{receiver.port}/elsewhere"}
    receiver.answers = [web.Response(status=status, headers=answer) for _ in range(2)]
    minutes = itertools.count(1_700_000_000.0, 60.0)
    app = app_with(receiver.webhook())
    async with running(clock=lambda: next(minutes)) as webhooks:
        webhooks.channel_occupied(app, "room")
        webhooks.cache_miss(app, "room")
        await receiver.hears(2)

    assert [(request.path, request.time_ms, request.events) for request in receiver.requests] == [
        ("/hook", 1_700_000_000_000, [occupied("room")]),
        ("/hook", 1_700_000_060_000, [occupied("room")]),
        ("/hook", 1_700_000_120_000, [occupied("room")]),
        ("/hook", 1_700_000_180_000, [missed("room")]),
    ]
    assert len({request.signature for request in receiver.requests}) == 4


async def test_what_happens_while_the_endpoint_is_down_arrives_when_it_is_up(
    receiver: Receiver,
) -> None:
    app = app_with(receiver.webhook())
    await receiver.go_down()
    with logged() as log:
        async with running(replace(LONG_HOLD, report_seconds=0.01)) as webhooks:
            for count in range(3):
                for channel in "abc":
                    webhooks.subscription_count(app, channel, count)
            line = await log.says("reason")
            await receiver.go_up()
            events = await receiver.hears(9)

    for channel in "abc":
        told = [event["subscription_count"] for event in events if event["channel"] == channel]
        assert told == [0, 1, 2]
    assert line == {
        "event": "Webhook is not taken, trying again",
        "log_level": "warning",
        "app": "1001",
        "webhook": f"http://127.0.0.1:{receiver.port}",
        "failed_attempts": 1,
        "reason": "it can't be reached (Connection refused)",
        "waiting": 9,
    }


async def test_an_endpoint_that_does_not_answer_is_asked_again(receiver: Receiver) -> None:
    receiver.gate.clear()
    app = app_with(receiver.webhook())
    async with running(replace(LONG_HOLD, timeout_seconds=0.05)) as webhooks:
        webhooks.channel_occupied(app, "room")
        await receiver.gets(2)
        receiver.gate.set()
        await receiver.hears(1)

    assert receiver.events[0] == occupied("room")


async def test_a_success_whose_body_never_ends_is_a_success() -> None:
    told: list[object] = []
    news = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        told.append(json.loads(await reader.readexactly(length))["events"][0])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        writer.write(b"x" * [20, 65_536][len(told) % 2])
        news.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        app = app_with(
            Webhook(url=f"http://127.0.0.1:{port}/", kinds=frozenset({"channel_occupied"}))
        )
        async with running(replace(LONG_HOLD, timeout_seconds=0.5)) as webhooks:
            for channel in "abc":
                webhooks.channel_occupied(app, channel)
            async with asyncio.timeout(PATIENCE):
                while len(told) < 3:
                    news.clear()
                    await news.wait()

    assert told == [occupied(channel) for channel in "abc"]


async def test_the_endpoint_s_wish_to_be_left_alone_is_respected(receiver: Receiver) -> None:
    """It asks for the whole time that there is, so its last chance is the only other attempt."""
    receiver.answer = lambda request: web.Response(status=429, headers={"Retry-After": "3600"})
    app = app_with(receiver.webhook())
    limits = replace(LONG_HOLD, give_up_seconds=0.5)
    with logged() as log:
        async with running(limits) as webhooks:
            webhooks.channel_occupied(app, "room")
            await log.until(lambda: any("lost_after_retries" in line for line in log.lines))

    # A timer may be early by the clock's resolution, and then there is time for one more.
    assert 2 <= len(receiver.requests) <= 3


async def test_an_event_is_given_up_in_time_and_the_log_says_so_in_one_line(
    receiver: Receiver,
) -> None:
    receiver.answer = lambda request: web.Response(
        status=507 if request.events == [occupied("first")] else 200
    )
    app = app_with(receiver.webhook(path="/hook?token=very-secret"))
    limits = replace(LONG_HOLD, give_up_seconds=0.05, report_seconds=10 * PATIENCE)
    with logged() as log:
        async with running(limits) as webhooks:
            webhooks.channel_occupied(app, "first")
            webhooks.channel_occupied(app, "second")
            await receiver.hears(1)

    assert receiver.events == [occupied("second")]
    # The first failure that is worth a line says so at once; the rest comes at the end.
    assert 1 <= len(log.lines) <= 2
    lost = log.lines[-1]
    assert lost["event"] == "Webhook events are lost"
    assert lost["webhook"] == f"http://127.0.0.1:{receiver.port}"
    assert lost["reason"] == "it answered 507"
    assert lost["lost_after_retries"] == 1


async def test_a_dead_endpoint_delays_no_other(receiver: Receiver) -> None:
    async with receiving() as dead:
        dead.gate.clear()
        app = app_with(dead.webhook(), receiver.webhook())
        other = replace(app, id="1002", webhooks=(receiver.webhook(path="/other"),))
        async with running(drain_seconds=0.0) as webhooks:
            for number in range(20):
                webhooks.channel_occupied(app, f"room-{number}")
                webhooks.channel_occupied(other, f"other-{number}")
            await receiver.hears(40)

        assert len(dead.requests) == 1


async def test_hundreds_of_hanging_endpoints_delay_no_other(receiver: Receiver) -> None:
    async with receiving() as dead:
        dead.gate.clear()
        hanging = [dead.webhook(path=f"/{number}") for number in range(200)]
        app = app_with(*hanging, receiver.webhook())
        async with running(drain_seconds=0.0) as webhooks:
            webhooks.channel_occupied(app, "room")
            await dead.gets(200)
            assert await receiver.hears(1) == [occupied("room")]


async def test_a_failure_that_the_next_attempt_mends_is_not_worth_a_line(
    receiver: Receiver,
) -> None:
    tried = set()

    def refuse_once(request: Request) -> web.Response:
        channel = request.events[0]["channel"]
        is_new = channel not in tried
        tried.add(channel)
        return web.Response(status=500 if is_new else 200)

    receiver.answer = refuse_once
    app = app_with(receiver.webhook())
    with logged() as log:
        async with running() as webhooks:
            for channel in "abc":
                webhooks.channel_occupied(app, channel)
            await receiver.hears(3)

    assert log.lines == []


@pytest.mark.parametrize(
    "limits",
    [
        replace(LONG_HOLD, max_waiting=4),
        # Four events like these have 164 bytes.
        replace(LONG_HOLD, max_waiting_bytes=170),
    ],
    ids=["events", "bytes"],
)
async def test_beyond_its_bound_a_queue_loses_the_oldest_and_says_so(
    receiver: Receiver, limits: Limits
) -> None:
    receiver.gate.clear()
    app = app_with(receiver.webhook())
    with logged() as log:
        async with running(replace(limits, report_seconds=10 * PATIENCE)) as webhooks:
            webhooks.channel_occupied(app, "x")  # is under way, and not lost
            await receiver.gets(1)
            for number in range(10):
                webhooks.channel_occupied(app, f"{number}")
            receiver.gate.set()
            events = await receiver.hears(4)

    assert events == [occupied(name) for name in ("x", "7", "8", "9")]
    assert log.lines == [
        {
            "event": "Webhook events are lost",
            "log_level": "warning",
            "app": "1001",
            "webhook": f"http://127.0.0.1:{receiver.port}",
            "lost_oldest_of_too_many": lost,
            "waiting": waiting,
        }
        for lost, waiting in ((1, 4), (6, 0))
    ]


async def test_an_event_that_is_alone_larger_than_the_bound_is_sent(receiver: Receiver) -> None:
    app = app_with(receiver.webhook(), webhook_batch_seconds=0.01)
    async with running(replace(LONG_HOLD, max_waiting_bytes=60)) as webhooks:
        webhooks.channel_occupied(app, "lost")
        await asyncio.sleep(0)  # the endpoint is now waiting for its batch to fill
        webhooks.channel_occupied(app, "room-" + "x" * 100)
        events = await receiver.hears(1)

    assert events == [occupied("room-" + "x" * 100)]


async def test_an_address_nobody_can_use_does_no_harm(receiver: Receiver) -> None:
    broken = Webhook(url="not a url", kinds=frozenset({"channel_occupied"}))
    bad_header = receiver.webhook(headers=(("X-Tenant", "4\r\nX-Other: 5"),))
    app = app_with(broken, bad_header, receiver.webhook(path="/good"))
    with logged() as log:
        async with running(drain_seconds=0.0) as webhooks:
            webhooks.channel_occupied(app, "room")
            await receiver.hears(1)

    assert [request.path for request in receiver.requests] == ["/good"]
    assert [line["lost"] for line in log.lines if "lost" in line] == [1, 1]


# A changed configuration


async def test_a_new_secret_and_new_headers_count_from_the_next_attempt_on(
    receiver: Receiver,
) -> None:
    receiver.answers = [web.Response(status=401)]
    receiver.gate.clear()
    app = app_with(receiver.webhook())
    new = app_with(receiver.webhook(headers=(("X-Tenant", "5"),)), secret="the next secret")
    async with running() as webhooks:
        webhooks.channel_occupied(app, "room")
        await receiver.gets(1)
        webhooks.cache_miss(new, "room")
        receiver.secret = new.secret
        receiver.gate.set()
        events = await receiver.hears(2)

    assert events == [occupied("room"), missed("room")]
    assert ["X-Tenant" in request.headers for request in receiver.requests] == [False, True, True]


async def test_a_repetition_is_signed_with_the_new_secret_also_where_nothing_happens_any_more(
    receiver: Receiver,
) -> None:
    receiver.answers = [web.Response(status=401)]
    receiver.gate.clear()
    app = app_with(receiver.webhook())
    new = replace(app, key="new-key", secret="the next secret", previous_secrets=(APP.secret,))
    async with running() as webhooks:
        webhooks.channel_occupied(app, "room")
        webhooks.member_removed(app, "presence-room", "7")
        await receiver.gets(1)
        webhooks.replace([new])
        receiver.secret = new.secret
        receiver.gate.set()
        await receiver.hears(1)

    assert receiver.events == [
        occupied("room"),
        {"name": "member_removed", "channel": "presence-room", "user_id": "7"},
    ]
    assert [request.key for request in receiver.requests] == [APP.key, "new-key", "new-key"]


async def test_a_webhook_that_wants_something_else_is_told_something_else(
    receiver: Receiver,
) -> None:
    """Departures included that began under the old wishes."""
    app = app_with(receiver.webhook())
    new = app_with(receiver.webhook("channel_vacated", prefixes=("private-",)))
    async with running() as webhooks:
        webhooks.channel_vacated(app, "private-room")
        webhooks.channel_vacated(app, "room")
        webhooks.member_removed(app, "presence-room", "7")
        webhooks.replace([new])
        webhooks.cache_miss(new, "private-cache-room")

    assert receiver.events == [vacated("private-room")]


async def test_an_app_without_webhooks_any_more_is_told_nothing_of_what_was_held(
    receiver: Receiver,
) -> None:
    app = app_with(receiver.webhook())
    async with running() as webhooks:
        webhooks.channel_vacated(app, "room")
        webhooks.replace([APP])

    assert receiver.requests == []


async def test_nobody_comes_back_to_an_app_that_is_gone(receiver: Receiver) -> None:
    receiver.gate.clear()
    app = app_with(receiver.webhook(), webhook_batch_seconds=10 * PATIENCE)
    async with running() as webhooks:
        webhooks.channel_occupied(app, "room")
        webhooks.channel_vacated(app, "room")
        webhooks.replace([replace(APP, id="1002")])
        receiver.gate.set()
        await receiver.hears(2)

        # The same id again is another app, which has not seen anybody leave.
        webhooks.replace([replace(app, webhook_batch_seconds=0.0)])
        webhooks.channel_occupied(replace(app, webhook_batch_seconds=0.0), "room")
        await receiver.hears(3)

    assert receiver.events == [occupied("room"), vacated("room"), occupied("room")]


async def test_a_departure_held_across_a_reload_can_still_be_undone(receiver: Receiver) -> None:
    app = app_with(receiver.webhook())
    async with running() as webhooks:
        webhooks.channel_vacated(app, "room")
        webhooks.channel_occupied(replace(app), "room")
        webhooks.channel_occupied(app, "next")
        await receiver.hears(1)

    assert receiver.events == [occupied("next")]


async def test_what_waits_for_a_webhook_that_is_gone_is_still_sent(receiver: Receiver) -> None:
    receiver.gate.clear()
    app = app_with(receiver.webhook(path="/old"))
    async with running() as webhooks:
        webhooks.channel_occupied(app, "a")
        webhooks.channel_occupied(app, "b")
        webhooks.channel_occupied(app_with(receiver.webhook(path="/new")), "c")
        await receiver.gets(2)
        receiver.gate.set()
        await receiver.hears(3)

    assert [request.events for request in receiver.taken if request.path == "/old"] == [
        [occupied("a")],
        [occupied("b")],
    ]
    assert [request.events for request in receiver.taken if request.path == "/new"] == [
        [occupied("c")]
    ]


async def test_what_a_webhook_that_is_gone_does_not_take_is_given_up(receiver: Receiver) -> None:
    """A dead address that was taken out of the configuration must not be tried for years."""
    receiver.gate.clear()
    app = app_with(receiver.webhook())
    with logged() as log:
        async with running(replace(LONG_HOLD, give_up_seconds=0.02)) as webhooks:
            for number in range(50):
                webhooks.channel_occupied(app, f"room-{number}")
            await receiver.gets(1)
            webhooks.replace([APP])
            line = await log.says("lost")

            assert line == {
                "event": "Events of a webhook that was removed are lost",
                "log_level": "warning",
                "app": "1001",
                "webhook": f"http://127.0.0.1:{receiver.port}",
                "lost": 50,
            }
            assert "webhook" not in [task.get_name() for task in asyncio.all_tasks()]

    assert log.lines == [line]


# The end


async def test_at_the_end_everything_that_is_held_or_waits_is_sent(receiver: Receiver) -> None:
    app = app_with(receiver.webhook())
    async with running() as webhooks:
        for number in range(20):
            webhooks.channel_occupied(app, f"room-{number}")
        webhooks.member_removed(app, "presence-room", "7")
        webhooks.channel_vacated(app, "presence-room")

    assert receiver.events == [
        *(occupied(f"room-{number}") for number in range(20)),
        {"name": "member_removed", "channel": "presence-room", "user_id": "7"},
        vacated("presence-room"),
    ]


async def test_the_end_does_not_wait_for_a_batch_to_fill(receiver: Receiver) -> None:
    app = app_with(receiver.webhook(), webhook_batch_seconds=10 * PATIENCE)
    async with running() as webhooks:
        webhooks.channel_occupied(app, "a")
        webhooks.channel_occupied(app, "b")
        await asyncio.sleep(0)

    assert [request.events for request in receiver.requests] == [[occupied("a"), occupied("b")]]


async def test_a_full_batch_waits_for_nothing_and_the_end_fills_no_other(
    receiver: Receiver,
) -> None:
    app = app_with(receiver.webhook(), webhook_batch_seconds=10 * PATIENCE)
    async with running() as webhooks:
        for number in range(101):
            webhooks.channel_occupied(app, f"room-{number}")
        await receiver.gets(1)

    assert [len(request.events) for request in receiver.requests] == [100, 1]


async def test_the_end_does_not_wait_for_the_next_retry(receiver: Receiver) -> None:
    receiver.answers = [web.Response(status=503, headers={"Retry-After": "200"})]
    app = app_with(receiver.webhook())
    async with running() as webhooks:
        webhooks.channel_occupied(app, "room")
        await receiver.gets(1)

    assert receiver.events == [occupied("room")]


async def test_the_end_gives_up_on_a_dead_endpoint_and_says_what_is_lost(
    receiver: Receiver,
) -> None:
    receiver.gate.clear()
    app = app_with(receiver.webhook())
    with logged() as log:
        async with running(drain_seconds=0.05) as webhooks:
            for channel in "abc":
                webhooks.channel_occupied(app, channel)
            await receiver.gets(1)

    assert log.lines == [
        {
            "event": "Webhook events were not delivered before the stop",
            "log_level": "warning",
            "app": "1001",
            "webhook": f"http://127.0.0.1:{receiver.port}",
            "lost": 3,
        }
    ]
    assert "webhook" not in [task.get_name() for task in asyncio.all_tasks()]


async def test_the_end_begins_with_the_hurry_and_departures_are_told_at_once(
    receiver: Receiver,
) -> None:
    app = app_with(receiver.webhook(), webhook_batch_seconds=10 * PATIENCE)
    async with running() as webhooks:
        webhooks.channel_vacated(app, "a")
        webhooks.hurry()
        webhooks.channel_vacated(app, "b")
        assert await receiver.hears(2) == [vacated("a"), vacated("b")]

        other = replace(app, id="1002")
        webhooks.channel_occupied(other, "c")
        webhooks.channel_vacated(other, "c")
        assert (await receiver.hears(4))[2:] == [occupied("c"), vacated("c")]


async def test_the_time_of_the_end_is_counted_from_the_hurry(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What closing connections took of it is not there any more."""
    receiver.gate.clear()
    app = app_with(receiver.webhook())
    loop = asyncio.get_running_loop()
    real_time = loop.time
    with logged() as log:
        limits = replace(LONG_HOLD, timeout_seconds=100 * PATIENCE)
        async with running(limits, 10 * PATIENCE) as webhooks:
            webhooks.channel_occupied(app, "room")
            await receiver.gets(1)
            webhooks.hurry()
            monkeypatch.setattr(loop, "time", lambda: real_time() + 10 * PATIENCE)

    assert [line["lost"] for line in log.lines] == [1]


async def test_the_end_does_not_hammer_an_endpoint_that_fails(receiver: Receiver) -> None:
    receiver.answer = lambda request: web.Response(status=503, headers={"Retry-After": "200"})
    app = app_with(receiver.webhook())
    async with running(drain_seconds=0.2) as webhooks:
        webhooks.channel_occupied(app, "room")
        await receiver.gets(1)

    assert len(receiver.requests) <= 2


async def test_the_end_comes_also_when_the_server_fails(receiver: Receiver) -> None:
    app = app_with(receiver.webhook())

    async def serve_and_fail() -> None:
        async with running() as webhooks:
            webhooks.channel_occupied(app, "room")
            raise OSError("the port is taken")

    with pytest.raises(OSError, match="the port is taken"):
        await serve_and_fail()

    assert receiver.events == [occupied("room")]


async def test_nothing_is_sent_before_the_beginning_and_after_the_end(receiver: Receiver) -> None:
    webhooks = Webhooks(limits=LONG_HOLD)
    app = app_with(receiver.webhook())
    webhooks.channel_occupied(app, "before")
    async with webhooks.running(PATIENCE):
        webhooks.channel_occupied(app, "during")
    webhooks.channel_occupied(app, "after")

    async with webhooks.running(PATIENCE):
        webhooks.channel_occupied(app, "again")

    assert receiver.events == [occupied("during"), occupied("again")]
