# The reader of DATA, against the specification octet by octet and against a naive twin.
#
# Every case is read whole, octet by octet and at every two-way cut, and has one outcome.

from __future__ import annotations

import sys
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproto import IncomingMessage, ProtocolOptions, _body

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

EOD = b"\r\n.\r\n"
MODES = pytest.mark.parametrize("reject", [True, False], ids=["reject", "accept"])


class Outcome(NamedTuple):
    content: bytes
    finished: bool
    rest: bytes
    doomed: bool
    byte_length: int


def ended(content: bytes, length: int, rest: bytes = b"", *, doomed: bool = False) -> Outcome:
    return Outcome(content, finished=True, rest=rest, doomed=doomed, byte_length=length)


def unended(content: bytes, length: int, *, doomed: bool = False) -> Outcome:
    return Outcome(content, finished=False, rest=b"", doomed=doomed, byte_length=length)


def message(*, reject: bool) -> IncomingMessage:
    return IncomingMessage(ProtocolOptions(bare_newlines="reject" if reject else "accept"))


def read(pieces: Sequence[bytes], *, reject: bool) -> Outcome:
    reader = message(reject=reject)
    content = b"".join(reader.feed(piece) for piece in pieces)
    return Outcome(content, reader.complete, reader.rest, reader.has_bare_newline, reader.byte_length)


def cuts(octets: bytes) -> Iterator[list[bytes]]:
    yield [octets]
    yield [octets[i : i + 1] for i in range(len(octets))]
    yield from ([octets[:i], octets[i:]] for i in range(len(octets) + 1))


def outcome(octets: bytes, *, reject: bool) -> Outcome:
    whole = read([octets], reject=reject)
    for pieces in cuts(octets):
        assert read(pieces, reject=reject) == whole, pieces
    return whole


def naive(octets: bytes, *, reject: bool) -> Outcome:
    """Written from the specification alone, for octets in which the end of data is."""
    head, end, rest = (b"\r\n" + octets).partition(EOD)
    assert end
    lines = (head + b"\r\n")[2:].split(b"\r\n")
    content = b"\r\n".join(line[1:] if line.startswith(b".") else line for line in lines)
    bare = first_bare(content) if reject else None
    return ended(content[:bare], len(content), rest, doomed=bare is not None)


def first_bare(content: bytes) -> int | None:
    for i, octet in enumerate(content):
        before, behind = content[max(i - 1, 0) : i], content[i + 1 : i + 2]
        if (octet == 13 and behind != b"\n") or (octet == 10 and before != b"\r"):
            return i
    return None


# --- the cases of the specification -------------------------------------------------------------


@MODES
@pytest.mark.parametrize(("octets", "content"), [
    (b".\r\n", b""),
    (b"x\r\n.\r\n", b"x\r\n"),
    (b"\r\n.\r\n", b"\r\n"),
    (b"\r\n\r\n.\r\n", b"\r\n\r\n"),
    (b"no dot, no line end\r\n.\r\n", b"no dot, no line end\r\n"),
    (b"..\r\n.\r\n", b".\r\n"),
    (b"..a\r\n.\r\n", b".a\r\n"),
    (b".a\r\n.\r\n", b"a\r\n"),
    (b"...\r\n.\r\n", b"..\r\n"),
    (b"x\r\n..\r\n.\r\n", b"x\r\n.\r\n"),
    (b"x\r\n...\r\n.y\r\n.\r\n", b"x\r\n..\r\ny\r\n"),
    (b"a.b.\r\nc.\r\n.\r\n", b"a.b.\r\nc.\r\n"),
    (b"x\r\n. \r\n.\r\n", b"x\r\n \r\n"),
    (b"x\r\n.\t\r\n.\r\n", b"x\r\n\t\r\n"),
    (b"x\r\n.\0\r\n.\r\n", b"x\r\n\0\r\n"),
    (b"x\r\n\0.\r\n.\r\n", b"x\r\n\0.\r\n"),
    (b"x\r\n .\r\n.\r\n", b"x\r\n .\r\n"),
    (b"x\r\n\x0b.\r\n.\r\n", b"x\r\n\x0b.\r\n"),
    (b"\0\x80\xff\x1a\x7f\r\n.\r\n", b"\0\x80\xff\x1a\x7f\r\n"),
    (b"y" * 998 + b"\r\n.\r\n", b"y" * 998 + b"\r\n"),
    (b"." + b"y" * 999 + b"\r\n.\r\n", b"y" * 999 + b"\r\n"),
    (b"a" * 1000 + b".\r\nMAIL FROM:<e@x>\r\n.\r\n", b"a" * 1000 + b".\r\nMAIL FROM:<e@x>\r\n"),
])  # fmt: skip
def test_a_body_ends_at_its_lone_dot_and_each_dotted_line_loses_one_dot(
    octets: bytes, content: bytes, reject: bool
) -> None:
    for rest in (b"", b"Q", b"\n", b"\r\n.\r\n", b"MAIL FROM:<>\r\n"):
        expected = ended(content, len(content), rest)
        assert outcome(octets + rest, reject=reject) == expected


