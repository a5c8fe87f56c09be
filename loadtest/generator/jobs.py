"""The jobs: what is done to the server, what is measured meanwhile, and what has to be true."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import orjson
from machine import memory_kibibytes, processor_seconds, waiting_seconds

from generator.job import Job
from generator.load import DELIVERY_TIMEOUT, Load, Subscriber
from generator.presence import Member
from generator.wire import BrokenError, Opcode, masked_frame

CLIENT_EVENTS_UNDER_WAY = 8

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
    load.hang_up()
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


def client_events(job: Job) -> Result:
    """Have one subscriber send client events to all others, eight under way; count deliveries."""
    load = Load(job)

    def start(number: int) -> None:
        load.subscribers.append(Subscriber(load, job.channel))

    load.make_ready(job.subscribers, start)
    sender, *others = load.subscribers
    load.subscribers = others
    event = {"event": job.event, "channel": job.channel, "data": job.stamped(0)}
    frame = masked_frame(Opcode.TEXT, orjson.dumps(event))

    def send_for(seconds: float) -> int:
        before = load.published
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            under_way = load.undelivered() / len(others)
            if under_way <= CLIENT_EVENTS_UNDER_WAY - 1:
                load.published += 1
                sender.send(frame)
            load.poll(0.05 if under_way >= CLIENT_EVENTS_UNDER_WAY - 1 else 0)
        load.wait_for_deliveries()
        return load.published - before

    load.published += 1
    sender.send(frame)
    load.wait_for_deliveries()
    send_for(job.warm_up)
    stopwatch = Stopwatch(job.pids)
    sent = send_for(job.seconds)
    deliveries = sent * len(others)
    figures = stopwatch.stop(deliveries, "deliveries_per_second")
    load.check_exact()
    if sender.received:
        raise BrokenError("a client event came back to its sender")
    return {"published": sent, "deliveries": deliveries, **figures}


def presence_growing(job: Job) -> Result:
    """Fill presence channels, of the first size, member by member; count joins per second."""
    load = Load(job)
    (size,) = job.sizes
    members: list[Member] = []

    def start(number: int) -> None:
        members.append(Member(load, str(number)))

    def join(number: int) -> None:
        members[number].join(f"presence-{job.channel}-{number // size}")

    load.make_ready(job.connections, start)
    stopwatch = Stopwatch(job.pids)
    load.make_ready(job.connections, join)
    full = job.connections // size * size
    load.wait_until(
        lambda: all(len(member.present) == size for member in members[:full]),
        lambda: "some members were not told of all others",
    )
    figures = stopwatch.stop(job.connections, "joins_per_second")
    return {"joins": job.connections, **figures}


def presence_full(job: Job) -> Result:
    """
    Have a member leave and join again, where so many are present that the channel is full with it.

    The rate is that of the first size. Everybody else is told twice, which is part of what a join
    costs, and so are the bytes of it all.
    """
    result: Result = {}
    for size in job.sizes:
        joins, kibibytes, figures = join_again_and_again(job, size)
        result = figures | result
        result[f"microseconds_at_{size}"] = figures["processor_microseconds"]
        result[f"per_kibibyte_at_{size}"] = figures["processor_microseconds"] * joins / kibibytes
    *_, middle, last = (result[f"per_kibibyte_at_{size}"] for size in job.sizes)
    return {**result, "growth": last / middle}


def join_again_and_again(job: Job, size: int) -> tuple[int, float, Result]:
    """Return how often one of `size` members joined, the KiB of it all, and what it took."""
    load = Load(job)
    channel = f"presence-{job.channel}-{size}"
    members: list[Member] = []

    def start(number: int) -> None:
        members.append(Member(load, str(number)))
        load.subscribers.append(members[-1])

    load.make_ready(size, start)
    load.make_ready(size, lambda number: members[number].join(channel))
    *others, joiner = members
    # The others have heard of each other: the first of size - 1 others, the last of none.
    heard = size * (size - 1) // 2
    joins = 0

    def join_until(end: float) -> int:
        nonlocal joins
        before = joins

        def join_again() -> None:
            nonlocal joins
            if time.monotonic() < end:
                joins += 1
                joiner.join(channel, again=True)

        load.on_ready = join_again
        join_again()
        load.wait_until(
            lambda: (
                time.monotonic() >= end
                and joiner.is_in
                and sum(member.heard for member in others) == heard + 2 * joins * len(others)
            ),
            lambda: "some joins were not announced to everybody, or more than once",
            job.seconds + DELIVERY_TIMEOUT,
        )
        return joins - before

    join_until(time.monotonic() + job.warm_up)
    received = load.received
    stopwatch = Stopwatch(job.pids)
    measured = join_until(time.monotonic() + job.seconds)
    figures = stopwatch.stop(measured, "joins_per_second")
    everybody = {str(number) for number in range(size)}
    if any(member.present != everybody for member in members):
        raise BrokenError("some members were told of others than are there")
    kibibytes = (load.received - received) / 1024
    load.hang_up()
    return measured, kibibytes, figures


def growth(job: Job) -> Result:
    """
    Publish to subscribers while something `grows`, and measure what a delivery costs each time.

    That is the number of subscribers, or, with a fixed number of these, of other channels or of
    other connections. `growth` is what it costs at the last size, over what it costs at the
    second: with very few subscribers a delivery costs what a publish does.
    """
    result: Result = {"disturbed": 0}
    crowd = Load(replace(job, in_flight=1 if job.grows == "channels" else job.in_flight))
    for before, size in pairwise((0, *job.sizes)):
        if job.grows == "channels":
            crowd_of_channels(crowd, before, size)
        elif job.grows == "connections":
            crowd_of_connections(crowd, before, size)
        subscribers = size if job.grows == "subscribers" else job.subscribers
        figures = fan_out(replace(job, subscribers=subscribers))
        result["disturbed"] = max(figures["disturbed"], result["disturbed"])
        result[f"microseconds_at_{size}"] = figures["processor_microseconds"]
        # What the crowd is asked meanwhile, such as whether it lives, is answered here.
        crowd.poll(0)
    costs = [result[f"microseconds_at_{size}"] for size in job.sizes]
    return {**result, "growth": costs[-1] / costs[1]}


def crowd_of_connections(crowd: Load, before: int, size: int) -> None:
    """Have as many connections as `size` that do nothing, where there are some before."""

    def start(number: int) -> None:
        crowd.subscribers.append(Subscriber(crowd, None))

    crowd.make_ready(size - before, start)


def crowd_of_channels(crowd: Load, before: int, size: int) -> None:
    """Have as many channels as `size` that nothing is published to, a thousand a connection."""

    def start(number: int) -> None:
        crowd.subscribers[(before + number) // 1000].subscribe(f"crowd-{before + number}")

    crowd_of_connections(crowd, len(crowd.subscribers), -(-size // 1000))
    crowd.make_ready(size - before, start)


JOBS: dict[str, Callable[[Job], Result]] = {
    job.__name__: job
    for job in (
        fan_out,
        paced,
        publishes,
        connects,
        memory,
        client_events,
        presence_growing,
        presence_full,
        growth,
    )
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
