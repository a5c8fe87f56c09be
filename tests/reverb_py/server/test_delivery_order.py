"""What each subscriber receives while many publish at once: everything, once, in order."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from reverb_py.core.apps import App, ClientEventsFrom, RateLimit
from reverb_py.protocol.signing import channel_auth
from reverb_py.testing import PATIENCE, PusherClient, TestServer, serving
from tests.reverb_py.server.raw_client import (
    BINARY,
    error_json,
    frame,
    text,
    websocket,
)

APP = App(
    id="1001",
    key="278d425bdf160c739803",
    secret="7ad3773142a6692b25b8",
    client_events_from=ClientEventsFrom.ALL,
    client_events_per_second=0,
)
PUBLISHERS = 5
ROUNDS = 20


async def receive_all(client: PusherClient, count: int) -> list[str]:
    """Take so many messages and see that no more come."""
    messages = [await client.receive() for _ in range(count)]
    await client.ping()
    return messages


def event(name: str, channel: str, data: str) -> str:
    """Return an event as it is on the wire."""
    return f'{{"event":"{name}","channel":"{channel}","data":"{data}"}}'


async def publish_rounds(server: TestServer, publisher: int) -> None:
    """Publish to one channel, to both, and as a batch, again and again."""
    for number in range(ROUNDS):
        await server.publish(f"one-{publisher}", "a", str(number))
        both = {"name": f"two-{publisher}", "channels": ["a", "b"], "data": str(number)}
        assert await server.request("POST", "/events", both) == (200, "{}")
        batch = [
            {"name": f"three-{publisher}", "channel": channel, "data": f"{number}.{place}"}
            for place, channel in enumerate("abab")
        ]
        assert await server.request("POST", "/batch_events", {"batch": batch}) == (200, "{}")


def rounds_of(publisher: int, channels: str) -> list[str]:
    """Return what one publisher's rounds are for a subscriber of these channels."""
    expected = []
    for number in range(ROUNDS):
        expected.append(("a", event(f"one-{publisher}", "a", str(number))))
        expected += [(c, event(f"two-{publisher}", c, str(number))) for c in "ab"]
        expected += [
            (channel, event(f"three-{publisher}", channel, f"{number}.{place}"))
            for place, channel in enumerate("abab")
        ]
    return [message for channel, message in expected if channel in channels]


def of_publisher(messages: Sequence[str], publisher: int) -> list[str]:
    """Return the messages that one publisher sent."""
    return [message for message in messages if f'-{publisher}","channel"' in message]


async def test_many_publishers_reach_every_subscriber_in_their_order(server: TestServer) -> None:
    async with (
        server.connected() as of_a,
        server.connected() as of_b,
        server.connected() as of_both,
        server.connected() as of_both_too,
    ):
        await of_a.subscribe("a")
        await of_b.subscribe("b")
        for client in (of_both, of_both_too):
            await client.subscribe("b")
            await client.subscribe("a")
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as publishers:
            for number in range(PUBLISHERS):
                publishers.create_task(publish_rounds(server, number))
        received_a = await receive_all(of_a, PUBLISHERS * ROUNDS * 4)
        received_b = await receive_all(of_b, PUBLISHERS * ROUNDS * 3)
        received_both = await receive_all(of_both, PUBLISHERS * ROUNDS * 7)
        assert await receive_all(of_both_too, PUBLISHERS * ROUNDS * 7) == received_both
        assert received_a == [m for m in received_both if '"channel":"a"' in m]
        assert received_b == [m for m in received_both if '"channel":"b"' in m]
        for number in range(PUBLISHERS):
            assert of_publisher(received_both, number) == rounds_of(number, "ab")


async def test_replies_keep_their_place_among_events() -> None:
    """
    One segment holds everything, so that the server does it all in one turn of its loop.

    The sender excludes itself; what it subscribes to and pings keeps its place for the sender, and
    its events keep theirs for the other.
    """
    ping = text('{"event":"pusher:ping"}')

    def subscribe_to(channel: str) -> bytes:
        return text({"event": "pusher:subscribe", "data": {"channel": channel}})

    def send_to(number: int) -> bytes:
        return text({"event": "client-sent", "channel": "private-a", "data": number})

    async with (
        serving(APP) as server,
        server.connected() as other,
        websocket(server) as sender,
    ):
        await other.subscribe("private-a")
        await sender.send(
            send_to(1)
            + ping
            + subscribe_to("orders")
            + send_to(2)
            + ping
            + subscribe_to("orders")
            + send_to(3)
        )
        pong = b'{"event":"pusher:pong","data":"{}"}'
        joined = (
            b'{"event":"pusher_internal:subscription_succeeded","channel":"orders","data":"{}"}'
        )
        assert [await sender.receive_text() for _ in range(4)] == [pong, joined, pong, joined]
        await sender.is_answered()
        assert await receive_all(other, 3) == [
            '{"event":"client-sent","channel":"private-a","data":1}',
            '{"event":"client-sent","channel":"private-a","data":2}',
            '{"event":"client-sent","channel":"private-a","data":3}',
        ]


