# The state that every command shares.
#
# A Core holds what one connection knows and the few verbs by which it changes: say, ask, move,
# close. Commands, logins and messages are functions on it in files of their own; Engine, which is a
# Core, reads and asks. Nothing here looks at a clock or knows who calls.

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, unique
from typing import TYPE_CHECKING, Final

from smtpproto import _catalogue as say
from smtpproto._buffer import LineBuffer
from smtpproto._events import (
    ClientConnected,
    ConnectionClosed,
    DataAborted,
    TimerChanged,
    TransactionReset,
)
from smtpproto._session import Envelope
from smtpproto._state import AFTER, BEGIN, IN_TRANSACTION, State, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from collections.abc import Set as AbstractSet

    from smtpproto._address import Address
    from smtpproto._body import IncomingMessage
    from smtpproto._events import AbortReason, Event, TimerKind
    from smtpproto._options import ProtocolOptions
    from smtpproto._proxy import ProxyReader
    from smtpproto._reply import Reply
    from smtpproto._sasl import Exchange
    from smtpproto._session import Session

__all__ = ["Command", "Core", "Signal"]

# Octets that may wait while a question is open, beyond one line, before reading should pause.
HIGH_WATER: Final = 64 * 1024
CLOSED: Final = State.CLOSED  # an enum's members are slow to find in CPython 3.11


@unique
class Signal(Enum):
    """What is awaited: what `next_event` returns when there is no event."""

    NEED_DATA = "NEED_DATA"
    """Send `data_to_send()`, then `receive_data` or `receive_eof`."""
    PAUSED = "PAUSED"
    """A question is open: `decide`, or `tls_established` after NeedsTLS and NeedsStartTLS."""
    SEND = "SEND"
    """Replies are due that must not wait: send `data_to_send()`, then ask for the next event."""
    CLOSED = "CLOSED"
    """ConnectionClosed was handed out; nothing comes any more."""

    def __repr__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Command:
    """A verb: what runs, what it needs, and how it counts."""

    run: Callable[[Core, str], None]
    needs_hello: bool = False
    needs_tls: bool = False
    """Refused by `needs_upgrade` while the session is not secure."""
    needs_login: bool = False
    counted: bool = True
    """Counts towards the limit of commands without a login; AUTH has a limit of its own."""
    ends_group: bool = False
    """RFC 2920 §3.2: its reply, and all before it, must not wait for what follows."""


