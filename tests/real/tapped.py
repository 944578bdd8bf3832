# A wire between a client and a server that can be listened in on.
#
# What one side says before the other answers is a turn. The wire holds nothing back and puts nothing
# together: each piece goes on as it came.

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Generator

PIECE: Final = 65536  # octets


@dataclass(frozen=True)
class Turn:
    """What the client said, and what it was answered before it went on."""

    client: bytes
    server: bytes
    answers: int
    """Pieces in which the answer came."""


class Tap:
    """One connection after another, between any client and one server."""

    def __init__(self, server: int) -> None:
        self._server: Final = server
        self._listener: Final = socket.create_server(("127.0.0.1", 0))
        self.port: Final[int] = self._listener.getsockname()[1]
        self._lock: Final = threading.Lock()
        self._heard: Final[list[tuple[bool, bytes]]] = []
        """Pieces as they came, with whether the client sent them."""
        self._thread: Final = threading.Thread(target=self._accept)
        self._thread.start()

    def turns(self) -> list[Turn]:
        """Of all connections so far; the greeting is the answer to nothing."""
        with self._lock:
            heard = list(self._heard)
        turns = [Turn(b"", b"", 0)]
        for from_client, piece in heard:
            last = turns[-1]
            if not from_client:
                turns[-1] = Turn(last.client, last.server + piece, last.answers + 1)
            elif last.server:
                turns.append(Turn(piece, b"", 0))
            else:
                turns[-1] = Turn(last.client + piece, b"", 0)
        return turns

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                client, _ = self._listener.accept()
                with client, socket.create_connection(("127.0.0.1", self._server)) as server:
                    back = threading.Thread(target=self._carry, args=(server, client, False))
                    back.start()
                    self._carry(client, server, True)
                    back.join()

    def _carry(self, source: socket.socket, target: socket.socket, from_client: bool) -> None:
        with contextlib.suppress(OSError):  # one side has gone, and the other will be told
            while piece := source.recv(PIECE):
                with self._lock:
                    self._heard.append((from_client, piece))
                target.sendall(piece)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """To be called when the client has gone."""
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits
        self._listener.close()
        self._thread.join()


@contextlib.contextmanager
def tapped(server: int) -> Generator[Tap]:
    """A wire to the server that listens on this port of 127.0.0.1."""
    tap = Tap(server)
    try:
        yield tap
    finally:
        tap.close()
