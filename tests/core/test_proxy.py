# The PROXY header, both versions, in every cut: right in every octet, or refused.

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproto._proxy import ProxyFault, ProxyInfo, ProxyReader, _crc32c_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SIG = bytes.fromhex("0d0a0d0a000d0a515549540a")
MOST_HELD = 16 + 4096

Answer = tuple[ProxyInfo | ProxyFault | None, bytes]


def read(pieces: Iterable[bytes]) -> Answer:
    """The answer and, behind a header, all octets that are not of it."""
    reader = ProxyReader()
    pieces = iter(pieces)
    for piece in pieces:
        answer = reader.feed(piece)
        if isinstance(answer, ProxyInfo):
            return answer, reader.rest + b"".join(pieces)
        if answer is not None:
            return answer, b""
        assert len(reader._held) < MOST_HELD
    return None, b""


def cuts(octets: bytes) -> Iterator[list[bytes]]:
    yield [octets[i : i + 1] for i in range(len(octets))]
    yield from ([octets[:i], octets[i:]] for i in range(len(octets) + 1))


def outcome(octets: bytes) -> Answer:
    whole = read([octets])
    for pieces in cuts(octets):
        assert read(pieces) == whole, pieces
    return whole


def text(family: Any, source: Any, destination: Any) -> ProxyInfo:
    return ProxyInfo(1, "PROXY", family, source, destination, [])


def v2(block: bytes = b"", *, first: int = 0x21, family: int = 0x11, length: int | None = None) -> bytes:
    size = len(block) if length is None else length
    return SIG + bytes([first, family]) + size.to_bytes(2, "big") + block


def tlv(kind: int, value: bytes) -> bytes:
    return bytes([kind]) + len(value).to_bytes(2, "big") + value


TCP4 = bytes.fromhex("01020304 05060708 04d2 0019")
TCP6 = IPv6Address("2001:db8::1").packed + IPv6Address("::ffff:5.6.7.8").packed + bytes.fromhex("04d20019")
PLAIN = ProxyInfo(2, "PROXY", "TCP4", ("1.2.3.4", 1234), ("5.6.7.8", 25), [])
NOTHING = ProxyInfo(2, "PROXY", "UNKNOWN", None, None, [])


# --- version 1 ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("line", "info"), [
    (b"PROXY TCP4 1.2.3.4 5.6.7.8 1234 25", text("TCP4", ("1.2.3.4", 1234), ("5.6.7.8", 25))),
    (b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535", text("TCP4", ("0.0.0.0", 0), ("255.255.255.255", 65535))),
    (b"PROXY TCP6 2001:DB8::1 ::1 1 2", text("TCP6", ("2001:db8::1", 1), ("::1", 2))),
    (b"PROXY TCP6 ::ffff:1.2.3.4 ::ffff:506:708 1 2", text("TCP6", ("1.2.3.4", 1), ("5.6.7.8", 2))),
    (b"PROXY TCP6 " + b" ".join([b"ffff:" * 7 + b"ffff"] * 2) + b" 65535 65535",
     text("TCP6", ("ffff:" * 7 + "ffff", 65535), ("ffff:" * 7 + "ffff", 65535))),
    (b"PROXY UNKNOWN", text("UNKNOWN", None, None)),
    (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535", text("UNKNOWN", None, None)),
    (b"PROXY UNKNOWN \0\xff  anything", text("UNKNOWN", None, None)),
    (b"PROXY UNKNOWN" + b"x" * 92, text("UNKNOWN", None, None)),
])  # fmt: skip
def test_a_line_names_both_ends(line: bytes, info: ProxyInfo) -> None:
    for rest in (b"", b"E", b"EHLO a\r\n", b"\r\n", line + b"\r\n"):
        assert outcome(line + b"\r\n" + rest) == (info, rest)


