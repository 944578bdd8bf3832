# A thread for work that may block: files, and an output that nobody reads.
#
# One thread does what it is handed in the order in which it was handed over, so whatever only its
# work touches needs no lock. Threads and queues are taken from their modules when they are needed, since
# gevent may have patched them by then. It is a daemon: a disk that hangs keeps no process from ending.

from __future__ import annotations

import os
import queue
import threading
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from smtpproto_server._log import LOG

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Worker"]

T = TypeVar("T")


class Worker:
    """Does work in a thread of its own, which begins with the first work.

    Works in the child of a fork too; what was handed over before the fork is the parent's.
    """

    __slots__ = ("_begins", "_name", "_process", "_queue", "_thread")

    def __init__(self, name: str) -> None:
        self._name: str = name
        self._begins: threading.Lock = threading.Lock()
        self._process: int = 0
        self._queue: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def put(self, work: Callable[[], object]) -> None:
        """Have work done, after all that was put before it.

        Raises RuntimeError, and the work is not done, if the thread cannot be started.
        """
        if self._process != os.getpid():
            self._begin()
        self._queue.put(work)

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """The same, with what the work returns or raises. Cancelled in time, it is not done."""
        future: Future[T] = Future()
        self.put(partial(_fulfil, future, work))
        return future

    def close(self, seconds: float) -> bool:
        """Wait so long for what was put to be done, and end the thread; False if it was not done in time."""
        thread, self._thread, self._process = self._thread, None, 0
        if thread is None or not thread.is_alive():  # the latter in the child of a fork
            return True
        self._queue.put(None)
        thread.join(seconds)
        return not thread.is_alive()

    def _begin(self) -> None:
        with self._begins:
            if self._process == os.getpid():
                return
            self._queue = queue.SimpleQueue()
            self._thread = threading.Thread(target=_work, args=(self._queue,), name=self._name, daemon=True)
            self._thread.start()
            self._process = os.getpid()


def _work(waiting: queue.SimpleQueue[Callable[[], object] | None]) -> None:
    while (work := waiting.get()) is not None:
        try:
            work()
        except Exception:  # noqa: BLE001 - the next work is somebody else's
            LOG.exception("%r failed", work)
        del work  # while it waits, nothing of it is kept


def _fulfil(future: Future[T], work: Callable[[], T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
        future.set_exception(error)
    else:
        future.set_result(result)
