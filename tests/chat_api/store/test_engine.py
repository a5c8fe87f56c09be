"""Units of work: whole or not at all, in order, and safe together."""

import asyncio
import sqlite3
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Connection, create_engine, select, text
from sqlalchemy.exc import IntegrityError, OperationalError

import chat_api.runtime  # noqa: F401 - brings every feature's tables along
from chat_api.store.engine import Store, UnitOfWork
from chat_api.store.migrations.versions import v0001_accounts_and_direct_chats as v0001
from chat_api.store.migrations.versions import v0002_one_channel_per_outbox_row as v0002
from chat_api.store.tables import Base, OutboxRow


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = Store(f"sqlite:///{tmp_path / 'test.sqlite3'}")
    await store.migrate()
    yield store
    await store.close()


def insert(name: str, event_key: str = "k") -> str:
    return (
        "INSERT INTO outbox (event_key, channel, name, data, created_at) "
        f"VALUES ('{event_key}', 'x', '{name}', '{{}}', '2024-01-01 00:00:00')"
    )


def adding(name: str, committed: list[str] | None = None) -> Callable[[UnitOfWork], str]:
    def work(unit: UnitOfWork) -> str:
        unit.connection.exec_driver_sql(insert(name))
        if committed is not None:
            unit.when_committed(lambda: committed.append(name))
        if name.startswith("bad"):
            raise ValueError(name)
        return name

    return work


def modes_in(folder: Path) -> dict[str, str]:
    return {file.name: stat.filemode(file.stat().st_mode) for file in folder.iterdir()}


async def names(store: Store) -> list[str]:
    return [row.name for row in await store.all(select(OutboxRow.name).order_by(OutboxRow.id))]


async def test_a_unit_that_raises_leaves_no_trace(store: Store) -> None:
    committed: list[str] = []

    assert await store.write(adding("good", committed)) == "good"
    with pytest.raises(ValueError, match="bad"):
        await store.write(adding("bad", committed))

    assert await names(store) == committed == ["good"]


async def test_units_that_share_a_transaction_fail_each_for_itself(store: Store) -> None:
    committed: list[str] = []
    wanted = [f"bad {number}" if number % 7 == 3 else f"good {number}" for number in range(300)]

    results = await asyncio.gather(
        *(store.write(adding(name, committed)) for name in wanted), return_exceptions=True
    )

    good = [name for name in wanted if name.startswith("good")]
    assert [result for result in results if isinstance(result, str)] == good
    assert sum(isinstance(result, ValueError) for result in results) == 300 - len(good)
    # Ids, commits and announcements have one order: that of the calls.
    assert await names(store) == committed == good


async def test_a_full_disk_leaves_nobody_believing_that_their_unit_is_safe(store: Store) -> None:
    """SQLite takes the whole transaction back then, and not only the unit that met its end."""
    committed: list[str] = []

    def fill(unit: UnitOfWork) -> None:
        unit.connection.exec_driver_sql(insert("filler " + "x" * 100_000))

    def limit(unit: UnitOfWork) -> None:
        [(pages,)] = unit.connection.exec_driver_sql("PRAGMA page_count")
        unit.connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 10}")

    await store.write(limit)
    results = await asyncio.gather(
        *(store.write(adding(f"before {number}", committed)) for number in range(20)),
        store.write(fill),
        *(store.write(adding(f"after {number}", committed)) for number in range(20)),
        return_exceptions=True,
    )

    told = [result for result in results if isinstance(result, str)]
    assert isinstance(results[20], OperationalError)
    assert await names(store) == committed == told
    await store.write(adding("later"))
    assert (await names(store))[-1] == "later"


async def test_a_broken_constraint_reaches_only_its_own_caller(store: Store) -> None:
    def duplicate(unit: UnitOfWork) -> None:
        unit.connection.execute(
            text("INSERT INTO direct_chats (first_id, second_id, created_at) VALUES (1, 2, 'x')")
        )

    results = await asyncio.gather(
        store.write(adding("a")),
        store.write(duplicate),
        store.write(adding("b")),
        return_exceptions=True,
    )

    assert isinstance(results[1], IntegrityError)  # there are no such users
    assert await names(store) == ["a", "b"]


