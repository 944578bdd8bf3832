# DATA: when it may begin, what is handed on, and the one reply that a message gets.

from __future__ import annotations

from typing import Any

import pytest

from smtpproto import (
    Accept,
    DataAborted,
    DataChunk,
    DataFinished,
    DataRequested,
    DataStarted,
    DecisionError,
    IncomingMessage,
    MailRequested,
    ProtocolOptions,
    RcptRequested,
    Reject,
    Signal,
    State,
)
from smtpproto.testing import Outcome, converse, drive, play

EHLO = "EHLO c.test"
MAIL = "MAIL FROM:<a@x.test>"
RCPT = "RCPT TO:<b@y.test>"
GO = "354 End data with <CR><LF>.<CR><LF>"
QUEUED = "250 2.6.0 OK: message queued"
BARE = "550 5.6.0 Error: message contains bare newline characters"
NEED_RCPT = "503 5.5.1 Error: need RCPT command"


def deliver(body: bytes, *behind: str | bytes | None, **how: Any) -> Outcome:
    """A conversation with one message; `body` is as on the wire, its end included."""
    return converse(EHLO, MAIL, RCPT, "DATA", body, *behind, **how)


def finished(outcome: Outcome) -> DataFinished:
    (event,) = outcome.of(DataFinished)
    assert isinstance(event, DataFinished)
    return event


# --- preconditions (§5.8) -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "line", "reply"),
    [
        ([], "DATA", NEED_RCPT),
        ([MAIL], "DATA", NEED_RCPT),
        ([MAIL, RCPT], "DATA x", "501 5.5.4 Error: syntax: DATA"),
        ([], "DATA x", "501 5.5.4 Error: syntax: DATA"),
        ([MAIL, RCPT], "DATA", GO),
        ([MAIL, RCPT], "data ", GO),
    ],
)
def test_data_needs_a_recipient_and_nothing_else(before: list[str], line: str, reply: str) -> None:
    assert play(EHLO, *before, line)[-1] == reply


def test_a_refused_data_leaves_the_transaction() -> None:
    assert play(EHLO, MAIL, "DATA", RCPT, "DATA x", "DATA")[-1] == GO
    assert play(EHLO, MAIL, RCPT, "DATA", answers={RcptRequested: Reject()})[-1] == NEED_RCPT


def test_octets_in_the_segment_of_data_are_the_message() -> None:
    outcome = deliver(b"QUIT\r\n.\r\nQUIT\r\n")
    assert outcome.data == b"QUIT\r\n"
    assert outcome.replies[-2:] == [QUEUED, "221 2.0.0 Bye"]


def test_the_354_does_not_wait_for_the_message() -> None:
    outcome = drive(
        [[b"EHLO a\r\n" + f"{MAIL}\r\n{RCPT}\r\n".encode()]], ProtocolOptions(auth_optional=True), {}
    )
    connection = outcome.connection
    connection.receive_data(b"DATA\r\nx\r\n.\r\n")
    events: list[object] = []
    while not isinstance(event := connection.next_event(), DataChunk):
        events.append(event)
    assert Signal.SEND in events
    assert connection.data_to_send() == b"354 End data with <CR><LF>.<CR><LF>\r\n"


# --- content (§5.9) -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wire", "content"),
    [
        (b".\r\n", b""),
        (b"\r\n.\r\n", b"\r\n"),
        (b"a\r\n.\r\n", b"a\r\n"),
        (b"..\r\n.\r\n", b".\r\n"),
        (b".a\r\n...\r\n.\r\n", b"a\r\n..\r\n"),
        (b". \r\n.\t\r\n.\0\r\n.\r\n", b" \r\n\t\r\n\0\r\n"),
        (b"\x80\xff\0\x1b" * 700 + b"\r\n.\r\n", b"\x80\xff\0\x1b" * 700 + b"\r\n"),
    ],
)
def test_what_was_sent_is_handed_on_unstuffed(wire: bytes, content: bytes) -> None:
    outcome = deliver(wire)
    assert outcome.data == content
    assert finished(outcome) == DataFinished(len(content), size_exceeded=False, refusal=None)
    assert outcome.replies[5:] == [QUEUED]


def test_the_events_of_a_message_come_in_their_order() -> None:
    outcome = deliver(b"a\r\n.\r\n")
    after = outcome.events[next(i for i, e in enumerate(outcome.events) if isinstance(e, DataStarted)) :]
    assert [type(event) for event in after if not isinstance(event, DataChunk)] == [
        DataStarted, DataFinished
    ]  # fmt: skip


BARE_ONES = [
    b"a\n.\nb", b"a\n.\r\nb", b"a\r\n.\nb", b"a\r.\rb", b"a\r\n.\rb", b"a\r.\r\nb", b"a\r\n.\r\r\nb", b"\n",
    b"\r", b"a\r\r\nb",
]  # fmt: skip


