# The checkers: a right server passes them, and each deliberate fault is found and named.

from __future__ import annotations

import re
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import example, given, settings

from smtpproto import (
    ACCEPT,
    OPTIONAL_QUESTIONS,
    Accept,
    Connection,
    ConnectionClosed,
    DataAborted,
    DataChunk,
    DataFinished,
    DataStarted,
    Event,
    MailRequested,
    NeedsStartTLS,
    ProtocolOptions,
    RcptRequested,
    Reject,
    Signal,
    State,
    TimerChanged,
    TlsDetails,
)
from smtpproto.extending import Mechanism
from smtpproto.testing import (
    ENTROPY,
    INVARIANTS,
    CheckedConnection,
    ConnectionEndpoint,
    InvariantBroken,
    Outcome,
    check_server,
    message,
    octets,
    settle,
)
from smtpproto.testing.strategies import decisions, in_lmtp, make_options, options, sessions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from smtpproto import Session
    from smtpproto.testing.strategies import Fields, Given, Said

MADE: Final[dict[str, Any]] = {"tls_available": True, "entropy": ENTROPY, "remote": ("192.0.2.1", 4321)}


def checked(fault: type[Connection] = Connection, **fields: Any) -> CheckedConnection:
    """A checked connection, with a fault beneath the checks."""
    kind = type("Faulty", (CheckedConnection, fault) if fault is not Connection else (CheckedConnection,), {})
    made: CheckedConnection = kind(make_options(fields), **MADE)
    return made


def served(
    connection: Connection,
    *said: str | bytes,
    lost: bool = False,
    answers: Mapping[type[Event], Any] = MappingProxyType({}),
) -> Outcome:
    outcome = Outcome(connection)
    settle(outcome, answers)
    for each in said:
        connection.receive_data(octets(each))
        settle(outcome, answers)
    if lost:
        connection.connection_lost()
        settle(outcome, answers)
    return outcome


# --- faults beneath CheckedConnection --------------------------------------------------------------


class Changing(Connection):
    """What next_event gives, changed."""

    def next_event(self) -> Event | Signal:
        return self.change(super().next_event())

    def change(self, event: Event | Signal) -> Event | Signal:
        return event


class MissingReply(Changing):
    def change(self, event: Event | Signal) -> Event | Signal:
        if self.state is State.READY:
            self.out.clear()
        return event


class SurplusReply(Changing):
    def change(self, event: Event | Signal) -> Event | Signal:
        if self.state is State.READY:
            self.out.append(b"250 and another\r\n")
        return event


class BareNewlines(Connection):
    def data_to_send(self) -> bytes:
        return super().data_to_send().replace(b"\r\n", b"\n")


class ManyReplies(Changing):
    def change(self, event: Event | Signal) -> Event | Signal:
        if self.state is State.READY:
            self.out += [b"250 OK\r\n"] * 2000
        return event


class ManyEvents(Changing):
    def change(self, event: Event | Signal) -> Event | Signal:
        self.events += [TimerChanged("socket_timeout", None)] * 6
        return event


class EventBehindTheEnd(Changing):
    def change(self, event: Event | Signal) -> Event | Signal:
        return TimerChanged("socket_timeout", None) if event is Signal.CLOSED else event


class PlaintextKept(Changing):
    rest = b""

    def receive_data(self, data: bytes) -> None:
        line, end, self.rest = data.partition(b"\r\n")
        super().receive_data(line + end)

    def change(self, event: Event | Signal) -> Event | Signal:
        if isinstance(event, NeedsStartTLS):
            self.buffer.feed(self.rest)
        return event


class HelloKept(Connection):
    def tls_established(self, details: TlsDetails | None = None) -> None:
        super().tls_established(details)
        self.session._opening_command = "EHLO"


class NotSecure(Connection):
    def tls_established(self, details: TlsDetails | None = None) -> None:
        super().tls_established(details)
        self.session._secure = False


class CountersSetBack(Connection):
    def tls_established(self, details: TlsDetails | None = None) -> None:
        super().tls_established(details)
        self.unknown = 0


