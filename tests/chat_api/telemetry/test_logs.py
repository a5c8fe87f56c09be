"""Log lines: one each, in the form that was asked for, with the request they belong to."""

import asyncio
import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from aiohttp.http_exceptions import BadHttpMessage
from structlog.contextvars import bound_contextvars
from yarl import URL

from chat_api.telemetry.logs import configure_logs
from tests.chat_api.world import World


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    of_aiohttp = logging.getLogger("aiohttp.server")
    filters = of_aiohttp.filters[:]
    yield
    of_aiohttp.filters[:] = filters
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


@pytest.mark.parametrize("debug", [True, False])
def test_what_is_not_http_is_one_line_for_those_who_look_closely(
    capsys: pytest.CaptureFixture[str], debug: bool
) -> None:
    configure(debug=debug, as_json=True)
    log = logging.getLogger("aiohttp.server")
    log.error("Error handling request", exc_info=BadHttpMessage("a\x1b[31m line"))
    log.error("Error handling request", exc_info=ValueError("of our own"))

    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["level"], line["event"]) for line in lines] == [
        *([("debug", "Not HTTP")] if debug else []),
        ("error", "Error handling request"),
    ]
    assert "ValueError: of our own" in lines[-1]["exception"]
    if debug:
        assert lines[0]["reason"] == "BadHttpMessage"


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nBad header\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"x" * 9_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 9_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET /actuator/health HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/9.9\r\n\r\n",
        b"POST /api/login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxx\r\n",
        b"POST /api/login HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\n"
        b"Content-Length: 4\r\n\r\n{  }",
    ],
    ids=[
        *("tls", "header", "version", "long line", "long header", "two lengths"),
        *("second request", "chunk", "compression"),
    ],
)
@pytest.mark.parametrize("database_kind", ["sqlite"])
async def test_nobody_fills_the_log_with_what_is_not_http(
    world: World, sent: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(debug=False, as_json=False)
    reader, writer = await asyncio.open_connection("127.0.0.1", URL(world.nobody.url).port)
    writer.write(sent)
    async with asyncio.timeout(30):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()

    assert b" 400 Bad Request\r\n" in answer
    assert capsys.readouterr().err == ""
