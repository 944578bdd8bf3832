# What is timed, and what it is judged by; the clock is none of a test's business.

from __future__ import annotations

from benchmarks.conversations import MESSAGE
from benchmarks.core import LIMITS, Work, all_work, judged


def test_every_limit_is_of_something_that_is_timed() -> None:
    names = [work.name for work in all_work()]
    assert set(LIMITS) <= set(names)
    assert len(set(names)) == len(names)


def test_each_is_compared_with_the_first_of_its_own_round() -> None:
    works = [Work("h11", bool), Work(MESSAGE.name, bool), Work("body", bool, octets=3000, hoped=0.5)]
    laps = [[100, 20, 1000], [10_000, 2000, 100_000], [100, 26, 1000]]
    yardstick, message, body = judged(works, laps)
    assert (yardstick.ratio, yardstick.limit, yardstick.figures["us"]) == (1, None, 0.1)
    assert (message.ratio, message.limit, message.over) == (0.2, 0.25, False)
    assert body.figures == {"us": 1, "GB/s": 3, "hoped for": 0.5}


def test_a_message_that_takes_more_than_a_quarter_of_the_yardstick_is_over() -> None:
    _, message = judged([Work("h11", bool), Work(MESSAGE.name, bool)], [[100, 26], [100, 24], [100, 27]])
    assert message.over