class EnvelopeKept(Connection):
    def decide(self, decision: Any) -> None:
        envelope = self.session.envelope
        super().decide(decision)
        if self.state is State.READY:
            self.session._envelope = envelope


class EndOverlooked(Changing):
    def change(self, event: Event | Signal) -> Event | Signal:
        return Signal.NEED_DATA if isinstance(event, DataFinished) else event


class EndTooEarly(Changing):
    def change(self, event: Event | Signal) -> Event | Signal:
        return (
            DataFinished(0, False, None) if event is Signal.NEED_DATA and self.state is State.DATA else event
        )


class EndWithoutBeginning(Changing):
    def change(self, event: Event | Signal) -> Event | Signal:
        return DataFinished(0, False, None) if self.state is State.READY else event


class ChunkWithoutBeginning(Changing):
    def change(self, event: Event | Signal) -> Event | Signal:
        return DataChunk(b"x") if self.state is State.READY else event


class AbortionWithoutBeginning(Changing):
    def change(self, event: Event | Signal) -> Event | Signal:
        return DataAborted("shutdown") if self.state is State.READY else event


class AbortionNotTold(Changing):
    def change(self, event: Event | Signal) -> Event | Signal:
        return self.next_event() if isinstance(event, DataAborted) else event


class AbortionToldTwice(Changing):
    def change(self, event: Event | Signal) -> Event | Signal:
        if isinstance(event, DataAborted):
            self.events.insert(0, DataAborted(event.reason))
        return event


class ContentChanged(Changing):
    def change(self, event: Event | Signal) -> Event | Signal:
        return DataChunk(event.data.upper()) if isinstance(event, DataChunk) else event


class LengthMistaken(Changing):
    def change(self, event: Event | Signal) -> Event | Signal:
        if isinstance(event, DataFinished):
            return replace(event, byte_length=event.byte_length + 1)
        return event


class RefusalForgotten(Changing):
    def change(self, event: Event | Signal) -> Event | Signal:
        if isinstance(event, DataFinished):
            return replace(event, refusal=None)
        return event


class LineBreakHandedOut(Changing):
    def change(self, event: Event | Signal) -> Event | Signal:
        if isinstance(event, MailRequested):
            event.address._args = {"X-Y": "a\r\nb"}
        return event


class RecipientSlippedIn(Changing):
    def change(self, event: Event | Signal) -> Event | Signal:
        if isinstance(event, DataStarted):
            self.recipients *= 2
        return event


class LoginSlippedIn(Changing):
    def change(self, event: Event | Signal) -> Event | Signal:
        self.session.user = "root"
        return event


class LimitRaised(Changing):
    def change(self, event: Event | Signal) -> Event | Signal:
        self.high_water += 1
        return event


class TwoRepliesToADecision(Connection):
    def decide(self, decision: Any) -> None:
        super().decide(decision)
        self.out.append(b"250 and another\r\n")


class TwoRepliesToAMail(Connection):
    def decide(self, decision: Any) -> None:
        said = isinstance(self.question, MailRequested)
        super().decide(decision)
        if said:
            self.out.append(b"250 and another\r\n")


class RefusalUnheard(Connection):
    def decide(self, decision: Any) -> None:
        super().decide(ACCEPT if isinstance(decision, Reject) else decision)


class OneReplyForTwo(Connection):
    def decide(self, decision: Any) -> None:
        said = isinstance(self.question, DataFinished)
        super().decide(decision)
        if said:
            self.out.pop()


class CodeOfAnotherClass(Connection):
    def data_to_send(self) -> bytes:
        return super().data_to_send().replace(b"250 2.", b"250 5.")


