"""The real pusher-js, under Node.js, driven from a test."""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from reverb_py.testing import PATIENCE

__all__ = ["PusherJs", "pusher_js"]

_FOLDER = Path(__file__).parent.parent / "javascript"


@asynccontextmanager
async def pusher_js(
    key: str, port: int, *, auth: str | None = None, **options: Any
) -> AsyncIterator["PusherJs"]:
    """
    Run a pusher-js client that connects to a server on this machine.

    `options` are pusher-js's own; with `auth`, it subscribes with this very value. Without Node.js
    the test is skipped, and fails where `CI` is set.
    """
    node = shutil.which("node")
    if node is None or not (_FOLDER / "node_modules").is_dir():
        reason = "Node.js with the clients of tests/javascript is missing: scripts/test installs it"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    options = {"wsHost": "127.0.0.1", "wsPort": port, **options}
    arguments = {"key": key, "options": options, "auth": auth}
    process = await asyncio.create_subprocess_exec(
        node,
        str(_FOLDER / "pusher_client.mjs"),
        json.dumps(arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield PusherJs(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


class PusherJs:
    """
    A client and the lines it says: `[what, …details]`, in the order they happened.

    `socket_id` is for whoever has heard it to remember.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.socket_id = ""

    async def do(self, method: str, *arguments: Any) -> None:
        """Call one of the client's commands."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([method, *arguments]).encode() + b"\n")
        await self._process.stdin.drain()

    async def hears(self, *beginning: Any, patience: float = PATIENCE) -> list[Any]:
        """
        Wait up to `patience` seconds for a line that begins like this and return the rest of it.

        Lines before it are passed over; they stand in the message of the TimeoutError that comes
        when none begins like this.
        """
        assert self._process.stdout is not None
        passed: list[list[Any]] = []
        try:
            async with asyncio.timeout(patience):
                while True:
                    text = await self._process.stdout.readline()
                    if not text:
                        raise TimeoutError("the client has ended")
                    line: list[Any] = json.loads(text)
                    if line[: len(beginning)] == list(beginning):
                        return line[len(beginning) :]
                    passed.append(line)
        except TimeoutError as exc:
            raise TimeoutError(f"no {beginning} {exc}; heard {passed}") from None
