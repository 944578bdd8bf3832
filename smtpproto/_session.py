# What is known of one connection: session, envelope, addresses' company.
#
# Values that hooks and events carry. The core writes their fields; an application has `state` and
# `user` of a Session, and attributes of its own.

from __future__ import annotations

import copy
import inspect
from types import GenericAlias
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from smtpproto._values import Frozen, frozen, write

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Generic

    from typing_extensions import TypeVar  # checkers bring it along

    from smtpproto._address import Address
    from smtpproto._proxy import ProxyInfo
    from smtpproto._tls import TlsCipher

    User = TypeVar("User", default=Any)
    State = TypeVar("State", default=Any)

    class _Generic(Generic[User, State]):
        __slots__ = ()

else:
    # Python 3.11 has no defaults of type variables, and annotations may be evaluated.
    User = State = Any

    class _Generic:
        __slots__ = ()
        __class_getitem__ = classmethod(GenericAlias)


__all__ = ["Envelope", "MessageDsn", "Session", "successor"]


class MessageDsn(NamedTuple):
    """The message part of RFC 3461: RET and ENVID of MAIL."""

    ret: Literal["FULL", "HDRS"] | None = None
    """How much a report should return (RFC 3461 §4.3)."""
    envid: str | None = None
    """The sender's envelope identifier, decoded (RFC 3461 §4.4)."""


@frozen
class Envelope(Frozen):
    """The envelope of one mail transaction; a new one begins wherever a transaction ends."""

    mail_from: Address | None = None
    """The sender, once accepted; its `address` is "" for the null reverse-path."""
    body_type: Literal["7bit", "8bitmime"] = "7bit"
    """BODY of MAIL (RFC 6152)."""
    smtp_utf8: bool = False
    """SMTPUTF8 was given (RFC 6531)."""
    require_tls: bool = False
    """REQUIRETLS was given (RFC 8689)."""
    declared_size: int | None = None
    """SIZE of MAIL in octets (RFC 1870), None when the client gave none."""
    dsn: MessageDsn = MessageDsn()
    """RET and ENVID (RFC 3461)."""

    _recipients: Sequence[Address]

    def __init__(self, mail_from: Address | None = None, rcpt_to: Sequence[Address] = ()) -> None:
        if mail_from is not None:
            write(self, "mail_from", mail_from)
        write(self, "_recipients", rcpt_to)  # the core's own list, which grows

    @property
    def rcpt_to(self) -> tuple[Address, ...]:
        """The accepted recipients in order, duplicates kept."""
        return tuple(self._recipients)

    def facts(self) -> dict[str, Any]:
        """All fields by name."""
        return {name: getattr(self, name) for name in _ENVELOPE_FIELDS}

    def copy(self) -> Envelope:
        """One that does not change any more."""
        new = copy.copy(self)
        write(new, "_recipients", self.rcpt_to)
        return new

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Envelope):
            return NotImplemented
        return self.facts() == other.facts()

    __hash__: Any = None

    def __repr__(self) -> str:
        return f"<Envelope from {self.mail_from!r} to {[*self.rcpt_to]!r}>"


_ENVELOPE_FIELDS: Final = (
    "mail_from", "rcpt_to", "body_type", "smtp_utf8", "require_tls", "declared_size", "dsn",
)  # fmt: skip


class _Settable(_Generic[User, State]):
    """What an application may set of a session."""

    __slots__ = ("state", "user")

    user: User | None
    """What the login gave, None without one. Set in `on_secure` it is a login by certificate."""
    state: State
    """The application's own; None until it is set."""


