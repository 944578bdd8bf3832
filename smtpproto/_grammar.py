# The grammar of what clients send behind a verb: pieces to build patterns from, beside their ABNF.
#
# Each pattern matches a text in one way only: a repeat is possessive, or ends at a character that
# it cannot contain. So a match looks at each character a bounded number of times, whatever the
# text. No letter outside ASCII is ever taken for one of ASCII, as `re.IGNORECASE` would do:
# U+017F is not an S.

from __future__ import annotations

import re
from ipaddress import IPv6Address
from typing import Final

__all__ = [
    "CONTROL", "DOMAIN", "DOT_STRING", "KEYWORD", "LITERAL", "MAX_LABEL", "QUOTED_STRING", "VALUE",
    "canonical_ipv6", "decode_xtext", "encode_xtext", "has_forbidden", "is_domain", "is_ehlo_keyword_line",
]  # fmt: skip

MAX_DOMAIN: Final = 255  # octets, RFC 5321 §4.5.3.1.2
MAX_LABEL: Final = 63  # octets, RFC 1035 §2.3.4
MAX_EHLO_LINE: Final = 512 - len("250-\r\n")  # octets, RFC 5321 §4.5.3.1.5; folded it would be two lines


# --- patterns -----------------------------------------------------------------------------------

# UTF8-non-ascii (RFC 6531 §3.3) belongs to each class, which therefore says what is not in it. That
# is cheap: `re` takes some ten times as long to compile a class that names a part of Unicode. The
# characters refused beyond U+00FF are left to `has_forbidden`.
CONTROL: Final = r"\x00-\x1f\x7f-\x9f"

# RFC 5321 §4.1.2   Dot-string = Atom *("." Atom)
# RFC 5322 §3.2.3   Atom = 1*atext, which is all printable characters but the specials
_ATOM: Final = rf'[^ "(),.:;<>@\[\\\]{CONTROL}]++'
DOT_STRING: Final = rf"{_ATOM}(?:\.{_ATOM})*"

# RFC 5321 §4.1.2   Quoted-string = DQUOTE *(qtextSMTP / quoted-pairSMTP) DQUOTE
#                   qtextSMTP = %d32-33 / %d35-91 / %d93-126   quoted-pairSMTP = %d92 %d32-126
_QTEXT: Final = rf'[^"\\{CONTROL}]*+'
QUOTED_STRING: Final = rf'"{_QTEXT}(?:\\[ -~]{_QTEXT})*"'

# RFC 5321 §4.1.2   Domain = sub-domain *("." sub-domain)   sub-domain = Let-dig [Ldh-str]
# Characters are counted here and octets in `is_domain`: they differ outside ASCII only.
_LABEL: Final = rf"(?!-)[^\x00-,./:-@\[-`{{-\x9f]{{1,{MAX_LABEL}}}+(?<!-)"
DOMAIN: Final = rf"{_LABEL}(?:\.{_LABEL})*"

# RFC 5321 §4.1.3   address-literal = "[" (IPv4-address-literal / IPv6-address-literal) "]"
#                   Snum = 1*3DIGIT, 0 to 255
# A leading zero means octal to some and nothing to others: refused. The group is an IPv6 address
# as far as a pattern can say; `canonical_ipv6` says the rest.
_SNUM: Final = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
LITERAL: Final = rf"\[(?:{_SNUM}(?:\.{_SNUM}){{3}}|[Ii][Pp][Vv]6:([0-9A-Fa-f:.]{{2,45}}+))\]"

# RFC 5321 §4.1.2   esmtp-keyword = (ALPHA / DIGIT) *(ALPHA / DIGIT / "-")
#                   esmtp-value = 1*(%d33-60 / %d62-126)
KEYWORD: Final = r"[A-Za-z0-9][A-Za-z0-9-]*+"
VALUE: Final = rf"[^ ={CONTROL}]++"

_DOMAIN: Final = re.compile(DOMAIN)

# Control characters, those that nobody sees and that make two addresses look like one, surrogates.
_FORBIDDEN: Final = re.compile(rf"[{CONTROL}\u200b\u2060\ufeff\ud800-\udfff]")

# RFC 5321 §4.1.1.1   ehlo-line = ehlo-keyword *(SP ehlo-param)   ehlo-param = 1*(%d33-126)
_EHLO_LINE: Final = re.compile(rf"{KEYWORD}(?: [!-~]++)*")

# RFC 3461 §4   xtext = *(xchar / hexchar)   xchar = %d33-42 / %d44-60 / %d62-126
# Lower-case digits are read as well. What else may stand for itself differs from place to place
# (SMTPUTF8) and is judged there.
_XTEXT: Final = re.compile(r"[^+=]*+(?:\+[0-9A-Fa-f]{2}[^+=]*+)*")
_HEXCHAR: Final = re.compile(rb"\+([0-9A-Fa-f]{2})")
_NOT_XCHAR: Final = re.compile(rb"[^!-*,-<>-~]")


# --- what patterns cannot say -------------------------------------------------------------------


def is_domain(text: str) -> bool:
    """Whether the text is a domain name, its labels ASCII or Unicode."""
    if _DOMAIN.fullmatch(text) is None:
        return False
    if text.isascii():
        return len(text) <= MAX_DOMAIN
    if has_forbidden(text):
        return False
    octets = text.encode()
    return len(octets) <= MAX_DOMAIN and all(len(label) <= MAX_LABEL for label in octets.split(b"."))


def has_forbidden(text: str) -> bool:
    """Whether the text has a character that is allowed nowhere in an address or a parameter."""
    return _FORBIDDEN.search(text) is not None


def canonical_ipv6(text: str) -> str | None:
    """The one spelling of an IPv6 address (RFC 5952), None for what is no address.

    An IPv4-mapped one ends in its IPv4 address (§5 there). `ipaddress` prints it so from Python
    3.13 on only, and a spelling must not depend on that.
    """
    try:
        address = IPv6Address(text)
    except ValueError:
        return None
    if address.scope_id is not None:  # it means something on its own host only
        return None
    mapped = address.ipv4_mapped
    return str(address) if mapped is None else f"::ffff:{mapped}"


def is_ehlo_keyword_line(text: str) -> bool:
    """Whether the text may stand on a line of its own in the reply to EHLO."""
    return len(text) <= MAX_EHLO_LINE and _EHLO_LINE.fullmatch(text) is not None


def decode_xtext(text: str) -> str | None:
    """Take xtext apart (RFC 3461 §4): `+2B` is `+`. None when it is none, or its octets are not UTF-8.

    The result may hold any character: whoever asked must judge it.
    """
    if _XTEXT.fullmatch(text) is None:
        return None
    if "+" not in text:
        return text
    octets = text.encode(errors="surrogatepass")
    try:
        return _HEXCHAR.sub(lambda match: bytes.fromhex(match[1].decode()), octets).decode()
    except UnicodeDecodeError:
        return None


def encode_xtext(text: str) -> str:
    """Write any text as xtext; `decode_xtext` gives it back."""
    return _NOT_XCHAR.sub(lambda match: b"+%02X" % match[0][0], text.encode()).decode()
