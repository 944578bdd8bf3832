# The server object in asyncio's own hands: loops that end, tasks that are cancelled. All else about it
# is in the kit (cases/test_server.py).

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from running import DATA, DEADLINE, RUNTIMES, Client, new_loop, wait_until
from smtpproto_asyncio import SMTPServer
from smtpproto_asyncio._server import Connection

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from smtpproto_server import AsyncStream

runtimes = pytest.mark.parametrize("runtime", RUNTIMES)
GREETING = "220 mx.test ESMTP"


def play(runtime: str, main: Coroutine[Any, Any, Any]) -> None:
    """Run a coroutine in a loop of its own, which must be left without tasks."""
    loop = new_loop(runtime)
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    try:
        loop.run_until_complete(asyncio.wait_for(main, DEADLINE))
        assert not asyncio.all_tasks(loop)
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
    assert not complaints


def server_with(**options: Any) -> SMTPServer:
    return SMTPServer(name="mx.test", auth_optional=True, disable_reverse_lookup=True, **options)


def port_of(server: SMTPServer) -> int:
    address = server.address()
    assert isinstance(address, tuple)
    return address[1]


@runtimes
def test_a_server_may_go_on_in_another_loop(runtime: str) -> None:
    server, heard = server_with(), list[object]()
    server.on("listening", heard.append).on("close", lambda: heard.append("close"))

    def talk(port: int) -> str:
        with Client(port) as client:
            return client.greeted().say("QUIT")

    async def main() -> None:
        await server.listen(0, "127.0.0.1")
        assert await asyncio.to_thread(talk, port_of(server)) == "221 Bye"
        await server.close()

    for _ in range(2):
        play(runtime, main())
    assert [each == "close" for each in heard] == [False, True] * 2


@runtimes
@pytest.mark.parametrize("where", ["idle", "hook", "message"])
def test_serving_that_is_cancelled_says_so_when_all_is_over(runtime: str, where: str) -> None:
    seen: list[str] = []

    def noted(wait: Callable[[Any], Any]) -> Any:
        async def hook(*args: Any) -> None:
            seen.append("called")
            try:
                await wait(args[0])
            finally:
                seen.append("cancelled")

        return hook

    async def on_close(_session: object) -> None:
        await asyncio.sleep(0.01)  # it may still wait
        seen.append("closed")

    hooks: dict[str, Any] = {"on_data": noted(lambda stream: stream.read()), "on_close": on_close}
    if where == "hook":
        hooks["on_helo"] = noted(lambda _: asyncio.sleep(3600))

    async def main() -> None:
        server = server_with(**hooks)
        ours, theirs = socket.socketpair()
        client = Client.__new__(Client)
        client.sock, client.buffer = theirs, b""
        with client:
            task = asyncio.create_task(server.serve_connection(ours))
            assert await asyncio.to_thread(client.reply) == GREETING
            if where != "idle":
                client.send(b"EHLO a\r\n" + DATA)
                await asyncio.to_thread(wait_until, lambda: seen)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not server.sessions
            assert not server.peers
            await asyncio.to_thread(client.rest)
        assert seen == (["closed"] if where == "idle" else ["called", "cancelled", "closed"])

    play(runtime, main())


@runtimes
def test_a_loop_that_ends_takes_its_connections_along_and_tells_the_application(runtime: str) -> None:
    seen: list[str] = []
    stage = threading.Event()

    async def on_mail_from(*_: object) -> None:
        stage.set()
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("cancelled")

    async def on_close(_session: object) -> None:
        seen.append("closed")

    clients: list[Client] = []

    async def main() -> None:
        server = server_with(on_mail_from=on_mail_from, on_close=on_close)
        await server.listen(0, "127.0.0.1")

        def talk() -> None:
            clients.extend(Client(port_of(server)).greeted() for _ in range(2))
            clients[0].send(b"MAIL FROM:<a@x>\r\n")
            assert stage.wait(DEADLINE)

        await asyncio.to_thread(talk)
        for listener in server.listeners:  # or the garbage collector would complain of them
            listener.close()

    with asyncio.Runner(loop_factory=lambda: new_loop(runtime)) as runner:
        runner.run(main())
    assert sorted(seen) == ["cancelled", "closed", "closed"]
    for client in clients:
        assert client.rest() == b""
        client.close()


@runtimes
def test_a_connection_that_has_ended_is_freed_without_the_garbage_collector(runtime: str) -> None:
    def connections() -> int:
        return sum(type(each) is Connection for each in gc.get_objects())

    def talk(port: int) -> None:
        for end in (b"QUIT\r\n", b""):
            with Client(port).greeted() as client:
                client.send(DATA + b"text\r\n.\r\n" + end)
                client.end()
                client.rest()

    async def on_data(stream: AsyncStream, _session: object) -> None:
        await stream.read()
        await asyncio.sleep(0)

    async def main() -> None:
        async with server_with(on_data=on_data) as server:
            await server.listen(0, "127.0.0.1")
            await asyncio.to_thread(talk, port_of(server))

    gc.collect()
    gc.disable()
    try:
        before = connections()
        play(runtime, main())
        assert connections() == before
    finally:
        gc.enable()
