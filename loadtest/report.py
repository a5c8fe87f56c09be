"""What every measurement writes: the machine it ran on, aligned tables, sections of documents."""

import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import click

__all__ = ["describe_machine", "table", "write_into_document"]


def describe_machine(cores: tuple[int, int] | None) -> dict[str, str]:
    """Return what the figures depend on and the figures do not say."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    pinned = f"server on core {cores[0]}, load on core {cores[1]}" if cores else "nothing pinned"
    try:
        event_loop = f"uvloop {metadata.version('uvloop')}"
    except metadata.PackageNotFoundError:
        event_loop = "asyncio"
    try:
        distribution = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        distribution = platform.system()
    return {
        "processor": model,
        "cores": f"{os.cpu_count()} cores ({pinned})",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{distribution}, kernel {platform.release()}",
        "event_loop": event_loop,
        "other_load": f"load average {os.getloadavg()[0]:.1f} at the start",
    }


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return the rows with their columns aligned: the first to the left, others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *others = (
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(["  " + first, *others]).rstrip())
    return "\n".join(lines)


def write_into_document(file: Path, place: str, section: str) -> None:
    """
    Replace what stands between a document's comments `place` and `end of place`.

    Raises:
        click.ClickException: The document has no such place.
    """
    text = file.read_text(encoding="utf-8")
    before, begin, rest = text.partition(f"<!-- {place} -->\n")
    _, end, after = rest.partition(f"<!-- end of {place} -->")
    if not (begin and end):
        raise click.ClickException(f"{file} has no place for {place}")
    file.write_text(f"{before}{begin}{section}\n{end}{after}", encoding="utf-8")
