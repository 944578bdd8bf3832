# A client and a server with as small socket buffers as there are, so that writes come in parts.

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

from smtpproto_kit import DEADLINE, Client

if TYPE_CHECKING:
    from smtpproto_kit import Running

__all__ = ["narrow"]

BUFFER: Final = 2048  # octets; the system may double it


def narrow(server: Running) -> Client:
    """A client on a listener of its own."""
    sock = _small()
    sock.bind(("127.0.0.1", 0))
    place = sock.getsockname()
    server.call(lambda: server.server.listen(sock=sock))
    client = Client.__new__(Client)
    client.buffer, client.sock = b"", _small()
    client.sock.connect(place)
    return client


def _small() -> socket.socket:
    sock = socket.socket()
    for which in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, which, BUFFER)
    sock.settimeout(DEADLINE)
    return sock