async def test_a_wait_that_is_cancelled_does_not_disturb_the_others(store: Store) -> None:
    waits = [asyncio.create_task(store.write(adding(str(number)))) for number in range(3)]
    await asyncio.sleep(0)
    waits[1].cancel()

    results = await asyncio.gather(*waits, return_exceptions=True)

    assert [results[0], results[2]] == ["0", "2"]
    assert isinstance(results[1], asyncio.CancelledError)
    assert await names(store) == ["0", "1", "2"]


async def test_ids_of_the_outbox_are_never_given_out_twice(store: Store) -> None:
    await store.write(adding("first"))
    await store.write(lambda unit: unit.connection.execute(text("DELETE FROM outbox")))
    await store.write(adding("second"))

    [row] = await store.all(select(OutboxRow.id))
    assert row.id == 2


async def test_another_process_writing_is_waited_for(store: Store, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "test.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.execute(insert("theirs"))

    waiting = asyncio.create_task(store.write(adding("ours")))
    assert await names(store) == []
    other.execute("COMMIT")
    other.close()

    assert await waiting == "ours"
    assert await names(store) == ["theirs", "ours"]


async def test_what_was_handed_in_before_closing_is_done(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'test.sqlite3'}"
    store = Store(url)
    await store.migrate()
    waiting = [asyncio.create_task(store.write(adding(str(number)))) for number in range(50)]
    await asyncio.sleep(0)

    await store.close()
    await asyncio.gather(*waiting)

    again = Store(url)
    assert len(await names(again)) == 50
    await again.close()


async def test_the_migrations_make_exactly_the_tables_the_models_describe(
    store: Store, tmp_path: Path
) -> None:
    def difference(connection: Connection) -> object:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return compare_metadata(context, Base.metadata)

    assert await store.write(lambda unit: difference(unit.connection)) == []

    # A comparison that could not see a difference would be worth nothing.
    empty = create_engine(f"sqlite:///{tmp_path / 'empty.sqlite3'}")
    with empty.connect() as connection:
        assert difference(connection) != []
    empty.dispose()


async def test_migrating_twice_changes_nothing(store: Store) -> None:
    await store.write(adding("kept"))

    await store.migrate()

    assert await names(store) == ["kept"]


async def test_what_people_said_is_readable_for_its_owner_alone(
    store: Store, tmp_path: Path
) -> None:
    await store.write(adding("private"))

    assert modes_in(tmp_path) == {
        "test.sqlite3": "-rw-------",
        "test.sqlite3-wal": "-rw-------",
        "test.sqlite3-shm": "-rw-------",
    }


async def test_an_event_owed_to_several_channels_becomes_several_and_one_again(
    store: Store,
) -> None:
    columns = "event_key, {}, name, data, created_at, refused_at"

    def migrate(unit: UnitOfWork) -> tuple[list[Any], list[Any]]:
        run = unit.connection.exec_driver_sql
        with Operations.context(MigrationContext.configure(unit.connection)):
            v0002.downgrade()
            run(
                f"INSERT INTO outbox ({columns.format('channels')}) VALUES "
                "('a', 'one two', 'First', '{}', '2024-01-01 00:00:00', '2024-01-02 00:00:00'), "
                "('b', 'two', 'Second', '{}', '2024-01-01 00:00:00', NULL)"
            )
            v0002.upgrade()
            upgraded = run(f"SELECT id, {columns.format('channel')} FROM outbox ORDER BY id").all()
            v0002.downgrade()
            downgraded = run("SELECT event_key, channels FROM outbox ORDER BY id").all()
            v0002.upgrade()
        return [tuple(row) for row in upgraded], [tuple(row) for row in downgraded]

    created, refused = "2024-01-01 00:00:00.000000", "2024-01-02 00:00:00.000000"
    assert await store.write(migrate) == (
        [
            (1, "a-0", "one", "First", "{}", created, refused),
            (2, "a-1", "two", "First", "{}", created, refused),
            (3, "b-0", "two", "Second", "{}", created, None),
        ],
        [("a-0", "one"), ("a-1", "two"), ("b-0", "two")],
    )


async def test_the_migrations_can_be_undone(store: Store) -> None:
    def undo(unit: UnitOfWork) -> list[str]:
        with Operations.context(MigrationContext.configure(unit.connection)):
            v0002.downgrade()
            v0001.downgrade()
        rows = unit.connection.execute(
            text("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        )
        return [row.name for row in rows]

    assert await store.write(undo) == ["alembic_version"]
