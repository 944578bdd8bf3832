# The command on asyncio and on loops that are made like its own.

from __future__ import annotations

import asyncio
import signal
from functools import partial
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from smtpproto_cli._service import Service

__all__ = ["run"]

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


def run(service: Service, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None) -> None:
    """Serve until a signal; return when all connections have ended."""
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(_serve(service))


async def _serve(service: Service) -> None:
    from smtpproto_asyncio import SMTPServer  # noqa: PLC0415 - the runtime that was asked for

    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in SIGNALS:  # before there is anybody to lose
        loop.add_signal_handler(number, partial(_stop, service, stopped, number))
    server = SMTPServer(service.options)
    place = service.place
    with service.beginning():
        await server.listen(place.port, place.host, path=place.path)
    service.ready(server.addresses())
    await stopped.wait()
    service.ending(len(server.connections))
    await server.close()


def _stop(service: Service, stopped: asyncio.Event, number: signal.Signals) -> None:
    if stopped.is_set():
        service.cut_short(number)
    stopped.set()
