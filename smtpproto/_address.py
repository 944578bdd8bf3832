# Addresses: the path of MAIL and RCPT, read once.
#
# An address that was read is well formed, and nobody checks it again. It is kept as it was sent, the
# local part being the business of the host that delivers (RFC 5321 §2.4), with two exceptions: a
# source route is dropped, and an IPv6 literal has one spelling.

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from smtpproto._grammar import (
    CONTROL,
    DOMAIN,
    DOT_STRING,
    LITERAL,
    MAX_LABEL,
    QUOTED_STRING,
    canonical_ipv6,
    encode_xtext,
    has_forbidden,
    is_domain,
)
from smtpproto._values import ReadOnly

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "MAX_MAILBOX", "PLAIN_MAILBOX", "Address", "RecipientDsn", "read_mailbox", "read_path",
]  # fmt: skip

MAX_MAILBOX: Final = 254  # octets: a path of 256 (RFC 5321 §4.5.3.1.3) less its brackets


class RecipientDsn(NamedTuple):
    """The recipient's part of RFC 3461: NOTIFY and ORCPT of RCPT."""

    notify: tuple[str, ...] | None = None
    """When to report: NEVER, or some of SUCCESS, FAILURE, DELAY; None when nothing was said (§4.1)."""
    orcpt: str | None = None
    """Whom the message was first addressed to: `type;address`, decoded (§4.2)."""


_NO_DSN: Final = RecipientDsn()


class Address:
    """A sender or a recipient. Two are equal when their text is, octet for octet."""

    __slots__ = ("_address", "_args", "_dsn")

    address: ReadOnly[str] = ReadOnly()
    """As sent, without a source route; "" is the null reverse-path `<>`."""
    args: ReadOnly[Mapping[str, str | Literal[True]]] = ReadOnly()
    """The parameters of the command by upper-case keyword, decoded; True for one without a value."""
    dsn: ReadOnly[RecipientDsn] = ReadOnly()
    """NOTIFY and ORCPT; a sender has none."""

    def __init__(self, address: str) -> None:
        self._address: str = address
        self._args: Mapping[str, str | Literal[True]] = {}
        self._dsn: RecipientDsn = _NO_DSN

    @classmethod
    def parse(cls, text: str) -> Address:
        """An address as it is written, `ann@example.com`, with or without its angle brackets; "" is null.

        Raises ValueError for what RCPT would not take.
        """
        mailbox = text[1:-1] if text.startswith("<") and text.endswith(">") else text
        if not mailbox:
            return cls("")
        read = read_path(f"TO:<{mailbox}>", "TO")
        if read is None or read[1]:
            raise ValueError(f"{text!r} is not an address (RFC 5321 §4.1.2)")
        return read[0]

    def to_parameters(self) -> list[str]:
        """The parameters as a relay sends them on: `["SIZE=1000", "ENVID=a+2Bb"]`, in the order they came.

        What is decoded in `args` is encoded again (RFC 3461 §4, RFC 6533 §3), so that nothing in a value
        can become a parameter of its own.
        """
        return [
            keyword if value is True else f"{keyword}={_ENCODED.get(keyword, str)(value)}"
            for keyword, value in self.args.items()
        ]

    @property
    def local(self) -> str:
        """What stands before the `@`, quotes included."""
        before, at, text = self.address.rpartition("@")  # a quoted local part may have others
        return before if at else text

    @property
    def domain(self) -> str:
        """What stands after it, a name or a literal in brackets; "" for `<>` and `<Postmaster>`."""
        _, at, text = self.address.rpartition("@")
        return text if at else ""

    @property
    def decoded(self) -> str:
        """The address with `xn--` labels as Unicode: for people to read, not to be sent.

        Equal to `address` if there is none, or one that is no proper A-label or hides something
        (control or invisible characters, a second spelling of the same letters).
        """
        labels = self.domain.split(".")
        unicode_labels = [label for label in map(_unicode_label, labels) if label is not None]
        if unicode_labels == labels or len(unicode_labels) < len(labels):
            return self.address
        return f"{self.local}@{'.'.join(unicode_labels)}"

    def __str__(self) -> str:
        return self.address

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Address):
            return NotImplemented
        return self.address == other.address

    def __hash__(self) -> int:
        return hash(self.address)

    def __repr__(self) -> str:
        return f"<Address {self.address!r}>"


