"""SMTP and LMTP servers on blocking sockets, a thread for each connection."""

from __future__ import annotations

from smtpproto_blocking._server import SMTPServer, serve, serve_connection
from smtpproto_server import Options

__all__ = ["Options", "SMTPServer", "serve", "serve_connection"]
