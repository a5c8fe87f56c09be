"""What is SQLite's own: files, full disks, and locks that others hold."""

import asyncio
import sqlite3
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import select
from structlog.testing import capture_logs

from chat_api.kernel.errors import Unavailable
from chat_api.store.engine import Store, UnitOfWork
from chat_api.store.tables import OutboxRow


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = Store(f"sqlite:///{tmp_path / 'test.sqlite3'}")
    await store.migrate()
    yield store
    await store.close()


def add(unit: UnitOfWork, name: str) -> str:
    unit.connection.exec_driver_sql(
        "INSERT INTO outbox (event_key, channel, name, data, created_at) "
        f"VALUES ('k', 'x', '{name}', '{{}}', '2024-01-01 00:00:00')"
    )
    return name


async def names(store: Store) -> list[str]:
    return [row.name for row in await store.all(select(OutboxRow.name).order_by(OutboxRow.id))]


def modes_in(folder: Path) -> dict[str, str]:
    return {file.name: stat.filemode(file.stat().st_mode) for file in folder.iterdir()}


async def test_a_full_disk_leaves_nobody_believing_that_their_unit_is_safe(store: Store) -> None:
    """SQLite takes the whole transaction back then, and not only the unit that met its end."""
    committed: list[str] = []

    def adding(name: str, unit: UnitOfWork) -> str:
        unit.when_committed(lambda: committed.append(name))
        return add(unit, name)

    def limit(unit: UnitOfWork) -> None:
        [(pages,)] = unit.connection.exec_driver_sql("PRAGMA page_count")
        unit.connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 10}")

    def lift(unit: UnitOfWork) -> None:
        unit.connection.exec_driver_sql("PRAGMA max_page_count = 1000000")

    await store.write(limit)
    wanted = [f"before {number}" for number in range(20)]
    wanted += ["filler " + "x" * 100_000]
    wanted += [f"after {number}" for number in range(20)]
    with capture_logs() as logs:
        results = await asyncio.gather(
            *(store.write(lambda unit, name=name: adding(name, unit)) for name in wanted),  # type: ignore[misc]
            return_exceptions=True,
        )

    told = [result for result in results if isinstance(result, str)]
    failed = [result for result in results if isinstance(result, Exception)]
    assert results[20] in failed
    assert all(isinstance(error, Unavailable) for error in failed)
    assert [(entry["event"], entry["reason"]) for entry in logs] == [
        ("The database takes no changes", "database or disk is full")
    ]
    assert await names(store) == committed == told
    await store.write(lift)
    await store.write(lambda unit: add(unit, "later"))
    assert (await names(store))[-1] == "later"


async def test_a_lock_that_somebody_holds_for_too_long_is_no_error_of_the_program(
    store: Store, tmp_path: Path
) -> None:
    await store.write(lambda unit: unit.connection.exec_driver_sql("PRAGMA busy_timeout = 1"))
    other = sqlite3.connect(tmp_path / "test.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with capture_logs() as logs:
        with pytest.raises(Unavailable) as error:
            await store.write(lambda unit: add(unit, "mine"))
        other.execute("ROLLBACK")
        other.close()
        await store.write(lambda unit: add(unit, "later"))

    assert (error.value.status, error.value.code, error.value.headers) == (
        503,
        "unavailable",
        {"Retry-After": "5"},
    )
    assert logs == [
        {
            "event": "The database takes no changes",
            "reason": "database is locked",
            "log_level": "error",
        },
        {"event": "The database works again", "log_level": "info"},
    ]
    assert await names(store) == ["later"]


async def test_what_people_said_is_readable_for_its_owner_alone(
    store: Store, tmp_path: Path
) -> None:
    await store.write(lambda unit: add(unit, "private"))
    leading = asyncio.Event()

    async def lead() -> None:
        leading.set()
        await asyncio.Future()

    task = asyncio.create_task(store.lead(lead, asyncio.Event()))
    await leading.wait()

    assert modes_in(tmp_path) == {
        "test.sqlite3": "-rw-------",
        "test.sqlite3-wal": "-rw-------",
        "test.sqlite3-shm": "-rw-------",
        "test.sqlite3-leader": "-rw-------",
    }
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
