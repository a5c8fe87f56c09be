"""A chat API of one's own for each test, with its database and a realtime server to publish to."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chat_api.runtime import migrated_store, with_accounts
from chat_api.settings import Settings
from tests.chat_api.receiver import RealtimeReceiver
from tests.chat_api.world import CHEAP_HASHER, World, settings_for


@pytest.fixture(autouse=True)
def _folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the settings of whoever runs the tests out of them."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("CHAT_", "REVERB_")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def seeded_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a database with the demo accounts, to be copied."""
    path = tmp_path_factory.mktemp("seeded") / "chat.sqlite3"

    async def make() -> None:
        settings = settings_for(path, RealtimeReceiver().app)
        async with (
            migrated_store(settings) as store,
            with_accounts(settings, store, hasher=CHEAP_HASHER) as accounts,
        ):
            await accounts.seed()

    asyncio.run(make())
    return path


@pytest.fixture
def database(seeded_database: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(seeded_database, tmp_path / "chat.sqlite3"))


@pytest.fixture
async def receiver() -> AsyncIterator[RealtimeReceiver]:
    async with RealtimeReceiver() as receiver:
        yield receiver


@pytest.fixture
def settings(database: Path, receiver: RealtimeReceiver) -> Settings:
    return settings_for(database, receiver.app)


@pytest.fixture
async def world(settings: Settings, receiver: RealtimeReceiver) -> AsyncIterator[World]:
    async with World.open(settings, receiver) as world:
        yield world
