# The connection: its beginning and its end, its questions and its clocks, and how it is misused.

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from smtpproto import (
    ACCEPT,
    CLOSED,
    NEED_DATA,
    OPTIONAL_QUESTIONS,
    PAUSED,
    SEND,
    Accept,
    AuthRequested,
    Challenge,
    ClientConnected,
    ConfigurationError,
    Connection,
    ConnectionClosed,
    ConnectRequested,
    DataAborted,
    DataChunk,
    DataFinished,
    DataStarted,
    DecisionError,
    Event,
    LocalProtocolError,
    MailRequested,
    NeedsStartTLS,
    NeedsTLS,
    ProtocolOptions,
    ProxyInfo,
    ProxyReceived,
    RcptRequested,
    Reject,
    SecureRequested,
    State,
    TimerChanged,
    VerifyRequested,
)
from smtpproto._engine import MANY_REPLIES
from smtpproto.extending import Plain
from smtpproto.testing import ENTROPY, TLS, Outcome, converse, drive, play, settle

EHLO = "EHLO c.test"
MAIL = "MAIL FROM:<a@x.test>"
RCPT = "RCPT TO:<b@y.test>"
GREETING = "220 mx.test ESMTP"
SHUT = "421 4.3.2 Server shutting down"
LATE = "421 4.4.2 Timeout - closing connection"
TOO_SOON = "421 mx.test You talk too soon"
HEADER = b"PROXY TCP4 198.51.100.7 192.0.2.25 777 25\r\n"


def made(*, ask: Any = (), tls_available: bool = True, peer: str = "192.0.2.1", **options: Any) -> Connection:
    options.setdefault("name", "mx.test")
    options.setdefault("auth_optional", True)
    options.setdefault("hide_enhancedstatuscodes", False)
    return Connection(
        ProtocolOptions(**options), ask=ask, tls_available=tls_available, entropy=ENTROPY, remote=(peer, 4321)
    )


def events(connection: Connection) -> list[Event]:
    """Events up to a signal, but no timers."""
    told: list[Event] = []
    while isinstance(event := connection.next_event(), Event):
        if not isinstance(event, TimerChanged):
            told.append(event)
    return told


def kinds(connection: Connection) -> list[type[Event]]:
    return [type(event) for event in events(connection)]


def run(connection: Connection, *lines: str | bytes) -> list[str]:
    """Say lines one by one; the replies to them."""
    outcome = Outcome(connection)
    settle(outcome, {})
    outcome.sent = b""
    for line in lines:
        connection.receive_data(line if isinstance(line, bytes) else line.encode() + b"\r\n")
        settle(outcome, {})
    return outcome.replies


def ask_with(connection: Connection, line: str) -> Event:
    """Say a line that leads to a question; the question."""
    connection.receive_data(line.encode() + b"\r\n")
    while connection.question is None:
        connection.next_event()
        connection.data_to_send()
    while isinstance(connection.next_event(), Event):
        pass
    return connection.question


# --- how it is made -----------------------------------------------------------------------------


def test_what_a_connection_was_made_with_can_be_seen() -> None:
    options = ProtocolOptions()
    connection = Connection(options, local=("::FFFF:192.0.2.25", 25), remote=("2001:DB8::1", 7), id="id")
    session = connection.session
    assert connection.options is options
    assert (session.local_address, session.local_port) == ("192.0.2.25", 25)
    assert (session.remote_address, session.remote_port) == ("2001:db8::1", 7)
    assert (session.id, session.client_hostname, session.secure) == ("id", "[2001:db8::1]", False)
    assert connection.state is State.ARRIVED


def test_a_connection_can_be_made_of_nothing() -> None:
    connection = Connection()
    assert connection.options == ProtocolOptions()
    assert connection.session.client_hostname == "[local]"
    assert kinds(connection) == [ConnectRequested]


def test_ended_upstream_is_secure_from_the_start() -> None:
    outcome = converse(EHLO, tls_upstream=True, secure=True, made_with={"tls_available": False})
    assert outcome.session.secure
    assert outcome.session.tls_options is None
    assert outcome.of(NeedsTLS) == outcome.of(SecureRequested) == []
    assert outcome.replies[0] == GREETING


@pytest.mark.parametrize("option", ["secure", "needs_upgrade"])
def test_tls_that_is_asked_for_must_be_there(option: str) -> None:
    flags: dict[str, Any] = {option: True}
    with pytest.raises(ConfigurationError, match=rf"{option}=True needs TLS, and tls_available is False"):
        made(tls_available=False, **flags)
    made(**flags)
    made(tls_available=False, tls_upstream=True, **flags)


def test_challenges_need_entropy() -> None:
    options = ProtocolOptions(auth_methods=("CRAM-MD5",))
    for entropy in (b"", b"x" * 15):
        with pytest.raises(ConfigurationError, match="16 octets"):
            Connection(options, entropy=entropy)
    Connection(options, entropy=b"x" * 16)
    Connection(
        ProtocolOptions(auth_methods=("CRAM-MD5",), sasl_mechanisms={"CRAM-MD5": lambda _session: Plain()})
    )


@pytest.mark.parametrize("ask", [[MailRequested], [VerifyRequested, int], ["VerifyRequested"]])
def test_only_optional_questions_can_be_asked_for(ask: Any) -> None:
    with pytest.raises(ValueError, match="not among the optional questions: "):
        Connection(ask=ask)
    Connection(ask=OPTIONAL_QUESTIONS)
    Connection(ask=[VerifyRequested])


def test_an_idle_connection_is_small() -> None:
    options = ProtocolOptions(name="mx.test")

    def idle() -> Connection:
        connection = Connection(options, remote=("192.0.2.1", 1), id="0123456789abcdef")
        run(connection, EHLO)
        return connection

    idle()  # what is made once for all of them
    tracemalloc.start()
    try:
        connections = [idle() for _ in range(100)]
        octets = tracemalloc.get_traced_memory()[0] / len(connections)
    finally:
        tracemalloc.stop()
    assert octets < 4096


