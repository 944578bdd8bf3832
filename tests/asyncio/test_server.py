# The server object: where it listens, whom it counts, and what it tells.

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from running import DEADLINE, RUNTIMES, Client, new_loop, running, wait_until
from smtpproto import ConfigurationError
from smtpproto_asyncio import SMTPServer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from pathlib import Path

    from smtpproto import Session

runtimes = pytest.mark.parametrize("runtime", RUNTIMES)
GREETING = "220 mx.test ESMTP"
FULL = "421 mx.test Too many connected clients, try again in a moment"


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


async def in_thread(call: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, call)


@contextlib.contextmanager
def pair() -> Generator[tuple[socket.socket, Client]]:
    """A connected socket and a client at its other end."""
    ours, theirs = socket.socketpair()
    client = Client.__new__(Client)
    client.sock, client.buffer = theirs, b""
    theirs.settimeout(DEADLINE)
    with client, ours:
        yield ours, client


def into(heard: list[str], what: str) -> Callable[..., None]:
    """A listener that notes that it was called."""

    def listener(*_: object) -> None:
        heard.append(what)

    return listener


def quit_at(port: int, host: str = "127.0.0.1") -> str:
    """Connect, be greeted, quit; the greeting."""
    with socket.create_connection((host, port), DEADLINE) as sock:
        greeting = sock.recv(1000).decode().strip()
        sock.sendall(b"QUIT\r\n")
        while sock.recv(1000):
            pass
    return greeting


# --- listen -----------------------------------------------------------------------------------------


@runtimes
def test_no_host_is_every_interface_on_one_port(runtime: str) -> None:
    async def main() -> None:
        server = server_with()
        heard: list[object] = []
        server.on("listening", heard.append)
        assert server.address() is None
        assert server.addresses() == []
        async with server:
            assert await server.listen() is server
            first = server.address()
            assert isinstance(first, tuple)
            assert first[1] != 0
            assert heard == [first]
            for address in server.addresses():
                assert address[1] == first[1]
                host = {"::": "::1"}.get(str(address[0]), "127.0.0.1")
                assert await in_thread(lambda host=host: quit_at(first[1], host)) == GREETING
        assert server.address() is None
        assert server.addresses() == []

    play(runtime, main())


@runtimes
def test_a_unix_socket_is_listened_on_and_its_clients_have_no_address(runtime: str, tmp_path: Path) -> None:
    sessions: list[tuple[object, ...]] = []

    async def on_connect(session: Session) -> None:
        sessions.append((
            session.remote_address, session.remote_port, session.local_address, session.client_hostname
        ))  # fmt: skip

    def talk(path: str) -> None:
        with Client(path=path) as client:
            client.greeted()

    async def main() -> None:
        path = str(tmp_path / "mx")
        server = SMTPServer(name="mx.test", on_connect=on_connect)
        for _ in range(2):  # the second time over the socket that the first one left
            await server.listen(path=path)
            assert server.address() == path
            await in_thread(lambda: talk(path))
            await server.close()

    play(runtime, main())
    assert sessions == [("", 0, "", "[local]")] * 2


@runtimes
def test_a_bound_socket_is_listened_on(runtime: str) -> None:
    async def main() -> None:
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        async with server_with() as server:
            await server.listen(sock=sock)
            assert server.address() == ("127.0.0.1", port)
            assert await in_thread(lambda: quit_at(port)) == GREETING
        assert sock.fileno() == -1

    play(runtime, main())


@runtimes
def test_there_may_be_several_listeners(runtime: str, tmp_path: Path) -> None:
    async def main() -> None:
        path = str(tmp_path / "mx")
        async with server_with() as server:
            await server.listen(0, "127.0.0.1")
            await server.listen(path=path)
            await server.listen(0, "127.0.0.2")
            addresses = server.addresses()
            assert server.address() == addresses[0]
            assert [addresses[0][0], addresses[1], addresses[2][0]] == ["127.0.0.1", path, "127.0.0.2"]
            assert await in_thread(lambda: quit_at(int(addresses[2][1]), "127.0.0.2")) == GREETING

    play(runtime, main())


@runtimes
def test_listen_that_fails_raises_and_leaves_the_server_as_it_was(runtime: str, tmp_path: Path) -> None:
    async def main() -> None:
        heard: list[object] = []
        async with server_with().on("listening", heard.append).on("error", heard.append) as server:
            with socket.socket() as taken:
                taken.bind(("127.0.0.1", 0))
                taken.listen()
                with pytest.raises(OSError, match="in use"):
                    await server.listen(taken.getsockname()[1], "127.0.0.1")
            with pytest.raises(OSError, match=r"."):
                await server.listen(path=str(tmp_path / "no" / "such" / "directory"))
            with pytest.raises(OSError, match=r"."):
                await server.listen(0, "no.such.host.invalid")
            assert heard == []
            assert server.addresses() == []
            await server.listen(0, "127.0.0.1")
            assert len(heard) == 1

    play(runtime, main())


@runtimes
def test_options_that_do_not_go_together_are_found_by_listen(runtime: str) -> None:
    async def main() -> None:
        with pytest.raises(ConfigurationError):
            await SMTPServer(key="no key").listen(0, "127.0.0.1")

    play(runtime, main())


