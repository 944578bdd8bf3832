# All options: those of the core and those of the adapters.

from __future__ import annotations

import socket
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, Literal

import smtpproto
from smtpproto.extending import Check, option, single_line
from smtpproto_server._handlers import check_handler, check_hook, is_hook, nearest
from smtpproto_server._tls import TLS_OPTION_NAMES, VERSIONS, check_tls_options

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping, Sequence
    from typing import Self, Unpack

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
    from smtpproto_server._option_fields import OptionFields, Pem, Resolver, TlsFields, TlsVersion

__all__ = ["Options"]


def _any(value: Any) -> Any:
    return value


def _resolver(value: Any) -> Any:
    if value is None:
        return None
    resolve = None if isinstance(value, type) else getattr(value, "reverse", value)
    if not callable(resolve):
        raise ValueError(  # noqa: TRY004 - options raise ValueError
            "must be a function (ip), or an object with a method reverse(ip)"
        )
    check_hook("resolver", resolve)
    return value


def _version(value: Any) -> Any:
    if value is not None and not (isinstance(value, str) and value in VERSIONS):
        raise ValueError(f"must be one of {', '.join(VERSIONS)}, or None")
    return value


def _seconds_or_none(value: Any) -> float | None:
    return None if value is None else Check.seconds(value)


_limit: Final = Check.limit_in_seconds


@dataclass(frozen=True, kw_only=True, eq=False)
class Options(smtpproto.ProtocolOptions):
    """What a server can be told. Times are seconds; None switches a limit off.

    Raises TypeError for a name that is no option and for a hook or a handler that cannot be called,
    ValueError for a wrong value.
    """

    if TYPE_CHECKING:

        def __init__(self, **fields: Unpack[OptionFields]) -> None: ...

    else:

        def __new__(cls, **fields: Any) -> Self:
            """Says which option was meant, where dataclasses say that there is none."""
            names = cls.__dataclass_fields__
            if unknown := [name for name in fields if name not in names]:
                hints = (f"{name!r} ({nearest(name, names) or 'nor one like it'})" for name in unknown)
                raise TypeError(f"there is no option {', '.join(hints)}")
            return super().__new__(cls)

    # Connection
    early_talker_delay: float = option(Check.seconds, 0.0)
    """How long the greeting is held back, to see who talks before it."""

    # Limits
    max_clients: int | None = option(Check.count(1, unlimited=True), None)
    """Connections at a time; one more is told 421."""
    close_timeout: float | None = option(_seconds_or_none, 30.0)
    """How long `close()` lets open transactions go on; None: until they end."""
    hook_timeout: float | None = option(_limit, None)
    """For each call of a hook; waiting for octets of the message does not count."""

    # DNS
    disable_reverse_lookup: bool = option(Check.flag, default=False)
    """The client's host name is its address in brackets, at once."""
    resolver: Resolver | None = option(_resolver, None, secret=True)
    """Replaces the system's resolver: a function (ip), or an object with `reverse(ip)`, that gives names."""
    reverse_lookup_timeout: float | None = option(_limit, 1.5)
    """For the lookup; then the name is the address in brackets."""

    # TLS; files are read where contexts are built
    key: Pem | None = option(_any, None, secret=True)
    """Private key: PEM text or a path."""
    cert: Pem | None = option(_any, None, secret=True)
    """Certificate chain, which may contain the key: PEM text or a path."""
    ssl_context: ssl.SSLContext | None = option(_any, None)
    """Used as it is, instead of the other TLS options."""
    ca: Pem | Sequence[Pem] | None = option(_any, None, secret=True)
    """CAs for client certificates; None: the system's."""
    request_cert: bool = option(Check.flag, default=False)
    """Ask clients for a certificate."""
    reject_unauthorized: bool = option(Check.flag, default=True)
    """With `request_cert`: a client without one cannot go on."""
    min_version: TlsVersion | None = option(_version, "TLSv1.2")
    """The least TLS version: "TLSv1", "TLSv1.1", "TLSv1.2" or "TLSv1.3"; None is "TLSv1.2"."""
    max_version: TlsVersion | None = option(_version, None)
    """The highest; None is what OpenSSL allows."""
    sni_options: Mapping[str, TlsFields | ssl.SSLContext] = field(
        default_factory=dict[str, "TlsFields | ssl.SSLContext"], repr=False
    )
    """TLS options, or a context, for each server name."""

    # Hooks
    handler: object = option(_any, None, secret=True)
    """An object whose `on_*` methods are the hooks that are not given otherwise."""
    on_connect: OnSession | None = option(_any, None, secret=True)
    on_secure: OnSecure | None = option(_any, None, secret=True)
    on_auth: OnAuth | None = option(_any, None, secret=True)
    on_mail_from: OnAddress | None = option(_any, None, secret=True)
    on_rcpt_to: OnAddress | None = option(_any, None, secret=True)
    on_data: OnData | None = option(_any, None, secret=True)
    on_close: OnClose | None = option(_any, None, secret=True)
    on_helo: OnTwoTexts | None = option(_any, None, secret=True)
    on_data_start: OnSession | None = option(_any, None, secret=True)
    on_vrfy: OnText | None = option(_any, None, secret=True)
    on_expn: OnText | None = option(_any, None, secret=True)
    on_help: OnText | None = option(_any, None, secret=True)
    on_command: OnTwoTexts | None = option(_any, None, secret=True)
    sync_hooks: Literal["thread", "inline"] = option(Check.one_of("thread", "inline"), "thread")
    """Where coroutine runtimes call plain hooks: in a thread, or in the loop (never `on_data`)."""
    hook_threads: int = option(Check.count(1), 64)
    """Threads for plain hooks; `on_data` and look-ups, which wait for others, have their own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.name:
            object.__setattr__(self, "name", single_line(socket.gethostname()) or "localhost")

    def check_together(self) -> None:
        """Refuse also hooks that cannot be called, and TLS options that fit nothing."""
        super().check_together()
        if self.handler is not None:
            check_handler(self.handler)
        for spec in fields(self):
            value = getattr(self, spec.name)
            if is_hook(spec.name) and value is not None:
                check_hook(spec.name, value)
        check_tls_options({name: getattr(self, name) for name in TLS_OPTION_NAMES})
