"""SMTP and LMTP servers on gevent, with and without monkey patching.

All that a program needs is here: what hooks get, say and raise, options, and stores.
"""

from __future__ import annotations

from smtpproto import Accept, Address, Challenge, Credentials, Envelope, Reject, Session
from smtpproto_gevent._server import SMTPServer, serve, serve_connection
from smtpproto_server import (
    Delivery,
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
    "Accept", "Address", "Challenge", "Credentials", "Delivery", "Envelope", "Maildir", "Options",
    "PlainHandler", "Reject", "SMTPServer", "Session", "Stream", "StreamAborted", "StreamRefused", "chain",
    "received_line", "serve", "serve_connection", "trace_lines",
]  # fmt: skip
