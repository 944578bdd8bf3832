"""SMTP and LMTP servers on asyncio, on the standard loop and on uvloop."""

from __future__ import annotations

from smtpproto_asyncio._server import SMTPServer, serve, serve_connection
from smtpproto_server import Options

__all__ = ["Options", "SMTPServer", "serve", "serve_connection"]
