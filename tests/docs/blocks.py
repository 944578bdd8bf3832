# The code blocks of the documentation, and the processes in which they run.

from __future__ import annotations

import contextlib
import os
import queue
import re
import shlex
import signal
import smtplib
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"
PAGES: Final = sorted(
    [ROOT / "README.md", ROOT / "CHANGELOG.md"]
    + [page for page in DOCS.rglob("*.md") if "_build" not in page.relative_to(DOCS).parts]
)
PATIENCE: Final = 30.0  # seconds; much more than anything takes on a busy machine
PORT: Final = "2525"  # what pages say; tests take one that is free
MESSAGE: Final = "Subject: hi\r\n\r\nhello\r\n"

# As installed, and from a tree that is not.
ENVIRONMENT: Final = {
    **{name: value for name, value in os.environ.items() if name not in {"FORCE_COLOR", "NO_COLOR"}},
    "COLUMNS": "100",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "adapters"))),
    "PYTHONUNBUFFERED": "1",
}

_FENCE: Final = re.compile(r"( {0,3})(`{3,}|~{3,}|:{3,})(.*)")
_MARKER: Final = re.compile(r"<!-- ([a-z-]+) -->")


class Block(NamedTuple):
    """A fenced block: what stands behind the fence is its kind, a comment above it its marker."""

    page: Path
    line: int
    kind: str
    text: str
    marker: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    """The blocks of a page. Fails for one that is not closed, or that is made by indenting."""
    lines = iter(enumerate(page.read_text("utf-8").splitlines(), 1))
    above = ""
    for number, line in lines:
        fence = _FENCE.fullmatch(line)
        if fence is None:
            assert not re.match(r" {4}|\t", line), (
                f"{page}:{number} is indented: use a fence, which is tested"
            )
            above = line or above
            continue
        indent, ticks, kind = fence.groups()
        text: list[str] = []
        for _, inner in lines:
            if inner.strip() == ticks:
                break
            text.append(inner.removeprefix(indent))
        else:
            raise AssertionError(f"{page}:{number}: this block has no end")
        marker = _MARKER.fullmatch(above)
        yield Block(page, number, kind.strip(), "".join(f"{each}\n" for each in text), marker and marker[1])
        above = ""


class Process:
    """A program that runs, and the lines it writes as they come."""

    def __init__(self, arguments: Sequence[str], folder: Path) -> None:
        self.lines: list[str] = []
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._log = (folder / "stderr.log").open("w+")
        self._process = subprocess.Popen(
            arguments, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.port: int = int(re.findall(r"\d+", self.until("listening on"))[-1])

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                self._queue.put(line.removesuffix("\n"))
        self._queue.put(None)

    def until(self, text: str) -> str:
        """The next line with this text in it."""
        while (line := self._queue.get(timeout=PATIENCE)) is not None:
            self.lines.append(line)
            if text in line:
                return line
        self._log.seek(0)
        raise AssertionError(f"no {text!r} in {self.lines}: {self._log.read()}")

    def stop(self, number: signal.Signals) -> int:
        """End it as its user would; the exit status. `lines` then has all it has written."""
        self._process.send_signal(number)
        status = self._process.wait(PATIENCE)
        while (line := self._queue.get(timeout=PATIENCE)) is not None:
            self.lines.append(line)
        return status

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        self._log.close()


def deliver(port: int, *, lmtp: bool = False, login: tuple[str, str] | None = None) -> None:
    """Give a server a message as a client does; it must be taken."""
    client = smtplib.LMTP if lmtp else smtplib.SMTP
    with client("127.0.0.1", port) as connection:
        connection.ehlo_or_helo_if_needed()
        if login is not None:
            connection.starttls()
            connection.login(*login)
        assert connection.sendmail("a@example.com", ["b@example.com"], MESSAGE) == {}


class Terminals:
    """The terminals of one page: commands run one after the other, a server goes on behind them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: Process | None = None
        self._expected: list[str] = []
        programs = folder / "bin"
        programs.mkdir()
        for name, command in {"python": "", "python3": "", "smtpproto": "-m smtpproto_cli"}.items():
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {command} "$@"\n')
            program.chmod(0o755)
        self._environment: Mapping[str, str] = {**ENVIRONMENT, "PATH": f"{programs}:{os.environ['PATH']}"}

    def run(self, command: str, expected: list[str]) -> None:
        """Run one command and compare what it says, if the page says it."""
        if re.match(r"smtpproto serve\b(?!.*(?:--help|\|\|))", command):
            self.end()
            arguments = [sys.executable, "-m", "smtpproto_cli", *shlex.split(command)[1:], "--port", "0"]
            self._server, self._expected = Process(arguments, self._folder), expected
            return
        if command.startswith("python -m smtpproto_kit "):
            # In the folder that the page names. CI runs the same with all cases.
            command = f"cd {DOCS / 'examples'} && {command} -- -k test_first"
        if self._server is not None:
            command = command.replace(PORT, str(self._server.port))
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        if expected:
            assert_shown(expected, done.stdout.splitlines())

    def end(self) -> None:
        """End the server, and compare what it has said."""
        server, self._server = self._server, None
        if server is None:
            return
        with server:
            assert server.stop(signal.SIGTERM) == 0
        if self._expected:
            assert_shown(
                self._expected, [line.replace(f":{server.port}", f":{PORT}") for line in server.lines]
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.__exit__()


def assert_shown(page: Sequence[str], real: Sequence[str]) -> None:
    """What a page shows is what was seen; `...` stands for anything, alone on a line for any lines."""
    parts = [
        r"(?:.*\n)*?" if line == "..." else re.escape(line.rstrip()).replace(r"\.\.\.", ".*") + r"[ ]*\n"
        for line in page
    ]
    text = "".join(f"{line}\n" for line in real)
    assert re.fullmatch("".join(parts), text), text


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """The commands of a console block, each with what it shows."""
    assert text.startswith("$ "), "a console block begins with a command"
    for part in re.split(r"(?m)^\$ ", text)[1:]:
        command, *shown = part.splitlines()
        yield command, shown
