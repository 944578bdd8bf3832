# What is known of one connection: its session, and the envelope of the present transaction.
#
# Values that hooks and events carry. The core writes their fields; an application has `state` and
# `user` of a Session, and attributes of its own.

from __future__ import annotations

import copy
import inspect
from types import GenericAlias
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from smtpproto._values import ReadOnly, fields_of

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


_NO_DSN: Final = MessageDsn()


class Envelope:
    """The envelope of one mail transaction; a new one begins wherever a transaction ends."""

    __slots__ = (
        "_body_type", "_declared_size", "_dsn", "_mail_from", "_recipients", "_require_tls", "_smtp_utf8",
    )  # fmt: skip

    mail_from: ReadOnly[Address | None] = ReadOnly()
    """The sender, once accepted; its `address` is "" for the null reverse-path."""
    body_type: ReadOnly[Literal["7bit", "8bitmime"]] = ReadOnly()
    """BODY of MAIL (RFC 6152)."""
    smtp_utf8: ReadOnly[bool] = ReadOnly()
    """SMTPUTF8 was given (RFC 6531)."""
    require_tls: ReadOnly[bool] = ReadOnly()
    """REQUIRETLS was given (RFC 8689)."""
    declared_size: ReadOnly[int | None] = ReadOnly()
    """SIZE of MAIL in octets (RFC 1870), None when the client gave none."""
    dsn: ReadOnly[MessageDsn] = ReadOnly()
    """RET and ENVID (RFC 3461)."""

    def __init__(self, mail_from: Address | None = None, rcpt_to: Sequence[Address] = ()) -> None:
        self._mail_from: Address | None = mail_from
        self._recipients: Sequence[Address] = rcpt_to  # the core's own list, which grows
        self._body_type: Literal["7bit", "8bitmime"] = "7bit"
        self._smtp_utf8: bool = False
        self._require_tls: bool = False
        self._declared_size: int | None = None
        self._dsn: MessageDsn = _NO_DSN

    @property
    def rcpt_to(self) -> tuple[Address, ...]:
        """The accepted recipients in order, duplicates kept."""
        return tuple(self._recipients)

    def facts(self) -> dict[str, Any]:
        """All fields by name."""
        facts = {name.removeprefix("_"): value for name, value in fields_of(self).items()}
        return {"mail_from": facts.pop("mail_from"), "rcpt_to": tuple(facts.pop("recipients")), **facts}

    def __getstate__(self) -> tuple[None, dict[str, Any]]:
        """For copies and pickles: the recipients as they are now."""
        return None, {**fields_of(self), "_recipients": self.rcpt_to}

    def __eq__(self, other: object) -> bool:
        return self.facts() == other.facts() if isinstance(other, Envelope) else NotImplemented

    __hash__: Any = None

    def __repr__(self) -> str:
        return f"<Envelope from {self.mail_from!r} to {[*self.rcpt_to]!r}>"


