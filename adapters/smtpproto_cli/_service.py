# A server that is about to run, whatever the runtime: what it is told, and what is done on the way.

from __future__ import annotations

import errno
import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from smtpproto import ConfigurationError
from smtpproto_cli._faults import Fault
from smtpproto_cli._journal import address_text

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from smtpproto_cli._journal import Journal
    from smtpproto_cli._settings import Settings
    from smtpproto_server import Options

__all__ = ["Place", "Service"]

_ADVICE: Final[Mapping[int, str]] = {
    errno.EADDRINUSE: "choose another {where}, or stop the program that has this one",
    errno.EACCES: "choose another {where}; ports below 1024 are for root",
    errno.EADDRNOTAVAIL: "choose a --host that this machine has",
}


class Place:
    """Where to listen: a host and a port, or the path of a unix socket."""

    __slots__ = ("host", "path", "port")

    def __init__(self, host: str, port: int, path: str | None) -> None:
        self.host: str = host
        self.port: int = port
        self.path: str | None = path

    def __str__(self) -> str:
        return self.path or address_text((self.host, self.port))

    def fault(self, error: OSError | UnicodeError) -> Fault:
        """Why nobody can listen here, and what to choose instead."""
        if isinstance(error, UnicodeError):  # a name that cannot be one in DNS
            return Fault(f"cannot listen on {self}: no such host; choose another --host")
        advice = "choose another {where}"
        if isinstance(error, socket.gaierror):
            advice = "choose another --host"
        elif self.path is None:
            advice = _ADVICE.get(error.errno or 0, advice)
        where = "--port" if self.path is None else "--unix"
        return Fault(f"cannot listen on {self}: {error.strerror or error}; {advice.format(where=where)}")


class Service:
    """What a runtime needs to run one server, and what it reports."""

    __slots__ = ("_journal", "_settings", "options", "place")

    def __init__(self, options: Options, place: Place, *, settings: Settings, journal: Journal) -> None:
        self.options: Options = options
        self.place: Place = place
        self._settings: Settings = settings
        self._journal: Journal = journal

    @contextmanager
    def beginning(self) -> Generator[None]:
        """Around `listen`: what goes wrong there is the user's to change."""
        try:
            yield
        except ConfigurationError as error:
            raise self._settings.fault(error) from None
        except (OSError, UnicodeError) as error:
            raise self.place.fault(error) from None

    def ready(self, addresses: list[tuple[str, int] | str]) -> None:
        """The server listens."""
        self._journal.ready(addresses)

    def ending(self, clients: int) -> None:
        """The first signal has come."""
        if clients:
            self._journal.ending(clients)

    def cut_short(self, signal_number: int) -> None:
        """The second signal has come: leave without waiting for clients, hooks or threads.

        What was answered with 250 is on the disk, and everything written has been flushed.
        """
        os._exit(128 + signal_number)
