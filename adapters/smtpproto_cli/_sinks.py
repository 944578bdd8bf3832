# Where messages go: each sink is the hook `on_data` of one server.
#
# All are plain functions, which every runtime can call.

from __future__ import annotations

from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, Final, Protocol

from smtpproto_cli._faults import Fault
from smtpproto_server import Maildir

if TYPE_CHECKING:
    from pathlib import Path

    from smtpproto import Session
    from smtpproto_cli._journal import Journal
    from smtpproto_server import Stream

__all__ = ["Discarding", "Printing", "Sink", "Storing"]

IN_MEMORY: Final = 1024 * 1024  # octets of a message that wait in memory to be printed


class Sink(Protocol):
    """Takes messages and has them entered in the journal."""

    def on_data(self, stream: Stream, session: Session, /) -> str | None:
        """Take one message; the text, if any, is that of the 250."""


class Storing:
    """Puts messages into a Maildir. Raises Fault if that cannot be had."""

    __slots__ = ("_folder", "_journal", "_maildir", "_stored")

    def __init__(self, folder: Path, journal: Journal, *, trace: bool, name: str) -> None:
        self._folder: Path = folder
        self._journal: Journal = journal
        self._stored: dict[str, Path] = {}
        try:
            self._maildir: Maildir = Maildir(folder, trace=trace, name=name, on_stored=self._note)
        except OSError as error:
            raise Fault(
                f"--maildir: cannot use {str(folder)!r}: {error.strerror}; choose another directory"
            ) from None

    def on_data(self, stream: Stream, session: Session, /) -> str | None:
        """Answer with the name of the file when the message is on the disk."""
        text = self._maildir.on_data(stream, session)
        path = self._stored.pop(session.id, None)
        if path is not None:
            # As the user spelt the directory, to be found from where they stand.
            self._journal.message(session, stream.byte_length, str(self._folder / "new" / path.name))
        return text

    def _note(self, session: Session, path: Path, _size: int) -> None:
        self._stored[session.id] = path


class Printing:
    """Prints messages. They are collected first, so that two never mix and none is printed in part."""

    __slots__ = ("_journal",)

    def __init__(self, journal: Journal) -> None:
        self._journal: Journal = journal

    def on_data(self, stream: Stream, session: Session, /) -> None:
        """Accept the message when it has been printed."""
        with SpooledTemporaryFile(max_size=IN_MEMORY) as spool:
            spool.writelines(stream)
            if stream.refusal is None:
                spool.seek(0)
                self._journal.printed(session, stream.byte_length, spool)


class Discarding:
    """Reads messages and drops them."""

    __slots__ = ("_journal",)

    def __init__(self, journal: Journal) -> None:
        self._journal: Journal = journal

    def on_data(self, stream: Stream, session: Session, /) -> None:
        """Accept the message; nothing is left of it."""
        for _ in stream:
            pass
        if stream.refusal is None:
            self._journal.message(session, stream.byte_length, "discarded")
