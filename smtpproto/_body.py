# A message on its way in: where it ends, which of its dots are its own, and whether it is too large.
#
# One rule keeps this file safe: a line ends at CRLF and nowhere else (RFC 5321 §2.3.8). Whoever
# also ends one at a bare LF or CR lets a second message be smuggled inside the first. What the
# end of a chunk leaves open is a row of a table, never a guess.

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from smtpproto import _catalogue as say
from smtpproto._decisions import Reject

if TYPE_CHECKING:
    from collections.abc import Mapping

    from smtpproto._buffer import LineBuffer
    from smtpproto._options import ProtocolOptions

__all__ = ["IncomingMessage"]

CR: Final = 0x0D
LF: Final = 0x0A
DOT: Final = 0x2E

STUFFED_LINE: Final = b"\r\n."
END_OF_DATA: Final = b"\r\n.\r\n"  # RFC 5321 §4.1.1.4; its first CRLF belongs to the message
_STUFFED_LINE: Final = re.compile(rb"\r\n\.")  # searching is quicker than bytes.find here
_BARE: Final = re.compile(rb"\r(?!\n)|(?<!\r)\n")

FIRST_PIECE: Final = 4096  # octets of a message that are looked at before any others,
AHEAD: Final = 15  # and how many more for each that was its own

BARE_NEWLINES: Final = Reject(550, "5.6.0", say.BARE_NEWLINES.lines)


class _Place(enum.Enum):
    """What stands before the next octet."""

    TEXT = enum.auto()
    """The inside of a line: nothing is open."""
    LINE_START = enum.auto()
    """CRLF, or nothing at all: a dot here is stuffing or the end."""
    LONE_DOT = enum.auto()
    """A dot at a line start, kept back."""
    DOT_CR = enum.auto()
    """A dot at a line start and a CR, both kept back."""
    HELD_CR = enum.auto()
    """A CR inside a line, kept back: alone it is a bare newline and not content."""
    PASSED_CR = enum.auto()
    """A CR inside a line, already passed on, since here it is content whatever follows."""
    END = enum.auto()
    """After the end of data."""


# Looked up in every feed, and an enum's members are slow to find in CPython 3.11.
_TEXT: Final = _Place.TEXT
_LINE_START: Final = _Place.LINE_START
_END: Final = _Place.END


class _Boundary(NamedTuple):
    """One place where a chunk can end with something open, and how the next octet decides it."""

    awaited: int
    """The one octet that leads on; any other is the inside of a line."""
    onward: _Place
    """Where the awaited octet leads."""
    passed: bytes
    """What is content now if it came, itself included."""
    spilled: bytes
    """What is content now if another came: always a bare CR."""


# The first dot of a line is content in no row: it is either stuffing (RFC 5321 §4.5.2) or the end.
BOUNDARIES: Final[Mapping[_Place, _Boundary]] = {
    _Place.LINE_START: _Boundary(DOT, _Place.LONE_DOT, b"", b""),
    _Place.LONE_DOT: _Boundary(CR, _Place.DOT_CR, b"", b""),
    _Place.DOT_CR: _Boundary(LF, _Place.END, b"", b"\r"),
    _Place.HELD_CR: _Boundary(LF, _Place.LINE_START, b"\r\n", b"\r"),
    _Place.PASSED_CR: _Boundary(LF, _Place.LINE_START, b"\n", b""),
}

# How a chunk without the end of data can end: its last octets, the place, how many are kept back.
_OPEN_ENDS: Final = (
    (b"\r\n.\r", _Place.DOT_CR, 2),
    (b"\r\n.", _Place.LONE_DOT, 1),
    (b"\r\n", _Place.LINE_START, 0),
)
_LAST_OCTETS: Final = (b"\r", b"\n", b".")


