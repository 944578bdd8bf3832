# Replies: the one place where octets for the peer are made.
#
# Whatever text comes in, from an option, a hook or a host name, what goes out is one reply:
# digits, a separator, printable text, CRLF, at most 512 octets a line. Nothing else in the
# library writes CR or LF towards the peer.

from __future__ import annotations

import re
from binascii import b2a_base64
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "Reply", "challenge_line", "default_enhanced", "default_text", "is_blank", "single_line",
    "split_enhanced",
]  # fmt: skip

MAX_REPLY_LINE: Final = 512  # octets with CRLF, RFC 5321 §4.5.3.1.5
MAX_REPLY_LINES: Final = 100
MAX_REPLY_TEXT: Final = MAX_REPLY_LINES * MAX_REPLY_LINE  # characters; what lies behind them is never sent

# RFC 3463 §2, as far as a reply may carry it: class, subject and detail without leading zeros.
ENHANCED: Final = re.compile(r"([245])\.(0|[1-9][0-9]{0,2})\.(0|[1-9][0-9]{0,2})")
_LEADING_ENHANCED: Final = re.compile(rf"({ENHANCED.pattern})(?: |\r\n|\r|\n|\Z)")
_LINE_BREAK: Final = re.compile(r"\r\n|\r|\n")

# Enhanced codes for replies that name none (RFC 3463, RFC 4954 §6, RFC 7504 §5).
DEFAULT_ENHANCED: Final[Mapping[int, str]] = {
    200: "2.0.0", 211: "2.0.0", 214: "2.0.0", 220: "2.0.0", 221: "2.0.0", 250: "2.0.0",
    235: "2.7.0", 251: "2.1.5", 252: "2.1.5",
    421: "4.3.2", 450: "4.2.1", 451: "4.3.0", 452: "4.2.2", 454: "4.7.0",
    500: "5.5.2", 501: "5.5.4", 502: "5.5.1", 503: "5.5.1", 504: "5.5.4",
    521: "5.3.2", 530: "5.7.0", 535: "5.7.8", 538: "5.7.11",
    550: "5.1.1", 551: "5.1.6", 552: "5.2.2", 553: "5.1.3", 554: "5.6.0", 555: "5.5.4", 556: "5.1.10",
}  # fmt: skip

DEFAULT_TEXT: Final[Mapping[int, str]] = {
    421: "Service not available, closing connection",
    450: "Requested action not taken",
    451: "Error: internal error, please try again later",
    452: "Insufficient resources",
    535: "Error: Authentication credentials invalid",
    550: "Requested action not taken",
    554: "Transaction failed",
}
DEFAULT_TEXT_OF_CLASS: Final[Mapping[int, str]] = {
    2: "OK",
    3: "Go on",
    4: "Temporary failure",
    5: "Request refused",
}


def default_enhanced(code: int) -> str:
    """The enhanced code of a 2yz, 4yz or 5yz that names none, by its code alone."""
    return DEFAULT_ENHANCED.get(code) or f"{code // 100}.0.0"


