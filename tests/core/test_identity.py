# XCLIENT and XFORWARD: who may say who a client is, and what follows.

from __future__ import annotations

from typing import Any

import pytest

from smtpproto import (
    Accept,
    AuthRequested,
    Challenge,
    ClientConnected,
    DecisionError,
    ProtocolOptions,
    Reject,
    XClientCredentials,
)
from smtpproto._identity import bracketed
from smtpproto.testing import Outcome, converse, drive, settle

EHLO = "EHLO c.test"
MAIL = "MAIL FROM:<a@x.test>"
RCPT = "RCPT TO:<b@y.test>"
GREETING = "220 mx.test ESMTP"
NOT_ALLOWED = "550 5.7.0 Error: Not allowed"
BAD_SYNTAX = "501 5.5.4 Error: Bad command parameter syntax"
IN_TRANSACTION = "503 5.5.1 Error: Mail transaction in progress"


def trusted(*said: str | bytes | None, **how: Any) -> Outcome:
    how.setdefault("use_xclient", True)
    how.setdefault("use_xforward", True)
    return converse(*said, **how)


# --- who may (§9.2, §9.3, §2.5) -----------------------------------------------------------------


@pytest.mark.parametrize("verb", ["XCLIENT", "XFORWARD"])
@pytest.mark.parametrize(
    ("peers", "peer", "may"),
    [
        (True, "192.0.2.1", True), (True, "", True), (False, "192.0.2.1", False),
        (["192.0.2.0/24"], "192.0.2.1", True), (["192.0.2.0/24"], "::ffff:192.0.2.1", True),
        (["192.0.2.0/24"], "203.0.113.1", False), (["192.0.2.0/24"], "", False),
    ],
)  # fmt: skip
def test_only_listed_peers_may(verb: str, peers: object, peer: str, *, may: bool) -> None:
    how: dict[str, Any] = {f"use_{verb.lower()}": peers}
    outcome = converse(f"{verb} NAME=c.test", made_with={"remote": (peer, 1)}, **how)
    assert (outcome.replies[1] != NOT_ALLOWED) is may
    assert (outcome.replies[1][0] == "2") is may


@pytest.mark.parametrize("verb", ["XCLIENT", "XFORWARD"])
def test_behind_a_proxy_its_address_is_judged(verb: str) -> None:
    header = b"PROXY TCP4 203.0.113.1 192.0.2.25 1 25\r\n"
    for peers, reply in ((["203.0.113.1"], "2"), (["192.0.2.1"], "5")):
        how: dict[str, Any] = {f"use_{verb.lower()}": peers, "use_proxy": True}
        assert converse(header, None, f"{verb} NAME=c.test", **how).replies[1][0] == reply


def test_trust_does_not_follow_the_address_that_was_given() -> None:
    how: dict[str, Any] = {"use_xclient": ["192.0.2.1"], "use_xforward": ["192.0.2.1"]}
    outcome = converse("XCLIENT ADDR=192.0.2.1", "XCLIENT NAME=a", "XFORWARD NAME=a", EHLO, **how)
    assert outcome.replies[1:4] == [GREETING, NOT_ALLOWED, NOT_ALLOWED]
    assert "XCLIENT" not in outcome.replies[4]
    assert "XFORWARD" not in outcome.replies[4]


def test_without_an_address_xclient_may_be_repeated() -> None:
    outcome = trusted("XCLIENT NAME=a.test", "XCLIENT PORT=7", "XCLIENT ADDR=192.0.2.7", "XCLIENT PORT=8")
    assert outcome.replies[1:] == [GREETING, GREETING, GREETING, NOT_ALLOWED]
    assert outcome.session.remote_port == 7


@pytest.mark.parametrize("verb", ["XCLIENT", "XFORWARD"])
def test_an_open_transaction_is_in_the_way(verb: str) -> None:
    for before in ([EHLO, MAIL], [EHLO, MAIL, RCPT]):
        assert trusted(*before, f"{verb} FOO").replies[-1] == IN_TRANSACTION
    assert trusted(EHLO, MAIL, "RSET", f"{verb} NAME=a").replies[-1][0] == "2"


@pytest.mark.parametrize(
    "line", ["", " FOO=1", " NAME=a NAME=b", " NAME", " NAME=", " PORT=65536", " NAME=+00"]
)
@pytest.mark.parametrize("verb", ["XCLIENT", "XFORWARD"])
def test_one_fault_refuses_all(verb: str, line: str) -> None:
    outcome = trusted(f"{verb}{line}", f"{verb} ADDR=192.0.2.7{line}" if line else verb)
    assert outcome.replies[1:] == [BAD_SYNTAX, BAD_SYNTAX]
    session = outcome.session
    assert (session.xclient, session.xforward, session.remote_address) == ({}, {}, "192.0.2.1")
    assert trusted(f"{verb} ADDR=nowhere").replies[1] == f"{BAD_SYNTAX}. Invalid address"


