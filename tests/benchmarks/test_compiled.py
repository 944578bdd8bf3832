# What mypyc says is understood; the copy that is timed is the one in the folder.

from __future__ import annotations

import shutil
from pathlib import Path

import smtpproto
from benchmarks.compiled import UNFIT, faults_in, judged, lap_in

CORE = Path(smtpproto.__file__).parent


def test_the_modules_with_faults_are_found() -> None:
    said = (
        "smtpproto/_state.py:116: error: Cannot determine type\n"
        "smtpproto/_state.py:117: note: see there\n"
        "smtpproto/_commands.py:84: error: Argument 2 is wrong\n"
        "other/_body.py:1: error: not ours\n"
    )
    assert faults_in(said) == {"_state": "Cannot determine type", "_commands": "Argument 2 is wrong"}


def test_what_is_unfit_is_there() -> None:
    assert all((CORE / f"{name}.py").is_file() for name in UNFIT)


def test_the_core_in_the_folder_is_the_one_that_speaks(tmp_path: Path) -> None:
    shutil.copytree(CORE, tmp_path / "smtpproto")
    assert lap_in(tmp_path) > 0
    (tmp_path / "smtpproto" / "__init__.py").write_text("print(7)\nraise SystemExit")
    assert lap_in(tmp_path) == 7


def test_each_lap_is_compared_with_its_own() -> None:
    plain, compiled = judged([(1000.0, 500.0), (4000.0, 2000.0), (1000.0, 900.0)])
    assert (plain.ratio, compiled.ratio, compiled.limit) == (1, 0.5, None)
    assert (plain.figures, compiled.figures) == ({"us": 1}, {"us": 0.9})
