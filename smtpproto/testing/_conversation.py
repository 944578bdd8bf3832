# Conversations: what is said to the core, in every cut, and what comes of it.
#
# A conversation is played whole, line by line and octet by octet, and short parts are cut at every
# place; replies, events and the final state must be the same each time. That is asked of every
# conversation, whatever it is about.

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, TypeGuard

from smtpproto import (
    ACCEPT,
    Accept,
    AuthRequested,
    Challenge,
    CommandRequested,
    Connection,
    ConnectionClosed,
    DataChunk,
    Event,
    NeedsStartTLS,
    NeedsTLS,
    ProtocolOptions,
    Session,
    Signal,
    TlsDetails,
    XClientCredentials,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Answer = Any
    """A decision; a list of them, used up in turn; or a function from the event to a decision.

    A tuple of decisions is one answer: to the recipients of an LMTP message, in turn.
    """

__all__ = [
    "ENTROPY", "TLS", "Outcome", "answer", "converse", "cuts", "drive", "final_state", "in_lines", "joined",
    "message", "octets", "play", "settle", "split_replies", "stuffed",
]  # fmt: skip

TLS: Final = TlsDetails(
    {"name": "TLS_X", "standard_name": "TLS_X", "version": "TLSv1.3"}, servername="mx.test"
)
"""What a played handshake comes to."""
ENTROPY: Final = bytes(range(16))
"""What played connections draw their CRAM-MD5 challenges from: always the same."""
CUT_EVERYWHERE: Final = 200  # octets up to which a part is cut at every place


def play(*said: str | bytes | None, **how: Any) -> list[str]:
    """The replies to a conversation, the greeting first.

    Takes what `converse` takes. The lines of one reply are joined by LF, without CRLF at the end.
    """
    return converse(*said, **how).replies


def converse(
    *said: str | bytes | None,
    answers: Mapping[type[Event], Answer] | None = None,
    eof: bool = False,
    made_with: Mapping[str, Any] | None = None,
    **options: Any,
) -> Outcome:
    """Play a conversation in every cut, insist on one outcome, and return it.

    `said` are command lines (str, without CRLF) or octets (bytes); None waits for all replies
    before going on. `answers` says by kind of event what the application decides; by default no
    login is needed and everything is accepted. With `eof` the client ends its side afterwards.
    `made_with` is for `Connection`, `options` are for `ProtocolOptions`.

    Raises AssertionError if two cuts come to different outcomes.
    """
    options.setdefault("name", "mx.test")
    options.setdefault("auth_optional", True)
    options.setdefault("hide_enhancedstatuscodes", False)
    made = ProtocolOptions(**options)
    segments: list[bytes] = [b""]
    for each in said:
        if each is None:
            segments.append(b"")
        else:
            segments[-1] += octets(each)
    outcome: Outcome | None = None
    plans = [list(cuts(segment)) for segment in segments]
    for i in range(max(len(plan) for plan in plans)):
        plan = [each[min(i, len(each) - 1)] for each in plans]
        result = drive(plan, made, answers or {}, eof=eof, **(made_with or {}))
        if outcome is None:
            outcome = result
        elif result.summary() != outcome.summary():
            raise AssertionError(f"cut as {plan}:\n{result.summary()}\nwhole:\n{outcome.summary()}")
    assert outcome is not None
    return outcome


def message(body: bytes = b"", *, to: Sequence[str] = ("b@y.test",)) -> tuple[str | bytes, ...]:
    """What a client says behind EHLO to deliver a message; `body` is as on the wire, without its end."""
    return ("MAIL FROM:<a@x.test>", *(f"RCPT TO:<{each}>" for each in to), "DATA", body + b".\r\n")


class Outcome:
    """What a conversation came to."""

    def __init__(self, connection: Connection) -> None:
        self.connection: Connection = connection
        self.session: Session = connection.session
        self.sent: bytes = b""
        self.events: list[Event] = []

    @property
    def replies(self) -> list[str]:
        """The replies, one text each; the lines of one are joined by LF."""
        return split_replies(self.sent)

    @property
    def data(self) -> bytes:
        """All octets of messages handed out."""
        return b"".join(event.data for event in self.events if isinstance(event, DataChunk))

    @property
    def closed(self) -> str | None:
        """Why the connection ended, None if it did not."""
        reasons = [event.reason for event in self.events if isinstance(event, ConnectionClosed)]
        assert len(reasons) <= 1, reasons
        return reasons[0] if reasons else None

    def of(self, kind: type[Any]) -> list[Any]:
        """The events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def summary(self) -> tuple[object, ...]:
        """All that must not depend on how the octets were cut."""
        return (self.sent, joined(self.events), final_state(self.connection))


def split_replies(sent: bytes, *, errors: str = "strict") -> list[str]:
    """Whole replies, one text each; the lines of one are joined by LF. `errors` is as for `bytes.decode`.

    Raises AssertionError for octets that are not lines of replies, each with its CRLF (RFC 5321 §4.2).
    """
    replies: list[list[str]] = []
    open_ = False
    *lines, rest = sent.split(b"\r\n")
    for line in lines:
        assert _REPLY_LINE.fullmatch(line), f"not a line of a reply: {line!r}"
        if not open_:
            replies.append([])
        replies[-1].append(line.decode("utf-8", errors))
        open_ = line[3:4] == b"-"
    assert not rest, f"a line of a reply without its CRLF: {rest!r}"
    assert not open_, f"a reply whose last line is missing: {replies[-1]}"
    return ["\n".join(lines) for lines in replies]


_REPLY_LINE: Final = re.compile(rb"[2-5][0-9][0-9](?:[ -][^\r\n]*)?")


def joined(events: Iterable[Event]) -> list[object]:
    """Events as they read, except for a message: its octets, however many chunks they came in."""
    seen: list[object] = []
    for event in events:
        if isinstance(event, DataChunk) and seen and isinstance(seen[-1], bytes):
            seen[-1] += event.data
        else:
            seen.append(event.data if isinstance(event, DataChunk) else repr(event))
    return seen


def final_state(connection: Connection) -> dict[str, str]:
    """Every fact of the session and of the core that a later command could notice."""
    facts = connection.session.facts()
    facts["envelope"] = connection.session.envelope.facts()
    counters = ("unknown", "unauthenticated", "failed_logins", "xclient_done", "connect_due")
    facts.update({name: getattr(connection, name) for name in counters})
    facts["state"] = connection.state
    return {name: repr(value) for name, value in facts.items()}


def drive(
    segments: Iterable[Iterable[bytes]],
    options: ProtocolOptions,
    answers: Mapping[type[Event], Answer],
    *,
    eof: bool = False,
    **made_with: Any,
) -> Outcome:
    """Feed segments, each in the pieces given, and answer what is asked: one play in one cut.

    A segment begins only when everything before it has been answered.
    """
    made_with.setdefault("entropy", ENTROPY)
    made_with.setdefault("remote", ("192.0.2.1", 4321))
    made_with.setdefault("local", ("192.0.2.25", 25))
    made_with.setdefault("tls_available", True)
    connection = Connection(options, **made_with)
    outcome = Outcome(connection)
    queues = {kind: list(value) if _is_list(value) else value for kind, value in answers.items()}
    settle(outcome, queues)
    for pieces in segments:
        for piece in pieces:
            connection.receive_data(piece)
            settle(outcome, queues)
    if eof:
        connection.receive_eof()
        settle(outcome, queues)
    return outcome


def settle(outcome: Outcome, answers: Mapping[type[Event], Answer]) -> None:
    """Take events and answer questions until more input is needed; lists of answers are used up."""
    connection = outcome.connection
    while True:
        event = connection.next_event()
        if isinstance(event, Signal):
            outcome.sent += connection.data_to_send()
            if event is Signal.SEND:
                continue
            assert event is not Signal.PAUSED, connection.question
            return
        outcome.events.append(event)
        if connection.question is event:
            outcome.sent += connection.data_to_send()  # the 220 goes before the handshake
            answer(connection, event, answers)


def answer(connection: Connection, event: Event, answers: Mapping[type[Event], Answer]) -> None:
    """Answer one question; lists of answers are used up."""
    if isinstance(event, NeedsTLS | NeedsStartTLS):
        connection.tls_established(TLS)
        return
    given: Answer = answers.get(type(event), ACCEPT)
    if _is_list(given):
        given = given.pop(0) if given else ACCEPT
    if callable(given):
        given = given(event)
    if _is_tuple(given):
        given = _for_each_recipient(connection, given)
    if isinstance(given, Challenge) and _names_a_user(event):
        given = ACCEPT
    if given is ACCEPT and isinstance(event, AuthRequested):
        given = Accept(user=event.auth.username)
    if given is ACCEPT and isinstance(event, CommandRequested):
        given = None
    connection.decide(given)


def _for_each_recipient(connection: Connection, given: tuple[Any, ...]) -> Answer:
    """A tuple answers the recipients of an LMTP message in turn; SMTP takes its first."""
    if not connection.options.lmtp:
        return given[0]
    return [given[i % len(given)] for i in range(len(connection.session.envelope.rcpt_to))]


def _names_a_user(event: Event) -> bool:
    """XCLIENT LOGIN: there is no exchange that could go on."""
    return isinstance(event, AuthRequested) and isinstance(event.auth, XClientCredentials)


def _is_tuple(value: object) -> TypeGuard[tuple[Any, ...]]:
    return isinstance(value, tuple)


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def cuts(segment: bytes) -> Iterable[list[bytes]]:
    """Whole, by lines, by octets, and short ones (up to 200 octets) at every place."""
    yield [segment]
    yield segment.splitlines(keepends=True)
    yield [segment[i : i + 1] for i in range(len(segment))]
    if len(segment) <= CUT_EVERYWHERE:
        for at in range(1, len(segment)):
            yield [segment[:at], segment[at:]]


def octets(said: str | bytes) -> bytes:
    """A text is a command line without its CRLF; octets are themselves."""
    return said if isinstance(said, bytes) else said.encode() + b"\r\n"


def in_lines(octets: bytes) -> list[bytes]:
    """Octets as lines, each with its CRLF; what stands behind the last CRLF is the last one."""
    return re.findall(rb"(?s).*?\r\n|.+\Z", octets)


def stuffed(content: bytes) -> bytes:
    """A message that ends in CRLF, as it stands on the wire, with its end (RFC 5321 §4.5.2)."""
    return b"".join(b"." + line if line.startswith(b".") else line for line in in_lines(content)) + b".\r\n"
