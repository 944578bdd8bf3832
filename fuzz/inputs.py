# Inputs kept in the repository: as literals of Python, so that they can be read, searched and compared.
#
# A corpus is a file for each target with an input on each line; lines of `#` are comments. A finding is a
# file of its own: what happened in comments, then one line of target and input.

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["CORPUS", "DICTIONARY", "FINDINGS", "Finding", "corpus", "findings", "keep_corpus"]

HERE: Final = Path(__file__).parent
CORPUS: Final = HERE / "corpus"
FINDINGS: Final = HERE / "findings"
DICTIONARY: Final = HERE / "dictionary.txt"


class Finding(NamedTuple):
    """An input that once broke an invariant."""

    name: str
    target: str
    data: bytes


def corpus(target: str) -> list[bytes]:
    """The inputs that are kept for a target."""
    path = CORPUS / f"{target}.txt"
    return [_octets(line) for line in _lines(path)] if path.exists() else []


def keep_corpus(target: str, inputs: Iterable[bytes], origin: str) -> Path:
    """Write a target's corpus anew, shortest first; `origin` is told in its first line."""
    CORPUS.mkdir(exist_ok=True)
    path = CORPUS / f"{target}.txt"
    lines = [repr(each) for each in sorted(set(inputs), key=lambda each: (len(each), each))]
    path.write_text("\n".join([f"# {origin}", *lines, ""]))
    return path


def findings() -> list[Finding]:
    """All findings, by name."""
    return [_finding(path) for path in sorted(FINDINGS.glob("*.txt"))]


def _finding(path: Path) -> Finding:
    (line,) = _lines(path)
    target, _, literal = line.partition(" ")
    return Finding(path.stem, target, _octets(literal))


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


def _octets(literal: str) -> bytes:
    value = ast.literal_eval(literal)
    if not isinstance(value, bytes):
        raise TypeError(f"{literal} is no bytes literal")
    return value
