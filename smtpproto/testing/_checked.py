# A checker from within: what must hold of every connection, looked at while somebody's own server runs.
#
# What it insists on is written down a second time here, from the specification and as naively as it can
# be said: nothing of it is asked of the code that is being looked at.

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from smtpproto import (
    Accept,
    Address,
    AuthRequested,
    Connection,
    ConnectionClosed,
    ConnectRequested,
    DataAborted,
    DataChunk,
    DataFinished,
    DataStarted,
    Envelope,
    Event,
    MailRequested,
    NeedsStartTLS,
    RcptRequested,
    Reject,
    SecureRequested,
    Signal,
    State,
)
from smtpproto.testing._conversation import in_lines, split_replies
from smtpproto.testing._endpoint import in_words, shown_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from smtpproto import Decision, TimerKind, TlsDetails

__all__ = ["INVARIANTS", "CheckedConnection", "InvariantBroken"]

INVARIANTS: Final[Mapping[str, str]] = {
    "I1": "the outcome depends on the octets, not on how they are cut",
    "I2": "a group of commands gives what the same commands give one by one",
    "I3": "each command has one reply, in order",
    "I4": "replies are well formed",
    "I5": "what is held is bounded",
    "I6": "after the end there is nothing",
    "I7": "nothing crosses STARTTLS",
    "I8": "outside a transaction there is nothing of one",
    "I9": "nothing is delivered whose end has not come",
    "I10": "what is delivered is what was sent",
    "I11": "no control character in an envelope",
    "I12": "a message implies all that allows it",
    "I13": "no limit is raised",
    "I17": "a text of the application is one reply",
    "duty": "what the connection asks of its caller is done",
}
"""What CheckedConnection and check_server insist on, by number."""


class InvariantBroken(AssertionError):  # noqa: N818 - it says what is the case
    """Something does not hold that must hold of every server."""

    def __init__(self, invariant: str, what: str, conversation: str = "") -> None:
        said = f"\n\nThe conversation so far:\n{conversation}" if conversation else ""
        super().__init__(f"{invariant}: {INVARIANTS[invariant]}.\n{what}{said}")
        self.invariant: str = invariant
        """Its number, a key of INVARIANTS."""
        self.what: str = what
        """What was seen."""


# --- the connection ----------------------------------------------------------------------------------

_COMMANDS: Final = frozenset({State.GREETED, State.READY, State.MAIL, State.RCPT, State.AUTH})
_OUTSIDE: Final = frozenset({State.GREETED, State.READY, State.AUTH})
_BEFORE_COMMANDS: Final = (ConnectRequested, SecureRequested)
_MOST_EVENTS: Final = 5  # that wait at a time: timers, an abortion, the end
_MANY_REPLIES: Final = 64  # that wait for SEND, beside those of one message
_COUNTERS: Final = ("unknown", "unauthenticated", "failed_logins")


