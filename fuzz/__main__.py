# The command: `python -m fuzz TARGET` fuzzes, replays, and keeps what is worth keeping.
#
# Replaying and minimising need nothing but this repository; fuzzing needs atheris.

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from fuzz.counting import COUNTED, REACHED, Counting
from fuzz.inputs import DICTIONARY, corpus, keep_corpus

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

NO_ATHERIS: Final = "atheris is not installed: pip install --group fuzz"
TIMEOUT: Final = 10  # seconds for one input
STATUS: Final = re.compile(
    r"#(?P<runs>\d+)\s+(?:DONE|pulse|INITED|NEW|REDUCE).*?cov: (?P<cov>\d+) ft: \d+ corp: (?P<corp>\d+)"
)
DONE: Final = re.compile(r"stat::number_of_executed_units: (\d+)")
SHOWN: Final = re.compile(
    r"#\d+\s+(?:DONE|pulse|INITED)|^ ?\S*(?:Error|Exception|===)|^  File|^ALARM|^Traceback"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """0: nothing was found; 1: something was; 2: it could not be tried."""
    given = _parser().parse_intermixed_args(arguments)
    # Before any target is imported: whoever minimises wants to know which way it went.
    sys.meta_path.insert(0, Counting(*COUNTED)) if given.minimise else None
    from fuzz.targets import TARGETS  # noqa: PLC0415

    if given.list:
        for name, row in TARGETS.items():
            print(f"{name:12} {row.says}")
        return 0
    if given.target not in TARGETS:
        print(f"no target {given.target!r}; there are {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    if given.minimise:
        return _minimise(given.target, given.files)
    if given.files:
        return _replay(given.target, given.files)
    if importlib.util.find_spec("atheris") is None:
        print(NO_ATHERIS, file=sys.stderr)
        return 2
    limits = [f"-max_total_time={given.seconds}", f"-runs={given.runs}", f"-seed={given.seed}"]
    return _fuzz(given.target, limits, given.corpus)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m fuzz", description="Fuzz a part of smtpproto.")
    parser.add_argument("target", nargs="?", default="", help="see --list")
    parser.add_argument(
        "files", nargs="*", type=Path, metavar="FILE", help="inputs (or folders of them) to replay"
    )
    parser.add_argument("--list", action="store_true", help="the targets, and what each insists on")
    parser.add_argument("--seconds", type=int, default=60, help="for how long (60; 0: until --runs)")
    parser.add_argument("--runs", type=int, default=-1, help="how many executions at most")
    parser.add_argument(
        "--seed", type=int, default=0, help="the same seed, the same inputs (0: another each time)"
    )
    parser.add_argument("--corpus", type=Path, metavar="DIR", help="where what was learnt is kept")
    parser.add_argument(
        "--minimise", action="store_true", help="make the repository's corpus anew from it and from FILEs"
    )
    return parser


# --- replaying ------------------------------------------------------------------------------------


def _replay(name: str, paths: Iterable[Path]) -> int:
    inputs = list(_read(paths))
    failed = [data for data in inputs if _fails(name, data)]
    print(f"{name}: {len(inputs)} replayed, {len(failed)} failed")
    return 1 if failed else 0


def _read(paths: Iterable[Path]) -> Iterable[bytes]:
    for path in paths:
        yield from _read(sorted(path.iterdir())) if path.is_dir() else (path.read_bytes(),)


def _fails(name: str, data: bytes) -> bool:
    from fuzz.shrinking import failure, shrunk  # noqa: PLC0415
    from fuzz.targets import TARGETS  # noqa: PLC0415

    run = TARGETS[name].run
    found = failure(run, data)
    if found is None:
        return False
    small = shrunk(run, data)
    digest = hashlib.sha256(small).hexdigest()[:8]
    print(
        f"\n{found.kind} at {found.place}. Keep it in fuzz/findings/ under a name that says what happens:\n"
    )
    print(f"# What happened, and what should have.\n{name} {small!r}\n")
    print(f"Or as a test:\n\ndef test_{name}_{digest}() -> None:\n    TARGETS[{name!r}].run({small!r})\n")
    return True


# --- minimising -----------------------------------------------------------------------------------


def _minimise(name: str, paths: Iterable[Path]) -> int:
    """Keep the shortest inputs that together reach every place that any of them reaches."""
    from fuzz.playing import NOTED  # noqa: PLC0415
    from fuzz.seeds import seeds  # noqa: PLC0415
    from fuzz.targets import TARGETS  # noqa: PLC0415

    inputs = sorted({*seeds(name), *corpus(name), *_read(paths)}, key=lambda each: (len(each), each))
    reached: dict[bytes, frozenset[int]] = {}
    for data in inputs:
        REACHED[:], NOTED[:] = bytes(len(REACHED)), bytes(len(NOTED))
        TARGETS[name].run(data)
        reached[data] = frozenset(place for place, octet in enumerate(REACHED + NOTED) if octet)
    kept: list[bytes] = []
    missing = frozenset[int]().union(*reached.values())
    places = len(missing)
    while missing:  # the one that reaches most of what is missing; of two such, the shorter
        best = max(inputs, key=lambda data: len(reached[data] & missing))
        kept.append(best)
        missing -= reached[best]
    path = keep_corpus(
        name, kept, f"{name}: {len(kept)} inputs that reach {places} places; python -m fuzz --minimise"
    )
    print(f"{name}: {len(kept)} of {len(inputs)} inputs reach all {places} places: {path}")
    return 0


# --- fuzzing --------------------------------------------------------------------------------------


class Result(NamedTuple):
    """What a campaign came to."""

    runs: int
    coverage: str
    found: list[bytes]


def _fuzz(name: str, limits: list[str], folder: Path | None) -> int:
    with tempfile.TemporaryDirectory() as made:
        scratch = Path(made)
        learnt = folder or scratch / "learnt"
        for each in (learnt, scratch / "seeds", scratch / "found"):
            each.mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(corpus(name)):
            (scratch / "seeds" / f"{number:04}").write_bytes(data)
        result = _run(name, limits, [learnt, scratch / "seeds"], scratch / "found")
    verdict = f"{len(result.found)} found" if result.found else "nothing found"
    print(f"{name}: {result.runs:,} executions, {result.coverage}, {verdict}")
    if not result.found:
        return 0
    for data in result.found:
        if not _fails(name, data):
            print(f"not to be reproduced here (too slow, or too large?): {data!r}")
    return 1


def _run(name: str, limits: list[str], folders: list[Path], found: Path) -> Result:
    from fuzz.targets import TARGETS  # noqa: PLC0415

    command = [
        sys.executable, "-m", "fuzz.campaign", name, *limits,
        f"-max_len={TARGETS[name].max_len}", f"-timeout={TIMEOUT}", f"-dict={DICTIONARY}",
        f"-artifact_prefix={found}/", "-print_final_stats=1", "-print_funcs=0", *map(str, folders),
    ]  # fmt: skip
    executed, coverage = 0, "no coverage"
    with subprocess.Popen(  # noqa: S603 - this Python, and arguments written here
        command, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if SHOWN.search(line):
                print(line, end="", file=sys.stderr)
            if status := STATUS.match(line):
                executed = int(status["runs"])
                coverage = f"coverage {status['cov']} places, {status['corp']} inputs"
            elif done := DONE.match(line):
                executed = int(done[1])
    return Result(executed, coverage, [path.read_bytes() for path in sorted(found.iterdir())])


if __name__ == "__main__":
    sys.exit(main())
