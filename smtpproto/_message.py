# The commands of a message: DATA, and the reply after its end.
#
# Whether a message is accepted is said once, after its end and after the application's decision,
# and the library's own refusals go before that decision.

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from smtpproto import _catalogue as say
from smtpproto._body import IncomingMessage
from smtpproto._decisions import ACCEPT, Accept, Reject, decided_reply
from smtpproto._errors import DecisionError
from smtpproto._events import DataFinished, DataRequested, DataStarted
from smtpproto._state import AFTER, OUT_OF_ORDER, State, Step

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from smtpproto._core import Core
    from smtpproto._reply import Reply

__all__ = ["begin_message", "data", "data_decided", "finished", "message_accepted", "message_decided"]

# What every message needs: an enum's members are slow to find in CPython 3.11.
DATA: Final = Step.DATA
READY, IN_DATA = State.READY, State.DATA
SEND_DATA: Final = say.SEND_DATA.encode(coded=False)

# A hook that refuses a message with a bare 550 does so as a matter of policy.
MESSAGE_ENHANCED: Final[Mapping[int, str]] = {550: "5.7.1"}


def data(core: Core, argument: str) -> None:
    """DATA (RFC 5321 §4.1.1.4)."""
    if argument:
        core.say(say.DATA_SYNTAX)
    elif DATA not in AFTER[core.state]:
        core.say(OUT_OF_ORDER[Step.DATA][core.state])
    elif DataRequested in core.asks:
        core.ask(DataRequested(core.session))
    else:
        _start(core)


def data_decided(core: Core, _event: DataRequested, decision: Accept | Reject) -> None:
    if isinstance(decision, Reject):
        core.conclude(decided_reply(decision, say.DATA_REFUSED, utf8=core.session.envelope.smtp_utf8))
    else:
        _start(core)


def _start(core: Core) -> None:
    core.events.append(DataStarted(core.session, begin_message(core)))


def begin_message(core: Core) -> IncomingMessage:
    """Say 354; the message follows."""
    core.out.append(SEND_DATA)
    core.state = IN_DATA
    core.transfer = message = IncomingMessage(core.options)
    return message


def finished(message: IncomingMessage) -> DataFinished:
    """The question that its end asks."""
    return DataFinished(message.byte_length, message.size_exceeded, message.refusal)


def message_accepted(core: Core, ended: DataFinished | IncomingMessage) -> None:
    """The plain yes; the library's own refusal goes before it."""
    if ended.refusal is None and not core.lmtp:
        _end(core)
        core.out.append(say.QUEUED.spellings[core.coded])
    else:
        message_decided(core, ended, ACCEPT)


def message_decided(
    core: Core, ended: DataFinished | IncomingMessage, decision: Accept | Reject | Sequence[Accept | Reject]
) -> None:
    """Answer the message: once in SMTP, once for each accepted recipient in LMTP (RFC 2033 §4.2)."""
    replies = _replies(core, ended, decision)
    _end(core)
    for reply in replies:
        core.conclude(reply)
        if reply.code == 421:  # noqa: PLR2004 - the last word is said once
            break


def _end(core: Core) -> None:
    core.transfer = None
    core.flush = False  # its reply may go with those of the commands after it
    core.state = READY
    core.session._transaction += 1
    core.unknown = 0
    core.reset_transaction()


def _replies(
    core: Core, ended: DataFinished | IncomingMessage, decision: Accept | Reject | Sequence[Accept | Reject]
) -> Sequence[Reply]:
    lmtp = core.lmtp
    recipients = len(core.recipients) if lmtp else 1
    if ended.refusal is not None:
        return [_reply(core, ended.refusal)] * recipients
    if isinstance(decision, Accept | Reject):
        return [_reply(core, decision)] * recipients
    if not lmtp:
        raise DecisionError(f"a list of {len(decision)} decisions does not answer {ended!r}: SMTP takes one")
    if len(decision) != recipients:
        raise DecisionError(f"{len(decision)} decisions do not answer {recipients} accepted recipients")
    return [_reply(core, each) for each in decision]


def _reply(core: Core, decision: Accept | Reject) -> Reply:
    utf8 = core.session.envelope.smtp_utf8
    if isinstance(decision, Reject):
        return decided_reply(decision, say.MESSAGE_REFUSED, utf8=utf8, code_defaults=MESSAGE_ENHANCED)
    default = say.QUEUED_FOR_RECIPIENT if core.lmtp else say.QUEUED
    return decided_reply(decision, default, utf8=utf8)
