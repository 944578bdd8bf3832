# `python -m tests.benchmarks compiled`: what mypyc would make of the core. A trial: nothing of it is shipped.
#
# A copy of the core, in which nothing is changed, is compiled in a temporary folder; then a process
# for each of the two has the pipelined message, in turns. Before that it has every conversation once:
# mypyc checks annotations when the code runs, so one that is untrue is an error in the compiled core
# only. Needs a C compiler and some minutes.

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

from benchmarks.conversations import BOUNCE, CONVERSATIONS, MESSAGE, codes, play
from benchmarks.core import enough, timed
from benchmarks.rows import Row, told

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT: Final = Path(__file__).parents[2]
ROUNDS: Final = 5

# What mypyc compiles to something that cannot be imported, which is not known before it is tried.
UNFIT: Final[Mapping[str, str]] = {
    "_events": "its dataclasses are annotated with what is imported for type checkers only",
    "_options": "the same",
}
FAULT: Final = re.compile(r"^smtpproto/(\w+)\.py:\d+: error: (.*)", re.MULTILINE)


def main(argv: Sequence[str]) -> int:
    """Compile the core with mypyc and time both. Say which files were left as they are."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks compiled", description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path, help="write the rows here")
    wanted = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="smtpproto-compiled-") as folder:
        plain, compiled = Path(folder) / "plain", Path(folder) / "compiled"
        for copy in (plain, compiled):
            ignored = shutil.ignore_patterns("testing", "__pycache__")
            shutil.copytree(ROOT / "smtpproto", copy / "smtpproto", ignore=ignored)
        for name, reason in sorted(compile_core(compiled).items()):
            print(f"left as it is: {name}.py: {reason}")
        laps = [(lap_in(plain), lap_in(compiled)) for _ in range(wanted.rounds)]
    return told(judged(laps), wanted.json)


def compile_core(folder: Path) -> dict[str, str]:
    """Compile what can be, in its place; the modules that cannot, with the reason of each."""
    left = dict(UNFIT)
    while True:
        files = [
            f"smtpproto/{path.name}"
            for path in sorted((folder / "smtpproto").glob("_[!_]*.py"))  # `__init__` only imports
            if path.stem not in left
        ]
        run = subprocess.run(
            [sys.executable, "-m", "mypyc", "--follow-imports=silent", *files],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if not run.returncode:
            return left
        faults = faults_in(run.stdout + run.stderr)
        if not faults:
            sys.exit(f"mypyc failed:\n{run.stdout}{run.stderr}")
        left |= faults


def faults_in(said: str) -> dict[str, str]:
    """The modules that mypyc finds fault with, and the last fault of each."""
    return dict(FAULT.findall(said))


def lap_in(folder: Path) -> float:
    """Nanoseconds for a message, in a process whose core lies in the folder."""
    return float(
        subprocess.run(
            [sys.executable, "-c", "from benchmarks.compiled import lap; lap()"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT / 'tests'}"},
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
    )


def lap() -> None:
    """Print the nanoseconds for a message, once every conversation has got the right replies."""
    for each in (*CONVERSATIONS, BOUNCE):
        if codes(play(each)) != each.codes:
            sys.exit(f"the core in this folder answers otherwise: {each.name}")
    run = partial(play, MESSAGE)
    print(timed(run, enough(run)))


def judged(laps: Sequence[tuple[float, float]]) -> list[Row]:
    """A row for the core as it is, one for the compiled one."""
    plain, compiled = (median(each) / 1000 for each in zip(*laps, strict=True))
    ratio = median(compiled / plain for plain, compiled in laps)
    return [Row("as it is", {"us": plain}, 1), Row("compiled", {"us": compiled}, ratio)]
