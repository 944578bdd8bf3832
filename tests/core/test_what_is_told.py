# What events and sessions tell besides their names: whose they are, why it ended, what is not known yet.

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any

import pytest

from smtpproto import (
    ACCEPT,
    NEED_DATA,
    OPTIONAL_QUESTIONS,
    Accept,
    AuthRequested,
    Challenge,
    CommandRequested,
    Connection,
    DataFinished,
    DataRequested,
    DataStarted,
    Envelope,
    Event,
    HelpRequested,
    LocalProtocolError,
    MailRequested,
    NeedsStartTLS,
    NeedsTLS,
    ProtocolOptions,
    RcptRequested,
    Reject,
    SecureRequested,
    Session,
    State,
    TimerChanged,
    TlsCipher,
    TlsDetails,
    VerifyRequested,
)
from smtpproto.extending import Plain
from smtpproto.testing import ENTROPY, converse, message, play

if TYPE_CHECKING:
    from smtpproto.extending import Mechanism

LOGIN = "AUTH PLAIN AHUAcA=="
NBSP = "\N{NO-BREAK SPACE}"

# --- whose they are -----------------------------------------------------------------------------


def test_every_event_tells_of_the_session_of_its_connection() -> None:
    clear = converse(
        "EHLO a", "VRFY x", "EXPN x", "HELP x", "OWN x", "STARTTLS", None, "EHLO a", LOGIN, *message(),
        made_with={"ask": OPTIONAL_QUESTIONS}, answers={CommandRequested: Accept(250)},
    )  # fmt: skip
    trusted = converse("XCLIENT LOGIN=u", use_xclient=True)
    for outcome in (clear, trusted):
        told: list[Any] = [event for event in outcome.events if hasattr(event, "session")]
        assert all(event.session is outcome.session for event in told)
    kinds = {type(event) for event in [*clear.events, *trusted.events] if hasattr(event, "session")}
    assert kinds == {kind for kind in Event.__subclasses__() if "session" in getattr(kind, "__slots__", ())}
    assert trusted.of(AuthRequested)


def test_a_login_that_is_judged_twice_is_of_the_same_session() -> None:
    outcome = converse(
        "EHLO a", LOGIN, "eA==", answers={AuthRequested: [Challenge(b"?")]}, allow_insecure_auth=True
    )
    assert [event.session for event in outcome.of(AuthRequested)] == [outcome.session] * 2


def test_a_mechanism_of_the_applications_is_made_for_the_session() -> None:
    seen: list[Session] = []

    def factory(session: Session) -> Mechanism:
        seen.append(session)
        return Plain()

    outcome = converse(
        "EHLO a", "AUTH X AHUAcA==", auth_methods=("X",), sasl_mechanisms={"X": factory},
        allow_insecure_auth=True,
    )  # fmt: skip
    assert outcome.replies[-1].startswith("235 ")
    assert outcome.session in seen
    assert all(isinstance(session, Session) for session in seen)


def test_a_message_that_begins_can_be_looked_at() -> None:
    outcome = converse("EHLO a", *message(b"12\r\n"))
    begun = outcome.of(DataStarted)[0].message
    assert (begun.byte_length, begun.complete, begun.size_exceeded, begun.refusal) == (4, True, False, None)


# --- what is not known yet ----------------------------------------------------------------------


def test_of_a_new_client_nothing_is_known_but_its_address() -> None:
    session = Connection(remote=("192.0.2.1", 4321), local=("192.0.2.25", 25)).session
    facts = session.facts()
    assert facts.pop("envelope") == Envelope()
    assert facts == {
        "client_hostname": "[192.0.2.1]", "error": None, "host_name_appears_as": "", "id": "", "lmtp": False,
        "local_address": "192.0.2.25", "local_port": 25, "opening_command": "", "peer_certificate": None,
        "listener": "", "close_reason": None, "state": None, "proxy": None,
        "remote_address": "192.0.2.1", "remote_port": 4321, "secure": False,
        "servername": None, "tls_options": None, "transaction": 1, "user": None, "xclient": {},
        "xforward": {},
    }  # fmt: skip


