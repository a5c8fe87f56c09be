"""Where the server listens, with what certificate, and which proxies it believes."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

from reverb_py.environment import Reader, WrongSetting
from reverb_py.server.addresses import TrustedProxies
from reverb_py.server.tls import TlsFiles, server_context

__all__ = ["read_proxies", "read_proxy_protocol", "read_socket_mode", "read_tls", "socket_path"]

_MAX_PATH_BYTES = 107
_UNIX = "unix"


def socket_path(path: str) -> Path:
    """
    Return the path of a Unix socket.

    Raises:
        WrongSetting: It is longer than the system allows, or relative.
    """
    length = len(os.fsencode(path))
    if not path.startswith("/") or length > _MAX_PATH_BYTES or not path.isprintable():
        raise WrongSetting(
            f"REVERB_SERVER_SOCKET must be a full path of at most {_MAX_PATH_BYTES} bytes, "
            f"not {path!r}"
        )
    return Path(path)


def read_socket_mode(read: Reader, default: int) -> int:
    """
    Return who may connect to the Unix socket, as the bits of a file.

    Raises:
        WrongSetting: They are no such bits.
    """
    text = read.text("REVERB_SERVER_SOCKET_MODE")
    if text is None:
        return default
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise WrongSetting(
            f"REVERB_SERVER_SOCKET_MODE must be three octal digits such as 660, not {text!r}"
        )
    return mode


def read_tls(read: Reader) -> TlsFiles | None:
    """
    Return the files that TLS is spoken with, which have been tried, or None where it is not spoken.

    Raises:
        WrongSetting: They can't be used.
    """
    certificate = read.text("REVERB_TLS_CERT_FILE")
    key = read.text("REVERB_TLS_KEY_FILE")
    if certificate is None:
        if key is not None:
            raise WrongSetting("REVERB_TLS_CERT_FILE must be set beside REVERB_TLS_KEY_FILE")
        return None
    files = TlsFiles(
        certificate=Path(certificate),
        key=None if key is None else Path(key),
        passphrase=read.text("REVERB_TLS_KEY_PASSPHRASE"),
    )
    server_context(files)
    return files


def read_proxies(read: Reader) -> TrustedProxies:
    """
    Return whose word on addresses counts.

    Raises:
        WrongSetting: What is listed is no address and no network.
    """
    words = read.words("REVERB_TRUSTED_PROXIES") or []
    return TrustedProxies(
        tuple(_network(word) for word in words if word.lower() != _UNIX),
        has_unix=any(word.lower() == _UNIX for word in words),
    )


def read_proxy_protocol(read: Reader, proxies: TrustedProxies) -> bool:
    """
    Return whether the proxies begin each connection with a PROXY head.

    Raises:
        WrongSetting: They do, and nobody is named who may.
    """
    speaks = read.switch("REVERB_PROXY_PROTOCOL") or False
    if speaks and not (proxies.networks or proxies.has_unix):
        raise WrongSetting(
            "REVERB_PROXY_PROTOCOL=true needs REVERB_TRUSTED_PROXIES: who may send PROXY heads"
        )
    return speaks


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as exc:
        hint = ""
        if "host bits" in str(exc):
            hint = f" (did you mean {ipaddress.ip_network(text, strict=False)}?)"
        raise WrongSetting(
            f"REVERB_TRUSTED_PROXIES must be addresses, networks such as 10.0.0.0/8, or {_UNIX}, "
            f"not {text!r}{hint}"
        ) from None
