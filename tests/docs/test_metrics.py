"""docs/metrics.md has a row for each metric that is shown, with its type, and no other."""

from __future__ import annotations

import json
import re
import secrets

import pytest

from reverb_py.cluster.connections import RedisAddress
from reverb_py.cluster.node import Scaling
from reverb_py.telemetry.metrics import MetricsPlace
from reverb_py.testing import serving
from tests.docs.references import DOCS, broken_links, existing_tests, named_tests
from tests.support.metrics import Scrape, scraped
from tests.support.redis import redis_server

_PAGE = (DOCS / "metrics.md").read_text()
_ALL_BOUNDS = (DOCS / "bounds.md").read_text()
_BOUNDS, _, _CHAT_BOUNDS = _ALL_BOUNDS.partition("\n## chat_api\n")
_ROWS = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", _PAGE, re.MULTILINE))
_LABELS = {
    name: set(re.findall(r"`(\w+)`", labels))
    for name, labels in re.findall(r"^\| `(\w+)` \| \w+ \| ((?:`\w+`,? ?)*)\|", _PAGE, re.MULTILINE)
}


async def _shown() -> Scrape:
    with redis_server() as redis:
        scaling = Scaling(
            redis=RedisAddress(port=redis.port), prefix=f"test.{secrets.token_hex(4)}:"
        )
        async with (
            serving(scaling=scaling, metrics=MetricsPlace(port=0)) as server,
            server.connected() as client,
        ):
            await client.subscribe("orders")
            return await scraped(server.metrics_port)


async def test_each_metric_has_a_row_with_its_type() -> None:
    shown = await _shown()
    of_process = {name for name in shown.families if name.startswith("process_")}

    rows = dict(_ROWS)
    assert rows.pop("worker_up") == "gauge"
    assert rows == {
        name: "counter" if kind == "unknown" else kind
        for name, kind in shown.families.items()
        if name not in of_process
    }
    assert all(f"`{name}`" in _PAGE for name in of_process)


async def test_each_row_names_the_labels() -> None:
    shown = await _shown()
    labels = {
        match[1]: set(re.findall(r'(\w+)="', match[2] or "")) - {"le"}
        for match in re.finditer(r"^reverb_(\w+?)(?:\{(.*)\})? \S+$", shown.text, re.MULTILINE)
        if not re.search("_(?:bucket|sum|count)$", match[1])
    }
    assert len(labels) > 20
    for name, found in labels.items():
        expected = _LABELS.get(name, {"app_id", "port"})
        assert found == expected, name


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", _BOUNDS))))
def test_a_bound_names_metrics_that_there_are(name: str) -> None:
    assert name in _ROWS or name == "connected"


@pytest.mark.parametrize("variable", sorted(set(re.findall(r"`(REVERB_\w+)`", _BOUNDS))))
def test_a_bound_names_settings_that_there_are(variable: str) -> None:
    assert f"`{variable}`" in (DOCS / "configuration.md").read_text()


@pytest.mark.parametrize("variable", sorted(set(re.findall(r"`(CHAT_\w+)`", _CHAT_BOUNDS))))
def test_a_bound_of_the_chat_names_settings_that_there_are(variable: str) -> None:
    assert f"`{variable}`" in (DOCS / "configuration.md").read_text()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`chat_(\w+)`", _CHAT_BOUNDS))))
def test_a_bound_of_the_chat_names_metrics_that_there_are(name: str) -> None:
    sources = (DOCS.parent / "chat_api").rglob("*.py")
    words = [f'"{name}"', f'"chat_{name.removesuffix("_total")}"']
    assert any(word in source.read_text() for source in sources for word in words)


def test_the_board_asks_for_metrics_that_there_are() -> None:
    board = json.loads((DOCS / "grafana.json").read_text())
    expressions = [
        target["expr"] for panel in board["panels"] for target in panel.get("targets", ())
    ]
    assert len(expressions) > 20
    for expression in expressions:
        names = re.findall(r"\$\{prefix\}(\w+)", expression)
        assert names, expression
        for name in names:
            assert name in _ROWS or _ROWS[re.sub("_(?:bucket|sum|count)$", "", name)] == "histogram"


def test_each_bound_has_an_outcome_a_metric_and_a_test() -> None:
    rows = re.findall(r"^\| (?!What |---)(.+) \|$", _ALL_BOUNDS, re.MULTILINE)
    assert len(rows) > 30
    for row in rows:
        what, per, bound, _, metric, test = row.split(" | ")
        assert what, row
        assert per, row
        assert bound, row
        assert metric.startswith("`"), row
        assert test.startswith("`"), row


@pytest.mark.parametrize(("file", "name"), named_tests(_BOUNDS))
def test_the_test_of_a_bound_exists(file: str, name: str) -> None:
    assert name in existing_tests(f"reverb_py/{file}")


@pytest.mark.parametrize(("file", "name"), named_tests(_CHAT_BOUNDS))
def test_the_test_of_a_bound_of_the_chat_exists(file: str, name: str) -> None:
    assert name in existing_tests(f"chat_api/{file}")


def test_links_lead_somewhere() -> None:
    assert broken_links(re.sub(r"\.md#[\w-]+", ".md", _PAGE + _ALL_BOUNDS)) == []
