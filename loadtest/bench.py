"""
Measures reverb_py against a plain server of the same language and against the kernel's limit.

Three contenders, each started afresh for every measurement, on one core, with the load on another:

    reverb_py   this project, one process
    baseline    websockets' broadcast() with aiohttp beside it, see baseline.py
    raw         one write() for each subscriber in a plain loop, see baseline.py

Everything runs in one go and the contenders take turns within each scenario, because machines are
noisy: read the ratios, not the figures. A scenario is one entry of `SCENARIOS` and one job of
generator.py.
"""

import http.client
import os
import resource
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import click
import orjson
from report import describe_machine, table, write_into_document

HERE = Path(__file__).resolve().parent
START_TIMEOUT = 15.0
RESERVED_DESCRIPTORS = 200
CHANNEL = "bench"
EVENT = "bench"
DATA = '{"stamp":"{stamp}","text":"' + "x" * 58 + '"}'
"""Event data of 100 bytes, once the stamp's 20 digits are in it."""

Result = dict[str, float]


@dataclass(frozen=True)
class Options:
    """How much to measure. `connections` are opened by `connects`, `idle` are held by `memory`."""

    subscribers: int
    seconds: float
    rounds: int
    connections: int
    idle: int


@dataclass(frozen=True)
class App:
    """The credentials of the app that every contender serves."""

    id: str
    key: str
    secret: str

    def environment(self) -> dict[str, str]:
        """Return the environment of a server of this app, free of anyone else's settings."""
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("REVERB_")
        }
        path = os.pathsep.join(filter(None, [str(HERE.parent), inherited.get("PYTHONPATH")]))
        return inherited | {
            "PYTHONPATH": path,
            "REVERB_APP_ID": self.id,
            "REVERB_APP_KEY": self.key,
            "REVERB_APP_SECRET": self.secret,
        }


@dataclass(frozen=True)
class Contender:
    """A server to measure: its command line for a WebSocket and an HTTP port."""

    name: str
    command: Callable[[int, int], Sequence[str]]
    has_http_port: bool = False


def reverb_py_command(port: int, http_port: int) -> Sequence[str]:
    """Return the command line of reverb_py."""
    return ["-m", "reverb_py", "start", "--host", "127.0.0.1", "--port", str(port)]


def baseline_command(port: int, http_port: int) -> Sequence[str]:
    """Return the command line of the baseline."""
    script = str(HERE / "baseline.py")
    return [script, "websockets", "--port", str(port), "--http-port", str(http_port)]


def raw_command(port: int, http_port: int) -> Sequence[str]:
    """Return the command line of the raw server, which sends what the others make of a publish."""
    data = DATA.replace("{stamp}", "0" * 20)
    message = orjson.dumps({"event": EVENT, "channel": CHANNEL, "data": data}).decode()
    return [str(HERE / "baseline.py"), "raw", "--port", str(port), "--message", message]


CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender("reverb_py", reverb_py_command),
        Contender("baseline", baseline_command, has_http_port=True),
        Contender("raw", raw_command),
    )
}


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
    One job of generator.py, run with these parameters against these contenders.

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


class BrokenError(Exception):
    """A contender did not start, or did not do what a correct server does."""


@dataclass(frozen=True)
class Server:
    """A contender that runs and is ready."""

    pid: int
    port: int
    http_port: int
    log: Path


@dataclass(frozen=True)
class Verdict:
    """
    A target beside what was measured.

    `is_disturbed` tells that no round of one of the two was left alone by other processes, so that
    the value may be wrong.
    """

    scenario: Scenario
    target: Target
    value: float
    is_disturbed: bool

    @property
    def is_met(self) -> bool:
        """Tell whether the target is reached."""
        target = self.target
        return self.value >= target.bound if target.is_least else self.value <= target.bound

    def row(self) -> list[str]:
        """Return the cells of the report's table of ratios."""
        target = self.target
        sign = "≥" if target.is_least else "≤"
        if target.against:
            label = f"{target.measure.label}, reverb_py ÷ {target.against}"
            value, bound = f"{self.value:.2f}x", f"{sign} {target.bound:.2f}x"
        else:
            label = f"{target.measure.label}, reverb_py"
            value = target.measure.write(self.value)
            bound = f"{sign} {target.measure.write(target.bound)}"
        verdict = "pass" if self.is_met else "MISS"
        if self.is_disturbed:
            verdict += ", disturbed"
        return [f"{self.scenario.name}: {label}", value, bound, verdict]


