"""
The one reader of the environment and of `.env`: every setting, checked, with its unit and default.

docs/configuration.md lists them. A wrong value raises `WrongSetting` with one line that says what
to change, before any port opens.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Final, Self, TypeVar
from urllib.parse import urlsplit

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from chat_api.features.notifications.fcm import ServiceAccount
from chat_api.kernel.callers import Network
from chat_api.realtime.reverb import ReverbApp
from chat_api.store.engine import database_at

__all__ = ["Settings", "WrongSetting", "load_environment"]

_MIN_SECRET: Final = 32  # characters: the 256 bits that HS256 asks for
_WEAK_SECRETS: Final = ("secret", "changeme", "change-me", "password", "your-", "example", "test")
_UNSET: Final = frozenset({"", "null", "(null)", "empty", "(empty)"})
_SWITCH: Final = dict.fromkeys(("1", "true", "(true)", "yes", "on"), True) | dict.fromkeys(
    ("0", "false", "(false)", "no", "off"), False
)
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")

T = TypeVar("T")


class WrongSetting(Exception):
    """A setting that can't be used; the text is one line that says which and why."""


def load_environment(environment: Mapping[str, str], folder: Path) -> dict[str, str]:
    """
    Return the environment over the folder's `.env` file, if it has one.

    The file is shared with the WebSocket server, so both read it alike, which is as Laravel does:
    quotes and `${OTHER}` included. A value that is empty or `null` counts as not set.

    Raises:
        WrongSetting: `.env` can't be read, is not UTF-8, or has a line that means nothing.
    """
    file = folder / ".env"
    from_file = dotenv_values(stream=StringIO(_text_of(file)))
    merged = {name: value for name, value in from_file.items() if value is not None}
    merged.update(environment)
    return {name: value for name, value in merged.items() if value.lower() not in _UNSET}


