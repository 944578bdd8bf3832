# What mypy and pyright say of mistakes, what the server says when it is made, and that the page says so.

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import pytest

from checkers.mistakes import GOOD, HERE, MISTAKES, program

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "mistakes.md"
PATHS: Final = (str(ROOT), str(ROOT / "adapters"))
NOTHING: Final = "-"

# What a checker says of each program: the line and the name of the rule.
Complaints: TypeAlias = "Mapping[str, list[tuple[int, str]]]"

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("programs")
    for number, mistake in enumerate(MISTAKES):
        (folder / f"mistake_{number}.py").write_text(program(mistake.code))
    for number, code in enumerate(GOOD):
        (folder / f"good_{number}.py").write_text(program(code))
    return folder


@pytest.fixture(scope="module")
def mypy(programs: Path) -> Complaints:
    said = _run(programs, "mypy", "--strict", "--no-error-summary", "--config-file=", ".")
    found = defaultdict[str, list[tuple[int, str]]](list)
    for name, line, rule in re.findall(r"^(\w+)\.py:(\d+): error: .*\[([\w-]+)\]$", said, re.MULTILINE):
        found[name].append((int(line), f"[{rule}]"))
    return found


@pytest.fixture(scope="module")
def pyright(programs: Path) -> Complaints:
    settings = {"typeCheckingMode": "strict", "pythonVersion": "3.11", "extraPaths": PATHS}
    (programs / "pyrightconfig.json").write_text(json.dumps(settings))
    said = _run(programs, "pyright", "--outputjson", "--pythonpath", sys.executable)
    found = defaultdict[str, list[tuple[int, str]]](list)
    for each in json.loads(said)["generalDiagnostics"]:
        name = Path(each["file"]).stem
        found[name].append((each["range"]["start"]["line"] + 1, each.get("rule", each["message"])))
    return found


def _run(folder: Path, checker: str, *arguments: str) -> str:
    pytest.importorskip(checker)
    ran = subprocess.run(
        [sys.executable, "-m", checker, *arguments],
        cwd=folder,
        env={**os.environ, "MYPYPATH": os.pathsep.join(PATHS)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert ran.returncode in (0, 1), ran.stdout + ran.stderr
    return ran.stdout


def raised(code: str) -> str:
    """The error with which a program ends, as a cell of the page."""
    try:
        exec(compile(program(code), "program", "exec"), {"__name__": "program"})  # noqa: S102 - it is ours
    except (TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return NOTHING


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
@pytest.mark.parametrize("number", range(len(GOOD)))
def test_checkers_and_servers_have_nothing_against_a_good_handler(
    request: pytest.FixtureRequest, checker: str, number: int
) -> None:
    found: Complaints = request.getfixturevalue(checker)
    assert found[f"good_{number}"] == []
    assert raised(GOOD[number]) == NOTHING


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
@pytest.mark.parametrize("number", range(len(MISTAKES)), ids=[each.title for each in MISTAKES])
def test_what_a_checker_complains_of_is_the_line_with_the_mistake(
    request: pytest.FixtureRequest, checker: str, number: int
) -> None:
    lines = program(MISTAKES[number].code).splitlines()
    here = {at for at, line in enumerate(lines, 1) if line.endswith(HERE)}
    found: Complaints = request.getfixturevalue(checker)
    assert {line for line, _ in found[f"mistake_{number}"]} <= here


def test_the_page_says_what_is_said_of_each_mistake(mypy: Complaints, pyright: Complaints) -> None:
    rows = [
        f"| {each.title} | {_rules(mypy, number)} | {_rules(pyright, number)} | {_code(raised(each.code))} |"
        for number, each in enumerate(MISTAKES)
    ]
    found = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")][1:]
    assert found == rows, "\n".join(rows)


def _rules(found: Complaints, number: int) -> str:
    rules = dict.fromkeys(rule for _, rule in found[f"mistake_{number}"])
    return ", ".join(map(_code, rules)) or NOTHING


def _code(text: str) -> str:
    return text if text == NOTHING else f"`{text}`"
