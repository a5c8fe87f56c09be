"""Apps: who may connect and publish, under which limits, and how one is found."""

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

__all__ = ["App", "Apps", "ClientEventsFrom", "RateLimit", "Webhook"]


class ClientEventsFrom(enum.Enum):
    """Whose client events an app relays."""

    MEMBERS = "members"
    """Connections that are subscribed to the channel."""

    ALL = "all"
    """Every connection of the app, subscribed or not."""

    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """`max_attempts` messages of one connection at once, and as many again in `decay_seconds`."""

    max_attempts: int
    decay_seconds: float
    terminate: bool
    """Whether a connection that goes over it is closed; otherwise the message is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """
    One address that is told what happens in an app.

    `kinds` are the names of the events it wants. A channel is told of when its name has one of the
    `prefixes` and one of the `suffixes`; an empty tuple means any. `headers` are sent along.
    """

    url: str
    kinds: frozenset[str]
    prefixes: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """
    One application, as configured. Times are seconds, sizes bytes; None means no limit.

    `secret` signs; `previous_secrets` are still accepted, while backends change over.
    """

    id: str
    key: str
    secret: str = field(repr=False)
    previous_secrets: tuple[str, ...] = field(default=(), repr=False)
    enabled: bool = True
    allowed_origins: tuple[str, ...] = ("*",)
    ping_interval: float = 60.0
    activity_timeout: int = 30
    max_connections: int | None = None
    max_message_bytes: int = 10_000
    max_event_data_bytes: int = 10_240
    client_events_from: ClientEventsFrom = ClientEventsFrom.MEMBERS
    client_events_per_second: int = 10
    rate_limit: RateLimit | None = None
    max_channels_per_connection: int | None = 1_000
    max_presence_members: int | None = 100
    max_presence_member_bytes: int = 2_048
    max_watchlist: int = 100
    last_event_seconds: float = 1_800.0
    subscription_counts: bool = False
    authorization_seconds: float | None = None
    publishes_per_second: int | None = None
    reads_per_second: int | None = None
    webhooks: tuple[Webhook, ...] = ()
    webhook_batch_seconds: float = 0.0

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every secret a signature may have been made with, the current one first."""
        return (self.secret, *self.previous_secrets)


class Apps:
    """The apps of this server. Ids and keys are unique across them."""

    def __init__(self, apps: Iterable[App]) -> None:
        self._by_id: dict[str, App] = {}
        self._by_key: dict[str, App] = {}
        for app in apps:
            if app.id in self._by_id:
                raise ValueError(f"two apps have the id {app.id!r}")
            if app.key in self._by_key:
                raise ValueError(f"two apps have the key {app.key!r}")
            self._by_id[app.id] = app
            self._by_key[app.key] = app

    def __iter__(self) -> Iterator[App]:
        return iter(self._by_id.values())

    def with_id(self, app_id: str) -> App | None:
        """Return the app that the HTTP API calls by this id."""
        return self._by_id.get(app_id)

    def with_key(self, key: str) -> App | None:
        """Return the app that clients call by this key."""
        return self._by_key.get(key)
