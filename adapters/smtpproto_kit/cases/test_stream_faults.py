# The stream where things go wrong: whatever the client or a hook does with it, no octet is lost,
# doubled or taken for the end.

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

import pytest

from smtpproto_kit import DATA, DEADLINE, Client, Running, running, wait_until
from smtpproto_kit.cases._colours import (
    ERROR,
    LINE,
    QUEUED,
    TICK,
    Gate,
    begin,
    both,
    deliver,
    elsewhere,
    in_thread,
    is_silent,
    replies,
)
from smtpproto_server import StreamAborted

if TYPE_CHECKING:
    from concurrent.futures import Future

    from smtpproto_kit import Runtime
    from smtpproto_kit.cases._colours import Colour, Hook

TOO_LATE: Final = "the stream belongs to on_data, which has returned"
TWICE: Final = "the stream is being read already"
SHORT: Final = 0.2  # seconds that are long enough to be waited out
BARE: Final = "550 5.6.0 Error: message contains bare newline characters"
LATE: Final = "421 4.4.2 Timeout - closing connection"
SHUT: Final = "421 4.3.2 Server shutting down"


# --- aborted ----------------------------------------------------------------------------------------

# What breaks the message off, the options it takes, the reason the hook is given, and the replies.
BREAKS: Final[dict[str, tuple[dict[str, Any], str, list[str]]]] = {
    "end": ({}, "connection_lost", []),
    "close": ({}, "connection_lost", []),
    "bare newline": ({}, "bare_newline", [BARE, "221 2.0.0 Bye"]),
    "data_timeout": ({"data_timeout": 0.1}, "timeout", [LATE]),
    "socket_timeout": ({"socket_timeout": 0.1, "min_data_rate": None}, "timeout", [LATE]),
    "shutdown": ({"close_timeout": 0.0}, "shutdown", [SHUT]),
}


def break_off(server: Running, client: Client, how: str) -> None:
    client.send(b"one\ntwo\r\n.\r\nQUIT\r\n" if how == "bare newline" else b"half a mess")
    if how == "end":
        client.end()
    elif how == "close":
        client.close()
    elif how == "shutdown":
        server.start(server.server.close)


@both
@pytest.mark.parametrize("swallows", [True, False], ids=["swallowed", "raised"])
@pytest.mark.parametrize("how", BREAKS)
def test_a_message_that_breaks_off_raises_and_is_not_accepted(
    runtime: Runtime, colour: Colour, how: str, swallows: bool
) -> None:
    options, reason, expected = BREAKS[how]
    seen: list[object] = []
    begun = threading.Event()

    def on_data(stream: Any, _session: object) -> Hook:
        begun.set()
        for n in (-1, 1, -1):
            try:
                seen.append((yield stream.read(n)))
            except StreamAborted as aborted:
                seen.append(aborted.reason)
                if not swallows:
                    raise
        return "kept all the same"

    with running(runtime, on_data=colour(on_data), **options) as server:
        with server.client().greeted() as client:
            begin(client)
            assert begun.wait(DEADLINE)  # a thread may be later than its 354
            break_off(server, client, how)
            if how != "close":
                assert client.replies() == expected
        wait_until(lambda: not server.server.peers)
        assert not server.errors
    assert seen == [reason] * (3 if swallows else 1)


@both
def test_octets_that_came_before_the_loss_are_handed_out_first(runtime: Runtime, colour: Colour) -> None:
    gate, seen = Gate(runtime, colour), list[object]()

    def on_data(stream: Any, _session: object) -> Hook:
        seen.append("called")
        yield from gate.passed()
        try:
            while True:
                seen.append((yield stream.read(4)))
        except StreamAborted as aborted:
            seen.append(aborted.reason)

    with running(runtime, on_data=colour(on_data)) as server, server.client().greeted() as client:
        client.send(DATA + b"one\r\n")
        wait_until(lambda: seen)
        client.end()
        gate.open()
        client.rest()
        wait_until(lambda: not server.server.sessions)
    assert seen == ["called", b"one\r", b"\n", "connection_lost"]


# --- the time a hook has ----------------------------------------------------------------------------


@both
def test_the_time_in_which_a_hook_waits_for_octets_is_not_its_own(runtime: Runtime, colour: Colour) -> None:
    def on_data(stream: Any, _session: object) -> Hook:
        return str(len((yield stream.read())))

    with running(runtime, on_data=colour(on_data), hook_timeout=SHORT) as server:
        with server.client().greeted() as client:
            begin(client)
            is_silent(client, SHORT * 2)
            client.send(LINE + b".\r\n")
            assert client.reply() == f"250 2.6.0 {len(LINE)}"
            assert not server.errors


