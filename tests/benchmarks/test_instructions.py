# What is counted is what the table says, and a cost that grows over its limit fails.

from __future__ import annotations

import pytest

from benchmarks.instructions import LAPS, WORKS, judged, per_time, work


def test_each_lap_has_its_mark() -> None:
    marks: list[None] = []
    work(lambda: marks.append(None))
    assert len(marks) == LAPS * len(WORKS)


def test_what_comes_once_is_not_counted() -> None:
    laps = [lap for each in WORKS for lap in (99_999, 5000 + 7 * each.times, 5000 + 14 * each.times)]
    assert per_time(laps) == [7] * len(WORKS)


def test_all_but_the_unit_have_a_limit() -> None:
    assert [work.limit is None for work in WORKS] == [True] + [False] * (len(WORKS) - 1)


@pytest.mark.parametrize("number", range(1, len(WORKS)))
def test_who_costs_more_than_its_limit_is_over(number: int) -> None:
    limit = WORKS[number].limit
    assert limit is not None
    for part, over in ((1.0, []), (1.01, [WORKS[number].name])):
        counts = [1000.0] + [0.0] * (len(WORKS) - 1)
        counts[number] = 1000 * limit * part
        assert [row.name for row in judged(counts) if row.over] == over
