# Where to listen, and the sockets that come of it.
#
# Everything is bound here, before a runtime begins: so a place that cannot be had is one line,
# whatever the runtime, and several processes can share what was bound.

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from smtpproto_cli._faults import Fault
from smtpproto_cli._journal import address_text
from smtpproto_server.adapting import bind_tcp, bind_unix, listener_address

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

__all__ = ["Bound", "HandedIn", "Place", "handed_in"]

BACKLOG: Final = 100  # connections that wait to be accepted
FIRST_HANDED_IN: Final = 3  # sd_listen_fds(3), SD_LISTEN_FDS_START
# Elsewhere the option exists as well, and does not spread connections.
SPREADS: Final = sys.platform.startswith("linux")

_ADVICE: Final[Mapping[int, str]] = {
    errno.EADDRINUSE: "choose another {where}, or stop the program that has this one",
    errno.EACCES: "choose another {where}; ports below 1024 are for root",
    errno.EADDRNOTAVAIL: "choose a --host that this machine has",
}
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


class Bound:
    """Listening sockets, and the file of a unix socket if it is ours."""

    __slots__ = ("_file", "_ours", "sockets")

    def __init__(self, sockets: list[socket.socket], *, ours: bool, path: str | None = None) -> None:
        self.sockets: list[socket.socket] = sockets
        self._ours: bool = ours
        self._file: tuple[Path, tuple[int, int]] | None = None if path is None else _identified(Path(path))

    def addresses(self) -> list[tuple[str, int] | str]:
        """Where the sockets listen."""
        return list(dict.fromkeys(map(listener_address, self.sockets)))

    def shares(self, count: int) -> list[list[socket.socket]]:
        """Listening sockets for each of so many processes.

        With SO_REUSEPORT the kernel spreads the connections over them; what is no TCP of our own is
        accepted from by all. Raises Fault if there are too many.
        """
        if not (self._ours and SPREADS and self._file is None):
            return [self.sockets] * count
        # Set now that they are bound: had it been set before, the port of another server of the same
        # user, with the same option, would not have been refused, and each would have got half the mail.
        for sock in self.sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        first = list(self.sockets)
        shares = [first]
        try:
            for _ in range(count - 1):
                shares.append([_beside(sock) for sock in first])
                self.sockets += shares[-1]
        except OSError as error:
            raise Fault(f"--workers: cannot listen {count} times: {error.strerror}; choose fewer") from None
        return shares

    def remove_file(self) -> None:
        """Remove the file, unless it is another server's by now."""
        if self._file is not None:
            path, _ = self._file
            with suppress(OSError):
                if _identified(path) == self._file:
                    path.unlink()

    def close(self) -> None:
        """Let go of everything."""
        self.remove_file()
        for sock in self.sockets:
            sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Place:
    """Where to listen: a host and a port, or the path of a unix socket."""

    __slots__ = ("host", "path", "port")

    def __init__(self, host: str, port: int, path: str | None) -> None:
        self.host: str = host
        self.port: int = port
        self.path: str | None = path

    def __str__(self) -> str:
        return self.path or address_text((self.host, self.port))

    def bind(self) -> Bound:
        """Listen. Raises Fault if that cannot be done."""
        try:
            if self.path is not None:
                return Bound([bind_unix(self.path, BACKLOG)], ours=True, path=self.path)
            return Bound(bind_tcp(self.host, self.port, BACKLOG), ours=True)
        except (OSError, UnicodeError) as error:
            raise self._fault(error) from None

    def _fault(self, error: OSError | UnicodeError) -> Fault:
        """Why nobody can listen here, and what to choose instead."""
        if isinstance(error, UnicodeError):  # a name that cannot be one in DNS
            return Fault(f"cannot listen on {self}: no such host; choose another --host")
        advice = "choose another {where}"
        if isinstance(error, socket.gaierror):
            advice = "choose another --host"
        elif self.path is None:
            advice = _ADVICE.get(error.errno or 0, advice)
        where = "--port" if self.path is None else "--unix"
        return Fault(f"cannot listen on {self}: {error.strerror or error}; {advice.format(where=where)}")


class HandedIn:
    """Where a service manager listens for us: descriptors of listening sockets."""

    __slots__ = ("_descriptors",)

    def __init__(self, descriptors: range) -> None:
        self._descriptors: range = descriptors

    def bind(self) -> Bound:
        """Take the sockets. They are non-blocking from here on, for all who have them."""
        sockets = [socket.socket(fileno=number) for number in self._descriptors]
        for sock in sockets:
            sock.set_inheritable(False)
            sock.settimeout(0)
        return Bound(sockets, ours=False)


def handed_in(environment: MutableMapping[str, str]) -> HandedIn | None:
    """The sockets a service manager passes to this process (sd_listen_fds(3)), None if it does not.

    Takes their variables out of the environment: they are for nobody whom we start. Raises Fault
    for what is no listening socket.
    """
    names = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    process, count, _ = (environment.pop(name, None) for name in names)
    if count is None or process != str(os.getpid()):
        return None
    if not (count.isascii() and count.isdigit()):
        raise Fault(f"LISTEN_FDS must be the number of sockets, not {count!r}")
    descriptors = range(FIRST_HANDED_IN, FIRST_HANDED_IN + int(count))
    for number in descriptors:
        if not _listens(number):
            raise Fault(f"LISTEN_FDS: descriptor {number} is no listening stream socket; see ListenStream=")
    return HandedIn(descriptors) if descriptors else None


def _listens(descriptor: int) -> bool:
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return False
    except (OSError, OverflowError):
        return False
    sock = socket.socket(fileno=descriptor)
    try:
        stream = sock.type == socket.SOCK_STREAM and sock.family in _FAMILIES
        return stream and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) != 0
    finally:
        sock.detach()  # only looked at


def _beside(sock: socket.socket) -> socket.socket:
    """Another listening socket with the address of this one."""
    other = socket.socket(sock.family, sock.type)
    for level, name in (
        (socket.SOL_SOCKET, socket.SO_REUSEADDR),
        (socket.SOL_SOCKET, socket.SO_REUSEPORT),
        *([(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)] if sock.family == socket.AF_INET6 else []),
    ):
        other.setsockopt(level, name, 1)
    other.bind(sock.getsockname())
    other.listen(BACKLOG)
    other.settimeout(0)
    return other


def _identified(path: Path) -> tuple[Path, tuple[int, int]]:
    """A path and which file it names; (0, 0) for none."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # ValueError: a name in Linux's abstract space
        return path, (0, 0)
    return path, (found.st_dev, found.st_ino)
