# The two commands that measure a server, run in short.

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import pytest

from real.receiving import succeeds

FOLDER: Final = Path(__file__).parent

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="they read /proc")


@pytest.mark.parametrize("runtime", ["asyncio", "uvloop"])
def test_what_was_answered_with_250_survives_a_kill(runtime: str) -> None:
    said = succeeds(sys.executable, FOLDER / "kill_server.py", "--times", "6", "--runtime", runtime)
    assert "lost 0," in said


def test_memory_stays_within_its_limits() -> None:
    said = succeeds(sys.executable, FOLDER / "memory_server.py", "--no-tls")
    assert said.count(": kept)") == 3
