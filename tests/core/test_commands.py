# Commands: the gates before them, what each does, and what it leaves alone.

from __future__ import annotations

from typing import Any

import pytest

from smtpproto import (
    OPTIONAL_QUESTIONS,
    Accept,
    AuthRequested,
    ClientConnected,
    CommandRequested,
    DataAborted,
    Envelope,
    ExpandRequested,
    HelloRequested,
    HelpRequested,
    MailRequested,
    MessageDsn,
    NeedsStartTLS,
    ProtocolOptions,
    QuitReceived,
    RcptRequested,
    Reject,
    TransactionReset,
    VerifyRequested,
)
from smtpproto.testing import converse, message, play

EHLO = "EHLO c.test"
MAIL = "MAIL FROM:<a@x.test>"
RCPT = "RCPT TO:<b@y.test>"
NOT_RECOGNIZED = "500 5.5.2 Error: command not recognized"
INVALID = "500 5.5.2 Error: invalid characters in command line"
TOO_MANY_UNKNOWN = "421 4.7.0 Error: too many unrecognized commands"
TOO_MANY_UNAUTHENTICATED = "421 4.7.0 Error: too many unauthenticated commands"
HELO_FIRST = "503 5.5.1 Error: send HELO/EHLO first"
LOGIN = "AUTH PLAIN AHUAcA=="


def last(*said: str | bytes | None, **how: Any) -> str:
    """The last reply of a conversation behind EHLO."""
    return play(EHLO, *said, **how)[-1]


FRESH = Envelope().facts()


# --- lines (§5.1) -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line", [b"NOOP\n", b"NO\rOP\r\n", b"NOOP \0\r\n", b"\x1b\r\n", b"NOOP \x7f\r\n", b"NOOP \xff\r\n"]
)
def test_what_no_command_line_may_contain_is_answered_once_and_counted(line: bytes) -> None:
    outcome = converse(line.removesuffix(b"\r\n") + b" rest\r\n", "NOOP")
    assert outcome.replies[1:] == [INVALID, "250 2.0.0 OK"]
    assert outcome.connection.unknown == 1


def test_a_line_over_the_limit_is_answered_at_once_and_dropped() -> None:
    fits = b"NOOP " + b"x" * (512 - 7) + b"\r\n"
    outcome = converse(fits, b"x" + fits, "NOOP", max_line_length=512)
    assert outcome.replies[1:] == ["250 2.0.0 OK", "500 5.5.2 Error: Line too long", "250 2.0.0 OK"]
    assert outcome.connection.unknown == 1


def test_the_limit_is_told_before_the_line_has_ended() -> None:
    assert play(b"x" * 513, max_line_length=512)[1:] == ["500 5.5.2 Error: Line too long"]


def test_a_line_without_end_ends_the_connection() -> None:
    outcome = converse(b"x" * (8 * 512 + 1), "NOOP", max_line_length=512)
    assert outcome.replies[1:] == [
        "500 5.5.2 Error: Line too long", "421 4.7.0 Error: Command line too long"
    ]  # fmt: skip
    assert outcome.closed == "endless line"


def test_an_auth_line_has_a_limit_and_a_code_of_its_own() -> None:
    fits = b"auth plain " + b"A" * (12288 - 13) + b"\r\n"
    how: dict[str, Any] = {"allow_insecure_auth": True, "max_line_length": 512}
    assert last(fits, **how)[:9] == "501 5.5.2"
    too_long = ["500 5.5.6 Error: Line too long", "250 2.0.0 OK"]
    assert play(EHLO, b"auth plain A" + fits[11:], "NOOP", **how)[2:] == too_long
    outcome = converse(EHLO, "AUTH LOGIN", b"A" * 12287 + b"\r\n", "NOOP", **how)
    assert outcome.replies[3:] == too_long
    assert outcome.connection.failed_logins == outcome.connection.unknown == 1
    assert last("AUTH LOGIN", b"A" * 12286 + b"\r\n", **how)[:9] == "501 5.5.2"


def test_a_faulty_line_within_auth_may_be_the_last_unknown_command() -> None:
    how: dict[str, Any] = {"allow_insecure_auth": True, "max_unknown_commands": 2}
    assert last("FOO", "AUTH LOGIN", b"\0\r\n", **how) == TOO_MANY_UNKNOWN
    assert last("AUTH LOGIN", b"\0\r\n", **how) == INVALID
    assert last("AUTH LOGIN", "FOO", **how) == "501 5.5.2 Error: invalid base64"


@pytest.mark.parametrize(
    "line",
    ["", " ", "\t", " NOOP", "\tNOOP", "NOOP\t1", "FOO", "LHLO c.test", "PROXY UNKNOWN", "Ñ", "NOOPÑ"],
)
def test_what_is_no_command_is_counted(line: str) -> None:
    outcome = converse(line, "RSET")
    assert outcome.replies[1:] == [NOT_RECOGNIZED, "250 2.0.0 Flushed"]
    assert outcome.connection.unknown == 1


def test_no_letter_outside_ascii_stands_for_one_within() -> None:
    assert play("r\u017fet")[1] == NOT_RECOGNIZED  # whose upper case is S


@pytest.mark.parametrize("line", ["noop", "NoOp", "NOOP ", "NOOP \t ", "NOOP\t", "NOOP é"])
def test_a_verb_is_read_in_any_case_and_blanks_at_the_end_are_dropped(line: str) -> None:
    assert play(line)[1] == "250 2.0.0 OK"