HELLO: Final = "EHLO a"
TO_TWO: Final = message(to=["b@y.test", "c@y.test"])
FAULTS: Final[list[tuple[type[Connection], str, str, list[str | bytes], Fields]]] = [
    (MissingReply, "I3", "1 commands were not answered", [HELLO, "NOOP"], {}),
    (SurplusReply, "I3", "1 replies answer nothing", [HELLO], {}),
    (OneReplyForTwo, "I3", "1 replies to a message, and 2 were due", ["LHLO a", *TO_TWO], {"lmtp": True}),
    (BareNewlines, "I4", "without its CRLF", [], {}),
    (CodeOfAnotherClass, "I4", "'250 5.0.0 OK' is of two classes", [HELLO, "NOOP"], {}),
    (ManyReplies, "I5", "2001 replies are held", [HELLO], {}),
    (ManyEvents, "I5", "events are held, and 5 are the most", [], {}),
    (EventBehindTheEnd, "I6", "came behind ConnectionClosed", ["QUIT", "NOOP"], {}),
    (PlaintextKept, "I7", "6 octets behind STARTTLS", [b"STARTTLS\r\nNOOP\r\n"], {}),
    (HelloKept, "I7", "still known: {'HELO': 'EHLO'}", [HELLO, "STARTTLS"], {}),
    (NotSecure, "I7", "does not count as secure", [HELLO, "STARTTLS"], {}),
    (CountersSetBack, "I13", "what counts abuse was set back: unknown", [HELLO, "FOO", "STARTTLS"], {}),
    (EnvelopeKept, "I8", "where no transaction is open", [HELLO, *message()], {}),
    (EndOverlooked, "I9", "came and was overlooked", [HELLO, *message()], {}),
    (EndTooEarly, "I9", "the end of data was seen in b''", [HELLO, *message()], {}),
    (EndWithoutBeginning, "I9", "no message is open", [HELLO], {}),
    (ChunkWithoutBeginning, "I9", "where none is open", [HELLO], {}),
    (AbortionWithoutBeginning, "I9", "where no message is open", [HELLO], {}),
    (AbortionNotTold, "I9", "DataAborted did not say so", [HELLO, *message()[:-1]], {}),
    (AbortionToldTwice, "I9", "where no message is open", [HELLO, *message()[:-1]], {}),
    (ContentChanged, "I10", "b'A\\r\\n' was handed out, and b'a\\r\\n'", [HELLO, *message(b"a\r\n")], {}),
    (LengthMistaken, "I10", "tells of 3 octets", [HELLO, *message(b"a\r\n")], {}),
    (LineBreakHandedOut, "I11", "'a\\r\\nb' was handed out", [HELLO, *message()], {}),
    (RecipientSlippedIn, "I12", "without only accepted RCPTs", [HELLO, *message()], {}),
    (LoginSlippedIn, "I12", "without a login that was accepted", [HELLO, *message()], {}),
    (RefusalForgotten, "I12", "None is the answer to", [HELLO, *message(b"abc\r\n")], {"size": 3}),
    (LimitRaised, "I13", "instead of", [], {}),
    (TwoRepliesToADecision, "I17", "2 replies to a client that has said nothing", [], {}),
    (TwoRepliesToAMail, "I17", "became 2 replies", [HELLO, *message()], {}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "invariant", "words", "said", "fields"), FAULTS, ids=[each[0].__name__ for each in FAULTS]
)
def test_a_fault_is_found_and_named(
    fault: type[Connection], invariant: str, words: str, said: list[str | bytes], fields: Fields
) -> None:
    connection = checked(fault, **fields)
    with pytest.raises(InvariantBroken, match=re.escape(words)) as caught:
        served(connection, *said, lost=True)
    assert caught.value.invariant == invariant
    assert str(caught.value).startswith(f"{invariant}: {INVARIANTS[invariant]}.\n{caught.value.what}")


def test_the_conversation_is_shown_without_its_secrets() -> None:
    with pytest.raises(InvariantBroken) as caught:
        served(checked(OneReplyForTwo), HELLO, "AUTH PLAIN", "AHUAcA==", "NOOP", *message())
    assert str(caught.value).split("\n")[3:] == [
        "The conversation so far:", "S: 220 mx.test ESMTP", "C: EHLO a",
        "S: 250-mx.test Nice to meet you, [192.0.2.1]", "S: 250-PIPELINING", "S: 250-8BITMIME",
        "S: 250-SMTPUTF8", "S: 250-ENHANCEDSTATUSCODES", "S: 250-AUTH PLAIN LOGIN CRAM-MD5 XOAUTH2",
        "S: 250 STARTTLS", "C: AUTH PLAIN", "S: 334", "C: ***",
        "S: 235 2.7.0 Authentication successful", "C: NOOP", "S: 250 2.0.0 OK",
        "C: MAIL FROM:<a@x.test>", "S: 250 2.1.0 Accepted", "C: RCPT TO:<b@y.test>",
        "S: 250 2.1.5 Accepted", "C: DATA", "S: 354 End data with <CR><LF>.<CR><LF>", "C: .",
    ]  # fmt: skip