@frozen
class Session(_Settable[User, State]):
    """One connection, as events and hooks see it: `Session`, or `Session[User, State]` for checkers of types.

    Its fields are read-only, but for `state`, `user`, and attributes of your own.
    """

    # A __dict__ for the application, made only if it is used.
    __slots__ = (
        "__dict__", "after_reply_calls", "client_hostname", "close_reason", "envelope", "error",
        "host_name_appears_as", "id", "listener", "lmtp", "local_address", "local_port", "opening_command",
        "peer_certificate", "proxy", "remote_address", "remote_port", "secure", "servername",
        "tls_options", "transaction", "xclient", "xforward",
    )  # fmt: skip

    id: str
    """Sixteen characters 0-9a-v, or what the adapter was handed."""
    listener: str
    """The name of the listener that it came in by; "" for one without a name."""
    lmtp: bool
    """The server speaks LMTP (RFC 2033)."""
    local_address: str
    """Our end's address in canonical form; "" for a unix socket."""
    local_port: int
    remote_address: str
    """The client's address; PROXY and XCLIENT change it. "" for a unix socket."""
    remote_port: int
    client_hostname: str
    """Reverse DNS name in lower case, or the address in brackets."""
    secure: bool
    """TLS is active, here or (option `tls_upstream`) upstream."""
    servername: str | None
    """The SNI name of the last handshake."""
    tls_options: TlsCipher | None
    """Cipher and protocol, None without TLS or when it ends upstream."""
    peer_certificate: Mapping[str, Any] | None
    """The client's verified certificate, or None."""
    opening_command: str
    """The last accepted of HELO, EHLO, LHLO; "" before."""
    host_name_appears_as: str
    """Its argument in lower case."""
    proxy: ProxyInfo | None
    """What the PROXY header said."""
    xclient: Mapping[str, str | None]
    """XCLIENT attributes by upper-case name; None where the value is unavailable."""
    xforward: Mapping[str, str | None]
    """XFORWARD attributes of the present transaction."""
    transaction: int
    """Number of the present transaction, counted from 1."""
    envelope: Envelope
    """The present envelope."""
    error: str | None
    """The last reply with a code of 400 or more, without its CRLF."""
    close_reason: str | None
    """Why the connection has ended; None while it goes on."""

    after_reply_calls: list[Callable[[], object]]
    """What `after_reply` was given: for whoever drives the connection, who calls and removes it."""

    def __init__(
        self,
        id: str = "",  # noqa: A002 - the field's own name
        *,
        local: tuple[str, int] = ("", 0),
        remote: tuple[str, int] = ("", 0),
        lmtp: bool = False,
        listener: str = "",
        secure: bool = False,
    ) -> None:
        facts: dict[str, Any] = {
            "id": id,
            "listener": listener,
            "lmtp": lmtp,
            "local_address": local[0],
            "local_port": local[1],
            "remote_address": remote[0],
            "remote_port": remote[1],
            "client_hostname": f"[{remote[0]}]" if remote[0] else "[local]",
            "secure": secure,
            "opening_command": "",
            "host_name_appears_as": "",
            "transaction": 1,
            "envelope": Envelope(),
            "xclient": _NOTHING,
            "xforward": _NOTHING,
            "after_reply_calls": [],
        }
        for name in _NONE_AT_FIRST:
            write(self, name, None)
        for name, value in facts.items():
            write(self, name, value)

    @property
    def transmission_type(self) -> str:
        """The protocol for a trace line: SMTP, ESMTPSA, LMTPS ... (RFC 3848)."""
        if self.lmtp:
            base = "LMTP"
        elif self.opening_command == "EHLO":
            base = "ESMTP"
        else:
            return "SMTP"
        return f"{base}{'S' if self.secure else ''}{'A' if self.user is not None else ''}"

    def facts(self) -> dict[str, Any]:
        """All fields by name; attributes that an application has added are not among them."""
        return {name: getattr(self, name) for name in _FIELDS}

    def after_reply(self, call: Callable[[], object]) -> None:
        """Call `call` once the reply to the present command was handed to the system.

        For what must not delay the reply. Called where the connection runs: it must not block. It is not
        called if the connection ends before its reply is sent. Raises TypeError for a coroutine function.
        """
        if not callable(call) or inspect.iscoroutinefunction(call):
            raise TypeError(f"after_reply takes a plain function, not {call!r}")
        self.after_reply_calls.append(call)

    if not TYPE_CHECKING:  # as for every frozen value

        def __setattr__(self, name: str, value: object) -> None:
            if name in _READ_ONLY:
                raise AttributeError(f"session.{name} cannot be set: the server relies on it")
            write(self, name, value)

        def __delattr__(self, name: str) -> None:
            if name in _READ_ONLY or name in _Settable.__slots__:
                raise AttributeError(f"session.{name} cannot be deleted: the server relies on it")
            object.__delattr__(self, name)

    def __getstate__(self) -> dict[str, Any]:
        return {
            **self.facts(),
            "after_reply_calls": [],
            "envelope": self.envelope.copy(),
            **self.__dict__,
        }

    def __setstate__(self, fields: Mapping[str, Any]) -> None:
        for name, value in fields.items():
            write(self, name, value)

    def __repr__(self) -> str:
        return f"<Session {self.id} {self.remote_address} {self.transmission_type}>"


_NOTHING: Final[Mapping[str, str | None]] = {}
_FIELDS: Final = frozenset({*_Settable.__slots__, *Session.__slots__}) - {"__dict__", "after_reply_calls"}
_READ_ONLY: Final = frozenset(Session.__slots__) - {"__dict__"}
_NONE_AT_FIRST: Final = (
    "close_reason", "error", "peer_certificate", "proxy", "servername", "state",
    "tls_options", "user",
)  # fmt: skip


def successor(session: Session) -> Session:
    """The session to go on with, where a hook that cannot be ended keeps this one as it is now."""
    new, present = copy.copy(session), session.envelope
    write(new, "envelope", copy.copy(present))  # it grows with the transaction
    write(present, "_recipients", present.rcpt_to)
    write(new, "after_reply_calls", session.after_reply_calls)
    write(session, "after_reply_calls", [])
    return new
