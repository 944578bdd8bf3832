# Events: what the core tells, and what it asks.
#
# An event is a value. One that asks says which decisions it takes; the core stands still until
# one of them has come. One that only tells can be ignored.

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, ClassVar, Literal

from smtpproto._decisions import Accept, Challenge, Decision, Reject
from smtpproto._values import frozen

if TYPE_CHECKING:
    from smtpproto._address import Address
    from smtpproto._body import IncomingMessage
    from smtpproto._proxy import ProxyInfo
    from smtpproto._sasl import Credentials
    from smtpproto._session import Session

__all__ = [
    "AuthRequested", "ClientConnected", "CommandRequested", "ConnectRequested", "ConnectionClosed",
    "DataAborted", "DataChunk", "DataFinished", "DataRequested", "DataStarted", "Event",
    "ExpandRequested", "HelloRequested", "HelpRequested", "MailRequested", "NeedsStartTLS", "NeedsTLS",
    "ProxyReceived", "QuitReceived", "RcptRequested", "SecureRequested", "TimerChanged", "TimerKind",
    "TransactionReset", "VerifyRequested",
]  # fmt: skip

TimerKind = Literal[
    "proxy_timeout", "tls_handshake_timeout", "greeting_timeout", "socket_timeout",
    "command_timeout", "data_timeout", "min_data_rate", "session_timeout",
]  # fmt: skip

AbortReason = Literal["connection_lost", "timeout", "shutdown", "bare_newline"]

_YES_OR_NO = (Accept, Reject)


class Event:
    """Base of all events."""

    __slots__ = ()

    takes: ClassVar[tuple[type[Decision] | None, ...]] = ()
    """The decisions this event takes; empty where it asks nothing. None in it: `decide(None)` is one."""


# --- before the greeting ------------------------------------------------------------------------


@frozen
class ProxyReceived(Event):
    """A PROXY header was read; the session's remote address is the header's from here on."""

    proxy: ProxyInfo


@frozen
class NeedsTLS(Event):
    """Implicit TLS: do the handshake now, then call `tls_established`. Nothing was sent yet."""

    data: bytes
    """Octets that came behind a PROXY header: they belong to the handshake."""


@frozen
class ConnectRequested(Event):
    """A client is there; decide before it is greeted. Refusal: 554 in place of the greeting.

    The text of an Accept takes the place of the option `banner`.
    """

    takes: ClassVar[tuple[type[Decision] | None, ...]] = _YES_OR_NO
    session: Session


@frozen
class SecureRequested(Event):
    """TLS is up, from the start or after STARTTLS; decide whether to go on. Refusal: 554."""

    takes: ClassVar[tuple[type[Decision] | None, ...]] = _YES_OR_NO
    session: Session


@frozen
class ClientConnected(Event):
    """The client's address is final (with XCLIENT: as final as it gets). Once per connection."""

    session: Session


# --- commands -----------------------------------------------------------------------------------


@frozen
class AuthRequested(Event):
    """Credentials are complete (RFC 4954). Accept needs `user`; Challenge asks one thing more."""

    takes: ClassVar[tuple[type[Decision] | None, ...]] = (Accept, Reject, Challenge)
    auth: Credentials
    """What the client said; its secrets are not in its repr."""
    session: Session


@frozen
class MailRequested(Event):
    """MAIL passed all checks; its parameters are already in `session.envelope`. Refusal: 550."""

    takes: ClassVar[tuple[type[Decision] | None, ...]] = _YES_OR_NO
    address: Address
    """The sender; `address.address` is "" for the null reverse-path."""
    session: Session


@frozen
class RcptRequested(Event):
    """RCPT passed all checks. Accept also takes the code 251. Refusal: 550."""

    takes: ClassVar[tuple[type[Decision] | None, ...]] = _YES_OR_NO
    address: Address
    """The recipient; "Postmaster" may stand without a domain (RFC 5321 §4.1.1.3)."""
    session: Session


# --- the message --------------------------------------------------------------------------------


@frozen
class DataStarted(Event):
    """The 354 is queued; `DataChunk`s follow until `DataFinished` or `DataAborted`."""

    session: Session
    message: IncomingMessage = field(compare=False)
    """How far it has come, live: octets, size, refusal."""


