# A message on its way into a Maildir.
#
# 250 hands the responsibility for a message over (RFC 5321 §6.1). So the order here is the whole
# point: the file is written and synced in tmp/, renamed into new/, new/ is synced, and only then
# does anybody hear of success. Whatever goes wrong before that ends as an exception, and whatever
# stands in new/ is whole.
#
# Hooks hand their file work to one thread of the store. All messages that wait there when the first
# of them has been written share a batch: each file is synced and renamed, and the directory is synced
# once for all of them. A message whose hook was given up, by hook_timeout or because its client is
# gone, leaves the batch: the client hears no 250, and will send it again.

from __future__ import annotations

import errno
import os
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, Self, TypeAlias

from smtpproto import Reject
from smtpproto_server._worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

__all__ = ["Batches", "Delivery", "Incoming", "MessageFacts", "storage"]

IN_MEMORY: Final = 64 * 1024  # octets of a message that wait in memory to be written
SYNCING: Final = 8  # threads that sync files of a batch; a disk does together what is asked together
GIVEN_UP: Final = "the hook was given up"
NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class MessageFacts(Protocol):
    """What a store needs of the stream that a hook is given."""

    @property
    def complete(self) -> bool:
        """The end of the message was seen."""
        ...

    @property
    def refusal(self) -> Reject | None:
        """What will be answered whatever the hook returns."""
        ...

    @property
    def given_up(self) -> bool:
        """What the hook returns is discarded, and the client hears no 250."""
        ...

    def claim(self) -> bool:
        """Whether the hook still has its say; it keeps it from then on."""
        ...


@contextmanager
def storage() -> Generator[None]:
    """A full disk is a state of this host that passes (RFC 5321 §4.2.3); other faults stay what they are."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise Reject(452, "4.3.1", "Error: insufficient system storage") from error
        raise


class Incoming:
    """A message that a hook receives; the store's thread does the file work.

    A hook writes, commits, and then asks for the reply. `write` and `commit` return futures; the hook
    waits for them as its runtime does (`asyncio.wrap_future`). They raise as `Delivery.write` does. As a
    context manager: nothing of the message is kept unless `stored` has returned.
    """

    __slots__ = (
        "_begun",
        "_chunks",
        "_delivery",
        "_held",
        "_open",
        "_over",
        "_stored",
        "_stream",
        "_writer",
        "name",
    )

    def __init__(
        self,
        stream: MessageFacts,
        head: bytes,
        writer: Batches,
        *,
        open_: Callable[[], Delivery],
        stored: Callable[[str, int], object],
    ) -> None:
        self.name: str = ""
        """The file's name in new/, once it is there."""
        self._stream: MessageFacts = stream
        self._writer: Batches = writer
        self._open: Callable[[], Delivery] = open_
        self._stored: Callable[[str, int], object] = stored
        self._delivery: Delivery | None = None  # the thread's
        self._begun: bool = False
        self._over: bool = False
        self._chunks: list[bytes] = [head]
        self._held: int = len(head)

    # --- the hook's side --------------------------------------------------------------------------

    def write(self, data: bytes) -> Future[None] | None:
        """Append octets; what to wait for before the next, if enough of the message is in memory."""
        self._chunks.append(data)
        self._held += len(data)
        if self._held < IN_MEMORY:
            return None
        self._begun = True
        chunks, self._chunks, self._held = self._chunks, [], 0
        return self._writer.worker.submit(partial(self._append, chunks))

    def commit(self) -> Future[None]:
        """Store the message. Raises RuntimeError if it is not complete or will be refused."""
        if self._stream.refusal is not None:
            raise RuntimeError("the message will be refused")
        if not self._stream.complete:
            raise RuntimeError("the stream ended before the message did")
        self._begun = True
        return self._writer.submit(self)

    def stored(self) -> str:
        """The text of the 250; the file stays. Raises RuntimeError if the hook was given up meanwhile."""
        if not self.name:
            raise ValueError("the message is not stored")
        if self._over or not self._stream.claim():
            raise RuntimeError(GIVEN_UP)
        self._over = True
        self._stored(self.name, self._opened().size)
        return f"OK: queued as {self.name}"

    def abort(self) -> None:
        """Drop the message. Without effect after `stored` or another `abort`."""
        if self._over:
            return
        self._over = True
        if self._begun:  # the thread comes to this after all that it was handed for this message
            self._writer.worker.put(self.remove)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    # --- the thread's side ------------------------------------------------------------------------

    def finish(self) -> None:
        """Write the rest."""
        self._check()
        self._append(self._chunks)
        self._opened().begin_sync()

    def sync(self) -> None:
        """Have the file on the disk, in tmp/."""
        self._opened().sync()

    def rename(self) -> None:
        """Move the file into new/, unless the hook was given up."""
        self._check()
        self.name = self._opened().rename().name

    def remove(self) -> None:
        """Remove the file, wherever it is."""
        if self._delivery is not None:
            self._delivery.abort()

    def _append(self, chunks: list[bytes]) -> None:
        self._opened().write(b"".join(chunks))

    def _opened(self) -> Delivery:
        if self._delivery is None:
            self._delivery = self._open()
        return self._delivery

    def _check(self) -> None:
        if self._over or self._stream.given_up:
            raise RuntimeError(GIVEN_UP)