# Each stands between "body" and a command that must stay data.
SMUGGLERS = [
    (b"\r\n.\n", b"\r\n", b"\r\n\n"),
    (b"\n.\r\n", b"", b"\n.\r\n"),
    (b"\n.\n", b"", b"\n.\n"),
    (b"\n\n.\n\n", b"", b"\n\n.\n\n"),
    (b"\r\n.\r", b"\r\n", b"\r\n\r"),
    (b"\r.\r\n", b"", b"\r.\r\n"),
    (b"\r.\r", b"", b"\r.\r"),
    (b"\n.\r", b"", b"\n.\r"),
    (b"\r.\n", b"", b"\r.\n"),
    (b"\n\r.\n\r", b"", b"\n\r.\n\r"),
    (b"\r\n.\r\r\n", b"\r\n", b"\r\n\r\r\n"),
    (b"\r\n.\r\r\n.", b"\r\n", b"\r\n\r\r\n"),
    (b"\r\n.\n\r\n", b"\r\n", b"\r\n\n\r\n"),
    (b"\r\n\n.\r\n", b"\r\n", b"\r\n\n.\r\n"),
    (b"\r\n\r.\r\n", b"\r\n", b"\r\n\r.\r\n"),
    (b"\r\n.\r\n."[:4] + b"\0\n", b"\r\n", b"\r\n\r\0\n"),
    (b"\rx\n", b"", b"\rx\n"),  # a CR and an LF that only a count takes for a pair
    (b"\nx\r", b"", b"\nx\r"),
    (b"\n", b"", b"\n"),
    (b"\r", b"", b"\r"),
    (b"\r\r\n", b"", b"\r\r\n"),
]


@pytest.mark.parametrize(("between", "sound", "kept"), SMUGGLERS)
def test_nothing_but_crlf_dot_crlf_ends_a_body(between: bytes, sound: bytes, kept: bytes) -> None:
    evil = b"MAIL FROM:<evil@x.test>\r\n"
    octets = b"body" + between + evil + b"...\r\n.\r\nNOOP\r\n"
    message = b"body" + kept + evil + b"..\r\n"
    rejected = outcome(octets, reject=True)
    assert rejected == ended(b"body" + sound, len(message), b"NOOP\r\n", doomed=True)
    accepted = outcome(octets, reject=False)
    assert accepted == ended(message, len(message), b"NOOP\r\n")


