# The stream on asyncio: a hook that does not read holds the client back, and whatever a hook does
# with its stream, no octet is lost, doubled or taken for the end.

from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from running import DATA, DEADLINE, RUNTIMES, Client, Running, running, wait_until
from smtpproto import Reject
from smtpproto_server import StreamAborted

if TYPE_CHECKING:
    from collections.abc import Callable

runtimes = pytest.mark.parametrize("runtime", RUNTIMES)
both = pytest.mark.parametrize("coloured", [True, False], ids=["coroutine", "plain"])
QUEUED = "250 2.6.0 OK: message queued"
LINE = b"x" * 70 + b"\r\n"
HELD = 64 * 1024 + 256 * 1024  # octets that may wait, and those of the read that passed the mark


class Gate:
    """What a hook waits for, in either colour."""

    def __init__(self) -> None:
        self.event = threading.Event()

    async def coroutine(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self.event.wait, DEADLINE)

    def plain(self) -> None:
        self.event.wait(DEADLINE)


def deliver(client: Client, body: bytes) -> str:
    """Send a message; its reply."""
    client.send(DATA + body + b".\r\n")
    return [client.reply() for _ in range(4)][3]


# --- flow control -----------------------------------------------------------------------------------


@runtimes
@both
@pytest.mark.parametrize("reads_first", [True, False])
def test_a_hook_that_does_not_read_blocks_the_client_and_memory_is_bounded(
    runtime: str, coloured: bool, reads_first: bool
) -> None:
    gate, got = Gate(), [0]

    async def on_data(stream: Any, _session: object) -> str:
        if reads_first:
            got[0] += len(await stream.read(1000))
        await gate.coroutine()
        async for chunk in stream:
            got[0] += len(chunk)
        return "got it"

    def on_data_plain(stream: Any, _session: object) -> str:
        if reads_first:
            got[0] += len(stream.read(1000))
        gate.plain()
        for chunk in stream:
            got[0] += len(chunk)
        return "got it"

    hook = on_data if coloured else on_data_plain
    with running(runtime, on_data=hook) as server, narrow(server).greeted() as client:
        client.send(DATA)
        assert [client.reply() for _ in range(3)][2].startswith("354 ")
        sent = client.fill(LINE)
        (peer,) = server.server.peers
        assert not peer._reading
        assert len(peer._inbox) <= HELD
        gate.event.set()
        client.send(LINE[sent % len(LINE) :] if sent % len(LINE) else b"")
        sent += -sent % len(LINE)
        client.send(LINE * 20_000 + b".\r\n")
        assert client.reply() == "250 2.6.0 got it"
        assert got[0] == sent + 20_000 * len(LINE)


