# Listening sockets, the same for every runtime.

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from smtpproto.extending import canonical_address
from smtpproto_server._option_fields import ListenerFields

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "Identity",
    "Place",
    "SocketAddress",
    "bind_tcp",
    "bind_unix",
    "has_octets",
    "listener_address",
    "socket_address",
]  # fmt: skip

SocketAddress = tuple[str, int] | str
ANY_PORT_TRIES: Final = 20


class Place(ListenerFields, total=False):
    """Where to listen, if not on TCP, and how."""

    name: str
    """The listener's own, for `session.listener`."""

    path: str | None
    """Of a unix socket; its file is made, and removed by `close`."""
    sock: socket.socket | None
    """Bound already, by somebody else."""
    backlog: int
    """Connections that may wait to be accepted; 100."""


class Identity(ListenerFields, total=False):
    """What a handed-in connection says of itself, in the place of what its socket and a listener would."""

    name: str
    """The listener's name, for `session.listener`."""

    id: str | None
    local_address: str | None
    local_port: int | None
    remote_address: str | None
    remote_port: int | None


def bind_tcp(host: str | None, port: int, backlog: int) -> list[socket.socket]:
    """Listening sockets for every address of `host`, all on one port; None is every interface.

    Raises OSError if one cannot be bound.
    """
    if not isinstance(port, int):  # pyright: ignore[reportUnnecessaryIsInstance] - callers without types
        raise TypeError(f"the port comes first, then the host, and it is a number, not {port!r}")
    wanted = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in wanted))
    # With port 0 the first address gets a free port that the others may find taken.
    tries = ANY_PORT_TRIES if port == 0 and len(addresses) > 1 else 1
    while True:
        try:
            return _bind_all(addresses, port, backlog, wildcard=not host)
        except OSError:
            tries -= 1
            if not tries:
                raise


def _bind_all(
    addresses: Sequence[tuple[socket.AddressFamily, tuple[object, ...]]],
    port: int,
    backlog: int,
    *,
    wildcard: bool,
) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        for family, address in addresses:
            try:
                sock = socket.socket(family, socket.SOCK_STREAM)
            except OSError:
                if wildcard and family == socket.AF_INET6:  # a machine without IPv6
                    continue
                raise
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address[0], port, *address[2:]))
            port = sock.getsockname()[1]
            sock.listen(backlog)
            sock.settimeout(0)
    except BaseException:  # OverflowError for a port that is none
        for sock in sockets:
            sock.close()
        raise
    return sockets


def bind_unix(path: str, backlog: int) -> socket.socket:
    """A listening unix socket; a socket file that nobody listens on any more is replaced."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _is_stale(path):
            with contextlib.suppress(FileNotFoundError):
                Path(path).unlink()
        sock.bind(path)
        sock.listen(backlog)
        sock.settimeout(0)
    except OSError:
        sock.close()
        raise
    return sock


def _is_stale(path: str) -> bool:
    try:
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            return False
    except (OSError, ValueError):  # not there; a name in Linux's abstract space
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0)  # one whose backlog is full is alive
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def has_octets(sock: socket.socket) -> bool:
    """Whether a non-blocking socket has octets, or its end, to be read."""
    try:
        sock.recv(1, socket.MSG_PEEK)
    except (BlockingIOError, InterruptedError):
        return False
    except OSError:  # reading will tell
        return True
    return True


def listener_address(sock: socket.socket) -> SocketAddress:
    """`(host, port)`, or the path of a unix socket."""
    name = sock.getsockname()
    if isinstance(name, tuple):
        return str(name[0]), int(name[1])  # pyright: ignore[reportUnknownArgumentType]
    return os.fsdecode(name)  # octets for a name in Linux's abstract space


def socket_address(address: Any) -> tuple[str, int]:
    """A socket's address as (address, port); ("", 0) for a unix socket."""
    if isinstance(address, tuple) and len(address) >= 2:  # pyright: ignore[reportUnknownArgumentType] # noqa: PLR2004
        return canonical_address(str(address[0])), int(address[1])  # pyright: ignore[reportUnknownArgumentType]
    return "", 0
