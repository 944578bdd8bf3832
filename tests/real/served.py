# `smtpproto serve` in a process of its own, for the two commands that measure it.

from __future__ import annotations

import resource
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final, Self

PATIENCE: Final = 60.0  # seconds


class Served:
    """The server, on a free port of 127.0.0.1; listens when made. A context manager that kills it."""

    def __init__(self, *arguments: str | Path) -> None:
        self.process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, "-m", "smtpproto_cli", "serve", "--port", "0", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        line = self.process.stdout.readline().decode()
        assert line.startswith("listening on 127.0.0.1:"), line
        self.port: int = int(line.rpartition(":")[2])
        # It must not wait for a reader of what it says.
        self._log: list[bytes] = []
        self._readers: Final = (
            threading.Thread(target=self.process.stdout.read),
            threading.Thread(target=self._log.extend, args=(self.process.stderr,)),
        )
        for reader in self._readers:
            reader.start()

    def kill(self) -> None:
        """End it as a crash or a lack of memory does: at once, whatever it is doing."""
        self.process.kill()
        self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()

    def complaints(self) -> list[str]:
        """Errors that it logged; to be asked when it has ended."""
        return [line.decode().rstrip() for line in self._log if b" WARNING " not in line]

    def memory(self, field: str = "VmRSS") -> int:
        """Octets: VmRSS now, VmHWM at the most since `forget_peak`."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        kibibytes = next(line.split()[1] for line in status.splitlines() if line.startswith(f"{field}:"))
        return int(kibibytes) * 1024

    def forget_peak(self) -> None:
        """Begin anew with VmHWM."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def allow_descriptors(count: int) -> None:
    """Raise the soft limit, here and for what is started from here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        if hard != resource.RLIM_INFINITY and hard < count:
            sys.exit(f"{count} descriptors are needed, and the hard limit is {hard}: see ulimit -Hn")
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
