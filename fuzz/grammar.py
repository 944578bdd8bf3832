# Whatever stands behind a verb: an address, parameters and xtext are read as the ABNF has them, what is
# handed out holds no control character, and written again it reads the same.

from __future__ import annotations

import re
import socket
from ipaddress import IPv6Address
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from fuzz.playing import note
from smtpproto import Envelope
from smtpproto._address import Address, read_mailbox, read_path
from smtpproto._grammar import decode_xtext, encode_xtext
from smtpproto._parameters import ParameterRules, apply_mail_parameters, apply_rcpt_parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["address", "parameters", "xtext"]

CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
FORBIDDEN: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b\u2060\ufeff\ud800-\udfff]")


def _text(octets: bytes) -> str:
    """What a command line can hold: UTF-8 only."""
    return octets.decode(errors="replace")


# --- addresses ----------------------------------------------------------------------------------


def address(data: bytes) -> None:
    """The input: how (1), and what stands behind the verb."""
    if not data:
        return
    keyword: Literal["FROM", "TO"] = "FROM" if data[0] & 1 else "TO"
    text = f"{keyword}:<{_text(data[1:])}" if data[0] & 2 else _text(data[1:])
    read = read_path(text, keyword)
    expected = _read_path(text, keyword)
    assert (None if read is None else (read[0].address, read[1])) == expected, (text, read, expected)
    _note_shape(text, accepted=read is not None)
    _insist_on_address(read, keyword, lenient=False)
    loose = read_path(text, keyword, lenient=True)
    _insist_on_address(loose, keyword, lenient=True)
    assert read is None or (loose is not None and loose[0] == read[0] and loose[1] == read[1])
    mailbox = read_mailbox(text[:300])
    assert (None if mailbox is None else mailbox.address) == _canonical(text[:300])


def _note_shape(text: str, *, accepted: bool) -> None:
    """Which kinds of character stand side by side: a pattern that matches has no branches to be seen."""
    kinds = [KINDS.get(char, 1 if char.isascii() else 2) for char in text[:100]]
    for first, second in pairwise(kinds):
        note(first * 32 + second, accepted)


KINDS: Final = {char: number for number, char in enumerate('<>@.-"\\[]:, 0+\x7f\x80_', start=3)}


def _insist_on_address(
    read: tuple[Address, str] | None, keyword: Literal["FROM", "TO"], *, lenient: bool
) -> None:
    if read is None:
        return
    address = read[0]
    assert not FORBIDDEN.search(address.address)
    assert not CONTROL.search(address.decoded)
    assert address.args == {}
    if address.domain:
        assert f"{address.local}@{address.domain}" == address.address
        assert lenient or len(address.address.encode()) <= MAX_MAILBOX
    again = read_path(f"{keyword}:<{address}> X=1", keyword, lenient=lenient)
    assert again is not None, address
    assert (again[0], again[0].local, again[0].domain, again[1]) == (
        address, address.local, address.domain, " X=1",
    )  # fmt: skip


# A reader of its own, without one pattern, a character at a time (RFC 5321 §4.1.2).

MAX_MAILBOX: Final = 254  # octets
MAX_LABEL: Final = 63
MAX_DOMAIN: Final = 255
SPECIALS: Final = frozenset(' "(),.:;<>@[\\]')
NUMBERS: Final = frozenset(map(str, range(256)))  # RFC 5321 §4.1.3, Snum
LET_DIG: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")


def _read_path(text: str, keyword: str) -> tuple[str, str] | None:
    word, colon, behind = (
        text[: len(keyword)],
        text[len(keyword) : len(keyword) + 1],
        text[len(keyword) + 1 :],
    )
    behind = behind.lstrip(" ")
    if not word.isascii() or word.upper() != keyword or colon != ":" or not behind.startswith("<"):
        return None
    behind = behind[1:]
    special, closing, rest = behind.partition(">")
    if closing and special == "" and keyword == "FROM":
        return special, rest
    if closing and special.isascii() and special.upper() == "POSTMASTER" and keyword == "TO":
        return special, rest
    if behind.startswith("@"):
        route, _, behind = behind.partition(":")
        if not all(each.startswith("@") and _is_domain(each[1:]) for each in route.split(",")):
            return None
    quoted = _quoted_length(behind) if behind.startswith('"') else 0
    end = behind.find(">", quoted or 0)
    if quoted is None or end < 0:
        return None
    mailbox = _canonical(behind[:end])
    return None if mailbox is None else (mailbox, behind[end + 1 :])


def _canonical(text: str) -> str | None:
    """The mailbox as it is to be handed out, None if it is none."""
    if any(FORBIDDEN.match(char) for char in text) or len(text.encode()) > MAX_MAILBOX:
        return None
    length = _quoted_length(text) if text.startswith('"') else _dot_string_length(text)
    if not length or text[length : length + 1] != "@":
        return None
    local, domain = text[:length], text[length + 1 :]
    if domain.startswith("["):
        literal = _canonical_literal(domain)
        canonical = None if literal is None else f"{local}@{literal}"
        return canonical if canonical is not None and len(canonical.encode()) <= MAX_MAILBOX else None
    return text if _is_domain(domain) else None


def _dot_string_length(text: str) -> int | None:
    local = text.partition("@")[0]
    if not all(atom and not SPECIALS.intersection(atom) for atom in local.split(".")):
        return None
    return len(local)


def _quoted_length(text: str) -> int | None:
    at = 1
    while at < len(text):
        char = text[at]
        if char == '"':
            return at + 1
        if char == "\\":
            at += 1
            if not " " <= text[at : at + 1] <= "~":
                return None
        elif FORBIDDEN.match(char):
            return None
        at += 1
    return None


