# Faults around a connection cost that connection at most: its admission, a cancelled server, a listener
# that hangs, a look-up in a thread.

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest
import uvloop

from smtpproto_anyio import SMTPServer
from smtpproto_asyncio import SMTPServer as OnAsyncio
from smtpproto_blocking import SMTPServer as OnBlocking
from smtpproto_gevent._server import Connection as Greenlet
from smtpproto_kit import DEADLINE, running, wait_until
from smtpproto_kit._runtimes import runtime_named
from smtpproto_server.adapting import SocketDriver

if TYPE_CHECKING:
    from collections.abc import Callable

ALL = pytest.mark.parametrize("runtime", ["asyncio", "uvloop", "anyio", "trio", "gevent", "blocking"])


@ALL
def test_a_connection_that_cannot_be_made_is_reported_and_closed_and_the_next_one_is_served(
    runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(runtime) as server:
        questions = server.server._questions

        def fail_once() -> Any:
            monkeypatch.setattr(server.server, "_questions", questions)
            raise ValueError("once")

        monkeypatch.setattr(server.server, "_questions", fail_once)
        with server.client() as client:
            assert client.replies() == []
        assert [(info["stage"], str(error)) for error, info in server.errors] == [("accept", "once")]
        with server.client() as client:
            assert client.reply() == "220 mx.test ESMTP"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("hook", [False, True])
@pytest.mark.parametrize("closing", [False, True])
def test_cancelling_the_scope_around_a_server_raises_nothing_and_reports_nothing(
    backend: str, *, hook: bool, closing: bool
) -> None:
    closed: list[bool] = []
    errors: list[BaseException] = []

    async def on_mail_from(*_: object) -> None:
        await anyio.lowlevel.checkpoint()

    async def on_close(*_: object) -> None:
        await anyio.lowlevel.checkpoint()
        closed.append(True)

    def on_error(error: BaseException, _info: object) -> None:
        errors.append(error)

    async def main() -> None:
        server = SMTPServer(
            name="mx.test", disable_reverse_lookup=True, auth_optional=True,
            on_mail_from=on_mail_from if hook else None, on_close=on_close if closing else None,
        )  # fmt: skip
        server.on("error", on_error)
        with anyio.CancelScope() as scope:
            async with server:
                await server.listen(0, "127.0.0.1")
                address = server.address()
                assert isinstance(address, tuple)
                async with await anyio.connect_tcp(*address) as client:
                    octets = b""
                    await client.send(b"EHLO a\r\nMAIL FROM:<a@b.example>\r\n")
                    while b"Accepted" not in octets:
                        octets += await client.receive()
                    scope.cancel()
                    await anyio.sleep_forever()
        assert not server.peers

    anyio.run(main, backend=backend)
    assert (closed, errors) == ([True] * closing, [])


def test_blocking_calls_on_connect_when_the_look_up_has_ended_and_not_when_its_time_is_over() -> None:
    class Resolver:
        def reverse(self, _ip: str) -> list[str]:
            return ["client.test"]

    def on_connect(*_: object) -> None:
        return None

    options: dict[str, Any] = {"disable_reverse_lookup": False, "reverse_lookup_timeout": 10 * DEADLINE}
    with running("blocking", resolver=Resolver(), on_connect=on_connect, **options) as server:
        for _ in range(5):
            with server.client() as client:  # it waits for DEADLINE at the most
                assert client.reply() == "220 mx.test ESMTP"


def test_blocking_closes_although_a_listener_hangs_with_the_connection() -> None:
    hangs, release = threading.Event(), threading.Event()

    def connect(_session: object) -> None:
        hangs.set()
        release.wait()

    with running("blocking", close_timeout=0.1) as server:
        server.server.on("connect", connect)
        client = server.client()
        try:
            wait_until(hangs.is_set)
            closes: Callable[[], None] = server.server.close
            closing = threading.Thread(target=closes, daemon=True)
            closing.start()
            closing.join(DEADLINE)
            assert not closing.is_alive()
        finally:
            release.set()
            client.close()


@pytest.mark.parametrize("runtime", ["asyncio", "uvloop", "anyio", "trio", "blocking"])
def test_hooks_that_hang_for_ever_keep_no_threads_from_others(runtime: str) -> None:
    hang = threading.Event()

    def on_mail_from(address: Any, _session: object) -> None:
        if address.local == "hangs":
            hang.wait()

    limits: dict[str, Any] = {
        "hook_timeout": 0.2,
        "hook_threads": 2,
        "max_clients": 2,
        "sync_hooks": "thread",
    }
    if runtime == "blocking":
        del limits["hook_threads"], limits["sync_hooks"]  # its threads are those of connections
    with running(runtime, on_mail_from=on_mail_from, **limits) as server, server.client().greeted() as client:
        try:
            for _ in range(6):  # more than there are threads
                assert client.say("MAIL FROM:<hangs@x.test>").startswith("451 ")
            wait_until(lambda: client.say("MAIL FROM:<a@x.test>").startswith("250 "))
        finally:
            hang.set()


@pytest.mark.parametrize("closes", [True, False])
@pytest.mark.parametrize("runtime", ["asyncio", "uvloop"])
def test_a_server_object_may_be_used_in_one_loop_after_the_other(runtime: str, *, closes: bool) -> None:
    server = OnAsyncio(name="mx.test", disable_reverse_lookup=True)

    async def main(*, closes: bool) -> bytes:
        await server.listen(0, "127.0.0.1")
        waiting = asyncio.create_task(server.wait_closed())
        address = server.address()
        assert isinstance(address, tuple)
        reader, writer = await asyncio.open_connection(*address)
        greeting = await reader.readline()
        writer.close()
        if closes:
            await server.close()
            await waiting
        return greeting

    for closing in (closes, True):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop if runtime == "uvloop" else None) as runner:
            assert runner.run(main(closes=closing)) == b"220 mx.test ESMTP\r\n"