@pytest.mark.parametrize("line", [
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1234 25\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1234 25\r\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1234 25\rx",
    b"PROXY UNKNOWN\n",
    b"PROXY UNKNOWN a\nb\r\n",
    b"PROXY UNKNOWN a\rb\r\n",
    b"PROXY \r\n",
    b"PROXY TCP4\r\n",
    b"PROXY TCP5 1.2.3.4 5.6.7.8 1 25\r\n",
    b"PROXY UDP4 1.2.3.4 5.6.7.8 1 25\r\n",
    b"PROXY tcp4 1.2.3.4 5.6.7.8 1 25\r\n",
    b"PROXY unknown\r\n",
    b"PROXY  TCP4 1.2.3.4 5.6.7.8 1 25\r\n",
    b"PROXY TCP4  1.2.3.4 5.6.7.8 1 25\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1  25\r\n",
    b"PROXY TCP4\t1.2.3.4 5.6.7.8 1 25\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 25 \r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 25 x\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 007 25\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 00\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 +1 25\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 -1 25\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 0x1 25\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1e1 25\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 100000 25\r\n",
    b"PROXY TCP4 1.2.3.4\0 5.6.7.8 1 25\r\n",
    b"PROXY TCP6 fe80::1%eth0 ::1 1 25\r\n",
    b"PROXY TCP6 [::1] ::1 1 25\r\n",
    b"PROXY TCP4 \xd9\xa1.2.3.4 5.6.7.8 1 25\r\n",
])  # fmt: skip
def test_a_line_that_is_wrong_in_one_octet_is_refused(line: bytes) -> None:
    assert outcome(line) == (ProxyFault.LINE, b"")


@pytest.mark.parametrize("line", [
    b"PROXY TCP4 1.2.3 5.6.7.8 1 25",
    b"PROXY TCP4 1.2.3.256 5.6.7.8 1 25",
    b"PROXY TCP4 1.2.3.04 5.6.7.8 1 25",
    b"PROXY TCP4 1.2.3.4 5.6.7.08 1 25",
    b"PROXY TCP4 ::1 ::1 1 25",
    b"PROXY TCP4 1.2.3.4 ::1 1 25",
    b"PROXY TCP6 1.2.3.4 5.6.7.8 1 25",
    b"PROXY TCP6 ::1 1.2.3.4 1 25",
    b"PROXY TCP6 1::2::3 ::1 1 25",
    b"PROXY TCP6 12345::1 ::1 1 25",
    b"PROXY TCP6 ::ffff:1.2.3.04 ::1 1 25",
])  # fmt: skip
def test_a_line_whose_addresses_are_not_of_its_family_is_refused(line: bytes) -> None:
    assert outcome(line + b"\r\n") == (ProxyFault.ADDRESS, b"")


@pytest.mark.parametrize("ports", [b"65536 25", b"25 65536", b"99999 99999"])
def test_a_port_above_65535_is_refused(ports: bytes) -> None:
    assert outcome(b"PROXY TCP4 1.2.3.4 5.6.7.8 " + ports + b"\r\n") == (ProxyFault.PORT, b"")


@pytest.mark.parametrize("line", [
    b"PROXY UNKNOWN" + b"x" * 93 + b"\r\n",
    b"PROXY UNKNOWN" + b"x" * 94,
    b"PROXY UNKNOWN" + b"x" * 93 + b"\r",
    b"PROXY UNKNOWN " + b"x" * 200 + b"\r\n",
    b"PROXY " + b"x" * 200 + b"\n",
])  # fmt: skip
def test_a_line_of_more_than_107_octets_is_refused(line: bytes) -> None:
    assert outcome(line) == (ProxyFault.TOO_LONG, b"")


# --- neither ------------------------------------------------------------------------------------


@pytest.mark.parametrize("octets", [
    b"E", b"EHLO a\r\n", b"proxy TCP4 1.2.3.4 5.6.7.8 1 25\r\n", b"PROXX", b"PROXY\r\n", b"PROXY\t",
    b" PROXY ", b"\x16\x03\x01", b"\n", b"\r\r", b"\r\n\r\nPROXY ", b"\0", SIG[:11] + b"\r",
    b"\r\n\r\n\0\r\nquit\n",
])  # fmt: skip
def test_what_is_no_header_is_refused_at_the_octet_that_shows_it(octets: bytes) -> None:
    assert outcome(octets) == (ProxyFault.NO_HEADER, b"")
    assert ProxyReader().feed(octets) is ProxyFault.NO_HEADER