# --- up to the greeting (§3.1) ------------------------------------------------------------------


def test_the_greeting() -> None:
    assert play() == [GREETING]
    assert play(banner="hi\r\nthere") == ["220 mx.test ESMTP hi there"]
    assert play(lmtp=True) == ["220 mx.test LMTP"]
    assert play(name="") == ["220 localhost ESMTP"]


@pytest.mark.parametrize(("accept", "greeting"), [
    (Accept(220, text="mail is welcome"), ["220 mx.test ESMTP mail is welcome"]),
    (Accept(text="hi\r\nthere"), ["220-mx.test ESMTP hi", "220 there"]),
    (Accept(text=["a", "b"]), ["220-mx.test ESMTP a", "220 b"]),
    (Accept(text=""), ["220 mx.test ESMTP"]),
    (Accept(220, "2.1.1"), ["220 mx.test ESMTP of the options"]),
])  # fmt: skip
def test_the_text_of_an_accept_greets_in_place_of_the_banner(accept: Accept, greeting: list[str]) -> None:
    how: dict[str, Any] = {"answers": {ConnectRequested: accept}, "banner": "of the options"}
    assert "\n".join(play(**how)).split("\n") == greeting
    again = play("XCLIENT ADDR=192.0.2.9", use_xclient=True, **how)
    assert "\n".join(again).split("\n") == [*greeting, *greeting]


@pytest.mark.parametrize("code", [250, 221, 299])
def test_an_accept_of_a_connection_has_no_other_code_than_220(code: int) -> None:
    connection = Connection()
    while connection.question is None:
        connection.next_event()
    with pytest.raises(DecisionError, match="its Accept takes the codes 220"):
        connection.decide(Accept(code))


def test_a_connection_begins_in_this_order() -> None:
    connection = made(use_proxy=True, secure=True)
    assert connection.next_event() == TimerChanged("session_timeout", 3600.0)
    assert connection.next_event() == TimerChanged("socket_timeout", 60.0)
    assert connection.next_event() == TimerChanged("command_timeout", 300.0)
    assert connection.next_event() == TimerChanged("data_timeout", 3600.0)
    assert connection.next_event() == TimerChanged("proxy_timeout", 5.0)
    assert connection.next_event() is NEED_DATA
    connection.receive_data(HEADER)
    assert connection.next_event() == TimerChanged("proxy_timeout", None)
    assert isinstance(connection.next_event(), ProxyReceived)
    assert connection.next_event() == TimerChanged("tls_handshake_timeout", 30.0)
    assert connection.next_event() == NeedsTLS(b"")
    assert connection.next_event() is PAUSED
    connection.tls_established(TLS)
    assert connection.next_event() == TimerChanged("tls_handshake_timeout", None)
    assert connection.next_event() == TimerChanged("greeting_timeout", 30.0)
    assert connection.next_event() == ConnectRequested(connection.session)
    assert connection.next_event() is PAUSED
    connection.decide(ACCEPT)
    assert connection.next_event() == SecureRequested(connection.session)
    assert connection.data_to_send() == b""
    connection.decide(ACCEPT)
    assert connection.next_event() == TimerChanged("greeting_timeout", None)
    assert connection.next_event() == ClientConnected(connection.session)
    assert connection.next_event() is NEED_DATA
    assert connection.data_to_send() == b"220 mx.test ESMTP\r\n"
    assert connection.data_to_send() == b""


def test_without_limits_there_are_no_timers() -> None:
    times = (
        "socket_timeout", "command_timeout", "greeting_timeout", "proxy_timeout", "data_timeout",
        "session_timeout", "tls_handshake_timeout",
    )  # fmt: skip
    off: dict[str, Any] = dict.fromkeys(times)
    outcome = converse(HEADER, None, EHLO, MAIL, RCPT, "DATA", b".\r\n", "STARTTLS", use_proxy=True, **off)
    assert outcome.of(TimerChanged) == []
    assert outcome.session.secure


@pytest.mark.parametrize(
    ("decision", "reply"),
    [
        (Reject(), "554 Transaction failed"),
        (Reject(550), "550 Requested action not taken"),
        (Reject(550, "5.7.1", "not you"), "550 not you"),
        (Reject(text="5.7.1 not you"), "554 not you"),
        (Reject(421, "4.3.0", "later"), "421 later"),
    ],
)
@pytest.mark.parametrize("secure", [False, True])
def test_a_client_can_be_refused_before_the_greeting(decision: Reject, reply: str, *, secure: bool) -> None:
    for kind in (ConnectRequested, SecureRequested)[: 1 + secure]:
        outcome = converse(secure=secure, answers={kind: decision})
        assert outcome.replies == [reply]
        assert outcome.closed == "refused by the application"
        assert outcome.of(ClientConnected) == []


def test_the_host_name_belongs_before_the_decision() -> None:
    connection = made()
    events(connection)
    connection.set_client_hostname("C.Test")
    assert connection.session.client_hostname == "c.test"
    connection.decide(ACCEPT)
    assert run(connection, "HELO a")[-1] == "250 mx.test Nice to meet you, c.test"
    with pytest.raises(LocalProtocolError, match="belongs before the decision on ConnectRequested"):
        connection.set_client_hostname("d.test")


def test_the_host_name_belongs_after_the_question() -> None:
    connection = made()
    with pytest.raises(LocalProtocolError, match="belongs before the decision on ConnectRequested"):
        connection.set_client_hostname("c.test")
    events(connection)
    connection.set_client_hostname("c.test")