def test_a_client_without_an_address_has_a_name_all_the_same() -> None:
    assert Session(remote=("", 5)).client_hostname == "[local]"
    assert (Session().id, Session().secure) == ("", False)


def test_a_session_knows_that_it_is_lmtp() -> None:
    assert Connection(ProtocolOptions(lmtp=True)).session.lmtp is True


def test_a_handshake_that_fails_leaves_the_session_insecure() -> None:
    connection = Connection(ProtocolOptions(auth_optional=True), tls_available=True)
    say(connection, "EHLO a", "STARTTLS")
    assert isinstance(connection.question, NeedsStartTLS)
    assert connection.session.secure is False
    connection.connection_lost()
    assert connection.session.secure is False


def test_what_the_handshake_found_is_in_the_session() -> None:
    suite = TlsCipher(name="N", standard_name="S", version="TLSv1.3")
    certificate = {"subject": ((("commonName", "c.test"),),)}
    connection = Connection(ProtocolOptions(auth_optional=True), tls_available=True)
    say(connection, "EHLO a", "STARTTLS")
    connection.tls_established(TlsDetails(suite, servername="mx.test", peer_certificate=certificate))
    session = connection.session
    assert (session.tls_options, session.servername, session.peer_certificate) == (
        suite,
        "mx.test",
        certificate,
    )
    assert connection.next_event() == TimerChanged("tls_handshake_timeout", None)
    assert connection.next_event() == SecureRequested(session)


def say(connection: Connection, *lines: str) -> list[Event]:
    """Say lines and accept everything, up to a handshake; the events."""
    told: list[Event] = []
    for line in ("", *lines):
        connection.receive_data(f"{line}\r\n".encode() if line else b"")
        while isinstance(event := connection.next_event(), Event):
            told.append(event)
            if connection.question is event and event.takes:
                connection.decide(ACCEPT)
        connection.data_to_send()
    return told


def test_the_time_of_the_handshake_begins_with_starttls() -> None:
    connection = Connection(ProtocolOptions(auth_optional=True), tls_available=True)
    assert say(connection, "EHLO a", "STARTTLS")[-2:] == [
        TimerChanged("tls_handshake_timeout", 30.0), NeedsStartTLS()
    ]  # fmt: skip


def test_implicit_tls_begins_with_nothing_read() -> None:
    assert NeedsTLS(b"") in say(Connection(ProtocolOptions(secure=True), tls_available=True))


def test_a_challenge_has_the_time_that_was_given_and_none_otherwise() -> None:
    options = ProtocolOptions(auth_methods=("CRAM-MD5",), allow_insecure_auth=True, name="mx.test")
    for connection, told in (
        (Connection(options, entropy=ENTROPY), 0), (Connection(options, entropy=ENTROPY, started=7), 7)
    ):  # fmt: skip
        say(connection, "EHLO a")
        connection.receive_data(b"AUTH CRAM-MD5\r\n")
        assert connection.next_event() is NEED_DATA
        challenge = b64decode(connection.data_to_send().removeprefix(b"334 "))
        assert challenge.endswith(b".%d@mx.test>" % told)


# --- why it ended -------------------------------------------------------------------------------

MANY = {"max_unknown_commands": 1}
WITHOUT_LOGIN = {
    "auth_optional": False,
    "max_allowed_unauthenticated_commands": 2,
    "allow_insecure_auth": True,
}
ENDS: list[tuple[tuple[str, ...], dict[str, Any], str]] = [
    (("QUIT",), {}, "quit"),
    (("GET / HTTP/1.1",), {}, "HTTP request"),
    (("EHLO a", "AUTH LOGIN", "GET / HTTP/1.1"), {"allow_insecure_auth": True}, "HTTP request"),
    (("Subject: hi",), {}, "a header where a command belongs"),
    (("X",), MANY, "too many unrecognized commands"),
    (("EHLO a", "NOOP"), WITHOUT_LOGIN, "too many unauthenticated commands"),
]