@pytest.mark.parametrize("octets", [
    b"", b"P", b"PROXY", b"PROXY ", b"PROXY TCP4 1.2.3.4", b"PROXY TCP4 1.2.3.4 5.6.7.8 1234 25\r",
    b"\r", b"\r\n\r\n\0", SIG, v2()[:15], v2(TCP4)[:-1], v2(b"x", length=4096, family=0x11),
])  # fmt: skip
def test_the_beginning_of_a_header_is_waited_for(octets: bytes) -> None:
    assert outcome(octets) == (None, b"")


@pytest.mark.parametrize("octets", [b"", b"PROXY TCP4", SIG, b"EHLO a\r\n", b"\r\r"])
def test_without_a_header_there_are_no_octets_behind_it(octets: bytes) -> None:
    reader = ProxyReader()
    assert reader.rest == b""
    reader.feed(octets)
    assert reader.rest == b""


# --- version 2 ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("header", "info"), [
    (v2(TCP4), PLAIN),
    (v2(TCP6, family=0x21), ProxyInfo(2, "PROXY", "TCP6", ("2001:db8::1", 1234), ("5.6.7.8", 25), [])),
    (v2(b"/run/a.sock".ljust(108, b"\0") + b"/b\0junk".ljust(108, b"\0"), family=0x31),
     ProxyInfo(2, "PROXY", "UNIX", "/run/a.sock", "/b", [])),
    (v2(b"/X".ljust(108, b"\0") + b"X/XX".ljust(108, b"\0"), family=0x31),
     ProxyInfo(2, "PROXY", "UNIX", "/X", "X/XX", [])),
    (v2(b"\0name".ljust(108, b"\0") + bytes(108), family=0x31),
     ProxyInfo(2, "PROXY", "UNIX", "\0name", "", [])),
    (v2(b"x" * 108 + b"/\xff".ljust(108, b"\0"), family=0x31),
     ProxyInfo(2, "PROXY", "UNIX", "x" * 108, "/\\xff", [])),
    (v2(family=0x00), NOTHING),
    (v2(b"\x02\xff\xff anything", family=0x00), NOTHING),
    (v2(first=0x20, family=0x00), replace(NOTHING, command="LOCAL")),
    (v2(TCP4, first=0x20), replace(NOTHING, command="LOCAL")),
    (v2(b"junk", first=0x20, family=0x12), replace(NOTHING, command="LOCAL")),
])  # fmt: skip
def test_a_block_names_both_ends(header: bytes, info: ProxyInfo) -> None:
    for rest in (b"", b"E", b"\r\n", header):
        assert outcome(header + rest) == (info, rest)


@pytest.mark.parametrize(("tail", "tlvs"), [
    (tlv(0x01, b"h2"), [(1, b"h2")]),
    (tlv(0x02, b""), [(2, b"")]),
    (tlv(0x02, b"mx.test") + tlv(0xE0, b"\0\r\n") + tlv(0x02, b"again"),
     [(2, b"mx.test"), (0xE0, b"\0\r\n"), (2, b"again")]),
    (tlv(0x04, b""), []),
    (tlv(0x04, b"padding") + tlv(0x05, b"id") + tlv(0x04, bytes(3)), [(5, b"id")]),
    (tlv(0x20, b"\x07" + tlv(0x21, b"TLSv1.3")), [(0x20, b"\x07" + tlv(0x21, b"TLSv1.3"))]),
])  # fmt: skip
def test_additions_are_listed_in_order_without_padding(tail: bytes, tlvs: list[tuple[int, bytes]]) -> None:
    assert outcome(v2(TCP4 + tail) + b"x") == (replace(PLAIN, tlvs=tlvs), b"x")