def test_a_host_name_cannot_add_a_line() -> None:
    connection = made()
    events(connection)
    connection.set_client_hostname("x\r\nSTARTTLS")
    connection.decide(ACCEPT)
    first, *others = run(connection, EHLO)[0].split("\n")
    assert first == "250-mx.test Nice to meet you, x starttls"
    assert all(line[4:].isupper() for line in others)


# --- early talkers (§3.1) -----------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"E", b"EHLO c.test\r\n", b"\r\n", b"\0"])
def test_who_talks_before_the_greeting_is_not_greeted(data: bytes) -> None:
    connection = made()
    connection.receive_data(data)  # before the question was even seen
    assert kinds(connection) == [ConnectionClosed]
    assert connection.data_to_send() == TOO_SOON.encode() + b"\r\n"

    connection = made()
    (question,) = events(connection)
    connection.receive_data(data)
    assert connection.question is None
    assert kinds(connection) == [ConnectionClosed]
    assert connection.data_to_send() == TOO_SOON.encode() + b"\r\n"
    with pytest.raises(DecisionError, match="no question is open"):
        connection.decide(ACCEPT)
    assert isinstance(question, ConnectRequested)


def test_who_talks_within_tls_before_the_greeting_is_not_greeted_either() -> None:
    for decisions in (0, 1):
        connection = made(secure=True)
        events(connection)
        connection.tls_established(TLS)
        for _ in range(decisions):
            events(connection)
            connection.decide(ACCEPT)
        events(connection)
        connection.receive_data(b"EHLO c.test\r\n")
        assert kinds(connection) == [ConnectionClosed]
        assert connection.data_to_send() == TOO_SOON.encode() + b"\r\n"


def test_nothing_is_no_talk() -> None:
    connection = made()
    connection.receive_data(b"")
    assert run(connection) == []
    assert connection.state is State.GREETED


@pytest.mark.parametrize("data", [b"E", b"EHLO c.test\r\n", HEADER])
def test_octets_behind_a_header_talk_too_soon(data: bytes) -> None:
    connection = made(use_proxy=True)
    connection.receive_data(HEADER + data)
    assert kinds(connection) == [ProxyReceived, ConnectionClosed]
    assert connection.data_to_send() == TOO_SOON.encode() + b"\r\n"
    assert connection.session.remote_address == "198.51.100.7"


# --- the PROXY header (§9.1) --------------------------------------------------------------------


def test_the_header_says_who_the_client_is() -> None:
    outcome = converse(HEADER, None, EHLO, use_proxy=["192.0.2.0/24"])
    session = outcome.session
    assert (session.remote_address, session.remote_port) == ("198.51.100.7", 777)
    assert (session.local_address, session.local_port) == ("192.0.2.25", 25)
    header = ProxyInfo(1, "PROXY", "TCP4", ("198.51.100.7", 777), ("192.0.2.25", 25), [])
    assert session.proxy == header
    assert outcome.of(ProxyReceived) == [ProxyReceived(header)]
    assert outcome.replies[1].startswith("250-mx.test Nice to meet you, [198.51.100.7]")


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY UNKNOWN whatever\r\n",
        bytes.fromhex("0d0a0d0a000d0a515549540a 20 11 000c 01020304 05060708 04d2 0019"),
        bytes.fromhex("0d0a0d0a000d0a515549540a 21 31 00d8") + b"/run/a".ljust(108, b"\0") * 2,
    ],
)
def test_a_header_without_an_address_keeps_the_sockets(header: bytes) -> None:
    outcome = converse(header, None, EHLO, use_proxy=True)
    assert (outcome.session.remote_address, outcome.session.remote_port) == ("192.0.2.1", 4321)
    assert outcome.session.proxy is not None
    assert outcome.replies[0] == GREETING


def test_from_others_no_header_is_expected() -> None:
    assert play(EHLO, use_proxy=["203.0.113.1"])[0] == GREETING
    assert play(HEADER, use_proxy=["203.0.113.1"])[1] == "500 5.5.2 Error: command not recognized"
    assert play(HEADER, None, HEADER, use_proxy=True)[1] == "500 5.5.2 Error: command not recognized"


@pytest.mark.parametrize("header", [b"EHLO c.test\r\n", b"\r\nx", b"PROXY TCP4 1.2.3.4\r\n", b"\x16\x03\x01"])
@pytest.mark.parametrize("secure", [False, True])
def test_a_wrong_header_ends_the_connection_without_a_word(header: bytes, *, secure: bool) -> None:
    outcome = converse(header, use_proxy=True, secure=secure)
    assert outcome.sent == b""
    assert outcome.of(ConnectRequested) == []
    assert (outcome.closed or "").startswith("PROXY header refused: ")


@pytest.mark.parametrize("octets", range(len(HEADER)))
def test_a_header_without_its_end_is_none(octets: int) -> None:
    outcome = converse(HEADER[:octets], eof=True, use_proxy=True)
    assert (outcome.sent, outcome.closed) == (b"", "eof")


def test_octets_behind_a_header_belong_to_the_handshake() -> None:
    connection = made(use_proxy=True, secure=True)
    connection.receive_data(HEADER + b"\x16\x03\x01")
    assert events(connection)[-1] == NeedsTLS(b"\x16\x03\x01")


# --- TLS (§8) -----------------------------------------------------------------------------------


def test_the_handshakes_details_are_the_sessions() -> None:
    session = converse(secure=True).session
    assert session.secure
    assert session.servername == "mx.test"
    assert session.tls_options == TLS.options
    assert session.peer_certificate is None
    assert converse(EHLO, secure=True).session.transmission_type == "ESMTPS"


def test_details_may_be_left_out() -> None:
    connection = made(secure=True)
    events(connection)
    connection.tls_established()
    assert connection.session.secure
    assert connection.session.tls_options is None


