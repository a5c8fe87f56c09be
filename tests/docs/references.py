"""What a page of the documentation refers to: files, tests and other pages."""

import re
from functools import cache
from pathlib import Path

__all__ = ["DOCS", "broken_links", "existing_tests", "named_files", "named_tests"]

_ROOT = Path(__file__).parents[2]
_PLACES = (_ROOT, _ROOT / "reverb_py", _ROOT / "chat_api", _ROOT / "tests")
DOCS = _ROOT / "docs"


def named_files(page: str) -> dict[str, bool]:
    """Return the Python files that a page names by a path, and whether each exists."""
    names = sorted(set(re.findall(r"`((?:\w+/)+\w+\.py)", page)))
    return {name: any((place / name).is_file() for place in _PLACES) for name in names}


def named_tests(page: str) -> list[tuple[str, str]]:
    """Return the tests that a page names by their file, each with the file."""
    return sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", page)))


@cache
def existing_tests(file: str) -> frozenset[str]:
    """Return the names of the tests of a file below tests."""
    source = (_ROOT / "tests" / file).read_text()
    return frozenset(re.findall(r"^(?:async )?def (test_\w+)", source, re.MULTILINE))


def broken_links(page: str) -> list[str]:
    """Return the links of a page to files of the documentation and to headings that are none."""
    files = [link for link in re.findall(r"\]\(([^)#:]+)\)", page) if not (DOCS / link).is_file()]
    headings = {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    }
    anchors = set(re.findall(r"\]\(#([^)]+)\)", page))
    return [*files, *sorted(anchors - headings)]
