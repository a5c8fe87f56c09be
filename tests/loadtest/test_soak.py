"""The soak: a short one passes, and what stays behind is found."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE = 110.0  # seconds


@asynccontextmanager
async def soaking(*options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a short soak until the block ends."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(ROOT / "loadtest" / "soak.py"), "--minutes", "0.05"),
        *("--users", "10", *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
    )
    try:
        async with asyncio.timeout(PATIENCE):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_a_short_soak_leaves_nothing_behind_and_says_so() -> None:
    async with soaking() as process:
        said = (await process.communicate())[0].decode()

    assert process.returncode == 0, said
    assert "passed  everybody has gone" in said
    assert "holds what it held" in said
    assert said.endswith("Nothing was left behind, and nothing was lost.\n")


async def test_a_connection_that_stays_fails_the_soak() -> None:
    async with soaking("--patience", "3") as process:
        assert process.stdout is not None
        first = (await process.stdout.readline()).decode()
        port = int(first.rpartition(":")[2])
        # What a node holds is counted before the second crowd comes, which this line tells of.
        await process.stdout.readuntil(b"passed  everybody has gone\n")
        await process.stdout.readuntil(b" connections, ")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /up HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        await reader.readuntil(b'{"health":"OK"}')
        said = (await process.communicate())[0].decode()
        writer.close()

    assert process.returncode == 1, said
    assert "1 more socket (descriptors)" in said
