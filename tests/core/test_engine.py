# The engine asks by calling methods; `Connection` makes events of the same questions. Both give one
# conversation, whatever is said, answered at once or later, and wherever the subclass wants to be waited for.

from __future__ import annotations

from copy import copy
from itertools import cycle
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproto import (
    ACCEPT,
    CLOSED,
    NEED_DATA,
    OPTIONAL_QUESTIONS,
    PAUSED,
    SEND,
    Accept,
    Address,
    ConnectionClosed,
    DataAborted,
    DataChunk,
    DataFinished,
    DataRequested,
    DataStarted,
    DecisionError,
    Event,
    IncomingMessage,
    LocalProtocolError,
    MailRequested,
    NeedsStartTLS,
    NeedsTLS,
    ProtocolOptions,
    QuitReceived,
    RcptRequested,
    Reject,
    State,
    TransactionReset,
)
from smtpproto._engine import MANY_REPLIES
from smtpproto.extending import PENDING, Engine, Pending
from smtpproto.testing import ENTROPY, drive
from smtpproto.testing._conversation import answer, final_state, joined
from smtpproto.testing.strategies import cut, cuts, decisions, in_lmtp, make_options, options, sessions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from smtpproto.testing.strategies import Fields, Given, Said

EHLO = b"EHLO c.test\r\n"
MAIL = b"MAIL FROM:<a@x.test>\r\n"
RCPT = b"RCPT TO:<b@y.test>\r\n"
DATA = b"DATA\r\n"
BODY = b"a\r\n.\r\n"
OK_SENDER, OK_RECIPIENT = b"250 2.1.0 Accepted\r\n", b"250 2.1.5 Accepted\r\n"
GO = b"354 End data with <CR><LF>.<CR><LF>\r\n"
QUEUED = b"250 2.6.0 OK: message queued\r\n"
RESET = b"250 2.0.0 Flushed\r\n"
SHUT = b"421 4.3.2 Server shutting down\r\n"
LONGEST = b"l" * 190 + b"@" + b"a" * 63  # a mailbox of 254 octets


class Asked(Engine):
    """An engine that writes down what it is asked, and answers it at once, or as soon as it stands still."""

    def __init__(
        self,
        given: ProtocolOptions,
        answers: Mapping[type[Event], Any],
        *,
        at_once: bool = True,
        go_on: Iterable[bool] = (True,),
        ask: Iterable[type[Event]] = (),
    ) -> None:
        self.events_seen: list[Event] = []
        self.sent: bytes = b""
        self.answers: dict[type[Event], Any] = {kind: copy(value) for kind, value in answers.items()}
        self.at_once: bool = at_once
        self.go_on: Iterator[bool] = cycle(go_on)
        super().__init__(
            given, local=("192.0.2.25", 25), remote=("192.0.2.1", 4321), ask=ask, tls_available=True,
            entropy=ENTROPY,
        )  # fmt: skip

    def hook(self, event: Event) -> Accept | Pending:
        """Whether the plain yes is the next answer to such an event; then it is used up."""
        self.events_seen.append(event)
        answers: Any = self.answers.get(type(event), ACCEPT)
        queue: list[Any] = answers if isinstance(answers, list) else [answers]  # pyright: ignore[reportUnknownVariableType] - answers are Any
        if not self.at_once or (queue and queue[0] is not ACCEPT):
            return PENDING
        if queue:
            queue.pop(0)
        return ACCEPT

    def ask_mail(self, address: Address) -> Accept | Pending:
        return self.hook(MailRequested(address, self.session))

    def ask_rcpt(self, address: Address) -> Accept | Pending:
        return self.hook(RcptRequested(address, self.session))

    def message_begun(self, message: IncomingMessage) -> bool:
        self.events_seen.append(DataStarted(self.session, message))
        return next(self.go_on)

    def message_content(self, content: bytes, message: IncomingMessage) -> bool:
        assert content
        assert message is self.transfer
        self.events_seen.append(DataChunk(content))
        return next(self.go_on)

    def message_ended(self, message: IncomingMessage) -> Accept | Pending:
        assert message.complete
        return self.hook(DataFinished(message.byte_length, message.size_exceeded, message.refusal))

    def put(self, event: Event) -> bool:
        self.events_seen.append(event)
        if self.at_once and self.asked is event and not isinstance(event, NeedsTLS | NeedsStartTLS):
            answer(self, event, self.answers)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        return next(self.go_on)

    def run(self, octets: bytes = b"") -> bytes:
        """Take in octets, and go on until more is needed; what was sent meanwhile."""
        before = len(self.sent)
        self.receive_data(octets)
        while True:
            signal = self.advance()
            self.sent += self.data_to_send()
            if signal in {NEED_DATA, CLOSED}:
                return self.sent[before:]
            if signal is PAUSED and self.question is not None:
                answer(self, self.question, self.answers)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def made(answers: Mapping[type[Event], Any] | None = None, **how: Any) -> Asked:
    """An engine in READY."""
    face = {name: how.pop(name) for name in ("at_once", "go_on", "ask") if name in how}
    engine = Asked(
        ProtocolOptions(auth_optional=True, hide_enhancedstatuscodes=False, **how), answers or {}, **face
    )
    engine.run()
    engine.run(EHLO.replace(b"EHLO", b"LHLO") if how.get("lmtp") else EHLO)
    engine.events_seen.clear()
    return engine


