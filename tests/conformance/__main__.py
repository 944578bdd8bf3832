# `python -m tests.conformance` from the repository: what becomes of every row, by id.

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Run from a checkout, this finds its modules by path, as tests do.
sys.path.insert(0, str(Path(__file__).parents[2] / "adapters"))

from smtpproto_kit._rows import DEPARTURES, JUDGED_BY, LATER, expectation, played
from smtpproto_kit._scenarios import rows


def report() -> Iterator[str]:
    """The account, line by line."""
    ids = played()
    own = sum(row.startswith("P") for row in rows())
    yield f"{len(rows())} rows, {own} of them ours (P...)"
    yield f"{len(ids)} played against the core in every cut, and over TCP against every adapter"
    yield f"{len(JUDGED_BY)} judged by another test:"
    yield from _grouped(JUDGED_BY)
    yield f"{len(DEPARTURES)} of the played ones depart from the row's first choice:"
    for id_, departure in DEPARTURES.items():
        yield f"  {id_}: {_ours(id_)}: {departure.reason}"
    yield f"{len(LATER)} left for later features:"
    yield from _grouped(LATER)


def _grouped(table: Mapping[str, str]) -> Iterator[str]:
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for id_, reason in table.items():
        groups[reason].append(id_)
    for reason, members in groups.items():
        yield f"  {' '.join(members)}: {reason}"


def _ours(id_: str) -> str:
    """What the row says, and what is expected in its place."""
    expected = expectation(id_)
    codes = " ".join(f"{code} {enhanced}".removesuffix(" -") for code, enhanced in expected.replies)
    row = rows()[id_]
    return f"{row.code} {row.enhanced} -> {codes}{' close' if expected.close else ''}"


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in report())
