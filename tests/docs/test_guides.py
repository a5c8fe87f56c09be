"""docs/guides.md names files and tests that exist, and leaves no line without a test."""

import re

import pytest

from tests.docs.references import DOCS, broken_links, existing_tests, named_files, named_tests

_TEXT = (DOCS / "guides.md").read_text()
_LINES = _TEXT.partition("## What is different")[0]
_ROWS = [
    [cell.strip() for cell in row.split("|")]
    for row in re.findall(r"^\| (.+) \|$", _LINES, re.MULTILINE)
    if not row.startswith(("Line |", "Request |"))
]


def test_every_file_that_is_named_exists() -> None:
    files = named_files(_TEXT)

    assert files
    assert [name for name, exists in files.items() if not exists] == []


@pytest.mark.parametrize(("file", "name"), named_tests(_TEXT))
def test_a_test_that_is_named_exists(file: str, name: str) -> None:
    assert name in existing_tests(file)


def test_every_line_is_held_by_a_test_or_said_to_be_missing() -> None:
    assert len(_ROWS) > 100
    for line, served, held in _ROWS:
        assert line
        assert "not yet" in served or named_tests(held), line


def test_a_link_leads_somewhere() -> None:
    assert broken_links(_TEXT) == []
