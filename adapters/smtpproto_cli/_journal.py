# What the command tells its user: that it is ready, and each message.
#
# On the standard output one line for each fact, and what begins in the first column is ours: the
# text of a message, where it is printed, is indented, so no mail can look like one of our lines.
# Everything a client said goes through `visible`. The log goes to the standard error output.

from __future__ import annotations

import fcntl
import logging
import sys
import threading
from contextlib import contextmanager, suppress
from io import StringIO, TextIOWrapper
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Final

from rich.console import Console
from rich.highlighter import NullHighlighter
from rich.logging import RichHandler
from rich.text import Text

from smtpproto_cli._text import visible

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from smtpproto import Session

__all__ = ["Journal", "address_text", "log_to_stderr"]

INDENT: Final = "  "
MAX_SHOWN: Final = 10  # recipients on one line
PIECE: Final = 8192  # characters of a line of a message that are handled at once
_LOG: Final = logging.getLogger("smtpproto")


class Journal:
    """Writes to the standard output, from any thread, and from several processes within `shared`."""

    __slots__ = ("_console", "_turn", "_who")

    def __init__(self) -> None:
        reconfigure = getattr(sys.stdout, "reconfigure", None)
        if reconfigure is not None:
            # An address may hold what the encoding of the output does not.
            reconfigure(errors="backslashreplace")
        # It only colours. What is written goes past it: a console whose output is a pipe that
        # nobody reads any more would end the hook, and the client would be told 451 of stored mail.
        self._console: Console = Console(
            file=StringIO(),
            force_terminal=_is_terminal(sys.stdout),
            highlight=False,
            markup=False,
            emoji=False,
        )
        self._turn: Turn = Turn()
        self._who: str = ""

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
        """Say where the server listens; programs wait for this line, so it is never coloured."""
        places = ", ".join(map(address_text, addresses))
        with self._turn:
            _write([f"listening on {visible(places)}\n"], sys.stdout)

    def message(self, session: Session, size: int, stored: str) -> None:
        """Say that the session's present message was taken.

        It has been taken: an output that cannot be written does not change that, and is only logged.
        """
        try:
            with self._turn:
                _write([self._line(session, size, stored)], sys.stdout)
        except OSError as error:
            _LOG.warning("cannot write to standard output: %s", error.strerror)

    def printed(self, session: Session, size: int, content: IO[bytes]) -> None:
        """Say the same, and print the message. Raises OSError if that cannot be done."""
        with self._turn:
            _write([self._line(session, size, "printed")], sys.stdout)
            _write(_indented(content), sys.stdout)

    def ending(self, clients: int) -> None:
        """Say, on the standard error output, what a server that was told to end waits for."""
        with suppress(OSError):
            who = f"{self._who}: " if self._who else ""
            _write([f"closing: {who}{clients} connected; a second signal ends it at once\n"], sys.stderr)

    def _line(self, session: Session, size: int, stored: str) -> str:
        text = Text(no_wrap=True)
        for name, value in _facts(session, size, stored):
            text.append(f"{' ' if text else ''}{name}=", "dim").append(visible(value))
        with self._console.capture() as capture:
            self._console.print(text, soft_wrap=True)
        return capture.get()


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


def _is_terminal(output: IO[str] | None) -> bool:
    return output is not None and output.isatty()


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


def _write(pieces: Iterable[str], output: IO[str] | None) -> None:
    """Write and flush; nothing happens if the output was closed before we were started."""
    if output is not None:
        output.writelines(pieces)
        output.flush()


def _facts(session: Session, size: int, stored: str) -> Iterator[tuple[str, str]]:
    envelope = session.envelope
    sender = envelope.mail_from
    yield "id", f"{session.id}-{session.transaction}"  # as in the Received line
    yield "from", f"<{sender or ''}>"
    yield "to", _some([f"<{recipient}>" for recipient in envelope.rcpt_to])
    yield "size", str(size)
    yield "tls", _tls(session)
    yield "user", "-" if session.user is None else str(session.user)
    yield "stored", stored


def _some(recipients: list[str]) -> str:
    more = len(recipients) - MAX_SHOWN
    return ",".join(recipients[:MAX_SHOWN]) + (f",+{more} more" if more > 0 else "")


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
