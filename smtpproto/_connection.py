# The connection: octets and decisions in, events and octets out.
#
# What comes out depends on the sequence of octets and decisions alone: not on how the octets were
# cut, not on a clock, not on chance. Nothing the peer sends makes this class raise; every misuse
# by the caller does, at once.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from smtpproto import _catalogue as say
from smtpproto._commands import (
    USUAL,
    command_decided,
    expand_decided,
    hello_decided,
    help_decided,
    mail_decided,
    rcpt_decided,
    read_command,
    recipient_accepted,
    sender_accepted,
    verbs_without,
    verify_decided,
)
from smtpproto._core import Core, Signal
from smtpproto._decisions import ACCEPT, Accept, Challenge, Decision, Reject, decided_reply
from smtpproto._errors import ConfigurationError, DecisionError, LocalProtocolError
from smtpproto._events import (
    AuthRequested,
    CommandReceived,
    ConnectRequested,
    DataFinished,
    DataRequested,
    Event,
    ExpandRequested,
    HelloReceived,
    HelpRequested,
    MailRequested,
    NeedsStartTLS,
    NeedsTLS,
    ProxyReceived,
    QuitReceived,
    RcptRequested,
    SecureRequested,
    TimerKind,
    TransactionReset,
    VerifyRequested,
)
from smtpproto._identity import bracketed, xclient_login_decided
from smtpproto._login import LOGIN_CODES, login_decided
from smtpproto._message import data_decided, message_accepted, message_decided, read_message
from smtpproto._options import Options
from smtpproto._peers import canonical_address
from smtpproto._proxy import ProxyFault, ProxyReader
from smtpproto._session import Session, TlsDetails
from smtpproto._state import BEFORE_GREETING, BEGIN, COMMANDS, IN_HANDSHAKE, IN_TRANSACTION, State, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

__all__ = ["OPTIONAL_QUESTIONS", "Connection"]

# Replies that may pile up before they should be sent, when a peer sends many commands at once.
MANY_REPLIES: Final = 64
# An enum's members are slow to find in CPython 3.11.
NEED_DATA, PAUSED, SEND, CLOSED = Signal.NEED_DATA, Signal.PAUSED, Signal.SEND, Signal.CLOSED
AT_END: Final = State.CLOSED
MIN_ENTROPY: Final = 16  # octets: a challenge has 128 bits

OPTIONAL_QUESTIONS: Final[frozenset[type[Event]]] = frozenset({
    HelloReceived, DataRequested, VerifyRequested, ExpandRequested, HelpRequested, CommandReceived,
    TransactionReset, QuitReceived,
})  # fmt: skip
"""The events that are made only if asked for."""


