# A server that is about to run, whatever the runtime: what it is told, and what is done on the way.

from __future__ import annotations

import logging
import os
import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol, cast

from smtpproto import ConfigurationError
from smtpproto_cli._notify import READY, STOPPING, notify
from smtpproto_server.adapting import ServerCore

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from smtpproto_cli._journal import Journal
    from smtpproto_cli._places import Bound, Listening, Place
    from smtpproto_cli._settings import Settings
    from smtpproto_cli._sinks import Sink
    from smtpproto_server import Options
    from smtpproto_server.adapting import ListenerFields

__all__ = ["SIGNALS", "Alone", "Service", "certificate_files", "checked", "reload"]

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CLOSING: Final = 6.0  # seconds after close_timeout in which the server has ended at the latest
LAST_WORDS: Final = 1.0  # seconds for what threads have yet to write when all connections are gone
FILES: Final = ("cert", "key", "ca", "sni_options")
_LOG: Final = logging.getLogger("smtpproto")


class Report(Protocol):
    """Who is told how far a server is: the user, or the process that looks after several."""

    def ready(self, addresses: list[tuple[str, int] | str], /) -> None:
        """The server listens."""

    def ending(self, clients: int, /) -> None:
        """The first signal has come; nobody new will be let in."""

    def hurry(self, number: int, /) -> None:
        """A second signal has come."""

    def ended(self, seconds: float, /) -> None:
        """The process is about to end, after so long at the latest."""


class Service:
    """What a runtime needs to run one server, and what it reports."""

    __slots__ = ("_latest", "_report", "_settings", "_sink", "listening", "options")

    def __init__(
        self,
        options: Options,
        listening: Iterable[Listening],
        *,
        settings: Settings,
        sink: Sink,
        report: Report,
    ) -> None:
        self.options: Options = options
        self.listening: Iterable[Listening] = listening
        """They listen already; the server accepts from them."""
        self._settings: Settings = settings
        self._sink: Sink = sink
        self._report: Report = report
        self._latest: float | None = None

    @contextmanager
    def beginning(self) -> Generator[None]:
        """Around `listen`, which would warn again of what `checked` has warned of."""
        _LOG.addFilter(_no_warning)
        try:
            yield
        finally:
            _LOG.removeFilter(_no_warning)

    def ready(self, addresses: list[tuple[str, int] | str]) -> None:
        """The server listens."""
        self._report.ready(addresses)

    def received(self, number: int, server: ServerCore, stop: Callable[[], object]) -> None:
        """One of SIGNALS has come; `stop` makes the runtime close the server."""
        if number == signal.SIGHUP:
            reload(server, self._settings)
        elif self._latest is not None:
            self._report.hurry(number)
        else:
            self._latest = time.monotonic() + _seconds(self.options.close_timeout) + CLOSING
            stop()

    def ending(self, clients: int) -> None:
        """The server is about to be closed."""
        self._report.ending(clients)

    def ended(self) -> NoReturn:
        """End the process: the server is closed.

        Not by way of the interpreter's end. That waits for threads, one of which may hang, and undoes the
        handlers of signals, after which a late SIGHUP would be fatal.
        """
        latest = time.monotonic() + LAST_WORDS
        if self._latest is not None:
            latest = min(latest, self._latest)
        self._sink.close(max(0.0, latest - time.monotonic()))
        self._report.ended(max(0.0, latest - time.monotonic()))
        os._exit(0)


class Alone:
    """Reports of a server that is the only one."""

    __slots__ = ("_bound", "_journal")

    def __init__(self, bound: Bound, journal: Journal) -> None:
        self._bound: Bound = bound
        self._journal: Journal = journal

    def ready(self, addresses: list[tuple[str, int] | str]) -> None:
        self._journal.ready(addresses)
        notify(READY)

    def ending(self, clients: int) -> None:
        notify(STOPPING)
        self._bound.remove_files()
        if clients:
            self._journal.ending(clients)

    def hurry(self, number: int) -> None:
        """Leave without waiting for clients, hooks or threads.

        What was answered with 250 is on the disk.
        """
        self._journal.close(LAST_WORDS)
        os._exit(128 + number)

    def ended(self, seconds: float) -> None:
        self._journal.close(seconds)


def checked(options: Options, settings: Settings, places: Sequence[Place]) -> ServerCore:
    """A server that never runs: it could listen at these places, and what is doubtful has been logged.

    Raises Fault for options that do not go together.
    """
    core = ServerCore(options)
    for place in places:
        own = dict(place.own)
        try:
            core.check_listener(own.pop("name", ""), cast("ListenerFields", own))
        except (TypeError, ValueError) as error:
            raise (place.fault(error) if own else settings.fault(error)) from None
    return core


def _seconds(limit: float | None) -> float:
    return float("inf") if limit is None else limit


def certificate_files(options: Options) -> dict[str, Any]:
    """The TLS options that name files; none without a certificate."""
    return {} if options.cert is None else {name: getattr(options, name) for name in FILES}


def reload(server: ServerCore, settings: Settings) -> bool:
    """Read the certificates again, for handshakes from now on; False if there are no new ones."""
    files = certificate_files(settings.options())
    if not files:
        _LOG.warning("SIGHUP: no certificate files are set, so none are read again")
        return False
    try:
        server.update_secure_context(**files)
    except ConfigurationError as error:
        _LOG.error("SIGHUP: %s; the old certificates stay in use", settings.fault(error))
        return False
    _LOG.info("SIGHUP: the certificates have been read again")
    return True


def _no_warning(record: logging.LogRecord) -> bool:
    return record.levelno != logging.WARNING
