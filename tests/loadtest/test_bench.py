"""The load test itself: it runs, and it counts exactly."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import orjson
import pytest

BENCH = Path(__file__).parents[2] / "loadtest" / "bench.py"


def test_a_short_run_reports_every_delivery_of_every_contender(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    arguments = ["--quick", "--only", "one-publisher", "--subscribers", "20", "--seconds", "0.1"]

    run = subprocess.run(
        [sys.executable, str(BENCH), *arguments, "--json", str(report)],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert run.returncode == 0, run.stdout + run.stderr
    content = orjson.loads(report.read_bytes())
    rounds = content["scenarios"]["one-publisher"]["rounds"]
    assert list(rounds) == ["reverb_py", "baseline", "raw"]
    for (figures,) in rounds.values():
        assert figures["published"] > 0
        assert figures["deliveries"] == 20 * figures["published"]
    assert content["broken"] == []
    assert "one-publisher: fan-out, one publish at a time" in run.stdout


def test_the_document_has_each_value_in_a_column_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(BENCH.parent))
    scenarios = {each.name: each for each in import_module("benchmark.scenarios").SCENARIOS}
    options = import_module("benchmark.scenarios").Options(10, 1.0, 1, 10, 10, 1000)
    results = {
        "one-publisher": {
            "reverb_py": [{"deliveries_per_second": 150_000.0}],
            "baseline": [{"deliveries_per_second": 100_000.0}],
            "raw": [{"deliveries_per_second": 200_000.0}],
        },
        "memory": {
            "reverb_py": [{"idle_kibibytes": 2.0}],
            "baseline": [{"idle_kibibytes": 16.0}],
        },
        "more-subscribers": {
            "reverb_py": [{"growth": 1.5}],
            "baseline": [{"growth": 2.0}],
            "raw": [{"growth": 1.25}],
        },
        "workers": {
            "one-worker": [{"deliveries_per_second": 1.0, "processor_microseconds": 10.0}],
            "two-workers": [{"deliveries_per_second": 1.0, "processor_microseconds": 10.2}],
        },
    }
    measured = [scenarios[name] for name in results]
    bench = import_module("benchmark.run").Bench(options, measured, (), None, results=results)

    document = import_module("benchmark.report").ratios_in_markdown(bench, {"cpu": "a machine"})

    assert document.splitlines() == [
        "| | value | ÷ baseline | ÷ raw limit |",
        "|---|---|---|---|",
        "| fan-out, one publish at a time: deliveries/s | 150,000 | 1.50 | 0.75 |",
        "| memory per connection: KiB per idle connection | 2.00 | 0.12 |  |",
        "| fan-out, as subscribers grow from 100 to 10,000: growth of CPU per delivery "
        "| × 1.50 |  | 1.20 |",  # noqa: RUF001 - times
        "| fan-out by one worker and by two, with the Redis between them, one publish at a time: "
        "total CPU µs per delivery, two-workers ÷ one-worker | × 1.02 |  |  |",  # noqa: RUF001
        "",
        "Measured on: a machine.",
    ]
