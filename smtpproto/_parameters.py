# The parameters of MAIL and RCPT.
#
# Each keyword is a row: its value's grammar and what it does to the envelope stand in one function.
# A new extension is a new row. All of the text is read before any of it counts.

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from smtpproto._address import RecipientDsn, read_mailbox
from smtpproto._grammar import KEYWORD, VALUE, decode_xtext, has_forbidden
from smtpproto._reply import Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from smtpproto._address import Address
    from smtpproto._session import Envelope

__all__ = [
    "BAD_SYNTAX", "MAIL_PARAMETERS", "RCPT_PARAMETERS", "Parameter", "ParameterRules",
    "apply_mail_parameters", "apply_rcpt_parameters",
]  # fmt: skip

MAX_ENVID: Final = 100  # octets as sent, RFC 3461 §4.4
MAX_ORCPT: Final = 500  # octets as sent, RFC 3461 §4.2

Value: TypeAlias = "str | Literal[True]"


class ParameterRules(NamedTuple):
    """What holds for the parameters of a command."""

    extended: bool
    """The client said EHLO or LHLO; after HELO there are no parameters (RFC 5321 §2.2.1)."""
    accept_unknown: bool
    """Keywords that no row knows are kept in `args`."""


class Parameter(NamedTuple):
    """A row: one keyword of one command."""

    read: Callable[[Value, Address, Envelope], Reply | None]
    """Judge the value and note it; True is no value. The reply is the refusal."""
    needs_tls: bool = False
    """RFC 8689 §4.2.1: refused in the clear, whatever its value."""


def apply_mail_parameters(
    text: str, address: Address, envelope: Envelope, *, rules: ParameterRules, secure: bool
) -> Reply | None:
    """Read what follows the path of MAIL and note it in address and envelope.

    The reply is the refusal; then both are to be thrown away.
    """
    return _apply(text, MAIL_PARAMETERS, address, envelope, rules=rules, secure=secure)


def apply_rcpt_parameters(
    text: str, address: Address, envelope: Envelope, *, rules: ParameterRules
) -> Reply | None:
    """Read what follows the path of RCPT and note it in the address; the envelope is only read.

    The reply is the refusal; then the address is to be thrown away.
    """
    return _apply(text, RCPT_PARAMETERS, address, envelope, rules=rules, secure=False)


# --- the text -----------------------------------------------------------------------------------

# RFC 5321 §4.1.2   Mail-parameters = esmtp-param *(SP esmtp-param)
#                   esmtp-param = esmtp-keyword ["=" esmtp-value]
# With one or more blanks before each. The last group is whatever else stands there, to the end.
PARAMETER: Final = re.compile(rf" ++({KEYWORD})(?:=({VALUE}))?(?![^ ])|(.+)", re.DOTALL)

BAD_SYNTAX: Final = Reply(501, "5.5.4", "Error: Bad command parameter syntax")
UNSUPPORTED: Final = Reply(555, "5.5.4", "Error: unsupported parameter")


def _apply(
    text: str,
    table: Mapping[str, Parameter],
    address: Address,
    envelope: Envelope,
    *,
    rules: ParameterRules,
    secure: bool,
) -> Reply | None:
    if not rules.extended:
        return UNSUPPORTED
    args = _read(text)
    if args is None or not (text.isascii() or _may_be_utf8(text, args, table, envelope)):
        return BAD_SYNTAX
    known = [keyword for keyword in table if keyword in args]
    if len(known) < len(args) and not rules.accept_unknown:
        return UNSUPPORTED
    address._args = args
    for keyword in known:
        read, needs_tls = table[keyword]
        if needs_tls and not secure:
            return NEEDS_TLS
        refusal = read(args[keyword], address, envelope)
        if refusal is not None:
            return refusal
    return None


def _note(address: Address, keyword: str, value: str) -> None:
    """Keep a parameter as it was decoded."""
    address._args = {**address.args, keyword: value}


def _read(text: str) -> dict[str, Value] | None:
    """The parameters by keyword; None for a fault or a keyword that stands there twice."""
    args: dict[str, Value] = {}
    for keyword, value, fault in PARAMETER.findall(text):
        name = keyword.upper()
        if fault or name in args:
            return None
        args[name] = value or True
    return args


