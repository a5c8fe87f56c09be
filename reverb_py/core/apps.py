"""Apps: who may connect and publish, under which limits, and how one is found."""

import enum
import ipaddress
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

__all__ = [
    "BURST_SECONDS",
    "App",
    "Apps",
    "ClientEventsFrom",
    "RateLimit",
    "Webhook",
    "is_host_pattern",
]

BURST_SECONDS = 10
"""Seconds' worth of messages that a connection may send at once."""

_HOST_PATTERN = re.compile("[0-9a-z._*-]+", re.ASCII | re.IGNORECASE)


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

    def covers(self, channel: str) -> bool:
        """Tell whether it is to hear of this channel, whatever happens there."""
        return (not self.prefixes or channel.startswith(self.prefixes)) and (
            not self.suffixes or channel.endswith(self.suffixes)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """
    One application, as configured. Times are seconds, sizes bytes.

    A limit of 0 is no limit; sizes, numbers and rates are all switched off so.

    `secret` signs; `previous_secrets` are still accepted, while backends change over.
    """

    id: str
    key: str
    secret: str = field(repr=False)
    previous_secrets: tuple[str, ...] = field(default=(), repr=False)
    enabled: bool = True
    allowed_origins: tuple[str, ...] = ("*",)
    ping_interval: float = 60.0
    pong_timeout: float = 30.0
    """To say anything at all, from the first of two pings on."""
    activity_timeout: int = 30
    max_connections: int = 0
    max_buffered_bytes: int = 134_217_728
    """That may wait for all slow clients of the app on a node together."""
    max_message_bytes: int = 10_000
    max_event_data_bytes: int = 10_240
    messages_per_second: int = 2_000
    """Frames of one connection, control frames included; `BURST_SECONDS` as many at once."""
    malformed_messages_per_minute: int = 60
    rate_limit: RateLimit | None = None
    client_events_from: ClientEventsFrom = ClientEventsFrom.MEMBERS
    client_events_per_second: int = 10
    """Of one connection."""
    client_events_per_second_per_address: int = 0
    client_events_per_second_per_app: int = 0
    max_channels_per_connection: int = 1_000
    subscriptions_per_second: int = 20
    """Of one connection, and as many at once as it may have channels."""
    subscriptions_per_second_per_address: int = 0
    max_presence_members: int = 100
    max_presence_member_bytes: int = 2_048
    max_watchlist: int = 100
    last_event_seconds: float = 1_800.0
    subscription_counts: bool = False
    authorization_seconds: float = 0.0
    publishes_per_second: int = 0
    """Terminations of users included."""
    reads_per_second: int = 0
    webhooks: tuple[Webhook, ...] = ()
    webhook_batch_seconds: float = 0.0

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every secret a signature may have been made with, the current one first."""
        return (self.secret, *self.previous_secrets)

    def allows_origin(self, origin: str) -> bool:
        """
        Tell whether a page of this origin (`https://shop.example.com`) may connect.

        The host counts, against patterns in which `*` stands for anything, as in Laravel Reverb.
        """
        if "*" in self.allowed_origins:
            return True
        try:
            host = urlsplit(origin).hostname or ""
        except ValueError:
            return False
        return any(fnmatchcase(host, pattern.lower()) for pattern in self.allowed_origins)


def is_host_pattern(text: str) -> bool:
    """
    Tell whether there are origins whose host matches this, with `*` for anything.

    Nothing with a scheme, a port or a path is a host, and browsers write other letters than
    English ones as `xn--`; an IPv6 address is one without brackets, in its shortest form.
    """
    if ":" not in text:
        return _HOST_PATTERN.fullmatch(text) is not None
    try:
        return str(ipaddress.IPv6Address(text)) == text.lower()
    except ValueError:
        return False


class Apps:
    """The apps of a configuration. Raises ValueError when two share an id or a key."""

    def __init__(self, apps: Iterable[App]) -> None:
        self._apps = tuple(apps)
        ids: set[str] = set()
        keys: set[str] = set()
        for app in self._apps:
            if app.id in ids:
                raise ValueError(f"two apps have the id {app.id!r}")
            if app.key in keys:
                raise ValueError(f"two apps have the key {app.key!r}")
            ids.add(app.id)
            keys.add(app.key)

    def __iter__(self) -> Iterator[App]:
        return iter(self._apps)
