# Whatever octets come, in whatever pieces, and whatever the application decides: no exception, memory
# within limits, each command answered exactly once, each message delivered octet for octet and only if
# its end came, and the same replies, events and state as in any other pieces.
#
# The input: options (1), how (1), sizes of pieces (3), decisions (8), and then what the client sends.
# The first piece is as long as its octet says, and the two sizes that follow take turns.

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from fuzz.playing import BARE_NEWLINE, OPTIONS, Play, is_fresh, note
from smtpproto import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from smtpproto import Connection

__all__ = ["HEADER", "Case", "target"]

HEADER: Final = 13  # octets before those of the client
V2_FIXED: Final = 16  # octets before the block whose length the last two of them say
V2: Final = b"\r\n\r\n\0\r\nQUIT\n"  # the PROXY protocol's signature of version 2

ASK, LAZY, TOGETHER = 0x80, 0x40, 0x20
ENDS: Final[Sequence[Callable[[Connection], None]]] = (
    lambda _connection: None,
    lambda _connection: None,
    lambda connection: connection.receive_eof(),
    lambda connection: connection.connection_lost(),
    lambda connection: connection.timeout("socket_timeout"),
    lambda connection: connection.timeout("session_timeout"),
    lambda connection: connection.shutdown(),
    lambda connection: connection.shutdown(now=True),
)
STRETCH: Final = re.compile(rb"(?s)\xfe(.)")  # a long line, without an input as long
MAX_STRETCHED: Final = 3
MAX_PIECES: Final = 24  # behind which all comes at once: time is better spent on other inputs
LINES: Final = re.compile(rb"(?s).*?\r\n|.+\Z")
FINAL_LINE: Final = re.compile(rb"(?m)^[2-5][0-9][0-9] ")


def target(data: bytes) -> None:
    """One input, played line by line and in pieces."""
    if len(data) < HEADER:
        return
    case = Case(data)
    expected = case.line_by_line()
    expected.insist_on_the_end()
    in_pieces = case.in_pieces()
    if in_pieces.summary() != expected.summary():
        raise AssertionError(f"in pieces:\n{in_pieces.summary()}\nline by line:\n{expected.summary()}")


class Case:
    """An input, taken apart."""

    def __init__(self, data: bytes) -> None:
        self.options = OPTIONS[data[0] % len(OPTIONS)]
        how = data[1]
        self.ask = bool(how & ASK)
        self.lazy = bool(how & LAZY)
        self.together = bool(how & TOGETHER)
        self.end = ENDS[how % len(ENDS)]
        self.first = data[2]
        self.sizes = (1 + data[3] % 64, 1 + data[4] % 64)
        self.picks = data[5:HEADER]
        octets = STRETCH.sub(lambda match: b"x" * (16 * match[1][0]), data[HEADER:], MAX_STRETCHED)
        self.segments = list(self._segments(octets))

    def _segments(self, octets: bytes) -> Iterator[list[bytes]]:
        """Lines, parted where the client waits for a reply: behind a PROXY header and behind STARTTLS.

        With `together` it does not wait behind STARTTLS, and what follows is one line with it.
        """
        if self.options.use_proxy:
            end = _header_end(octets)
            yield [octets[:end]]
            octets = octets[end:]
        segment: list[bytes] = []
        begun = b""
        for each in LINES.findall(octets):
            line = begun + each
            begun = b""
            if each[:8].upper() != b"STARTTLS":
                segment.append(line)
            elif self.together:
                begun = line
            else:
                yield [*segment, line]
                segment = []
        yield [*segment, begun] if begun else segment

    def line_by_line(self) -> Play:
        """The play whose every step is looked at."""
        play = Play(self.options, self.picks, ask=self.ask)
        play.settle()
        message: list[bytes] = []
        for segment in self.segments:
            for line in segment:
                _say_all(play, line, message)
        self.end(play.connection)
        play.settle()
        return play

    def in_pieces(self) -> Play:
        """The play that must come to the same."""
        play = Play(self.options, self.picks, ask=self.ask)
        play.settle()
        size, turn = self.first, 0
        for segment in self.segments:
            octets = b"".join(segment)
            at = 0
            while at < len(octets):
                if self.together and octets.startswith(b"\r\n", at + size - 2):
                    size += 1  # perhaps behind STARTTLS, where a cut is a wait
                if size:
                    play.connection.receive_data(octets[at : at + size])
                at += size
                if not self.lazy or at >= len(octets) or not play.connection.wants_data:
                    play.settle()
                turn += 1
                size = self.sizes[turn % 2] if turn < MAX_PIECES else len(octets)
        self.end(play.connection)
        play.settle()
        return play


