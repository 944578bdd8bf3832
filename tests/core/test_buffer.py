# Command lines, against the specification and against a naive twin that sees all input at once.
#
# Every case is read whole, octet by octet and at every two-way cut, and has one outcome.

from __future__ import annotations

import re
import sys
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproto import _buffer
from smtpproto._buffer import LineBuffer, LineFault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType

    Line = str | LineFault

INVALID, TOO_LONG = LineFault.INVALID, LineFault.TOO_LONG
AUTH_TOO_LONG, ENDLESS = LineFault.AUTH_TOO_LONG, LineFault.ENDLESS


def drain(buffer: LineBuffer) -> Iterator[Line]:
    while (line := buffer.next_line()) is not None:
        assert not isinstance(line, re.Match)
        yield line


def read(pieces: Iterable[bytes], limits: tuple[int, int], *, continuation: bool = False) -> list[Line]:
    buffer = LineBuffer(*limits)
    buffer.continuation = continuation
    lines: list[Line] = []
    for piece in pieces:
        buffer.feed(piece)
        lines += drain(buffer)
        assert len(buffer) <= max(limits)
    return lines


def cuts(octets: bytes) -> Iterator[list[bytes]]:
    yield [octets[i : i + 1] for i in range(len(octets))]
    yield from ([octets[:i], octets[i:]] for i in range(len(octets) + 1))


def outcome(octets: bytes, limits: tuple[int, int] = (64, 96), *, continuation: bool = False) -> list[Line]:
    whole = read([octets], limits, continuation=continuation)
    for pieces in cuts(octets):
        assert read(pieces, limits, continuation=continuation) == whole, pieces
    return whole


def naive(octets: bytes, limits: tuple[int, int], *, continuation: bool) -> list[Line]:
    """Written from the specification alone, one octet after the other."""
    lines: list[Line] = []
    start, fault = 0, None
    for i, octet in enumerate(octets):
        auth = continuation or octets[start : start + 5].upper() == b"AUTH "
        limit, number = limits[auth], i + 1 - start
        after_cr = i > start and octets[i - 1] == 13
        complete = after_cr and octet == 10
        if number > 8 * limit:
            return [*lines, ENDLESS]
        if fault is None:
            if number > limit:
                fault = AUTH_TOO_LONG if auth else TOO_LONG
            elif not complete and (after_cr or octet == 127 or (octet < 32 and octet not in b"\t\r")):
                fault = INVALID
            elif complete:
                line = octets[start : i - 1]
                lines.append(line.decode() if decodes(line) else INVALID)
            if fault is not None:
                lines.append(fault)
        if complete:
            start, fault = i + 1, None
    return lines


def decodes(octets: bytes) -> bool:
    return "\ufffd" not in octets.decode(errors="replace")


# --- the cases of the specification -------------------------------------------------------------


@pytest.mark.parametrize(("octets", "lines"), [
    (b"", []),
    (b"\r\n", [""]),
    (b"NOOP\r\n", ["NOOP"]),
    (b"NOOP \t \r\n", ["NOOP \t "]),
    (b" NOOP\r\n", [" NOOP"]),
    (b"NOOP\tx\r\nRSET\r\n", ["NOOP\tx", "RSET"]),
    (b"EHLO a\r\nMAIL FROM:<>\r\n\r\nQUIT\r\n", ["EHLO a", "MAIL FROM:<>", "", "QUIT"]),
    (b"VRFY \xc3\xa9\r\n", ["VRFY \xe9"]),
    (b"VRFY \xc2\x85\xe2\x80\x8b\r\n", ["VRFY \x85\u200b"]),  # for the address grammar to refuse
    (b"NOOP", []),
    (b"NOOP\r", []),
    (b"NOOP\r\nRS", ["NOOP"]),
])  # fmt: skip
def test_a_line_ends_at_crlf(octets: bytes, lines: list[Line]) -> None:
    assert outcome(octets) == lines


CONTROLS = [octet for octet in (*range(32), 127) if octet not in b"\t\r"]


