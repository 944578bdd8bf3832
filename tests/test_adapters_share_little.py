# Adapters may be alike in the shape of their loops, and in nothing more.
#
# What two of them would both say belongs into smtpproto_server. Lines are compared without their
# comments, docstrings, imports and the words `async` and `await`, which are the runtime's colour.

from __future__ import annotations

import ast
import re
from difflib import SequenceMatcher
from itertools import combinations
from pathlib import Path
from typing import Final

import pytest

ADAPTERS: Final = Path(__file__).parent.parent / "adapters"
NAMES: Final = ("smtpproto_asyncio", "smtpproto_anyio", "smtpproto_gevent", "smtpproto_blocking")
SHARED_AT_MOST: Final = 10  # lines on end


def bare_lines(source: str) -> list[str]:
    """A file's statements, a line each as `ast` writes them, without what does not count."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            kept = [each for each in node.body if not _is_talk(each)]
            node.body = kept or [ast.Pass()]
    return [re.sub(r"\b(async|await) ", "", line) for line in ast.unparse(tree).splitlines() if line.strip()]


def _is_talk(node: ast.stmt) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    )


def longest_run(one: list[str], other: list[str]) -> list[str]:
    """The longest run of lines that both have."""
    found = SequenceMatcher(None, one, other, autojunk=False).find_longest_match()
    return one[found.a : found.a + found.size]


@pytest.mark.parametrize(("one", "other"), list(combinations(NAMES, 2)))
def test_no_two_adapters_say_the_same_thing_at_length(one: str, other: str) -> None:
    for mine in (ADAPTERS / one).glob("*.py"):
        for theirs in (ADAPTERS / other).glob("*.py"):
            run = longest_run(bare_lines(mine.read_text()), bare_lines(theirs.read_text()))
            assert len(run) <= SHARED_AT_MOST, f"{mine.name}: {run}"


def test_a_run_that_is_too_long_would_be_seen() -> None:
    one = "async def f():\n    '''Talk.'''\n" + "".join(f"    await a{i}()  # why\n" for i in range(11))
    other = "def f():\n" + "".join(f"    a{i}()\n" for i in range(11))
    assert len(longest_run(bare_lines(one), bare_lines(other))) == 12