class Core:
    """What one connection knows."""

    __slots__ = (
        "asked", "asks", "buffer", "coded", "connect_due", "draining", "entropy", "eof", "events",
        "exchange", "exchanges", "failed_logins", "flush", "greeting", "guarded", "high_water",
        "implicit_tls", "lmtp", "may_finish", "options", "out", "overdue", "peer", "proxy",
        "recipients", "refused", "session", "started", "state", "tls_available", "transfer",
        "unauthenticated", "unknown", "verbs", "xclient_done",
    )  # fmt: skip

    def __init__(
        self,
        options: ProtocolOptions,
        session: Session,
        *,
        asks: AbstractSet[type[Event]],
        tls_available: bool,
        entropy: bytes,
        started: int,
        verbs: Mapping[str, Command],
    ) -> None:
        self.options: ProtocolOptions = options
        """The options the connection was made with."""
        self.session: Session = session
        """The session, the same object for the whole connection."""
        self.asks: AbstractSet[type[Event]] = asks
        self.tls_available: bool = tls_available
        self.entropy: bytes = entropy
        self.started: int = started
        self.verbs: Mapping[str, Command] = verbs
        self.coded: bool = options.coded
        self.guarded: bool = options.needs_upgrade or options.login_required
        self.lmtp: bool = options.lmtp
        self.implicit_tls: bool = options.secure and not options.tls_upstream
        self.high_water: int = HIGH_WATER + max(options.max_line_length, options.max_auth_line_length)
        self.peer: str = session.remote_address
        self.greeting: str | tuple[str, ...] = options.greeting
        """Text of the 220 that greets, and of the one that follows XCLIENT."""

        self.recipients: list[Address] = []
        """Those of the present envelope."""
        session._envelope._recipients = self.recipients
        self.state: State = BEGIN[Step.START]
        """Where the connection stands."""
        self.buffer: LineBuffer = LineBuffer(options.max_line_length, options.max_auth_line_length)
        self.out: list[bytes] = []
        """Replies that were not sent yet."""
        self.events: list[Event] = []
        """What is due to be handed out; a question stands last."""
        self.asked: Event | None = None
        """The open question; while `events` has any it was not handed out yet."""
        self.flush: bool = False
        self.eof: bool = False
        """The client will send no more."""
        self.draining: bool = False
        self.may_finish: bool = False  # draining, but not before the end of the transaction
        self.overdue: bool = False
        self.refused: bool = False
        self.connect_due: bool = True
        self.xclient_done: bool = False

        self.proxy: ProxyReader | None = None
        self.exchange: Exchange | None = None
        self.transfer: IncomingMessage | None = None

        self.unknown: int = 0
        self.unauthenticated: int = 0
        self.failed_logins: int = 0
        self.exchanges: int = 0

    # --- the verbs -----------------------------------------------------------------------------

    def say(self, reply: Reply) -> None:
        """Queue a reply."""
        if reply.code >= 400:  # noqa: PLR2004 - RFC 5321 §4.2.1: 4yz and 5yz are the failures
            self.session._error = reply.text(coded=self.coded).replace("\r\n", "\n")
        self.out.append(reply.spellings[self.coded])

    def conclude(self, reply: Reply) -> None:
        """Queue the reply an application chose; a 421 always closes the connection."""
        self.say(reply)
        if reply.code == 421:  # noqa: PLR2004 - RFC 5321 §4.2.2
            self.close("refused with 421")

    def say_last(self, reply: Reply, reason: str, abort: AbortReason = "connection_lost") -> None:
        """Queue a reply and end the connection."""
        self.say(reply)
        self.close(reason, abort)

    def tell(self, event: Event) -> None:
        """Hand out an event that asks nothing."""
        self.events.append(event)

    def ask(self, event: Event) -> None:
        """Hand out an event and stand still until it is decided."""
        self.events.append(event)
        self.asked = event

    def mechanism_failed(self, error: BaseException) -> None:
        """A SASL mechanism of the application's has raised.

        Its AUTH is answered; where it failed to refuse a login, the question stays open. Raised on to
        whoever runs the engine, which can go on; a subclass may report it instead.
        """
        raise error

    def move(self, step: Step) -> None:
        """Take a step of the state machine."""
        self.state = AFTER[self.state][step]

    def close(self, reason: str, abort: AbortReason = "connection_lost") -> None:
        """End the connection: what was asked is withdrawn, what was kept is dropped."""
        if self.state is CLOSED:
            return
        if self.asked is not None and self.events:  # it stands last: nobody has seen it
            self.events.pop()
            self.asked = None
        transfer = self.transfer
        # A message whose end the application has not seen is aborted, once.
        if transfer is not None and not transfer.has_bare_newline and self.asked is None:
            self.tell(DataAborted(abort))
        self.state = CLOSED
        self.session._close_reason = reason
        self.asked = None
        self.transfer = None
        self.exchange = None
        self.proxy = None
        self.buffer.take_all()
        self.tell(ConnectionClosed(reason))

    # --- what several commands need ------------------------------------------------------------

    def start_timer(self, kind: TimerKind, seconds: float | None) -> None:
        if seconds is not None:
            self.events.append(TimerChanged(kind, seconds))

    def stop_timer(self, kind: TimerKind, seconds: float | None) -> None:
        if seconds is not None:
            self.events.append(TimerChanged(kind, None))

    def reset_transaction(self) -> None:
        """Begin a new envelope; the old one is replaced whole, so nothing can leak out of it."""
        self.new_envelope()
        if self.session._xforward:
            self.session._xforward = {}

    def new_envelope(self) -> Envelope:
        """One without a sender and recipients is the present one from here on."""
        self.recipients = []
        envelope = Envelope(None, self.recipients)
        self.session._envelope = envelope
        return envelope

    def forget_client(self) -> None:
        """What HELO and AUTH said is void."""
        session = self.session
        session.user = None
        session._opening_command = ""
        session._host_name_appears_as = ""

    def give_up_transaction(self, verb: str) -> None:
        """The same for a transaction that ends before its message."""
        if TransactionReset in self.asks and self.state in IN_TRANSACTION:
            self.tell(TransactionReset(verb))
        self.reset_transaction()

    def announce_client(self) -> None:
        """ClientConnected, once."""
        if self.connect_due:
            self.connect_due = False
            self.tell(ClientConnected(self.session))

    def may_xclient(self) -> bool:
        return not self.xclient_done and self.peer in self.options.xclient_peers

    def may_xforward(self) -> bool:
        return not self.xclient_done and self.peer in self.options.xforward_peers

    def needs_login(self) -> bool:
        return self.options.login_required and self.session.user is None

    def refuse_unknown(self, reply: Reply) -> None:
        """Answer what is not a command; the one that reaches the limit gets the last word instead."""
        if not self.one_unknown_too_many():
            self.say(reply)

    def one_unknown_too_many(self) -> bool:
        """Count what is not a command; True when it was the last one and has been answered."""
        self.unknown += 1
        if self.unknown != self.options.max_unknown_commands:
            return False
        self.say_last(say.TOO_MANY_UNKNOWN, "too many unrecognized commands")
        return True

    def one_unauthenticated_too_many(self) -> bool:
        """Count a command without a login; True when it was the last one and has been answered."""
        if not self.needs_login():
            return False
        self.unauthenticated += 1
        if self.unauthenticated != self.options.max_allowed_unauthenticated_commands:
            return False
        self.say_last(say.TOO_MANY_UNAUTHENTICATED, "too many unauthenticated commands")
        return True
