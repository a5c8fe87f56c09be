"""The history of the schema, forwards and back, on either database."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, select, text

import chat_api.runtime  # noqa: F401 - brings every feature's tables along
from chat_api.features.support.models import SupportConversation
from chat_api.settings import Settings
from chat_api.store import migrations
from chat_api.store.database import UnusableDatabase
from chat_api.store.engine import Store
from chat_api.store.tables import Base, OutboxRow
from tests.chat_api.features.support.desk import desk_at
from tests.chat_api.receiver import RealtimeReceiver

VERSIONS = [
    script.revision for script in ScriptDirectory(migrations.__path__[0]).walk_revisions()
]  # the newest first


@pytest.fixture
async def store(empty_database: str) -> AsyncIterator[Store]:
    store = Store(empty_database)
    yield store
    await store.close()


def difference(connection: Connection) -> object:
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return compare_metadata(context, Base.metadata)


async def tables(store: Store) -> set[str]:
    return set(await store.write(lambda unit: inspect(unit.connection).get_table_names())) - {
        "alembic_version"
    }


async def test_the_migrations_make_exactly_the_tables_the_models_describe(store: Store) -> None:
    # A comparison that could not see a difference would be worth nothing.
    assert await store.write(lambda unit: difference(unit.connection)) != []

    await store.migrate()

    assert await store.write(lambda unit: difference(unit.connection)) == []


async def test_every_migration_can_be_undone_and_done_again(store: Store) -> None:
    await store.migrate()
    everything = await tables(store)

    for version in [*VERSIONS[1:], "base"]:
        await store.migrate_back(version)
    assert await tables(store) == set()

    await store.migrate()
    assert await tables(store) == everything
    assert await store.write(lambda unit: difference(unit.connection)) == []


async def test_migrating_twice_changes_nothing(database: str) -> None:
    store = Store(database)
    await store.migrate()
    emails = await store.all(select(text("email")).select_from(text("users")))
    await store.close()

    assert ("ali@example.com",) in emails


async def test_several_processes_may_migrate_at_once(empty_database: str) -> None:
    stores = [Store(empty_database) for _ in range(3)]

    await asyncio.gather(*(store.migrate() for store in stores))

    assert "outbox" in await tables(stores[0])
    await asyncio.gather(*(store.close() for store in stores))


async def test_a_schema_from_the_future_is_left_alone(store: Store) -> None:
    await store.migrate()
    await store.write(
        lambda unit: unit.connection.exec_driver_sql(
            "UPDATE alembic_version SET version_num = 'tomorrow'"
        )
    )

    with pytest.raises(UnusableDatabase) as error:
        await store.migrate()

    assert str(error.value) == (
        "this version does not know its schema: Can't locate revision identified by 'tomorrow'"
    )


async def test_an_event_owed_to_several_channels_becomes_several_and_one_again(
    store: Store,
) -> None:
    created, refused = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 2, tzinfo=UTC)
    a, b = "a" * 32, "b" * 32  # as long as keys are
    rows = (
        f"('{a}', 'one two', 'First', '{{}}', '2024-01-01 00:00:00Z', '2024-01-02 00:00:00Z'), "
        f"('{b}', 'two', 'Second', '{{}}', '2024-01-01 00:00:00Z', NULL)"
    )
    await store.migrate()
    await store.migrate_back("0001")
    await store.write(
        lambda unit: unit.connection.exec_driver_sql(
            "INSERT INTO outbox (event_key, channels, name, data, created_at, refused_at) "
            f"VALUES {rows}".replace("Z", "" if unit.connection.dialect.name == "sqlite" else "Z")
        )
    )

    await store.migrate()

    columns = (
        OutboxRow.id,
        OutboxRow.event_key,
        OutboxRow.channel,
        OutboxRow.name,
        OutboxRow.data,
        OutboxRow.created_at,
        OutboxRow.refused_at,
    )
    as_several = [
        (1, f"{a}-0", "one", "First", "{}", created, refused),
        (2, f"{a}-1", "two", "First", "{}", created, refused),
        (3, f"{b}-0", "two", "Second", "{}", created, None),
    ]
    assert await store.all(select(*columns).order_by(OutboxRow.id)) == as_several

    await store.migrate_back("0001")
    owed = select(text("event_key"), text("channels")).select_from(text("outbox"))
    assert await store.all(owed.order_by(text("id"))) == [
        (f"{a}-0", "one"),
        (f"{a}-1", "two"),
        (f"{b}-0", "two"),
    ]

    await store.migrate()
    assert await store.all(select(*columns).order_by(OutboxRow.id)) == as_several


async def test_what_was_said_stays_when_it_is_forgotten_who_was_seen(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    async with desk_at(settings, receiver) as desk:
        customer = await desk.customer()
        await customer.says("Hello?")

    store = Store(settings.database_url)
    await store.migrate_back("0006")
    await store.migrate()
    await store.close()

    async with desk_at(settings, receiver) as desk:
        again = await desk.customer()
        messages = await again.client.get(f"{again.path}/messages")
    assert again.id == customer.id
    assert [message["content"] for message in messages.body] == ["Hello?"]


async def test_agents_who_have_an_account_are_told_from_those_who_are_called_like_one(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    agents = select(SupportConversation.agent_id, SupportConversation.agent_user_id)
    async with desk_at(settings, receiver) as desk:
        of_account, of_proxy = await desk.taken("one"), await desk.taken("two")
        closed = await desk.taken("three")
        agent = await desk.agent()
        assert (await agent.post(f"{closed.agents_path}/close", {})).status == 200

    store = Store(settings.database_url)
    await store.migrate_back("0009")
    await store.write(
        lambda unit: unit.connection.execute(
            text("UPDATE conversations SET agent_name = 'Somebody Else' WHERE id = :id"),
            {"id": of_proxy.id},
        )
    )
    await store.migrate()
    known = [
        await store.all(agents.where(SupportConversation.id == each.id))
        for each in (of_account, of_proxy, closed)
    ]
    await store.close()

    assert known == [[("3", 3)], [("3", None)], [("3", 3)]]
