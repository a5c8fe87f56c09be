"""What every measurement writes: aligned tables, and sections of documents."""

from collections.abc import Sequence
from pathlib import Path

import click

__all__ = ["table", "write_into_document"]


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
