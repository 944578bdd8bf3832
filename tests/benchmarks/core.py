# `python -m tests.benchmarks core`: the time that the core takes, and the part of h11's that it is.
#
# The time is the thread's own on the processor. Rounds are interleaved, so that what disturbs the
# machine for a second disturbs all alike; a ratio is the median of those of each round.

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final, NamedTuple

from benchmarks.conversations import (
    CONVERSATIONS,
    KIB,
    MESSAGE,
    MIB,
    PIECE,
    Conversation,
    body,
    play,
)
from benchmarks.rows import Row, told
from benchmarks.yardstick import requests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from benchmarks.conversations import BareNewlines

LIMITS: Final[Mapping[str, float]] = {MESSAGE.name: 0.25}  # of h11's request and reply

# What 64 MiB in pieces of 64 KiB are hoped to do, in GB/s: it depends on the machine and fails nobody.
# `bare_newlines` "reject" has each CR and LF looked at.
BODIES: Final[Sequence[tuple[str, BareNewlines, float]]] = (
    ("no dot", "reject", 1.2),
    ("prose", "reject", 0.6),
    ("every line dotted", "reject", 0.35),
    ("no dot", "accept", 3),
    ("prose", "accept", 0.7),
    ("every line dotted", "accept", 0.45),
)
SMALLER: Final = ((KIB, 4 * MIB), (1, 64 * KIB))  # octets of a piece, and of the body cut into them

ROUNDS: Final = 7
LONG_ENOUGH: Final = 20_000_000  # nanoseconds: what the clock's grain and the first lap do not show in


class Work(NamedTuple):
    """Something that can be done so many times."""

    name: str
    run: Callable[[int], object]
    octets: int = 0
    hoped: float | None = None


def main(argv: Sequence[str]) -> int:
    """Time the core alone, against h11; 1 if a ratio is over its limit."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks core", description=main.__doc__)
    parser.add_argument("--only", default="", help="what the names of the rows are to contain")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path, help="write the rows here")
    wanted = parser.parse_args(argv)
    works = [
        Work("h11: request and reply", requests),
        *(each for each in all_work() if wanted.only in each.name),
    ]
    times = [enough(work.run) for work in works]
    laps = [
        [timed(work.run, count) for work, count in zip(works, times, strict=True)]
        for _ in range(wanted.rounds)
    ]
    return told(judged(works, laps), wanted.json)


def all_work() -> Iterator[Work]:
    """Everything of ours that is timed."""
    for conversation in CONVERSATIONS:
        yield _work(conversation)
    for kind, bare_newlines, hoped in BODIES:
        yield _work(body(kind, 64 * MIB, PIECE, bare_newlines), hoped)
        for piece, size in SMALLER:
            yield _work(body(kind, size, piece, bare_newlines))


def _work(conversation: Conversation, hoped: float | None = None) -> Work:
    return Work(conversation.name, partial(play, conversation), conversation.octets, hoped)


def judged(works: Sequence[Work], laps: Sequence[Sequence[float]]) -> list[Row]:
    """A row for each work, from its nanoseconds in every round; the first is the yardstick."""
    return [
        Row(
            work.name,
            {
                "us": (each := median(lap[at] for lap in laps)) / 1000,
                "GB/s": work.octets / each or None,
                "hoped for": work.hoped,
            },
            median(lap[at] / lap[0] for lap in laps),
            LIMITS.get(work.name),
        )
        for at, work in enumerate(works)
    ]


def timed(run: Callable[[int], object], times: int) -> float:
    """Nanoseconds on the processor for one time."""
    began = time.thread_time_ns()
    run(times)
    return (time.thread_time_ns() - began) / times


def enough(run: Callable[[int], object], nanoseconds: int = LONG_ENOUGH) -> int:
    """How many times take long enough to be timed; this is also the lap that warms up."""
    times = 1
    while timed(run, times) * times < nanoseconds:
        times *= 2
    return times