def _text_of(file: Path) -> str:
    """Return what a `.env` file says, once every line is checked; a folder says nothing."""
    try:
        text = "" if file.is_dir() else file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return ""
    except OSError as exc:
        raise WrongSetting(f"{file}: {exc.strerror or exc}") from None
    except UnicodeDecodeError as exc:
        raise WrongSetting(f"{file} must be UTF-8: {exc.reason} at byte {exc.start}") from None
    for binding in parse_stream(StringIO(text)):
        if binding.error:
            found = binding.original.string
            blank = found[: len(found) - len(found.lstrip())]  # lines before it belong to it
            line = binding.original.line + blank.count("\n")
            # What is there may be a secret.
            raise WrongSetting(f"{file}, line {line}: must be NAME=value, with every quote closed")
    return text


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
    """Failed ones for one account from one address; ten times as many from one address, a hundred
    times for one account. Zero: no limit."""
    sessions_per_minute: int = 60
    """Attempts to start a support conversation, of one address at one tenant; ten times as many at
    all tenants together. Zero: no limit."""
    conversations_by_agent: int = 3
    """How many support conversations an agent may have at a time. Zero: no limit."""
    idle_after: timedelta | None = timedelta(days=7)
    """How long a support conversation stays open in which nothing happens; None is for ever."""
    retention: timedelta | None = None
    """How long closed support conversations are kept; None is for ever."""
    payments_per_minute: int = 60
    """Of one payer. Zero: no limit."""
    wallet_currency: str = "USD"
    """ISO 4217. Wallets in another currency are kept, and not seen."""
    service_account: ServiceAccount | None = None
    """Who sends push notifications; without one there are none."""
    fcm_url: str = "https://fcm.googleapis.com"
    logs_as_json: bool = False
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
    """Where Prometheus finds metrics; None: nowhere."""
    auth: str = "jwt"
    """`jwt`, or `proxy`: the deployment's own proxy says who asks about support conversations."""
    allowed_origins: frozenset[str] | None = None
    """Of whose pages requests are taken; None is any with `jwt`, and none with `proxy`."""
    trusted_proxies: tuple[Network, ...] = ()
    """Who may say for whom they speak (X-Forwarded-For, and X-Participant-Id with `proxy`)."""

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str], *, host: str | None = None, port: int | None = None
    ) -> Self:
        """
        Read every setting; `host` and `port`, from the command line, overrule.

        Raises:
            WrongSetting: A value is missing, is malformed, or is not safe where it listens.
        """
        given = {"CHAT_HOST": host, "CHAT_PORT": None if port is None else str(port)}
        read = _Reader(
            {**environment, **{name: text for name, text in given.items() if text is not None}}
        )
        listen_host = read("CHAT_HOST", _host, cls.host)
        is_public = not _is_loopback(listen_host)
        seed = read("CHAT_SEED", _switch, cls.seed)
        auth = read("CHAT_AUTH", _one_of("jwt", "proxy"), cls.auth)
        trusted_proxies = read("CHAT_TRUSTED_PROXIES", _networks, cls.trusted_proxies)
        if auth == "proxy" and not trusted_proxies:
            if is_public:
                raise WrongSetting(
                    "CHAT_AUTH=proxy lets whoever reaches the API say who they are, and "
                    f"{listen_host} can be reached from outside: set CHAT_TRUSTED_PROXIES to the "
                    "addresses of your proxies, or listen on 127.0.0.1"
                )
            trusted_proxies = _networks("127.0.0.0/8,::1")
        if seed and is_public:
            raise WrongSetting(
                "CHAT_SEED opens accounts whose password everybody knows, and "
                f"{listen_host} can be reached from outside: leave it out, or listen on 127.0.0.1"
            )
        return cls(
            host=listen_host,
            port=read("CHAT_PORT", _whole(0, 65535), cls.port),
            database_url=read("CHAT_DATABASE_URL", _database_url, cls.database_url),
            jwt_secret=read("CHAT_JWT_SECRET", _strong_secret if is_public else _text),
            jwt_lifetime=read("CHAT_JWT_TTL", _lifetime, cls.jwt_lifetime),
            seed=seed,
            auth=auth,
            allowed_origins=read.optional("CHAT_ALLOWED_ORIGINS", _origins),
            trusted_proxies=trusted_proxies,
            event_namespace=read("CHAT_EVENT_NAMESPACE", _namespace, cls.event_namespace),
            messages_per_minute=read(
                "CHAT_MESSAGES_PER_MINUTE", _whole(0, 1_000_000), cls.messages_per_minute
            ),
            logins_per_minute=read(
                "CHAT_LOGINS_PER_MINUTE", _whole(0, 1_000_000), cls.logins_per_minute
            ),
            sessions_per_minute=read(
                "CHAT_SESSIONS_PER_MINUTE", _whole(0, 1_000_000), cls.sessions_per_minute
            ),
            conversations_by_agent=read(
                "CHAT_QUEUE_MAX_CONCURRENT_BY_AGENT", _whole(0, 1_000), cls.conversations_by_agent
            ),
            idle_after=read.optional("CHAT_IDLE_HOURS", _hours, cls.idle_after),
            retention=read.optional("CHAT_RETENTION_DAYS", _days),
            payments_per_minute=read(
                "CHAT_PAYMENTS_PER_MINUTE", _whole(0, 1_000_000), cls.payments_per_minute
            ),
            wallet_currency=read("CHAT_WALLET_CURRENCY", _currency, cls.wallet_currency),
            logs_as_json=read("CHAT_LOG_FORMAT", _one_of("text", "json"), "text") == "json",
            metrics_host=read("CHAT_METRICS_HOST", _host, cls.metrics_host),
            metrics_port=read.optional("CHAT_METRICS_PORT", _whole(0, 65535)),
            service_account=read.optional("CHAT_FCM_CREDENTIALS", _service_account),
            fcm_url=read("CHAT_FCM_URL", _secret_keeping_url, cls.fcm_url),
            reverb=ReverbApp(
                app_id=read("REVERB_APP_ID", _word),
                key=read("REVERB_APP_KEY", _word),
                secret=read("REVERB_APP_SECRET", _text),
                host=read("REVERB_HOST", _host, "127.0.0.1"),
                port=read("REVERB_PORT", _whole(1, 65535), 8080),
                scheme=read("REVERB_SCHEME", _one_of("http", "https"), "http"),
            ),
        )

    @property
    def origins(self) -> frozenset[str] | None:
        """Return the origins whose pages may ask; None for any."""
        if self.allowed_origins is None and self.auth == "proxy":
            return frozenset()
        return self.allowed_origins

    @property
    def has_weak_secret(self) -> bool:
        """Tell whether the secret would not do on a public address."""
        return _weakness(self.jwt_secret) is not None