@pytest.mark.parametrize("line", ["Subject: x", "Received:", "X-Foo: a b", "MAIL:", "subject: x"])
def test_a_header_where_a_command_belongs_ends_the_connection(line: str) -> None:
    outcome = converse(line, "NOOP")
    assert outcome.replies[1:] == ["421 4.7.0 Error: not an SMTP command"]
    assert outcome.closed


@pytest.mark.parametrize("line", [":", "Subject:x", "Subject :x", "MAIL FROM:<a@x.test>"])
def test_a_colon_elsewhere_does_not(line: str) -> None:
    assert play(line, "NOOP")[2] == "250 2.0.0 OK"


METHODS = ["OPTIONS", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "PRI"]


@pytest.mark.parametrize("method", METHODS)
def test_a_browser_is_sent_away(method: str) -> None:
    outcome = converse(f"{method} /mail?x HTTP/1.1", "NOOP")
    assert outcome.replies[1:] == ["421 4.7.0 HTTP requests not allowed"]
    assert outcome.closed == "HTTP request"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_browser_is_sent_away_within_auth_as_well(method: str) -> None:
    outcome = converse(EHLO, "AUTH LOGIN", f"{method} / HTTP/1.1", allow_insecure_auth=True)
    assert outcome.replies[3:] == ["421 4.7.0 HTTP requests not allowed"]


@pytest.mark.parametrize(
    "line", ["GET / HTTP/", "GET /", "GET  / HTTP/1.1", "get / http/1.1", "GET / HTTP/1.1 x"]
)
def test_what_is_not_quite_http_is_an_unknown_command(line: str) -> None:
    assert play(line)[1] == NOT_RECOGNIZED


WHY: list[tuple[list[str | bytes], dict[str, Any], str]] = [
    (["Subject: x"], {}, "a header where a command belongs"),
    (["GET / HTTP/1.1"], {}, "HTTP request"),
    (["XYZZY"], {"max_unknown_commands": 1}, "too many unrecognized commands"),
    (
        [EHLO, "MAIL FROM:<a@x.test>"],
        {"auth_optional": False, "allow_insecure_auth": True, "max_allowed_unauthenticated_commands": 1},
        "too many unauthenticated commands",
    ),
]


@pytest.mark.parametrize(("said", "options", "reason"), WHY, ids=[reason for *_, reason in WHY])
def test_whoever_is_sent_away_is_sent_away_for_a_reason(
    said: list[str | bytes], options: dict[str, Any], reason: str
) -> None:
    assert converse(*said, **options).closed == reason


def test_bytes_behind_quit_are_dropped() -> None:
    outcome = converse("QUIT", "NOOP", b"x" * 300)
    assert outcome.replies[1:] == ["221 2.0.0 Bye"]
    assert outcome.closed == "quit"


def test_the_last_incomplete_line_is_dropped() -> None:
    outcome = converse(EHLO, b"MAIL FROM:<a@x.test>", eof=True)
    assert len(outcome.replies) == 2
    assert outcome.closed == "eof"


# --- gates (§5.2) -------------------------------------------------------------------------------


@pytest.mark.parametrize("line", [MAIL, RCPT, "DATA", "AUTH PLAIN", "MAIL", "DATA x", "AUTH"])
def test_hello_goes_first(line: str) -> None:
    assert play(line)[1] == HELO_FIRST
    assert play(line, lmtp=True)[1] == "503 5.5.1 Error: send LHLO first"


@pytest.mark.parametrize("line", ["RSET", "NOOP", "VRFY b", "HELP", "STARTTLS", "QUIT"])
def test_these_need_no_hello(line: str) -> None:
    assert play(line)[1][0] == "2"


@pytest.mark.parametrize("line", [MAIL, "MAIL", "AUTH PLAIN AHUAcA==", "AUTH"])
def test_needs_upgrade_asks_for_starttls(line: str) -> None:
    refused = "530 5.7.0 Must issue a STARTTLS command first"
    assert last(line, needs_upgrade=True) == refused
    assert play(line, needs_upgrade=True)[1] == HELO_FIRST
    assert last(line, needs_upgrade=True, auth_optional=False, allow_insecure_auth=True) == refused
    assert last("STARTTLS", None, EHLO, line, needs_upgrade=True) != refused
    assert last(line, needs_upgrade=True, tls_upstream=True) != refused


@pytest.mark.parametrize("line", ["NOOP", "RSET", "VRFY b", "HELP"])
def test_needs_upgrade_leaves_the_others_alone(line: str) -> None:
    assert last(line, needs_upgrade=True)[0] == "2"


@pytest.mark.parametrize("line", [MAIL, RCPT, "DATA", "MAIL", "DATA x"])
def test_mail_needs_a_login(line: str) -> None:
    how = {"auth_optional": False, "auth_required_message": "Log in\r\nfirst"}
    assert last(line, **how) == "530 5.7.0 Log in first"
    assert last(line, auth_optional=False) == "530 5.7.0 Error: authentication Required"
    assert last(LOGIN, line, allow_insecure_auth=True, **how)[:3] != "530"
    assert last(line, auth_methods=(), **how)[:3] != "530"
    assert last(line, disabled_commands=("AUTH",), **how)[:3] != "530"


# --- counters (§11.4) ---------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["FOO", "EXPN b", "BDAT 1", "", "NOOP \0"])
def test_the_tenth_unknown_command_ends_the_connection(line: str) -> None:
    replies = play(*[line] * 9, "NOOP", line, "NOOP")
    assert len(replies) == 12
    assert replies[-2:] == ["250 2.0.0 OK", TOO_MANY_UNKNOWN]


