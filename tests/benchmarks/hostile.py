# Hostile input: what a client could send to make the core work much for little.
#
# Each is a conversation made from a number, so that ten times the number is ten times the input.
# Limits that would end it early are raised; its codes show that it was read to the end.

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from benchmarks.conversations import (
    DATA,
    END,
    HELLO,
    KIB,
    MAIL,
    MESSAGE,
    MIB,
    PIECE,
    PROXY_V2,
    RCPT,
    RSET,
    Conversation,
)
from smtpproto import ProtocolOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Made = Callable[[int], Conversation]

WHOLE: Final = 16 * MIB  # octets: longer than any input here
RAISED: Final[Mapping[str, Any]] = {
    "auth_optional": True,
    "allow_insecure_auth": True,
    "max_auth_attempts": None,
    "max_unknown_commands": None,
    "max_recipients": None,
    "unknown_parameters": "accept",
}
LONG_LINES: Final[Mapping[str, Any]] = {"max_line_length": WHOLE, "max_auth_line_length": WHOLE}


class Growing(NamedTuple):
    """Input that grows."""

    name: str
    small: int
    """The number it is made from; the large one is ten times that."""
    made: Made


def _behind_ehlo(says: Sequence[bytes], codes: Sequence[str], **options: Any) -> Conversation:
    return Conversation("", says, " ".join(codes), options=ProtocolOptions(**{**RAISED, **options}))


def _session(says: Sequence[bytes], codes: Sequence[str], **options: Any) -> Conversation:
    return _behind_ehlo(says, ["220", *codes], **options)._replace(session=True)


def _pieces(octets: bytes, piece: int) -> list[bytes]:
    return [octets[at : at + piece] for at in range(0, len(octets), piece)]


# --- lines --------------------------------------------------------------------------------------


def _line(begin: bytes, unit: bytes, end: bytes, code: str, piece: int = WHOLE, **options: Any) -> Made:
    """One line with very many of one thing, and RSET."""

    def made(number: int) -> Conversation:
        octets = begin + unit * number + end + b"\r\n" + RSET
        return _behind_ehlo(_pieces(octets, piece), [code, "250"], **LONG_LINES, **options)

    return made


def _lines(line: bytes, code: str, piece: int = WHOLE) -> Made:
    """The same line again and again."""
    return lambda number: _behind_ehlo(_pieces(line * number, piece), [code] * number)