def test_a_recipient_who_was_refused_may_not_be_in_the_envelope() -> None:
    served(checked(), HELLO, *TO_TWO, answers={RcptRequested: [Reject(), ACCEPT]})
    with pytest.raises(InvariantBroken, match="without only accepted RCPTs"):
        served(checked(RefusalUnheard), HELLO, *TO_TWO, answers={RcptRequested: [Reject(), ACCEPT]})


@given(sessions, options, decisions)
@settings(max_examples=50)
def test_the_core_passes_in_every_session(session: Said, fields: Fields, decided: Given) -> None:
    connection = CheckedConnection(make_options(fields), ask=OPTIONAL_QUESTIONS, **MADE)
    answers = {kind: list(each) for kind, each in decided.items()}
    outcome = Outcome(connection)
    settle(outcome, answers)
    for segment in in_lmtp(session) if fields.get("lmtp") else session:
        connection.receive_data(b"".join(segment))
        settle(outcome, answers)
    connection.connection_lost()
    settle(outcome, answers)
    connection.finish()


# --- what the caller owes ---------------------------------------------------------------------------


def begun() -> CheckedConnection:
    """One that has asked for nothing and waits for its greeting to be sent."""
    connection = checked()
    while not isinstance(connection.next_event(), Signal):
        if connection.question:
            connection.decide(ACCEPT)
    return connection


def test_replies_must_be_sent_before_more_is_fed() -> None:
    connection = begun()
    with pytest.raises(InvariantBroken, match=r"was fed while replies wait for data_to_send: 220 mx\.test"):
        connection.receive_data(b"NOOP\r\n")
    connection.data_to_send()
    connection.receive_data(b"NOOP\r\n")


def test_an_empty_feed_passes_while_replies_wait() -> None:
    connection = begun()
    connection.receive_data(b"")
    assert connection.conversation == ""


def test_a_command_that_waits_for_its_decision_is_owed_nothing_yet() -> None:
    connection = checked()
    served(connection, HELLO)
    connection.receive_data(b"MAIL FROM:<a@x.test>\r\n")
    assert Signal.PAUSED in [connection.next_event() for _ in range(3)]
    connection.decide(ACCEPT)
    assert connection.data_to_send() == b"250 2.1.0 Accepted\r\n"


def test_what_is_said_behind_the_end_passes() -> None:
    connection = checked()
    assert served(connection, "QUIT", "NOOP").replies[-1] == "221 2.0.0 Bye"
    connection.finish()


def test_the_220_must_be_sent_before_the_handshake() -> None:
    connection = begun()
    connection.data_to_send()
    connection.receive_data(b"STARTTLS\r\n")
    assert isinstance(connection.next_event(), TimerChanged | NeedsStartTLS)
    while connection.question is None:
        connection.next_event()
    with pytest.raises(InvariantBroken, match="was told of a handshake while replies wait"):
        connection.tls_established()


def test_a_connection_must_be_brought_to_its_end() -> None:
    connection = begun()
    with pytest.raises(InvariantBroken, match="left before next_event gave ConnectionClosed"):
        connection.finish()
    connection.data_to_send()
    connection.receive_data(b"QUIT\r\n")
    while connection.next_event() is not Signal.CLOSED:
        pass
    with pytest.raises(InvariantBroken, match=r"was left while replies wait for data_to_send: 221 2\.0\.0"):
        connection.finish()
    connection.data_to_send()
    connection.finish()


