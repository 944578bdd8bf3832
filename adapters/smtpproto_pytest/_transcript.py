# What was said, as a person wants to read it when a test has failed.
#
# No secret is in it: what answers a 334 is not shown, nor the end of an AUTH, nor a line that begins
# with no verb of SMTP, since it may be a password that came too late.

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from smtpproto_server.adapting import Driver

__all__ = ["Log", "recording", "transcript"]

VERBS: Final = frozenset({
    "AUTH", "DATA", "EHLO", "EXPN", "HELO", "HELP", "LHLO", "MAIL", "NOOP", "QUIT", "RCPT", "RSET",
    "STARTTLS", "VRFY", "XCLIENT", "XFORWARD",
})  # fmt: skip
END: Final = b"\r\n.\r\n"
HANGS_UP: Final = ("hangs up", b"")


class Log(list[tuple[str, bytes]]):
    """Octets of a client ("C") and of the server ("S"), in order; HANGS_UP may be the last."""

    def note(self, who: str, octets: bytes) -> None:
        """What is said after the server has hung up, the client never reads."""
        if octets and self[-1:] != [HANGS_UP]:
            self.append((who, octets))

    def hang_up(self) -> None:
        """The server has hung up."""
        self.append(HANGS_UP)


def recording(driver: type[Driver], logs: list[tuple[Driver, Log]]) -> type[Driver]:
    """A class of connections that remember the octets they take and give, in the clear."""

    class Recorded(driver):  # type: ignore[misc, valid-type] # the base is a runtime's class
        def __init__(self, *args: Any) -> None:
            self.log: Log = Log()
            super().__init__(*args)
            logs.append((self, self.log))

        def receive_data(self, data: bytes) -> None:
            self.log.note("C", data)
            super().receive_data(data)

        def data_to_send(self) -> bytes:
            data: bytes = super().data_to_send()
            self.log.note("S", data)
            return data

    return Recorded


def transcript(log: Iterable[tuple[str, bytes]]) -> Iterator[str]:
    """The lines of a conversation, `C: ` before the client's and `S: ` before the server's."""
    last = ""  # code of the server's last reply
    for who, parts in groupby(log, itemgetter(0)):
        octets = b"".join(data for _, data in parts)
        if (who, octets) == HANGS_UP:
            yield "S: (hangs up)"
        elif who == "S":
            lines = octets.decode("utf-8", "backslashreplace").splitlines()
            yield from (f"S: {line}" for line in lines)
            last = lines[-1][:3]
        elif last == "354":
            yield from _message(octets)
        else:
            yield from _commands(octets, secret=last == "334")


def _message(octets: bytes) -> Iterator[str]:
    body, end, rest = (b"\r\n" + octets).partition(END)
    size = len(body) if end else len(octets)
    yield f"C: (a message of {size} octets{'' if end else ', without its end'})"
    yield from _commands(rest)


def _commands(octets: bytes, *, secret: bool = False) -> Iterator[str]:
    for line in octets.decode("utf-8", "backslashreplace").splitlines():
        verb, *words = line.split(" ", 2)
        if secret or verb.partition(":")[0].upper() not in VERBS:
            yield "C: ***"
        elif verb.upper() == "AUTH" and len(words) > 1:
            yield f"C: {verb} {words[0]} ***"
        else:
            yield f"C: {line}"
        secret = False
