# What an application is told when it is wrong, word for word: each text names both sides.

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from smtpproto import (
    ACCEPT,
    Accept,
    ConfigurationError,
    Connection,
    ConnectRequested,
    DataFinished,
    DecisionError,
    LocalProtocolError,
    MailRequested,
    ProtocolOptions,
    RcptRequested,
)
from smtpproto.extending import Check, Engine
from smtpproto.testing import converse, message

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS = "must be a number of seconds above 0, or None for no limit"
COUNT = "must be a whole number, 1 or more, or None for no limit"
WORDS = "must be a list of words"
PEERS = "must be True, False or a list of addresses and networks"
CHOICE = "must be 'reject' or 'accept'"
KEYWORD = "is not an EHLO line (RFC 5321 §4.1.1.1)"
MECHANISM = "a mechanism is a name (RFC 4422 §3.1) and a callable"
BUILT_IN = ("PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2")
TIMERS = (
    "proxy_timeout, tls_handshake_timeout, greeting_timeout, socket_timeout, command_timeout, data_timeout, "
    "min_data_rate, session_timeout"
)
TEXTS: list[tuple[dict[str, Any], str]] = [
    ({"lmtp": 1}, "lmtp must be True or False, not 1"),
    ({"hide_enhancedstatuscodes": "no"}, "hide_enhancedstatuscodes must be True or False, not 'no'"),
    ({"name": b"mx"}, "name must be text, not b'mx'"),
    ({"socket_timeout": 0}, f"socket_timeout {SECONDS}, not 0"),
    ({"size": 0}, f"size {COUNT}, not 0"),
    ({"max_line_length": None}, "max_line_length must be a whole number, 512 or more, not None"),
    ({"bare_newlines": "x"}, f"bare_newlines {CHOICE}, not 'x'"),
    ({"disabled_commands": "VRFY"}, f"disabled_commands {WORDS}, not one text, not 'VRFY'"),
    ({"disabled_commands": 1}, f"disabled_commands {WORDS}, not 1"),
    ({"disabled_commands": [1]}, f"disabled_commands {WORDS}, not [1]"),
    ({"ehlo_keywords": ["X Y!", "é"]}, f"ehlo_keywords 'é' {KEYWORD}, not ['X Y!', 'é']"),
    ({"use_proxy": "::1"}, f"use_proxy {PEERS}, not '::1'"),
    ({"use_proxy": 1}, f"use_proxy {PEERS}, not 1"),
    ({"sasl_mechanisms": 1}, "sasl_mechanisms must map mechanism names to factories, not int"),
    ({"sasl_mechanisms": {"x": 1}}, f"sasl_mechanisms 'X': {MECHANISM}, not dict"),
    (
        {"auth_methods": ["X"]},
        f"auth_methods names 'X', which is neither one of {', '.join(BUILT_IN)} nor in sasl_mechanisms",
    ),
]


@pytest.mark.parametrize(("options", "text"), TEXTS, ids=[text for _, text in TEXTS])
def test_a_wrong_option_is_told_what_it_must_be_and_what_it_is(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=rf"\A{re.escape(text)}\Z"):
        ProtocolOptions(**options)


def test_a_count_has_a_limit_unless_it_is_said_to_have_none() -> None:
    with pytest.raises(ValueError, match=r"\Amust be a whole number, 3 or more\Z"):
        Check.count(3)(None)
    assert Check.count(3, unlimited=True)(None) is None


def test_options_that_do_not_go_together_are_both_named() -> None:
    text = "needs_upgrade asks for STARTTLS, which disabled_commands takes away"
    with pytest.raises(ConfigurationError, match=rf"\A{text}\Z"):
        ProtocolOptions(needs_upgrade=True, disabled_commands=("STARTTLS",))


@pytest.mark.parametrize("made", [Engine, Connection])
def test_tls_is_not_available_by_itself(made: type[Engine]) -> None:
    with pytest.raises(ConfigurationError):
        made(ProtocolOptions(secure=True))


def arrived() -> Connection:
    connection = Connection(ProtocolOptions(auth_optional=True))
    while connection.question is None:
        connection.next_event()
    return connection


def greeted() -> Connection:
    connection = arrived()
    connection.decide(ACCEPT)
    return connection


def ended() -> Connection:
    connection = arrived()
    connection.receive_eof()
    return connection


HOOK_TIMEOUT: Any = "hook_timeout"
EHLO: Any = "EHLO"
MISUSES: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: ended().receive_data(b"x"), LocalProtocolError,
     "receive_data after receive_eof: the input has ended"),
    (lambda: greeted().set_client_hostname("x"), LocalProtocolError,
     "set_client_hostname belongs before the decision on ConnectRequested"),
    (lambda: arrived().tls_established(), LocalProtocolError,
     "tls_established answers NeedsTLS and NeedsStartTLS, and neither is open"),
    (lambda: arrived().timeout(HOOK_TIMEOUT), LocalProtocolError,
     f"'hook_timeout' is none of the timers {TIMERS}"),
    (lambda: Connection(ask=[ConnectRequested]), ValueError,
     "not among the optional questions: ConnectRequested"),
    (lambda: Connection(ask=[EHLO]), ValueError, "not among the optional questions: 'EHLO'"),
    (lambda: converse("EHLO a", "MAIL FROM:<a@x>", answers={MailRequested: Accept(251)}), DecisionError,
     "Accept(251, None, None, user=None) does not answer MailRequested: its Accept takes the codes 250"),
    (lambda: converse("EHLO a", *message(), answers={RcptRequested: Accept(252)}), DecisionError,
     "Accept(252, None, None, user=None) does not answer RcptRequested: its Accept takes the codes 250, 251"),
    (lambda: converse("LHLO a", *message(), answers={DataFinished: (Accept(251),)}, lmtp=True), DecisionError,
     "Accept(251, None, None, user=None) does not answer DataFinished: its Accept takes the codes 250"),
]  # fmt: skip


@pytest.mark.parametrize(("misuse", "kind", "text"), MISUSES, ids=[text for _, _, text in MISUSES])
def test_a_misuse_raises_at_once_and_names_both_sides(
    misuse: Callable[[], object], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=rf"\A{re.escape(text)}\Z"):
        misuse()


def test_several_questions_that_are_none_are_all_named() -> None:
    with pytest.raises(ValueError, match=r"\Anot among the optional questions: \w+Requested, \w+Requested\Z"):
        Connection(ask=[ConnectRequested, MailRequested])
