"""One address may not take everything, where that is set."""

from reverb_py.testing import TestServer, serving
from tests.reverb_py.server.raw_client import close_frame, connected_socket, websocket


async def refusal_of(server: TestServer, code: int, message: str) -> None:
    async with server.connect() as client:
        assert await client.receive() == (
            f'{{"event":"pusher:error","data":{{"code":{code},"message":"{message}"}}}}'
        )
        assert await client.closed() == (code, message)


async def test_connections_beyond_those_of_one_address_are_asked_to_wait() -> None:
    async with (
        serving(max_connections_per_address=2) as server,
        websocket(server),
        websocket(server),
    ):
        await refusal_of(server, 4100, "More than 2 connections from one address")
        async with connected_socket(server) as client:
            await client.send(b"GET /up HTTP/1.1\r\n\r\n")
            answer = await client.receive_answer()
    assert answer.status == 429
    assert answer.headers["retry-after"] == "60"
    assert answer.body == b"More than 2 connections from one address"


async def test_who_connects_too_often_is_asked_to_wait() -> None:
    async with serving(connects_per_minute_per_address=2) as server:
        for _ in range(2):
            async with websocket(server):
                pass
        await refusal_of(server, 4100, "More than 2 new connections in a minute from one address")


async def test_a_place_is_free_again_when_its_connection_has_gone() -> None:
    async with serving(max_connections_per_address=1) as server:
        for _ in range(20):
            async with websocket(server) as client:
                await client.send(close_frame(1000))
                assert await client.receive_close() == (1000, "")
                await client.receive_end()
