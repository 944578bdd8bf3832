"""What adapters are made of: the server without a runtime, the driver of a connection, sockets, threads, TLS.

For authors of adapters (see the guide), who take it as public; for programs there is `smtpproto_server`.
"""

from __future__ import annotations

from smtpproto_server._application import EVENTS, Application, is_coroutine_function
from smtpproto_server._clocks import NEVER
from smtpproto_server._driver import PARTED, Driver, Wait
from smtpproto_server._entering import Managers
from smtpproto_server._handlers import HOOKS, OPTIONAL_HOOKS, nearest
from smtpproto_server._listener import Arrival, Listener
from smtpproto_server._option_fields import LISTENER_OPTIONS, ListenerFields, TlsFields
from smtpproto_server._plain import PlainDriver
from smtpproto_server._server import ServerCore
from smtpproto_server._socket import SocketDriver
from smtpproto_server._sockets import (
    Identity,
    Place,
    SocketAddress,
    bind_tcp,
    bind_unix,
    has_octets,
    listener_address,
    socket_address,
)
from smtpproto_server._stream import MessageStream
from smtpproto_server._threads import Job, Threads, Timers, outcome
from smtpproto_server._tls import TlsContexts
from smtpproto_server._tls_channel import TlsChannel
from smtpproto_server._worker import Worker

__all__ = [
    "EVENTS", "HOOKS", "LISTENER_OPTIONS", "NEVER", "OPTIONAL_HOOKS", "PARTED", "Application", "Arrival",
    "Driver", "Identity", "Job", "Listener", "ListenerFields", "Managers", "MessageStream", "Place",
    "PlainDriver", "ServerCore", "SocketAddress", "SocketDriver", "Threads", "Timers", "TlsChannel",
    "TlsContexts", "TlsFields", "Wait", "Worker", "bind_tcp", "bind_unix", "has_octets",
    "is_coroutine_function", "listener_address", "nearest", "outcome",
    "socket_address",
]  # fmt: skip
