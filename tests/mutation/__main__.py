# Tests of the tests: every mutant of the core's functions, and whether a test notices.
#
#     python -m tests.mutation [--only NAME ...] [--jobs 2] [--json FILE]
#
# The mutants are mutmut's (its operators, all functions, decorated ones and properties too). One
# pytest collects the tests once; each mutant is a fork of it, in which one function has got the
# mutated code. No file is written, so the code under test is always the one imported.
# A mutant counts as killed only if a test failed or took far too long. A survivor met every test
# that calls its function; it stands in survivors.toml with its reason, or the run fails. So does
# a mutant that could not be made: nobody knows whether it would have been noticed.

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "adapters")]

from mutation.running_mutants import Verdict, Verdicts  # noqa: E402 - found by the path above
from mutation.survivors import explained  # noqa: E402 - the same

KILLED = (Verdict.KILLED, Verdict.TIMEOUT)

# Left out: what searches by chance (never the same twice), what measures time or feeds very many
# octets, and the table of smuggling, which is long. So the figure is that of the quick tests alone.
LEFT_OUT = ("test_invariants", "test_machine", "test_model", "test_smuggling")
TOO_SLOW = (
    "one_by_one_cost or no_more_than_their_length or grows_in_place or the_count_may_be_off "
    "or trusted_stuffer or whatever_the_grammar_makes or no_text_changes or auth_line_has_a_limit"
)
PYTEST = (
    "-q", "-s", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning",
    "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml"),
)  # fmt: skip


def main() -> int:
    """Run the mutants, say what came of them; 1 if one that was not killed is not explained."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=main.__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="modules, such as _buffer")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    parser.add_argument("--json", type=Path, help="write every mutant and its verdict here")
    wanted = parser.parse_args()
    from mutation.mutants import mutants  # noqa: PLC0415 - whoever asks for --help need not have mutmut

    files = [
        path for path in sorted((ROOT / "smtpproto").glob("*.py"))
        if not wanted.only or path.stem in wanted.only
    ]  # fmt: skip
    with contextlib.chdir(HERE):  # for setup.cfg
        found = [mutant for path in files for mutant in mutants(path)]
    run = Verdicts(found, jobs=wanted.jobs)
    left_out = [f"--ignore={ROOT}/tests/core/{name}.py" for name in LEFT_OUT]
    came_to = pytest.main(
        [*PYTEST, "-k", f"not ({TOO_SLOW})", *left_out, str(ROOT / "tests/core")], plugins=[run]
    )
    if came_to:
        return int(came_to)
    if wanted.json:
        rows: list[dict[str, Any]] = [
            {"mutant": mutant.key, "verdict": verdict.value}
            for mutant, verdict in run.verdicts.items()
        ]  # fmt: skip
        wanted.json.write_text(json.dumps(rows, indent=1))
    return told(run.verdicts, explained(HERE / "survivors.toml"))


def told(verdicts: dict[Any, Verdict], reasons: dict[tuple[str, str, str], str]) -> int:
    """Print the figures and, without a reason, what was not killed; 1 if there is any."""
    counted = {kind: sum(verdict is kind for verdict in verdicts.values()) for kind in Verdict}
    killed = sum(counted[kind] for kind in KILLED)
    print("mutants:", len(verdicts), *(f"{kind.value}: {count}" for kind, count in counted.items()))
    print(f"score: {100 * killed / max(1, len(verdicts)):.1f} %")
    bare = [
        f"{verdict.value}: {mutant}" for mutant, verdict in verdicts.items()
        if verdict not in KILLED and mutant.key not in reasons
    ]  # fmt: skip
    for mutant in bare:
        print(mutant)
    print("not killed, without a reason:", len(bare))
    return int(bool(bare))


if __name__ == "__main__":
    sys.exit(main())
