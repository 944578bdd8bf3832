# Faults that only asyncio has: tasks that somebody else cancels, loops that serve two, sockets that a loop
# watches. All else is in the kit (cases/test_faults.py, cases/test_floods.py).

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import sys
import threading
from typing import Any

import pytest

from running import DATA, DEADLINE, RUNTIMES, Client, Running, new_loop, running, wait_until
from runtimes.test_asyncio_server import play
from smtpproto_asyncio import Options, SMTPServer
from smtpproto_asyncio._server import Connection

runtimes = pytest.mark.parametrize("runtime", RUNTIMES)


def narrow(server: Running) -> Client:
    """A client with as small buffers as there are, on both sides."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    sock.bind(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    server.call(lambda: server.server.listen(sock=sock))
    client = Client.__new__(Client)
    client.buffer, client.sock = b"", socket.socket()
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    client.sock.settimeout(DEADLINE)
    client.sock.connect(("127.0.0.1", port))
    return client


@runtimes
@pytest.mark.parametrize("hooked", [True, False])
def test_a_peer_that_never_reads_is_not_read_from_for_ever(runtime: str, hooked: bool) -> None:
    async def on_vrfy(*_: object) -> None:
        await asyncio.sleep(0)

    hooks: dict[str, Any] = {"on_vrfy": on_vrfy} if hooked else {}
    with running(runtime, **hooks, close_timeout=0.0) as server, narrow(server).greeted() as client:
        line = b"VRFY " + b"x" * 500 + b"\r\n"
        sent = client.fill(line)
        peer: Any
        (peer,) = server.server.peers
        assert len(peer.buffer) + sum(map(len, peer.inbox)) <= 320 * 1024
        assert 0 < len(peer.rest) < 128 * 1024
        with server.client().greeted() as other:  # nobody else notices
            assert other.say("NOOP") == "250 2.0.0 OK"
        for _ in range(sent // len(line)):
            assert client.reply().startswith("252 ")


def test_two_servers_in_one_loop_do_not_mix() -> None:
    async def main() -> None:
        servers = [SMTPServer(Options(name=f"{name}.test", disable_reverse_lookup=True)) for name in "ab"]
        for server in servers:
            await server.listen(0, "127.0.0.1")
        for server, name in zip(servers, "ab", strict=True):
            address = server.address()
            assert isinstance(address, tuple)
            reader, writer = await asyncio.open_connection("127.0.0.1", address[1])
            assert await reader.readline() == f"220 {name}.test ESMTP\r\n".encode()
            assert bool(servers[0].sessions) == (name == "a")
            assert len(server.sessions) == 1
            await server.close()
            writer.close()
            await writer.wait_closed()

    asyncio.run(main())


@runtimes
def test_a_task_that_is_cancelled_from_outside_ends_its_connection_wherever_it_is(runtime: str) -> None:
    closed: list[object] = []
    hung, given_up = threading.Event(), threading.Event()

    async def on_mail_from(*_: object) -> None:
        hung.set()
        await asyncio.Event().wait()

    async def on_data(stream: Any, _session: object) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stream.read(), 0.01)
        given_up.set()

    async def on_close(session: object) -> None:
        closed.append(session)

    with running(runtime, on_data=on_data, on_close=on_close) as server:
        for where in ("idle", "hook", "drain"):
            server.server.on_mail_from = on_mail_from if where == "hook" else None
            with server.client().greeted() as client:
                if where != "idle":
                    client.send(DATA)
                    assert (hung if where == "hook" else given_up).wait(DEADLINE)
                peer: Any
                (peer,) = server.server.peers
                server.loop.call_soon_threadsafe(peer.task.cancel)
                client.rest()
                wait_until(lambda: not server.server.peers)
                assert peer.task.cancelled()
        assert len(closed) == 3
        assert server.server.counts[False] == 0


@runtimes
def test_a_client_that_has_reset_before_it_is_served_is_let_go(runtime: str) -> None:
    async def main() -> None:
        server = SMTPServer(Options(name="mx.test", disable_reverse_lookup=True))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            ours, _ = listener.accept()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            await asyncio.wait_for(server.serve_connection(ours), DEADLINE)
            assert ours.fileno() == -1
        assert not server.peers

    play(runtime, main())


@runtimes
def test_a_connection_that_comes_just_before_close_is_told(runtime: str) -> None:
    async def main() -> bytes:
        server = SMTPServer(Options(name="mx.test", disable_reverse_lookup=True))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname(), DEADLINE)
            ours, _ = listener.accept()

            def rest() -> bytes:
                return b"".join(iter(lambda: client.recv(1000), b""))

            serving = asyncio.create_task(server.serve_connection(ours))
            await asyncio.sleep(0)
            assert server.peers
            closing = asyncio.create_task(server.close())
            said = await asyncio.to_thread(rest)
            client.close()
            await asyncio.gather(serving, closing)
            return said

    loop = new_loop(runtime)
    try:
        assert loop.run_until_complete(main()).endswith(b"421 Server shutting down\r\n")
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


class Faulty(Connection):
    """Its engine fails whatever comes."""

    __slots__ = ()

    def advance(self) -> Any:
        raise KeyError("advance")


@runtimes
def test_a_fault_that_comes_twice_while_a_hook_reads_ends_the_connection(runtime: str) -> None:
    async def on_data(stream: Any, _session: object) -> None:
        await stream.read()

    async def main() -> None:
        server = SMTPServer(
            name="mx.test", disable_reverse_lookup=True, auth_optional=True, on_data=on_data
        )  # fmt: skip
        reports: list[str] = []

        def note(error: BaseException, info: dict[str, Any]) -> None:
            reports.append(f"{info['stage']} {error!r}")

        server.on("error", note)
        ours, theirs = socket.socketpair()
        serving = asyncio.create_task(server.serve_connection(ours))
        reader, writer = await asyncio.open_connection(sock=theirs)
        writer.write(b"EHLO a\r\n" + DATA)
        while not (await reader.readline()).startswith(b"354 "):
            pass
        (peer,) = server.peers
        peer.__class__ = Faulty
        writer.write(b"octets\r\n")
        await asyncio.wait_for(serving, DEADLINE)
        assert not server.peers
        assert set(reports) == {"socket KeyError('advance')"}
        writer.close()

    play(runtime, main())


@runtimes
def test_what_a_loop_raises_is_reported_and_ends_that_connection_only(
    runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_connection: Connection) -> None:
        monkeypatch.undo()
        raise OSError(errno.ENOSPC, "no watch is left")

    with running(runtime) as server:
        monkeypatch.setattr(Connection, "read_on", fail)
        with server.client() as client:
            assert client.replies() == []
        with server.client() as client:
            assert client.reply() == "220 mx.test ESMTP"
        ((error, info),) = server.errors
        assert (info["stage"], str(error)) == ("socket", f"[Errno {errno.ENOSPC}] no watch is left")


@pytest.mark.skipif(sys.version_info < (3, 12), reason="its loops have no eager tasks")
def test_with_eager_tasks_a_connection_is_served_like_any_other() -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009 - not in Python 3.11
        server = SMTPServer(name="mx.test", disable_reverse_lookup=True)
        await server.listen(0, "127.0.0.1")
        address = server.address()
        assert isinstance(address, tuple)
        reader, writer = await asyncio.open_connection(*address)
        assert await reader.readline() == b"220 mx.test ESMTP\r\n"
        writer.write(b"NOOP\r\n")
        assert await reader.readline() == b"250 OK\r\n"
        writer.close()
        await server.close()

    asyncio.run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="its loops have no eager tasks")
def test_a_hook_whose_eager_task_reads_for_it_has_a_time_limit() -> None:
    async def on_data(stream: Any, _session: object) -> None:
        await asyncio.create_task(stream.read())
        await asyncio.Event().wait()

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009 - not in Python 3.11
        server = SMTPServer(
            name="mx.test",
            disable_reverse_lookup=True,
            auth_optional=True,
            hook_timeout=0.05,
            on_data=on_data,
        )
        await server.listen(0, "127.0.0.1")
        address = server.address()
        assert isinstance(address, tuple)
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"EHLO a\r\n" + DATA + b".\r\n")
        async with asyncio.timeout(DEADLINE):
            while not (reply := await reader.readline()).startswith(b"451"):
                assert reply
        writer.close()
        await server.close()

    asyncio.run(main())


@runtimes
def test_octets_that_came_before_a_reset_are_taken_even_after_several_reads(
    runtime: str,
) -> None:
    text = (b"x" * 70 + b"\r\n") * 2000
    kept: list[bytes] = []

    async def on_data(stream: Any, _session: object) -> None:
        kept.append(await stream.read())

    async def on_close(_session: object) -> None:
        closed.set()

    async def main() -> None:
        server = SMTPServer(
            name="mx.test",
            disable_reverse_lookup=True,
            auth_optional=True,
            on_data=on_data,
            on_close=on_close,
        )
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * len(text))
        listener.bind(("127.0.0.1", 0))
        await server.listen(sock=listener)
        client = socket.create_connection(listener.getsockname(), DEADLINE)
        for line in (b"", b"EHLO a\r\n", *DATA.splitlines(keepends=True)):
            client.sendall(line)
            await asyncio.to_thread(client.recv, 4096)
        client.sendall(text + b".\r\n")  # the loop does not read meanwhile
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        await closed.wait()
        await server.close()

    closed = asyncio.Event()
    play(runtime, main())
    assert kept == [text]
