"""What is measured: one entry of `SCENARIOS` is one job of the generator, and its targets."""

from collections.abc import Callable
from dataclasses import dataclass

CHANNEL = "bench"
EVENT = "bench"
DATA = '{"stamp":"{stamp}","text":"' + "x" * 58 + '"}'
"""Event data of 100 bytes, once the stamp's 20 digits are in it."""


@dataclass(frozen=True)
class Options:
    """How much to measure. `connections` are opened by `connects`, `idle` are held by `memory`."""

    subscribers: int
    seconds: float
    rounds: int
    connections: int
    idle: int


@dataclass(frozen=True)
class Measure:
    """One figure of a job's result: how the report calls and writes it."""

    key: str
    label: str
    form: str = "{:,.0f}"

    def write(self, value: float) -> str:
        """Return the value as the report shows it."""
        return self.form.format(value)


@dataclass(frozen=True)
class Target:
    """
    What reverb_py has to reach in one measure: `bound` times what `against` reaches.

    With no `against` the bound is absolute. `is_least` tells whether more is better.
    """

    measure: Measure
    bound: float
    against: str | None = None
    is_least: bool = True


@dataclass(frozen=True)
class Scenario:
    """
    One job of the generator, run with these parameters against these contenders.

    The first measure is the main one. `rounds` is set for what hardly varies between them.
    """

    name: str
    title: str
    job: str
    contenders: tuple[str, ...]
    parameters: Callable[[Options], dict[str, object]]
    measures: tuple[Measure, ...]
    targets: tuple[Target, ...]
    rounds: int | None = None


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
SERVER_MEMORY = Measure("server_mebibytes", "MiB of the server alone", "{:.1f}")


def spent(event: str) -> tuple[Measure, ...]:
    """Return the measures of what an event of this name cost, and of who was busy with it."""
    per_event = [
        Measure(measure.key, measure.label.format(event=event), measure.form)
        for measure in (USER, PROCESSOR)
    ]
    return (*per_event, SERVER_BUSY, LOAD_BUSY, DISTURBED)


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
)
