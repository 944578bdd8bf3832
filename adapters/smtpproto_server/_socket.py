# A connection whose runtime waits for a non-blocking socket and moves the octets itself.

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any, Final

from smtpproto_server._driver import Driver
from smtpproto_server._sockets import has_octets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from smtpproto_server._application import Application

__all__ = ["SocketDriver"]

# What is made of them, twice for the search for bare newlines, stays in a processor's second cache:
# larger pieces cost more than further reads.
READ_SIZE: Final = 64 * 1024  # octets
MOST_FULL_READS: Final = 16


class SocketDriver(Driver):
    """The runtime waits until the socket can be read (or, while `full`, written), and says so."""

    __slots__ = ("full_reads", "read_all", "rest", "sock")

    full: bool  # of Octets; said again for checkers of types

    def __init__(
        self, server: Application, sock: socket.socket, clock: Callable[[], float], facts: Mapping[str, Any]
    ) -> None:
        self.sock: socket.socket = sock
        self.rest: bytes | memoryview = b""
        """What is sent when there is room."""
        self.read_all: bool = False
        """The client will send no more octets."""
        self.full_reads: int = 0
        """Reads in a row that took all they could; see `has_more`."""
        super().__init__(server, clock, facts)

    def send(self, octets: bytes | memoryview) -> None:
        """As far as the system takes it; the rest when there is room."""
        if self.rest:
            self.rest = memoryview(bytes(self.rest) + octets)
            return
        try:
            sent = self.sock.send(octets)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self.note_loss(error)
            return
        if sent < len(octets):
            self.rest, self.full = memoryview(octets)[sent:], True
            self.await_room()

    def await_room(self) -> None:
        """Call `writable` when the socket has room; for a runtime that does not look at `full` itself."""

    def readable(self) -> bool:
        """The socket may have octets; True if something came of it."""
        try:
            data = self.sock.recv(READ_SIZE)
        except (BlockingIOError, InterruptedError):
            self.full_reads = 0
            return False
        except OSError as error:
            self.full_reads = 0
            self._no_more()
            self.lose(error)
        else:
            if not data:
                self._no_more()
            if len(data) < READ_SIZE:
                self.full_reads = 0
            else:  # others get their turn in between
                self.full_reads = (self.full_reads + 1) % MOST_FULL_READS
            self.received(data)
        return True

    def has_more(self) -> bool:
        """The last read took all it could, so a runtime may call `readable` without a wait."""
        return self.full_reads > 0 and not (self.full or self.held)

    def _no_more(self) -> None:
        """The client will send no more octets, though the socket stays readable."""
        self.read_all = True
        self.hold()

    def writable(self) -> None:
        """The socket may have room."""
        rest, self.rest = self.rest, b""
        self.send(rest)
        if not self.rest:
            self.room()

    def socket_error(self) -> OSError | None:
        """The error that the system keeps for the socket, which forgets it; None: there is none."""
        number = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return OSError(number, os.strerror(number)) if number else None

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
