# `python -m smtpproto_kit`: the account it gives, and what it says to names that are none.

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from smtpproto_kit._conversations import conversations

if TYPE_CHECKING:
    from pathlib import Path

CHUNKS = len(conversations())
EVERY_CONVERSATION = sum(len(each) for chunk in conversations().values() for each in chunk.values())


def kit(folder: Path, *arguments: str) -> tuple[int, list[str], str]:
    """Exit status, the lines of its output, and what it complains of."""
    ran = subprocess.run(
        [sys.executable, "-m", "smtpproto_kit", *arguments],
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
    )
    return ran.returncode, ran.stdout.splitlines(), ran.stderr


def test_each_runtime_has_its_line(tmp_path: Path) -> None:
    cases = "test_first or C05 or test_conversations"
    status, said, _ = kit(tmp_path, "asyncio", "blocking", "--", "-k", cases)
    head, *lines = said[-3:]
    assert head.split() == ["runtime", "conversations", "rows", "passed", "failed", "skipped", "seconds"]
    assert [line.split()[:-1] for line in lines] == [
        [name, str(EVERY_CONVERSATION), "7", str(7 + 1 + CHUNKS), "0", "0"]
        for name in ("asyncio", "blocking")
    ]
    assert status == 0


def test_a_case_that_fails_is_counted_and_is_the_exit_status(tmp_path: Path) -> None:
    (tmp_path / "mute.py").write_text(
        "import smtpproto_asyncio\n"
        "from smtpproto_kit import runtime_named\n"
        "class Server(smtpproto_asyncio.SMTPServer):\n"
        "    def admit(self, sock, clock, **identity):\n"
        "        sock.close()\n"
        "runtime = runtime_named('asyncio')\n"
        "runtime.name, runtime.server_class = 'mute', Server\n",
        "utf-8",
    )
    status, said, _ = kit(tmp_path, "mute:runtime", "--", "-k", "test_first")
    assert said[-1].split()[:-1] == ["mute", "0", "0", "0", "1", "0"]
    assert status == 1


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("nix", "nix is no runtime: asyncio, uvloop, anyio, trio, gevent, blocking are, or module:object"),
        ("nix:x", "nix:x: No module named 'nix'"),
        ("os:nix", "os:nix: module 'os' has no attribute 'nix'"),
        ("os:sep", "os:sep is '/'; it must be a smtpproto_kit.Runtime"),
    ],
)
def test_a_name_that_is_none_is_told_in_one_line(tmp_path: Path, name: str, complaint: str) -> None:
    status, said, complaints = kit(tmp_path, "asyncio", name)
    assert (status, said) == (2, [])
    assert complaints.startswith(complaint)
    assert complaints.count("\n") == 1


@pytest.mark.parametrize(
    ("missing", "arguments", "complaint"),
    [
        ("gevent", ["gevent"], "gevent needs gevent: pip install 'smtpproto-server[gevent]'\n"),
        ("trio", ["trio"], "trio needs trio: pip install 'smtpproto-server[trio]'\n"),
        ("trustme", ["asyncio"], "the cases need trustme: pip install 'smtpproto-server[testing]'\n"),
    ],
)
def test_a_package_that_is_missing_is_named(
    tmp_path: Path, missing: str, arguments: list[str], complaint: str
) -> None:
    program = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        f"importlib.util.find_spec = lambda name: None if name == {missing!r} else find(name)\n"
        "from smtpproto_kit.__main__ import main\n"
        f"sys.exit(main({arguments!r}))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (2, "", complaint)


def test_pytest_too_says_a_wrong_name_in_one_line(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--pyargs", "smtpproto_kit.cases", "-p",
         "smtpproto_kit.plugin", "--adapter", "nix"],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert "nix is no runtime" in ran.stdout + ran.stderr
    assert "Traceback" not in ran.stdout + ran.stderr
