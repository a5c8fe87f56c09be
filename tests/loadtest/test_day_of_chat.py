"""A day of chat: what it says of a run, and whose work it counts."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.postgresql import PostgresqlServer

LOADTEST = Path(__file__).parents[2] / "loadtest"


@pytest.fixture
def day_of_chat(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(LOADTEST)
    yield importlib.import_module("day_of_chat")
    for name in ("day_of_chat", "machine", "report"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("cores", "limit"),
    [
        ({"chat_api": 0.5, "the load": 0.4}, "waiting (disk, network)"),
        ({"chat_api": 0.9, "the load": 0.4}, "chat_api, which has one core"),
        (
            {"chat_api": 0.7, "PostgreSQL": 0.6, "the load": 0.6},
            "the machine, whose 2 cores are full",
        ),
        (
            {"chat_api": 0.9, "PostgreSQL": 0.5, "the load": 0.5},
            "chat_api, which has one core; the machine, whose 2 cores are full",
        ),
        ({"PostgreSQL": 1.2, "the load": 0.4}, "waiting (disk, network)"),
    ],
)
def test_a_run_says_what_was_full(
    day_of_chat: Any, monkeypatch: pytest.MonkeyPatch, cores: dict[str, float], limit: str
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    figures = day_of_chat.Figures(100, 2, 1, 2, 3, cores)

    assert figures.limit() == limit


def test_what_a_database_server_does_is_counted_for_all_its_sessions(
    day_of_chat: Any, postgresql: PostgresqlServer
) -> None:
    url = postgresql.url("postgres")
    server = day_of_chat.database_server(url)
    before = day_of_chat.family_seconds(server)
    for _ in range(2):  # one session is there when it is looked, one has ended
        with psycopg.connect(url) as connection:
            connection.execute("SELECT count(*) FROM generate_series(1, 1000000)")
            during = day_of_chat.family_seconds(server)

    assert before < during <= day_of_chat.family_seconds(server) + 0.01
