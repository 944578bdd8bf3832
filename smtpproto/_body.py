# The body of DATA: where it ends, and which of its dots are its own.
#
# One rule keeps this file safe: a line ends at CRLF and nowhere else (RFC 5321 §2.3.8). Whoever
# also ends one at a bare LF or CR lets a second message be smuggled inside the first. What the
# end of a chunk leaves open is a row of a table, never a guess.

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DotReader"]

CR: Final = 0x0D
LF: Final = 0x0A
DOT: Final = 0x2E

STUFFED_LINE: Final = b"\r\n."
END_OF_DATA: Final = b"\r\n.\r\n"  # RFC 5321 §4.1.1.4; its first CRLF belongs to the message
_STUFFED_LINE: Final = re.compile(rb"\r\n\.")  # searching is quicker than bytes.find here
_BARE: Final = re.compile(rb"\r(?!\n)|(?<!\r)\n")


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
    """A CR inside a line, kept back: alone it dooms the message and is not content."""
    TOLD_CR = enum.auto()
    """A CR inside a line, already passed on, since here it is content whatever follows."""
    END = enum.auto()
    """Behind the end of data."""


# Looked up in every feed, and an enum's members are slow to find in CPython 3.11.
_TEXT: Final = _Place.TEXT
_LINE_START: Final = _Place.LINE_START


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
    _Place.TOLD_CR: _Boundary(LF, _Place.LINE_START, b"\n", b""),
}

# How a chunk without the end of data can end: its last octets, the place, how many are kept back.
_OPEN_ENDS: Final = (
    (b"\r\n.\r", _Place.DOT_CR, 2),
    (b"\r\n.", _Place.LONE_DOT, 1),
    (b"\r\n", _Place.LINE_START, 0),
)
_LAST_OCTETS: Final = (b"\r", b"\n", b".")


class DotReader:
    """Reads one body of DATA up to its end; takes the stuffed dots out (RFC 5321 §4.5.2).

    Feed it what comes until `finished`. The content it returns does not depend on how the octets
    are cut; a chunk with nothing to take out comes back as the same object.
    """

    __slots__ = ("_place", "_strict", "byte_length", "doomed", "finished", "rest")

    def __init__(self, bare_newlines: Literal["reject", "accept"]) -> None:
        self.finished: bool = False
        """The end of data has come; nothing is kept back any more."""
        self.rest: bytes = b""
        """The octets behind the end of data."""
        self.doomed: bool = False
        """A CR or LF outside CRLF was seen and is not accepted; no content follows."""
        self.byte_length: int = 0
        """Octets of the unstuffed message: those returned, and behind a bare newline those dropped."""
        self._strict: bool = bare_newlines == "reject"  # and not doomed yet
        self._place: _Place = _Place.LINE_START

    def feed(self, data: bytes) -> bytes:
        """Take in the next octets; return the content that they made certain."""
        place = self._place
        if place is _TEXT or (place is _LINE_START and data and data[0] != DOT):
            return self._read(data, 0)
        return self._resume(data)

    def _resume(self, data: bytes) -> bytes:
        passed, spilled, at = self._cross(data)
        self.byte_length += len(passed) + len(spilled)
        content = b"" if self.doomed else passed
        if self._place is not _TEXT:
            self.rest += data[at:]
            return content
        if spilled and self._strict:
            self._doom()
        if not self.doomed:
            content += spilled
        return content + self._read(data, at)

    def _cross(self, data: bytes) -> tuple[bytes, bytes, int]:
        """Walk from the open place to the inside of a line or the end.

        Returns what became content on the way, a bare CR that did behind it, and how many octets
        of `data` that took: at most four, each row of the table leading to a later one.
        """
        passed, at = b"", 0
        while at < len(data) and (row := BOUNDARIES.get(self._place)):
            if data[at] != row.awaited:
                self._place = _Place.TEXT
                return passed, row.spilled, at
            passed += row.passed
            self._place = row.onward
            at += 1
        self.finished = self._place is _Place.END
        return passed, b"", at

    def _read(self, data: bytes, at: int) -> bytes:
        """The octets from `at` on, which is at the inside of a line or before a line's first octet."""
        # Looking for any dot first spares base64 and its like, and short messages, the slower search.
        dot = data.find(DOT, at)
        found = _STUFFED_LINE.search(data, at if dot < at + 2 else dot - 2) if dot >= 0 else None
        dotted = len(data) if found is None else found.start()
        # Most pieces have no end, and that is known soonest from behind.
        end = data.rfind(END_OF_DATA, dotted)
        if end >= 0:
            end = data.find(END_OF_DATA, dotted)
            self.finished, self._place = True, _Place.END
            self.rest = data[end + len(END_OF_DATA) :]
            stop = end + 2
        else:
            stop = self._open_end(data, at)
        piece = data[at:stop]
        content = piece.replace(STUFFED_LINE, b"\r\n") if dotted < stop - 2 else piece
        if self._strict and not _only_crlf(piece):
            return self._doom_within(data, at, stop)
        self.byte_length += len(content)
        return b"" if self.doomed else content

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
        self._place = _Place.HELD_CR if self._strict else _Place.TOLD_CR
        return len(data) - self._strict

    def _doom(self) -> None:
        self.doomed, self._strict = True, False

    def _doom_within(self, data: bytes, at: int, stop: int) -> bytes:
        """The content before the first bare newline; all the rest is only counted."""
        first = next(_BARE.finditer(data, at, stop)).start()
        self._doom()
        if self._place is _Place.HELD_CR:  # no verdict hangs on it any more
            self._place, stop = _Place.TOLD_CR, len(data)
        self.byte_length += len(data[at:stop].replace(STUFFED_LINE, b"\r\n"))
        return data[at:first].replace(STUFFED_LINE, b"\r\n")


def _only_crlf(piece: bytes) -> bool:
    """Every CR and LF is half of a CRLF.

    Written anew with CRLF line ends, a sound piece is itself. Single octets are replaced at
    memchr's speed, which makes this several times as quick as counting pairs or a regex.
    """
    return piece == piece.replace(b"\r", b"").replace(b"\n", b"\r\n")
