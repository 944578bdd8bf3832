# Trace lines: what a server that takes final responsibility writes in front of a message, and the one
# of them that a relay writes.
#
# A message is read by programs that trust its first lines, so nothing a client said can open a
# line of its own here, close a comment, or stand where our own words are expected. Values are
# cleaned where they are put in, although those of a session are clean already.

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from smtpproto import Address, Session

__all__ = ["received_line", "trace_lines"]

FOLD_AT: Final = 78  # octets without CRLF, RFC 5322 §2.1.1: should
MAX_LINE: Final = 998  # octets without CRLF, RFC 5322 §2.1.1: must
MAX_VALUE: Final = 255  # characters of one value; twice that, escaped, still fits into a line

_ATEXT: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"  # RFC 5322 §3.2.3

# RFC 5322 §3.4.1   domain = dot-atom / domain-literal
_DOMAIN: Final = re.compile(rf"{_ATEXT}+(?:\.{_ATEXT}+)*|\[[!-Z^-~]*\]")

# An address that can stand between `<` and `>;` without ending the clause early. Addresses read
# with `lenient_addresses` need not be so.
_MAILBOX: Final = re.compile(
    r'(?:[^\s()<>\[\]:;@\\,"]+|"(?:[^"\\]|\\.)*")'
    r"@(?:[^\s()<>\[\]:;@\\,\"]+|\[[!-Z^-~]*\])"
)  # fmt: skip

_NOT_ATOM: Final = re.compile(rf"(?!{_ATEXT}).", re.DOTALL)
_NOT_HOST: Final = re.compile(r"[^A-Za-z0-9.:%_-]")
_NOT_PRINTABLE: Final = re.compile(r"[^ -~]")
_SPECIAL_IN_COMMENT: Final = re.compile(r"[()\\]")
ESCAPED: Final = r"\\\g<0>"
_LINE_BREAKING: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def trace_lines(
    session: Session,
    *,
    received_by: str,
    when: float | datetime,
    recipients: Sequence[Address] | None = None,
) -> bytes:
    """What a final delivery puts in front of the message of the session's present transaction.

    `Return-Path`, one `Delivered-To` for each recipient, and `received_line` with the same arguments,
    each with CRLF. A relay takes `received_line` alone.
    """
    sender = session.envelope.mail_from
    whom = session.envelope.rcpt_to if recipients is None else recipients
    return b"".join(
        (
            _address_field("Return-Path: <%s>", "" if sender is None else sender.address),
            *(_address_field("Delivered-To: %s", address.address) for address in whom),
            received_line(session, received_by=received_by, when=when, recipients=whom),
        )
    )


def received_line(
    session: Session,
    *,
    received_by: str,
    when: float | datetime,
    recipients: Sequence[Address] | None = None,
) -> bytes:
    """The field `Received` (RFC 5321 §4.4), with CRLF, of the session's present transaction.

    All that a relay puts in front of a message: only a final delivery writes `Return-Path`.
    `received_by` is this host's name; `when` seconds since the epoch or a datetime (one without a zone
    is local time). `recipients` are those whom this copy is for, None: all that the envelope has; a
    single one is named. Folded at 78 octets; ASCII, or UTF-8 if the recipient's address is not ASCII.
    """
    whom = session.envelope.rcpt_to if recipients is None else recipients
    return _field(_received(session, whom, received_by, when))


def _address_field(form: str, address: str) -> bytes:
    """One address as a field; nothing for an address that no line can hold.

    Only `lenient_addresses` lets such through. Cut short it would be somebody else's. Not folded at
    78: many readers of these two fields take the folding for a part of the address.
    """
    line = _octets(form % _LINE_BREAKING.sub("?", address))
    return line + b"\r\n" if len(line) <= MAX_LINE else b""