@pytest.mark.parametrize("octet", CONTROLS)
def test_a_control_octet_is_a_fault_of_its_line_at_once(octet: int) -> None:
    assert outcome(b"NO%cOP" % octet) == [INVALID]
    assert outcome(b"%cNO%cOP\r\nRSET\r\n" % (octet, octet)) == [INVALID, "RSET"]
    assert outcome(b"NOOP%c\r\nRSET\r\n" % octet) == [INVALID, "RSET"]


@pytest.mark.parametrize(("octets", "lines"), [
    (b"NOOP\rRSET", [INVALID]),
    (b"NOOP\rRSET\r\nQUIT\r\n", [INVALID, "QUIT"]),
    (b"\rNOOP\r\nQUIT\r\n", [INVALID, "QUIT"]),
    (b"NOOP\r\r", [INVALID]),
    (b"NOOP\r\r\nQUIT\r\n", [INVALID, "QUIT"]),
    (b"NOOP\r\r\r\n\r\n", [INVALID, ""]),
    (b"NOOP\nRSET\r\nQUIT\r\n", [INVALID, "QUIT"]),
    (b"NOOP\n\r\nQUIT\r\n", [INVALID, "QUIT"]),
    (b"\nNOOP\r\nQUIT\r\n", [INVALID, "QUIT"]),
    (b"NOOP\r\n\nRSET\r\nQUIT\r\n", ["NOOP", INVALID, "QUIT"]),
    (b"NOOP\n\r\r\nQUIT\r\n", [INVALID, "QUIT"]),
    (b"NOOP\0\r\nNO\0OP\r\n\r\n", [INVALID, INVALID, ""]),
])  # fmt: skip
def test_a_bare_cr_or_lf_is_one_fault_and_its_line_goes_on_to_crlf(octets: bytes, lines: list[Line]) -> None:
    assert outcome(octets) == lines


@pytest.mark.parametrize("text", [
    b"\xff", b"\xc3", b"\xc3(", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x80", b"\xe2\x82",
])  # fmt: skip
def test_what_is_not_utf_8_is_a_fault_once_its_line_is_complete(text: bytes) -> None:
    assert outcome(b"VRFY " + text) == []
    assert outcome(b"VRFY " + text + b"\r\nQUIT\r\n") == [INVALID, "QUIT"]
    assert outcome(b"VRFY " + text + b"\0 and\r\nQUIT\r\n") == [INVALID, "QUIT"]


# --- limits -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("octets", "lines"), [
    (b"x" * 62 + b"\r\n", ["x" * 62]),
    (b"x" * 63 + b"\r\n", [TOO_LONG]),
    (b"x" * 64, []),
    (b"x" * 63 + b"\r", []),
    (b"x" * 65, [TOO_LONG]),
    (b"x" * 63 + b"\r\nQUIT\r\n", [TOO_LONG, "QUIT"]),
    (b"x" * 64 + b"\r\nQUIT\r\n", [TOO_LONG, "QUIT"]),
    (b"x" * 200 + b"\r\nQUIT\r\n", [TOO_LONG, "QUIT"]),
    (b"x" * 200 + b"\0\r\r\n\nQUIT\r\n", [TOO_LONG, INVALID]),
    (b"x" * 61 + b"\xff\r\n", [INVALID]),
    (b"x" * 62 + b"\xff\r\n", [TOO_LONG]),
    (b"x" * 60 + b"\t\t\r\n", ["x" * 60 + "\t\t"]),
    (b"x" * 61 + b"\t\t\r\n", [TOO_LONG]),
    (b"x" * 62 + b"\rx\r\n", [INVALID]),  # proven by the octet 64
    (b"x" * 63 + b"\rx\r\n", [TOO_LONG]),  # proven by the octet 65, which is too many as well
    (b"x" * 63 + b"\0\r\n", [INVALID]),
    (b"x" * 64 + b"\0\r\n", [TOO_LONG]),
    (b"x" * 63 + b"\n\r\n", [INVALID]),
    (b"x" * 63 + b"\r\r\nQUIT\r\n", [TOO_LONG, "QUIT"]),
    (b"x\0" + b"x" * 200 + b"\r\nQUIT\r\n", [INVALID, "QUIT"]),
])  # fmt: skip
def test_the_first_fault_in_the_order_of_octets_is_the_only_one(octets: bytes, lines: list[Line]) -> None:
    assert outcome(octets) == lines


