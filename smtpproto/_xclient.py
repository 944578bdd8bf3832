# The attributes of XCLIENT and XFORWARD (Postfix XCLIENT_README, XFORWARD_README).
#
# Whoever may send these says who a client is. A value still comes out only if it is what its name
# says: it goes into logs, host names, trace lines. One fault refuses the whole command.

from __future__ import annotations

import re
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final

from smtpproto._grammar import canonical_ipv6, decode_xtext
from smtpproto._parameters import BAD_SYNTAX
from smtpproto._peers import canonical_address
from smtpproto._reply import Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Check = Callable[[str], str | Reply]

__all__ = ["XCLIENT_ATTRIBUTES", "XFORWARD_ATTRIBUTES", "read_attributes"]

MAX_PORT: Final = 65535
BAD_ADDRESS: Final = Reply(501, "5.5.4", "Error: Bad command parameter syntax. Invalid address")


def read_attributes(text: str, table: Mapping[str, Check]) -> dict[str, str | None] | Reply:
    """Read `attribute=value ...`: values by upper-case attribute, None for one that is unavailable.

    The reply is the refusal.
    """
    attributes: dict[str, str | None] = {}
    if not text.isascii():  # not even a letter whose upper case is
        return BAD_SYNTAX
    for word in text.split(" "):
        name, equals, encoded = word.partition("=")
        name = name.upper()
        if not word:  # one of several blanks
            continue
        if not equals or name not in table or name in attributes:
            return BAD_SYNTAX
        value = _read_value(encoded, table[name])
        if isinstance(value, Reply):
            return value
        attributes[name] = value
    return attributes or BAD_SYNTAX


# At most 255 octets, none of them a blank or a control character: the longest name there is.
VALUE: Final = re.compile(r"[!-~]{0,255}")
UNAVAILABLE: Final = frozenset({"[UNAVAILABLE]", "[TEMPUNAVAIL]"})


def _read_value(encoded: str, check: Check) -> str | Reply | None:
    value = decode_xtext(encoded)
    if value is None or VALUE.fullmatch(value) is None:
        return BAD_SYNTAX
    return None if value.upper() in UNAVAILABLE else check(value)


# --- values -------------------------------------------------------------------------------------


def _text(value: str) -> str | Reply:
    return value or BAD_SYNTAX


def _text_or_none(value: str) -> str:
    return value


def _ip(value: str) -> str | Reply:
    """An address, the IPv6 one with its tag or without; canonical, IPv4-mapped IPv6 as IPv4."""
    address = canonical_ipv6(value[5:] if value[:5].upper() == "IPV6:" else value)
    if address is not None:
        return canonical_address(address)
    try:
        return str(IPv4Address(value))
    except ValueError:
        return BAD_ADDRESS


def _port(value: str) -> str | Reply:
    return value if re.fullmatch(r"[0-9]{1,5}", value) and int(value) <= MAX_PORT else BAD_SYNTAX


def _one_of(*words: str) -> Check:
    def check(value: str) -> str | Reply:
        return value.upper() if value.upper() in words else BAD_SYNTAX

    return check


_COMMON: Final[Mapping[str, Check]] = {
    "NAME": _text,
    "ADDR": _ip,
    "PORT": _port,
    "PROTO": _one_of("SMTP", "ESMTP", "LMTP"),
    "HELO": _text,
}
XCLIENT_ATTRIBUTES: Final[Mapping[str, Check]] = {**_COMMON, "LOGIN": _text_or_none}  # empty: no login
XFORWARD_ATTRIBUTES: Final[Mapping[str, Check]] = {
    **_COMMON,
    "IDENT": _text,
    "SOURCE": _one_of("LOCAL", "REMOTE"),
}
