"""
SIGHUP while the server starts: it waits until somebody is there to take it.

Where nobody takes it, it ends the process. Whoever starts a service and asks it to reload does not
know how long the start takes. This is imported before anything that takes time.
"""

import signal
import sys

__all__ = ["HANG_UP", "ends_with_terminal", "hold_hang_up", "take_hang_up"]

HANG_UP = signal.SIGHUP


def ends_with_terminal() -> bool:
    """Tell whether SIGHUP says that the terminal is closed, instead of asking to reload."""
    return sys.stdin is not None and sys.stdin.isatty()


def hold_hang_up() -> None:
    """Have SIGHUP wait from now on, here and in processes that are started from here."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {HANG_UP})


def take_hang_up() -> None:
    """Have SIGHUP come from now on, and before that the one that has waited, if one has."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {HANG_UP})
