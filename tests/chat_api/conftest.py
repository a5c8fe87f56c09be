"""
A chat API of one's own for each test, with its database and a realtime server to publish to.

A test that uses `database`, or anything that does (`settings`, `world`), runs once on SQLite and
once on PostgreSQL.
"""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from chat_api.settings import Settings
from tests.chat_api.receiver import RealtimeReceiver
from tests.chat_api.world import World, chat_api, settings_for
from tests.support.postgresql import PostgresqlServer


@pytest.fixture(autouse=True)
def _folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the settings of whoever runs the tests out of them."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("CHAT_", "REVERB_", "PG")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def seeded_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with what every test finds, to be copied."""
    path = tmp_path_factory.mktemp("seeded") / "chat.sqlite3"
    asyncio.run(_seed(f"sqlite:///{path}"))
    return path


@pytest.fixture(scope="session")
def seeded_postgresql(postgresql: PostgresqlServer) -> Iterator[str]:
    """Return the name of a database with the same."""
    with postgresql.database() as name:
        asyncio.run(_seed(postgresql.url(name)))
        yield name


async def _seed(database: str) -> None:
    async with chat_api(settings_for(database, RealtimeReceiver().app)):
        pass


@pytest.fixture
def database(database_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Lend a database of the test's own with the demo accounts, by its URL."""
    if database_kind == "sqlite":
        seeded = request.getfixturevalue("seeded_sqlite")
        yield f"sqlite:///{shutil.copy(seeded, tmp_path / 'chat.sqlite3')}"
    else:
        server: PostgresqlServer = request.getfixturevalue("postgresql")
        with server.database(request.getfixturevalue("seeded_postgresql")) as name:
            yield server.url(name)


@pytest.fixture
async def receiver() -> AsyncIterator[RealtimeReceiver]:
    async with RealtimeReceiver() as receiver:
        yield receiver


@pytest.fixture
def settings(database: str, receiver: RealtimeReceiver) -> Settings:
    return settings_for(database, receiver.app)


@pytest.fixture
async def world(settings: Settings, receiver: RealtimeReceiver) -> AsyncIterator[World]:
    async with World.open(settings, receiver) as world:
        yield world
