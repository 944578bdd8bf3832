# The command in a process of its own, and what it says while it runs.
#
# Nobody sleeps here: tests wait for lines, each wait with a deadline.

from __future__ import annotations

import contextlib
import os
import pty
import queue
import re
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Protocol, Self

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence

ROOT: Final = Path(__file__).parents[2]
COMMAND: Final = (sys.executable, "-m", "smtpproto_cli")
PATIENCE: Final = 30.0  # seconds; much more than anything takes on a busy machine

# What would make the output another than a user's: colour, and an output without a buffer.
_NOT_OURS: Final = frozenset({"FORCE_COLOR", "NO_COLOR", "PYTHONUNBUFFERED"})

# As installed, and from a tree that is not.
ENVIRONMENT: Final = {
    **{name: value for name, value in os.environ.items() if name not in _NOT_OURS},
    "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "adapters"))),
    "PYTHONWARNINGS": "default::ResourceWarning",
}


# Starts a program as a service manager does that listens for it: the sockets come as descriptors 3,
# 4, ..., and their number and the process they are for are in the environment.
HANDS_IN: Final = (
    sys.executable,
    "-c",
    """
import fcntl, os, sys
given = [fcntl.fcntl(int(each), fcntl.F_DUPFD_CLOEXEC, 100) for each in sys.argv[1].split(",")]
for number, each in enumerate(given, start=3):
    os.dup2(each, number)
os.environ.update(LISTEN_FDS=str(len(given)), LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
""",
)


class Serve(Protocol):
    """Starts the command with arguments behind `serve`, on a free port unless they say otherwise."""

    def __call__(
        self,
        *arguments: str | Path,
        environment: Mapping[str, str] | None = None,
        sockets: Sequence[socket.socket] = (),
    ) -> Running: ...


class Lines:
    """Lines of a pipe as they come, and all of them so far."""

    def __init__(self, pipe: IO[str]) -> None:
        self.seen: list[str] = []
        self._ended: bool = False
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._pump, args=(pipe,), daemon=True)
        self._thread.start()

    def _pump(self, pipe: IO[str]) -> None:
        with pipe:
            for line in pipe:
                self._queue.put(line.removesuffix("\n"))
        self._queue.put(None)

    def next(self) -> str | None:
        """The next line; None at the end."""
        line = None if self._ended else self._queue.get(timeout=PATIENCE)
        if line is None:
            self._ended = True
        else:
            self.seen.append(line)
        return line

    def until(self, pattern: str) -> str:
        """The next line that the pattern is found in."""
        while (line := self.next()) is not None:
            if re.search(pattern, line):
                return line
        raise AssertionError(f"no line with {pattern!r} in {self.seen}")

    def rest(self) -> list[str]:
        """All lines to the end."""
        begin = len(self.seen)
        while self.next() is not None:
            pass
        return self.seen[begin:]


class Running:
    """A server that was started, in a directory of its own."""

    def __init__(
        self,
        directory: Path,
        *arguments: str | Path,
        environment: Mapping[str, str] | None = None,
        sockets: Sequence[socket.socket] = (),
    ) -> None:
        self.directory: Path = directory
        descriptors = [sock.fileno() for sock in sockets]
        before = [*HANDS_IN, ",".join(map(str, descriptors))] if descriptors else []
        self.process: subprocess.Popen[str] = subprocess.Popen(
            [*before, *COMMAND, "serve", *map(str, arguments)],
            pass_fds=descriptors,
            cwd=directory,
            env={**ENVIRONMENT, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.out: Lines = Lines(self.process.stdout)
        self.err: Lines = Lines(self.process.stderr)

    def ready(self) -> Running:
        """Wait until it listens."""
        line = self.out.next()
        assert line is not None, self.err.rest()
        assert line.startswith("listening on "), line
        self.place = line.removeprefix("listening on ")
        return self

    @property
    def host(self) -> str:
        return self.place.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.place.rpartition(":")[2])

    def new_mail(self, folder: str = "mail") -> list[bytes]:
        """The messages in a Maildir, in the order of their arrival."""
        assert not list((self.directory / folder / "tmp").iterdir())
        # Several may have been written in one tick of the file system's clock; names have their time.
        files = sorted(
            (self.directory / folder / "new").iterdir(),
            key=lambda path: [int(part) for part in re.findall(r"[0-9]+", path.name)[:4]],
        )
        return [path.read_bytes() for path in files]

    def message_line(self) -> dict[str, str]:
        """The facts of the next line about a message."""
        line = self.out.until("^id=")
        facts = re.fullmatch(
            r"id=(?P<id>\S+) from=(?P<sender>.*) to=(?P<to>.*) size=(?P<size>\d+) tls=(?P<tls>\S+) "
            r"user=(?P<user>.*) stored=(?P<stored>.+)",
            line,
        )
        assert facts is not None, line
        return facts.groupdict()

    def workers(self) -> set[int]:
        """The processes that serve, if they are not this one."""
        asked = ["pgrep", "-P", str(self.process.pid)]
        return {int(line) for line in subprocess.run(asked, capture_output=True, check=False).stdout.split()}

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def status(self) -> int:
        """Wait for the end; the exit status."""
        return self.process.wait(PATIENCE)

    def stop(self) -> list[str]:
        """End it as a service manager does; the lines of the log."""
        self.send(signal.SIGTERM)
        status = self.status()
        self.err.rest()
        assert (status, [line for line in self.err.seen if "Traceback" in line]) == (0, []), self.err.seen
        assert not [line for line in self.err.seen if "ResourceWarning" in line], self.err.seen
        return self.err.seen

    def kill(self) -> None:
        """End it whatever it does."""
        self.process.kill()
        self.process.wait(PATIENCE)
        self.out.rest()
        self.err.rest()


class OnTerminal:
    """A server whose outputs, or one of them, are a terminal."""

    def __init__(self, directory: Path, *arguments: str, columns: int = 80) -> None:
        self._ours, theirs = pty.openpty()
        self.said: bytes = b""
        self.process: subprocess.Popen[bytes] = subprocess.Popen(
            [*COMMAND, "serve", "--port", "0", *arguments],
            cwd=directory,
            env={**ENVIRONMENT, "TERM": "xterm", "COLUMNS": str(columns)},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)

    def until(self, pattern: bytes) -> re.Match[bytes]:
        """Wait until something is on the screen."""
        while not (found := re.search(pattern, self.said, re.MULTILINE)):
            assert select.select([self._ours], [], [], PATIENCE)[0], self.said
            self.said += os.read(self._ours, 4096)
        return found

    def stop(self) -> int:
        """End it as a user does; the exit status."""
        self.process.send_signal(signal.SIGINT)
        status = self.process.wait(PATIENCE)
        with contextlib.suppress(OSError):  # EIO: nobody holds the other end any more
            while octets := os.read(self._ours, 4096):
                self.said += octets
        return status

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        os.close(self._ours)


def command(*arguments: str | Path, directory: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=directory,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=PATIENCE,
        check=False,
    )
