# What every test stands on: where real programs are found, and how Hypothesis is set.
#
# A test that needs a program says so with @pytest.mark.real. Without the program it is skipped on
# a developer's machine and fails in CI: there nothing is left out in silence.

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

IN_CI: Final = bool(os.environ.get("CI"))
# Servers and their tools live here, and only root has these in PATH.
PROGRAM_PATH: Final = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])

# No deadline: a busy machine is no finding. In CI always the same examples: a submission should
# not fail by chance; looking for new ones is the fuzzers' work.
settings.register_profile(
    "smtpproto",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=IN_CI,
    print_blob=True,
)
settings.load_profile("smtpproto")


@functools.cache
def is_there(program: str) -> bool:
    """Whether this machine has a program, or for `node:NAME` a module of Node."""
    kind, _, module = program.rpartition(":")
    if kind != "node":
        return shutil.which(program, path=PROGRAM_PATH) is not None
    node = shutil.which("node", path=PROGRAM_PATH)
    resolve = [node or "node", "-e", f"require.resolve({module!r})"]
    return node is not None and subprocess.run(resolve, check=False, capture_output=True).returncode == 0


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip or fail a test whose programs this machine does not have."""
    needed = [program for marker in item.iter_markers("real") for program in marker.args]
    missing = [program for program in needed if not is_there(program)]
    if missing and IN_CI:
        pytest.fail(f"CI must have {', '.join(missing)}: see .ci/run", pytrace=False)
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
