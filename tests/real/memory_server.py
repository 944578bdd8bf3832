# How much memory do large messages and idle connections take, and how much CPU a message?
#
#     python tests/real/memory_server.py
#     python tests/real/memory_server.py --runtime asyncio uvloop anyio trio gevent blocking
#
# Resident memory of `smtpproto serve`, as the kernel counts it. Idle is the server that listens and
# has had no client yet, so whatever is loaded or allocated later counts against it:
#
# - four clients at once send 20 MiB each: the most it ever had while they did (VmHWM), less idle;
# - 2,000 clients have said EHLO and are silent: the growth for each;
# - four clients at once send messages of 1 KiB: the processor's time, in user and kernel, for each. This
#   is a server of our own, with a hook in its runtime's colour or a plain one, which has a thread's turn
#   where there is a loop: those of `smtpproto serve` are plain, and it prints a line for each message.
#
# Exits 1 when a limit is passed. TLS has none and time has none: they are for information.

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

sys.path[:0] = [str(Path(__file__).parents[1])]

# Found by the line above when this is a command.
from real.served import PATIENCE, Served, allow_descriptors  # noqa: E402
from smtpproto_kit import RUNTIMES, running  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from smtpproto import Session
    from smtpproto_server import AsyncStream, Stream

MIB: Final = 1024 * 1024
KIB: Final = 1024
CLIENTS: Final = 4
SIZE: Final = 20 * MIB
MESSAGES_LIMIT: Final = 16 * MIB  # above idle
# For each idle connection. One on blocking is a thread, and has the part of its stack that was used.
IDLE_LIMITS: Final[Mapping[str, int]] = {
    "asyncio": 12 * KIB,
    "uvloop": 12 * KIB,
    "anyio": 16 * KIB,
    "trio": 16 * KIB,
    "gevent": 16 * KIB,
    "blocking": 40 * KIB,
}
SMALL: Final = b"Subject: small\r\n\r\n" + (b"x" * 62 + b"\r\n") * 16  # 1 KiB
A_SESSION: Final = 100  # messages of a client that sends many in one
WARMING: Final = 20  # messages of each client before it counts
QUIET: Final = ("--set", "socket_timeout=none", "--set", "session_timeout=none")


class Client:
    """A connection that has said EHLO, over TLS if asked."""

    def __init__(self, port: int, *, tls: bool = False) -> None:
        self._sock: socket.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self._read(b"220")
        if tls:
            self.say(b"STARTTLS", b"220")
            self._sock = _trusting().wrap_socket(self._sock)
        self.say(b"EHLO load.example", b"250")

    def say(self, line: bytes, code: bytes) -> None:
        self._sock.sendall(line + b"\r\n")
        self._read(code)

    def begin(self) -> None:
        """Up to the 354."""
        self.say(b"MAIL FROM:<a@load.example>", b"250")
        self.say(b"RCPT TO:<b@load.example>", b"250")
        self.say(b"DATA", b"354")

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    def _read(self, code: bytes) -> None:
        data = b""
        while not (data.endswith(b"\r\n") and data.splitlines()[-1][3:4] == b" "):
            piece = self._sock.recv(4096)
            if not piece:
                raise EOFError("the server closed the connection")
            data += piece
        if not data.startswith(code):
            raise ValueError(f"{data!r} is not {code.decode()}")

    def close(self) -> None:
        self._sock.close()


def _trusting() -> ssl.SSLContext:
    """What trusts anybody: this measures memory."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def deliver(port: int, *, tls: bool) -> None:
    """Send one message of SIZE octets in lines, some of which begin with a dot."""
    piece = (b"..\r\n" + b"x" * 76 + b"\r\n") * (64 * KIB // 82)
    client = Client(port, tls=tls)
    client.begin()
    for _ in range(SIZE // len(piece) + 1):
        client.send(piece)
    client.say(b".", b"250")
    client.close()


def deliver_small(port: int, count: int, a_session: int) -> None:
    """Send so many messages of 1 KiB, with a new connection behind every few."""
    for begin in range(0, count, a_session):
        client = Client(port)
        for _ in range(min(a_session, count - begin)):
            client.begin()
            client.say(SMALL + b".", b"250")  # in one piece: the second of two would wait for an ACK
        client.say(b"QUIT", b"221")
        client.close()


def at_once(job: Callable[[], None]) -> list[str]:
    """Have all clients do the same; their faults."""
    faults: list[str] = []

    def run() -> None:
        try:
            job()
        except Exception as error:  # noqa: BLE001 - a thread has nobody to raise to
            faults.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=run) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return faults


def messages(*arguments: str | Path, tls: bool = False) -> tuple[int, int, list[str]]:
    """Idle memory, its growth at the most, and faults, with large messages from all clients at once."""
    with Served(*arguments) as server:
        idle = server.memory()
        server.forget_peak()
        faults = at_once(lambda: deliver(server.port, tls=tls))
        growth = server.memory("VmHWM") - idle
        server.kill()
        return idle, growth, faults + server.complaints()


def work(port: int, process: int, count: int, a_session: int) -> tuple[float, list[str]]:
    """Seconds of the processor that a server took for each of so many small messages, and faults."""
    at_once(lambda: deliver_small(port, WARMING, WARMING))  # so that nothing is done for the first time
    before = processor_time(process)
    faults = at_once(lambda: deliver_small(port, count // CLIENTS, a_session))
    return (processor_time(process) - before) / (count // CLIENTS * CLIENTS), faults


@contextlib.contextmanager
def own_server(runtime: str, hook: str) -> Generator[tuple[int, int]]:
    """A server that does no more than it must: its port and process."""
    command = [sys.executable, __file__, "--serve", hook, "--runtime", runtime]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline()), process.pid
        process.kill()


def coloured(stream: AsyncStream, _session: Session) -> Generator[Any, Any, None]:
    """Read the message, in the colour of the runtime."""
    yield stream.read()


def plain(stream: Stream, _session: Session) -> None:
    """Read the message."""
    stream.read()


HOOKS: Final[Mapping[str, Callable[..., Any]]] = {"own": coloured, "plain": plain}


def serve(runtime: str, hook: str) -> None:
    """Be that server, until the standard input ends."""
    with running(runtime, on_data=HOOKS[hook]) as server:
        sys.stdout.write(f"{server.port}\n")
        sys.stdout.flush()
        sys.stdin.read()


def processor_time(process: int) -> float:
    """Seconds that a process has had, in its own code and in the kernel's (proc_pid_stat(5))."""
    facts = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, facts[11:13])) / os.sysconf("SC_CLK_TCK")


