"""
The one reader of the environment, of `.env` and of the apps file.

Names and defaults are Laravel Reverb's, so a Laravel project's `.env` starts this server as it is;
docs/configuration.md lists them. A wrong value raises `WrongSetting` with one line that says what
to change, before any port opens.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from dotenv import dotenv_values

from reverb_py.core.apps import App, Apps, ClientEventsFrom, RateLimit

__all__ = ["Settings", "WrongSetting", "load_environment"]

_WEAK_SECRETS = frozenset(
    {
        "admin",
        "app-secret",
        "changeme",
        "change-me",
        "default",
        "laravel",
        "password",
        "pusher",
        "reverb",
        "reverb-secret",
        "secret",
        "test",
        "your-app-secret",
    }
)
_MIN_SECRET_LENGTH = 16
_UNSET = frozenset({"", "null", "(null)", "empty", "(empty)"})
_SWITCH = dict.fromkeys(("1", "true", "(true)", "yes", "on"), True)
_SWITCH |= dict.fromkeys(("0", "false", "(false)", "no", "off"), False)


def load_environment(environment: Mapping[str, str], folder: Path) -> dict[str, str]:
    """
    Return the environment over the folder's `.env` file, if it has one.

    `.env` is read as Laravel reads it, quotes and `${OTHER}` included. A value that is empty or
    `null` counts as not set.

    Raises:
        WrongSetting: `.env` can't be read, or is not UTF-8.
    """
    file = folder / ".env"
    try:
        from_file = dotenv_values(file, encoding="utf-8-sig")
    except OSError as exc:
        raise WrongSetting(f"{file}: {exc.strerror or exc}") from None
    except UnicodeDecodeError as exc:
        raise WrongSetting(f"{file} must be UTF-8: {exc.reason} at byte {exc.start}") from None
    merged = {name: value for name, value in from_file.items() if value is not None}
    merged.update(environment)
    return {name: value for name, value in merged.items() if value.lower() not in _UNSET}


class WrongSetting(Exception):
    """A setting that can't be used; the text is one line that says which and why."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything the server is told at its start. Times are seconds, sizes bytes."""

    apps: Apps
    host: str = "0.0.0.0"  # noqa: S104 - Reverb's default; secrets are checked for it
    port: int = 8080
    path_prefix: str = ""
    max_request_bytes: int = 262_144
    max_buffered_bytes: int = 1_048_576
    shutdown_seconds: float = 5.0

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str], *, host: str | None = None, port: int | None = None
    ) -> Settings:
        """
        Read every setting; `host` and `port`, from the command line, overrule.

        Raises:
            WrongSetting: A value is missing, is malformed, or is not safe where it listens.
        """
        read = _Reader(environment)
        listen_host = host or read.text("REVERB_SERVER_HOST", cls.host)
        settings = cls(
            host=listen_host,
            port=read.whole("REVERB_SERVER_PORT", cls.port, 0, 65535) if port is None else port,
            path_prefix=read.path("REVERB_SERVER_PATH"),
            max_request_bytes=read.whole(
                "REVERB_MAX_REQUEST_SIZE", cls.max_request_bytes, 1_000, 1 << 30
            ),
            max_buffered_bytes=read.whole(
                "REVERB_MAX_BUFFERED_SIZE", cls.max_buffered_bytes, 65_536, 1 << 30
            ),
            shutdown_seconds=read.number("REVERB_SHUTDOWN_SECONDS", cls.shutdown_seconds, 0, 3600),
            apps=_read_apps(read),
        )
        if read.switch("REVERB_SCALING_ENABLED"):
            raise WrongSetting(
                "REVERB_SCALING_ENABLED: this version serves from one process; set it to false"
            )
        if not _is_loopback(listen_host):
            for app in settings.apps:
                _require_strong_secret(app, listen_host)
        return settings


class _RateLimiting(msgspec.Struct, forbid_unknown_fields=True):
    enabled: bool = False
    max_attempts: int = 60
    decay_seconds: float = 60.0
    terminate_on_limit: bool = False


class _AppEntry(msgspec.Struct, forbid_unknown_fields=True):
    """One app as the apps file and the environment describe it, with Reverb's words."""

    id: str
    key: str
    secret: str
    ping_interval: float = 60.0
    activity_timeout: int = 30
    max_connections: int | None = None
    max_message_size: int = 10_000
    max_event_data_size: int = 10_240
    accept_client_events_from: str = "members"
    client_events_per_second: int = 10
    rate_limiting: _RateLimiting = msgspec.field(default_factory=_RateLimiting)

    def to_app(self, where: str) -> App:
        """Return the app, or raise `WrongSetting` with `where` in front."""

        def require(holds: bool, problem: str) -> None:
            if not holds:
                raise WrongSetting(f"{where}: {problem}")

        require(bool(self.id and self.key and self.secret), "id, key and secret can't be empty")
        require(
            (self.id + self.key + self.secret).isprintable(),
            "id, key and secret can't contain line ends or other invisible characters",
        )
        require("/" not in self.id + self.key, "id and key can't contain a slash")
        require(":" not in self.key, "the key can't contain a colon")
        require(1 <= self.ping_interval <= 86_400, "ping_interval must be 1 to 86400 seconds")
        require(1 <= self.activity_timeout <= 86_400, "activity_timeout must be 1 to 86400 seconds")
        require(
            self.max_connections is None or self.max_connections >= 0,
            "max_connections can't be negative",
        )
        require(
            256 <= self.max_message_size <= 1 << 30,
            "max_message_size must be 256 to 1073741824 bytes",
        )
        require(
            1 <= self.max_event_data_size <= 1 << 30,
            "max_event_data_size must be 1 to 1073741824 bytes",
        )
        require(
            self.client_events_per_second >= 0,
            "client_events_per_second can't be negative (0 means any number)",
        )
        choices = {choice.value: choice for choice in ClientEventsFrom}
        require(
            self.accept_client_events_from in choices,
            f"accept_client_events_from must be {', '.join(choices)}, "
            f"not {self.accept_client_events_from!r}",
        )
        limiting = self.rate_limiting
        require(limiting.max_attempts >= 1, "rate limiting needs max_attempts of 1 or more")
        require(limiting.decay_seconds > 0, "rate limiting needs decay_seconds above 0")
        rate_limit = RateLimit(
            max_attempts=limiting.max_attempts,
            decay_seconds=limiting.decay_seconds,
            terminate=limiting.terminate_on_limit,
        )
        return App(
            id=self.id,
            key=self.key,
            secret=self.secret,
            ping_interval=self.ping_interval,
            activity_timeout=self.activity_timeout,
            max_connections=self.max_connections,
            max_message_bytes=self.max_message_size,
            max_event_data_bytes=self.max_event_data_size,
            client_events_from=choices[self.accept_client_events_from],
            client_events_per_second=self.client_events_per_second,
            rate_limit=rate_limit if limiting.enabled else None,
        )


