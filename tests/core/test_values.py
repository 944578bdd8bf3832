# Values: nobody changes them but the core, equal fields make them equal, and they can be copied and pickled.

from __future__ import annotations

import copy
import pickle
from functools import partial
from typing import Any, Final

import pytest

from smtpproto import (
    ACCEPT,
    Accept,
    Address,
    AuthRequested,
    Challenge,
    CramMd5Credentials,
    Credentials,
    DataFinished,
    Envelope,
    IncomingMessage,
    LoginCredentials,
    MailRequested,
    MessageDsn,
    PlainCredentials,
    ProtocolOptions,
    ProxyInfo,
    RcptRequested,
    RecipientDsn,
    Reject,
    Session,
    TimerChanged,
    TlsDetails,
    XClientCredentials,
    XOAuth2Credentials,
)
from smtpproto.extending import Peers, successor
from smtpproto.testing import converse, make_session

SECRET: Final = "hunter2"


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - likewise


EHLO, MAIL, RCPT = "EHLO c.test", "MAIL FROM:<a@x.test>", "RCPT TO:<b@y.test>"


def address() -> Address:
    said = "MAIL FROM:<a@x.test> ENVID=a+2Bb RET=HDRS SIZE=5"
    sender = converse(EHLO, said, hide_dsn=False, size=100).session.envelope.mail_from
    assert sender is not None
    return sender


def envelope() -> Envelope:
    return converse(EHLO, "MAIL FROM:<a@x.test> BODY=8BITMIME", RCPT, "RCPT TO:<c@y.test>").session.envelope


VALUES: Final[dict[str, Any]] = {
    "address": address,
    "envelope": envelope,
    "accept": lambda: Accept(250, "2.0.0", ["a", "b"], user="u"),
    "reject": lambda: Reject(550, "5.1.1", "no", challenge={"a": 1}),
    "challenge": lambda: Challenge(b"more"),
    "tls": lambda: TlsDetails({"name": "A", "standard_name": "B", "version": "TLSv1.3"}, servername="x"),
    "peers": lambda: Peers.of(["192.0.2.0/24", "fe80::1%eth0"]),
    "plain": lambda: PlainCredentials("", "ann", SECRET),
    "login": lambda: LoginCredentials("ann", SECRET),
    "cram": lambda: CramMd5Credentials("ann", "<1.2@x>", "0" * 32),
    "oauth": lambda: XOAuth2Credentials("ann", SECRET),
    "xclient": lambda: XClientCredentials("ann"),
    "message dsn": lambda: MessageDsn("FULL", "x"),
    "recipient dsn": lambda: RecipientDsn(("NEVER",), "rfc822;a@b"),
    "proxy": lambda: ProxyInfo(1, "PROXY", "TCP4", ("192.0.2.1", 5), ("192.0.2.2", 25), []),
    "event": lambda: DataFinished(5, size_exceeded=True, refusal=Reject(552)),
    "timer": lambda: TimerChanged("socket_timeout", 60.0),
    "options": lambda: ProtocolOptions(name="mx.test", size=5, use_proxy=["192.0.2.1"]),
}


@pytest.mark.parametrize("make", VALUES.values(), ids=VALUES)
def test_a_value_equals_another_with_the_same_fields_and_its_copies(make: Any) -> None:
    value = make()
    assert value == make()
    assert value != object()
    for other in (copy.copy(value), copy.deepcopy(value), pickled(value)):
        assert type(other) is type(value)
        assert other == value


@pytest.mark.parametrize("make", VALUES.values(), ids=VALUES)
def test_a_value_is_printed_without_a_secret(make: Any) -> None:
    assert SECRET not in repr(make())
    assert SECRET not in repr(AuthRequested(make(), Session()))


