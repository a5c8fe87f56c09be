"""What an app may want to hear about: the promise that webhooks keep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from reverb_py.core.apps import App

__all__ = ["Notices"]


class Notices(Protocol):
    """
    Told of everything that has a webhook, at the moment it happens.

    Implementations must not block or raise: they are called in the middle of a subscription or a
    disconnect. Events of one channel are told in order. A bus that is shared tells of a departure
    only when nobody has come back in time, on any node, and else of neither.
    """

    def channel_occupied(self, app: App, channel: str) -> None:
        """The first connection has subscribed."""

    def channel_vacated(self, app: App, channel: str) -> None:
        """The last connection has left."""

    def member_added(self, app: App, channel: str, user_id: str) -> None:
        """A user's first connection has joined a presence channel."""

    def member_removed(self, app: App, channel: str, user_id: str) -> None:
        """A user's last connection has left a presence channel."""

    def client_event(
        self,
        app: App,
        channel: str,
        event: str,
        data: bytes,
        socket_id: str,
        user_id: str | None,
    ) -> None:
        """A client event was relayed. `data` is JSON as sent, empty when there was none."""

    def cache_miss(self, app: App, channel: str) -> None:
        """Somebody, the first in a while, subscribed to a cache channel with nothing remembered."""

    def subscription_count(self, app: App, channel: str, count: int) -> None:
        """The number of subscribed connections has changed; of a crowd's, now and then."""
