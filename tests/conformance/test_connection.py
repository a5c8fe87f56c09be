"""Transport, connection URL, hello and close codes."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable

import pytest

from tests.conformance.wire import QUERY, PusherApp, compact, frame, fresh, pong, subscribed


async def test_the_first_frame_is_the_hello(app: PusherApp) -> None:
    """
    Its data is a string, the id is what server libraries insist on, the timeout is a whole number.

    Swift and Pysher never connect when `data` is an object; pusher-js hangs up on a timeout of 0.
    Hosted Pusher and sockudo say 120 seconds, Reverb and Soketi 30.
    """
    async with app.connect() as client:
        text = await client.receive()
        details = json.loads(json.loads(text)["data"])
        assert text == frame("pusher:connection_established", data=compact(details))
        assert details.keys() == {"socket_id", "activity_timeout"}
        assert re.fullmatch(r"[0-9]+\.[0-9]+", details["socket_id"], re.ASCII)
        assert type(details["activity_timeout"]) is int
        assert details["activity_timeout"] > 0


async def test_every_connection_has_its_own_socket_id(app: PusherApp) -> None:
    async with app.connected() as one, app.connected() as two, app.connected() as three:
        assert len({one.socket_id, two.socket_id, three.socket_id}) == 3


@pytest.mark.parametrize(
    "query",
    [
        "protocol=5&client=java-client&version=2.4.4",
        "protocol=6&client=Pysher&version=1.0.8",
        "protocol=7&client=js&version=8.6.0&flash=false",
        "version=8.6.0&client=js&protocol=7&app-specific=%20%26",
        "",
    ],
)
async def test_protocols_5_to_7_and_none_at_all_are_welcome(app: PusherApp, query: str) -> None:
    """Reverb, Soketi and sockudo look at no version; poxa takes 5 to 7."""
    async with app.connect(query=query) as client:
        await client.receive_hello()
        await client.received_nothing()


@pytest.mark.needs("protocol_check")
@pytest.mark.parametrize("protocol", ["4", "8", "seven"])
async def test_another_protocol_is_refused_with_4007(app: PusherApp, protocol: str) -> None:
    """Documented by Pusher; Reverb, Soketi and sockudo take any number."""
    async with app.connect(query=f"protocol={protocol}&client=js&version=8.6.0") as client:
        await client.receive_fatal_error(4007)


async def test_a_client_that_offers_a_subprotocol_gets_in(app: PusherApp) -> None:
    """Swift offers one; choosing none and choosing it are both fine with it."""
    async with app.connect(subprotocols=("pusher-channels-protocol-7",)) as client:
        await client.receive_hello()
        assert client.websocket.subprotocol in (None, "pusher-channels-protocol-7")
        await client.received_nothing()


async def test_a_client_that_offers_compression_gets_in(app: PusherApp) -> None:
    """Browsers and Dart always offer it. Reverb and, by default, sockudo decline."""
    async with app.connect(compression="deflate") as client:
        await client.receive_hello()
        await client.received_nothing()


async def test_what_is_sent_before_the_hello_arrives_is_answered_after_it(app: PusherApp) -> None:
    """Pysher pings the moment the connection opens."""
    channel = fresh("orders-")
    async with app.connect() as client:
        await client.send('{"event":"pusher:ping","data":""}')
        await client.ask_for(channel)
        await client.receive_hello()
        assert await client.receive() == pong()
        assert await client.receive() == subscribed(channel)


async def test_an_unknown_app_key_is_refused_with_4001(app: PusherApp) -> None:
    """
    Told in a message and in the close frame, since some clients read only the one or the other.

    Reverb sends the message and drops the line, on which Swift comes back for ever; sockudo drops
    it without a word; Soketi does both.
    """
    async with app.connect(f"/app/{fresh('no-such-key-')}") as client:
        await client.receive_fatal_error(4001)


@pytest.mark.parametrize("path", ["/app", "/app/", "/apps/{key}", "/app/{key}/more", "/"])
async def test_a_wrong_path_is_refused_with_4005(app: PusherApp, path: str) -> None:
    """Reverb, Soketi and sockudo answer HTTP 404 instead of opening the WebSocket."""
    async with app.connect(path.format(key=app.key)) as client:
        error = json.loads(await client.receive())
        assert error["event"] == "pusher:error"
        # An empty key is as good a description of `/app/` as a path that leads nowhere.
        assert error["data"]["code"] in ((4001, 4005) if path == "/app/" else (4005,))
        assert (await client.closed())[0] == error["data"]["code"]


async def test_the_server_can_be_reached_under_a_path_prefix(
    app: PusherApp, path_prefix: str
) -> None:
    """The prefix is Reverb's REVERB_SERVER_PATH and pusher-js' wsPath."""
    async with app.connect(f"{path_prefix}/app/{app.key}", QUERY) as client:
        await client.receive_hello()
        await client.received_nothing()


async def test_a_client_that_closes_is_answered_with_its_code(app: PusherApp) -> None:
    async with app.connected() as client:
        await client.websocket.close(1000, "done")
        assert await client.closed() == (1000, "done")


async def test_a_binary_frame_ends_the_connection_with_1003(app: PusherApp) -> None:
    """The protocol has text frames only; it leaves open what happens to others."""
    async with app.connected() as client:
        await client.send(b'{"event":"pusher:ping","data":{}}')
        assert (await client.closed())[0] == 1003


async def test_a_shutdown_tells_every_client_to_come_back_at_once(
    app: PusherApp, stop_server: Callable[[], Awaitable[None]]
) -> None:
    """
    Code 4200, also where nothing is subscribed: Reverb drops the line, and skips those.

    Soketi and sockudo close with 4200, and all at the same moment.
    """
    async with app.connected() as idle, app.connected() as listening:
        await listening.subscribe(fresh("orders-"))
        await stop_server()
        await idle.receive_fatal_error(4200)
        await listening.receive_fatal_error(4200)
