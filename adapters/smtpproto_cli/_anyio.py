# The command on anyio, over asyncio or trio.

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from smtpproto_cli._service import SIGNALS

if TYPE_CHECKING:
    from anyio.abc import TaskStatus

    from smtpproto_anyio import SMTPServer
    from smtpproto_cli._service import Service

__all__ = ["run"]


def run(service: Service, backend: str) -> None:
    """Serve until a signal; return when all connections have ended."""
    anyio.run(_serve, service, backend=backend)


async def _serve(service: Service) -> None:
    from smtpproto_anyio import SMTPServer  # noqa: PLC0415 - the runtime that was asked for

    stopped = anyio.Event()
    async with SMTPServer(service.options) as server, anyio.create_task_group() as tasks:
        await tasks.start(_receive_signals, service, server, stopped)
        with service.beginning():
            for sock in service.sockets:
                await server.listen(sock=sock)
        service.ready(server.addresses())
        await stopped.wait()
        service.ending(len(server.connections))
        await server.close()
        tasks.cancel_scope.cancel()


async def _receive_signals(
    service: Service, server: SMTPServer, stopped: anyio.Event, *, task_status: TaskStatus[None]
) -> None:
    with anyio.open_signal_receiver(*SIGNALS) as signals:
        task_status.started()
        async for number in signals:
            service.received(number, server, stopped.set)
