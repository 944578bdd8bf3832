# Whether the kit finds faults: adapters with one rule broken each must fail a case that is named.

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

import smtpproto_kit
from kit.planted import FAULTS

if TYPE_CHECKING:
    from collections.abc import Sequence

ADAPTERS: Final = ("asyncio", "blocking")
CASES: Final = Path(smtpproto_kit.__file__).parent / "cases"


def outcomes(fault: str, files: Sequence[str], names: str) -> dict[str, list[str]]:
    """What becomes of cases with this fault planted: for each adapter pytest's lines about them."""
    told = [word for adapter in ADAPTERS for word in ("--adapter", f"kit.planted:{adapter}-{fault}")]
    quiet = ["-q", "-rA", "--tb=no", "--timeout=60", "-p", "no:cacheprovider"]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *quiet, *told, "-k", names, *(str(CASES / file) for file in files)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "COLUMNS": "1000"},
        check=False,
        capture_output=True,
        text=True,
    )
    lines = re.findall(r"^(?:PASSED|FAILED|ERROR) .*", ran.stdout, re.MULTILINE)
    found = {on: [line for line in lines if f"kit.planted:{on}-" in line] for on in ADAPTERS}
    assert all(found.values()), ran.stdout + ran.stderr
    return found


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "none"])
def test_a_planted_fault_is_found(fault: str) -> None:
    _, file, name, reason = FAULTS[fault]
    for lines in outcomes(fault, [file], name).values():
        assert any(re.search(f"^FAILED .* - .*{reason}", line) for line in lines), lines


def test_without_a_fault_none_is_found() -> None:
    _, files, names, _ = zip(*(each for each in FAULTS.values() if each[1]), strict=True)
    for lines in outcomes("none", sorted(set(files)), " or ".join(names)).values():
        assert all(line.startswith("PASSED ") for line in lines), lines
