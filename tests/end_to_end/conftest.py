"""A database of one's own for each test that wants one, on either kind."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.postgresql import PostgresqlServer, postgresql_server


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    with postgresql_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Lend an empty database, by its URL."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'chat.sqlite3'}"
    else:
        server: PostgresqlServer = request.getfixturevalue("postgresql")
        with server.database() as name:
            yield server.url(name)
