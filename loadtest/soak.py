"""
A long run with everything that comes and goes, after which nothing may be left.

Starts one node, or two with a Redis between them, each in a process of its own. Clients connect,
subscribe, sign in, talk, and leave in every way; a backend publishes, reads, ends connections and
is told by webhooks. At the end everybody leaves, and then

- memory is flat: the median of the run's second half is at most `MEMORY_GROWTH` above that of the
  first, leaving out a beginning in which everything is used for the first time;
- each node holds what it held before anybody came: tasks, objects of reverb_py, descriptors;
- no connection, channel, Redis key or topic is left, nor anything the HTTP API would list;
- whoever listened all the time has heard every event, once and in order; nothing was refused that
  should not be; for each webhook about something that began there is one about its end.
"""

import asyncio
import os
import secrets
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import click
import orjson
from aiohttp import web
from benchmark.contenders import BrokenError, running_redis
from machine import memory_kibibytes
from redis.asyncio import Redis
from soaking.crowd import PATIENCE, Backend, Crowd
from soaking.node import Held

from reverb_py.core.apps import App

LOADTEST = Path(__file__).resolve().parent
WARM_UP = 0.2
"""The share of the run that memory is not judged by."""
MEMORY_GROWTH = 0.05
MEMORY_ALLOWANCE = 4096
"""KiB by which memory may grow in any case: what allocators keep varies by about as much."""


POOLED_CONNECTIONS = 10
"""Connections to Redis that a node's pool may have gained: it keeps as many as it used at once."""

_TO_REDIS = "connection to Redis"


class Node:
    """One node's process: what it says it holds, and what the kernel says."""

    def __init__(
        self, process: asyncio.subprocess.Process, port: int, redis_port: int | None = None
    ) -> None:
        self.process = process
        self.port = port
        self.memory: list[float] = []
        self._redis_port = redis_port

    async def ask(self) -> Held:
        """Return what the node holds now."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"?\n")
        async with asyncio.timeout(PATIENCE):
            line = await self.process.stdout.readline()
        found: Held = orjson.loads(line)
        found["descriptors"] = self.descriptors()
        return found

    def descriptors(self) -> dict[str, int]:
        """Return how many descriptors the process has, by kind; those to Redis are of their own."""
        kinds: Counter[str] = Counter()
        to_redis = self._sockets_to_redis()
        for entry in Path(f"/proc/{self.process.pid}/fd").iterdir():
            try:
                target = str(entry.readlink())
            except OSError:
                continue  # closed since it was listed
            kinds[_TO_REDIS if target in to_redis else target.partition(":")[0]] += 1
        return dict(kinds)

    def _sockets_to_redis(self) -> set[str]:
        """Return what descriptors of connections to Redis point to."""
        if self._redis_port is None:
            return set()
        rows = Path(f"/proc/{self.process.pid}/net/tcp").read_text().splitlines()[1:]
        columns = [row.split() for row in rows]
        return {
            f"socket:[{row[9]}]"
            for row in columns
            if int(row[2].rpartition(":")[2], 16) == self._redis_port
        }

    def note_memory(self) -> None:
        """Take a sample of the memory."""
        self.memory.append(memory_kibibytes(self.process.pid))


@asynccontextmanager
async def running_node(
    environment: dict[str, str], redis_port: int | None = None
) -> AsyncIterator[Node]:
    """Run a node until the block ends."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "soaking.node"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=sys.stderr,
        env=environment,
        limit=1 << 20,
    )
    try:
        assert process.stdout is not None
        line = await process.stdout.readline()
        if not line:
            raise BrokenError("a node did not start")
        yield Node(process, int(line), redis_port)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@asynccontextmanager
