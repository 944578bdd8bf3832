# docs/adapters-table.md: nothing an adapter has goes without a case on every runtime.

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

import smtpproto_kit
from smtpproto_kit import RUNTIMES
from smtpproto_kit._shown import Shown, names

ROOT: Final = Path(__file__).parents[2]
CASES: Final = Path(smtpproto_kit.__file__).parent / "cases"
EVERY: Final = [name for each in names().values() for name in each]


def table() -> list[tuple[str, list[str]]]:
    """Each row: a name and the other cells. `python -m smtpproto_kit --table` writes them."""
    text = (ROOT / "docs" / "adapters-table.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.MULTILINE)
    return [(name, re.split(r" ?\| ?", cells)) for name, cells in rows]


def test_options_hooks_events_and_methods_all_have_their_row() -> None:
    assert [name for name, _ in table()] == EVERY


@pytest.mark.parametrize(("name", "cells"), table())
def test_each_is_shown_on_every_runtime(name: str, cells: list[str]) -> None:
    *shown, _ = cells
    assert dict(zip(RUNTIMES, shown, strict=True)) == dict.fromkeys(RUNTIMES, "yes"), name


def test_the_cases_that_are_named_exist() -> None:
    named = {case for _, cells in table() for case in re.findall(r"`(\w+::\w+)`", cells[-1])}
    assert named
    for case in named:
        file, _, function = case.partition("::")
        assert f"\ndef {function}(" in (CASES / f"{file}.py").read_text("utf-8"), case


def test_what_nobody_shows_is_an_empty_cell_and_the_most_specific_cases_are_named() -> None:
    shown = Shown()
    shown.add("asyncio", "test_a::test_much", ["option size", "option name", "hook on_data"])
    shown.add("asyncio", "test_a::test_one", ["option size"])
    shown.add("trio", "test_a::test_one", ["option size"])
    shown.add("trio", "test_a::test_much", ["option size", "option name"])
    lines = list(shown.table(["asyncio", "trio"]))
    assert "| `size` | yes | yes | `test_a::test_one`, `test_a::test_much` |" in lines
    assert "| `on_data` | yes |  | `test_a::test_much` |" in lines
    assert "| `lmtp` |  |  |  |" in lines
