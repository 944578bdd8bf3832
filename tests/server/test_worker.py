# The thread for work that may block: order, faults, forks, and an end that does not wait for ever.

from __future__ import annotations

import os
import threading
from functools import partial
from typing import TYPE_CHECKING, Final

import pytest

from smtpproto_server._worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE: Final = 60.0  # seconds


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker("test-worker")
    yield made
    assert made.close(PATIENCE)


def fail() -> None:
    raise ValueError("boom")


def test_work_is_done_in_the_order_in_which_it_was_handed_over(worker: Worker) -> None:
    seen: list[int] = []
    for number in range(100):
        worker.put(partial(seen.append, number))
    worker.submit(int).result(PATIENCE)
    assert seen == list(range(100))


def test_all_work_is_done_in_one_thread_that_keeps_no_process_alive(worker: Worker) -> None:
    first, second = (worker.submit(threading.current_thread) for _ in range(2))
    thread = first.result(PATIENCE)
    assert thread is second.result(PATIENCE)
    assert (thread.name, thread.daemon) == ("test-worker", True)


def test_a_future_raises_what_the_work_raises(worker: Worker) -> None:
    with pytest.raises(ValueError, match="boom"):
        worker.submit(fail).result(PATIENCE)


def test_work_without_a_future_that_fails_is_logged_and_ends_nothing(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    worker.put(fail)
    assert worker.submit(lambda: 1).result(PATIENCE) == 1
    assert "ValueError: boom" in caplog.text


def test_work_that_is_cancelled_before_its_turn_is_not_done(worker: Worker) -> None:
    gate = threading.Event()
    worker.put(gate.wait)
    seen: list[int] = []
    future = worker.submit(lambda: seen.append(1))
    assert future.cancel()
    gate.set()
    worker.submit(int).result(PATIENCE)
    assert seen == []


def test_close_does_what_was_handed_over_and_a_later_work_begins_anew(worker: Worker) -> None:
    seen: list[int] = []
    worker.put(lambda: seen.append(1))
    assert worker.close(PATIENCE)
    assert seen == [1]
    assert worker.submit(lambda: 2).result(PATIENCE) == 2


def test_close_does_not_wait_for_ever(worker: Worker) -> None:
    gate = threading.Event()
    worker.put(gate.wait)
    assert not worker.close(0.01)
    gate.set()


def test_a_child_has_a_thread_of_its_own_and_does_no_work_of_its_parent(worker: Worker) -> None:
    gate = threading.Event()
    worker.put(gate.wait)
    worker.put(lambda: os._exit(1))  # the parent's, if the child did it
    process = os.fork()
    if not process:
        os._exit(worker.submit(lambda: 42).result(PATIENCE))
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 42
    # What the parent still has would end it.
    worker._queue.get()
    gate.set()


def test_many_threads_that_begin_it_begin_one(worker: Worker) -> None:
    barrier = threading.Barrier(8)
    threads: list[threading.Thread] = []

    def begin() -> None:
        barrier.wait(PATIENCE)
        threads.append(worker.submit(threading.current_thread).result(PATIENCE))

    beginners = [threading.Thread(target=begin) for _ in range(8)]
    for each in beginners:
        each.start()
    for each in beginners:
        each.join(PATIENCE)
    assert len(set(threads)) == 1