@pytest.mark.parametrize(("octets", "sound", "kept"), [
    (b"x\r\r\n.\r\n", b"x", b"x\r\r\n"),
    (b"\n.\r\n\r\n.\r\n", b"", b"\n.\r\n\r\n"),
    (b"\r.\r\n\r\n.\r\n", b"", b"\r.\r\n\r\n"),
    (b".\n\r\n.\r\n", b"", b"\n\r\n"),
    (b".\r\r\n.\r\n", b"", b"\r\r\n"),
    (b".\r.\r\n.\r\n", b"", b"\r.\r\n"),
    (b"a\r\n.b\r\n..\rc\n\r\n.\r\n", b"a\r\nb\r\n.", b"a\r\nb\r\n.\rc\n\r\n"),
    (b"a\n.b\r\n.c\r\n..d\r\n.\r\n", b"a", b"a\n.b\r\nc\r\n.d\r\n"),
])  # fmt: skip
def test_a_bare_newline_dooms_at_its_own_octet_or_is_data(octets: bytes, sound: bytes, kept: bytes) -> None:
    assert outcome(octets, reject=True) == ended(sound, len(kept), doomed=True)
    assert outcome(octets, reject=False) == ended(kept, len(kept))


# --- what is kept back --------------------------------------------------------------------------


@pytest.mark.parametrize(("octets", "strictly", "doomed", "leniently"), [
    (b"", b"", False, b""),
    (b".", b"", False, b""),
    (b".\r", b"", False, b""),
    (b".\r\r", b"", True, b"\r\r"),
    (b".\rx", b"", True, b"\rx"),
    (b".\r.", b"", True, b"\r."),
    (b".\n", b"", True, b"\n"),
    (b".x", b"x", False, b"x"),
    (b"..", b".", False, b"."),
    (b"..\r", b".", False, b".\r"),
    (b"\r", b"", False, b"\r"),
    (b"\n", b"", True, b"\n"),
    (b"\r\n", b"\r\n", False, b"\r\n"),
    (b"\r\n.", b"\r\n", False, b"\r\n"),
    (b"x", b"x", False, b"x"),
    (b"x.", b"x.", False, b"x."),
    (b"x\r", b"x", False, b"x\r"),
    (b"x\r\r", b"x", True, b"x\r\r"),
    (b"x\ry", b"x", True, b"x\ry"),
    (b"x\r\n", b"x\r\n", False, b"x\r\n"),
    (b"x\r\n.", b"x\r\n", False, b"x\r\n"),
    (b"x\r\n.\r", b"x\r\n", False, b"x\r\n"),
    (b"x\r\n.\r\r", b"x\r\n", True, b"x\r\n\r\r"),
    (b"x\r\n.\ry\r", b"x\r\n", True, b"x\r\n\ry\r"),
    (b"x\r\n..", b"x\r\n.", False, b"x\r\n."),
    (b"x\n\r", b"x", True, b"x\n\r"),
    (b"x\n\r\n.\r", b"x", True, b"x\n\r\n"),
])  # fmt: skip
def test_an_open_end_keeps_back_what_the_next_octet_decides(
    octets: bytes, strictly: bytes, doomed: bool, leniently: bytes
) -> None:
    # Behind a bare newline the CR at the end is as certain as in the other mode.
    counted = len(leniently) if doomed else len(strictly)
    assert outcome(octets, reject=True) == unended(strictly, counted, doomed=doomed)
    assert outcome(octets, reject=False) == unended(leniently, len(leniently))


def test_octets_fed_behind_the_end_are_rest_as_well() -> None:
    reader = message(reject=True)
    assert [reader.feed(piece) for piece in (b".\r", b"\nQU", b"IT\r", b"\n.")] == [b"", b"", b"", b""]
    assert (reader.complete, reader.rest, reader.byte_length) == (True, b"QUIT\r\n.", 0)


@MODES
@pytest.mark.parametrize("before", [b"", b"x", b"x\r\n"], ids=["start", "text", "line start"])
@pytest.mark.parametrize("chunk", [b"plain", b"one\r\ntwo\r\n", b"a.b\r\nc.\r\nd", b" . \r\n"])
def test_a_chunk_with_nothing_to_take_out_is_the_same_object(
    before: bytes, chunk: bytes, reject: bool
) -> None:
    reader = message(reject=reject)
    reader.feed(before)
    assert reader.feed(chunk) is chunk


# --- properties ---------------------------------------------------------------------------------

