"""A chat API as it is run, to be killed and frozen."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from chat_api.settings import Settings
from tests.chat_api.client import Client
from tests.chat_api.receiver import APP_ID, APP_KEY, APP_SECRET
from tests.chat_api.world import SECRET

_ROOT = str(Path(__file__).parents[2])


class ApiProcess:
    """A chat API in a process of its own, that Ali is logged in to."""

    def __init__(self, process: asyncio.subprocess.Process, ali: Client) -> None:
        self.process = process
        self._ali = ali

    @classmethod
    @asynccontextmanager
    async def serving(cls, settings: Settings) -> "AsyncIterator[ApiProcess]":
        environment = {
            **os.environ,
            "CHAT_JWT_SECRET": SECRET,
            "CHAT_PORT": "0",
            "CHAT_DATABASE_URL": settings.database_url,
            "REVERB_APP_ID": APP_ID,
            "REVERB_APP_KEY": APP_KEY,
            "REVERB_APP_SECRET": APP_SECRET,
            "REVERB_PORT": str(settings.reverb.port),
            "PYTHONPATH": _ROOT,
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "chat_api", "serve"),
            env=environment,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        try:
            async with asyncio.timeout(60):
                while "url=" not in (line := (await process.stderr.readline()).decode()):
                    assert line, "the process has ended"
            async with aiohttp.ClientSession() as session:
                url = line.split("url=")[1].split()[0]
                ali = await Client(session, url).log_in("ali@example.com")
                await ali.post("/api/chats", {"user_id": 2})
                yield cls(process, ali)
        finally:
            await _end(process)

    async def kill(self) -> None:
        """End it without a warning."""
        await _end(self.process)

    async def say(self, text: str) -> str:
        """Have Ali send a message to Vali, and return it."""
        reply = await self._ali.post("/api/chats/1/messages", {"content": text, "tempId": text})
        assert reply.status == 201
        return text


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.communicate()
