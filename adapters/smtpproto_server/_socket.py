# A connection whose runtime waits for a non-blocking socket and moves the octets itself.

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any, Final

from smtpproto_server._clocks import NEVER
from smtpproto_server._driver import Driver
from smtpproto_server._sockets import has_octets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from smtpproto_server._application import Application

__all__ = ["SocketDriver"]

READ_SIZE: Final = 64 * 1024  # octets


class SocketDriver(Driver):
    """The runtime waits until the socket can be read (or, while `full`, written), and says so."""

    __slots__ = ("rest", "sock", "when")

    full: bool  # of Octets; said again for checkers of types

    def __init__(
        self, server: Application, sock: socket.socket, clock: Callable[[], float], facts: Mapping[str, Any]
    ) -> None:
        self.sock: socket.socket = sock
        self.rest: bytes | memoryview = b""
        """What is sent when there is room."""
        self.when: float = NEVER
        """When `expired` is to be called."""
        super().__init__(server, clock, facts)

    def send(self, octets: bytes) -> None:
        """As far as the system takes it."""
        self.rest = bytes(self.rest) + octets if self.rest else octets
        self.send_rest()

    def send_rest(self) -> None:
        """Send what is left; `full` says whether something still is."""
        rest = self.rest
        try:
            sent = self.sock.send(rest)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self.note_loss(error)
            sent = len(rest)
        self.rest = b"" if sent == len(rest) else memoryview(rest)[sent:]
        self.full = bool(self.rest)

    def readable(self) -> bool:
        """The socket may have octets; True if something came of it."""
        try:
            data = self.sock.recv(READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self.lose(error)
        else:
            self.received(data)
        return True

    def writable(self) -> None:
        """The socket may have room."""
        self.send_rest()
        if not self.full:
            self.room()

    def alarm(self, when: float) -> None:
        """The runtime's wait ends then."""
        self.when = when

    def rang(self) -> None:
        """The time of `alarm` has come."""
        self.when = NEVER
        self.expired()

    def octets_wait(self) -> bool:
        """Look into the socket."""
        return has_octets(self.sock)

    def end_output(self) -> None:
        """Shut the sending side down; the peer may have been faster."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def drop(self) -> None:
        """Close the socket."""
        with contextlib.suppress(OSError):
            self.sock.close()