def test_after_starttls_hello_is_needed_again_and_nothing_is_known() -> None:
    outcome = converse(
        EHLO, "AUTH PLAIN AHUAcA==", "XCLIENT NAME=c.test", EHLO, "FOO", MAIL, RCPT, "STARTTLS", None, MAIL,
        allow_insecure_auth=True, use_xclient=True,
    )  # fmt: skip
    assert outcome.replies[-2:] == ["220 2.0.0 Ready to start TLS", "503 5.5.1 Error: send HELO/EHLO first"]
    session = outcome.session
    assert (session.opening_command, session.host_name_appears_as, session.user) == ("", "", None)
    assert (session.xclient, session.xforward) == ({}, {})
    assert session.client_hostname == "c.test"
    assert outcome.connection.unknown == 1
    assert len(outcome.of(SecureRequested)) == 1
    logged_in = converse(EHLO, "AUTH PLAIN AHUAcA==", "STARTTLS", None, allow_insecure_auth=True)
    assert logged_in.session.user is None
    assert [type(event) for event in outcome.events].count(ConnectRequested) == 1


def test_the_220_comes_before_the_handshake_and_nothing_is_said_behind_it() -> None:
    connection = made()
    run(connection, EHLO)
    assert isinstance(ask_with(connection, "STARTTLS"), NeedsStartTLS)
    assert connection.data_to_send() == b""
    connection.tls_established(TLS)
    assert kinds(connection) == [SecureRequested]
    connection.decide(ACCEPT)
    assert connection.next_event() is NEED_DATA
    assert connection.data_to_send() == b""


@pytest.mark.parametrize(
    ("decision", "reply"),
    [
        (Reject(), "554 5.7.1 Transaction failed"),
        (Reject(550, text="no"), "550 5.1.1 no"),
        (Reject(421, "4.3.0", "later"), "421 4.3.0 later"),
    ],
)
def test_a_client_can_be_refused_after_starttls(decision: Reject, reply: str) -> None:
    outcome = converse(EHLO, "STARTTLS", None, "NOOP", answers={SecureRequested: decision})
    assert outcome.replies[3:] == [reply]
    assert outcome.closed == "refused by the application"


def test_what_comes_in_after_the_handshake_waits_for_the_approval() -> None:
    connection = made()
    run(connection, EHLO)
    ask_with(connection, "STARTTLS")
    connection.tls_established(TLS)
    connection.receive_data(b"NOOP\r\n")
    assert kinds(connection) == [SecureRequested]
    assert connection.data_to_send() == b""
    connection.decide(ACCEPT)
    assert connection.next_event() is NEED_DATA
    assert connection.data_to_send() == b"250 2.0.0 OK\r\n"


@pytest.mark.parametrize("secure", [False, True])
def test_plaintext_in_place_of_a_handshake_ends_the_connection(*, secure: bool) -> None:
    connection = made(secure=secure)
    if secure:
        events(connection)
    else:
        run(connection, EHLO)
        ask_with(connection, "STARTTLS")
    connection.receive_data(b"QUIT\r\n")
    assert events(connection) == [ConnectionClosed("plaintext in place of a TLS handshake")]
    assert connection.data_to_send() == b""


# --- replies in groups (§1.1, RFC 2920) ---------------------------------------------------------


def test_replies_of_a_group_go_out_together() -> None:
    connection = made()
    run(connection, EHLO)
    connection.receive_data(b"RSET\r\nFOO\r\nHELP\r\nRSET\r\n")
    assert connection.next_event() is NEED_DATA
    assert connection.data_to_send().count(b"\r\n") == 4


@pytest.mark.parametrize("line", ["EHLO c.test", "EHLO", "VRFY b", "NOOP", "DATA", "AUTH FOO", "STARTTLS x"])
def test_the_reply_to_the_last_of_a_group_does_not_wait(line: str) -> None:
    connection = made()
    run(connection, EHLO)
    connection.receive_data(f"RSET\r\n{line}\r\nRSET\r\nFOO\r\n".encode())
    assert connection.next_event() is SEND
    assert connection.data_to_send().startswith(b"250 2.0.0 Flushed\r\n")
    assert connection.next_event() is NEED_DATA
    assert connection.data_to_send().count(b"\r\n") == 2


def test_an_earlier_group_does_not_end_a_later_one() -> None:
    connection = made()
    run(connection, EHLO)
    for line in ("FOO", "RSET"):
        connection.receive_data(f"{line}\r\nRSET\r\n".encode())
        assert connection.next_event() is NEED_DATA
        connection.data_to_send()


def test_replies_within_auth_do_not_wait() -> None:
    connection = made(allow_insecure_auth=True)
    run(connection, EHLO)
    connection.receive_data(b"AUTH LOGIN\r\ndQ==\r\n*\r\nRSET\r\n")
    said: list[bytes] = []
    while connection.next_event() is SEND:
        said.append(connection.data_to_send())
    assert [each[:3] for each in said] == [b"334", b"334", b"501"]


def test_replies_do_not_pile_up() -> None:
    connection = made()
    run(connection, EHLO)
    connection.receive_data(b"RSET\r\n" * 1000)
    replies = 0
    while (signal := connection.next_event()) is SEND:
        assert connection.next_event() is SEND  # it insists
        said = connection.data_to_send().count(b"\r\n")
        assert said == MANY_REPLIES
        replies += said
    assert signal is NEED_DATA
    assert replies + connection.data_to_send().count(b"\r\n") == 1000


# --- reading pauses (§1.1) ----------------------------------------------------------------------