class CheckedConnection(Connection):
    """A `Connection` that looks at itself at every call, to be used in its place while testing.

    Raises InvariantBroken as soon as something does not hold, and where the caller leaves undone
    what the connection asks of it: to send, before it feeds on or shakes hands, what
    `data_to_send` has for the peer. Call `finish` when the connection is over.
    """

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self._spoken: list[tuple[str, bytes]] = []
        self._ahead: bytearray = bytearray()  # fed, and not yet consumed
        self._fed: int = 0  # octets of the last feed
        self._carried: bool = False  # the last octet of commands consumed was a CR
        self._owed: int = 0  # replies to command lines that have ended
        self._sender: Address | None = None  # as the application accepted it
        self._recipients: list[Address] = []
        self._users: list[Any] = []
        self._message: _Message | None = None
        self._over: bool = False
        self._looks: Mapping[type[Event | Signal], Callable[[Any], None]] = {
            DataStarted: self._look_at_start,
            DataChunk: self._look_at_chunk,
            DataFinished: self._look_at_finish,
            DataAborted: self._look_at_abortion,
            MailRequested: self._look_at_address,
            RcptRequested: self._look_at_address,
            NeedsStartTLS: self._look_at_starttls,
            ConnectionClosed: self._look_at_close,
        }
        self._limits: tuple[object, ...] = self._limits_now()
        self._counted: dict[str, int] = dict.fromkeys(_COUNTERS, 0)

    @property
    def conversation(self) -> str:
        """What was said so far: a line each, "C: " or "S: " before it, secrets masked."""
        return in_words(self._spoken)

    # --- what the caller does -----------------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        """As `Connection.receive_data`; what waits for the peer must have been sent."""
        if data:
            self._insist_on_output("was fed")
            self._spoken.append(("C", bytes(data)))
        before = self._replies()
        super().receive_data(data)
        if self.state is not State.CLOSED:
            self._ahead += data
            self._fed = len(data)
        self._settle_account(before)

    def data_to_send(self) -> bytes:
        """As `Connection.data_to_send`; what is sent must be whole and well-formed replies."""
        octets = super().data_to_send()
        if octets:
            self._spoken.append(("S", octets))
            self._insist_on_replies(octets)
        return octets

    def next_event(self) -> Event | Signal:
        """As `Connection.next_event`; every event must be one that may come now."""
        mode, before = self.state, self._replies()
        event = super().next_event()
        self._consume(mode)
        self._settle_account(before)
        self._insist_on_bounds()
        if self._over and event is not Signal.CLOSED:
            self._break("I6", f"{event!r} came behind ConnectionClosed")
        look = self._looks.get(type(event))
        if look is not None:
            look(event)
        if isinstance(event, Signal):
            self._look_at_rest(event)
        return event

    def decide(self, decision: Decision | Sequence[Accept | Reject] | None) -> None:
        """As `Connection.decide`; it must lead to one reply (in LMTP one for each recipient)."""
        question, before = self.question, self._replies()
        super().decide(decision)
        self._look_at_decision(question, decision, self._replies() - before)
        self._look_at_envelope()

    def tls_established(self, details: TlsDetails | None = None) -> None:
        """As `Connection.tls_established`; the 220 must have been sent, and nothing may be left."""
        question = self.question
        self._insist_on_output("was told of a handshake")
        super().tls_established(details)
        if isinstance(question, NeedsStartTLS):
            self._look_at_handshake()

    def timeout(self, kind: TimerKind) -> None:
        """As `Connection.timeout`."""
        before = self._replies()
        super().timeout(kind)
        self._settle_account(before)

    def finish(self) -> None:
        """Say that the connection is over: every event must have been taken, and every octet."""
        if not self._over:
            self._break("duty", "the connection was left before next_event gave ConnectionClosed")
        self._insist_on_output("was left")

    # --- what is looked at ----------------------------------------------------------------------------

    def _break(self, invariant: str, what: str) -> None:
        raise InvariantBroken(invariant, what, self.conversation)

    def _replies(self) -> int:
        return len(self.out)

    def _insist_on_output(self, what: str) -> None:
        if self.out:
            waiting = " ".join(shown_lines(b"".join(self.out)))
            self._break("duty", f"it {what} while replies wait for data_to_send: {waiting}")

    def _insist_on_replies(self, octets: bytes) -> None:
        fault = fault_in_replies(octets, coded=self.options.coded)
        if fault:
            self._break("I4", fault)

    def _insist_on_bounds(self) -> None:
        recipients = self.options.max_recipients or len(self.session.envelope.rcpt_to)
        for what, held, most in (
            ("octets", len(self.buffer), self.high_water + self._fed),
            ("events", len(self.events), _MOST_EVENTS),
            ("replies", len(self.out), _MANY_REPLIES + recipients),
        ):
            if held > most:
                self._break("I5", f"{held} {what} are held, and {most} are the most")

    def _limits_now(self) -> tuple[object, ...]:
        lines = self.buffer
        return self.options, self.high_water, self.coded, lines._limit, lines._auth_limit  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - what users cannot see, either

    def _insist_on_counters(self) -> None:
        counted = {name: getattr(self, name) for name in _COUNTERS}
        forgotten = [name for name, number in counted.items() if number < self._counted[name]]
        if forgotten:
            self._break("I13", f"what counts abuse was set back: {', '.join(forgotten)}")
        self._counted = counted

    def _consume(self, mode: State) -> None:
        """Account for the octets that the core took since the last look."""
        if self.state is State.CLOSED:
            self._ahead.clear()
            return
        size = len(self._ahead) - len(self.buffer)
        octets = bytes(self._ahead[:size])
        del self._ahead[:size]
        if mode in _COMMANDS:
            seen = b"\r" * self._carried + octets
            self._owed += seen.count(b"\r\n")
            self._carried = seen.endswith(b"\r")
        elif mode is State.DATA and self._message is not None:
            self._message.take(octets)

    def _settle_account(self, before: int) -> None:
        self._owed -= self._replies() - before

    def _look_at_rest(self, signal: Signal) -> None:
        """Nothing more to be had from what was fed."""
        if signal is Signal.CLOSED or self.state is State.CLOSED:
            return
        if self._limits_now() != self._limits:
            self._break("I13", f"{self._limits_now()} instead of {self._limits}")
        self._insist_on_counters()
        self._look_at_envelope()
        if signal is not Signal.NEED_DATA:
            return
        if self._owed > 0:
            self._break("I3", f"{self._owed} commands were not answered")
        if self._owed < -self.line_pending:
            self._break("I3", f"{-self._owed} replies answer nothing")
        if self._message is not None and self._message.ended:
            self._break("I9", "the end of the message came and was overlooked")

    def _look_at_envelope(self) -> None:
        if self.state in _OUTSIDE and self.asked is None:
            left = facts_of(self.session.envelope)
            if left != FRESH:
                self._break("I8", f"{left} stands in the envelope where no transaction is open")
            self._sender, self._recipients = None, []

    def _look_at_decision(self, question: Event | None, decision: Any, replies: int) -> None:
        if isinstance(decision, Accept):
            self._note_permission(question, decision)
        if isinstance(question, DataFinished):
            self._insist_on_answers(replies)
            self._message, self._carried = None, False
            self._counted["unknown"] = 0  # a message makes up for what was not understood
        elif isinstance(question, _BEFORE_COMMANDS):
            if replies > 1:
                self._break("I17", f"{replies} replies to a client that has said nothing")
        else:
            self._owed -= replies
            if replies > 1 and self.state is not State.CLOSED:
                self._break("I17", f"{decision!r} became {replies} replies")

    def _note_permission(self, question: Event | None, decision: Accept) -> None:
        match question:
            case MailRequested():
                self._sender, self._recipients = question.address, []
            case RcptRequested():
                self._recipients.append(question.address)
            case AuthRequested():
                self._users.append(decision.user)
            case _:
                pass

    def _insist_on_answers(self, replies: int) -> None:
        expected = len(self._recipients) if self.options.lmtp else 1
        if replies != expected and not (self.state is State.CLOSED and 0 < replies < expected):
            self._break("I3", f"{replies} replies to a message, and {expected} were due")

    def _look_at_handshake(self) -> None:
        """RFC 3207 §4.2: as after the greeting, who the peer is and what it has done apart."""
        session = self.session
        known: dict[str, object] = {
            "HELO": session.opening_command, "its argument": session.host_name_appears_as,
            "a login": session.user, "XCLIENT": session.xclient, "XFORWARD": session.xforward,
            "an exchange": self.exchange, "a message": self.transfer, "octets": len(self.buffer),
            "an envelope": None if facts_of(session.envelope) == FRESH else session.envelope,
        }  # fmt: skip
        left = {name: value for name, value in known.items() if value}
        if left:
            self._break("I7", f"what was said in the clear is still known: {left!r}")
        if not session.secure:
            self._break("I7", "the session does not count as secure")
        self._insist_on_counters()
        self._carried = False

    def _look_at_starttls(self, _event: NeedsStartTLS) -> None:
        waiting = len(self.buffer)
        if waiting:
            self._break("I7", f"{waiting} octets behind STARTTLS were not refused")

    def _look_at_address(self, event: MailRequested | RcptRequested) -> None:
        for text in texts_of(event.address):
            if _CONTROL.search(text):
                self._break("I11", f"{text!r} was handed out")

    def _look_at_start(self, _event: DataStarted) -> None:
        options, session = self.options, self.session
        envelope = session.envelope
        missing = [
            what
            for what, there in {
                "an accepted MAIL": self._sender is not None and envelope.mail_from is self._sender,
                "an accepted RCPT": bool(self._recipients),
                "only accepted RCPTs": [*map(id, envelope.rcpt_to)] == [*map(id, self._recipients)],
                "no more than max_recipients": len(envelope.rcpt_to) <= (options.max_recipients or 1 << 60),
                "TLS": session.secure or not options.needs_upgrade,
                "a login": session.user is not None or not options.login_required,
                "a login that was accepted": self._is_granted(session.user),
                "HELO": bool(session.opening_command),
            }.items()
            if not there
        ]
        if missing:
            self._break("I12", f"a message begins without {', '.join(missing)}")
        self._message = _Message(
            options.size, self._limit_of_message(), strict=options.bare_newlines == "reject"
        )

    def _limit_of_message(self) -> int | None:
        return self.options.size if self.options.enforce_size else None

    def _is_granted(self, user: Any) -> bool:
        """Mechanisms of the application's own may log in without a question."""
        return user is None or user in self._users or bool(self.options.sasl_mechanisms)

    def _look_at_chunk(self, event: DataChunk) -> None:
        if self._message is None or self._message.aborted:
            self._break("I9", "octets of a message came where none is open")
        else:
            self._message.content += event.data

    def _look_at_abortion(self, event: DataAborted) -> None:
        message = self._message
        if message is None or message.aborted:
            self._break("I9", f"{event!r} came where no message is open")
        else:
            message.aborted = True

    def _look_at_finish(self, event: DataFinished) -> None:
        fault = ("I9", "no message is open") if self._message is None else self._message.fault_in(event)
        if fault:
            self._break(*fault)

    def _look_at_close(self, _event: ConnectionClosed) -> None:
        self._over = True
        message = self._message
        if message is not None and not message.aborted and not message.ended:
            self._break("I9", "the connection ended within a message, and DataAborted did not say so")