Batch: TypeAlias = list[tuple[Incoming, "Future[None]"]]


class Batches:
    """Stores the messages that wait, and syncs the directory once for all of them."""

    __slots__ = ("_helpers", "_new", "_written", "worker")

    def __init__(self, new: int) -> None:
        self.worker: Worker = Worker("smtpproto-maildir")
        self._helpers: list[Worker] = [Worker("smtpproto-fsync") for _ in range(SYNCING - 1)]
        self._new: int = new
        self._written: Batch = []  # the thread's

    def submit(self, message: Incoming) -> Future[None]:
        """Store a message. Cancelled in time, it is not stored."""
        storing: Future[None] = Future()
        self.worker.put(partial(self._write, message, storing))
        return storing

    def close(self, seconds: float) -> bool:
        """End the threads when all is done, or give up after so long: False."""
        return all(each.close(seconds) for each in (self.worker, *self._helpers))

    def _write(self, message: Incoming, storing: Future[None]) -> None:
        if not storing.set_running_or_notify_cancel():
            return
        try:
            message.finish()
            if not self._written:
                self.worker.put(self._store)  # after all that waits now
        except BaseException as error:  # noqa: BLE001 - it is raised in the hook
            storing.set_exception(error)
        else:
            self._written.append((message, storing))

    def _store(self) -> None:
        # All files are synced before the first is renamed. A file system with a journal has much of
        # it to do once only; a renaming in between would begin anew.
        batch, self._written = self._written, []
        batch = _those_done(Incoming.rename, self._synced(batch))
        if not batch:
            return
        try:
            with storage():
                os.fsync(self._new)
        except (OSError, Reject) as error:
            for message, storing in batch:
                message.remove()
                storing.set_exception(error)
        else:
            for _, storing in batch:
                storing.set_result(None)

    def _synced(self, batch: Batch) -> Batch:
        own, *shares = (batch[first::SYNCING] for first in range(min(SYNCING, len(batch))))
        syncing: list[Future[Batch]] = []
        for helper, share in zip(self._helpers, shares, strict=False):
            try:
                syncing.append(helper.submit(partial(_those_done, Incoming.sync, share)))
            except RuntimeError:  # no thread can be started now
                own += share
        done = _those_done(Incoming.sync, own)
        for each in syncing:
            done += each.result()
        return done


def _those_done(step: Callable[[Incoming], None], batch: Batch) -> Batch:
    """Take a step with each message; those with which it went well."""
    done: Batch = []
    for message, storing in batch:
        try:
            step(message)
        except BaseException as error:  # noqa: BLE001 - it is raised in the hook
            storing.set_exception(error)
        else:
            done.append((message, storing))
    return done


class Delivery:
    """One message on its way into a Maildir. As a context manager: aborted unless committed.

    After an exception from `write` or `commit` the delivery is over and nothing of it is left.
    """

    __slots__ = ("_at", "_descriptor", "_folder", "_new", "_open", "_tmp", "name", "size")

    def __init__(self, folder: Path, name: str, descriptor: int, *, tmp: int, new: int) -> None:
        self.name: str = name
        """The file's name in tmp/; in new/ it has its size behind it."""
        self.size: int = 0
        """Octets written so far."""
        self._at: tuple[str, int] = (name, tmp)  # the file's name now, and the directory's descriptor
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
            self.sync()
            path = self.rename()
            # If this fails, the client hears no and sends the message again: once is enough.
            os.fsync(self._new)
        self._open = False
        return path

    def abort(self) -> None:
        """Drop the message. Never raises; without effect after `commit` or another `abort`."""
        if not self._open:
            return
        self._open = False
        with suppress(OSError):
            self._close()
        with suppress(OSError):
            name, folder = self._at
            os.unlink(name, dir_fd=folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    # The steps of `commit`. The last is to sync the directory, for one file or for many.

    def begin_sync(self) -> None:
        """Let the system begin to put the file on the disk, so that files synced later share its work."""
        if hasattr(os, "posix_fadvise"):
            with suppress(OSError):
                os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def sync(self) -> None:
        """Have the file on the disk, in tmp/."""
        with self._aborted_by_faults():
            os.fsync(self._descriptor)
            self._close()  # may also report a failed write, on NFS for instance

    def rename(self) -> Path:
        """Move the file into new/; `abort` still removes it."""
        with self._aborted_by_faults():
            name = f"{self.name},S={self.size}"
            path = self._folder / name
            # Who holds a name in tmp/ is alone in making files of that name in new/, so nobody can
            # come between this look and the renaming, which would replace an older message.
            if os.access(name, os.F_OK, dir_fd=self._new):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
            os.rename(self.name, name, src_dir_fd=self._tmp, dst_dir_fd=self._new)
            self._at = (name, self._new)
            return path

    @contextmanager
    def _aborted_by_faults(self) -> Generator[None]:
        if not self._open:
            raise ValueError("the delivery is over")
        try:
            with storage():
                yield
        except BaseException:
            self.abort()
            raise

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
