"""The jobs: what is done to the server, what is measured meanwhile, and what has to be true."""

import os
import time
from collections.abc import Callable, Sequence

from machine import memory_kibibytes, processor_seconds, waiting_seconds

from generator.job import Job
from generator.load import Load, Subscriber
from generator.wire import BrokenError

Result = dict[str, float]


class Stopwatch:
    """What a measurement takes, on the clock and of the CPU, from the creation of this object."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self._before = self._read()

    def _read(self) -> tuple[float, ...]:
        each = [processor_seconds(pid) for pid in self._pids]
        user, system = sum(used[0] for used in each), sum(used[1] for used in each)
        waited = waiting_seconds(os.getpid())
        if len(self._pids) == 1:  # several wait for each other where they share a core
            waited = max(waited, waiting_seconds(self._pids[0]))
        return time.monotonic(), time.process_time(), user, system, waited

    def stop(self, events: int, per_second: str) -> Result:
        """
        Return the figures of `events` that were measured until now.

        Their rate under the name `per_second`, the server's CPU time for each, how busy server and
        load were, and how long either waited because something else had its core (1 = one core).
        """
        elapsed, load, user, system, waited = (
            after - before for before, after in zip(self._before, self._read(), strict=True)
        )
        return {
            per_second: events / elapsed,
            "user_microseconds": user / events * 1e6,
            "processor_microseconds": (user + system) / events * 1e6,
            "server_busy": (user + system) / elapsed,
            "load_busy": load / elapsed,
            "disturbed": waited / elapsed,
        }


def fan_out(job: Job) -> Result:
    """Publish in a closed loop to many subscribers; count deliveries per second."""
    load = Load(job)
    load.prepare()
    request = job.publish_request(0)
    load.publish_closed_loop(lambda: request, job.warm_up)
    stopwatch = Stopwatch(job.pids)
    published = load.publish_closed_loop(lambda: request, job.seconds)
    deliveries = published * job.subscribers
    figures = stopwatch.stop(deliveries, "deliveries_per_second")
    load.check_exact()
    return {"published": published, "deliveries": deliveries, **figures}


def paced(job: Job) -> Result:
    """
    Publish at a fixed rate; measure from when a publish was due to each subscriber's receipt.

    Publishes are not spaced by their answers, so a server that falls behind is not asked less.
    """
    load = Load(job, is_stamped=True)
    load.prepare()
    latencies: list[int] = []
    load.on_stamp = lambda stamp: latencies.append(time.monotonic_ns() - stamp)
    interval = int(1e9 / job.rate)
    count = max(1, round(job.seconds * job.rate))
    stopwatch = Stopwatch(job.pids)
    start = time.monotonic_ns()
    for number in range(1, count + 1):
        due = start + number * interval
        # epoll counts whole milliseconds: the last one is waited for without sleeping.
        while (left := due - time.monotonic_ns()) > 0:
            load.poll(left // 1_000_000 / 1000)
        load.wait_until(lambda: bool(load.idle), lambda: "no publish was answered")
        load.idle.pop(0).send(job.publish_request(due))
    load.wait_for_deliveries()
    figures = stopwatch.stop(len(latencies), "deliveries_per_second")
    load.check_exact()
    latencies.sort()
    return {
        "published": count,
        "deliveries": len(latencies),
        "p50_milliseconds": latencies[len(latencies) // 2] / 1e6,
        "p99_milliseconds": latencies[len(latencies) * 99 // 100] / 1e6,
        "max_milliseconds": latencies[-1] / 1e6,
        **figures,
    }


def publishes(job: Job) -> Result:
    """Publish in a closed loop to few subscribers; count publishes per second."""
    load = Load(job, is_stamped=True)
    load.prepare()
    # Signed before the run, each with its own stamp: signing is not part of what is measured.
    requests = [job.publish_request(stamp) for stamp in range(1, 2049)]
    sent: list[int] = []
    delivered: list[int] = []
    load.on_stamp = delivered.append

    def next_request() -> bytes:
        index = len(sent) % len(requests)
        sent.append(index + 1)
        return requests[index]

    load.publish_closed_loop(next_request, job.warm_up)
    stopwatch = Stopwatch(job.pids)
    published = load.publish_closed_loop(next_request, job.seconds)
    figures = stopwatch.stop(published, "publishes_per_second")
    load.check_exact()
    if sorted(delivered) != sorted(sent * job.subscribers):
        raise BrokenError("what was delivered is not what was published")
    return {"published": published, "deliveries": published * job.subscribers, **figures}


def connects(job: Job) -> Result:
    """Open connections that each subscribe to a signed private channel of their own."""
    load = Load(job)

    def start(number: int) -> None:
        Subscriber(load, f"private-{job.channel}-{number}")

    load.make_ready(min(50, job.connections), start)
    stopwatch = Stopwatch(job.pids)
    load.make_ready(job.connections, start)
    figures = stopwatch.stop(job.connections, "connections_per_second")
    return {"connections": job.connections, **figures}


def memory(job: Job) -> Result:
    """Hold connections that do nothing; measure the server's memory for each of them."""
    load = Load(job)

    def start(number: int) -> None:
        load.subscribers.append(Subscriber(load, None))

    def subscribe(number: int) -> None:
        load.subscribers[number].subscribe(f"private-{job.channel}-{number}")

    # What the first connections make the server load once is not theirs alone.
    warm_up = min(50, job.connections)
    load.make_ready(warm_up, start)
    load.make_ready(warm_up, subscribe)
    load.subscribers.clear()
    before = settled_memory(load)
    load.make_ready(job.connections, start)
    idle = settled_memory(load)
    load.make_ready(job.connections, subscribe)
    subscribed = settled_memory(load)
    return {
        "connections": job.connections,
        "idle_kibibytes": (idle - before) / job.connections,
        "subscribed_kibibytes": (subscribed - before) / job.connections,
        "server_mebibytes": before / 1024,
    }


JOBS: dict[str, Callable[[Job], Result]] = {
    job.__name__: job for job in (fan_out, paced, publishes, connects, memory)
}


def settled_memory(load: Load) -> float:
    """Return the server's memory in KiB once it has stopped changing."""
    last = memory_of(load.job)
    for _ in range(40):
        settled = time.monotonic() + 0.15
        while time.monotonic() < settled:
            load.poll(0.05)
        now = memory_of(load.job)
        if now == last:
            break
        last = now
    return last


def memory_of(job: Job) -> float:
    """Return the memory of all the server's processes in KiB."""
    return sum(memory_kibibytes(pid) for pid in job.pids)
