"""The backend is told of what happens by one node."""

from __future__ import annotations

import pytest

from reverb_py.webhooks.dispatch import Webhooks
from tests.reverb_py.cluster.nodes import Deployment, until
from tests.reverb_py.cluster.test_presence import leave


async def test_one_node_tells_of_each_change(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, ...]] = []

    def note(kind: str) -> None:
        monkeypatch.setattr(
            Webhooks, kind, lambda webhooks, app, *details: told.append((kind, *details))
        )

    for kind in ("channel_occupied", "channel_vacated", "member_added", "member_removed"):
        note(kind)
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
    assert sorted(told) == [
        ("channel_occupied", "orders"),
        ("channel_occupied", "presence-room"),
        ("channel_vacated", "orders"),
        ("channel_vacated", "presence-room"),
        ("member_added", "presence-room", "7"),
        ("member_added", "presence-room", "8"),
        ("member_removed", "presence-room", "7"),
        ("member_removed", "presence-room", "8"),
    ]
