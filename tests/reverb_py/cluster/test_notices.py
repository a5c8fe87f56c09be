"""The backend is told of what happens by one node."""

from __future__ import annotations

import pytest

from reverb_py.webhooks.dispatch import Webhooks
from tests.reverb_py.cluster.nodes import COUNTING, Deployment, until
from tests.reverb_py.cluster.test_presence import leave


def noted(monkeypatch: pytest.MonkeyPatch, *kinds: str) -> list[tuple[object, ...]]:
    """Return what the backend is told of these kinds, as it comes."""
    told: list[tuple[object, ...]] = []

    def note(kind: str) -> None:
        monkeypatch.setattr(
            Webhooks, kind, lambda webhooks, app, *details: told.append((kind, *details))
        )

    for kind in kinds:
        note(kind)
    return told


@pytest.mark.parametrize("channel", ["cache-orders", "private-cache-orders"])
async def test_a_channel_is_occupied_before_anything_happens_in_it(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, channel: str
) -> None:
    kinds = ("channel_occupied", "cache_miss", "subscription_count")
    told = noted(monkeypatch, *kinds)
    for number, node in enumerate(await deployment.nodes(2, COUNTING)):
        client = await deployment.client(node)
        await client.subscribe(f"{channel}-{number}")

    await until(lambda: len(told) == 6)
    for number in range(2):
        name = f"{channel}-{number}"
        assert [one for one in told if one[1] == name] == [
            ("channel_occupied", name),
            ("cache_miss", name),
            ("subscription_count", name, 1),
        ]


async def test_one_node_tells_of_each_change(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = noted(
        monkeypatch, "channel_occupied", "channel_vacated", "member_added", "member_removed"
    )
    here, there = await deployment.nodes(2)
    first, _ = await deployment.member(here, "7")
    second, _ = await deployment.member(there, "7")
    third, _ = await deployment.member(there, "8")
    await third.subscribe("orders")
    fourth = await deployment.client(here)
    await fourth.subscribe("orders")

    for client in (second, third, first):
        await leave(client)
    await leave(third, "orders")
    await leave(fourth, "orders")

    await until(lambda: len(told) == 8)
    assert sorted(told, key=str) == [
        ("channel_occupied", "orders"),
        ("channel_occupied", "presence-room"),
        ("channel_vacated", "orders"),
        ("channel_vacated", "presence-room"),
        ("member_added", "presence-room", "7"),
        ("member_added", "presence-room", "8"),
        ("member_removed", "presence-room", "7"),
        ("member_removed", "presence-room", "8"),
    ]