def test_a_complete_message_pays_for_unknown_commands_and_rset_does_not() -> None:
    unknown = ["FOO"] * 9
    assert last(*unknown, *message(b"x\r\n"), *unknown) == NOT_RECOGNIZED
    assert last(*unknown, "RSET", EHLO, *unknown) == TOO_MANY_UNKNOWN


def test_nine_commands_are_served_without_a_login_and_the_tenth_is_the_last() -> None:
    replies = play(*["NOOP"] * 11, auth_optional=False)
    assert replies[1:] == ["250 2.0.0 OK"] * 9 + [TOO_MANY_UNAUTHENTICATED]


@pytest.mark.parametrize(
    "line",
    ["RSET", "RSET x", "VRFY", "HELP", "STARTTLS x", MAIL, "DATA", EHLO, "HELO", "XCLIENT", "XFORWARD"],
)
def test_every_command_counts_refused_or_not(line: str) -> None:
    replies = play(line, line, auth_optional=False, max_allowed_unauthenticated_commands=2)
    assert replies[2] == TOO_MANY_UNAUTHENTICATED


@pytest.mark.parametrize("line", ["FOO", "EXPN b", "QUIT x", "TURN"])
def test_unknown_commands_and_quit_do_not_count_as_commands_without_a_login(line: str) -> None:
    outcome = converse(line, auth_optional=False, max_allowed_unauthenticated_commands=1)
    assert outcome.connection.unauthenticated == 0


def test_after_the_login_nothing_is_counted() -> None:
    how = {"auth_optional": False, "allow_insecure_auth": True, "max_allowed_unauthenticated_commands": 2}
    assert last(LOGIN, *["NOOP"] * 30, **how) == "250 2.0.0 OK"


@pytest.mark.parametrize("limit", [False, None])
def test_the_count_may_be_off(limit: object) -> None:
    assert last(*["NOOP"] * 30, auth_optional=False, max_allowed_unauthenticated_commands=limit)[:3] == "250"
    assert last(*["FOO"] * 30, max_unknown_commands=None) == NOT_RECOGNIZED


# --- HELO, EHLO, LHLO (§5.3) --------------------------------------------------------------------


def test_helo_has_one_line_and_no_codes() -> None:
    outcome = converse("helo C.Test")
    assert outcome.replies[1] == "250 mx.test Nice to meet you, [192.0.2.1]"
    assert outcome.session.opening_command == "HELO"
    assert outcome.session.host_name_appears_as == "c.test"
    assert outcome.session.transmission_type == "SMTP"


@pytest.mark.parametrize(("verb", "lmtp"), [("HELO", False), ("EHLO", False), ("LHLO", True)])
@pytest.mark.parametrize("argument", ["", " a b", "  a", " é", " " + "x" * 256])
def test_hello_takes_one_word(verb: str, argument: str, *, lmtp: bool) -> None:
    assert play(verb.lower() + argument, lmtp=lmtp)[1] == f"501 Error: syntax: {verb} hostname"


@pytest.mark.parametrize("name", ["x" * 255, "[192.0.2.1]", "[IPv6:::1]", "a_b", "!", "-"])
def test_hello_takes_any_word(name: str) -> None:
    assert converse(f"EHLO {name}").session.host_name_appears_as == name.lower()


OFFERED = [
    "PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "DSN", "AUTH PLAIN LOGIN", "STARTTLS",
    "REQUIRETLS", "SIZE 1000", "XCLIENT NAME ADDR PORT PROTO HELO LOGIN",
    "XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE", "X-OWN 1",
]  # fmt: skip
EVERYTHING: dict[str, Any] = {
    "hide_dsn": False, "hide_requiretls": False, "size": 1000, "use_xclient": True, "use_xforward": True,
    "allow_insecure_auth": True, "ehlo_keywords": ["X-OWN 1"],
}  # fmt: skip


def offered(*said: str | None, **options: Any) -> list[str]:
    """The lines of the last EHLO, without the first."""
    reply = play(*said, "LHLO c.test" if options.get("lmtp") else EHLO, **options)[-1]
    return [line[4:] for line in reply.split("\n")[1:]]


def without(*words: str) -> list[str]:
    return [line for line in OFFERED if line.split(" ")[0] not in words]


def test_extensions_are_offered_in_their_order() -> None:
    assert offered(**EVERYTHING) == without("REQUIRETLS")
    assert offered("STARTTLS", None, **EVERYTHING) == without("STARTTLS")
    assert offered(tls_upstream=True, **EVERYTHING) == without("STARTTLS")


def test_by_default_few_are_offered() -> None:
    expected = ["PIPELINING", "8BITMIME", "SMTPUTF8", "STARTTLS"]
    assert offered(hide_enhancedstatuscodes=None) == expected
    assert offered(hide_enhancedstatuscodes=None, made_with={"tls_available": False}) == expected[:-1]
    expected.insert(3, "ENHANCEDSTATUSCODES")
    assert offered(lmtp=True, hide_enhancedstatuscodes=None) == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hide_pipelining": True}, ["PIPELINING"]),
        ({"hide_8bitmime": True}, ["8BITMIME"]),
        ({"hide_smtputf8": True}, ["SMTPUTF8"]),
        ({"hide_enhancedstatuscodes": True}, ["ENHANCEDSTATUSCODES"]),
        ({"hide_dsn": True}, ["DSN"]),
        ({"hide_starttls": True}, ["STARTTLS"]),
        ({"hide_size": True}, ["SIZE"]),
        ({"size": None}, ["SIZE"]),
        ({"auth_methods": ()}, ["AUTH"]),
        ({"allow_insecure_auth": False}, ["AUTH"]),
        ({"needs_upgrade": True}, ["AUTH"]),
        ({"use_xclient": False}, ["XCLIENT"]),
        ({"use_xclient": ["203.0.113.1"]}, ["XCLIENT"]),
        ({"use_xforward": False}, ["XFORWARD"]),
        ({"ehlo_keywords": ()}, ["X-OWN"]),
        ({"disabled_commands": ["AUTH", "STARTTLS"]}, ["AUTH", "STARTTLS"]),
        ({"disabled_commands": ["xclient", "xforward"]}, ["XCLIENT", "XFORWARD"]),
    ],
)
def test_what_is_off_is_not_offered(options: dict[str, Any], words: list[str]) -> None:
    assert offered(**{**EVERYTHING, **options}) == without("REQUIRETLS", *words)


