"""One test's chat API and everything around it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import aiohttp
from argon2 import PasswordHasher

from chat_api.features.support.feature import Timing
from chat_api.kernel.clock import Clock, system_clock
from chat_api.realtime.relay import Backoff
from chat_api.realtime.reverb import ReverbApp
from chat_api.runtime import ChatApi, running
from chat_api.settings import Settings
from tests.chat_api.client import Client
from tests.chat_api.receiver import RealtimeReceiver

SECRET = "3f1c9a7be2d84650b7c1de90aa5f2c68"
CHEAP_HASHER = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


def settings_for(database: str, reverb: ReverbApp) -> Settings:
    """Return the settings of an API on the database at this URL."""
    return Settings(
        jwt_secret=SECRET,
        reverb=reverb,
        port=0,
        database_url=database,
        seed=True,
        messages_per_minute=0,
        sessions_per_minute=0,
        payments_per_minute=0,
    )


QUICKLY = Backoff(first=0.01, longest=0.05, return_of_clients=0.1, look_again=0.02)


@asynccontextmanager
async def chat_api(
    settings: Settings,
    backoff: Backoff = QUICKLY,
    *,
    clock: Clock = system_clock,
    timing: Timing = Timing(),  # noqa: B008 - immutable
) -> AsyncIterator[ChatApi]:
    """Run an API that hashes cheaply and retries at once."""
    async with running(
        settings, hasher=CHEAP_HASHER, clock=clock, backoff=backoff, timing=timing
    ) as api:
        yield api


@dataclass(frozen=True)
class World:
    """A running API with two people logged in, Ali (1) and Vali (2), and their chat (1)."""

    settings: Settings
    api: ChatApi
    receiver: RealtimeReceiver
    nobody: Client
    ali: Client
    vali: Client

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: Settings, receiver: RealtimeReceiver, backoff: Backoff = QUICKLY
    ) -> "AsyncIterator[World]":
        async with AsyncExitStack() as stack:
            api = await stack.enter_async_context(chat_api(settings, backoff))
            session = await stack.enter_async_context(
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60))
            )
            nobody = Client(session, api.url)
            ali = await nobody.log_in("ali@example.com")
            vali = await nobody.log_in("vali@example.com")
            await ali.post("/api/chats", {"user_id": 2})
            yield cls(settings, api, receiver, nobody, ali, vali)

    async def stranger(self) -> Client:
        """Log somebody in who has no chat with anyone."""
        return await self.nobody.log_in("agent@example.com")