class _Message:
    """One message on its way in, read a second time by one that knows lines only (RFC 5321 §4.5.2)."""

    def __init__(self, size: int | None, limit: int | None, *, strict: bool) -> None:
        self.size: int | None = size
        self.limit: int | None = limit
        self.strict: bool = strict  # a bare CR or LF ends what is delivered
        self.body: bytearray = bytearray()  # as on the wire
        self.content: bytearray = bytearray()  # as handed out
        self.aborted: bool = False
        self.ended: bool = False

    def take(self, octets: bytes) -> None:
        self.body += octets
        self.ended = self.body.startswith(b".\r\n") or b"\r\n.\r\n" in self.body

    def fault_in(self, event: DataFinished) -> tuple[str, str] | None:
        *lines, last = in_lines(bytes(self.body)) or [b""]
        if last != _END or _END in lines:
            return "I9", f"the end of data was seen in {bytes(self.body)!r}"
        content = b"".join(line.removeprefix(b".") for line in lines)
        bare = _BARE.search(content) if self.strict else None
        due = (content if bare is None else content[: bare.start()])[: self.limit]
        if bytes(self.content) != due:
            return "I10", f"{bytes(self.content)!r} was handed out, and {due!r} was sent"
        told = event.byte_length, event.size_exceeded
        if told != (len(content), self.size is not None and len(content) > self.size):
            return "I10", f"{event!r} tells of {len(content)} octets"
        refused = bare is not None or (self.limit is not None and len(content) > self.limit)
        if (event.refusal is not None) is not refused:
            return "I12", f"{event.refusal!r} is the answer to {content!r}"
        return None