def test_implicit_tls_passes() -> None:
    assert served(checked(secure=True), HELLO, *message(), "QUIT").replies[-1] == "221 2.0.0 Bye"


def test_a_message_that_breaks_off_passes() -> None:
    connection = checked()
    outcome = served(connection, HELLO, *message()[:-1], b"half", lost=True)
    assert outcome.of(DataAborted) == [DataAborted("connection_lost")]
    connection.finish()


def test_a_timeout_is_no_reply_to_a_command() -> None:
    connection = checked()
    outcome = served(connection, HELLO)
    connection.timeout("socket_timeout")
    settle(outcome, {})
    assert outcome.replies[-1] == "421 4.4.2 Timeout - closing connection"
    assert isinstance(outcome.events[-1], ConnectionClosed)


def test_it_is_made_as_a_connection_is_made() -> None:
    connection = CheckedConnection(ProtocolOptions(name="mx.test"), remote=("192.0.2.1", 1), id="s")
    assert (connection.session.id, connection.session.remote_address) == ("s", "192.0.2.1")
    assert connection.conversation == ""


# --- check_server -------------------------------------------------------------------------------


class Faulty(ConnectionEndpoint):
    """What is sent and what is answered, changed."""

    def __init__(
        self,
        answered: Callable[[bytes, bytes], bytes] = lambda _said, answered: answered,
        heard: Callable[[bytes], bytes] = lambda said: said,
        **fields: Any,
    ) -> None:
        super().__init__(Connection(make_options(fields), **MADE))
        self.heard = heard
        self.answered = answered

    def receive(self, octets: bytes) -> bytes:
        return self.answered(octets, super().receive(self.heard(octets)))


def first_line_only(said: bytes) -> bytes:
    line, end, _ = said.partition(b"\r\n")
    return line + end


def lf_is_enough(said: bytes) -> bytes:
    return said.replace(b"\n", b"\r\n") if not said.endswith(b"\r\n") else said


def one_too_many(said: bytes, answered: bytes) -> bytes:
    return answered + b"250 2.0.0 again\r\n" if said == b"NOOP\r\n" else answered


def none_for_noop(said: bytes, answered: bytes) -> bytes:
    return b"" if said == b"NOOP\r\n" else answered


def late(_said: bytes, answered: bytes) -> bytes:
    return answered or b"250 2.0.0 what was that\r\n"


def twice_greeted(said: bytes, answered: bytes) -> bytes:
    return answered if said else answered * 2


def one_for_all(said: bytes, answered: bytes) -> bytes:
    return answered if said != b".\r\n" else answered[: answered.index(b"\n") + 1]


SERVERS: Final[list[tuple[str, str, Callable[[], Faulty], list[str | bytes]]]] = [
    ("I1", "octet by octet", lambda: Faulty(heard=lf_is_enough), [HELLO]),
    ("I2", "sent at once", lambda: Faulty(heard=first_line_only), [HELLO, b"NOOP\r\nVRFY b\r\n"]),
    ("I3", "0 replies where 1 were due", lambda: Faulty(none_for_noop), [HELLO, "NOOP"]),
    ("I3", "2 replies where 1 were due", lambda: Faulty(one_too_many), [HELLO, "NOOP", "NOOP"]),
    ("I3", "1 replies where 2 were due", lambda: Faulty(one_for_all, lmtp=True), ["LHLO a", *TO_TWO]),
    ("I3", "greeted with", lambda: Faulty(twice_greeted), []),
    ("I4", "without its CRLF", lambda: Faulty(lambda _, answered: answered[:-2]), []),
    ("I4", "not a line of a reply", lambda: Faulty(lambda _, answered: b"hello\r\n" + answered), []),
    ("I4", "whose last line is missing", lambda: Faulty(lambda _, answered: answered + b"250-x\r\n"), []),
    ("I4", "a code, a blank or hyphen", lambda: Faulty(lambda _, answered: answered + b"250 a\tb\r\n"), []),
    ("I4", "that begins with 250", lambda: Faulty(lambda _, answered: b"250-a\r\n" + answered), []),
    ("I4", "longer than 512 octets", lambda: Faulty(lambda _, __: b"220 " + b"x" * 507 + b"\r\n"), []),
    ("I4", "of two classes", lambda: Faulty(lambda _, __: b"220 5.0.0 x\r\n"), []),
    ("I6", "had ended, and answered", lambda: Faulty(late), ["QUIT"]),
    ("I6", "had ended, and answered", lambda: Faulty(late), ["QUIT", "NOOP"]),
]  # fmt: skip


