# Where messages go: each sink makes the hook `on_data` of one server.
#
# A hook never blocks: what it hands over to a thread it waits for in the way of its runtime, which is
# a function that takes a future. Where there are coroutines the hook is one, elsewhere it is plain.

from __future__ import annotations

from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from smtpproto_cli._faults import Fault
from smtpproto_server import Maildir

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from concurrent.futures import Future
    from pathlib import Path
    from typing import IO, Any

    from smtpproto import Session
    from smtpproto_cli._journal import Journal
    from smtpproto_server import AsyncStream, Incoming, Stream

    CoroutineHook = Callable[[AsyncStream, Session], Coroutine[Any, Any, str | None]]
    PlainHook = Callable[[Stream, Session], str | None]

__all__ = ["Awaits", "Discarding", "Printing", "Sink", "Storing", "Waits"]

IN_MEMORY: Final = 1024 * 1024  # octets of a message that wait in memory to be printed

T = TypeVar("T")


class Awaits(Protocol):
    """How a coroutine waits for a future that a thread fulfils; cancelled, it cancels the future."""

    def __call__(self, future: Future[T], /) -> Awaitable[T]: ...


class Waits(Protocol):
    """How a plain hook waits for it."""

    def __call__(self, future: Future[T], /) -> T: ...


class Sink(Protocol):
    """Takes messages and has them entered in the journal; a text that its hooks return is that of the 250."""

    def coroutine(self, wait: Awaits, /) -> CoroutineHook:
        """The hook for runtimes that have coroutines."""
        ...

    def plain(self, wait: Waits, /) -> PlainHook:
        """The hook for those that have none."""
        ...

    def close(self, seconds: float, /) -> None:
        """Let what was begun come to its end, for so long."""


class Storing:
    """Puts messages into a Maildir. Raises Fault if that cannot be had."""

    __slots__ = ("_folder", "_journal", "_maildir")

    def __init__(self, folder: Path, journal: Journal, *, trace: bool, name: str) -> None:
        self._folder: Path = folder
        self._journal: Journal = journal
        try:
            self._maildir: Maildir = Maildir(folder, trace=trace, name=name)
        except OSError as error:
            raise Fault(
                f"--maildir: cannot use {str(folder)!r}: {error.strerror}; choose another directory"
            ) from None

    def coroutine(self, wait: Awaits) -> CoroutineHook:
        """Answer with the name of the file when the message is on the disk."""

        async def on_data(stream: AsyncStream, session: Session) -> str:
            with self._maildir.incoming(stream, session) as message:
                async for chunk in stream:
                    if (writing := message.write(chunk)) is not None:
                        await wait(writing)
                await wait(message.commit())
                return self._enter(message, session, stream.byte_length)

        return on_data

    def plain(self, wait: Waits) -> PlainHook:
        """The same."""

        def on_data(stream: Stream, session: Session) -> str:
            with self._maildir.incoming(stream, session) as message:
                for chunk in stream:
                    if (writing := message.write(chunk)) is not None:
                        wait(writing)
                wait(message.commit())
                return self._enter(message, session, stream.byte_length)

        return on_data

    def close(self, seconds: float) -> None:
        """A message that was answered with 250 is on the disk; what was given up is yet to be removed."""
        self._maildir.close(seconds)

    def _enter(self, message: Incoming, session: Session, size: int) -> str:
        reply = message.stored()
        # As the user spelt the directory, to be found from where they stand.
        self._journal.message(session, size, str(self._folder / "new" / message.name))
        return reply


class Printing:
    """Prints messages. They are collected first, so that two never mix."""

    __slots__ = ("_journal",)

    def __init__(self, journal: Journal) -> None:
        self._journal: Journal = journal

    def coroutine(self, wait: Awaits) -> CoroutineHook:
        """Accept the message when it has been printed."""

        async def on_data(stream: AsyncStream, session: Session) -> None:
            with SpooledTemporaryFile(max_size=IN_MEMORY) as spool:
                async for chunk in stream:
                    spool.write(chunk)
                await wait(self._printed(stream, session, spool))

        return on_data

    def plain(self, wait: Waits) -> PlainHook:
        """The same."""

        def on_data(stream: Stream, session: Session) -> None:
            with SpooledTemporaryFile(max_size=IN_MEMORY) as spool:
                spool.writelines(stream)
                wait(self._printed(stream, session, spool))

        return on_data

    def close(self, seconds: float) -> None:
        """Nothing was begun but what the journal ends."""

    def _printed(self, stream: AsyncStream | Stream, session: Session, spool: IO[bytes]) -> Future[None]:
        return self._journal.printed(session, stream.byte_length, spool, lambda: stream.given_up)


class Discarding:
    """Reads messages and drops them."""

    __slots__ = ("_journal",)

    def __init__(self, journal: Journal) -> None:
        self._journal: Journal = journal

    def coroutine(self, _wait: Awaits) -> CoroutineHook:
        """Accept the message; nothing is left of it."""

        async def on_data(stream: AsyncStream, session: Session) -> None:
            async for _ in stream:
                pass
            self._journal.message(session, stream.byte_length, "discarded")

        return on_data

    def plain(self, _wait: Waits) -> PlainHook:
        """The same."""

        def on_data(stream: Stream, session: Session) -> None:
            for _ in stream:
                pass
            self._journal.message(session, stream.byte_length, "discarded")

        return on_data

    def close(self, seconds: float) -> None:
        """Nothing was begun."""
