# `python -m tests.benchmarks instructions`: what the core costs, counted and not timed.
#
# Valgrind counts the instructions of one process in which everything is done three times: to be
# warm, then N and 2N times. The difference, divided by N, is free of what comes but once, and is the
# same again in the next run, however busy the machine. The unit is h11's cycle, counted in the same
# process, so that little depends on how the interpreter was built.

from __future__ import annotations

import argparse
import gc
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from benchmarks.conversations import (
    ENVELOPE,
    HELLO_SESSION,
    LOGIN_SESSION,
    MESSAGE,
    MIB,
    OCTETS,
    PIECE,
    PROXY_V1_SESSION,
    PROXY_V2_SESSION,
    RECIPIENTS,
    body,
    play,
)
from benchmarks.rows import Row, told
from benchmarks.yardstick import requests

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.conversations import Conversation

ROOT: Final = Path(__file__).parents[2]


class Work(NamedTuple):
    """What is counted."""

    name: str
    run: Callable[[int], object]
    times: int
    """The second time twice as often."""
    limit: float | None
    """The most that it may cost, in cycles of h11."""


def _of(conversation: Conversation, times: int, limit: float) -> Work:
    return Work(conversation.name, partial(play, conversation), times, limit)


# The first is the unit. A limit is what was counted when it was last looked at, and a fifteenth.
WORKS: Final = (
    Work("h11: request and reply", requests, 200, None),
    _of(MESSAGE, 200, 0.257),
    _of(OCTETS, 4, 67.5),
    _of(RECIPIENTS, 20, 4.88),
    _of(ENVELOPE, 200, 0.143),
    _of(HELLO_SESSION, 50, 0.42),
    _of(LOGIN_SESSION, 50, 0.77),
    _of(PROXY_V1_SESSION, 50, 0.7),
    _of(PROXY_V2_SESSION, 50, 0.7),
    _of(body("prose", MIB, PIECE), 5, 24.2),
)
MARK: Final = os.getppid  # does nothing: valgrind begins a new dump where libc's function is called
LAPS: Final = 3  # dumps of each: what came before and the warm lap, N times, 2N times


def main(argv: Sequence[str]) -> int:
    """Count the instructions of the core, in cycles of h11; 1 if one is over its limit. Needs valgrind."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks instructions", description=main.__doc__)
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--counted", action="store_true", help="only do the work: what valgrind is given")
    wanted = parser.parse_args(argv)
    if wanted.counted:
        gc.collect()
        gc.freeze()  # what is there already is no part of any work
        work(MARK)
        return 0
    with tempfile.TemporaryDirectory(prefix="smtpproto-instructions-") as folder:
        return told(judged(count(Path(folder) / "dump")), wanted.json)


def work(mark: Callable[[], object]) -> None:
    """Do everything, with a mark before each lap that counts and one behind the last."""
    for each in WORKS:
        each.run(each.times)
        for times in (each.times, 2 * each.times):
            mark()
            each.run(times)
        mark()


def count(dumps: Path) -> list[float]:
    """The instructions of each work, once."""
    if shutil.which("valgrind") is None:
        sys.exit("valgrind is not installed")
    subprocess.run(
        [
            "valgrind", "--quiet", "--tool=callgrind",
            f"--callgrind-out-file={dumps}", f"--dump-before={MARK.__name__}",
            sys.executable, "-m", "tests.benchmarks", "instructions", "--counted",
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        check=True,
    )  # fmt: skip
    laps = [_total(dumps.with_name(f"{dumps.name}.{number + 1}")) for number in range(LAPS * len(WORKS))]
    return per_time(laps)


def _total(dump: Path) -> int:
    found = re.search(r"^totals: (\d+)", dump.read_text("utf-8"), re.MULTILINE)
    if found is None:
        raise ValueError(f"{dump} has no totals")
    return int(found[1])


def per_time(laps: Sequence[int]) -> list[float]:
    """The instructions of each work, once, from the totals of all dumps."""
    once, twice = laps[1::LAPS], laps[2::LAPS]
    return [(two - one) / each.times for each, one, two in zip(WORKS, once, twice, strict=True)]


def judged(instructions: Sequence[float]) -> list[Row]:
    """A row for each work."""
    return [
        Row(each.name, {"instructions": each_count}, each_count / instructions[0], each.limit)
        for each, each_count in zip(WORKS, instructions, strict=True)
    ]
