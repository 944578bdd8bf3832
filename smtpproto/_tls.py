# Facts about a TLS session: what `tls_established` takes, and what `session.tls_options` has.

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, Protocol, TypedDict

from smtpproto._values import Value

if TYPE_CHECKING:
    from collections.abc import Mapping

    class SslObject(Protocol):
        """As much of `ssl.SSLObject` and `ssl.SSLSocket` as is asked."""

        def cipher(self) -> tuple[str, str, int] | None: ...
        def version(self) -> str | None: ...
        def getpeercert(self) -> Any: ...


__all__ = ["TlsCipher", "TlsDetails", "standard_name"]


class TlsCipher(TypedDict):
    """Cipher and protocol of the running TLS session."""

    name: str
    """OpenSSL's name of the cipher."""
    standard_name: str
    """The IANA name of the cipher."""
    version: str
    """The protocol, for instance "TLSv1.3"."""


class TlsDetails(Value):
    """What the adapter tells the core about a finished handshake."""

    __slots__ = ("options", "peer_certificate", "servername")

    def __init__(
        self,
        options: TlsCipher | None = None,
        *,
        servername: str | None = None,
        peer_certificate: Mapping[str, Any] | None = None,
    ) -> None:
        self.options: TlsCipher | None = options
        """Cipher and protocol."""
        self.servername: str | None = servername
        """The name the client asked for (SNI, RFC 6066 §3), or None."""
        self.peer_certificate: Mapping[str, Any] | None = peer_certificate
        """As `ssl.SSLObject.getpeercert()` gives it, or None."""

    @classmethod
    def from_ssl(cls, tls: SslObject, *, servername: str | None = None) -> TlsDetails:
        """What an `ssl.SSLObject` or `ssl.SSLSocket` knows after its handshake, the server name apart.

        Without a handshake, and for a client without a verified certificate, the fields are None.
        """
        cipher, version = tls.cipher(), tls.version()
        options: TlsCipher | None = None
        if cipher is not None and version is not None:
            options = {"name": cipher[0], "standard_name": standard_name(cipher[0]), "version": version}
        return cls(options, servername=servername, peer_certificate=tls.getpeercert() or None)

    def __repr__(self) -> str:
        return f"TlsDetails({self.options!r}, servername={self.servername!r})"


# OpenSSL                       IANA
# ECDHE-RSA-AES256-GCM-SHA384   TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
# AES128-SHA                    TLS_RSA_WITH_AES_128_CBC_SHA
_CIPHER: Final = re.compile(
    r"(?:(?P<exchange>(?:EC)?DHE)-)?(?:(?P<signature>RSA|ECDSA|DSS)-)?"
    r"(?:(?P<cipher>AES|ARIA|CAMELLIA)(?P<bits>128|256)-(?:(?P<aead>GCM-SHA\d+|CCM)(?P<tag>8?)|(?P<mac>SHA\d*))"
    r"|(?P<chacha>CHACHA20-POLY1305))"
)


def standard_name(name: str) -> str:
    """The IANA name of an OpenSSL cipher name; those of TLS 1.3 are the same in both."""
    match = _CIPHER.fullmatch(name)
    if match is None:
        return name
    exchange = f"{match['exchange']}_" if match["exchange"] else ""
    signature = match["signature"] or "RSA"
    if match["chacha"]:
        return f"TLS_{exchange}{signature}_WITH_CHACHA20_POLY1305_SHA256"
    mode = match["aead"].replace("-", "_") if match["aead"] else f"CBC_{match['mac']}"
    tag = f"_{match['tag']}" if match["tag"] else ""
    return f"TLS_{exchange}{signature}_WITH_{match['cipher']}_{match['bits']}_{mode}{tag}"
