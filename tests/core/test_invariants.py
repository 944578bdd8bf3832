# What holds for every conversation: whatever the client sends, in whatever pieces, and whatever the
# application decides. The numbers I1 to I17 are those of the project's list of invariants.

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from smtpproto import (
    ACCEPT,
    OPTIONAL_QUESTIONS,
    Accept,
    Address,
    AuthRequested,
    Connection,
    ConnectRequested,
    DataAborted,
    DataFinished,
    DataStarted,
    Envelope,
    Event,
    HelloRequested,
    LocalProtocolError,
    MailRequested,
    NeedsStartTLS,
    ProtocolOptions,
    RcptRequested,
    Reject,
    Signal,
    State,
    VerifyRequested,
)
from smtpproto._core import Core
from smtpproto._engine import MANY_REPLIES
from smtpproto._grammar import encode_xtext
from smtpproto._state import COMMANDS
from smtpproto.testing import ENTROPY, Outcome, drive, settle
from smtpproto.testing._conversation import answer
from smtpproto.testing.strategies import (
    EHLO,
    LHLO,
    STARTTLS,
    addresses,
    contents,
    cut,
    cuts,
    decisions,
    in_lines,
    in_lmtp,
    items,
    lines,
    make_options,
    messages,
    options,
    parameters,
    reply_texts,
    segments,
    sessions,
    stuffed,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from smtpproto.testing.strategies import Fields, Given, Lines, Said

# --- conversations ------------------------------------------------------------------------------

TRANSACTION: Final = b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\nDATA\r\n"
LOGIN: Final = b"AUTH PLAIN AHUAcA==\r\n"


def spoken(session: Said, given: Fields) -> list[bytes]:
    """The session in the server's protocol, what is sent at once as one."""
    return [b"".join(segment) for segment in (in_lmtp(session) if given.get("lmtp") else session)]


def queued(decided: Given) -> Given:
    """Decisions to be used up in one play."""
    return {kind: list(each) for kind, each in decided.items()}


def played(pieces: Iterable[Iterable[bytes]], given: Fields, decided: Given, *, ask: bool = False) -> Outcome:
    asks = OPTIONAL_QUESTIONS if ask else ()
    return drive([list(each) for each in pieces], make_options(given), decided, ask=asks)


FRESH: Final = Envelope().facts()


# --- I1, I2, I16 --------------------------------------------------------------------------------


@given(sessions, options, decisions, st.booleans(), cuts)
def test_only_octets_and_decisions_count(  # I1
    session: Said, given: Fields, decided: Given, ask: bool, places: list[int]
) -> None:
    said = spoken(session, given)
    whole = played([[part] for part in said], given, decided, ask=ask).summary()
    for pieces in (
        [cut(part, range(len(part))) for part in said],
        [cut(part, places) for part in said],
        [cut(part, [len(part) // 2]) for part in said],
    ):
        assert played(pieces, given, decided, ask=ask).summary() == whole


@given(sessions, options, decisions)
def test_a_group_gives_what_its_commands_give_one_by_one(  # I2
    session: Said, given: Fields, decided: Given
) -> None:
    said = spoken(session, given)
    one_by_one = [[line] for part in said for line in in_lines(part)]
    whole = played([[part] for part in said], given, decided)
    assert played(one_by_one, given, decided).summary() == whole.summary()


@given(sessions, options, decisions)
def test_nothing_is_left_to_chance(session: Said, given: Fields, decided: Given) -> None:  # I16
    first, second = (played(session, given, decided, ask=True) for _ in "12")
    assert first.summary() == second.summary()


# --- I3 -----------------------------------------------------------------------------------------


@given(
    st.lists(st.one_of(lines.map(lambda line: [line]), messages), max_size=20),
    options,
    decisions,
    st.booleans(),
)
def test_every_command_has_one_reply(  # I3
    said: list[Lines], given: Fields, decided: Given, ask: bool
) -> None:
    outcome = Outcome(Connection(make_options(given), ask=OPTIONAL_QUESTIONS if ask else (), entropy=ENTROPY,
                                 tls_available=True))  # fmt: skip
    answers = queued({**decided, ConnectRequested: []})  # the greeting is not the subject
    settle(outcome, answers)
    for line in in_lines(b"".join(spoken([[EHLO], *said], given))):
        state, replies, ends = outcome.connection.state, len(outcome.replies), len(outcome.of(DataFinished))
        recipients = len(outcome.session.envelope.rcpt_to) if given.get("lmtp") else 1
        outcome.connection.receive_data(line)
        settle(outcome, answers)
        came = outcome.replies[replies:]
        if state is State.CLOSED or (state is State.DATA and len(outcome.of(DataFinished)) == ends):
            assert came == []
        elif state is State.DATA and not outcome.closed:
            assert len(came) == recipients
        elif state is State.DATA:
            assert came[-1].startswith("421")
            assert len(came) <= recipients
        else:
            assert len(came) == 1
        assert not (outcome.closed and came and came[-1][:3] not in {"221", "421", "550", "451"})


# --- I4, I17 ------------------------------------------------------------------------------------

REPLY_LINE: Final = re.compile(r"(?P<code>[2-5][0-9]{2})(?P<more>[ -])(?P<text>[^\x00-\x1f\x7f-\x9f]*)")
ENHANCED: Final = re.compile(r"([245])\.[0-9]{1,3}\.[0-9]{1,3} ")


def insist_on_replies(sent: bytes, *, coded: bool = True) -> None:
    """Octets that are a sequence of well-formed replies; `coded`: what looks like a code is meant as one."""
    *said, rest = sent.decode().split("\r\n")
    assert rest == ""
    code = ""
    for line in said:
        match = REPLY_LINE.fullmatch(line)
        assert match is not None, line
        assert match["code"] == "334" or len(line.encode()) <= 510
        assert code in {"", match["code"]}, "one code on all lines of a reply"
        code = match["code"] if match["more"] == "-" else ""
        enhanced = ENHANCED.match(match["text"])
        assert not (coded and enhanced) or enhanced[1] == match["code"][0]
    assert code == ""


@given(sessions, options, decisions)
def test_replies_are_well_formed(session: Said, given: Fields, decided: Given) -> None:  # I4
    outcome = played([[part] for part in spoken(session, given)], given, decided, ask=True)
    insist_on_replies(outcome.sent, coded=not given.get("hide_enhancedstatuscodes"))
    assert outcome.session.error is None or "\r" not in outcome.session.error


@given(reply_texts, reply_texts, st.one_of(reply_texts, st.lists(reply_texts, max_size=4)), st.booleans())
@example(name="x", banner="\ud800", text="\ud800", utf8=True)
def test_no_text_of_the_application_breaks_a_reply(  # I17
    name: str, banner: str, text: str | list[str], utf8: bool
) -> None:
    options = ProtocolOptions(
        name=name, banner=banner, helo_response=banner, auth_required_message=banner, auth_methods=("PLAIN",),
        allow_insecure_auth=True, hide_enhancedstatuscodes=False,
    )  # fmt: skip
    login = Accept(user="u", text=text)
    answers: dict[type[Event], Any] = {
        MailRequested: [Reject(text=text), Accept(text=text)], AuthRequested: [Reject(454, text=text), login],
        RcptRequested: [Reject(452, text=text), ACCEPT], DataFinished: Accept(text=text),
        HelloRequested: [Reject(text=text), Accept(text=text), ACCEPT], VerifyRequested: Accept(text=text),
    }  # fmt: skip
    said = [
        *[EHLO] * 3, b"VRFY b\r\n", b"RSET\r\n", TRANSACTION[:22], LOGIN, LOGIN, b"MAIL FROM:<>\r\n",
        b"MAIL FROM:<> SMTPUTF8\r\n" if utf8 else b"MAIL FROM:<>\r\n", *[b"RCPT TO:<b@y.test>\r\n"] * 2,
        b"DATA\r\n", b".\r\n", b"QUIT\r\n",
    ]  # fmt: skip
    outcome = drive([said], options, answers, ask=[HelloRequested, VerifyRequested])
    insist_on_replies(outcome.sent, coded=False)
    assert [reply[:3] for reply in outcome.replies] == [
        "220", "550", *["250"] * 2, "252", "250", "530", "454", "235", "550", "250", "452", "250",
        "354", "250", "221",
    ]  # fmt: skip
    assert [len(reply.split("\n")) for reply in outcome.replies[2:4]] == [7, 7]  # its own and six offers


@given(reply_texts)
def test_no_host_name_breaks_a_reply(name: str) -> None:  # I17
    connection = Connection(ProtocolOptions())
    outcome = Outcome(connection)
    while not isinstance(connection.next_event(), ConnectRequested):
        pass
    connection.set_client_hostname(name)
    connection.decide(ACCEPT)
    settle(outcome, {})
    connection.receive_data(b"HELO c.test\r\nEHLO c.test\r\n")
    settle(outcome, {})
    insist_on_replies(outcome.sent, coded=False)
    assert len(outcome.replies) == 3
    assert {line[4:] for line in outcome.replies[2].split("\n")[1:]} == {"PIPELINING", "8BITMIME", "SMTPUTF8"}


# --- I5, I13 ------------------------------------------------------------------------------------


def watch(connection: Connection, answers: Given, fed: int, most_recipients: int) -> None:
    """Take events up to the next need of data, and look at what is kept all the while."""
    core = connection
    while True:
        event = connection.next_event()
        assert len(core.buffer) <= core.high_water + fed
        assert len(core.events) <= 5
        assert len(core.out) <= MANY_REPLIES + most_recipients
        if event is Signal.SEND:
            connection.data_to_send()
        elif isinstance(event, Signal):
            break
        elif connection.question is event:
            answer(connection, event, answers)


@given(st.lists(items, max_size=10), st.integers(1, 40), options, decisions)
@example([[b"RSET\r\n"]], 4000, {}, {})
@example([[TRANSACTION + b"\r\n.\r\n"]], 500, {}, {})
@example([[b"x" * 5000]], 40, {"max_unknown_commands": None}, {})
def test_what_is_kept_is_bounded(  # I5
    said: Said, times: int, given: Fields, decided: Given
) -> None:
    options = make_options({"max_recipients": 5, **given})
    connection = Connection(options, ask=OPTIONAL_QUESTIONS, entropy=ENTROPY, tls_available=True)
    core = connection
    limits = core.high_water, core.buffer._limit, core.buffer._auth_limit, core.coded
    answers = queued(decided)
    watch(connection, answers, 0, 5)
    octets = b"".join(spoken(said, given))
    for data in (EHLO, octets * times, octets):
        if connection.wants_data:
            connection.receive_data(data)
        watch(connection, answers, len(data), 5)
        # What waits now is the beginning of a line, no more than a line's limit.
        assert len(core.buffer) <= options.max_auth_line_length
        assert connection.options is options
        assert (core.high_water, core.buffer._limit, core.buffer._auth_limit, core.coded) == limits  # I13


def state_of_limits(core: Core) -> tuple[object, ...]:
    return core.options, core.high_water, core.buffer._limit, core.buffer._auth_limit


@given(sessions, options, decisions)
def test_nothing_a_client_sends_raises_a_limit(  # I13
    session: Said, given: Fields, decided: Given
) -> None:
    outcome = played([[part] for part in spoken(session, given)], given, decided)
    fresh = Connection(make_options(given), entropy=ENTROPY, tls_available=True)
    assert state_of_limits(outcome.connection) == state_of_limits(fresh)


# --- I6 -----------------------------------------------------------------------------------------


@given(sessions, options, decisions, sessions)
def test_after_the_end_there_is_nothing(  # I6
    session: Said, given: Fields, decided: Given, tail: Said
) -> None:
    said = [*spoken(session, given), b"*\r\n", b"\r\n.\r\n", b"QUIT\r\n"]
    outcome = played([[part] for part in said], given, decided)
    if not outcome.closed:
        return  # a body or an exchange took the QUIT
    behind = b"".join(spoken(tail, given))
    with_tail = played([*([part] for part in said), [behind]], given, decided)
    assert with_tail.summary() == outcome.summary()
    pipelined = played([*([part] for part in said[:-1]), [said[-1] + behind]], given, decided)
    assert pipelined.summary() == outcome.summary()
    connection = with_tail.connection
    connection.timeout("socket_timeout")
    connection.shutdown(now=True)
    connection.connection_lost()
    assert connection.next_event() is Signal.CLOSED
    assert connection.data_to_send() == b""


# --- I7 -----------------------------------------------------------------------------------------

# What may outlive the handshake: who the peer is, how often it has misbehaved, what was said of it.
OUTLIVES: Final = frozenset({
    "unknown", "unauthenticated", "failed_logins", "exchanges", "xclient_done", "connect_due", "peer",
    "client_hostname", "remote_address", "remote_port", "transaction", "error",
})  # fmt: skip


def all_facts(connection: Connection) -> dict[str, Any]:
    """Every field of session and core."""
    core, session = connection, connection.session
    facts = {name: getattr(core, name) for name in Core.__slots__ if name != "session"}
    facts |= session.facts()
    facts["envelope"] = session.envelope.facts()
    facts["buffer"] = (len(core.buffer), core.buffer.continuation, core.buffer.line_pending)
    return {name: value for name, value in facts.items() if name not in OUTLIVES} | vars(session)


@given(st.lists(items, max_size=10), options, decisions)
@example([[b"XFORWARD NAME=c.test\r\n"], [LOGIN], [TRANSACTION[:22]]], {"use_xforward": True}, {})
def test_nothing_crosses_starttls(said: Said, given: Fields, decided: Given) -> None:  # I7
    given["disabled_commands"] = ()
    outcome = played([[part] for part in spoken([[EHLO], *said], given)], given, decided)
    connection = outcome.connection
    assume(connection.state in COMMANDS)
    assume(len(connection.buffer) == 0)
    assume(not connection.line_pending)
    settle_with(outcome, STARTTLS)
    assume(connection.state is not State.CLOSED)  # one command too many
    fresh = played([[STARTTLS]], given, {})
    assume(fresh.connection.state is not State.CLOSED)  # one command was too many already
    assert connection.state is State.GREETED
    assert all_facts(connection) == all_facts(fresh.connection)


def settle_with(outcome: Outcome, octets: bytes) -> None:
    outcome.connection.receive_data(octets)
    settle(outcome, {})


@given(segments, st.integers(1, 30), decisions)
def test_octets_behind_starttls_are_never_run(said: Lines, octets: int, decided: Given) -> None:  # I7
    behind = (b"".join(said) or b"NOOP\r\n")[:octets]
    outcome = played([[EHLO], [STARTTLS + behind]], {}, {**decided, ConnectRequested: []})
    assert outcome.replies[2:] == ["554 5.5.0 Error: data after STARTTLS"]
    assert outcome.of(NeedsStartTLS) == []


# --- I8, I12 ------------------------------------------------------------------------------------


@given(sessions, options, decisions)
def test_outside_a_transaction_the_envelope_is_a_new_one(  # I8
    session: Said, given: Fields, decided: Given
) -> None:
    outcome = Outcome(Connection(make_options(given), entropy=ENTROPY, tls_available=True))
    answers = queued(decided)
    settle(outcome, answers)
    for line in in_lines(b"".join(spoken(session, given)).replace(STARTTLS, b"")):
        outcome.connection.receive_data(line)
        settle(outcome, answers)
        core, envelope = outcome.connection, outcome.session.envelope
        if outcome.connection.state in {State.GREETED, State.READY, State.AUTH}:
            assert envelope.facts() == FRESH
        if outcome.connection.state in {State.MAIL, State.RCPT, State.DATA}:
            assert envelope.mail_from is not None
            assert bool(envelope.rcpt_to) is (outcome.connection.state is not State.MAIL)
        if (
            line.upper().startswith((b"EHLO ", b"LHLO ", b"HELO ", b"RSET\r"))
            and outcome.replies[-1][0] == "2"
        ):
            assert outcome.session.xforward == {}
        assert (core.transfer is None) is (outcome.connection.state is not State.DATA)
        assert (core.exchange is None) is (outcome.connection.state is not State.AUTH)


@given(sessions, options, decisions)
def test_a_message_implies_all_that_it_needs(  # I12
    session: Said, given: Fields, decided: Given
) -> None:
    seen: list[DataStarted] = []
    options = make_options(given)

    def insist(connection: Connection) -> None:
        envelope, session = connection.session.envelope, connection.session
        assert envelope.mail_from is not None
        assert envelope.rcpt_to
        assert len(envelope.rcpt_to) <= (options.max_recipients or 1000)
        assert session.secure or not options.needs_upgrade
        assert session.user is not None or not options.login_required
        assert session.opening_command

    outcome = Outcome(Connection(options, entropy=ENTROPY, tls_available=True))
    answers = queued(decided)
    settle(outcome, answers)
    for part in spoken([[LOGIN], *session, [STARTTLS], [EHLO, LOGIN, TRANSACTION + b".\r\n"]], given):
        for line in in_lines(part):
            outcome.connection.receive_data(line)
            settle(outcome, answers)
            started = outcome.of(DataStarted)
            if outcome.connection.state is State.DATA and len(started) > len(seen):
                insist(outcome.connection)
                seen = started


# --- I9, I10 ------------------------------------------------------------------------------------

ENDS: Final[dict[str, Callable[[Connection], None]]] = {
    "eof": Connection.receive_eof,
    "lost": Connection.connection_lost,
    "late": lambda connection: connection.timeout("socket_timeout"),
    "shutdown": lambda connection: connection.shutdown(now=True),
}


@settings(max_examples=20)
@given(st.lists(contents, min_size=1, max_size=3), st.booleans(), st.sampled_from(sorted(ENDS)))
def test_nothing_is_delivered_whose_end_has_not_come(
    messages: list[bytes], lmtp: bool, end: str
) -> None:  # I9
    octets = LHLO if lmtp else EHLO
    ends: list[int] = []
    for content in messages:
        octets += TRANSACTION + stuffed(content)
        ends.append(len(octets))
    for length in range(len(octets) + 1):
        outcome = drive([[octets[:length]]], make_options({"lmtp": lmtp}), {})
        whole = sum(each <= length for each in ends)
        started = len(outcome.of(DataStarted))
        ENDS[end](outcome.connection)
        settle(outcome, {})
        assert outcome.closed
        assert len(outcome.of(DataFinished)) == whole
        assert len(outcome.of(DataAborted)) == started - whole
        assert sum("2.6.0" in reply for reply in outcome.replies) == whole
        delivered = b"".join(messages[:whole])
        assert outcome.data == delivered if started == whole else outcome.data.startswith(delivered)  # I10


# --- I11 ----------------------------------------------------------------------------------------

CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def written(address: Address, known: set[str]) -> str:
    """The path and the parameters, as a client would write what was handed out."""
    words = [f"<{address}>"]
    for keyword, value in address.args.items():
        if value is True:
            words.append(keyword)
        elif keyword not in known:
            words.append(f"{keyword}={value}")
        elif keyword == "ORCPT" and value.lower().startswith("utf-8;"):
            words.append(f"ORCPT={value[:6]}{embedded(value[6:])}")
        else:
            kind, semicolon, text = value.partition(";") if keyword == "ORCPT" else ("", "", value)
            words.append(f"{keyword}={kind}{semicolon}{encode_xtext(text)}")
    return " ".join(words)


def embedded(text: str) -> str:
    """RFC 6533 §3, everything that is not a plain character of ASCII embedded."""
    return re.sub(r"[^!-*,-<>-\[\]-~]", lambda match: rf"\x{{{ord(match[0]):X}}}", text)


@settings(max_examples=300)
@given(addresses, parameters, addresses, parameters, st.booleans(), st.booleans())
@example(
    sender='"a b"@x.test',
    sender_text=" SMTPUTF8 X=é",
    ascii_only=False,
    lenient=False,
    recipient="postmaster",
    recipient_text=" ORCPT=utf-8;\\x{E9}@x.test",
)
@example(
    sender="a..b@x_y", sender_text="", ascii_only=False, lenient=True, recipient="a..b@x_y", recipient_text=""
)  # fmt: skip
def test_what_is_handed_out_is_clean_and_can_be_said_again(  # I11
    sender: str, sender_text: str, recipient: str, recipient_text: str, ascii_only: bool, lenient: bool
) -> None:
    given = {"unknown_parameters": "accept", "require_smtputf8": ascii_only, "lenient_addresses": lenient}
    mail = f"MAIL FROM:<{sender}>{sender_text}"
    rcpt = f"RCPT TO:<{recipient}>{recipient_text}"
    outcome = played([[EHLO + mail.encode() + b"\r\n" + rcpt.encode() + b"\r\n"]], given, {})
    envelope = outcome.session.envelope
    shown = [str(each) for event in outcome.events if isinstance(event, MailRequested | RcptRequested)
             for each in address_facts(event.address)]  # fmt: skip
    assert not any(CONTROL.search(each) for each in [*shown, envelope.dsn.envid or ""])
    if envelope.mail_from is None:
        return
    said = f"MAIL FROM:{written(envelope.mail_from, {'AUTH', 'ENVID'})}\r\n"
    said += "".join(f"RCPT TO:{written(each, {'ORCPT'})}\r\n" for each in envelope.rcpt_to)
    again = played([[EHLO + said.encode()]], given, {}).session.envelope
    assert again.facts() == envelope.facts()
    addresses = [envelope.mail_from, *envelope.rcpt_to]
    assert again.mail_from is not None
    assert [address_facts(each) for each in [again.mail_from, *again.rcpt_to]] == [
        address_facts(each) for each in addresses
    ]


def address_facts(address: Address) -> list[object]:
    args = sorted((keyword, str(value)) for keyword, value in address.args.items())
    orcpt, notify = address.dsn.orcpt, address.dsn.notify
    return [address.address, address.local, address.domain, address.decoded, *args, orcpt, *(notify or ["-"])]


# --- I14 ----------------------------------------------------------------------------------------

START: Final = EHLO + TRANSACTION[:22]
IN_MESSAGE: Final = EHLO + TRANSACTION
WORST: Final[dict[str, tuple[bytes, Callable[[int], bytes]]]] = {
    "one line without an end": (EHLO, lambda n: b"x" * 20 * n),
    "many short lines": (EHLO, lambda n: b"NOOP\r\n" * n),
    "many empty lines": (EHLO, lambda n: b"\r\n" * n),
    "CRs": (EHLO, lambda n: b"\r" * n),
    "quotes": (EHLO, lambda n: b'MAIL FROM:<"' + b'\\"' * n + b"\r\n"),
    "labels": (EHLO, lambda n: b"MAIL FROM:<a@" + b"a." * n + b"\r\n"),
    "a source route": (EHLO, lambda n: b"MAIL FROM:<" + b"@a," * n + b"\r\n"),
    "colons": (EHLO, lambda n: b"MAIL FROM:<a@[IPv6:" + b":" * n + b"]>\r\n"),
    "parameters": (EHLO, lambda n: b"MAIL FROM:<a@x.test>" + b" X=1" * n + b"\r\n"),
    "blanks": (EHLO, lambda n: b"MAIL FROM:<a@x.test>" + b" " * n + b"X\r\n"),
    "xtext": (START, lambda n: b"RCPT TO:<b@y.test> ORCPT=rfc822;" + b"+41" * n + b"\r\n"),
    "escapes": (START, lambda n: b"RCPT TO:<b@y.test> ORCPT=utf-8;" + rb"\x{E9}" * n + b"\r\n"),
    "recipients": (START, lambda n: b"RCPT TO:<b@y.test>\r\n" * n),
    "base64": (EHLO, lambda n: b"AUTH PLAIN " + b"A" * 4 * n + b"\r\n"),
    "cancelled logins": (EHLO, lambda n: b"AUTH PLAIN\r\n*\r\n" * n),
    "dots": (IN_MESSAGE, lambda n: b"." * n + b"\r\n.\r\n"),
    "lines of dots": (IN_MESSAGE, lambda n: b"..\r\n" * n + b".\r\n"),
    "ends that are none": (IN_MESSAGE, lambda n: b"\r\n.\r" * n + b"\r\n.\r\n"),
    "messages": (EHLO, lambda n: (TRANSACTION + b".\r\n") * n),
}  # fmt: skip


def work(octets: bytes, size: int) -> int:
    """Calls and lines of Python that a play costs, fed in pieces of a size."""
    steps = 0

    def count(_frame: Any, event: str, _argument: Any) -> Any:
        nonlocal steps
        steps += event in {"call", "line"}
        return count

    given = {
        "max_unknown_commands": None, "max_auth_attempts": None, "max_line_length": 1 << 20,
        "max_auth_line_length": 1 << 20, "bare_newlines": "accept", "unknown_parameters": "accept",
    }  # fmt: skip
    outcome = Outcome(Connection(make_options(given), entropy=ENTROPY, tls_available=True))
    settle(outcome, {})
    tracing = sys.gettrace()
    sys.settrace(count)
    try:
        for at in range(0, len(octets), size):
            outcome.connection.receive_data(octets[at : at + size])
            settle(outcome, {})
    finally:
        sys.settrace(tracing)
    return steps


@pytest.mark.parametrize("size", [1, 1 << 30])
@pytest.mark.parametrize("worst", WORST)
def test_work_grows_with_the_input_and_no_faster(worst: str, size: int) -> None:  # I14
    before, of_length = WORST[worst]
    nothing = work(before, size)
    once, twice = (work(before + of_length(n), size) - nothing for n in (150, 300))
    assert twice <= 2 * once + 60


# --- whatever is called, and when ---------------------------------------------------------------

calls = st.lists(
    st.one_of(
        st.tuples(st.just("receive_data"), items.map(b"".join)),
        st.tuples(st.just("receive_data"), st.just(STARTTLS)),
        st.sampled_from([
            ("next_event",), ("next_event",), ("next_event",), ("data_to_send",), ("receive_eof",),
            ("connection_lost",), ("decide", ACCEPT), ("decide", Accept(user="u")), ("decide", Reject()),
            ("decide", None), ("decide", [ACCEPT]), ("tls_established",), ("shutdown",), ("refuse",),
            ("timeout", "socket_timeout"), ("timeout", "session_timeout"), ("timeout", "data_timeout"),
            ("set_client_hostname", "c.test"),
        ]),
    ),
    max_size=60,
)  # fmt: skip


MAY_REFUSE: Final = {"receive_data", "decide", "tls_established", "refuse", "set_client_hostname"}


@settings(max_examples=300)
@given(calls, options, st.booleans(), st.booleans())
def test_every_call_does_its_work_or_raises_at_once(
    called: list[tuple[Any, ...]], given: Fields, secure: bool, proxy: bool
) -> None:
    made = make_options({**given, "secure": secure, "use_proxy": proxy})
    connection = Connection(made, ask=OPTIONAL_QUESTIONS, entropy=ENTROPY, tls_available=True)
    sent = b""
    closings = 0
    for name, *arguments in called:
        before, question = connection.state, connection.question
        try:
            result = getattr(connection, name)(*arguments)
        except LocalProtocolError:
            assert name in MAY_REFUSE
            assert (connection.state, connection.question) == (before, question)
            continue
        sent += result if isinstance(result, bytes) else b""
        closings += type(result).__name__ == "ConnectionClosed"
        assert before is not State.CLOSED or connection.state is State.CLOSED
    connection.connection_lost()
    while isinstance(event := connection.next_event(), Event):
        closings += type(event).__name__ == "ConnectionClosed"
    assert event is Signal.CLOSED
    assert closings == 1
    insist_on_replies(sent + connection.data_to_send(), coded=False)
