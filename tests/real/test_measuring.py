# The commands that kill and measure servers, run in short.

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

import pytest

from real.programs import succeeds

FOLDER: Final = Path(__file__).parent

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="they read /proc")


def test_what_was_answered_with_250_survives_a_kill(runtime: str) -> None:
    said = succeeds(sys.executable, FOLDER / "kill_server.py", "--times", "4", "--runtime", runtime)
    assert "lost 0," in said


@pytest.mark.real("haproxy")
@pytest.mark.parametrize(
    "runtimes", [("asyncio", "blocking"), ("trio", "gevent"), ("anyio", "uvloop")], ids="-".join
)
def test_it_survives_behind_haproxy_when_one_of_two_servers_is_killed(runtimes: tuple[str, str]) -> None:
    command = ["kill_behind_haproxy.py", "--times", "4", "--runtimes", *runtimes]
    said = succeeds(sys.executable, FOLDER / command[0], *command[1:])
    assert "lost 0," in said


def test_memory_stays_within_its_limits(runtime: str) -> None:
    said = succeeds(
        sys.executable, FOLDER / "memory_server.py", "--no-tls", "--no-time", "--runtime", runtime
    )
    assert said.count(": kept)") == 3


def test_the_work_of_a_message_is_told(runtime: str) -> None:
    arguments = ("--no-memory", "--messages", "40", "--runtime", runtime)
    said = succeeds(sys.executable, FOLDER / "memory_server.py", *arguments)
    assert len(re.findall(rf"(?m)^{runtime}: .* hook.*: \d+ us of CPU for each$", said)) == 4