async def going_on(*coroutines: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run these until the block ends, and raise what ended one of them before."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result


class Soak:
    """
    One run over nodes that are up, with the Redis between them if there are several.

    What is wrong may take `patience` seconds to become right. `failures` is what did not, in words.
    """

    def __init__(
        self, app: App, nodes: Sequence[Node], redis: Redis | None, patience: float
    ) -> None:
        self.failures: list[str] = []
        self._patience = patience
        self._most_pooled = 0 if redis is None else POOLED_CONNECTIONS
        self._nodes = nodes
        self._redis = redis
        self._crowd = Crowd(app, [node.port for node in nodes])
        self._backend = Backend(app, [node.port for node in nodes], self._crowd)

    async def take_webhook(self, request: web.Request) -> web.Response:
        """Answer a webhook."""
        return await self._backend.take_webhook(request)

    async def run(self, users: int, seconds: float) -> None:
        """Let them come, let them go, and judge."""
        # What is made once, when it is first needed, is made before anything is counted.
        await self._live(users, min(3.0, seconds))
        await self._expect("everybody has gone", self._remains)
        before = [await self._held(node) for node in self._nodes]
        in_redis = await self._in_redis()
        for node in self._nodes:
            node.memory.clear()
        await self._live(users, seconds)
        self._judge_memory()
        await self._expect("everybody has gone", self._remains)
        for node, held in zip(self._nodes, before, strict=True):
            await self._expect(
                f"node {node.port} holds what it held", partial(self._left_behind, node, held)
            )
        await self._expect("Redis holds what it held", partial(self._left_in_redis, in_redis))
        await self._expect("what began has ended, by webhooks", self._untold)
        self.failures += [f"{number} times {what}" for what, number in self._crowd.wrong.items()]

    async def _live(self, users: int, seconds: float) -> None:
        crowd, backend = self._crowd, self._backend
        ready = [asyncio.Event() for _ in self._nodes]
        witnesses = [
            crowd.witness(node.port, backend.published + 1, each)
            for node, each in zip(self._nodes, ready, strict=True)
        ]
        before = crowd.done["witnessed"] - backend.published * len(witnesses)
        async with aiohttp.ClientSession() as session, going_on(*witnesses):
            await asyncio.gather(*(each.wait() for each in ready))
            backend.is_over = False
            work = [backend.publish_numbered(session), backend.work(session)]
            lives = [crowd.live() for _ in range(users)]
            async with going_on(*lives), asyncio.TaskGroup() as group:
                for each in work:
                    group.create_task(each)
                await self._watch(seconds)
                backend.is_over = True

            async def unheard() -> str:
                heard = crowd.done["witnessed"] - before
                missing = backend.published * len(witnesses) - heard
                return f"{missing} events were not" if missing else ""

            await self._expect("witnesses hear everything", unheard)

    async def _watch(self, seconds: float) -> None:
        began = said = time.monotonic()
        interval = min(10.0, max(1.0, seconds / 10))
        while (elapsed := time.monotonic() - began) < seconds:
            for node in self._nodes:
                node.note_memory()
            if time.monotonic() - said >= interval:
                said = time.monotonic()
                self._say(elapsed)
            await asyncio.sleep(min(1.0, seconds / 20))

    def _say(self, elapsed: float) -> None:
        done = self._crowd.done
        each = ", ".join(
            f"{node.memory[-1] / 1024:.1f} MiB and {sum(node.descriptors().values())} descriptors"
            for node in self._nodes
        )
        click.echo(
            f"{elapsed:5.0f} s  {self._crowd.connections} connections, {done['lives']} lives, "
            f"{done['subscriptions']} subscriptions, {done['client events']} client events, "
            f"{done['requests']} requests, {self._backend.told.total()} webhook events; {each}"
            + (f"; wrong: {self._crowd.wrong.total()}" if self._crowd.wrong else "")
        )

    async def _expect(self, what: str, find_wrong: Callable[[], Awaitable[str]]) -> None:
        """Wait until nothing is found wrong; what stays wrong is a failure."""
        give_up = time.monotonic() + self._patience
        while True:
            wrong = await find_wrong()
            if not wrong or time.monotonic() > give_up:
                break
            await asyncio.sleep(0.2)
        click.echo(f"{'FAILED' if wrong else 'passed'}  {what}" + (f": {wrong}" if wrong else ""))
        if wrong:
            self.failures.append(f"{what}: {wrong}")

    async def _remains(self) -> str:
        """Return what the HTTP API still lists."""
        found = []
        async with aiohttp.ClientSession() as session:
            for node in self._nodes:
                ask = partial(self._backend.request, session, node.port, "GET")
                connections, channels = await ask("/connections"), await ask("/channels")
                if connections != {"connections": 0} or channels != {"channels": {}}:
                    found.append(f"node {node.port} lists {connections} and {channels}")
        return "; ".join(found)[:1000]

    async def _held(self, node: Node) -> Held:
        """Return what a node holds, without last events whose time is over."""
        async with aiohttp.ClientSession() as session:
            # They are forgotten when there is another.
            await self._backend.publish_last_event(session, node.port)
        return await node.ask()

    async def _left_behind(self, node: Node, before: Held) -> str:
        """Return what a node holds more of than before, but for what its pool keeps."""
        now = await self._held(node)
        return ", ".join(
            f"{number - before[kind].get(name, 0)} more {name} ({kind})"
            for kind, numbers in now.items()
            for name, number in numbers.items()
            if number > before[kind].get(name, 0) + (self._most_pooled if name == _TO_REDIS else 0)
        )

    async def _in_redis(self) -> dict[str, int]:
        """Return how many keys, topics and connections Redis has, of each kind."""
        if self._redis is None:
            return {}
        found: Counter[str] = Counter()
        names = [("key", name) async for name in self._redis.scan_iter(count=1000)]
        names += [("topic", name) for name in await self._redis.pubsub_channels()]
        for what, name in names:
            # Nodes and channels have names of their own.
            text = name.decode() if isinstance(name, bytes) else name
            found[f"{what} {text.rpartition(':')[2].partition('.')[0]}"] += 1
        found["connections"] = len(await self._redis.client_list())
        return dict(found)

    async def _left_in_redis(self, before: dict[str, int]) -> str:
        """Return what Redis has more of than before."""
        now = await self._in_redis()
        pooled = self._most_pooled * len(self._nodes)
        return ", ".join(
            f"{number - before.get(kind, 0)} more {kind}"
            for kind, number in now.items()
            if number > before.get(kind, 0) + (pooled if kind == "connections" else 0)
        )

    async def _untold(self) -> str:
        """Return of what the backend was told the beginning without the end, or the other way."""
        told, begun = self._backend.told, self._backend.begun
        if not (told["channel_vacated"] and told["member_removed"]):
            return "nothing was told"
        return f"{len(begun)} are not even, such as {next(iter(begun.items()))}" if begun else ""

    def _judge_memory(self) -> None:
        for node in self._nodes:
            judged = node.memory[int(len(node.memory) * WARM_UP) :]
            half = len(judged) // 2
            first, second = statistics.median(judged[:half]), statistics.median(judged[half:])
            most = first * (1 + MEMORY_GROWTH) + MEMORY_ALLOWANCE
            verdict = (
                f"memory of node {node.port} is flat: {first / 1024:.1f} MiB in the first half, "
                f"{second / 1024:.1f} in the second, {most / 1024:.1f} allowed"
            )
            click.echo(f"{'passed' if second <= most else 'FAILED'}  {verdict}")
            if second > most:
                self.failures.append(verdict)


async def stop(node: Node) -> str:
    """Stop a node as a deploy does, and return what was wrong about that."""
    node.process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(PATIENCE):
            status = await node.process.wait()
    except TimeoutError:
        return "it did not stop"
    return f"it stopped with status {status}" if status else ""


async def soak(nodes: int, users: int, seconds: float, patience: float) -> list[str]:
    """Run it all and return the failures."""
    app = App(id="1001", key=secrets.token_hex(10), secret=secrets.token_hex(20))
    async with AsyncExitStack() as stack:
        redis: Redis | None = None
        redis_port: int | None = None
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("REVERB_", "REDIS_"))
        }
        path = (str(LOADTEST), str(LOADTEST.parent), environment.get("PYTHONPATH", ""))
        webhooks = web.Application(client_max_size=1 << 20)
        runner = web.AppRunner(webhooks, access_log=None)
        places: list[Soak] = []

        async def take(request: web.Request) -> web.Response:
            return await places[0].take_webhook(request)

        webhooks.router.add_post("/webhooks", take)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        environment |= {
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "REVERB_SERVER_HOST": "127.0.0.1",
            "REVERB_SERVER_PORT": "0",
            "REVERB_APP_ID": app.id,
            "REVERB_APP_KEY": app.key,
            "REVERB_APP_SECRET": app.secret,
            "REVERB_APP_CACHE_SECONDS": "2",
            "REVERB_APP_SUBSCRIPTION_COUNTS": "true",
            "REVERB_APP_WEBHOOK_URL": f"http://127.0.0.1:{port}/webhooks",
            "REVERB_APP_WEBHOOK_BATCH_SECONDS": "0.2",
        }
        if nodes > 1:
            redis_port, _ = stack.enter_context(running_redis())
            environment |= {
                "REVERB_SCALING_ENABLED": "true",
                "REDIS_URL": f"redis://127.0.0.1:{redis_port}",
            }
            redis = await stack.enter_async_context(Redis(port=redis_port))
        running = [
            await stack.enter_async_context(running_node(environment, redis_port))
            for _ in range(nodes)
        ]
        run = Soak(app, running, redis, patience)
        places.append(run)
        click.echo(f"Nodes on {', '.join(f'127.0.0.1:{node.port}' for node in running)}")
        await run.run(users, seconds)
        for node in running:
            wrong = await stop(node)
            if wrong:
                run.failures.append(f"node {node.port}: {wrong}")
        return run.failures


EXAMPLES = """\b
Examples:
  python loadtest/soak.py                        ten minutes, one node
  python loadtest/soak.py --nodes 2 --minutes 60
"""


@click.command(epilog=EXAMPLES)
@click.option("--minutes", type=click.FloatRange(min=0.05), default=10.0, show_default=True)
@click.option("--nodes", type=click.IntRange(1, 8), default=1, show_default=True)
@click.option(
    "--users",
    type=click.IntRange(1, 1000),
    default=60,
    show_default=True,
    help="Clients that live one life after the other.",
)
@click.option(
    "--patience",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    help="Seconds that servers get to be rid of what has gone.",
)
def main(minutes: float, nodes: int, users: int, patience: float) -> None:
    """Run servers under everything that comes and goes, and see that nothing stays behind."""
    try:
        failures = asyncio.run(soak(nodes, users, minutes * 60, patience))
    except BrokenError as broken:
        raise click.ClickException(str(broken)) from None
    for failure in failures:
        click.echo(f"FAILED: {failure}", err=True)
    if failures:
        sys.exit(1)
    click.echo("Nothing was left behind, and nothing was lost.")


if __name__ == "__main__":
    main()
