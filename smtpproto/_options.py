# The options of the core.
#
# A ProtocolOptions object that exists is valid: unknown names raise TypeError, wrong values ValueError
# naming the option, and values are kept in one form (tuples, upper case, one line). Adapters add
# options of their own by subclassing, with the same checks.

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from smtpproto._errors import ConfigurationError
from smtpproto._grammar import is_ehlo_keyword_line
from smtpproto._peers import Peers
from smtpproto._reply import single_line
from smtpproto._sasl import BUILT_IN_MECHANISMS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

    from smtpproto._sasl import MechanismFactory

    PeerList = bool | Iterable[str | IPv4Address | IPv6Address | IPv4Network | IPv6Network]

__all__ = ["Check", "ProtocolOptions", "option"]

MIN_LINE: Final = 512  # octets with CRLF, RFC 5321 §4.5.3.1.4
MIN_AUTH_LINE: Final = 12288  # octets, RFC 4954 §4
DEFAULT_LINE: Final = 4096  # 512 and all that extensions add: paths of 6531, ORCPT, ENVID ...
MECHANISM_NAME: Final = re.compile(r"[A-Z0-9_-]{1,20}")  # RFC 4422 §3.1


class Check:
    """What a value must be; each function returns the value to keep or raises ValueError."""

    @staticmethod
    def flag(value: Any) -> bool:
        if not isinstance(value, bool):
            raise ValueError("must be True or False")  # noqa: TRY004 - options raise ValueError
        return value

    @staticmethod
    def flag_or_none(value: Any) -> bool | None:
        return None if value is None else Check.flag(value)

    @staticmethod
    def line(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError("must be text")  # noqa: TRY004 - likewise
        return single_line(value)

    @staticmethod
    def seconds(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise ValueError("must be a number of seconds, 0 or more")
        return float(value)

    @staticmethod
    def limit_in_seconds(value: Any) -> float | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise ValueError("must be a number of seconds above 0, or None for no limit")
        return float(value)

    @staticmethod
    def count(least: int, *, unlimited: bool = False) -> Callable[[Any], int | None]:
        def check(value: Any) -> int | None:
            if value is None and unlimited:
                return None
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(
                    f"must be a whole number, {least} or more{', or None for no limit' * unlimited}"
                )
            return value

        return check

    @staticmethod
    def count_or_false(value: Any) -> int | None:
        return None if value is False else Check.count(1, unlimited=True)(value)

    @staticmethod
    def one_of(*values: str) -> Callable[[Any], str]:
        def check(value: Any) -> str:
            if value not in values:
                raise ValueError("must be " + " or ".join(repr(v) for v in values))
            return str(value)

        return check

    @staticmethod
    def words(value: Any) -> tuple[str, ...]:
        """A sequence of words, kept trimmed and in upper case, each once."""
        return tuple(dict.fromkeys(word.strip().upper() for word in Check.texts(value)))

    @staticmethod
    def texts(value: Any) -> tuple[str, ...]:
        if isinstance(value, str | bytes):
            raise ValueError("must be a list of words, not one text")  # noqa: TRY004 - options raise ValueError
        try:
            items = tuple(value)
        except TypeError:
            raise ValueError("must be a list of words") from None
        if not all(isinstance(item, str) for item in items):
            raise ValueError("must be a list of words")
        return items

    @staticmethod
    def ehlo_keywords(value: Any) -> tuple[str, ...]:
        lines = Check.texts(value)
        for line in lines:
            if not is_ehlo_keyword_line(line):
                raise ValueError(f"{line!r} is not an EHLO line (RFC 5321 §4.1.1.1)")
        return lines

    @staticmethod
    def helo_response(value: Any) -> str:
        return Check.line(value) or DEFAULT_HELO_RESPONSE

    @staticmethod
    def peers(value: Any) -> PeerList:
        if isinstance(value, bool):
            return value
        if isinstance(value, str | bytes):
            raise ValueError("must be True, False or a list of addresses and networks")  # noqa: TRY004
        try:
            entries = tuple(value)
        except TypeError:
            raise ValueError("must be True, False or a list of addresses and networks") from None
        Peers.of(entries)
        return entries

    @staticmethod
    def mechanisms(value: Any) -> Mapping[str, MechanismFactory]:
        try:
            items = {str(name).strip().upper(): factory for name, factory in dict(value).items()}
        except (TypeError, ValueError):
            raise ValueError("must map mechanism names to factories") from None
        for name, factory in items.items():
            if not MECHANISM_NAME.fullmatch(name) or not callable(factory):
                raise ValueError(f"{name!r}: a mechanism is a name (RFC 4422 §3.1) and a callable")
        return items


def option(check: Callable[[Any], Any], default: Any, *, secret: bool = False) -> Any:
    """A field of a ProtocolOptions class: its default, and what makes a value acceptable.

    Use `secret` for keys and passwords, and for objects of the application, whose repr may show some:
    the value is then in no repr and in no error.
    """
    return field(default=default, repr=not secret, metadata={"check": check})


DEFAULT_HELO_RESPONSE: Final = "%s Nice to meet you, %s"
_limit = Check.limit_in_seconds


@dataclass(frozen=True, kw_only=True, eq=False)
class ProtocolOptions:
    """The options the protocol core reads. Times are seconds; None switches a limit off."""

    # Connection
    secure: bool = option(Check.flag, default=False)
    """TLS from the first octet (RFC 8314 §3.3); STARTTLS is then neither offered nor possible."""
    tls_upstream: bool = option(Check.flag, default=False)
    """TLS is ended upstream: the session counts as secure from the start. Wins over `secure`."""
    needs_upgrade: bool = option(Check.flag, default=False)
    """AUTH and MAIL are refused with 530 until TLS is active (RFC 3207 §4)."""
    name: str = option(Check.line, "")
    """The server's own name in greeting and replies; "" stands for "localhost" in the bare core."""
    banner: str = option(Check.line, "")
    """Text behind the greeting."""
    lmtp: bool = option(Check.flag, default=False)
    """LMTP instead of SMTP (RFC 2033)."""
    helo_response: str = option(Check.helo_response, DEFAULT_HELO_RESPONSE)
    """First line of the reply to HELO, EHLO, LHLO; %s is `name`, then the client's host name."""
    ehlo_keywords: tuple[str, ...] = option(Check.ehlo_keywords, ())
    """EHLO lines of the application's own, written last."""

    # Authentication
    auth_methods: tuple[str, ...] = option(Check.words, ("PLAIN", "LOGIN"))
    """SASL mechanisms in the order they are offered; empty: AUTH does not exist."""
    auth_optional: bool = option(Check.flag, default=False)
    """Mail is taken without a login as well."""
    allow_insecure_auth: bool = option(Check.flag, default=False)
    """AUTH is offered and served without TLS."""
    auth_required_message: str = option(Check.line, "Error: authentication Required")
    """Text of the 530 for mail without a login."""
    max_auth_attempts: int | None = option(Check.count(1, unlimited=True), 3)
    """The failed login that reaches this number ends the connection with 421."""
    sasl_mechanisms: Mapping[str, MechanismFactory] = field(
        default_factory=dict[str, "MechanismFactory"], repr=False, metadata={"check": Check.mechanisms}
    )
    """Mechanisms of the application's own, by name; they may replace built-in ones."""

    # Capabilities
    hide_pipelining: bool = option(Check.flag, default=False)
    hide_8bitmime: bool = option(Check.flag, default=False)
    hide_smtputf8: bool = option(Check.flag, default=False)
    hide_enhancedstatuscodes: bool | None = option(Check.flag_or_none, None)
    """None: hidden in SMTP, shown in LMTP (RFC 2033 §5). Hidden means not used either."""
    hide_dsn: bool = option(Check.flag, default=True)
    hide_starttls: bool = option(Check.flag, default=False)
    hide_requiretls: bool = option(Check.flag, default=True)
    hide_size: bool = option(Check.flag, default=False)
    disabled_commands: tuple[str, ...] = option(Check.words, ())
    """Verbs that are answered as unknown ones."""

    # Limits
    size: int | None = option(Check.count(1, unlimited=True), None)
    """Octets of a message, after unstuffing (RFC 1870)."""
    enforce_size: bool = option(Check.flag, default=True)
    """A message over `size` is refused with 552; False: it is only marked."""
    socket_timeout: float | None = option(_limit, 60.0)
    """Waiting for the client, restarted by each octet."""
    command_timeout: float | None = option(_limit, 300.0)
    """From the first octet of a command line to its CRLF."""
    greeting_timeout: float | None = option(_limit, 30.0)
    """From the connection (or its handshake) to the greeting, hooks excluded."""
    proxy_timeout: float | None = option(_limit, 5.0)
    """For the whole PROXY header."""
    tls_handshake_timeout: float | None = option(_limit, 30.0)
    """For each TLS handshake."""
    data_timeout: float | None = option(_limit, 3600.0)
    """From the 354 to the end of data, flow control excluded."""
    min_data_rate: float | None = option(_limit, 100.0)
    """Octets a second that a message must come with, in every window of `socket_timeout`."""
    session_timeout: float | None = option(_limit, 3600.0)
    """For the whole connection; acts where a command is awaited."""
    max_allowed_unauthenticated_commands: int | None = option(Check.count_or_false, 10)
    """The command that reaches this number without a login ends the connection; False or None: no limit."""
    max_unknown_commands: int | None = option(Check.count(1, unlimited=True), 10)
    """The unknown command that reaches this number ends the connection."""
    max_recipients: int | None = option(Check.count(1, unlimited=True), 1000)
    """Recipients of one transaction."""
    max_line_length: int = option(Check.count(MIN_LINE), DEFAULT_LINE)
    """Octets of a command line with its CRLF."""
    max_auth_line_length: int = option(Check.count(MIN_AUTH_LINE), MIN_AUTH_LINE)
    """The same for AUTH and its continuation lines."""
    bare_newlines: Literal["reject", "accept"] = option(Check.one_of("reject", "accept"), "reject")
    """What a CR or LF outside CRLF does to a message."""
    unknown_parameters: Literal["reject", "accept"] = option(Check.one_of("reject", "accept"), "reject")
    """What a MAIL or RCPT parameter that the core does not know does."""
    require_smtputf8: bool = option(Check.flag, default=True)
    """A non-ASCII address needs SMTPUTF8 (RFC 6531 §3.5)."""
    lenient_addresses: bool = option(Check.flag, default=False)
    """Anything with one @ between two halves is an address."""

    # Proxies
    use_proxy: PeerList = option(Check.peers, default=False)
    """Peers that send a PROXY header first: all, none, or a list."""
    use_xclient: PeerList = option(Check.peers, default=False)
    """Peers that may use XCLIENT."""
    use_xforward: PeerList = option(Check.peers, default=False)
    """Peers that may use XFORWARD."""

    def __post_init__(self) -> None:
        for spec in fields(self):
            check = spec.metadata.get("check")
            if check is None:
                continue
            value = getattr(self, spec.name)
            try:
                object.__setattr__(self, spec.name, check(value))
            except ValueError as error:
                shown = repr(value) if spec.repr else type(value).__name__
                raise ValueError(f"{spec.name} {error}, not {shown}") from None
        for method in self.auth_methods:
            if method not in BUILT_IN_MECHANISMS and method not in self.sasl_mechanisms:
                raise ValueError(
                    f"auth_methods names {method!r}, which is neither one of "
                    f"{', '.join(BUILT_IN_MECHANISMS)} nor in sasl_mechanisms"
                )
        self.check_together()

    def check_together(self) -> None:
        """Refuse options that cannot be had together; subclasses add theirs."""
        if (
            self.needs_upgrade
            and "STARTTLS" in self.disabled_commands
            and not (self.secure or self.tls_upstream)
        ):
            raise ConfigurationError("needs_upgrade asks for STARTTLS, which disabled_commands takes away")

    # Not the one that dataclasses make: pytest explains that one with the values that differ.
    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, spec.name) == getattr(other, spec.name) for spec in fields(self))

    __hash__: ClassVar[None] = None  # type: ignore[assignment] # some values are mappings

    # What follows from the options, computed once.

    @cached_property
    def coded(self) -> bool:
        """Replies carry enhanced status codes (RFC 2034)."""
        hidden = self.hide_enhancedstatuscodes
        return self.lmtp if hidden is None else not hidden

    @cached_property
    def has_auth(self) -> bool:
        """The AUTH command exists."""
        return bool(self.auth_methods) and "AUTH" not in self.disabled_commands

    @cached_property
    def login_required(self) -> bool:
        """Mail needs a login."""
        return self.has_auth and not self.auth_optional

    @cached_property
    def absent_commands(self) -> frozenset[str]:
        """Verbs that are answered as unknown ones."""
        other_protocol = {"HELO", "EHLO"} if self.lmtp else {"LHLO"}
        return frozenset({*self.disabled_commands, *other_protocol, *(() if self.has_auth else ("AUTH",))})

    @cached_property
    def greeting(self) -> str:
        """Text of the greeting."""
        return self.greeting_with(self.banner)

    def greeting_with(self, banner: str) -> str:
        """Text of a greeting with another banner."""
        word = "LMTP" if self.lmtp else "ESMTP"
        return f"{self.host} {word}{' ' if banner else ''}{banner}"

    @cached_property
    def host(self) -> str:
        """The name the server calls itself."""
        return self.name or "localhost"

    @cached_property
    def proxy_peers(self) -> Peers:
        return Peers.of(self.use_proxy)

    @cached_property
    def xclient_peers(self) -> Peers:
        return Peers.of(self.use_xclient)

    @cached_property
    def xforward_peers(self) -> Peers:
        return Peers.of(self.use_xforward)
