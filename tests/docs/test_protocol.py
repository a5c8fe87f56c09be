"""docs/protocol.md names files and tests that exist, and leaves out no message and no code."""

import re

import pytest

from reverb_py.protocol.errors import ErrorCode
from tests.docs.references import DOCS, broken_links, existing_tests, named_files, named_tests

_TEXT = (DOCS / "protocol.md").read_text()
_SOURCES = DOCS.parent / "reverb_py"
_KNOWN_FAILURES = "conformance/test_known_failures.py"


def test_every_file_that_is_named_exists() -> None:
    files = named_files(_TEXT)

    assert files
    assert [name for name, exists in files.items() if not exists] == []


@pytest.mark.parametrize(("file", "name"), named_tests(_TEXT))
def test_a_test_that_is_named_exists(file: str, name: str) -> None:
    assert name in existing_tests(file)


def test_the_known_failures_are_those_that_are_tested() -> None:
    assert set(re.findall(r"`(test_\w+)`", _TEXT)) == existing_tests(_KNOWN_FAILURES)


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_has_a_row(code: ErrorCode) -> None:
    assert f"\n| {code.value} |" in _TEXT


@pytest.mark.parametrize("module", ["protocol/frames.py", "core/session.py"])
def test_every_message_is_named(module: str) -> None:
    source = (_SOURCES / module).read_text()
    messages = set(re.findall(r"\"(pusher(?:_internal)?:\w+)\"", source))

    assert messages
    assert {message for message in messages if f"`{message}`" not in _TEXT} == set()


def test_a_link_leads_somewhere() -> None:
    assert broken_links(_TEXT) == []