def narrow(server: Running) -> Client:
    """A client of a listener whose connections have small buffers."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    sock.bind(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    server.call(lambda: server.server.listen(sock=sock))
    return Client(port)


@runtimes
def test_a_hook_that_runs_holds_commands_back_too(runtime: str) -> None:
    gate, line = Gate(), b"NOOP " + b"x" * 1000 + b"\r\n"

    async def on_mail_from(*_: object) -> None:
        await gate.coroutine()

    with running(runtime, on_mail_from=on_mail_from) as server, narrow(server).greeted() as client:
        client.send(b"MAIL FROM:<a@x>\r\n")
        sent = client.fill(line)
        (peer,) = server.server.peers
        assert len(peer._inbox) <= HELD
        gate.event.set()
        assert client.reply() == "250 2.1.0 Accepted"
        for _ in range(sent // len(line)):
            assert client.reply() == "250 2.0.0 OK"


# --- reading ----------------------------------------------------------------------------------------


@runtimes
@both
@pytest.mark.parametrize("n", [1, 1000, 10**6])
def test_read_n_gives_everything_in_pieces_of_at_most_n(runtime: str, coloured: bool, n: int) -> None:
    body = LINE * (30 if n == 1 else 3000)
    got = bytearray()

    async def on_data(stream: Any, _session: object) -> None:
        while piece := await stream.read(n):
            assert len(piece) <= n
            got.extend(piece)
        assert await stream.read() == await stream.read(5) == b""

    def on_data_plain(stream: Any, _session: object) -> None:
        while piece := stream.read(n):
            assert len(piece) <= n
            got.extend(piece)
        assert stream.read() == stream.read(5) == b""

    with running(runtime, on_data=on_data if coloured else on_data_plain) as server:
        with server.client().greeted() as client:
            assert deliver(client, body) == QUEUED
    assert got == body


@runtimes
@both
@pytest.mark.parametrize("reads", [0, 1])
def test_what_a_hook_leaves_is_read_and_dropped(runtime: str, coloured: bool, reads: int) -> None:
    answers: list[object] = [None, Reject(text="no"), RuntimeError("x"), "text"]
    replies = [
        QUEUED,
        "450 4.2.1 no",
        "451 4.3.0 Error: internal error, please try again later",
        "250 2.6.0 text",
    ]

    def answer() -> object:
        result = answers.pop(0)
        if isinstance(result, RuntimeError):
            raise result
        return result

    async def on_data(stream: Any, _session: object) -> object:
        for _ in range(reads):
            await stream.read(10)
        return answer()

    def on_data_plain(stream: Any, _session: object) -> object:
        for _ in range(reads):
            stream.read(10)
        return answer()

    with running(runtime, on_data=on_data if coloured else on_data_plain) as server:
        with server.client().greeted() as client:
            assert [deliver(client, LINE * 5000) for _ in range(4)] == replies
            assert client.say("NOOP") == "250 2.0.0 OK"


@runtimes
@both
def test_an_early_end_is_answered_only_behind_the_end_of_data(runtime: str, coloured: bool) -> None:
    returned = threading.Event()

    async def on_data(*_: object) -> None:
        returned.set()

    def on_data_plain(*_: object) -> None:
        returned.set()

    with running(runtime, on_data=on_data if coloured else on_data_plain) as server:
        with server.client().greeted() as client:
            client.send(DATA)
            assert [client.reply() for _ in range(3)][2].startswith("354 ")
            assert returned.wait(DEADLINE)
            client.send(LINE)
            client.sock.settimeout(0.1)
            with pytest.raises(TimeoutError):
                client.reply()
            client.sock.settimeout(DEADLINE)
            client.send(b".\r\n")
            assert client.reply() == QUEUED


# --- aborted ----------------------------------------------------------------------------------------


@runtimes
@both
@pytest.mark.parametrize("how", ["end", "close", "bare newline"])
def test_a_message_that_breaks_off_raises_and_is_not_accepted(runtime: str, coloured: bool, how: str) -> None:
    seen: list[object] = []

    async def on_data(stream: Any, _session: object) -> str:
        try:
            seen.append(await stream.read())
        except StreamAborted as aborted:
            seen.append(aborted.reason)
        with pytest.raises(StreamAborted):
            await stream.read(1)
        return "kept all the same"

    def on_data_plain(stream: Any, _session: object) -> str:
        try:
            seen.append(stream.read())
        except StreamAborted as aborted:
            seen.append(aborted.reason)
        with pytest.raises(StreamAborted):
            stream.read(1)
        return "kept all the same"

    with running(runtime, on_data=on_data if coloured else on_data_plain) as server:
        with server.client().greeted() as client:
            client.send(DATA)
            assert [client.reply() for _ in range(3)][2].startswith("354 ")
            if how == "bare newline":
                client.send(b"one\ntwo\r\n.\r\n")
                assert client.reply() == "550 5.6.0 Error: message contains bare newline characters"
            else:
                client.send(b"half a mess")
                if how == "end":
                    client.end()
                    assert client.rest() == b""
                else:
                    client.close()
            wait_until(lambda: seen)
            wait_until(lambda: how == "bare newline" or not server.server.connections)
    assert seen == [{"bare newline": "bare_newline"}.get(how, "connection_lost")]


@runtimes
def test_octets_that_came_before_the_loss_are_handed_out_first(runtime: str) -> None:
    gate, seen = Gate(), list[object]()

    async def on_data(stream: Any, _session: object) -> None:
        seen.append("called")
        await asyncio.shield(gate.coroutine())
        try:
            while True:
                seen.append(await stream.read(4))
        except StreamAborted as aborted:
            seen.append(aborted.reason)

    with running(runtime, on_data=on_data) as server, server.client().greeted() as client:
        client.send(DATA + b"one\r\n")
        wait_until(lambda: seen)
        client.end()
        gate.event.set()
        client.rest()
        wait_until(lambda: not server.server.connections)
    assert seen == ["called", b"one\r", b"\n", "connection_lost"]


# --- what a hook may do with its stream ------------------------------------------------------------------


@runtimes
@both
def test_a_stream_is_not_to_be_used_behind_its_hook(runtime: str, coloured: bool) -> None:
    streams: list[Any] = []

    async def on_data(stream: Any, _session: object) -> None:
        streams.append(stream)

    def on_data_plain(stream: Any, _session: object) -> None:
        streams.append(stream)

    with running(runtime, on_data=on_data if coloured else on_data_plain) as server:
        with server.client().greeted() as client:
            deliver(client, LINE)
            with pytest.raises(RuntimeError, match="on_data, which has returned"):
                server.call(streams[0].read) if coloured else streams[0].read()
            deliver(client, LINE)


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
def test_two_threads_do_not_read_at_once(runtime: str) -> None:
    errors: list[str] = []
    got: list[bytes] = []

    def on_data(stream: Any, _session: object) -> str:
        begun = threading.Event()

        def read() -> None:
            begun.set()
            try:
                got.append(stream.read(100))
            except RuntimeError as error:
                errors.append(str(error))

        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        return str(sum(map(len, got)) + len(stream.read()))

    with running(runtime, on_data=on_data) as server, server.client().greeted() as client:
        client.send(DATA)
        wait_until(lambda: errors)
        client.send(LINE * 10 + b".\r\n")
        assert [client.reply() for _ in range(4)][3] == f"250 2.6.0 {len(LINE) * 10}"
    assert errors == ["the stream is being read already"]


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
        wait_until(lambda: any(peer._paused for peer in server.server.peers))
        replies = [client.reply() for _ in range(3004)]
        wait_until(lambda: tries)
        client.send(b".\r\nQUIT\r\n")
        assert replies[-1].startswith("354 ") or client.reply().startswith("354 ")
        assert client.replies() == [QUEUED, "221 2.0.0 Bye"]
        client.close()


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
        (peer,) = server.server.peers
        peer.buffer_updated(0)  # the wait of the other task is over, and it has not run yet
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


@runtimes
def test_a_thread_that_reads_behind_its_hook_is_too_late(runtime: str) -> None:
    outcomes: list[object] = []
    threads: list[threading.Thread] = []

    def on_data(stream: Any, _session: object) -> None:
        def read() -> None:
            try:
                while chunk := stream.read(10):
                    outcomes.append(chunk)
                outcomes.append("the end")
            except RuntimeError as error:
                outcomes.append(str(error))

        threads.append(threading.Thread(target=read))
        threads[-1].start()

    with running(runtime, on_data=on_data) as server, server.client().greeted() as client:
        for _ in range(20):
            client.send(DATA)
            assert [client.reply() for _ in range(3)][2].startswith("354 ")
            client.send(LINE + b".\r\n")
            assert client.reply() == QUEUED
        for thread in threads:
            thread.join(DEADLINE)
            assert not thread.is_alive()
    ends = [each for each in outcomes if isinstance(each, str)]
    assert len(ends) == 20
    assert set(ends) <= {"the end", "the stream belongs to on_data, which has returned"}


@runtimes
@both
def test_facts_of_the_message_are_live(runtime: str, coloured: bool) -> None:
    facts: list[tuple[object, ...]] = []

    def look(stream: Any) -> None:
        refusal = stream.refusal and stream.refusal.code
        facts.append((stream.byte_length, stream.size_exceeded, stream.complete, refusal))

    async def on_data(stream: Any, _session: object) -> None:
        look(stream)
        await stream.read()
        look(stream)

    def on_data_plain(stream: Any, _session: object) -> None:
        look(stream)
        stream.read()
        look(stream)

    with running(runtime, on_data=on_data if coloured else on_data_plain, size=1000) as server:
        with server.client().greeted() as client:
            assert deliver(client, LINE) == QUEUED
            assert deliver(client, LINE * 100).startswith("552 5.3.4 ")
    assert facts == [
        (0, False, False, None),
        (72, False, True, None),
        (0, False, False, None),
        (7200, True, True, 552),
    ]


@runtimes
@both
def test_large_messages_arrive_exactly(runtime: str, coloured: bool) -> None:
    body = b"".join(b".%07d %s\r\n" % (i, b"x" * (i % 90)) for i in range(40_000))
    got: list[bytes] = []
    hook: Callable[..., Any]

    async def on_data(stream: Any, _session: object) -> None:
        got.append(await stream.read())

    def on_data_plain(stream: Any, _session: object) -> None:
        got.append(stream.read())

    hook = on_data if coloured else on_data_plain
    with running(runtime, on_data=hook) as server, server.client().greeted() as client:
        assert deliver(client, body.replace(b"\r\n.", b"\r\n..").replace(b".", b"..", 1)) == QUEUED
    assert got == [body]