def test_requiretls_is_hidden_unless_it_is_shown() -> None:
    assert "REQUIRETLS" not in offered("STARTTLS", None)


def test_who_is_logged_in_is_not_offered_auth() -> None:
    assert "AUTH PLAIN LOGIN" not in offered(EHLO, LOGIN, allow_insecure_auth=True)


def test_methods_are_offered_in_their_order() -> None:
    methods = ["xoauth2", "LOGIN", "cram-md5"]
    assert "AUTH XOAUTH2 LOGIN CRAM-MD5" in offered(auth_methods=methods, allow_insecure_auth=True)


def test_hidden_extensions_work() -> None:
    how: dict[str, Any] = {
        "hide_pipelining": True, "hide_8bitmime": True, "hide_smtputf8": True, "hide_starttls": True,
        "hide_size": True, "size": 10,
    }  # fmt: skip
    assert last("MAIL FROM:<é@x.test> SMTPUTF8 BODY=8BITMIME RET=FULL SIZE=10", **how) == "250 2.1.0 Accepted"
    assert last("MAIL FROM:<a@x.test> SIZE=11", **how)[:9] == "552 5.3.4"
    assert last("STARTTLS", None, EHLO, "MAIL FROM:<a@x.test> REQUIRETLS", **how) == "250 2.1.0 Accepted"


def test_hidden_enhanced_codes_are_off() -> None:
    assert play(EHLO, MAIL, "FOO", hide_enhancedstatuscodes=True)[2:] == [
        "250 Accepted", "500 Error: command not recognized"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("response", "said"),
    [
        ("", "mx.test Nice to meet you, [192.0.2.1]"),
        ("%s", "mx.test"),
        ("hi", "hi"),
        ("%d 100% %s %s %s.", "%d 100% mx.test [192.0.2.1] ."),
        ("a\r\nb", "a b"),
        (" ", "mx.test"),
        ("x" * 600, "x" * 506),
    ],
)
def test_the_first_line_of_hello_can_be_chosen(response: str, said: str) -> None:
    assert play("HELO c.test", helo_response=response)[1] == f"250 {said}"
    assert play(EHLO, helo_response=response)[1].split("\n")[0] == f"250-{said}"


def test_hello_may_be_repeated_and_ends_a_transaction() -> None:
    outcome = converse(EHLO, MAIL, RCPT, "HELO d.test", "DATA", MAIL)
    assert outcome.replies[5:] == ["503 5.5.1 Error: need RCPT command", "250 2.1.0 Accepted"]
    assert outcome.session.opening_command == "HELO"
    assert converse(EHLO, MAIL, RCPT, EHLO).session.envelope.facts() == FRESH


def test_a_wrong_hello_changes_nothing() -> None:
    assert last(MAIL, RCPT, "EHLO", "DATA")[:3] == "354"


def test_in_lmtp_only_lhlo_is_a_hello() -> None:
    replies = play("helo a", "EHLO", "LHLO a", lmtp=True)
    assert replies[:3] == [
        "220 mx.test LMTP",
        "500 Error: HELO not allowed in LMTP server",
        "500 Error: EHLO not allowed in LMTP server",
    ]
    assert replies[3].startswith("250-mx.test Nice to meet you")
    assert converse("EHLO a", lmtp=True).connection.unknown == 1


def test_after_helo_extensions_are_not_in_use() -> None:
    helo = "HELO c.test"
    assert play(helo, "MAIL FROM:<a@x.test> SIZE=1")[2] == "555 5.5.4 Error: unsupported parameter"
    assert play(helo, "MAIL FROM:<a@x.test> X=1", unknown_parameters="accept")[2][:3] == "555"
    assert play(helo, MAIL, "RCPT TO:<b@y.test> NOTIFY=NEVER")[3][:3] == "555"
    assert play(helo, "AUTH PLAIN", allow_insecure_auth=True)[2] == "503 5.5.1 Error: send EHLO first"
    assert play(helo, "STARTTLS")[2][:3] == "220"
    assert play(helo, MAIL)[2] == "250 2.1.0 Accepted"


@pytest.mark.parametrize("verb", ["helo", "EHLO"])
def test_hello_can_be_asked_for(verb: str) -> None:
    how: dict[str, Any] = {"made_with": {"ask": [HelloRequested]}}
    (event,) = converse(f"{verb} C.test", **how).of(HelloRequested)
    assert (event.verb, event.name) == (verb.upper(), "C.test")
    assert converse(verb, **how).of(HelloRequested) == []
    for refusal, reply in [
        (Reject(), "550 Requested action not taken"),
        (Reject(504, "5.5.4", "no"), "504 no"),
        (Reject(text="5.7.1 no"), "550 no"),
    ]:
        outcome = converse(f"{verb} c.test", MAIL, answers={HelloRequested: refusal}, **how)
        assert outcome.replies[1:] == [reply, HELO_FIRST]
        assert outcome.session.opening_command == ""
    closed = converse(f"{verb} c.test", MAIL, answers={HelloRequested: Reject(421)}, **how)
    assert closed.replies[1:] == ["421 Service not available, closing connection"]


