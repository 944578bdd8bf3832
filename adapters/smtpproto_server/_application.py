# What a server's connections need of it: options, hooks, listeners for its events, TLS, names, counts.
#
# It knows nothing of sockets, listeners or how a connection is served.

from __future__ import annotations

import functools
import inspect
import socket
import threading
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Self, cast, overload

from smtpproto import ProtocolOptions
from smtpproto.extending import successor
from smtpproto_server._chain import parts_of
from smtpproto_server._handlers import HOOKS, OPTIONAL_HOOKS, check_hook, check_names, is_hook, no_hook
from smtpproto_server._log import LOG, about
from smtpproto_server._options import Options
from smtpproto_server._tls import TLS_OPTION_NAMES, TlsContexts

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Mapping
    from typing import Unpack

    from smtpproto import Session
    from smtpproto_server._option_fields import OptionFields
    from smtpproto_server._sockets import SocketAddress

    Hook = Callable[..., Any]

__all__ = ["EVENTS", "Application", "is_coroutine_function"]

EVENTS: Final = ("listening", "close", "connect", "error")
CLIENTS: Final = 4096  # threads that may wait for clients, where `max_clients` sets no bound
LOOKUPS: Final = 64  # threads for reverse DNS
MAX_KNOWN: Final = 8  # coroutine hooks that are recognized without a look at their code


