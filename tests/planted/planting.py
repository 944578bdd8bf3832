# Planting: one fault in a copy of the packages, and one test of the suite against the copy.
#
# A fault is a patch that says what is wrong with it and which test is to see it. One that no longer
# applies exactly is a failure, as it would prove nothing; a test that dies of anything but an assertion
# has not seen the fault either.

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["control", "kill", "killers"]

PLANTED: Final = Path(__file__).parent
TESTS: Final = PLANTED.parent
ROOT: Final = TESTS.parent
PACKAGES: Final = ("smtpproto", "adapters/smtpproto_server")

# The copy goes before whatever is installed, and who thinks so looks: its folder is the first argument.
RUN: Final = """
import sys
from pathlib import Path
import pytest, smtpproto, smtpproto.testing, smtpproto_server
for package in (smtpproto, smtpproto.testing, smtpproto_server):
    assert Path(sys.argv[1]) in Path(package.__file__).parents, package
sys.exit(pytest.main(sys.argv[2:]))
"""
# Few plugins, and no further than the first failure: each fault costs a process of its own.
QUIET: Final = (
    "-q", "-x", "-rf", "--tb=line", "-p", "pytest_timeout", "-p", "no:cacheprovider",
    "-o", "addopts=--import-mode=importlib",
)  # fmt: skip


def killers(folder: str) -> Mapping[Path, str]:
    """Each patch of a folder, and the test that it says it is killed by."""
    found = {
        patch: KILLED_BY.findall(patch.read_text()) for patch in sorted((PLANTED / folder).glob("*.patch"))
    }
    assert found, folder
    return {patch: test for patch, (test,) in found.items()}


def kill(patch: Path, test: str, scratch: Path) -> None:
    """Insist that `test` fails by an assertion where `patch` is planted."""
    copy_packages(scratch)
    plant(patch, scratch)
    ran = run(scratch, [test])
    assert ran.returncode == 1, f"{patch.stem} is not killed by {test}:\n{ran.stdout}{ran.stderr}"
    died = re.findall(rf"^FAILED tests/{re.escape(test)}.* - (.*)", ran.stdout, re.MULTILINE)
    assert died, ran.stdout + ran.stderr
    assert ASSERTION.match(died[0]), f"{patch.stem}: {test} died of {died[0]}"


def control(tests: Iterable[str], scratch: Path) -> None:
    """Insist that all these tests pass where nothing is planted."""
    copy_packages(scratch)
    ran = run(scratch, sorted(set(tests)))
    assert ran.returncode == 0, ran.stdout + ran.stderr


KILLED_BY: Final = re.compile(r"^Killed by (.+)$", re.MULTILINE)
ASSERTION: Final = re.compile(r"assert |AssertionError|Failed: DID NOT RAISE")


def copy_packages(scratch: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, scratch / package, ignore=shutil.ignore_patterns("__pycache__"))


def plant(patch: Path, scratch: Path) -> None:
    # A folder of a repository's own would be looked at with its index; this one stands alone.
    ours = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    ran = subprocess.run(
        ["git", "apply", "--whitespace=nowarn", str(patch)],
        cwd=scratch,
        env={**ours, "GIT_CEILING_DIRECTORIES": str(scratch.parent)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, f"renew {patch}, it no longer applies: {ran.stderr}"


def run(scratch: Path, tests: Iterable[str]) -> subprocess.CompletedProcess[str]:
    """Run tests of this tree against the packages in `scratch`."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    path = os.pathsep.join(str((scratch / package).parent) for package in PACKAGES)
    return subprocess.run(
        [sys.executable, "-P", "-c", RUN, str(scratch), *QUIET, *(f"tests/{test}" for test in tests)],
        cwd=ROOT,
        env={**ours, "PYTHONPATH": path, "COLUMNS": "1000", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        check=False,
        capture_output=True,
        text=True,
    )
