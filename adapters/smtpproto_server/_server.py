# The server, as far as no runtime colours it: options, hooks, events, counts, names, errors.

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, TypedDict, cast

from smtpproto import (
    CommandReceived,
    ConfigurationError,
    Connection,
    DataRequested,
    Event,
    ExpandRequested,
    HelloReceived,
    HelpRequested,
    VerifyRequested,
)
from smtpproto_server._effects import Failed, Outcome
from smtpproto_server._listener import Listener
from smtpproto_server._loop import Serving
from smtpproto_server._options import HOOKS, OPTIONAL_HOOKS, Options
from smtpproto_server._sockets import bind_tcp, bind_unix, socket_address
from smtpproto_server._steps import is_coroutine_function
from smtpproto_server._tls import TLS_OPTION_NAMES, TlsContexts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from smtpproto import Session
    from smtpproto_server._options import Hook
    from smtpproto_server._peer import Peer

__all__ = ["EVENTS", "Address", "Identity", "Place", "ServerCore"]

Address = tuple[str, int] | str
MAX_COLOURS: Final = 64  # hooks of which it is remembered whether they are coroutine functions
EVENTS: Final = ("listening", "close", "connect", "error")
GRACE: Final = 5.5  # seconds from the end of close_timeout until connections are dropped
LAST_GRACE: Final = 0.4  # seconds until those that still run are left to themselves


class Place(TypedDict, total=False):
    """Where to listen, if not on TCP."""

    path: str | None
    """Of a unix socket; its file is made, and removed by `close`."""
    sock: socket.socket | None
    """Bound already, by somebody else."""
    backlog: int
    """Connections that may wait to be accepted; 100."""


class Identity(TypedDict, total=False):
    """What a handed-in connection says of itself, in the place of what its socket would."""

    id: str | None
    local_address: str | None
    local_port: int | None
    remote_address: str | None
    remote_port: int | None


_QUESTION_OF: Final[Mapping[str, type[Event]]] = {
    "on_helo": HelloReceived,
    "on_data_start": DataRequested,
    "on_vrfy": VerifyRequested,
    "on_expn": ExpandRequested,
    "on_help": HelpRequested,
    "on_command": CommandReceived,
}


