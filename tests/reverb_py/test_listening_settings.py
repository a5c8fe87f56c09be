"""Where the server listens, with what certificate, and which proxies it believes."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from reverb_py.environment import WrongSetting
from reverb_py.server.addresses import TrustedProxies
from reverb_py.server.tls import TlsFiles
from reverb_py.settings import Settings
from tests.support.certificates import certificate_for

APP = {
    "REVERB_APP_ID": "1001",
    "REVERB_APP_KEY": "my-key",
    "REVERB_APP_SECRET": "p7ZkqT2mVx9sLw4RbN8c",
}


def read(options: dict[str, Any] | None = None, /, **variables: str) -> Settings:
    return Settings.from_environment({**APP, **variables}, **(options or {}))


def test_a_socket_is_listened_on_instead_of_a_port() -> None:
    settings = read(REVERB_SERVER_SOCKET="/run/reverb.sock", REVERB_SERVER_SOCKET_MODE="600")

    assert (settings.socket_path, settings.socket_mode) == (Path("/run/reverb.sock"), 0o600)
    assert settings.place == "/run/reverb.sock"


@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({"socket": "/tmp/mine.sock"}, "/tmp/mine.sock"),
        ({"port": 9000}, "0.0.0.0:9000"),
        ({"host": "127.0.0.1"}, "127.0.0.1:8080"),
    ],
)
def test_the_command_line_overrules_where_to_listen(options: dict[str, Any], place: str) -> None:
    assert read(options, REVERB_SERVER_SOCKET="/run/reverb.sock").place == place


def test_a_secret_must_be_strong_behind_a_socket_too() -> None:
    with pytest.raises(WrongSetting, match="the secret of app 1001 is easy to guess, and /run/"):
        read(REVERB_SERVER_SOCKET="/run/reverb.sock", REVERB_APP_SECRET="secret")


def test_proxies_are_addresses_networks_and_the_unix_socket() -> None:
    settings = read(REVERB_TRUSTED_PROXIES="10.0.0.0/8, 192.0.2.7,2001:db8::/32,Unix")

    assert settings.trusted_proxies == TrustedProxies(
        (ip_network("10.0.0.0/8"), ip_network("192.0.2.7/32"), ip_network("2001:db8::/32")),
        has_unix=True,
    )
    assert not settings.proxy_protocol
    assert read(REVERB_TRUSTED_PROXIES="unix", REVERB_PROXY_PROTOCOL="true").proxy_protocol


def test_tls_files_are_tried(tmp_path: Path) -> None:
    files = certificate_for(tmp_path, "mine", "open sesame")
    variables = {
        "REVERB_TLS_CERT_FILE": str(files.certificate),
        "REVERB_TLS_KEY_FILE": str(files.key),
    }

    assert read(**variables, REVERB_TLS_KEY_PASSPHRASE="open sesame").tls == files
    with pytest.raises(WrongSetting, match="is encrypted: set REVERB_TLS_KEY_PASSPHRASE"):
        read(**variables)

    both = tmp_path / "both.pem"
    files = certificate_for(tmp_path, "other")
    assert files.key is not None
    both.write_bytes(files.certificate.read_bytes() + files.key.read_bytes())
    assert read(REVERB_TLS_CERT_FILE=str(both)).tls == TlsFiles(certificate=both)


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        (
            "REVERB_SERVER_SOCKET",
            "reverb.sock",
            "must be a full path of at most 107 bytes, not 'reverb.sock'",
        ),
        (
            "REVERB_SERVER_SOCKET",
            "/" + "x" * 107,
            f"must be a full path of at most 107 bytes, not '/{'x' * 107}'",
        ),
        ("REVERB_SERVER_SOCKET_MODE", "rw", "must be three octal digits such as 660, not 'rw'"),
        ("REVERB_SERVER_SOCKET_MODE", "888", "must be three octal digits such as 660, not '888'"),
        ("REVERB_SERVER_SOCKET_MODE", "1777", "must be three octal digits such as 660, not '1777'"),
        (
            "REVERB_TRUSTED_PROXIES",
            "proxy.example.com",
            "must be addresses, networks such as 10.0.0.0/8, or unix, not 'proxy.example.com'",
        ),
        (
            "REVERB_TRUSTED_PROXIES",
            "10.0.0.1/8",
            "must be addresses, networks such as 10.0.0.0/8, or unix, not '10.0.0.1/8' "
            "(did you mean 10.0.0.0/8?)",
        ),
        (
            "REVERB_PROXY_PROTOCOL",
            "true",
            "=true needs REVERB_TRUSTED_PROXIES: who may send PROXY heads",
        ),
        ("REVERB_PROXY_PROTOCOL", "v2", "must be true or false, not 'v2'"),
        ("REVERB_TLS_CERT_FILE", "/nowhere.pem", "/nowhere.pem: No such file or directory"),
    ],
)
def test_a_wrong_value_is_named(name: str, text: str, problem: str) -> None:
    with pytest.raises(WrongSetting) as raised:
        read(**{name: text})

    line = str(raised.value)
    assert line.startswith(name)
    assert line.endswith(problem)
    assert "\n" not in line


def test_a_key_without_a_certificate_is_a_mistake() -> None:
    with pytest.raises(WrongSetting) as raised:
        read(REVERB_TLS_KEY_FILE="/somewhere.pem")

    assert str(raised.value) == "REVERB_TLS_CERT_FILE must be set beside REVERB_TLS_KEY_FILE"
