"""One run: scenarios in order, contenders in turn, medians, and targets beside them."""

import os
import secrets
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import click
import orjson
from machine import pin

from benchmark.contenders import LOADTEST, App, BrokenError, Contender, running
from benchmark.scenarios import CHANNEL, DATA, EVENT, Options, Scenario, Target

Result = dict[str, float]


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
            label = f"{target.measure.label}, {target.of} ÷ {target.against}"
            value, bound = f"{self.value:.2f}x", f"{sign} {target.bound:.2f}x"
        else:
            label = f"{target.measure.label}, {target.of}"
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
                names = [name for name in (target.of, target.against) if name]
                if not all(name in medians for name in names):
                    continue
                figures = [medians[name] for name in names]
                value, *others = (each[target.measure.key] for each in figures)
                for other in others:
                    value /= other
                yield Verdict(scenario, target, value, any(map(is_disturbed, figures)))

    def _measure(self, scenario: Scenario, contender: Contender) -> Result:
        server_cores, load_cores = self._cores_of(contender)
        with running(contender, self.app, server_cores, scenario.settings) as server:
            job = {
                "kind": scenario.job,
                "port": server.port,
                "http_port": server.http_port,
                "pids": server.pids,
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
                return run_job(job, load_cores, self.options.seconds + 120)
            except BrokenError as error:
                tail = server.log.read_text(errors="replace").strip()[-1500:]
                raise BrokenError(f"{error}\n{tail}" if tail else str(error)) from None

    def _cores_of(self, contender: Contender) -> tuple[Collection[int], Collection[int]]:
        if self.cores is None:
            return (), ()
        server, load = self.cores
        if contender.workers:
            return os.sched_getaffinity(0) - {load}, {load}
        return {server}, {load}

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


def run_job(job: Mapping[str, object], cores: Collection[int], timeout: float) -> Result:
    """Run one job of the generator on the cores; BrokenError when it says that something broke."""
    with subprocess.Popen(
        [sys.executable, "-m", "generator"],
        env=os.environ | {"PYTHONPATH": str(LOADTEST)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            pin(process.pid, cores)
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
