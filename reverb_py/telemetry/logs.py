"""
Log lines for people.

Without `--debug` the server says when it starts and stops and what is wrong. With it, every message
is shown in two columns, under the titles Laravel Reverb uses, with the JSON inside `data` unfolded.
Signatures are never shown.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import TYPE_CHECKING

import orjson
import structlog

if TYPE_CHECKING:
    from reverb_py.core.apps import App

__all__ = ["DebugTrace", "configure_logs"]

_MAX_SHOWN = 1_000
_SIGNATURE = re.compile(r"\b[0-9a-f]{64}\b")


def configure_logs(*, debug: bool) -> None:
    """Send log lines to standard error, one a line, in colour where that is a terminal."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False),
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                pad_event_to=30,
                sort_keys=False,
                # Not with the values of variables, which hold secrets and messages.
                exception_formatter=structlog.dev.plain_traceback,
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.DEBUG if debug else logging.INFO
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


class DebugTrace:
    """Shows every message that comes, goes and is broadcast."""

    def __init__(self) -> None:
        self._log = structlog.get_logger("reverb_py")

    def connection_established(self, app: App, socket_id: str) -> None:
        self._log.debug("Connection Established", app=app.id, socket=socket_id)

    def connection_closed(self, app: App, socket_id: str) -> None:
        self._log.debug("Connection Closed", app=app.id, socket=socket_id)

    def message_received(self, app: App, socket_id: str, text: str) -> None:
        self._log.debug("Message Received", app=app.id, socket=socket_id)
        self._show(text.encode())

    def message_sent(self, app: App, socket_id: str, frame: bytes) -> None:
        self._log.debug("Message Sent", app=app.id, socket=socket_id)
        self._show(_payload(frame))

    def connection_refused(self, path: str, code: int, reason: str) -> None:
        self._log.debug("Connection Refused", path=path, code=int(code), reason=reason)

    def connection_ending(self, app: App, socket_id: str, code: int, reason: str) -> None:
        self._log.debug(
            "Close Frame Sent", app=app.id, socket=socket_id, code=int(code), reason=reason
        )

    def control_frame(self, app: App, socket_id: str, title: str) -> None:
        self._log.debug(f"Control Frame {title}", app=app.id, socket=socket_id)

    def request_answered(self, method: str, path: str, status: int, answer: bytes) -> None:
        self._log.debug("Request Answered", method=method, path=path, status=status)
        if status >= 400:
            self._show(answer)

    def broadcasting(self, app: App, channel: str, frame: bytes, subscribers: int) -> None:
        self._log.debug("Broadcasting To", app=app.id, channel=channel, subscribers=subscribers)
        self._show(_payload(frame))

    def _show(self, payload: bytes) -> None:
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
