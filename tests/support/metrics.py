"""What a server shows of itself, as Prometheus reads it."""

from __future__ import annotations

from typing import Any

import aiohttp
from prometheus_client.openmetrics import parser as open_metrics_parser
from prometheus_client.parser import text_string_to_metric_families

__all__ = ["Numbers", "Scrape", "open_metrics", "scraped"]

Numbers = dict[tuple[str, ...], float]


class Scrape:
    """
    The samples of one answer.

    `numbers` has each by its name, without the prefix, and the values of its labels in the order of
    the labels' names; `families` the type of each metric by its name.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.numbers: Numbers = {}
        self.families: dict[str, str] = {}
        for family in text_string_to_metric_families(text):
            name = family.name.removeprefix("reverb_")
            self.families[name + "_total" * (family.type == "counter")] = family.type
            for sample in family.samples:
                labels = [value for _, value in sorted(sample.labels.items())]
                key = (sample.name.removeprefix("reverb_"), *labels)
                assert key not in self.numbers, key
                self.numbers[key] = sample.value

    def __getitem__(self, key: tuple[str, ...]) -> float:
        return self.numbers[key]


def open_metrics(text: str) -> dict[str, str]:
    """Return the type of each metric of a text in the form of OpenMetrics, which is strict."""
    parse: Any = open_metrics_parser.text_string_to_metric_families
    return {family.name: family.type for family in parse(text)}


async def scraped(port: int | None, path: str = "/metrics") -> Scrape:
    """Ask once."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}{path}") as response,
    ):
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return Scrape(await response.text())
