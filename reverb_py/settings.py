"""
Everything the server is told at its start.

Names and defaults are Laravel Reverb's, so a Laravel project's `.env` starts this server as it is;
docs/configuration.md lists them. A wrong value raises `WrongSetting` with one line that says what
to change, before any port opens.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from reverb_py.app_settings import read_apps
from reverb_py.cluster.node import Scaling
from reverb_py.core.apps import App, Apps
from reverb_py.environment import Reader, WrongSetting, load_environment, within, within_or_off
from reverb_py.listening_settings import (
    read_proxies,
    read_proxy_protocol,
    read_socket_mode,
    read_tls,
    socket_path,
)
from reverb_py.scaling_settings import read_scaling
from reverb_py.server.addresses import TrustedProxies
from reverb_py.server.tls import TlsFiles
from reverb_py.telemetry.metrics import MetricsPlace

__all__ = ["Settings", "WrongSetting", "load_environment"]

_MIN_SECRET_LENGTH = 16
_MIN_SECRET_VARIETY = 8
_METRIC_PREFIX = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_HOST_NAME = re.compile(r"[A-Za-z0-9_.\-]+", re.ASCII)
_PATH = re.compile(r"[A-Za-z0-9_.~\-/]*", re.ASCII)

# Everybody can read these where the protocol is explained.
_PUBLISHED_SECRETS = frozenset({"7ad3773142a6692b25b8"})

_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How one server runs. Times are seconds, sizes bytes. A limit of 0 is no limit."""

    apps: Apps
    host: str = "0.0.0.0"  # noqa: S104 - Reverb's default; secrets are checked for it
    port: int = 8080
    socket_path: Path | None = None
    """Of a Unix socket to listen on, instead of host and port."""
    socket_mode: int = 0o660
    path_prefix: str = ""
    tls: TlsFiles | None = None
    trusted_proxies: TrustedProxies = TrustedProxies()  # noqa: RUF009 - immutable
    proxy_protocol: bool = False
    """Whether the trusted proxies, and nobody else, connect, each time with a PROXY head."""
    max_request_bytes: int = 1_048_576
    max_buffered_bytes: int = 1_048_576
    max_buffered_bytes_total: int = 268_435_456
    """That may wait for all slow clients together."""
    max_waiting_bytes: int = 67_108_864
    """Of all HTTP requests together that are not signed and whose bodies have not arrived whole."""
    max_connections_per_address: int = 0
    """WebSocket and HTTP connections of one address at a time."""
    connects_per_minute_per_address: int = 0
    """New connections of one address."""
    requests_per_second_per_address: int = 0
    """HTTP requests of one address."""
    shutdown_seconds: float = 5.0
    drain_delay_seconds: float = 0.0
    """For which new clients are still taken, after it was said that the server stops."""
    drain_seconds: float = 0.0
    """Over which clients are sent away, while the others are served."""
    scaling: Scaling | None = None
    """How the nodes of a deployment find each other; None for a server of one node."""
    metrics: MetricsPlace | None = None
    """Where Prometheus finds metrics; None shows none."""
    logs_as_json: bool = False
    errors_as_strings: bool = False
    """Whether the data of `pusher:error` is a string, as with Laravel Reverb, and no object."""
    shares_port: bool = False
    """Whether other processes listen on the same port, between whom the system distributes."""
    listening_fd: int | None = None
    """An open listening socket, which stands for `socket_path`."""

    @classmethod
    def from_environment(
        cls,
        environment: Mapping[str, str],
        *,
        host: str | None = None,
        port: int | None = None,
        socket: str | None = None,
    ) -> Settings:
        """
        Read every setting; `host` and `port`, or `socket`, from the command line, overrule.

        Raises:
            WrongSetting: A value is missing, is malformed, or is not safe where it listens.
        """
        read = Reader(environment)

        def limit(name: str, default: int, lowest: int = 0) -> int:
            value = _or_default(read.whole(name), default)
            within_or_off(name, value, lowest, 1 << 30)
            return value

        def seconds(name: str, default: float) -> float:
            value = _or_default(read.number(name), default)
            within(name, value, 0, 3600)
            return value

        if socket is None and host is None and port is None:
            socket = read.text("REVERB_SERVER_SOCKET")
        path = None if socket is None else socket_path(socket)
        if port is None:
            port = _or_default(read.whole("REVERB_SERVER_PORT"), cls.port)
            within("REVERB_SERVER_PORT", port, 0, 65535)
        proxies = read_proxies(read)
        listen_host = host or read.text("REVERB_SERVER_HOST") or cls.host
        if not _is_host(listen_host):
            raise WrongSetting(
                f"REVERB_SERVER_HOST must be an address or a host name, not {listen_host!r}"
            )
        settings = cls(
            host=listen_host,
            port=port,
            socket_path=path,
            socket_mode=read_socket_mode(read, cls.socket_mode),
            path_prefix=_path_prefix(read),
            tls=read_tls(read),
            trusted_proxies=proxies,
            proxy_protocol=read_proxy_protocol(read, proxies),
            max_request_bytes=limit("REVERB_MAX_REQUEST_SIZE", cls.max_request_bytes, 1_000),
            max_buffered_bytes=limit("REVERB_MAX_BUFFERED_SIZE", cls.max_buffered_bytes, 65_536),
            max_buffered_bytes_total=limit(
                "REVERB_MAX_BUFFERED_SIZE_TOTAL", cls.max_buffered_bytes_total, 65_536
            ),
            max_waiting_bytes=limit("REVERB_MAX_WAITING_SIZE", cls.max_waiting_bytes, 65_536),
            max_connections_per_address=limit("REVERB_MAX_CONNECTIONS_PER_ADDRESS", 0),
            connects_per_minute_per_address=limit("REVERB_CONNECTS_PER_MINUTE_PER_ADDRESS", 0),
            requests_per_second_per_address=limit("REVERB_REQUESTS_PER_SECOND_PER_ADDRESS", 0),
            shutdown_seconds=seconds("REVERB_SHUTDOWN_SECONDS", cls.shutdown_seconds),
            drain_delay_seconds=seconds("REVERB_DRAIN_DELAY_SECONDS", cls.drain_delay_seconds),
            drain_seconds=seconds("REVERB_DRAIN_SECONDS", cls.drain_seconds),
            apps=read_apps(read),
            scaling=read_scaling(read),
            metrics=_metrics(read),
            logs_as_json=_is_chosen(read, "REVERB_LOG_FORMAT", "json", over="text"),
            errors_as_strings=_is_chosen(read, "REVERB_ERROR_DATA", "string", over="object"),
        )
        if path is not None or not _is_loopback(listen_host):
            for app in settings.apps:
                _require_strong_secrets(app, listen_host if path is None else str(path))
        return settings

    @property
    def place(self) -> str:
        """Where the server listens, for people: `HOST:PORT`, or the path of its socket."""
        return f"{self.host}:{self.port}" if self.socket_path is None else str(self.socket_path)