def test_an_accepted_hello_has_one_line_of_the_applications() -> None:
    how: dict[str, Any] = {"made_with": {"ask": [HelloRequested]}}
    for text in ("a\r\nSIZE 1", ["a", "SIZE 1"]):
        answers = {HelloRequested: Accept(text=text)}
        assert play("HELO c.test", answers=answers, **how)[1] == "250 a SIZE 1"
        assert play(EHLO, answers=answers, **how)[1].split("\n")[:2] == ["250-a SIZE 1", "250-PIPELINING"]
    assert play("HELO c.test", answers={HelloRequested: Accept(text="")}, **how)[1][:11] == "250 mx.test"


# --- MAIL (§5.4) --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line", ["MAIL FROM:<a@x.test>", "mail from:  <a@x.test>", "Mail From:<@r.test:a@x.test>"]
)
def test_mail_is_accepted(line: str) -> None:
    outcome = converse(EHLO, line)
    assert outcome.replies[2] == "250 2.1.0 Accepted"
    assert outcome.session.envelope.mail_from is not None
    assert outcome.session.envelope.mail_from.address == "a@x.test"


@pytest.mark.parametrize(
    "line",
    ["MAIL", "MAIL FROM", "MAIL FROM:", "MAIL FROM:a@x.test", "MAIL  FROM:<a@x.test>",
     "MAIL FROM :<a@x.test>", "MAIL TO:<a@x.test>", "MAIL FROM:<Postmaster>", "MAIL FROM:<a@x\t.test>"],
)  # fmt: skip
def test_a_bad_sender_is_refused(line: str) -> None:
    assert last(line) == "501 5.1.7 Error: Bad sender address syntax"


def test_an_open_transaction_is_seen_behind_the_syntax_and_before_the_parameters() -> None:
    assert last(MAIL, "MAIL FROM:<>") == "503 5.5.1 Error: nested MAIL command"
    assert last(MAIL, RCPT, "MAIL FROM:<> X=1") == "503 5.5.1 Error: nested MAIL command"
    assert last(MAIL, "MAIL FROM:a") == "501 5.1.7 Error: Bad sender address syntax"


@pytest.mark.parametrize(
    ("parameters", "reply"),
    [
        (" SIZE=1 SIZE=1 X=1", "501 5.5.4 Error: Bad command parameter syntax"),
        (" X=1 SIZE=x", "555 5.5.4 Error: unsupported parameter"),
        (" BODY=x SIZE=x", "501 5.5.4 Invalid SIZE parameter value"),
        (" REQUIRETLS=1", "530 5.7.0 REQUIRETLS not permitted on non-TLS connections"),
        ("SIZE=1", "501 5.5.4 Error: Bad command parameter syntax"),
    ],
)
def test_parameters_are_judged(parameters: str, reply: str) -> None:
    outcome = converse(EHLO, f"MAIL FROM:<a@x.test>{parameters}")
    assert outcome.replies[2] == reply
    assert outcome.session.envelope.facts() == FRESH


def test_unknown_parameters_may_be_kept() -> None:
    outcome = converse(EHLO, "MAIL FROM:<a@x.test> X-Y=1 z", unknown_parameters="accept")
    assert outcome.of(MailRequested)[0].address.args == {"X-Y": "1", "Z": True}


def test_the_envelope_is_readable_before_the_decision() -> None:
    seen: list[dict[str, str]] = []

    def look(event: MailRequested) -> Reject:
        seen.append(event.session.envelope.facts())
        return Reject()

    outcome = converse(EHLO, "MAIL FROM:<> SIZE=7 BODY=8BITMIME RET=HDRS", answers={MailRequested: look})
    assert seen[0] == {
        **FRESH, "declared_size": 7, "body_type": "8bitmime", "dsn": MessageDsn("HDRS")
    }  # fmt: skip
    assert outcome.replies[2] == "550 5.1.1 Requested action not taken"
    assert outcome.session.envelope.facts() == FRESH


def test_a_refused_mail_may_be_said_again() -> None:
    assert last(MAIL, MAIL, answers={MailRequested: [Reject(451)]}) == "250 2.1.0 Accepted"
    assert last(MAIL, RCPT, answers={MailRequested: Reject()}) == "503 5.5.1 Error: need MAIL command"


@pytest.mark.parametrize(
    ("decision", "reply"),
    [
        (Accept(), "250 2.1.0 Accepted"),
        (Accept(text="fine"), "250 2.1.0 fine"),
        (Accept(text="2.5.0 fine"), "250 2.5.0 fine"),
        (Reject(), "550 5.1.1 Requested action not taken"),
        (Reject(text="go"), "550 5.1.1 go"),
        (Reject(553, text="go"), "553 5.1.3 go"),
        (Reject(450), "450 4.2.1 Requested action not taken"),
        (Reject(text="a\r\nb"), "550-5.1.1 a\n550 5.1.1 b"),
        (Reject(text="é"), "550 5.1.1 ?"),
    ],
)
def test_the_application_may_say_it_its_way(decision: Accept | Reject, reply: str) -> None:
    assert last(MAIL, answers={MailRequested: decision}) == reply
    assert last("MAIL FROM:<> SMTPUTF8", answers={MailRequested: decision}) == reply.replace("?", "é")


@pytest.mark.parametrize("kind", [MailRequested, RcptRequested])
def test_a_421_closes(kind: type[MailRequested | RcptRequested]) -> None:
    outcome = converse(EHLO, MAIL, RCPT, "NOOP", answers={kind: Reject(421, text="go away")})
    assert outcome.replies[-1] == "421 4.3.2 go away"
    assert outcome.closed == "refused with 421"


