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
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from smtpproto_cli._faults import Fault
from smtpproto_cli._journal import address_text
from smtpproto_server.adapting import bind_tcp, bind_unix, listener_address

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

__all__ = ["Bound", "HandedIn", "Listening", "Place", "Places", "handed_in"]

BACKLOG: Final = 100  # connections that wait to be accepted
FIRST_HANDED_IN: Final = 3  # sd_listen_fds(3), SD_LISTEN_FDS_START
# Elsewhere the option exists as well, and does not spread connections.
SPREADS: Final = sys.platform.startswith("linux")

_ADVICE: Final[Mapping[int, str]] = {
    errno.EADDRINUSE: "choose another {where}, or stop the program that has this one",
    errno.EACCES: "choose another {where}; ports below 1024 are for root",
    errno.EADDRNOTAVAIL: "choose a {host} that this machine has",
}
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


class Listening(NamedTuple):
    """A listening socket, and what its listener has of its own: `listen` takes it."""

    sock: socket.socket
    own: Mapping[str, Any]


class Bound:
    """Listening sockets, and the files of unix sockets that are ours."""

    __slots__ = ("_files", "_ours", "listening")

    def __init__(self, *, ours: bool) -> None:
        self.listening: list[Listening] = []
        self._ours: bool = ours
        self._files: list[tuple[Path, tuple[int, int]]] = []

    def add(self, sock: socket.socket, own: Mapping[str, Any], path: str | None = None) -> None:
        """Take a socket; with `path` its file is ours."""
        self.listening.append(Listening(sock, own))
        if path is not None:
            self._files.append(_identified(Path(path)))

    def addresses(self) -> list[tuple[str, int] | str]:
        """Where the sockets listen."""
        return list(dict.fromkeys(listener_address(each.sock) for each in self.listening))

    def shares(self, count: int) -> list[list[Listening]]:
        """Listening sockets for each of so many processes.

        With SO_REUSEPORT the kernel spreads the connections over them; what is no TCP of our own is
        accepted from by all. Raises Fault if there are too many.
        """
        first = list(self.listening)
        spread = [
            each.sock for each in first if self._ours and SPREADS and each.sock.family != socket.AF_UNIX
        ]
        # Set now that they are bound: had it been set before, the port of another server of the same
        # user, with the same option, would not have been refused, and each would have got half the mail.
        for sock in spread:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        shares = [first]
        try:
            for _ in range(count - 1):
                shares.append([])
                for each in first:
                    mine = each
                    if each.sock in spread:
                        mine = Listening(_beside(each.sock), each.own)
                        self.listening.append(mine)
                    shares[-1].append(mine)
        except OSError as error:
            raise Fault(f"--workers: cannot listen {count} times: {error.strerror}; choose fewer") from None
        return shares

    def remove_files(self) -> None:
        """Remove the files, but for one that is another server's by now."""
        for file in self._files:
            path, _ = file
            with suppress(OSError):
                if _identified(path) == file:
                    path.unlink()

    def close(self) -> None:
        """Let go of everything."""
        self.remove_files()
        for each in self.listening:
            each.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Place:
    """Where to listen: a host (None: all addresses) and a port, or the path of a unix socket."""

    __slots__ = ("host", "origin", "own", "path", "port")

    def __init__(
        self,
        host: str | None = None,
        port: int = 0,
        *,
        path: str | None = None,
        own: Mapping[str, Any] | None = None,
        origin: str = "",
    ) -> None:
        self.host: str | None = host
        self.port: int = port
        self.path: str | None = path
        self.own: Mapping[str, Any] = own or {}
        """The listener's name, and the options that it has of its own."""
        self.origin: str = origin
        """Where that stands; "" for --host, --port and --unix."""

    def __str__(self) -> str:
        return self.path or address_text((self.host or "*", self.port))

    def bind(self, bound: Bound) -> None:
        """Listen. Raises Fault if that cannot be done."""
        try:
            if self.path is not None:
                bound.add(bind_unix(self.path, BACKLOG), self.own, self.path)
            else:
                for sock in bind_tcp(self.host, self.port, BACKLOG):
                    bound.add(sock, self.own)
        except (OSError, UnicodeError) as error:
            raise self.fault(f"cannot listen on {self}: {self._why(error)}") from None

    def fault(self, text: object) -> Fault:
        """Something is wrong with what was said."""
        return Fault(f"{self.origin}: {text}" if self.origin else str(text))

    def _why(self, error: OSError | UnicodeError) -> str:
        """Why nobody can listen here, and what to choose instead."""
        host, port, path = ("host", "port", "path") if self.origin else ("--host", "--port", "--unix")
        if isinstance(error, UnicodeError):  # a name that cannot be one in DNS
            return f"no such host; choose another {host}"
        advice = "choose another {where}"
        if isinstance(error, socket.gaierror):
            advice = "choose another {host}"
        elif self.path is None:
            advice = _ADVICE.get(error.errno or 0, advice)
        where = port if self.path is None else path
        return f"{error.strerror or error}; {advice.format(where=where, host=host)}"


class Places:
    """All places to listen."""

    __slots__ = ("places",)

    def __init__(self, places: list[Place]) -> None:
        self.places: list[Place] = places

    def bind(self) -> Bound:
        """Listen everywhere, or raise Fault and listen nowhere."""
        bound = Bound(ours=True)
        try:
            for place in self.places:
                place.bind(bound)
        except Fault:
            bound.close()
            raise
        return bound


class HandedIn:
    """Where a service manager listens for us: descriptors of listening sockets."""

    __slots__ = ("_descriptors", "places")

    def __init__(self, descriptors: range) -> None:
        self._descriptors: range = descriptors
        self.places: list[Place] = [Place()]
        """One for all: they have the server's options."""

    def bind(self) -> Bound:
        """Take the sockets. They are non-blocking from here on, for all who have them."""
        bound = Bound(ours=False)
        for number in self._descriptors:
            sock = socket.socket(fileno=number)
            sock.set_inheritable(False)
            sock.settimeout(0)
            bound.add(sock, {})
        return bound


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
