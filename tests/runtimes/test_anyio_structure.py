# What users of structured concurrency expect of a server: a task group that holds it, a status that
# says when it is bound, and a cancellation that nobody swallows.

from __future__ import annotations

import socket
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.lowlevel
import pytest
from anyio import to_thread

from smtpproto import Reject
from smtpproto_anyio import SMTPServer, serve, serve_connection
from smtpproto_kit import DATA, DEADLINE, Client, wait_until

if TYPE_CHECKING:
    from smtpproto import Address, Session
    from smtpproto_server import AsyncStream

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
def test_a_session_of_a_loop_that_has_ended_is_over(backend: str) -> None:
    server = SMTPServer(**QUIET)

    async def main() -> Session:
        async with server:
            await server.listen(0, "127.0.0.1")
            client = await to_thread.run_sync(lambda: Client(port_of(server)).greeted())
            (session,) = server.sessions
            client.close()
        return session

    session, ended = anyio.run(main, backend=backend), list[bool]()
    thread = threading.Thread(target=lambda: ended.append(server.disconnect(session)))
    thread.start()
    thread.join(DEADLINE)
    assert ended == [False]


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
        assert not server.sessions
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


@backends
def test_what_a_hook_enters_is_its_own_whether_it_waits_or_not(backend: str) -> None:
    async def on_mail_from(address: Address, _session: object) -> None:
        if address.address == "hangs@x":
            await anyio.sleep_forever()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep, 0)
            with anyio.move_on_after(0.001 if address.address == "waits@x" else 60) as scope:
                await (anyio.sleep_forever() if address.address == "waits@x" else anyio.lowlevel.checkpoint())
            assert scope.cancelled_caught is (address.address == "waits@x")

    async def main() -> None:
        async with SMTPServer(**QUIET, on_mail_from=on_mail_from, hook_timeout=0.2) as server:
            await server.listen(0, "127.0.0.1")

            def converse() -> list[str]:
                with Client(port_of(server)).greeted() as client:
                    senders = ("a@x", "waits@x", "hangs@x", "b@x", "hangs@x", "waits@x")
                    return [
                        client.say(f"MAIL FROM:<{each}>")[:3] + client.say("RSET")[:3] for each in senders
                    ]

            assert await to_thread.run_sync(converse) == [
                "250250", "250250", "451250", "250250", "451250", "250250",
            ]  # fmt: skip

    anyio.run(main, backend=backend)


@backends
def test_a_hook_may_set_a_time_limit_around_the_message(backend: str) -> None:
    tired = threading.Event()

    async def on_data(stream: AsyncStream, _session: object) -> Reject | None:
        try:
            with anyio.fail_after(60 if tired.is_set() else 0.01):
                async for _ in stream:
                    pass
        except TimeoutError:
            tired.set()
            return Reject(451, text="too slow for me")
        return None

    def converse(port: int) -> list[str]:
        with Client(port).greeted() as client:
            client.send(DATA)
            replies = [client.reply() for _ in range(3)]
            assert tired.wait(DEADLINE)
            client.send(b"late\r\n.\r\n" + DATA + b"again\r\n.\r\n")
            return [reply[:3] for reply in (*replies, *(client.reply() for _ in range(5)))]

    async def main() -> None:
        async with SMTPServer(**QUIET, on_data=on_data) as server:
            await server.listen(0, "127.0.0.1")
            replies = await to_thread.run_sync(converse, port_of(server))
            assert replies == ["250", "250", "354", "451", "250", "250", "354", "250"]

    anyio.run(main, backend=backend)


@backends
def test_a_cancelled_server_tells_a_hook_that_reads(backend: str) -> None:
    seen: list[str] = []

    async def on_data(stream: AsyncStream, _session: object) -> None:
        try:
            seen.append((await stream.read(6)).decode())
            await stream.read()
        except anyio.get_cancelled_exc_class():
            seen.append("cancelled")
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
                seen.append("done")
            raise

    def begin(client: Client) -> None:
        client.send(DATA)
        assert [client.reply()[:3] for _ in range(3)] == ["250", "250", "354"]
        client.send(b"begun\r")
        wait_until(lambda: seen)

    async def main() -> None:
        clients: list[Client] = []
        with anyio.CancelScope() as scope:
            async with SMTPServer(**QUIET, on_data=on_data) as server:
                await server.listen(0, "127.0.0.1")
                clients.append(await to_thread.run_sync(lambda: Client(port_of(server)).greeted()))
                await to_thread.run_sync(begin, clients[0])
                scope.cancel()
        assert clients[0].rest() == b""
        clients[0].close()

    anyio.run(main, backend=backend)
    assert seen == ["begun", "cancelled", "done"]


@backends
@pytest.mark.parametrize("size", [100_000, 150_000, 300_000])
def test_a_hook_that_waits_between_two_waits_for_its_message_has_a_time_limit(
    backend: str, size: int
) -> None:
    """Whoever looks after it is on the way out when it waits again, for the message was there already."""

    async def on_data(stream: AsyncStream, _session: object) -> None:
        await anyio.sleep(0.05)  # the message comes meanwhile
        await stream.read()
        await anyio.sleep(DEADLINE)

    def deliver(port: int) -> str:
        with Client(port).greeted() as client:
            client.send(DATA)
            assert [client.reply()[:3] for _ in range(3)] == ["250", "250", "354"]
            client.send(b"x" * size + b"\r\n.\r\n")
            return client.reply()[:3]

    async def main() -> None:
        async with SMTPServer(**QUIET, on_data=on_data, hook_timeout=0.3) as server:
            await server.listen(0, "127.0.0.1")
            assert await to_thread.run_sync(deliver, port_of(server)) == "451"

    anyio.run(main, backend=backend)


@backends
def test_connections_served_without_async_with_have_their_time_limits(backend: str) -> None:
    ours: list[socket.socket] = []

    async def main() -> None:
        server = SMTPServer(**QUIET, socket_timeout=0.2)
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                mine, its = socket.socketpair()
                ours.append(mine)
                tasks.start_soon(server.serve_connection, its)
        await server.close()

    anyio.run(main, backend=backend)
    for each in ours:
        with each:
            each.settimeout(DEADLINE)
            assert b"421" in b"".join(iter(partial(each.recv, 1000), b""))