@pytest.mark.parametrize(("header", "fault"), [
    (v2(TCP4, first=0x11), ProxyFault.VERSION),
    (v2(TCP4, first=0x31), ProxyFault.VERSION),
    (v2(TCP4, first=0x01), ProxyFault.VERSION),
    (v2(TCP4, first=0x22), ProxyFault.COMMAND),
    (v2(TCP4, first=0x2F), ProxyFault.COMMAND),
    *((v2(bytes(216), family=family), ProxyFault.FAMILY)
      for family in (0x01, 0x02, 0x10, 0x12, 0x13, 0x20, 0x22, 0x30, 0x32, 0x41, 0xFF)),
    (v2(), ProxyFault.SHORT),
    (v2(TCP4[:11]), ProxyFault.SHORT),
    (v2(TCP6[:35], family=0x21), ProxyFault.SHORT),
    (v2(bytes(215), family=0x31), ProxyFault.SHORT),
    (v2(length=4097), ProxyFault.TOO_LONG),
    (v2(length=65535), ProxyFault.TOO_LONG),
    (v2(length=4097, first=0x20), ProxyFault.TOO_LONG),
    (v2(length=4097, family=0x00), ProxyFault.TOO_LONG),
])  # fmt: skip
def test_a_fixed_part_that_is_wrong_is_refused_at_once(header: bytes, fault: ProxyFault) -> None:
    assert outcome(header) == (fault, b"")
    assert outcome(header[:16]) == (fault, b"")


@pytest.mark.parametrize("tail", [
    b"\x02", b"\x02\0", b"\x02\0\x01", b"\x02\xff\xffabc", tlv(2, b"a") + b"\x04\0", b"\x04\0\x01",
    b"\x03\0\x04abc",
])  # fmt: skip
def test_an_addition_beyond_the_end_is_refused(tail: bytes) -> None:
    assert outcome(v2(TCP4 + tail)) == (ProxyFault.TLV, b"")
    # What stands behind the header is not the header's.
    assert outcome(v2(TCP4 + tail) + b"abcdef") == (ProxyFault.TLV, b"")


def crc32c(octets: bytes) -> bytes:
    """Bit by bit, from the polynomial."""
    checksum = 0xFFFFFFFF
    for octet in octets:
        checksum ^= octet
        for _ in range(8):
            checksum = (checksum >> 1) ^ (0x82F63B78 * (checksum & 1))
    return (checksum ^ 0xFFFFFFFF).to_bytes(4, "big")


def with_checksum(before: bytes, behind: bytes) -> tuple[bytes, bytes]:
    checksum = crc32c(v2(before + tlv(3, bytes(4)) + behind))
    return v2(before + tlv(3, checksum) + behind), checksum


def test_the_twin_of_the_checksum_knows_the_published_value() -> None:
    assert crc32c(b"123456789").hex() == "e3069283"


def test_the_table_is_that_of_the_published_polynomial() -> None:
    table = list(_crc32c_table())
    assert len(table) == 256
    assert [table[1 << bit] for bit in range(8)] == [
        0xF26B8303, 0xE13B70F7, 0xC79A971F, 0x8AD958CF, 0x105EC76F, 0x20BD8EDE, 0x417B1DBC, 0x82F63B78,
    ]  # fmt: skip
    # A remainder of a sum is the sum of the remainders: so eight of them tell all.
    assert all(table[a ^ b] == table[a] ^ table[b] for a in range(256) for b in range(256))


@pytest.mark.parametrize(
    ("before", "behind"), [(b"", b""), (tlv(2, b"mx"), b""), (b"", tlv(4, b"pad") + tlv(1, b"h"))]
)
def test_a_right_checksum_is_an_addition_like_others(before: bytes, behind: bytes) -> None:
    header, checksum = with_checksum(TCP4 + before, behind)
    answer, rest = outcome(header + b"x")
    assert isinstance(answer, ProxyInfo)
    assert (3, checksum) in answer.tlvs
    assert (replace(answer, tlvs=[]), rest) == (PLAIN, b"x")


@pytest.mark.parametrize("at", [at for at in range(16, 40) if at != 28])  # 28 is what makes it a checksum
def test_a_checksum_covers_every_octet(at: int) -> None:
    header = bytearray(with_checksum(TCP4, tlv(2, b"mx"))[0])
    assert len(header) == 40
    header[at] ^= 1
    assert isinstance(read([bytes(header)])[0], ProxyFault)


@pytest.mark.parametrize("tail", [
    tlv(3, bytes(4)), tlv(3, b""), tlv(3, bytes(3)), tlv(3, bytes(5)), tlv(3, b"\xff" * 4),
])  # fmt: skip
def test_a_wrong_checksum_is_refused(tail: bytes) -> None:
    assert outcome(v2(TCP4 + tail)) == (ProxyFault.CHECKSUM, b"")


