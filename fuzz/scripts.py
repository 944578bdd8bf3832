# Whatever is called, in whatever order, with questions left open and time running out: every call does
# its work or raises at once and changes nothing, each message has one end, and so has the connection.
#
# The input: options (1), how (1), decisions (8), and a script, one octet for each step: a line, the first
# half of one, or a call.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fuzz.playing import OPTIONS, Play, note
from smtpproto import (
    ACCEPT,
    Challenge,
    Connection,
    ConnectRequested,
    DataChunk,
    DecisionError,
    Event,
    LocalProtocolError,
    NeedsStartTLS,
    NeedsTLS,
    Signal,
    State,
)
from smtpproto._state import BEFORE_GREETING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["LINES", "STEPS", "target"]

HEADER: Final = 10
MAX_STEPS: Final = 40
ASK, EARLY = 0x80, 0x40

LINES: Final = tuple(
    line if line.endswith(b"\n") else line + b"\r\n"
    for line in (
        b"EHLO c.test", b"LHLO c.test", b"HELO c.test", b"MAIL FROM:<a@x.test>", b"RCPT TO:<b@y.test>",
        b"DATA", b".", b"a line", b"..", b"QUIT", b"RSET", b"STARTTLS", b"AUTH PLAIN AHUAcA==", b"AUTH LOGIN",
        b"dQ==",
        b"*", b"AUTH PLAIN", b"AHUAcA==", b"AUTH CRAM-MD5", b"AUTH XOAUTH2 dXNlcj11AWF1dGg9QmVhcmVyIHQBAQ==",
        b"MAIL FROM:<> SIZE=9 BODY=8BITMIME", b"RCPT TO:<postmaster> NOTIFY=NEVER", b"NOOP", b"HELP x",
        b"VRFY b",
        b"EXPN b", b"X-OWN", b"XCLIENT ADDR=198.51.100.7", b"XCLIENT LOGIN=u", b"XFORWARD NAME=c.test",
        b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\nDATA\r\n.",
        b"RCPT TO:<c@y.test>\r\nRCPT TO:<d@y.test>",
        b"PROXY TCP4 192.0.2.9 192.0.2.2 1 2", b"PROXY UNKNOWN", b"GET / HTTP/1.1", b"a\nb", b"\r",
        b"x" * 600,
        b"\r\n.\r\nMAIL FROM:<a@x.test>", b"MAIL FROM:<a@x.test> SMTPUTF8 REQUIRETLS RET=FULL ENVID=a+20b",
        "MAIL FROM:<é@x.test> SMTPUTF8".encode(), b"", b"QUIT x", b"BDAT 1 LAST", b"NOOP\r\nSTARTTLS",
        b"STARTTLS\r\nNOOP", b"x" * 4200, b"AUTH LOGIN dQ==",
    )
)  # fmt: skip


def target(data: bytes) -> None:
    """One script."""
    if len(data) < HEADER:
        return
    script = Script(OPTIONS[data[0] % len(OPTIONS)], data[2:HEADER], ask=bool(data[1] & ASK))
    if not data[1] & EARLY:
        script.settle()
    for step in data[HEADER : HEADER + MAX_STEPS]:
        STEPS[step % len(STEPS)](script)
    script.run_out()