def kinds(engine: Asked) -> list[type[Event]]:
    return [type(event) for event in engine.events_seen]


def content(engine: Asked) -> bytes:
    return b"".join(event.data for event in engine.events_seen if isinstance(event, DataChunk))


# --- both faces -----------------------------------------------------------------------------------


@given(sessions, options, decisions, st.booleans(), cuts, st.booleans(), st.lists(st.booleans(), min_size=1))
def test_events_and_methods_give_one_conversation(
    session: Said,
    given: Fields,
    decided: Given,
    ask: bool,
    places: list[int],
    at_once: bool,
    go_on: list[bool],
) -> None:
    said = [b"".join(segment) for segment in (in_lmtp(session) if given.get("lmtp") else session)]
    asks = OPTIONAL_QUESTIONS if ask else ()
    by_events = drive([[part] for part in said], make_options(given), decided, ask=asks)
    by_methods = Asked(make_options(given), decided, at_once=at_once, go_on=go_on, ask=asks)
    by_methods.run()
    for part in said:
        for piece in cut(part, places):
            by_methods.run(piece)
    assert by_methods.sent == by_events.sent
    assert joined(by_methods.events_seen) == joined(by_events.events)
    assert final_state(by_methods) == final_state(by_events.connection)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_the_engine_itself_has_no_answers() -> None:
    engine, message = Engine(), IncomingMessage(ProtocolOptions())
    questions: list[Callable[[], object]] = [
        lambda: engine.ask_mail(Address("")), lambda: engine.ask_rcpt(Address("a@b")),
        lambda: engine.message_begun(message), lambda: engine.message_content(b"a", message),
        lambda: engine.message_ended(message), lambda: engine.put(QuitReceived()),
    ]  # fmt: skip
    for ask in questions:
        with pytest.raises(NotImplementedError):
            ask()
    assert repr(PENDING) == "PENDING"


# --- the answer at once -----------------------------------------------------------------------------


def test_a_group_that_is_accepted_at_once_is_read_in_one_go() -> None:
    engine = made()
    engine.receive_data(MAIL + RCPT * 2 + b"RSET\r\n" + MAIL + RCPT + DATA)
    assert engine.advance() is NEED_DATA
    assert engine.data_to_send().count(b"\r\n") == 7
    assert engine.run(BODY + MAIL) == QUEUED + OK_SENDER
    assert engine.session.transaction == 2