def _original_recipient(text: str) -> str:
    """ORCPT: `type;address`, which for addresses outside ASCII has an encoding of its own."""
    kind, _, address = text.partition(";")
    if kind.lower() == "utf-8":
        return f"{kind};{_NOT_ITSELF.sub(_embedded, address)}"
    return f"{kind};{encode_xtext(address)}"


def _embedded(match: re.Match[str]) -> str:
    return f"\\x{{{ord(match[0]):X}}}"


_NOT_ITSELF: Final = re.compile(r"[^!-*,-<>-\[\]-~]")  # RFC 6533 §3: what no QCHAR is
_ENCODED: Final[Mapping[str, Callable[[str], str]]] = {
    "ENVID": encode_xtext,
    "AUTH": encode_xtext,
    "ORCPT": _original_recipient,
}


def read_path(
    argument: str, keyword: Literal["FROM", "TO"], *, lenient: bool = False
) -> tuple[Address, str] | None:
    """Read `FROM:<reverse-path>` or `TO:<forward-path>`: what stands after the verb and one blank.

    The address, and what follows its `>`, unread; None if the grammar has no place for it.
    Characters outside ASCII are no fault here.
    """
    if lenient:
        argument = BLANKS_BEFORE_COLON.sub(r"\1", argument)
    match = PATHS[keyword].match(argument)
    address = match and _path(*match.groups())
    if address is None and lenient:
        match = LENIENT_PATHS[keyword].match(argument)
        address = match and _lenient_mailbox(*match.groups())
    if match is None or address is None:
        return None
    return address, argument[match.end() :]


def read_mailbox(text: str) -> Address | None:
    """Read a mailbox that stands without brackets, as in the AUTH parameter (RFC 4954 §5)."""
    match = MAILBOX.fullmatch(text)
    return match and _mailbox(*match.groups())


# --- patterns -----------------------------------------------------------------------------------

# RFC 5321 §4.1.2   Mailbox = Local-part "@" (Domain / address-literal)
#                   Local-part = Dot-string / Quoted-string
# Groups: mailbox, local part, domain, the IPv6 address in it.
MAILBOX: Final = re.compile(rf"(({DOT_STRING}|{QUOTED_STRING})@({DOMAIN}|{LITERAL}))")

# RFC 5321 §4.1.2   A-d-l = At-domain *("," At-domain)   At-domain = "@" Domain
# From the time before there was DNS: to be accepted and ignored (appendix C).
_ROUTE: Final = rf"@({DOMAIN}(?:,@{DOMAIN})*):"

# RFC 5321 §4.1.1.2   "MAIL FROM:" (Path / "<>")
# RFC 5321 §4.1.1.3   "RCPT TO:" ("<Postmaster>" / Path)
# Groups: source route, those of a mailbox, what stands in place of one. Blanks after the colon are
# against RFC 5321 §3.3, but many a client sends one.
_FROM: Final = r"[Ff][Rr][Oo][Mm]: *+"
_TO: Final = r"[Tt][Oo]: *+"
_POSTMASTER: Final = r"[Pp][Oo][Ss][Tt][Mm][Aa][Ss][Tt][Ee][Rr]"
PATHS: Final[Mapping[str, re.Pattern[str]]] = {
    "FROM": re.compile(rf"{_FROM}<(?:(?:{_ROUTE})?{MAILBOX.pattern}|())>"),
    "TO": re.compile(rf"{_TO}<(?:(?:{_ROUTE})?{MAILBOX.pattern}|({_POSTMASTER}))>"),
}

# What `lenient_addresses` takes besides: mailboxes without any rule for dots, labels, lengths.
# Groups: as those of a mailbox.
BLANKS_BEFORE_COLON: Final = re.compile(r"\A([A-Za-z]++) ++(?=:)")
_LOOSE: Final = rf"[^ @<>\[\]{CONTROL}]++"
_LOOSE_MAILBOX: Final = rf"(({_LOOSE})@({_LOOSE}|{LITERAL}))"
LENIENT_PATHS: Final[Mapping[str, re.Pattern[str]]] = {
    "FROM": re.compile(rf"{_FROM}<{_LOOSE_MAILBOX}>"),
    "TO": re.compile(rf"{_TO}<{_LOOSE_MAILBOX}>"),
}