class _AppsFile(msgspec.Struct, forbid_unknown_fields=True):
    apps: list[_AppEntry]


class _Reader:
    """Reads one variable at a time and names it when it is wrong."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def optional(self, name: str) -> str | None:
        return self._environment.get(name)

    def text(self, name: str, default: str) -> str:
        return self._environment.get(name, default)

    def whole(self, name: str, default: int, lowest: int, highest: int) -> int:
        text = self._environment.get(name)
        if text is None:
            return default
        try:
            value = int(text)
        except ValueError:
            raise WrongSetting(f"{name} must be a whole number, not {text!r}") from None
        if not lowest <= value <= highest:
            raise WrongSetting(f"{name} must be {lowest} to {highest}, not {value}")
        return value

    def number(self, name: str, default: float, lowest: float, highest: float) -> float:
        text = self._environment.get(name)
        if text is None:
            return default
        try:
            value = float(text)
        except ValueError:
            raise WrongSetting(f"{name} must be a number, not {text!r}") from None
        if not lowest <= value <= highest:
            raise WrongSetting(f"{name} must be {lowest:g} to {highest:g}, not {text}")
        return value

    def switch(self, name: str, default: bool = False) -> bool:
        text = self._environment.get(name)
        if text is None:
            return default
        if text.lower() not in _SWITCH:
            raise WrongSetting(f"{name} must be true or false, not {text!r}")
        return _SWITCH[text.lower()]

    def path(self, name: str) -> str:
        text = self._environment.get(name, "").strip("/")
        if "?" in text or "#" in text or any(character.isspace() for character in text):
            raise WrongSetting(f"{name} must be a plain path such as /realtime, not {text!r}")
        return f"/{text}" if text else ""


def _read_apps(read: _Reader) -> Apps:
    apps = []
    if file := read.optional("REVERB_APPS_FILE"):
        apps += _apps_from_file(Path(file))
    names = ("REVERB_APP_ID", "REVERB_APP_KEY", "REVERB_APP_SECRET")
    missing = [name for name in names if read.optional(name) is None]
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


def _app_from_environment(read: _Reader) -> App:
    most = 1 << 30
    entry = _AppEntry(
        id=read.text("REVERB_APP_ID", ""),
        key=read.text("REVERB_APP_KEY", ""),
        secret=read.text("REVERB_APP_SECRET", ""),
        ping_interval=read.number("REVERB_APP_PING_INTERVAL", 60.0, 1, 86_400),
        activity_timeout=read.whole("REVERB_APP_ACTIVITY_TIMEOUT", 30, 1, 86_400),
        max_message_size=read.whole("REVERB_APP_MAX_MESSAGE_SIZE", 10_000, 256, most),
        max_event_data_size=read.whole("REVERB_APP_MAX_EVENT_DATA_SIZE", 10_240, 1, most),
        accept_client_events_from=read.text("REVERB_APP_ACCEPT_CLIENT_EVENTS_FROM", "members"),
        client_events_per_second=read.whole("REVERB_APP_CLIENT_EVENTS_PER_SECOND", 10, 0, most),
        rate_limiting=_RateLimiting(
            enabled=read.switch("REVERB_APP_RATE_LIMITING_ENABLED"),
            max_attempts=read.whole("REVERB_APP_RATE_LIMIT_MAX_ATTEMPTS", 60, 1, most),
            decay_seconds=read.number("REVERB_APP_RATE_LIMIT_DECAY_SECONDS", 60.0, 0.001, 86_400),
            terminate_on_limit=read.switch("REVERB_APP_RATE_LIMIT_TERMINATE"),
        ),
    )
    if read.optional("REVERB_APP_MAX_CONNECTIONS") is not None:
        entry.max_connections = read.whole("REVERB_APP_MAX_CONNECTIONS", 0, 0, most)
    return entry.to_app("REVERB_APP_*")


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
        raise WrongSetting(f"{where}: {exc}") from None
    return [entry.to_app(f"{where}: apps[{n}]") for n, entry in enumerate(entries)]


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _require_strong_secret(app: App, host: str) -> None:
    secret = app.secret
    if secret.lower() in _WEAK_SECRETS or len(secret) < _MIN_SECRET_LENGTH:
        raise WrongSetting(
            f"the secret of app {app.id} is easy to guess, and {host} can be reached from outside: "
            f"use {_MIN_SECRET_LENGTH} random characters or more, or listen on 127.0.0.1"
        )