@pytest.mark.parametrize("body", BARE_ONES)
def test_a_bare_newline_never_ends_a_message_and_dooms_it(body: bytes) -> None:
    outcome = deliver(body + b"\r\n.\r\n", "NOOP")
    assert outcome.replies[5:] == [BARE, "250 2.0.0 OK"]
    assert outcome.of(DataAborted) == [DataAborted("bare_newline")]
    event = finished(outcome)
    assert event.refusal == Reject(550, "5.6.0", ("Error: message contains bare newline characters",))
    assert outcome.session.envelope.mail_from is None


@pytest.mark.parametrize("body", BARE_ONES)
def test_a_bare_newline_may_be_kept(body: bytes) -> None:
    outcome = deliver(body + b"\r\n.\r\n", bare_newlines="accept")
    assert outcome.replies[5:] == [QUEUED]
    assert outcome.of(DataAborted) == []
    stuffed = body.replace(b"\r\n.", b"\r\n")
    assert outcome.data == stuffed + b"\r\n"


def test_of_a_doomed_message_the_rest_is_counted_and_not_handed_on() -> None:
    outcome = deliver(b"ab\ncd\r\n.\r\n")
    assert outcome.data == b"ab"
    assert finished(outcome).byte_length == 7


# --- the reply ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decision", "reply"),
    [
        (Accept(), QUEUED),
        (Accept(text="as 1234"), "250 2.6.0 as 1234"),
        (Accept(enhanced="2.0.0"), "250 2.0.0 OK: message queued"),
        (Reject(), "450 4.2.1 Requested action not taken"),
        (Reject(text="4.3.1 full"), "450 4.3.1 full"),
        (Reject(550), "550 5.7.1 Requested action not taken"),
        (Reject(550, text="spam"), "550 5.7.1 spam"),
        (Reject(554), "554 5.6.0 Transaction failed"),
        (Reject(451), "451 4.3.0 Error: internal error, please try again later"),
    ],
)
def test_the_application_decides(decision: Accept | Reject, reply: str) -> None:
    outcome = deliver(b"a\r\n.\r\n", MAIL, answers={DataFinished: decision})
    assert outcome.replies[5:] == [reply, "250 2.1.0 Accepted"]
    assert outcome.session.transaction == 2


def test_the_librarys_refusal_goes_before_the_decision() -> None:
    for decision in (Accept(text="fine"), Reject(421), [Accept()] * 7):
        outcome = deliver(b"a\nb\r\n.\r\n", answers={DataFinished: [decision]}, lmtp=False)
        assert outcome.replies[5:] == [BARE]


def test_a_421_is_said_and_closes() -> None:
    outcome = deliver(b".\r\n", "NOOP", answers={DataFinished: Reject(421, text="full")})
    assert outcome.replies[5:] == ["421 4.3.2 full"]
    assert outcome.closed == "refused with 421"


def test_the_reply_may_be_utf8_where_the_transaction_is() -> None:
    said = converse(
        EHLO, f"{MAIL} SMTPUTF8", RCPT, "DATA", b".\r\n", MAIL, RCPT, "DATA", b".\r\n",
        answers={DataFinished: Accept(text="é")},
    ).replies  # fmt: skip
    assert [reply for reply in said if "2.6.0" in reply] == ["250 2.6.0 é", "250 2.6.0 ?"]


def test_behind_a_message_everything_is_new_and_hello_stays() -> None:
    outcome = deliver(b".\r\n", "DATA", RCPT, MAIL)
    assert outcome.replies[6:] == [NEED_RCPT, "503 5.5.1 Error: need MAIL command", "250 2.1.0 Accepted"]
    assert outcome.session.transaction == 2
    assert deliver(b".\r\n").session.envelope.rcpt_to == ()
    assert converse(EHLO, MAIL, "RSET", MAIL).session.transaction == 1


# --- size (§11.1) -------------------------------------------------------------------------------

TOO_LARGE = "552 5.3.4 Error: message exceeds fixed maximum message size 10"


@pytest.mark.parametrize("octets", range(8, 14))
def test_a_message_may_reach_the_limit_and_not_pass_it(octets: int) -> None:
    body = b"x" * (octets - 2) + b"\r\n"
    outcome = deliver(body + b".\r\n", size=10)
    event = finished(outcome)
    assert event.byte_length == octets
    assert event.size_exceeded is (octets > 10)
    assert outcome.replies[5:] == [QUEUED if octets <= 10 else TOO_LARGE]
    assert outcome.data == body[:10]