@pytest.mark.parametrize("other", [
    Address("a@X.test"), PlainCredentials("", "ann", "other"), XOAuth2Credentials("ann", "other"),
    TlsDetails(), Peers.of(["192.0.2.0/25"]), Envelope(), Accept(250, "2.0.0", "b"), Reject(550, "5.1.1"),
])  # fmt: skip
def test_a_value_differs_from_one_with_other_fields(other: object) -> None:
    assert all(make() != other for make in VALUES.values())


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (ACCEPT, "code"),
        (ACCEPT, "user"),
        (Reject(550), "code"),
        (Reject(550), "text"),
        (Reject(550), "challenge"),
        (Challenge(b"x"), "data"),
        (Address("a@b"), "address"),
        (Address("a@b"), "dsn"),
        (Address("a@b"), "anything"),
        (Envelope(), "mail_from"),
        (Envelope(), "rcpt_to"),
        (Envelope(), "smtp_utf8"),
        (MailRequested(Address("a@b"), Session()), "address"),
        (TimerChanged("socket_timeout", 1.0), "seconds"),
        (ProtocolOptions(), "size"),
        *((Session(), name) for name in Session().facts() if name not in {"state", "user"}),
        (Session(), "after_reply_calls"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_the_server_relies_on_cannot_be_set_or_deleted(value: Any, name: str) -> None:
    before = copy.copy(value)
    with pytest.raises(AttributeError):
        setattr(value, name, 251)
    with pytest.raises(AttributeError):
        delattr(value, name)
    assert isinstance(value, Session) or value == before


def test_the_shared_accept_is_what_it_was() -> None:
    with pytest.raises(AttributeError, match=r"property.*has no setter"):
        ACCEPT.code = 251  # type: ignore[misc] # pyright: ignore[reportAttributeAccessIssue] - that is the point
    assert converse(EHLO, MAIL, RCPT).replies[2:] == ["250 2.1.0 Accepted", "250 2.1.5 Accepted"]


def test_recipients_are_a_tuple_that_a_hook_cannot_add_to() -> None:
    seen: list[tuple[Address, ...]] = []

    def look(event: RcptRequested) -> Accept:
        seen.append(event.session.envelope.rcpt_to)
        return ACCEPT

    outcome = converse(EHLO, MAIL, RCPT, "RCPT TO:<c@y.test>", answers={RcptRequested: look})
    assert set(seen) == {(), (Address("b@y.test"),)}  # in every cut
    assert outcome.session.envelope.rcpt_to == (Address("b@y.test"), Address("c@y.test"))


def test_an_exception_keeps_what_python_writes_to_it() -> None:
    refusal = Reject(550)
    with pytest.raises(Reject) as caught:
        raise refusal from ValueError("why")
    assert caught.value is refusal
    assert isinstance(refusal.__cause__, ValueError)
    refusal.add_note("seen")
    assert refusal.__notes__ == ["seen"]


# --- sessions -----------------------------------------------------------------------------------


def test_an_application_sets_its_state_its_user_and_attributes_of_its_own() -> None:
    session: Session[str, list[int]] = Session()
    assert session.state is None
    session.state = [1]
    session.user = "ann"
    assert session.transmission_type == "SMTP"
    assert (session.state, session.user) == ([1], "ann")


def test_annotations_with_one_two_or_no_arguments_can_be_evaluated() -> None:
    assert Session[str].__origin__ is Session  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]
    assert Session[str, int].__origin__ is Session  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("again", [copy.copy, pickled])
def test_a_session_can_be_copied_and_pickled(again: Any) -> None:
    session = converse(EHLO, MAIL, RCPT).session
    session.state, session.user = {"quota": 5}, "ann"
    session.score = 5  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue] - the application's
    session.after_reply(print)
    other = again(session)
    assert other.facts() == session.facts()
    assert vars(other) == {"score": 5}
    assert other != session  # a session is one connection, and not its fields
    assert other.after_reply_calls == []