@pytest.mark.parametrize("verb", [b"AUTH ", b"auth ", b"AuTh "])
def test_an_auth_line_has_its_own_limit(verb: bytes) -> None:
    assert outcome(verb + b"x" * 89 + b"\r\n") == [verb.decode() + "x" * 89]
    assert outcome(verb + b"x" * 90 + b"\r\nQUIT\r\n") == [AUTH_TOO_LONG, "QUIT"]
    assert outcome(verb + b"x" * 91) == []
    assert outcome(verb + b"x" * 92) == [AUTH_TOO_LONG]
    assert outcome(verb + b"x" * 80 + b"\0\r\nQUIT\r\n") == [INVALID, "QUIT"]
    # Nothing says that it is the wider one.
    assert outcome(verb + b"x" * 90 + b"\r\n", (128, 96)) == [AUTH_TOO_LONG]
    assert outcome(b"NOOP " + b"x" * 100 + b"\r\n", (128, 96)) == ["NOOP " + "x" * 100]


@pytest.mark.parametrize("verb", [b"AUTH", b"AUTH\t", b"AUTHX", b" AUTH", b"AUT H", b"XAUTH"])
def test_what_only_resembles_auth_has_the_common_limit(verb: bytes) -> None:
    assert outcome(verb.ljust(70, b"x") + b"\r\n") == [TOO_LONG]


def test_a_continuation_line_has_the_limit_of_auth_whatever_it_is() -> None:
    assert outcome(b"x" * 94 + b"\r\n", continuation=True) == ["x" * 94]
    assert outcome(b"x" * 95 + b"\r\nx\r\n", continuation=True) == [AUTH_TOO_LONG, "x"]


def test_the_default_limits_hold_to_the_octet() -> None:
    for verb, limit, fault in ((b"NOOP ", 4096, TOO_LONG), (b"AUTH ", 12288, AUTH_TOO_LONG)):
        line = verb.ljust(limit - 2, b"x")
        for octets, expected in ((line + b"\r\n", line.decode()), (line + b"x\r\n", fault)):
            for cut in (0, 1, 5, limit - 2, limit - 1, limit):
                assert read([octets[:cut], octets[cut:]], (4096, 12288)) == [expected]


@pytest.mark.parametrize(("octets", "lines"), [
    (b"x" * 512, [TOO_LONG]),
    (b"x" * 513, [TOO_LONG, ENDLESS]),
    (b"x" * 510 + b"\r\nQUIT\r\n", [TOO_LONG, "QUIT"]),
    (b"x" * 511 + b"\r\nQUIT\r\n", [TOO_LONG, ENDLESS]),
    (b"\0" + b"x" * 512 + b"\r\nQUIT\r\n", [INVALID, ENDLESS]),
    (b"x\rx" + b"\n" * 509, [INVALID]),
    (b"x\rx" + b"\n" * 510, [INVALID, ENDLESS]),
    (b"AUTH " + b"x" * 763, [AUTH_TOO_LONG]),
    (b"AUTH " + b"x" * 764 + b"\r\nQUIT\r\n", [AUTH_TOO_LONG, ENDLESS]),
    (b"AUTH \0" + b"x" * 760 + b"\r\nQUIT\r\n", [INVALID, "QUIT"]),
])  # fmt: skip
def test_eight_times_the_limit_without_crlf_is_the_end(octets: bytes, lines: list[Line]) -> None:
    assert outcome(octets) == lines


def test_behind_endless_nothing_comes_and_nothing_is_kept() -> None:
    buffer = LineBuffer(64, 96)
    buffer.feed(b"x" * 600 + b"\r\nQUIT\r\n")
    assert list(drain(buffer)) == [TOO_LONG, ENDLESS]
    buffer.feed(b"\r\nQUIT\r\n")
    assert buffer.next_line() is None
    assert len(buffer) == 0


