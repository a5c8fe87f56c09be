"""
Metrics in Prometheus' form, on a port of their own: how many people talk is nobody else's business.

What there is to measure comes in as `Measure`s, which are read when somebody looks. Several
processes on one port are one target: each answers on a socket in a private folder, and the parent
of all asks each of them.
"""

from __future__ import annotations

import asyncio
import errno
import platform
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final, NamedTuple

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry, Info, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from reverb_py.core.figures import Histogram, Measure, Sample

__all__ = ["Answer", "Metrics", "MetricsPlace", "MetricsUnavailable", "WorkersMetrics"]

_LAG_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_LOOK_SECONDS: Final = 0.1


@dataclass(frozen=True, kw_only=True)
class MetricsPlace:
    """
    Where metrics are shown, and what their names begin with.

    With a `socket`, the path of a Unix socket, they are shown there instead of at host and port.
    """

    host: str = "127.0.0.1"
    port: int = 9601
    prefix: str = "reverb_"
    socket: str | None = None

    def __str__(self) -> str:
        return self.socket or f"{self._host}:{self.port}"

    def url(self, port: int) -> str:
        """Return what to tell Prometheus, given the port that was taken."""
        return f"http://{self._host}:{port}/metrics"

    @property
    def _host(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host


class MetricsUnavailable(Exception):
    """Metrics can't be shown at their place; the text says what to change."""


class Answer(NamedTuple):
    """What is answered to `/up` or `/ready`."""

    status: int
    body: bytes
    content_type: str


class Metrics:
    """
    The metrics of one process: its measures, the lag of its event loop, and what the system knows.

    `answer` answers `/up` and `/ready`, as the server itself does.
    """

    def __init__(self, prefix: str, version: str, answer: Callable[[str], Answer]) -> None:
        self._answer = answer
        self._registry = CollectorRegistry()
        build = Info(f"{prefix}build", "What is running.", registry=self._registry)
        build.info({"version": version, "python": platform.python_version()})
        ProcessCollector(registry=self._registry)
        self._lag = Histogram(_LAG_SECONDS)
        self._measures = _Measures(prefix)
        self._registry.register(self._measures)
        self.watch(
            [
                Measure(
                    "event_loop_lag_seconds",
                    "histogram",
                    "How much later than asked for the event loop gets to something.",
                    (),
                    lambda: [Sample((), self._lag)],
                )
            ]
        )

    def watch(self, measures: Iterable[Measure]) -> None:
        """Show these measures, too."""
        self._measures.watched.extend(measures)

    @asynccontextmanager
    async def served(self, place: MetricsPlace) -> AsyncIterator[int | None]:
        """
        Answer while the block runs, on the port that comes out; with port 0 a free one is taken.

        Raises:
            MetricsUnavailable: It cannot listen there.
        """

        async def answer(path: str) -> Answer:
            return self._answer(path)

        async def registry() -> CollectorRegistry:
            return self._registry

        async with _served(place, registry, answer) as port:
            watching = asyncio.create_task(self._watch_loop(), name="event loop lag")
            try:
                yield port
            finally:
                watching.cancel()

    async def _watch_loop(self) -> None:
        while True:
            before = perf_counter()
            await asyncio.sleep(_LOOK_SECONDS)
            self._lag.observe(max(0.0, perf_counter() - before - _LOOK_SECONDS))


class WorkersMetrics:
    """
    The metrics of several processes together, each sample with its `worker`.

    `sockets` are where the workers answer, in their order. A worker that does not answer within
    `answer_within` seconds is left out, and `worker_up` says so.
    """

    def __init__(self, prefix: str, sockets: Sequence[Path], *, answer_within: float = 3.0) -> None:
        self._up = f"{prefix}worker_up"
        self._sockets = sockets
        self._answer_within = answer_within

    @asynccontextmanager
    async def served(self, place: MetricsPlace) -> AsyncIterator[int | None]:
        """Answer while the block runs, as `Metrics.served` does."""
        async with _served(place, self._registry, self._answer) as port:
            yield port

    async def _registry(self) -> CollectorRegistry:
        answers = await self._ask_all("/metrics")
        up = GaugeMetricFamily(self._up, "1 for a worker that answered.", labels=("worker",))
        families: dict[str, Metric] = {up.name: up}
        for number, answer in enumerate(answers):
            worker = str(number)
            is_there = answer is not None and answer.status == 200
            up.add_metric((worker,), float(is_there))
            if answer is None or not is_there:
                continue
            for family in text_string_to_metric_families(answer.body.decode()):
                merged = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                merged.samples += [
                    sample._replace(labels={**sample.labels, "worker": worker})
                    for sample in family.samples
                ]
        registry = CollectorRegistry()
        registry.register(_Families(list(families.values())))
        return registry

    async def _answer(self, path: str) -> Answer:
        """Answer what the workers answer: a worker's objection if there is one."""
        answer = None
        for answer in await self._ask_all(path):
            if answer is None:
                return Answer(503, b"A worker does not answer", "text/plain; charset=utf-8")
            if answer.status != 200:
                return answer
        assert answer is not None, "there is a worker"
        return answer

    async def _ask_all(self, path: str) -> list[Answer | None]:
        return list(await asyncio.gather(*(self._ask(socket, path) for socket in self._sockets)))

    async def _ask(self, socket: Path, path: str) -> Answer | None:
        try:
            async with (
                asyncio.timeout(self._answer_within),
                aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as session,
                session.get(f"http://worker{path}") as response,
            ):
                return Answer(response.status, await response.read(), response.content_type)
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None


class _Measures(Collector):
    """Measures as Prometheus' library wants to have them."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.watched: list[Measure] = []

    def collect(self) -> Iterable[Metric]:
        for measure in self.watched:
            yield _family(self._prefix + measure.name, measure)


class _Families(Collector):
    """Families that are there already."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _family(name: str, measure: Measure) -> Metric:
    family: CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily | UnknownMetricFamily
    if measure.kind == "histogram":
        family = HistogramMetricFamily(name, measure.meaning, labels=measure.labels)
    elif measure.kind == "gauge":
        family = GaugeMetricFamily(name, measure.meaning, labels=measure.labels)
    elif name.endswith("_total"):
        family = CounterMetricFamily(name, measure.meaning, labels=measure.labels)
    else:
        # The library, as OpenMetrics, knows no counter by another name. Its type is a hint only.
        family = UnknownMetricFamily(name, measure.meaning, labels=measure.labels)
    for labels, value in measure.read():
        if isinstance(value, Histogram):
            assert isinstance(family, HistogramMetricFamily)
            family.add_metric(labels, _buckets(value), value.total)
        else:
            assert not isinstance(family, HistogramMetricFamily)
            family.add_metric(labels, value)
    return family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Return for each bound how many values were not beyond it."""
    buckets = []
    count = 0
    names = [*(str(float(bound)) for bound in histogram.bounds), "+Inf"]
    for name, in_bucket in zip(names, histogram.counts, strict=True):
        count += in_bucket
        buckets.append((name, float(count)))
    return buckets


@asynccontextmanager
async def _served(
    place: MetricsPlace,
    registry: Callable[[], Awaitable[CollectorRegistry]],
    answer: Callable[[str], Awaitable[Answer]],
) -> AsyncIterator[int | None]:
    one_at_a_time = asyncio.Lock()

    async def exposition(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        async with one_at_a_time:
            body = encode(await registry())
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def health(request: web.Request) -> web.Response:
        status, body, content_type = await answer(request.path)
        return web.Response(status=status, body=body, headers={"Content-Type": content_type})

    app = web.Application()
    app.router.add_get("/metrics", exposition, allow_head=False)
    app.router.add_get("/up", health)
    app.router.add_get("/ready", health)
    async with AsyncExitStack() as stack:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        site: web.BaseSite
        if place.socket is None:
            site = web.TCPSite(runner, place.host, place.port)
        else:
            site = web.UnixSite(runner, place.socket)
        try:
            await site.start()
        except OSError as exc:
            # asyncio's words repeat the address in front of the reason.
            reason = (exc.strerror or str(exc)).rpartition(": ")[2]
            is_address = isinstance(exc, socket.gaierror) or exc.errno == errno.EADDRNOTAVAIL
            setting = "REVERB_METRICS_HOST" if is_address else "REVERB_METRICS_PORT"
            raise MetricsUnavailable(
                f"can't show metrics on {place}: {reason} (choose another {setting}, or "
                "set REVERB_METRICS_ENABLED=false)"
            ) from None
        yield None if place.socket is not None else runner.addresses[0][1]
