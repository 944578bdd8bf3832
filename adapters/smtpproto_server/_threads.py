# Threads for plain hooks, look-ups and blocking connections.
#
# They are made when there is work and no idle one, and are daemons: one that hangs in somebody's hook
# keeps no program from ending.

from __future__ import annotations

import contextlib
import heapq
import itertools
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    Work = Callable[[], object]

__all__ = ["Job", "Threads", "Timers", "outcome"]

IDLE: Final = 10.0  # seconds that a thread without work stays


def outcome(call: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """What a call returned or raised, for threads of a runtime that has its own idea of some of it."""
    try:
        return call(), None
    except BaseException as error:  # noqa: BLE001 - raised where the hook was called
        return None, error


class Job:
    """Work that was handed to `Threads`. When it is over nothing is kept of it."""

    __slots__ = ("left", "over", "work")

    def __init__(self, work: Work) -> None:
        self.work: Work = work
        self.over: bool = False
        """It has been done, or will not be."""
        self.left: bool = False
        """Its thread counts no more, and ends with it."""


class Threads:
    """At most so many threads at work that was not given up; more work waits its turn."""

    __slots__ = ("_change", "_closed", "_idle", "_jobs", "_most", "_name", "_numbers", "_running")

    def __init__(self, most: int, name: str) -> None:
        self._most: int = most
        self._name: str = name
        self._numbers: itertools.count[int] = itertools.count(1)
        self._change: threading.Condition = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._running: int = 0
        self._idle: int = 0
        self._closed: bool = False

    def submit(self, work: Work) -> Job:
        """Have it called in a thread; it must not raise.

        Raises RuntimeError, and does nothing, if the system has no thread for it.
        """
        job = Job(work)
        with self._change:
            if self._closed:
                raise RuntimeError(f"the threads {self._name!r} have been closed")
            if len(self._jobs) >= self._idle and self._running < self._most:
                self._start()
            self._jobs.append(job)
            self._change.notify()
        return job

    def leave(self, job: Job) -> None:
        """The work was given up: its thread, which may hang for ever, makes place for another.

        Work that has not begun is dropped.
        """
        with self._change:
            if job.over or job.left:
                return
            if job in self._jobs:
                self._jobs.remove(job)
                job.over, job.work = True, _nothing
                return
            job.left = True
            self._running -= 1
            if len(self._jobs) > self._idle and self._running < self._most and not self._closed:
                with contextlib.suppress(RuntimeError):  # no thread yet: the next `submit` starts one
                    self._start()

    def close(self) -> None:
        """Take no more work; what has not begun is dropped, and idle threads end."""
        with self._change:
            self._closed = True
            while self._jobs:
                self._jobs.pop().work = _nothing
            self._change.notify_all()

    def _start(self) -> None:
        threading.Thread(target=self._run, name=f"{self._name}-{next(self._numbers)}", daemon=True).start()
        self._running += 1

    def _run(self) -> None:
        while (job := self._next()) is not None:
            _call(job.work)
            with self._change:
                job.over, job.work = True, _nothing  # a cycle, if its owner keeps the job
                if job.left:
                    return
            del job  # a thread that waits holds nothing of the last one

    def _next(self) -> Job | None:
        with self._change:
            self._idle += 1
            try:
                if not self._jobs and not self._closed:
                    self._change.wait_for(lambda: self._jobs or self._closed, IDLE)
                if self._jobs:
                    return self._jobs.popleft()
                self._running -= 1
                return None
            finally:
                self._idle -= 1


class Timers:
    """One thread that calls functions at their time, for all connections of a server."""

    __slots__ = ("_change", "_closed", "_due", "_numbers", "_started")

    def __init__(self) -> None:
        self._change: threading.Condition = threading.Condition()
        self._due: list[tuple[float, int, Work]] = []
        self._numbers: itertools.count[int] = itertools.count()
        self._started: bool = False
        self._closed: bool = False

    def start(self) -> None:
        """Raises RuntimeError if the system has no thread."""
        with self._change:
            if not self._started:
                threading.Thread(target=self._run, name="smtpproto-timers", daemon=True).start()
                self._started = True

    def call_at(self, when: float, work: Work) -> None:
        """Have it called then (seconds of time.monotonic); it must be quick and not raise.

        It cannot be taken back: whoever is called looks whether it is still due.
        """
        with self._change:
            heapq.heappush(self._due, (when, next(self._numbers), work))
            if self._due[0][0] == when:
                self._change.notify()

    def close(self) -> None:
        """Call nothing more."""
        with self._change:
            self._closed = True
            self._change.notify()

    def _run(self) -> None:
        while (work := self._next()) is not None:
            _call(work)
            del work

    def _next(self) -> Work | None:
        with self._change:
            while not self._closed:
                left = self._due[0][0] - time.monotonic() if self._due else None
                if left is not None and left <= 0:
                    return heapq.heappop(self._due)[2]
                self._change.wait(left)
        return None


def _nothing() -> None:
    return None


def _call(work: Work) -> None:
    """What fails is shown as Python shows it, and stops no other work."""
    try:
        work()
    except BaseException:  # noqa: BLE001 - as it says above
        threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))
