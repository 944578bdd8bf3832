# Faults that only asyncio has: tasks that somebody else cancels, loops that serve two, transports and
# what they hold. All else is in the kit (cases/test_faults.py, cases/test_floods.py).

from __future__ import annotations

import asyncio
import errno
import gc
import socket
import threading
from typing import Any

import pytest

from running import DATA, DEADLINE, RUNTIMES, Client, Running, new_loop, running, wait_until
from smtpproto_asyncio import Options, SMTPServer

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

    handler = type("Handler", (), {"on_vrfy": staticmethod(on_vrfy)} if hooked else {})()
    with running(runtime, handler=handler, close_timeout=0.0) as server, narrow(server).greeted() as client:
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
            assert bool(servers[0].connections) == (name == "a")
            assert len(server.connections) == 1
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


def test_a_socket_that_dies_before_it_is_served_is_closed() -> None:
    class Dead(socket.socket):
        def setsockopt(self, *_: Any) -> None:
            raise OSError(errno.EINVAL, "the peer was reset")

    async def main() -> None:
        server = SMTPServer(Options(name="mx.test"))
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            socket.create_connection(listener.getsockname()),
        ):
            ours, _ = listener.accept()
            dead = Dead(fileno=ours.detach())
            await server.serve_connection(dead)
            assert dead.fileno() == -1
        assert not server.peers

    asyncio.run(main())
    gc.collect()


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