def _endless(piece: int) -> Made:
    """A line that has no end, given up shortly before that of the input."""

    def made(number: int) -> Conversation:
        says = [*HELLO, *_pieces(b"X" * number, piece)]
        return _session(says, ["250", "500", "421"], max_line_length=number // 9)

    return made


def _parameters(number: int) -> Conversation:
    words = b"".join(b" X-%05d=a" % each for each in range(number))
    return _behind_ehlo([MAIL[:-2] + words + b"\r\n" + RSET], ["250", "250"], **LONG_LINES)


def _login(number: int) -> Conversation:
    """AUTH with that much base64, which is no login: behind the verb, and in a line of its own."""
    response = b64encode(b"x" * (number * 3 // 4))
    says = [b"AUTH PLAIN " + response + b"\r\nAUTH PLAIN\r\n", response + b"\r\n"]
    return _behind_ehlo(says, ["501", "334", "501"], **LONG_LINES)


def _xclient(number: int) -> Conversation:
    """All the attributes there are, each of which may stand there once, and many blanks."""
    attributes = b"NAME=mail.example.com ADDR=192.0.2.7 PORT=40002 PROTO=ESMTP HELO=client.example.com"
    says = [*HELLO, b"XCLIENT " + b" " * number + attributes + b"\r\n"]
    return _session(says, ["250", "220"], use_xclient=True, **LONG_LINES)


# --- messages -----------------------------------------------------------------------------------


def _body(unit: bytes, last: str = "250", piece: int = PIECE, **options: Any) -> Made:
    """A message of very many of one thing."""

    def made(number: int) -> Conversation:
        says = [MAIL + RCPT + DATA, *_pieces(unit * number + b"\r\n" + END, piece)]
        return _behind_ehlo(says, ["250", "250", "354", last], **options)

    return made


def _messages(number: int) -> Conversation:
    """Whole messages in one piece, without a wait for any 354."""
    return _behind_ehlo([b"".join(MESSAGE.says) * number], [MESSAGE.codes] * number)


def _recipients(number: int) -> Conversation:
    codes = [*["250"] * (1 + number), "354", "250"]
    return _behind_ehlo([MAIL + RCPT * number + DATA, END], codes)


def _lmtp_recipients(number: int) -> Conversation:
    """LMTP answers each of them once more behind the message."""
    codes = [*["250"] * (2 + number), "354", *["250"] * number]
    says = [b"LHLO client.example.com\r\n", MAIL + RCPT * number + DATA, END]
    return _session(says, codes, lmtp=True)


# --- PROXY headers ------------------------------------------------------------------------------


def _proxy_v1(number: int) -> Conversation:
    """`number` octets of a header, which may have 107."""
    header = b"PROXY UNKNOWN".ljust(number - 2, b"x") + b"\r\n"
    return _session([*_pieces(header, 1), *HELLO], ["250"], use_proxy=True)


def _proxy_v2(tlv: bytes) -> Made:
    """That many additions to a header, which may have 4,096 octets of them."""

    def made(number: int) -> Conversation:
        length = len(PROXY_V2) - 16 + len(tlv) * number
        header = PROXY_V2[:14] + length.to_bytes(2, "big") + PROXY_V2[16:] + tlv * number
        return _session([*_pieces(header, 1), *HELLO], ["250"], use_proxy=True)

    return made


# --- the table ----------------------------------------------------------------------------------

ACCEPT: Final[Mapping[str, Any]] = {"bare_newlines": "accept"}
LENIENT: Final[Mapping[str, Any]] = {"lenient_addresses": True}
FROM: Final = b"MAIL FROM:<"
TENTH: Final = MIB // 10  # ten times that is some 1 MiB

HOSTILE: Final = (
    Growing("commands, octet by octet", 1_000, _lines(b"NOOP\r\n", "250", piece=1)),
    Growing("message, octet by octet", 10_000, _body(b"X", piece=1)),
    Growing("dotted lines, octet by octet", 2_500, _body(b"..\r\n", piece=1)),
    Growing("line, octet by octet", 10_000, _line(b"NOOP ", b"X", b"", "250", piece=1)),
    Growing("line without CRLF", TENTH, _endless(WHOLE)),
    Growing("line without CRLF, in pieces", TENTH, _endless(KIB)),
    Growing("line of 1 MiB", TENTH, _line(b"NOOP ", b"X", b"", "250")),
    Growing("line of 1 MiB, in pieces", TENTH, _line(b"NOOP ", b"X", b"", "250", piece=KIB)),
    Growing("line of 1 MiB with a TAB, in pieces", TENTH, _line(b"NOOP\t", b"X", b"", "500", piece=KIB)),
    Growing(
        "line of 8-bit letters, in pieces", TENTH // 2, _line(b"NOOP ", b"\xc3\xa9", b"", "250", piece=KIB)
    ),
    Growing("bare CRs in a line", TENTH, _line(b"NOOP ", b"\r", b"", "500")),
    Growing("bare CRs in a line, in pieces", TENTH, _line(b"NOOP ", b"\r", b"", "500", piece=KIB)),
    Growing("bare LFs in a line", TENTH, _line(b"NOOP ", b"\n", b"", "500")),
    Growing("lines with a bare LF each", 1_000, _lines(b"NOOP\n\r\n", "500")),
    Growing("empty lines", 1_000, _lines(b"\r\n", "500")),
    Growing("unknown commands", 1_000, _lines(b"FOO bar\r\n", "500")),
    Growing("unknown commands, 8-bit", 1_000, _lines(b"\xc3\xa9\xc3\xa9\r\n", "500")),
    Growing("NOOP, 1 MiB in a piece", TENTH // 6, _lines(b"NOOP\r\n", "250")),
    Growing("dotted lines", 25_000, _body(b".." + b"X" * 74 + b"\r\n")),
    Growing("dotted lines, bare newlines accepted", 25_000, _body(b".." + b"X" * 74 + b"\r\n", **ACCEPT)),
    Growing("short dotted lines", 25_000, _body(b"..\r\n")),
    Growing("short dotted lines, in one piece", 25_000, _body(b"..\r\n", piece=WHOLE)),
    Growing("short dotted lines, in small pieces", 25_000, _body(b"..\r\n", piece=KIB)),
    Growing("dots", MIB, _body(b".")),
    Growing("bare CRs in a message", MIB, _body(b"\r", "550")),
    Growing("bare CRs in a message, accepted", MIB, _body(b"\r", **ACCEPT)),
    Growing("bare LFs in a message", MIB, _body(b"\n", "550")),
    Growing("bare LFs in a message, accepted", MIB, _body(b"\n", **ACCEPT)),
    Growing("dots between bare LFs, accepted", MIB // 2, _body(b"\n.", **ACCEPT)),
    Growing("dots behind CRs, accepted, in pieces", TENTH // 2, _body(b"\r.", piece=7, **ACCEPT)),
    Growing("messages in one piece", 100, _messages),
    Growing("recipients", 2_000, _recipients),
    Growing("recipients of LMTP", 2_000, _lmtp_recipients),
    Growing("parameters of MAIL", 15, _parameters),
    Growing("very many parameters of MAIL", 500, _parameters),
    Growing("blanks before a parameter", 10_000, _line(MAIL[:-2], b" ", b"SIZE=1", "250")),
    Growing("blanks behind a path", 10_000, _line(MAIL[:-2], b" ", b"", "250")),
    Growing("xtext that ends badly", 10_000, _line(MAIL[:-2] + b" AUTH=", b"+2B", b"+", "501")),
    Growing("quotes in a local part", 5_000, _line(FROM, b'"', b"@a.b>", "501")),
    Growing("escaped quotes", 5_000, _line(FROM + b'"', b'\\"', b'"@a.b>', "501")),
    Growing("escaped quotes without an end", 5_000, _line(FROM + b'"', b'\\"', b"", "501")),
    Growing("backslashes", 5_000, _line(FROM, b"\\", b"@a.b>", "501")),
    Growing("dots in a local part", 5_000, _line(FROM, b"a.", b"a@a.b>", "501")),
    Growing("labels", 5_000, _line(FROM + b"a@", b"a.", b"a>", "501")),
    Growing("labels that end badly", 5_000, _line(FROM + b"a@", b"a-", b">", "501")),
    Growing("source route", 5_000, _line(FROM, b"@a,", b"@a:b@c.d>", "250")),
    Growing("source route that ends badly", 5_000, _line(FROM, b"@a,", b"", "501")),
    Growing("IPv6 literal", 5_000, _line(FROM + b"a@[IPv6:", b"1:", b"]>", "501")),
    Growing("blanks before a path", 5_000, _line(b"MAIL FROM:", b" ", b"<", "501")),
    Growing("lenient: quotes", 5_000, _line(FROM, b'"', b"@a.b>", "250", **LENIENT)),
    Growing("lenient: at signs", 5_000, _line(FROM, b"a@", b">", "501", **LENIENT)),
    Growing("lenient: blanks before the colon", 5_000, _line(b"MAIL FROM", b" ", b":<", "501", **LENIENT)),
    Growing("line of EHLO", 5_000, _line(b"EHLO ", b"a", b"", "501")),
    Growing("line of VRFY", 5_000, _line(b"VRFY ", b"a", b"", "252")),
    Growing("AUTH, as long as it may be", 1_200, _login),
    Growing("AUTH of 1 MiB", TENTH, _login),
    Growing("blanks before attributes of XCLIENT", TENTH, _xclient),
    Growing("xtext in XFORWARD", 10_000, _line(b"XFORWARD NAME=", b"+2B", b"", "501", use_xforward=True)),
    Growing(
        "attributes of XFORWARD",
        100_000,
        _line(b"XFORWARD NAME=a", b" PORT=1", b"", "501", use_xforward=True),
    ),
    Growing("PROXY v1, octet by octet", 10, _proxy_v1),
    Growing("PROXY v2, octet by octet", 130, _proxy_v2(b"\x04\0\0")),
    Growing("PROXY v2 with values, octet by octet", 1, _proxy_v2(b"\xe0\x01\0" + b"x" * 256)),
)