# --- octets for others --------------------------------------------------------------------------


def test_the_octets_behind_a_line_can_be_taken_and_what_is_left_of_them_given_back() -> None:
    buffer = LineBuffer(64, 96)
    buffer.feed(b"DATA\r\nbody\r\n.\r\nQUIT\r\n")
    assert buffer.next_line() == "DATA"
    assert len(buffer) == 15
    assert buffer.take_all() == b"body\r\n.\r\nQUIT\r\n"
    assert (len(buffer), buffer.take_all()) == (0, b"")
    buffer.unread(b"QUIT\r\n")
    buffer.feed(b"NOOP\r\n")
    assert list(drain(buffer)) == ["QUIT", "NOOP"]


def test_taking_leaves_no_octet_behind() -> None:
    buffer = LineBuffer(64, 96)
    buffer.feed(b"AB")
    assert buffer.next_line() is None  # a line has begun
    for piece in (b"C", b"D", b"E"):
        buffer.feed(piece)
    assert len(buffer) == 5
    assert buffer.take_all() == b"ABCDE"
    assert not buffer.line_pending
    assert len(buffer) == 0


def test_taking_little_by_little_gives_the_same_octets() -> None:
    buffer = LineBuffer(64, 96)
    buffer.feed(b"AB")
    assert buffer.next_line() is None
    buffer.feed(b"CDEF")
    buffer.feed(b"GHI")
    assert [buffer.take(3) for _ in range(5)] == [b"ABC", b"DEF", b"GHI", b"", b""]


def test_giving_back_the_end_of_what_was_taken_copies_nothing() -> None:
    buffer = LineBuffer(64, 96)
    chunk = b".\r\nQUIT\r\n" + b"NOOP\r\n" * 1000
    buffer.feed(chunk)
    buffer.unread(buffer.take(16)[3:])
    assert buffer.chunk is chunk
    assert len(buffer) == len(chunk) - 3
    buffer = LineBuffer(64, 96)
    buffer.feed(chunk)
    buffer.unread(buffer.take(16))
    assert buffer.chunk is chunk
    assert len(buffer) == len(chunk)
    buffer.unread(buffer.take(3)[3:])
    assert buffer.next_line() == "QUIT"


def test_giving_back_other_octets_puts_them_in_front() -> None:
    buffer = LineBuffer(64, 96)
    buffer.feed(b"QUIT\r\n")
    buffer.unread(b"NO")
    buffer.feed(b"\r\n")
    buffer.unread(b"NOOP\r\n")
    assert list(drain(buffer)) == ["NOOP", "NOQUIT", ""]


def test_giving_back_what_was_never_taken_puts_it_in_front_as_well() -> None:
    buffer = LineBuffer(64, 96)
    buffer.feed(b"QUIT\r\n")
    buffer.unread(b"\r\n")  # the octets that also end the chunk
    assert list(drain(buffer)) == ["", "QUIT"]


def test_giving_back_inside_a_line_keeps_the_order() -> None:
    buffer = LineBuffer(64, 96)
    buffer.feed(b"SET")
    assert buffer.next_line() is None
    buffer.unread(b"R")
    buffer.feed(b"\r\n")
    assert buffer.next_line() == "RSET"


def test_a_new_buffer_holds_nothing_and_waits_for_a_command() -> None:
    buffer = LineBuffer(64, 96)
    assert (len(buffer), buffer.line_pending, buffer.continuation) == (0, False, False)
    assert isinstance(buffer.continuation, bool)


# --- what a timer and a pause see ---------------------------------------------------------------


@pytest.mark.parametrize(("octets", "pending"), [
    (b"", False),
    (b"N", True),
    (b"NOOP\r", True),
    (b"NOOP\r\n", False),
    (b"NOOP\r\nR", True),
    (b"NO\0", True),
    (b"NO\0OP\r\n", False),
    (b"NO\xff\r\n", False),
    (b"x" * 300, True),
    (b"x" * 300 + b"\r\n", False),
])  # fmt: skip
def test_a_line_is_pending_from_its_first_octet_to_its_crlf(octets: bytes, pending: bool) -> None:
    for pieces in cuts(octets):
        buffer = LineBuffer(64, 96)
        for piece in pieces:
            buffer.feed(piece)
            list(drain(buffer))
        assert buffer.line_pending is pending


