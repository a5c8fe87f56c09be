"""
What the Dart and Flutter clients say, word for word, and what they must be told.

There is no Dart here, so each client is a row of the messages it writes; they are replayed over a
WebSocket opened the way `dart:io` opens one. Among them are the cores in Java and Swift behind the
official Flutter plugin and its forks, which open theirs in their own ways.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import aiohttp
import pytest
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from chat_api.realtime.reverb import ReverbApp
from reverb_py.core.apps import App
from reverb_py.testing import PATIENCE, PusherClient, TestServer, serving
from tests.chat_api.world import chat_api, settings_for

FORM = "application/x-www-form-urlencoded; charset=utf-8"
JSON = "application/json; charset=utf-8"


@dataclass(frozen=True, kw_only=True)
class DartClient:
    """
    What one client writes.

    CHANNEL, AUTH and DATA stand for the channel, its signature and the member's JSON within JSON.
    `auth_content_type` is None where it knows public channels only. `ping` is None where it never
    sends one, or only control frames, `whispers` are the spellings of its client events, `pong`
    answers the server's ping, if the client does, and `rewritten` is what it makes of the
    `channel_data` it is given.
    """

    name: str
    query: str
    auth_content_type: str | None
    user_agent: str | None = "Dart/3.5 (dart:io)"
    compression: str | None = "deflate"
    subprotocol: str | None = None
    escapes_slashes: bool = False
    public: str = '{"event":"pusher:subscribe","data":{"channel":"CHANNEL"}}'
    private: str = '{"event":"pusher:subscribe","data":{"channel":"CHANNEL","auth":"AUTH"}}'
    presence: str = (
        '{"event":"pusher:subscribe",'
        '"data":{"channel":"CHANNEL","auth":"AUTH","channel_data":DATA}}'
    )
    unsubscribe: str = '{"event":"pusher:unsubscribe","data":{"channel":"CHANNEL"}}'
    ping: str | None = '{"event":"pusher:ping","data":{}}'
    pong: str | None = '{"event":"pusher:pong","data":{}}'
    whispers: tuple[str, ...] = ()
    rewritten: Callable[[str], str] = str

    def subscribe_message(
        self, channel: str, auth: str | None = None, channel_data: str | None = None
    ) -> str:
        """Return what it writes to subscribe with what its auth endpoint has answered."""
        message = self.public if auth is None else self.private
        if channel_data is not None:
            message = self.presence.replace("DATA", json.dumps(self.rewritten(channel_data)))
        if self.escapes_slashes:
            message = message.replace("/", "\\/")
        return message.replace("CHANNEL", channel).replace("AUTH", auth or "")

    def knows(self, channel: str) -> bool:
        """Tell whether it can subscribe to channels of this kind."""
        is_public = not channel.startswith(("private-", "presence-"))
        return is_public or self.auth_content_type is not None


def decoded_and_encoded_again(channel_data: str) -> str:
    member = json.loads(channel_data)
    kept = {"user_id": member["user_id"], "user_info": member["user_info"]}
    return json.dumps(kept, separators=(",", ":"), ensure_ascii=False)


CLIENTS = (
    DartClient(
        name="dart_pusher_channels",
        query="?client=dart&version=1.2.2&protocol=7",
        auth_content_type=FORM,
        # Since 1.2 data goes out as it is; before, as a string of JSON.
        whispers=(
            '{"event":"client-typing","channel":"CHANNEL","data":{"who":"Ürümqi"}}',
            '{"event":"client-typing","channel":"CHANNEL","data":"{\\"who\\":\\"Ürümqi\\"}"}',
        ),
    ),
    DartClient(
        name="pusher_client_socket",
        query="?client=pusher-client-socket-dart&protocol=7&version=0.0.2&flash=false",
        auth_content_type=FORM,
        private=(
            '{"event":"pusher:subscribe",'
            '"data":{"channel":"CHANNEL","auth":"AUTH","channel_data":null}}'
        ),
        ping='{"event":"pusher:ping","data":null}',
        whispers=(
            '{"event":"client-typing","data":{"who":"Ürümqi"},"channel":"CHANNEL"}',
            '{"event":"client-typing","data":null,"channel":"CHANNEL"}',
        ),
        rewritten=decoded_and_encoded_again,
    ),
    DartClient(
        name="pusher_reverb_flutter",
        query="",
        auth_content_type=JSON,
        ping=None,
        # It echoes the ping's data without decoding it, and never gets to whisper.
        pong='{"event":"pusher:pong","data":"{}"}',
    ),
    DartClient(
        name="laravel_reverb",
        query="?protocol=7&client=flutter&version=0.3.0",
        auth_content_type=JSON,
        whispers=('{"event":"client-typing","channel":"CHANNEL","data":{"who":"Ürümqi"}}',),
    ),
    DartClient(
        name="pusher_channels",
        query="?client=pusher.dart&version=0.6.0&protocol=6",
        auth_content_type=None,
        # Sent as soon as the socket is open, and then once a minute.
        ping='{"event":"pusher:ping","data":{"data":""}}',
        pong=None,
    ),
    DartClient(
        name="pusher-websocket-java",
        query="?client=java-client&protocol=5&version=2.4.0",
        auth_content_type=FORM,
        user_agent=None,
        compression=None,
        private='{"event":"pusher:subscribe","data":{"auth":"AUTH","channel":"CHANNEL"}}',
        presence=(
            '{"event":"pusher:subscribe",'
            '"data":{"auth":"AUTH","channel_data":DATA,"channel":"CHANNEL"}}'
        ),
        ping='{"event": "pusher:ping"}',
        pong=None,
        whispers=(
            '{"event":"client-typing","channel":"CHANNEL","data":"{\\"who\\":\\"Ürümqi\\"}"}',
            '{"event":"client-typing","channel":"CHANNEL","data":"not JSON"}',
        ),
    ),
    DartClient(
        name="pusher-websocket-swift",
        query="?client=pusher-websocket-swift&version=10.1.10&protocol=7",
        auth_content_type=FORM,
        user_agent=None,
        compression=None,
        subprotocol="pusher-channels-protocol-7",
        escapes_slashes=True,
        public='{"data":{"channel":"CHANNEL"},"event":"pusher:subscribe"}',
        private='{"data":{"auth":"AUTH","channel":"CHANNEL"},"event":"pusher:subscribe"}',
        presence=(
            '{"data":{"channel_data":DATA,"auth":"AUTH","channel":"CHANNEL"},'
            '"event":"pusher:subscribe"}'
        ),
        unsubscribe='{"data":{"channel":"CHANNEL"},"event":"pusher:unsubscribe"}',
        ping=None,
        pong=None,
        whispers=(
            '{"data":"{\\"who\\":\\"Ürümqi\\"}","channel":"CHANNEL","event":"client-typing"}',
            '{"data":{"who":"Ürümqi"},"channel":"CHANNEL","event":"client-typing"}',
        ),
    ),
)

each_client = pytest.mark.parametrize("dart", CLIENTS, ids=lambda dart: dart.name)


def each_client_on(*channels: str) -> pytest.MarkDecorator:
    """Have a test run for each client with each of these channels that it knows."""
    return pytest.mark.parametrize(
        ("dart", "channel"),
        [
            pytest.param(dart, channel, id=f"{dart.name}-{channel}")
            for dart in CLIENTS
            for channel in channels
            if dart.knows(channel)
        ],
    )


def those(clients: Callable[[DartClient], object]) -> pytest.MarkDecorator:
    """Have a test run for each client of which this is true."""
    chosen = [dart for dart in CLIENTS if clients(dart)]
    return pytest.mark.parametrize("dart", chosen, ids=lambda dart: dart.name)


def succeeded(channel: str, data: str = "{}") -> str:
    return (
        f'{{"event":"pusher_internal:subscription_succeeded","channel":"{channel}",'
        f'"data":{json.dumps(data, ensure_ascii=False)}}}'
    )


PONG = '{"event":"pusher:pong","data":"{}"}'


@asynccontextmanager
async def opened(
    dart: DartClient, server: TestServer, key: str | None = None
) -> AsyncIterator[PusherClient]:
    """Open a WebSocket as the client does; `dart:io` offers compression on every connect."""
    url = f"ws://127.0.0.1:{server.port}/app/{key or server.app.key}{dart.query}"
    async with connect(
        url,
        compression=dart.compression,
        ping_interval=None,
        subprotocols=[Subprotocol(dart.subprotocol)] if dart.subprotocol else None,
        user_agent_header=dart.user_agent,
    ) as websocket:
        assert websocket.protocol.extensions == []
        assert websocket.subprotocol is None
        yield PusherClient(server.app, websocket)


@asynccontextmanager
async def connected(dart: DartClient, server: TestServer) -> AsyncIterator[PusherClient]:
    async with opened(dart, server) as client:
        await client.receive_hello()
        yield client


async def subscribe(dart: DartClient, client: PusherClient, channel: str) -> None:
    """Subscribe to a channel that has no members, and take the success."""
    auth = client.auth_for(channel) if channel.startswith("private-") else None
    await client.send(dart.subscribe_message(channel, auth))
    assert await client.receive() == succeeded(channel)


@pytest.fixture
async def server() -> AsyncIterator[TestServer]:
    async with serving() as running:
        yield running


@each_client
async def test_the_hello_has_a_string_with_a_string_and_a_whole_number(
    dart: DartClient, server: TestServer
) -> None:
    async with opened(dart, server) as client:
        hello = await client.receive()

        data = json.loads(hello)["data"]
        socket_id = json.loads(data)["socket_id"]
        assert data == f'{{"socket_id":"{socket_id}","activity_timeout":30}}'
        assert hello == (f'{{"event":"pusher:connection_established","data":{json.dumps(data)}}}')


@those(lambda dart: dart.ping)
async def test_its_ping_is_answered(dart: DartClient, server: TestServer) -> None:
    async with connected(dart, server) as client:
        await client.send(dart.ping)

        assert await client.receive() == PONG


@those(lambda dart: dart.ping is None)
async def test_its_control_ping_is_answered(dart: DartClient, server: TestServer) -> None:
    async with connected(dart, server) as client:
        async with asyncio.timeout(PATIENCE):
            await (await client.websocket.ping(b"7"))

        await client.ping()


@those(lambda dart: dart.pong is None)
async def test_who_answers_control_pings_alone_stays(dart: DartClient) -> None:
    app = App(
        id="1", key="key", secret="0123456789abcdef", ping_interval=0.1, pong_timeout=PATIENCE / 10
    )
    async with serving(app, timer_resolution=0.05) as server, connected(dart, server) as client:
        # The second comes only after an answer to the control frame behind the first.
        for _ in range(2):
            assert await client.receive() == '{"event":"pusher:ping","data":"{}"}'


@those(lambda dart: dart.pong)
async def test_its_pong_is_taken(dart: DartClient) -> None:
    app = App(id="1", key="key", secret="0123456789abcdef", ping_interval=0.1)
    async with serving(app, timer_resolution=0.05) as server, connected(dart, server) as client:
        assert await client.receive() == '{"event":"pusher:ping","data":"{}"}'

        await client.send(dart.pong)

        # An objection would come before the answer.
        await client.ping()


@each_client_on("orders", "private-orders", "private-encrypted-orders")
async def test_it_subscribes_receives_and_unsubscribes(
    dart: DartClient, channel: str, server: TestServer
) -> None:
    async with connected(dart, server) as client:
        await subscribe(dart, client, channel)

        await server.publish("App\\Events\\Shipped", channel, '{"to":"Ürümqi"}')
        assert await client.receive() == (
            f'{{"event":"App\\\\Events\\\\Shipped","channel":"{channel}",'
            '"data":"{\\"to\\":\\"Ürümqi\\"}"}'
        )

        await client.send(dart.unsubscribe.replace("CHANNEL", channel))
        await client.ping()
        assert await server.request("GET", "/channels") == (200, '{"channels":{}}')


@each_client_on("cache-prices", "private-cache-prices", "private-encrypted-cache-prices")
async def test_a_cache_channel_says_what_it_has_right_after_the_success(
    dart: DartClient, channel: str, server: TestServer
) -> None:
    async with connected(dart, server) as first, connected(dart, server) as second:
        await subscribe(dart, first, channel)
        assert await first.receive() == (f'{{"event":"pusher:cache_miss","channel":"{channel}"}}')
        await server.publish("price", channel, '{"eur":7}')

        await subscribe(dart, second, channel)
        price = f'{{"event":"price","channel":"{channel}","data":"{{\\"eur\\":7}}"}}'
        assert await second.receive() == price
        assert await first.receive() == price


@those(lambda dart: dart.knows("presence-room"))
async def test_presence_lists_everybody_with_the_one_who_joins(
    dart: DartClient, server: TestServer
) -> None:
    room = "presence-room"
    member = '{"user_id":"7","user_info":{"name":"Ürümqi","avatar":"https://a.example/7.png"}}'
    async with connected(dart, server) as client, server.connected() as other:
        await other.subscribe(room, '{"user_id":9}')
        auth = client.auth_for(room, member)

        await client.send(dart.subscribe_message(room, auth, member))

        info = '{"name":"Ürümqi","avatar":"https://a.example/7.png"}'
        assert await client.receive() == succeeded(
            room, f'{{"presence":{{"count":2,"ids":["9","7"],"hash":{{"9":null,"7":{info}}}}}}}'
        )
        data = json.dumps(member, ensure_ascii=False)
        assert await other.receive() == (
            f'{{"event":"pusher_internal:member_added","channel":"{room}","data":{data}}}'
        )
        await other.send({"event": "pusher:unsubscribe", "data": {"channel": room}})
        assert await client.receive() == (
            f'{{"event":"pusher_internal:member_removed","channel":"{room}",'
            '"data":"{\\"user_id\\":\\"9\\"}"}'
        )


@those(lambda dart: dart.knows("presence-cache-room"))
async def test_a_presence_cache_channel_has_members_and_a_last_event(
    dart: DartClient, server: TestServer
) -> None:
    room = "presence-cache-room"
    member = '{"user_id":"7","user_info":{"name":"Ürümqi"}}'
    await server.publish("topic", room, "tea")
    async with connected(dart, server) as client:
        await client.send(dart.subscribe_message(room, client.auth_for(room, member), member))

        assert await client.receive() == succeeded(
            room, '{"presence":{"count":1,"ids":["7"],"hash":{"7":{"name":"Ürümqi"}}}}'
        )
        assert await client.receive() == f'{{"event":"topic","channel":"{room}","data":"tea"}}'


@pytest.mark.parametrize(
    ("dart", "whisper"),
    [
        pytest.param(dart, whisper, id=f"{dart.name}-{number}")
        for dart in CLIENTS
        for number, whisper in enumerate(dart.whispers)
    ],
)
async def test_its_whispers_arrive_with_their_data_as_written(
    dart: DartClient, whisper: str, server: TestServer
) -> None:
    data = json.dumps(json.loads(whisper)["data"], ensure_ascii=False, separators=(",", ":"))
    async with connected(dart, server) as client, connected(dart, server) as other:
        await subscribe(dart, client, "private-orders")
        await subscribe(dart, other, "private-orders")
        await client.send(whisper.replace("CHANNEL", "private-orders"))
        assert await other.receive() == (
            f'{{"event":"client-typing","channel":"private-orders","data":{data}}}'
        )

        room, member = "presence-room", '{"user_id":"7","user_info":{}}'
        await other.subscribe(room, '{"user_id":"9"}')
        await client.send(dart.subscribe_message(room, client.auth_for(room, member), member))
        assert "pusher_internal:member_added" in await other.receive()
        await client.send(whisper.replace("CHANNEL", room))
        assert await other.receive() == (
            f'{{"event":"client-typing","channel":"{room}","data":{data},"user_id":"7"}}'
        )


@each_client_on(
    *("private-orders", "private-encrypted-orders", "presence-orders"),
    *("private-cache-orders", "private-encrypted-cache-orders", "presence-cache-orders"),
)
async def test_a_refused_subscription_has_no_code_on_which_it_would_hang_up(
    dart: DartClient, channel: str, server: TestServer
) -> None:
    member = '{"user_id":"7","user_info":{}}' if channel.startswith("presence-") else None
    async with connected(dart, server) as client:
        auth = client.auth_for("another-channel", member)
        await client.send(dart.subscribe_message(channel, auth, member))
        await receive_refusal(client, channel, ":CHANNEL_DATA" if member else "")

        await client.send(dart.subscribe_message(channel, client.auth_for(channel, member), member))
        acknowledgement = json.loads(await client.receive())
        assert acknowledgement["event"] == "pusher_internal:subscription_succeeded"


@those(lambda dart: not dart.knows("private-orders"))
@pytest.mark.parametrize("channel", ["private-orders", "private-encrypted-orders"])
async def test_who_cannot_sign_is_refused_without_a_code_on_which_it_would_hang_up(
    dart: DartClient, channel: str, server: TestServer
) -> None:
    async with connected(dart, server) as client:
        await client.send(dart.subscribe_message(channel))
        await receive_refusal(client, channel, "")

        await subscribe(dart, client, "orders")


async def receive_refusal(client: PusherClient, channel: str, behind: str) -> None:
    """Take both messages that say how the signature should have been made."""
    message = (
        f"Invalid auth for {channel}: expected APP_KEY:SIGNATURE, where SIGNATURE is the hex "
        f"HMAC-SHA256 of {client.socket_id}:{channel}{behind} under the app's secret"
    )
    details = json.dumps(
        json.dumps({"type": "AuthError", "error": message, "status": 401}, separators=(",", ":"))
    )
    assert await client.receive() == (
        f'{{"event":"pusher:subscription_error","channel":"{channel}","data":{details}}}'
    )
    assert await client.receive() == (
        f'{{"event":"pusher:error","data":{{"code":4300,"message":"{message}"}}}}'
    )


@each_client
async def test_an_unknown_key_is_told_before_it_is_closed(
    dart: DartClient, server: TestServer
) -> None:
    async with opened(dart, server, key="no-such-key") as client:
        message = "Application does not exist: check the app key"
        assert await client.receive() == (
            f'{{"event":"pusher:error","data":{{"code":4001,"message":"{message}"}}}}'
        )
        assert await client.closed() == (4001, message)


@each_client
async def test_it_comes_back_under_a_new_socket_id_and_is_authorized_anew(
    dart: DartClient,
) -> None:
    member = '{"user_id":"7","user_info":{}}'
    signed = {"private-orders": None, "presence-room": member}
    signed = {channel: data for channel, data in signed.items() if dart.knows(channel)}
    async with AsyncExitStack() as stack:
        async with serving() as server:
            client = await stack.enter_async_context(connected(dart, server))
            await subscribe(dart, client, "orders")
            for channel, data in signed.items():
                await client.subscribe(channel, data)
        message = "Server is shutting down: reconnect"
        assert await client.receive() == (
            f'{{"event":"pusher:error","data":{{"code":4200,"message":"{message}"}}}}'
        )
        assert await client.closed() == (4200, message)
        async with serving(port=server.port) as restarted, connected(dart, restarted) as returned:
            assert returned.socket_id != client.socket_id
            for channel, data in signed.items():
                old = client.auth_for(channel, data)
                await returned.send(dart.subscribe_message(channel, old, data))
                refused = json.loads(await returned.receive())
                assert refused["event"] == "pusher:subscription_error"
                assert json.loads(await returned.receive())["data"]["code"] == 4300

            await subscribe(dart, returned, "orders")
            for channel, data in signed.items():
                auth = returned.auth_for(channel, data)
                await returned.send(dart.subscribe_message(channel, auth, data))
                members = '{"presence":{"count":1,"ids":["7"],"hash":{"7":{}}}}'
                assert await returned.receive() == succeeded(channel, members if data else "{}")
            for channel in ("orders", *signed):
                await restarted.publish("shipped", channel, "7")
                assert await returned.receive() == (
                    f'{{"event":"shipped","channel":"{channel}","data":"7"}}'
                )


@those(lambda dart: dart.auth_content_type)
async def test_the_chat_backend_reads_its_auth_request_and_its_signature_is_taken(
    dart: DartClient, server: TestServer, tmp_path: Path
) -> None:
    assert dart.auth_content_type is not None
    app = server.app
    reverb = ReverbApp(app.id, app.key, app.secret, "127.0.0.1", server.port)
    async with (
        chat_api(settings_for(f"sqlite:///{tmp_path}/chat.sqlite3", reverb)) as api,
        aiohttp.ClientSession() as http,
        connected(dart, server) as client,
    ):
        login = {"email": "ali@example.com", "password": "password"}
        async with http.post(f"{api.url}/api/login", json=login) as response:
            ali = await response.json()
        channel = f"private-user.{ali['user']['id']}"
        fields = {"socket_id": client.socket_id, "channel_name": channel}
        async with http.post(
            f"{api.url}/broadcasting/auth",
            data=urlencode(fields) if dart.auth_content_type == FORM else json.dumps(fields),
            headers={
                "Content-Type": dart.auth_content_type,
                "Accept": "application/json",
                "Authorization": f"Bearer {ali['access_token']}",
            },
        ) as response:
            assert response.status == 200
            answer = await response.json()
        assert answer == {"auth": client.auth_for(channel)}

        await client.send(dart.subscribe_message(channel, answer["auth"]))
        assert await client.receive() == succeeded(channel)
