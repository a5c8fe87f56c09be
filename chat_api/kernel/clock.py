"""What time it is, as a value that is passed in, and how a time is written on the wire."""

from collections.abc import Callable
from datetime import UTC, datetime

__all__ = ["Clock", "precise_wire_time", "system_clock", "wire_time"]

Clock = Callable[[], datetime]
"""Returns the present moment as an aware UTC datetime."""


def system_clock() -> datetime:
    """Return the machine's time."""
    return datetime.now(UTC)


def wire_time(moment: datetime) -> str:
    """Return an aware UTC moment as clients expect it: `2024-10-25T10:31:00Z`, whole seconds."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def precise_wire_time(moment: datetime) -> str:
    """Return an aware UTC moment as `2025-11-13T11:36:03.351Z`, in whole milliseconds."""
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"
