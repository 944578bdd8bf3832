"""SMTP and LMTP servers on anyio, with asyncio or trio below."""

from __future__ import annotations

from smtpproto_anyio._server import SMTPServer, serve, serve_connection
from smtpproto_server import Options

__all__ = ["Options", "SMTPServer", "serve", "serve_connection"]