# --- XCLIENT (§9.2) -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "facts"),
    [
        ("ADDR=198.51.100.7", ("198.51.100.7", 4321, "[198.51.100.7]")),
        ("addr=IPV6:2001:DB8::7", ("2001:db8::7", 4321, "[2001:db8::7]")),
        ("ADDR=198.51.100.7 NAME=C.Test PORT=99", ("198.51.100.7", 99, "c.test")),
        ("NAME=c.test ADDR=198.51.100.7", ("198.51.100.7", 4321, "c.test")),
        ("NAME=[UNAVAILABLE] ADDR=198.51.100.7", ("198.51.100.7", 4321, "[198.51.100.7]")),
        ("NAME=[tempunavail]", ("192.0.2.1", 4321, "[192.0.2.1]")),
        ("PORT=[UNAVAILABLE] ADDR=[UNAVAILABLE]", ("192.0.2.1", 4321, "[192.0.2.1]")),
        ("PROTO=ESMTP HELO=c.test", ("192.0.2.1", 4321, "[192.0.2.1]")),
    ],
)
def test_the_client_is_who_it_is_said_to_be(attributes: str, facts: tuple[str, int, str]) -> None:
    session = trusted(f"XCLIENT {attributes}").session
    assert (session.remote_address, session.remote_port, session.client_hostname) == facts
    assert (session.opening_command, session.host_name_appears_as) == ("", "")


def test_all_values_are_kept_with_those_before_the_first_change() -> None:
    outcome = trusted("XCLIENT NAME=a.test PROTO=smtp LOGIN=", "XCLIENT ADDR=198.51.100.7 HELO=[UNAVAILABLE]")
    assert outcome.session.xclient == {
        "ADDR:DEFAULT": "192.0.2.1", "NAME:DEFAULT": "[192.0.2.1]", "PORT:DEFAULT": "4321",
        "NAME": "a.test", "PROTO": "SMTP", "LOGIN": "", "ADDR": "198.51.100.7", "HELO": None,
    }  # fmt: skip


def test_a_client_without_an_address_is_local() -> None:
    outcome = trusted("XCLIENT NAME=[UNAVAILABLE]", made_with={"remote": ("", 0)})
    assert outcome.session.client_hostname == "[local]"
    assert bracketed("") == "[local]"
    assert bracketed("::1") == "[::1]"


def test_the_session_goes_back_to_the_state_behind_the_greeting() -> None:
    how: dict[str, Any] = {"allow_insecure_auth": True}
    outcome = trusted(
        EHLO, "AUTH PLAIN AHUAcA==", "XFORWARD NAME=a", "FOO", "XCLIENT NAME=c.test", MAIL, **how
    )
    assert outcome.replies[5:] == [GREETING, "503 5.5.1 Error: send HELO/EHLO first"]
    session = outcome.session
    assert (session.user, session.opening_command, session.xforward) == (None, "", {})
    assert outcome.connection.unknown == 1
    assert trusted("STARTTLS", None, EHLO, "XCLIENT NAME=c.test").session.secure


def test_the_greeting_has_its_banner_and_no_code() -> None:
    assert trusted("XCLIENT NAME=a", banner="hi").replies == ["220 mx.test ESMTP hi"] * 2
    assert trusted("XCLIENT NAME=a", lmtp=True).replies == ["220 mx.test LMTP"] * 2


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (["XCLIENT NAME=c.test"], 0), (["XCLIENT ADDR=[UNAVAILABLE]"], 0),
        (["XCLIENT ADDR=198.51.100.7"], 1), (["XCLIENT ADDR=198.51.100.7", EHLO, MAIL], 1),
    ],
)  # fmt: skip
def test_the_client_is_announced_with_its_address_once(said: list[str], told: int) -> None:
    assert len(trusted(*said).of(ClientConnected)) == told


# --- LOGIN --------------------------------------------------------------------------------------


def test_a_trusted_peer_may_name_the_user() -> None:
    outcome = trusted("XCLIENT LOGIN=u+40x ADDR=198.51.100.7", EHLO, MAIL, auth_optional=False)
    (event,) = outcome.of(AuthRequested)
    assert event.session is outcome.session
    assert isinstance(event.auth, XClientCredentials)
    assert (event.auth.method, event.auth.username, event.auth.password) == ("XCLIENT", "u@x", None)
    assert outcome.session.user == "u@x"
    assert [reply[:3] for reply in outcome.replies] == ["220", "220", "250", "250"]
    kinds = [type(event) for event in outcome.events]
    assert kinds.index(AuthRequested) < kinds.index(ClientConnected)