@dataclass
class Bench:
    """One run over scenarios and contenders, and what came out of it."""

    options: Options
    scenarios: Sequence[Scenario]
    contenders: Sequence[Contender]
    cores: tuple[int, int] | None
    notes: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    results: dict[str, dict[str, list[Result]]] = field(default_factory=dict)
    app: App = field(
        default_factory=lambda: App(
            str(secrets.randbelow(10**6)), secrets.token_hex(10), secrets.token_hex(32)
        )
    )

    def run(self) -> None:
        """Measure everything, the contenders taking turns within each scenario."""
        for position, scenario in enumerate(self.scenarios, start=1):
            taking_part = [each for each in self.contenders if each.name in scenario.contenders]
            results = {contender.name: list[Result]() for contender in taking_part}
            self.results[scenario.name] = results
            for turn in range(scenario.rounds or self.options.rounds):
                for contender in tuple(taking_part):
                    about = f"{scenario.name}, {contender.name}"
                    progress = f"[{position}/{len(self.scenarios)}] {about}, round {turn + 1}: "
                    click.echo(progress, err=True, nl=False)
                    try:
                        result = self._measure(scenario, contender)
                    except BrokenError as error:
                        # What broke once is not tried again: each try may cost its whole timeout.
                        taking_part.remove(contender)
                        self.broken.append(f"{about}: {error}")
                        click.echo("broken", err=True)
                    else:
                        results[contender.name].append(result)
                        first = scenario.measures[0]
                        click.echo(f"{first.label} {first.write(result[first.key])}", err=True)
        self._note_limits()

    def medians(self, scenario: Scenario) -> dict[str, Result]:
        """Return the median of each figure over the rounds, for each contender that has any."""
        return {
            name: {key: median(result[key] for result in rounds) for key in rounds[0]}
            for name, rounds in self._telling_rounds(scenario).items()
        }

    def spreads(self, scenario: Scenario) -> list[float | None]:
        """
        Return for each contender how far its rounds lie apart, as a share of the median.

        None where only one round counts.
        """
        key = scenario.measures[0].key
        figures = [
            [result[key] for result in rounds] for rounds in self._telling_rounds(scenario).values()
        ]
        return [
            (max(values) - min(values)) / median(values) if len(values) > 1 else None
            for values in figures
        ]

    def _telling_rounds(self, scenario: Scenario) -> dict[str, list[Result]]:
        """Return the rounds that nothing else on the machine disturbed, or all if there is none."""
        return {
            name: [result for result in rounds if not is_disturbed(result)] or rounds
            for name, rounds in self.results[scenario.name].items()
            if rounds
        }

    def verdicts(self) -> Iterator[Verdict]:
        """Yield each target whose contenders have been measured."""
        for scenario in self.scenarios:
            medians = self.medians(scenario)
            for target in scenario.targets:
                against = target.against
                if "reverb_py" not in medians or (against and against not in medians):
                    continue
                figures = [medians[name] for name in ("reverb_py", against) if name]
                value, *others = (each[target.measure.key] for each in figures)
                for other in others:
                    value /= other
                yield Verdict(scenario, target, value, any(map(is_disturbed, figures)))

    def _measure(self, scenario: Scenario, contender: Contender) -> Result:
        with running(contender, self.app, self.cores and self.cores[0]) as server:
            job = {
                "kind": scenario.job,
                "port": server.port,
                "http_port": server.http_port,
                "pid": server.pid,
                "app_id": self.app.id,
                "key": self.app.key,
                "secret": self.app.secret,
                "channel": CHANNEL,
                "event": EVENT,
                "data": DATA,
                "raw": contender.name == "raw",
                "warm_up": min(0.25, self.options.seconds / 4),
                **scenario.parameters(self.options),
            }
            try:
                return run_job(job, self.cores and self.cores[1], self.options.seconds + 120)
            except BrokenError as error:
                tail = server.log.read_text(errors="replace").strip()[-1500:]
                raise BrokenError(f"{error}\n{tail}" if tail else str(error)) from None

    def _note_limits(self) -> None:
        for scenario in self.scenarios:
            for name, figures in self.medians(scenario).items():
                load, server = figures.get("load_busy", 0), figures.get("server_busy", 1)
                if load > 0.9 and server < 0.95:
                    self.notes.append(
                        f"{scenario.name}, {name}: the load was the limit (load {load:.0%} busy, "
                        f"server {server:.0%}); the server can do more than is shown."
                    )
                if is_disturbed(figures):
                    self.notes.append(
                        f"{scenario.name}, {name}: other processes disturbed every round, see "
                        "`core taken by others`; repeat on an idle machine."
                    )