@frozen
class DataChunk(Event):
    """A piece of the message."""

    data: bytes
    """Dot-unstuffed octets; where a chunk ends means nothing."""


@frozen
class DataFinished(Event):
    """The end of data was seen; decide what becomes of the message. Refusal: 450.

    In LMTP `decide` also takes a sequence, one Accept or Reject for each entry of `rcpt_to`.
    """

    takes: ClassVar[tuple[type[Decision] | None, ...]] = _YES_OR_NO
    byte_length: int
    """Octets of the message after unstuffing, dropped ones included."""
    size_exceeded: bool
    """`byte_length` is over the option `size`."""
    refusal: Reject | None
    """What will be answered whatever you decide: 552 (size) or 550 (bare newline). Do not store."""


@frozen
class DataAborted(Event):
    """No further octets of this message will come, and it must not be kept.

    Said once for a message. After "bare_newline" a `DataFinished` with a refusal still follows if
    the client stays; after the other reasons the connection ends.
    """

    reason: AbortReason


# --- what the adapter is to do ------------------------------------------------------------------


@frozen
class NeedsStartTLS(Event):
    """Send `data_to_send()` (the 220), do the handshake, then call `tls_established`."""


@frozen
class TimerChanged(Event):
    """A time limit starts, or ends (`seconds` None). Call `timeout(kind)` when it runs out.

    Those that run in parts of a session only are told once, at its beginning.

    =====================  ===================================================================
    kind                   what is measured
    =====================  ===================================================================
    proxy_timeout          from the event on
    tls_handshake_timeout  from the event on
    greeting_timeout       from the event on, hooks excluded
    socket_timeout         each wait for the client, or for it to take our replies
    command_timeout        while `line_pending` is true and the client is awaited
    data_timeout           waits for the client while `in_message` is true, summed up for
                           each message
    session_timeout        from the event on, once; the core acts where a command is awaited
    =====================  ===================================================================

    A limit that runs out where it does not run any more is no fault and changes nothing.
    """

    kind: TimerKind
    seconds: float | None


@frozen
class ConnectionClosed(Event):
    """The end: send `data_to_send()`, then close. No event follows."""

    reason: str
    """A few words for the log: "quit", "eof", "timeout", "shutdown" ..."""


# --- optional questions: only if the core was made with them -------------------------------------


@frozen
class HelloRequested(Event):
    """HELO, EHLO or LHLO with a valid argument. Refusal: 550."""

    takes: ClassVar[tuple[type[Decision] | None, ...]] = _YES_OR_NO
    verb: str
    """In upper case."""
    name: str
    """The argument as sent."""
    session: Session


@frozen
class DataRequested(Event):
    """DATA is allowed; decide before the 354. Refusal: 554."""

    takes: ClassVar[tuple[type[Decision] | None, ...]] = _YES_OR_NO
    session: Session


@frozen
class VerifyRequested(Event):
    """VRFY (RFC 5321 §4.1.1.6). Accept: 252, or 250 with the mailbox as text. Refusal: 550."""

    takes: ClassVar[tuple[type[Decision] | None, ...]] = _YES_OR_NO
    argument: str
    session: Session


@frozen
class ExpandRequested(Event):
    """EXPN (RFC 5321 §4.1.1.7). Accept with the members as lines of text. Refusal: 550."""

    takes: ClassVar[tuple[type[Decision] | None, ...]] = _YES_OR_NO
    argument: str
    session: Session


@frozen
class HelpRequested(Event):
    """HELP (RFC 5321 §4.1.1.8). Accept with a text: 214. Refusal: 502."""

    takes: ClassVar[tuple[type[Decision] | None, ...]] = _YES_OR_NO
    argument: str
    session: Session


@frozen
class CommandRequested(Event):
    """A verb the core does not know or does not implement. Accept with any 2yz; refusal: 500 or 502.

    None: it is not yours. The reply is the same, and counts as an unknown command.
    """

    takes: ClassVar[tuple[type[Decision] | None, ...]] = (Accept, Reject, None)
    verb: str
    """In upper case."""
    argument: str
    session: Session


@frozen
class TransactionReset(Event):
    """An open transaction was given up."""

    reason: str
    """The verb that ended it: RSET, HELO, EHLO, LHLO or STARTTLS."""


@frozen
class QuitReceived(Event):
    """The client said QUIT; the 221 is queued."""