class IncomingMessage:
    """A message on its way in, as far as it has come: live, to be looked at by anybody.

    It is its own reader: it takes the stuffed dots out (RFC 5321 §4.5.2) up to the end of data.
    The content does not depend on how the octets are cut; a piece with nothing to take out comes
    back as the same object.
    """

    __slots__ = (
        "_enforce", "_place", "_size", "_strict", "byte_length", "complete", "has_bare_newline", "refusal",
        "rest", "size_exceeded",
    )  # fmt: skip

    def __init__(self, options: ProtocolOptions) -> None:
        self.byte_length: int = 0
        """Octets so far after unstuffing, those dropped included."""
        self.complete: bool = False
        """The end of data was seen; nothing is kept back any more."""
        self.size_exceeded: bool = False
        """`byte_length` is over the option `size`."""
        self.has_bare_newline: bool = False
        """A CR or LF outside CRLF was seen and is not accepted; no content follows."""
        self.refusal: Reject | None = None
        """What the library itself will answer; the newline goes before the size."""
        self.rest: bytes = b""
        """The octets after the end of data."""
        self._size: int | None = options.size
        self._enforce: bool = options.enforce_size
        self._strict: bool = options.bare_newlines == "reject"  # and no bare newline was seen yet
        self._place: _Place = _LINE_START

    def __repr__(self) -> str:
        return f"<IncomingMessage {self.byte_length} octets{'' if self.complete else ' so far'}>"

    def read(self, buffer: LineBuffer) -> bytes:
        """The content of the next octets that are held, which may be none."""
        if not self.byte_length and self._place is _LINE_START:
            whole = self._read_whole(buffer, buffer.chunk, buffer.at)
            if whole is not None:
                return whole
        # Little at first: what comes after a short message in the same feed goes back into the buffer.
        content = self.feed(buffer.take(FIRST_PIECE + AHEAD * self.byte_length))
        if self.complete and self.rest:
            buffer.unread(self.rest)
        return content

    def _read_whole(self, buffer: LineBuffer, chunk: bytes, at: int) -> bytes | None:
        """The whole content, if it is short, has come in one piece and is the simplest there is.

        Mostly the first dot at the start of a line is the end.
        """
        end = chunk.find(DOT, at, at + FIRST_PIECE) - 2  # quicker, and often enough it is the first of all
        if end < at or not chunk.startswith(END_OF_DATA, end):
            if end < at - 2 or chunk[at] == DOT:
                return None
            end = chunk.find(STUFFED_LINE, at, at + FIRST_PIECE)
            if end < 0 or not chunk.startswith(END_OF_DATA, end):
                return None
        length = end + 2 - at
        if self._size is not None and length > self._size:
            return None
        content = chunk[at : end + 2]
        if self._strict and not _only_crlf(content):
            return None
        buffer.at = end + len(END_OF_DATA)
        self.byte_length = length
        self.complete, self._place = True, _END
        return content

    def feed(self, data: bytes) -> bytes:
        """Take in the next octets; return the content that they made certain, which keeps to the size."""
        before, place = self.byte_length, self._place
        if place is _TEXT or (place is _LINE_START and data and data[0] != DOT):
            content = self._read(data, 0)
        else:
            content = self._resume(data)
        if self._size is not None and self.byte_length > self._size:
            content = self._exceed(self._size, content, self._size - before)
        if self.has_bare_newline:
            self.refusal = BARE_NEWLINES
        return content

    def _exceed(self, size: int, content: bytes, room: int) -> bytes:
        """Octets beyond the limit are only counted."""
        self.size_exceeded = True
        if not self._enforce:
            return content
        if self.refusal is None:
            self.refusal = Reject(552, "5.3.4", say.too_large(size).lines)
        return content[: max(room, 0)]

    # --- dots and newlines ----------------------------------------------------------------------

    def _resume(self, data: bytes) -> bytes:
        passed, spilled, at = self._cross(data)
        self.byte_length += len(passed) + len(spilled)
        content = b"" if self.has_bare_newline else passed
        if self._place is not _TEXT:
            self.rest += data[at:]
            return content
        if spilled and self._strict:
            self._see_bare()
        if not self.has_bare_newline:
            content += spilled
        return content + self._read(data, at)

    def _cross(self, data: bytes) -> tuple[bytes, bytes, int]:
        """Walk from the open place to the inside of a line or the end.

        Returns what became content on the way, a bare CR that did after it, and how many octets
        of `data` that took: at most four, each row of the table leading to a later one.
        """
        passed, at = b"", 0
        while at < len(data) and (row := BOUNDARIES.get(self._place)):
            if data[at] != row.awaited:
                self._place = _TEXT
                return passed, row.spilled, at
            passed += row.passed
            self._place = row.onward
            at += 1
        self.complete = self._place is _END
        return passed, b"", at

    def _read(self, data: bytes, at: int) -> bytes:
        """The octets from `at` on, which is at the inside of a line or before a line's first octet."""
        # Looking for any dot first spares base64 and its like, and short messages, the slower search.
        dot = data.find(DOT, at)
        found = _STUFFED_LINE.search(data, at if dot < at + 2 else dot - 2) if dot >= 0 else None
        dotted = len(data) if found is None else found.start()
        # Most pieces have no end, and that is known soonest from the end.
        end = data.rfind(END_OF_DATA, dotted)
        if end >= 0:
            end = data.find(END_OF_DATA, dotted)
            self.complete, self._place = True, _END
            self.rest = data[end + len(END_OF_DATA) :]
            stop = end + 2
        else:
            stop = self._open_end(data, at)
        piece = data[at:stop]
        content = piece.replace(STUFFED_LINE, b"\r\n") if dotted < stop - 2 else piece
        if self._strict and not _only_crlf(piece):
            return self._drop_from_bare(data, at, stop)
        self.byte_length += len(content)
        return b"" if self.has_bare_newline else content

    def _open_end(self, data: bytes, at: int) -> int:
        """See what the end of `data` leaves open; return where its certain octets end."""
        self._place = _TEXT
        if not data.endswith(_LAST_OCTETS, at):
            return len(data)
        for octets, place, kept in _OPEN_ENDS:
            if data.endswith(octets, at):
                self._place = place
                return len(data) - kept
        if not data.endswith(b"\r", at):
            return len(data)
        self._place = _Place.HELD_CR if self._strict else _Place.PASSED_CR
        return len(data) - self._strict

    def _see_bare(self) -> None:
        self.has_bare_newline, self._strict = True, False

    def _drop_from_bare(self, data: bytes, at: int, stop: int) -> bytes:
        """The content before the first bare newline; all the rest is only counted."""
        first = next(_BARE.finditer(data, at, stop)).start()
        self._see_bare()
        if self._place is _Place.HELD_CR:  # no verdict hangs on it any more
            self._place, stop = _Place.PASSED_CR, len(data)
        self.byte_length += len(data[at:stop].replace(STUFFED_LINE, b"\r\n"))
        return data[at:first].replace(STUFFED_LINE, b"\r\n")


def _only_crlf(piece: bytes) -> bool:
    """Every CR and LF is half of a CRLF.

    Written anew with CRLF line ends, a sound piece is itself. Single octets are replaced at
    memchr's speed, which makes this several times as quick as counting pairs or a regex.
    """
    return piece == piece.replace(b"\r", b"").replace(b"\n", b"\r\n")
