# What was said, as a person wants to read it when a test has failed.
#
# No secret is in it: what answers a 334 is not shown, nor the end of an AUTH, nor a line that begins
# with no verb of SMTP, since it may be a password that came too late.

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from smtpproto import Connection

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Recorded", "transcript"]

VERBS: Final = frozenset({
    "AUTH", "DATA", "EHLO", "EXPN", "HELO", "HELP", "LHLO", "MAIL", "NOOP", "QUIT", "RCPT", "RSET",
    "STARTTLS", "VRFY", "XCLIENT", "XFORWARD",
})  # fmt: skip
END: Final = b"\r\n.\r\n"
HANGS_UP: Final = ("hangs up", b"")


class Recorded(Connection):
    """A connection that remembers the octets it takes and gives, in the clear."""

    def __init__(self, *args: Any, **facts: Any) -> None:
        super().__init__(*args, **facts)
        self.log: list[tuple[str, bytes]] = []
        """Octets of the client ("C") and of the server ("S"), in order; HANGS_UP may be the last."""

    def receive_data(self, data: bytes) -> None:
        """Take in octets, and remember them."""
        self._note("C", data)
        super().receive_data(data)

    def data_to_send(self) -> bytes:
        """Give out octets, and remember them."""
        data = super().data_to_send()
        if data:
            self._note("S", data)
        return data

    def hang_up(self) -> None:
        """Remember that the server has hung up: what the core still says, the client never reads."""
        self._note(*HANGS_UP)

    def _note(self, who: str, octets: bytes) -> None:
        if self.log[-1:] != [HANGS_UP]:
            self.log.append((who, octets))


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
