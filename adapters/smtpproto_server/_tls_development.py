# The certificate for development: self-signed, made in memory, new in every process.

from __future__ import annotations

import datetime as dt
import functools
import ipaddress
import re
from typing import Final

from smtpproto_server._tls_names import a_labels

__all__ = ["development_pem"]

DEVELOPMENT_DAYS: Final = 7
_ADDRESS_LITERAL: Final = re.compile(r"\[(?:IPv6:)?(.+)\]", re.IGNORECASE)  # RFC 5321 §4.1.3
CLOCK_SKEW: Final = dt.timedelta(minutes=5)
MAX_COMMON_NAME: Final = 64  # characters, RFC 5280 appendix A.1, ub-common-name


@functools.cache
def development_pem(name: str) -> str:
    """A self-signed certificate and its key, made once in a process for each server name."""
    from cryptography import x509  # noqa: PLC0415 - optional, and most servers have certificates
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415 - optional, and most servers have certificates
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - optional, and most servers have certificates

    hosts = list(dict.fromkeys(host for host in ("localhost", _host(name)) if host))
    common_names = [text for text in map(str, hosts) if len(text) <= MAX_COMMON_NAME]
    alternatives = [x509.DNSName(host) if isinstance(host, str) else x509.IPAddress(host) for host in hosts]
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text) for text in common_names])
    key = ec.generate_private_key(ec.SECP256R1())
    start = dt.datetime.now(dt.UTC) - CLOCK_SKEW
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=DEVELOPMENT_DAYS))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return (certificate.public_bytes(serialization.Encoding.PEM) + private).decode("ascii")


def _host(name: str) -> str | ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """What a certificate may hold of a server's name; None if it is neither host nor address."""
    literal = _ADDRESS_LITERAL.fullmatch(name)
    try:
        return ipaddress.ip_address(literal[1] if literal else name)
    except ValueError:
        return a_labels(name)
