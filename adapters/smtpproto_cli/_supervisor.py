# Several processes for one port, and the one that looks after them.
#
# The supervisor serves nobody. It makes every listening socket and keeps it, so what waits in the
# backlog of a worker that died is answered by the next one, and it forks: no threads, no event
# loop, nothing but the standard library may run in it.

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import threading
import time
import traceback
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

from smtpproto_cli._faults import Fault
from smtpproto_cli._notify import READY, STOPPING, notify
from smtpproto_cli._service import SIGNALS, Service, certificate_files, reload

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from smtpproto_cli._journal import Journal
    from smtpproto_cli._places import Bound, Listening
    from smtpproto_cli._settings import Settings
    from smtpproto_cli._sinks import Sink
    from smtpproto_server import Options
    from smtpproto_server.adapting import ServerCore

__all__ = ["Supervisor"]

SHORT_LIFE: Final = 3.0  # seconds from its start in which a worker that ends has failed
MAX_SHORT_LIVES: Final = 5  # of workers that followed one another; then the next would fail as well
FAILED: Final = 1  # exit status, of a worker too

# What a worker says to the supervisor. The end of its line is the end of the worker.
LISTENING: Final = b"L"
LEAVING: Final = b"E"

_LOG: Final = logging.getLogger("smtpproto")


class Worker:
    """A process that serves, as the supervisor knows it."""

    __slots__ = ("begun", "leaving", "line", "listening", "number", "outdated", "pid")

    def __init__(self, number: int, pid: int, line: socket.socket) -> None:
        self.number: int = number
        """Its share of the sockets; the next worker on it has the same number."""
        self.pid: int = pid
        self.line: socket.socket = line
        self.begun: float = time.monotonic()
        self.listening: bool = False
        self.leaving: bool = False
        self.outdated: bool = False
        """Certificates were read again before it could be told."""

    def __str__(self) -> str:
        return f"worker {self.number} (process {self.pid})"

    def send(self, number: signal.Signals) -> None:
        # It cannot be another process: one that has ended keeps its number until we ask for it.
        os.kill(self.pid, number)


class Supervisor:
    """Starts workers, replaces those that end, and ends them."""

    def __init__(
        self,
        serve: Callable[[Service], object],
        options: Options,
        bound: Bound,
        *,
        core: ServerCore,
        settings: Settings,
        sink: Sink,
        journal: Journal,
    ) -> None:
        self._serve: Callable[[Service], object] = serve
        self._options: Options = options
        self._bound: Bound = bound
        self._core: ServerCore = core
        self._settings: Settings = settings
        self._sink: Sink = sink
        self._journal: Journal = journal
        self._shares: dict[int, list[Listening]] = {}
        self._workers: set[Worker] = set()
        self._selector: selectors.BaseSelector = selectors.DefaultSelector()
        self._failures: Counter[int] = Counter()
        self._awaited: set[int] = set()
        self._ending: bool = False
        self._status: int = 0

    def run(self, count: int) -> int:
        """Keep so many workers until a signal; the exit status when all have ended."""
        addresses = self._bound.addresses()
        self._shares = dict(enumerate(self._bound.shares(count), start=1))
        self._awaited = set(self._shares)
        self._options = _in_memory(self._options)
        with self._journal.shared(), self._signals():
            for number in self._shares:
                self._start(number)
            while self._workers:
                for key, _ in self._selector.select():
                    key.data()
                if not self._awaited and addresses:
                    self._journal.ready(addresses)
                    notify(READY)
                    addresses = []
        return self._status

    # --- workers ------------------------------------------------------------------------------------

    def _start(self, number: int) -> None:
        # Blocked, so that the new process has no moment in which it takes a signal for ours.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            ours, theirs = socket.socketpair()
            pid = os.fork()
        except OSError as error:
            raise Fault(f"cannot start worker {number}: {error.strerror}") from None
        if not pid:
            ours.close()
            self._work(number, theirs)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        theirs.close()
        worker = Worker(number, pid, ours)
        self._workers.add(worker)
        self._selector.register(ours, selectors.EVENT_READ, partial(self._hear, worker))
        _LOG.debug("%s begins", worker)

    def _hear(self, worker: Worker) -> None:
        said = b""
        with suppress(ConnectionError):
            said = worker.line.recv(1)
        if said == LISTENING:
            self._listens(worker)
        elif said == LEAVING:
            self._leaves(worker)
        else:
            self._ended(worker)

    def _listens(self, worker: Worker) -> None:
        worker.listening = True
        self._awaited.discard(worker.number)
        if worker.outdated:
            worker.send(signal.SIGHUP)

    def _leaves(self, worker: Worker) -> None:
        """Somebody else has told it to end. New clients need not wait until those it has are done."""
        worker.leaving = True
        if not self._ending:
            self._replace(worker)

    def _ended(self, worker: Worker) -> None:
        self._selector.unregister(worker.line)
        worker.line.close()
        _, status = os.waitpid(worker.pid, 0)
        self._workers.discard(worker)
        ending = worker.leaving or self._ending
        as_told = ending and status in (0, signal.SIGTERM)  # the latter before it listened to signals
        _LOG.log(logging.DEBUG if as_told else logging.WARNING, "%s has ended: %s", worker, _how(status))
        if not ending:
            self._replace(worker)

    def _replace(self, worker: Worker) -> None:
        number = worker.number
        failed = not worker.listening or time.monotonic() - worker.begun < SHORT_LIFE
        self._failures[number] = self._failures[number] + 1 if failed else 0
        if self._failures[number] < MAX_SHORT_LIVES:
            self._start(number)
            return
        _LOG.critical("worker %d ended %d times soon after its start; giving up", number, MAX_SHORT_LIVES)
        self._status = FAILED
        self._end()

    # --- signals ------------------------------------------------------------------------------------

    @contextmanager
    def _signals(self) -> Generator[None]:
        """Have signals wake the selector; their handlers are of no further use."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.settimeout(0)  # as set_wakeup_fd wants it
            signal.set_wakeup_fd(theirs.fileno())
            for number in SIGNALS:
                signal.signal(number, _nothing)
            signal.signal(
                signal.SIGCHLD, signal.SIG_DFL
            )  # ignored, as it may be handed down, nobody is waited for
            self._selector.register(ours, selectors.EVENT_READ, partial(self._receive, ours))
            try:
                yield
            finally:
                # The interpreter gives signals that are handled their default back when it ends.
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
                signal.set_wakeup_fd(-1)
                self._selector.close()

    def _receive(self, ours: socket.socket) -> None:
        for number in ours.recv(64):
            if number == signal.SIGHUP:
                self._reload()
            elif number in SIGNALS:
                if self._ending:
                    self._hurry(number)
                notify(STOPPING)
                self._end()

    def _reload(self) -> None:
        """Read the certificates here first: what is wrong with them is said once, and no worker sees it."""
        if not reload(self._core, self._settings):
            return
        self._options = _in_memory(replace(self._options, **certificate_files(self._settings.options())))
        for worker in self._workers:
            if worker.listening:
                worker.send(signal.SIGHUP)
            else:
                worker.outdated = True

    def _end(self) -> None:
        self._ending = True
        self._bound.close()
        for worker in self._workers:
            worker.send(signal.SIGTERM)

    def _hurry(self, number: int) -> NoReturn:
        """What was answered with 250 is on the disk."""
        for worker in self._workers:
            worker.send(signal.SIGKILL)
        os._exit(128 + number)

    # --- the worker's side --------------------------------------------------------------------------

    def _work(self, number: int, line: socket.socket) -> NoReturn:
        """Be a worker. Nothing of the supervisor's is returned to."""
        try:
            self._forget()
            self._journal.name(f"worker {number}")
            _end_with(line)
            mine = self._shares[number]
            for each in self._bound.listening:
                if each not in mine:
                    each.sock.close()
            report = Member(line, self._journal)
            self._serve(Service(self._options, mine, settings=self._settings, sink=self._sink, report=report))
        except Fault as fault:
            _LOG.error("%s", fault)
        except BaseException:  # noqa: BLE001 - this is the end of the process
            traceback.print_exc()
        os._exit(FAILED)

    def _forget(self) -> None:
        """Let go of what is the supervisor's, its ends of the other workers' lines above all.

        A worker that held one would keep the other from seeing that the supervisor has ended.
        """
        signal.set_wakeup_fd(-1)
        # Until the runtime listens to them: SIGINT comes from a terminal to all of us, and then as
        # SIGTERM from the supervisor; SIGHUP is said again when it can be heard.
        for number, action in zip(SIGNALS, (signal.SIG_IGN, signal.SIG_DFL, signal.SIG_IGN), strict=True):
            signal.signal(number, action)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        for key in tuple(self._selector.get_map().values()):
            cast("socket.socket", key.fileobj).close()
        self._selector.close()