def _may_be_utf8(
    text: str, args: Mapping[str, Value], table: Mapping[str, Parameter], envelope: Envelope
) -> bool:
    """RFC 6531 §3.3: the command with SMTPUTF8 itself, and those behind it in the transaction."""
    allowed = envelope.smtp_utf8 or ("SMTPUTF8" in table and "SMTPUTF8" in args)
    return allowed and not has_forbidden(text)


# --- MAIL ---------------------------------------------------------------------------------------


def _fault(text: str) -> Reply:
    return Reply(501, "5.5.4", text)


BAD_SIZE: Final = _fault("Invalid SIZE parameter value")
BAD_BODY: Final = _fault("Invalid BODY parameter value. Must be 7BIT or 8BITMIME")
BAD_SMTPUTF8: Final = _fault("Invalid SMTPUTF8 parameter. This flag does not accept a value")
BAD_REQUIRETLS: Final = _fault("Invalid REQUIRETLS parameter. This flag does not accept a value")
NEEDS_TLS: Final = Reply(530, "5.7.0", "REQUIRETLS not permitted on non-TLS connections")
BAD_RET: Final = _fault("Invalid RET parameter value. Must be FULL or HDRS")
BAD_ENVID: Final = _fault("Invalid ENVID parameter value")
BAD_AUTH: Final = _fault("Invalid AUTH parameter value")

MAX_SIZE_DIGITS: Final = 20  # RFC 1870 §4
BODY_TYPES: Final[Mapping[str, Literal["7bit", "8bitmime"]]] = {"7BIT": "7bit", "8BITMIME": "8bitmime"}
RETURNS: Final[Mapping[str, Literal["FULL", "HDRS"]]] = {"FULL": "FULL", "HDRS": "HDRS"}


def _word(value: Value) -> str:
    """A value that is a word in any case. Outside ASCII there are letters whose upper case is within."""
    return value.upper() if value is not True and value.isascii() else ""


def _size(value: Value, _address: Address, envelope: Envelope) -> Reply | None:
    # `isdigit` alone takes the digits of every script, and ² besides.
    if value is True or len(value) > MAX_SIZE_DIGITS or not (value.isascii() and value.isdigit()):
        return BAD_SIZE
    envelope._declared_size = int(value)
    return None


def _body(value: Value, _address: Address, envelope: Envelope) -> Reply | None:
    body_type = BODY_TYPES.get(_word(value))
    if body_type is None:
        return BAD_BODY
    envelope._body_type = body_type
    return None


def _smtputf8(value: Value, _address: Address, envelope: Envelope) -> Reply | None:
    if value is not True:
        return BAD_SMTPUTF8
    envelope._smtp_utf8 = True
    return None


def _requiretls(value: Value, _address: Address, envelope: Envelope) -> Reply | None:
    if value is not True:
        return BAD_REQUIRETLS
    envelope._require_tls = True
    return None


def _ret(value: Value, _address: Address, envelope: Envelope) -> Reply | None:
    ret = RETURNS.get(_word(value))
    if ret is None:
        return BAD_RET
    envelope._dsn = envelope.dsn._replace(ret=ret)
    return None


def _envid(value: Value, address: Address, envelope: Envelope) -> Reply | None:
    # RFC 3461 §4.4: printable characters of ASCII, and it goes into a report's header.
    envid = decode_xtext(value) if value is not True and len(value) <= MAX_ENVID else None
    if envid is None or not (envid.isascii() and envid.isprintable()):
        return BAD_ENVID
    _note(address, "ENVID", envid)
    envelope._dsn = envelope.dsn._replace(envid=envid)
    return None


def _auth(value: Value, address: Address, envelope: Envelope) -> Reply | None:
    # RFC 4954 §5. Who may be believed is the application's to say, so it stands in `args` alone.
    mailbox = None if value is True else decode_xtext(value)
    if mailbox is None or not (mailbox.isascii() or envelope.smtp_utf8):
        return BAD_AUTH
    if mailbox != "<>" and read_mailbox(mailbox) is None:
        return BAD_AUTH
    _note(address, "AUTH", mailbox)
    return None


