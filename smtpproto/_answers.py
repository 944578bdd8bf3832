# Which decision answers which question, and what it does.
#
# A decision that does not fit is the application's mistake: it raises and changes nothing.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from smtpproto._commands import (
    command_decided,
    expand_decided,
    hello_decided,
    help_decided,
    mail_decided,
    rcpt_decided,
    recipient_accepted,
    sender_accepted,
    verify_decided,
)
from smtpproto._decisions import ACCEPT, Accept, Challenge, Decision
from smtpproto._errors import DecisionError
from smtpproto._events import (
    AuthRequested,
    CommandRequested,
    ConnectRequested,
    DataFinished,
    DataRequested,
    Event,
    ExpandRequested,
    HelloRequested,
    HelpRequested,
    MailRequested,
    RcptRequested,
    SecureRequested,
    VerifyRequested,
)
from smtpproto._identity import xclient_login_decided
from smtpproto._login import LOGIN_CODES, login_decided
from smtpproto._message import data_decided, message_accepted, message_decided
from smtpproto._opening import connect_decided, secure_decided

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from smtpproto._core import Core

__all__ = ["ACCEPTED", "ANSWERS", "answer"]


def answer(core: Core, event: Event, decision: object) -> None:
    """Apply a decision to the open question, which is closed then.

    Raises DecisionError if it does not answer it; the question then stays open.
    """
    apply = ANSWERS.get(type(event))
    if apply is None:
        raise DecisionError(f"{decision!r} does not answer {event!r}: call tls_established")
    if decision is not ACCEPT or Accept not in event.takes:
        _check(event, decision)
    core.asked = None
    try:
        apply(core, event, decision)
    except Exception:
        core.asked = event  # the answer could not be taken, and nothing has changed
        raise


def _auth_decided(core: Core, event: AuthRequested, decision: Decision) -> None:
    if core.exchange is not None:
        login_decided(core, core.exchange, event, decision)
    elif isinstance(decision, Challenge):
        raise DecisionError(f"{decision!r} does not answer an XCLIENT LOGIN; it takes Accept, Reject")
    else:
        xclient_login_decided(core, decision)


ANSWERS: Final[Mapping[type[Event], Callable[[Core, Any, Any], None]]] = {
    ConnectRequested: connect_decided,
    SecureRequested: secure_decided,
    AuthRequested: _auth_decided,
    MailRequested: mail_decided,
    RcptRequested: rcpt_decided,
    DataFinished: message_decided,
    HelloRequested: hello_decided,
    DataRequested: data_decided,
    VerifyRequested: verify_decided,
    ExpandRequested: expand_decided,
    HelpRequested: help_decided,
    CommandRequested: command_decided,
}

# What nearly every decision is: the plain yes.
ACCEPTED: Final[Mapping[type[Event], Callable[[Core, Any], None]]] = {
    MailRequested: lambda core, event: sender_accepted(core, event.address),
    RcptRequested: lambda core, event: recipient_accepted(core, event.address),
    DataFinished: message_accepted,
}

# Codes that Accept may carry besides 250.
_CODES: Final[Mapping[type[Event], frozenset[int]]] = {
    ConnectRequested: frozenset({220}),
    RcptRequested: frozenset({250, 251}),
    AuthRequested: LOGIN_CODES,
    VerifyRequested: frozenset({250, 251, 252}),
    HelpRequested: frozenset({211, 214}),
    CommandRequested: frozenset(range(200, 300)),
}
_CODE_ELSEWHERE: Final = frozenset({250})


def _check(event: Event, decision: object) -> None:
    if decision is None and None in event.takes:
        return
    kinds = tuple(kind for kind in event.takes if kind is not None)
    if isinstance(decision, kinds):
        if isinstance(decision, Accept) and decision.code is not None:
            _check_code(event, decision)
        return
    if isinstance(event, DataFinished) and isinstance(decision, list | tuple):
        items = cast("Sequence[object]", decision)
        if all(isinstance(each, kinds) for each in items):
            for each in items:
                if isinstance(each, Accept) and each.code is not None:
                    _check_code(event, each)
            return
    raise DecisionError(
        f"{decision!r} does not answer {event!r}; it takes "
        f"{', '.join('None' if kind is None else kind.__name__ for kind in event.takes)}"
    )


def _check_code(event: Event, decision: Accept) -> None:
    allowed = _CODES.get(type(event), _CODE_ELSEWHERE)
    if decision.code not in allowed:
        raise DecisionError(
            f"{decision!r} does not answer {type(event).__name__}: its Accept takes the codes "
            f"{', '.join(str(code) for code in sorted(allowed))}"
        )