@runtimes
def test_a_server_listens_again_after_close_as_a_new_one_does(runtime: str) -> None:
    server, heard = server_with(), list[str]()
    server.on("close", into(heard, "close")).on("listening", into(heard, "listening"))

    async def main() -> None:
        for _ in range(2):
            await server.listen(0, "127.0.0.1")
            address = server.address()
            assert isinstance(address, tuple)
            assert await in_thread(partial(quit_at, address[1])) == GREETING
            await server.close()
            await server.close()

    play(runtime, main())
    play(runtime, main())  # in another loop, too
    assert heard == ["listening", "close"] * 4


@runtimes
def test_listen_during_close_waits_for_its_end(runtime: str) -> None:
    async def main() -> None:
        heard: list[str] = []
        server = server_with().on("close", into(heard, "close"))
        server.on("listening", into(heard, "listening"))
        await server.listen(0, "127.0.0.1")
        closing = asyncio.create_task(server.close())
        await asyncio.sleep(0)
        await server.listen(0, "127.0.0.1")
        await closing
        assert heard == ["listening", "close", "listening"]
        await server.close()

    play(runtime, main())


@runtimes
def test_what_cannot_be_accepted_for_want_of_descriptors_is_an_error_and_accepted_later(runtime: str) -> None:
    faults = [errno.EMFILE, errno.ECONNABORTED]

    class Short(socket.socket):
        def accept(self) -> Any:
            if faults:
                number = faults.pop(0)
                raise OSError(number, "no")
            return super().accept()

    with running(runtime) as server:
        sock = Short(socket.AF_INET)
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        server.call(lambda: server.server.listen(sock=sock))
        with Client(port) as client:
            wait_until(lambda: server.errors)
            ((error, info),) = server.errors
            assert isinstance(error, OSError)
            assert error.errno == errno.EMFILE
            assert info == {"stage": "accept", "session": None, "remote_address": ""}
            assert client.reply() == GREETING


@runtimes
def test_a_server_closes_while_it_is_short_of_descriptors(runtime: str) -> None:
    class Short(socket.socket):
        def accept(self) -> Any:
            raise OSError(errno.EMFILE, "no")

    with running(runtime) as server:
        sock = Short(socket.AF_INET)
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        server.call(lambda: server.server.listen(sock=sock))
        with Client(port):
            wait_until(lambda: server.errors)
            server.close()


# --- serve_connection -------------------------------------------------------------------------------


@runtimes
def test_a_connected_socket_is_served_without_listening(runtime: str) -> None:
    seen: list[tuple[object, ...]] = []

    async def on_connect(session: Session) -> None:
        seen.append((
            session.id, session.local_address, session.local_port, session.remote_address,
            session.remote_port, session.client_hostname,
        ))  # fmt: skip

    async def main() -> None:
        server = server_with(on_connect=on_connect)
        with pair() as (ours, client):
            talk = asyncio.create_task(in_thread(lambda: client.greeted().say("QUIT")))
            await server.serve_connection(
                ours, id="mine", local_address="192.0.2.25", local_port=26,
                remote_address="::FFFF:198.51.100.1", remote_port=27,
            )  # fmt: skip
            assert await talk == "221 Bye"
        assert ours.fileno() == -1
        assert not server.connections
        with socket.create_server(("127.0.0.1", 0)) as listener:
            theirs = socket.create_connection(listener.getsockname())
            ours, _ = listener.accept()
            task = asyncio.create_task(server.serve_connection(ours, remote_address="198.51.100.2"))
            await in_thread(lambda: theirs.recv(100))
            port = theirs.getsockname()[1]
            theirs.close()
            await task
        assert seen[0] == ("mine", "192.0.2.25", 26, "198.51.100.1", 27, "[198.51.100.1]")
        assert seen[1][3:] == ("198.51.100.2", port, "[198.51.100.2]")

    play(runtime, main())


@runtimes
def test_a_connection_that_is_served_is_counted_and_closed_like_any_other(runtime: str) -> None:
    async def main() -> None:
        server = server_with(max_clients=1)
        with pair() as (ours, client), pair() as (other, surplus):
            first = asyncio.create_task(server.serve_connection(ours))
            assert await in_thread(client.reply) == GREETING
            assert len(server.connections) == 1
            second = asyncio.create_task(server.serve_connection(other))
            assert await in_thread(surplus.reply) == FULL
            await in_thread(surplus.rest)
            surplus.close()
            await second
            closing = asyncio.create_task(server.close())
            assert (await in_thread(client.reply)).startswith("421 ")
            client.close()
            await asyncio.gather(closing, first)
        assert not server.connections
        with pair() as (ours, client):  # and once more, without listen in between
            first = asyncio.create_task(server.serve_connection(ours))
            assert await in_thread(client.reply) == GREETING
            closing = asyncio.create_task(server.close())
            assert (await in_thread(client.reply)).startswith("421 ")
            client.close()
            await asyncio.gather(closing, first)

    play(runtime, main())