def is_disturbed(result: Result) -> bool:
    """Tell whether other processes took server or load from their cores long enough to matter."""
    return result.get("disturbed", 0) > 0.05


@contextmanager
def running(contender: Contender, app: App, core: int | None) -> Iterator[Server]:
    """Run a contender on the core from when it is ready until the block ends."""
    port, second_port = free_ports()
    http_port = second_port if contender.has_http_port else port
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        log = Path(directory, "log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *contender.command(port, http_port)],
                # An empty directory: a .env file of someone else is not read.
                cwd=directory,
                env=app.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            pin(process.pid, core)
            wait_until_ready(process, http_port, log)
            yield Server(process.pid, port, http_port, log)
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()


def wait_until_ready(process: subprocess.Popen[bytes], http_port: int, log: Path) -> None:
    """Wait until `GET /up` answers 200; BrokenError when that does not happen in time."""
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise BrokenError(f"ended before it was ready:\n{log.read_text(errors='replace')}")
        connection = http.client.HTTPConnection("127.0.0.1", http_port, timeout=1)
        try:
            connection.request("GET", "/up")
            if connection.getresponse().status == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.02)
    tail = log.read_text(errors="replace")[-1500:]
    raise BrokenError(f"GET /up was not answered with 200 within {START_TIMEOUT:.0f} s\n{tail}")


