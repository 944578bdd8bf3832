# What stands for OpenSSL where a driver is fuzzed: TLS made of markers, so that an input can say all of it.
#
# HELLO is the client's handshake, ALERT its goodbye, BROKEN a record that cannot be read, and what the
# server sends has the high bit set.

from __future__ import annotations

import ssl
from typing import Final

from smtpproto import TlsDetails

__all__ = ["ALERT", "BROKEN", "HELLO", "Channel", "Contexts", "decrypted"]

HELLO: Final = b"\x16\x03"
ALERT: Final = b"\x15"
BROKEN: Final = b"\x14"
_SHIFT: Final = bytes(octet ^ 0x80 for octet in range(256))  # what stands for encryption


def decrypted(octets: bytes) -> bytes:
    """What the server has sent through TLS; the same function encrypts."""
    return octets.translate(_SHIFT)


class Channel:
    """In the place of a TlsChannel."""

    ssl_object: Final = object()

    def __init__(self) -> None:
        self.closed = False
        self.shaken = False
        self._in = b""
        self._out = b""
        self.ended = False

    @property
    def pending(self) -> int:
        """Octets that were not read yet."""
        return len(self._in)

    def receive(self, raw: bytes) -> None:
        """Octets of the client."""
        if not self.closed:
            self._in += raw

    def receive_eof(self) -> None:
        """The end of them."""
        self.ended = True

    def handshake(self) -> bool:
        """True when it is done."""
        if self._in.startswith(HELLO):
            self._in = self._in[len(HELLO) :]
            self.shaken = True
            return True
        if not HELLO.startswith(self._in):
            self._out += ALERT
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, "no handshake")
        if self.ended:
            raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the client went away during the TLS handshake")
        return False

    def read(self) -> bytes:
        """What the client has said."""
        if self._in.startswith(BROKEN):
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, "a broken record")
        clear, alert, rest = self._in.partition(ALERT)
        sound, broken, behind = clear.partition(BROKEN)
        if broken:
            self._in = broken + behind + alert + rest
        else:
            self.closed = self.closed or bool(alert)
            self._in = b""
        return sound

    def write(self, data: bytes) -> None:
        """What the server says."""
        self._out += decrypted(data)

    def outgoing(self) -> bytes:
        """What is to be sent."""
        out, self._out = self._out, b""
        return out

    def close(self) -> None:
        """The goodbye, which is left out."""

    def details(self) -> TlsDetails:
        """What the session is told."""
        return _DETAILS


class Contexts:
    """In the place of TlsContexts."""

    available: Final = True
    warning: Final = None

    def __init__(self) -> None:
        self.last: Channel | None = None

    def channel(self) -> Channel:
        """For a new connection."""
        self.last = Channel()
        return self.last


_DETAILS: Final = TlsDetails({"name": "X", "standard_name": "X", "version": "TLSv1.3"}, servername="mx.test")
