# The message: DATA, its octets, and the reply to it.
#
# No octet of a message is kept here beyond the few that may be part of its end. What is handed
# on is what was sent, unstuffed; whether it is accepted is said once, after its end and after
# the application's decision, and the library's own refusals go before that decision.

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from smtpproto import _catalogue as say
from smtpproto._body import DotReader
from smtpproto._decisions import ACCEPT, Accept, Reject, decided_reply
from smtpproto._errors import DecisionError
from smtpproto._events import DataAborted, DataChunk, DataFinished, DataRequested, DataStarted
from smtpproto._state import AFTER, OUT_OF_ORDER, Step

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from smtpproto._core import Core
    from smtpproto._options import Options
    from smtpproto._reply import Reply

__all__ = ["IncomingMessage", "data", "data_decided", "message_accepted", "message_decided", "read_message"]

# What every message needs: an enum's members are slow to find in CPython 3.11.
DATA, END_OF_DATA = Step.DATA, Step.END_OF_DATA
SEND_DATA: Final = say.SEND_DATA.encode(coded=False)
BARE_NEWLINES: Final = Reject(550, "5.6.0", say.BARE_NEWLINES.lines)

FIRST_PIECE: Final = 4096  # octets of a message that are looked at before any others,
AHEAD: Final = 15  # and how many more for each that was its own

# A hook that refuses a message with a bare 550 does so as a matter of policy.
MESSAGE_ENHANCED: Final[Mapping[int, str]] = {550: "5.7.1"}


class IncomingMessage:
    """A message on its way in, as far as it has come: live, to be read by anybody."""

    __slots__ = (
        "byte_length", "complete", "doomed", "enforce", "reader", "refusal", "size", "size_exceeded",
    )  # fmt: skip

    def __init__(self, options: Options) -> None:
        self.reader: DotReader = DotReader(options.bare_newlines)
        self.size: int | None = options.size
        self.enforce: bool = options.enforce_size
        self.doomed: bool = False
        self.byte_length: int = 0
        """Octets so far after unstuffing, those dropped included."""
        self.complete: bool = False
        """The end of data was seen."""
        self.size_exceeded: bool = False
        """`byte_length` is over the option `size`."""
        self.refusal: Reject | None = None
        """What the library itself will answer; the newline goes before the size."""

    def __repr__(self) -> str:
        return f"<IncomingMessage {self.byte_length} octets{'' if self.complete else ' so far'}>"

    def take(self, octets: bytes) -> bytes:
        """Take in the next octets; return the content to be handed on."""
        reader = self.reader
        content = reader.feed(octets)
        before, self.byte_length = self.byte_length, reader.byte_length
        self.complete = reader.finished
        if self.size is not None and self.byte_length > self.size:
            content = self._exceed(self.size, content, self.size - before)
        if reader.doomed:
            self.refusal = BARE_NEWLINES
        return content

    def _exceed(self, size: int, content: bytes, room: int) -> bytes:
        """Octets beyond the limit are only counted."""
        self.size_exceeded = True
        if not self.enforce:
            return content
        if self.refusal is None:
            self.refusal = Reject(552, "5.3.4", say.too_large(size).lines)
        return content[: max(room, 0)]


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
    core.out.append(SEND_DATA)
    core.state = AFTER[core.state][DATA]
    transfer = core.transfer = IncomingMessage(core.options)
    core.events.append(DataStarted(core.session, transfer))


def read_message(core: Core) -> bool:
    """Take what has come in; False when there was nothing."""
    transfer = core.transfer
    # Little at first: what lies behind a short message in the same feed goes back into the buffer.
    if transfer is None:
        return False
    octets = core.buffer.take(FIRST_PIECE + AHEAD * transfer.byte_length)
    if not octets:
        return False
    content = transfer.take(octets)
    if content:
        core.events.append(DataChunk(content))
    if transfer.reader.doomed and not transfer.doomed:
        transfer.doomed = True
        core.tell(DataAborted("bare_newline"))
    if transfer.complete:
        if transfer.reader.rest:
            core.buffer.unread(transfer.reader.rest)
        core.ask(DataFinished(transfer.byte_length, transfer.size_exceeded, transfer.refusal))
    return True


def message_accepted(core: Core, event: DataFinished) -> None:
    if event.refusal is not None or core.options.lmtp:
        message_decided(core, event, ACCEPT)
        return
    _end(core)
    core.out.append(say.QUEUED.spellings[core.coded])


def message_decided(
    core: Core, event: DataFinished, decision: Accept | Reject | Sequence[Accept | Reject]
) -> None:
    """Answer the message: once in SMTP, once for each accepted recipient in LMTP (RFC 2033 §4.2)."""
    replies = _replies(core, event, decision)
    _end(core)
    for reply in replies:
        core.conclude(reply)
        if reply.code == 421:  # noqa: PLR2004 - the last word is said once
            break


def _end(core: Core) -> None:
    core.transfer = None
    core.flush = False  # its reply may go with those of the commands behind it
    core.state = AFTER[core.state][END_OF_DATA]
    core.session.transaction += 1
    core.unknown = 0
    core.reset_transaction()


def _replies(
    core: Core, event: DataFinished, decision: Accept | Reject | Sequence[Accept | Reject]
) -> Sequence[Reply]:
    lmtp = core.options.lmtp
    recipients = len(core.session.envelope.rcpt_to) if lmtp else 1
    if event.refusal is not None:
        return [_reply(core, event.refusal)] * recipients
    if isinstance(decision, Accept | Reject):
        return [_reply(core, decision)] * recipients
    if not lmtp:
        raise DecisionError(f"a list of {len(decision)} decisions does not answer {event!r}: SMTP takes one")
    if len(decision) != recipients:
        raise DecisionError(f"{len(decision)} decisions do not answer {recipients} accepted recipients")
    return [_reply(core, each) for each in decision]


def _reply(core: Core, decision: Accept | Reject) -> Reply:
    utf8 = core.session.envelope.smtp_utf8
    if isinstance(decision, Reject):
        return decided_reply(decision, say.MESSAGE_REFUSED, utf8=utf8, code_defaults=MESSAGE_ENHANCED)
    default = say.QUEUED_FOR_RECIPIENT if core.options.lmtp else say.QUEUED
    return decided_reply(decision, default, utf8=utf8)
