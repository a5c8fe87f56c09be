"""The only reader of the environment: every setting, checked, with its unit and its default."""

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final, Self, TypeVar

from dotenv import dotenv_values
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from chat_api.realtime.reverb import ReverbApp

__all__ = ["Settings", "SettingsError", "environment"]

_MIN_SECRET: Final = 32  # characters: the 256 bits that HS256 asks for
_WEAK_SECRETS: Final = ("secret", "changeme", "change-me", "password", "your-", "example", "test")

T = TypeVar("T")


class SettingsError(Exception):
    """A setting is missing or wrong; the message names it and says what it should be."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How one chat API runs."""

    jwt_secret: str = field(repr=False)
    reverb: ReverbApp = field(repr=False)
    host: str = "127.0.0.1"
    port: int = 8383
    database_url: str = field(default="sqlite:///chat.sqlite3", repr=False)
    jwt_lifetime: timedelta = timedelta(days=1)
    seed: bool = False
    event_namespace: str = ""
    messages_per_minute: int = 300
    """Of one sender; typing signals are counted apart, by the same limit. Zero: no limit."""
    logins_per_minute: int = 10
    """Failed ones for one account; ten times as many from one address. Zero: no limit."""

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Self:
        """Return the settings in `environment`. Raises `SettingsError` for the first wrong one."""
        read = _Reader(environment)
        host = read("CHAT_HOST", "127.0.0.1", _host)
        is_public = not _is_loopback(host)
        seed = read("CHAT_SEED", "0", _flag)
        if seed and is_public:
            raise SettingsError(
                f"CHAT_SEED=1 opens accounts whose password everybody knows, and CHAT_HOST={host} "
                "lets everybody in: use 127.0.0.1, or leave CHAT_SEED out."
            )
        return cls(
            host=host,
            port=read("CHAT_PORT", "8383", _number(0, 65535)),
            database_url=read("CHAT_DATABASE_URL", "sqlite:///chat.sqlite3", _database_url),
            jwt_secret=read("CHAT_JWT_SECRET", None, _strong_secret if is_public else _text),
            jwt_lifetime=timedelta(seconds=read("CHAT_JWT_TTL", "86400", _number(60, 366 * 86400))),
            seed=seed,
            event_namespace=read("CHAT_EVENT_NAMESPACE", "", _namespace),
            messages_per_minute=read("CHAT_MESSAGES_PER_MINUTE", "300", _number(0, 1_000_000)),
            logins_per_minute=read("CHAT_LOGINS_PER_MINUTE", "10", _number(0, 1_000_000)),
            reverb=ReverbApp(
                app_id=read("REVERB_APP_ID", None, _word),
                key=read("REVERB_APP_KEY", None, _word),
                secret=read("REVERB_APP_SECRET", None, _text),
                host=read("REVERB_HOST", "127.0.0.1", _host),
                port=read("REVERB_PORT", "8080", _number(1, 65535)),
                scheme=read("REVERB_SCHEME", "http", _one_of("http", "https")),
            ),
        )

    @property
    def has_weak_secret(self) -> bool:
        """Tell whether the secret would not do on a public address."""
        return _weakness(self.jwt_secret) is not None


def environment(variables: Mapping[str, str], dotenv: Path = Path(".env")) -> dict[str, str]:
    """Return the variables, completed by those of a `.env` file where there is one."""
    from_file = dotenv_values(dotenv) if dotenv.is_file() else {}
    return {name: value for name, value in from_file.items() if value is not None} | dict(variables)


class _Reader:
    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def __call__(self, name: str, default: str | None, parse: Callable[[str], T]) -> T:
        """Parse a setting; empty means the default, and is an error where there is none."""
        text = self._environment.get(name, "").strip()
        if not text:
            if default is None:
                raise SettingsError(f"{name} is not set: put it into the environment or .env.")
            if not default:
                return parse(default)
            text = default
        try:
            return parse(text)
        except ValueError as error:
            raise SettingsError(f"{name} {error}") from None


# Each parser raises ValueError with the end of a sentence that starts with the setting's name. None
# quotes a value that may hold a secret.


def _number(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if re.fullmatch(r"[0-9]{1,9}", text) and least <= int(text) <= most:
            return int(text)
        raise ValueError(f"must be a whole number from {least} to {most}, not {text!r}.")

    return parse


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text in words:
            return text
        raise ValueError(f"must be {' or '.join(words)}, not {text!r}.")

    return parse


def _flag(text: str) -> bool:
    value = {"1": True, "true": True, "0": False, "false": False}.get(text.lower())
    if value is None:
        raise ValueError(f"must be 1 or 0, not {text!r}.")
    return value


def _text(text: str) -> str:
    return text


def _word(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", text):
        raise ValueError("must be made of letters, digits, - and _, at most 100 of them.")
    return text


def _host(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.:_-]{1,253}", text):
        raise ValueError(f"must be a host name or an IP address, not {text!r}.")
    return text


def _namespace(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.\\]{0,100}", text):
        raise ValueError(f"must look like App\\Events or App.Events, not {text!r}.")
    return text


def _database_url(text: str) -> str:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ValueError("must be a URL such as sqlite:///chat.sqlite3.") from None
    if url.get_backend_name() != "sqlite":
        raise ValueError("must start with sqlite:///, the only database so far.")
    if not url.database or ":memory:" in url.database:
        raise ValueError("must name a file: what is said would be lost with the process.")
    return text


def _weakness(secret: str) -> str | None:
    if len(secret) < _MIN_SECRET:
        return f"has {len(secret)} characters and needs {_MIN_SECRET}"
    if len(set(secret)) < 8 or secret.lower().startswith(_WEAK_SECRETS):
        return "is easy to guess"
    return None


def _strong_secret(text: str) -> str:
    if weakness := _weakness(text):
        raise ValueError(
            f"{weakness}, which is not enough on a public CHAT_HOST: "
            'make one with python -c "import secrets; print(secrets.token_hex(32))".'
        )
    return text


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
