"""What every adapter of smtpproto shares: options, hooks, the server loop, TLS, the Maildir."""

from __future__ import annotations

from smtpproto_server._effects import PULL, Ask, Close, Deliver, Effect, Failed, Outcome, Pull, Receive, Send
from smtpproto_server._loop import Serving
from smtpproto_server._maildir import Delivery, Maildir
from smtpproto_server._options import HOOKS, OPTIONAL_HOOKS, Options
from smtpproto_server._server import EVENTS, ServerCore, socket_address
from smtpproto_server._sockets import bind_tcp, bind_unix, listener_address
from smtpproto_server._steps import is_coroutine_function, run_flushing
from smtpproto_server._stream import AsyncStream, MessageBody, Stream, StreamAborted
from smtpproto_server._tls import TlsChannel, TlsContexts
from smtpproto_server._trace import trace_lines

__all__ = [
    "EVENTS", "HOOKS", "OPTIONAL_HOOKS", "PULL", "Ask", "AsyncStream", "Close", "Deliver", "Delivery",
    "Effect", "Failed", "Maildir", "MessageBody", "Options", "Outcome", "Pull", "Receive", "Send",
    "ServerCore", "Serving", "Stream", "StreamAborted", "TlsChannel", "TlsContexts", "bind_tcp",
    "bind_unix", "is_coroutine_function", "listener_address", "run_flushing", "socket_address", "trace_lines",
]  # fmt: skip
