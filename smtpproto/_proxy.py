# The PROXY header: who the client is, in the words of a proxy that is trusted to know.
#
# From haproxy's "The PROXY protocol, versions 1 & 2". The header is right in every octet or it is
# a fault: a peer that must send one and sends something else is never served, since its own
# address would be taken for the client's.

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from smtpproto._peers import canonical_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["ProxyFault", "ProxyInfo", "ProxyReader"]

Endpoint = tuple[str, int] | str | None
Family = Literal["TCP4", "TCP6", "UNIX", "UNKNOWN"]

V1_SIGNATURE: Final = b"PROXY "
V1_MAX: Final = 107  # octets with CRLF, §2.1 of the protocol's text
V2: Final = 2
V2_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
V2_FIXED: Final = 16  # signature, version and command, family, length
V2_MAX_LENGTH: Final = 4096  # octets behind the fixed part; the field could say 65,535
MAX_PORT: Final = 65535
UNIX_PATH: Final = 108  # octets, as in sockaddr_un

TLV_CRC32C: Final = 0x03
TLV_NOOP: Final = 0x04


class ProxyFault(enum.Enum):
    """Why the first octets are no PROXY header; the value is a reason for the log."""

    NO_HEADER = "no PROXY header"
    TOO_LONG = "PROXY header too long"
    LINE = "malformed PROXY header line"
    ADDRESS = "address is not of the family the PROXY header names"
    PORT = "port in PROXY header above 65535"
    VERSION = "PROXY header of unknown version"
    COMMAND = "PROXY header with unknown command"
    FAMILY = "PROXY header with unsupported address family or transport"
    SHORT = "PROXY header too short for its addresses"
    TLV = "PROXY header with a TLV beyond its end"
    CHECKSUM = "PROXY header with a wrong checksum"


@dataclass(frozen=True, slots=True)
class ProxyInfo:
    """What a PROXY header said."""

    version: Literal[1, 2]
    """Of the header: 1 is text, 2 is binary."""
    command: Literal["LOCAL", "PROXY"]
    """LOCAL: the proxy speaks for itself, a health check for instance."""
    family: Family
    """UNKNOWN also stands for UNSPEC, and for whatever a LOCAL header names."""
    source: Endpoint
    """The client: address in canonical form and port, a path for UNIX, None when unknown."""
    destination: Endpoint
    """Where the client connected to, in the same form."""
    tlvs: list[tuple[int, bytes]]
    """Type and value of each addition of version 2, padding left out. Nothing follows from them."""


class ProxyReader:
    """Reads the header at the beginning of a connection: `feed` until it answers.

    The answer does not depend on how the octets are cut. Never holds more than one header.
    """

    __slots__ = ("_held", "rest")

    def __init__(self) -> None:
        self.rest: bytes = b""
        """The octets behind the header; they belong to the next layer, TLS or SMTP."""
        self._held: bytearray = bytearray()

    def feed(self, data: bytes) -> ProxyInfo | ProxyFault | None:
        """Take in the next octets; None means that more are needed. Feed nothing after an answer."""
        held = self._held
        held += data
        if held.startswith(V1_SIGNATURE):
            return self._line()
        if held.startswith(V2_SIGNATURE):
            return self._block()
        if V1_SIGNATURE.startswith(held) or V2_SIGNATURE.startswith(held):
            return None
        return ProxyFault.NO_HEADER

    def _line(self) -> ProxyInfo | ProxyFault | None:
        line = _V1_LINE.match(self._held, 0, V1_MAX)
        if line is None:
            return ProxyFault.TOO_LONG if len(self._held) >= V1_MAX else None
        return self._end(line.end(), _read_line(line[0]))

    def _block(self) -> ProxyInfo | ProxyFault | None:
        if len(self._held) < V2_FIXED:
            return None
        fixed = bytes(self._held[:V2_FIXED])
        fault = _fixed_part_fault(fixed)
        if fault is not None:
            return fault
        length = V2_FIXED + _declared_length(fixed)
        if len(self._held) < length:
            return None
        return self._end(length, _read_block(bytes(self._held[:length])))

    def _end(self, length: int, outcome: ProxyInfo | ProxyFault) -> ProxyInfo | ProxyFault:
        self.rest = bytes(self._held[length:])
        self._held = bytearray()
        return outcome


# --- version 1 ----------------------------------------------------------------------------------

# The first CR or LF ends the line, rightly or not. A CR is judged with the octet behind it.
_V1_LINE: Final = re.compile(rb"[^\r\n]*(?:\n|\r[\x00-\xff])")
_PORT: Final = rb"(0|[1-9][0-9]{0,4})"
_V1_TCP: Final = re.compile(rb"PROXY (TCP[46]) ([0-9A-Fa-f.:]+) ([0-9A-Fa-f.:]+) %b %b\r\n" % (_PORT, _PORT))
_V1_UNKNOWN: Final = re.compile(rb"PROXY UNKNOWN[^\r\n]*\r\n")
_ADDRESS_CLASS: Final[Mapping[str, type[IPv4Address | IPv6Address]]] = {
    "TCP4": IPv4Address,
    "TCP6": IPv6Address,
}