def test_a_second_checksum_is_refused_even_if_both_are_right() -> None:
    # Solved for: each is right in the company of the other.
    first, second = bytes.fromhex("ace239f6"), bytes.fromhex("962a3974")
    padding = tlv(4, b"\0")
    assert crc32c(v2(TCP4 + padding + tlv(3, bytes(4)) + tlv(3, second))) == first
    assert crc32c(v2(TCP4 + padding + tlv(3, first) + tlv(3, bytes(4)))) == second
    header = v2(TCP4 + padding + tlv(3, first) + tlv(3, second))
    assert outcome(header) == (ProxyFault.CHECKSUM, b"")


def test_the_longest_block_is_read_and_no_more_is_held() -> None:
    value = bytes(4096 - 12 - 3)
    header = v2(TCP4 + tlv(0xEE, value))
    assert read([header[i : i + 1] for i in range(len(header))]) == (
        replace(PLAIN, tlvs=[(0xEE, value)]),
        b"",
    )
    reader = ProxyReader()
    assert reader.feed(header + b"x" * 100_000) == replace(PLAIN, tlvs=[(0xEE, value)])
    assert reader.rest == b"x" * 100_000
    assert len(reader._held) == 0


# --- properties ---------------------------------------------------------------------------------

TOKENS = [
    b"PROXY ", b"TCP4", b"TCP6", b"UNKNOWN", b" ", b"1.2.3.4", b"::1", b"25", b"0", b"\r", b"\n", b"\r\n",
    b"x" * 40, SIG, b"\x21", b"\x20", b"\x11", b"\0", b"\x0c", TCP4, b"\x03\0\x04", b"\x04\0\0",
]  # fmt: skip
NEAR = st.one_of(
    st.lists(st.sampled_from(TOKENS), max_size=14).map(b"".join),
    st.lists(st.sampled_from(TOKENS), max_size=14).map(lambda tokens: b"PROXY " + b"".join(tokens)),
    st.lists(st.sampled_from(TOKENS), max_size=14).map(lambda tokens: SIG + b"".join(tokens)),
    st.binary(max_size=40).map(lambda block: v2(TCP4 + block)),
    st.binary(max_size=40),
)


@given(octets=NEAR, data=st.data())
def test_any_octets_in_any_pieces_have_one_answer(octets: bytes, data: st.DataObject) -> None:
    at = sorted(data.draw(st.lists(st.integers(0, len(octets)), max_size=6)))
    whole = read([octets])
    assert read(octets[a:b] for a, b in pairwise([0, *at, len(octets)])) == whole
    if isinstance(whole[0], ProxyInfo):
        assert octets.endswith(whole[1])


PORTS = st.integers(0, 65535)
FAMILIES: list[tuple[Literal["TCP4", "TCP6"], int, Any]] = [
    ("TCP4", 0x11, st.ip_addresses(v=4)),
    ("TCP6", 0x21, st.integers(1 << 64, (1 << 128) - 1).map(IPv6Address)),
]


@given(data=st.data(), family=st.sampled_from(FAMILIES), ports=st.tuples(PORTS, PORTS))
def test_both_versions_carry_the_same_ends(
    data: st.DataObject, family: tuple[Literal["TCP4", "TCP6"], int, Any], ports: tuple[int, int]
) -> None:
    name, octet, addresses = family
    ends: tuple[IPv4Address | IPv6Address, ...] = data.draw(st.tuples(addresses, addresses))
    info = ProxyInfo(1, "PROXY", name, (str(ends[0]), ports[0]), (str(ends[1]), ports[1]), [])
    line = f"PROXY {name} {ends[0]} {ends[1]} {ports[0]} {ports[1]}\r\n".encode()
    block = b"".join([*(end.packed for end in ends), *(port.to_bytes(2, "big") for port in ports)])
    assert read([line]) == (info, b"")
    assert read([v2(block, family=octet)]) == (replace(info, version=2), b"")


def test_every_fault_has_a_reason_for_the_log() -> None:
    reasons = [fault.value for fault in ProxyFault]
    assert len(set(reasons)) == len(reasons)
    assert all(reason.isprintable() and reason for reason in reasons)