# A plain mailbox, octets: nothing quoted, all in ASCII, with a domain that is a name. What this
# matches within MAX_MAILBOX `read_path` reads likewise. Nothing is ever tried twice (possessive groups).
_ATEXT: Final = r"[!#-'*+\-/0-9=?A-Z^-~]++"
_SUB_DOMAIN: Final = rf"(?!-)[A-Za-z0-9-]{{1,{MAX_LABEL}}}+(?<!-)"
PLAIN_MAILBOX: Final = rf"{_ATEXT}(?:\.{_ATEXT})*+@{_SUB_DOMAIN}(?:\.{_SUB_DOMAIN})*+"


# --- what patterns cannot say -------------------------------------------------------------------


def _path(  # noqa: PLR0917 - the groups of PATHS
    route: str | None,
    mailbox: str | None,
    local: str | None,
    domain: str | None,
    ipv6: str | None,
    special: str | None,
) -> Address | None:
    if mailbox is None or local is None or domain is None:  # none of the three: `<>` or `<Postmaster>`
        return Address(special or "")
    if route is not None and not all(map(is_domain, route.split(",@"))):
        return None
    return _mailbox(mailbox, local, domain, ipv6)


def _mailbox(mailbox: str, local: str, domain: str, ipv6: str | None) -> Address | None:
    if len(mailbox) > MAX_MAILBOX or not (mailbox.isascii() or _is_sound(mailbox, domain)):
        return None
    if ipv6 is None:
        return Address(mailbox)
    address = _with_ipv6(local, ipv6)
    # The one spelling of an IPv4-mapped address may be longer than another one of it.
    if address is None or len(address.address.encode()) > MAX_MAILBOX:
        return None
    return address


def _is_sound(mailbox: str, domain: str) -> bool:
    """Whether a mailbox that is not ASCII keeps to the rules for characters and octets."""
    return (
        not has_forbidden(mailbox)
        and len(mailbox.encode()) <= MAX_MAILBOX
        and (domain.isascii() or is_domain(domain))
    )


def _lenient_mailbox(mailbox: str, local: str, _domain: str, ipv6: str | None) -> Address | None:
    if has_forbidden(mailbox):
        return None
    return Address(mailbox) if ipv6 is None else _with_ipv6(local, ipv6)


def _with_ipv6(local: str, ipv6: str) -> Address | None:
    canonical = canonical_ipv6(ipv6)
    if canonical is None:
        return None
    return Address(f"{local}@[IPv6:{canonical}]")


# --- A-labels -----------------------------------------------------------------------------------

# Default_Ignorable_Code_Point (Unicode, DerivedCoreProperties) as far as `str.isprintable` lets
# it pass, the blank braille pattern, and the full stop that IDNA 2003 takes for the one between labels.
_HIDDEN: Final = re.compile(
    r"[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3002\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def _unicode_label(label: str) -> str | None:
    """The label for people to read: an A-label as Unicode, any other as it is; None if it cannot be shown.

    The `idna` codec is no choice: it knows IDNA 2003 only, which has no sharp s, and is slow.
    """
    ascii_label = label.lower()
    if not ascii_label.startswith("xn--"):
        return label
    if len(label) > MAX_LABEL or not label.isascii():
        return None
    try:
        text = ascii_label[4:].encode().decode("punycode")
    except UnicodeError:
        return None
    return text if _is_u_label(text) and f"xn--{text.encode('punycode').decode()}" == ascii_label else None


def _is_u_label(text: str) -> bool:
    """RFC 5890 §2.3.2.1, without the tables of RFC 5892: other than ASCII, visible, its own normal form."""
    return (
        not text.isascii()
        and text.isprintable()
        and _HIDDEN.search(text) is None
        and unicodedata.normalize("NFKC", text.lower()) == text
        and not unicodedata.category(text[0]).startswith("M")  # would hang on the dot or the `@` before it
    )
