# What the command tells its user: that it is ready, and each message.
#
# On the standard output one line for each fact, and what begins in the first column is ours: the
# text of a message, where it is printed, is indented, so no mail can look like one of our lines.
# Everything a client said goes through `visible`. The log goes to the standard error output.
#
# Nobody but one thread writes lines, and few of them wait for it: an output that nobody reads costs
# lines and no mail. They are written past `sys.stdout`, whose lock such a thread would keep for ever.

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import select
import sys
import threading
from collections import deque
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from itertools import chain
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Final, TextIO

from rich.console import Console
from rich.highlighter import NullHighlighter
from rich.logging import RichHandler

from smtpproto_cli._text import visible
from smtpproto_server.adapting import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from concurrent.futures import Future

    from smtpproto import Address, Session

__all__ = ["Journal", "address_text", "log_to_stderr"]

INDENT: Final = "  "
MAX_SHOWN: Final = 10  # recipients on one line
MAX_WAITING: Final = 2048  # lines for which nobody has room
SOON: Final = 0.05  # seconds; to wake the thread for each line costs more than the line
PRINT_WITHIN: Final = 10.0  # seconds in which somebody reads on of what is printed
PIECE: Final = 8192  # characters of a line of a message that are handled at once
LINE: Final = "id=%s from=<%s> to=%s size=%s tls=%s user=%s stored=%s"
CUT_OFF: Final = "\njournal: the message above was cut off; it was not accepted\n"
NAMED: Final = LINE.replace(" stored=", " listener=%s stored=")
DIM: Final = re.compile(r" ?\w+=")  # on a terminal
_LOG: Final = logging.getLogger("smtpproto")


