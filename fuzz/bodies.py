# Whatever octets a body is made of, and however they are cut: what comes out is what went in, less one
# dot at each line that begins with one; it ends at CRLF.CRLF and nowhere else.
#
# The input: how (1), sizes of pieces (2), octets. They are read as they are, and stuffed first.

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from smtpproto import IncomingMessage, ProtocolOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["target"]

HEADER: Final = 3
LINES: Final = re.compile(rb"(?s).*?\r\n|.+\Z")
# What the next octet may still make a CRLF is not bare.
BARE: Final = re.compile(rb"(?s)\r(?=[^\n])|(?<!\r)\n")
END: Final = b".\r\n"
MOST_KEPT: Final = 2  # octets that wait for the next one: a dot and a CR


def target(data: bytes) -> None:
    """One body, read whole and in pieces."""
    if len(data) < HEADER:
        return
    strict = bool(data[0] & 1)
    sizes = data[1], 1 + data[2] % 64
    octets = data[HEADER:]
    _insist_on(octets, sizes, strict=strict)
    content = octets if octets.endswith(b"\r\n") or not octets else octets + b"\r\n"
    stuffed = b"".join(b"." + line if line.startswith(b".") else line for line in LINES.findall(content))
    body = _insist_on(stuffed + END + octets, sizes, strict=strict)
    assert body.finished
    assert body.rest == octets
    assert body.doomed or body.content == content


class Body(NamedTuple):
    """What was read."""

    content: bytes
    rest: bytes
    byte_length: int
    finished: bool
    doomed: bool


def _insist_on(octets: bytes, sizes: tuple[int, int], *, strict: bool) -> Body:
    body = _read([octets], strict=strict)
    in_pieces = _read(list(_pieces(octets, *sizes)), strict=strict)
    assert in_pieces == body, (in_pieces, body)
    expected, finished, rest = _read_lines(octets)
    assert (body.finished, body.rest) == (finished, rest)
    kept = len(expected) - body.byte_length
    assert 0 <= kept <= (0 if finished else MOST_KEPT)
    bare = BARE.search(expected) if strict else None
    assert body.doomed is (bare is not None)
    if bare is not None:
        assert body.content == expected[: bare.start()]
    else:
        assert body.content == expected[: body.byte_length]
    return body


def _read(pieces: list[bytes], *, strict: bool) -> Body:
    reader = IncomingMessage(ProtocolOptions(bare_newlines="reject" if strict else "accept"))
    content: list[bytes] = []
    behind: list[bytes] = []
    for piece in pieces:
        if reader.complete:
            behind.append(piece)
        else:
            content.append(reader.feed(piece))
    rest = b"".join([reader.rest, *behind])
    return Body(b"".join(content), rest, reader.byte_length, reader.complete, reader.has_bare_newline)


def _pieces(octets: bytes, first: int, size: int) -> Iterator[bytes]:
    yield octets[:first]
    for at in range(first, len(octets), size):
        yield octets[at : at + size]


def _read_lines(octets: bytes) -> tuple[bytes, bool, bytes]:
    """The content, whether its end came, and what follows, by a reader that knows lines only."""
    content: list[bytes] = []
    at = 0
    for line in LINES.findall(octets):
        at += len(line)
        if line == END:
            return b"".join(content), True, octets[at:]
        if line.startswith(b".") and END.startswith(line):
            break  # perhaps the end
        content.append(line[1:] if line.startswith(b".") else line)
    return b"".join(content), False, b""
