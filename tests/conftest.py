"""Databases for whatever is tested on both kinds: a file, or one of a server of this test run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.postgresql import PostgresqlServer, postgresql_server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_kind(request: pytest.FixtureRequest) -> str:
    """Have every test that uses a database run on each kind."""
    return str(request.param)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """Run one server for all tests of this process, once the first of them needs it."""
    with postgresql_server() as server:
        yield server


@pytest.fixture
def empty_database(
    database_kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[str]:
    """Lend a database of the test's own with nothing in it, by its URL."""
    if database_kind == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.sqlite3'}"
    else:
        server: PostgresqlServer = request.getfixturevalue("postgresql")
        with server.database() as name:
            yield server.url(name)