class Connection:
    """One SMTP or LMTP connection, the server's side, without any I/O.

    Feed it with `receive_data`, call `next_event` until it returns a Signal, send what
    `data_to_send` gives, answer questions with `decide`.

    `local` and `peer` are the socket's addresses as (address, port), ("", 0) for a unix socket.
    `ask` names optional questions (`OPTIONAL_QUESTIONS`). `tls_available` says whether a handshake
    could be made. `entropy` (16 octets or more, secret and new for each connection) and `started`
    (seconds since the epoch) are what CRAM-MD5 challenges are made of.

    Raises ConfigurationError if the options need what was not given.
    """

    __slots__ = ("_core",)

    def __init__(
        self,
        options: Options | None = None,
        *,
        local: tuple[str, int] = ("", 0),
        peer: tuple[str, int] = ("", 0),
        session_id: str = "",
        ask: Iterable[type[Event]] = (),
        tls_available: bool = False,
        entropy: bytes = b"",
        started: int = 0,
    ) -> None:
        options = options or _DEFAULT_OPTIONS
        asks = ask if isinstance(ask, frozenset) else frozenset(ask)
        if asks:
            _check_questions(asks)
        if "CRAM-MD5" in options.auth_methods and len(entropy) < MIN_ENTROPY:
            _check_entropy(options)
        if not (tls_available or options.secured):
            _check_tls_not_needed(options)
        session = Session(
            session_id,
            local=(canonical_address(local[0]), local[1]),
            remote=(canonical_address(peer[0]), peer[1]),
            lmtp=options.lmtp,
        )
        session.secure = options.secured
        self._core: Core = Core(
            options,
            session,
            asks=asks,
            tls_available=tls_available,
            entropy=entropy,
            started=started,
            verbs=verbs_without(options.absent_commands),
            usual={} if options.absent_commands & {"MAIL", "RCPT"} else USUAL,
        )
        _begin(self._core)

    # --- what is known --------------------------------------------------------------------------

    @property
    def session(self) -> Session:
        """The session, the same object for the whole connection."""
        return self._core.session

    @property
    def options(self) -> Options:
        """The options the connection was made with."""
        return self._core.options

    @property
    def state(self) -> State:
        """Where the connection stands."""
        return self._core.state

    @property
    def question(self) -> Event | None:
        """The event that waits for an answer, once `next_event` has handed it out."""
        return None if self._core.events else self._core.question

    @property
    def line_pending(self) -> bool:
        """A command or AUTH line has begun whose CRLF has not come: `command_timeout` runs."""
        core = self._core
        return core.question is None and core.state not in _NO_LINES and core.buffer.line_pending

    @property
    def in_message(self) -> bool:
        """Between the 354 and the end of data: `data_timeout` and `min_data_rate` run."""
        return self._core.state is State.DATA and self._core.question is None

    @property
    def wants_data(self) -> bool:
        """False while reading should pause: enough octets wait, or none are of use any more."""
        core = self._core
        return core.state is not State.CLOSED and not core.eof and len(core.buffer) < core.high_water

    # --- bytes ------------------------------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        """Take in octets the peer sent; nothing is parsed before `next_event`.

        Whatever they are, they do not make it raise. Feeding on while `wants_data` is False and
        events wait does (LocalProtocolError): memory would have no bound.
        """
        core = self._core
        state = core.state
        if state is AT_END or not data:
            return
        if core.eof:
            raise LocalProtocolError("receive_data after receive_eof: the input has ended")
        if state in _SPEECHLESS:
            _spoke(core)
        elif not core.buffer.feed(data, core.high_water):
            raise LocalProtocolError(
                f"receive_data while {len(core.buffer)} octets wait: call next_event and decide first"
            )

    def receive_eof(self) -> None:
        """The peer will send no more; it may still read. Go on with `next_event`."""
        self._core.eof = True

    def connection_lost(self) -> None:
        """The peer can neither send nor read any more: open questions are withdrawn."""
        self._core.close("connection lost")

    def data_to_send(self) -> bytes:
        """Take the octets for the peer that are ready, b"" if none are."""
        out = self._core.out
        if not out:
            return b""
        octets = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return octets

    # --- events and decisions ---------------------------------------------------------------------

    def next_event(self) -> Event | Signal:
        """The next event, or the Signal that says why there is none."""
        core = self._core
        events = core.events
        while not events:
            if core.question is not None:
                return PAUSED
            if (core.draining or core.overdue) and _end_is_due(core):
                break
            if core.out and (core.flush or len(core.out) >= MANY_REPLIES) and len(core.buffer):
                core.flush = False
                return SEND
            step = _READERS.get(core.state)
            if step is None:
                return CLOSED if core.state is State.CLOSED else NEED_DATA
            if not step(core):
                if not core.eof:
                    return NEED_DATA
                core.close("eof")
        return events.pop(0)

    def decide(self, decision: Decision | Sequence[Accept | Reject] | None) -> None:
        """Answer the open question; its effects happen here.

        Raises DecisionError if none is open or the decision does not answer it; the question then
        stays open.
        """
        core = self._core
        event = core.question
        if event is None or core.events:
            raise DecisionError(f"{decision!r} answers nothing: no question is open")
        if decision is ACCEPT and (accepted := _ACCEPTED.get(type(event))) is not None:
            core.question = None
            accepted(core, event)
            return
        answer = _ANSWERS.get(type(event))
        if answer is None:
            raise DecisionError(f"{decision!r} does not answer {event!r}: call tls_established")
        if decision is not ACCEPT or Accept not in event.takes:
            _check_decision(event, decision)
        core.question = None
        try:
            answer(core, event, decision)
        except Exception:
            core.question = event  # the answer could not be taken, and nothing has changed
            raise

    def set_client_hostname(self, name: str) -> None:
        """Say what reverse DNS gave, before the ConnectRequested decision."""
        if not isinstance(self._core.question, ConnectRequested):
            raise LocalProtocolError("set_client_hostname belongs before the decision on ConnectRequested")
        self._core.session.client_hostname = name.lower()

    def tls_established(self, details: TlsDetails | None = None) -> None:
        """The handshake that NeedsTLS or NeedsStartTLS asked for is done."""
        core = self._core
        if not isinstance(core.question, NeedsTLS | NeedsStartTLS) or core.events:
            raise LocalProtocolError(
                "tls_established answers NeedsTLS and NeedsStartTLS, and neither is open"
            )
        core.question = None
        _secured(core, details or TlsDetails())

    # --- time and the end -------------------------------------------------------------------------

    def timeout(self, kind: TimerKind) -> None:
        """A time limit has run out. Go on with `next_event`.

        Where it does not run any more this changes nothing: it may have run out just then.
        """
        core = self._core
        if kind == "session_timeout":
            core.overdue = True
            return
        states = _RUNS_IN.get(kind)
        if states is None:
            raise LocalProtocolError(
                f"{kind!r} is none of the timers {', '.join([*_RUNS_IN, 'session_timeout'])}"
            )
        if core.state in states and (core.question is None or kind not in _NOT_WHILE_ASKING):
            _too_late(core)

    def refuse(self) -> None:
        """Turn the client away with 421: too many are connected. Before the greeting.

        Under implicit TLS the 421 waits for the handshake, which must therefore go on.
        """
        core = self._core
        if core.state is State.CLOSED:
            return
        if core.state not in BEFORE_GREETING:
            raise LocalProtocolError(f"refuse belongs before the greeting, not where {core.state.value}")
        core.refused = True
        if core.state is State.ARRIVED or not core.implicit_tls:
            _turn_away(core)

    def shutdown(self, *, now: bool = False) -> None:
        """Say 421 and end: at once (`now`), or behind the open question and the open transaction.

        Go on with `next_event`.
        """
        core = self._core
        if core.state is State.CLOSED:
            return
        if core.state in _SILENT:
            core.close("shutdown")
        elif core.state is State.ARRIVED and now:
            core.say_last(say.uncoded(say.SHUTTING_DOWN), "shutdown")
        elif now:
            core.say_last(say.SHUTTING_DOWN, "shutdown", "shutdown")
        else:
            core.draining = True
            core.may_finish = core.state in _TRANSACTION


# --- before the greeting ----------------------------------------------------------------------------


def _begin(core: Core) -> None:
    options = core.options
    core.start_timer("session_timeout", options.session_timeout)
    core.start_timer("socket_timeout", options.socket_timeout)
    core.start_timer("command_timeout", options.command_timeout)
    core.start_timer("data_timeout", options.data_timeout)
    if core.peer in options.proxy_peers:
        core.state = BEGIN[Step.START_PROXY]
        core.proxy = ProxyReader()
        core.start_timer("proxy_timeout", options.proxy_timeout)
    elif core.implicit_tls:
        core.state = BEGIN[Step.START_TLS_FIRST]
        _ask_for_tls(core)
    else:
        _arrived(core)


def _read_proxy(core: Core) -> bool:
    octets = core.buffer.take_all()
    if core.proxy is None or not octets:
        return False
    result = core.proxy.feed(octets)
    if result is None:
        return True
    if isinstance(result, ProxyFault):
        core.close(f"PROXY header refused: {result.value}")
        return True
    rest = core.proxy.rest
    core.proxy = None
    core.stop_timer("proxy_timeout", core.options.proxy_timeout)
    core.session.proxy = result
    if isinstance(result.source, tuple):
        core.session.remote_address, core.session.remote_port = result.source
        core.session.client_hostname = bracketed(result.source[0])
        core.peer = result.source[0]
    core.tell(ProxyReceived(result))
    if core.implicit_tls:
        core.move(Step.HEADER_TLS)
        _ask_for_tls(core, rest)
        return True
    core.move(Step.HEADER)
    _arrived(core)
    if rest and core.state is State.ARRIVED:
        _too_soon(core)
    return True


def _ask_for_tls(core: Core, data: bytes = b"") -> None:
    core.start_timer("tls_handshake_timeout", core.options.tls_handshake_timeout)
    core.ask(NeedsTLS(data))


def _arrived(core: Core) -> None:
    if core.refused:
        _turn_away(core)
        return
    core.start_timer("greeting_timeout", core.options.greeting_timeout)
    core.ask(ConnectRequested(core.session))


def _turn_away(core: Core) -> None:
    core.say_last(say.too_many_clients(core.options.host), "too many clients")


def _too_soon(core: Core) -> None:
    """RFC 5321 §4.3.1: the client waits for the greeting; one that does not is a robot."""
    core.say_last(say.too_soon(core.options.host), "the client talked before the greeting")


def _spoke(core: Core) -> None:
    """The client spoke where it may not."""
    if core.state is State.ARRIVED:
        _too_soon(core)
    else:
        # These octets were to go to the TLS layer: plaintext in the place of a handshake.
        core.close("plaintext in place of a TLS handshake")


def _secured(core: Core, details: TlsDetails) -> None:
    session = core.session
    core.stop_timer("tls_handshake_timeout", core.options.tls_handshake_timeout)
    core.move(Step.HANDSHAKE)
    session.secure = True
    session.servername = details.servername
    session.tls_options = details.options
    session.peer_certificate = details.peer_certificate
    if core.state is State.ARRIVED:
        _arrived(core)
        return
    # RFC 3207 §4.2: nothing that was said in the clear is known any more.
    session.opening_command = ""
    session.host_name_appears_as = ""
    session.user = None
    session.x_client = {}
    session.x_forward = {}
    core.ask(SecureRequested(session))


def _connect_decided(core: Core, _event: Event, decision: Accept | Reject) -> None:
    if isinstance(decision, Reject):
        core.say_last(
            say.uncoded(decided_reply(decision, say.CONNECTION_REFUSED)), "refused by the application"
        )
    elif core.implicit_tls and not core.draining:
        core.ask(SecureRequested(core.session))
    else:
        _greet(core)


def _secure_decided(core: Core, _event: Event, decision: Accept | Reject) -> None:
    if isinstance(decision, Reject):
        reply = decided_reply(decision, say.SECURITY_REFUSED)
        before_greeting = core.state is State.ARRIVED
        core.say_last(say.uncoded(reply) if before_greeting else reply, "refused by the application")
    elif core.state is State.ARRIVED:
        _greet(core)
    else:
        core.move(Step.APPROVED)


def _greet(core: Core) -> None:
    core.stop_timer("greeting_timeout", core.options.greeting_timeout)
    if core.draining:
        core.say_last(say.uncoded(say.SHUTTING_DOWN), "shutdown")
        return
    entitled = "XCLIENT" not in core.options.absent_commands and core.may_xclient()
    if not entitled:
        core.announce_client()
    core.move(Step.GREETING)
    core.say(say.greeting(core.options.greeting))


# --- tables -----------------------------------------------------------------------------------------


def _auth_decided(core: Core, event: AuthRequested, decision: Decision) -> None:
    if core.exchange is not None:
        login_decided(core, core.exchange, event, decision)
    elif isinstance(decision, Challenge):
        raise DecisionError(f"{decision!r} does not answer an XCLIENT LOGIN; it takes Accept, Reject")
    else:
        xclient_login_decided(core, decision)


_READERS: Final[Mapping[State, Callable[[Core], bool]]] = {
    State.PROXY: _read_proxy,
    State.GREETED: read_command,
    State.READY: read_command,
    State.AUTH: read_command,
    State.MAIL: read_command,
    State.RCPT: read_command,
    State.DATA: read_message,
}

_ANSWERS: Final[Mapping[type[Event], Callable[[Core, Any, Any], None]]] = {
    ConnectRequested: _connect_decided,
    SecureRequested: _secure_decided,
    AuthRequested: _auth_decided,
    MailRequested: mail_decided,
    RcptRequested: rcpt_decided,
    DataFinished: message_decided,
    HelloReceived: hello_decided,
    DataRequested: data_decided,
    VerifyRequested: verify_decided,
    ExpandRequested: expand_decided,
    HelpRequested: help_decided,
    CommandReceived: command_decided,
}

# What nearly every decision is: the plain yes.
_ACCEPTED: Final[Mapping[type[Event], Callable[[Core, Any], None]]] = {
    MailRequested: sender_accepted,
    RcptRequested: recipient_accepted,
    DataFinished: message_accepted,
}

# Codes that Accept may carry besides 250.
_CODES: Final[Mapping[type[Event], frozenset[int]]] = {
    RcptRequested: frozenset({250, 251}),
    AuthRequested: LOGIN_CODES,
    VerifyRequested: frozenset({250, 251, 252}),
    HelpRequested: frozenset({211, 214}),
    CommandReceived: frozenset(range(200, 300)),
}
_USUAL_CODE: Final = frozenset({250})

_SPEECHLESS: Final = IN_HANDSHAKE | {State.ARRIVED}
_SILENT: Final = IN_HANDSHAKE | {State.PROXY}
_NO_LINES: Final = _SILENT | {State.ARRIVED, State.UPGRADED, State.DATA, State.CLOSED}
_COMMAND_AWAITED: Final = COMMANDS | {State.AUTH}
_TRANSACTION: Final = IN_TRANSACTION | {State.DATA}


def _end_is_due(core: Core) -> bool:
    """Whether a shutdown, or the end of the session's time, has waited long enough; then end here."""
    if core.draining and _may_close(core):
        core.say_last(say.SHUTTING_DOWN, "shutdown")
    elif core.overdue and core.state in _COMMAND_AWAITED:
        _too_late(core)
    else:
        return False
    return True