def test_an_address_outside_ascii_needs_smtputf8() -> None:
    refused = "553 5.6.7 Error: SMTPUTF8 required for this address"
    assert last("MAIL FROM:<é@x.test>") == refused
    assert last("MAIL FROM:<é@x.test> SMTPUTF8") == "250 2.1.0 Accepted"
    assert last("MAIL FROM:<é@x.test>", require_smtputf8=False) == "250 2.1.0 Accepted"
    assert last(MAIL, "RCPT TO:<é@x.test>") == refused
    assert last("MAIL FROM:<> SMTPUTF8", "RCPT TO:<é@x.test>") == "250 2.1.5 Accepted"
    assert last(MAIL, "RCPT TO:<é@x.test>", require_smtputf8=False) == "250 2.1.5 Accepted"


def test_a_declared_size_may_reach_the_limit_and_not_pass_it() -> None:
    assert last("MAIL FROM:<> SIZE=100", size=100) == "250 2.1.0 Accepted"
    too_large = "552 5.3.4 Error: message exceeds fixed maximum message size 100"
    assert last("MAIL FROM:<> SIZE=101", size=100) == too_large
    assert last("MAIL FROM:<> SIZE=101", size=100, enforce_size=False) == too_large
    assert last("MAIL FROM:<é@x.test> SIZE=101", size=100)[:3] == "553"
    assert last("MAIL FROM:<> SIZE=" + "9" * 20) == "250 2.1.0 Accepted"


def test_lenient_addresses_are_lenient() -> None:
    assert last("MAIL FROM :<.a..b@x_y.test>")[:3] == "501"
    assert last("MAIL FROM :<.a..b@x_y.test>", lenient_addresses=True) == "250 2.1.0 Accepted"
    assert last(MAIL, "RCPT TO:<a.@x.test>", lenient_addresses=True) == "250 2.1.5 Accepted"


# --- RCPT (§5.5) --------------------------------------------------------------------------------


def test_recipients_are_kept_in_order_and_twice() -> None:
    outcome = converse(EHLO, MAIL, RCPT, "RCPT TO:<pOstmaster>", "rcpt to: <b@y.test>")
    assert list(map(str, outcome.session.envelope.rcpt_to)) == ["b@y.test", "pOstmaster", "b@y.test"]
    assert outcome.replies[3:] == ["250 2.1.5 Accepted"] * 3


@pytest.mark.parametrize(
    "line", ["RCPT", "RCPT TO:<>", "RCPT TO:b@y.test", "RCPT FROM:<b@y.test>", "RCPT  TO:<b@y.test>"]
)
def test_a_bad_recipient_is_refused(line: str) -> None:
    refused = "501 5.1.3 Error: Bad recipient address syntax"
    assert last(MAIL, line) == refused
    assert last(line) == refused


def test_a_recipient_needs_a_sender() -> None:
    assert last(RCPT) == "503 5.5.1 Error: need MAIL command"
    assert last("RCPT TO:<b@y.test> X=1") == "503 5.5.1 Error: need MAIL command"


def test_recipients_beyond_the_limit_are_refused_and_the_others_stay() -> None:
    outcome = converse(EHLO, MAIL, RCPT, RCPT, "RCPT TO:<c@y.test> X=1", "DATA", max_recipients=2)
    assert outcome.replies[5] == "452 4.5.3 Error: too many recipients"
    assert outcome.replies[6][:3] == "354"
    assert len(outcome.session.envelope.rcpt_to) == 2
    assert last(MAIL, *[RCPT] * 5, max_recipients=None) == "250 2.1.5 Accepted"


def test_parameters_of_a_recipient_are_judged() -> None:
    assert last(MAIL, "RCPT TO:<b@y.test> NOTIFY=X")[:9] == "501 5.5.4"
    assert last(MAIL, "RCPT TO:<é@y.test> NOTIFY=X")[:9] == "501 5.5.4"
    outcome = converse(EHLO, MAIL, "RCPT TO:<b@y.test> NOTIFY=DELAY,failure ORCPT=rfc822;a+40b")
    dsn = outcome.session.envelope.rcpt_to[0].dsn
    assert (dsn.notify, dsn.orcpt) == (("DELAY", "FAILURE"), "rfc822;a@b")


@pytest.mark.parametrize(
    ("decision", "reply"),
    [
        (Accept(), "250 2.1.5 Accepted"),
        (Accept(251), "251 2.1.5 "),
        (Accept(251, text="forwarded"), "251 2.1.5 forwarded"),
        (Reject(), "550 5.1.1 Requested action not taken"),
        (Reject(452), "452 4.2.2 Insufficient resources"),
        (Reject(enhanced="4.2.0"), "451 4.2.0 Error: internal error, please try again later"),
    ],
)
def test_a_recipient_is_accepted_or_refused(decision: Accept | Reject, reply: str) -> None:
    outcome = converse(EHLO, MAIL, RCPT, answers={RcptRequested: decision})
    assert outcome.replies[3].startswith(reply)
    assert len(outcome.session.envelope.rcpt_to) == (reply[0] == "2")


def test_a_refused_recipient_changes_nothing() -> None:
    answers = {RcptRequested: [Accept(), Reject()]}
    assert last(MAIL, RCPT, RCPT, "DATA", answers=answers)[:3] == "354"
    assert last(MAIL, RCPT, "DATA", answers={RcptRequested: Reject()}) == "503 5.5.1 Error: need RCPT command"


