"""Units of work: whole or not at all, in order, and safe together."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine, select, text
from sqlalchemy.exc import IntegrityError

import chat_api.runtime  # noqa: F401 - brings every feature's tables along
from chat_api.store.engine import Store, UnitOfWork
from chat_api.store.tables import Base, OutboxRow


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = Store(f"sqlite:///{tmp_path / 'test.sqlite3'}")
    await store.migrate()
    yield store
    await store.close()


def insert(name: str, event_key: str = "k") -> str:
    return (
        "INSERT INTO outbox (event_key, channels, name, data, created_at) "
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


async def test_the_migrations_can_be_undone(store: Store) -> None:
    def undo(unit: UnitOfWork) -> list[str]:
        from alembic.operations import Operations

        from chat_api.store.migrations.versions import v0001_accounts_and_direct_chats as first

        with Operations.context(MigrationContext.configure(unit.connection)):
            first.downgrade()
        rows = unit.connection.execute(
            text("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        )
        return [row.name for row in rows]

    assert await store.write(undo) == ["alembic_version"]