def default_text(code: int) -> str:
    """The text of a reply that has none."""
    return DEFAULT_TEXT.get(code) or DEFAULT_TEXT_OF_CLASS[code // 100]


def split_enhanced(code: int, text: str) -> tuple[str | None, str]:
    """Take an enhanced code of the code's own class off the front of an application's text."""
    match = _LEADING_ENHANCED.match(text)
    if match is None or int(match[2]) != code // 100:
        return None, text
    return match[1], text[match.end() :]


def is_blank(text: Iterable[str]) -> bool:
    """Whether a text, or a list of them, says nothing."""
    return not any(part.strip() for part in text)


def challenge_line(data: bytes) -> bytes:
    """A 334 of a SASL exchange: base64 on one line of whatever length (RFC 4954 §4)."""
    return b"334 " + b2a_base64(data, newline=False) + b"\r\n"


def single_line(text: str) -> str:
    """Make application text fit for the middle of a reply line: line breaks become blanks."""
    return _clean(_LINE_BREAK.sub(" ", text), utf8=False)


class Reply:
    """One reply, one or several lines.

    `code` is the three digits, `enhanced` the RFC 3463 code or None where this reply never has
    one, `lines` the cleaned text, `spellings` its octets without and with the enhanced code.
    """

    __slots__ = ("code", "enhanced", "lines", "spellings")

    def __init__(
        self,
        code: int,
        enhanced: str | None,
        text: str | Iterable[str],
        *,
        utf8: bool = False,
    ) -> None:
        texts = [text] if isinstance(text, str) else list(text)
        room = MAX_REPLY_LINE - len("250-\r\n") - (len(enhanced) + 1 if enhanced else 0)
        self.code: int = code
        self.enhanced: str | None = enhanced
        self.lines: tuple[str, ...] = _lines(texts, room, utf8=utf8) or (default_text(code),)
        plain = self._encode("")
        self.spellings: tuple[bytes, bytes] = (plain, self._encode(f"{enhanced} ") if enhanced else plain)

    def encode(self, *, coded: bool) -> bytes:
        """The octets of the reply, CRLF included; `coded` says whether enhanced codes are in use."""
        return self.spellings[coded]

    def text(self, *, coded: bool) -> str:
        """The reply as text without its last CRLF."""
        return self.encode(coded=coded).decode()[:-2]

    def _encode(self, prefix: str) -> bytes:
        more = "".join(f"{self.code}-{prefix}{line}\r\n" for line in self.lines[:-1])
        return f"{more}{self.code} {prefix}{self.lines[-1]}\r\n".encode()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Reply):
            return NotImplemented
        return (self.code, self.enhanced, self.lines) == (other.code, other.enhanced, other.lines)

    def __hash__(self) -> int:
        return hash((self.code, self.enhanced, self.lines))

    def __repr__(self) -> str:
        return f"<Reply {self.text(coded=True)!r}>"


def _lines(texts: list[str], room: int, *, utf8: bool) -> tuple[str, ...]:
    """Clean, split and fold; empty when there is nothing to say at all."""
    if is_blank(texts):
        return ()
    if len(texts) == 1 and len(texts[0]) <= room and _is_plain(texts[0]):
        return (texts[0],)  # as nearly all are
    # Cut first: an application may quote what the peer sent, and work is for what goes out.
    short = [text[:MAX_REPLY_TEXT] for text in texts[:MAX_REPLY_LINES]]
    cleaned = [_clean(part, utf8=utf8) for text in short for part in _LINE_BREAK.split(text)]
    # A trailing line break ends the last line; it does not open an empty one.
    while cleaned and not cleaned[-1]:
        cleaned.pop()
    return tuple(line for part in cleaned[:MAX_REPLY_LINES] for line in _fold(part, room))[:MAX_REPLY_LINES]


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _clean(text: str, *, utf8: bool) -> str:
    if _is_plain(text):
        return text
    # `isprintable` also refuses surrogates, format characters and every blank but the plain one.
    return "".join(c if c.isprintable() and (utf8 or c.isascii()) else "?" for c in text)


def _fold(line: str, room: int) -> Iterable[str]:
    """Cut at the last blank that fits; a word longer than a line is cut where the line ends."""
    octets = line.encode()
    start = 0
    while len(octets) - start > room:
        end = octets.rfind(b" ", start + 1, start + room + 1)
        following = end + 1
        if end < 0:
            end = following = _character_start(octets, start + room)
        yield octets[start:end].decode()
        start = following
    # A blank that was the last octet has become the fold; no empty line comes behind it.
    if start < len(octets) or not start:
        yield octets[start:].decode()


def _character_start(octets: bytes, index: int) -> int:
    while octets[index] & 0xC0 == 0x80:  # noqa: PLR2004 - UTF-8 continuation octets are 10xxxxxx
        index -= 1
    return index
