"""Hashing and checking passwords without holding up the event loop or telling accounts apart."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from chat_api.kernel.errors import TooMany

__all__ = ["Passwords"]

_MAX_WAITING = 64  # beyond this, waiting in line would take longer than clients do


class Passwords:
    """
    Argon2 in at most `workers` threads at a time; each check costs memory and a core by design.

    Close it when done.
    """

    def __init__(self, hasher: PasswordHasher, *, workers: int) -> None:
        self._hasher = hasher
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="passwords")
        self._most = workers + _MAX_WAITING
        self._pending = 0
        self._nobodys_hash = hasher.hash("a password that no account has")

    async def hash(self, password: str) -> str:
        """Return what to store for a password."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._hasher.hash, password)

    async def verify(self, password: str, stored: str | None) -> bool:
        """
        Tell whether `password` is the one whose hash is stored.

        Without a stored hash the answer is False and takes just as long.

        Raises:
            TooMany: So many checks are waiting that this one would take longer than clients do.
        """
        if self._pending >= self._most:
            raise TooMany("Too many logins at once. Try again in 1 s.", retry_after=1)
        self._pending += 1
        try:
            matches = await asyncio.get_running_loop().run_in_executor(
                self._threads, self._matches, password, stored or self._nobodys_hash
            )
        finally:
            self._pending -= 1
        return matches and stored is not None

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _matches(self, password: str, stored: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False
