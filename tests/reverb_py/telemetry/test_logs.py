"""What an operator sees, and what nobody is to see."""

from __future__ import annotations

import json
import logging
import random
import re
from collections.abc import Iterator

import orjson
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from reverb_py.protocol import frames
from reverb_py.telemetry.logs import DebugTrace, configure_logs, readable
from tests.support.sessions import APP, RecordingSession, Turns, hub_of

SIGNATURE = "58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4"


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
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


def lines_of(captured: str) -> list[str]:
    """Return the lines without the time in front, and with runs of spaces as one."""
    return [
        re.sub(r" +", " ", re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", "", line))
        for line in captured.splitlines()
    ]


def test_a_message_is_shown_with_its_data_unfolded() -> None:
    shown = readable(b'{"event":"order-shipped","channel":"orders","data":"{\\"id\\":7}"}')

    assert shown == (
        '{\n  "event": "order-shipped",\n  "channel": "orders",\n  "data": {\n    "id": 7\n  }\n}'
    )


def test_data_that_is_plain_text_stays_text() -> None:
    assert readable(b'{"event":"x","data":"hello"}') == ('{\n  "event": "x",\n  "data": "hello"\n}')


@pytest.mark.parametrize(
    "payload",
    [
        f'{{"event":"pusher:subscribe","data":{{"auth":"KEY:{SIGNATURE}"}}}}',
        f'{{"event":"pusher:subscribe","data":"{{\\"auth\\":\\"KEY:{SIGNATURE}\\"}}"}}',
        f'{{"event":"x","data":"\\"{{\\\\\\"auth\\\\\\":\\\\\\"KEY:{SIGNATURE}\\\\\\"}}\\""}}',
        '{"event":"x","data":{"auth":"KEY:'
        + "".join(f"\\u{ord(digit):04x}" for digit in SIGNATURE)
        + '"}}',
        f"not json at all: KEY:{SIGNATURE}",
        f'{{"event":"x","data":"auth_signature={SIGNATURE}&x=1"}}',
        '{"auth":"' + "x" * 950 + f':{SIGNATURE}"}}',
    ],
)
def test_signatures_are_masked_wherever_they_stand(payload: str) -> None:
    shown = readable(payload.encode())

    assert SIGNATURE[:12] not in shown
    assert "********" in shown


def test_what_is_long_is_cut() -> None:
    shown = readable(orjson.dumps({"event": "x", "data": "y" * 5_000}))

    assert shown.endswith("yyy… (5032 characters)")
    assert len(shown) < 1_050


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        (b"\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        (b"\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        (b"\xc2\x9b31m", "\\x9b31m"),
        (b"\x7f\x00\r\t", "\\x7f\\x00\\r\\t"),
        ("\u202egnp.exe".encode(), "\\u202egnp.exe"),
        ("grüße 😀".encode(), "grüße 😀"),
        (b"two\nlines", "two\\nlines"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"", ""),
        ('{"event":"\u009b2J"}'.encode(), '{\n  "event": "\\x9b2J"\n}'),
        (b'{"event":"\\u001b[2J"}', '{\n  "event": "\\u001b[2J"\n}'),
        (b'{"event":"\x1b[2J"}', '{"event":"\\x1b[2J"}'),
    ],
)
def test_what_a_terminal_would_obey_is_written_out(payload: bytes, shown: str) -> None:
    assert readable(payload) == shown


@pytest.mark.parametrize("depth", [200, 300, 2_000])
@pytest.mark.parametrize("quote", ["", '"'])
def test_deep_nesting_is_shown_as_it_is(depth: int, quote: str) -> None:
    payload = f'{{"event":"x","data":{quote}{"[" * depth}{"]" * depth}{quote}}}'

    shown = readable(payload.encode())

    assert shown.startswith(("{\n", '{"event":"x"'))
    assert "[[[[" in shown.replace("\n", "").replace(" ", "")


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_shown_printably(payload: bytes) -> None:
    for attempt in (payload, b'{"event":"' + payload + b'"}', orjson.dumps(repr(payload))):
        assert all(character.isprintable() or character == "\n" for character in readable(attempt))


