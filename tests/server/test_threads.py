# Threads for plain hooks and blocking connections, and the thread that calls at a time.

from __future__ import annotations

import threading
import time
import weakref
from queue import Queue
from typing import TYPE_CHECKING

import pytest

from smtpproto_kit import DEADLINE, wait_until
from smtpproto_server import _threads
from smtpproto_server.adapting import Threads, Timers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    wait_until(lambda: set(threading.enumerate()) <= before)


def running(name: str) -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith(name)]


class Busy:
    """Work that goes on until it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.end = threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        assert self.end.wait(DEADLINE)


def test_as_many_threads_work_as_there_is_work_and_no_more_than_allowed() -> None:
    threads = Threads(2, "busy")
    work = [Busy() for _ in range(3)]
    for each in work:
        threads.submit(each)
    assert all(each.begun.wait(DEADLINE) for each in work[:2])
    assert sorted(running("busy")) == ["busy-1", "busy-2"]
    assert not work[2].begun.is_set()  # it waits its turn
    work[0].end.set()
    assert work[2].begun.wait(DEADLINE)
    for each in work:
        each.end.set()
    threads.close()


def test_work_that_was_given_up_makes_place_and_its_thread_ends_with_it() -> None:
    threads = Threads(1, "left")
    hung, waiting, dropped = Busy(), Busy(), Busy()
    job = threads.submit(hung)
    assert hung.begun.wait(DEADLINE)
    threads.submit(waiting)
    threads.leave(threads.submit(dropped))
    threads.leave(job)
    threads.leave(job)  # once is enough
    assert waiting.begun.wait(DEADLINE)
    assert sorted(running("left")) == ["left-1", "left-2"]
    hung.end.set()
    wait_until(lambda: running("left") == ["left-2"])
    threads.leave(job)  # it is over
    waiting.end.set()
    wait_until(lambda: threads._idle == 1)
    assert threads._running == 1
    assert not dropped.begun.is_set()
    threads.close()


def test_an_idle_thread_is_used_again() -> None:
    threads, names = Threads(8, "again"), Queue[str]()
    for _ in range(5):
        threads.submit(lambda: names.put(threading.current_thread().name))
        assert names.get(timeout=DEADLINE) == "again-1"
        wait_until(lambda: threads._idle == 1)
    threads.close()


def test_idle_threads_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_threads, "IDLE", 0.0)
    threads, done = Threads(8, "idle"), Queue[int]()
    for number in range(3):
        threads.submit(lambda number=number: done.put(number))  # type: ignore[misc]
    assert sorted(done.get(timeout=DEADLINE) for _ in range(3)) == [0, 1, 2]
    wait_until(lambda: not running("idle"))
    assert threads._running == 0
    threads.submit(lambda: done.put(3))
    assert done.get(timeout=DEADLINE) == 3
    threads.close()


def test_work_that_has_no_thread_is_refused_and_not_done_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    threads, done = Threads(8, "none"), Queue[int]()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", cannot)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            threads.submit(lambda: done.put(1))
    threads.submit(lambda: done.put(2))
    assert done.get(timeout=DEADLINE) == 2
    assert done.empty()
    threads.close()


def test_closed_threads_drop_what_has_not_begun_and_take_no_more() -> None:
    threads, busy = Threads(1, "closed"), Busy()
    late: list[int] = []
    threads.submit(busy)
    threads.submit(lambda: late.append(1))
    assert busy.begun.wait(DEADLINE)
    threads.close()
    with pytest.raises(RuntimeError, match="have been closed"):
        threads.submit(lambda: late.append(2))
    busy.end.set()
    wait_until(lambda: not running("closed"))
    assert not late


def test_timers_call_in_the_order_of_their_times() -> None:
    timers, called = Timers(), Queue[str]()
    timers.start()
    timers.start()  # one thread, however often
    now = time.monotonic()
    timers.call_at(now + 0.02, lambda: called.put("later"))
    timers.call_at(now + 0.01, lambda: called.put("sooner"))
    timers.call_at(now - 1, lambda: called.put("at once"))
    assert [called.get(timeout=DEADLINE) for _ in range(3)] == ["at once", "sooner", "later"]
    assert time.monotonic() >= now + 0.02
    assert len(running("smtpproto-timers")) == 1
    timers.close()


def test_a_time_before_all_others_is_not_slept_over() -> None:
    timers, called = Timers(), Queue[int]()
    timers.start()
    timers.call_at(time.monotonic() + 10 * DEADLINE, lambda: called.put(2))
    timers.call_at(time.monotonic(), lambda: called.put(1))
    assert called.get(timeout=DEADLINE) == 1
    timers.close()


def test_closed_timers_call_nothing_more() -> None:
    timers = Timers()
    called: list[int] = []
    timers.start()
    timers.call_at(time.monotonic() + 10 * DEADLINE, lambda: called.append(1))
    timers.close()
    wait_until(lambda: not running("smtpproto-timers"))
    timers.call_at(time.monotonic(), lambda: called.append(2))
    assert not called


def test_timers_without_a_thread_can_be_started_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    timers, called = Timers(), Queue[int]()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", cannot)
        with pytest.raises(RuntimeError):
            timers.start()
    timers.start()
    timers.call_at(time.monotonic(), lambda: called.put(1))
    assert called.get(timeout=DEADLINE) == 1
    timers.close()


def test_what_was_done_is_not_kept_by_a_thread_that_waits() -> None:

    threads = Threads(1, "kept")
    busy = Busy()
    busy.end.set()
    kept: Callable[[], object] = weakref.ref(busy)
    threads.submit(busy)
    del busy
    wait_until(lambda: kept() is None)
    threads.close()
