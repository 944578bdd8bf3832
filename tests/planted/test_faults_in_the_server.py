# Whether the suite finds faults around the core, in the server loop, its hooks, its store and its TLS:
# each is planted, and a named test must fail.
#
# As in test_faults_in_the_core.py; two files, so that two workers can share the work.

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from planted.planting import control, kill, killers

if TYPE_CHECKING:
    from pathlib import Path

KILLERS: Final = killers("server")


@pytest.mark.real("git")
@pytest.mark.parametrize("patch", KILLERS, ids=lambda patch: patch.stem)
def test_a_planted_fault_is_killed(patch: Path, tmp_path: Path) -> None:
    kill(patch, KILLERS[patch], tmp_path)


def test_without_a_fault_every_killer_passes(tmp_path: Path) -> None:
    control(KILLERS.values(), tmp_path)
