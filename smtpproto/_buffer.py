# Command lines: octets in, one line or one fault at a time out.
#
# The outcome depends on the octets alone and never on how they were cut: whichever fault comes
# first in the order of the octets is the line's only one. What is held is at most one line's
# limit plus what was fed and not yet looked at.

from __future__ import annotations

import enum
import re
from typing import Final

__all__ = ["LineBuffer", "LineFault"]

CRLF: Final = b"\r\n"
# All control octets but TAB. CR and LF are among them: alone they are as wrong as NUL.
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_AUTH: Final = b"AUTH "
ENDLESS_FACTOR: Final = 8  # times the line's limit without a CRLF: this peer will not end its line


class LineFault(enum.Enum):
    """Why a line cannot be a command."""

    INVALID = enum.auto()
    """A control octet, a bare CR or LF, or not UTF-8."""
    TOO_LONG = enum.auto()
    """Longer than the limit with its CRLF."""
    AUTH_TOO_LONG = enum.auto()
    """The same for a line of an AUTH exchange (RFC 4954 §4), which has a limit of its own."""
    ENDLESS = enum.auto()
    """Far beyond the limit and still no CRLF; always after another fault. Close."""


class _Dropping:
    """The state after a fault: the rest of the line goes, up to and including its CRLF."""

    __slots__ = ("after_cr", "ceiling", "length")

    def __init__(self, length: int, ceiling: int, *, after_cr: bool) -> None:
        self.length: int = length
        """Octets of the line so far."""
        self.ceiling: int = ceiling
        self.after_cr: bool = after_cr

    def end_in(self, data: bytes, at: int) -> int:
        """Where the next line begins, or -1 when all of `data` from `at` on belongs to this one."""
        if self.after_cr and data[at] == CRLF[1]:
            end = at + 1
        else:
            found = data.find(CRLF, at)
            end = found + len(CRLF) if found >= 0 else -1
        self.length += (end if end >= 0 else len(data)) - at
        self.after_cr = data.endswith(b"\r")
        return end


