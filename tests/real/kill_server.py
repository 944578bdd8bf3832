# What is a 250 worth? Kills a server under load, again and again, and looks into its Maildir.
#
#     python tests/real/kill_server.py --times 200
#
# Four clients send messages of all sizes. At a step that chance chooses (a connection, a command, a
# piece of a message, a reply) the server gets SIGKILL. Then, of all that has been sent so far:
#
# - every message whose 250 a client saw is in new/, octet for octet;
# - every file in new/ is one that was sent, whole: nothing there is partial;
# - a message may be there twice only if its 250 got lost and its client sent it again.
#
# The next server takes over the same Maildir, and clients begin with what they got no 250 for. After
# the last round a server that nobody kills takes the rest, and nothing may be missing.

from __future__ import annotations

import argparse
import random
import re
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

sys.path[:0] = [str(Path(__file__).parents[1])]

from real.served import PATIENCE, Served  # noqa: E402 - found by the line above when this is a command

if TYPE_CHECKING:
    from collections.abc import Callable

CLIENTS: Final = 4
PIECE: Final = 16 * 1024  # octets of a message that are written at once
LINE: Final = 67  # octets, about
SIZES: Final = (200, 2_000, 20_000, 200_000)  # octets, about
MESSAGES_A_SESSION: Final = 5
STEPS: Final = 1000  # the most that a round takes until the server is killed
# One trace line with its continuations; what the server puts in front of a message.
TRACE: Final = re.compile(rb"(?:(?:Return-Path|Delivered-To|Received):[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*)*")


class Mail:
    """Messages made from their numbers, so that none need be kept."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def message(self, number: int) -> bytes:
        """The message of that number: always the same octets, some lines beginning with dots."""
        dice = random.Random(f"{self._seed} {number}")  # noqa: S311 - only to be reproducible
        lines = [b"Message-ID: <%d@load.example>" % number, b"Subject: load", b""]
        lines += [
            dice.choice([b"", b".", b"..", b"x"]) + dice.randbytes(32).hex().encode()
            for _ in range(dice.choice(SIZES) // LINE)
        ]
        return b"".join(line + b"\r\n" for line in lines)


class Ledger:
    """What was sent, what was answered with 250, and what was found on the disk."""

    def __init__(self, mail: Mail) -> None:
        self._mail: Final = mail
        self._lock: Final = threading.Lock()
        self._next: int = 0
        self._open: list[int] = []
        self.sent: int = 0
        """Times a message was begun, repetitions included."""
        self.acknowledged: set[int] = set()
        self.found: dict[int, int] = {}
        """How often each message is in the Maildir."""
        self.early: int = 0
        """Messages that were in the Maildir before a client saw their 250."""
        self.attempts: dict[int, int] = {}
        """How often each message may be there: once for each time it was sent."""

    def take(self, *, more: bool) -> int | None:
        """The number of the next message to be sent: one that is still open, or with `more` a new one."""
        with self._lock:
            if self._open:
                number = self._open.pop(0)
            elif more:
                number = self._next
                self._next += 1
            else:
                return None
            self.sent += 1
            self.attempts[number] = self.attempts.get(number, 0) + 1
            return number

    def put_back(self, number: int) -> None:
        """The message was not answered."""
        with self._lock:
            self._open.append(number)

    def acknowledge(self, number: int) -> None:
        with self._lock:
            self.acknowledged.add(number)

    def read(self, maildir: Path) -> list[str]:
        """Count what has come into the Maildir, and remove it from there; what is wrong with it."""
        faults: list[str] = []
        for path in (maildir / "new").iterdir():
            content = path.read_bytes()
            message = content[TRACE.match(content).end() :]  # type: ignore[union-attr] # it matches nothing too
            named = re.match(rb"Message-ID: <(\d+)@load\.example>\r\n", message)
            if named is None or message != self._mail.message(int(named[1])):
                faults.append(f"{path.name} is none of the messages: {len(content)} octets")
            elif not path.name.endswith(f",S={len(content)}"):
                faults.append(f"{path.name} has {len(content)} octets")
            else:
                number = int(named[1])
                self.early += number not in self.acknowledged
                self.found[number] = self.found.get(number, 0) + 1
                path.unlink()
        faults += [f"message {number} was answered with 250 and is lost" for number in self.lost()]
        faults += [
            f"message {number} is there {times} times and was sent {self.attempts[number]} times"
            for number, times in self.found.items()
            if times > self.attempts[number]
        ]
        return faults

    def lost(self) -> set[int]:
        return self.acknowledged - self.found.keys()

    def missing(self) -> set[int]:
        return self.attempts.keys() - self.found.keys()

    @property
    def duplicates(self) -> int:
        """Files beyond the first of each message."""
        return sum(times - 1 for times in self.found.values())


class Load:
    """Clients against one server, until it is killed or all is sent."""

    def __init__(self, port: int, mail: Mail, ledger: Ledger, *, steps: int | None) -> None:
        self._port: Final = port
        self._mail: Final = mail
        self._ledger: Final = ledger
        self._lock: Final = threading.Lock()
        self._more: Final = steps is not None
        self._left: int = -1 if steps is None else steps
        self.now: threading.Event = threading.Event()
        """Set at the step at which the server is to be killed, or when it has gone already."""
        self.faults: list[str] = []
        self._broken: bool = False
        self._threads: Final = [threading.Thread(target=self._run, args=(n,)) for n in range(CLIENTS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def until_now(self) -> bool:
        """Wait for that step; False if it did not come."""
        return self.now.wait(PATIENCE) and not self._broken

    def join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a client hangs"

    def _step(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left == 0:
                self.now.set()

    def _run(self, index: int) -> None:
        try:
            while self._session(pipelined=index % 2 == 0):
                pass
        except (ConnectionError, EOFError):  # what a server that was killed looks like from here
            self._break()
        except Exception as error:  # noqa: BLE001 - a thread has nobody to raise to
            self.faults.append(f"a client: {type(error).__name__}: {error}")
            self._break()

    def _break(self) -> None:
        self._broken = True
        self.now.set()

    def _session(self, *, pipelined: bool) -> bool:
        """A few messages on one connection; whether there may be more."""
        with Talk(self._port, self._step) as talk:
            talk.say([b"EHLO load.example"], [b"250"])
            for _ in range(MESSAGES_A_SESSION):
                number = self._ledger.take(more=self._more)
                if number is None:
                    return False
                try:
                    talk.deliver(self._mail.message(number), pipelined=pipelined)
                except BaseException:
                    self._ledger.put_back(number)
                    raise
                self._ledger.acknowledge(number)
            talk.say([b"QUIT"], [b"221"])
        return True


class Talk:
    """The client's half of SMTP, which tells `step` of each piece sent and each reply read."""

    def __init__(self, port: int, step: Callable[[], None]) -> None:
        self._step: Final = step
        self._sock: Final = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self._file: Final = self._sock.makefile("rb")
        try:
            self._expect(b"220")
        except BaseException:
            self.close()
            raise

    def say(self, lines: list[bytes], codes: list[bytes]) -> None:
        """Send commands in one piece and read their replies."""
        self._send(b"".join(line + b"\r\n" for line in lines))
        for code in codes:
            self._expect(code)

    def deliver(self, message: bytes, *, pipelined: bool) -> None:
        """Send one message; when this returns, its 250 has been read."""
        lines, codes = (
            [b"MAIL FROM:<a@load.example>", b"RCPT TO:<b@load.example>", b"DATA"],
            [b"250", b"250", b"354"],
        )
        if pipelined:
            self.say(lines, codes)
        else:
            for line, code in zip(lines, codes, strict=True):
                self.say([line], [code])
        stuffed = re.sub(rb"^\.", b"..", message, flags=re.MULTILINE) + b".\r\n"
        for start in range(0, len(stuffed), PIECE):
            self._send(stuffed[start : start + PIECE])
        self._expect(b"250")

    def _send(self, data: bytes) -> None:
        self._sock.sendall(data)
        self._step()

    def _expect(self, code: bytes) -> None:
        while True:
            line = self._file.readline()
            if not line.endswith(b"\n"):
                raise EOFError
            if line[3:4] != b"-":
                break
        if not line.startswith(code):
            raise ValueError(f"{line!r} is not {code.decode()}")
        self._step()

    def close(self) -> None:
        self._file.close()
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def main() -> int:
    arguments = argparse.ArgumentParser(description="Kill a server under load and look into its Maildir.")
    arguments.add_argument("--times", type=int, default=200, help="how often; 200 unless told")
    arguments.add_argument("--seed", type=int, help="to choose the same steps again")
    arguments.add_argument("--runtime", default="asyncio")
    given = arguments.parse_args()
    seed = random.randrange(2**32) if given.seed is None else given.seed  # noqa: S311 - only to vary
    with tempfile.TemporaryDirectory(prefix="smtpproto-kill-") as folder:
        return run(Path(folder) / "mail", times=given.times, seed=seed, runtime=given.runtime)