class Session(_Generic[User, State]):
    """One connection, as events and hooks see it: `Session`, or `Session[User, State]` for checkers of types.

    Its fields are read-only, but for `state`, `user`, and attributes of your own.
    """

    # A __dict__ for the application, made only if it is used.
    __slots__ = (
        "__dict__", "_after_reply_calls", "_client_hostname", "_close_reason", "_envelope", "_error",
        "_host_name_appears_as", "_id", "_listener", "_lmtp", "_local_address", "_local_port",
        "_opening_command", "_peer_certificate", "_proxy", "_remote_address", "_remote_port", "_secure",
        "_servername", "_tls_options", "_transaction", "_xclient", "_xforward", "state", "user",
    )  # fmt: skip

    user: User | None
    """What the login gave, None without one. Set in `on_secure` it is a login by certificate."""
    state: State
    """The application's own; None until it is set."""
    id: ReadOnly[str] = ReadOnly()
    """Sixteen characters 0-9a-v, or what the adapter was handed."""
    listener: ReadOnly[str] = ReadOnly()
    """The name of the listener that it came in by; "" for one without a name."""
    lmtp: ReadOnly[bool] = ReadOnly()
    """The server speaks LMTP (RFC 2033)."""
    local_address: ReadOnly[str] = ReadOnly()
    """Our end's address in canonical form; "" for a unix socket."""
    local_port: ReadOnly[int] = ReadOnly()
    remote_address: ReadOnly[str] = ReadOnly()
    """The client's address; PROXY and XCLIENT change it. "" for a unix socket."""
    remote_port: ReadOnly[int] = ReadOnly()
    client_hostname: ReadOnly[str] = ReadOnly()
    """Reverse DNS name in lower case, or the address in brackets."""
    secure: ReadOnly[bool] = ReadOnly()
    """TLS is active, here or (option `tls_upstream`) upstream."""
    servername: ReadOnly[str | None] = ReadOnly()
    """The SNI name of the last handshake."""
    tls_options: ReadOnly[TlsCipher | None] = ReadOnly()
    """Cipher and protocol, None without TLS or when it ends upstream."""
    peer_certificate: ReadOnly[Mapping[str, Any] | None] = ReadOnly()
    """The client's verified certificate, or None."""
    opening_command: ReadOnly[str] = ReadOnly()
    """The last accepted of HELO, EHLO, LHLO; "" before."""
    host_name_appears_as: ReadOnly[str] = ReadOnly()
    """Its argument in lower case."""
    proxy: ReadOnly[ProxyInfo | None] = ReadOnly()
    """What the PROXY header said."""
    xclient: ReadOnly[Mapping[str, str | None]] = ReadOnly()
    """XCLIENT attributes by upper-case name; None where the value is unavailable."""
    xforward: ReadOnly[Mapping[str, str | None]] = ReadOnly()
    """XFORWARD attributes of the present transaction."""
    transaction: ReadOnly[int] = ReadOnly()
    """Number of the present transaction, counted from 1."""
    envelope: ReadOnly[Envelope] = ReadOnly()
    """The present envelope."""
    error: ReadOnly[str | None] = ReadOnly()
    """The last reply with a code of 400 or more, without its CRLF."""
    close_reason: ReadOnly[str | None] = ReadOnly()
    """Why the connection has ended; None while it goes on."""

    after_reply_calls: ReadOnly[list[Callable[[], object]]] = ReadOnly()
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
        self._id: str = id
        self._listener: str = listener
        self._lmtp: bool = lmtp
        self._local_address: str = local[0]
        self._local_port: int = local[1]
        self._remote_address: str = remote[0]
        self._remote_port: int = remote[1]
        self._client_hostname: str = f"[{remote[0]}]" if remote[0] else "[local]"
        self._secure: bool = secure
        self._servername: str | None = None
        self._tls_options: TlsCipher | None = None
        self._peer_certificate: Mapping[str, Any] | None = None
        self._opening_command: str = ""
        self._host_name_appears_as: str = ""
        self._proxy: ProxyInfo | None = None
        self._xclient: Mapping[str, str | None] = {}
        self._xforward: Mapping[str, str | None] = {}
        self._transaction: int = 1
        self._envelope: Envelope = Envelope()
        self._error: str | None = None
        self._close_reason: str | None = None
        self._after_reply_calls: list[Callable[[], object]] = []
        self.user = None
        self.state = None  # type: ignore[assignment] # pyright: ignore[reportAttributeAccessIssue] - until it is set

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
        facts = {name.removeprefix("_"): value for name, value in fields_of(self).items()}
        del facts["after_reply_calls"]
        return facts

    def after_reply(self, call: Callable[[], object]) -> None:
        """Call `call` once the reply to the present command was handed to the system.

        For what must not delay the reply. Called where the connection runs: it must not block. It is not
        called if the connection ends before its reply is sent. Raises TypeError for a coroutine function.
        """
        if not callable(call) or any(map(inspect.iscoroutinefunction, (call, type(call).__call__))):
            raise TypeError(f"after_reply takes a plain function, not {call!r}")
        self.after_reply_calls.append(call)

    def __getstate__(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """For copies and pickles: what is to be called after a reply is called once, and for this one."""
        return self.__dict__, {
            **fields_of(self), "_envelope": copy.copy(self.envelope), "_after_reply_calls": list[Any]()
        }  # fmt: skip

    def __repr__(self) -> str:
        return f"<Session {self.id} {self.remote_address} {self.transmission_type}>"


def successor(session: Session) -> Session:
    """The session to go on with, where a hook that cannot be ended keeps this one as it is now."""
    new, present = copy.copy(session), session.envelope
    # The core's list goes with the new one, and grows with the transaction.
    new._envelope._recipients, present._recipients = present._recipients, present.rcpt_to
    new._after_reply_calls, session._after_reply_calls = session._after_reply_calls, []
    return new
