# The command on asyncio and on loops that are made like its own.

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from smtpproto_cli._service import SIGNALS

if TYPE_CHECKING:
    from collections.abc import Callable

    from smtpproto_cli._service import Service

__all__ = ["run"]


def run(service: Service, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None) -> None:
    """Serve until a signal; end the process when all connections have ended."""
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(_serve(service))


async def _serve(service: Service) -> None:
    from smtpproto_asyncio import SMTPServer  # noqa: PLC0415 - the runtime that was asked for

    stopped = asyncio.Event()
    server = SMTPServer(service.options)
    for number in SIGNALS:  # before there is anybody to lose
        asyncio.get_running_loop().add_signal_handler(number, service.received, number, server, stopped.set)
    with service.beginning():
        for sock, own in service.listening:
            await server.listen(sock=sock, **own)
    service.ready(server.addresses)
    await stopped.wait()
    service.ending(len(server.sessions))
    await server.close()
    service.ended()