def run_job(job: Mapping[str, object], core: int | None, timeout: float) -> Result:
    """Run one job of generator.py on the core; BrokenError when it says that something broke."""
    with subprocess.Popen(
        [sys.executable, str(HERE / "generator.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            pin(process.pid, core)
            output, errors = process.communicate(orjson.dumps(job), timeout=timeout)
        except subprocess.TimeoutExpired:
            raise BrokenError(f"the load was not done after {timeout:.0f} s") from None
        finally:
            process.kill()
    try:
        result: dict[str, float | str] = orjson.loads(output)
    except orjson.JSONDecodeError:
        raise BrokenError(f"the load failed:\n{errors.decode(errors='replace')}") from None
    if "broken" in result:
        raise BrokenError(str(result["broken"]))
    return {name: float(value) for name, value in result.items()}


def pin(pid: int, core: int | None) -> None:
    """Keep a process that has just been started on one core."""
    if core is not None:
        os.sched_setaffinity(pid, {core})


def free_ports() -> tuple[int, int]:
    """Return two ports that the system says are free."""
    address = ("127.0.0.1", 0)
    with socket.create_server(address) as first, socket.create_server(address) as second:
        return first.getsockname()[1], second.getsockname()[1]


def choose_cores() -> tuple[int, int] | None:
    """Return the cores of server and load, or None when there is only one."""
    server, *others = sorted(os.sched_getaffinity(0))
    if not others:
        return None
    # The second thread of the server's own core would slow it down.
    for other in others:
        if physical_core(other) != physical_core(server):
            return server, other
    return server, others[0]


def physical_core(core: int) -> tuple[str, ...]:
    """Return what is equal for the hardware threads of one core, when the kernel tells."""
    topology = Path(f"/sys/devices/system/cpu/cpu{core}/topology")
    try:
        return tuple((topology / name).read_text() for name in ("physical_package_id", "core_id"))
    except OSError:
        return (str(core),)


def raise_descriptor_limit() -> int:
    """Let this process and its children open as many files as they may; return how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = min(hard, 1 << 20)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


def write_report(bench: Bench, machine: Mapping[str, str]) -> str:
    """Return the whole report: ratios first, figures after them."""
    options = bench.options
    parts = [
        ", ".join(machine.values()),
        f"{options.subscribers:,} subscribers, {options.seconds:g} s for each measurement, "
        f"{options.rounds} of each, medians of those that nothing else on the machine disturbed; "
        "the figures are this machine's: read the ratios.",
    ]
    verdicts = [verdict.row() for verdict in bench.verdicts()]
    if verdicts:
        heading = ["Ratios", "measured", "target", ""]
        parts.append(table([heading, *verdicts]))
    for scenario in bench.scenarios:
        medians = bench.medians(scenario)
        if not medians:
            continue
        rows = [["", *medians]]
        for measure in scenario.measures:
            values = [measure.write(figures[measure.key]) for figures in medians.values()]
            rows.append([measure.label, *values])
        if scenario.rounds is None and options.rounds > 1:
            spreads = bench.spreads(scenario)
            cells = ["one round" if spread is None else f"{spread:.0%}" for spread in spreads]
            rows.append([f"spread of {scenario.measures[0].label}", *cells])
        parts.append(f"{scenario.name}: {scenario.title}\n{table(rows)}")
    if bench.notes:
        parts.append("\n".join(f"Note: {note}" for note in bench.notes))
    parts.extend(f"BROKEN: {broken}" for broken in bench.broken)
    return "\n\n".join(parts)


def ratios_in_markdown(bench: Bench, machine: Mapping[str, str]) -> str:
    """
    Return a table of what reverb_py reaches as a multiple of the others, for a document.

    What has an absolute target is written as it was measured, too.
    """
    lines = ["| | ÷ baseline | ÷ raw limit |", "|---|---|---|"]
    for scenario in bench.scenarios:
        medians = bench.medians(scenario)
        absolute = {target.measure for target in scenario.targets if target.against is None}
        measures = dict.fromkeys(target.measure for target in scenario.targets)
        for measure in measures or scenario.measures[:1]:
            own, *others = (
                medians[name][measure.key] if name in medians else None
                for name in ("reverb_py", "baseline", "raw")
            )
            if own is None:
                continue
            reached = f"{measure.write(own)} " if measure in absolute else ""
            cells = [f"{own / other:.2f}" if other else "" for other in others]
            row = f"| {scenario.title}: {reached}{measure.label} | {' | '.join(cells)} |"
            lines.append(row)
    return "\n".join([*lines, "", f"Measured on: {', '.join(machine.values())}."])


def raw_result(bench: Bench, machine: Mapping[str, str]) -> dict[str, object]:
    """Return everything that was measured, for the JSON file."""
    return {
        "machine": machine,
        "options": asdict(bench.options),
        "scenarios": {
            scenario.name: {
                "rounds": bench.results[scenario.name],
                "medians": bench.medians(scenario),
            }
            for scenario in bench.scenarios
        },
        "targets": [
            {
                "scenario": verdict.scenario.name,
                "measure": verdict.target.measure.key,
                "against": verdict.target.against,
                "bound": verdict.target.bound,
                "value": verdict.value,
                "is_met": verdict.is_met,
                "is_disturbed": verdict.is_disturbed,
            }
            for verdict in bench.verdicts()
        ],
        "notes": bench.notes,
        "broken": bench.broken,
    }


EXAMPLES = """\b
Examples:
  python loadtest/bench.py                          everything, about three minutes
  python loadtest/bench.py --quick                  does it work? the figures mean little
  python loadtest/bench.py --only one-publisher --only eight-publishers
  python loadtest/bench.py --only one-publisher --subscribers 10000 --seconds 5
  python loadtest/bench.py --json bench.json --check
  python loadtest/bench.py --document README.md     the ratios in README.md are made with this

\b
Scenarios:
""" + "\n".join(f"  {scenario.name:<26}{scenario.title}" for scenario in SCENARIOS)


@click.command(epilog=EXAMPLES)
@click.option(
    "--only",
    multiple=True,
    type=click.Choice([scenario.name for scenario in SCENARIOS]),
    help="Run only this scenario; repeatable.",
)
@click.option(
    "--contender",
    "names",
    multiple=True,
    type=click.Choice(list(CONTENDERS)),
    help="Measure only this contender; repeatable.",
)
@click.option("--quick", is_flag=True, help="A smoke run: few subscribers, one short round.")
@click.option("--subscribers", type=click.IntRange(min=1), help="Of a fan-out.  [default: 1000]")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True, max=300),
    help="Length of a measurement; signatures last ten minutes.  [default: 2.5]",
)
@click.option("--rounds", type=click.IntRange(min=1), help="Repetitions.  [default: 3]")
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write every figure of every round to this file.",
)
@click.option(
    "--document",
    type=click.Path(exists=True, dir_okay=False, writable=True, path_type=Path),
    help="Write the ratios into this Markdown file, where it has a place for them.",
)
@click.option("--check", is_flag=True, help="Exit with 1 when a target is missed.")
def main(
    only: Sequence[str],
    names: Sequence[str],
    quick: bool,
    subscribers: int | None,
    seconds: float | None,
    rounds: int | None,
    json_file: Path | None,
    document: Path | None,
    check: bool,
) -> None:
    """
    Measure reverb_py against websockets' broadcast() and against one write() per subscriber.

    Progress goes to standard error, the report to standard output. The exit status is 0 unless
    something broke, such as a delivery that is missing.
    """
    options = Options(
        subscribers=subscribers or (100 if quick else 1000),
        seconds=seconds or (0.4 if quick else 2.5),
        rounds=rounds or (1 if quick else 3),
        connections=300 if quick else 4000,
        idle=500 if quick else 5000,
    )
    if sys.platform != "linux":
        raise click.ClickException("The load is driven by epoll: run this on Linux.")
    notes = ["A quick run shows that everything works; its figures mean little."] if quick else []
    most = raise_descriptor_limit() - RESERVED_DESCRIPTORS
    allowed = Options(
        min(options.subscribers, most),
        options.seconds,
        options.rounds,
        min(options.connections, most),
        min(options.idle, most),
    )
    if allowed != options:
        notes.append(
            f"Scaled down to {most} connections, as many as the limit of open files allows; "
            "raise the hard limit (`ulimit -Hn`) to measure more."
        )
    cores = choose_cores()
    if cores is None:
        notes.append("Only one core: server and load share it, which lowers every figure.")
    bench = Bench(
        allowed,
        [scenario for scenario in SCENARIOS if not only or scenario.name in only],
        [contender for name, contender in CONTENDERS.items() if not names or name in names],
        cores,
        notes,
    )
    machine = describe_machine(cores)
    bench.run()
    click.echo(write_report(bench, machine))
    if json_file:
        content = orjson.dumps(raw_result(bench, machine), option=orjson.OPT_INDENT_2)
        json_file.write_bytes(content)
    if document and not bench.broken:
        write_into_document(document, "measurements", ratios_in_markdown(bench, machine))
    missed = any(not verdict.is_met for verdict in bench.verdicts())
    if bench.broken or (check and missed):
        sys.exit(1)


if __name__ == "__main__":
    main()
