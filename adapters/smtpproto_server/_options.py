# All options: those of the core and those of the adapters.

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import smtpproto
from smtpproto.extending import Check, option, single_line

if TYPE_CHECKING:
    import os
    import ssl
    from collections.abc import Callable, Mapping, Sequence
    from typing import Protocol

    class Resolver(Protocol):
        """Reverse DNS of the application's own."""

        def reverse(self, ip: str, /) -> Any:
            """The names of `ip`, a list; plain or coroutine function."""

    Pem = str | bytes | os.PathLike[str]
    Hook = Callable[..., Any]

__all__ = ["HOOKS", "OPTIONAL_HOOKS", "Options"]

HOOKS: Final = ("on_connect", "on_secure", "on_auth", "on_mail_from", "on_rcpt_to", "on_data", "on_close")
OPTIONAL_HOOKS: Final = ("on_helo", "on_data_start", "on_vrfy", "on_expn", "on_help", "on_command")


def _any(value: Any) -> Any:
    return value


def _hook(value: Any) -> Any:
    if value is not None and not callable(value):
        raise ValueError("must be a function")
    return value


def _resolver(value: Any) -> Any:
    if value is not None and not callable(getattr(value, "reverse", None)):
        raise ValueError("must have a method reverse(ip)")
    return value


_limit: Final = Check.limit_in_seconds


@dataclass(frozen=True, kw_only=True, eq=False)
class Options(smtpproto.ProtocolOptions):
    """What a server can be told. Times are seconds; None switches a limit off.

    Raises TypeError for a name that is no option, ValueError for a wrong value.
    """

    # Connection
    early_talker_delay: float = option(Check.seconds, 0.0)
    """How long the greeting is held back, to see who talks before it."""

    # Limits
    max_clients: int | None = option(Check.count(1, unlimited=True), None)
    """Connections at a time; one more is told 421."""
    close_timeout: float = option(Check.seconds, 30.0)
    """How long `close()` lets open transactions go on."""
    hook_timeout: float | None = option(_limit, None)
    """For each call of a hook; waiting for octets of the message does not count."""

    # DNS
    disable_reverse_lookup: bool = option(Check.flag, default=False)
    """The client's host name is its address in brackets, at once."""
    resolver: Resolver | None = option(_resolver, None, secret=True)
    """Replaces the system's resolver."""
    reverse_lookup_timeout: float | None = option(_limit, 1.5)
    """For the lookup; then the name is the address in brackets."""

    # TLS; what they take is checked where contexts are built
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
    min_version: str | None = option(_any, "TLSv1.2")
    max_version: str | None = option(_any, None)
    sni_options: Mapping[str, Mapping[str, Any] | ssl.SSLContext] = field(
        default_factory=dict[str, "Mapping[str, Any] | ssl.SSLContext"], repr=False
    )
    """TLS options, or a context, for each server name."""

    # Hooks
    handler: object = option(_any, None, secret=True)
    """An object whose `on_*` methods are the hooks that are not given otherwise."""
    on_connect: Hook | None = option(_hook, None, secret=True)
    on_secure: Hook | None = option(_hook, None, secret=True)
    on_auth: Hook | None = option(_hook, None, secret=True)
    on_mail_from: Hook | None = option(_hook, None, secret=True)
    on_rcpt_to: Hook | None = option(_hook, None, secret=True)
    on_data: Hook | None = option(_hook, None, secret=True)
    on_close: Hook | None = option(_hook, None, secret=True)
    on_helo: Hook | None = option(_hook, None, secret=True)
    on_data_start: Hook | None = option(_hook, None, secret=True)
    on_vrfy: Hook | None = option(_hook, None, secret=True)
    on_expn: Hook | None = option(_hook, None, secret=True)
    on_help: Hook | None = option(_hook, None, secret=True)
    on_command: Hook | None = option(_hook, None, secret=True)
    sync_hooks: Literal["thread", "inline"] = option(Check.one_of("thread", "inline"), "thread")
    """Where coroutine runtimes call plain hooks: in a thread, or in the loop (never `on_data`)."""
    hook_threads: int = option(Check.count(1), 64)
    """Threads for plain hooks; `on_data` and look-ups, which wait for others, have their own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.name:
            object.__setattr__(self, "name", single_line(socket.gethostname()) or "localhost")
