"""What is measured: one entry of `SCENARIOS` is one job of the generator, and its targets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

CHANNEL = "bench"
EVENT = "bench"
DATA = '{"stamp":"{stamp}","text":"' + "x" * 58 + '"}'
"""Event data of 100 bytes, once the stamp's 20 digits are in it."""


@dataclass(frozen=True)
class Options:
    """
    How much to measure.

    `connections` are opened by `connects`, `idle` are held by `memory`, and `largest` is the
    number that scenarios about growth grow to.
    """

    subscribers: int
    seconds: float
    rounds: int
    connections: int
    idle: int
    largest: int


@dataclass(frozen=True)
class Measure:
    """
    One figure of a job's result: how the report calls and writes it.

    `is_ratio` tells that it says nothing in comparison with others.
    """

    key: str
    label: str
    form: str = "{:,.0f}"
    is_ratio: bool = False

    def write(self, value: float) -> str:
        """Return the value as the report shows it."""
        return self.form.format(value)


@dataclass(frozen=True)
class Target:
    """
    What reverb_py has to reach in one measure: `bound` times what `against` reaches.

    With no `against` the bound is absolute. `is_least` tells whether more is better. `of` is the
    contender that has to reach it.
    """

    measure: Measure
    bound: float
    against: str | None = None
    is_least: bool = True
    of: str = "reverb_py"


@dataclass(frozen=True)
class Scenario:
    """
    One job of the generator, run with these parameters against these contenders.

    The first measure is the main one. `rounds` is set for what hardly varies between them.
    `settings` are those of the server, where its limits are meant for one client and not for a
    load.
    """

    name: str
    title: str
    job: str
    contenders: tuple[str, ...]
    parameters: Callable[[Options], dict[str, object]]
    measures: tuple[Measure, ...]
    targets: tuple[Target, ...]
    rounds: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict)


DELIVERIES = Measure("deliveries_per_second", "deliveries/s")
USER = Measure("user_microseconds", "user CPU µs per {event}", "{:.2f}")
PROCESSOR = Measure("processor_microseconds", "total CPU µs per {event}", "{:.2f}")
SERVER_BUSY = Measure("server_busy", "server busy", "{:.0%}")
LOAD_BUSY = Measure("load_busy", "load busy", "{:.0%}")
DISTURBED = Measure("disturbed", "core taken by others", "{:.0%}")
P50 = Measure("p50_milliseconds", "latency p50 ms", "{:.2f}")
P99 = Measure("p99_milliseconds", "latency p99 ms", "{:.2f}")
PUBLISHES = Measure("publishes_per_second", "publishes/s")
CONNECTIONS = Measure("connections_per_second", "connections/s")
IDLE = Measure("idle_kibibytes", "KiB per idle connection", "{:.2f}")
SUBSCRIBED = Measure("subscribed_kibibytes", "KiB per subscribed connection", "{:.2f}")
JOINS = Measure("joins_per_second", "joins/s")
SERVER_MEMORY = Measure("server_mebibytes", "MiB of the server alone", "{:.1f}")


SIZES = (10, 100, 1000, 10_000)
"""What growth is measured at; it is the cost at the largest over that at the second."""
PRESENCE_SIZES = (10, 100, 500)

GROWTH = Measure("growth", "growth of CPU per delivery", "{:.2f}", is_ratio=True)
PRESENCE_GROWTH = Measure("growth", "growth of CPU per KiB", "{:.2f}", is_ratio=True)
PER_JOIN = Measure("microseconds_at_100", "CPU µs per join, 100 members", "{:,.0f}")

NO_CLIENT_LIMITS = {
    "REVERB_APP_MESSAGES_PER_SECOND": "0",
    "REVERB_APP_SUBSCRIPTIONS_PER_SECOND": "0",
    "REVERB_APP_CLIENT_EVENTS_PER_SECOND": "0",
    "REVERB_APP_MAX_PRESENCE_MEMBERS": "0",
}


def cost_at(sizes: Sequence[int], of_what: str) -> tuple[Measure, ...]:
    """Return the measures of what a delivery costs at each size."""
    return tuple(
        Measure(f"microseconds_at_{size}", f"CPU µs per delivery, {size:,} {of_what}", "{:.2f}")
        for size in sizes
    )


def growing(
    what: str, title: str, *targets: Target, contenders: tuple[str, ...] = ("reverb_py", "baseline")
) -> Scenario:
    """Return the scenario in which this grows, and the cost of a delivery is to stay the same."""
    return Scenario(
        f"more-{what}",
        title,
        "growth",
        contenders,
        lambda options: {
            "grows": what,
            "subscribers": 100,
            "sizes": [size for size in SIZES if size <= max(options.largest, SIZES[1])],
            "seconds": options.seconds / 2.5,
        },
        (GROWTH, *cost_at(SIZES, what), DISTURBED),
        targets or (Target(GROWTH, 1.5, is_least=False),),
        rounds=1,
    )


def spent(event: str) -> tuple[Measure, ...]:
    """Return the measures of what an event of this name cost, and of who was busy with it."""
    per_event = [
        Measure(measure.key, measure.label.format(event=event), measure.form)
        for measure in (USER, PROCESSOR)
    ]
    return (*per_event, SERVER_BUSY, LOAD_BUSY, DISTURBED)


PER_DELIVERY = spent("delivery")[1]

