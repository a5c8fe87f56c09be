"""
How apps are configured: one by variables, several by a file, with the same words and bounds.

Each setting is a row of one table, which says what it is called in both places.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from reverb_py.core.apps import (
    App,
    Apps,
    ClientEventsFrom,
    RateLimit,
    Webhook,
    is_host_pattern,
)
from reverb_py.environment import Reader, WrongSetting, within, within_or_off
from reverb_py.webhooks.payload import KINDS, objection_to

__all__ = ["read_apps"]

_MOST = 1 << 30


class _RateLimiting(msgspec.Struct, forbid_unknown_fields=True):
    enabled: bool = False
    max_attempts: int = 60
    decay_seconds: float = 60.0
    terminate_on_limit: bool = False


class _WebhookEntry(msgspec.Struct, forbid_unknown_fields=True):
    url: str
    events: list[str] = []
    channel_prefixes: list[str] = []
    channel_suffixes: list[str] = []
    headers: dict[str, str] = {}


class _AppEntry(msgspec.Struct, forbid_unknown_fields=True):
    """
    One app as the apps file and the environment describe it, with Reverb's words.

    A limit of 0 is no limit; for Reverb's `max_connections`, null is none either.
    """

    id: str
    key: str
    secret: str
    previous_secrets: list[str] = []
    enabled: bool = True
    allowed_origins: list[str] = msgspec.field(default_factory=lambda: ["*"])
    ping_interval: float = 60.0
    pong_timeout: float = 30.0
    activity_timeout: int = 30
    max_connections: int | None = None
    max_buffered_size: int = 134_217_728
    max_message_size: int = 10_000
    max_event_data_size: int = 10_240
    messages_per_second: int = 2_000
    malformed_messages_per_minute: int = 60
    subscriptions_per_second: int = 20
    subscriptions_per_second_per_address: int = 0
    max_channels_per_connection: int = 1_000
    accept_client_events_from: str = "members"
    client_events_per_second: int = 10
    client_events_per_second_per_address: int = 0
    client_events_per_second_per_app: int = 0
    publishes_per_second: int = 0
    reads_per_second: int = 0
    max_presence_members: int = 100
    max_presence_member_size: int = 2_048
    max_watchlist: int = 100
    cache_seconds: float = 1_800.0
    subscription_counts: bool = False
    authorization_seconds: float = 0.0
    rate_limiting: _RateLimiting = msgspec.field(default_factory=_RateLimiting)
    webhooks: list[_WebhookEntry] = []
    webhook_batch_seconds: float = 0.0


class _AppsFile(msgspec.Struct, forbid_unknown_fields=True):
    apps: list[_AppEntry]


class _Row(NamedTuple):
    """
    A setting: its name in the file, how its variable is read, and the bounds of a number.

    A limit may also be 0, for none.
    """

    name: str
    variable: str
    read: Callable[[Reader, str], object]
    lowest: float | None = None
    highest: float = _MOST
    is_limit: bool = False


def _row(
    name: str,
    read: Callable[[Reader, str], object],
    lowest: float | None = None,
    highest: float = _MOST,
) -> _Row:
    return _Row(name, f"REVERB_APP_{name.upper()}", read, lowest, highest)


def _limit(name: str, lowest: int = 0) -> _Row:
    return _Row(name, f"REVERB_APP_{name.upper()}", Reader.whole, lowest, is_limit=True)


_ROWS = (
    _row("id", Reader.text),
    _row("key", Reader.text),
    _row("secret", Reader.text),
    _row("previous_secrets", Reader.words),
    _row("enabled", Reader.switch),
    _row("allowed_origins", Reader.words),
    _row("ping_interval", Reader.number, 1, 86_400),
    _row("pong_timeout", Reader.number, 1, 86_400),
    _row("activity_timeout", Reader.whole, 1, 86_400),
    _limit("max_connections"),
    _limit("max_buffered_size", 65_536),
    _limit("max_message_size", 256),
    _limit("max_event_data_size"),
    _limit("messages_per_second"),
    _limit("malformed_messages_per_minute"),
    _limit("subscriptions_per_second"),
    _limit("subscriptions_per_second_per_address"),
    _limit("max_channels_per_connection"),
    _row("accept_client_events_from", Reader.text),
    _limit("client_events_per_second"),
    _limit("client_events_per_second_per_address"),
    _limit("client_events_per_second_per_app"),
    _limit("publishes_per_second"),
    _limit("reads_per_second"),
    _limit("max_presence_members"),
    _limit("max_presence_member_size"),
    _limit("max_watchlist"),
    _row("cache_seconds", Reader.number, 1, 86_400),
    _row("subscription_counts", Reader.switch),
    _row("authorization_seconds", Reader.number, 0, 86_400),
    _row("webhook_batch_seconds", Reader.number, 0, 60),
    _Row("rate_limiting.enabled", "REVERB_APP_RATE_LIMITING_ENABLED", Reader.switch),
    _Row("rate_limiting.max_attempts", "REVERB_APP_RATE_LIMIT_MAX_ATTEMPTS", Reader.whole, 1),
    _Row(
        "rate_limiting.decay_seconds",
        "REVERB_APP_RATE_LIMIT_DECAY_SECONDS",
        Reader.number,
        0.001,
        86_400,
    ),
    _Row("rate_limiting.terminate_on_limit", "REVERB_APP_RATE_LIMIT_TERMINATE", Reader.switch),
)
_VARIABLES = {row.name: row.variable for row in _ROWS}
_VARIABLES["webhooks"] = "REVERB_APP_WEBHOOK_URL"
_VARIABLES["webhooks.events"] = "REVERB_APP_WEBHOOK_EVENTS"


def read_apps(read: Reader) -> Apps:
    """
    Return the app of the `REVERB_APP_*` variables and those of the file in `REVERB_APPS_FILE`.

    Raises:
        WrongSetting: There is none, one is incomplete or wrong, or two share an id or a key.
    """
    apps = []
    if file := read.text("REVERB_APPS_FILE"):
        apps += _apps_from_file(Path(file))
    names = ("REVERB_APP_ID", "REVERB_APP_KEY", "REVERB_APP_SECRET")
    missing = [name for name in names if read.text(name) is None]
    if not missing:
        apps.append(_app_from_environment(read))
    elif len(missing) < len(names) or not apps:
        raise WrongSetting(
            f"{' and '.join(missing)} must be set: an app has an id, a key and a secret "
            "(or name a file of apps in REVERB_APPS_FILE)"
        )
    try:
        return Apps(apps)
    except ValueError as exc:
        raise WrongSetting(f"REVERB_APPS_FILE, REVERB_APP_*: {exc}") from None


def _app_from_environment(read: Reader) -> App:
    values: dict[str, Any] = {"rate_limiting": {}}
    for row in _ROWS:
        value = row.read(read, row.variable)
        if value is not None:
            group, _, name = row.name.rpartition(".")
            (values[group] if group else values)[name] = value
    if url := read.text("REVERB_APP_WEBHOOK_URL"):
        events = read.words("REVERB_APP_WEBHOOK_EVENTS") or []
        values["webhooks"] = [{"url": url, "events": events}]
    entry = msgspec.convert(values, _AppEntry)
    return _checked_app(entry, lambda name: _VARIABLES.get(name, f"REVERB_APP_{name.upper()}"))


def _apps_from_file(file: Path) -> list[App]:
    where = f"REVERB_APPS_FILE {file}"
    try:
        content = file.read_bytes()
    except OSError as exc:
        raise WrongSetting(f"{where}: {exc.strerror or exc}") from None
    try:
        if file.suffix == ".json":
            entries = msgspec.json.decode(content, type=_AppsFile).apps
        else:
            entries = msgspec.toml.decode(content, type=_AppsFile).apps
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        shape = ""
        if isinstance(exc, msgspec.ValidationError) and "`$" not in str(exc):
            shape = '{"apps": […]}' if file.suffix == ".json" else "[[apps]], once for each"
            shape = f" (a file of apps is {shape})"
        raise WrongSetting(f"{where}: {exc}{shape}") from None
    return [
        _checked_app(entry, lambda name, n=n: f"{where}: apps[{n}].{name}")  # type: ignore[misc]
        for n, entry in enumerate(entries)
    ]


def _checked_app(entry: _AppEntry, label: Callable[[str], str]) -> App:
    """Return the app, or raise WrongSetting; `label` says what its reader calls a setting."""

    def require(holds: bool, name: str, rule: str) -> None:
        if not holds:
            raise WrongSetting(f"{label(name)} must {rule}")

    for row in _ROWS:
        if row.lowest is not None:
            value: Any = entry
            for part in row.name.split("."):
                value = getattr(value, part)
            if value is not None:
                check = within_or_off if row.is_limit else within
                check(label(row.name), value, row.lowest, row.highest)
    for name in ("id", "key"):
        value = getattr(entry, name)
        require(
            value.isascii() and value.isprintable() and bool(value) and not set(value) & set(" /:"),
            name,
            "be printable ASCII without spaces, slashes and colons",
        )
    for secret in (entry.secret, *entry.previous_secrets):
        name = "secret" if secret is entry.secret else "previous_secrets"
        require(bool(secret) and secret.isprintable(), name, "be text on one line, not empty")
    for origin in entry.allowed_origins:
        require(
            is_host_pattern(origin),
            "allowed_origins",
            "be hosts without scheme, port and path, such as shop.example.com or *.example.com, "
            f"not {origin!r}",
        )
    choices = {choice.value: choice for choice in ClientEventsFrom}
    require(
        entry.accept_client_events_from in choices,
        "accept_client_events_from",
        f"be {', '.join(choices)}, not {entry.accept_client_events_from!r}",
    )
    webhooks = [_webhook(webhook) for webhook in entry.webhooks]
    for webhook in webhooks:
        if objection := objection_to(webhook):
            setting = "webhooks.events" if webhook.kinds - KINDS else "webhooks"
            raise WrongSetting(f"{label(setting)}: {objection}")
    limiting = entry.rate_limiting
    return App(
        id=entry.id,
        key=entry.key,
        secret=entry.secret,
        previous_secrets=tuple(entry.previous_secrets),
        enabled=entry.enabled,
        allowed_origins=tuple(entry.allowed_origins),
        ping_interval=entry.ping_interval,
        pong_timeout=entry.pong_timeout,
        activity_timeout=entry.activity_timeout,
        max_connections=entry.max_connections or 0,
        max_buffered_bytes=entry.max_buffered_size,
        max_message_bytes=entry.max_message_size,
        max_event_data_bytes=entry.max_event_data_size,
        messages_per_second=entry.messages_per_second,
        malformed_messages_per_minute=entry.malformed_messages_per_minute,
        subscriptions_per_second=entry.subscriptions_per_second,
        subscriptions_per_second_per_address=entry.subscriptions_per_second_per_address,
        max_channels_per_connection=entry.max_channels_per_connection,
        client_events_from=choices[entry.accept_client_events_from],
        client_events_per_second=entry.client_events_per_second,
        client_events_per_second_per_address=entry.client_events_per_second_per_address,
        client_events_per_second_per_app=entry.client_events_per_second_per_app,
        publishes_per_second=entry.publishes_per_second,
        reads_per_second=entry.reads_per_second,
        max_presence_members=entry.max_presence_members,
        max_presence_member_bytes=entry.max_presence_member_size,
        max_watchlist=entry.max_watchlist,
        last_event_seconds=entry.cache_seconds,
        subscription_counts=entry.subscription_counts,
        authorization_seconds=entry.authorization_seconds,
        rate_limit=RateLimit(
            max_attempts=limiting.max_attempts,
            decay_seconds=limiting.decay_seconds,
            terminate=limiting.terminate_on_limit,
        )
        if limiting.enabled
        else None,
        webhooks=tuple(webhooks),
        webhook_batch_seconds=entry.webhook_batch_seconds,
    )


def _webhook(entry: _WebhookEntry) -> Webhook:
    return Webhook(
        url=entry.url,
        kinds=frozenset(entry.events or KINDS),
        prefixes=tuple(entry.channel_prefixes),
        suffixes=tuple(entry.channel_suffixes),
        headers=tuple(entry.headers.items()),
    )