_END: Final = b".\r\n"
_BARE: Final = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def texts_of(address: Address) -> Iterator[str]:
    """Everything that an address hands out."""
    yield from (address.address, address.local, address.domain, address.decoded)
    for keyword, value in address.args.items():
        yield keyword
        yield str(value)
    yield from (address.dsn.orcpt or "", *(address.dsn.notify or ()))


def facts_of(envelope: Envelope) -> dict[str, str]:
    """What has been said of a transaction."""
    return {name: repr(value) for name, value in envelope.facts().items()}


FRESH: Final = facts_of(Envelope())


# --- replies --------------------------------------------------------------------------------------

_REPLY_LINE: Final = re.compile(r"([2-5][0-9][0-9])([ -])([^\x00-\x1f\x7f-\x9f]*)")
_ENHANCED: Final = re.compile(r"([0-9])\.[0-9]{1,3}\.[0-9]{1,3}(?: |\Z)")
_MOST_OCTETS: Final = 510  # of a line, its CRLF apart, RFC 5321 §4.5.3.1.5


def fault_in_replies(answered: bytes, *, coded: bool) -> str:
    """What is wrong with replies, "" if nothing is; `coded`: they carry enhanced status codes."""
    try:
        replies = split_replies(answered, errors="backslashreplace")
    except AssertionError as error:
        return str(error)
    return next(filter(None, (_fault_in_reply(reply.split("\n"), coded=coded) for reply in replies)), "")


def _fault_in_reply(lines: list[str], *, coded: bool) -> str:
    first = lines[0][:3]
    for line in lines:
        match = _REPLY_LINE.fullmatch(line)
        if match is None:
            return f"{line!r} is not a code, a blank or hyphen, and a text (RFC 5321 §4.2)"
        code, _, text = match.groups()
        if code != first:
            return f"{line!r} belongs to a reply that begins with {first} (RFC 5321 §4.2.1)"
        if len(line.encode()) > _MOST_OCTETS and code != "334":
            return f"{line!r} is longer than 512 octets (RFC 5321 §4.5.3.1.5)"
        enhanced = _ENHANCED.match(text) if coded else None
        if enhanced is not None and enhanced[1] != code[0]:
            return f"{line!r} is of two classes (RFC 2034 §4)"
    return ""
