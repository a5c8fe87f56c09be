"""What scripts/server runs, and any script as people run it: a process with its own settings."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from dotenv import dotenv_values

from reverb_py.testing import PATIENCE

__all__ = [
    "ROOT",
    "START_PATIENCE",
    "Ended",
    "Lines",
    "Script",
    "Servers",
    "post",
    "run",
    "serving_both",
    "settings_of",
    "started",
]

ROOT = Path(__file__).parents[2]
START_PATIENCE = 60.0

SETTINGS = {
    "REVERB_APP_ID": "1001",
    "REVERB_APP_KEY": "scripts-key",
    "REVERB_APP_SECRET": "3f9a0c7be2d14586",
    "CHAT_JWT_SECRET": "0123456789abcdef0123456789abcdef",
    "REVERB_SERVER_PORT": "0",
    "CHAT_PORT": "0",
}
"""With all the secrets given, scripts/server has nothing to write into .env."""


class Lines:
    """What a process says on one of its outputs."""

    def __init__(self, stream: asyncio.StreamReader | None) -> None:
        assert stream is not None
        self._stream = stream

    async def next(self, patience: float = PATIENCE) -> str:
        """Return the next line, without its end."""
        async with asyncio.timeout(patience):
            line = await self._stream.readline()
        assert line, "the process has ended"
        return line.decode().rstrip("\n")

    async def find(self, text: str, patience: float = PATIENCE) -> str:
        """Return the next line with this text in it; lines before it are passed over."""
        passed = []
        try:
            async with asyncio.timeout(patience):
                while text not in (line := await self.next(patience)):
                    passed.append(line)
        except (TimeoutError, AssertionError) as exc:
            raise AssertionError(f"no {text!r} {exc}; heard {passed}") from None
        return line


class Script(NamedTuple):
    """A script that runs."""

    process: asyncio.subprocess.Process
    output: Lines
    errors: Lines

    async def ends(self) -> int:
        """Wait for the end and return the exit status."""
        async with asyncio.timeout(START_PATIENCE):
            return await self.process.wait()


class Ended(NamedTuple):
    """A script that has ended: its exit status and what it said."""

    status: int
    output: str
    errors: str


class Servers(NamedTuple):
    """What scripts/server runs, and the settings with which others find it."""

    script: Script
    reverb_port: int
    chat_port: int
    settings: dict[str, str]


def settings_of(folder: Path, **settings: str) -> dict[str, str]:
    """Return settings that keep everything in a folder, whatever the checkout's `.env` says."""
    hidden = dict.fromkeys(dotenv_values(ROOT / ".env"), "")
    database = f"sqlite:///{folder / 'chat.sqlite3'}"
    return {**hidden, **SETTINGS, "CHAT_DATABASE_URL": database, **settings}


@asynccontextmanager
async def started(path: Path, *arguments: str, settings: dict[str, str]) -> AsyncIterator[Script]:
    """Run a script until the block ends."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("REVERB_", "CHAT_"))
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(path),
        *arguments,
        env=inherited | settings,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield Script(process, Lines(process.stdout), Lines(process.stderr))
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def run(path: Path, *arguments: str, settings: dict[str, str]) -> Ended:
    """Run a script to its end."""
    async with started(path, *arguments, settings=settings) as script:
        async with asyncio.timeout(START_PATIENCE):
            output, errors = await script.process.communicate()
        return Ended(script.process.returncode or 0, output.decode(), errors.decode())


@asynccontextmanager
async def serving_both(
    folder: Path, *, scheme: str = "ws", **settings: str
) -> AsyncIterator[Servers]:
    """Run scripts/server on ports that the system says are free; `wss` is expected with TLS."""
    told = settings_of(folder, **settings)
    async with started(ROOT / "scripts" / "server", settings=told) as script:
        websocket = await script.output.find("WebSocket ", START_PATIENCE)
        found = re.search(rf" {scheme}://127\.0\.0\.1:(\d+)/app/scripts-key$", websocket)
        assert found, websocket
        reverb_port = int(found[1])
        chat_port = int((await script.output.find("Chat API ")).rpartition(":")[2])
        await script.output.find("Ctrl-C stops both servers.")
        ports = {"REVERB_SERVER_PORT": str(reverb_port), "CHAT_PORT": str(chat_port)}
        yield Servers(script, reverb_port, chat_port, told | ports)


async def post(http: aiohttp.ClientSession, path: str, body: object, token: str = "") -> Any:
    """Return the answer to JSON that is taken."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with http.post(path, json=body, headers=headers) as response:
        assert response.status in (200, 201), await response.text()
        return await response.json()