@both
@pytest.mark.parametrize("reads", [b"", b"stays", LINE + b".\r\n"], ids=["nothing", "some", "all"])
def test_a_hook_that_is_given_up_is_told_so_when_it_reads_on(
    runtime: Runtime, colour: Colour, reads: bytes
) -> None:
    gate, seen = Gate(runtime, colour), list[object]()

    def on_data(stream: Any, _session: object) -> Hook:
        if len(seen):
            return "the next one"
        if reads:
            yield stream.read(1)
        seen.append("called")
        try:
            yield from gate.passed()
        finally:  # also of a hook that is cancelled
            for _ in range(2):
                try:
                    seen.append((yield stream.read()))
                except StreamAborted as aborted:
                    seen.append(aborted.reason)
        return "much too late"

    with running(runtime, on_data=colour(on_data), hook_timeout=0.1) as server:
        with server.client().greeted() as client:
            begin(client)
            client.send(reads)
            if not reads.endswith(b".\r\n"):  # there is no answer before the end of data
                is_silent(client, SHORT)
                client.send(b"\r\n.\r\n")
            assert client.reply() == ERROR
            assert deliver(client, LINE) == "250 2.6.0 the next one"
            gate.open()
            wait_until(lambda: len(seen) == 3)
            client.send(b"NOOP\r\nQUIT\r\n")
            assert client.replies() == ["250 2.0.0 OK", "221 2.0.0 Bye"]
        ((error, _),) = server.errors
    assert str(error) == "on_data took longer than hook_timeout"
    assert seen == ["called", "timeout", "timeout"]


@both
def test_time_that_a_hook_has_taken_before_it_reads_counts(runtime: Runtime, colour: Colour) -> None:
    if in_thread(runtime, colour):
        tick = threading.Event()

        def wait(seconds: float) -> Any:
            tick.wait(seconds)
    else:
        wait = runtime.pause

    def on_data(stream: Any, _session: object) -> Hook:
        for _ in range(3):
            yield wait(SHORT * 0.45)
            yield stream.read(1)

    with running(runtime, on_data=colour(on_data), hook_timeout=SHORT) as server:
        with server.client().greeted() as client:
            assert deliver(client, LINE) == ERROR
            assert client.say("NOOP") == "250 2.0.0 OK"
            assert [type(error) for error, _ in server.errors] == [TimeoutError]


# --- what a hook may do with its stream ---------------------------------------------------------------


@both
def test_a_stream_is_not_to_be_used_behind_its_hook(runtime: Runtime, colour: Colour) -> None:
    streams: list[Any] = []

    def on_data(stream: Any, _session: object) -> Hook:
        streams.append(stream)
        yield

    with running(runtime, on_data=colour(on_data)) as server, server.client().greeted() as client:
        deliver(client, LINE)
        with pytest.raises(RuntimeError, match=TOO_LATE):
            streams[0].read() if in_thread(runtime, colour) else server.call(streams[0].read)
        deliver(client, LINE)


@both
def test_two_do_not_read_at_once(runtime: Runtime, colour: Colour) -> None:
    errors: list[str] = []
    got: list[bytes] = []

    def read(stream: Any) -> Hook:
        try:
            got.append((yield stream.read(100)))
        except RuntimeError as error:
            errors.append(str(error))

    def on_data(stream: Any, _session: object) -> Hook:
        gate = Gate(runtime, colour)
        other = elsewhere(server, colour, lambda: read(stream))
        other.add_done_callback(lambda _: gate.open())
        yield from read(stream)
        yield from gate.passed()
        other.result()
        return str(sum(map(len, got)) + len((yield stream.read())))

    with running(runtime, on_data=colour(on_data)) as server, server.client().greeted() as client:
        begin(client)
        wait_until(lambda: errors)
        client.send(LINE * 10 + b".\r\n")
        assert client.reply() == f"250 2.6.0 {len(LINE) * 10}"
    assert errors == [TWICE]


@both
def test_another_may_read_for_the_hook(runtime: Runtime, colour: Colour) -> None:
    got: list[bytes] = []

    def on_data(stream: Any, _session: object) -> Hook:
        gate = Gate(runtime, colour)

        def read() -> Hook:
            got.append((yield stream.read()))

        other = elsewhere(server, colour, read)
        other.add_done_callback(lambda _: gate.open())
        yield from gate.passed()
        other.result()
        return "done"

    with running(runtime, on_data=colour(on_data)) as server, server.client().greeted() as client:
        for _ in range(3):
            begin(client)
            client.send(LINE * 100 + b".\r\n")
            assert client.reply() == "250 2.6.0 done"
    assert got == [LINE * 100] * 3