class ServerCore:
    """What every adapter's SMTPServer is: it adds waiting for sockets and the running of `Peer`s."""

    coroutines: ClassVar[bool] = True
    """Hooks may be coroutine functions."""
    flushes_first: ClassVar[bool] = False
    """Replies are sent before a hook is called, for want of a way to see that it has to wait."""

    on_connect: Hook | None = None
    on_secure: Hook | None = None
    on_auth: Hook | None = None
    on_mail_from: Hook | None = None
    on_rcpt_to: Hook | None = None
    on_data: Hook | None = None
    on_close: Hook | None = None
    on_helo: Hook | None = None
    on_data_start: Hook | None = None
    on_vrfy: Hook | None = None
    on_expn: Hook | None = None
    on_help: Hook | None = None
    on_command: Hook | None = None

    def __init__(self, options: Options | None = None, /, **option_fields: Any) -> None:
        if options is not None and option_fields:
            raise TypeError("give an Options object or its fields, not both")
        self.options: Options = Options(**option_fields) if options is None else options
        self.log: logging.Logger = logging.getLogger("smtpproto")
        self.connections: set[Session] = set()
        """The live sessions."""
        self.peers: set[Peer[Any]] = set()
        """The connections, those included whose last hook still runs."""
        self.connection: Callable[..., Connection] = Connection
        """Makes the core of each connection; a test may put a kind of its own here."""
        self.listeners: list[Listener] = []
        self._contexts: TlsContexts | None = None
        self._listeners: dict[str, list[Callable[..., Any]]] = {name: [] for name in EVENTS}
        self._counting: threading.Lock = threading.Lock()
        self._clients: int = 0
        self._refusing: int = 0
        self._warned: bool = False
        self._asked: frozenset[type[Event]] = frozenset()
        self._colours: dict[Any, bool] = {}
        for name in (*HOOKS, *OPTIONAL_HOOKS):
            given = getattr(self.options, name)
            if given is None and getattr(type(self), name) is None:
                given = getattr(self.options.handler, name, None)
            if given is not None:
                setattr(self, name, given)
        if not self.coroutines:
            self._refuse_coroutines()

    def _refuse_coroutines(self) -> None:
        hooks = {name: getattr(self, name) for name in (*HOOKS, *OPTIONAL_HOOKS)}
        for name, hook in {**hooks, "resolver": self.resolve}.items():
            if hook is not None and self.is_coroutine(hook):
                mine = type(self).__module__
                raise TypeError(f"{name} is a coroutine function; {mine} takes plain functions")

    # --- hooks and events -------------------------------------------------------------------------

    def hook(self, name: str) -> Hook | None:
        """The hook as it is set now."""
        found: Hook | None = getattr(self, name)
        return found

    def is_coroutine(self, hook: Hook) -> bool:
        """Whether a hook gives a coroutine when called; found out once for each."""
        function = getattr(hook, "__func__", hook)  # a method is a new object at every look
        try:
            return self._colours[function]
        except KeyError:
            if len(self._colours) >= MAX_COLOURS:  # an application that sets a new hook every time
                self._colours.clear()
            colour = self._colours[function] = is_coroutine_function(hook)
            return colour
        except TypeError:  # not hashable
            return is_coroutine_function(hook)

    def on(self, event: str, listener: Callable[..., Any]) -> Self:
        """Call `listener` at each `event`: "listening", "close", "connect" or "error"."""
        self._listeners_of(event).append(listener)
        return self

    def once(self, event: str, listener: Callable[..., Any]) -> Self:
        """Call `listener` at the next `event` only."""

        def first(*args: Any) -> Any:
            self.off(event, first)
            return listener(*args)

        first.__wrapped__ = listener  # type: ignore[attr-defined] # pyright: ignore[reportFunctionMemberAccess] - for `off`
        return self.on(event, first)

    def off(self, event: str, listener: Callable[..., Any]) -> Self:
        """Undo `on` or `once`."""
        listeners = self._listeners_of(event)
        for each in listeners:
            if listener in (each, getattr(each, "__wrapped__", None)):
                listeners.remove(each)
                break
        return self

    def _listeners_of(self, event: str) -> list[Callable[..., Any]]:
        try:
            return self._listeners[event]
        except KeyError:
            raise ValueError(f"no event {event!r}; there are {', '.join(EVENTS)}") from None

    def emit(self, event: str, *args: Any) -> None:
        """Call the listeners; what one of them raises is logged."""
        for listener in tuple(self._listeners[event]):
            try:
                listener(*args)
            except Exception:
                self.log.exception("a listener for %r raised", event)

    def report(self, error: BaseException, stage: str, session: Session | None, remote: str = "") -> None:
        """Log an error and emit it. `stage`: accept, proxy, tls, hook, socket or stream."""
        remote = session.remote_address if session is not None else remote
        name = session.id if session is not None else "-"
        # A hook's error, or our own, is looked for in a program; one of the network is not.
        traceback = error if stage == "hook" or not isinstance(error, OSError) else None
        self.log.error("%s [%s]: %s: %s", name, remote, stage, _said(error), exc_info=traceback)
        self.emit("error", error, {"stage": stage, "session": session, "remote_address": remote})

    # --- listening and closing ----------------------------------------------------------------------

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
            return [Listener(self, sock)]
        if path is not None:
            return [Listener(self, bind_unix(path, backlog), path)]
        return [Listener(self, each) for each in bind_tcp(host, port, backlog)]

    def listening(self, listeners: list[Listener]) -> Self:
        """These are being accepted from."""
        self.listeners += listeners
        self.emit("listening", listeners[0].address)
        return self

    def address(self) -> Address | None:
        """`(host, port)` or the path of the first listener, None when not listening."""
        return self.listeners[0].address if self.listeners else None

    def addresses(self) -> list[Address]:
        """The addresses of all listeners."""
        return [listener.address for listener in self.listeners]

    def closing(self) -> Iterator[float]:
        """The steps of `close`: at each, wait until `peers` is empty, at most so many seconds."""
        for listener in self.listeners:
            listener.close()
        self.listeners.clear()
        for peer in self.peers.copy():
            peer.stop()
        yield self.options.close_timeout
        for peer in self.peers.copy():
            peer.stop(now=True)
        yield GRACE
        for peer in self.peers.copy():
            peer.abort()
        yield LAST_GRACE
        for peer in self.peers.copy():  # their hooks will not be cancelled
            peer.end()

    def gone(self, peer: Peer[Any]) -> None:
        """A connection has ended, with all that belongs to it."""
        self.peers.discard(peer)
        if not self.peers:
            self.emptied()

    def emptied(self) -> None:
        """`peers` is empty: of the runtime's own."""

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
    ) -> Serving | None:
        """Begin to serve a connected socket; None: it was one too many, and is closed."""
        sock.settimeout(0)
        name = _asked(sock.getsockname)
        if isinstance(name, tuple):  # not a unix socket
            with contextlib.suppress(OSError):  # a reply never waits for the one before to be acknowledged
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        local, remote = socket_address(name), (remote_address, remote_port)
        if None in remote:
            remote = socket_address(_asked(sock.getpeername))
        serving = self.begin(
            (_first(local_address, local[0]), _first(local_port, local[1])),
            (_first(remote_address, remote[0]), _first(remote_port, remote[1])),
            clock,
            id,
        )
        if serving is None:
            sock.close()
        return serving

    def begin(
        self,
        local: tuple[str, int],
        remote: tuple[str, int],
        clock: Callable[[], float],
        session_id: str | None = None,
    ) -> Serving | None:
        """Count a new connection in and make what serves it; None: close it without a word."""
        options = self.options
        refused = options.max_clients is not None and self._clients >= options.max_clients
        if (
            refused
            and options.secure
            and not options.secured
            and self._refusing >= (options.max_clients or 0)
        ):
            return None
        contexts = self.contexts
        core = self.connection(
            options,
            local=local,
            peer=remote,
            session_id=session_id or new_id(),
            ask=self._questions(),
            tls_available=contexts.available,
            entropy=os.urandom(16) if "CRAM-MD5" in options.auth_methods else b"",
            started=int(time.time()),
        )
        serving = Serving(self, core, clock)
        if refused:
            core.refuse()
            self._refusing += 1
            serving.counted = False
        else:
            self._clients += 1
        self.connections.add(core.session)
        self.log.debug("%s: connection from [%s]:%d", core.session.id, *remote)
        return serving

    def closed(self, serving: Serving, reason: str) -> None:
        """Count a connection out; once, whoever says so first."""
        if serving.session not in self.connections:
            return
        self.connections.discard(serving.session)
        if serving.counted:
            self._clients -= 1
        else:
            self._refusing -= 1
        self.log.debug("%s: closed: %s", serving.session.id, reason)
        if reason.startswith("PROXY header refused"):
            self.report(ConnectionError(reason), "proxy", serving.session)

    def connected(self, session: Session) -> None:
        """Emit "connect" with what is known of the client."""
        if not self._listeners["connect"]:
            return
        names = (
            "id", "local_address", "local_port", "remote_address", "remote_port",
            "host_name_appears_as", "client_hostname",
        )  # fmt: skip
        self.emit("connect", {name: getattr(session, name) for name in names})

    def _questions(self) -> frozenset[type[Event]]:
        """Those that hooks are set for; mostly the same for all connections, and then one object."""
        questions = frozenset(
            [kind for name, kind in _QUESTION_OF.items() if getattr(self, name) is not None]
        )
        if questions != self._asked:
            self._asked = questions
        return self._asked

    # --- names --------------------------------------------------------------------------------------

    @property
    def resolve(self) -> Hook:
        """What gives the names of an address: the resolver of the options, or the system's."""
        resolver = self.options.resolver
        return _system_resolver if resolver is None else resolver.reverse

    def checked_name(self, ip: str, result: Any) -> str:
        """The first name of a look-up if it can stand in a reply and a log; else ""."""
        if isinstance(result, list | tuple) and result:
            name: Any = cast("list[Any]", result)[0]
            if isinstance(name, str) and name.isascii() and name.isprintable() and name and " " not in name:
                return name
        why: Any = result.exception if isinstance(result, Failed) else cast("Any", result)
        self.log.debug("[%s] has no usable name: %r", ip, why if not isinstance(why, Outcome) else why.value)
        return ""

    # --- TLS ----------------------------------------------------------------------------------------

    @property
    def contexts(self) -> TlsContexts:
        """The TLS contexts, built when first needed; faults raise ConfigurationError."""
        if self._contexts is None:
            self._contexts = self._build_contexts()
        return self._contexts

    def _build_contexts(self) -> TlsContexts:
        options = self.options
        given = {name: getattr(options, name) for name in TLS_OPTION_NAMES}
        contexts = TlsContexts(given, name=options.name)
        if contexts.warning and not options.secured:
            self.log.warning("%s", contexts.warning)
        if not contexts.available and not options.secured:
            for name in ("secure", "needs_upgrade"):
                if getattr(options, name):
                    raise ConfigurationError(f"{name}=True needs TLS: {contexts.warning}")
        return contexts

    def update_secure_context(self, **tls_options: Any) -> None:
        """Merge TLS options in and rebuild; later handshakes use them, running ones stay."""
        self.contexts.update(**tls_options)

    def prepare(self) -> None:
        """What `listen` does before it binds: build contexts, warn of what is wide open, once."""
        self.contexts  # noqa: B018 - built for its faults
        if self._warned:
            return
        self._warned = True
        for name in ("use_proxy", "use_xclient", "use_xforward"):
            if getattr(self.options, name) is True:
                self.log.warning("%s=True: anyone who can connect can forge addresses", name)


def _system_resolver(ip: str) -> list[str]:
    return [socket.getnameinfo((ip, 0), socket.NI_NAMEREQD)[0]]


_ID_CHARACTERS: Final = b"0123456789abcdefghijklmnopqrstuv" * 8  # five bits of each random octet count


def new_id() -> str:
    """Sixteen characters 0-9a-v: 80 random bits."""
    return os.urandom(16).translate(_ID_CHARACTERS).decode()


def _asked(name: Callable[[], Any]) -> Any:
    try:
        return name()
    except OSError:  # a client that was gone before we looked; reading will tell
        return None


def _first(given: Any, found: Any) -> Any:
    return found if given is None else given


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