@runtimes
@pytest.mark.parametrize("where", ["idle", "hook", "message"])
def test_serving_that_is_cancelled_ends_the_connection_and_calls_on_close(runtime: str, where: str) -> None:
    seen: list[str] = []

    async def hang(*_: object) -> None:
        seen.append("called")
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("cancelled")

    async def on_data(stream: Any, _session: object) -> None:
        seen.append("called")
        try:
            await stream.read()
        finally:
            seen.append("cancelled")

    async def on_close(_session: object) -> None:
        seen.append("closed")

    async def main() -> None:
        hooks = {"on_helo": hang} if where == "hook" else {}
        server = server_with(on_data=on_data, on_close=on_close, **hooks)
        with pair() as (ours, client):
            task = asyncio.create_task(server.serve_connection(ours))
            assert await in_thread(client.reply) == GREETING
            if where != "idle":
                client.send(b"EHLO a\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nDATA\r\n")
                await in_thread(lambda: wait_until(lambda: seen))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await in_thread(client.rest)
        assert seen == (["closed"] if where == "idle" else ["called", "cancelled", "closed"])
        assert not server.connections
        assert not server.peers

    play(runtime, main())


@runtimes
def test_a_socket_that_is_dead_already_is_no_accident(runtime: str) -> None:
    async def main() -> None:
        server = server_with()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            theirs = socket.create_connection(listener.getsockname())
            ours, _ = listener.accept()
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            theirs.close()
            await server.serve_connection(ours)
        assert not server.connections
        ours, theirs = socket.socketpair()
        theirs.close()
        await server.serve_connection(ours)
        assert not server.connections

    play(runtime, main())


# --- events and the set of sessions -----------------------------------------------------------------


@runtimes
def test_connect_tells_who_is_there_and_connections_holds_the_sessions(runtime: str) -> None:
    with running(runtime) as server:
        with server.client().greeted() as first, server.client().greeted():
            (one, two) = server.server.connections
            assert {info["id"] for info in server.connects} == {one.id, two.id}
            info = server.connects[0]
            assert info["remote_address"] == info["local_address"] == "127.0.0.1"
            assert info["local_port"] == server.port
            assert info["client_hostname"] == "[127.0.0.1]"
            assert first.say("QUIT") == "221 2.0.0 Bye"
            assert first.rest() == b""
            wait_until(lambda: len(server.server.connections) == 1)
        wait_until(lambda: not server.server.connections)


@runtimes
def test_once_and_off(runtime: str) -> None:
    async def main() -> None:
        heard: list[str] = []

        def always(_: object) -> None:
            heard.append("always")

        server = server_with().on("listening", always).once("listening", into(heard, "once"))
        for _ in range(2):
            await server.listen(0, "127.0.0.1")
        server.off("listening", always)
        await server.listen(0, "127.0.0.1")
        await server.close()
        assert heard == ["always", "once", "always"]

    play(runtime, main())


@runtimes
@pytest.mark.parametrize("secure", [False, True])
def test_max_clients_are_served_and_the_others_told(runtime: str, secure: bool) -> None:
    closed: list[Session] = []

    async def on_connect(session: Session) -> None:
        assert session not in closed

    async def on_close(session: Session) -> None:
        closed.append(session)

    hooks: dict[str, Any] = {"on_connect": on_connect, "on_close": on_close}
    with running(runtime, max_clients=2, secure=secure, **hooks) as server:
        with server.client(tls=secure).greeted(), server.client(tls=secure).greeted() as second:
            for _ in range(3):
                with server.client(tls=secure) as surplus:
                    assert surplus.replies() == [FULL]
            wait_until(lambda: len(closed) == 3)
            assert second.say("QUIT") == "221 2.0.0 Bye"
            second.rest()
            wait_until(lambda: len(server.server.connections) == 1)
            with server.client(tls=secure).greeted():
                pass
        wait_until(lambda: len(closed) == 6)


@runtimes
def test_under_tls_only_so_many_refusals_are_pending(runtime: str) -> None:
    with running(runtime, max_clients=1, secure=True) as server, server.client(tls=True).greeted():
        with server.client() as pending:
            wait_until(lambda: len(server.server.connections) == 2)
            with server.client() as silent:
                assert silent.rest() == b""
            pending.start_tls()
            assert pending.replies() == [FULL]


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

    port: list[int] = []
    clients: list[Client] = []

    async def main() -> None:
        server = server_with(on_mail_from=on_mail_from, on_close=on_close)
        await server.listen(0, "127.0.0.1")
        address = server.address()
        assert isinstance(address, tuple)
        port.append(address[1])

        def talk() -> None:
            clients.append(Client(port[0]).greeted())
            clients.append(Client(port[0]).greeted())
            clients[0].send(b"MAIL FROM:<a@x>\r\n")
            assert stage.wait(DEADLINE)

        await in_thread(talk)
        for listener in server._listeners_open:
            listener.close()

    with asyncio.Runner(loop_factory=lambda: new_loop(runtime)) as runner:
        runner.run(main())
    assert sorted(seen) == ["cancelled", "closed", "closed"]
    for client in clients:
        assert client.rest() == b""
        client.close()