class LineBuffer:
    """Cuts what comes into lines; whoever reads something else takes the octets out again.

    One exists for each connection, so it is small while nothing is held.
    """

    __slots__ = ("_auth_limit", "_limit", "_short", "at", "begun", "chunk", "continuation", "later")

    def __init__(self, limit: int, auth_limit: int) -> None:
        """`limit` and `auth_limit` are octets with CRLF, each at least 5: so many tell an AUTH."""
        self.continuation: bool = False
        """An AUTH exchange waits for its next line: `auth_limit` holds whatever the line is.

        Change it between two lines only.
        """
        self._limit: int = limit
        self._auth_limit: int = auth_limit
        self._short: int = min(limit, auth_limit)  # no line up to here is too long
        # The fast paths of the engine and of a message read these four as well; they move `at` alone.
        self.chunk: bytes = b""
        self.at: int = 0
        """How much of the chunk is consumed."""
        self.later: bytearray | None = None
        """What was fed before the chunk was used up."""
        self.begun: bytearray | _Dropping | None = None
        """A line whose CRLF has not come: its octets, found clean so far, or what is left to drop."""

    def feed(self, data: bytes, most: int | None = None) -> bool:
        """Take in octets from the peer, unless `most` are held already; nothing is looked at yet."""
        used_up = self.at == len(self.chunk) and self.later is None
        if used_up and self.begun is None:
            self.chunk, self.at = data, 0
            return True
        if most is not None and len(self) >= most:
            return False
        if used_up:
            self.chunk, self.at = data, 0
        elif self.later is None:
            self.later = bytearray(data)
        else:
            self.later += data
        return True

    def next_line(self) -> str | LineFault | None:
        """The next complete line without its CRLF, a fault, or None: more input is needed.

        A line has one fault at most, reported as soon as it is certain, and perhaps ENDLESS after
        it. After ENDLESS nothing more comes.
        """
        if self.begun is not None:
            return self._careful_line()
        chunk, at = self.chunk, self.at
        if at == len(chunk):
            if self.later is not None:
                return self._careful_line()
            self.chunk, self.at = b"", 0
            return None
        end = chunk.find(CRLF, at)
        if 0 <= end <= at + self._short - 2:
            # A surrogate is not printable, so octets that are not UTF-8 go the careful way.
            line = chunk[at:end].decode("utf-8", "surrogateescape")
            if line.isprintable():
                self.at = end + 2
                return line
        return self._careful_line()

    def is_used_up(self) -> bool:
        """Whether no octets wait to be looked at; the chunk is let go then."""
        if self.at < len(self.chunk) or self.later is not None:
            return False
        self.chunk, self.at = b"", 0
        return True

    @property
    def line_pending(self) -> bool:
        """`next_line` has seen the beginning of a line, or is dropping one, and its CRLF has not come."""
        return self.begun is not None

    def __len__(self) -> int:
        """The octets held that nobody has consumed."""
        if self.begun is None and self.later is None:
            return len(self.chunk) - self.at
        begun = len(self.begun) if isinstance(self.begun, bytearray) else 0
        return begun + len(self.chunk) - self.at + len(self.later or b"")

    def take(self, most: int) -> bytes:
        """Octets for somebody else than `next_line`, at most `most`; b"" only when none are held.

        Who may soon `unread` the greater part should ask for little at a time: a copy of the whole
        chunk for each short body would make the work quadratic in the chunk.
        """
        if self.begun is not None:
            self._put_back_begun()
        chunk, at = self.chunk, self.at
        if at == len(chunk):
            if self.later is None:
                return b""
            self._refill()
            chunk, at = self.chunk, 0
        taken = chunk[at : at + most]
        self.at = at + len(taken)
        return taken

    def take_all(self) -> bytes:
        """All octets that are held; the buffer is empty then."""
        self._put_back_begun()
        taken = self.chunk[self.at :] + (self.later or b"")
        self.chunk, self.at, self.later = b"", 0, None
        return taken

    def unread(self, data: bytes) -> None:
        """Put octets in front of all others; cheap for the end of what was just taken."""
        self._put_back_begun()
        start = self.at - len(data)
        if start >= 0 and self.chunk.startswith(data, start):
            self.at = start
        else:
            self.chunk, self.at = data + self.chunk[self.at :], 0

    def _careful_line(self) -> str | LineFault | None:
        """Lines in pieces, faulty, long, or with a TAB: everything that is not on the quick path."""
        while self._refill():
            begun = self.begun
            if isinstance(begun, _Dropping):
                return self._drop(begun)
            outcome = self._extend(bytearray() if begun is None else begun)
            if outcome is not None:
                return outcome
        return None

    def _refill(self) -> bool:
        """Whether the chunk has octets; when it is used up, what came later takes its place."""
        if self.at == len(self.chunk):
            self.chunk, self.at, self.later = bytes(self.later or b""), 0, None
        return self.at < len(self.chunk)

    def _extend(self, line: bytearray) -> str | LineFault | None:
        """Look at the chunk as far as it can decide about `line`, which is clean so far."""
        chunk, at, held = self.chunk, self.at, len(line)
        is_auth = self.continuation or (bytes(line[:5]) + chunk[at : at + 5])[:5].upper() == _AUTH
        limit = self._auth_limit if is_auth else self._limit
        room = at + limit + 1 - held  # one octet beyond the limit proves a line too long
        end = chunk.find(CRLF, at, room)
        line += chunk[at : end + 2 if end >= 0 else room]
        control = _CONTROL.search(line, held - line.endswith(b"\r", 0, held))
        # How many octets the verdict needs: after a CR one more, as it may be half of a CRLF.
        needed = limit + 1 if control is None else control.end() + (control[0] == b"\r")
        if len(line) <= limit and len(line) < needed:
            self.begun, self.at = line, len(chunk)
            return None
        if needed <= limit and line.endswith(CRLF, 0, needed):
            self.begun, self.at = None, at + needed - held
            return _decoded(line[: needed - len(CRLF)])
        # The octet that decided may itself be half of the CRLF: it is the first one to drop.
        faulty = min(needed - 1, limit)
        after_cr = line.endswith(b"\r", 0, faulty)
        self.begun = _Dropping(faulty, ENDLESS_FACTOR * limit, after_cr=after_cr)
        self.at = at + faulty - held
        if faulty < limit:
            return LineFault.INVALID
        return LineFault.AUTH_TOO_LONG if is_auth else LineFault.TOO_LONG

    def _drop(self, dropping: _Dropping) -> str | LineFault | None:
        """Go to the end of a line that had its fault, and on to the next line."""
        if dropping.length > dropping.ceiling:  # was ENDLESS
            self.take_all()
            return None
        end = dropping.end_in(self.chunk, self.at)
        self.at = end if end >= 0 else len(self.chunk)
        if dropping.length > dropping.ceiling:
            return LineFault.ENDLESS
        if end >= 0:
            self.begun = None
        return self._careful_line()

    def _put_back_begun(self) -> None:
        if isinstance(self.begun, bytearray):
            self.chunk, self.at = bytes(self.begun) + self.chunk[self.at :], 0
            self.begun = None


def _decoded(line: bytearray) -> str | LineFault:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return LineFault.INVALID
