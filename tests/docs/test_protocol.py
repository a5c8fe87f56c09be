"""docs/protocol.md names files and tests that exist, and leaves out no message and no code."""

import re
from functools import cache
from pathlib import Path

import pytest

from reverb_py.protocol.errors import ErrorCode

_ROOT = Path(__file__).parents[2]
_TEXT = (_ROOT / "docs" / "protocol.md").read_text()
_KNOWN_FAILURES = "conformance/test_known_failures.py"
_PLACES = (_ROOT / "reverb_py", _ROOT / "tests")


@cache
def _tests_in(file: str) -> set[str]:
    source = (_ROOT / "tests" / file).read_text()
    return set(re.findall(r"^(?:async )?def (test_\w+)", source, re.MULTILINE))


@pytest.mark.parametrize("file", sorted(set(re.findall(r"`((?:\w+/)+\w+\.py)", _TEXT))))
def test_a_file_that_is_named_exists(file: str) -> None:
    assert [place / file for place in _PLACES if (place / file).is_file()]


@pytest.mark.parametrize(("file", "name"), sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", _TEXT))))
def test_a_test_that_is_named_exists(file: str, name: str) -> None:
    assert name in _tests_in(file)


def test_the_known_failures_are_those_that_are_tested() -> None:
    assert set(re.findall(r"`(test_\w+)`", _TEXT)) == _tests_in(_KNOWN_FAILURES)


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_has_a_row(code: ErrorCode) -> None:
    assert f"\n| {code.value} |" in _TEXT


@pytest.mark.parametrize("module", ["protocol/frames.py", "core/session.py"])
def test_every_message_is_named(module: str) -> None:
    source = (_ROOT / "reverb_py" / module).read_text()
    messages = set(re.findall(r"\"(pusher(?:_internal)?:\w+)\"", source))

    assert messages
    assert {message for message in messages if f"`{message}`" not in _TEXT} == set()


def test_a_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", _TEXT)

    assert links
    assert [link for link in links if not (_ROOT / "docs" / link).is_file()] == []