def test_the_octets_counted_are_those_after_unstuffing() -> None:
    assert deliver(b"..345678\r\n.\r\n", size=9).replies[5:] == [QUEUED]
    assert deliver(b"..345678\r\n.\r\n", size=8).replies[5][:3] == "552"


def test_a_limit_may_only_be_marked() -> None:
    outcome = deliver(b"0123456789\r\n.\r\n", size=10, enforce_size=False)
    assert finished(outcome) == DataFinished(12, size_exceeded=True, refusal=None)
    assert outcome.data == b"0123456789\r\n"
    assert outcome.replies[5:] == [QUEUED]


def test_a_hidden_size_is_a_limit_all_the_same() -> None:
    assert deliver(b"0123456789\r\n.\r\n", size=10, hide_size=True).replies[5:] == [TOO_LARGE]


def test_the_newline_goes_before_the_size() -> None:
    outcome = deliver(b"0123456789abc\nd\r\n.\r\n", "NOOP", size=10)
    assert outcome.replies[5:] == [BARE, "250 2.0.0 OK"]
    assert finished(outcome).size_exceeded
    assert outcome.data == b"0123456789"


def test_a_message_tells_how_far_it_has_come() -> None:
    message = IncomingMessage(ProtocolOptions(size=4))
    assert (message.byte_length, message.complete, message.size_exceeded) == (0, False, False)
    assert repr(message) == "<IncomingMessage 0 octets so far>"
    assert message.feed(b"ab") == b"ab"
    assert message.refusal is None
    assert message.feed(b"cdef") == b"cd"
    assert (message.byte_length, message.size_exceeded) == (6, True)
    assert message.refusal == Reject(552, "5.3.4", ("Error: message exceeds fixed maximum message size 4",))
    assert message.feed(b"\r\n.\r\n") == b""
    assert message.complete
    assert repr(message) == "<IncomingMessage 8 octets>"


def test_a_message_that_is_both_too_large_and_unsound_is_refused_as_unsound() -> None:
    message = IncomingMessage(ProtocolOptions(size=4))
    assert message.feed(b"abcdef") == b"abcd"
    assert message.feed(b"\ngh") == b""
    assert message.feed(b"ijkl\r\n.\r\n") == b""
    assert message.refusal == Reject(550, "5.6.0", ("Error: message contains bare newline characters",))
    assert (message.byte_length, message.size_exceeded, message.complete) == (15, True, True)


def test_a_message_without_a_limit_is_never_too_large() -> None:
    message = IncomingMessage(ProtocolOptions())
    assert len(message.feed(b"x" * 10**6)) == 10**6
    assert not message.size_exceeded
    assert message.refusal is None


# --- the end that does not come -----------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"a", b"a\r\n", b"a\r\n.", b"a\r\n.\r"])
def test_without_its_end_a_message_is_nothing(body: bytes) -> None:
    outcome = deliver(body, eof=True)
    assert outcome.replies[5:] == []
    assert outcome.of(DataFinished) == []
    assert outcome.of(DataAborted) == [DataAborted("connection_lost")]
    assert outcome.closed == "eof"


def test_a_doomed_message_is_aborted_once() -> None:
    assert deliver(b"a\nb", eof=True).of(DataAborted) == [DataAborted("bare_newline")]


# --- the question before the 354 (§1.1) ---------------------------------------------------------


@pytest.mark.parametrize(
    ("decision", "reply"),
    [
        (Accept(), GO),
        (Reject(), "554 5.6.0 Transaction failed"),
        (Reject(451, text="4.3.1 full"), "451 4.3.1 full"),
    ],
)
def test_data_can_be_asked_for(decision: Accept | Reject, reply: str) -> None:
    how: dict[str, Any] = {"answers": {DataRequested: [decision]}, "made_with": {"ask": [DataRequested]}}
    outcome = converse(EHLO, MAIL, RCPT, "DATA", **how)
    assert outcome.replies[4:] == [reply]
    assert outcome.connection.state is (State.DATA if reply == GO else State.RCPT)
    assert converse(EHLO, MAIL, "DATA", **how).of(DataRequested) == []
    if reply != GO:
        assert play(EHLO, MAIL, RCPT, "DATA", "DATA", **how)[-1] == GO


def test_a_421_before_the_354_closes() -> None:
    how: dict[str, Any] = {"answers": {DataRequested: Reject(421)}, "made_with": {"ask": [DataRequested]}}
    outcome = converse(EHLO, MAIL, RCPT, "DATA", "QUIT", **how)
    assert outcome.replies[4:] == ["421 4.3.2 Service not available, closing connection"]
    assert outcome.of(DataStarted) == []


# --- LMTP (§10) ---------------------------------------------------------------------------------

LHLO = "LHLO c.test"
ACCEPTED = "250 2.6.0 OK: message accepted"


