"""What every adapter of smtpproto shares: options, hooks, the server loop, TLS, the Maildir."""

from __future__ import annotations

from smtpproto_server._alarm import Alarm
from smtpproto_server._coloured import ColouredPeer
from smtpproto_server._effects import (
    NOT_NOW,
    PULL,
    Ask,
    AtOnce,
    Close,
    Deliver,
    Effect,
    Failed,
    Outcome,
    Pull,
    Receive,
    Send,
)
from smtpproto_server._listener import Listener
from smtpproto_server._loop import Serving
from smtpproto_server._maildir import Delivery, Maildir
from smtpproto_server._options import HOOKS, OPTIONAL_HOOKS, Options
from smtpproto_server._peer import Peer, Step, Wait
from smtpproto_server._plain import GIVEN_UP, Latch, PlainPeer, PlainServer
from smtpproto_server._server import EVENTS, Address, Identity, Place, ServerCore
from smtpproto_server._sockets import bind_tcp, bind_unix, listener_address, socket_address
from smtpproto_server._steps import (
    call_plain,
    is_coroutine_function,
    plain_call,
    run_flushing,
    trapped,
)
from smtpproto_server._stream import AsyncStream, MessageBody, Stream, StreamAborted
from smtpproto_server._tls import TlsContexts
from smtpproto_server._tls_channel import TlsChannel
from smtpproto_server._trace import trace_lines

__all__ = [
    "EVENTS", "GIVEN_UP", "HOOKS", "NOT_NOW", "OPTIONAL_HOOKS", "PULL", "Address", "Alarm", "Ask",
    "AsyncStream", "AtOnce", "Close", "ColouredPeer", "Deliver", "Delivery", "Effect", "Failed", "Identity",
    "Latch", "Listener", "Maildir", "MessageBody", "Options", "Outcome", "Peer", "Place", "PlainPeer",
    "PlainServer", "Pull", "Receive", "Send", "ServerCore", "Serving", "Step", "Stream", "StreamAborted",
    "TlsChannel", "TlsContexts", "Wait", "bind_tcp", "bind_unix", "call_plain", "is_coroutine_function",
    "listener_address", "plain_call", "run_flushing", "socket_address", "trace_lines",
    "trapped",
]  # fmt: skip
