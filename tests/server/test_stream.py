# The streams hooks read from: what they hand out, and that they never just stop.

from __future__ import annotations

import asyncio
import pickle
from typing import TYPE_CHECKING, Any

import pytest

from smtpproto import IncomingMessage, ProtocolOptions, Reject
from smtpproto_server import AsyncStream, Stream, StreamAborted, StreamRefused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from smtpproto_server.adapting import MessageStream


class Read:
    """A stream of either kind over given chunks, read in plain words. It is its own source."""

    def __init__(self, coroutine: bool, *chunks: bytes | BaseException) -> None:
        self.message: IncomingMessage = IncomingMessage(ProtocolOptions(size=10))
        self.left: list[bytes | BaseException] = list(chunks)
        self.stream: Any = (AsyncStream if coroutine else Stream)(self, self.message)
        self.coroutine: bool = coroutine
        self.claims: list[MessageStream] = []

    def in_hook(self) -> bool:
        return False

    def read_plainly(self, stream: Stream) -> bytes:
        assert stream is self.stream
        chunk = self.left.pop(0) if self.left else b""
        if isinstance(chunk, BaseException):
            raise chunk
        return chunk

    async def read_elsewhere(self, stream: Any) -> bytes:
        return self.read_plainly(stream)

    def claim(self, stream: MessageStream) -> bool:
        self.claims.append(stream)
        return True

    def read(self, *n: int) -> bytes:
        return self.run(lambda: self.stream.read(*n))

    def all(self) -> list[bytes]:
        async def collect() -> list[bytes]:
            return [chunk async for chunk in self.stream]

        return asyncio.run(collect()) if self.coroutine else list(self.stream)

    def run(self, function: Callable[[], Any]) -> bytes:
        async def wait(awaitable: Awaitable[bytes]) -> bytes:
            return await awaitable

        result: bytes = asyncio.run(wait(function())) if self.coroutine else function()
        return result


both = pytest.mark.parametrize("coroutine", [False, True], ids=["plain", "coroutine"])


@both
def test_iterating_hands_out_chunks_as_they_come(coroutine: bool) -> None:
    read = Read(coroutine, b"one", b"two")
    assert read.all() == [b"one", b"two"]
    assert read.all() == []


@both
def test_read_gives_all_there_is(coroutine: bool) -> None:
    read = Read(coroutine, b"one", b"two")
    assert read.read() == b"onetwo"
    assert read.read() == b""
    assert read.read(5) == b""


@both
def test_read_n_gives_at_most_n_and_keeps_the_rest(coroutine: bool) -> None:
    read = Read(coroutine, b"abcdefg", b"hi")
    assert [read.read(3), read.read(0), read.read(2), read.read(9), read.read(9), read.read(9)] == [
        b"abc", b"", b"de", b"fg", b"hi", b"",
    ]  # fmt: skip


@both
def test_read_0_waits_for_nothing(coroutine: bool) -> None:
    read = Read(coroutine, b"abc")
    assert read.read(0) == b""
    assert read.left == [b"abc"]


@both
def test_reading_all_and_iterating_begin_with_the_rest(coroutine: bool) -> None:
    read = Read(coroutine, b"abcdefg", b"hi", b"jk")
    assert read.read(3) == b"abc"
    assert read.read() == b"defghijk"
    read = Read(coroutine, b"abcdefg", b"hi", b"jk")
    assert read.read(3) == b"abc"
    assert read.all() == [b"defg", b"hi", b"jk"]


@both
def test_reading_octet_by_octet_is_linear(coroutine: bool) -> None:
    read = Read(coroutine, b"x" * 65536)
    rests = set[int]()
    for _ in range(100):
        read.read(1)
        rests.add(id(read.stream._rest))
    assert len(rests) == 1  # the chunk is not copied for what is left of it


@both
@pytest.mark.parametrize("reason", ["connection_lost", "timeout", "shutdown", "bare_newline"])
def test_an_aborted_stream_raises_and_goes_on_raising(coroutine: bool, reason: str) -> None:
    read = Read(coroutine, b"one")
    assert read.read(9) == b"one"
    read.stream.abort(reason)
    for call in (lambda: read.read(9), read.read, read.all):
        with pytest.raises(StreamAborted) as raised:
            call()
        assert raised.value.reason == str(raised.value) == reason


@both
def test_a_stream_that_is_aborted_while_it_waits_raises(coroutine: bool) -> None:
    read = Read(coroutine)

    class Aborting(list[Any]):
        def __bool__(self) -> bool:
            read.stream.abort("timeout")
            return False

    read.left = Aborting()
    with pytest.raises(StreamAborted, match="timeout"):
        read.all()


