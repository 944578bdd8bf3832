# The command while something stands still: clients that send slowly, a disk, the reader of its output.

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import smtplib
import subprocess
import time
from typing import TYPE_CHECKING, Final

import pytest

from cli.serving import COMMAND, ENVIRONMENT, PATIENCE
from smtpproto_cli._runtimes import RUNTIMES
from smtpproto_kit import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cli.serving import Running, Serve

MESSAGE: Final = b"Subject: hi\r\n\r\nhello\r\n"
SENDER: Final = "a@example.com"
RECIPIENT: Final = "b@example.com"
SLOW: Final = 70  # clients; more than a pool has threads for hooks
WITH_COROUTINES: Final = ("asyncio", "uvloop", "anyio", "trio")
LONG: Final = f"{'a' * 60}@{'b' * 60}.test"
MANY: Final = 300  # messages; their lines fill any pipe

# An fsync of what the environment names waits while a file exists, and makes another to say so.
HOLD: Final = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int fsync(int descriptor) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
    char link[64], path[PATH_MAX + 1];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, PATH_MAX);
    path[length < 0 ? 0 : length] = 0;
    while (strstr(path, getenv("HELD")) && access(getenv("HOLD"), F_OK) == 0) {
        close(open(getenv("MET"), O_CREAT | O_WRONLY, 0600));
        usleep(1000);
    }
    return real(descriptor);
}
"""


@pytest.fixture(scope="module")
def holding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hold")
    (folder / "hold.c").write_text(HOLD)
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O", "-o", folder / "hold.so", folder / "hold.c", "-ldl"], check=True
    )
    return folder / "hold.so"


class Disk:
    """A disk on which an fsync takes as long as the test wants."""

    def __init__(self, library: Path, folder: Path, held: str) -> None:
        self._hold: Path = folder / "hold"
        self._met: Path = folder / "met"
        self.environment: dict[str, str] = {
            "LD_PRELOAD": str(library), "HOLD": str(self._hold), "MET": str(self._met), "HELD": held,
        }  # fmt: skip

    def stop(self) -> None:
        self._hold.touch()

    def wait(self) -> None:
        """Wait until somebody waits for it."""
        wait_until(self._met.exists, PATIENCE)

    def go_on(self) -> None:
        self._hold.unlink()


@pytest.fixture(params=["/mail/tmp/", "/mail/new"])
def disk(holding: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Disk:
    """For the files, and for the directory."""
    return Disk(holding, tmp_path, request.param)


def client(server: Running, timeout: float = PATIENCE) -> smtplib.SMTP:
    return smtplib.SMTP(server.host, server.port, local_hostname="client.test", timeout=timeout)


def in_data(server: Running) -> smtplib.SMTP:
    """A client that has sent a part of its message."""
    smtp = client(server)
    smtp.ehlo()
    smtp.mail(SENDER)
    smtp.rcpt(RECIPIENT)
    assert smtp.docmd("DATA")[0] == 354
    smtp.send(b"Subject: slow\r\n")
    return smtp


def deliver(server: Running) -> None:
    with client(server) as smtp:
        assert smtp.sendmail(SENDER, [RECIPIENT], MESSAGE) == {}


def is_empty(server: Running) -> bool:
    return not [
        *(server.directory / "mail" / "tmp").iterdir(),
        *(server.directory / "mail" / "new").iterdir(),
    ]


# --- clients ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("sink", ["--no-trace", "--print", "--discard"])
def test_clients_that_send_slowly_delay_no_other(serve: Serve, runtime: str, sink: str) -> None:
    server = serve("--runtime", runtime, sink, "--set", "close_timeout=0.1")
    slow = [in_data(server) for _ in range(SLOW)]
    deliver(server)
    for smtp in slow:
        smtp.close()


# --- the disk ---------------------------------------------------------------------------------------


@pytest.mark.real("gcc")
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_while_the_disk_hangs_other_clients_are_served(serve: Serve, runtime: str, disk: Disk) -> None:
    server = serve("--runtime", runtime, "--no-trace", environment=disk.environment)
    disk.stop()
    smtp = in_data(server)
    smtp.send(b".\r\n")
    disk.wait()
    with client(server) as other:
        assert other.ehlo()[0] == 250
    disk.go_on()
    assert smtp.getreply()[0] == 250
    smtp.close()
    assert server.new_mail() == [b"Subject: slow\r\n"]


@pytest.mark.real("gcc")
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_message_whose_hook_took_too_long_is_not_stored_later(
    serve: Serve, runtime: str, disk: Disk
) -> None:
    server = serve("--runtime", runtime, "--set", "hook_timeout=0.2", environment=disk.environment)
    disk.stop()
    smtp = in_data(server)
    smtp.send(b".\r\n")
    assert smtp.getreply()[0] == 451
    disk.go_on()
    wait_until(lambda: is_empty(server), PATIENCE)
    deliver(server)
    smtp.close()
    assert [name.endswith(MESSAGE) for name in server.new_mail()] == [True]


@pytest.mark.real("gcc")
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_disk_that_hangs_delays_the_end_by_seconds_only(
    serve: Serve, runtime: str, workers: str, holding: Path, tmp_path: Path
) -> None:
    disk = Disk(holding, tmp_path, "/mail/tmp/")
    options = ("--set", "close_timeout=0.5", "--workers", workers)
    server = serve("--runtime", runtime, *options, environment=disk.environment)
    disk.stop()
    smtp = in_data(server)
    smtp.send(b".\r\n")
    disk.wait()
    began = time.monotonic()
    server.send(signal.SIGTERM)
    assert server.status() == 0
    assert time.monotonic() - began < 10  # 6.5, and a busy machine
    smtp.close()


# --- the reader of the output -----------------------------------------------------------------------


class Unread:
    """A server whose standard output is a pipe that is read up to its first line only."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.directory: Path = directory
        self.output, theirs = os.pipe()
        fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, 4096)
        self.process: subprocess.Popen[bytes] = subprocess.Popen(
            [*COMMAND, "serve", "--port", "0", "--set", "close_timeout=1", *arguments],
            cwd=directory, env=ENVIRONMENT, stdout=theirs, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs)
        said = b""
        while not said.endswith(b"\n"):
            said += os.read(self.output, 1)
        self.port: int = int(said.rpartition(b":")[2])

    def deliver(self, count: int) -> None:
        with smtplib.SMTP("127.0.0.1", self.port, local_hostname="client.test", timeout=PATIENCE) as smtp:
            for _ in range(count):
                assert smtp.sendmail(LONG, [f"{number}{LONG}" for number in range(8)], MESSAGE) == {}

    def stored(self) -> int:
        return len(list((self.directory / "mail" / "new").iterdir()))

    def end(self) -> float:
        """End it; how long that took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE) == 0
        return time.monotonic() - began


@pytest.fixture
def unread(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Unread]:
    made = Unread(tmp_path, *request.param)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait(PATIENCE)
        os.close(made.output)


@pytest.mark.parametrize(
    "unread",
    [*(["--runtime", each] for each in RUNTIMES), ["--workers", "2"]],
    indirect=True, ids=lambda each: each[1],
)  # fmt: skip
def test_an_output_that_nobody_reads_delays_no_reply_and_no_end(unread: Unread) -> None:
    unread.deliver(MANY)
    assert unread.stored() == MANY
    assert unread.end() < 1 + 6


@pytest.mark.parametrize("unread", [["--runtime", "asyncio"]], indirect=True)
def test_lines_that_nobody_read_at_first_come_when_somebody_does(unread: Unread) -> None:
    unread.deliver(MANY)
    lines = 0
    while lines < MANY:
        lines += os.read(unread.output, 65536).count(b"\n")
    assert lines == MANY


# --- signals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_sighup_while_it_ends_does_not_kill_it(serve: Serve, runtime: str, workers: str) -> None:
    server = serve("--runtime", runtime, "--discard", "--workers", workers)
    server.send(signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE
    while True:
        server.send(signal.SIGHUP)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.process.wait(0.001)  # a storm, and time to end in it on a machine that is busy
            break
        assert time.monotonic() < deadline
    assert server.status() == 0