def run(maildir: Path, *, times: int, seed: int, runtime: str) -> int:
    """All rounds; the exit status."""
    began = time.monotonic()
    mail = Mail(seed)
    ledger = Ledger(mail)
    dice = random.Random(seed)  # noqa: S311 - only to be reproducible
    faults: list[str] = []
    for _ in range(times):
        with Served("--maildir", maildir, "--runtime", runtime) as server:
            load = Load(server.port, mail, ledger, steps=dice.randint(1, STEPS))
            load.start()
            if not load.until_now():
                faults.append("the server did not last until it was killed")
            server.kill()
            load.join()
        faults += server.complaints() + load.faults + ledger.read(maildir)
    with Served("--maildir", maildir, "--runtime", runtime) as server:
        load = Load(server.port, mail, ledger, steps=None)
        load.start()
        load.join()
        server.kill()
    faults += server.complaints() + load.faults + ledger.read(maildir)
    faults += [f"message {number} never came" for number in ledger.missing()]
    cut_short = len(list((maildir / "tmp").iterdir()))
    figures = {
        "messages": len(ledger.attempts), "sent": ledger.sent, "250 seen": len(ledger.acknowledged),
        "lost": len(ledger.lost()), "duplicates": ledger.duplicates, "there before their 250": ledger.early,
        "unfinished in tmp/": cut_short, "faults": len(faults),
    }  # fmt: skip
    how = f"{runtime}, seed {seed}, {time.monotonic() - began:.0f} s"
    listed = ", ".join(f"{name} {count}" for name, count in figures.items())
    sys.stdout.write(f"killed {times} times ({how}): {listed}\n")
    for fault in faults:
        sys.stdout.write(f"FAULT: {fault}\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
