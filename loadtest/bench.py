"""
Measures reverb_py against a plain server of the same language and against the kernel's limit.

Three contenders, each started afresh for every measurement, on one core, with the load on another:

    reverb_py   this project, one process
    baseline    websockets' broadcast() with aiohttp beside it, see baseline.py
    raw         one write() for each subscriber in a plain loop, see baseline.py

One scenario has one worker of this project and two instead, joined by a Redis of their own.

Everything runs in one go and the contenders take turns within each scenario, because machines are
noisy: read the ratios, not the figures. A scenario is one entry of `SCENARIOS` and one job of
the generator.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import orjson
from benchmark.contenders import CONTENDERS, NO_REDIS, redis_program
from benchmark.report import ratios_in_markdown, raw_result, write_report
from benchmark.run import Bench
from benchmark.scenarios import SCENARIOS, Options
from machine import choose_cores, describe_machine, raise_descriptor_limit
from report import write_into_document

RESERVED_DESCRIPTORS = 200

EXAMPLES = """\b
Examples:
  python loadtest/bench.py                          everything, about seven minutes
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
        largest=1000 if quick else 10_000,
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
        min(options.largest, most),
    )
    if allowed != options:
        notes.append(
            f"Scaled down to {most} connections, as many as the limit of open files allows; "
            "raise the hard limit (`ulimit -Hn`) to measure more."
        )
    cores = choose_cores()
    if cores is None:
        notes.append("Only one core: server and load share it, which lowers every figure.")
    contenders = [each for name, each in CONTENDERS.items() if not names or name in names]
    if redis_program() is None:
        contenders = [each for each in contenders if not each.workers]
        notes.append(f"Workers are not measured: {NO_REDIS}.")
    elif cores is not None and len(os.sched_getaffinity(0)) == 2:
        notes.append(
            "Two cores, one of them for the load: workers share the other with Redis, so that they "
            "can't be faster than one; read their CPU per delivery."
        )
    bench = Bench(
        allowed,
        [scenario for scenario in SCENARIOS if not only or scenario.name in only],
        contenders,
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