def connections(count: int, *arguments: str, tls: bool = False) -> tuple[int, float]:
    """Idle memory, and its growth for each of so many idle connections."""
    with Served(*QUIET, "--discard", *arguments) as server:
        idle = server.memory()
        clients = [Client(server.port, tls=tls) for _ in range(count)]
        growth = (server.memory() - idle) / count
        for client in clients:
            client.close()
        return idle, growth


def main() -> int:
    arguments = argparse.ArgumentParser(description="Measure the memory of a server, and its work.")
    arguments.add_argument("--connections", type=int, default=2000, help="idle ones; 2000 unless told")
    arguments.add_argument("--messages", type=int, default=4000, help="small ones; 4000 unless told")
    arguments.add_argument("--runtime", nargs="+", default=["asyncio"], choices=RUNTIMES, metavar="NAME")
    arguments.add_argument("--no-tls", action="store_true", help="leave TLS out, which has no limit")
    arguments.add_argument("--no-memory", action="store_true", help="only the time of small messages")
    arguments.add_argument("--no-time", action="store_true", help="leave out the time of small messages")
    arguments.add_argument("--serve", choices=HOOKS, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.serve:
        serve(given.runtime[0], given.serve)
        return 0
    allow_descriptors(given.connections + 100)
    passed = True
    for runtime in given.runtime:
        for tls in (False, True):
            if not (given.no_memory or (tls and given.no_tls)):
                passed &= measured(runtime, given.connections, tls=tls)
        for hook in () if given.no_time else HOOKS:
            for a_session in (1, A_SESSION):
                passed &= timed(runtime, given.messages, a_session, hook)
    return 0 if passed else 1


def measured(runtime: str, count: int, *, tls: bool) -> bool:
    """Whether the memory of large messages and of idle connections stays within the limits."""
    over, passed = "TLS" if tls else "TCP", True
    with tempfile.TemporaryDirectory(prefix="smtpproto-memory-") as folder:
        stores: list[tuple[str, tuple[str | Path, ...]]] = [
            ("discarded", ("--discard",)),
            ("into a Maildir", ("--maildir", Path(folder) / "mail")),
        ]
        for name, store in stores:
            idle, growth, faults = messages("--runtime", runtime, *store, tls=tls)
            passed &= say(
                f"{runtime}: {CLIENTS} x {SIZE // MIB} MiB over {over}, {name}: idle {idle / MIB:.1f} MiB, "
                f"at the most {growth / MIB:.1f} MiB more",
                "" if tls else f"limit {MESSAGES_LIMIT // MIB} MiB",
                faults,
                kept=growth <= MESSAGES_LIMIT,
            )
    idle, each = connections(count, "--runtime", runtime, tls=tls)
    return passed & say(
        f"{runtime}: {count} idle connections over {over}: idle {idle / MIB:.1f} MiB, "
        f"{each / KIB:.2f} KiB more for each",
        "" if tls else f"limit {IDLE_LIMITS[runtime] // KIB} KiB",
        kept=each < IDLE_LIMITS[runtime],
    )


def timed(runtime: str, count: int, a_session: int, hook: str) -> bool:
    """Tell what a small message takes; False if any of them failed."""
    with own_server(runtime, hook) as (port, process):
        seconds, faults = work(port, process, count, a_session)
    how = "a session for each" if a_session == 1 else f"{a_session} in a session"
    kind = "a plain hook" if hook == "plain" else "a hook of its own colour"
    what = f"{runtime}: {count} x 1 KiB, {how}, {kind}: {seconds * 1e6:.0f} us of CPU for each"
    return say(what, "", faults)


def say(what: str, limit: str, faults: Sequence[str] = (), *, kept: bool = True) -> bool:
    """Tell it with its faults; whether it is good."""
    verdict = f" ({limit}: {'kept' if kept else 'PASSED'})" if limit else ""
    lines = [what + verdict, *(f"FAULT: {each}" for each in faults)]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()
    return not faults and (kept or not limit)


if __name__ == "__main__":
    sys.exit(main())