def deliver_lmtp(body: bytes, *behind: str, to: str = "bcb", **how: Any) -> list[str]:
    """The replies behind the 354."""
    recipients = [f"RCPT TO:<{each}@y.test>" for each in to]
    replies = play(LHLO, MAIL, *recipients, "DATA", body, *behind, lmtp=True, **how)
    return replies[4 + len(to) :]


@pytest.mark.parametrize(
    ("decision", "replies"),
    [
        (Accept(), [ACCEPTED] * 3),
        (Accept(text="yes"), ["250 2.6.0 yes"] * 3),
        (Reject(), ["450 4.2.1 Requested action not taken"] * 3),
        (Reject(550), ["550 5.7.1 Requested action not taken"] * 3),
        ([Accept(), Reject(452), Accept(text="c")],
         [ACCEPTED, "452 4.2.2 Insufficient resources", "250 2.6.0 c"]),
        ((Accept(), Accept(), Accept()), [ACCEPTED] * 3),
    ],
)  # fmt: skip
def test_each_recipient_has_one_reply(decision: Any, replies: list[str]) -> None:
    assert deliver_lmtp(b".\r\n", "NOOP", answers={DataFinished: [decision]}) == [*replies, "250 2.0.0 OK"]


def test_refused_recipients_have_none() -> None:
    answers = {RcptRequested: [Accept(), Reject(), Accept()]}
    assert deliver_lmtp(b".\r\n", answers=answers) == [ACCEPTED] * 2


def test_without_a_recipient_there_is_no_data() -> None:
    replies = play(LHLO, MAIL, RCPT, "DATA", lmtp=True, answers={RcptRequested: Reject()})
    assert replies[-1] == NEED_RCPT


@pytest.mark.parametrize(("body", "reply"), [(b"a\nb\r\n.\r\n", BARE), (b"0123456789\r\n.\r\n", TOO_LARGE)])
def test_the_librarys_refusal_goes_to_every_recipient(body: bytes, reply: str) -> None:
    for decision in (Accept(), [Accept()] * 2, Reject(421)):
        assert deliver_lmtp(body, size=10, answers={DataFinished: [decision]}) == [reply] * 3


def test_a_421_is_said_once_and_closes() -> None:
    away = "421 4.3.2 away"
    refusal = Reject(421, text="away")
    assert deliver_lmtp(b".\r\n", "NOOP", answers={DataFinished: refusal}) == [away]
    assert deliver_lmtp(b".\r\n", "NOOP", answers={DataFinished: [[Accept(), refusal, Accept()]]}) == [
        ACCEPTED, away
    ]  # fmt: skip


def open_message(*, lmtp: bool) -> Outcome:
    """A message of two recipients that waits for its decision."""
    options = ProtocolOptions(lmtp=lmtp, auth_optional=True)
    hello = LHLO if lmtp else EHLO
    said = "".join(f"{line}\r\n" for line in (hello, MAIL, RCPT, RCPT, "DATA", "."))
    outcome = drive([], options, {})
    outcome.connection.receive_data(said.encode())
    while not isinstance(event := outcome.connection.next_event(), DataFinished):
        outcome.connection.data_to_send()
        if isinstance(event, MailRequested | RcptRequested):
            outcome.connection.decide(Accept())
    return outcome


@pytest.mark.parametrize("decisions", [[], [Accept()], [Accept()] * 3])
def test_a_list_of_the_wrong_length_is_refused_and_the_question_stays(decisions: list[Accept]) -> None:
    connection = open_message(lmtp=True).connection
    with pytest.raises(
        DecisionError, match=rf"{len(decisions)} decisions do not answer 2 accepted recipients"
    ):
        connection.decide(decisions)
    assert isinstance(connection.question, DataFinished)
    assert connection.session.transaction == 1
    connection.decide([Accept(), Reject()])
    assert connection.data_to_send().count(b"\r\n") == 2
    assert connection.session.transaction == 2


def test_smtp_takes_no_list() -> None:
    connection = open_message(lmtp=False).connection
    with pytest.raises(DecisionError, match=r"a list of 2 decisions does not answer DataFinished.*takes one"):
        connection.decide([Accept(), Accept()])
    assert isinstance(connection.question, DataFinished)
    connection.decide(Accept())
    assert connection.data_to_send() == b"250 OK: message queued\r\n"


@pytest.mark.parametrize("decisions", [[Accept(), None], [Accept(), "yes"], [Accept(), Accept(251)], "ab"])
def test_every_item_of_a_list_must_be_a_decision(decisions: Any) -> None:
    connection = open_message(lmtp=True).connection
    with pytest.raises(DecisionError, match="does not answer"):
        connection.decide(decisions)
    assert isinstance(connection.question, DataFinished)
