# `smtpproto conformance` on the command line.

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import socket
import subprocess
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Final

import pytest

from cli.serving import COMMAND, ENVIRONMENT, PATIENCE
from smtpproto_cli import main
from smtpproto_conformance import NotYours, resolved
from smtpproto_kit import Running, running

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from smtpproto import Credentials


def knows(auth: Credentials, _: object) -> bool:
    return auth.username == "tim"


@pytest.fixture(name="server")
def fixture_server() -> Generator[Running]:
    with running("asyncio", auth_methods=("PLAIN",), on_auth=knows) as server:
        yield server


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["conformance", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_the_table_names_row_section_and_level(server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", f"localhost:{server.port}", "--only", "C055,C094"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"4\.1\.1\.2 +C055 +SHOULD +pass", out)
    assert "needs the server configured for it: C094" in out
    assert "1 pass, 0 fail, 0 differs, 1 not told" in out


NOT_TOLD: Final = "C002, C004, C094, C127, C128, C164, C166, C184, C220, C230, C310, C311"  # for one reason


def ask_not_told(server: Running, stdout: int) -> bytes:
    """What it writes, if that is a pipe."""
    return subprocess.run(
        [*COMMAND, "conformance", f"127.0.0.1:{server.port}", "--only", NOT_TOLD.replace(" ", "")],
        env={**ENVIRONMENT, "TERM": "xterm", "COLUMNS": "60"},
        stdout=stdout,
        timeout=PATIENCE,
        check=True,
    ).stdout


def test_a_reason_and_its_rows_are_one_line_in_a_pipe(server: Running) -> None:
    lines = ask_not_told(server, subprocess.PIPE).decode().splitlines()
    assert f"  needs the server configured for it: {NOT_TOLD}" in lines


def test_a_reason_and_its_rows_are_folded_for_a_terminal(server: Running) -> None:
    ours, theirs = pty.openpty()
    ask_not_told(server, theirs)
    os.close(theirs)
    screen = b""
    with contextlib.suppress(OSError):  # EIO: nobody holds the other end any more
        while octets := os.read(ours, 4096):
            screen += octets
    os.close(ours)
    lines = screen.decode().splitlines()
    assert NOT_TOLD in " ".join(line.strip() for line in lines)
    assert max(map(len, lines)) <= 60


def test_json_and_junit_say_the_same_and_no_password(
    server: Running, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "junit.xml"
    place = f"127.0.0.1:{server.port}"
    words = ["--only", "RFC4954", "--starttls", "--user", "tim:tanstaaf", "--json", "-", "--junit", str(file)]
    assert main(["conformance", place, *words]) in {0, 1}
    out = capsys.readouterr().out
    rows = json.loads(out)["rows"]
    suite = ET.fromstring(file.read_text("utf-8"))  # noqa: S314 - we wrote it
    assert len(suite.findall("testcase")) == len(rows)
    for text in (out, file.read_text("utf-8")):
        assert "tanstaaf" not in text
        assert "AHRpbQB0YW5zdGFhZg==" not in text


@pytest.mark.parametrize("place", ["192.0.2.1:25", "[2001:db8::1]:25", "0.0.0.0:25"])
def test_another_machine_is_refused(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--i-own-this-server" in complaint(capsys, place)


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
def test_an_address_is_named_once_when_it_is_refused(host: str) -> None:
    with pytest.raises(NotYours, match=f"^{re.escape(host)} is not this machine$"):
        resolved(f"[{host}]:25")


def test_a_name_is_refused_with_the_address_that_it_has() -> None:
    with pytest.raises(NotYours, match=r"^0 is 0\.0\.0\.0, which is not this machine$"):
        resolved("0:25")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["localhost"], "HOST:PORT"),
        (["localhost:0"], "HOST:PORT"),
        (["localhost:25", "--tls", "--starttls"], "exclude"),
        (["localhost:25", "--user", "tim"], "name:password"),
        (["localhost:25", "--only", "RFC1"], "RFC1"),
        (["localhost:25", "--from", "a b@x.test"], "--from"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert word in complaint(capsys, *arguments)


def test_a_server_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert "no connection" in complaint(capsys, f"127.0.0.1:{port}")


def test_a_server_that_says_nothing_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = f"127.0.0.1:{listener.getsockname()[1]}"
        assert "no reply within 0.2 s" in complaint(capsys, place, "--timeout", "0.2")
