"""Apps that change while the server runs: who stays, under which limits, and who is sent away."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reverb_py.core.apps import App
from reverb_py.protocol import signing
from reverb_py.testing import PusherClient, serving
from tests.reverb_py.server.raw_client import (
    CONTINUATION,
    SWITCHING_PROTOCOLS,
    TEXT,
    connected_socket,
    frame,
    handshake,
    serves,
    stop_time,
    text,
    websocket,
)
from tests.support.sessions import APP

OTHER = App(id="1002", key="other-key", secret="other-secret")
MADE = '{"event":"made","channel":"orders","data":"1"}'


async def is_sent_away(client: PusherClient, code: int, message: str) -> None:
    """See that a client is told, in a message and in a close frame, and that this is the end."""
    assert await client.receive() == (
        f'{{"event":"pusher:error","data":{{"code":{code},"message":"{message}"}}}}'
    )
    assert await client.closed() == (code, message)


async def test_connections_of_an_app_that_stays_are_kept_with_their_channels() -> None:
    async with serving(APP) as server, server.connected() as client:
        await client.subscribe("orders")

        server.reload(replace(APP, activity_timeout=99))

        await server.publish("made", "orders", "1")
        assert await client.receive() == MADE
        await client.ping()
        async with server.connect() as newcomer:
            assert (await newcomer.receive()).endswith('\\"activity_timeout\\":99}"}')


async def test_new_limits_hold_for_connections_that_stay() -> None:
    async with serving(APP) as server, server.connected() as client:
        stop_time(server)
        await client.subscribe("private-room")
        await client.send('{"event":"client-x","channel":"private-room"}')

        server.reload(
            replace(
                APP,
                max_connections=1,
                max_channels_per_connection=1,
                client_events_per_second=1,
                max_event_data_bytes=2,
            )
        )

        await client.send('{"event":"pusher:subscribe","data":{"channel":"orders"}}')
        assert "A connection may subscribe to 1 channels at most" in await client.receive()
        assert '"code":4300' in await client.receive()
        for _ in range(2):
            await client.send('{"event":"client-x","channel":"private-room"}')
        assert await client.receive() == (
            '{"event":"pusher:error","data":{"code":4301,'
            '"message":"Client event refused: more than 1 in a second"}}'
        )
        event = {"name": "made", "channels": ["orders"], "data": "123"}
        assert await server.request("POST", "/events", event) == (
            413,
            "`data` has 3 bytes; an event carries at most 2",
        )
        async with server.connect() as newcomer:
            await is_sent_away(newcomer, 4004, "Application is over its connection quota")


async def test_a_new_message_size_holds_for_connections_that_stay() -> None:
    message = '{"event":"pusher:ping","data":"' + "x" * 500 + '"}'
    async with serving(APP) as server, server.connected() as client:
        server.reload(replace(APP, max_message_bytes=len(message)))
        await client.send(message)
        assert await client.receive() == '{"event":"pusher:pong","data":"{}"}'

        server.reload(replace(APP, max_message_bytes=len(message) - 1))
        await client.send(message)
        code, _ = await client.closed()
        assert code == 1009


@pytest.mark.parametrize("way", ["in the middle of a frame", "between two fragments"])
async def test_a_message_that_began_under_the_old_size_leaves_nothing_of_it(way: str) -> None:
    ping = '{"event":"pusher:ping"}'
    long = text('{"event":"pusher:ping","data":"' + "x" * 500 + '"}')
    if way == "in the middle of a frame":
        whole = text(ping)
        parts = [whole[:10], whole[10:]]
    else:
        parts = [
            frame(TEXT, ping[:10].encode(), final=False),
            frame(CONTINUATION, ping[10:].encode()),
        ]
    async with serving(APP) as server, websocket(server) as client:
        # The second piece goes out when the server has read the first.
        await client.send_apart(parts[0])
        await serves(server)
        server.reload(replace(APP, max_message_bytes=300))
        await client.send(parts[1])
        assert await client.receive_text() == b'{"event":"pusher:pong","data":"{}"}'

        async with websocket(server) as other:
            await other.send(long)
            code, _ = await other.receive_close()
            assert code == 1009
        await client.send(long)
        code, _ = await client.receive_close()
        assert code == 1009


async def test_connections_of_an_app_that_is_removed_are_sent_away_for_good() -> None:
    async with (
        serving(APP, OTHER) as server,
        server.connected() as client,
        server.connect(path=f"/app/{OTHER.key}") as other,
    ):
        await other.receive_hello()

        server.reload(OTHER)

        await is_sent_away(client, 4001, "Application does not exist any more")
        async with server.connect(path=f"/app/{APP.key}") as late:
            await is_sent_away(late, 4001, "Application does not exist: check the app key")
        await other.ping()
        assert await server.request("GET", "/connections") == (200, '{"connections":1}')
        await serves(server)


async def test_connections_of_an_app_that_is_disabled_are_sent_away_until_it_is_enabled() -> None:
    async with serving(APP) as server, server.connected() as client:
        await client.subscribe("orders")

        server.reload(replace(APP, enabled=False))

        await is_sent_away(client, 4003, "Application is disabled")
        async with server.connect() as late:
            await is_sent_away(late, 4003, "Application is disabled")
        assert await server.request("GET", "/channels") == (403, "The application is disabled")

        server.reload(APP)
        assert await server.request("GET", "/channels") == (200, '{"channels":{}}')
        await serves(server)


async def test_an_app_that_is_added_is_served() -> None:
    async with serving(APP) as server, server.connected() as client:
        server.reload(OTHER, APP)

        await serves(server)
        await client.ping()


async def test_after_a_change_of_key_connections_stay_and_the_old_key_is_unknown() -> None:
    async with serving(APP) as server, server.connected() as client:
        await client.subscribe("orders")

        server.reload(replace(APP, key="new-key"))

        async with server.connect(path=f"/app/{APP.key}") as late:
            await is_sent_away(late, 4001, "Application does not exist: check the app key")
        await server.publish("made", "orders", "1")
        assert await client.receive() == MADE
        await serves(server)


async def test_a_previous_secret_is_accepted_until_it_is_taken_away() -> None:
    rotated = replace(APP, secret="new-secret", previous_secrets=(APP.secret,))
    async with serving(APP) as server, server.connected() as client:
        server.reload(rotated)
        # Clients and backends that have not changed over yet sign with the old secret.
        await client.subscribe("private-a")
        await client.sign_in('{"id":"7"}')
        server.app = APP
        assert (await server.request("GET", "/channels"))[0] == 200
        server.app = rotated
        assert (await server.request("GET", "/channels"))[0] == 200

        last = replace(rotated, previous_secrets=())
        server.reload(last)
        await client.ping()
        server.app = APP
        assert (await server.request("GET", "/channels"))[0] == 401
        server.app = last
        assert (await server.request("GET", "/channels"))[0] == 200
        auth = signing.channel_auth(APP.key, APP.secret, client.socket_id, "private-b")
        await client.send(
            f'{{"event":"pusher:subscribe","data":{{"channel":"private-b","auth":"{auth}"}}}}'
        )
        assert "Invalid auth for private-b" in await client.receive()


async def test_new_origins_hold_for_new_connections() -> None:
    async with serving(APP) as server, connected_socket(server) as page:
        await page.send(handshake(Origin="https://evil.example"))
        assert await page.receive_head() == SWITCHING_PROTOCOLS
        await page.receive_hello()

        server.reload(replace(APP, allowed_origins=("shop.example.com",)))

        await page.is_answered()
        async with connected_socket(server) as late:
            await late.send(handshake(Origin="https://evil.example"))
            assert await late.receive_head() == SWITCHING_PROTOCOLS
            await late.receive_fatal_error(4009, "Origin not allowed")


async def test_a_deadline_to_sign_in_holds_for_those_who_come_after() -> None:
    async with serving(APP, timer_resolution=0.02) as server, server.connected() as before:
        server.reload(replace(APP, authorization_seconds=0.1))

        async with server.connected() as late, server.connected() as user:
            await user.sign_in('{"id":"7"}')
            await is_sent_away(late, 4009, "Sign in or join a private or presence channel in time")
            await user.ping()
            await before.ping()
