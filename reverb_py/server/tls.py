"""TLS in process: which files, and what clients may speak."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from reverb_py.environment import WrongSetting

__all__ = ["TlsFiles", "server_context"]


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """
    PEM files. `certificate` has the server's certificate first and those of its authorities behind.

    Without `key`, the private key is in the same file. `passphrase` is for a key that is encrypted.
    """

    certificate: Path
    key: Path | None = None
    passphrase: str | None = field(default=None, repr=False)


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """
    Return what TLS 1.2 and 1.3 connections are made with.

    Raises:
        WrongSetting: A file can't be read or is not what it should be, or the key is another
            certificate's.
    """
    for file, variable in (
        (files.certificate, "REVERB_TLS_CERT_FILE"),
        (files.key, "REVERB_TLS_KEY_FILE"),
    ):
        if file is not None:
            try:
                file.open("rb").close()
            except OSError as exc:
                raise WrongSetting(f"{variable}: {file}: {exc.strerror}") from None
    key_variable = "REVERB_TLS_CERT_FILE" if files.key is None else "REVERB_TLS_KEY_FILE"

    is_encrypted = False

    def passphrase() -> str:
        nonlocal is_encrypted
        is_encrypted = True
        # OpenSSL would ask for it in the terminal.
        if files.passphrase is None:
            raise WrongSetting(
                f"{key_variable}: {files.key or files.certificate} is encrypted: set "
                "REVERB_TLS_KEY_PASSPHRASE"
            )
        return files.passphrase

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(files.certificate, files.key, passphrase)
    except ssl.SSLError as exc:
        raise _wrong_files(files, exc, is_encrypted=is_encrypted) from None
    except (OSError, ValueError) as exc:
        raise WrongSetting(f"REVERB_TLS_CERT_FILE: {files.certificate}: {exc}") from None
    return context


def _wrong_files(files: TlsFiles, exc: ssl.SSLError, *, is_encrypted: bool) -> WrongSetting:
    key = files.key or files.certificate
    if exc.reason == "KEY_VALUES_MISMATCH":
        return WrongSetting(
            f"REVERB_TLS_KEY_FILE: {key} is not the key of the certificate in {files.certificate}"
        )
    if is_encrypted:
        return WrongSetting(f"REVERB_TLS_KEY_PASSPHRASE does not open {key}")
    if _has_certificate(files.certificate):
        variable = "REVERB_TLS_CERT_FILE" if files.key is None else "REVERB_TLS_KEY_FILE"
        return WrongSetting(f"{variable}: {key} has no private key in PEM form that can be used")
    return WrongSetting(
        f"REVERB_TLS_CERT_FILE: {files.certificate} has no certificate in PEM form that can be used"
    )


def _has_certificate(file: Path) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(file)
    except OSError:
        return False
    return True
