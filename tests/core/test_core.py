# The state that every command shares, and the verbs by which it changes.

from __future__ import annotations

from typing import Any

import pytest

from smtpproto import (
    AuthRequested,
    ClientConnected,
    ConnectionClosed,
    DataAborted,
    DataFinished,
    MailRequested,
    PlainCredentials,
    ProtocolOptions,
    Session,
    Signal,
    State,
    TimerChanged,
    TransactionReset,
)
from smtpproto import _catalogue as say
from smtpproto._address import Address
from smtpproto._body import IncomingMessage
from smtpproto._core import HIGH_WATER, Core
from smtpproto._reply import Reply
from smtpproto._state import Step


def made(*, asks: frozenset[Any] = frozenset(), peer: str = "192.0.2.1", **options: Any) -> Core:
    options.setdefault("hide_enhancedstatuscodes", False)
    session = Session(remote=(peer, 4321))
    return Core(
        ProtocolOptions(**options), session, asks=asks, tls_available=True, entropy=b"", started=0, verbs={}
    )


def transfer() -> IncomingMessage:
    return IncomingMessage(ProtocolOptions())


@pytest.mark.parametrize("signal", Signal)
def test_a_signal_shows_as_the_name_it_is_imported_by(signal: Signal) -> None:
    assert repr(signal) == signal.name == signal.value


# --- say ----------------------------------------------------------------------------------------


def test_a_failure_is_the_sessions_error_and_a_success_is_not() -> None:
    core = made()
    core.say(say.OK)
    assert core.session.error is None
    core.say(say.BAD_SENDER)
    core.say(say.OK)
    assert core.session.error == "501 5.1.7 Error: Bad sender address syntax"
    assert core.out == [
        b"250 2.0.0 OK\r\n", b"501 5.1.7 Error: Bad sender address syntax\r\n", b"250 2.0.0 OK\r\n"
    ]  # fmt: skip


def test_the_error_has_no_crlf_in_it() -> None:
    core = made()
    core.say(Reply(550, "5.1.1", ["one", "two"]))
    assert core.session.error == "550-5.1.1 one\n550 5.1.1 two"


def test_codes_are_left_out_where_they_are_off() -> None:
    core = made(hide_enhancedstatuscodes=True)
    core.say(say.BAD_SENDER)
    assert core.out == [b"501 Error: Bad sender address syntax\r\n"]
    assert core.session.error == "501 Error: Bad sender address syntax"


def test_a_421_of_the_application_is_a_last_word() -> None:
    core = made()
    core.conclude(Reply(450, "4.2.1", "later"))
    assert core.events == []
    core.conclude(Reply(421, "4.3.2", "bye"))
    assert core.events == [ConnectionClosed("refused with 421")]
    assert core.state is State.CLOSED


# --- ask, move, close ---------------------------------------------------------------------------


def test_a_step_goes_where_the_table_says() -> None:
    core = made()
    core.move(Step.GREETING)
    assert core.state is State.GREETED
    with pytest.raises(KeyError):
        core.move(Step.MAIL)


def test_closing_happens_once() -> None:
    core = made()
    core.say_last(say.TIMED_OUT, "timeout")
    core.close("again")
    assert core.events == [ConnectionClosed("timeout")]
    assert core.out == [b"421 4.4.2 Timeout - closing connection\r\n"]


def test_closing_drops_what_was_kept() -> None:
    core = made()
    core.buffer.feed(b"MAIL FROM:<")
    core.close("eof")
    assert len(core.buffer) == 0
    assert [core.asked, core.transfer, core.exchange, core.proxy] == [None] * 4


def test_a_question_that_nobody_has_seen_is_withdrawn() -> None:
    core = made()
    core.ask(MailRequested(Address(""), core.session))
    core.close("timeout")
    assert core.events == [ConnectionClosed("timeout")]
    assert core.asked is None


def test_a_question_that_was_seen_is_withdrawn_too() -> None:
    core = made()
    core.tell(ClientConnected(core.session))
    core.ask(AuthRequested(PlainCredentials("", "u", "p"), core.session))
    core.events.clear()
    core.close("timeout")
    assert core.events == [ConnectionClosed("timeout")]
    assert core.asked is None


def test_a_message_that_has_not_ended_is_aborted() -> None:
    core = made()
    core.transfer = transfer()
    core.close("eof")
    assert core.events == [DataAborted("connection_lost"), ConnectionClosed("eof")]


def test_a_message_whose_end_nobody_has_seen_is_aborted() -> None:
    core = made()
    message = core.transfer = transfer()
    message.feed(b".\r\n")
    core.ask(DataFinished(0, size_exceeded=False, refusal=None))
    core.close("timeout", "timeout")
    assert core.events == [DataAborted("timeout"), ConnectionClosed("timeout")]


