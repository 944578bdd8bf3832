# The command on gevent. Nothing is patched.

from __future__ import annotations

from typing import TYPE_CHECKING

import gevent
from gevent.event import Event

from smtpproto_cli._service import SIGNALS

if TYPE_CHECKING:
    from smtpproto_cli._service import Service

__all__ = ["run"]


def run(service: Service) -> None:
    """Serve until a signal; return when all connections have ended."""
    from smtpproto_gevent import SMTPServer  # noqa: PLC0415 - the runtime that was asked for

    stopped = Event()
    server = SMTPServer(service.options)
    for number in SIGNALS:
        gevent.signal_handler(number, service.received, number, server, stopped.set)
    with service.beginning():
        for sock in service.sockets:
            server.listen(sock=sock)
    service.ready(server.addresses())
    stopped.wait()
    service.ending(len(server.connections))
    server.close()
