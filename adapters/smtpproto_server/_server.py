# The server, as far as no runtime colours it: options, hooks, events, counts, names, errors.

from __future__ import annotations

import logging
import os
import socket
import time
from base64 import b32hexencode
from typing import TYPE_CHECKING, Any, Final, Self, cast

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
    canonical_address,
)
from smtpproto_server._effects import Failed, Outcome
from smtpproto_server._loop import Serving
from smtpproto_server._options import HOOKS, OPTIONAL_HOOKS, Options
from smtpproto_server._steps import is_coroutine_function
from smtpproto_server._tls import TLS_OPTION_NAMES, TlsContexts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from smtpproto import Session
    from smtpproto_server._options import Hook

__all__ = ["EVENTS", "Address", "ServerCore", "socket_address"]

Address = tuple[str, int] | str
MAX_COLOURS: Final = 64  # hooks of which it is remembered whether they are coroutine functions
EVENTS: Final = ("listening", "close", "connect", "error")

_QUESTION_OF: Final[Mapping[str, type[Event]]] = {
    "on_helo": HelloReceived,
    "on_data_start": DataRequested,
    "on_vrfy": VerifyRequested,
    "on_expn": ExpandRequested,
    "on_help": HelpRequested,
    "on_command": CommandReceived,
}


class ServerCore:
    """What every adapter's SMTPServer is: it adds listening and the running of `Serving`s."""

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
        self._contexts: TlsContexts | None = None
        self._listeners: dict[str, list[Callable[..., Any]]] = {name: [] for name in EVENTS}
        self._clients: int = 0
        self._refusing: int = 0
        self._warned: bool = False
        self._colours: dict[Any, bool] = {}
        for name in (*HOOKS, *OPTIONAL_HOOKS):
            given = getattr(self.options, name)
            if given is None and getattr(type(self), name) is None:
                given = getattr(self.options.handler, name, None)
            if given is not None:
                setattr(self, name, given)

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

    # --- one connection -----------------------------------------------------------------------------

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
        core = Connection(
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
        names = (
            "id", "local_address", "local_port", "remote_address", "remote_port",
            "host_name_appears_as", "client_hostname",
        )  # fmt: skip
        self.emit("connect", {name: getattr(session, name) for name in names})

    def _questions(self) -> frozenset[type[Event]]:
        return frozenset(
            question for name, question in _QUESTION_OF.items() if getattr(self, name) is not None
        )

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


def new_id() -> str:
    """Sixteen characters 0-9a-v: 80 random bits."""
    return b32hexencode(os.urandom(10)).decode("ascii").lower()


def socket_address(address: Any) -> tuple[str, int]:
    """A socket's address as (address, port); ("", 0) for a unix socket."""
    if isinstance(address, tuple) and len(address) >= 2:  # pyright: ignore[reportUnknownArgumentType] # noqa: PLR2004
        return canonical_address(str(address[0])), int(address[1])  # pyright: ignore[reportUnknownArgumentType]
    return "", 0


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
