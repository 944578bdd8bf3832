# Programs that tests start: those that run to their end, and those that serve until they are ended.
#
# What is started here ends here, whatever becomes of the test: a program that hangs is killed.

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING, Final

from smtpproto_kit import wait_until

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence
    from pathlib import Path

PATIENCE: Final = 60.0  # seconds; a program that takes longer hangs
PROGRAM_PATH: Final = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def where(name: str) -> str:
    """The path of a program."""
    return shutil.which(name, path=PROGRAM_PATH) or name


def program(
    name: str, *arguments: str | Path, stdin: bytes = b"", environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end."""
    return subprocess.run(
        [where(name), *map(str, arguments)],
        input=stdin,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8", **(environment or {})},
    )


def succeeds(name: str, *arguments: str | Path, stdin: bytes = b"", **environment: str) -> str:
    """What a program says that must end well."""
    done = program(name, *arguments, stdin=stdin, environment=environment)
    said = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode == 0, said
    return said


def fails(name: str, *arguments: str | Path, stdin: bytes = b"", **environment: str) -> str:
    """What a program says that must not end well."""
    done = program(name, *arguments, stdin=stdin, environment=environment)
    said = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode != 0, said
    return said


@contextlib.contextmanager
def serving(
    name: str, *arguments: str | Path, log: Path, port: int | None = None, pass_fds: Sequence[int] = ()
) -> Generator[None]:
    """Run a program that stays in the foreground; with a fault, show what it said.

    Waits until it listens on `port`, which is not needed if it is handed a socket that does.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            [where(name), *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=pass_fds,
        )
        try:
            wait_until(lambda: process.poll() is not None or port is None or listens(port))
            assert process.poll() is None, f"{name} has ended"
            yield
            assert process.poll() is None, f"{name} has ended"
        except BaseException as error:
            error.add_note(log.read_text(errors="replace"))
            raise
        finally:
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, and kill it if it does not."""
    process.terminate()
    try:
        process.wait(PATIENCE / 6)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def listens(port: int) -> bool:
    """Whether somebody takes connections on this port."""
    with contextlib.closing(socket.socket()) as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """A port that nobody has at this moment, for programs that cannot be handed a socket."""
    with contextlib.closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
