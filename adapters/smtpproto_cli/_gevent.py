# The command on gevent. Nothing is patched.

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import gevent
from gevent.event import Event

from smtpproto_cli._service import SIGNALS

if TYPE_CHECKING:
    from concurrent.futures import Future

    from smtpproto_cli._service import Service

__all__ = ["run", "wait"]

T = TypeVar("T")


def run(service: Service) -> None:
    """Serve until a signal; end the process when all connections have ended."""
    from smtpproto_gevent import SMTPServer  # noqa: PLC0415 - the runtime that was asked for

    stopped = Event()
    server = SMTPServer(service.options)
    for number in SIGNALS:
        gevent.signal_handler(number, service.received, number, server, stopped.set)
    with service.beginning():
        for sock, own in service.listening:
            server.listen(sock=sock, **own)
    service.ready(server.addresses)
    stopped.wait()
    service.ending(len(server.sessions))
    server.close()
    service.ended()


def wait(future: Future[T]) -> T:
    """Wait for what another thread does while other greenlets run."""
    loop, done = gevent.get_hub().loop, Event()
    future.add_done_callback(lambda _: loop.run_callback_threadsafe(done.set))
    try:
        done.wait()
    except BaseException:
        future.cancel()
        raise
    return future.result()
