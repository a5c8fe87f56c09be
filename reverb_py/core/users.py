"""Who of one app is signed in, and who is told of whom."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from reverb_py.core.session import Session

__all__ = ["SignedInUser", "Users"]


class SignedInUser(NamedTuple):
    """Whom a connection has signed in as. `info` is JSON; `watchlist` are the ids watched."""

    id: str
    info: bytes
    watchlist: tuple[str, ...]


class Users:
    """
    The users that are online, which is to say have at least one signed-in connection.

    Signing in and out cost as much as the user's own watchlist is long.
    """

    __slots__ = ("_connections", "_watchers")

    def __init__(self) -> None:
        self._connections: dict[str, dict[Session, None]] = {}
        self._watchers: dict[str, dict[Session, None]] = {}

    def connections_of(self, user_id: str) -> list[Session]:
        """Return the sessions that are signed in as this user."""
        return list(self._connections.get(user_id, ()))

    def watchers_of(self, user_id: str) -> list[Session]:
        """Return the sessions that have this user on their watchlist."""
        return list(self._watchers.get(user_id, ()))

    def sign_in(self, session: Session, user: SignedInUser) -> bool:
        """Note a session of a user; tell whether the user has come online with it."""
        sessions = self._connections.setdefault(user.id, {})
        sessions[session] = None
        self.watch(session, user.watchlist)
        return len(sessions) == 1

    def watch(self, session: Session, user_ids: Iterable[str]) -> None:
        """Note that a session is told when one of these users comes or goes."""
        for watched in user_ids:
            self._watchers.setdefault(watched, {})[session] = None

    def sign_out(self, session: Session, user: SignedInUser) -> bool:
        """Forget a session of a user; tell whether the user has gone offline with it."""
        for watched in user.watchlist:
            _discard(self._watchers, watched, session)
        return _discard(self._connections, user.id, session)

    def is_online(self, user_id: str) -> bool:
        """Tell whether the user has a signed-in connection here."""
        return user_id in self._connections

    def by_presence(self, user_ids: Iterable[str]) -> tuple[list[str], list[str]]:
        """Return which of the users are online and which are not."""
        online: list[str] = []
        offline: list[str] = []
        for user_id in user_ids:
            (online if user_id in self._connections else offline).append(user_id)
        return online, offline


def _discard(table: dict[str, dict[Session, None]], key: str, session: Session) -> bool:
    """Take the session out of its set, and the set out of the table when that empties it."""
    sessions = table.get(key)
    if sessions is None or session not in sessions:
        return False
    del sessions[session]
    if sessions:
        return False
    del table[key]
    return True