def _received(
    session: Session, recipients: Sequence[Address], received_by: str, when: float | datetime
) -> Iterator[tuple[str, ...]]:
    """The clauses of the field, each as the words between which it may be folded."""
    *clauses, (*words, word) = _stamp(session, recipients, received_by)
    yield from clauses
    yield *words, f"{word};"
    yield (_date(when),)


def _stamp(session: Session, recipients: Sequence[Address], received_by: str) -> Iterator[tuple[str, ...]]:
    """RFC 5321 §4.4   Stamp = From-domain By-domain Opt-info."""
    literal = _address_literal(session.remote_address)
    hello = session.host_name_appears_as
    named = len(hello) <= MAX_VALUE and _DOMAIN.fullmatch(hello) is not None
    yield "Received:", "from", hello if named else literal or "unknown"
    yield _comment(*_peer(session.client_hostname, literal))
    if hello and not named:
        yield _comment("HELO", hello)
    yield "by", _host(received_by)
    yield "with", _protocol(session)
    if session.id:
        # RFC 5321 takes an Atom here, which has no dot.
        yield "id", _NOT_ATOM.sub("-", f"{session.id[:MAX_VALUE]}-{session.transaction}")
    if session.tls_options is not None:
        yield _comment(session.tls_options["version"], session.tls_options["standard_name"])
    # Several recipients would learn of each other (RFC 5321 §7.2).
    if len(recipients) == 1 and _fits_into_for(recipients[0].address):
        yield "for", f"<{recipients[0].address}>"


def _peer(name: str, literal: str) -> tuple[str, ...]:
    """TCP-info: the reverse DNS name, if there is one, and the address, if there is one."""
    if literal and name.startswith("["):
        return (literal,)
    return (name, literal) if literal else (name,)


def _address_literal(address: str) -> str:
    """`[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 §4.1.3); "" where there is no address."""
    if not address:
        return ""
    return f"[{'IPv6:' if ':' in address else ''}{_NOT_HOST.sub('-', address[:MAX_VALUE])}]"


def _host(name: str) -> str:
    """Our own name, made a domain if it was configured as something else."""
    name = name[:MAX_VALUE]
    if _DOMAIN.fullmatch(name):
        return name
    return ".".join(_NOT_ATOM.sub("-", label) for label in name.split(".") if label) or "unknown"


def _protocol(session: Session) -> str:
    """The registered name of RFC 3848, or of RFC 6531 §4.3 where the transaction has SMTPUTF8."""
    kind = session.transmission_type
    return f"UTF8{kind.removeprefix('E')}" if session.envelope.smtp_utf8 else kind


def _fits_into_for(address: str) -> bool:
    clean = _MAILBOX.fullmatch(address) and not _LINE_BREAKING.search(address)
    return bool(clean) and len(_octets(address)) < MAX_LINE - len("\t<>;")


def _date(when: float | datetime) -> str:
    moment = when if isinstance(when, datetime) else datetime.fromtimestamp(when, tz=UTC)
    return format_datetime(moment if moment.tzinfo else moment.astimezone())


def _comment(*texts: str) -> tuple[str, ...]:
    """A comment (RFC 5322 §3.2.2), as its words."""
    text = " ".join(_NOT_PRINTABLE.sub("?", text[:MAX_VALUE]) for text in texts)
    return tuple(f"({_SPECIAL_IN_COMMENT.sub(ESCAPED, text)})".split())


def _octets(text: str) -> bytes:
    return text.encode(errors="replace")


def _field(clauses: Iterable[tuple[str, ...]]) -> bytes:
    """Put the clauses on lines, folded between them, and inside those that are long themselves."""
    lines: list[bytes] = []
    line = b""
    for clause in clauses:
        whole = _octets(" ".join(clause))
        for piece in [whole] if len(whole) < FOLD_AT else map(_octets, clause):
            if not line:
                line = piece
            elif len(line) + 1 + len(piece) <= FOLD_AT:
                line += b" " + piece
            else:
                lines.append(line)
                line = b"\t" + piece
    return b"\r\n".join((*lines, line, b""))
