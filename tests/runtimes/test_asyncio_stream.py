# The stream on asyncio: what only its tasks can do with a stream, and what only its loops show.
# What holds for every runtime is in smtpproto_kit/cases/test_stream.py.

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import pytest

from running import DATA, DEADLINE, RUNTIMES, Client, Running, running, wait_until

runtimes = pytest.mark.parametrize("runtime", RUNTIMES)
QUEUED = "250 2.6.0 OK: message queued"
LINE = b"x" * 70 + b"\r\n"
HELD = 64 * 1024 + 256 * 1024  # octets that may wait, and those of the read that passed the mark


def only_peer(server: Running) -> Any:
    """The adapter's own connection, to be looked into."""
    (peer,) = server.server.peers
    return peer


@runtimes
def test_the_socket_is_left_alone_while_a_hook_does_not_read(runtime: str) -> None:
    gate = threading.Event()

    async def on_data(stream: Any, _session: object) -> None:
        await asyncio.get_running_loop().run_in_executor(None, gate.wait, DEADLINE)
        await stream.read()

    with running(runtime, on_data=on_data) as server, narrow(server).greeted() as client:
        client.send(DATA)
        assert [client.reply() for _ in range(3)][2].startswith("354 ")
        sent = client.fill(LINE)
        peer = only_peer(server)
        assert peer.held
        assert len(peer.buffer) <= HELD
        assert not peer.inbox
        gate.set()
        client.send(LINE[sent % len(LINE) :] + b".\r\n")
        assert client.reply() == QUEUED