@both
@pytest.mark.parametrize("n", [10, -1])
def test_another_that_reads_behind_the_hook_is_too_late(runtime: Runtime, colour: Colour, n: int) -> None:
    outcomes: list[object] = []
    others: list[Future[Any]] = []
    begun = threading.Semaphore(0)

    def on_data(stream: Any, _session: object) -> Hook:
        def read() -> Hook:
            begun.release()
            try:
                while chunk := (yield stream.read(n)):
                    outcomes.append(chunk)
                outcomes.append("the end")
            except RuntimeError as error:
                outcomes.append(str(error))

        others.append(elsewhere(server, colour, read))
        yield

    with running(runtime, on_data=colour(on_data)) as server, server.client().greeted() as client:
        for _ in range(20):
            begin(client)
            assert begun.acquire(timeout=DEADLINE)
            client.send(LINE + b".\r\n")
            assert client.reply() == QUEUED
        for other in others:
            other.result(DEADLINE)
    ends = [each for each in outcomes if isinstance(each, str)]
    assert len(ends) == 20
    # It may have been quick enough to read all, but a message never just stops.
    assert set(ends) <= {"the end", TOO_LATE}
    octets = b"".join(each for each in outcomes if isinstance(each, bytes))
    assert len(octets) <= 20 * len(LINE)
    assert octets.count(LINE) >= ends.count("the end")


@both
def test_another_that_waits_for_octets_when_the_hook_returns_is_not_left_waiting(
    runtime: Runtime, colour: Colour
) -> None:
    returns: list[object] = []
    ends: list[object] = []

    def on_data(stream: Any, _session: object) -> Hook:
        gate = Gate(runtime, colour)

        def read() -> Hook:
            assert (yield stream.read(4)) == b"half"
            gate.open()
            try:
                ends.append((yield stream.read(4)))
            except RuntimeError as error:
                ends.append(str(error))

        elsewhere(server, colour, read)
        yield from gate.passed()
        returns.append(None)

    with running(runtime, on_data=colour(on_data)) as server, server.client().greeted() as client:
        for _ in range(3):
            begin(client)
            client.send(b"half")
            wait_until(lambda: returns)
            returns.clear()
            client.send(b" a line\r\n.\r\n")
            assert client.reply() == QUEUED
            wait_until(lambda: ends)
            assert ends.pop() in {TOO_LATE, b" a l"}  # a thread that waits already has one more read


@pytest.mark.parametrize("n", [-1, 7])
def test_a_read_that_times_out_and_is_repeated_loses_no_octet(runtime: Runtime, n: int) -> None:
    if not runtime.coroutines:
        pytest.skip("where hooks are coroutines, anyio can cancel a read in each runtime")
    anyio = pytest.importorskip("anyio")
    got = bytearray()
    given_up: list[int] = []

    async def on_data(stream: Any, _session: object) -> str:
        while True:
            piece = None
            with anyio.move_on_after(TICK):
                piece = await stream.read(n)
            if piece is None:
                given_up.append(1)
                continue
            got.extend(piece)
            if not piece or n < 0:
                return "all of it"

    body = b"".join(b"%03d\r\n" % i for i in range(100))
    with running(runtime, on_data=on_data) as server, server.client().greeted() as client:
        begin(client)
        for at in range(0, len(body), 10):
            seen = len(given_up)
            client.send(body[at : at + 10])
            if at % 50 == 0:
                wait_until(lambda seen=seen: len(given_up) > seen)  # type: ignore[misc] # mypy sees no default
        client.send(b".\r\n")
        assert client.reply() == "250 2.6.0 all of it"
    assert got == body
    assert len(given_up) >= 10


def test_a_read_that_is_given_up_is_taken_over_when_the_hook_returns(runtime: Runtime) -> None:
    if not runtime.coroutines:
        pytest.skip("where hooks are coroutines, anyio can cancel a read in each runtime")
    anyio = pytest.importorskip("anyio")
    given_up = threading.Event()

    async def on_data(stream: Any, _session: object) -> str:
        with anyio.move_on_after(TICK):
            await stream.read(10)
        given_up.set()
        return "given up"

    with running(runtime, on_data=on_data) as server, server.client().greeted() as client:
        begin(client)
        assert given_up.wait(DEADLINE)
        client.send(LINE * 3 + b".\r\nNOOP\r\n")
        assert replies(client, 2) == ["250 2.6.0 given up", "250 2.0.0 OK"]
