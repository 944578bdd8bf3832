# One server under one load: how much of the processor's time and of memory it takes.
#
# Time is the kernel's own count for the server's processes, in user and kernel mode, so neither the
# clients nor waiting are in it. The server has one CPU and the load another. Linux only.

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from benchmarks.lineup import ENVIRONMENT, HERE
from benchmarks.workloads import IDLE, MIB, OVER_TLS, SEVERAL, TLS

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from benchmarks.lineup import Server
    from benchmarks.workloads import Workload

Figures = dict[str, float]
"""Of one repetition, by name."""

PATIENCE: Final = 20.0  # seconds until a server greets
TICKS: Final = os.sysconf("SC_CLK_TCK")
DESCRIPTORS: Final = 10_000
WARM_UP: Final = ("{blast}", "pipeline", "{port}", "16", "{n}", "1024")
WARM_UP_TLS: Final = (*OVER_TLS, "messages", "{port}", "4", "{n}", "1024")


class Broken(Exception):  # noqa: N818 - what became of a measurement
    """A server did not greet, or a load was not answered as it should be."""


@dataclass(frozen=True)
class Bench:
    """Where and how long servers are measured."""

    folder: Path
    """For what is made: the compiled load, the certificate, logs."""
    server_cpu: int
    load_cpu: int
    seconds: float
    """How long a repetition is meant to take."""
    timeout: float
    """After which it has failed."""
    warm_up: int
    """Messages that a server gets before it counts."""

    @property
    def blast(self) -> Path:
        """The load, compiled."""
        program = self.folder / "blast"
        if not program.exists():
            subprocess.run(["cc", "-O2", "-o", program, HERE / "blast.c"], check=True)
        return program

    @property
    def pem(self) -> Path:
        """A key and its certificate."""
        path = self.folder / "server.pem"
        if not path.exists():
            import trustme  # noqa: PLC0415 - only TLS needs it

            trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(path)
        return path

    def words(self, command: Sequence[str], **values: object) -> list[str]:
        """A command with its places filled in."""
        paths = {name: getattr(self, name) for name in ("blast", "pem") if f"{{{name}}}" in command}
        return [word.format(**paths, **values) if "{" in word else word for word in command]

    def cpus(self, workload: Workload) -> tuple[set[int], set[int]]:
        """Those of the server and those of the load."""
        everywhere = os.sched_getaffinity(0)
        if workload.group == SEVERAL:
            return everywhere, everywhere
        return {self.server_cpu}, {self.load_cpu}


