# The message as a hook reads it.
#
# A stream pulls: nothing is read from the client for it before the hook asks, so there is no queue to
# fill and no mark to watch. It ends at the end of the message or raises; it never just stops.
#
# A coroutine hook that reads in its own step yields PULL to the connection that runs it. Whoever else
# reads for the hook (another task, a thread) waits for the runtime's `read_elsewhere`, `read_plainly`.

from __future__ import annotations

from types import coroutine
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from smtpproto import SmtpProtoError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from smtpproto import IncomingMessage, Reject

__all__ = ["PULL", "AsyncStream", "MessageStream", "Source", "Stream", "StreamAborted", "StreamRefused"]

READ_TWICE: Final = "the stream is being read already"
TOO_LATE: Final = "the stream belongs to on_data, which has returned"
_REFUSED: Final = frozenset({"bare_newline", "size_exceeded"})  # why the server itself refuses a message


class StreamAborted(SmtpProtoError):  # noqa: N818 - says what happened, as the event of the core does
    """The rest of the message will not come; what has come must not be kept.

    `reason` is "connection_lost", "timeout" or "shutdown"; of a StreamRefused "bare_newline" or
    "size_exceeded".
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason: str = reason


class StreamRefused(StreamAborted):
    """The server refuses the message whatever the hook says, so it must not be kept.

    Raised where a bare newline was found, and at the end of a message that is over `size`. Let it pass:
    `refusal` is what the client is answered, and nothing is reported.
    """

    def __init__(self, reason: str, refusal: Reject) -> None:
        super().__init__(reason)
        self.refusal: Reject = refusal
        """What the client is answered after the end of the message."""

    def __reduce__(self) -> tuple[type[Self], tuple[str, Reject]]:
        return type(self), (self.reason, self.refusal)


class _Pull:
    """What a coroutine hook yields when it wants the next piece of its message."""


PULL: Final = _Pull()


class Source(Protocol):
    """The connection a stream reads from."""

    def in_hook(self) -> bool:
        """Whether it is the hook's own step that asks."""
        ...

    def read_elsewhere(self, stream: AsyncStream, /) -> Awaitable[bytes]:
        """The next piece, for a task that is not the hook's own."""
        ...

    def read_plainly(self, stream: Stream, /) -> bytes:
        """The next piece, for a plain hook or whoever reads for it."""
        ...

    def claim(self, stream: MessageStream, /) -> bool:
        """What `MessageStream.claim` gives."""
        ...


