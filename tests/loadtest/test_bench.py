"""The load test itself: it runs, and it counts exactly."""

import subprocess
import sys
from pathlib import Path

import orjson

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