@both
def test_a_stream_is_not_to_be_used_behind_its_hook(coroutine: bool) -> None:
    read = Read(coroutine, b"one")
    read.stream.ended = True
    with pytest.raises(RuntimeError, match="on_data, which has returned"):
        read.read(1)


@pytest.mark.parametrize("reason", ["connection_lost", "timeout", "shutdown"])
@both
def test_a_hook_that_was_given_up_is_told_why_and_never_that_this_is_the_end(
    coroutine: bool, reason: str
) -> None:
    read = Read(coroutine, b"one")
    assert not read.stream.given_up
    read.stream.abort(reason)
    assert read.stream.given_up
    read.stream.ended = True
    with pytest.raises(StreamAborted, match=reason):
        read.read(1)
    read.stream.abort("another")
    assert read.stream.aborted == reason


@both
def test_a_claim_is_the_connections_to_give(coroutine: bool) -> None:
    read = Read(coroutine)
    assert read.stream.claim()
    assert read.claims == [read.stream]


def test_a_plain_hook_that_is_given_up_while_it_asks_is_told_why() -> None:
    class Late(Read):
        def read_plainly(self, stream: Stream) -> bytes:
            stream.abort("shutdown")
            raise RuntimeError("too late")

    with pytest.raises(StreamAborted, match="shutdown"):
        Late(coroutine=False).read(1)
    with pytest.raises(RuntimeError, match="too late"):
        Read(False, RuntimeError("too late")).read(1)


@both
def test_an_interrupted_read_loses_nothing(coroutine: bool) -> None:
    read = Read(coroutine, b"one", b"two", asyncio.CancelledError(), b"three")
    with pytest.raises(asyncio.CancelledError):
        read.read()
    assert read.read() == b"onetwothree"


@both
def test_a_read_that_fails_keeps_nothing(coroutine: bool) -> None:
    read = Read(coroutine, b"one", OSError("x"))
    with pytest.raises(OSError, match="x"):
        read.read()
    assert read.read() == b""


@both
def test_the_facts_of_the_message_are_live(coroutine: bool) -> None:
    read = Read(coroutine)
    message, stream = read.message, read.stream
    assert (stream.byte_length, stream.size_exceeded, stream.complete, stream.refusal) == (
        0,
        False,
        False,
        None,
    )
    message.feed(b"0123456789012\r\n.\r\n")
    assert (stream.byte_length, stream.size_exceeded, stream.complete) == (15, True, True)
    assert stream.refusal.code == 552


@both
@pytest.mark.parametrize(
    ("octets", "reason", "code"),
    [
        (b"0123456789a\r\n.\r\n", "size_exceeded", 552),
        (b"one\ntwo", "bare_newline", 550),
        (b"0123456789a\nb\r\n.\r\n", "bare_newline", 550),
    ],
)
def test_a_message_that_will_be_refused_ends_in_streamrefused(
    coroutine: bool, octets: bytes, reason: str, code: int
) -> None:
    read = Read(coroutine)
    message, stream = read.message, read.stream
    stream.content = message.feed(octets)
    content = stream.content
    assert stream.next_piece() == content
    assert stream.next_piece() == b""
    for call in (lambda: read.read(9), read.read, read.all):
        with pytest.raises(StreamRefused) as raised:
            call()
        assert (raised.value.reason, raised.value.refusal) == (reason, stream.refusal)
        assert raised.value.refusal.code == code


@both
def test_a_message_over_size_is_waited_for_to_its_end(coroutine: bool) -> None:
    read = Read(coroutine)
    read.message.feed(b"0123456789a")
    assert read.stream.given_up
    assert read.stream.next_piece() is None
    read.message.feed(b"\r\n.\r\n")
    assert read.stream.next_piece() == b""
    assert read.stream.aborted == "size_exceeded"


@both
def test_a_message_over_size_that_breaks_off_is_lost_and_not_refused(coroutine: bool) -> None:
    read = Read(coroutine)
    read.message.feed(b"0123456789a")
    read.stream.abort("connection_lost")
    with pytest.raises(StreamAborted, match="connection_lost") as raised:
        read.all()
    assert type(raised.value) is StreamAborted


def test_what_streams_raise_can_be_pickled() -> None:
    error = StreamRefused("size_exceeded", Reject(552, "5.3.4", "too large"))
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (again.reason, again.refusal, str(again)) == ("size_exceeded", error.refusal, "size_exceeded")
    assert pickle.loads(pickle.dumps(StreamAborted("shutdown"))).reason == "shutdown"  # noqa: S301
