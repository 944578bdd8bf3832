# The command on anyio, over asyncio or trio.

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import anyio

from smtpproto_cli._service import SIGNALS

if TYPE_CHECKING:
    from concurrent.futures import Future

    from anyio.abc import TaskStatus

    from smtpproto_anyio import SMTPServer
    from smtpproto_cli._service import Service

__all__ = ["run", "wait_on_trio"]

T = TypeVar("T")


def run(service: Service, backend: str) -> None:
    """Serve until a signal; end the process when all connections have ended."""
    anyio.run(_serve, service, backend=backend)


async def _serve(service: Service) -> None:
    from smtpproto_anyio import SMTPServer  # noqa: PLC0415 - the runtime that was asked for

    stopped = anyio.Event()
    async with SMTPServer(service.options) as server, anyio.create_task_group() as tasks:
        await tasks.start(_receive_signals, service, server, stopped)
        with service.beginning():
            for sock, own in service.listening:
                await server.listen(sock=sock, **own)
        service.ready(server.addresses)
        await stopped.wait()
        service.ending(len(server.sessions))
        await server.close()
        service.ended()


async def _receive_signals(
    service: Service, server: SMTPServer, stopped: anyio.Event, *, task_status: TaskStatus[None]
) -> None:
    with anyio.open_signal_receiver(*SIGNALS) as signals:
        task_status.started()
        async for number in signals:
            service.received(number, server, stopped.set)


async def wait_on_trio(future: Future[T]) -> T:
    """Wait for what a thread does; anyio has no such wait for both of its backends."""
    import trio  # noqa: PLC0415 - the runtime that was asked for

    done, token = trio.Event(), trio.lowlevel.current_trio_token()
    future.add_done_callback(lambda _: token.run_sync_soon(done.set))
    try:
        await done.wait()
    except BaseException:
        future.cancel()
        raise
    return future.result()
