"""Ending a stream politely, also where nobody is left to be polite to."""

import asyncio
import socket
from typing import cast

from reverb_py.server.transports import half_close
from reverb_py.testing import PATIENCE
from tests.reverb_py.server.raw_client import turns_until

TCP_CLOSE = 7


async def test_a_client_that_has_reset_the_connection_is_no_error() -> None:
    """The client is gone when the last words arrive, and the transport has not noticed yet."""
    loop = asyncio.get_running_loop()
    accepted: asyncio.Future[asyncio.Transport] = loop.create_future()

    class Accepting(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            accepted.set_result(cast(asyncio.Transport, transport))

    server = await loop.create_server(Accepting, "127.0.0.1", 0)
    async with server, asyncio.timeout(PATIENCE):
        with socket.socket() as client:
            client.setblocking(False)
            await loop.sock_connect(client, server.sockets[0].getsockname())
            transport = await accepted
        transport.pause_reading()
        transport.write(b"last words")
        connection = transport.get_extra_info("socket")
        await turns_until(
            lambda: connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TCP_CLOSE
        )
        half_close(transport)
        transport.abort()
        half_close(transport)
