# Hostile input is read to its end, is ten times as long when it says so, and what grows faster fails.

from __future__ import annotations

from itertools import repeat

import pytest

from benchmarks.conversations import codes, play
from benchmarks.growth import judged, row
from benchmarks.hostile import HOSTILE, Growing


@pytest.mark.parametrize("growing", HOSTILE, ids=lambda each: each.name)
def test_hostile_input_gets_the_replies_it_names(growing: Growing) -> None:
    conversation = growing.made(growing.small)
    assert codes(play(conversation)) == conversation.codes


@pytest.mark.parametrize("growing", HOSTILE, ids=lambda each: each.name)
def test_ten_times_the_number_is_ten_times_the_input(growing: Growing) -> None:
    lengths = [sum(map(len, growing.made(number).says)) for number in (growing.small, 10 * growing.small)]
    assert 3 * lengths[0] < lengths[1] <= 10 * lengths[0]


@pytest.mark.parametrize(("large", "over"), [(1000, False), (1200, False), (1201, True), (10_000, True)])
def test_what_takes_more_than_twelve_times_as_long_is_over(large: float, over: bool) -> None:
    assert judged(HOSTILE[0], [(100, large), (200, 100), (1, 99)]).over is over


def test_what_was_noise_is_tried_again() -> None:
    tries = iter([[(1.0, 13.0)], [(1.0, 11.0)], [(1.0, 10.0)]])
    assert row(HOSTILE[0], tries).ratio == 11
    assert list(tries) == [[(1.0, 10.0)]]


def test_what_is_over_every_time_is_over() -> None:
    assert row(HOSTILE[0], repeat([(1.0, 13.0)])).over
