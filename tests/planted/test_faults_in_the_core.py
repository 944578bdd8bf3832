# Whether the suite finds faults in the core: each is planted, and a named test must fail.
#
# The faults are what a tired programmer would write, one at a time. Their patches lie in core/.

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from planted.planting import control, kill, killers

if TYPE_CHECKING:
    from pathlib import Path

KILLERS: Final = killers("core")


@pytest.mark.real("git")
@pytest.mark.parametrize("patch", KILLERS, ids=lambda patch: patch.stem)
def test_a_planted_fault_is_killed(patch: Path, tmp_path: Path) -> None:
    kill(patch, KILLERS[patch], tmp_path)


def test_without_a_fault_every_killer_passes(tmp_path: Path) -> None:
    control(KILLERS.values(), tmp_path)
