# The stream: a hook that does not read holds the client back, and what it reads is the message.

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any, Final

import pytest

from smtpproto import Reject
from smtpproto_kit import DEADLINE, Client, Running, running, wait_until
from smtpproto_kit.cases._colours import (
    ERROR,
    LINE,
    QUEUED,
    Gate,
    begin,
    both,
    deliver,
    is_silent,
    native,
    replies,
)

if TYPE_CHECKING:
    from smtpproto_kit import Runtime
    from smtpproto_kit.cases._colours import Colour, Hook

HELD: Final = 64 * 1024 + 256 * 1024  # octets that may wait, and those of the read that passed the mark
NARROW: Final = 16 * 1024  # octets asked of the system for a socket's buffer; it takes a few times as many
IN_SOCKETS: Final = 16 * NARROW


# --- flow control -----------------------------------------------------------------------------------


def narrow(server: Running) -> Client:
    """A client of a listener whose connections have small buffers, and with small ones itself."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, NARROW)
    sock.bind(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    server.call(lambda: server.server.listen(sock=sock))
    client = Client(port)
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, NARROW)
    return client


@both
@pytest.mark.parametrize("reads_first", [True, False])
def test_a_hook_that_does_not_read_blocks_the_client_and_memory_is_bounded(
    runtime: Runtime, colour: Colour, reads_first: bool
) -> None:
    gate, got = Gate(runtime, colour), [0]

    def on_data(stream: Any, _session: object) -> Hook:
        if reads_first:
            got[0] += len((yield stream.read(1000)))
        yield from gate.passed()
        while chunk := (yield stream.read(65536)):
            got[0] += len(chunk)
        return "got it"

    with running(runtime, on_data=colour(on_data)) as server, narrow(server).greeted() as client:
        begin(client)
        sent = client.fill(LINE)
        assert sent <= HELD + IN_SOCKETS  # nobody can hold what was not sent
        gate.open()
        client.send(LINE[sent % len(LINE) :] if sent % len(LINE) else b"")
        sent += -sent % len(LINE)
        client.send(LINE * 20_000 + b".\r\n")
        assert client.reply() == "250 2.6.0 got it"
        assert got[0] == sent + 20_000 * len(LINE)


@both
def test_a_hook_that_runs_holds_commands_back_too(runtime: Runtime, colour: Colour) -> None:
    gate, line = Gate(runtime, colour), b"NOOP " + b"x" * 1000 + b"\r\n"

    def on_mail_from(*_: object) -> Hook:
        yield from gate.passed()

    with running(runtime, on_mail_from=colour(on_mail_from)) as server, narrow(server).greeted() as client:
        client.send(b"MAIL FROM:<a@x>\r\n")
        sent = client.fill(line)
        assert sent <= HELD + IN_SOCKETS
        gate.open()
        assert client.reply() == "250 2.1.0 Accepted"
        for _ in range(sent // len(line)):
            assert client.reply() == "250 2.0.0 OK"


@both
def test_a_hook_that_reads_slowly_slows_the_client_down(runtime: Runtime, colour: Colour) -> None:
    gates = [Gate(runtime, colour) for _ in range(3)]
    got = [0]

    def on_data(stream: Any, _session: object) -> Hook:
        for gate in gates:
            yield from gate.passed()
            for _ in range(100):
                got[0] += len((yield stream.read(1000)))
        while chunk := (yield stream.read(65536)):
            got[0] += len(chunk)

    with running(runtime, on_data=colour(on_data)) as server, narrow(server).greeted() as client:
        begin(client)
        sent = 0
        for gate in gates:
            before = got[0]
            sent += client.fill(LINE[sent % len(LINE) :] + LINE[: sent % len(LINE)], 0.1)
            assert sent <= before + HELD + IN_SOCKETS
            gate.open()
            wait_until(lambda before=before: got[0] > before)  # type: ignore[misc] # mypy sees no default
        client.send(LINE[sent % len(LINE) :] + b".\r\n")
        assert client.reply() == QUEUED
        assert got[0] == sent + len(LINE) - sent % len(LINE)


# --- reading ----------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("n", [1, 1000, 10**6])
def test_read_n_gives_everything_in_pieces_of_at_most_n(runtime: Runtime, colour: Colour, n: int) -> None:
    body = LINE * (30 if n == 1 else 3000)
    got = bytearray()

    def on_data(stream: Any, _session: object) -> Hook:
        while piece := (yield stream.read(n)):
            assert len(piece) <= n
            got.extend(piece)
        assert (yield stream.read()) == b""
        assert (yield stream.read(5)) == b""

    with running(runtime, on_data=colour(on_data)) as server, server.client().greeted() as client:
        assert deliver(client, body) == QUEUED
    assert got == body


@both
def test_read_0_gives_nothing_and_waits_for_nothing(runtime: Runtime, colour: Colour) -> None:
    got: list[bytes] = []

    def on_data(stream: Any, _session: object) -> Hook:
        got.append((yield stream.read(0)))
        got.append((yield stream.read()))

    with running(runtime, on_data=colour(on_data)) as server, server.client().greeted() as client:
        begin(client)
        wait_until(lambda: got)
        client.send(LINE + b".\r\n")
        assert client.reply() == QUEUED
    assert got == [b"", LINE]


@both
def test_iteration_gives_everything_and_may_be_left_and_taken_up_again(
    runtime: Runtime, colour: Colour
) -> None:
    got: list[bytes] = []

    async def on_data(stream: Any, _session: object) -> None:
        async for chunk in stream:
            got.append(chunk)
            break
        got.append(await stream.read(7))
        async for chunk in stream:
            got.append(chunk)  # noqa: PERF401 - what is read is to be seen even if more is not
        assert [chunk async for chunk in stream] == []

    def on_data_plainly(stream: Any, _session: object) -> None:
        for chunk in stream:
            got.append(chunk)
            break
        got.append(stream.read(7))
        got.extend(stream)
        assert list(stream) == []

    coroutine = runtime.coroutines and colour is native
    with running(runtime, on_data=on_data if coroutine else on_data_plainly) as server:
        with server.client().greeted() as client:
            assert deliver(client, LINE * 3000) == QUEUED
    assert b"".join(got) == LINE * 3000
    assert all(got)


@both
@pytest.mark.parametrize("reads", [0, 1])
def test_what_a_hook_leaves_is_read_and_dropped(runtime: Runtime, colour: Colour, reads: int) -> None:
    answers: list[object] = [None, Reject(text="no"), RuntimeError("x"), "text"]
    expected = [QUEUED, "450 4.2.1 no", ERROR, "250 2.6.0 text"]

    def on_data(stream: Any, _session: object) -> Hook:
        for _ in range(reads):
            yield stream.read(10)
        result = answers.pop(0)
        if isinstance(result, RuntimeError):
            raise result
        return result

    with running(runtime, on_data=colour(on_data)) as server, server.client().greeted() as client:
        assert [deliver(client, LINE * 5000) for _ in range(4)] == expected
        assert client.say("NOOP") == "250 2.0.0 OK"


@both
def test_an_early_end_is_answered_only_behind_the_end_of_data(runtime: Runtime, colour: Colour) -> None:
    returned = threading.Event()

    def on_data(*_: object) -> Hook:
        returned.set()
        yield

    with running(runtime, on_data=colour(on_data)) as server, server.client().greeted() as client:
        begin(client)
        assert returned.wait(DEADLINE)
        client.send(LINE)
        is_silent(client)
        client.send(b".\r\n")
        assert client.reply() == QUEUED


@both
def test_a_hook_is_not_answered_before_it_has_ended(runtime: Runtime, colour: Colour) -> None:
    gate = Gate(runtime, colour)

    def on_data(stream: Any, _session: object) -> Hook:
        yield stream.read()
        yield from gate.passed()
        return "now"

    with running(runtime, on_data=colour(on_data)) as server, server.client().greeted() as client:
        begin(client)
        client.send(LINE + b".\r\nNOOP\r\n")
        is_silent(client)
        gate.open()
        assert replies(client, 2) == ["250 2.6.0 now", "250 2.0.0 OK"]


@both
def test_large_messages_arrive_exactly(runtime: Runtime, colour: Colour) -> None:
    body = b"".join(b".%07d %s\r\n" % (i, b"x" * (i % 90)) for i in range(20_000))
    got: list[bytes] = []

    def on_data(stream: Any, _session: object) -> Hook:
        got.append((yield stream.read()))

    with running(runtime, on_data=colour(on_data)) as server, server.client().greeted() as client:
        assert deliver(client, body.replace(b"\r\n.", b"\r\n..").replace(b".", b"..", 1)) == QUEUED
    arrived = got == [body]
    assert arrived, "what arrived is not what was sent"  # pytest would compare the two for minutes


# --- size and bare newlines -------------------------------------------------------------------------


@both
def test_facts_of_the_message_are_live(runtime: Runtime, colour: Colour) -> None:
    facts: list[tuple[object, ...]] = []

    def look(stream: Any) -> None:
        refusal = stream.refusal and stream.refusal.code
        facts.append((stream.byte_length, stream.size_exceeded, stream.complete, refusal))

    def on_data(stream: Any, _session: object) -> Hook:
        look(stream)
        try:
            yield stream.read()
        finally:
            look(stream)

    with running(runtime, on_data=colour(on_data), size=1000) as server:
        with server.client().greeted() as client:
            assert deliver(client, LINE) == QUEUED
            assert deliver(client, LINE * 100).startswith("552 5.3.4 ")
    assert facts == [
        (0, False, False, None),
        (72, False, True, None),
        (0, False, False, None),
        (7200, True, True, 552),
    ]


@both
@pytest.mark.parametrize("over", [0, 1])
@pytest.mark.parametrize("enforce", [True, False])
def test_no_more_than_size_octets_reach_a_hook_unless_it_wants_them(
    runtime: Runtime, colour: Colour, enforce: bool, over: int
) -> None:
    got: list[bytes] = []
    body = LINE * 2000

    def on_data(stream: Any, _session: object) -> Hook:
        got.append(b"")
        while piece := (yield stream.read(1 << 20)):
            got[-1] += piece
        return f"exceeded: {stream.size_exceeded}"

    size = len(body) - over
    with running(runtime, on_data=colour(on_data), size=size, enforce_size=enforce) as server:
        with server.client().greeted() as client:
            if enforce and over:
                refusal = f"552 5.3.4 Error: message exceeds fixed maximum message size {size}"
                assert deliver(client, body) == refusal
            else:
                assert deliver(client, body) == f"250 2.6.0 exceeded: {bool(over)}"
            assert deliver(client, LINE) == "250 2.6.0 exceeded: False"
    assert got == [body[: size if enforce else None], LINE]


@both
def test_bare_newlines_are_octets_where_they_are_accepted(runtime: Runtime, colour: Colour) -> None:
    got: list[bytes] = []

    def on_data(stream: Any, _session: object) -> Hook:
        got.append((yield stream.read()))

    with running(runtime, on_data=colour(on_data), bare_newlines="accept") as server:
        with server.client().greeted() as client:
            assert deliver(client, b"one\ntwo\rthree\n.\nfour\r\n") == QUEUED
    assert got == [b"one\ntwo\rthree\n.\nfour\r\n"]