# In the order in which faults are reported; SMTPUTF8 stands before those that ask for it.
MAIL_PARAMETERS: Final[Mapping[str, Parameter]] = {
    "SIZE": Parameter(_size),
    "BODY": Parameter(_body),
    "SMTPUTF8": Parameter(_smtputf8),
    "REQUIRETLS": Parameter(_requiretls, needs_tls=True),
    "RET": Parameter(_ret),
    "ENVID": Parameter(_envid),
    "AUTH": Parameter(_auth),
}


# --- RCPT ---------------------------------------------------------------------------------------

BAD_NOTIFY: Final = _fault("Error: NOTIFY parameter must be NEVER, SUCCESS, FAILURE, or DELAY")
NEVER_ALONE: Final = _fault("Error: NOTIFY=NEVER cannot be combined with other values")
BAD_ORCPT: Final = _fault("Invalid ORCPT parameter value")

NOTIFICATIONS: Final = frozenset({"NEVER", "SUCCESS", "FAILURE", "DELAY"})

# RFC 3461 §4.2   original-recipient-address = addr-type ";" xtext   addr-type = atom
ORCPT: Final = re.compile(r"([A-Za-z0-9!#$%&'*+/=?^_`{|}~-]++);(.+)", re.DOTALL)

# RFC 6533 §3   utf-8-addr-unitext = 1*(QUCHAR / EmbeddedUnicodeChar)
#               QUCHAR = %x21-2a / %x2c-3c / %x3e-5b / %x5d-7e / UTF8-2 / UTF8-3 / UTF8-4
#               EmbeddedUnicodeChar = %x5C.78 "{" HEXPOINT "}"
# Of ASCII only what cannot stand for itself is embedded, and nothing has leading zeros. Control
# characters, which HEXPOINT has as well, are allowed nowhere.
_HEX: Final = "[0-9A-Fa-f]"
_POINT: Final = rf"20|2[Bb]|3[Dd]|5[Cc]|[89A-Fa-f]{_HEX}|[1-9A-Fa-f]{_HEX}{{2,4}}|10{_HEX}{{4}}"
EMBEDDED: Final = re.compile(rf"\\x\{{({_POINT})\}}")
UTF8_ADDRESS: Final = re.compile(rf"(?:[^ \\+=\x00-\x1f\x7f-\x9f]++|{EMBEDDED.pattern})+")


def _notify(value: Value, address: Address, _envelope: Envelope) -> Reply | None:
    words = _word(value).split(",")
    if not NOTIFICATIONS.issuperset(words):
        return BAD_NOTIFY
    if "NEVER" in words and len(words) > 1:
        return NEVER_ALONE
    if len(set(words)) < len(words):
        return BAD_NOTIFY
    address._dsn = RecipientDsn(tuple(words), address.dsn.orcpt)
    return None


def _orcpt(value: Value, address: Address, envelope: Envelope) -> Reply | None:
    match = ORCPT.fullmatch(value) if value is not True and len(value.encode()) <= MAX_ORCPT else None
    if match is None:
        return BAD_ORCPT
    kind, encoded = match.groups()
    if kind.lower() == "utf-8":
        original = _decode_utf8_address(encoded)
    else:
        original = decode_xtext(encoded)
        if original and not (original.isascii() or envelope.smtp_utf8):
            return BAD_ORCPT
    if not original or has_forbidden(original):
        return BAD_ORCPT
    orcpt = f"{kind};{original}"
    _note(address, "ORCPT", orcpt)
    address._dsn = RecipientDsn(address.dsn.notify, orcpt)
    return None


def _decode_utf8_address(text: str) -> str | None:
    r"""RFC 6533 §3: `\x{E9}` is é, in ASCII, so that it needs no SMTPUTF8. A mailbox comes of it."""
    if UTF8_ADDRESS.fullmatch(text) is None:
        return None
    address = EMBEDDED.sub(lambda match: chr(int(match[1], 16)), text)
    return None if read_mailbox(address) is None else address


RCPT_PARAMETERS: Final[Mapping[str, Parameter]] = {"NOTIFY": Parameter(_notify), "ORCPT": Parameter(_orcpt)}
