# Events as values: what they take, what they show and what they hide.

from __future__ import annotations

from typing import get_args

import pytest

import smtpproto
from smtpproto import _events
from smtpproto._answers import ANSWERS
from smtpproto._body import IncomingMessage
from smtpproto._decisions import Accept, Challenge, Reject
from smtpproto._engine import _RUNS_IN, OPTIONAL_QUESTIONS
from smtpproto._events import (
    AbortReason,
    AuthRequested,
    CommandRequested,
    DataAborted,
    DataChunk,
    DataStarted,
    Event,
    MailRequested,
    NeedsStartTLS,
    NeedsTLS,
    QuitReceived,
    TimerChanged,
    TimerKind,
    TransactionReset,
)
from smtpproto._options import ProtocolOptions
from smtpproto._sasl import PlainCredentials
from smtpproto._session import Session

EVENTS: list[type[Event]] = [
    getattr(_events, name) for name in _events.__all__ if name not in {"Event", "TimerKind"}
]
ASKING = [kind for kind in EVENTS if kind.takes]
MORE: dict[type[Event], tuple[object, ...]] = {AuthRequested: (Challenge,), CommandRequested: (None,)}
TELLING: set[type[Event]] = {QuitReceived, TransactionReset}


def names(kinds: list[type[Event]]) -> list[str]:
    return sorted(kind.__name__ for kind in kinds)


def test_every_event_is_public() -> None:
    assert {kind.__name__ for kind in Event.__subclasses__()} == {kind.__name__ for kind in EVENTS}
    assert set(_events.__all__) <= set(smtpproto.__all__)


def test_every_event_says_what_it_is_in_its_first_line() -> None:
    assert all((kind.__doc__ or "").split("\n")[0].endswith((".", ":", "?")) for kind in EVENTS)


def test_what_an_event_takes_is_what_the_core_has_an_answer_for() -> None:
    assert names(ASKING) == names(list(ANSWERS))


def test_the_optional_questions_take_decisions_or_only_tell() -> None:
    assert set(ASKING) >= OPTIONAL_QUESTIONS - TELLING
    assert not TELLING & set(ASKING)


@pytest.mark.parametrize("kind", ASKING)
def test_every_question_takes_yes_and_no(kind: type[Event]) -> None:
    assert kind.takes == (Accept, Reject, *MORE.get(kind, ()))


@pytest.mark.parametrize("kind", [NeedsTLS, NeedsStartTLS])
def test_a_handshake_takes_no_decision(kind: type[Event]) -> None:
    assert kind.takes == ()


@pytest.mark.parametrize("kind", EVENTS)
def test_an_event_is_small(kind: type[Event]) -> None:
    assert "__slots__" in vars(kind)


def test_events_are_equal_when_what_they_say_is() -> None:
    assert DataChunk(b"a") == DataChunk(b"a") != DataChunk(b"b")
    session = Session()
    messages = [IncomingMessage(ProtocolOptions()) for _ in "12"]
    assert DataStarted(session, messages[0]) == DataStarted(session, messages[1])


def test_the_password_is_not_in_the_repr() -> None:
    event = AuthRequested(PlainCredentials("", "user", "secret"), Session())
    assert "secret" not in repr(event)
    assert "user" in repr(event)


def test_every_timer_is_described_where_it_is_told() -> None:
    told = set(get_args(TimerKind))
    assert told == {*_RUNS_IN, "session_timeout"}
    assert all(f"    {kind} " in (TimerChanged.__doc__ or "") for kind in told - {"min_data_rate"})


def test_a_message_is_aborted_for_one_of_four_reasons() -> None:
    assert get_args(AbortReason) == ("connection_lost", "timeout", "shutdown", "bare_newline")
    assert DataAborted("timeout").reason == "timeout"


def test_an_event_without_a_question_takes_nothing() -> None:
    assert Event.takes == ()
    assert MailRequested.takes == (Accept, Reject)
