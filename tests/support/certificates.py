"""Certificates that nobody has signed but themselves, as files."""

import datetime
import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from reverb_py.server.tls import TlsFiles

__all__ = ["certificate_for", "client_trusting", "key_in"]


def key_in(file: Path, passphrase: str | None = None) -> ec.EllipticCurvePrivateKey:
    """Make a private key and write it, encrypted where there is a passphrase."""
    key = ec.generate_private_key(ec.SECP256R1())
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        encryption = serialization.BestAvailableEncryption(passphrase.encode())
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    )
    return key


def certificate_for(folder: Path, name: str, passphrase: str | None = None) -> TlsFiles:
    """Make a certificate of that name for `localhost` and 127.0.0.1, and its key."""
    files = TlsFiles(
        certificate=folder / f"{name}.crt", key=folder / f"{name}.key", passphrase=passphrase
    )
    assert files.key is not None
    key = key_in(files.key, passphrase)
    own = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    places = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(own)
        .issuer_name(own)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(places), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return files


def client_trusting(*servers: TlsFiles) -> ssl.SSLContext:
    """Return what a client connects with that believes these certificates and no other."""
    context = ssl.create_default_context()
    for files in servers:
        context.load_verify_locations(files.certificate)
    return context
