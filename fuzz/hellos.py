# Whatever a client sends in the place of a TLS handshake, and in whatever pieces: nothing but an SSLError,
# the same server name as in one piece, and the one that OpenSSL finds.
#
# The input: sizes of pieces (2), octets; a name may stand in a ClientHello that is made for it.

from __future__ import annotations

import ssl
import sys
from typing import Final

from smtpproto_server._tls_channel import TlsChannel
from smtpproto_server._tls_names import ClientHello

__all__ = ["client_hello", "target"]

HEADER: Final = 2
MADE: Final = b"\xfd"  # what follows is the extensions of a ClientHello that is sound so far
MOST_HELD: Final = 1 << 17
VERSION: Final = b"\x03\x03"


def target(data: bytes) -> None:
    """One beginning of a TLS connection, read whole and in pieces."""
    if len(data) < HEADER:
        return
    first, size = data[0], 1 + data[1] % 64
    octets = data[HEADER:]
    if octets.startswith(MADE):
        octets = client_hello(octets[1:])
    pieces = [octets[:first], *(octets[at : at + size] for at in range(first, len(octets), size))]
    whole, complete = _read([octets])
    assert _read(pieces) == (whole, complete)
    heard = _ask_openssl(octets)
    assert not (whole and heard) or whole == heard.lower().removesuffix("."), (whole, heard)
    channel = TlsChannel(SILENT)
    try:
        for piece in pieces:
            channel.receive(piece)
            assert not channel.handshake(), "no input is long enough for that"
            channel.outgoing()
        channel.receive_eof()
        channel.handshake()
    except ssl.SSLError:
        channel.close()
    assert channel.servername is None or channel.servername == whole


def client_hello(extensions: bytes) -> bytes:
    """A ClientHello of one record with these extensions (RFC 8446 §4.1.2)."""
    hello = VERSION + bytes(32) + b"\0" + b"\0\x02\x13\x01" + b"\x01\0" + _counted(extensions, 2)
    return b"\x16\x03\x01" + _counted(b"\x01" + _counted(hello, 3), 2)


def _counted(octets: bytes, width: int) -> bytes:
    return len(octets).to_bytes(width, "big") + octets


def _read(pieces: list[bytes]) -> tuple[str | None, bool]:
    hello = ClientHello()
    for piece in pieces:
        if piece and hello.feed(piece):
            return hello.name, True
        assert len(hello._records) + len(hello._message) <= MOST_HELD
    assert hello.name is None
    return None, False


def _ask_openssl(octets: bytes) -> str:
    _HEARD.clear()
    hook, sys.unraisablehook = sys.unraisablehook, _ignored
    incoming = ssl.MemoryBIO()
    incoming.write(octets)
    channel = LISTENING.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True)
    try:
        channel.do_handshake()
    except ssl.SSLError:
        pass
    finally:
        sys.unraisablehook = hook
    return _HEARD[0] if _HEARD else ""


_HEARD: Final[list[str]] = []


def _ignored(_unraisable: object) -> None:
    pass


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    def hear(_channel: object, name: str | None, _context: ssl.SSLContext) -> None:
        _HEARD.append(name or "")

    context.sni_callback = hear
    return context


SILENT: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
LISTENING: Final = _context()  # it prints a traceback for a name that is not ASCII
