"""
Log lines, for people or for programs that collect them.

A line that belongs to a request carries its `request_id`, whoever writes it: the edge binds it to
the context. What other libraries log comes out in the same form.
"""

import logging
import sys

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from structlog.typing import Processor

__all__ = ["configure_logs"]


def configure_logs(*, debug: bool, as_json: bool = False) -> None:
    """
    Send log lines to standard error, one a line, in colour where that is a terminal.

    As JSON, a line is an object with at least `event`, `level` and `timestamp` (UTC, ISO 8601), and
    with `exception` where there was one; control characters are escaped.

    A request that is not HTTP is a line of level debug: anybody could fill the log with errors.
    """
    render: list[Processor]
    if as_json:
        stamp: Processor = structlog.processors.TimeStamper(fmt="iso", utc=True)
        # Without the values of variables, which hold passwords, tokens and messages.
        render = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        stamp = structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False)
        render = [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                pad_event_to=30,
                sort_keys=False,
                exception_formatter=structlog.dev.plain_traceback,  # likewise
            )
        ]
    describe: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        stamp,
    ]
    structlog.configure(
        processors=[*describe, *render],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.DEBUG if debug else logging.INFO
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    of_libraries = logging.StreamHandler()
    of_libraries.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*describe, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[of_libraries])
    logging.getLogger("aiohttp.server").addFilter(_is_about_us)


def _is_about_us(record: logging.LogRecord) -> bool:
    """Keep what aiohttp says about a client's mistake from being an error with a traceback."""
    error = record.exc_info[1] if record.exc_info else None
    if not isinstance(error, (HttpProcessingError, web.RequestPayloadError)):
        return True
    structlog.get_logger("chat_api.web").debug("Not HTTP", reason=type(error).__name__)
    return False