# --- the others (§5.6) --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("RSET", "250 2.0.0 Flushed"),
        ("RSET x", "501 5.5.4 Error: syntax: RSET"),
        ("NOOP", "250 2.0.0 OK"),
        ("NOOP é", "250 2.0.0 OK"),
        ("QUIT x", "501 5.5.4 Error: syntax: QUIT"),
        ("VRFY b", "252 2.1.5 Try to send something. No promises though"),
        ("VRFY", "501 5.5.4 Error: syntax: VRFY string"),
        ("HELP", "214 2.0.0 See https://tools.ietf.org/html/rfc5321 for details"),
        ("HELP me", "214 2.0.0 See https://tools.ietf.org/html/rfc5321 for details"),
        *((f"{verb} x", "502 5.5.1 Error: command not implemented")
          for verb in ("EXPN", "TURN", "ETRN", "SEND", "SOML", "SAML", "BDAT")),
    ],
)  # fmt: skip
def test_the_fixed_replies(line: str, reply: str) -> None:
    outcome = converse(EHLO, MAIL, RCPT, line, "NOOP")
    assert outcome.replies[4:] == [reply, "250 2.0.0 OK"]
    assert outcome.connection.unknown == (reply[:3] == "502")


@pytest.mark.parametrize("line", ["NOOP", "VRFY b", "HELP", "EXPN b", "RSET x", "QUIT x", "FOO", "EHLO"])
def test_these_do_not_touch_a_transaction(line: str) -> None:
    assert last(MAIL, RCPT, line, "DATA")[:3] == "354"


def test_rset_ends_the_transaction_and_keeps_hello_and_login() -> None:
    outcome = converse(EHLO, LOGIN, MAIL, RCPT, "RSET", "DATA", MAIL, allow_insecure_auth=True)
    assert outcome.replies[5:] == [
        "250 2.0.0 Flushed", "503 5.5.1 Error: need RCPT command", "250 2.1.0 Accepted"
    ]  # fmt: skip
    assert outcome.session.user == "u"
    assert outcome.session.transaction == 1
    assert converse(EHLO, MAIL, RCPT, "RSET").session.envelope.facts() == FRESH


@pytest.mark.parametrize("verb", ["VRFY", "NOOP", "QUIT", "MAIL", "DATA", "EHLO", "STARTTLS", "BDAT"])
def test_a_disabled_command_is_an_unknown_one(verb: str) -> None:
    outcome = converse(f"{verb} x", disabled_commands=[verb.lower()], made_with={"ask": OPTIONAL_QUESTIONS})
    assert outcome.replies[1] == NOT_RECOGNIZED
    assert outcome.connection.unknown == 1


def test_the_name_tested_is_the_one_sent() -> None:
    assert play("LHLO c.test", lmtp=True, disabled_commands=["EHLO"])[1][:3] == "250"
    assert play("LHLO c.test", lmtp=True, disabled_commands=["LHLO"])[1] == NOT_RECOGNIZED


# --- questions that are asked on request (§1.1) -------------------------------------------------

QUESTIONS: list[tuple[type[Any], str, str, str]] = [
    (VerifyRequested, "VRFY", "252 2.1.5 Try to send something. No promises though",
     "550 5.1.1 Requested action not taken"),
    (ExpandRequested, "EXPN", "250 2.0.0 OK", "550 5.1.1 Requested action not taken"),
    (HelpRequested, "HELP", "214 2.0.0 See https://tools.ietf.org/html/rfc5321 for details",
     "502 5.5.1 Error: command not implemented"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "verb", "yes", "no"), QUESTIONS)
def test_the_application_may_answer_itself(kind: type[Any], verb: str, yes: str, no: str) -> None:
    def say(decision: Accept | Reject) -> str:
        outcome = converse(f"{verb.lower()} B c", answers={kind: decision}, made_with={"ask": [kind]})
        assert [event.argument for event in outcome.of(kind)] == ["B c"]
        assert outcome.connection.unknown == 0
        return outcome.replies[1]

    assert say(Accept()) == yes
    assert say(Accept(text=["one", "two"])) == f"{yes[:3]}-{yes[4:9]} one\n{yes[:10]}two"
    assert say(Reject()) == no
    assert say(Reject(450)) == "450 4.2.1 Requested action not taken"
    assert say(Reject(421)) == "421 4.3.2 Service not available, closing connection"


@pytest.mark.parametrize(("kind", "verb"), [(VerifyRequested, "VRFY"), (ExpandRequested, "EXPN")])
def test_whom_to_look_for_must_be_said(kind: type[Any], verb: str) -> None:
    outcome = converse(verb, made_with={"ask": [kind]})
    assert outcome.replies[1] == f"501 5.5.4 Error: syntax: {verb} string"
    assert outcome.of(kind) == []


def test_expn_counts_as_a_command_once_it_is_one() -> None:
    how: dict[str, Any] = {"auth_optional": False, "max_allowed_unauthenticated_commands": 2}
    assert play("EXPN b", "EXPN b", made_with={"ask": [ExpandRequested]}, **how)[1:] == [
        "250 2.0.0 OK", TOO_MANY_UNAUTHENTICATED
    ]  # fmt: skip


