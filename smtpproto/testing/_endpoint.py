# Servers in memory, and the client that speaks to them.
#
# An Endpoint is all that a client can know of a server: what it answers to octets. Nothing here looks
# behind it, so whatever speaks SMTP can stand there.

from __future__ import annotations

import re
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, Protocol

from smtpproto import Connection, Event, ProtocolOptions, State
from smtpproto.testing._conversation import ENTROPY, Outcome, octets, settle, split_replies, stuffed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["Client", "ConnectionEndpoint", "Endpoint", "in_words", "masked", "shown_lines"]


class Endpoint(Protocol):
    """A whole server in memory, as far as one client sees it.

    There is no TLS in memory: a handshake that the server asks for has been done when `receive`
    returns.
    """

    def receive(self, octets: bytes) -> bytes:
        """Take in what the client sends, and return what is answered by now.

        `receive(b"")` returns what the server says unasked: the greeting, at first.
        """
        ...

    def end(self) -> bytes:
        """The client sends no more; return what is answered to that."""
        ...

    @property
    def closed(self) -> bool:
        """The server has ended the connection."""
        ...


class ConnectionEndpoint:
    """A `Connection` as an Endpoint, with answers given beforehand.

    `connection` is a new one; without it, one that needs no login. `answers` says by kind of event
    what the application decides, as for `play`; what it does not name is accepted.
    """

    def __init__(
        self, connection: Connection | None = None, answers: Mapping[Any, Any] | None = None
    ) -> None:
        if connection is None:
            connection = Connection(
                ProtocolOptions(name="mx.test", auth_optional=True), tls_available=True, entropy=ENTROPY
            )
        self.outcome: Outcome = Outcome(connection)
        """Events and octets so far."""
        self._answers: dict[type[Event], Any] = {
            kind: given[:] if isinstance(given, list) else given for kind, given in (answers or {}).items()
        }

    @property
    def closed(self) -> bool:
        """The connection has ended."""
        return self.outcome.connection.state is State.CLOSED

    def receive(self, octets: bytes) -> bytes:
        """Feed octets and return the replies that they lead to."""
        if octets:
            self.outcome.connection.receive_data(octets)
        return self._settled()

    def end(self) -> bytes:
        """The client has sent all it had to say."""
        self.outcome.connection.receive_eof()
        return self._settled()

    def _settled(self) -> bytes:
        before = len(self.outcome.sent)
        settle(self.outcome, self._answers)
        return self.outcome.sent[before:]


class Client:
    """A client that speaks scripts to an Endpoint, and keeps what was said.

    >>> client = Client(ConnectionEndpoint())
    >>> client.say("HELO c.test", "NOOP")
    ['250 mx.test Nice to meet you, [local]', '250 OK']

    Replies are texts without their CRLF; the lines of one are joined by LF. Methods raise
    AssertionError if the server answers with anything but whole replies.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint: Endpoint = endpoint
        """The server."""
        self.spoken: list[tuple[str, bytes]] = []
        """The conversation: "C" or "S", and what was sent; secrets are in it."""
        self.greeting: str = "\n".join(self._heard(endpoint.receive(b"")))
        """What the server said first; "" if it waits, for a PROXY header for instance."""

    @property
    def closed(self) -> bool:
        """The server has ended the connection."""
        return self.endpoint.closed

    @property
    def transcript(self) -> str:
        """The conversation for people: a line each, "C: " or "S: " before it, secrets masked."""
        return in_words(self.spoken)

    def say(self, *said: str | bytes) -> list[str]:
        """Send lines (str, without CRLF) or octets (bytes), all at once, and return the replies."""
        sent = b"".join(map(octets, said))
        self.spoken.append(("C", sent))
        return self._heard(self.endpoint.receive(sent))

    def send_message(
        self,
        content: bytes = b"Subject: test\r\n\r\nhello\r\n",
        *,
        sender: str = "a@x.test",
        to: Sequence[str] = ("b@y.test",),
        parameters: str = "",
    ) -> list[str]:
        """One transaction, each command behind the reply to the one before; return all replies.

        `content` is the message before dot-stuffing; a CRLF that its end lacks is added.
        `parameters` stand behind MAIL. The server must have had its EHLO, HELO or LHLO. What comes
        behind a refused MAIL or a refused DATA is left unsaid.
        """
        replies = self.say(f"MAIL FROM:<{sender}>{parameters and ' '}{parameters}")
        if not _positive(replies):
            return replies
        for each in to:
            replies += self.say(f"RCPT TO:<{each}>")
        replies += self.say("DATA")
        return replies + self.say(stuffed(_ended(content))) if replies[-1][:3] == "354" else replies

    def end(self) -> list[str]:
        """Send no more; return the replies that come to that."""
        return self._heard(self.endpoint.end())

    def _heard(self, answered: bytes) -> list[str]:
        self.spoken.append(("S", answered))
        return split_replies(answered, errors="backslashreplace")


def _positive(replies: Sequence[str]) -> bool:
    return bool(replies) and replies[-1][0] == "2"


def _ended(content: bytes) -> bytes:
    return content if content.endswith(b"\r\n") or not content else content + b"\r\n"


def in_words(spoken: Iterable[tuple[str, bytes]]) -> str:
    """A conversation for people: a line each, "C: " or "S: " before it, secrets masked."""
    turns = [
        (who, line)
        for who, pieces in groupby(spoken, key=lambda each: each[0])
        for line in shown_lines(b"".join(piece for _, piece in pieces))
    ]
    said = iter(masked(line for who, line in turns if who == "C"))
    return "\n".join(f"{who}: {next(said) if who == 'C' else line}".rstrip() for who, line in turns)


def shown_lines(sent: bytes) -> list[str]:
    """Each line as text; what a terminal could not show is escaped."""
    lines = sent.decode("utf-8", "backslashreplace").removesuffix("\r\n").split("\r\n") if sent else []
    return [_UNSHOWN.sub(lambda match: repr(match[0])[1:-1], line) for line in lines]


_UNSHOWN: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def masked(said: Iterable[str]) -> list[str]:
    """Lines of a client without its secrets: what AUTH was told, and the answers behind it.

    Answers end where a line is a command again.
    """
    shown: list[str] = []
    within = False
    for line in said:
        verb = line[:4].upper()
        if verb == "AUTH":
            within = True
            words = line.split(" ", 2)
            shown.append(" ".join([*words[:2], "***"][: len(words)]))
            continue
        within = within and line.rstrip().upper().partition(" ")[0] not in _VERBS
        shown.append("***" if within and line != "*" else line)
        within = within and line != "*"
    return shown


_VERBS: Final = frozenset({
    "EHLO", "HELO", "LHLO", "MAIL", "RCPT", "DATA", "RSET", "NOOP", "QUIT", "VRFY", "EXPN", "HELP",
    "STARTTLS", "XCLIENT", "XFORWARD", "PROXY",
})  # fmt: skip
