# Wrong ends of data: nothing but CRLF.CRLF ends a message, so no second one is smuggled inside a first.
#
# Each wrong end stands in a message before a whole transaction of somebody else's, and once more
# behind its text; both are data in every kind of session and at every cut. What a lenient server
# takes for an end must not leave here either: the last tests look at what would be passed on.

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smtpproto import DataFinished, DataStarted, MailRequested, ProtocolOptions, RcptRequested, State
from smtpproto.testing import drive
from wrong_ends import BARE, SOUND

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from smtpproto.testing import Outcome

ENVELOPE: Final = b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\n"
EVIL: Final = b"MAIL FROM:<evil@x.test>\r\nRCPT TO:<evil@y.test>\r\nDATA\r\nb"
QUIT: Final = b"QUIT\r\n"
END: Final = b"\r\n.\r\n"
NOOP: Final = b"NOOP\r\n"
QUEUED: Final = "250 2.6.0 OK: message queued"
REFUSED: Final = "550 5.6.0 Error: message contains bare newline characters"
ALIVE: Final = "250 2.0.0 OK"


class Kind(NamedTuple):
    """A kind of session: what comes before DATA, and how many replies answer what."""

    opening: tuple[bytes, ...]
    opened: int
    """Replies up to the 354, the greeting among them."""
    recipients: int = 1
    queued: str = QUEUED
    lmtp: bool = False


KINDS: Final[Mapping[str, Kind]] = {
    "smtp": Kind((b"EHLO c.test\r\n" + ENVELOPE,), 5),
    "lmtp": Kind(
        (b"LHLO c.test\r\n" + ENVELOPE + b"RCPT TO:<c@y.test>\r\n",),
        6,
        2,
        "250 2.6.0 OK: message accepted",
        lmtp=True,
    ),
    "after STARTTLS": Kind((b"EHLO c.test\r\nSTARTTLS\r\n", b"EHLO c.test\r\n" + ENVELOPE), 7),
}

kinds = pytest.mark.parametrize("kind", KINDS)
modes = pytest.mark.parametrize("mode", ["accept", "reject"])


def made(kind: Kind, mode: str) -> ProtocolOptions:
    how: dict[str, Any] = {"bare_newlines": mode, "lmtp": kind.lmtp}
    return ProtocolOptions(name="mx.test", auth_optional=True, hide_enhancedstatuscodes=False, **how)


def outcomes(kind: Kind, mode: str, said: bytes) -> Iterator[Outcome]:
    """The session with `said` behind DATA: whole, octet by octet, cut at every place, and in one group."""
    options = made(kind, mode)
    *before, envelope = kind.opening
    opening = [[each] for each in before]
    octets = [said[i : i + 1] for i in range(len(said))]
    two = [[said[:i], said[i:]] for i in range(1, len(said))]
    for pieces in ([said], octets, *two):
        yield drive([*opening, [envelope + b"DATA\r\n"], pieces], options, {})
    yield drive([*opening, [envelope + b"DATA\r\n" + said]], options, {})


def one_message(kind: Kind, outcome: Outcome, reply: str) -> None:
    """There was one, from whom and to whom was said before DATA, and the session goes on behind its end."""
    assert outcome.replies[kind.opened :] == [*[reply] * kind.recipients, ALIVE]
    assert [str(event.address) for event in outcome.of(MailRequested)] == ["a@x.test"]
    assert [str(event.address) for event in outcome.of(RcptRequested)] == ["b@y.test", "c@y.test"][
        : kind.recipients
    ]
    assert len(outcome.of(DataStarted)) == len(outcome.of(DataFinished)) == 1
    assert outcome.connection.state is State.READY
    assert outcome.session.transaction == 2


