# The client in memory, and servers as it sees them.

from __future__ import annotations

from typing import Any, Final

import pytest

from smtpproto import Accept, Connection, DataFinished, ProtocolOptions, RcptRequested, Reject
from smtpproto.testing import ENTROPY, CheckedConnection, Client, ConnectionEndpoint, split_replies
from smtpproto.testing._endpoint import masked


def test_a_client_hears_the_greeting_first() -> None:
    assert Client(ConnectionEndpoint()).greeting == "220 mx.test ESMTP"


def test_a_client_hears_the_replies_to_what_it_says() -> None:
    client = Client(ConnectionEndpoint())
    assert client.say("HELO a", b"NOOP\r\nVR", b"FY b\r\n") == [
        "250 mx.test Nice to meet you, [local]",
        "250 OK",
        "252 Try to send something. No promises though",
    ]
    assert not client.closed
    assert client.say("QUIT") == ["221 Bye"]
    assert client.closed


def test_lines_of_one_reply_are_one_text() -> None:
    assert Client(ConnectionEndpoint()).say("EHLO a")[0].split("\n")[1:] == [
        "250-PIPELINING", "250-8BITMIME", "250-SMTPUTF8", "250 STARTTLS",
    ]  # fmt: skip


def sent(content: bytes) -> bytes:
    """What arrives of a message that a client sends."""
    endpoint = ConnectionEndpoint()
    client = Client(endpoint)
    client.say("EHLO a")
    assert client.send_message(content)[-1] == "250 OK: message queued"
    return endpoint.outcome.data


@pytest.mark.parametrize("content", [b"", b"a\r\n", b".\r\n", b"..a\r\n.\r\n.b\r\n", b"\r\n\r\n"])
def test_a_message_arrives_as_it_was_given(content: bytes) -> None:
    assert sent(content) == content


def test_a_message_gets_the_line_end_that_it_lacks() -> None:
    assert sent(b"a\r\n.b") == b"a\r\n.b\r\n"


REFUSED: Final[list[tuple[dict[str, Any], list[str]]]] = [
    ({"sender": "nobody"}, ["501 Error: Bad sender address syntax"]),
    ({"parameters": "SIZE=x"}, ["501 Invalid SIZE parameter value"]),
    ({"to": []}, ["250 Accepted", "503 Error: need RCPT command"]),
    (
        {"to": ["nobody"], "parameters": "SIZE=1"},
        ["250 Accepted", "501 Error: Bad recipient address syntax", "503 Error: need RCPT command"],
    ),
]


@pytest.mark.parametrize(("how", "replies"), REFUSED)
def test_a_refused_message_is_not_sent(how: dict[str, Any], replies: list[str]) -> None:
    client = Client(ConnectionEndpoint())
    client.say("EHLO a")
    assert client.send_message(b"x\r\n", **how) == replies


def test_answers_are_used_up_in_turn_and_not_in_the_caller_s_list() -> None:
    answers = {RcptRequested: [Reject(452, text="full"), Accept()], DataFinished: Accept(text="as 1")}
    for _ in "12":
        client = Client(ConnectionEndpoint(Connection(ProtocolOptions(auth_optional=True)), answers))
        client.say("EHLO a")
        replies = client.send_message(to=["b@y.test", "c@y.test"])
        assert replies[1:3] == ["452 full", "250 Accepted"]
        assert replies[4] == "250 as 1"


def test_any_kind_of_connection_can_be_spoken_to() -> None:
    connection = CheckedConnection(
        ProtocolOptions(name="mx.test", lmtp=True), tls_available=True, entropy=ENTROPY
    )
    client = Client(ConnectionEndpoint(connection))
    assert client.greeting == "220 mx.test LMTP"
    assert client.say("STARTTLS") == ["220 2.0.0 Ready to start TLS"]
    assert client.say("LHLO a")[0].endswith("AUTH PLAIN LOGIN")
    assert connection.session.secure


def test_a_server_that_waits_greets_with_nothing() -> None:
    client = Client(ConnectionEndpoint(Connection(ProtocolOptions(name="mx.test", use_proxy=True))))
    assert client.greeting == ""
    assert client.say("PROXY UNKNOWN") == ["220 mx.test ESMTP"]


def test_the_end_of_the_input_ends_the_connection() -> None:
    client = Client(ConnectionEndpoint())
    client.say("NOOP", b"VRFY")
    assert client.end() == []
    assert client.closed


def test_a_transcript_has_a_line_for_each_and_no_secrets() -> None:
    options = ProtocolOptions(name="mx.test", allow_insecure_auth=True, auth_methods=("PLAIN",))
    client = Client(ConnectionEndpoint(Connection(options)))
    client.say("EHLO a", "AUTH PLAIN")
    client.say("AHUAcA==")
    client.say("VRFY \x00ü")
    client.say(b"\xff\r\n")
    assert client.transcript.split("\n") == [
        "S: 220 mx.test ESMTP", "C: EHLO a", "C: AUTH PLAIN", "S: 250-mx.test Nice to meet you, [local]",
        "S: 250-PIPELINING", "S: 250-8BITMIME", "S: 250-SMTPUTF8", "S: 250 AUTH PLAIN", "S: 334", "C: ***",
        "S: 235 Authentication successful", "C: VRFY \\x00ü",
        "S: 500 Error: invalid characters in command line", "C: \\xff",
        "S: 500 Error: invalid characters in command line",
    ]  # fmt: skip


MASKED: Final = [
    (["AUTH PLAIN AHUAcA==", "NOOP"], ["AUTH PLAIN ***", "NOOP"]),
    (["auth plain", "AHUAcA==", "noop", "AHUAcA=="], ["auth plain", "***", "noop", "AHUAcA=="]),
    (["AUTH LOGIN", "dQ==", "cA==", "MAIL FROM:<>"], ["AUTH LOGIN", "***", "***", "MAIL FROM:<>"]),
    (["AUTH LOGIN", "*", "x"], ["AUTH LOGIN", "*", "x"]),
    (["AUTH", "AUTH PLAIN a b c"], ["AUTH", "AUTH PLAIN ***"]),
]


@pytest.mark.parametrize(("said", "shown"), MASKED)
def test_what_auth_was_told_is_masked(said: list[str], shown: list[str]) -> None:
    assert masked(said) == shown


NO_REPLIES: Final = [
    (b"220 a", "a line of a reply without its CRLF: b'220 a'"),
    (b"220-a\r\n", "a reply whose last line is missing: "),
    (b"hello\r\n", "not a line of a reply: b'hello'"),
    (b"220 a\nb\r\n", "not a line of a reply: b'220 a\\\\nb'"),
]


@pytest.mark.parametrize(("answered", "words"), NO_REPLIES)
def test_what_is_no_reply_is_told(answered: bytes, words: str) -> None:
    with pytest.raises(AssertionError, match=f"^{words}"):
        split_replies(answered, errors="backslashreplace")


def test_replies_may_be_bare_codes_and_need_not_be_utf_8() -> None:
    sent = b"220\r\n250-a\r\n250 \xff\r\n"
    assert split_replies(sent, errors="backslashreplace") == ["220", "250-a\n250 \\xff"]