class Journal:
    """Writes to the standard output, for any thread, and from several processes within `shared`.

    `output` is None if that was closed before we were started.
    """

    __slots__ = (
        "_begun", "_broken", "_closing", "_cut", "_form", "_lines", "_losing", "_lost", "_named", "_output",
        "_turn", "_who", "_worker",
    )  # fmt: skip

    def __init__(self, output: TextIO | None) -> None:
        self._output: Output = Output(output)
        self._form: str = LINE
        self._named: str = NAMED
        if self._output.is_terminal:
            self._form, self._named = (DIM.sub("\x1b[2m\\g<0>\x1b[0m", form) for form in (LINE, NAMED))
        self._worker: Worker = Worker("smtpproto-journal")
        self._turn: Turn = Turn()
        self._who: str = ""
        self._lines: deque[str] = deque()
        self._closing: threading.Event = threading.Event()
        self._begun: bool = False  # writing them was handed to the thread
        self._losing: threading.Lock = threading.Lock()
        self._lost: int = 0
        self._broken: bool = False  # the last attempt to write has failed
        self._cut: bool = False  # a printed message has no end

    @contextmanager
    def shared(self) -> Generator[None]:
        """Have processes that are forked meanwhile take turns with each other."""
        with TemporaryFile() as file:
            self._turn.file = file
            yield
            self._turn.file = None

    def name(self, who: str) -> None:
        """Say in the log, and of what is ending, who it is."""
        self._who = who
        for handler in logging.getLogger().handlers:
            if isinstance(handler.formatter, _Formatter):
                handler.formatter.who = f"{who}: "

    def ready(self, addresses: Iterable[tuple[str, int] | str]) -> None:
        """Say where the server listens; programs wait for this line, so it is never coloured.

        Written here and now: who has workers must have no threads.
        """
        places = ", ".join(map(address_text, addresses))
        with self._turn:
            self._output.write(f"listening on {visible(places)}\n")

    def message(self, session: Session, size: int, stored: str) -> None:
        """Say that the session's present message was taken.

        It has been taken: a line that cannot be written does not change that.
        """
        if len(self._lines) >= MAX_WAITING:
            self._lose(1)
            return
        self._lines.append(self._line(session, size, stored))
        if not self._begun:
            self._begun = True
            try:
                self._worker.put(self._write)
            except RuntimeError:  # no thread can be started now
                self._begun = False

    def printed(
        self, session: Session, size: int, content: IO[bytes], given_up: Callable[[], bool]
    ) -> Future[None]:
        """Say the same, and print the message.

        It is not printed if the hook is given up before its turn comes, and cut off if that happens within.
        It fails with OSError if it cannot be printed: with TimeoutError if nobody has read on for a while.
        """
        line = self._line(session, size, "printed")
        return self._worker.submit(lambda: self._print(line, content, given_up))

    def ending(self, clients: int) -> None:
        """Say, on the standard error output, what a server that was told to end waits for."""
        if sys.stderr is None:  # pyright: ignore[reportUnnecessaryComparison] - None if closed
            return
        with suppress(OSError):
            who = f"{self._who}: " if self._who else ""
            sys.stderr.write(f"closing: {who}{clients} connected; a second signal ends it at once\n")
            sys.stderr.flush()

    def close(self, seconds: float) -> None:
        """Write what waits, for so long."""
        self._closing.set()
        self._worker.close(seconds)

    def _line(self, session: Session, size: int, stored: str) -> str:
        sender, recipients = session.envelope.mail_from, session.envelope.rcpt_to
        facts = (
            f"{session.id}-{session.transaction}",  # as in the Received line
            "" if sender is None else sender.address,
            f"<{recipients[0].address}>" if len(recipients) == 1 else _some(recipients),
            size,
            _tls(session),
            "-" if session.user is None else session.user,
            *((session.listener, stored) if session.listener else (stored,)),
        )
        form = self._named if session.listener else self._form
        line = form % facts
        if self._output.is_terminal or not line.isprintable():
            line = form % tuple([visible(str(fact)) for fact in facts])
        return line + "\n"

    def _lose(self, count: int) -> None:
        with self._losing:
            self._lost += count

    # --- the thread's side --------------------------------------------------------------------------

    def _write(self) -> None:
        """Write the lines that wait, and those that come soon after."""
        while True:
            while self._lines:
                self._write_some()
                self._closing.wait(SOON)
            self._begun = False
            if not self._lines:  # looked at after that, so none is left
                return
            self._begun = True

    def _write_some(self) -> None:
        lost = self._lost  # after the lines that wait now
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        if lost:
            lines.append(f"journal: {lost} lines were not written, as nobody read them\n")
        try:
            with self._turn:
                self._output.write("".join(lines))
        except OSError as error:
            self._lose(len(lines) - (lost > 0))
            if not self._broken:
                _LOG.warning("cannot write to standard output: %s; lines are lost", error.strerror)
            self._broken = True
        else:
            self._lose(-lost)
            self._broken = False

    def _print(self, line: str, content: IO[bytes], given_up: Callable[[], bool]) -> None:
        begun = False
        content.seek(0)
        try:
            with self._turn:
                # Messages that wait do not wait for each other's time to be up.
                self._output.wait(0 if self._broken else PRINT_WITHIN)
                for text in _gathered(chain([CUT_OFF] * self._cut, [line], _indented(content))):
                    _check(given_up)
                    begun = True
                    self._output.write(text, PRINT_WITHIN)
        except BaseException as error:
            self._cut |= begun
            self._broken = isinstance(error, OSError)
            raise
        self._cut = self._broken = False


