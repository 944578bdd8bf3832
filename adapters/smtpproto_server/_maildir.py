# A store that keeps its promise.
#
# 250 hands the responsibility for a message over (RFC 5321 §6.1). So the order here is the whole
# point: the file is written and synced in tmp/, renamed into new/, new/ is synced, and only then
# does anybody hear of success. Whatever goes wrong before that ends as an exception, and whatever
# stands in new/ is whole.

from __future__ import annotations

import errno
import itertools
import logging
import os
import re
import socket
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, Self

from smtpproto import Reject
from smtpproto_server._trace import trace_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from smtpproto import Session

__all__ = ["Delivery", "Maildir", "MessageStream"]

STALE_AFTER: Final = 36 * 3600.0  # seconds; the Maildir custom for what was left in tmp/
MAX_HOST: Final = 128  # octets in a file name, of which most systems allow 255
NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

_NOT_IN_NAMES: Final = re.compile(rb"[^A-Za-z0-9._-]")

# One count for the process: two stores on the same directory must not choose the same name.
_DELIVERIES: Final = itertools.count(1)
_LOG: Final = logging.getLogger("smtpproto")


class MessageStream(Protocol):
    """What `Maildir.on_data` needs of the stream that a plain hook is given."""

    @property
    def complete(self) -> bool:
        """The end of the message was seen."""
        ...

    @property
    def refusal(self) -> Reject | None:
        """What will be answered whatever the hook returns."""
        ...

    def __iter__(self) -> Iterator[bytes]: ...


@contextmanager
def _storage() -> Generator[None]:
    """A full disk is a state of this host that passes (RFC 5321 §4.2.3); other faults stay what they are."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise Reject(452, "4.3.1", "Error: insufficient system storage") from error
        raise


class Maildir:
    """A Maildir that takes mail; made with its directories if it does not exist.

    Use `on_data` as the hook, in any runtime, or `delivery` from a hook of your own. It may be used
    by many threads at once, and several processes may share the directory. `name` is this host's, in
    file names and in the trace lines, which `trace` leaves out if false. `on_stored(session, path,
    size)` is told of every message stored by `on_data`; `size` is that of the file.
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
        self.on_stored: Callable[[Session, Path, int], object] | None = on_stored
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
        self._remove_stale()

    def on_data(self, stream: MessageStream, session: Session) -> str | None:
        """Store one message; a plain hook. The text returned names the file.

        One copy for all recipients, one decision for all of them in LMTP too. Raises Reject(452)
        when there is no room; every other exception, those of the stream included, goes on to the
        server. Nothing is kept of a message that broke off or that will be refused.
        """
        with self.delivery() as delivery:
            if self.trace:
                delivery.write(trace_lines(session, received_by=self.name, when=self._clock()))
            for chunk in stream:
                delivery.write(chunk)
            if stream.refusal is not None:
                return None
            if not stream.complete:
                raise RuntimeError("the stream ended before the message did")
            path = delivery.commit()
        self._tell(session, path, delivery.size)
        return f"OK: queued as {path.name}"

    @_storage()
    def delivery(self) -> Delivery:
        """Begin a message: write to what is returned, then `commit` or `abort` it."""
        while True:
            name = self._unique_name()
            with suppress(FileExistsError):
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                descriptor = os.open(name, flags, 0o600, dir_fd=self._tmp)
                return Delivery(self.path / "new", name, descriptor, tmp=self._tmp, new=self._new)

    def close(self) -> None:
        """Give the directories' descriptors back, when no delivery is open any more."""
        tmp, new, self._tmp, self._new = self._tmp, self._new, -1, -1
        for descriptor in (tmp, new):
            if descriptor >= 0:
                os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _tell(self, session: Session, path: Path, size: int) -> None:
        if self.on_stored is None:
            return
        try:
            self.on_stored(session, path, size)
        except Exception:  # noqa: BLE001 - the application's, logged
            # The message is stored; saying anything but 250 now would only store it twice.
            _LOG.exception("on_stored failed for %s", path.name)

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


class Delivery:
    """One message on its way into a Maildir. As a context manager: aborted unless committed.

    After an exception from `write` or `commit` the delivery is over and nothing of it is left.
    """

    __slots__ = ("_descriptor", "_folder", "_new", "_open", "_tmp", "name", "size")

    def __init__(self, folder: Path, name: str, descriptor: int, *, tmp: int, new: int) -> None:
        self.name: str = name
        """The file's name in tmp/; in new/ it has its size behind it."""
        self.size: int = 0
        """Octets written so far."""
        self._folder: Path = folder
        self._descriptor: int = descriptor
        self._tmp: int = tmp
        self._new: int = new
        self._open: bool = True

    def write(self, data: bytes) -> None:
        """Append octets. Raises Reject(452) when there is no room, OSError for every other fault."""
        with self._aborted_by_faults():
            rest = memoryview(data)
            while rest:  # a write cut short says why only when it is tried again
                rest = rest[os.write(self._descriptor, rest) :]
            self.size += len(data)

    def commit(self) -> Path:
        """Store the message; when this returns it is on the disk under the path returned.

        Raises as `write` does.
        """
        with self._aborted_by_faults():
            os.fsync(self._descriptor)
            self._close()  # may also report a failed write, on NFS for instance
            path = self._publish(f"{self.name},S={self.size}")
        self._open = False
        return path

    def abort(self) -> None:
        """Drop the message. Never raises; without effect behind `commit` or another `abort`."""
        if not self._open:
            return
        self._open = False
        with suppress(OSError):
            self._close()
        with suppress(OSError):
            os.unlink(self.name, dir_fd=self._tmp)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    @contextmanager
    def _aborted_by_faults(self) -> Generator[None]:
        if not self._open:
            raise ValueError("the delivery is over")
        try:
            with _storage():
                yield
        except BaseException:
            self.abort()
            raise

    def _publish(self, name: str) -> Path:
        # Who holds a name in tmp/ is alone in making files of that name in new/, so nobody can
        # come between this look and the renaming, which would replace an older message.
        path = self._folder / name
        if os.access(name, os.F_OK, dir_fd=self._new):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        os.rename(self.name, name, src_dir_fd=self._tmp, dst_dir_fd=self._new)
        try:
            os.fsync(self._new)
        except BaseException:
            # The client will hear no and send the message again: once is enough.
            with suppress(OSError):
                os.unlink(name, dir_fd=self._new)
            raise
        return path

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


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