def test_input_that_nobody_asks_for_is_kept_in_order() -> None:
    buffer = LineBuffer(64, 96)
    octets = b"NOOP 1\r\nNO\0OP\r\n" + b"x" * 70 + b"\r\nNOOP 2\r\n"
    for octet in octets:
        buffer.feed(bytes([octet]))
    assert len(buffer) == len(octets)
    assert list(drain(buffer)) == ["NOOP 1", INVALID, TOO_LONG, "NOOP 2"]
    assert len(buffer) == 0


# --- properties ---------------------------------------------------------------------------------

TOKENS = [
    b"\r", b"\n", b"\r\n", b"\r\n", b"\0", b"\t", b" ", b"\x7f", b"\xff", b"\xc3", b"\xc3\xa9", b"N",
    b"AUTH ", b"auth", b"NOOP", b"x" * 6, b"y" * 60,
]  # fmt: skip
INPUT = st.lists(st.sampled_from(TOKENS), max_size=30).map(b"".join)


@given(octets=INPUT, limits=st.tuples(st.integers(5, 24), st.integers(5, 40)), data=st.data())
def test_any_input_in_any_pieces_reads_as_the_naive_twin_reads_it(
    octets: bytes, limits: tuple[int, int], data: st.DataObject
) -> None:
    at = sorted(data.draw(st.lists(st.integers(0, len(octets)), max_size=8)))
    continuation = data.draw(st.booleans())
    buffer = LineBuffer(*limits)
    buffer.continuation = continuation
    lines: list[Line] = []
    for a, b in pairwise([0, *at, len(octets)]):
        buffer.feed(octets[a:b])
        if data.draw(st.booleans()):  # else the octets wait, as during a hook
            lines += drain(buffer)
            assert len(buffer) <= max(limits)
    lines += drain(buffer)
    assert lines == naive(octets, limits, continuation=continuation)


# --- work and memory ----------------------------------------------------------------------------


def calls(work: Callable[[], object]) -> int:
    """How many functions, Python's and C's, the file under test calls."""
    counter: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _arg: object) -> None:
        if frame.f_code.co_filename == _buffer.__file__:
            counter[event] += 1

    before: Any = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return counter["call"] + counter["c_call"]


@pytest.mark.parametrize("octets", [b"x", b"\xc3\xa9\t", b"x\r\n", b"\r\r\n", b"\n", b"AUTH \0\r\n"])
def test_octets_one_by_one_cost_the_same_each(octets: bytes) -> None:
    limit = 1 << 20

    def read_octets(times: int) -> int:
        pieces = [bytes([octet]) for octet in octets * times]
        return calls(lambda: read(pieces, (limit, limit)))

    assert read_octets(2100) - read_octets(2000) == read_octets(200) - read_octets(100)