@pytest.mark.parametrize(("said", "options", "reason"), ENDS)
def test_the_end_has_its_reason(said: tuple[str, ...], options: dict[str, Any], reason: str) -> None:
    assert converse(*said, **options).closed == reason


def test_who_talks_before_the_greeting_is_told_apart() -> None:
    connection = Connection()
    connection.receive_data(b"EHLO a\r\n")
    assert say(connection)[-1].reason == "the client talked before the greeting"  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


# --- what was sent is what is told --------------------------------------------------------------


@pytest.mark.parametrize("argument", [f"a{NBSP}", "X", "bX"])
def test_only_blanks_and_tabs_are_taken_from_the_end_of_a_line(argument: str) -> None:
    outcome = converse("EHLO a", f"VRFY {argument} \t ", made_with={"ask": [VerifyRequested]})
    assert outcome.of(VerifyRequested)[0].argument == argument


def test_the_end_of_a_response_is_part_of_it() -> None:
    outcome = converse("EHLO a", "AUTH PLAIN", "AHUAcGFX", allow_insecure_auth=True)
    assert outcome.of(AuthRequested)[0].auth.password == "paW"
    outcome = converse("EHLO a", "AUTH PLAIN", f"AHUAcGFX{NBSP}", allow_insecure_auth=True)
    assert outcome.replies[-1].startswith("501 ")


def test_a_line_of_a_login_may_be_as_long_as_a_ticket() -> None:
    connection = Connection(ProtocolOptions(auth_methods=("XOAUTH2",), allow_insecure_auth=True))
    say(connection, "EHLO a", "AUTH XOAUTH2")
    token = "t" * 6000
    connection.receive_data(b64encode(f"user=a=b\1auth=Bearer {token}\1\1".encode()) + b"\r\n")
    event = connection.next_event()
    assert isinstance(event, AuthRequested)
    assert (event.auth.username, event.auth.access_token) == ("a=b", token)  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]


def test_a_token_is_what_stands_behind_the_first_blank() -> None:
    said = b64encode(b"user=u\1auth=Bearer a b\1\1").decode()
    outcome = converse("EHLO a", f"AUTH XOAUTH2 {said}", auth_methods=("XOAUTH2",), allow_insecure_auth=True)
    assert outcome.of(AuthRequested)[0].auth.access_token == "a b"


@pytest.mark.parametrize("attribute", ["NAME=a=b", "ADDR=IPV6:192.0.2.1"])
def test_an_attribute_of_xclient_that_is_none_is_refused(attribute: str) -> None:
    assert play(f"XCLIENT {attribute}", use_xclient=True)[-1].startswith("501 5.5.4")


def test_what_notify_says_leaves_orcpt_as_it_is() -> None:
    outcome = converse(
        "EHLO a", "MAIL FROM:<a@x>", "RCPT TO:<b@y> ORCPT=rfc822;c@z NOTIFY=NEVER", hide_dsn=False
    )
    assert outcome.of(RcptRequested)[0].address.dsn == (("NEVER",), "rfc822;c@z")


def test_an_original_recipient_beyond_ascii_needs_smtputf8() -> None:
    recipient = "RCPT TO:<b@y> ORCPT=rfc822;+C3+A9@z"
    assert play("EHLO a", "MAIL FROM:<a@x> SMTPUTF8", recipient)[-1].startswith("250 ")
    assert play("EHLO a", "MAIL FROM:<a@x>", recipient)[-1].startswith("501 ")


def test_a_recipient_beyond_ascii_does_not_ask_for_smtputf8() -> None:
    outcome = converse("EHLO a", "MAIL FROM:<a@x>", "RCPT TO:<é@y>", require_smtputf8=False)
    assert outcome.replies[-1] == "250 2.1.5 Accepted"
    assert outcome.session.envelope.smtp_utf8 is False