def _may_close(core: Core) -> bool:
    """A shutdown waits for this and no longer: no transaction, or one begun behind it."""
    if core.state in _TRANSACTION:
        return not core.may_finish
    return core.state in _COMMAND_AWAITED


def _too_late(core: Core) -> None:
    """The client let its time run out."""
    if core.state in _SILENT:
        core.close("timeout")
    elif core.state is State.ARRIVED:
        core.say_last(say.uncoded(say.TIMED_OUT), "timeout")
    else:
        core.say_last(say.TIMED_OUT, "timeout", "timeout")


# Where each time limit runs. `session_timeout` runs everywhere and waits for its moment.
_RUNS_IN: Final[Mapping[TimerKind, AbstractSet[State]]] = {
    "proxy_timeout": {State.PROXY},
    "tls_handshake_timeout": IN_HANDSHAKE,
    "greeting_timeout": {State.ARRIVED},
    "socket_timeout": frozenset(State) - {State.CLOSED},
    "command_timeout": _COMMAND_AWAITED,
    "data_timeout": {State.DATA},
    "min_data_rate": {State.DATA},
}
_NOT_WHILE_ASKING: Final = frozenset({"command_timeout", "data_timeout", "min_data_rate"})


# --- what the caller may hand in -----------------------------------------------------------------------


