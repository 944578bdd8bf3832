# Messages under way, and what became of each: what the commands share that kill servers.
#
# Clients count steps (a connection, a piece sent, a reply read), so that what happens at a step can
# happen at any place of a session. A message counts as delivered when its client has read the 250.

from __future__ import annotations

import random
import re
import socket
import threading
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PATIENCE: Final = 60.0  # seconds
CLIENTS: Final = 4
PIECE: Final = 16 * 1024  # octets of a message that are written at once
LINE: Final = 67  # octets, about
SIZES: Final = (200, 2_000, 20_000, 200_000)  # octets, about
MESSAGES_A_SESSION: Final = 5
BREAKS: Final = 5 * CLIENTS  # the most that lasting clients put up with; one each is what a kill costs
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

    def read(self, *maildirs: Path) -> list[str]:
        """Count what has come into the Maildirs, and remove it from there; what is wrong with it."""
        faults: list[str] = []
        for path in [path for maildir in maildirs for path in (maildir / "new").iterdir()]:
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
    """Clients against one port, until its server is killed or all is sent.

    With `lasting` they connect again when a connection breaks, and send new messages until `finish`.
    """

    def __init__(
        self, port: int, mail: Mail, ledger: Ledger, *, steps: int | None, lasting: bool = False
    ) -> None:
        self._port: Final = port
        self._mail: Final = mail
        self._ledger: Final = ledger
        self._lock: Final = threading.Lock()
        self._more: bool = steps is not None
        self._left: int = -1 if steps is None else steps
        self._lasting: Final = lasting
        self.now: threading.Event = threading.Event()
        """Set at the step at which the server is to be killed, or when it has gone already."""
        self.breaks: int = 0
        """Connections that ended before their time."""
        self.faults: list[str] = []
        self._broken: bool = False
        self._threads: Final = [threading.Thread(target=self._run, args=(n,)) for n in range(CLIENTS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def until_now(self) -> bool:
        """Wait for that step; False if it did not come."""
        return self.now.wait(PATIENCE) and not self._broken

    def go_on(self, steps: int) -> None:
        """Set `now` anew, so many steps later."""
        with self._lock:
            self.now.clear()
            self._left = steps
        if self._broken:
            self.now.set()

    def finish(self) -> None:
        """Begin no more messages; those that are open are sent."""
        self._more = False

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
        more = True
        while more:
            try:
                more = self._session(pipelined=index % 2 == 0)
            except (ConnectionError, EOFError):  # what a server that was killed looks like from here
                more = self._put_up_with_it()
            except Exception as error:  # noqa: BLE001 - a thread has nobody to raise to
                self.faults.append(f"a client: {type(error).__name__}: {error}")
                more = self._give_up()

    def _put_up_with_it(self) -> bool:
        with self._lock:
            self.breaks += 1
            too_many = self.breaks > BREAKS
        if not self._lasting:
            return self._give_up()
        if too_many:
            self.faults.append(f"connections broke {self.breaks} times")
            return self._give_up()
        return True

    def _give_up(self) -> bool:
        self._broken = True
        self.now.set()
        return False

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
