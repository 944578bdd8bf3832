# What users of structured concurrency expect of a server: a task group that holds it, a status that
# says when it is bound, and a cancellation that nobody swallows.

from __future__ import annotations

import socket
from functools import partial
from typing import Any, Final

import anyio
import anyio.lowlevel
import pytest
from anyio import to_thread

from smtpproto_anyio import SMTPServer, serve, serve_connection
from smtpproto_kit import DATA, DEADLINE, Client

backends: Final = pytest.mark.parametrize("backend", ["asyncio", "trio"])
QUIET: Final[dict[str, Any]] = {"auth_optional": True, "disable_reverse_lookup": True, "name": "mx.test"}


def port_of(server: SMTPServer) -> int:
    address = server.address()
    assert isinstance(address, tuple)
    return address[1]


@backends
def test_serve_says_when_it_is_bound_and_ends_when_it_is_closed(backend: str) -> None:
    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            server = await tasks.start(partial(serve, SMTPServer(**QUIET), 0, "127.0.0.1"))
            client = await to_thread.run_sync(lambda: Client(port_of(server)).greeted())
            await server.close()
            assert await to_thread.run_sync(client.replies) == ["421 Server shutting down"]
            client.close()

    anyio.run(main, backend=backend)


@backends
def test_listen_outside_of_async_with_says_what_to_change(backend: str) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"use `async with server:` around it"):
            await SMTPServer(**QUIET).listen(0, "127.0.0.1")

    anyio.run(main, backend=backend)


@backends
def test_a_cancelled_server_drops_its_clients_tells_the_application_and_stays_cancelled(backend: str) -> None:
    seen: list[str] = []
    called: anyio.Event

    async def on_mail_from(*_: object) -> None:
        seen.append("called")
        called.set()
        try:
            await anyio.sleep_forever()
        finally:
            seen.append("cancelled")

    async def on_close(_session: object) -> None:
        await anyio.sleep(0.01)  # it may still wait
        seen.append("closed")

    async def main() -> None:
        nonlocal called
        called = anyio.Event()
        clients: list[Client] = []
        server = SMTPServer(**QUIET, on_mail_from=on_mail_from, on_close=on_close)
        with anyio.CancelScope() as scope:
            async with server:
                await server.listen(0, "127.0.0.1")
                clients += [await to_thread.run_sync(lambda: Client(port_of(server)).greeted()) for _ in "12"]
                clients[0].send(DATA)
                with anyio.fail_after(DEADLINE):
                    await called.wait()
                scope.cancel()
                await anyio.lowlevel.checkpoint()
                pytest.fail("the cancellation was swallowed")
        assert scope.cancelled_caught
        assert not server.connections
        for client in clients:
            assert client.rest() == b""
            client.close()

    anyio.run(main, backend=backend)
    assert sorted(seen) == ["called", "cancelled", "closed", "closed"]


@backends
def test_a_cancelled_serve_connection_drops_the_client(backend: str) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            with anyio.move_on_after(0.1) as scope:
                await serve_connection(ours, **QUIET)
            assert scope.cancelled_caught
            assert theirs.recv(1000) == b"220 mx.test ESMTP\r\n"
            assert theirs.recv(1000) == b""

    anyio.run(main, backend=backend)
