# What `import smtpproto.testing` costs, and whom.

from __future__ import annotations

import subprocess
import sys

import pytest

from smtpproto import testing


def test_who_plays_conversations_imports_neither_hypothesis_nor_a_runtime() -> None:
    code = "import sys, smtpproto.testing; print(*{'hypothesis', 'asyncio', 'pytest'} & {*sys.modules})"
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout == "\n"


def test_every_public_name_is_there() -> None:
    assert all(getattr(testing, name, None) is not None for name in testing.__all__)


def test_another_name_is_an_error_that_says_so() -> None:
    with pytest.raises(AttributeError, match=r"'smtpproto\.testing' has no attribute 'plays'"):
        _ = testing.plays  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue] - the mistake