def test_a_verb_of_the_applications_own() -> None:
    def own(*said: str, answer: Accept | Reject | None, **options: Any) -> tuple[list[str], int, list[Any]]:
        how: dict[str, Any] = {
            "answers": {CommandRequested: answer},
            "made_with": {"ask": [CommandRequested]},
        }
        outcome = converse(*said, **how, **options)
        return outcome.replies[1:], outcome.connection.unknown, outcome.of(CommandRequested)

    replies, unknown, events = own("xyz Ab c", answer=Accept(299, text="done"))
    assert (replies, unknown) == (["299 2.0.0 done"], 0)
    assert [(event.verb, event.argument) for event in events] == [("XYZ", "Ab c")]
    assert own("XYZ", answer=Accept())[:2] == (["250 2.0.0 OK"], 0)
    assert own("XYZ", answer=Reject())[:2] == ([NOT_RECOGNIZED], 0)
    assert own("XYZ", answer=Reject(421))[0] == ["421 4.3.2 Service not available, closing connection"]
    assert own("XYZ", answer=None)[:2] == ([NOT_RECOGNIZED], 1)
    for line in ("x_z", "Ñ", "", "LHLO a", "Subject: x", "GET / HTTP/1.1"):
        assert own(line, answer=Accept())[2] == []
    for verb in ("TURN", "ETRN", "SEND", "SOML", "SAML", "BDAT", "EXPN"):  # before every 502
        replies, unknown, events = own(f"{verb} x", answer=Accept(text="done"))
        assert (replies, unknown) == (["250 2.0.0 done"], 0)
        assert [(event.verb, event.argument) for event in events] == [(verb, "x")]
        assert own(verb, answer=None)[:2] == (["502 5.5.1 Error: command not implemented"], 1)
        assert own(verb, answer=Reject())[:2] == (["502 5.5.1 Error: command not implemented"], 0)
    limits: dict[str, Any] = {"auth_optional": False, "max_allowed_unauthenticated_commands": 2}
    assert own("XYZ", "XYZ", answer=Accept(), **limits)[0] == ["250 2.0.0 OK", TOO_MANY_UNAUTHENTICATED]


@pytest.mark.parametrize("verb", ["RSET", "HELO c.test", "EHLO c.test", "STARTTLS"])
def test_the_end_of_a_transaction_and_of_a_session_may_be_told(verb: str) -> None:
    ask: dict[str, Any] = {"made_with": {"ask": [TransactionReset, QuitReceived]}}
    outcome = converse(EHLO, MAIL, verb, None, "QUIT", **ask)
    assert outcome.of(TransactionReset) == [TransactionReset(verb.split(maxsplit=1)[0])]
    assert outcome.of(QuitReceived) == [QuitReceived()]
    assert converse(EHLO, verb, None, "QUIT x", **ask).of(TransactionReset) == []
    assert converse(EHLO, MAIL, verb, None, "QUIT").of(TransactionReset) == []
    assert converse("QUIT").of(QuitReceived) == []


# --- ClientConnected (§3.1) ---------------------------------------------------------------------


@pytest.mark.parametrize(("said", "told"), [([], 0), ([EHLO, RCPT], 0), ([EHLO, MAIL, "RSET", MAIL], 1)])
def test_who_may_say_xclient_is_announced_with_mail_at_the_latest(said: list[str], told: int) -> None:
    assert len(converse(*said, use_xclient=True).of(ClientConnected)) == told
    assert len(converse(*said).of(ClientConnected)) == 1
    assert len(converse(*said, use_xclient=True, disabled_commands=["XCLIENT"]).of(ClientConnected)) == 1


# --- STARTTLS (§8.1) ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "how", "reply"),
    [
        (["STARTTLS x"], {}, "501 5.5.4 Error: syntax: STARTTLS"),
        (["STARTTLS x"], {"tls_upstream": True}, "501 5.5.4 Error: syntax: STARTTLS"),
        (["STARTTLS"], {"tls_upstream": True}, "503 5.5.1 Error: TLS already active"),
        (["STARTTLS"], {"secure": True}, "503 5.5.1 Error: TLS already active"),
        (["STARTTLS", None, "STARTTLS"], {}, "503 5.5.1 Error: TLS already active"),
        (["STARTTLS"], {"made_with": {"tls_available": False}},
         "454 4.7.0 TLS not available due to temporary reason"),
        (["STARTTLS", "NOOP"], {"made_with": {"tls_available": False}}, "250 2.0.0 OK"),
        (["STARTTLS"], {"disabled_commands": ["STARTTLS"]}, NOT_RECOGNIZED),
        (["STARTTLS"], {"hide_starttls": True}, "220 2.0.0 Ready to start TLS"),
    ],
)  # fmt: skip
def test_starttls(said: list[str | None], how: dict[str, Any], reply: str) -> None:
    assert play(*said, **how)[-1] == reply
    assert play(EHLO, MAIL, *said, **how)[-1] == reply


@pytest.mark.parametrize("behind", [b"x", b"NOOP\r\n", b"\r\n", b"\x16\x03\x01"])
def test_plaintext_behind_starttls_is_never_read(behind: bytes) -> None:
    from smtpproto.testing import drive  # noqa: PLC0415 - one cut only: the cut is the subject

    outcome = drive(
        [[b"STARTTLS\r\n" + behind]], ProtocolOptions(name="mx.test", hide_enhancedstatuscodes=False), {}
    )
    assert outcome.replies[1:] == ["554 5.5.0 Error: data after STARTTLS"]
    assert outcome.closed == "data after STARTTLS"
    assert outcome.of(NeedsStartTLS) == []


def test_starttls_ends_a_transaction() -> None:
    outcome = converse(EHLO, MAIL, RCPT, "STARTTLS", None, EHLO, "DATA")
    assert outcome.replies[-1] == "503 5.5.1 Error: need RCPT command"
    assert not outcome.of(DataAborted)


def test_a_login_is_not_asked_for_on_the_way() -> None:
    assert converse(EHLO, MAIL).of(AuthRequested) == []
