# The options as keywords, for type checkers: what `Options` and every server take.
#
# The fields of `Options` say what is kept, these what may be given. A test compares the two.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict

if TYPE_CHECKING:
    import os
    import ssl
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
    from typing import Protocol, TypeAlias

    from smtpproto import Session
    from smtpproto.extending import Mechanism
    from smtpproto_server._handlers import (
        OnAddress,
        OnAuth,
        OnClose,
        OnData,
        OnSecure,
        OnSession,
        OnText,
        OnTwoTexts,
    )

    class Words(Protocol):
        """Texts, and not one text: a str does not take any object for `in`."""

        def __contains__(self, value: object, /) -> bool: ...
        def __iter__(self) -> Iterator[str]: ...
        def __len__(self) -> int: ...

    class ReverseDns(Protocol):
        """Reverse DNS of the application's own."""

        def reverse(self, ip: str, /) -> Any:
            """The names of `ip`, a list; plain or coroutine function."""

    Names: TypeAlias = Sequence[str]
    Resolver: TypeAlias = ReverseDns | Callable[[str], Names | Awaitable[Names]]
    Pem: TypeAlias = str | bytes | os.PathLike[str]
    TlsVersion: TypeAlias = Literal["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"]
    PeerList: TypeAlias = bool | Iterable[str | IPv4Address | IPv6Address | IPv4Network | IPv6Network]
    MechanismFactory: TypeAlias = Callable[[Session], Mechanism]

__all__ = ["LISTENER_OPTIONS", "ListenerFields", "OptionFields", "TlsFields"]


class TlsFields(TypedDict, total=False):
    """The TLS options, for one server name too."""

    key: Pem | None
    cert: Pem | None
    ssl_context: ssl.SSLContext | None
    ca: Pem | Sequence[Pem] | None
    request_cert: bool
    reject_unauthorized: bool
    min_version: TlsVersion | None
    max_version: TlsVersion | None


class ListenerFields(TypedDict, total=False):
    """The options that a listener may have of its own."""

    secure: bool
    needs_upgrade: bool
    tls_upstream: bool
    hide_starttls: bool
    auth_optional: bool
    auth_methods: Words
    allow_insecure_auth: bool
    auth_required_message: str
    lmtp: bool
    use_proxy: PeerList
    use_xclient: PeerList
    use_xforward: PeerList
    size: int | None
    hide_size: bool
    banner: str


LISTENER_OPTIONS: Final = tuple(ListenerFields.__annotations__)


class OptionFields(TlsFields, ListenerFields, total=False):
    """All options of a server: `**fields: Unpack[OptionFields]` in a function of your own."""

    name: str
    helo_response: str
    ehlo_keywords: Words
    max_auth_attempts: int | None
    sasl_mechanisms: Mapping[str, MechanismFactory]
    hide_pipelining: bool
    hide_8bitmime: bool
    hide_smtputf8: bool
    hide_enhancedstatuscodes: bool | None
    hide_dsn: bool
    hide_requiretls: bool
    disabled_commands: Words
    enforce_size: bool
    socket_timeout: float | None
    command_timeout: float | None
    greeting_timeout: float | None
    proxy_timeout: float | None
    tls_handshake_timeout: float | None
    data_timeout: float | None
    min_data_rate: float | None
    session_timeout: float | None
    max_allowed_unauthenticated_commands: int | None
    max_unknown_commands: int | None
    max_recipients: int | None
    max_line_length: int
    max_auth_line_length: int
    bare_newlines: Literal["reject", "accept"]
    unknown_parameters: Literal["reject", "accept"]
    require_smtputf8: bool
    lenient_addresses: bool
    early_talker_delay: float
    max_clients: int | None
    close_timeout: float | None
    hook_timeout: float | None
    disable_reverse_lookup: bool
    resolver: Resolver | None
    reverse_lookup_timeout: float | None
    sni_options: Mapping[str, TlsFields | ssl.SSLContext]
    handler: object
    on_connect: OnSession | None
    on_secure: OnSecure | None
    on_auth: OnAuth | None
    on_mail_from: OnAddress | None
    on_rcpt_to: OnAddress | None
    on_data: OnData | None
    on_close: OnClose | None
    on_helo: OnTwoTexts | None
    on_data_start: OnSession | None
    on_vrfy: OnText | None
    on_expn: OnText | None
    on_help: OnText | None
    on_command: OnTwoTexts | None
    sync_hooks: Literal["thread", "inline"]
    hook_threads: int
