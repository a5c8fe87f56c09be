"""The locust file against real servers: it counts exactly, and a loss fails the run."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from reverb_py.testing import TestServer, serving

ROOT = Path(__file__).parents[2]
LOCUSTFILE = ROOT / "loadtest" / "locustfile.py"
PATIENCE = 90.0  # seconds


async def run_locust(
    server: TestServer, *options: str, until: tuple[str, int], port: int | None = None
) -> tuple[int | None, str]:
    """
    Run users until locust has noted so many requests of a name, and stop it.

    Returns its exit status and everything that it said.
    """
    app = server.app
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless"),
        *("--host", f"http://127.0.0.1:{server.port}"),
        *("--realtime", f"ws://127.0.0.1:{port or server.port}"),
        *("--app-id", app.id, "--app-key", app.key, "--app-secret", app.secret),
        *("--spawn-rate", "100", *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={"PATH": "", "PYTHONPATH": str(ROOT), "LOCUST_SKIP_UPDATE_CHECK": "1"},
    )
    name, least = until
    row = re.compile(rf"^\S+ +{re.escape(name)} +(\d+)")
    said = []
    try:
        async with asyncio.timeout(PATIENCE):
            assert process.stdout is not None
            async for line in process.stdout:
                said.append(line.decode())
                found = row.match(said[-1])
                if found and int(found[1]) >= least and process.returncode is None:
                    process.terminate()
                    least = sys.maxsize
            await process.wait()
    except TimeoutError:
        raise TimeoutError("".join(said)) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, "".join(said)


def counted(output: str) -> tuple[int, int, int]:
    """Return how many deliveries were owed, missing and repeated, as the run says."""
    found = re.search(r"^Deliveries: (\d+) owed, (\d+) missing, (\d+) repeated", output, re.M)
    assert found, output
    return int(found[1]), int(found[2]), int(found[3])


@pytest.mark.parametrize(
    ("options", "until"),
    [
        pytest.param(
            ["--tags", "fan-out", "--users", "12", "--rate", "10"],
            ("fan-out", 100),
            id="fan-out",
        ),
        pytest.param(
            ["--tags", "presence-churn", "--users", "12", "--pause", "0.2"],
            ("member_removed", 50),
            id="presence-churn",
        ),
        pytest.param(
            ["--tags", "reconnect-storm", "--users", "12", "--storm-every", "2"],
            ("back after a storm", 20),
            id="reconnect-storm",
        ),
    ],
)
async def test_each_load_counts_its_deliveries_and_all_of_them_arrive(
    options: list[str], until: tuple[str, int]
) -> None:
    async with serving() as server:
        status, output = await run_locust(server, *options, "--last-wait", "60", until=until)

    owed, missing, repeated = counted(output)
    assert owed > 0, output
    assert (missing, repeated) == (0, 0), output
    assert status == 0, output


@pytest.mark.parametrize(
    ("distort", "missing", "repeated"),
    [
        pytest.param(lambda frame: b"", 1, 0, id="lost"),
        pytest.param(lambda frame: frame + frame, 0, 1, id="repeated"),
    ],
)
async def test_one_event_that_is_lost_or_repeated_on_its_way_fails_the_run(
    distort: Callable[[bytes], bytes], missing: int, repeated: int
) -> None:
    async with serving() as server, distorting(server.port, distort) as port:
        status, output = await run_locust(
            server,
            *("--tags", "fan-out", "--users", "5", "--rate", "10", "--last-wait", "10"),
            until=("fan-out", 60),
            port=port,
        )

    assert counted(output)[1:] == (missing, repeated), output
    assert status == 1, output


@asynccontextmanager
async def distorting(target_port: int, distort: Callable[[bytes], bytes]) -> AsyncIterator[int]:
    """Carry connections to a server, with one event of all on its way back changed; lend a port."""
    events = 0
    tasks: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, to_upstream = await asyncio.open_connection("127.0.0.1", target_port)
        try:
            await asyncio.gather(there(reader, to_upstream), back(upstream, writer))
        finally:
            for each in (writer, to_upstream):
                each.transport.abort()

    async def there(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    async def back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal events
        try:
            writer.write(await reader.readuntil(b"\r\n\r\n"))
            while True:
                frame = await reader.readexactly(2)
                if frame[1] == 126:
                    frame += await reader.readexactly(2)
                    frame += await reader.readexactly(int.from_bytes(frame[2:]))
                else:
                    frame += await reader.readexactly(frame[1])
                if b'"event":"fan-out"' in frame:
                    events += 1
                    if events == 9:
                        frame = distort(frame)
                writer.write(frame)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(carry(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