OCTETS = st.lists(
    st.sampled_from([b"\r", b"\n", b".", b"\0", b"x", b"\r\n", b"\r\n.", b"\r\n..", b".\r", b"\xff"]),
    max_size=24,
).map(b"".join)
BEHIND = st.sampled_from([b"", b"\n", b".\r\n", b"QUIT\r\n"])


@st.composite
def in_pieces(draw: st.DrawFn, octets: st.SearchStrategy[bytes]) -> list[bytes]:
    whole = draw(octets)
    at = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    return [whole[a:b] for a, b in pairwise([0, *at, len(whole)])]


ENDED = st.tuples(OCTETS, st.just(EOD), BEHIND).map(b"".join)


@MODES
@given(pieces=in_pieces(ENDED))
def test_any_body_in_any_pieces_reads_as_the_naive_twin_reads_it(pieces: list[bytes], reject: bool) -> None:
    assert read(pieces, reject=reject) == naive(b"".join(pieces), reject=reject)


@MODES
@given(pieces=in_pieces(OCTETS))
def test_before_the_end_at_most_two_octets_and_the_stuffing_are_missing(
    pieces: list[bytes], reject: bool
) -> None:
    # Two naive endings bracket what is certain: whatever comes next cannot change it.
    reader = message(reject=reject)
    fed, content = b"", b""
    for piece in pieces:
        fed, content = fed + piece, content + reader.feed(piece)
        if reader.complete:
            break
        later = naive(fed + b"x" + EOD, reject=reject)
        assert later.content.startswith(content)
        assert later.byte_length - len(b"x\r\n") - reader.byte_length in (0, 1)
        if not reader.has_bare_newline:
            assert reader.byte_length == len(content)


LINES = st.lists(st.lists(st.sampled_from([b".", b"\0", b"x", b" ", b"\xe9"])).map(b"".join), max_size=12)


@given(lines=LINES, data=st.data())
def test_what_a_trusted_stuffer_sends_comes_back(lines: list[bytes], data: st.DataObject) -> None:
    message = b"".join(line + b"\r\n" for line in lines)
    sent = b"".join(b"." * line.startswith(b".") + line + b"\r\n" for line in lines) + b".\r\n"
    pieces = data.draw(in_pieces(st.just(sent)))
    assert read(pieces, reject=True) == ended(message, len(message))


# --- work and memory ----------------------------------------------------------------------------


def calls(work: Callable[[], object]) -> int:
    """How many functions, Python's and C's, the file under test calls."""
    counter: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _arg: object) -> None:
        if frame.f_code.co_filename == _body.__file__:
            counter[event] += 1

    before: Any = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return counter["call"] + counter["c_call"]


@MODES
@pytest.mark.parametrize("line", [b"..\r\n", b"...x\r\n", b"\r\n", b".\r\r\n", b".\n\r\n", b"x.\r\n"])
def test_the_number_of_lines_in_a_chunk_costs_no_calls(line: bytes, reject: bool) -> None:
    few = [line * 10 + b".\r\n"]
    many = [line * 250_000 + b".\r\n"]
    assert calls(lambda: read(many, reject=reject)) == calls(lambda: read(few, reject=reject))


@MODES
@pytest.mark.parametrize("line", [b"..\r\n", b".\r\r\n", b".x\r\n", b"\r\n", b"\r\r\r\r"])
def test_octets_one_by_one_cost_the_same_each(line: bytes, reject: bool) -> None:
    def read_octets(lines: int) -> int:
        pieces = [bytes([octet]) for octet in line * lines]
        return calls(lambda: read(pieces, reject=reject))

    steady = read_octets(200) - read_octets(100)
    assert read_octets(2100) - read_octets(2000) == steady


@MODES
def test_between_feeds_a_reader_holds_a_place_and_no_octets(reject: bool) -> None:
    reader = message(reject=reject)
    for piece in (b"x\r\n.", b"\r", b"x" * 70_000, b"\r", b"\n.\r"):
        reader.feed(piece)
        held = [
            value for name in IncomingMessage.__slots__ if isinstance(value := getattr(reader, name), bytes)
        ]
        assert held == [b""]
