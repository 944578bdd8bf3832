# The engine: octets and decisions in, octets out, and questions put by calling a method each.
#
# What comes out depends on the sequence of octets and decisions alone: not on how the octets were
# cut, not on a clock, not on chance. Nothing the peer sends makes this class raise; every misuse by
# the caller does, at once.
#
# Lines of the plainest form (MAIL and RCPT with a plain mailbox and no parameters, DATA, RSET) are
# recognised by one pattern while nothing else is open or due: the fast path. It may skip looking,
# never a rule; every other line goes through the table of verbs.

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, cast

from smtpproto import _catalogue as say
from smtpproto._address import MAX_MAILBOX, PLAIN_MAILBOX, Address
from smtpproto._answers import ACCEPTED, answer
from smtpproto._commands import read_command, recipient_accepted, reset, sender_accepted, verbs_without
from smtpproto._core import Core, Signal
from smtpproto._decisions import ACCEPT, Accept, Decision, Reject, decided_reply
from smtpproto._errors import ConfigurationError, DecisionError, LocalProtocolError
from smtpproto._events import (
    CommandRequested,
    ConnectRequested,
    DataAborted,
    DataFinished,
    DataRequested,
    DataStarted,
    Event,
    ExpandRequested,
    HelloRequested,
    HelpRequested,
    MailRequested,
    NeedsStartTLS,
    NeedsTLS,
    QuitReceived,
    RcptRequested,
    TimerKind,
    TransactionReset,
    VerifyRequested,
)
from smtpproto._message import begin_message, finished, message_accepted
from smtpproto._opening import begin, read_proxy, secured, spoke, turn_away
from smtpproto._options import ProtocolOptions
from smtpproto._peers import canonical_address
from smtpproto._session import Session
from smtpproto._state import BEFORE_GREETING, COMMANDS, IN_HANDSHAKE, IN_TRANSACTION, State
from smtpproto._tls import TlsDetails

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from smtpproto._body import IncomingMessage

__all__ = ["OPTIONAL_QUESTIONS", "PENDING", "Engine", "Pending"]

# Replies that may pile up before they should be sent, when a peer sends many commands at once.
MANY_REPLIES: Final = 64
NO_LIMIT: Final = 1 << 29
MIN_ENTROPY: Final = 16  # octets: a challenge has 128 bits
# An enum's members are slow to find in CPython 3.11.
NEED_DATA, PAUSED, SEND, CLOSED = Signal.NEED_DATA, Signal.PAUSED, Signal.SEND, Signal.CLOSED
READY, IN_RCPT, IN_DATA, AT_END = State.READY, State.RCPT, State.DATA, State.CLOSED

OPTIONAL_QUESTIONS: Final[frozenset[type[Event]]] = frozenset({
    HelloRequested, DataRequested, VerifyRequested, ExpandRequested, HelpRequested, CommandRequested,
    TransactionReset, QuitReceived,
})  # fmt: skip
"""The events that are made only if asked for."""