@ALL
@pytest.mark.parametrize("octets", [b"NOO", b"x" * 100_000])
def test_a_reset_that_comes_with_octets_ends_the_connection(runtime: str, octets: bytes) -> None:
    """Libuv reports the error of a socket once, and together with octets that came before it."""
    closed: list[object] = []

    def on_close(session: object) -> Any:
        closed.append(session)
        yield None

    with running(runtime, on_close=on_close) as server, server.client() as client:
        assert client.reply() == "220 mx.test ESMTP"
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.send(octets)
        client.sock.close()
        wait_until(lambda: len(closed) == 1)
        wait_until(lambda: not server.server.peers)


@ALL
@pytest.mark.parametrize("waits", ["hook under TLS", "look-up"])
def test_the_end_of_the_input_is_read_once_while_something_else_is_waited_for(
    runtime: str, waits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The socket stays readable then, and under TLS the engine does not know yet."""
    made, let_go = runtime_named(runtime), threading.Event()
    reads: list[bool] = []
    readable = SocketDriver.readable

    def counted(driver: SocketDriver) -> bool:
        if counting:
            reads.append(driver.read_all)
        return readable(driver)

    def wait(*_: object) -> Any:
        while not let_go.is_set():
            yield made.pause(0.01)

    class Names:
        def reverse(self, _ip: str) -> list[str]:
            let_go.wait(DEADLINE)
            return []

    counting = False
    monkeypatch.setattr(SocketDriver, "readable", counted)
    how: dict[str, Any] = {"on_mail_from": wait}
    if waits == "look-up":
        how = {"resolver": Names(), "disable_reverse_lookup": False}
    with running(made, **how) as server, server.client() as client:
        if waits == "look-up":
            wait_until(lambda: any(peer.hook is not None for peer in server.server.peers.copy()))
        else:
            client.greeted()
            client.say("STARTTLS")
            client.start_tls()
            client.send(b"EHLO a\r\nMAIL FROM:<a@x.test>\r\n")
            wait_until(lambda: any(peer.hook is not None for peer in server.server.peers.copy()))
        counting = True
        socket.socket.shutdown(client.sock, socket.SHUT_WR)
        for _ in range(20):  # the server has time to read more than once
            with socket.create_connection(client.sock.getpeername()):
                pass
        let_go.set()
        client.rest()
        wait_until(lambda: not server.server.peers)
    assert reads.count(True) <= 1


def test_a_blocking_server_that_a_signal_closes_before_it_serves_a_connection_closes_it() -> None:
    server = OnBlocking(name="mx.test")
    prepare = server.prepare

    def interrupted() -> None:
        server.close()  # as a signal handler would
        prepare()

    server.prepare = interrupted  # type: ignore[method-assign]
    ours, theirs = socket.socketpair()
    with theirs:
        server.serve_connection(ours)
        assert theirs.recv(100) == b""
    server.wait_closed()


@pytest.mark.parametrize("runtime", ["asyncio", "uvloop"])
def test_a_handed_in_socket_that_its_owner_closes_is_counted_out(runtime: str) -> None:
    server = OnAsyncio(name="mx.test", disable_reverse_lookup=True, close_timeout=0.0)

    async def main() -> None:
        ours, theirs = socket.socketpair()
        serving = asyncio.create_task(server.serve_connection(ours))
        reader, writer = await asyncio.open_connection(sock=theirs)
        assert await reader.readline() == b"220 mx.test ESMTP\r\n"
        ours.close()
        writer.close()
        await server.close()
        await asyncio.wait_for(serving, DEADLINE)
        assert server.counts == {False: 0, True: 0}
        assert not server.peers

    with asyncio.Runner(loop_factory=uvloop.new_event_loop if runtime == "uvloop" else None) as runner:
        runner.run(main())


def test_a_greenlet_that_is_killed_before_its_first_step_leaves_no_connection_behind() -> None:
    class Killed(Greenlet):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.greenlet.kill(block=False)

    with running("gevent") as server:
        server.server.driver = Killed
        with server.client() as client:
            assert client.replies() == []
        wait_until(lambda: not server.server.peers)
        assert server.server.counts == {False: 0, True: 0}
        del server.server.driver
        with server.client() as client:
            assert client.reply() == "220 mx.test ESMTP"