def test_a_conversation_is_shown_under_reverbs_titles(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(debug=True)
    hub = hub_of(source=random.Random(3), trace=DebugTrace())
    session = RecordingSession(hub)
    session.begin()
    session.receive('{"event":"pusher:subscribe","data":{"channel":"orders"}}')
    hub.publish("order-shipped", '{"id":7}', ["orders"])
    session.end()

    captured = capsys.readouterr()

    assert captured.out == ""
    assert lines_of(captured.err) == [
        f"[debug ] Connection Established app=1001 socket={session.socket_id}",
        f"[debug ] Message Sent app=1001 socket={session.socket_id}",
        "{",
        ' "event": "pusher:connection_established",',
        ' "data": {',
        f' "socket_id": "{session.socket_id}",',
        ' "activity_timeout": 30',
        " }",
        "}",
        f"[debug ] Message Received app=1001 socket={session.socket_id}",
        "{",
        ' "event": "pusher:subscribe",',
        ' "data": {',
        ' "channel": "orders"',
        " }",
        "}",
        f"[debug ] Message Sent app=1001 socket={session.socket_id}",
        "{",
        ' "event": "pusher_internal:subscription_succeeded",',
        ' "channel": "orders",',
        ' "data": {}',
        "}",
        "[debug ] Broadcasting To app=1001 channel=orders subscribers=1",
        "{",
        ' "event": "order-shipped",',
        ' "channel": "orders",',
        ' "data": {',
        ' "id": 7',
        " }",
        "}",
        f"[debug ] Connection Closed app=1001 socket={session.socket_id}",
    ]


def test_neither_secret_nor_signature_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(debug=True)
    turns = Turns()
    hub = hub_of(turns=turns, trace=DebugTrace())
    session = RecordingSession(hub)
    session.begin()
    auth = session.auth_for("private-room")
    good = {"event": "pusher:subscribe", "data": {"channel": "private-room", "auth": auth}}
    wrong = {"event": "pusher:subscribe", "data": {"channel": "private-other", "auth": auth}}
    session.receive(orjson.dumps(good).decode())
    session.receive(orjson.dumps(wrong).decode())
    session.receive(f'{{"event":"client-x","channel":"private-room","data":"{auth}"}}')
    hub.publish("leak", auth, ["private-room"])
    turns.end()

    shown = capsys.readouterr().err

    assert "private-room" in shown
    assert "********" in shown
    assert auth.partition(":")[2] not in shown
    assert APP.secret not in shown
    assert APP.secret not in repr(hub.app)


def test_a_client_that_nests_deeply_does_not_break_its_session_under_debug(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logs(debug=True)
    session = RecordingSession.begun(hub_of(trace=DebugTrace()))

    session.receive('{"event":"pusher:ping","data":' + "[" * 300 + "]" * 300 + "}")

    assert session.writes == [frames.PONG]
    assert "[[[[" in capsys.readouterr().err


@pytest.mark.parametrize("size", [10, 125, 126, 65_535, 65_536])
def test_a_frame_of_any_length_is_shown_without_its_head(
    capsys: pytest.CaptureFixture[str], size: int
) -> None:
    configure_logs(debug=True)

    DebugTrace().message_sent(APP, "1.2", frames.text_frame(b"x" * size))

    [title, shown] = capsys.readouterr().err.splitlines()
    assert "Message Sent" in title
    assert shown == ("x" * size if size <= 1_000 else f"{'x' * 1_000}… ({size} characters)")


def test_without_debug_only_what_matters_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(debug=False)
    log = structlog.get_logger("reverb_py")

    log.debug("Message Received")
    log.info("Starting server", port=8080)
    log.warning("Too slow")

    assert lines_of(capsys.readouterr().err) == [
        "[info ] Starting server port=8080",
        "[warning ] Too slow",
    ]


def test_as_json_each_line_is_an_object_whoever_says_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure(debug=False, as_json=True)
    log = structlog.get_logger("reverb_py")
    log.info("Two\nlines \x1b[31m", count=2)
    log.debug("Not shown")
    logging.getLogger("aiohttp.server").warning("From %s", "elsewhere")
    logging.getLogger("asyncio").error("Unhandled")

    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert all(line.pop("timestamp").endswith("Z") for line in lines)
    assert lines == [
        {"event": "Two\nlines \x1b[31m", "level": "info", "count": 2},
        {"event": "From elsewhere", "level": "warning", "logger": "aiohttp.server"},
        {"event": "Unhandled", "level": "error", "logger": "asyncio"},
    ]


@pytest.mark.parametrize("as_json", [True, False])
def test_a_traceback_does_not_show_the_values_of_variables(
    capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    configure(debug=False, as_json=as_json)
    try:
        fail()
    except ValueError:
        structlog.get_logger("reverb_py").exception("It failed")
        logging.getLogger("asyncio").exception("It failed there, too")

    said = capsys.readouterr().err
    assert said.count("ValueError: of 11 characters") == 2
    assert "open sesame" not in said
    if as_json:
        assert all("Traceback" in json.loads(line)["exception"] for line in said.splitlines())


def test_as_json_a_message_is_in_its_line_and_signatures_are_masked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure(debug=True, as_json=True)
    session = RecordingSession(hub_of(trace=DebugTrace(as_json=True)))
    session.begin()
    session.receive(f'{{"event":"client-x","channel":"a","data":"KEY:{SIGNATURE}"}}')
    DebugTrace(as_json=True).request_answered("GET", "/up", 200, b"{}")

    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    shown = {line["event"]: line.get("message") for line in lines}
    assert json.loads(shown["Message Received"]) == {
        "event": "client-x",
        "channel": "a",
        "data": "KEY:********",
    }
    assert shown["Connection Established"] is None
    assert shown["Request Answered"] is None
    assert all(line["level"] == "debug" for line in lines)
