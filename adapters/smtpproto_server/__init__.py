"""What every adapter's server has: options, handlers, the message as a hook reads it, and stores.

All of it that a program needs is in the adapters' packages as well. What adapters themselves are made of
is in `smtpproto_server.adapting`.
"""

from __future__ import annotations

from smtpproto_server._chain import chain
from smtpproto_server._delivery import Delivery, Incoming
from smtpproto_server._handlers import Handler, PlainHandler
from smtpproto_server._hooks import HookError
from smtpproto_server._maildir import Maildir
from smtpproto_server._option_fields import OptionFields
from smtpproto_server._options import Options
from smtpproto_server._stream import AsyncStream, Stream, StreamAborted, StreamRefused
from smtpproto_server._trace import received_line, trace_lines

__all__ = [
    "AsyncStream", "Delivery", "Handler", "HookError", "Incoming", "Maildir", "OptionFields", "Options",
    "PlainHandler", "Stream", "StreamAborted", "StreamRefused", "chain", "received_line", "trace_lines",
]  # fmt: skip
