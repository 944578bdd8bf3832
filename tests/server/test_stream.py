# The streams hooks read from: what they hand out, and that they never just stop.

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from smtpproto import IncomingMessage, Options
from smtpproto_server import AsyncStream, MessageBody, Outcome, Stream, StreamAborted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


PLAIN, COLOURED = False, True


class Read:
    """A stream of either colour over given chunks, read in plain words."""

    def __init__(self, coloured: bool, *chunks: bytes | BaseException) -> None:
        self.body = MessageBody(IncomingMessage(Options(size=10)))
        self.left = list(chunks)
        self.stream: Any = (
            AsyncStream(self.body, self.pull_async, lambda _: None)
            if coloured
            else Stream(self.body, self.pull)
        )
        self.coloured = coloured

    def pull(self) -> bytes:
        chunk = self.left.pop(0) if self.left else b""
        if isinstance(chunk, BaseException):
            raise chunk
        return chunk

    async def pull_async(self, body: MessageBody) -> bytes:
        assert body is self.body
        return self.pull()

    def read(self, *n: int) -> bytes:
        return self.run(lambda: self.stream.read(*n))

    def all(self) -> list[bytes]:
        async def collect() -> list[bytes]:
            return [chunk async for chunk in self.stream]

        return asyncio.run(collect()) if self.coloured else list(self.stream)

    def run(self, function: Callable[[], Any]) -> bytes:
        async def wait(awaitable: Awaitable[bytes]) -> bytes:
            return await awaitable

        result: bytes = asyncio.run(wait(function())) if self.coloured else function()
        return result


coloured = pytest.mark.parametrize("coloured", [False, True], ids=["plain", "coroutine"])


@coloured
def test_iterating_hands_out_chunks_as_they_come(coloured: bool) -> None:
    read = Read(coloured, b"one", b"two")
    assert read.all() == [b"one", b"two"]
    assert read.all() == []


@coloured
def test_read_gives_all_there_is(coloured: bool) -> None:
    read = Read(coloured, b"one", b"two")
    assert read.read() == b"onetwo"
    assert read.read() == b""
    assert read.read(5) == b""


@coloured
def test_read_n_gives_at_most_n_and_keeps_the_rest(coloured: bool) -> None:
    read = Read(coloured, b"abcdefg", b"hi")
    assert [read.read(3), read.read(0), read.read(2), read.read(9), read.read(9), read.read(9)] == [
        b"abc", b"", b"de", b"fg", b"hi", b"",
    ]  # fmt: skip


@coloured
def test_read_0_waits_for_nothing(coloured: bool) -> None:
    read = Read(coloured, b"abc")
    assert read.read(0) == b""
    assert read.left == [b"abc"]


@coloured
def test_reading_all_and_iterating_begin_with_the_rest(coloured: bool) -> None:
    read = Read(coloured, b"abcdefg", b"hi", b"jk")
    assert read.read(3) == b"abc"
    assert read.read() == b"defghijk"
    read = Read(coloured, b"abcdefg", b"hi", b"jk")
    assert read.read(3) == b"abc"
    assert read.all() == [b"defg", b"hi", b"jk"]


@coloured
def test_reading_octet_by_octet_is_linear(coloured: bool) -> None:
    read = Read(coloured, b"x" * 65536)
    rests = set[int]()
    for _ in range(100):
        read.read(1)
        rests.add(id(read.stream._rest))
    assert len(rests) == 1  # the chunk is not copied for what is left of it


@coloured
@pytest.mark.parametrize("reason", ["connection_lost", "timeout", "shutdown", "bare_newline"])
def test_an_aborted_stream_raises_and_goes_on_raising(coloured: bool, reason: str) -> None:
    read = Read(coloured, b"one")
    assert read.read(9) == b"one"
    read.body.aborted = reason
    for call in (lambda: read.read(9), read.read, read.all):
        with pytest.raises(StreamAborted) as raised:
            call()
        assert raised.value.reason == str(raised.value) == reason


@coloured
def test_a_stream_that_is_aborted_while_it_waits_raises(coloured: bool) -> None:
    read = Read(coloured)
    body = read.body

    def abort() -> bytes:
        body.aborted = "timeout"
        return b""

    async def abort_async(_body: MessageBody) -> bytes:
        return abort()

    read.stream._pull = abort_async if coloured else abort
    with pytest.raises(StreamAborted, match="timeout"):
        read.all()


@coloured
def test_a_stream_is_not_to_be_used_behind_its_hook(coloured: bool) -> None:
    read = Read(coloured, b"one")
    read.body.ended = True
    with pytest.raises(RuntimeError, match="on_data, which has returned"):
        read.read(1)


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [(Outcome.LOST, "connection_lost"), (Outcome.TIMED_OUT, "timeout"), (Outcome.STOPPED, "shutdown")],
)
@coloured
def test_a_hook_that_was_given_up_is_told_why_and_never_that_this_is_the_end(
    coloured: bool, outcome: Outcome, reason: str
) -> None:
    read = Read(coloured, b"one")
    read.body.give_up(outcome)
    read.body.ended = True
    with pytest.raises(StreamAborted, match=reason):
        read.read(1)
    read.body.give_up(Outcome.LOST if outcome is Outcome.STOPPED else Outcome.STOPPED)
    assert read.body.aborted == reason


def test_a_plain_hook_that_is_given_up_while_it_asks_is_told_why() -> None:
    read = Read(PLAIN, RuntimeError("too late"))

    def give_up() -> bytes:
        read.body.give_up(Outcome.STOPPED)
        return read.pull()

    read.stream._pull = give_up
    with pytest.raises(StreamAborted, match="shutdown"):
        read.read(1)
    with pytest.raises(RuntimeError, match="too late"):
        Read(PLAIN, RuntimeError("too late")).read(1)


@coloured
def test_an_interrupted_read_loses_nothing(coloured: bool) -> None:
    read = Read(coloured, b"one", b"two", asyncio.CancelledError(), b"three")
    with pytest.raises(asyncio.CancelledError):
        read.read()
    assert read.read() == b"onetwothree"


@coloured
def test_a_read_that_fails_keeps_nothing(coloured: bool) -> None:
    read = Read(coloured, b"one", OSError("x"))
    with pytest.raises(OSError, match="x"):
        read.read()
    assert read.read() == b""


@coloured
def test_the_facts_of_the_message_are_live(coloured: bool) -> None:
    read = Read(coloured)
    message, stream = read.body.message, read.stream
    assert (stream.byte_length, stream.size_exceeded, stream.complete, stream.refusal) == (
        0,
        False,
        False,
        None,
    )
    message.feed(b"0123456789012\r\n.\r\n")
    assert (stream.byte_length, stream.size_exceeded, stream.complete) == (15, True, True)
    assert stream.refusal.code == 552
