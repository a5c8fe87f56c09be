"""Clients that run in processes of their own, driven from a test by lines of JSON."""

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from reverb_py.testing import PATIENCE

__all__ = ["Program", "node_program", "python_program"]

_HERE = Path(__file__).parent
_JAVASCRIPT = _HERE.parent / "javascript"


class Program:
    """A program that takes commands, `[method, …arguments]`, and says lines, `[what, …details]`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def do(self, method: str, *arguments: Any) -> None:
        """Give one of the program's commands."""
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


_Program = TypeVar("_Program", bound=Program)


@asynccontextmanager
async def node_program(
    kind: type[_Program], script: str, configuration: object
) -> AsyncIterator[_Program]:
    """
    Run a script of tests/javascript, which gets its configuration as JSON, until the context ends.

    Fails the test where Node.js or the clients are not installed.
    """
    node = shutil.which("node")
    if node is None:
        pytest.fail(
            "Node.js is missing: install version 18 or newer with npm (Debian and Ubuntu: apt-get "
            "install nodejs npm; macOS: brew install node) and run scripts/test, or put its node "
            "on the PATH",
            pytrace=False,
        )
    if not (_JAVASCRIPT / "node_modules").is_dir():
        pytest.fail(
            "The JavaScript clients are missing: run scripts/test, or npm ci in tests/javascript",
            pytrace=False,
        )
    async with _running(node, _JAVASCRIPT / script, configuration) as process:
        yield kind(process)


@asynccontextmanager
async def python_program(script: str, configuration: object) -> AsyncIterator[Program]:
    """Run a script of this folder, which gets its configuration as JSON, until the context ends."""
    async with _running(sys.executable, _HERE / script, configuration) as process:
        yield Program(process)


@asynccontextmanager
async def _running(
    interpreter: str, script: Path, configuration: object
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        interpreter,
        str(script),
        json.dumps(configuration),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
