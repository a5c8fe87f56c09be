"""A TCP proxy before a server, as operators have one: clients stay while servers come and go."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["Proxy", "proxying"]


class Proxy:
    """
    Carries what arrives at `port` to `target_port`, which counts for every new connection. One that
    finds nothing there is cut off.

    pusher-js, once its connection is refused, tries again only after 15 seconds; behind a proxy
    that is always there it is not refused.
    """

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self._carrying: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection, for as long as both sides want."""
        task = asyncio.create_task(self._carry(reader, writer))
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)

    async def cut(self) -> None:
        """Cut every connection off, without a word to either side."""
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*self._carrying)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream, to_upstream = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.transport.abort()
            return
        writers = {writer, to_upstream}
        self._writers |= writers
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_pump(reader, to_upstream))
                both.create_task(_pump(upstream, writer))
        finally:
            self._writers -= writers


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except ConnectionError:
            pass


@asynccontextmanager
async def proxying(target_port: int) -> AsyncIterator[Proxy]:
    """Run a proxy on a free port of 127.0.0.1 for as long as the context lasts."""
    proxy = Proxy(target_port)
    server = await asyncio.start_server(proxy.take, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.cut()
        await server.wait_closed()
