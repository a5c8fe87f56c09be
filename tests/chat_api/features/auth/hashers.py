"""A password hasher that waits, so that tests see how many run at once."""

import threading
from typing import Literal

from argon2 import PasswordHasher


class SlowHasher(PasswordHasher):
    """Counts checks and how many ran at once, and holds each until it is let go."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.let_go = threading.Event()
        self.checked: list[str | bytes] = []
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()

    def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:  # noqa: A002
        with self._lock:
            self.checked.append(hash)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        self.let_go.wait(60)
        with self._lock:
            self._now -= 1
        return super().verify(hash, password)
