"""
Log lines, for people or for programs that collect them.

Without `--debug` the server says when it starts and stops and what is wrong. With it, every message
is shown in two columns, under the titles Laravel Reverb uses, with the JSON inside `data` unfolded.
Signatures are never shown. What other libraries log comes out in the same form.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import TYPE_CHECKING

import orjson
import structlog
from structlog.typing import Processor

if TYPE_CHECKING:
    from reverb_py.core.apps import App

__all__ = ["DebugTrace", "configure_logs"]

_MAX_SHOWN = 1_000
_SIGNATURE = re.compile(r"\b[0-9a-f]{64}\b")


def configure_logs(*, debug: bool, as_json: bool = False) -> None:
    """
    Send log lines to standard error, one a line, in colour where that is a terminal.

    As JSON, a line is an object with at least `event`, `level` and `timestamp` (UTC, ISO 8601), and
    with `exception` where there was one; control characters are escaped.
    """
    render: list[Processor]
    # Exceptions without the values of variables, which hold secrets and messages.
    if as_json:
        stamp: Processor = structlog.processors.TimeStamper(fmt="iso", utc=True)
        render = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        stamp = structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False)
        render = [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                pad_event_to=30,
                sort_keys=False,
                exception_formatter=structlog.dev.plain_traceback,
            )
        ]
    describe: list[Processor] = [structlog.processors.add_log_level, stamp]
    structlog.configure(
        processors=[*describe, *render],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.DEBUG if debug else logging.INFO
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    of_libraries = logging.StreamHandler()
    of_libraries.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*describe, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[of_libraries])


class DebugTrace:
    """
    Shows every message that comes, goes and is broadcast.

    People read it below its line; as JSON it is in it, as `message`.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self._log = structlog.get_logger("reverb_py")
        self._as_json = as_json

    def connection_established(self, app: App, socket_id: str) -> None:
        self._log.debug("Connection Established", app=app.id, socket=socket_id)

    def connection_closed(self, app: App, socket_id: str) -> None:
        self._log.debug("Connection Closed", app=app.id, socket=socket_id)

    def message_received(self, app: App, socket_id: str, text: str) -> None:
        self._show("Message Received", text.encode(), app=app.id, socket=socket_id)

    def message_sent(self, app: App, socket_id: str, frame: bytes) -> None:
        self._show("Message Sent", _payload(frame), app=app.id, socket=socket_id)

    def connection_refused(self, path: str, code: int, reason: str) -> None:
        self._log.debug("Connection Refused", path=path, code=int(code), reason=reason)

    def connection_ending(self, app: App, socket_id: str, code: int, reason: str) -> None:
        self._log.debug(
            "Close Frame Sent", app=app.id, socket=socket_id, code=int(code), reason=reason
        )

    def control_frame(self, app: App, socket_id: str, title: str) -> None:
        self._log.debug(f"Control Frame {title}", app=app.id, socket=socket_id)

    def request_answered(self, method: str, path: str, status: int, answer: bytes) -> None:
        shown = answer if status >= 400 else None
        self._show("Request Answered", shown, method=method, path=path, status=status)

    def broadcasting(self, app: App, channel: str, frame: bytes, subscribers: int) -> None:
        self._show(
            "Broadcasting To",
            _payload(frame),
            app=app.id,
            channel=channel,
            subscribers=subscribers,
        )

    def _show(self, title: str, payload: bytes | None, **words: object) -> None:
        if payload is None:
            self._log.debug(title, **words)
        elif self._as_json:
            self._log.debug(title, **words, message=readable(payload))
        else:
            self._log.debug(title, **words)
            sys.stderr.write(readable(payload) + "\n")


def readable(payload: bytes) -> str:
    """
    Return a message as indented JSON, `data` unfolded, signatures masked, cut where it gets long.

    What is no JSON, or too deeply nested to unfold, is shown as it is, under the same rules.
    """
    try:
        message = orjson.loads(payload)
        if isinstance(message, dict) and isinstance(message.get("data"), str):
            try:
                message["data"] = orjson.loads(message["data"])
            except orjson.JSONDecodeError:
                pass
        text = orjson.dumps(message, option=orjson.OPT_INDENT_2).decode()
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        # orjson reads deeper nesting than it writes.
        # A line end of the client's could look like a log line of ours.
        text = payload.decode(errors="replace").replace("\n", "\\n")
    text = _SIGNATURE.sub("********", text)
    if len(text) > _MAX_SHOWN:
        text = f"{text[:_MAX_SHOWN]}… ({len(text)} characters)"
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def _payload(frame: bytes) -> bytes:
    """Return what a text frame of ours carries."""
    length = frame[1]
    return frame[2 if length < 126 else 4 if length == 126 else 10 :]
