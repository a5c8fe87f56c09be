"""
What waits for clients that do not read, all of them together.

Each slow client has its own bound; a thousand of them would still be a thousand times as much. So
what is written to them is added up, for the server and for each app. Only clients whose transports
have said that they are full cost anything here, and a sum is counted exactly only when it seems to
be over its bound: it grows with every write, but what leaves is not noticed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from reverb_py.core.hub import Hub

__all__ = ["SlowClient", "SlowClients"]

_PART = 16
"""A sum may grow by one such part of its bound until it is counted exactly again."""


class SlowClient(Protocol):
    """A connection whose transport holds what its client has not read."""

    @property
    def is_ending(self) -> bool:
        """Whether the client has been told the end already."""

    def waiting_bytes(self) -> int:
        """Return how much its transport holds."""

    def give_up(self, limit: str, message: str) -> None:
        """
        End the connection: on a later turn with the message, at once where nothing can be said.

        `limit` is the variable that sets the limit.
        """


class SlowClients:
    """
    The connections of one server that are full, and what waits for them.

    `max_bytes` bounds what waits for all of them, and each app what waits for its own; 0 is no
    bound. Beyond it, whoever has been told the end is cut off, and then whoever has most waiting is
    closed, until the rest is within the bound. A sixteenth of a bound is the precision of all this.
    """

    __slots__ = ("_hubs", "_max_bytes", "_of_apps", "_of_server")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._of_server = _Sum()
        self._of_apps: dict[Hub, _Sum] = {}
        self._hubs: dict[SlowClient, Hub | None] = {}

    def add(self, client: SlowClient, hub: Hub | None) -> None:
        """Count a connection that is full from now on; `hub` is its app's, if it has one."""
        if client not in self._hubs:
            self._hubs[client] = hub
            self._of_server.clients[client] = 0
            if hub is not None:
                if hub not in self._of_apps:
                    self._of_apps[hub] = _Sum()
                self._of_apps[hub].clients[client] = 0
            self.wrote(client, client.waiting_bytes())

    def wrote(self, client: SlowClient, size: int) -> None:
        """
        Add what was written to a connection that is full; others may be ended for it.

        Nothing happens when it is full no more: with TLS, a write may be what empties it.
        """
        if client not in self._hubs:
            return
        hub = self._hubs[client]
        if hub is not None:
            most = hub.app.max_buffered_bytes
            if self._of_apps[hub].add(client, size, most):
                self._of_apps[hub].fit(
                    most,
                    "REVERB_APP_MAX_BUFFERED_SIZE",
                    f"Too slow: more than {most} bytes are waiting for the app's slow clients",
                )
        most = self._max_bytes
        if self._of_server.add(client, size, most):
            self._of_server.fit(
                most,
                "REVERB_MAX_BUFFERED_SIZE_TOTAL",
                f"Too slow: more than {most} bytes are waiting for slow clients",
            )

    def discard(self, client: SlowClient) -> None:
        """Forget a connection that is not full any more, or gone. It need not be counted."""
        if client in self._hubs:
            hub = self._hubs.pop(client)
            self._of_server.remove(client)
            if hub is not None:
                of_app = self._of_apps[hub]
                of_app.remove(client)
                if not of_app.clients:
                    del self._of_apps[hub]

    def count(self, hub: Hub | None = None) -> int:
        """Return how many connections are full: of one app, or of all."""
        return len(self._sum_of(hub).clients)

    def size(self, hub: Hub | None = None) -> int:
        """Return how many bytes wait at most for the connections of one app, or for all."""
        return self._sum_of(hub).bytes

    def _sum_of(self, hub: Hub | None) -> _Sum:
        return self._of_server if hub is None else self._of_apps.get(hub, _NOTHING)


class _Sum:
    """What at most waits for some clients, each with its part in it."""

    __slots__ = ("_count_at", "bytes", "clients")

    def __init__(self) -> None:
        self.clients: dict[SlowClient, int] = {}
        self.bytes = 0
        self._count_at = 0

    def add(self, client: SlowClient, size: int, most: int) -> bool:
        """Add to a client's part; tell whether the sum seems to be over its bound."""
        self.clients[client] += size
        self.bytes += size
        return 0 < max(most, self._count_at if most else 0) < self.bytes

    def remove(self, client: SlowClient) -> None:
        self.bytes -= self.clients.pop(client)

    def fit(self, most: int, limit: str, message: str) -> None:
        """Count exactly; end as many clients, the fullest first, as the bound asks for."""
        clients = self.clients
        for client in clients:
            clients[client] = client.waiting_bytes()
        self.bytes = excess = sum(clients.values())
        excess -= most
        if excess > 0:
            for client in sorted(clients, key=lambda c: (not c.is_ending, -clients[c])):
                excess -= clients[client]
                client.give_up(limit, message)
                if excess <= 0:
                    break
        self._count_at = self.bytes + most // _PART


_NOTHING = _Sum()
