"""SMTP and LMTP servers on anyio, with asyncio or trio below.

All that a program needs is here: what hooks get, say and raise, options, and stores.
"""

from __future__ import annotations

from smtpproto import Accept, Address, Challenge, Credentials, Reject, Session
from smtpproto_anyio._server import SMTPServer, serve, serve_connection
from smtpproto_server import (
    AsyncStream,
    Handler,
    Maildir,
    Options,
    PlainHandler,
    Stream,
    StreamAborted,
    StreamRefused,
    chain,
    received_line,
    trace_lines,
)

__all__ = [
    "Accept", "Address", "AsyncStream", "Challenge", "Credentials", "Handler", "Maildir", "Options",
    "PlainHandler", "Reject", "SMTPServer", "Session", "Stream", "StreamAborted", "StreamRefused", "chain",
    "received_line", "serve", "serve_connection", "trace_lines",
]  # fmt: skip
