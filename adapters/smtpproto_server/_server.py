# The server in every runtime: what it listens on, how its connections are made, and how it ends.

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Any, Final, Self

from smtpproto import (
    CommandRequested,
    DataRequested,
    Event,
    ExpandRequested,
    HelloRequested,
    HelpRequested,
    VerifyRequested,
)
from smtpproto_server._application import Application
from smtpproto_server._listener import Listener
from smtpproto_server._sockets import bind_tcp, bind_unix, socket_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Unpack

    from smtpproto_server._driver import Driver
    from smtpproto_server._option_fields import OptionFields
    from smtpproto_server._options import Options
    from smtpproto_server._sockets import SocketAddress

__all__ = ["ServerCore"]

GRACE: Final = 5.5  # seconds from the end of close_timeout until connections are dropped
AGES: Final = 365 * 86400.0  # seconds; infinity is more than some runtimes can wait
LAST_GRACE: Final = 0.4  # seconds until those that still run are left to themselves

_QUESTION_OF: Final[Mapping[str, type[Event]]] = {
    "on_helo": HelloRequested,
    "on_data_start": DataRequested,
    "on_vrfy": VerifyRequested,
    "on_expn": ExpandRequested,
    "on_help": HelpRequested,
    "on_command": CommandRequested,
}


class ServerCore(Application):
    """What every adapter's SMTPServer is: it adds waiting for sockets, and a connection of its own."""

    driver: type[Driver]
    """The class of its connections: the runtime's, or a subclass of that in a test."""

    def __init__(self, options: Options | None = None, /, **fields: Unpack[OptionFields]) -> None:
        self.listeners: list[Listener] = []
        self._warned: bool = False
        self._asked: frozenset[type[Event]] | None = None
        super().__init__(options, **fields)

    # --- listening and closing ----------------------------------------------------------------------

    def prepare(self) -> None:
        """What `listen` does before it binds: build contexts, warn of what is wide open, once."""
        self.contexts  # noqa: B018 - built for its faults
        if self._warned:
            return
        self._warned = True
        for name in ("use_proxy", "use_xclient", "use_xforward"):
            if getattr(self.options, name) is True:
                self.log.warning("%s=True: anyone who can connect can forge addresses", name)

    def bind(
        self,
        port: int = 0,
        host: str | None = None,
        *,
        path: str | None = None,
        sock: socket.socket | None = None,
        backlog: int = 100,
    ) -> list[Listener]:
        """Sockets that listen on TCP (`host` None: all interfaces), on a path, or as they were given.

        Looks names up, so it may block. Raises OSError for what cannot be bound.
        """
        if sock is not None:
            sock.settimeout(0)
            if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):  # else its backlog is chosen
                sock.listen(backlog)
            return [Listener(sock, self.report)]
        if path is not None:
            return [Listener(bind_unix(path, backlog), self.report, path)]
        return [Listener(each, self.report) for each in bind_tcp(host, port, backlog)]

    def listening(self, listeners: list[Listener]) -> Self:
        """These are being accepted from."""
        self.listeners += listeners
        self.emit("listening", listeners[0].address)
        return self

    def address(self) -> SocketAddress | None:
        """`(host, port)` or the path of the first listener, None when not listening."""
        return self.listeners[0].address if self.listeners else None

    def addresses(self) -> list[SocketAddress]:
        """The addresses of all listeners."""
        return [listener.address for listener in self.listeners]

    def closing(self) -> Iterator[float]:
        """The steps of `close`: at each, wait until `peers` is empty, at most so many seconds."""
        for listener in self.listeners:
            listener.close()
        self.listeners.clear()
        for peer in self.peers.copy():
            peer.stop()
        limit = self.options.close_timeout
        yield AGES if limit is None else limit
        for peer in self.peers.copy():
            peer.stop(now=True)
        yield GRACE
        for peer in self.peers.copy():
            peer.abort()
        yield LAST_GRACE
        for peer in self.peers.copy():  # their hooks will not be cancelled
            peer.end()

    # --- one connection -----------------------------------------------------------------------------

    def admit(
        self,
        sock: socket.socket,
        clock: Callable[[], float],
        *,
        id: str | None = None,  # noqa: A002 - the session's own name for it
        local_address: str | None = None,
        local_port: int | None = None,
        remote_address: str | None = None,
        remote_port: int | None = None,
    ) -> Any:
        """The connection for a connected socket, counted in; None: there is none, the socket is closed."""
        sock.settimeout(0)
        name: Any = _unless_gone(sock.getsockname)
        local = _either(local_address, local_port, name)
        if isinstance(name, tuple):  # not a unix socket
            # A reply never waits for the one before to be acknowledged.
            _unless_gone(sock.setsockopt, socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if remote_address is None or remote_port is None:
            remote = _either(remote_address, remote_port, _unless_gone(sock.getpeername))
        else:
            remote = remote_address, remote_port
        try:
            driver = self.begin(sock, local, remote, clock, id)
        except Exception as error:  # noqa: BLE001 - costs this connection, not the others
            self.report(error, "accept", None)
            driver = None
        if driver is None:
            sock.close()
        return driver

    def begin(
        self,
        sock: socket.socket | None,
        local: tuple[str, int],
        remote: tuple[str, int],
        clock: Callable[[], float],
        session_id: str | None = None,
    ) -> Any:
        """Count a new connection in and make what serves it; None: close it without a word."""
        options, limit = self.options, self.options.max_clients
        facts = {
            "local": local,
            "remote": remote,
            "id": session_id or new_id(),
            "ask": self._questions(),
            "tls_available": self.contexts.available,
            "entropy": os.urandom(16) if "CRAM-MD5" in options.auth_methods else b"",
            "started": int(time.time()),
        }
        with self.counting:
            refused = limit is not None and self.counts[False] >= limit
            if refused and options.secure and not options.tls_upstream and self.counts[True] >= (limit or 0):
                return None
            self.counts[refused] += 1
        kind: Any = self.driver
        try:
            driver = kind(self, sock, clock, facts)
        except BaseException:
            with self.counting:
                self.counts[refused] -= 1
            raise
        if refused:
            driver.refuse()
        self.connections.add(driver.session)
        self.peers.add(driver)
        self.log.debug("%s: connection from [%s]:%d", driver.session.id, *remote)
        return driver

    def _questions(self) -> frozenset[type[Event]]:
        """Those that hooks are set for: one object for all connections."""
        if self._asked is None:
            self._asked = frozenset(
                kind for name, kind in _QUESTION_OF.items() if getattr(self, name) is not None
            )
        return self._asked

    def hook_set(self, name: str) -> None:
        """One of those that the core asks only if it is there, perhaps."""
        if name in _QUESTION_OF:
            self._asked = None


_ID_CHARACTERS: Final = b"0123456789abcdefghijklmnopqrstuv" * 8  # five bits of each random octet count


def new_id() -> str:
    """Sixteen characters 0-9a-v: 80 random bits."""
    return os.urandom(16).translate(_ID_CHARACTERS).decode()


def _unless_gone(call: Callable[..., Any], *args: Any) -> Any:
    """Call a method of a socket; None if its client was gone before: reading will tell."""
    try:
        return call(*args)
    except OSError:
        return None


def _either(address: str | None, port: int | None, found: object) -> tuple[str, int]:
    """What was given of an address and a port, and else what the socket has."""
    its_address, its_port = socket_address(found)
    return its_address if address is None else address, its_port if port is None else port