@pytest.mark.parametrize("how", [{}, {"needs_upgrade": True, "tls_upstream": True}])
def test_a_plain_group_makes_no_event_and_is_not_looked_up(
    how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Yes(Asked):
        def hook(self, event: Event) -> Accept | Pending:
            raise AssertionError(event)

        def ask_mail(self, address: Address) -> Accept | Pending:  # noqa: ARG002
            return ACCEPT

        ask_rcpt = ask_mail

        def message_ended(self, message: IncomingMessage) -> Accept | Pending:  # noqa: ARG002
            return ACCEPT

    engine = Yes(ProtocolOptions(auth_optional=True, hide_enhancedstatuscodes=False, **how), {})
    engine.run(b"")
    engine.run(EHLO)
    for name in ("MailRequested", "RcptRequested", "finished", "read_command"):
        monkeypatch.setattr(f"smtpproto._engine.{name}", None)
    group, replies = MAIL + RCPT, OK_SENDER + OK_RECIPIENT
    assert engine.run(group + b"RSET\r\n") == replies + RESET
    assert engine.run(group + DATA + BODY) == replies + GO + QUEUED
    longest = b"MAIL FROM:<%s>\r\nRCPT TO:<%s>\r\n" % (LONGEST, LONGEST)
    assert engine.run(longest) == replies


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("answers", [{}, dict.fromkeys([MailRequested, RcptRequested], Accept(text="Hi"))])
def test_whoever_was_asked_about_and_accepted_is_in_the_envelope(
    answers: dict[type[Event], Accept], at_once: bool
) -> None:
    engine = made(answers, at_once=at_once)
    engine.run(MAIL + RCPT + RCPT.replace(b"b", b"c"))
    sender, *recipients = (Address(text) for text in ("a@x.test", "b@y.test", "c@y.test"))
    assert engine.events_seen == [
        MailRequested(sender, engine.session), *(RcptRequested(each, engine.session) for each in recipients)
    ]  # fmt: skip
    assert engine.session.envelope.mail_from == sender
    assert [*engine.session.envelope.rcpt_to] == recipients


def test_what_was_fed_while_a_question_was_open_keeps_its_order() -> None:
    engine = made(at_once=False)
    engine.receive_data(MAIL + RCPT)
    assert engine.advance() is PAUSED
    engine.receive_data(b"RCPT\r\n")
    engine.decide(ACCEPT)
    assert engine.advance() is PAUSED  # the first piece is used up, the second was not looked at
    engine.receive_data(b"RSET\r\n")
    engine.decide(ACCEPT)
    bad_recipient = b"501 5.1.3 Error: Bad recipient address syntax\r\n"
    assert engine.run() == OK_SENDER + OK_RECIPIENT + bad_recipient + RESET


@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.parametrize(("body", "reply"), [
    (b"0123456789\r\n.\r\n", b"552 5.3.4 Error: message exceeds fixed maximum message size 10\r\n"),
    (b"a\nb\r\n.\r\n", b"550 5.6.0 Error: message contains bare newline characters\r\n"),
])  # fmt: skip
def test_what_the_library_refuses_stays_refused(body: bytes, reply: bytes, lmtp: bool) -> None:
    engine = made(size=10, lmtp=lmtp)
    said = engine.run(MAIL + RCPT * 2 + DATA + body)
    assert said == OK_SENDER + OK_RECIPIENT * 2 + GO + reply * (2 if lmtp else 1)
    assert kinds(engine)[-1] is DataFinished


def test_a_bare_newline_is_reported_once_and_before_the_end() -> None:
    for at_once in (True, False):
        engine = made(at_once=at_once)
        engine.run(MAIL + RCPT + DATA + b"a\n" + b"b\n" * 5000 + b".\r\n\r\n.\r\n")
        assert kinds(engine)[-3:] == [DataChunk, DataAborted, DataFinished]
        assert kinds(engine).count(DataAborted) == 1


def test_in_lmtp_accept_answers_each_recipient() -> None:
    engine = made(lmtp=True)
    assert engine.run(MAIL + RCPT * 3 + DATA + BODY).count(b"250 2.6.0 OK: message accepted\r\n") == 3


def test_many_replies_are_sent_before_more_are_made() -> None:
    engine = made()
    engine.receive_data(b"RSET\r\n" * (MANY_REPLIES + 1))
    assert engine.advance() is SEND
    assert engine.data_to_send().count(b"\r\n") == MANY_REPLIES
    assert engine.advance() is NEED_DATA
    assert engine.data_to_send().count(b"\r\n") == 1


def test_replies_to_plain_lines_wait_for_those_after_them() -> None:
    fault = b"\xff\r\n"  # known at the end of its line, so that the next one is looked at as it comes
    engine = made()
    engine.receive_data(MAIL + fault + RCPT + fault + b"RSET\r\n" + fault + b"RSET\r\n")
    assert engine.advance() is NEED_DATA
    assert engine.data_to_send().count(b"\r\n") == 7


def test_a_refusal_for_want_of_hello_ends_a_group_where_the_command_does() -> None:
    engine = Asked(ProtocolOptions(auth_optional=True), {})
    engine.run()
    engine.receive_data(MAIL + RCPT + DATA + MAIL)
    assert engine.advance() is SEND
    assert engine.data_to_send().count(b"\r\n") == 3
    assert engine.advance() is NEED_DATA
    assert engine.data_to_send().count(b"\r\n") == 1


# --- the message in the same piece --------------------------------------------------------------------


@pytest.mark.parametrize("before", [
    b"",
    b"\r\n.\r\n",  # two commands that are none, and no end of any message
    b"NOOP\r\n" * 50,
])  # fmt: skip
@pytest.mark.parametrize(("body", "expected"), [
    (b"abc.d\r\n.\r\n", b"abc.d\r\n"),
    (b"a.b\r\n..c\r\n.\r\n", b"a.b\r\n.c\r\n"),
    (b"abc.d\r\n..e\r\n.\r\n", b"abc.d\r\n.e\r\n"),
    (b"a.b\r\n..c\r\n" + b"x" * 5000 + b"\r\n.\r\n", b"a.b\r\n.c\r\n" + b"x" * 5000 + b"\r\n"),
])  # fmt: skip
def test_what_came_before_a_message_in_its_piece_is_no_part_of_it(
    before: bytes, body: bytes, expected: bytes
) -> None:
    engine = made()
    assert engine.run(before + MAIL + RCPT + DATA + body + MAIL).endswith(GO + QUEUED + OK_SENDER)
    assert content(engine) == expected


# --- the answer later -------------------------------------------------------------------------------


def test_a_pending_question_is_open_until_decide() -> None:
    engine = made(at_once=False)
    engine.receive_data(MAIL + RCPT + DATA + BODY)
    for kind, reply in ((MailRequested, OK_SENDER), (RcptRequested, OK_RECIPIENT)):
        assert [engine.advance(), engine.advance()] == [PAUSED] * 2
        assert isinstance(engine.asked, kind)
        engine.decide(ACCEPT)
        assert engine.data_to_send() == reply
    assert engine.advance() is SEND
    assert engine.advance() is PAUSED
    assert isinstance(engine.asked, DataFinished)
    engine.decide(Reject(451))
    assert engine.data_to_send().startswith(GO + b"451 ")


def test_a_subclass_is_waited_for_before_the_message_is_read() -> None:
    engine = made(go_on=[False])
    engine.receive_data(MAIL + RCPT + DATA + BODY + MAIL)
    assert engine.advance() is PAUSED
    assert engine.question is None
    assert kinds(engine) == [MailRequested, RcptRequested, DataStarted]
    assert engine.advance() is SEND
    assert engine.advance() is PAUSED
    assert kinds(engine)[3:] == [DataChunk]
    assert engine.question is None  # it comes with the next call
    assert not engine.in_message
    assert engine.advance() is NEED_DATA
    assert engine.data_to_send() == OK_SENDER + OK_RECIPIENT + GO + QUEUED + OK_SENDER


# --- calls from outside -----------------------------------------------------------------------------

CALLS: dict[str, Callable[[Engine], object]] = {
    "receive_data": lambda engine: engine.receive_data(RCPT),
    "receive_eof": Engine.receive_eof,
    "connection_lost": Engine.connection_lost,
    "data_to_send": Engine.data_to_send,
    "decide": lambda engine: engine.decide(ACCEPT),
    "set_client_hostname": lambda engine: engine.set_client_hostname("a.test"),
    "tls_established": Engine.tls_established,
    "timeout": lambda engine: engine.timeout("socket_timeout"),
    "refuse": Engine.refuse,
    "shutdown": lambda engine: engine.shutdown(now=True),
}
MORE: dict[str, Callable[[Engine], object]] = {
    "drain": Engine.shutdown,
    "overdue": lambda engine: engine.timeout("session_timeout"),
}
MISUSED = {"decide", "set_client_hostname", "tls_established", "refuse"}
CLOSING = {"connection_lost", "timeout", "shutdown"}
QUESTIONS = {"ask_mail", "ask_rcpt", "message_begun", "message_content", "message_ended", "put", "advance"}


def test_every_call_from_outside_is_looked_at() -> None:
    called = {
        name
        for name, value in vars(Engine).items()
        if callable(value) and not name.startswith("_") and name not in QUESTIONS
    }
    assert called == set(CALLS)


class Disturbed(Asked):
    """Makes a call from outside in the middle of a question."""

    def __init__(self, call: Callable[[Engine], object], where: str, answered: Accept | Pending) -> None:
        self.call: Callable[[Engine], object] = call
        self.where: str = where
        self.answered: Accept | Pending = answered
        self.called: int = 0
        super().__init__(ProtocolOptions(auth_optional=True, hide_enhancedstatuscodes=False), {})

    def disturb(self, where: str) -> Accept | Pending:
        if where != self.where or self.called:
            return ACCEPT
        self.called += 1
        try:
            self.call(self)
        except (LocalProtocolError, DecisionError):
            assert self.misused
        assert not self.undisturbed
        return self.answered

    misused: bool = False

    def ask_mail(self, address: Address) -> Accept | Pending:
        self.hook(MailRequested(address, self.session))
        return self.disturb("mail")

    def ask_rcpt(self, address: Address) -> Accept | Pending:
        self.hook(RcptRequested(address, self.session))
        return self.disturb("rcpt")

    def message_begun(self, message: IncomingMessage) -> bool:
        super().message_begun(message)
        return self.disturb("begun") is ACCEPT

    def message_content(self, content: bytes, message: IncomingMessage) -> bool:
        super().message_content(content, message)
        return self.disturb("content") is ACCEPT

    def message_ended(self, message: IncomingMessage) -> Accept | Pending:
        super().message_ended(message)
        return self.disturb("ended")


@pytest.mark.parametrize("where", ["mail", "rcpt", "begun", "content", "ended"])
@pytest.mark.parametrize("answered", [ACCEPT, PENDING], ids=["accepted", "pending"])
@pytest.mark.parametrize("name", [*CALLS, *MORE])
def test_no_question_comes_after_an_end_that_came_within_one(
    name: str, answered: Accept | Pending, where: str
) -> None:
    engine = Disturbed({**CALLS, **MORE}[name], where, answered)
    engine.misused = name in MISUSED
    engine.run()
    engine.run(EHLO)
    engine.events_seen.clear()
    engine.run(MAIL + RCPT * 2 + DATA + BODY)
    assert engine.called == 1
    if name in CLOSING:
        last = {"mail": MailRequested, "rcpt": RcptRequested, "begun": DataStarted}.get(where)
        assert engine.state is State.CLOSED
        after = [kind for kind in kinds(engine) if kind in {DataAborted, ConnectionClosed}]
        assert kinds(engine)[-len(after) :] == after
        assert after == [DataAborted, ConnectionClosed] if last in {None, DataStarted} else [ConnectionClosed]
        assert last is None or kinds(engine)[-len(after) - 1] is last
    else:
        cut_short = (name == "drain" and where == "mail") or (name == "overdue" and where in {"mail", "rcpt"})
        assert kinds(engine).count(DataFinished) == (not cut_short)
        assert (engine.state is State.CLOSED) == (name in {"receive_eof", *MORE})


def test_a_shutdown_within_a_question_ends_after_the_transaction() -> None:
    engine = Disturbed(Engine.shutdown, "rcpt", ACCEPT)
    engine.run()
    engine.run(EHLO)
    assert engine.run(MAIL + RCPT + DATA + BODY + MAIL) == OK_SENDER + OK_RECIPIENT + GO + QUEUED + SHUT


def test_a_plain_line_after_the_transaction_of_a_shutdown_is_not_served() -> None:
    engine = made()
    engine.run(MAIL)
    engine.shutdown()
    assert engine.run(b"RSET\r\n" + MAIL) == RESET + SHUT


@pytest.mark.parametrize("at_once", [True, False])
def test_a_message_that_had_to_be_allowed_is_begun_by_its_method(at_once: bool) -> None:
    class Told(Asked):
        def put(self, event: Event) -> bool:
            assert not isinstance(event, DataStarted)
            return super().put(event)

    engine = Told(ProtocolOptions(auth_optional=True), {}, at_once=at_once, ask=[DataRequested])
    engine.run()
    engine.run(EHLO + MAIL + RCPT + DATA + BODY)
    assert kinds(engine)[-4:] == [DataRequested, DataStarted, DataChunk, DataFinished]


def test_a_message_that_was_allowed_and_never_begun_comes_by_put() -> None:
    engine = made(ask=[DataRequested], at_once=False)
    engine.run(MAIL + RCPT)
    engine.events_seen.clear()
    engine.receive_data(DATA)
    assert engine.advance() is PAUSED
    engine.decide(ACCEPT)
    engine.connection_lost()
    assert engine.advance() is CLOSED
    assert kinds(engine) == [DataRequested, DataStarted, DataAborted, ConnectionClosed]


# --- what the fast path leaves to the table -----------------------------------------------------------

TOO_LONG = b"l" * 191 + b"@" + b"a" * 63


@pytest.mark.parametrize(("said", "reply"), [
    (RCPT, b"503 5.5.1 Error: need MAIL command\r\n"),
    (DATA, b"503 5.5.1 Error: need RCPT command\r\n"),
    (MAIL + MAIL, OK_SENDER + b"503 5.5.1 Error: nested MAIL command\r\n"),
    (MAIL + DATA, OK_SENDER + b"503 5.5.1 Error: need RCPT command\r\n"),
    (b"MAIL FROM:<%s>\r\n" % TOO_LONG, b"501 5.1.7 Error: Bad sender address syntax\r\n"),
    (MAIL + b"RCPT TO:<%s>\r\n" % TOO_LONG,
     OK_SENDER + b"501 5.1.3 Error: Bad recipient address syntax\r\n"),
    (MAIL + RCPT * 3, OK_SENDER + OK_RECIPIENT * 2 + b"452 4.5.3 Error: too many recipients\r\n"),
])  # fmt: skip
def test_a_plain_line_out_of_order_is_answered_as_any_other(said: bytes, reply: bytes) -> None:
    assert made(max_recipients=2).run(said) == reply


def test_without_a_limit_there_may_be_any_number_of_recipients() -> None:
    assert made(max_recipients=None).run(MAIL + RCPT * 1500).endswith(OK_RECIPIENT * 1500)


@pytest.mark.parametrize("how", [
    *({"disabled_commands": (verb,)} for verb in ("MAIL", "RCPT", "DATA", "RSET")), {"auth_optional": False},
    {"needs_upgrade": True}, {"ask": [TransactionReset, DataRequested]},
])  # fmt: skip
def test_the_options_hold_for_plain_lines_too(how: dict[str, Any]) -> None:
    given: dict[str, Any] = dict(how)
    ask = given.pop("ask", ())
    given = {"auth_optional": True, "hide_enhancedstatuscodes": False, **given}
    made_of = ProtocolOptions(**given)
    said = MAIL + b"RSET\r\n" + MAIL + RCPT + DATA + BODY
    plain, other = (Asked(made_of, {}, ask=ask) for _ in "12")
    for engine, octets in ((plain, said), (other, said.lower())):
        engine.run()
        engine.run(EHLO)
        engine.run(octets)
    assert plain.sent == other.sent
    assert kinds(plain) == kinds(other)