@kinds
@pytest.mark.parametrize(("wrong", "kept"), [*BARE, *SOUND])
def test_a_wrong_end_of_data_is_data_wherever_it_is_cut(kind: str, wrong: bytes, kept: bytes) -> None:
    session = KINDS[kind]
    for outcome in outcomes(session, "accept", b"a" + wrong + EVIL + wrong + QUIT + END + NOOP):
        one_message(session, outcome, session.queued)
        assert outcome.data == b"a" + kept + EVIL + kept + QUIT + b"\r\n"


@kinds
@pytest.mark.parametrize(("wrong", "kept"), BARE)
def test_a_message_with_a_bare_newline_is_refused_once_and_hides_no_other(
    kind: str, wrong: bytes, kept: bytes
) -> None:
    session = KINDS[kind]
    sound = BARE_NEWLINE.split(b"a" + kept, maxsplit=1)[0]
    for outcome in outcomes(session, "reject", b"a" + wrong + EVIL + wrong + QUIT + END + NOOP):
        one_message(session, outcome, REFUSED)
        assert outcome.data == sound


@kinds
@pytest.mark.parametrize(("wrong", "kept"), SOUND)
def test_what_only_resembles_an_end_is_no_reason_to_refuse(kind: str, wrong: bytes, kept: bytes) -> None:
    session = KINDS[kind]
    for outcome in outcomes(session, "reject", b"a" + wrong + EVIL + wrong + QUIT + END + NOOP):
        one_message(session, outcome, session.queued)
        assert outcome.data == b"a" + kept + EVIL + kept + QUIT + b"\r\n"


@kinds
@modes
def test_an_end_behind_a_bare_cr_is_an_end_all_the_same(kind: str, mode: str) -> None:
    # The one among its likes that has CRLF.CRLF in it. Whoever sends it has ended the message.
    session = KINDS[kind]
    reply = session.queued if mode == "accept" else REFUSED
    for outcome in outcomes(session, mode, b"a\r\r\n.\r\nNOOP\r\n"):
        one_message(session, outcome, reply)
        assert outcome.data == (b"a\r\r\n" if mode == "accept" else b"a")


# --- what is passed on ------------------------------------------------------------------------------

BARE_NEWLINE: Final = re.compile(rb"\r(?!\n)|(?<!\r)\n")
# What servers have been known to take for the end: a dot between line ends of any kind.
LENIENT_END: Final = re.compile(rb"(?:\A|[\r\n])\.(?=[\r\n])")


def passed_on(content: bytes) -> bytes:
    """The message as the next server gets it: dots doubled (RFC 5321 §4.5.2), and its end."""
    return re.sub(rb"(\A|\r\n)\.", rb"\1..", content) + b".\r\n"


@kinds
@pytest.mark.parametrize(("wrong", "kept"), [*BARE, *SOUND])
def test_no_server_behind_us_sees_two_ends(kind: str, wrong: bytes, kept: bytes) -> None:
    session = KINDS[kind]
    outcome = next(outcomes(session, "reject", b"a" + wrong + EVIL + wrong + END + NOOP))
    whole = outcome.of(DataFinished)[0].refusal is None
    assert whole is (BARE_NEWLINE.search(kept) is None)
    if whole:
        assert LENIENT_END.findall(passed_on(outcome.data)) == [b"\n."]


noise = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"\0", b"a", b"\x85"])).map(b"".join)


@given(noise, st.integers(0, 40))
@example(b"\n.\r\n", 1)
@example(b".\r\n", 0)
@example(b"\r\n..\r\n", 3)
def test_whatever_is_accepted_ends_once_for_every_server(body: bytes, cut: int) -> None:
    session = KINDS["smtp"]
    pieces = [body[:cut], body[cut:] + END]
    outcome = drive([[session.opening[0] + b"DATA\r\n"], pieces], made(session, "reject"), {})
    first, *_ = outcome.of(DataFinished)
    if first.refusal is None:
        content = outcome.data
        assert BARE_NEWLINE.search(content) is None
        assert len(LENIENT_END.findall(passed_on(content))) == 1