class Application:
    """The application's side of a server, as its connections see it."""

    coroutines: ClassVar[bool] = True
    """Hooks may be coroutine functions."""
    not_of_listeners: ClassVar[tuple[type[BaseException], ...]] = (KeyboardInterrupt,)
    """What a listener that raises it passes on: somebody else ends the program, or the task it runs in."""

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

    def __init__(self, options: Options | None = None, /, **fields: Unpack[OptionFields]) -> None:
        if options is not None:
            _check_options(options)
            if fields:
                raise TypeError("give an Options object or its fields, not both")
        self.options: Options = Options(**fields) if options is None else options
        self.log: logging.Logger = LOG
        self._sessions: set[Session] = set()  # the live ones
        self.peers: set[Any] = set()
        """The connections, those included whose last hook still runs."""
        self.coroutine_hooks: tuple[Hook, ...] = ()
        """Some that are known to be coroutine functions; a tuple, as not every hook can be hashed."""
        self.verdicts: threading.Lock = threading.Lock()
        """Held while it is decided whether a hook still has its say."""
        self.thread_limits: Final[Mapping[str, int]] = {
            "hook": self.options.hook_threads,
            "on_data": self.options.max_clients or CLIENTS,
            "resolver": LOOKUPS,
        }
        """How many threads each kind of plain hook has; "hook" is all that are not named."""
        self._contexts: TlsContexts | None = None
        self._listeners: dict[str, list[Callable[..., Any]]] = {name: [] for name in EVENTS}
        self.counting: threading.RLock = threading.RLock()  # a signal handler may close the server within
        """Held while connections are counted in or out."""
        self.counts: Final[dict[bool, int]] = {False: 0, True: 0}
        """How many connections are served, and how many are refused: keyed by `refused`."""
        self._take_hooks()

    def _take_hooks(self) -> None:
        check_names(self)
        for name in (*HOOKS, *OPTIONAL_HOOKS):
            given = getattr(self.options, name)
            if given is None and getattr(type(self), name) is None:
                given = getattr(self.options.handler, name, None)
            if given is not None:
                setattr(self, name, given)
            elif (own := getattr(self, name)) is not None:  # a method of a subclass
                self._check_hook(name, own)
        self._check_hook("resolver", self.resolve)

    if not TYPE_CHECKING:  # with it, checkers take every attribute for one that is there

        def __setattr__(self, name: str, value: Any) -> None:
            """A hook may be set at any time."""
            if name.startswith("on_"):
                if not is_hook(name):
                    raise TypeError(no_hook(name))
                if value is not None:
                    self._check_hook(name, value)
            super().__setattr__(name, value)
            if name.startswith("on_"):
                self.hook_set(name)

    def hook_set(self, name: str) -> None:
        """Another function is this hook now, or none."""

    def _check_hook(self, name: str, hook: Any) -> None:
        check_hook(name, hook)
        if not self.coroutines and any(map(is_coroutine_function, parts_of(hook))):
            raise TypeError(f"{name} is a coroutine function; this runtime takes plain functions")

    def is_coroutine(self, hook: Hook) -> bool:
        """Whether a hook gives a coroutine when called, in a runtime that can run it."""
        if not (self.coroutines and is_coroutine_function(hook)):
            return False
        if hook not in self.coroutine_hooks:
            self.coroutine_hooks = (hook, *self.coroutine_hooks[: MAX_KNOWN - 1])
        return True

    # --- events -------------------------------------------------------------------------------------

    @overload
    def on(self, event: Literal["listening"], listener: Callable[[SocketAddress], object]) -> Self: ...
    @overload
    def on(self, event: Literal["close"], listener: Callable[[], object]) -> Self: ...
    @overload
    def on(self, event: Literal["connect"], listener: Callable[[dict[str, Any]], object]) -> Self: ...
    @overload
    def on(
        self, event: Literal["error"], listener: Callable[[BaseException, dict[str, Any]], object]
    ) -> Self: ...
    def on(self, event: str, listener: Callable[..., Any]) -> Self:
        """Call `listener` at each `event`: "listening", "close", "connect" or "error".

        Raises ValueError for another event, TypeError for a coroutine function and for what is no function.
        """
        return self._listen_to(event, listener, listener)

    @overload
    def once(self, event: Literal["listening"], listener: Callable[[SocketAddress], object]) -> Self: ...
    @overload
    def once(self, event: Literal["close"], listener: Callable[[], object]) -> Self: ...
    @overload
    def once(self, event: Literal["connect"], listener: Callable[[dict[str, Any]], object]) -> Self: ...
    @overload
    def once(
        self, event: Literal["error"], listener: Callable[[BaseException, dict[str, Any]], object]
    ) -> Self: ...
    def once(self, event: str, listener: Callable[..., Any]) -> Self:
        """Call `listener` at the next `event` only; raises as `on` does."""

        def first(*args: Any) -> Any:
            self.off(event, first)
            return listener(*args)

        first.__wrapped__ = listener  # type: ignore[attr-defined] # pyright: ignore[reportFunctionMemberAccess] - for `off`
        return self._listen_to(event, listener, first)

    def _listen_to(self, event: str, listener: Callable[..., Any], call: Callable[..., Any]) -> Self:
        if not callable(listener):  # pyright: ignore[reportUnnecessaryComparison] - callers without types
            raise TypeError(f"the listener for {event!r} must be a function, not {type(listener).__name__}")
        if is_coroutine_function(listener):
            raise TypeError(f"the listener for {event!r} is a coroutine function, which nobody would await")
        self._listeners_of(event).append(call)
        return self

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

    def emit(self, event: str, *args: Any, extra: Mapping[str, str] | None = None) -> None:
        """Call the listeners; what one of them raises is logged, with the fields `extra`."""
        for listener in tuple(self._listeners[event]):
            try:
                listener(*args)
            except self.not_of_listeners:
                raise
            except BaseException:
                self.log.exception("a listener for %r raised", event, extra=extra)

    def report(self, error: BaseException, stage: str, session: Session | None, remote: str = "") -> None:
        """Log an error and emit it. `stage`: accept, proxy, tls, hook, socket or stream."""
        extra = about(session, remote)
        # A hook's error, or our own, is looked for in a program; one of the network is not.
        traceback = error if stage == "hook" or not isinstance(error, OSError) else None
        text = _said_of(error)
        name, remote = extra["session_id"] or "-", extra["remote_address"]
        self.log.error("%s [%s]: %s: %s", name, remote, stage, text, exc_info=traceback, extra=extra)
        info = {"stage": stage, "session": session, "remote_address": remote}
        self.emit("error", error, info, extra=extra)

    # --- connections --------------------------------------------------------------------------------

    def connected(self, session: Session) -> None:
        """Emit "connect" with what is known of the client."""
        if not self._listeners["connect"]:
            return
        names = (
            "id", "local_address", "local_port", "remote_address", "remote_port",
            "host_name_appears_as", "client_hostname",
        )  # fmt: skip
        self.emit("connect", {name: getattr(session, name) for name in names}, extra=about(session))

    def exchange(self, session: Session) -> Session:
        """A session to go on with, where a thread that cannot be ended keeps this one as it is now."""
        new = successor(session)
        with self.counting:
            if session in self._sessions:
                self._sessions.remove(session)
                self._sessions.add(new)
        return new

    def closed(self, session: Session, reason: str, *, refused: bool) -> None:
        """Count a connection out; once, whoever says so first."""
        with self.counting:
            if session not in self._sessions:
                return
            self._sessions.discard(session)
            self.counts[refused] -= 1
        self.log.debug("%s: closed: %s", session.id, reason, extra=about(session))
        if reason.startswith("PROXY header refused"):
            self.report(ConnectionError(reason), "proxy", session)

    def gone(self, peer: object) -> None:
        """A connection has ended, with all that belongs to it."""
        self.peers.discard(peer)
        if not self.peers:
            self.emptied()

    def emptied(self) -> None:
        """`peers` is empty; for a runtime whose `close` waits for that."""

    # --- names --------------------------------------------------------------------------------------

    @property
    def resolve(self) -> Hook:
        """What gives the names of an address: the resolver of the options, or the system's."""
        resolver: Any = self.options.resolver
        return _system_resolver if resolver is None else getattr(resolver, "reverse", resolver)

    def checked_name(self, session: Session, result: Any) -> str:
        """The first name of a look-up if it can stand in a reply and a log; else ""."""
        if isinstance(result, list | tuple) and result:
            name: Any = cast("list[Any]", result)[0]
            if isinstance(name, str) and name.isascii() and name.isprintable() and name and " " not in name:
                return name
        unusable = session.id, session.remote_address, cast("object", result)
        self.log.debug("%s: [%s] has no usable name: %r", *unusable, extra=about(session))
        return ""

    # --- TLS ----------------------------------------------------------------------------------------

    @property
    def contexts(self) -> TlsContexts:
        """The TLS contexts, built when first needed; faults raise ConfigurationError."""
        if self._contexts is None:
            self._contexts = self._build_contexts()
        return self._contexts

    def _build_contexts(self) -> TlsContexts:
        given = {name: getattr(self.options, name) for name in TLS_OPTION_NAMES}
        return TlsContexts(given, name=self.options.name)

    def update_secure_context(self, **tls_options: Any) -> None:
        """Replace these TLS options, and read the files of all of them again.

        Later handshakes use them, running sessions stay. When it raises, nothing has changed.
        """
        self.contexts.update(**tls_options)


def _check_options(options: object) -> None:
    """Raise TypeError for what are not the options of a server."""
    if isinstance(options, Options):
        return
    kind = options if isinstance(options, type) else type(options)
    name = f"{kind.__module__.partition('.')[0]}.{kind.__qualname__}"
    if isinstance(options, ProtocolOptions):
        raise TypeError(f"{name} has the core's options only; a server takes smtpproto_server.Options")
    raise TypeError(f"a server takes smtpproto_server.Options or its fields, handler=... say, not {name}")


def is_coroutine_function(hook: Callable[..., Any]) -> bool:
    """True for what gives a coroutine when called, through partials and callable objects."""
    while isinstance(hook, functools.partial):
        hook = hook.func
    return inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(type(hook).__call__)


def _said_of(error: BaseException) -> str:
    name = type(error).__name__
    try:
        return f"{name}: {error}"
    except Exception:  # noqa: BLE001 - an application's exception may have no text
        return name


def _system_resolver(ip: str) -> list[str]:
    return [socket.getnameinfo((ip, 0), socket.NI_NAMEREQD)[0]]