def test_of_a_session_that_goes_on_the_old_one_stays_as_it_is() -> None:
    outcome = converse(EHLO, MAIL, RCPT)
    old = outcome.session
    old.after_reply(print)
    new = successor(old)
    assert new.facts() == old.facts()
    outcome.connection.recipients.append(Address("late@y.test"))
    assert len(old.envelope.rcpt_to) == 1
    assert len(new.envelope.rcpt_to) == 2
    assert (old.after_reply_calls, new.after_reply_calls) == ([], [print])


def test_credentials_of_a_mechanism_of_one_s_own_are_compared_by_what_they_add() -> None:
    class Token(Credentials):
        def __init__(self, token: str) -> None:
            super().__init__("X-TOKEN", "ann")
            self.token = token

    assert Token("one") == Token("one")
    assert Token("one") != Token("another")


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, pickled])
def test_a_copy_of_an_envelope_does_not_grow_with_the_transaction(again: Any) -> None:
    outcome = converse(EHLO, MAIL, RCPT)
    envelope = outcome.session.envelope
    other = again(envelope)
    assert other == envelope
    outcome.connection.recipients.append(Address("late@y.test"))
    assert len(other.rcpt_to) == 1
    assert len(envelope.rcpt_to) == 2


@pytest.mark.parametrize("call", [None, "text", test_a_session_can_be_copied_and_pickled.__doc__])
def test_after_reply_takes_what_can_be_called(call: Any) -> None:
    with pytest.raises(TypeError, match="after_reply takes a plain function, not"):
        Session().after_reply(call)


def test_after_reply_takes_no_coroutine_function() -> None:
    async def later() -> None: ...

    class Later:
        async def __call__(self) -> None: ...

    for call in (later, Later(), partial(later)):
        with pytest.raises(TypeError, match="after_reply takes a plain function, not"):
            Session().after_reply(call)


def test_a_session_is_made_for_a_test_of_a_hook() -> None:
    session = make_session(
        "a@x.test", ["b@y.test"], user="ann", client_hostname="c.test", smtp_utf8=True, secure=True
    )
    assert (session.user, session.client_hostname, session.secure) == ("ann", "c.test", True)
    assert (session.envelope.mail_from, session.envelope.smtp_utf8) == (Address("a@x.test"), True)
    assert session.envelope.rcpt_to == (Address("b@y.test"),)
    with pytest.raises(TypeError, match="neither a session nor an envelope has usre"):
        make_session(usre="ann")
    with pytest.raises(ValueError, match="'a b' is not an address"):
        make_session("a b")


def test_a_session_says_why_it_has_ended() -> None:
    assert converse(EHLO).session.close_reason is None
    assert converse(EHLO, "QUIT").session.close_reason == "quit"
    assert converse(EHLO, eof=True).session.close_reason == "eof"


def test_a_message_can_be_copied_as_far_as_it_has_come() -> None:
    message = IncomingMessage(ProtocolOptions(size=5))
    assert pickled(message).byte_length == 0


# --- addresses that are read and sent on ------------------------------------------------------------


@pytest.mark.parametrize(("text", "address"), [
    ("ann@example.com", "ann@example.com"), ("<ann@example.com>", "ann@example.com"), ("", ""), ("<>", ""),
    ("<@r.test:ann@example.com>", "ann@example.com"), ('"a b"@c.test', '"a b"@c.test'),
    ("Postmaster", "Postmaster"), ("é@ü.test", "é@ü.test"),
])  # fmt: skip
def test_an_address_is_read(text: str, address: str) -> None:
    assert Address.parse(text).address == address


@pytest.mark.parametrize("text", [
    "ann", "ann@", "@example.com", "ann@example.com ", "<ann@example.com", "a@b> SIZE=5", "a@b\r\nRSET",
    "Ann <ann@example.com>", "a@b@c", " ", "<<a@b>>", "<a@b> X",
])  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an address"):
        Address.parse(text)


