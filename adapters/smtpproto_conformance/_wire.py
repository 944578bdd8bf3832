# A connection to the server, and what comes back on it.
#
# Nothing here trusts the server: each wait has a deadline that no single octet puts off, each line
# and each reply has a limit, and a line that is no reply line is noted and left out.

from __future__ import annotations

import re
import socket
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from smtpproto_conformance._target import Place

__all__ = ["Ended", "Reply", "Silent", "Wire"]

MAX_LINE: Final = 65_536  # octets; far beyond the 512 of RFC 5321 §4.5.3.1.5
MAX_LINES: Final = 1000  # of one reply, so that one has an end
SHOWN: Final = 120  # characters of a reply's text in a reason
# RFC 5321 §4.2; RFC 6531 §3.7.4.2 lets text be UTF-8.
REPLY_LINE: Final = re.compile(rb"([2-5][0-5][0-9])(?:([ -])([\t -~\x80-\xff]*))?")
# What still is one, though malformed: only that much is held against the server.
NEARLY: Final = re.compile(rb"([0-9]{3})(?:([ -])(.*))?", re.DOTALL)


class Silent(Exception):  # noqa: N818 - what the server is, not a fault of ours
    """No reply came in time."""


class Ended(Exception):  # noqa: N818 - as above
    """The connection is at its end."""


@dataclass(frozen=True)
class Reply:
    """A reply: its code, and the text of its lines."""

    code: int
    lines: tuple[str, ...]

    def __str__(self) -> str:
        text = f"{self.code} {' / '.join(self.lines)}".strip()
        return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."

    @property
    def keywords(self) -> tuple[str, ...]:
        """Of a reply to EHLO: the first word of each line behind the first."""
        return tuple(line.split()[0].upper() for line in self.lines[1:] if line.strip())

    def offers(self, keyword: str) -> bool:
        """Whether there is a line for it; `AUTH=PLAIN` asks for a word behind AUTH."""
        name, _, word = keyword.partition("=")
        found = [line.upper().split() for line in self.lines[1:]]
        return any(each and each[0] == name and (not word or word in each[1:]) for each in found)


class Wire:
    """A connection. Raises Ended if there is none to be had."""

    def __init__(self, place: Place, patience: float) -> None:
        self.malformed: list[str] = []
        """Lines that are none of a reply."""
        self._host: str = place.host
        self._patience: float = patience
        self._buffer: bytes = b""
        self._socket: socket.socket = socket.socket(place.family, socket.SOCK_STREAM)
        self._socket.settimeout(patience)
        try:
            self._socket.connect(place.address)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            self._socket.close()
            raise Ended(error.strerror or str(error)) from error

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Send octets. What a server that is gone would have answered is seen when it is read."""
        self._socket.settimeout(self._patience)
        with suppress(OSError):
            self._socket.sendall(data)

    def start_tls(self) -> None:
        """The client's part of a handshake. Any certificate will do: rows are not about trust."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self._socket.settimeout(self._patience)
        try:
            self._socket = context.wrap_socket(self._socket, server_hostname=self._host)
        except (OSError, ValueError) as error:
            raise Ended("the TLS handshake failed") from error

    @property
    def has_more(self) -> bool:
        """Whether something has come that nobody has read."""
        return bool(self._buffer)

    def reply(self) -> Reply:
        """The next reply. Raises Silent or Ended."""
        until = time.monotonic() + self._patience
        codes: list[bytes] = []
        texts: list[str] = []
        for _ in range(MAX_LINES):
            line = self._line(until)
            found = NEARLY.fullmatch(line)
            if not REPLY_LINE.fullmatch(line):
                self._note(line)
            if found is None:
                continue
            codes.append(found[1])
            texts.append((found[3] or b"").decode("utf-8", "backslashreplace"))
            if found[2] != b"-":
                if len(set(codes)) > 1:
                    self._note(b" / ".join(codes))
                return Reply(int(codes[0]), tuple(texts))
        raise Silent(f"no end of the reply within {MAX_LINES} lines")

    def quiet(self, seconds: float) -> bytes:
        """All that comes within these seconds or until the end, up to MAX_LINE octets."""
        until = time.monotonic() + seconds
        with suppress(Silent, Ended):
            while len(self._buffer) < MAX_LINE:
                self._receive(until)
        data, self._buffer = self._buffer, b""
        return data

    def _note(self, line: bytes) -> None:
        self.malformed.append(line[:SHOWN].decode("latin-1").encode("unicode_escape").decode())

    def _line(self, until: float) -> bytes:
        while b"\n" not in self._buffer:
            if len(self._buffer) > MAX_LINE:
                raise Silent(f"no end of the line within {MAX_LINE} octets")
            self._receive(until)
        line, _, self._buffer = self._buffer.partition(b"\n")
        if not line.endswith(b"\r"):
            self._note(line + b"\n")
        return line.removesuffix(b"\r")

    def _receive(self, until: float) -> None:
        left = until - time.monotonic()
        if left <= 0:
            raise Silent(f"no reply within {self._patience:g} s")
        self._socket.settimeout(left)
        try:
            data = self._socket.recv(65536)
        except TimeoutError:
            raise Silent(f"no reply within {self._patience:g} s") from None
        except OSError as error:
            raise Ended("the connection was closed") from error
        if not data:
            raise Ended("the connection was closed")
        self._buffer += data
