"""How the nodes of a deployment find each other, from Laravel Reverb's and Laravel's variables."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from reverb_py.cluster.connections import RedisAddress
from reverb_py.cluster.node import Scaling
from reverb_py.environment import Reader, WrongSetting, within

__all__ = ["read_scaling"]

_PORT = 6379
_SENTINEL_PORT = 26379


def read_scaling(read: Reader) -> Scaling | None:
    """
    Return the deployment that the server belongs to, or None when it is on its own.

    Raises:
        WrongSetting: A value can't be used.
    """
    if not read.switch("REVERB_SCALING_ENABLED"):
        return None
    prefix = read.text("REVERB_SCALING_CHANNEL") or "reverb"
    if "{" in prefix or "}" in prefix or not prefix.isprintable() or " " in prefix:
        raise WrongSetting(
            f"REVERB_SCALING_CHANNEL must have no braces and no spaces, unlike {prefix!r}"
        )
    lease_seconds = read.number("REVERB_NODE_LEASE_SECONDS")
    if lease_seconds is None:
        lease_seconds = Scaling.lease_seconds
    within("REVERB_NODE_LEASE_SECONDS", lease_seconds, 1, 3600)
    return Scaling(redis=_address(read), prefix=f"{prefix}:", lease_seconds=lease_seconds)


def _address(read: Reader) -> RedisAddress:
    host, port, username, password, database, has_tls = _place(read)
    timeout = read.number("REDIS_TIMEOUT")
    if timeout is None:
        timeout = RedisAddress.timeout
    within("REDIS_TIMEOUT", timeout, 0.1, 3600)
    is_cluster = read.switch("REDIS_CLUSTER") or False
    sentinels = tuple(_host_and_port(sentinel) for sentinel in read.words("REDIS_SENTINELS") or ())
    if is_cluster and sentinels:
        raise WrongSetting("REDIS_CLUSTER and REDIS_SENTINELS are two ways: set one of them")
    if is_cluster and database:
        raise WrongSetting(f"REDIS_DB must be 0 with REDIS_CLUSTER, not {database}")
    return RedisAddress(
        host=host,
        port=port,
        username=username,
        password=password,
        database=database,
        timeout=timeout,
        has_tls=has_tls,
        tls_ca_file=read.text("REDIS_TLS_CA_FILE"),
        is_cluster=is_cluster,
        sentinels=sentinels,
        sentinel_master=read.text("REDIS_SENTINEL_MASTER") or RedisAddress.sentinel_master,
        sentinel_username=read.text("REDIS_SENTINEL_USERNAME"),
        sentinel_password=read.text("REDIS_SENTINEL_PASSWORD"),
    )


def _place(read: Reader) -> tuple[str, int, str | None, str | None, int, bool]:
    """Return host, port, username, password, database, and whether it speaks TLS."""
    host = read.text("REDIS_HOST") or RedisAddress.host
    port = read.whole("REDIS_PORT")
    port = _PORT if port is None else port
    username, password = read.text("REDIS_USERNAME"), read.text("REDIS_PASSWORD")
    database = read.whole("REDIS_DB") or 0
    has_tls = False
    if "://" in host:
        # Laravel takes `tls://redis.example.com` for a host.
        scheme, _, host = host.partition("://")
        has_tls = scheme in ("tls", "rediss")
    url = read.text("REDIS_URL")
    if url is not None:
        try:
            parts = urlsplit(url)
            url_port = parts.port
        except ValueError:
            raise _wrong_url() from None
        if parts.scheme not in ("redis", "rediss", "tcp", "tls") or not parts.hostname:
            raise _wrong_url()
        has_tls = parts.scheme in ("rediss", "tls")
        host, port = parts.hostname, url_port or port
        username = unquote(parts.username) if parts.username else username
        password = unquote(parts.password) if parts.password else password
        if parts.path.strip("/"):
            if not parts.path.strip("/").isdecimal():
                raise _wrong_url()
            database = int(parts.path.strip("/"))
    within("REDIS_PORT", port, 1, 65535)
    within("REDIS_DB", database, 0, 1 << 20)
    return host, port, username, password, database, has_tls


def _wrong_url() -> WrongSetting:
    # The URL may have a password in it, so it is not repeated.
    return WrongSetting(
        "REDIS_URL must be redis://[USERNAME:PASSWORD@]HOST[:PORT][/DATABASE], or rediss:// for TLS"
    )


def _host_and_port(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon:
        return text, _SENTINEL_PORT
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise WrongSetting(f"REDIS_SENTINELS must be HOST:PORT,HOST:PORT, unlike {text!r}")
    return host.strip("[]"), int(port)
