# The survivors that cannot be seen, and why: survivors.toml, read.

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["explained"]


def explained(path: Path) -> dict[tuple[str, str, str], str]:
    """The reasons, by mutant, line before, line after."""
    groups = tomllib.loads(path.read_text())["group"]
    return {(name, was, becomes): group["why"] for group in groups for name, was, becomes in group["mutants"]}