def _or_default(value: _Value | None, default: _Value) -> _Value:
    return default if value is None else value


def _metrics(read: Reader) -> MetricsPlace | None:
    """Return where metrics are shown: nowhere, unless that or a port is asked for."""
    port = read.whole("REVERB_METRICS_PORT")
    is_enabled = read.switch("REVERB_METRICS_ENABLED")
    if not (port is not None if is_enabled is None else is_enabled):
        return None
    port = _or_default(port, MetricsPlace.port)
    within("REVERB_METRICS_PORT", port, 0, 65535)
    host = read.text("REVERB_METRICS_HOST") or MetricsPlace.host
    if not _is_host(host):
        raise WrongSetting(f"REVERB_METRICS_HOST must be an address or a host name, not {host!r}")
    prefix = read.text("REVERB_METRICS_PREFIX") or MetricsPlace.prefix
    if _METRIC_PREFIX.fullmatch(prefix) is None:
        raise WrongSetting(
            f"REVERB_METRICS_PREFIX must be letters, digits and _, no digit first, not {prefix!r}"
        )
    return MetricsPlace(host=host, port=port, prefix=prefix)


def _is_chosen(read: Reader, name: str, choice: str, *, over: str) -> bool:
    """Return which of two words a variable is; `over` is meant where it is not set."""
    word = read.text(name) or over
    if word not in (over, choice):
        raise WrongSetting(f"{name} must be {over} or {choice}, not {word!r}")
    return word == choice


def _path_prefix(read: Reader) -> str:
    text = (read.text("REVERB_SERVER_PATH") or "").strip("/")
    if _PATH.fullmatch(text) is None:
        raise WrongSetting(
            f"REVERB_SERVER_PATH must be a plain path such as /realtime, not {text!r}"
        )
    return f"/{text}" if text else ""


def _is_host(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return _HOST_NAME.fullmatch(host) is not None
    return True


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _require_strong_secrets(app: App, host: str) -> None:
    for secret in app.secrets:
        if (
            len(secret) < _MIN_SECRET_LENGTH
            or len(set(secret)) < _MIN_SECRET_VARIETY
            or secret in _PUBLISHED_SECRETS
        ):
            raise WrongSetting(
                f"the secret of app {app.id} is easy to guess, and {host} can be reached from "
                f"outside: use {_MIN_SECRET_LENGTH} random characters or more, or listen on "
                "127.0.0.1"
            )
