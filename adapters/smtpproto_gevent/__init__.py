"""SMTP and LMTP servers on gevent, with and without monkey patching."""

from __future__ import annotations

from smtpproto_gevent._server import SMTPServer, serve, serve_connection
from smtpproto_server import Options

__all__ = ["Options", "SMTPServer", "serve", "serve_connection"]
