# The command on threads.
#
# Signals are blocked in all of them, and one thread waits for them. A handler would run in the main
# thread between any two steps of what that waits for, also where it holds the lock that the
# handler needs to wake it.

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, TypeVar

from smtpproto_cli._service import SIGNALS

if TYPE_CHECKING:
    from concurrent.futures import Future

    from smtpproto_blocking import SMTPServer
    from smtpproto_cli._service import Service

__all__ = ["run", "wait"]

T = TypeVar("T")


def run(service: Service) -> None:
    """Serve until a signal; end the process when all connections have ended."""
    from smtpproto_blocking import SMTPServer  # noqa: PLC0415 - the runtime that was asked for

    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # threads begin with the mask of their maker
    stopped = threading.Event()
    server = SMTPServer(service.options)
    threading.Thread(target=_receive_signals, args=(service, server, stopped), daemon=True).start()
    with service.beginning():
        for sock, own in service.listening:
            server.listen(sock=sock, **own)
    service.ready(server.addresses)
    stopped.wait()
    service.ending(len(server.sessions))
    server.close()
    service.ended()


def wait(future: Future[T]) -> T:
    """Wait for what another thread does."""
    return future.result()


def _receive_signals(service: Service, server: SMTPServer, stopped: threading.Event) -> None:
    while True:
        service.received(signal.sigwait(SIGNALS), server, stopped.set)
