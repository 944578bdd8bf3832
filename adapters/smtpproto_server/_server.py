# The server in every runtime: what it listens on, how its connections are made, and how it ends.

from __future__ import annotations

import os
import socket
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Self

from smtpproto import (
    CommandRequested,
    ConfigurationError,
    DataRequested,
    Event,
    ExpandRequested,
    HelloRequested,
    HelpRequested,
    Reject,
    VerifyRequested,
)
from smtpproto.extending import single_line
from smtpproto_server._application import Application
from smtpproto_server._entering import Managers
from smtpproto_server._handlers import nearest
from smtpproto_server._listener import Listener
from smtpproto_server._log import about
from smtpproto_server._option_fields import LISTENER_OPTIONS
from smtpproto_server._options import Options
from smtpproto_server._sockets import Identity, Place, bind_tcp, bind_unix, socket_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Unpack

    from smtpproto import Session
    from smtpproto_server._driver import Driver
    from smtpproto_server._option_fields import ListenerFields, OptionFields
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
        self._warned: set[str] = set()
        self._asked: frozenset[type[Event]] | None = None
        super().__init__(options, **fields)
        self.managers: Managers = Managers(self)
        self.closings: int = 0
        """How often `close` has begun, which says so: a `listen` that it has overtaken does not listen."""

    # --- listening and closing ----------------------------------------------------------------------

    def close_begins(self) -> None:
        """What `close` does first."""
        self.closings += 1

    def overtaken(self, closings: int, *opened: Listener | socket.socket) -> bool:
        """Whether `close` has begun since it had begun so often; then what was opened is closed."""
        if self.closings == closings:
            return False
        for each in opened:
            each.close()
        return True

    def prepare(self) -> None:
        """What `listen` does first: build contexts."""
        self.contexts  # noqa: B018 - built for its faults

    def check_listener(self, name: str, given: ListenerFields) -> tuple[str, Options]:
        """The name and the options of a listener to which this was given: else it has the server's.

        Warns of what is wide open, once. Raises as Options does, TypeError also for an option that is the
        same for all listeners, ConfigurationError for one that needs TLS where it is not to be had.
        """
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance] - what was given can be anything
            raise ValueError(f"name must be text, not {name!r}")  # noqa: TRY004 - as options do
        if surplus := sorted(set(given) - set(LISTENER_OPTIONS)):
            raise TypeError("; ".join(map(_not_of_a_listener, surplus)))
        changes: dict[str, Any] = {**given}
        options = replace(self.options, **changes) if changes else self.options
        if not options.tls_upstream:
            self._check_tls(options)
        for each in ("use_proxy", "use_xclient", "use_xforward"):
            if getattr(options, each) is True:
                self._warn(f"{each}=True: anyone who can connect can forge addresses")
        return single_line(name), options

    def _check_tls(self, options: Options) -> None:
        contexts = self.contexts
        if contexts.warning:
            self._warn(contexts.warning)
        for name in ("secure", "needs_upgrade"):
            if getattr(options, name) and not contexts.available:
                raise ConfigurationError(f"{name}=True needs TLS: {contexts.warning}")

    def _warn(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            self.log.warning("%s", text)

    def binding(
        self,
        port: int = 0,
        host: str | None = None,
        *,
        path: str | None = None,
        sock: socket.socket | None = None,
        backlog: int = 100,
        name: str = "",
        **given: Unpack[ListenerFields],
    ) -> Callable[[], list[Listener]]:
        """A function that makes listeners: on TCP (`host` None: all interfaces), a path, or a bound socket.

        Raises what `check_listener` raises. The function looks names up, so it may block, and raises OSError
        for what cannot be bound.
        """
        how = self.report, *self.check_listener(name, given)

        def bind() -> list[Listener]:
            if sock is not None:
                sock.settimeout(0)
                if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):  # else its backlog is chosen
                    sock.listen(backlog)
                return [Listener(sock, *how)]
            if path is not None:
                return [Listener(bind_unix(path, backlog), *how, path)]
            return [Listener(each, *how) for each in bind_tcp(host, port, backlog)]

        return bind

    def listening(self, listeners: list[Listener]) -> Self:
        """These are being accepted from."""
        self.listeners += listeners
        self.emit("listening", listeners[0].address)
        return self

    def address(self, name: str | None = None) -> SocketAddress | None:
        """`(host, port)` or the path of the first listener (of this name), None when there is none."""
        found = (each.address for each in self.listeners if name is None or each.name == name)
        return next(found, None)

    @property
    def port(self) -> int:
        """The port of the first listener. Raises RuntimeError if it has none, or before `listen`."""
        address = self.address()
        if address is None:
            raise RuntimeError("there is no port: the server does not listen; call listen() first")
        if isinstance(address, str):
            raise RuntimeError(  # noqa: TRY004 - it is no fault of a type
                f"there is no port: the server listens on the path {address!r}, see address()"
            )
        return address[1]

    @property
    def addresses(self) -> list[SocketAddress]:
        """The addresses of all listeners, in the order in which they were made."""
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

    # --- sessions -----------------------------------------------------------------------------------

    @property
    def sessions(self) -> tuple[Session, ...]:
        """The live sessions, as they are now."""
        return tuple(self._sessions.copy())

    def disconnect(self, session: Session, reply: Reject | None = None) -> bool:
        """End a session: `reply` is said, else 421 4.3.2 Server shutting down, and the connection closed.

        A hook that runs is cancelled, as by `close` after `close_timeout`. False: the session was over.
        May be called in hooks and listeners and in other threads. Raises ValueError for a `reply` whose
        code or enhanced code is not one of 421.
        """
        if reply is not None:
            if reply.code not in (None, 421):
                raise ValueError(f"a connection is ended with 421, not {reply.code}")
            reply = Reject(421, reply.enhanced, reply.text)  # raises for an enhanced code of class 5
        peers = self.peers.copy()
        found = [peer for peer in peers if peer.session is session]
        if not found and session.close_reason is None:
            # A hook that was given up keeps a session that its connection has no more.
            found = [peer for peer in peers if peer.session.id == session.id]
        if not found or found[0].session not in self._sessions:
            return False
        found[0].disconnect(reply)
        return True

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
        name: str = "",
        options: Options | None = None,
        **given: Unpack[ListenerFields],
    ) -> Any:
        """The connection for a connected socket, counted in; None: there is none, the socket is closed.

        Without a listener's `options` it has what is `given`, and else the server's.
        """
        if options is None:
            name, options = self.check_listener(name, given)
        sock.settimeout(0)
        its_own: Any = _unless_gone(sock.getsockname)
        local = _either(local_address, local_port, its_own)
        if isinstance(its_own, tuple):  # not a unix socket
            # A reply never waits for the one before to be acknowledged.
            _unless_gone(sock.setsockopt, socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if remote_address is None or remote_port is None:
            remote = _either(remote_address, remote_port, _unless_gone(sock.getpeername))
        else:
            remote = remote_address, remote_port
        try:
            driver = self.begin(sock, local, remote, clock, id, listener=name, options=options)
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
        *,
        listener: str = "",
        options: Options | None = None,
    ) -> Any:
        """Count a new connection in and make what serves it; None: close it without a word."""
        limit = self.options.max_clients
        if options is None:
            options = self.options
        facts = {
            "options": options,
            "listener": listener,
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
        self._sessions.add(driver.session)
        self.peers.add(driver)
        session = driver.session
        self.log.debug("%s: connection from [%s]:%d", session.id, *remote, extra=about(session))
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


def _not_of_a_listener(name: str) -> str:
    """Why `listen` does not take this, and what to do."""
    if name in Options.__dataclass_fields__:
        may = ", ".join(LISTENER_OPTIONS)
        return f"{name} is the same for all listeners, so give it to the server; they may differ in {may}"
    known = ("port", "host", *Place.__annotations__, *Identity.__annotations__)
    return f"there is no option {name!r} ({nearest(name, known) or 'nor one like it'})"


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