# --- what an application says -------------------------------------------------------------------

YES, NO, HELD = Accept(text="é"), Reject(550, "5.7.1", "é"), Reject(451, "4.7.1", "é")
TO = "RCPT TO:<b@y>"
SAYINGS: list[tuple[type[Event], Accept | Reject, tuple[str | bytes, ...], str]] = [
    (MailRequested, YES, (), "250 2.1.0"),
    (MailRequested, NO, (), "550 5.7.1"),
    (RcptRequested, YES, (TO,), "250 2.1.5"),
    (RcptRequested, NO, (TO,), "550 5.7.1"),
    (VerifyRequested, YES, ("VRFY x",), "252 2.1.5"),
    (HelpRequested, NO, ("HELP x",), "550 5.7.1"),
    (DataRequested, NO, (TO, "DATA"), "550 5.7.1"),
    (DataFinished, YES, (TO, "DATA", b".\r\n"), "250 2.6.0"),
    (DataFinished, HELD, (TO, "DATA", b".\r\n"), "451 4.7.1"),
]


@pytest.mark.parametrize(("kind", "decision", "said", "code"), SAYINGS)
@pytest.mark.parametrize(("parameter", "text"), [(" SMTPUTF8", "é"), ("", "?")])
def test_a_text_keeps_its_letters_where_the_client_reads_them(
    kind: type[Event], decision: Any, said: tuple[str | bytes, ...], code: str, parameter: str, text: str
) -> None:
    ask = [kind] if kind in OPTIONAL_QUESTIONS else []
    outcome = converse(
        "EHLO a", f"MAIL FROM:<a@x>{parameter}", *said, answers={kind: decision}, made_with={"ask": ask}
    )
    assert outcome.replies[-1] == f"{code} {text}"


def test_what_the_application_refuses_is_the_sessions_error_from_400_on() -> None:
    outcome = converse("EHLO a", "MAIL FROM:<a@x>", answers={MailRequested: Reject(400, text="later")})
    assert outcome.session.error == "400 4.0.0 later"


def test_xclient_refused_for_the_time_being_stays_so() -> None:
    outcome = converse(
        "XCLIENT LOGIN=u", answers={AuthRequested: Reject(400, text="later")}, use_xclient=True
    )
    assert outcome.replies[-1] == "400 4.0.0 later"


def test_a_last_word_of_the_application_goes_before_a_limit() -> None:
    outcome = converse(
        "EHLO a", LOGIN, answers={AuthRequested: Reject(421, text="go away")}, auth_optional=False,
        allow_insecure_auth=True, max_allowed_unauthenticated_commands=2,
    )  # fmt: skip
    assert outcome.replies[-1] == "421 4.3.2 go away"


def test_the_last_word_of_a_message_ends_its_transaction_as_well() -> None:
    outcome = converse(
        "LHLO a", *message(to=("b@y.test", "c@y.test")), answers={DataFinished: Reject(421)}, lmtp=True
    )
    assert [reply[:3] for reply in outcome.replies[-2:]] == ["354", "421"]
    assert outcome.session.transaction == 2
    assert outcome.session.envelope.mail_from is None


# --- how much may wait --------------------------------------------------------------------------


def test_no_octet_may_be_fed_beyond_the_limit() -> None:
    connection = Connection(ProtocolOptions(auth_optional=True))
    say(connection, "EHLO a")
    connection.receive_data(b"MAIL FROM:<a@x>\r\n")
    while connection.question is None:
        connection.next_event()
    room = connection.high_water  # pyright: ignore[reportPrivateUsage] - the number itself
    assert connection.state is State.READY
    connection.receive_data(b"N" * (room - 1))
    assert connection.wants_data
    connection.receive_data(b"N")
    assert not connection.wants_data
    with pytest.raises(LocalProtocolError, match=f"receive_data while {room} octets wait"):
        connection.receive_data(b"N")