def test_a_long_line_grows_in_place_and_is_searched_once() -> None:
    # What has been found clean is never copied nor looked at again: one bytearray, and of the
    # chunk nothing is left. 1 MiB in pieces of 16 octets.
    limit = 1 << 20
    buffer = LineBuffer(limit, limit)
    buffer.feed(b"x" * 16)
    assert buffer.next_line() is None
    line = buffer.begun
    assert isinstance(line, bytearray)
    for _ in range(limit // 16 - 1):
        buffer.feed(b"x" * 16)
        assert buffer.next_line() is None
        assert buffer.begun is line
        assert buffer.chunk == b""
    assert len(buffer) == len(line) == limit
    buffer.feed(b"x")
    assert buffer.next_line() is TOO_LONG


def test_a_plain_line_costs_little_however_long_it_is_and_wherever_in_its_chunk() -> None:
    def cost(line: bytes, times: int) -> int:
        return calls(lambda: read([line * times], (64, 96)))

    for line in (b"\r\n", b"NOOP\r\n", b"x" * 62 + b"\r\n"):
        first, more = cost(line, 1) - cost(line, 0), cost(line, 2) - cost(line, 1)
        assert first == more == 5, line  # next_line, and to see, to find, to decode and to judge it
    assert cost(b"NO\tOP\r\n", 1) - cost(b"NO\tOP\r\n", 0) > 5


def test_a_line_in_many_pieces_is_searched_once() -> None:
    # A search that began at the line's first octet each time would not come back from this.
    limit = 1 << 19
    pieces = [b"x" * 16] * (limit // 16 - 1)
    assert read([*pieces, b"x" * 14 + b"\r\n"], (limit, limit)) == ["x" * (limit - 2)]


class Watched(bytes):
    """Octets that note how many of them are copied at a time."""

    copied: list[int]

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, int):
            return bytes(self)[key]
        piece = bytes(self)[cast("slice[int, int, None]", key)]
        self.copied.append(len(piece))
        return piece


def watched(octets: bytes) -> Watched:
    chunk = Watched(octets)
    chunk.copied = []
    return chunk


@pytest.mark.parametrize("begun", [0, 1, 40])
@pytest.mark.parametrize("behind", [b"", b"\r\nQUIT\r\n"])
def test_one_octet_beyond_the_limit_is_all_that_is_looked_at(begun: int, behind: bytes) -> None:
    buffer = LineBuffer(64, 96)
    buffer.feed(b"x" * begun)
    assert buffer.next_line() is None
    chunk = watched(b"x" * 400 + behind)
    buffer.feed(chunk)
    assert buffer.next_line() is TOO_LONG
    assert max(chunk.copied) == 64 + 1 - begun


@pytest.mark.parametrize("line", [b"N\t\r\n", b"N\0\r\n", b"\xff\r\n", b"N\n\r\n", b"N\rN\r\n"])
def test_a_line_off_the_quick_path_does_not_copy_the_chunk_behind_it(line: bytes) -> None:
    limit = 1 << 20
    buffer = LineBuffer(limit, limit)
    chunk = watched(line * 1000)
    buffer.feed(chunk)
    assert len(list(drain(buffer))) == 1000
    assert max(chunk.copied) <= 5  # the line, or as much as tells AUTH


def test_an_idle_buffer_is_small() -> None:
    buffer = LineBuffer(4096, 12288)
    buffer.feed(b"NOOP\r\n" * 10_000)
    list(drain(buffer))
    assert not hasattr(buffer, "__dict__")
    held = [getattr(buffer, name) for name in LineBuffer.__slots__]
    assert not [value for value in held if isinstance(value, bytes | bytearray) and value]
    assert sys.getsizeof(buffer) < 200


# --- how much may be held -----------------------------------------------------------------------


def test_a_feed_is_refused_where_enough_is_held() -> None:
    buffer = LineBuffer(16, 16)
    assert buffer.feed(b"x" * 99, 10)  # whoever has used up what was there is not refused
    assert not buffer.feed(b"y", 99)
    assert len(buffer) == 99
    assert buffer.feed(b"y", 100)
    assert buffer.feed(b"z")
    assert len(buffer) == 101


def test_what_was_read_of_a_piece_is_not_held_whatever_else_is() -> None:
    buffer = LineBuffer(16, 16)
    buffer.feed(b"NOOP\r\nRSET\r\n")
    assert buffer.next_line() == "NOOP"
    buffer.feed(b"QUIT\r\n")
    assert len(buffer) == len(b"RSET\r\nQUIT\r\n")
    assert buffer.next_line() == "RSET"
    assert len(buffer) == len(b"QUIT\r\n")


def test_the_beginning_of_a_line_is_held_too() -> None:
    buffer = LineBuffer(16, 16)
    buffer.feed(b"NOO")
    assert buffer.next_line() is None
    assert not buffer.feed(b"P", 3)
    assert buffer.feed(b"P\r\n", 4)
    assert buffer.next_line() == "NOOP"