class Script(Play):
    """A play whose questions may stay open, with the calls that a caller may make wrongly."""

    __slots__ = ()

    def ask_only(self) -> None:
        """Take events up to the next question, and leave it open."""
        while self.connection.question is None:
            event = self.connection.next_event()
            if isinstance(event, DataChunk):
                self.content.append(event.data)
            elif isinstance(event, Event):
                self.take(event)
            elif event is not Signal.SEND:
                return
            else:
                self.sent.append(self.connection.data_to_send())

    def say(self, octets: bytes) -> None:
        connection = self.connection
        welcome = connection.wants_data or connection.state is State.CLOSED
        before = self._standing()
        try:
            connection.receive_data(octets)
        except LocalProtocolError:
            assert not welcome
            assert self._standing() == before
        else:
            assert welcome
            if connection.state is not State.CLOSED:
                note(list(State).index(connection.state), 990)

    def attempt(self, call: Callable[[Connection], None], *, allowed: bool, error: type[Exception]) -> None:
        """Make a call that only raises, and then changes nothing, where it is out of place."""
        before = self._standing()
        try:
            call(self.connection)
        except error:
            assert not allowed
            assert self._standing() == before
        else:
            assert allowed

    def refuse(self) -> None:
        allowed = self.connection.state in BEFORE_GREETING or self.connection.state is State.CLOSED
        self.attempt(Connection.refuse, allowed=allowed, error=LocalProtocolError)

    def name_client(self) -> None:
        self.attempt(
            lambda connection: connection.set_client_hostname("C.test\r\n"),
            allowed=isinstance(self.core.question, ConnectRequested), error=LocalProtocolError,
        )  # fmt: skip

    def secure(self) -> None:
        allowed = isinstance(self.connection.question, NeedsTLS | NeedsStartTLS)
        self.attempt(Connection.tls_established, allowed=allowed, error=LocalProtocolError)

    def decide_nothing(self) -> None:
        """A decision that answers no question, or one that the event does not take."""
        question = self.connection.question
        challenge = question is not None and Challenge in question.takes
        decision: Any = [Challenge(b""), ACCEPT] if challenge or question is None else Challenge(b"")
        self.attempt(lambda connection: connection.decide(decision), allowed=False, error=DecisionError)

    def run_out(self) -> None:
        """The peer is gone: whatever was open, the end comes once and nothing behind it."""
        self.connection.connection_lost()
        self.settle()
        assert self.closed
        assert self.connection.state is State.CLOSED
        assert not self.open or self.aborted
        self.insist_on_the_end()

    def _standing(self) -> tuple[object, ...]:
        connection = self.connection
        return (
            connection.state,
            connection.question,
            len(self.core.out),
            len(self.core.events),
            len(self.core.buffer),
        )


def _line(line: bytes) -> Callable[[Script], None]:
    def say(script: Script) -> None:
        script.say(line)
        script.settle()

    return say


def _unheard(line: bytes) -> Callable[[Script], None]:
    return lambda script: script.say(line)


def _halved(line: bytes) -> Callable[[Script], None]:
    def say(script: Script) -> None:
        script.say(line[: len(line) // 2])
        script.settle()

    return say


def _call(call: Callable[[Connection], None]) -> Callable[[Script], None]:
    def make(script: Script) -> None:
        call(script.connection)

    return make


_OF_CONNECTION: Final[Sequence[Callable[[Connection], None]]] = (
    Connection.receive_eof,
    Connection.connection_lost,
    lambda connection: connection.timeout("socket_timeout"),
    lambda connection: connection.timeout("session_timeout"),
    lambda connection: connection.timeout("command_timeout"),
    lambda connection: connection.timeout("data_timeout"),
    lambda connection: connection.timeout("min_data_rate"),
    lambda connection: connection.timeout("greeting_timeout"),
    lambda connection: connection.timeout("proxy_timeout"),
    lambda connection: connection.timeout("tls_handshake_timeout"),
    lambda connection: connection.shutdown(),
    lambda connection: connection.shutdown(now=True),
)
CALLS: Final[Sequence[Callable[[Script], None]]] = (
    Script.settle, Script.settle, Script.settle, Script.ask_only, Script.ask_only, Script.refuse,
    Script.name_client, Script.secure, Script.decide_nothing, lambda script: script.say(b"x" * 70000),
    *(_call(each) for each in _OF_CONNECTION),
)  # fmt: skip
STEPS: Final[Sequence[Callable[[Script], None]]] = (
    *(_line(line) for line in LINES), *(_line(line) for line in LINES[:32]),
    *(_unheard(line) for line in LINES), *(_halved(line) for line in LINES[:8]), *CALLS,
)  # fmt: skip
assert len(STEPS) <= 256  # noqa: PLR2004 - a step is an octet