async def test_what_was_on_its_way_to_a_client_comes_before_its_close_frame() -> None:
    """The client event makes the channel busy, so that the pong behind it has to wait its turn."""
    async with (
        serving(APP) as server,
        server.connected() as other,
        websocket(server) as sender,
    ):
        await other.subscribe("private-a")
        auth = channel_auth(APP.key, APP.secret, sender.socket_id, "private-a")
        await sender.send(
            text({"event": "pusher:subscribe", "data": {"channel": "private-a", "auth": auth}})
            + text({"event": "client-sent", "channel": "private-a", "data": 1})
            + text('{"event":"pusher:ping"}')
            + frame(BINARY, b"{}")
        )
        assert b"subscription_succeeded" in await sender.receive_text()
        assert await sender.receive_text() == b'{"event":"pusher:pong","data":"{}"}'
        assert await sender.receive_close() == (1003, "Binary frames are not part of the protocol")
        assert await receive_all(other, 1) == [
            '{"event":"client-sent","channel":"private-a","data":1}'
        ]


async def test_a_refusal_that_ends_the_connection_comes_behind_what_was_on_its_way() -> None:
    limit = RateLimit(max_attempts=3, decay_seconds=60, terminate=True)
    message = "Rate limit exceeded: 3 messages in 60 s"
    async with (
        serving(replace(APP, rate_limit=limit)) as server,
        server.connected() as other,
        websocket(server) as sender,
    ):
        await other.subscribe("private-a")
        auth = channel_auth(APP.key, APP.secret, sender.socket_id, "private-a")
        await sender.send(
            text({"event": "pusher:subscribe", "data": {"channel": "private-a", "auth": auth}})
            + text({"event": "client-sent", "channel": "private-a", "data": 1})
            + text('{"event":"pusher:ping"}') * 2
        )
        assert b"subscription_succeeded" in await sender.receive_text()
        assert await sender.receive_text() == b'{"event":"pusher:pong","data":"{}"}'
        assert await sender.receive_text() == error_json(4301, message)
        await sender.receive_fatal_error(4100, message)


async def test_a_conversation_of_many_keeps_each_senders_order_and_leaves_out_the_sender() -> None:
    count = 40
    async with (
        serving(APP) as server,
        server.connected() as first,
        server.connected() as second,
        server.connected() as third,
    ):
        clients = {"1": first, "2": second, "3": third}
        for client in clients.values():
            await client.subscribe("private-a")
        for number in range(count):
            for name, client in clients.items():
                await client.send(
                    f'{{"event":"client-{name}","channel":"private-a","data":{number}}}'
                )
        for name, client in clients.items():
            received = await receive_all(client, 2 * count)
            for other in clients.keys() - {name}:
                assert [m for m in received if f'"client-{other}"' in m] == [
                    f'{{"event":"client-{other}","channel":"private-a","data":{number}}}'
                    for number in range(count)
                ]


async def test_who_joins_among_events_gets_only_those_behind_the_acknowledgement(
    server: TestServer,
) -> None:
    """Publishes and subscriptions race; whatever the order, none is missed and none comes early."""
    total = 60

    async def publish_all() -> None:
        for number in range(total):
            await server.publish("made", "orders", str(number))

    async def join_and_read() -> int:
        async with server.connected() as client:
            await client.subscribe("orders")
            first = await client.receive()
            start = int(first.split('"data":"')[1].removesuffix('"}'))
            for number in range(start, total):
                expected = event("made", "orders", str(number))
                assert (first if number == start else await client.receive()) == expected
            await client.ping()
            return start

    async with asyncio.timeout(PATIENCE):
        publishing = asyncio.create_task(publish_all())
        readers = []
        for _ in range(4):
            readers.append(asyncio.create_task(join_and_read()))
            await server.publish("pause", "elsewhere", "")
        await publishing
        await asyncio.gather(*readers)