def _is_domain(text: str) -> bool:
    return (
        not FORBIDDEN.search(text)
        and len(text.encode()) <= MAX_DOMAIN
        and all(_is_label(label) for label in text.split("."))
    )


def _is_label(label: str) -> bool:
    return (
        0 < len(label.encode()) <= MAX_LABEL
        and not label.startswith("-")
        and not label.endswith("-")
        and all(char in LET_DIG or char == "-" or not char.isascii() for char in label)
    )


def _canonical_literal(text: str) -> str | None:
    if not text.endswith("]"):
        return None
    inner = text[1:-1]
    if inner[:5].isascii() and inner[:5].upper() == "IPV6:":
        try:
            packed = socket.inet_pton(socket.AF_INET6, inner[5:])
        except (OSError, ValueError):
            return None
        if packed.startswith(bytes(10) + b"\xff\xff"):
            return f"[IPv6:::ffff:{'.'.join(map(str, packed[12:]))}]"
        return f"[IPv6:{IPv6Address(packed)}]"
    return text if inner.count(".") == 3 and NUMBERS.issuperset(inner.split(".")) else None  # noqa: PLR2004


# --- parameters ---------------------------------------------------------------------------------


def parameters(data: bytes) -> None:
    """The input: how (1), and what follows the path."""
    if not data:
        return
    text = _text(data[1:])
    how = data[0]
    first = _applied(text, how)
    assert first == _applied(text, how)
    if first is None:
        return
    args, facts = first
    for keyword, value in args.items():
        assert keyword.isascii()
        assert value is True or not FORBIDDEN.search(value)
        assert value is True or value
    again = _applied(_written(args, mail=bool(how & MAIL), utf8=bool(how & UTF8)), how)
    assert again == (args, facts), (again, args, facts)


MAIL, ACCEPT_UNKNOWN, SECURE, UTF8, HELO = 1, 2, 4, 8, 0xF0

KEYWORDS: Final = (
    "SIZE",
    "BODY",
    "SMTPUTF8",
    "REQUIRETLS",
    "RET",
    "ENVID",
    "AUTH",
    "NOTIFY",
    "ORCPT",
    "utf-8",
    "\\x{",
    "+",
    "=",
    ",",
    "X",
)

Args: TypeAlias = "Mapping[str, str | Literal[True]]"


def _applied(text: str, how: int) -> tuple[Args, tuple[object, ...]] | None:
    mailbox, envelope = Address("a@x.test"), Envelope()
    rules = ParameterRules(extended=how & HELO != HELO, accept_unknown=bool(how & ACCEPT_UNKNOWN))
    if how & MAIL:
        refusal = apply_mail_parameters(text, mailbox, envelope, rules=rules, secure=bool(how & SECURE))
    else:
        envelope._smtp_utf8 = bool(how & UTF8)
        refusal = apply_rcpt_parameters(text, mailbox, envelope, rules=rules)
    for number, word in enumerate(KEYWORDS):
        if word in text:
            note(number, 0 if refusal is None else refusal.code + len(text) // 32)
    if refusal is not None:
        assert refusal.code in {501, 530, 555}
        return None
    assert rules.extended
    dsn = envelope.dsn
    return mailbox.args, (
        mailbox.dsn, envelope.body_type, envelope.declared_size, envelope.require_tls, envelope.smtp_utf8,
        dsn.ret, dsn.envid,
    )  # fmt: skip


def _written(args: Args, *, mail: bool, utf8: bool) -> str:
    """The parameters as a client would write what was handed out; with `utf8` no longer than it came."""
    words: list[str] = []
    for keyword, value in args.items():
        if value is True:
            words.append(keyword)
        elif mail and keyword in {"AUTH", "ENVID"}:
            words.append(f"{keyword}={encode_xtext(value)}")
        elif not mail and keyword == "ORCPT":
            kind, _, original = value.partition(";")
            encode = _embedded if kind.lower() == "utf-8" else encode_xtext
            encoded = [char if utf8 and not char.isascii() else encode(char) for char in original]
            words.append(f"ORCPT={kind};{''.join(encoded)}")
        else:
            words.append(f"{keyword}={value}")
    return "".join(f" {word}" for word in words)


def _embedded(text: str) -> str:
    """RFC 6533 §3: everything that is not a plain character of ASCII embedded."""
    return "".join(
        char if "!" <= char <= "~" and char not in "+=\\" else rf"\x{{{ord(char):X}}}" for char in text
    )


# --- xtext --------------------------------------------------------------------------------------


def xtext(data: bytes) -> None:
    """The input: a text, read as xtext, and written as one."""
    text = _text(data)
    assert decode_xtext(text) == _decode(text)
    written = encode_xtext(text)
    assert all("!" <= char <= "~" and char != "=" for char in written)
    assert decode_xtext(written) == text


def _decode(text: str) -> str | None:
    """RFC 3461 §4, a character at a time."""
    octets = b""
    at = 0
    while at < len(text):
        if text[at] == "=":
            return None
        if text[at] == "+":
            digits = text[at + 1 : at + 3]
            if len(digits) < HEX_WIDTH or not HEX.issuperset(digits):
                return None
            octets += bytes([int(digits, 16)])
            at += 3
        else:
            octets += text[at].encode()
            at += 1
    try:
        return octets.decode()
    except UnicodeDecodeError:
        return None


HEX_WIDTH: Final = 2  # hexchar = "+" 2(%x30-39 / %x41-46)
HEX: Final = frozenset("0123456789abcdefABCDEF")
