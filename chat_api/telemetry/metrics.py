"""
Metrics in Prometheus' form, on a port of their own: how many people talk is nobody else's business.

Requests are counted as they are answered. Everything else is a `Measure`, read when somebody looks.
"""

import asyncio
import platform
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram, Info, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from chat_api.kernel.errors import Unavailable
from chat_api.kernel.measures import Measure, Samples

__all__ = ["Metrics"]

_log = structlog.get_logger("chat_api.metrics")

_PREFIX: Final = "chat_"
_BUCKETS: Final = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
)  # seconds
_METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})


class Metrics:
    """
    The metrics of one API, in a registry of their own.

    What can't be read within `read_within` seconds is missing: Prometheus itself waits for ten.
    """

    def __init__(self, version: str, *, read_within: float = 5.0) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "chat_http_requests",
            "Requests that were answered, by the route's template.",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self._durations = Histogram(
            "chat_http_request_duration_seconds",
            "How long answering took.",
            ("method", "route"),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        build = Info("chat_build", "What is running.", registry=self._registry)
        build.info({"version": version, "python": platform.python_version()})
        ProcessCollector(registry=self._registry)
        self._measures = _Measures(read_within)
        self._registry.register(self._measures)
        self._reading = asyncio.Lock()

    def watch(self, measures: Iterable[Measure]) -> None:
        """Show these measures, too."""
        self._measures.watched.extend(measures)

    def answered(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """Count a request. `route` is the template of its path, None where there is no route."""
        # A label's value is kept for ever, so nobody outside may make one up.
        method = method if method in _METHODS else "other"
        route = route or "none"
        self._requests.labels(method, route, status).inc()
        self._durations.labels(method, route).observe(seconds)

    @asynccontextmanager
    async def served(self, host: str, port: int) -> AsyncIterator[int]:
        """
        Answer `GET /metrics` while the block runs, on the port that comes out; 0 takes a free one.

        Raises:
            OSError: It cannot listen.
        """
        app = web.Application()
        app.router.add_get("/metrics", self._exposition, allow_head=False)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        try:
            site = web.TCPSite(runner, host, port)
            await site.start()
            yield runner.addresses[0][1]
        finally:
            await runner.cleanup()

    async def _exposition(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        async with self._reading:
            await self._measures.read()
            body = encode(self._registry)
        return web.Response(body=body, headers={"Content-Type": content_type})


class _Measures(Collector):
    """What was read last, as Prometheus' library wants to have it."""

    def __init__(self, read_within: float) -> None:
        self._read_within = read_within
        self.watched: list[Measure] = []
        self._samples: list[Samples | None] = []

    async def read(self) -> None:
        readings = [asyncio.create_task(_read(measure)) for measure in self.watched]
        if readings:
            _, late = await asyncio.wait(readings, timeout=self._read_within)
            for reading in late:
                reading.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._samples = [None if reading.cancelled() else reading.result() for reading in readings]

    def collect(self) -> Iterable[Metric]:
        unknown = GaugeMetricFamily(
            "chat_unreadable_measures", "Measures that are missing here, as reading them failed."
        )
        unknown.add_metric((), self._samples.count(None))
        yield unknown
        for measure, samples in zip(self.watched, self._samples, strict=False):
            if samples is not None:
                yield _family(measure, samples)


async def _read(measure: Measure) -> Samples | None:
    try:
        return await measure.read()
    except Unavailable:
        return None  # the store has said so
    except Exception as error:
        # Whatever it is, the other measures are needed all the more.
        _log.warning("A measure could not be read", measure=measure.name, reason=str(error))
        return None


def _family(measure: Measure, samples: Samples) -> Metric:
    kind = CounterMetricFamily if measure.name.endswith("_total") else GaugeMetricFamily
    family = kind(_PREFIX + measure.name, measure.meaning, labels=measure.labels)
    for values, number in samples.items():
        family.add_metric(values, number)
    return family