def test_reading_pauses_while_enough_waits() -> None:
    connection = made()
    run(connection, EHLO)
    ask_with(connection, MAIL)
    assert connection.wants_data
    limit = connection.high_water
    connection.receive_data(b"RSET\r\n" * (limit // 6))
    assert connection.wants_data
    connection.receive_data(b"RSET\r\n")
    assert not connection.wants_data
    with pytest.raises(
        LocalProtocolError, match=r"receive_data while \d+ octets wait: call next_event and decide"
    ):
        connection.receive_data(b"x")
    connection.decide(ACCEPT)
    run(connection)
    assert connection.wants_data


def test_octets_of_a_piece_that_were_read_do_not_count_as_waiting() -> None:
    connection = made()
    run(connection, EHLO)
    mail = b"MAIL FROM:<a@example.com>\r\n"
    rest = b"x" * (connection.high_water - len(mail) + 10)
    connection.receive_data(mail + rest)
    assert not connection.wants_data
    assert isinstance(connection.next_event(), MailRequested)
    assert connection.wants_data


def test_after_its_end_the_input_is_not_wanted() -> None:
    connection = made()
    run(connection, EHLO)
    connection.receive_eof()
    connection.receive_eof()
    assert not connection.wants_data
    with pytest.raises(LocalProtocolError, match="receive_data after receive_eof: the input has ended"):
        connection.receive_data(b"x")
    assert events(connection) == [ConnectionClosed("eof")]
    connection.receive_data(b"x")
    assert not connection.wants_data


def test_what_was_asked_before_the_end_of_the_input_is_answered() -> None:
    connection = made()
    run(connection, EHLO)
    ask_with(connection, MAIL)
    connection.receive_data(b"NOOP\r\nRSE")
    connection.receive_eof()
    assert connection.next_event() is PAUSED
    connection.decide(ACCEPT)
    assert connection.next_event() is SEND
    assert connection.data_to_send() == b"250 2.1.0 Accepted\r\n250 2.0.0 OK\r\n"
    assert connection.next_event() == ConnectionClosed("eof")
    assert connection.next_event() is CLOSED


def test_a_client_that_stops_sending_is_still_greeted() -> None:
    connection = made()
    connection.receive_eof()
    events(connection)
    connection.decide(ACCEPT)
    assert kinds(connection) == [ClientConnected, ConnectionClosed]
    assert connection.data_to_send() == b"220 mx.test ESMTP\r\n"


def test_a_lost_connection_withdraws_its_question() -> None:
    connection = made()
    run(connection, EHLO)
    ask_with(connection, MAIL)
    connection.connection_lost()
    connection.connection_lost()
    assert connection.question is None
    assert events(connection) == [ConnectionClosed("connection lost")]


@pytest.mark.parametrize(
    ("lines", "pending"),
    [
        ([EHLO], False),
        ([b"EH"], True),
        ([b"EHLO \n"], True),
        ([b"EHLO \n", "x"], False),
        ([EHLO, b"\r"], True),
    ],
)
def test_whether_a_line_has_begun_can_be_seen(lines: list[str | bytes], *, pending: bool) -> None:
    connection = made()
    run(connection, *lines)
    assert connection.line_pending is pending


def test_in_a_message_no_line_is_pending() -> None:
    connection = made()
    assert not connection.line_pending
    run(connection, EHLO, MAIL, RCPT, "DATA", b"x")
    assert not connection.line_pending
    assert connection.in_message
    connection.receive_data(b"\r\n.\r\nNOO")
    while isinstance(connection.next_event(), Event):
        pass
    assert isinstance(connection.question, DataFinished)
    assert not connection.in_message
    connection.decide(ACCEPT)
    assert not connection.line_pending
    events(connection)
    assert connection.line_pending


def test_while_a_question_is_open_no_line_is_pending() -> None:
    connection = made()
    run(connection, EHLO)
    ask_with(connection, MAIL)
    connection.receive_data(b"RSE")
    assert not connection.line_pending


# --- decisions ----------------------------------------------------------------------------------


def test_without_a_question_there_is_nothing_to_decide() -> None:
    connection = made()
    with pytest.raises(DecisionError, match=r"Accept\(.*\) answers nothing: no question is open"):
        connection.decide(ACCEPT)  # it was not taken yet
    events(connection)
    connection.decide(ACCEPT)
    with pytest.raises(DecisionError, match="no question is open"):
        connection.decide(ACCEPT)


def test_a_handshake_is_not_answered_by_a_decision() -> None:
    connection = made(secure=True)
    events(connection)
    with pytest.raises(DecisionError, match=r"Accept.* does not answer NeedsTLS.*: call tls_established"):
        connection.decide(ACCEPT)
    connection.tls_established(TLS)


def test_a_decision_is_not_answered_by_a_handshake() -> None:
    connection = made()
    for _ in "12":
        with pytest.raises(
            LocalProtocolError, match="answers NeedsTLS and NeedsStartTLS, and neither is open"
        ):
            connection.tls_established(TLS)
        events(connection)
    connection = made(secure=True)
    with pytest.raises(LocalProtocolError, match="neither is open"):
        connection.tls_established(TLS)  # it was not taken yet


@pytest.mark.parametrize("decision", [None, True, "250", Challenge(b""), [ACCEPT], Accept])
def test_a_wrong_decision_names_both_sides_and_the_question_stays(decision: Any) -> None:
    connection = made()
    run(connection, EHLO)
    question = ask_with(connection, MAIL)
    with pytest.raises(DecisionError, match=r"does not answer MailRequested.*; it takes Accept, Reject\Z"):
        connection.decide(decision)
    assert connection.question is question
    connection.decide(ACCEPT)
    assert connection.state is State.MAIL


def test_what_an_event_takes_is_named_whole() -> None:
    connection = made(allow_insecure_auth=True)
    run(connection, EHLO)
    ask_with(connection, "AUTH PLAIN AHUAcA==")
    with pytest.raises(DecisionError, match="it takes Accept, Reject, Challenge"):
        connection.decide(None)
    connection = made(ask=OPTIONAL_QUESTIONS)
    events(connection)
    connection.decide(ACCEPT)
    ask_with(connection, "XYZ")
    with pytest.raises(DecisionError, match="it takes Accept, Reject, None"):
        connection.decide(Challenge(b""))
    connection.decide(None)


def test_nobody_is_there_to_take_a_challenge_for_xclient() -> None:
    connection = made(use_xclient=True)
    run(connection)
    ask_with(connection, "XCLIENT LOGIN=u")
    with pytest.raises(DecisionError, match="does not answer an XCLIENT LOGIN; it takes Accept, Reject"):
        connection.decide(Challenge(b""))
    connection.decide(Accept(user="u"))
    assert connection.session.user == "u"


def test_lmtp_takes_a_decision_for_each_recipient() -> None:
    def waiting() -> Connection:
        connection = made(lmtp=True)
        run(connection, "LHLO c.test", MAIL, RCPT, RCPT, "DATA")
        ask_with(connection, ".")
        return connection

    connection = waiting()
    for wrong in ([ACCEPT, None], ["yes", ACCEPT], [ACCEPT, Accept(251)], [ACCEPT], "ab"):
        with pytest.raises(DecisionError):
            connection.decide(wrong)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - the point
    connection.decide([Accept(250), Reject()])
    assert connection.data_to_send().count(b"\r\n") == 2
    for right in (ACCEPT, Reject(550), (Reject(), MyAccept())):
        connection = waiting()
        connection.decide(right)
        assert connection.data_to_send().count(b"\r\n") == 2


class MyAccept(Accept):
    pass


class MyReject(Reject):
    pass


def test_decisions_may_be_of_a_class_of_ones_own() -> None:
    assert play(EHLO, MAIL, answers={MailRequested: MyReject(450)})[-1][:3] == "450"
    assert play(EHLO, MAIL, answers={MailRequested: MyAccept(250)})[-1][:3] == "250"
    with pytest.raises(DecisionError, match="takes the codes 250"):
        play(EHLO, MAIL, answers={MailRequested: MyAccept(251)})


@pytest.mark.parametrize(
    ("line", "codes"),
    [
        ("EHLO c.test", {250}), (MAIL, {250}), (RCPT, {250, 251}), ("DATA", {250}),
        ("VRFY b", {250, 251, 252}), ("EXPN b", {250}), ("HELP", {211, 214}),
        ("AUTH PLAIN AHUAcA==", {235}), ("XYZ", set(range(200, 300))),
    ],
)  # fmt: skip
def test_a_command_accepts_with_its_own_codes(line: str, codes: set[int]) -> None:
    connection = made(ask=OPTIONAL_QUESTIONS, allow_insecure_auth=True)
    way = {RCPT: [EHLO, MAIL], "DATA": [EHLO, MAIL, RCPT]}.get(line, [EHLO] if line[:4] != "EHLO" else [])
    run(connection, *way)
    question = ask_with(connection, line)
    for code in set(range(200, 300)) - codes:
        with pytest.raises(DecisionError, match=rf"{type(question).__name__}: its Accept takes the codes 2"):
            connection.decide(Accept(code, user="u"))
    connection.decide(Accept(max(codes), user="u"))


def test_a_message_accepts_with_250_only() -> None:
    connection = made()
    run(connection, EHLO, MAIL, RCPT, "DATA")
    ask_with(connection, ".")
    with pytest.raises(DecisionError, match=r"DataFinished: its Accept takes the codes 250\Z"):
        connection.decide(Accept(251))
    connection.decide(Accept(250))


# --- time (§11.2) -------------------------------------------------------------------------------


def where(state: State) -> Connection:
    """A connection that stands in a state."""
    connection = made(
        use_proxy=state is State.PROXY, secure=state is State.HANDSHAKE, allow_insecure_auth=True
    )
    if state in {State.PROXY, State.HANDSHAKE, State.ARRIVED}:
        events(connection)
        return connection
    way: dict[State, list[str | bytes]] = {
        State.GREETED: [], State.READY: [EHLO], State.AUTH: [EHLO, "AUTH LOGIN"], State.MAIL: [EHLO, MAIL],
        State.RCPT: [EHLO, MAIL, RCPT], State.DATA: [EHLO, MAIL, RCPT, "DATA", b"x"], State.CLOSED: ["QUIT"],
    }  # fmt: skip
    run(connection, *way.get(state, []))
    if state in {State.UPGRADE, State.UPGRADED}:
        ask_with(connection, "STARTTLS")
    if state is State.UPGRADED:
        connection.tls_established(TLS)
        events(connection)
    assert connection.state is state
    return connection


def end_of(connection: Connection) -> tuple[str, list[Event]]:
    """What is said and told last."""
    told = events(connection)
    return connection.data_to_send().decode().removesuffix("\r\n"), told


AWAITING = {State.GREETED, State.READY, State.AUTH, State.MAIL, State.RCPT}
RUNS_IN: dict[Any, set[State]] = {
    "proxy_timeout": {State.PROXY},
    "tls_handshake_timeout": {State.HANDSHAKE, State.UPGRADE},
    "greeting_timeout": {State.ARRIVED},
    "socket_timeout": set(State) - {State.CLOSED},
    "command_timeout": AWAITING,
    "data_timeout": {State.DATA},
    "min_data_rate": {State.DATA},
    "session_timeout": AWAITING,
}


@pytest.mark.parametrize("kind", RUNS_IN)
@pytest.mark.parametrize("state", State)
def test_time_runs_out_where_it_runs(kind: Any, state: State) -> None:
    connection = where(state)
    connection.timeout(kind)
    said, told = end_of(connection)
    if state not in RUNS_IN[kind]:
        assert (said, told) == ("", [])
        assert connection.state is state
        return
    silent = {State.PROXY, State.HANDSHAKE, State.UPGRADE}
    expected = "" if state in silent else LATE.replace("4.4.2 ", "") if state is State.ARRIVED else LATE
    assert said == expected
    aborted = [DataAborted("timeout")] if state is State.DATA else []
    assert told == [*aborted, ConnectionClosed("timeout")]
    assert connection.next_event() is CLOSED


@pytest.mark.parametrize("cut", [len(b"\r\n.\r\n"), None], ids=["cut", "whole"])
def test_a_session_that_is_too_long_ends_when_a_command_is_awaited(cut: int | None) -> None:
    connection = where(State.DATA)
    connection.timeout("session_timeout")
    assert events(connection) == []
    connection.receive_data(b"\r\n.\r\nNOOP\r\n"[:cut])
    assert kinds(connection) == [DataChunk, DataFinished]
    connection.decide(ACCEPT)
    said, told = end_of(connection)
    assert said.split("\r\n") == ["250 2.6.0 OK: message queued", LATE]
    assert told == [ConnectionClosed("timeout")]


@pytest.mark.parametrize("kind", ["command_timeout", "data_timeout", "min_data_rate", "session_timeout"])
def test_while_the_application_thinks_no_time_runs(kind: Any) -> None:
    connection = made()
    run(connection, EHLO)
    ask_with(connection, MAIL)
    connection.timeout(kind)
    assert connection.next_event() is PAUSED
    connection = where(State.DATA)
    ask_with(connection, "\r\n.")
    connection.timeout(kind)
    assert connection.next_event() is PAUSED


def test_a_client_that_does_not_take_its_replies_is_closed_whatever_is_asked() -> None:
    connection = made()
    run(connection, EHLO)
    ask_with(connection, MAIL)
    connection.timeout("socket_timeout")
    assert end_of(connection) == (LATE, [ConnectionClosed("timeout")])
    assert connection.question is None


def test_an_unknown_timer_is_named() -> None:
    with pytest.raises(
        LocalProtocolError, match=r"'hook_timeout' is none of the timers proxy_timeout, .*session"
    ):
        made().timeout("hook_timeout")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - the point


# --- too many clients (§11.3) -------------------------------------------------------------------

TOO_MANY = "421 mx.test Too many connected clients, try again in a moment"


@pytest.mark.parametrize("options", [{}, {"use_proxy": True}, {"tls_upstream": True, "secure": True}])
@pytest.mark.parametrize("taken", [False, True])
def test_one_client_too_many_is_told_so_at_once(options: dict[str, Any], *, taken: bool) -> None:
    connection = made(**options)
    if taken:
        events(connection)
    connection.refuse()
    connection.refuse()
    assert end_of(connection) == (TOO_MANY, [ConnectionClosed("too many clients")])
    assert connection.question is None


@pytest.mark.parametrize("proxy", [False, True])
def test_under_implicit_tls_it_is_told_so_within_tls(*, proxy: bool) -> None:
    connection = made(secure=True, use_proxy=proxy)
    connection.refuse()
    if proxy:
        assert events(connection) == []
        connection.receive_data(HEADER)
        assert kinds(connection) == [ProxyReceived, NeedsTLS]
    else:
        assert kinds(connection) == [NeedsTLS]
    assert connection.data_to_send() == b""
    connection.tls_established(TLS)
    assert end_of(connection) == (TOO_MANY, [ConnectionClosed("too many clients")])


def test_a_client_may_be_too_many_after_the_handshake_too() -> None:
    connection = made(secure=True)
    events(connection)
    connection.tls_established(TLS)
    connection.refuse()
    assert end_of(connection) == (TOO_MANY, [ConnectionClosed("too many clients")])


def test_whoever_is_refused_within_tls_is_told_the_end_of_the_handshakes_clock_first() -> None:
    connection = made(secure=True)
    connection.refuse()
    events(connection)
    connection.tls_established(TLS)
    assert [connection.next_event() for _ in "123"] == [
        TimerChanged("tls_handshake_timeout", None), ConnectionClosed("too many clients"), CLOSED
    ]  # fmt: skip


def test_who_was_greeted_is_not_refused() -> None:
    for state in set(State) - {State.PROXY, State.HANDSHAKE, State.ARRIVED, State.CLOSED}:
        with pytest.raises(LocalProtocolError, match="refuse belongs before the greeting, not where "):
            where(state).refuse()


# --- shutdown (§12.2) ---------------------------------------------------------------------------


@pytest.mark.parametrize("state", State)
def test_a_shutdown_now_ends_everything(state: State) -> None:
    connection = where(state)
    connection.shutdown(now=True)
    said, told = end_of(connection)
    silent = {State.PROXY, State.HANDSHAKE, State.UPGRADE, State.CLOSED}
    expected = "" if state in silent else "421 Server shutting down" if state is State.ARRIVED else SHUT
    assert said == expected
    aborted = [DataAborted("shutdown")] if state is State.DATA else []
    assert told == ([] if state is State.CLOSED else [*aborted, ConnectionClosed("shutdown")])


@pytest.mark.parametrize("state", State)
def test_a_shutdown_now_may_say_something_else(state: State) -> None:
    connection = where(state)
    connection.shutdown(now=True, reply=Reject(421, "4.7.0", "Enough"))
    silent = {State.PROXY, State.HANDSHAKE, State.UPGRADE, State.CLOSED}
    before = state is State.ARRIVED
    assert end_of(connection)[0] == ("" if state in silent else f"421 {'' if before else '4.7.0 '}Enough")


@pytest.mark.parametrize("state", State)
def test_a_shutdown_waits_for_questions_and_transactions_only(state: State) -> None:
    connection = where(state)
    connection.shutdown()
    said, told = end_of(connection)
    if state in {State.ARRIVED, State.UPGRADED, State.MAIL, State.RCPT, State.DATA, State.CLOSED}:
        assert (said, told) == ("", [])
    else:
        assert said == ("" if state in {State.PROXY, State.HANDSHAKE, State.UPGRADE} else SHUT)
        assert told == [ConnectionClosed("shutdown")]


@pytest.mark.parametrize("secure", [False, True])
def test_behind_on_connect_the_421_stands_in_place_of_the_greeting(*, secure: bool) -> None:
    connection = made(secure=secure)
    events(connection)
    if secure:
        connection.tls_established(TLS)
        events(connection)
    connection.shutdown()
    connection.decide(ACCEPT)
    assert end_of(connection) == ("421 Server shutting down", [ConnectionClosed("shutdown")])


def test_behind_on_secure_comes_the_421() -> None:
    connection = where(State.UPGRADED)
    connection.shutdown()
    connection.decide(ACCEPT)
    assert end_of(connection) == (SHUT, [ConnectionClosed("shutdown")])
    connection = made(secure=True)
    events(connection)
    connection.tls_established(TLS)
    events(connection)
    connection.decide(ACCEPT)
    events(connection)
    connection.shutdown()
    connection.decide(ACCEPT)
    assert end_of(connection) == ("421 Server shutting down", [ConnectionClosed("shutdown")])


@pytest.mark.parametrize(
    ("lines", "replies"),
    [
        ([RCPT, "NOOP", "DATA", b"x\r\n.\r\n", "NOOP"], ["250", "250", "354", "250", "421"]),
        (["RSET", "NOOP"], ["250", "421"]),
        ([EHLO, "NOOP"], ["250", "421"]),
        (["QUIT"], ["221"]),
        (["STARTTLS", "NOOP"], ["220", "421"]),
        (["FOO", "DATA", RCPT], ["500", "503", "250"]),
    ],
)
def test_an_open_transaction_may_go_on_to_its_end(lines: list[str | bytes], replies: list[str]) -> None:
    connection = where(State.MAIL)
    connection.shutdown()
    assert [reply[:3] for reply in run(connection, *lines)] == replies


def test_a_message_on_its_way_gets_its_reply() -> None:
    connection = where(State.DATA)
    connection.shutdown()
    assert run(connection, b"\r\n.\r\n", "NOOP") == ["250 2.6.0 OK: message queued", SHUT]


def test_commands_behind_a_shutdown_are_not_served() -> None:
    connection = where(State.READY)
    connection.receive_data(b"NOOP\r\nVRFY b\r\n")
    connection.shutdown()
    assert end_of(connection) == (SHUT, [ConnectionClosed("shutdown")])


@pytest.mark.parametrize(("decision", "reply"), [(ACCEPT, "250"), (Reject(), "550")])
def test_the_command_that_runs_gets_its_reply_and_begins_nothing(decision: Any, reply: str) -> None:
    connection = where(State.READY)
    ask_with(connection, MAIL)
    connection.receive_data(RCPT.encode() + b"\r\n")
    connection.shutdown()
    assert connection.next_event() is PAUSED
    connection.decide(decision)
    said, told = end_of(connection)
    assert [line[:3] for line in said.split("\r\n")] == [reply, "421"]
    assert told == [ConnectionClosed("shutdown")]


def test_a_recipient_that_is_being_judged_belongs_to_its_transaction() -> None:
    connection = where(State.MAIL)
    ask_with(connection, RCPT)
    connection.shutdown()
    connection.decide(ACCEPT)
    assert run(connection, "DATA", b".\r\n")[-2:] == ["250 2.6.0 OK: message queued", SHUT]


def test_a_second_shutdown_may_be_sharper() -> None:
    connection = where(State.DATA)
    connection.shutdown()
    connection.shutdown(now=True)
    assert end_of(connection) == (SHUT, [DataAborted("shutdown"), ConnectionClosed("shutdown")])


# --- the end ------------------------------------------------------------------------------------


def test_at_the_end_nothing_has_an_effect() -> None:
    connection = where(State.CLOSED)
    facts = repr(vars(connection.session)), connection.session.error, connection.state
    connection.receive_data(b"NOOP\r\n")
    connection.receive_eof()
    connection.connection_lost()
    connection.timeout("socket_timeout")
    connection.timeout("session_timeout")
    connection.shutdown()
    connection.shutdown(now=True)
    connection.refuse()
    assert connection.next_event() is CLOSED
    assert connection.data_to_send() == b""
    assert (repr(vars(connection.session)), connection.session.error, connection.state) == facts


def test_a_conversation_from_the_greeting_to_the_end() -> None:
    outcome = converse(
        EHLO, "STARTTLS", None, EHLO, "AUTH PLAIN AHUAcA==", MAIL, RCPT, RCPT,
        "DATA", b"a\r\n..\r\n.\r\n", "QUIT", auth_optional=False,
    )  # fmt: skip
    assert [reply[:3] for reply in outcome.replies] == [
        "220", "250", "220", "250", "235", "250", "250", "250", "354", "250", "221"
    ]  # fmt: skip
    assert [type(event) for event in outcome.events if not isinstance(event, TimerChanged | DataChunk)] == [
        ConnectRequested, ClientConnected, NeedsStartTLS, SecureRequested, AuthRequested, MailRequested,
        RcptRequested, RcptRequested, DataStarted, DataFinished, ConnectionClosed,
    ]  # fmt: skip
    assert outcome.data == b"a\r\n.\r\n"
    assert outcome.session.transaction == 2
    assert outcome.session.user == "u"


def test_a_run_that_needs_no_answers_can_be_driven_by_hand() -> None:
    outcome = drive([[b"QUIT\r\n"]], ProtocolOptions(), {})
    assert outcome.closed == "quit"
