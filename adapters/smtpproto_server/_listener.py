# A listening socket, the same for every runtime: what is accepted, and what may go wrong there.
#
# A runtime waits until it can be read, and calls `accepted`.

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from smtpproto_server._sockets import Identity, listener_address, socket_address

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from smtpproto_server._options import Options
    from smtpproto_server._sockets import SocketAddress

__all__ = ["Arrival", "Listener"]

SHORTAGE: Final = 1.0  # seconds without accepting when the system has no more descriptors
AT_ONCE: Final = 100  # connections taken before those that are there get their turn


class Arrival(Identity, total=False):
    """An identity with the options of the listener."""

    options: Options


class Listener:
    """Accepts for a server until `close`; with `path` the socket's file is its own."""

    __slots__ = ("_path", "_report", "address", "name", "options", "pause", "release", "sock")

    def __init__(
        self,
        sock: socket.socket,
        report: Callable[[OSError, str, None], object],
        name: str,
        options: Options,
        path: str | None = None,
    ) -> None:
        self.sock: socket.socket = sock
        self.name: str = name
        """What `session.listener` is for its connections."""
        self.options: Options = options
        """Those of its connections."""
        self._report: Callable[[OSError, str, None], object] = report
        self.address: SocketAddress = listener_address(sock)
        self.pause: float = 0.0
        """Seconds to wait before the socket is looked at again."""
        self.release: Callable[[], object] = _nothing
        """What the runtime does before the socket is closed; it sets this."""
        self._path: tuple[str, tuple[int, int]] | None = None if path is None else (path, _file(path))

    def accepted(self) -> Iterator[tuple[socket.socket, Arrival]]:
        """The connections that wait, with who they are: a client that is gone again could not be asked."""
        self.pause = 0.0
        for _ in range(AT_ONCE):
            if self.sock.fileno() < 0:  # closed while somebody waited for it
                return
            try:
                sock, remote = self.sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # EMFILE above all. The client waits in the backlog, and so do we: the socket stays readable.
                self._report(error, "accept", None)
                self.pause = SHORTAGE
                return
            address, port = socket_address(remote)
            arrival: Arrival = {
                "remote_address": address, "remote_port": port, "name": self.name, "options": self.options,
            }  # fmt: skip
            yield sock, arrival

    def close(self) -> None:
        """Accept no more. The file of a unix socket goes, unless it is somebody else's by now."""
        release, self.release = self.release, _nothing
        release()
        self.sock.close()
        if self._path is not None:
            path, file = self._path
            if _file(path) == file:
                with contextlib.suppress(OSError):
                    Path(path).unlink()


def _file(path: str) -> tuple[int, int]:
    """Which file a path names; (0, 0) for none."""
    try:
        found = Path(path).stat()
    except (OSError, ValueError):  # ValueError: a name in Linux's abstract space
        return (0, 0)
    return found.st_dev, found.st_ino


def _nothing() -> None:
    return None
