"""Log lines: one each, in the form that was asked for, with the request they belong to."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from structlog.contextvars import bound_contextvars

from chat_api.telemetry.logs import configure_logs


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def configure(*, debug: bool, as_json: bool) -> None:
    logging.getLogger().handlers.clear()  # as in a process of its own
    configure_logs(debug=debug, as_json=as_json)


def fail() -> None:
    password = "open sesame"
    raise ValueError(f"of {len(password)} characters")


def test_as_json_each_line_is_an_object(capsys: pytest.CaptureFixture[str]) -> None:
    configure(debug=False, as_json=True)
    log = structlog.get_logger()
    with bound_contextvars(request_id="abc"):
        log.info("Two\nlines \x1b[31m", count=2)
    log.debug("Not shown")
    logging.getLogger("aiohttp.server").warning("From %s", "elsewhere")

    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert first.pop("timestamp").endswith("Z")
    assert second.pop("timestamp").endswith("Z")
    assert first == {
        "event": "Two\nlines \x1b[31m",
        "level": "info",
        "count": 2,
        "request_id": "abc",
    }
    assert second == {"event": "From elsewhere", "level": "warning", "logger": "aiohttp.server"}


@pytest.mark.parametrize("as_json", [True, False])
def test_a_traceback_does_not_show_the_values_of_variables(
    capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    configure(debug=False, as_json=as_json)
    try:
        fail()
    except ValueError:
        structlog.get_logger().exception("It failed")
        logging.getLogger("library").exception("It failed there, too")

    said = capsys.readouterr().err
    assert said.count("ValueError: of 11 characters") == 2
    assert "open sesame" not in said
    if as_json:
        assert all("Traceback" in json.loads(line)["exception"] for line in said.splitlines())


def test_for_people_a_line_is_words_and_values(capsys: pytest.CaptureFixture[str]) -> None:
    configure(debug=True, as_json=False)
    with bound_contextvars(request_id="abc"):
        structlog.get_logger().debug("Request", status=200)

    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "[debug    ] Request" in line
    assert "status=200 request_id=abc" in line
