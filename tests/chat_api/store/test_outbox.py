"""What it takes to use the outbox while the realtime server is away and a million events wait."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from chat_api.store import outbox as module
from chat_api.store.engine import Store
from chat_api.store.outbox import Outbox
from tests.chat_api.store.plans import plan_of

NOW = datetime(2025, 11, 13, 12, tzinfo=UTC)


@pytest.fixture
async def store(database: str) -> AsyncIterator[Store]:
    store = Store(database)
    yield store
    await store.close()


async def owe(store: Store, *channels: str, name: str = "news") -> None:
    outbox = Outbox(store)
    await store.write(
        lambda unit: outbox.add(
            unit,
            channels=channels,
            name=name,
            data="{}",
            socket_id=None,
            created_at=NOW,
            expires_at=None,
        )
    )


@pytest.mark.parametrize(
    ("statement", "parameters", "index"),
    [
        ("_WITHDRAW", {"channels": ["private-queue.x"], "name": "queue:snapshot"}, "channel_name"),
        ("_REFUSED", {}, "refused"),
    ],
)
async def test_what_is_done_often_looks_into_an_index(
    store: Store, statement: str, parameters: dict[str, Any], index: str
) -> None:
    plan = await plan_of(store, getattr(module, statement), parameters)

    assert f"ix_outbox_{index}" in plan, plan


@pytest.mark.parametrize(
    ("statement", "parameters"), [("_OLDEST", {"after": 0, "limit": 200}), ("_OLDEST_SINCE", {})]
)
async def test_the_oldest_are_the_first_of_the_table(
    store: Store, statement: str, parameters: dict[str, Any]
) -> None:
    plan = await plan_of(store, getattr(module, statement), parameters)

    assert "pk_outbox" in plan or plan.startswith(("SEARCH outbox USING INTEGER", "SCAN outbox"))
    assert "sort" not in plan.lower()
    assert "TEMP B-TREE" not in plan


async def test_taking_back_takes_what_is_owed_of_that_name_on_that_channel(store: Store) -> None:
    outbox = Outbox(store)
    for name in ("news", "state"):
        await owe(store, "private-one", "private-two", name=name)

    await store.write(lambda unit: outbox.withdraw(unit, channels=["private-one"], name="state"))

    left = [(event.channel, event.name) for event in await outbox.oldest(10)]
    assert left == [("private-one", "news"), ("private-two", "news"), ("private-two", "state")]


async def test_however_many_ask_it_is_counted_once_in_a_while(store: Store) -> None:
    seldom, always = Outbox(store, count_every=3_600), Outbox(store, count_every=0)
    await owe(store, "private-one", "private-two")
    [first, second] = await seldom.oldest(2)
    await seldom.set_aside(first.id, "too big", NOW)
    before = await seldom.backlog()

    await seldom.settle([second.id])

    assert (before.owed, before.oldest, before.refused) == (1, NOW, 1)
    assert await seldom.backlog() == before
    assert await always.backlog() == (0, None, 1)
