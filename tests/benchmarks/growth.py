# `python -m tests.benchmarks growth`: ten times the input is ten times the work, whatever the input.
#
# A client must not be able to buy much work with few octets, so no work may grow faster than what is
# sent. What is quadratic takes a hundred times as long here, which no busy machine hides.

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final, TypeAlias

from benchmarks.conversations import play
from benchmarks.core import enough, timed
from benchmarks.hostile import HOSTILE
from benchmarks.rows import Row, told

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.hostile import Growing

TEN_TIMES: Final = 10
LIMIT: Final = 12  # a little more than ten: what is large does not fit into the processor's caches
ROUNDS: Final = 3
TRIES: Final = 4  # what really grows faster is over its limit every time, noise is not
LONG_ENOUGH: Final = 4_000_000  # nanoseconds

Lap: TypeAlias = tuple[float, float]  # nanoseconds, for the small input and for the large one


def main(argv: Sequence[str]) -> int:
    """See that ten times the input takes no more than ten times as long; 1 if some takes longer."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks growth", description=main.__doc__)
    parser.add_argument("--only", default="", help="what the names of the rows are to contain")
    parser.add_argument("--json", type=Path, help="write the rows here")
    wanted = parser.parse_args(argv)
    chosen = [each for each in HOSTILE if wanted.only in each.name]
    if not chosen:
        parser.error(f"nothing has {wanted.only!r} in its name")
    return told([row(each, measured(each)) for each in chosen], wanted.json)


def row(growing: Growing, tries: Iterator[Sequence[Lap]]) -> Row:
    """The first try that is within the limit; without one, the last."""
    found = judged(growing, next(tries))
    for _ in range(TRIES - 1):
        if not found.over:
            break
        found = judged(growing, next(tries))
    return found


def measured(growing: Growing) -> Iterator[Sequence[Lap]]:
    """Try after try. Both parts of a lap take about as long, and so meet as much noise."""
    small, large = (
        partial(play, growing.made(number)) for number in (growing.small, TEN_TIMES * growing.small)
    )
    times = enough(large, LONG_ENOUGH)
    while True:
        yield [(timed(small, TEN_TIMES * times), timed(large, times)) for _ in range(ROUNDS)]


def judged(growing: Growing, laps: Sequence[Lap]) -> Row:
    """How many times the small input's time the large one took."""
    small, large = (median(each) / 1000 for each in zip(*laps, strict=True))
    ratio = median(large / small for small, large in laps)
    return Row(growing.name, {"us": small, "us of ten times": large}, ratio, LIMIT)
