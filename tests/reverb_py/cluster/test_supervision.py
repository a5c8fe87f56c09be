"""Whatever goes wrong in a task is logged, and the task goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from reverb_py.cluster import supervision
from reverb_py.cluster.listening import Listening
from reverb_py.cluster.supervision import go_on, until_one_fails
from reverb_py.cluster.topics import Topic
from reverb_py.core.hub import Hub
from tests.reverb_py.cluster.nodes import Deployment, member, until
from tests.reverb_py.cluster.test_faults import becomes, crosses
from tests.reverb_py.cluster.test_presence import leave


async def test_a_task_that_fails_is_logged_and_begins_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervision, "_PAUSE_SECONDS", 0)
    failures = [ValueError("one"), KeyError("two")]

    async def work() -> None:
        if failures:
            raise failures.pop(0)

    with capture_logs() as logs:
        await go_on("work", work)

    assert [(line["event"], line["task"], line["log_level"]) for line in logs] == [
        ("A task begins again", "work", "error")
    ] * 2


async def test_a_task_that_is_cancelled_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    task = asyncio.create_task(go_on("work", asyncio.Event().wait))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_when_one_fails_the_others_have_ended() -> None:
    ended = []

    async def last() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("last")

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("this")

    with pytest.raises(ValueError, match="this"):
        await until_one_fails([last(), fail()])
    assert ended == ["last"]


def failing_once(monkeypatch: pytest.MonkeyPatch, kind: type, method: str) -> list[str]:
    """Have a method fail when it is called first; return what then says so."""
    work: Callable[..., object] = getattr(kind, method)
    failed: list[str] = []

    def fail_once(*arguments: object, **named: object) -> object:
        if not failed:
            failed.append(method)
            raise ValueError("a mistake")
        return work(*arguments, **named)

    monkeypatch.setattr(kind, method, fail_once)
    return failed


async def test_topics_are_left_after_a_mistake_too(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await deployment.node()
    client = await deployment.client(node)
    await client.subscribe("orders")
    failed = failing_once(monkeypatch, Listening, "_tidy")

    with capture_logs() as logs:
        await until(lambda: bool(failed))
        await leave(client, "orders")
        await until(lambda: deployment.stored_keys() == ["{nodes}"])

    assert [line["task"] for line in logs if line["event"] == "A task begins again"] == [
        "idle topics"
    ]


@pytest.mark.parametrize(
    ("kind", "method"), [(Hub, "deliver_from_elsewhere"), (Hub, "census"), (Topic, "changed")]
)
async def test_the_bus_begins_again_after_a_mistake(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, kind: type, method: str
) -> None:
    here, there = await deployment.nodes(2)
    client, _ = await deployment.member(there, "7")
    failed = failing_once(monkeypatch, kind, method)
    names = deployment.stored_nodes()

    with capture_logs() as logs:
        await here.publish("n", "presence-room", "lost")
        await here.request("GET", "/channels")
        await deployment.member(here, "8")
        await until(lambda: bool(failed))
        await until(lambda: any(line["event"] == "Redis is back" for line in logs))

    assert "The bus begins again" in [line["event"] for line in logs]
    for node in (here, there):
        await becomes(node, is_ready=True)
    assert deployment.stored_nodes() != names
    await here.publish("n", "presence-room", "last")
    while "last" not in await client.receive():
        pass


async def test_a_mistake_with_one_topic_keeps_no_other_from_coming_back(
    fragile: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = await fragile.nodes(2)
    client = await fragile.client(there)
    for number in range(3):
        await client.subscribe(f"orders-{number}")
    failed = failing_once(monkeypatch, Topic, "lost")

    fragile.redis.restart()
    await until(lambda: bool(failed))
    for node in (here, there):
        await becomes(node, is_ready=True)

    for number in range(1, 3):
        await crosses(here, client, f"orders-{number}", number)
    newcomer = await fragile.client(there)
    await newcomer.subscribe("presence-room", member("7"))
