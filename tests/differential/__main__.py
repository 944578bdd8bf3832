# Tests by difference: random conversations on today's packages and on those of an earlier commit.
#
#     python -m tests.differential N [--seed S] [--commit 480fb48] [--jobs 2]
#
# Each conversation is played whole and cut at random: on the events of both versions, and on today's
# driver, with coroutine hooks and with plain ones, against the earlier server loop. What the client
# gets, what the application sees and what is known of the session must be the same at every step.

from __future__ import annotations

import argparse
import multiprocessing
import sys
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "adapters")]

from differential.comparing import Difference, compare, shown, smallest  # noqa: E402 - found by the path above
from differential.talks import talk  # noqa: E402 - the same
from differential.versions import NotInHistory, Version, earlier, today  # noqa: E402 - the same

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMIT: Final = "480fb48"
SHARE: Final = 250  # conversations that one process plays before it reports
SHOWN: Final = 5


def main(given: Sequence[str] | None = None) -> int:
    """Play them, say what came of it; 1 if any differ."""
    parser = argparse.ArgumentParser(prog="python -m tests.differential", description=main.__doc__)
    parser.add_argument("conversations", type=int, metavar="N")
    parser.add_argument("--seed", type=int, default=0, help="that of the first conversation")
    parser.add_argument("--commit", default=COMMIT)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    wanted = parser.parse_args(given)
    try:
        versions(wanted.commit)
    except NotInHistory:
        print(f"{wanted.commit} is no ancestor of this state", file=sys.stderr)
        return 2
    last = wanted.seed + wanted.conversations
    shares = [range(first, min(first + SHARE, last)) for first in range(wanted.seed, last, SHARE)]
    plays, differ = 0, 0
    with multiprocessing.get_context("fork").Pool(wanted.jobs) as pool:
        for count, found in pool.imap_unordered(partial(play, wanted.commit), shares):
            plays += count
            for difference in found:
                differ += 1
                if differ <= SHOWN:
                    print(shown(smallest(*versions(wanted.commit), difference)), flush=True)
    print(f"{wanted.conversations} conversations ({plays} plays), {differ} differ")
    return 1 if differ else 0


@cache
def versions(commit: str) -> tuple[Version, Version]:
    """Both, loaded once in a process and its children."""
    return today(), earlier(commit)


def play(commit: str, seeds: Sequence[int]) -> tuple[int, list[Difference]]:
    """A share of the conversations: how many plays, and what differs."""
    both = versions(commit)
    plays: int = 0
    differ: list[Difference] = []
    for seed in seeds:
        count, found = compare(*both, talk(seed))
        plays += count
        if found is not None:
            differ.append(found)
    return plays, differ


if __name__ == "__main__":
    sys.exit(main())
