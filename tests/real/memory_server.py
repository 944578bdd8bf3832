# How much memory do large messages and idle connections take?
#
#     python tests/real/memory_server.py
#
# Resident memory of `smtpproto serve`, as the kernel counts it. Idle is the server that listens and
# has had no client yet, so whatever is loaded or allocated later counts against it:
#
# - four clients at once send 20 MiB each: the most it ever had while they did (VmHWM), less idle;
# - 2,000 clients have said EHLO and are silent: the growth for each.
#
# Exits 1 when a limit is passed. TLS has none: its figures are for information.

from __future__ import annotations

import argparse
import socket
import ssl
import sys
import tempfile
import threading
from pathlib import Path
from typing import Final

sys.path[:0] = [str(Path(__file__).parents[1])]

from real.served import PATIENCE, Served, allow_descriptors  # noqa: E402 - found by the line above

MIB: Final = 1024 * 1024
KIB: Final = 1024
CLIENTS: Final = 4
SIZE: Final = 20 * MIB
MESSAGES_LIMIT: Final = 16 * MIB  # above idle
IDLE_LIMIT: Final = 12 * KIB  # for each connection
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


def deliver(port: int, faults: list[str], *, tls: bool) -> None:
    """Send one message of SIZE octets in lines, some of which begin with a dot."""
    piece = (b"..\r\n" + b"x" * 76 + b"\r\n") * (64 * KIB // 82)
    try:
        client = Client(port, tls=tls)
        client.say(b"MAIL FROM:<a@load.example>", b"250")
        client.say(b"RCPT TO:<b@load.example>", b"250")
        client.say(b"DATA", b"354")
        for _ in range(SIZE // len(piece) + 1):
            client.send(piece)
        client.say(b".", b"250")
        client.close()
    except Exception as error:  # noqa: BLE001 - a thread has nobody to raise to
        faults.append(f"{type(error).__name__}: {error}")


def messages(*arguments: str | Path, tls: bool = False) -> tuple[int, int, list[str]]:
    """Idle memory, its growth at the most, and faults, with large messages from all clients at once."""
    faults: list[str] = []
    with Served(*arguments) as server:
        idle = server.memory()
        server.forget_peak()
        threads = [
            threading.Thread(target=deliver, args=(server.port, faults), kwargs={"tls": tls})
            for _ in range(CLIENTS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        growth = server.memory("VmHWM") - idle
        server.kill()
        return idle, growth, faults + server.complaints()


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
    arguments = argparse.ArgumentParser(description="Measure the memory of a server.")
    arguments.add_argument("--connections", type=int, default=2000, help="idle ones; 2000 unless told")
    arguments.add_argument("--runtime", default="asyncio")
    arguments.add_argument("--no-tls", action="store_true", help="leave out what has no limit")
    given = arguments.parse_args()
    allow_descriptors(given.connections + 100)
    runtime = ("--runtime", given.runtime)
    passed = True
    with tempfile.TemporaryDirectory(prefix="smtpproto-memory-") as folder:
        stores: list[tuple[str, tuple[str | Path, ...]]] = [
            ("discarded", ("--discard",)),
            ("into a Maildir", ("--maildir", Path(folder) / "mail")),
        ]
        for tls in (False,) if given.no_tls else (False, True):
            over = "TLS" if tls else "TCP"
            for name, store in stores:
                idle, growth, faults = messages(*runtime, *store, tls=tls)
                good = not faults and (tls or growth <= MESSAGES_LIMIT)
                say(
                    f"{CLIENTS} x {SIZE // MIB} MiB over {over}, {name}: idle {idle / MIB:.1f} MiB, "
                    f"at the most {growth / MIB:.1f} MiB more",
                    "" if tls else f"limit {MESSAGES_LIMIT // MIB} MiB",
                    good=good,
                )
                for fault in faults:
                    sys.stdout.write(f"FAULT: {fault}\n")
                passed = passed and good
            idle, each = connections(given.connections, *runtime, tls=tls)
            good = tls or each < IDLE_LIMIT
            say(
                f"{given.connections} idle connections over {over}: idle {idle / MIB:.1f} MiB, "
                f"{each / KIB:.2f} KiB more for each",
                "" if tls else f"limit {IDLE_LIMIT // KIB} KiB",
                good=good,
            )
            passed = passed and good
    return 0 if passed else 1


def say(what: str, limit: str, *, good: bool) -> None:
    verdict = f" ({limit}: {'kept' if good else 'PASSED'})" if limit else ""
    sys.stdout.write(f"{what}{verdict}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
