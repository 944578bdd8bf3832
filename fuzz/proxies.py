# Whatever octets come first: the same header or the same fault however they are cut, not one octet of
# what follows lost, addresses in one spelling, and never more held than one header.
#
# The input: sizes of pieces (2), octets.

from __future__ import annotations

from ipaddress import ip_address
from typing import Final

from smtpproto import ProxyInfo
from smtpproto._proxy import ProxyFault, ProxyReader
from smtpproto.extending import canonical_address

__all__ = ["target"]

HEADER: Final = 2
V1_MAX: Final = 107  # octets with CRLF, §2.1 of the protocol's text
MOST_HELD: Final = 16 + 4096
PORTS: Final = range(65536)
FAMILIES: Final = {"TCP4": 4, "TCP6": 6}


def target(data: bytes) -> None:
    """One beginning of a connection, read whole and in pieces."""
    if len(data) < HEADER:
        return
    first, size = data[0], 1 + data[1] % 64
    octets = data[HEADER:]
    whole = _read([octets])
    pieces = [octets[:first], *(octets[at : at + size] for at in range(first, len(octets), size))]
    in_pieces = _read(pieces)
    assert in_pieces == whole, (in_pieces, whole)
    outcome, rest = whole
    assert octets.endswith(rest)
    if not isinstance(outcome, ProxyInfo):
        return
    header = octets[: len(octets) - len(rest)]
    assert header.startswith(b"PROXY " if outcome.version == 1 else b"\r\n\r\n\0\r\nQUIT\n")
    assert outcome.version != 1 or (
        header.endswith(b"\r\n") and header.count(b"\r\n") == 1 and len(header) <= V1_MAX
    )
    _insist_on(outcome)
    if outcome.version == 1 and isinstance(outcome.source, tuple) and isinstance(outcome.destination, tuple):
        words = header.decode().split(" ")
        assert [canonical_address(words[2]), words[4]] == [outcome.source[0], str(outcome.source[1])]
        assert [canonical_address(words[3]), words[5]] == [
            outcome.destination[0],
            f"{outcome.destination[1]}\r\n",
        ]


def _insist_on(info: ProxyInfo) -> None:
    for end in (info.source, info.destination):
        if isinstance(end, tuple):
            address, port = end
            assert canonical_address(address) == address
            assert port in PORTS
            mapped = info.family == "TCP6" and ip_address(address).version == 4  # noqa: PLR2004 - ::ffff:
            assert mapped or ip_address(address).version == FAMILIES[info.family]
        else:
            assert end is None or info.family == "UNIX"
    assert (info.source is None) is (info.family == "UNKNOWN")
    assert info.command == "PROXY" or info.family == "UNKNOWN"


def _read(pieces: list[bytes]) -> tuple[ProxyInfo | ProxyFault | None, bytes]:
    reader = ProxyReader()
    outcome: ProxyInfo | ProxyFault | None = None
    rest = b""
    for piece in pieces:
        if outcome is None:
            outcome = reader.feed(piece)
            rest = reader.rest if isinstance(outcome, ProxyInfo) else b""
            assert outcome is not None or len(reader._held) <= MOST_HELD + len(piece)
        elif isinstance(outcome, ProxyInfo):
            rest += piece
    return outcome, rest
