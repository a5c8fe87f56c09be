"""What stands between a node and Redis, and can be cut, as networks are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from hiredis import Reader

__all__ = ["RedisLine", "redis_line"]


class RedisLine:
    """
    Carries connections to Redis on `port`.

    While it is cut nothing is carried either way and nobody is told, as behind a firewall that
    drops packets: connections stay open, and new ones are accepted by nobody. `delay` is how many
    seconds whatever is read waits before it is carried, in either direction. While there is a
    `refusal`, such as `OOM command not allowed`, it is the answer to every command, and Redis gets
    none of them. `under_way` is what was read while the line is cut. What was `deafened` carries
    nothing from Redis any more.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._carries = asyncio.Event()
        self._carries.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._from_nodes: set[asyncio.StreamWriter] = set()
        self._listening: set[asyncio.StreamWriter] = set()
        self._deaf: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.delay = 0.0
        self.refusal: str | None = None
        self.under_way = bytearray()

    def cut(self) -> None:
        self._carries.clear()

    def deafen(self) -> None:
        """Lose what Redis says from now on on the connections that listen now, and nothing else."""
        self._deaf |= self._listening

    def break_off(self) -> None:
        """Cut every connection off; new ones are carried."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def mend(self) -> None:
        self.under_way.clear()
        self._carries.set()

    def leave_behind(self) -> Callable[[], None]:
        """
        Cut every connection off where the nodes are; new ones are carried.

        What the nodes had sent by then arrives when the result is called, as what a network has
        kept.
        """
        behind, self._carries = self._carries, asyncio.Event()
        self._carries.set()
        behind.clear()
        for writer in self._from_nodes:
            writer.transport.abort()
        self._from_nodes.clear()
        return behind.set

    def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        self._writers.add(writer)
        self._from_nodes.add(writer)
        task = asyncio.create_task(self._carry(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        carries = self._carries
        await carries.wait()
        try:
            upstream, to_upstream = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers.add(to_upstream)
        await asyncio.gather(
            self._pump(reader, to_upstream, writer, carries),
            self._pump(upstream, writer, None, carries),
        )

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        back: asyncio.StreamWriter | None,
        carries: asyncio.Event,
    ) -> None:
        """Carry one direction; `back` is where commands are refused."""
        commands = Reader()
        try:
            while data := await reader.read(65_536):
                if not carries.is_set():
                    self.under_way += data
                    await carries.wait()
                if self.delay:
                    await asyncio.sleep(self.delay)
                if writer in self._deaf:
                    continue
                if back is not None and b"SUBSCRIBE" in data:
                    self._listening.add(back)
                if self.refusal is None or back is None:
                    writer.write(data)
                    await writer.drain()
                    continue
                commands.feed(data)
                while commands.gets() is not False:
                    back.write(b"-%b\r\n" % self.refusal.encode())
        except ConnectionError:
            pass
        writer.close()

    async def close(self) -> None:
        self.mend()
        for writer in self._writers:
            writer.transport.abort()
        if self._tasks:
            await asyncio.wait(self._tasks)


@asynccontextmanager
async def redis_line(target_port: int) -> AsyncIterator[RedisLine]:
    """Carry connections for as long as the context lasts."""
    line = RedisLine(target_port)
    server = await asyncio.start_server(line.take, "127.0.0.1", 0)
    line.port = server.sockets[0].getsockname()[1]
    try:
        yield line
    finally:
        server.close()
        await line.close()