def test_a_message_whose_end_was_seen_is_not_aborted_any_more() -> None:
    core = made()
    message = core.transfer = transfer()
    message.feed(b".\r\n")
    core.ask(DataFinished(0, size_exceeded=False, refusal=None))
    core.events.clear()
    core.close("connection lost")
    assert core.events == [ConnectionClosed("connection lost")]


def test_a_message_is_aborted_once() -> None:
    core = made()
    core.transfer = transfer()
    core.transfer.has_bare_newline = True  # and DataAborted said so
    core.close("eof")
    assert core.events == [ConnectionClosed("eof")]


# --- what several commands need -----------------------------------------------------------------


def test_a_limit_that_is_off_is_never_spoken_of() -> None:
    core = made()
    core.start_timer("socket_timeout", None)
    core.stop_timer("socket_timeout", None)
    assert core.events == []
    core.start_timer("socket_timeout", 60.0)
    core.stop_timer("socket_timeout", 60.0)
    assert core.events == [TimerChanged("socket_timeout", 60.0), TimerChanged("socket_timeout", None)]


def test_a_transaction_is_replaced_whole() -> None:
    core = made()
    envelope = core.session.envelope
    core.session._xforward = {"NAME": "a"}
    core.reset_transaction()
    assert core.session.envelope is not envelope
    assert core.session.xforward == {}


def test_x_forward_is_left_alone_where_it_is_empty() -> None:
    core = made()
    forward = core.session.xforward
    core.reset_transaction()
    assert core.session.xforward is forward


@pytest.mark.parametrize(
    ("asks", "state", "told"),
    [
        (frozenset({TransactionReset}), State.MAIL, [TransactionReset("RSET")]),
        (frozenset({TransactionReset}), State.RCPT, [TransactionReset("RSET")]),
        (frozenset({TransactionReset}), State.READY, []),
        (frozenset[Any](), State.RCPT, []),
    ],
)
def test_only_an_open_transaction_is_given_up_and_only_who_asks_is_told(
    asks: frozenset[Any], state: State, told: list[TransactionReset]
) -> None:
    core = made(asks=asks)
    core.state = state
    core.give_up_transaction("RSET")
    assert core.events == told


def test_the_client_is_announced_once() -> None:
    core = made()
    core.announce_client()
    core.announce_client()
    assert core.events == [ClientConnected(core.session)]


@pytest.mark.parametrize("command", ["xclient", "xforward"])
def test_trust_is_judged_on_the_peer_and_ends_with_xclient(command: str) -> None:
    trusting: dict[str, Any] = {f"use_{command}": ["192.0.2.1"]}
    assert not getattr(made(peer="203.0.113.9", **trusting), f"may_{command}")()
    core = made(**trusting)
    may = getattr(core, f"may_{command}")
    assert may()
    core.session._remote_address = "203.0.113.9"
    assert may()
    core.xclient_done = True
    assert not may()


# --- counters -----------------------------------------------------------------------------------


def test_the_nth_unknown_command_gets_the_last_word() -> None:
    core = made(max_unknown_commands=2)
    core.refuse_unknown(say.NOT_RECOGNIZED)
    core.refuse_unknown(say.NOT_RECOGNIZED)
    assert b"".join(core.out) == (
        b"500 5.5.2 Error: command not recognized\r\n421 4.7.0 Error: too many unrecognized commands\r\n"
    )
    assert core.state is State.CLOSED


def test_without_a_limit_unknown_commands_are_answered_for_ever() -> None:
    core = made(max_unknown_commands=None)
    assert not any(core.one_unknown_too_many() for _ in range(1000))


def test_the_nth_command_without_a_login_gets_the_last_word() -> None:
    core = made(max_allowed_unauthenticated_commands=3)
    assert [core.one_unauthenticated_too_many() for _ in range(3)] == [False, False, True]
    assert core.out == [b"421 4.7.0 Error: too many unauthenticated commands\r\n"]


@pytest.mark.parametrize("limit", [False, None])
def test_without_a_limit_commands_are_served_for_ever(limit: bool | None) -> None:
    core = made(max_allowed_unauthenticated_commands=limit)
    assert not any(core.one_unauthenticated_too_many() for _ in range(1000))


@pytest.mark.parametrize(
    ("options", "user"), [({"auth_optional": True}, None), ({"auth_methods": ()}, None), ({}, "u")]
)
def test_who_needs_no_login_is_not_counted(options: dict[str, Any], user: str | None) -> None:
    core = made(max_allowed_unauthenticated_commands=1, **options)
    core.session.user = user
    assert not core.needs_login()
    assert not core.one_unauthenticated_too_many()
    assert core.unauthenticated == 0


def test_reading_pauses_at_one_line_and_a_fixed_number_of_octets() -> None:
    assert made().high_water == HIGH_WATER + 12288
    assert made(max_line_length=20_000).high_water == HIGH_WATER + 20_000