@pytest.mark.parametrize("said", [
    "ENVID=a+20REQUIRETLS", "ENVID=a+2Bb+3Dc", "RET=FULL", "SIZE=100", "BODY=8BITMIME", "AUTH=<>",
    "AUTH=e+3Dmc2@x.test", "X-OWN=1", "X-OWN",
])  # fmt: skip
def test_parameters_of_a_sender_are_sent_on_as_they_came(said: str) -> None:
    options: dict[str, Any] = {"hide_dsn": False, "unknown_parameters": "accept"}
    sender = converse(EHLO, f"{MAIL} {said}", **options).session.envelope.mail_from
    assert sender is not None
    assert sender.to_parameters() == [said]


@pytest.mark.parametrize("said", [
    "NOTIFY=NEVER", "NOTIFY=SUCCESS,DELAY", "ORCPT=rfc822;a+20NOTIFY+3DNEVER@b.test",
    r'ORCPT=utf-8;"a\x{20}b\x{2B}\x{5C}a\x{E9}"@c.test',
])  # fmt: skip
def test_parameters_of_a_recipient_are_sent_on_as_they_came(said: str) -> None:
    envelope = converse(EHLO, MAIL, f"{RCPT} {said}", hide_dsn=False).session.envelope
    if not envelope.rcpt_to:
        pytest.fail(f"{said} was refused")
    (recipient,) = envelope.rcpt_to
    assert recipient.to_parameters() == [said]


def test_a_value_that_was_decoded_would_add_a_parameter_if_it_were_sent_on_as_it_is() -> None:
    sender = converse(EHLO, f"{MAIL} ENVID=a+20REQUIRETLS", hide_dsn=False).session.envelope.mail_from
    assert sender is not None
    naive = " ".join(f"{name}={value}" for name, value in sender.args.items())
    assert naive.split() == ["ENVID=a", "REQUIRETLS"]
    assert " ".join(sender.to_parameters()).split() == ["ENVID=a+20REQUIRETLS"]


# --- refusals as text ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("line", "refusal"), [
    ("550 5.1.1 No such user", Reject(550, "5.1.1", "No such user")),
    ("451 Later", Reject(451, text="Later")),
    ("550", Reject(550)),
    ("554 5.7.1", Reject(554, "5.7.1")),
    ("550-5.7.1 a\r\n550 5.7.1 b", Reject(550, "5.7.1", ["a", "b"])),
    ("550-a\n550-\n550 b", Reject(550, text=["a", "", "b"])),
    ("550 4.1.1 other class", Reject(550, text="4.1.1 other class")),
])  # fmt: skip
def test_a_refusal_is_read_from_a_reply_and_written_as_one(line: str, refusal: Reject) -> None:
    assert Reject.parse(line) == refusal
    assert Reject.parse(str(refusal)) == refusal
    assert str(refusal) == line.replace("\r\n", "\n")


def test_a_text_with_line_breaks_is_written_as_the_lines_that_are_sent() -> None:
    for text in ("a\r\n450 b", ["a", "450 b"], ["a\n450 b"]):
        refusal = Reject(550, text=text)
        assert str(refusal) == "550-a\n550 450 b"
        assert Reject.parse(str(refusal)) == Reject(550, text=["a", "450 b"])


def test_a_reply_as_smtplib_hands_it_out_can_be_read() -> None:
    code, text = 550, b"5.1.1 No such user\n5.1.1 here"
    assert Reject.parse(f"{code} {text.decode()}") == Reject(550, "5.1.1", ["No such user", "here"])


@pytest.mark.parametrize("line", ["", "250 2.0.0 OK", "no", "5501 x", "550-a\n551 b", "55", "550_x"])
def test_what_is_no_refusal_cannot_be_read(line: str) -> None:
    with pytest.raises(ValueError, match=r"is not a reply|codes; a reply has one|takes a code from 400"):
        Reject.parse(line)


def test_a_refusal_without_fields_is_written_with_the_code_that_goes_with_it() -> None:
    assert str(Reject()) == "550"
    assert str(Reject(enhanced="4.7.1", text="x")) == "451 4.7.1 x"
