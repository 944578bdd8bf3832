# A limit that is passed fails the command, and only that.

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from benchmarks.__main__ import COMMANDS, main
from benchmarks.rows import Row, told

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("ratio", "limit", "status"), [(0.3, None, 0), (0.3, 0.3, 0), (0.3, 0.4, 0), (0.31, 0.3, 1), (99, 0.1, 1)]
)
def test_a_ratio_over_its_limit_fails(ratio: float, limit: float | None, status: int) -> None:
    others = [Row("slow", {"us": 1e9}, 1e9), Row("quick", {"us": 1}, 0.1, 0.2)]
    assert told([*others, Row("it", {"us": 1}, ratio, limit)]) == status


def test_whoever_passed_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    told([Row("one", {}, 1, 2), Row("two", {}, 2, 1)])
    assert capsys.readouterr().out.splitlines()[-1] == "over its limit: two, 2.000"


def test_columns_are_aligned_and_figures_are_short(capsys: pytest.CaptureFixture[str]) -> None:
    told([Row("a", {"us": 12345.678, "note": "x"}, 0.123456), Row("long", {"us": 1.5, "note": None}, 1, 2)])
    assert capsys.readouterr().out == (
        "          us  note  ratio  limit\n"
        "a     12,346     x  0.123\n"
        "long     1.5            1      2\n"
    )  # fmt: skip


def test_rows_are_kept_as_json(tmp_path: Path) -> None:
    told([Row("a", {"us": 1.5, "GB/s": None}, 0.1234567, 1)], tmp_path / "rows")
    assert json.loads((tmp_path / "rows").read_text()) == [
        {"name": "a", "us": 1.5, "GB/s": None, "ratio": 0.1234567, "limit": 1}
    ]


@pytest.mark.parametrize("argv", [[], ["nothing"]])
def test_without_a_command_all_of_them_are_told(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert set(COMMANDS) <= set(capsys.readouterr().out.split())
