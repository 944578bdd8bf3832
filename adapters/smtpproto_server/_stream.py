# The message as a hook reads it.
#
# A stream pulls: nothing is read from the peer for it before the hook asks, so there is no queue
# to fill and no mark to watch. It ends at the end of the message or raises; it never just stops.

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

from smtpproto_server._effects import Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from smtpproto import IncomingMessage, Reject

__all__ = ["AsyncStream", "MessageBody", "Stream", "StreamAborted"]


class StreamAborted(Exception):  # noqa: N818 - says what happened, as the event of the core does
    """The rest of the message will not come; what has come must not be kept.

    `reason` is "connection_lost", "timeout", "shutdown" or "bare_newline".
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason: str = reason


class MessageBody:
    """What the loop and the streams over one message share."""

    __slots__ = ("aborted", "ended", "message")

    def __init__(self, message: IncomingMessage) -> None:
        self.message: IncomingMessage = message
        self.aborted: str | None = None
        """Why no more will come."""
        self.ended: bool = False
        """The hook has returned: nobody may read any more."""

    def give_up(self, outcome: Outcome) -> None:
        """The hook was given up: whoever of it reads on is told why, and never that this is the end."""
        if self.aborted is None:
            self.aborted = _GIVEN_UP[outcome]

    def check(self, chunk: bytes) -> bytes:
        if not chunk and self.aborted is not None:
            raise StreamAborted(self.aborted)
        return chunk

    def check_open(self) -> None:
        if self.ended and self.aborted is None:
            raise RuntimeError("the stream belongs to on_data, which has returned")
        self.check(b"")


_GIVEN_UP: Final[Mapping[Outcome, str]] = {
    Outcome.LOST: "connection_lost",
    Outcome.TIMED_OUT: "timeout",
    Outcome.STOPPED: "shutdown",
}


class _Facts:
    """What both streams tell of the message."""

    __slots__ = ("_at", "_body", "_rest")

    def __init__(self, body: MessageBody) -> None:
        self._body: MessageBody = body
        self._rest: bytes = b""
        self._at: int = 0

    @property
    def byte_length(self) -> int:
        """Octets so far after unstuffing, discarded ones included; live."""
        return self._body.message.byte_length

    @property
    def size_exceeded(self) -> bool:
        """`byte_length` is over the option `size`; live."""
        return self._body.message.size_exceeded

    @property
    def complete(self) -> bool:
        """The end of data was seen."""
        return self._body.message.complete

    @property
    def refusal(self) -> Reject | None:
        """What will be answered whatever the hook returns; final once `complete`."""
        return self._body.message.refusal

    @property
    def given_up(self) -> bool:
        """What the hook returns is discarded: its time was up, its client is gone, or the server ends."""
        return self._body.aborted is not None

    def _held(self, n: int = -1) -> bytes:
        """What an earlier read has left over, at most `n` octets of it."""
        rest, at = self._rest, self._at
        if n < 0 or len(rest) - at <= n:
            self._rest, self._at = b"", 0
            return rest[at:]
        self._at = at + n
        return rest[at : at + n]

    def _split(self, chunk: bytes, n: int) -> bytes:
        if len(chunk) <= n:
            return chunk
        self._rest, self._at = chunk, n
        return chunk[:n]


class Stream(_Facts):
    """For plain hooks: iterate, or `read`. Raises StreamAborted when the message breaks off."""

    __slots__ = ("_pull",)

    def __init__(self, body: MessageBody, pull: Callable[[], bytes]) -> None:
        super().__init__(body)
        self._pull: Callable[[], bytes] = pull

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        chunk = self._next()
        if not chunk:
            raise StopIteration
        return chunk

    def read(self, n: int = -1) -> bytes:
        """Up to `n` octets as they come, b"" at the end; without `n` all there are.

        A read that is interrupted (by gevent.Timeout, say) loses nothing, as for AsyncStream.
        """
        if n < 0:
            return self._read_all()
        if self._rest or not n:
            return self._held(n)
        return self._split(self._next(), n)

    def _read_all(self) -> bytes:
        chunks: list[bytes] = []
        try:
            for chunk in self:
                chunks.append(chunk)  # noqa: PERF402 - what came before an interruption is kept
        except Exception:
            raise
        except BaseException:
            self._rest = b"".join(chunks)
            raise
        return b"".join(chunks)

    def _next(self) -> bytes:
        if self._rest:
            return self._held()
        self._body.check_open()
        try:
            return self._body.check(self._pull())
        except RuntimeError:
            self._body.check(b"")  # why the hook was given up says more
            raise


class AsyncStream(_Facts):
    """For coroutine hooks: `async for`, or `await read()`. Raises StreamAborted likewise."""

    # Not an async generator: a hook that leaves its loop early would leave one behind to be closed.
    __slots__ = ("_at_hand", "_pull")

    def __init__(
        self,
        body: MessageBody,
        pull: Callable[[MessageBody], Awaitable[bytes]],
        at_hand: Callable[[MessageBody], bytes | None],
    ) -> None:
        super().__init__(body)
        self._pull: Callable[[MessageBody], Awaitable[bytes]] = pull
        self._at_hand: Callable[[MessageBody], bytes | None] = at_hand

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self._next()
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def read(self, n: int = -1) -> bytes:
        """Up to `n` octets as they come, b"" at the end; without `n` all there are.

        A read that is cancelled loses nothing: the next one begins where it began.
        """
        if n < 0:
            return await self._read_all()
        if self._rest or not n:
            return self._held(n)
        return self._split(await self._next(), n)

    async def _read_all(self) -> bytes:
        chunks: list[bytes] = []
        try:
            async for chunk in self:
                chunks.append(chunk)  # noqa: PERF401 - what came before a cancellation is kept
        except Exception:
            raise
        except BaseException:
            self._rest = b"".join(chunks)
            raise
        return b"".join(chunks)

    async def _next(self) -> bytes:
        if self._rest:
            return self._held()
        body = self._body
        body.check_open()
        chunk = self._at_hand(body)
        return body.check(await self._pull(body) if chunk is None else chunk)