SCENARIOS = (
    Scenario(
        "one-publisher",
        "fan-out, one publish at a time",
        "fan_out",
        ("reverb_py", "baseline", "raw"),
        lambda options: {"subscribers": options.subscribers, "seconds": options.seconds},
        (DELIVERIES, *spent("delivery")),
        (Target(DELIVERIES, 1.4, "baseline"), Target(DELIVERIES, 0.85, "raw")),
    ),
    Scenario(
        "eight-publishers",
        "fan-out, eight publishes at a time",
        "fan_out",
        ("reverb_py", "baseline", "raw"),
        lambda options: {
            "subscribers": options.subscribers,
            "seconds": options.seconds,
            "publishers": 8,
        },
        (DELIVERIES, *spent("delivery")),
        (Target(DELIVERIES, 5, "raw"),),
    ),
    Scenario(
        "paced",
        "fan-out, paced at 20,000 deliveries/s at most",
        "paced",
        ("reverb_py", "baseline"),
        lambda options: {
            "subscribers": options.subscribers,
            "seconds": options.seconds,
            "publishers": 8,
            "rate": min(500, 20_000 / options.subscribers),
        },
        (P50, P99, *spent("delivery")),
        (
            Target(P50, 1, "baseline", is_least=False),
            Target(P99, 1, "baseline", is_least=False),
        ),
    ),
    Scenario(
        "publishes",
        "publishes to one subscriber, eight kept-alive connections",
        "publishes",
        ("reverb_py", "baseline"),
        lambda options: {"seconds": options.seconds, "publishers": 8},
        (PUBLISHES, *spent("publish")),
        (Target(PUBLISHES, 2.5, "baseline"),),
    ),
    Scenario(
        "publishes-new-connection",
        "publishes to one subscriber, eight at a time, a new connection each",
        "publishes",
        ("reverb_py", "baseline"),
        lambda options: {"seconds": options.seconds, "publishers": 8, "keep_alive": False},
        (PUBLISHES, *spent("publish")),
        (),
    ),
    Scenario(
        "connects",
        "connect and subscribe to a signed private channel, 64 at a time",
        "connects",
        ("reverb_py", "baseline"),
        lambda options: {"connections": options.connections, "in_flight": 64},
        (CONNECTIONS, *spent("connection")),
        (Target(CONNECTIONS, 3, "baseline"),),
    ),
    Scenario(
        "memory",
        "memory per connection",
        "memory",
        ("reverb_py", "baseline"),
        lambda options: {"connections": options.idle, "in_flight": 64},
        (IDLE, SUBSCRIBED, SERVER_MEMORY),
        (Target(IDLE, 4, is_least=False),),
        rounds=1,
    ),
    growing(
        "subscribers",
        "fan-out, as subscribers grow from 100 to 10,000",
        # So many sockets fit in no cache of the processor, which the raw server pays for as well.
        Target(GROWTH, 1.25, "raw", is_least=False),
        contenders=("reverb_py", "baseline", "raw"),
    ),
    growing("channels", "fan-out to 100 beside channels that grow from 100 to 10,000"),
    growing("connections", "fan-out to 100 beside connections that grow from 100 to 10,000"),
    Scenario(
        "client-events",
        "client events to 199 others, eight under way",
        "client_events",
        ("reverb_py", "baseline"),
        lambda options: {
            "subscribers": 200,
            "seconds": options.seconds,
            "channel": f"private-{CHANNEL}",
            "event": f"client-{EVENT}",
        },
        (DELIVERIES, *spent("delivery")),
        (Target(DELIVERIES, 1.4, "baseline"),),
        settings=NO_CLIENT_LIMITS,
    ),
    Scenario(
        "presence-growing",
        "presence joins, eight at a time, into channels growing to 100 members",
        "presence_growing",
        ("reverb_py", "baseline"),
        lambda options: {"connections": options.connections // 2, "sizes": [100], "in_flight": 8},
        (JOINS, *spent("join")),
        (Target(JOINS, 1.4, "baseline"),),
        settings=NO_CLIENT_LIMITS,
    ),
    Scenario(
        "presence-full",
        "presence joins where others are: the cost of a KiB, as members grow from 100 to 500",
        "presence_full",
        ("reverb_py", "baseline"),
        lambda options: {"sizes": PRESENCE_SIZES, "seconds": options.seconds / 2.5},
        (
            PRESENCE_GROWTH,
            *(
                Measure(f"microseconds_at_{size}", f"CPU µs per join, {size} members", "{:,.0f}")
                for size in PRESENCE_SIZES
            ),
            *(
                Measure(f"per_kibibyte_at_{size}", f"CPU µs per KiB, {size} members", "{:.1f}")
                for size in PRESENCE_SIZES
            ),
        ),
        (
            Target(PRESENCE_GROWTH, 1.5, is_least=False),
            Target(PER_JOIN, 0.75, "baseline", is_least=False),
        ),
        rounds=1,
        settings=NO_CLIENT_LIMITS,
    ),
    Scenario(
        "workers",
        "fan-out by one worker and by two, with the Redis between them, one publish at a time",
        "fan_out",
        ("one-worker", "two-workers"),
        lambda options: {"subscribers": options.subscribers, "seconds": options.seconds},
        (DELIVERIES, *spent("delivery")),
        (Target(PER_DELIVERY, 1.5, "one-worker", is_least=False, of="two-workers"),),
    ),
)