class _Reader:
    """Reads one variable at a time and names it when it is missing or wrong."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def __call__(self, name: str, parse: Callable[[str], T], default: T | None = None) -> T:
        text = self._environment.get(name)
        if text is None:
            if default is None:
                raise WrongSetting(f"{name} must be set, in the environment or in .env")
            return default
        return self._parsed(name, text, parse)

    def optional(
        self, name: str, parse: Callable[[str], T | None], default: T | None = None
    ) -> T | None:
        text = self._environment.get(name)
        return default if text is None else self._parsed(name, text, parse)

    def _parsed(self, name: str, text: str, parse: Callable[[str], T]) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise WrongSetting(f"{name} {error}") from None


# Each parser raises ValueError with the end of a sentence that starts with the setting's name. None
# quotes a value that may hold a secret.


def _whole(lowest: int, highest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ValueError(f"must be a whole number, not {text!r}") from None
        if not lowest <= value <= highest:
            raise ValueError(f"must be {lowest} to {highest}, not {value}")
        return value

    return parse


def _lifetime(text: str) -> timedelta:
    return timedelta(seconds=_whole(60, 366 * 86_400)(text))


def _hours(text: str) -> timedelta | None:
    return timedelta(hours=_whole(0, 876_000)(text)) or None


def _days(text: str) -> timedelta | None:
    return timedelta(days=_whole(0, 36_500)(text)) or None


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text in words:
            return text
        raise ValueError(f"must be {' or '.join(words)}, not {text!r}")

    return parse


def _origins(text: str) -> frozenset[str]:
    return frozenset(_origin(part.strip().lower()) for part in text.split(",") if part.strip())


def _origin(text: str) -> str:
    if not _ORIGIN.fullmatch(text):
        raise ValueError(
            f"must be origins such as https://app.example.com with commas between, not {text!r}"
        )
    # As browsers write it.
    scheme, _, host = text.partition("://")
    port = {"http": ":80", "https": ":443"}.get(scheme, "")
    return f"{scheme}://{host.removesuffix(port)}"


def _networks(text: str) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise ValueError(f"must be addresses or networks with commas between: {error}") from None


def _switch(text: str) -> bool:
    if text.lower() not in _SWITCH:
        raise ValueError(f"must be true or false, not {text!r}")
    return _SWITCH[text.lower()]


def _text(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError("must be text on one line, not empty")
    return text


def _word(text: str) -> str:
    if not re.fullmatch(r"[!-.0-9;-~]+", text):
        raise ValueError("must be printable ASCII without spaces, slashes and colons")
    return text


def _host(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.:_-]{1,253}", text):
        raise ValueError(f"must be an address or a host name, not {text!r}")
    return text


def _currency(text: str) -> str:
    if not re.fullmatch(r"[A-Z]{3}", text):
        raise ValueError(f"must be an ISO 4217 code such as USD, not {text!r}")
    return text


def _namespace(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.\\]{1,100}", text):
        raise ValueError(f"must look like App\\Events or App.Events, not {text!r}")
    return text


def _service_account(text: str) -> ServiceAccount:
    return ServiceAccount.from_file(Path(_text(text)))


def _secret_keeping_url(text: str) -> str:
    try:
        url = urlsplit(text)
        host = url.hostname or ""
        is_address = url.scheme in ("http", "https") and url.port != 0
    except ValueError:
        is_address = False
    if not is_address or not host or url.path.strip("/") or url.query or url.fragment:
        raise ValueError(f"must be an address such as https://fcm.googleapis.com, not {text!r}")
    if url.scheme == "http" and not _is_loopback(host):
        raise ValueError("must begin with https://, as access tokens are sent there")
    return text.rstrip("/")


def _database_url(text: str) -> str:
    database_at(text)
    return text


def _weakness(secret: str) -> str | None:
    if len(secret) < _MIN_SECRET:
        return f"has {len(secret)} characters and needs {_MIN_SECRET}"
    if len(set(secret)) < 8 or secret.lower().startswith(_WEAK_SECRETS):
        return "is easy to guess"
    return None


def _strong_secret(text: str) -> str:
    if weakness := _weakness(_text(text)):
        raise ValueError(
            f"{weakness}, which is not enough where others can reach CHAT_HOST: "
            'make one with python -c "import secrets; print(secrets.token_hex(32))"'
        )
    return text


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