@pytest.mark.parametrize("login", ["", "[UNAVAILABLE]", "[tempunavail]"])
def test_an_empty_name_is_no_login(login: str) -> None:
    outcome = trusted(f"XCLIENT LOGIN={login}")
    assert outcome.replies[1] == GREETING
    assert outcome.of(AuthRequested) == []
    assert outcome.session.user is None


@pytest.mark.parametrize(
    ("decision", "reply"),
    [
        (Accept(), "550 5.7.8 Authentication credentials invalid"),
        (Accept(user=""), "550 5.7.8 Authentication credentials invalid"),
        (Reject(), "550 5.7.8 Authentication credentials invalid"),
        (Reject(535), "550 5.7.8 Authentication credentials invalid"),
        (Reject(535, "5.7.9", "no"), "550 5.7.8 no"),
        (Reject(text=["no", "way"]), "550-5.7.8 no\n550 5.7.8 way"),
        (Reject(451), "451 4.3.0 Error: internal error, please try again later"),
        (Reject(421, text="away"), "421 4.3.2 away"),
    ],
)
def test_a_refused_login_ends_the_connection(decision: Accept | Reject, reply: str) -> None:
    outcome = trusted("XCLIENT LOGIN=u", "NOOP", answers={AuthRequested: decision})
    assert outcome.replies[1:] == [reply]
    assert outcome.closed == "XCLIENT LOGIN refused"
    assert outcome.session.user is None


def test_a_login_is_replaced() -> None:
    how: dict[str, Any] = {
        "allow_insecure_auth": True,
        "answers": {AuthRequested: [Accept(user="a"), Accept(user="b")]},
    }
    assert trusted(EHLO, "AUTH PLAIN AHUAcA==", "XCLIENT LOGIN=b", **how).session.user == "b"


def test_there_is_nobody_to_challenge() -> None:
    options = ProtocolOptions(use_xclient=True)
    outcome = drive([], options, {})
    settle(outcome, {})
    outcome.connection.receive_data(b"XCLIENT LOGIN=u\r\n")
    outcome.connection.next_event()
    with pytest.raises(DecisionError, match="does not answer an XCLIENT LOGIN; it takes Accept, Reject"):
        outcome.connection.decide(Challenge(b""))
    assert isinstance(outcome.connection.question, AuthRequested)
    outcome.connection.decide(Accept(user="u"))
    assert outcome.session.user == "u"


# --- XFORWARD (§9.3) ----------------------------------------------------------------------------

UNSAID: dict[str, str | None] = dict.fromkeys(["NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE"])


def test_xforward_is_for_the_application_and_changes_nothing_else() -> None:
    outcome = trusted(EHLO, "XFORWARD NAME=c.test ADDR=198.51.100.7 PORT=9 source=local", MAIL)
    session = outcome.session
    assert outcome.replies[2:] == ["250 2.0.0 OK", "250 2.1.0 Accepted"]
    assert session.xforward == UNSAID | {
        "NAME": "c.test", "ADDR": "198.51.100.7", "PORT": "9", "SOURCE": "LOCAL"
    }  # fmt: skip
    assert (session.remote_address, session.remote_port) == ("192.0.2.1", 4321)
    assert (session.client_hostname, session.opening_command) == ("[192.0.2.1]", "EHLO")


def test_the_first_xforward_makes_the_others_unavailable_and_the_next_ones_add() -> None:
    outcome = trusted("XFORWARD NAME=c.test", "XFORWARD IDENT=1 NAME=[UNAVAILABLE]")
    assert outcome.session.xforward == UNSAID | {"IDENT": "1"}


@pytest.mark.parametrize("line", ["RSET", EHLO, "HELO a", "STARTTLS", "XCLIENT NAME=a"])
def test_xforward_ends_with_the_transaction(line: str) -> None:
    assert trusted(EHLO, "XFORWARD NAME=c.test", line, None).session.xforward == {}


def test_xforward_ends_with_the_message() -> None:
    said = (EHLO, "XFORWARD NAME=c.test", MAIL, RCPT, "DATA")
    assert trusted(*said).session.xforward["NAME"] == "c.test"
    assert trusted(*said, b".\r\n").session.xforward == {}


def test_xforward_outlives_a_refused_sender() -> None:
    assert trusted(EHLO, "XFORWARD NAME=c.test", "MAIL FROM:a").session.xforward["NAME"] == "c.test"


def test_after_xclient_with_an_address_xforward_is_over() -> None:
    assert trusted("XCLIENT ADDR=198.51.100.7", "XFORWARD NAME=a").replies[-1] == NOT_ALLOWED
