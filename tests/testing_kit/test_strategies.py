# The strategies: they yield what they promise, reach what they are for, and shrink to a few plain lines.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from smtpproto import OPTIONAL_QUESTIONS, Connection, Event, ProtocolOptions, ProxyInfo
from smtpproto._address import read_mailbox
from smtpproto._proxy import ProxyFault, ProxyReader
from smtpproto.testing import ENTROPY, Outcome, drive, settle
from smtpproto.testing import strategies as kit

if TYPE_CHECKING:
    from collections.abc import Callable

    from smtpproto.testing.strategies import Fields, Given, Lines, Said

QUICK: Final = settings(
    max_examples=4000, deadline=None, database=None, derandomize=True, phases=[Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)  # fmt: skip


def simplest(strategy: st.SearchStrategy[Any], wanted: Callable[[Any], object]) -> Any:
    """What a failure shrinks to that needs `wanted`."""
    return find(strategy, lambda found: bool(wanted(found)), settings=QUICK)


def played(session: Said, fields: Fields | None = None, decided: Given | None = None) -> Outcome:
    made = kit.make_options(fields or {})
    return drive(session, made, decided or {}, ask=OPTIONAL_QUESTIONS)


# --- what they promise ------------------------------------------------------------------------------


@given(kit.valid_sessions)
@settings(max_examples=50)
def test_a_valid_session_is_answered_with_yes_throughout(session: Said) -> None:
    outcome = played(session)
    assert {reply[0] for reply in outcome.replies} <= {"2", "3"}, outcome.replies
    assert outcome.closed == "quit"


@given(kit.valid_sasl_exchanges)
@settings(max_examples=50)
def test_a_valid_exchange_ends_in_a_login(exchange: Lines) -> None:
    outcome = played([[kit.EHLO], *([line] for line in exchange)])
    assert outcome.replies[-1] == "235 2.7.0 Authentication successful"


def test_a_header_without_addresses_cannot_declare_less_than_nothing() -> None:
    header = kit._version_2(b"\x21", (b"\x00", b""), b"", -1)  # pyright: ignore[reportPrivateUsage] - one in a million
    assert ProxyReader().feed(header) is not None


@given(kit.valid_proxy_headers)
@settings(max_examples=50)
def test_a_valid_header_is_read(header: bytes) -> None:
    assert isinstance(ProxyReader().feed(header), ProxyInfo)


@given(kit.valid_addresses)
@settings(max_examples=50)
def test_a_valid_address_is_read(address: str) -> None:
    assert read_mailbox(address) is not None


@given(st.one_of(kit.command_lines, kit.ending_lines, kit.long_lines, kit.xclient_lines, kit.xforward_lines))
@settings(max_examples=50)
def test_a_line_is_one_line(line: bytes) -> None:
    assert kit.in_lines(line) == [line]
    assert line.endswith(b"\r\n")


@given(kit.ending_lines)
def test_an_ending_line_ends_a_connection(line: bytes) -> None:
    assert played([[line]]).closed


@given(kit.sessions)
@settings(max_examples=50)
def test_starttls_stands_where_its_segment_ends(session: Said) -> None:
    assert not any(kit.STARTTLS in segment[:-1] for segment in session)


@given(kit.contents)
@settings(max_examples=50)
def test_a_stuffed_message_arrives_as_it_was(content: bytes) -> None:
    session = [
        [kit.EHLO],
        [b"MAIL FROM:<>\r\n", b"RCPT TO:<b@y.test>\r\n", b"DATA\r\n", kit.stuffed(content)],
    ]
    assert played(session).data == content


@given(kit.options)
@settings(max_examples=50)
def test_options_can_be_had(fields: Fields) -> None:
    assert isinstance(kit.make_options(fields), ProtocolOptions)


@given(kit.sessions, kit.options, kit.decisions, kit.cuts)
@settings(max_examples=50)
def test_every_decision_can_be_taken(
    session: Said, fields: Fields, decided: Given, places: list[int]
) -> None:
    pieces = [kit.cut(b"".join(segment), places) for segment in session]
    assert b"".join(map(b"".join, pieces)) == b"".join(map(b"".join, session))
    assert played(pieces, fields, decided).replies


@given(kit.single_decisions)
def test_a_single_decision_is_taken_at_its_question(decision: tuple[type[Event], Any]) -> None:
    kind, given_ = decision
    connection = Connection(kit.make_options({}), ask=OPTIONAL_QUESTIONS, tls_available=True, entropy=ENTROPY)
    outcome = Outcome(connection)
    due = {kind: [given_]}
    for said in [b"", kit.EHLO, *QUESTIONS, *TRANSACTION, *LOGIN, kit.STARTTLS]:
        connection.receive_data(said)
        settle(outcome, due)
    assert not due[kind]


QUESTIONS: Final = [b"VRFY b\r\n", b"EXPN b\r\n", b"HELP\r\n", b"FOO\r\n"]
TRANSACTION: Final = [b"MAIL FROM:<>\r\n", b"RCPT TO:<b@y.test>\r\n", *[b"DATA\r\n"] * 2, b"\r\n.\r\n"]
LOGIN: Final = [b"RSET\r\n", b"AUTH PLAIN AHUAcA==\r\n", b"*\r\n"]


SPOILT: Final[list[tuple[Callable[[bytes], Lines], Lines]]] = [
    (kit._dropped, []),
    (kit._doubled, [b"NOOP\r\n"] * 2),
    (kit._with_surplus, [b"NOOP x\r\n"]),
    (kit._in_lower_case, [b"noop\r\n"]),
    (kit._with_bare_newline, [b"NOOP\n"]),
    (kit._without_end, [b"NOOP"]),
]


@pytest.mark.parametrize(("change", "lines"), SPOILT)
def test_one_line_of_a_nearly_valid_session_is_spoilt(change: Callable[[bytes], Lines], lines: Lines) -> None:
    session = [[kit.EHLO, kit.STARTTLS], [b"NOOP\r\n", b"QUIT\r\n"]]
    assert kit._nearly(session, 2, change) == [session[0], [*lines, b"QUIT\r\n"]]
    assert kit._nearly(session, 1 + 4, change) == session, "STARTTLS stays the last of its segment"


def test_octets_are_cut_at_each_place_once_and_not_behind_their_end() -> None:
    assert kit.cut(b"abcdef", [9, 2, 4, 7]) == [b"ab", b"cd", b"ef"]
    assert kit.cut(b"", [3]) == []


def test_an_lmtp_session_begins_with_lhlo() -> None:
    assert kit.in_lmtp([[kit.EHLO, b"NOOP\r\n"], [b"EHLO\r\n"]]) == [[kit.LHLO, b"NOOP\r\n"], [b"EHLO\r\n"]]


# --- what they reach --------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ProxyFault)
def test_every_fault_of_a_header_is_reached(fault: ProxyFault) -> None:
    simplest(kit.proxy_headers, lambda header: ProxyReader().feed(header) is fault)


@pytest.mark.parametrize(
    "reply",
    [
        "235 2.7.0", "501 5.7.0 Authentication aborted", "501 5.5.2 Error: invalid base64",
        "501 5.5.2 Error: invalid userdata", "501 5.5.2 Error: missing username", "504 5.5.4",
        "421 4.7.0 HTTP",
    ],
)  # fmt: skip
def test_every_end_of_an_exchange_is_reached(reply: str) -> None:
    simplest(
        kit.sasl_exchanges,
        lambda exchange: any(each.startswith(reply) for each in played([[kit.EHLO], exchange]).replies),
    )


@pytest.mark.parametrize(
    "reply",
    [
        "220 mx",
        "501 5.5.4 Error: Bad command parameter syntax",
        "501 5.5.4 Error: Bad command parameter syntax. I",
    ],
)
def test_every_end_of_xclient_is_reached(reply: str) -> None:
    simplest(
        kit.xclient_lines,
        lambda line: played([[line]], {"use_xclient": True}).replies[-1].startswith(reply),
    )


# --- what they shrink to ----------------------------------------------------------------------------


def test_a_failure_shrinks_to_the_lines_that_it_needs() -> None:
    session = simplest(kit.sessions, lambda session: played(session).data)
    assert [line for segment in session for line in segment if line != kit.EHLO] == [
        b"MAIL FROM:<a@x.test>\r\n", b"RCPT TO:<b@y.test>\r\n", b"DATA\r\n", b"\r\n.\r\n",
    ]  # fmt: skip


def test_a_failure_that_needs_nothing_shrinks_to_nothing() -> None:
    assert simplest(kit.sessions, lambda _: True) == [[kit.EHLO], []]
    assert simplest(kit.options, lambda _: True) == {}
    assert simplest(kit.decisions, lambda _: True) == {}
    assert simplest(kit.cuts, lambda _: True) == []
    assert simplest(kit.addresses, lambda _: True) == "a@x.test"
    assert simplest(kit.command_lines, lambda _: True) == b"NOOP\r\n"


def test_a_failure_of_a_nearly_valid_session_shows_what_is_not_valid() -> None:
    session = simplest(
        kit.nearly_valid_sessions, lambda session: "invalid characters" in str(played(session).replies)
    )
    assert session == [[b"EHLO c.test\n"], [b"QUIT\r\n"]]
