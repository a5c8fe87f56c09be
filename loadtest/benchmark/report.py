"""What a run says: for people, for a document, and for programs."""

from collections.abc import Mapping
from dataclasses import asdict

from report import table

from benchmark.run import Bench


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
            if not all(measure.key in figures for figures in medians.values()):
                continue
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
    Return a table of what reverb_py reaches, as measured and as a multiple of the others.

    A cell is empty where there is nothing to compare with.
    """
    lines = ["| | value | ÷ baseline | ÷ raw limit |", "|---|---|---|---|"]
    for scenario in bench.scenarios:
        medians = bench.medians(scenario)
        measures = dict.fromkeys(target.measure for target in scenario.targets)
        for measure in measures or scenario.measures[:1]:
            own, *others = (
                medians[name][measure.key] if name in medians else None
                for name in ("reverb_py", "baseline", "raw")
            )
            if own is None:
                continue
            compared = {t.against for t in scenario.targets if t.measure is measure}
            cells = [
                f"{own / other:.2f}" if other and (name in compared or not measure.is_ratio) else ""
                for name, other in zip(("baseline", "raw"), others, strict=True)
            ]
            value = f"× {measure.write(own)}" if measure.is_ratio else measure.write(own)  # noqa: RUF001 - times
            lines.append(f"| {scenario.title}: {measure.label} | {value} | {' | '.join(cells)} |")
    for verdict in bench.verdicts():
        target = verdict.target
        if target.of != "reverb_py":
            what = f"{verdict.scenario.title}: {target.measure.label}, {target.of}"
            value = target.measure.write(verdict.value)
            if target.against:
                what += f" ÷ {target.against}"
                value = f"× {verdict.value:.2f}"  # noqa: RUF001 - times
            lines.append(f"| {what} | {value} |  |  |")
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
