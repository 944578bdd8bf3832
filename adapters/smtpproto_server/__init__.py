"""What every adapter of smtpproto shares: options, hooks, the driver of a connection, TLS, the Maildir."""

from __future__ import annotations

from smtpproto_server._application import EVENTS, Application, is_coroutine_function
from smtpproto_server._clocks import NEVER
from smtpproto_server._delivery import Delivery, Incoming
from smtpproto_server._driver import PARTED, Driver, Wait
from smtpproto_server._handlers import HOOKS, OPTIONAL_HOOKS, Handler, PlainHandler
from smtpproto_server._listener import Listener
from smtpproto_server._maildir import Maildir
from smtpproto_server._option_fields import OptionFields, TlsFields
from smtpproto_server._options import Options
from smtpproto_server._plain import PlainDriver
from smtpproto_server._server import ServerCore
from smtpproto_server._socket import SocketDriver
from smtpproto_server._sockets import (
    Address,
    Identity,
    Place,
    bind_tcp,
    bind_unix,
    has_octets,
    listener_address,
    socket_address,
)
from smtpproto_server._stream import AsyncStream, MessageStream, Stream, StreamAborted, StreamRefused
from smtpproto_server._threads import Job, Threads, Timers, outcome
from smtpproto_server._tls import TlsContexts
from smtpproto_server._tls_channel import TlsChannel
from smtpproto_server._trace import trace_lines
from smtpproto_server._worker import Worker

__all__ = [
    "EVENTS", "HOOKS", "NEVER", "OPTIONAL_HOOKS", "PARTED", "Address", "Application", "AsyncStream",
    "Delivery", "Driver", "Handler", "Identity", "Incoming", "Job", "Listener", "Maildir", "MessageStream",
    "OptionFields", "Options", "Place", "PlainDriver", "PlainHandler", "ServerCore", "SocketDriver",
    "Stream", "StreamAborted", "StreamRefused", "Threads", "Timers", "TlsChannel", "TlsContexts",
    "TlsFields", "Wait", "Worker", "bind_tcp", "bind_unix", "has_octets", "is_coroutine_function",
    "listener_address", "outcome", "socket_address", "trace_lines",
]  # fmt: skip
