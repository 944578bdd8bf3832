# A checker from without: what must hold of every server, as far as replies tell.
#
# Nothing here knows whose server it is, or looks behind its answers.

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from smtpproto.testing._checked import InvariantBroken, fault_in_replies
from smtpproto.testing._conversation import in_lines, octets, split_replies
from smtpproto.testing._endpoint import in_words, masked, shown_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from smtpproto.testing._endpoint import Endpoint

__all__ = ["check_server"]

_CUT_EVERYWHERE: Final = 200  # octets up to which a segment is cut at every place
_MOST_CUTS: Final = 40  # places in a longer one
_DATA: Final = "354"


def check_server(
    make: Callable[[], Endpoint], session: Iterable[str | bytes | Iterable[bytes]], *, coded: bool = False
) -> list[str]:
    """Play a session to a server in memory in many cuts, insist on one outcome, and return its replies.

    `make` gives a new server each time. `session` is made of segments, each a command line (str,
    without CRLF), octets, or a list of lines; one begins when the one before has been answered.
    `coded` says that the server uses enhanced status codes. Of a message the server must take the
    classic form: DATA, 354, and a line with a dot.

    Raises InvariantBroken for I1 (cut anywhere), I2 (sent at once and line by line), I3 (one reply
    for each line), I4 (well-formed replies) and I6 (silence behind the end).
    """
    segments = [_segment(each) for each in session]
    by_lines = [in_lines(segment) for segment in segments]
    expected = _played(make(), by_lines)
    conversation = in_words(_spoken(expected.turns))
    answered = b"".join(expected.answers)
    fault = fault_in_replies(answered, coded=coded)
    if fault:
        raise InvariantBroken("I4", fault, conversation)
    _insist_on_one_reply_each(expected)
    if expected.endpoint.closed:
        late = expected.endpoint.receive(b"NOOP\r\n") + expected.endpoint.end()
        if late:
            raise InvariantBroken("I6", f"it had ended, and answered {late!r}", conversation)
    for invariant, how, pieces in _plans(segments):
        played = _played(make(), pieces)
        if played.answers != expected.answers:
            what = _difference(how, pieces, played, expected)
            raise InvariantBroken(invariant, what, conversation)
    return split_replies(answered, errors="backslashreplace")


def _segment(said: str | bytes | Iterable[bytes]) -> bytes:
    return octets(said) if isinstance(said, str | bytes) else b"".join(said)


class _Played:
    """What a server answered."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint: Endpoint = endpoint
        self.turns: list[_Turn] = []
        self.answers: list[bytes] = []  # to each segment, the greeting first

    def say(self, piece: bytes) -> bytes:
        ended = self.endpoint.closed
        answered = self.endpoint.receive(piece)
        self.turns.append(_Turn(piece, answered, ended, self.endpoint.closed))
        return answered


class _Turn(NamedTuple):
    """One piece and what was answered; whether the server had ended before, and had behind it."""

    said: bytes
    answered: bytes
    ended: bool
    closed: bool


def _spoken(turns: Iterable[_Turn]) -> list[tuple[str, bytes]]:
    return [each for turn in turns for each in (("C", turn.said), ("S", turn.answered))]


def _played(endpoint: Endpoint, segments: Iterable[Iterable[bytes]]) -> _Played:
    played = _Played(endpoint)
    for pieces in [[b""], *segments]:
        answered = [played.say(piece) for piece in pieces if piece or not played.turns]
        played.answers.append(b"".join(answered))
    return played


def _plans(segments: Sequence[bytes]) -> Iterator[tuple[str, str, list[list[bytes]]]]:
    """The invariant that is at stake, the cut in words, and the pieces of each segment."""
    yield "I2", "sent at once", [[segment] for segment in segments]
    yield "I1", "octet by octet", [[segment[i : i + 1] for i in range(len(segment))] for segment in segments]
    for number, segment in enumerate(segments):
        step = 1 if len(segment) <= _CUT_EVERYWHERE else len(segment) // _MOST_CUTS
        for at in range(1, len(segment), step):
            pieces = [[each] for each in segments]
            pieces[number] = [segment[:at], segment[at:]]
            yield "I1", f"cut behind {segment[:at][-20:]!r}", pieces


def _difference(how: str, pieces: list[list[bytes]], played: _Played, expected: _Played) -> str:
    """The first segment that was answered otherwise, and both answers."""
    segments = [[b""], *pieces]
    at = next(i for i, each in enumerate(expected.answers) if played.answers[i] != each)
    said = masked(line for each in segments[: at + 1] for line in shown_lines(b"".join(each)))
    shown = shown_lines(b"".join(segments[at]))
    due = shown_lines(expected.answers[at]) or ["(nothing)"]
    came = shown_lines(played.answers[at]) or ["(nothing)"]
    return "\n".join([
        "What was said:", *(f"  {line}" for line in said[len(said) - len(shown) :]),
        "and answered, line by line:", *(f"  {line}" for line in due),
        f"but {how}:", *(f"  {line}" for line in came),
    ])  # fmt: skip


def _insist_on_one_reply_each(played: _Played) -> None:
    """I3 and I6, with what can be known from without: where a message ends, and how many it was for."""
    account = _Account()
    for number, turn in enumerate(played.turns, 1):
        fault = account.fault_in(turn)
        if fault:
            raise InvariantBroken(*fault, in_words(_spoken(played.turns[:number])))


class _Account:
    """What a client knows of a conversation that goes line by line."""

    def __init__(self) -> None:
        self.greeted: bool = False
        self.lmtp: bool = False
        self.recipients: int = 0
        self.in_message: bool = False
        self.begun: bool = False  # a line whose end has not come

    def fault_in(self, turn: _Turn) -> tuple[str, str] | None:
        """The invariant that does not hold behind a line, and what was seen."""
        line, replies = turn.said, split_replies(turn.answered, errors="backslashreplace")
        if turn.ended:
            return ("I6", f"it had ended, and answered {replies}") if replies else None
        if not self.greeted:
            self.greeted = bool(replies)
            return ("I3", f"greeted with {replies}") if len(replies) > 1 else None
        begun, self.begun = self.begun, not line.endswith(b"\r\n")
        due = self._due(line, begun=begun)
        # The last words, and a line that may have been answered before its end, are not counted.
        uncounted = turn.closed or (not self.in_message and (begun or self.begun))
        if len(replies) != due and not uncounted:
            return "I3", f"{len(replies)} replies where {due} were due: {replies}"
        if replies:
            self._note(line, replies[-1])
        return None

    def _due(self, line: bytes, *, begun: bool) -> int:
        if not self.in_message:
            return 1
        if line != b".\r\n" or begun:
            return 0
        return self.recipients if self.lmtp else 1

    def _note(self, line: bytes, reply: str) -> None:
        verb, good = line[:4].upper(), reply.startswith("2")
        if self.in_message or (good and verb in _NEW_TRANSACTION):
            self.recipients = 0
        if good and verb == b"LHLO":
            self.lmtp = True
        self.recipients += good and verb == b"RCPT"
        self.in_message = reply.startswith(_DATA)


_NEW_TRANSACTION: Final = frozenset({b"EHLO", b"HELO", b"LHLO", b"MAIL", b"RSET"})
