# What is known of one connection: session, envelope, addresses' company.
#
# Values that hooks and events carry. Only the core writes the fields named here; an application
# may hang attributes of its own on a Session.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypedDict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from smtpproto._address import Address
    from smtpproto._proxy import ProxyInfo

__all__ = ["Envelope", "MessageDsn", "Session", "TlsDetails", "TlsOptions"]


class TlsOptions(TypedDict):
    """Cipher and protocol of the running TLS session."""

    name: str
    """OpenSSL's name of the cipher."""
    standard_name: str
    """The IANA name of the cipher."""
    version: str
    """The protocol, for instance "TLSv1.3"."""


class TlsDetails:
    """What the adapter tells the core about a finished handshake."""

    __slots__ = ("options", "peer_certificate", "servername")

    def __init__(
        self,
        options: TlsOptions | None = None,
        *,
        servername: str | None = None,
        peer_certificate: Mapping[str, Any] | None = None,
    ) -> None:
        self.options: TlsOptions | None = options
        """Cipher and protocol."""
        self.servername: str | None = servername
        """The name the client asked for (SNI, RFC 6066 §3), or None."""
        self.peer_certificate: Mapping[str, Any] | None = peer_certificate
        """As `ssl.SSLObject.getpeercert()` gives it, or None."""

    def __repr__(self) -> str:
        return f"TlsDetails({self.options!r}, servername={self.servername!r})"


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
        "body_type", "declared_size", "dsn", "mail_from", "rcpt_to", "require_tls", "smtp_utf8",
    )  # fmt: skip

    def __init__(self) -> None:
        self.mail_from: Address | None = None
        """The sender, once accepted; its `address` is "" for the null reverse-path."""
        self.rcpt_to: list[Address] = []
        """The accepted recipients in order, duplicates kept."""
        self.body_type: Literal["7bit", "8bitmime"] = "7bit"
        """BODY of MAIL (RFC 6152)."""
        self.smtp_utf8: bool = False
        """SMTPUTF8 was given (RFC 6531)."""
        self.require_tls: bool = False
        """REQUIRETLS was given (RFC 8689)."""
        self.declared_size: int | None = None
        """SIZE of MAIL in octets (RFC 1870), None when the client gave none."""
        self.dsn: MessageDsn = _NO_DSN
        """RET and ENVID (RFC 3461)."""

    def __repr__(self) -> str:
        return f"<Envelope from {self.mail_from!r} to {self.rcpt_to!r}>"


class Session:
    """One connection, as events and hooks see it. Set attributes of your own as you like."""

    # A __dict__ for the application, made only if it is used.
    __slots__ = (
        "__dict__", "client_hostname", "envelope", "error", "host_name_appears_as", "id", "lmtp",
        "local_address", "local_port", "opening_command", "peer_certificate", "proxy",
        "remote_address", "remote_port", "secure", "servername", "tls_options", "transaction",
        "user", "x_client", "x_forward",
    )  # fmt: skip

    def __init__(
        self,
        id: str = "",  # noqa: A002 - the field's own name
        *,
        local: tuple[str, int] = ("", 0),
        remote: tuple[str, int] = ("", 0),
        lmtp: bool = False,
    ) -> None:
        self.id: str = id
        """Sixteen characters 0-9a-v, or what the adapter was handed."""
        self.lmtp: bool = lmtp
        """The server speaks LMTP (RFC 2033)."""
        self.local_address: str = local[0]
        """Our end's address in canonical form; "" for a unix socket."""
        self.local_port: int = local[1]
        self.remote_address: str = remote[0]
        """The client's address; PROXY and XCLIENT change it. "" for a unix socket."""
        self.remote_port: int = remote[1]
        self.client_hostname: str = f"[{remote[0]}]" if remote[0] else "[local]"
        """Reverse DNS name in lower case, or the address in brackets."""
        self.secure: bool = False
        """TLS is active, here or (option `secured`) upstream."""
        self.servername: str | None = None
        """The SNI name of the last handshake."""
        self.tls_options: TlsOptions | None = None
        """Cipher and protocol, None without TLS or when it ends upstream."""
        self.peer_certificate: Mapping[str, Any] | None = None
        """The client's verified certificate, or None."""
        self.opening_command: str = ""
        """The last accepted of HELO, EHLO, LHLO; "" before."""
        self.host_name_appears_as: str = ""
        """Its argument in lower case."""
        self.proxy: ProxyInfo | None = None
        """What the PROXY header said."""
        self.x_client: dict[str, str | None] = {}
        """XCLIENT attributes by upper-case name; None where the value is unavailable."""
        self.x_forward: dict[str, str | None] = {}
        """XFORWARD attributes of the present transaction."""
        self.user: Any = None
        """What the login gave, None without one."""
        self.transaction: int = 1
        """Number of the present transaction, counted from 1."""
        self.envelope: Envelope = Envelope()
        """The present envelope."""
        self.error: str | None = None
        """The last reply with a code of 400 or more, without its CRLF."""

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

    def __repr__(self) -> str:
        return f"<Session {self.id} {self.remote_address} {self.transmission_type}>"
