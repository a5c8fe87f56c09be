"""Lists of conversations: the latest first, without looking at all there ever were."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest
from sqlalchemy import Select

from chat_api.features.support.rules import TAKEN, Closing, Party, Role, Status
from chat_api.features.support.service import Conversations, Wanted
from chat_api.store.engine import Store
from tests.chat_api.features.support.desk import TENANT, Desk, naming
from tests.chat_api.store.plans import plan_of

HERE = frozenset({TENANT})
EVERYWHERE = None


def staff(role: Role, domains: frozenset[str] | None) -> Party:
    return Party(role, domains, id="3", name="Agent Smith", user_id=3)


def conversations_of(store: Store) -> Conversations:
    """Return the conversations of a store, which can be listed and nothing else."""
    needless: Any = None
    return Conversations(
        store,
        needless,
        tenants=needless,
        tokens=needless,
        customers=needless,
        agents=needless,
        queue=needless,
        transitions=needless,
        messages=needless,
        pushes=needless,
        limits=needless,
    )


@pytest.fixture
async def store(database: str) -> AsyncIterator[Store]:
    store = Store(database)
    yield store
    await store.close()


@pytest.mark.parametrize(
    ("party", "wanted", "indexes"),
    [
        (staff(Role.SUPERVISOR, HERE), Wanted(), ["latest_of_tenant"]),
        (staff(Role.SUPERVISOR, EVERYWHERE), Wanted(), ["latest"]),
        (
            staff(Role.SUPERVISOR, HERE),
            Wanted(frozenset({Status.CLOSED}), Closing.RESOLVED),
            ["latest_of_tenant"],
        ),
        (staff(Role.SUPERVISOR, HERE), Wanted(TAKEN), ["latest_open"]),
        (staff(Role.SUPERVISOR, EVERYWHERE), Wanted(agent_id="3"), ["latest_of_agent"]),
        (staff(Role.AGENT, HERE), Wanted(), ["latest_of_agent", "latest_open"]),
        (Party(Role.VOUCHED, HERE), Wanted(), ["latest_of_tenant"]),
    ],
)
async def test_a_list_is_read_in_the_order_of_an_index(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    party: Party,
    wanted: Wanted,
    indexes: Sequence[str],
) -> None:
    asked: list[Select[Any]] = []
    ask = Store.all

    async def watched(
        self: Store, query: Select[Any], parameters: Mapping[str, Any] | None = None
    ) -> Any:
        asked.append(query)
        return await ask(self, query, parameters)

    monkeypatch.setattr(Store, "all", watched)
    await conversations_of(store).listing(party, wanted, limit=20, offset=0)
    query, *counts = asked
    plan = await plan_of(store, query, {})

    for name in indexes:
        assert f"ix_conversations_{name} " in plan.replace("\n", " "), plan
    # What is sorted after that is the page.
    assert plan.count("TEMP B-TREE") <= 1, plan
    assert not any("customers" in str(count) for count in counts)


async def test_the_latest_active_come_first_whoever_asks(desk: Desk) -> None:
    customers = [await desk.customer(f"phone {number}") for number in range(4)]
    agent, supervisor = await desk.agent(), await desk.supervisor()
    await agent.post(f"{customers[1].agents_path}/accept", {})
    await supervisor.post(f"{customers[3].agents_path}/assign", {"agentId": "4"})
    for number in (2, 0, 1):
        await customers[number].says("Hello?")
    await customers[2].client.ask("DELETE", customers[2].path)

    async def listed(client: Any, query: str) -> tuple[list[int], int]:
        path = f"/api/v1/live-agent/sessions?{query}"
        reply = await client.ask("GET", path, headers=naming())
        assert reply.status == 200, reply
        ids = [customer.id for customer in customers]
        return (
            [ids.index(each["session_id"]) for each in reply.body["sessions"]],
            reply.body["total"],
        )

    assert await listed(supervisor, "") == ([1, 0, 2, 3], 4)
    assert await listed(supervisor, "per_page=2&page=2") == ([2, 3], 4)
    assert await listed(supervisor, "status=active") == ([1, 3], 2)
    assert await listed(supervisor, "status=closed") == ([2], 1)
    assert await listed(agent, "") == ([1, 0], 2)
    assert await listed(agent, "per_page=1&page=2") == ([0], 2)
    assert await listed(agent, "status=pending") == ([0], 1)
    assert await listed(agent, "assigned_to_me=true") == ([1], 1)