def _header_end(octets: bytes) -> int:
    if octets.startswith(V2) and len(octets) >= V2_FIXED:
        return V2_FIXED + int.from_bytes(octets[14:16], "big")
    return octets.find(b"\r\n") + 2 or len(octets)


def _say_all(play: Play, said: bytes, message: list[bytes]) -> None:
    """Say what is one line, or STARTTLS with what follows it; in a message that is no command."""
    while play.connection.state is State.DATA:
        line, end, said = said.partition(b"\r\n")
        _say(play, line + end, message)
        if not said:
            return
    _say(play, said, message)


def _say(play: Play, line: bytes, message: list[bytes]) -> None:
    """Say one line and look at what it did; `message` are the lines of the open one."""
    connection, sent = play.connection, play.sent
    state, before = connection.state, len(sent)
    recipients = len(play.session.envelope.rcpt_to) if play.options.lmtp else 1
    core = play.core
    faults = core.unknown, core.unauthenticated, core.failed_logins
    connection.receive_data(line)
    play.settle()
    # I13: nothing makes up for faults but a message that was answered, and that for unknown commands only.
    assert core.unknown >= faults[0] or state is State.DATA
    assert core.unauthenticated >= faults[1]
    assert core.failed_logins >= faults[2]
    if len(sent) > before:
        note(_NUMBER[state] * 12 + _NUMBER[connection.state], int(sent[-1][:3]))
    replies = len(FINAL_LINE.findall(b"".join(sent[before:])))
    assert len(play.core.buffer) <= play.options.max_auth_line_length  # I5
    if connection.state in _OUTSIDE:
        assert is_fresh(play.session.envelope)  # I8
    if state is State.CLOSED:
        assert replies == 0  # I6
    elif state is State.DATA:
        _insist_on_message(play, line, message)
        # I3: LMTP answers each recipient (RFC 2033 §4.2), until it has said its last word
        assert replies == recipients * (line == b".\r\n") or (
            connection.state is State.CLOSED and 0 < replies < recipients
        )
    elif state is not State.PROXY and line[:8].upper() != b"STARTTLS":
        whole = line.endswith(b"\r\n")
        # I3: a line far too long is told so, and then that this was enough
        assert whole <= replies <= 1 + (len(line) > play.options.max_line_length), (line, sent[before:])
    if line[:5].upper() in HELLOS:
        _insist_on_offers(b"".join(sent[before:]))
    if connection.state is not State.DATA:
        message.clear()


def _insist_on_offers(sent: bytes) -> None:
    """Nothing but extensions stands behind the first line of a good reply to EHLO, whatever its text."""
    if sent.startswith(b"250-"):
        for offer in sent.split(b"\r\n")[1:-1]:
            keyword, _, _ = offer[4:].partition(b" ")
            assert keyword in KEYWORDS, offer


HELLOS: Final = (b"EHLO ", b"LHLO ")
KEYWORDS: Final = frozenset({
    b"PIPELINING", b"8BITMIME", b"SMTPUTF8", b"ENHANCEDSTATUSCODES", b"DSN", b"STARTTLS", b"AUTH",
    b"REQUIRETLS", b"SIZE", b"XCLIENT", b"XFORWARD", b"X-ONE", b"X-TWO",
})  # fmt: skip


def _insist_on_message(play: Play, line: bytes, message: list[bytes]) -> None:  # I9, I10
    """The message so far, against a reader that knows lines only (RFC 5321 §4.5.2)."""
    finished = play.finished
    if line != b".\r\n":
        assert finished is None, "the end of data did not come"
        message.append(line[1:] if line.startswith(b".") else line)
        return
    assert finished is not None, "the end of data came"
    content = b"".join(message)
    size = play.options.size
    assert finished.byte_length == len(content)
    assert finished.size_exceeded is (size is not None and len(content) > size)
    if play.options.bare_newlines == "reject":
        bare = _BARE.search(content)
        assert (finished.refusal is not None and finished.refusal.code == BARE_NEWLINE) is (bare is not None)
        content = content if bare is None else content[: bare.start()]
    if size is not None and play.options.enforce_size:
        content = content[:size]
    assert b"".join(play.content) == content


_BARE: Final = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_OUTSIDE: Final = frozenset({State.GREETED, State.READY, State.AUTH})
_NUMBER: Final = {state: number for number, state in enumerate(State)}
