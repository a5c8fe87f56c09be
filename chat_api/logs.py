"""Log lines for people, in the shape that the WebSocket server's have."""

import logging
import sys

import structlog

__all__ = ["configure_logs"]


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
                # Not with the values of variables, which hold passwords, tokens and messages.
                exception_formatter=structlog.dev.plain_traceback,
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.DEBUG if debug else logging.INFO
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
