# `python -m fuzz`: what it says and how it ends. A stand-in for a target is enough for what does not
# need atheris; what does is tried with it.

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from fuzz import targets
from fuzz.__main__ import NO_ATHERIS, main
from fuzz.counting import REACHED, Counting
from fuzz.inputs import corpus, findings
from fuzz.shrinking import failure, shrunk
from fuzz.targets import TARGETS, Target

ROOT: Final = Path(__file__).parents[2]


def refuses_an_a_before_a_z(data: bytes) -> None:
    assert b"z" not in data[data.find(b"a") :] or b"a" not in data


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("fuzz.targets.TARGETS", {"faulty": Target(refuses_an_a_before_a_z, 100, "no az")})
    return "faulty"


def test_the_list_names_every_target(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(TARGETS)


def test_an_unknown_target_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bodies"]) == 2
    assert capsys.readouterr().err == f"no target 'bodies'; there are {', '.join(TARGETS)}\n"


def test_sound_inputs_are_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, data in enumerate(corpus("xtext")):
        (tmp_path / str(number)).write_bytes(data)
    assert main(["xtext", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"xtext: {len(corpus('xtext'))} replayed, 0 failed\n"


def test_a_failing_input_is_made_small_and_printed_as_a_test(
    faulty: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "input").write_bytes(b"some text with an a, then a lot more of it, then a z and more")
    assert main([faulty, str(tmp_path / "input")]) == 1
    out = capsys.readouterr().out
    assert "AssertionError at " in out
    assert out.endswith("faulty: 1 replayed, 1 failed\n")
    pasted: dict[str, Any] = {"TARGETS": targets.TARGETS}
    exec(out[out.index("def test_") : out.index("faulty: 1")], pasted)  # noqa: S102 - it is ours
    (test,) = [each for name, each in pasted.items() if name.startswith("test_faulty_")]
    with pytest.raises(AssertionError):
        test()
    assert "\nfaulty b'az'\n" in out


def test_a_finding_is_read_as_it_was_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzz.inputs.FINDINGS", tmp_path)
    (tmp_path / "an-a-before-a-z.txt").write_text("# What happened.\nfaulty b'\\x00a\\nz'\n")
    assert findings() == [("an-a-before-a-z", "faulty", b"\0a\nz")]


def test_a_small_input_fails_as_the_large_one_did() -> None:
    def run(data: bytes) -> None:
        if data.startswith(b"v"):
            raise ValueError(data)
        refuses_an_a_before_a_z(data)

    small = shrunk(run, b"v a and z")
    assert small == b"v"
    assert failure(run, small) == failure(run, b"v a and z") != failure(run, b"az")
    assert shrunk(run, b"sound") == b"sound"


def test_what_is_counted_behaves_as_before_and_tells_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "counted.py").write_text(
        "def sign(n):\n"
        "    for _ in range(n):\n"
        "        return 'some' if n > 1 and n < 9 else 'one or many'\n"
        "    return 'none'\n"
    )
    program = (
        "import sys\n"
        "from fuzz.counting import REACHED, Counting\n"
        "counting = Counting('counted')\n"
        "sys.meta_path.insert(0, counting)\n"
        "import counted\n"
        "for n in (0, 5, 1):\n"
        "    REACHED[:] = bytes(len(REACHED))\n"
        "    print(counted.sign(n), sum(REACHED), counting.places)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["none 2 6", "some 4 6", "one or many 3 6"]
    assert not any(REACHED)
    assert Counting("counted").find_spec("another", None) is None


def test_without_atheris_one_line_says_what_to_install(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-m", "fuzz", "xtext", "--seconds", "1"], cwd=tmp_path,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'adapters'}"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, f"{NO_ATHERIS}\n")


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="needs the group fuzz")
def test_a_target_is_fuzzed_and_says_what_came_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learnt = tmp_path / "learnt"
    assert main(["xtext", "--seconds", "0", "--runs", "500", "--corpus", str(learnt)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("xtext: 500 executions, coverage ")
    assert last.endswith(" inputs, nothing found")