class Output:
    """The standard output, past Python's buffers. Nothing happens if there is none."""

    __slots__ = ("_descriptor", "_encoding", "_poll", "is_terminal")

    def __init__(self, output: TextIO | None) -> None:
        self._descriptor: int = -1 if output is None else output.fileno()
        self._encoding: str = "ascii" if output is None else output.encoding
        self.is_terminal: bool = output is not None and output.isatty()
        self._poll: select.poll = select.poll()
        self._poll.register(max(self._descriptor, 0), select.POLLOUT)

    def write(self, text: str, seconds: float | None = None) -> None:
        """Write it all. Raises OSError if that cannot be done, TimeoutError if nobody reads for so long."""
        # An address may hold what the encoding of the output does not.
        rest = memoryview(text.encode(self._encoding, "backslashreplace"))
        while rest and self._descriptor >= 0:
            self.wait(seconds)
            with suppress(BlockingIOError):  # it may be shared with somebody who does not want to wait
                # Not more than a pipe has room for when it says that it has.
                rest = rest[os.write(self._descriptor, rest[: select.PIPE_BUF]) :]

    def wait(self, seconds: float | None = None) -> None:
        """Wait until something can be written, or an error be learned. Raises TimeoutError."""
        milliseconds = None if seconds is None else seconds * 1000
        if self._descriptor >= 0 and not self._poll.poll(milliseconds):
            raise TimeoutError(errno.ETIMEDOUT, "nobody reads it")


class Turn:
    """A lock among threads, and among processes too if there is a file for it."""

    __slots__ = ("_lock", "file")

    def __init__(self) -> None:
        self._lock: threading.Lock = threading.Lock()
        # To lock records of: such a lock belongs to a process, and ends with it however that ends.
        # One of `flock` would be shared by all that have inherited the file.
        self.file: IO[bytes] | None = None

    def __enter__(self) -> None:
        self._lock.acquire()
        if self.file is not None:
            fcntl.lockf(self.file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            fcntl.lockf(self.file, fcntl.LOCK_UN)
        self._lock.release()


def address_text(address: tuple[str, int] | str) -> str:
    """`127.0.0.1:2525`, `[::1]:2525`, or the path of a unix socket."""
    if isinstance(address, str):
        return address
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def log_to_stderr(*, verbose: bool) -> None:
    """Send the log to the standard error output: warnings and errors, or all of ours."""
    handler: logging.Handler
    if sys.stderr is not None and sys.stderr.isatty():  # pyright: ignore[reportUnnecessaryComparison] - None if closed
        handler = RichHandler(
            console=Console(stderr=True), show_path=False, markup=False, highlighter=NullHighlighter()
        )
        handler.setFormatter(_Formatter("%(who)s%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(who)s%(message)s"))
    logging.getLogger().addHandler(handler)
    _LOG.setLevel(logging.DEBUG if verbose else logging.WARNING)


class _Formatter(logging.Formatter):
    """Records as text that cannot drive the terminal."""

    who: str = ""

    def format(self, record: logging.LogRecord) -> str:
        record.who = self.who
        return visible(super().format(record), keep="\n\t")


def _some(recipients: Sequence[Address]) -> str:
    more = len(recipients) - MAX_SHOWN
    shown = ",".join([f"<{recipient.address}>" for recipient in recipients[:MAX_SHOWN]])
    return f"{shown},+{more} more" if more > 0 else shown


def _tls(session: Session) -> str:
    if session.tls_options is not None:
        return session.tls_options["version"]
    return "upstream" if session.secure else "no"


def _indented(content: IO[bytes]) -> Iterator[str]:
    """The lines of a message, each behind the indent; a long one comes in pieces."""
    text = TextIOWrapper(content, "utf-8", "backslashreplace", newline="\r\n")
    begins = True
    while piece := text.readline(PIECE):
        while piece.endswith("\r") and (more := text.readline(1)):  # cut between CR and LF
            piece += more
        line = piece.removesuffix("\r\n")
        yield (INDENT if begins else "") + visible(line, keep="\t")
        begins = line is not piece
        if begins:
            yield "\n"
    if not begins:
        yield "\n"
    text.detach()  # or it would close what is the caller's


def _check(given_up: Callable[[], bool]) -> None:
    if given_up():
        raise RuntimeError("the hook was given up")


def _gathered(pieces: Iterable[str]) -> Iterator[str]:
    """The same text in fewer pieces."""
    held: list[str] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= PIECE:
            yield "".join(held)
            held, size = [], 0
    yield "".join(held)