class Member:
    """Reports of a worker: to the supervisor."""

    __slots__ = ("_journal", "_line")

    def __init__(self, line: socket.socket, journal: Journal) -> None:
        self._line: socket.socket = line
        self._journal: Journal = journal

    def ready(self, _addresses: list[tuple[str, int] | str]) -> None:
        self._say(LISTENING)

    def ending(self, clients: int) -> None:
        self._say(LEAVING)
        if clients:
            self._journal.ending(clients)

    def hurry(self, _number: int) -> None:
        """A service manager, or a terminal, tells all processes, and then the supervisor tells each again.

        So a second signal here is the same one; the supervisor's own second one is SIGKILL.
        """

    def ended(self, seconds: float) -> None:
        self._journal.close(seconds)

    def _say(self, what: bytes) -> None:
        with suppress(OSError):  # the supervisor has ended, and we shall soon
            self._line.send(what)


def _end_with(line: socket.socket) -> None:
    """Have this process end as if it was told to when the supervisor has ended, however it did."""
    # A thread begins with the mask of its maker, and signals are not for this one.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    threading.Thread(target=_outlive, args=(line,), name="smtpproto-supervisor", daemon=True).start()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _outlive(line: socket.socket) -> None:
    with suppress(OSError):
        line.recv(1)  # nothing is ever said on this side
    os.kill(os.getpid(), signal.SIGTERM)


def _nothing(_number: int, _frame: object) -> None:
    """Handle a signal: what wakes the selector is that there is a handler."""


def _how(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"exit status {code}" if code >= 0 else f"signal {-code}"


def _in_memory(options: Options) -> Options:
    """The options with what their certificate files hold now.

    They have been found to be good. A worker that begins when they no longer are serves as the others do.
    """
    return replace(options, **_texts(certificate_files(options)))


def _texts(files: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _READERS.get(name, _text)(value) for name, value in files.items()}


def _text(value: Any) -> Any:
    """PEM text as it is, and the content of a file."""
    if isinstance(value, list | tuple):
        return [_text(each) for each in cast("list[Any]", value)]
    if value is None or isinstance(value, bytes) or "-----BEGIN " in str(value):
        return value
    return Path(value).read_bytes()


def _named(value: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        host: {**entry, **_texts({k: v for k, v in entry.items() if k in _PEM})}
        for host, entry in value.items()
    }


_PEM: Final = frozenset({"cert", "key", "ca"})
_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {"sni_options": _named}