def _read_line(line: bytes) -> ProxyInfo | ProxyFault:
    if _V1_UNKNOWN.fullmatch(line):
        return ProxyInfo(1, "PROXY", "UNKNOWN", None, None, [])
    fields = _V1_TCP.fullmatch(line)
    if fields is None:
        return ProxyFault.LINE
    family: Literal["TCP4", "TCP6"] = "TCP4" if fields[1] == b"TCP4" else "TCP6"
    source, destination = fields[2].decode(), fields[3].decode()
    try:
        _ADDRESS_CLASS[family](source)
        _ADDRESS_CLASS[family](destination)
    except AddressValueError:
        return ProxyFault.ADDRESS
    ports = int(fields[4]), int(fields[5])
    if max(ports) > MAX_PORT:
        return ProxyFault.PORT
    return ProxyInfo(
        1,
        "PROXY",
        family,
        (canonical_address(source), ports[0]),
        (canonical_address(destination), ports[1]),
        [],
    )


# --- version 2 ----------------------------------------------------------------------------------


class _Addresses(NamedTuple):
    """How one family writes its addresses."""

    family: Family
    length: int
    read: Callable[[bytes], tuple[Endpoint, Endpoint]]


def _internet(block: bytes) -> tuple[Endpoint, Endpoint]:
    """Source, destination, source port, destination port, without gaps."""
    width = (len(block) - 4) // 2
    read = IPv4Address if width == 4 else IPv6Address  # noqa: PLR2004 - octets of an IPv4 address
    source, destination = (canonical_address(str(read(block[i : i + width]))) for i in (0, width))
    return (source, int.from_bytes(block[-4:-2], "big")), (destination, int.from_bytes(block[-2:], "big"))


def _unix(block: bytes) -> tuple[Endpoint, Endpoint]:
    return _path(block[:UNIX_PATH]), _path(block[UNIX_PATH:])


def _path(field: bytes) -> str:
    # A NUL ends a path, but one in front belongs to the name: Linux' abstract sockets begin with it.
    path = field[:1] + field[1:].partition(b"\0")[0]
    return path.rstrip(b"\0").decode(errors="backslashreplace")


COMMANDS: Final[Mapping[int, Literal["LOCAL", "PROXY"]]] = {0: "LOCAL", 1: "PROXY"}
FAMILIES: Final[Mapping[int, _Addresses]] = {
    0x11: _Addresses("TCP4", 12, _internet),
    0x21: _Addresses("TCP6", 36, _internet),
    0x31: _Addresses("UNIX", 2 * UNIX_PATH, _unix),
}
UNSPEC: Final = 0x00


def _declared_length(header: bytes) -> int:
    return int.from_bytes(header[14:V2_FIXED], "big")


def _says_nothing(header: bytes) -> bool:
    """§2.2: behind LOCAL everything is to be ignored, the family too; UNSPEC names no address."""
    return COMMANDS[header[12] & 0x0F] == "LOCAL" or header[13] == UNSPEC


def _fixed_part_fault(header: bytes) -> ProxyFault | None:
    """What the first 16 octets already rule out; nobody should wait for the rest then."""
    if header[12] >> 4 != V2:
        return ProxyFault.VERSION
    if header[12] & 0x0F not in COMMANDS:
        return ProxyFault.COMMAND
    if _declared_length(header) > V2_MAX_LENGTH:
        return ProxyFault.TOO_LONG
    if _says_nothing(header):
        return None
    if header[13] not in FAMILIES:
        return ProxyFault.FAMILY
    return ProxyFault.SHORT if _declared_length(header) < FAMILIES[header[13]].length else None


def _read_block(header: bytes) -> ProxyInfo | ProxyFault:
    command = COMMANDS[header[12] & 0x0F]
    if _says_nothing(header):
        return ProxyInfo(V2, command, "UNKNOWN", None, None, [])
    family, length, read = FAMILIES[header[13]]
    tlvs = _read_tlvs(header, V2_FIXED + length)
    if isinstance(tlvs, ProxyFault):
        return tlvs
    source, destination = read(header[V2_FIXED : V2_FIXED + length])
    return ProxyInfo(V2, command, family, source, destination, tlvs)


def _read_tlvs(header: bytes, at: int) -> list[tuple[int, bytes]] | ProxyFault:
    """§2.2.7: type, length in two octets, value; together exactly to the end of the header."""
    tlvs: list[tuple[int, bytes]] = []
    checksums = 0
    while at < len(header):
        value = at + 3
        end = value + int.from_bytes(header[at + 1 : value], "big")
        if end > len(header):
            return ProxyFault.TLV
        kind = header[at]
        if kind == TLV_CRC32C:
            checksums += 1
            # Checked once at most: a second one would make the work a product of two lengths.
            if checksums > 1 or not _checksum_fits(header, value, end):
                return ProxyFault.CHECKSUM
        if kind != TLV_NOOP:
            tlvs.append((kind, header[value:end]))
        at = end
    return tlvs


def _checksum_fits(header: bytes, start: int, end: int) -> bool:
    """§2.2.3: over the whole header, with zeros in the place of the checksum."""
    stated = header[start:end]
    zeroed = header[:start] + bytes(len(stated)) + header[end:]
    return stated == _crc32c(zeroed).to_bytes(4, "big")


def _crc32c_table() -> Iterator[int]:
    for octet in range(256):
        remainder = octet
        for _ in range(8):
            remainder = remainder >> 1 ^ (0x82F63B78 if remainder & 1 else 0)
        yield remainder


_CRC32C: Final = tuple(_crc32c_table())  # Castagnoli's polynomial, RFC 4960 appendix B


def _crc32c(data: bytes) -> int:
    checksum = 0xFFFFFFFF
    for octet in data:
        checksum = checksum >> 8 ^ _CRC32C[(checksum ^ octet) & 0xFF]
    return checksum ^ 0xFFFFFFFF