def _check_questions(asks: frozenset[type[Event]]) -> None:
    surplus = asks - OPTIONAL_QUESTIONS
    if surplus:
        raise ValueError(f"not among the optional questions: {', '.join(_name(each) for each in surplus)}")


def _check_entropy(options: Options) -> None:
    if "CRAM-MD5" not in options.sasl_mechanisms:
        raise ConfigurationError(f"CRAM-MD5 needs entropy of {MIN_ENTROPY} octets or more")


def _check_tls_not_needed(options: Options) -> None:
    for name in ("secure", "needs_upgrade"):
        if getattr(options, name):
            raise ConfigurationError(f"{name}=True needs TLS, and tls_available is False")


def _check_decision(event: Event, decision: object) -> None:
    if decision is None and None in event.takes:
        return
    kinds = tuple(kind for kind in event.takes if kind is not None)
    if isinstance(decision, kinds):
        if isinstance(decision, Accept) and decision.code is not None:
            _check_code(event, decision)
        return
    if isinstance(event, DataFinished) and isinstance(decision, list | tuple):
        items = cast("Sequence[object]", decision)
        if all(isinstance(each, kinds) for each in items):
            for each in items:
                if isinstance(each, Accept) and each.code is not None:
                    _check_code(event, each)
            return
    raise DecisionError(
        f"{decision!r} does not answer {event!r}; it takes "
        f"{', '.join('None' if kind is None else kind.__name__ for kind in event.takes)}"
    )


def _check_code(event: Event, decision: Accept) -> None:
    allowed = _CODES.get(type(event), _USUAL_CODE)
    if decision.code not in allowed:
        raise DecisionError(
            f"{decision!r} does not answer {_name(type(event))}: its Accept takes the codes "
            f"{', '.join(str(code) for code in sorted(allowed))}"
        )


def _name(kind: object) -> str:
    return getattr(kind, "__name__", repr(kind))


_DEFAULT_OPTIONS: Final = Options()