@pytest.mark.parametrize(("invariant", "words", "make", "said"), SERVERS)
def test_a_fault_of_a_server_is_found_and_named(
    invariant: str, words: str, make: Callable[[], Faulty], said: list[str | bytes]
) -> None:
    with pytest.raises(InvariantBroken, match=re.escape(words)) as caught:
        check_server(make, said, coded=True)
    assert caught.value.invariant == invariant


def test_a_difference_shows_what_was_said_and_both_answers() -> None:
    with pytest.raises(InvariantBroken) as caught:
        check_server(lambda: Faulty(heard=first_line_only), [HELLO, b"NOOP\r\nVRFY b\r\n"])
    assert caught.value.what.split("\n") == [
        "What was said:", "  NOOP", "  VRFY b", "and answered, line by line:", "  250 2.0.0 OK",
        "  252 2.1.5 Try to send something. No promises though", "but sent at once:", "  250 2.0.0 OK",
    ]  # fmt: skip


def test_silence_is_shown_as_such() -> None:
    with pytest.raises(InvariantBroken, match=re.escape("but octet by octet:\n  (nothing)")):
        check_server(lambda: Faulty(lambda said, answered: answered if len(said) != 1 else b""), ["NOOP"])


LONG: Final = b"".join([b"NOOP\r\n"] * 50)


@pytest.mark.parametrize(
    "said",
    [
        [], [HELLO, *message(b"..a\r\n"), "QUIT"], [HELLO, b"NOO", b"P\r\n", LONG], ["QUIT", "NOOP"],
        [[b"MAIL FROM:<>\r\n", b"RSET\r\n"]], [b"NOOP " + b"x" * 600, b"\r\n"],
    ],
)  # fmt: skip
def test_a_right_server_passes(said: list[Any]) -> None:
    replies = check_server(lambda: ConnectionEndpoint(Connection(make_options({}), **MADE)), said, coded=True)
    assert replies[0] == "220 mx.test ESMTP"


def test_lmtp_and_a_proxy_header_pass() -> None:
    fields = {"lmtp": True, "use_proxy": True}
    header = b"PROXY TCP4 198.51.100.7 192.0.2.25 4321 25\r\n"
    to_three = message(to=["b@y.test", "no@y.test", "c@y.test"])
    refuse = {MailRequested: [Reject(), ACCEPT], DataFinished: (ACCEPT, Reject(452))}
    made = lambda: ConnectionEndpoint(Connection(make_options(fields), **MADE), refuse)  # noqa: E731
    replies = check_server(made, [header, "LHLO a", "MAIL FROM:<>", *to_three, *to_three, "QUIT"])
    assert [reply[:3] for reply in replies if reply[0] in "45"] == ["550", "452", "452"]


@given(sessions, options, decisions)
@settings(max_examples=15)
@example([[b"STARTTLS\r\n"], [b"EHLO c.test\r\n"]], {}, {})
def test_every_session_passes(session: Said, fields: Fields, decided: Given) -> None:
    said = in_lmtp(session) if fields.get("lmtp") else session
    check_server(lambda: ConnectionEndpoint(Connection(make_options(fields), **MADE), decided), said)


def test_a_server_may_take_a_login_by_a_mechanism_of_its_own() -> None:
    class Anyone(Mechanism):
        def step(self, response: bytes | None) -> Accept:
            return Accept(user=response or "anyone")

    def anyone(_session: Session) -> Mechanism:
        return Anyone()

    connection = checked(auth_methods=("ANYONE",), sasl_mechanisms={"ANYONE": anyone})
    assert served(connection, HELLO, "AUTH ANYONE", *message()).replies[-1].startswith("250")
