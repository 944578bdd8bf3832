# A client on a plain blocking socket, which waits with a deadline and never by sleeping.

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DATA", "DEADLINE", "Client", "wait_until"]

DEADLINE: Final = 10.0  # seconds until a test gives up waiting
ENDLESS: Final = 32 * 1024 * 1024  # octets, more than a system's buffers hold
DATA: Final = b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\nDATA\r\n"


def wait_until(true: Callable[[], object], seconds: float = DEADLINE) -> None:
    """Wait for a condition, looking often; fail at the deadline."""
    end = time.monotonic() + seconds
    tick = threading.Event()
    while not true():
        assert time.monotonic() < end, "the condition did not come true"
        tick.wait(0.005)


class Client:
    """A client on a blocking socket."""

    def __init__(
        self,
        port: int = 0,
        *,
        path: str | None = None,
        sock: socket.socket | None = None,
        tls: bool = False,
    ) -> None:
        if sock is not None:  # one that is connected
            self.sock = sock
            self.sock.settimeout(DEADLINE)
        elif path is not None:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(DEADLINE)
            self.sock.connect(path)
        else:
            self.sock = socket.create_connection(("127.0.0.1", port), DEADLINE)
        self.buffer = b""
        if tls:
            self.start_tls()

    def start_tls(self, context: ssl.SSLContext | None = None, name: str = "localhost") -> None:
        """The client's part of a handshake; by default it trusts anybody."""
        if context is None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        self.sock = context.wrap_socket(self.sock, server_hostname=name)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def reply(self) -> str:
        """The next reply; its lines are joined by LF. "" when the connection has ended."""
        lines: list[str] = []
        while True:
            line = self.line()
            if not line:
                assert not lines, f"the connection ended within a reply: {lines}"
                return ""
            lines.append(line)
            if line[3:4] != "-":
                return "\n".join(lines)

    def line(self) -> str:
        while b"\r\n" not in self.buffer:
            data = self.sock.recv(65536)
            if not data:
                assert not self.buffer, f"the connection ended within a line: {self.buffer!r}"
                return ""
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return line.decode()

    def say(self, *lines: str) -> str:
        """Send command lines, each when the one before was answered; the last reply."""
        answer = ""
        for line in lines:
            self.send(line.encode() + b"\r\n")
            answer = self.reply()
        return answer

    def greeted(self) -> Self:
        """Read the greeting and say EHLO."""
        assert self.reply().startswith("220 ")
        assert self.say("EHLO client.test").startswith("250")
        return self

    def rest(self) -> bytes:
        """All until the server closes; a reset is an end too."""
        data, self.buffer = self.buffer, b""
        with contextlib.suppress(ConnectionResetError):
            while more := self.sock.recv(65536):
                data += more
        return data

    def replies(self) -> list[str]:
        """All further replies until the server closes."""
        return list(iter(self.reply, ""))

    def fill(self, line: bytes, seconds: float = 0.3) -> int:
        """Send a line again and again until for some time nothing goes in; how many octets went.

        It gives up behind ENDLESS: whoever takes so much takes everything.
        """
        sent, many = 0, line * (65536 // len(line) + 1)
        self.sock.settimeout(seconds)
        with contextlib.suppress(TimeoutError):
            while sent < ENDLESS:
                sent += self.sock.send(many[sent % len(line) :])
        self.sock.settimeout(DEADLINE)
        return sent

    def end(self) -> None:
        """Say that no more will be sent."""
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
