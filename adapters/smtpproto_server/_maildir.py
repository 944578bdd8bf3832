# A store that keeps its promise: the directories of a Maildir, and the hook.

from __future__ import annotations

import itertools
import os
import re
import socket
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, Self

from smtpproto_server._delivery import Batches, Delivery, Incoming, MessageFacts, storage
from smtpproto_server._log import LOG, about
from smtpproto_server._trace import trace_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from smtpproto import Session

__all__ = ["Delivery", "Maildir", "MessageStream"]

CLOSE_WITHIN: Final = 5.0  # seconds
STALE_AFTER: Final = 36 * 3600.0  # seconds; the Maildir custom for what was left in tmp/
MAX_HOST: Final = 128  # octets in a file name, of which most systems allow 255

_NOT_IN_NAMES: Final = re.compile(rb"[^A-Za-z0-9._-]")

# One count for the process: two stores on the same directory must not choose the same name.
_DELIVERIES: Final = itertools.count(1)


class MessageStream(MessageFacts, Protocol):
    """What `Maildir.on_data` needs of the stream that a plain hook is given."""

    def __iter__(self) -> Iterator[bytes]: ...


class Maildir:
    """A Maildir that takes mail; made with its directories if it does not exist.

    Use `on_data` as the hook, in any runtime; `incoming` in a coroutine hook; or `delivery` in a hook
    of your own. It may be used by many threads at once, and several processes may share the directory.
    `name` is this host's, in file names and in the trace lines, which `trace` leaves out if false.
    `on_stored(session, path, size)` is called for every message stored by `on_data` or `incoming`;
    `size` is that of the file.
    Raises OSError if the directories cannot be had.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        trace: bool = True,
        name: str = "",
        clock: Callable[[], float] = time.time,
        on_stored: Callable[[Session, Path, int], object] | None = None,
    ) -> None:
        self.path: Path = Path(path).absolute()
        """The directory that holds tmp/, new/ and cur/."""
        self.trace: bool = trace
        self.name: str = name or socket.gethostname()
        self._on_stored: Callable[[Session, Path, int], object] | None = on_stored
        self._clock: Callable[[], float] = clock
        self._host: str = _host_in_names(self.name)
        _make_directory(self.path)
        for folder in ("tmp", "new", "cur"):
            (self.path / folder).mkdir(mode=0o700, exist_ok=True)
        # Also if they existed: who made them may have died before this.
        _sync_directory(self.path)
        # Everything below goes through these two, so what is synced is what was renamed into, even
        # if somebody moves the directories meanwhile.
        self._tmp: int = _open_directory(self.path / "tmp")
        self._new: int = _open_directory(self.path / "new")
        self._writer: Batches = Batches(self._new)
        self._remove_stale()

    def on_data(self, stream: MessageStream, session: Session) -> str:
        """Store one message; a plain hook. The text returned names the file.

        One copy for all recipients, one decision for all of them in LMTP too. Raises Reject(452)
        when there is no room; every other exception, those of the stream included, goes on to the
        server. Nothing is kept of a message that broke off or that will be refused.
        """
        with self.incoming(stream, session) as message:
            for chunk in stream:
                if (writing := message.write(chunk)) is not None:
                    writing.result()
            message.commit().result()
            return message.stored()

    def incoming(self, stream: MessageFacts, session: Session) -> Incoming:
        """Begin to store the message of a hook, which waits for the futures in the way of its runtime."""
        head = b""
        if self.trace:
            head = trace_lines(session, received_by=self.name, when=self._clock())
        return Incoming(stream, head, self._writer, open_=self.delivery, stored=partial(self._tell, session))

    @storage()
    def delivery(self) -> Delivery:
        """Begin a message: write to what is returned, then `commit` or `abort` it."""
        while True:
            name = self._unique_name()
            with suppress(FileExistsError):
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                descriptor = os.open(name, flags, 0o600, dir_fd=self._tmp)
                return Delivery(self.path / "new", name, descriptor, tmp=self._tmp, new=self._new)

    def close(self, timeout: float = CLOSE_WITHIN) -> None:
        """Give the directories' descriptors back, when no delivery is open any more.

        Waits `timeout` seconds for work that was begun. If the disk hangs for longer, the thread and the
        descriptors are left as they are.
        """
        if not self._writer.close(timeout):
            return  # it would go on with whatever has these descriptors by then
        tmp, new, self._tmp, self._new = self._tmp, self._new, -1, -1
        for descriptor in (tmp, new):
            if descriptor >= 0:
                os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _tell(self, session: Session, name: str, size: int) -> None:
        if self._on_stored is None:
            return
        try:
            self._on_stored(session, self.path / "new" / name, size)
        except Exception:  # noqa: BLE001 - the application's, logged
            # The message is stored; saying anything but 250 now would only store it twice.
            LOG.exception("on_stored failed for %s", name, extra=about(session))

    def _unique_name(self) -> str:
        """Unique among all hosts and processes that deliver here: time, process, count, host."""
        seconds, micros = divmod(int(self._clock() * 1_000_000), 1_000_000)
        return f"{seconds}.M{micros}P{os.getpid()}Q{next(_DELIVERIES)}.{self._host}"

    def _remove_stale(self) -> None:
        """Drop what processes that died left in tmp/."""
        limit = self._clock() - STALE_AFTER
        with os.scandir(self._tmp) as entries:
            for entry in entries:
                with suppress(OSError):  # another process was quicker, or it is not ours to remove
                    if entry.is_file(follow_symlinks=False) and entry.stat().st_mtime < limit:
                        os.unlink(entry.name, dir_fd=self._tmp)


def _host_in_names(name: str) -> str:
    """The host's name without what a file name cannot have, as the Maildir custom spells it."""
    escaped = _NOT_IN_NAMES.sub(lambda octet: b"\\%03o" % ord(octet[0]), name.encode(errors="replace"))
    return escaped.decode()[:MAX_HOST]


def _make_directory(path: Path) -> None:
    """Make it and what is above it, each entry synced in the directory that holds it."""
    if path.is_dir():
        return
    _make_directory(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    descriptor = _open_directory(path)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open_directory(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