class MessageStream:
    """What both streams have: the facts of the message, and what the connection keeps of it."""

    __slots__ = (
        "_at", "_rest", "_source", "aborted", "at_end", "claimed", "content", "ended", "message",
        "reader", "reads",
    )  # fmt: skip

    def __init__(self, source: Source, message: IncomingMessage) -> None:
        self._source: Source = source
        self._rest: bytes = b""
        self._at: int = 0
        self.message: IncomingMessage = message
        self.content: bytes | None = None
        """A piece that has come and that nobody has read yet."""
        self.reads: bool = False
        """The hook itself waits for the next piece."""
        self.reader: Callable[[], object] | None = None
        """Somebody else waits for it, and is called when it may be there."""
        self.at_end: bool = False
        """The last piece was handed out."""
        self.aborted: str | None = None
        """Why no more will come."""
        self.ended: bool = False
        """The hook has returned: nobody may read any more."""
        self.claimed: bool = False

    @property
    def byte_length(self) -> int:
        """Octets so far after unstuffing, discarded ones included; live."""
        return self.message.byte_length

    @property
    def size_exceeded(self) -> bool:
        """`byte_length` is over the option `size`; live."""
        return self.message.size_exceeded

    @property
    def complete(self) -> bool:
        """The end of data was seen."""
        return self.message.complete

    @property
    def refusal(self) -> Reject | None:
        """What will be answered whatever the hook returns; final once `complete`."""
        return self.message.refusal

    @property
    def given_up(self) -> bool:
        """What the hook returns is discarded.

        Its time was up, its client is gone, the server ends, or the message is refused in any case.
        """
        return self.aborted is not None or self.message.refusal is not None

    def claim(self) -> bool:
        """Ask, before the message is stored for good, whether the hook still has its say.

        From a True on `hook_timeout` does not end the hook any more, so what it returns is what the
        client is answered. A coroutine hook may still be cancelled if its client is lost or the server
        ends. After False the message must not be kept. May be called from any thread.
        """
        return self._source.claim(self)

    # --- what the connection does with it ---------------------------------------------------------

    def abort(self, reason: str) -> None:
        """No more octets will come; the first reason counts."""
        if self.aborted is None:
            self.aborted, self.at_end = reason, False

    def next_piece(self) -> bytes | None:
        """What a reader gets now: octets, b"" where the message ends or breaks off, None: wait."""
        content = self.content
        if content is not None:
            self.content = None
            return content
        message = self.message
        if message.has_bare_newline:  # the core will say so, after the content before it
            self.abort("bare_newline")
        elif message.refusal is not None and message.complete:  # before that a newline may come instead
            self.abort("size_exceeded")
        return b"" if self.aborted is not None or message.complete else None

    def check(self, piece: bytes) -> bytes:
        """The piece; raises StreamAborted in place of an end that is none."""
        reason, refusal = self.aborted, self.message.refusal
        if piece or reason is None:
            return piece
        if refusal is None or reason not in _REFUSED:
            raise StreamAborted(reason)
        raise StreamRefused(reason, refusal)

    def check_turn(self, current: MessageStream | None) -> None:
        """Raise RuntimeError if somebody else is reading, or the message is not the present one."""
        if current is not self:
            self.check(b"")
            raise RuntimeError(TOO_LATE)
        if self.reads or self.reader is not None:
            raise RuntimeError(READ_TWICE)

    def wake_reader(self) -> None:
        """Something has changed for whoever reads for the hook."""
        if self.reader is not None:
            self.reader()

    # --- what both streams do ---------------------------------------------------------------------

    def _check_open(self) -> None:
        self.check(b"")
        if self.ended:
            raise RuntimeError(TOO_LATE)

    def _held(self, n: int = -1) -> bytes:
        """What an earlier read has left over, at most `n` octets of it."""
        rest, at = self._rest, self._at
        if n < 0 or len(rest) - at <= n:
            self._rest, self._at = b"", 0
            return rest[at:]
        self._at = at + n
        return rest[at : at + n]

    def _split(self, piece: bytes, n: int) -> bytes:
        if len(piece) <= n:
            return piece
        self._rest, self._at = piece, n
        return piece[:n]


class Stream(MessageStream):
    """For plain hooks: iterate, or `read`.

    Raises StreamAborted when the message breaks off, StreamRefused when it will be refused.
    """

    __slots__ = ()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        piece = self._next()
        if not piece:
            raise StopIteration
        return piece

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
        pieces: list[bytes] = []
        try:
            for piece in self:
                pieces.append(piece)  # noqa: PERF402 - what came before an interruption is kept
        except Exception:
            raise
        except BaseException:
            self._rest = b"".join(pieces)
            raise
        return b"".join(pieces)

    def _next(self) -> bytes:
        if self._rest:
            return self._held()
        self._check_open()
        if self.at_end:
            return b""
        try:
            return self.check(self._source.read_plainly(self))
        except RuntimeError:
            self.check(b"")  # why the hook was given up says more
            raise


class AsyncStream(MessageStream):
    """For coroutine hooks: `async for`, or `await read()`. Raises StreamAborted likewise."""

    # Not an async generator: a hook that leaves its loop early would leave one behind to be closed.
    __slots__ = ()

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Awaitable[bytes]:
        return self._next(iterates=True)

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
        pieces: list[bytes] = []
        try:
            async for piece in self:
                pieces.append(piece)  # noqa: PERF401 - what came before a cancellation is kept
        except Exception:
            raise
        except BaseException:
            self._rest = b"".join(pieces)
            raise
        return b"".join(pieces)

    @coroutine
    def _next(self, *, iterates: bool = False) -> Generator[Any, Any, bytes]:
        """The next piece; at the end of the message b"", or for an iteration its end."""
        if self._rest:
            return self._held()
        if self.ended or self.aborted is not None:
            self._check_open()
        piece = b""
        if not self.at_end:
            source = self._source
            if not source.in_hook():
                piece = yield from source.read_elsewhere(self).__await__()
            elif self.reads or self.reader is not None:
                raise RuntimeError(READ_TWICE)
            else:
                piece = yield PULL
            if not piece:
                self.check(piece)
        if iterates and not piece:
            raise StopAsyncIteration
        return piece
