# The rows and what a black box needs to know of them.
#
# `rows.csv` of the kit is the rule: id, source, setup, input and code. `judged.csv` beside this file
# adds, for each of its ids, whose word it is and how it is seen from outside, or why it is not.
# A column that is empty there is read from the row.

from __future__ import annotations

import ast
import csv
import re
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from smtpproto_conformance._judging import Level, derived

__all__ = ["Case", "cases", "chosen"]

EVERYWHERE: Final = "any"  # the setup of rows that hold in every state


@dataclass(frozen=True)
class Case:
    """A row, as a black box sees it."""

    id: str
    source: str
    """RFC and section: `RFC5321 4.1.1.3`."""
    level: Level
    note: str
    needs: tuple[str, ...]
    setup: str
    input: str
    """The body of a bytes literal; ` | ` waits for the reply."""
    allowed: tuple[str, ...]
    """For each reply: `2yz`, `503`, `2yz|5yz`, `final` (any that ends a command), `!503`."""
    not_told: str
    """Why it cannot be told from outside; "" if it can."""

    @property
    def observed(self) -> bool:
        """It is judged by all replies of the run."""
        return self.allowed == ("observed",)

    @property
    def steps(self) -> list[bytes]:
        """The input's octets; addresses and words in braces are still the table's."""
        return [_octets(each) for each in self.input.split(" | ")]


@cache
def cases() -> tuple[Case, ...]:
    """All rows, in the table's order."""
    judged = {line["id"]: line for line in _lines(Path(__file__).parent / "judged.csv")}
    return tuple(_case(row, judged[row["id"]]) for row in _lines(_kit() / "rows.csv"))


def chosen(only: list[str]) -> list[Case]:
    """The rows of these documents (`RFC5321`) or with these ids. LookupError: a word has none."""
    for word in only:
        if not any(_is_named(case, word) for case in cases()):
            raise LookupError(f"no row is named {word}")
    return [case for case in cases() if not only or any(_is_named(case, word) for word in only)]


def _is_named(case: Case, word: str) -> bool:
    word = word.upper().replace(" ", "")
    return word == case.id or word in re.findall(r"[A-Z0-9]+", case.source.upper())


def _case(row: dict[str, str], judged: dict[str, str]) -> Case:
    allowed = judged["allowed"] or ("" if judged["not_told"] else derived(row["expected_code"]))
    return Case(
        id=row["id"],
        source=row["source"],
        level=Level(judged["level"]),
        note=row["note"],
        needs=tuple(judged["needs"].split()),
        setup=judged["setup"] or re.split(r"\W", row["state/setup"], maxsplit=1)[0],
        input=judged["say"] or ("" if judged["setup"] == "CONNECT" else row["input"]),
        allowed=tuple(allowed.split()),
        not_told=judged["not_told"],
    )


def _kit() -> Path:
    # Found, not imported: only the file is needed.
    spec = find_spec("smtpproto_kit")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("smtpproto_kit is not installed; it has the rows")
    return Path(spec.origin).parent


def _lines(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _octets(text: str) -> bytes:
    value: bytes = ast.literal_eval('b"' + re.sub(r'(?<!\\)"', r"\"", text) + '"')
    return re.sub(rb"\{(\d+)\*([^}]*)\}", lambda found: found[2] * int(found[1]), value)
