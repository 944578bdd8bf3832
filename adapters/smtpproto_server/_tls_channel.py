# TLS as bytes in and bytes out.
#
# Nothing here moves a byte over a wire, waits, or knows a runtime: a channel is an SSLObject
# between two memory BIOs, and whoever owns the connection feeds and drains it.

from __future__ import annotations

import contextlib
import ssl
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from smtpproto import TlsDetails
from smtpproto_server._tls_names import ClientHello

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CHUNK", "NO_NAMES", "RECORD", "TlsChannel"]

RECORD: Final = 16_384  # octets of plaintext in one record at most, RFC 8446 §5.1
CHUNK: Final = 4 * RECORD  # octets `read` hands out at once at most
# A memory BIO never gives back what it once grew to. Fed in pieces it stays near 40 KiB on a
# connection that carried a large message, instead of holding the largest read for its whole life.
PIECE: Final = RECORD
NO_NAMES: Final[Mapping[str, ssl.SSLContext]] = MappingProxyType({})


class TlsChannel:
    """The server's end of one TLS connection, without the connection.

    Give it what the client sent (`receive`), and after every call send the client what
    `outgoing` holds, also when a call raised: handshake messages, session tickets and alerts
    appear there by themselves. First call `handshake` until it is True, then `read` and `write`.
    """

    __slots__ = (
        "_at", "_ended", "_fault", "_held", "_hello", "_incoming", "_named", "_outgoing",
        "closed", "servername", "ssl_object",
    )  # fmt: skip

    def __init__(self, context: ssl.SSLContext, named: Mapping[str, ssl.SSLContext] = NO_NAMES) -> None:
        self._named: Mapping[str, ssl.SSLContext] = named
        self._hello: ClientHello | None = ClientHello()
        self._incoming: ssl.MemoryBIO = ssl.MemoryBIO()
        self._outgoing: ssl.MemoryBIO = ssl.MemoryBIO()
        self._held: bytes = b""
        self._at: int = 0
        self._ended: bool = False
        self._fault: ssl.SSLError | None = None
        self.closed: bool = False
        """The client said close_notify: what was read is all it meant to send (RFC 8446 §6.1)."""
        self.servername: str | None = None
        """The name the client asked for (SNI), lower-case, or None. Known once the handshake is done."""
        self.ssl_object: ssl.SSLObject = self._wrapped(context)
        """For questions to OpenSSL. Take it after the handshake: the client's SNI name may exchange it."""

    def receive(self, raw: bytes) -> None:
        """Take in octets the client sent, then call `handshake` or `read` until they ask for more."""
        if self._hello is not None:
            self._incoming.write(raw)
            if self._hello.feed(raw):
                self._choose(self._hello.name)
        elif not self.closed:
            self._held = self._held[self._at :] + raw if self._held else raw
            self._at = 0

    def receive_eof(self) -> None:
        """The connection ended. `closed` stays False unless a close_notify came before."""
        self._ended = True

    def handshake(self) -> bool:
        """Go on with the handshake: True when it is done, False when more octets are needed.

        Raises ssl.SSLError when it failed; the alert for the client is in `outgoing`.
        """
        # Choosing the context inside OpenSSL's SNI callback would come too late: client certificates,
        # protocol versions and ticket keys stay those of the first context. So the name comes first.
        while self._hello is None:
            try:
                self.ssl_object.do_handshake()
            except ssl.SSLWantReadError:
                if self._refill():
                    continue
                break
            return True
        if self._ended:
            raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the client went away during the TLS handshake")
        return False

    def read(self) -> bytes:
        """The plaintext that is there now, at most 64 KiB of it; b"" when more ciphertext is needed.

        Raises ssl.SSLError when the client broke the protocol: treat the connection as lost.
        What came before the fault is handed out first, however the octets were cut.
        """
        if self._fault is not None:
            raise self._fault
        parts: list[bytes] = []
        room = CHUNK
        while room >= RECORD and self._has_ciphertext() and not self.closed:
            try:
                part = self.ssl_object.read(RECORD)
            except ssl.SSLWantReadError:
                continue  # the BIO is empty now
            except ssl.SSLZeroReturnError:  # close_notify after ours
                part = b""
            except ssl.SSLError as fault:
                self._fault = fault.with_traceback(None)
                break
            if part:
                parts.append(part)
                room -= len(part)
            else:
                self._close_input()
        if self._fault is not None and not parts:
            raise self._fault
        return parts[0] if len(parts) == 1 else b"".join(parts)

    @property
    def ended(self) -> bool:
        """The client will send no more ciphertext."""
        return self._ended

    @property
    def pending(self) -> int:
        """Octets of ciphertext that wait to be read."""
        return len(self._held) - self._at

    def write(self, data: bytes) -> None:
        """Encrypt `data` into `outgoing`. On a broken or closed channel it is dropped, and `read` raises."""
        if data:
            try:
                self.ssl_object.write(data)
            except ssl.SSLError as fault:
                self._fault = self._fault or fault.with_traceback(None)

    def outgoing(self) -> bytes:
        """Octets for the client since the last call."""
        return self._outgoing.read()

    def close(self) -> None:
        """Queue a close_notify, if the state of the connection still allows one."""
        # The client's own close_notify is not waited for; OpenSSL reports its absence as an error.
        with contextlib.suppress(OSError):
            self.ssl_object.unwrap()

    def details(self) -> TlsDetails:
        """What the core wants to know of a finished handshake."""
        return TlsDetails.from_ssl(self.ssl_object, servername=self.servername)

    def _wrapped(self, context: ssl.SSLContext) -> ssl.SSLObject:
        return context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    def _choose(self, name: str | None) -> None:
        self._hello = None
        self.servername = name
        context = self._named.get(name) if name else None
        if context is not None:
            self.ssl_object = self._wrapped(context)

    def _has_ciphertext(self) -> bool:
        pending = self._incoming.pending
        return (pending < RECORD and self._refill()) or pending > 0 or self.ssl_object.pending() > 0

    def _refill(self) -> bool:
        """Move the next piece of what was received to where OpenSSL finds it."""
        if not self._held:
            return False
        end = self._at + PIECE
        if end < len(self._held):
            self._incoming.write(memoryview(self._held)[self._at : end])
            self._at = end
        else:
            self._incoming.write(self._held[self._at :])  # no copy of a whole small one
            self._held, self._at = b"", 0
        return True

    def _close_input(self) -> None:
        # RFC 8446 §6.1: data behind a close_notify must be ignored.
        self.closed = True
        self._held, self._at = b"", 0
