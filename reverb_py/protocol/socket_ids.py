"""Socket ids: two whole numbers joined by a dot, the only shape every server library accepts."""

import re
from typing import Protocol

__all__ = ["RandomSource", "is_socket_id", "new_socket_id"]

_SOCKET_ID = re.compile(r"[0-9]{1,20}\.[0-9]{1,20}", re.ASCII)


class RandomSource(Protocol):
    """The part of `random.Random` that ids are drawn from."""

    def getrandbits(self, k: int, /) -> int: ...


def new_socket_id(random: RandomSource) -> str:
    """
    Return a fresh socket id such as `218374.9021344`.

    It holds 60 random bits, so ids drawn on different nodes do not meet in practice; the caller
    still checks its own table.
    """
    return f"{random.getrandbits(30)}.{random.getrandbits(30)}"


def is_socket_id(text: str) -> bool:
    """Tell whether `text` has the shape of a socket id, and nothing before or after it."""
    return _SOCKET_ID.fullmatch(text) is not None
