# A load over TLS, which neither smtp-source nor blast can make.
#
#     python tests/benchmarks/tls_load.py messages PORT SESSIONS MESSAGES SIZE
#     python tests/benchmarks/tls_load.py handshakes PORT SESSIONS CONNECTIONS
#
# TLS is from the first octet, and no session is resumed. A thread for each of the sessions; each
# waits for every reply, and sends a message and the dot behind it in one write. `handshakes` is
# connect, handshake, greeting, QUIT, again and again. Certificates are not looked at.

from __future__ import annotations

import argparse
import socket
import ssl
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PATIENCE: Final = 30.0  # seconds
HEADER: Final = b"From: <a@example.com>\r\nTo: <d@example.com>\r\nSubject: test\r\n\r\n"
LINE: Final = b"X" * 78 + b"\r\n"


class Client:
    """One connection; a context manager that says QUIT."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        plain = socket.create_connection(("127.0.0.1", port), PATIENCE)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock: ssl.SSLSocket = context.wrap_socket(plain)
        self._expect(b"220")

    def say(self, octets: bytes, code: bytes) -> None:
        """Write, and read the reply."""
        self._sock.sendall(octets)
        self._expect(code)

    def _expect(self, code: bytes) -> None:
        reply = b""
        while not (reply.endswith(b"\n") and reply.splitlines()[-1][3:4] == b" "):
            piece = self._sock.recv(4096)
            if not piece:
                raise EOFError("the server closed the connection")
            reply += piece
        if not reply.startswith(code):
            raise ValueError(f"{reply!r} is not {code.decode()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.say(b"QUIT\r\n", b"221")
        self._sock.close()


def trusting() -> ssl.SSLContext:
    """What trusts anybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def messages(port: int, context: ssl.SSLContext, count: int, size: int) -> None:
    """Send so many messages in one session."""
    body = HEADER + LINE * (size // len(LINE)) + b".\r\n"
    with Client(port, context) as client:
        client.say(b"EHLO localhost\r\n", b"250")
        for _ in range(count):
            client.say(b"MAIL FROM:<a@example.com>\r\n", b"250")
            client.say(b"RCPT TO:<d@example.com>\r\n", b"250")
            client.say(b"DATA\r\n", b"354")
            client.say(body, b"250")


def handshakes(port: int, context: ssl.SSLContext, count: int, size: int) -> None:  # noqa: ARG001 - a row of LOADS
    """Come and go so many times."""
    for _ in range(count):
        with Client(port, context):
            pass


LOADS: Final[Mapping[str, Callable[[int, ssl.SSLContext, int, int], None]]] = {
    "messages": messages,
    "handshakes": handshakes,
}


def main() -> int:
    """Run the load; 1 if a session failed."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("load", choices=LOADS)
    for name in ("port", "sessions", "count"):
        parser.add_argument(name, type=int)
    parser.add_argument("size", type=int, nargs="?", default=0)
    given = parser.parse_args()
    load, context = LOADS[given.load], trusting()
    shares = [len(range(n, given.count, given.sessions)) for n in range(given.sessions)]
    with ThreadPoolExecutor(given.sessions) as pool:
        running = [pool.submit(load, given.port, context, share, given.size) for share in shares]
    faults = [fault for each in running if (fault := each.exception()) is not None]
    for fault in faults:
        print("fatal:", repr(fault), file=sys.stderr)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