@contextlib.contextmanager
def pinned(cpus: set[int]) -> Generator[None]:
    """What is started in here keeps to these CPUs."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Running:
    """A server that has greeted; a context manager that ends it."""

    def __init__(self, server: Server, workload: Workload, bench: Bench) -> None:
        allow_descriptors()
        with socket.create_server(("127.0.0.1", 0)) as found:
            self.port: int = found.getsockname()[1]
        self.bench: Bench = bench
        self.workload: Workload = workload
        self._log: Path = bench.folder / f"{server.name}.log"
        command = (*server.command, *(server.tls if workload.group == TLS else ()))
        with pinned(bench.cpus(workload)[0]), self._log.open("wb") as log:
            self._process: subprocess.Popen[bytes] = subprocess.Popen(
                bench.words(command, port=self.port),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=ENVIRONMENT,
                start_new_session=True,
            )
        try:
            self._wait_for_greeting()
        except BaseException:
            self.stop()
            raise
        self.idle_kib: int = self.memory_kib("VmRSS")
        """Resident memory before the first client that says anything."""

    def _wait_for_greeting(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 2) as sock:
                # Over TLS the server is waiting for us; that it takes connections has to do.
                if self.workload.group == TLS or sock.recv(3) == b"220":
                    return
            time.sleep(0.05)
        raise Broken(f"it did not greet: {last_line(self._log.read_text(errors='replace'))}")

    def family(self) -> list[int]:
        """Its process and all that this has started."""
        found = [self._process.pid]
        for process in found:
            for path in Path(f"/proc/{process}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    found += map(int, path.read_text().split())
        return found

    def processor_time(self) -> tuple[float, float]:
        """Seconds of the processor so far, and those of them in the kernel (counted in ticks)."""
        total = in_kernel = 0.0
        for process in self.family():
            with contextlib.suppress(OSError):
                total += time.clock_gettime(
                    (~process << 3) | 2
                )  # the clock of a process, threads that ended too
                facts = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
                in_kernel += int(facts[12]) / TICKS
        return total, in_kernel

    def memory_kib(self, field: str) -> int:
        """VmRSS: resident now. VmHWM: at the most since `forget_peak`."""
        total = 0
        for process in self.family():
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{process}/status").read_text()
                total += sum(map(int, re.findall(rf"^{field}:\s*(\d+)", status, re.MULTILINE)))
        return total

    def forget_peak(self) -> None:
        """Begin anew with VmHWM."""
        for process in self.family():
            with contextlib.suppress(OSError):
                Path(f"/proc/{process}/clear_refs").write_text("5")

    def stop(self) -> None:
        """End it and what it has started."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(3)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- loads ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def load(self, command: Sequence[str], units: int) -> Generator[subprocess.Popen[bytes]]:
        """Start a load; what it prints may be read, and it must end well."""
        words = self.bench.words(command, port=self.port, n=units)
        with pinned(self.bench.cpus(self.workload)[1]):
            process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=ENVIRONMENT,
            )
        with process:
            try:
                yield process
                said = process.communicate(timeout=self.bench.timeout)[0].decode(errors="replace")
            except subprocess.TimeoutExpired:
                raise Broken(f"the load took more than {self.bench.timeout:g} s") from None
            finally:
                process.kill()
        # smtp-source warns and exits with 0 when its server goes away.
        if process.returncode or re.search(r"fatal|warning|panic", said):
            raise Broken(f"the load failed: {last_line(said)}")

    def warm(self) -> None:
        """Let it see some messages, so that nothing is done for the first time."""
        if self.bench.warm_up:
            with self.load(WARM_UP_TLS if self.workload.group == TLS else WARM_UP, self.bench.warm_up):
                pass

    def under_load(self, units: int) -> Figures:
        """One repetition."""
        self.forget_peak()
        (began, kernel_began), at = self.processor_time(), time.perf_counter()
        with self.load(self.workload.load, units):
            pass
        wall = time.perf_counter() - at
        ended, kernel_ended = self.processor_time()
        spent, peak = ended - began, self.memory_kib("VmHWM")
        return {
            "units": units,
            "rate": units / wall,
            "cpu_us": spent * 1e6 / units,
            "kernel": min(1.0, (kernel_ended - kernel_began) / spent),
            "busy": spent / wall,
            "peak_mib": peak * 1024 / MIB,
            "growth_mib": (peak - self.idle_kib) * 1024 / MIB / self.workload.sessions,
        }

    def with_idle_clients(self, units: int) -> Figures:
        """One repetition of connections that are only there."""
        began, at = self.processor_time()[0], time.perf_counter()
        with self.load(self.workload.load, units) as load:
            assert load.stdout is not None
            if not (line := load.stdout.readline()).startswith(b"READY"):
                raise Broken(f"the load failed: {last_line(line.decode(errors='replace'))}")
            wall = time.perf_counter() - at
            time.sleep(self.bench.seconds / 2)  # until it has done what it does behind a reply
            resident, spent, at = self.memory_kib("VmRSS"), self.processor_time()[0], time.perf_counter()
            time.sleep(2 * self.bench.seconds)
            idle = (self.processor_time()[0] - spent) / (time.perf_counter() - at)
        return {
            "units": units,
            "rate": units / wall,
            "cpu_us": (spent - began) * 1e6 / units,
            "idle_cpu": idle,
            "kib": (resident - self.idle_kib) / units,
        }

    def units(self) -> int:
        """How many make a repetition that lasts as long as the bench wants."""
        most, seconds = self.workload.most, self.bench.seconds
        units = min(most, 4 if self.workload.octets >= MIB else 100)
        while True:
            wall = units / self.under_load(units)["rate"]
            if wall > seconds / 4 or units >= most:
                return max(2, min(most, round(units * seconds / wall)))
            units = min(most, units * 4)


def last_line(said: str) -> str:
    """Where programs say what was wrong."""
    return (said.strip().splitlines() or ["without a word"])[-1]


def allow_descriptors() -> None:
    """As many as the idle connections take, here and in what is started from here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < DESCRIPTORS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(DESCRIPTORS, hard), hard))


def interleaved(
    workload: Workload,
    servers: Sequence[Server],
    bench: Bench,
    repetitions: int,
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[dict[str, list[Figures]], dict[str, str]]:
    """The figures of each server, and what went wrong with others.

    Repetitions take turns, and each turn begins with another server, so that what else the machine does
    at a time falls on all of them. Idle connections get a new server each time.
    """
    figures: dict[str, list[Figures]] = {server.name: [] for server in servers}
    faults: dict[str, str] = {}
    ready: dict[str, tuple[Running, int]] = {}

    def once(server: Server) -> None:
        if workload.group == IDLE:
            with Running(server, workload, bench) as fresh:
                figures[server.name].append(fresh.with_idle_clients(workload.sessions))
        elif server.name not in ready:
            running = everything.enter_context(Running(server, workload, bench))
            running.warm()
            ready[server.name] = running, running.units()
        else:
            running, units = ready[server.name]
            figures[server.name].append(running.under_load(units))

    turns = repetitions if workload.group == IDLE else repetitions + 1  # the first finds how many units
    with contextlib.ExitStack() as everything:
        for turn in range(turns):
            first = turn % len(servers)
            for server in (*servers[first:], *servers[:first]):
                if server.name in faults:
                    continue
                tell(f"{workload.name} {turn + 1}/{turns} {server.name}")
                try:
                    once(server)
                except Broken as fault:
                    faults[server.name] = str(fault)
                    del figures[server.name]
    return figures, faults