class Pending:
    """The answer of a question's method that is given later, with `decide`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "PENDING"

    def __reduce__(self) -> str:
        return "PENDING"  # a copy is the same object


PENDING: Final = Pending()
"""Not decided yet: `decide` follows."""

# The plainest lines, all far shorter than any limit. `lastindex` says which it is.
PLAIN_LINE: Final = re.compile(
    rf"MAIL FROM:<({PLAIN_MAILBOX})>\r\n|RCPT TO:<({PLAIN_MAILBOX})>\r\n|(DATA\r\n)|(RSET\r\n)".encode()
).match
MAIL_LINE, RCPT_LINE, DATA_LINE = 1, 2, 3
PLAIN_VERBS: Final = frozenset({"MAIL", "RCPT", "DATA", "RSET"})


class Engine(Core):
    """One SMTP or LMTP connection, the server's side, without any I/O: it asks by calling methods.

    A subclass says what the questions do. Feed it with `receive_data`, call `advance` until it
    says what is awaited, send what `data_to_send` gives. Ready-made: `Connection`, which makes
    events of the questions.

    What it is made with, and what that raises, is described at `Connection`.
    """

    __slots__ = ("max_recipients", "reads_plain", "undisturbed")

    asked: Event | None  # of Core; said again for checkers of types
    may_finish: bool

    def __init__(
        self,
        options: ProtocolOptions | None = None,
        *,
        local: tuple[str, int] = ("", 0),
        remote: tuple[str, int] = ("", 0),
        id: str = "",  # noqa: A002 - the session's own name for it
        listener: str = "",
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
        if not (tls_available or options.tls_upstream):
            _check_tls_not_needed(options)
        session = Session(
            id,
            local=(canonical_address(local[0]), local[1]),
            remote=(canonical_address(remote[0]), remote[1]),
            lmtp=options.lmtp,
            listener=listener,
            secure=options.tls_upstream,
        )
        absent, most = options.absent_commands, options.max_recipients
        super().__init__(
            options,
            session,
            asks=asks,
            tls_available=tls_available,
            entropy=entropy,
            started=started,
            verbs=verbs_without(absent),
        )
        self.max_recipients: int = NO_LIMIT if most is None else most
        self.reads_plain: bool = not absent & PLAIN_VERBS
        self.undisturbed: bool = False
        begin(self)

    # --- the questions: what a subclass says ------------------------------------------------------

    def ask_mail(self, address: Address) -> Accept | Pending:
        """Whether the sender is accepted: ACCEPT, or PENDING (`asked` is the MailRequested then)."""
        raise NotImplementedError

    def ask_rcpt(self, address: Address) -> Accept | Pending:
        """Whether the recipient is accepted: ACCEPT, or PENDING (`asked` is the RcptRequested then)."""
        raise NotImplementedError

    def message_begun(self, message: IncomingMessage) -> bool:
        """The 354 is queued. False: `advance` says PAUSED before it reads any of the message."""
        raise NotImplementedError

    def message_content(self, content: bytes, message: IncomingMessage) -> bool:
        """A piece of the message, one octet or more. False: `advance` says PAUSED before it goes on."""
        raise NotImplementedError

    def message_ended(self, message: IncomingMessage) -> Accept | Pending:
        """The end of data: ACCEPT, or PENDING (`asked` is the DataFinished then).

        Where `message.refusal` is set it is what will be replied. In LMTP ACCEPT is the default
        reply for each recipient.
        """
        raise NotImplementedError

    def put(self, event: Event) -> bool:
        """Any other event; a question (`asked` is the event) may be decided here or later.

        False: `advance` says PAUSED before it goes on. After the end, what was due still comes here,
        and DataAborted and ConnectionClosed.
        """
        raise NotImplementedError

    # --- what is known ----------------------------------------------------------------------------

    @property
    def question(self) -> Event | None:
        """The event that waits for an answer, once it was handed out."""
        return None if self.events else self.asked

    @property
    def line_pending(self) -> bool:
        """A command or AUTH line has begun whose CRLF has not come: `command_timeout` runs."""
        return self.asked is None and self.state not in _NO_LINES and self.buffer.line_pending

    @property
    def in_message(self) -> bool:
        """Between the 354 and the end of data: `data_timeout` and `min_data_rate` run."""
        return self.state is IN_DATA and self.asked is None

    @property
    def wants_data(self) -> bool:
        """False while reading should pause: enough octets wait, or none are of use any more."""
        return self.state is not AT_END and not self.eof and len(self.buffer) < self.high_water

    # --- bytes ------------------------------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        """Take in octets the peer sent; nothing is parsed yet.

        Whatever they are, they do not make it raise. Feeding on while `wants_data` is False and
        events wait does (LocalProtocolError): memory would have no bound.
        """
        self.undisturbed = False
        state = self.state
        if state is AT_END or not data:
            return
        if self.eof:
            raise LocalProtocolError("receive_data after receive_eof: the input has ended")
        buffer = self.buffer
        if state in _SPEECHLESS:
            spoke(self)
        elif buffer.at == len(buffer.chunk) and buffer.later is None and buffer.begun is None:
            buffer.chunk, buffer.at = data, 0  # what `feed` does with an empty buffer
        elif not buffer.feed(data, self.high_water):
            raise LocalProtocolError(
                f"receive_data while {len(self.buffer)} octets wait: call next_event and decide first"
            )

    def receive_eof(self) -> None:
        """The peer will send no more; it may still read. Go on as after `receive_data`."""
        self.undisturbed = False
        self.eof = True

    def connection_lost(self) -> None:
        """The peer can neither send nor read any more: open questions are withdrawn."""
        self.undisturbed = False
        self.close("connection lost")

    def data_to_send(self) -> bytes:
        """Take the octets for the peer that are ready, b"" if none are."""
        self.undisturbed = False
        out = self.out
        if not out:
            return b""
        octets = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return octets

    # --- reading ----------------------------------------------------------------------------------

    def advance(self) -> Signal:
        """Read on until something is awaited, and say what."""
        while True:
            if self.events:
                if not self._hand_out(self.events.pop(0)):
                    return PAUSED
                continue
            if self.asked is not None:
                return PAUSED
            if (self.draining or self.overdue) and _end_is_due(self):
                continue
            if self.out and (self.flush or len(self.out) >= MANY_REPLIES) and not self.buffer.is_used_up():
                self.flush = False
                return SEND
            read = _READERS.get(self.state)
            if read is None:
                return CLOSED if self.state is AT_END else NEED_DATA
            signal = read(self)
            if signal is NEED_DATA and self.eof:
                self.close("eof")
            elif signal is not None:
                return signal

    def _hand_out(self, event: Event) -> bool:
        """Hand out what was due; False if the subclass wants to be waited for."""
        if self.state is AT_END:
            return self.put(event)
        if type(event) is DataStarted:
            return self.message_begun(event.message)
        ask = _ASKED_BY_METHOD.get(type(event))
        if ask is None:
            return self.put(event)
        if ask(self, event) is ACCEPT and self.asked is event:
            self.asked = None
            ACCEPTED[type(event)](self, event)
        return True

    # --- decisions --------------------------------------------------------------------------------

    def decide(self, decision: Decision | Sequence[Accept | Reject] | None) -> None:
        """Answer the open question; its effects happen here.

        Raises DecisionError if none is open or the decision does not answer it; the question then
        stays open.
        """
        self.undisturbed = False
        event = self.asked
        if event is None or self.events:
            raise DecisionError(f"{decision!r} answers nothing: no question is open")
        if decision is ACCEPT and (accepted := ACCEPTED.get(type(event))) is not None:
            self.asked = None
            accepted(self, event)
        else:
            answer(self, event, decision)

    def set_client_hostname(self, name: str) -> None:
        """Say what reverse DNS gave, before the ConnectRequested decision."""
        self.undisturbed = False
        if not isinstance(self.asked, ConnectRequested) or self.events:
            raise LocalProtocolError("set_client_hostname belongs before the decision on ConnectRequested")
        self.session._client_hostname = name.lower()

    def tls_established(self, details: TlsDetails | None = None) -> None:
        """The handshake that NeedsTLS or NeedsStartTLS asked for is done."""
        self.undisturbed = False
        if not isinstance(self.asked, NeedsTLS | NeedsStartTLS) or self.events:
            raise LocalProtocolError(
                "tls_established answers NeedsTLS and NeedsStartTLS, and neither is open"
            )
        self.asked = None
        secured(self, details or TlsDetails())

    # --- time and the end -------------------------------------------------------------------------

    def timeout(self, kind: TimerKind) -> None:
        """A time limit has run out. Go on as after `receive_data`.

        Where it does not run any more this changes nothing: it may have run out just then.
        """
        self.undisturbed = False
        if kind == "session_timeout":
            self.overdue = True
            self.reads_plain = False
            return
        states = _RUNS_IN.get(kind)
        if states is None:
            raise LocalProtocolError(
                f"{kind!r} is none of the timers {', '.join([*_RUNS_IN, 'session_timeout'])}"
            )
        if self.state in states and (self.asked is None or kind not in _NOT_WHILE_ASKING):
            _too_late(self)

    def refuse(self) -> None:
        """Turn the client away with 421: too many are connected. Before the greeting.

        Under implicit TLS the 421 waits for the handshake, which must therefore go on.
        """
        self.undisturbed = False
        if self.state is AT_END:
            return
        if self.state not in BEFORE_GREETING:
            raise LocalProtocolError(f"refuse belongs before the greeting, not where {self.state.value}")
        self.refused = True
        if self.state is State.ARRIVED or not self.implicit_tls:
            turn_away(self)

    def shutdown(self, *, now: bool = False, reply: Reject | None = None) -> None:
        """Say 421 and end: at once (`now`), or after the open question and the open transaction.

        With `now`, `reply` is said in the place of the 421. Go on as after `receive_data`.
        """
        self.undisturbed = False
        if self.state is AT_END:
            return
        if self.state in _SILENT:
            self.close("shutdown")
        elif now:
            last = say.SHUTTING_DOWN if reply is None else decided_reply(reply, say.SHUTTING_DOWN)
            arrived = self.state is State.ARRIVED
            self.say_last(say.uncoded(last) if arrived else last, "shutdown", "shutdown")
        else:
            self.draining = True
            self.reads_plain = False
            self.may_finish = self.state in _TRANSACTION


# --- reading ----------------------------------------------------------------------------------------


def _read_lines(engine: Engine) -> Signal | None:  # noqa: C901, PLR0911, PLR0912 - the one loop that must be fast
    """Read plain lines as long as they come and are in order, or one line of any other kind.

    `advance` has seen that nothing is open or due. That holds until something that is no plain
    line was done, here or from outside: every call from outside takes `undisturbed` back, also
    one that is made within a question's method.
    """
    buffer, out = engine.buffer, engine.out
    if not engine.reads_plain or buffer.begun is not None or (engine.guarded and _lacks_something(engine)):
        return read_command(engine)
    engine.undisturbed = True
    chunk = buffer.chunk
    while engine.undisturbed:
        match = PLAIN_LINE(chunk, buffer.at)
        if match is None:
            if buffer.is_used_up():
                return NEED_DATA
            return read_command(engine)
        kind, state = match.lastindex, engine.state
        if kind == RCPT_LINE:
            mailbox = match[RCPT_LINE]
            if (
                state is READY
                or len(mailbox) > MAX_MAILBOX
                or len(engine.recipients) >= engine.max_recipients
            ):
                return read_command(engine)
            buffer.at, engine.flush = match.end(), False
            address = Address(mailbox.decode())
            accepted = engine.ask_rcpt(address) is ACCEPT
            if engine.state is AT_END:
                return None
            if not accepted:
                engine.asked = RcptRequested(address, engine.session)
                return PAUSED
            recipient_accepted(engine, address)
        elif kind == MAIL_LINE:
            mailbox = match[MAIL_LINE]
            if state is not READY or len(mailbox) > MAX_MAILBOX or engine.connect_due:
                return read_command(engine)
            buffer.at, engine.flush = match.end(), False
            address = Address(mailbox.decode())
            accepted = engine.ask_mail(address) is ACCEPT
            if engine.state is AT_END:
                return None
            if not accepted:
                engine.asked = MailRequested(address, engine.session)
                return PAUSED
            sender_accepted(engine, address)
        elif kind == DATA_LINE:
            if state is not IN_RCPT or DataRequested in engine.asks:
                return read_command(engine)
            buffer.at, engine.flush = match.end(), True
            if not engine.message_begun(begin_message(engine)):
                return PAUSED
            return NEED_DATA if engine.undisturbed and buffer.is_used_up() else None
        else:
            if TransactionReset in engine.asks:
                return read_command(engine)
            buffer.at, engine.flush = match.end(), False
            reset(engine)
        if len(out) >= MANY_REPLIES:
            return None
    return None


def _lacks_something(engine: Engine) -> bool:
    """Whether the session still has to log in or to begin TLS."""
    return engine.needs_login() or (engine.options.needs_upgrade and not engine.session.secure)


def _read_message(engine: Engine) -> Signal | None:
    """Hand out the next piece, and ask when it was the last."""
    buffer, message = engine.buffer, engine.transfer
    if message is None or (buffer.at == len(buffer.chunk) and buffer.later is None):
        return NEED_DATA
    had_bare_newline = message.has_bare_newline
    content = message.read(buffer)
    if message.has_bare_newline and not had_bare_newline:
        engine.tell(DataAborted("bare_newline"))  # handed out after the content before it
    go_on = not content or engine.message_content(content, message)
    if message.complete and engine.transfer is message:
        if not go_on or engine.events:
            engine.ask(finished(message))
        else:
            accepted = engine.message_ended(message) is ACCEPT
            if engine.transfer is message and accepted:
                message_accepted(engine, message)
            elif engine.transfer is message:
                engine.asked = finished(message)
                return PAUSED
    return None if go_on else PAUSED


# --- tables -----------------------------------------------------------------------------------------

# The questions that a method asks; `put` has the others.
_ASKED_BY_METHOD: Final[Mapping[type[Event], Callable[[Engine, Any], Accept | Pending]]] = {
    MailRequested: lambda engine, event: engine.ask_mail(event.address),
    RcptRequested: lambda engine, event: engine.ask_rcpt(event.address),
    DataFinished: lambda engine, _event: engine.message_ended(cast("IncomingMessage", engine.transfer)),
}

# Each reads what comes next in its state; the signal if there is nothing, or to wait for the subclass.
_READERS: Final[Mapping[State, Callable[[Engine], Signal | None]]] = {
    State.PROXY: read_proxy,
    State.GREETED: read_command,
    State.READY: _read_lines,
    State.AUTH: read_command,
    State.MAIL: _read_lines,
    State.RCPT: _read_lines,
    State.DATA: _read_message,
}

_SPEECHLESS: Final = IN_HANDSHAKE | {State.ARRIVED}
_SILENT: Final = IN_HANDSHAKE | {State.PROXY}
_NO_LINES: Final = _SILENT | {State.ARRIVED, State.UPGRADED, State.DATA, State.CLOSED}
_COMMAND_AWAITED: Final = COMMANDS | {State.AUTH}
_TRANSACTION: Final = IN_TRANSACTION | {State.DATA}

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


# --- the end ----------------------------------------------------------------------------------------


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
    """A shutdown waits for this and no longer: no transaction, or one begun after it."""
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


# --- what the caller may hand in -----------------------------------------------------------------------


def _check_questions(asks: frozenset[type[Event]]) -> None:
    surplus = asks - OPTIONAL_QUESTIONS
    if surplus:
        raise ValueError(f"not among the optional questions: {', '.join(_name(each) for each in surplus)}")


def _check_entropy(options: ProtocolOptions) -> None:
    if "CRAM-MD5" not in options.sasl_mechanisms:
        raise ConfigurationError(f"CRAM-MD5 needs entropy of {MIN_ENTROPY} octets or more")


def _check_tls_not_needed(options: ProtocolOptions) -> None:
    for name in ("secure", "needs_upgrade"):
        if getattr(options, name):
            raise ConfigurationError(f"{name}=True needs TLS, and tls_available is False")


def _name(kind: object) -> str:
    return getattr(kind, "__name__", repr(kind))


_DEFAULT_OPTIONS: Final = ProtocolOptions()