def narrow(server: Running) -> Client:
    """A client of a listener whose connections have small buffers."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    sock.bind(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    server.call(lambda: server.server.listen(sock=sock))
    return Client(port)


@runtimes
@pytest.mark.parametrize("n", [-1, 7])
def test_a_read_that_times_out_and_is_repeated_loses_no_octet(runtime: str, n: int) -> None:
    got = bytearray()
    timeouts: list[int] = []

    async def on_data(stream: Any, _session: object) -> str:
        while True:
            try:
                piece = await asyncio.wait_for(stream.read(n), 0.005)
            except TimeoutError:
                timeouts.append(1)
                continue
            got.extend(piece)
            if not piece or n < 0:
                return "all of it"

    body = b"".join(b"%03d\r\n" % i for i in range(100))
    with running(runtime, on_data=on_data) as server, server.client().greeted() as client:
        client.send(DATA)
        assert [client.reply() for _ in range(3)][2].startswith("354 ")
        for at in range(0, len(body), 10):
            seen = len(timeouts)
            client.send(body[at : at + 10])
            if at % 50 == 0:
                wait_for_more(timeouts, seen)
        client.send(b".\r\n")
        assert client.reply() == "250 2.6.0 all of it"
    assert got == body
    assert len(timeouts) >= 10


def wait_for_more(events: list[int], than: int) -> None:
    wait_until(lambda: len(events) > than)


@runtimes
def test_a_read_that_is_given_up_is_taken_over_when_the_hook_returns(runtime: str) -> None:
    given_up = threading.Event()

    async def on_data(stream: Any, _session: object) -> str:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stream.read(10), 0.01)
        given_up.set()
        return "given up"

    with running(runtime, on_data=on_data) as server, server.client().greeted() as client:
        client.send(DATA)
        assert [client.reply() for _ in range(3)][2].startswith("354 ")
        assert given_up.wait(DEADLINE)
        client.send(LINE * 3 + b".\r\nNOOP\r\n")
        assert client.reply() == "250 2.6.0 given up"
        assert client.reply() == "250 2.0.0 OK"


@runtimes
def test_a_354_that_a_given_up_read_has_sent_is_not_sent_again(runtime: str) -> None:
    tries: list[int] = []

    async def on_data(stream: Any, _session: object) -> None:
        while True:
            try:
                await asyncio.wait_for(stream.read(), 0.01)
            except TimeoutError:
                tries.append(1)
            else:
                return

    with running(runtime, on_data=on_data) as server:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        server.call(lambda: server.server.listen(sock=sock))
        client = Client.__new__(Client)
        client.buffer, client.sock = b"", socket.socket()
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sock.settimeout(DEADLINE)
        client.sock.connect(("127.0.0.1", port))
        client.reply()
        client.send(b"EHLO a\r\n" + b"HELP\r\n" * 3000 + DATA)
        wait_until(lambda: only_peer(server).full)
        replies = [client.reply() for _ in range(3004)]
        wait_until(lambda: tries)
        client.send(b".\r\nQUIT\r\n")
        assert replies[-1].startswith("354 ") or client.reply().startswith("354 ")
        assert client.replies() == [QUEUED, "221 2.0.0 Bye"]
        client.close()


@runtimes
def test_two_tasks_do_not_read_at_once(runtime: str) -> None:
    errors: list[str] = []

    async def on_data(stream: Any, _session: object) -> str:
        first = asyncio.create_task(stream.read(100))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError) as raised:
            await stream.read(100)
        errors.append(str(raised.value))
        return str(len(await first) + len(await stream.read()))

    with running(runtime, on_data=on_data) as server, server.client().greeted() as client:
        client.send(DATA)
        wait_until(lambda: errors)
        client.send(LINE * 10 + b".\r\n")
        assert [client.reply() for _ in range(4)][3] == f"250 2.6.0 {len(LINE) * 10}"
    assert errors == ["the stream is being read already"]


@runtimes
@pytest.mark.parametrize("awaited", [True, False])
def test_a_second_task_may_read(runtime: str, awaited: bool) -> None:
    got: list[bytes] = []
    tasks: list[asyncio.Task[None]] = []

    async def on_data(stream: Any, _session: object) -> str:
        async def read() -> None:
            got.extend([chunk async for chunk in stream])

        tasks.append(asyncio.create_task(read()))
        if awaited:
            await tasks[-1]
        else:
            await asyncio.sleep(0)
            returning.set()
        return "done"

    returning = threading.Event()
    with running(runtime, on_data=on_data) as server, server.client().greeted() as client:
        for _ in range(3):
            client.send(DATA)
            assert [client.reply() for _ in range(3)][2].startswith("354 ")
            assert awaited or returning.wait(DEADLINE)
            returning.clear()
            client.send(LINE * 100 + b".\r\n")
            assert client.reply() == "250 2.6.0 done"
        wait_until(lambda: all(task.done() for task in tasks))
        if awaited:
            assert b"".join(got) == LINE * 300
        else:  # it was too late: told so, and not with the end of a message
            assert {type(task.exception()) for task in tasks} == {RuntimeError}


@runtimes
def test_a_second_task_that_still_reads_when_data_is_there_already_is_too_late(runtime: str) -> None:
    outcomes: list[object] = []

    async def on_data(stream: Any, _session: object) -> str:
        async def read() -> None:
            try:
                outcomes.append(await stream.read())
            except RuntimeError as error:
                outcomes.append(str(error))

        task = asyncio.create_task(read())
        await asyncio.sleep(0)
        only_peer(server).stream.wake_reader()  # the wait of the other task is over, and it has not run yet
        task.add_done_callback(lambda _: None)
        returning.release()
        return "done"

    returning = threading.Semaphore(0)
    with running(runtime, on_data=on_data) as server, server.client().greeted() as client:
        client.send(DATA)
        assert [client.reply() for _ in range(3)][2].startswith("354 ")
        assert returning.acquire(timeout=DEADLINE)
        client.send(LINE + b".\r\n" + DATA)
        assert client.reply() == "250 2.6.0 done"
        assert [client.reply() for _ in range(3)][2].startswith("354 ")
        assert returning.acquire(timeout=DEADLINE)
        client.send(LINE + b".\r\n")
        assert client.reply() == "250 2.6.0 done"
        wait_until(lambda: len(outcomes) == 2)
    assert outcomes == ["the stream belongs to on_data, which has returned"] * 2
