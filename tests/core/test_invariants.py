# What holds for every conversation: whatever the client sends, in whatever pieces, and whatever the
# application decides. The numbers I1 to I17 are those of the project's list of invariants.

from __future__ import annotations

import re
from itertools import count, pairwise
from typing import TYPE_CHECKING, Any, Final

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from smtpproto import (
    ACCEPT,
    OPTIONAL_QUESTIONS,
    Accept,
    Address,
    AuthRequested,
    Challenge,
    CommandReceived,
    Connection,
    ConnectRequested,
    DataAborted,
    DataFinished,
    DataRequested,
    DataStarted,
    Envelope,
    Event,
    ExpandRequested,
    HelloReceived,
    HelpRequested,
    LocalProtocolError,
    MailRequested,
    NeedsStartTLS,
    NeedsTLS,
    Options,
    RcptRequested,
    Reject,
    SecureRequested,
    Session,
    Signal,
    State,
    VerifyRequested,
    XClientCredentials,
)
from smtpproto._connection import MANY_REPLIES
from smtpproto._core import Core
from smtpproto._grammar import encode_xtext
from smtpproto._state import COMMANDS
from smtpproto.testing import ENTROPY, TLS, Outcome, drive, settle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Answers = Mapping[type[Event], Callable[[Event], Any]]

# --- conversations ------------------------------------------------------------------------------

COMMAND_LINES: Final = [
    b"EHLO c.test", b"HELO c.test", b"LHLO c.test", b"EHLO", b"NOOP", b"RSET", b"rset x", b"VRFY b", b"HELP",
    b"EXPN b", b"FOO", b"", b" ", b"BDAT 1", b"QUIT x", b"X-OWN 1 2",
    b"MAIL FROM:<a@x.test>", b"MAIL FROM:<>", b"mail from:<a@x.test> SIZE=9 BODY=8BITMIME",
    b"MAIL FROM:<a@x.test> X=1", b"MAIL FROM:a", "MAIL FROM:<é@x.test> SMTPUTF8".encode(),
    b"RCPT TO:<b@y.test>", b"RCPT TO:<c@y.test> NOTIFY=NEVER", b"RCPT TO:<postmaster>", b"RCPT TO:<>",
    b"DATA", b"DATA x", b".", b"..", b"x",
    b"AUTH PLAIN AHUAcA==", b"AUTH PLAIN", b"AHUAcA==", b"AUTH LOGIN", b"dQ==", b"*", b"AUTH CRAM-MD5",
    b"AUTH XOAUTH2 dXNlcj11AWF1dGg9QmVhcmVyIHQBAQ==", b"AUTH", b"AUTH FOO",
    b"XCLIENT NAME=c.test", b"XCLIENT ADDR=198.51.100.7", b"XCLIENT LOGIN=u", b"XCLIENT",
    b"XFORWARD NAME=c.test", b"XFORWARD",
]  # fmt: skip
# Each of these ends a connection, or nearly: they are rare, so that there is something to end.
ENDING_LINES: Final = [b"QUIT", b"GET / HTTP/1.1", b"Subject: x"]
EHLO: Final = b"EHLO c.test\r\n"
LHLO: Final = b"LHLO c.test\r\n"
TRANSACTION: Final = b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\nDATA\r\n"
STARTTLS: Final = b"STARTTLS\r\n"
LOGIN: Final = b"AUTH PLAIN AHUAcA==\r\n"

noise = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"\0", b"\xc3", b"\xff", b"A", b" "])).map(
    b"".join
)
long_lines = st.integers(505, 1100).map(lambda octets: b"NOOP " + b"x" * octets + b"\r\n")
bodies = st.lists(st.sampled_from([b"a", b".", b"..", b"\r\n", b"\r\n.", b"\n", b"\r", b"xyz" * 9])).map(
    b"".join
)
whole_messages = bodies.map(lambda body: TRANSACTION + body + b"\r\n.\r\n")
command_lines = st.sampled_from(COMMAND_LINES).map(lambda line: line + b"\r\n")
ending_lines = st.sampled_from(ENDING_LINES).map(lambda line: line + b"\r\n")
lines = st.one_of(*[command_lines] * 6, long_lines, noise.map(lambda octets: octets + b"\r\n"), ending_lines)
items = st.one_of(*[command_lines] * 6, *[whole_messages] * 2, long_lines, noise, ending_lines)
# STARTTLS stands at the end of what is sent at once: octets behind it are an attack, and another test.
segments = st.tuples(st.lists(items, max_size=8).map(b"".join), st.sampled_from([b"", b"", STARTTLS])).map(
    b"".join
)
sessions = st.lists(segments, min_size=1, max_size=4).map(lambda parts: [EHLO, *parts])


def can_be_had(given: dict[str, Any]) -> bool:
    return not (given.get("needs_upgrade") and "STARTTLS" in given.get("disabled_commands", ()))


options: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "auth_optional": st.booleans(),
        "allow_insecure_auth": st.booleans(),
        "needs_upgrade": st.booleans(),
        "lmtp": st.booleans(),
        "hide_enhancedstatuscodes": st.booleans(),
        "enforce_size": st.booleans(),
        "size": st.integers(1, 60),
        "bare_newlines": st.sampled_from(["accept", "reject"]),
        "unknown_parameters": st.sampled_from(["accept", "reject"]),
        "use_xclient": st.booleans(),
        "use_xforward": st.booleans(),
        "max_recipients": st.integers(1, 3),
        "max_unknown_commands": st.integers(1, 30),
        "max_allowed_unauthenticated_commands": st.integers(1, 30),
        "max_auth_attempts": st.integers(1, 4),
        "disabled_commands": st.lists(st.sampled_from(["HELP", "STARTTLS", "RSET", "AUTH"])),
    },
).filter(can_be_had)

NO: Final = [Reject(), Reject(451), Reject(text="é\r\n5.7.1 x"), Reject(421)]
CHOICES: Final[Mapping[type[Event], list[Any]]] = {
    ConnectRequested: [ACCEPT] * 20 + NO,
    SecureRequested: [ACCEPT] * 20 + NO,
    HelloReceived: [ACCEPT] * 9 + [Accept(text="a\r\nb"), *NO],
    AuthRequested: [ACCEPT] * 4 + [Accept(), Challenge(b"more"), *NO],
    MailRequested: [ACCEPT] * 9 + NO,
    RcptRequested: [ACCEPT] * 9 + [Accept(251), *NO],
    DataRequested: [ACCEPT] * 9 + NO,
    DataFinished: [ACCEPT] * 3 + [Accept(text="as 1"), "each", *NO],
    VerifyRequested: [ACCEPT, Accept(250, text=["b", "c"]), *NO],
    ExpandRequested: [ACCEPT, *NO],
    HelpRequested: [ACCEPT, *NO],
    CommandReceived: [None, Accept(299), *NO],
}
picks = st.lists(st.integers(0, 100), max_size=20)


def decisions(picked: list[int]) -> Answers:
    """What the application answers: question by question the next choice, and yes when they are used up."""
    turn = count()
    sessions: list[Session] = []

    def decide(event: Any) -> Any:
        sessions.append(event.session if isinstance(event, ConnectRequested) else sessions[0])
        number = next(turn)
        choices = CHOICES[type(event)]
        choice = choices[picked[number] % len(choices)] if number < len(picked) else choices[0]
        if isinstance(choice, Challenge) and isinstance(getattr(event, "auth", None), XClientCredentials):
            return ACCEPT
        if choice != "each":
            return choice
        session = sessions[0]
        return (
            [[ACCEPT, Reject(452)][i % 2] for i in range(len(session.envelope.rcpt_to))]
            if session.lmtp
            else ACCEPT
        )

    return dict.fromkeys(CHOICES, decide)


def made_of(given: dict[str, Any]) -> Options:
    every: dict[str, Any] = {
        "name": "mx.test", "auth_methods": ("PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2"), "max_line_length": 512,
        "auth_optional": True, "allow_insecure_auth": True, "hide_enhancedstatuscodes": False,
    }  # fmt: skip
    return Options(**every | given)


def spoken(session: list[bytes], given: dict[str, Any]) -> list[bytes]:
    """The session in the server's protocol."""
    return [part.replace(EHLO, LHLO) for part in session] if given.get("lmtp") else session


def played(
    pieces: Iterable[Iterable[bytes]], given: dict[str, Any], picked: list[int], *, ask: bool = False
) -> Outcome:
    asks = OPTIONAL_QUESTIONS if ask else ()
    return drive([list(each) for each in pieces], made_of(given), decisions(picked), ask=asks)


def in_lines(octets: bytes) -> list[bytes]:
    return re.findall(rb"(?s).*?\r\n|.+\Z", octets)


def cut_at(octets: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(octets), *(place % (len(octets) + 1) for place in places)})
    return [octets[a:b] for a, b in pairwise(edges)]


def envelope_facts(envelope: Envelope) -> dict[str, str]:
    return {name: repr(getattr(envelope, name)) for name in Envelope.__slots__}


FRESH: Final = envelope_facts(Envelope())


# --- I1, I2, I16 --------------------------------------------------------------------------------


@given(sessions, options, picks, st.booleans(), st.lists(st.integers(0, 4000)))
def test_only_octets_and_decisions_count(  # I1
    session: list[bytes], given: dict[str, Any], picked: list[int], ask: bool, places: list[int]
) -> None:
    session = spoken(session, given)
    whole = played([[part] for part in session], given, picked, ask=ask).summary()
    for cut in (
        [[bytes([octet]) for octet in part] for part in session],
        [cut_at(part, places) for part in session],
        [[part[:at], part[at:]] for part in session for at in (len(part) // 2,)],
    ):
        assert played(cut, given, picked, ask=ask).summary() == whole


@given(sessions, options, picks)
def test_a_group_gives_what_its_commands_give_one_by_one(  # I2
    session: list[bytes], given: dict[str, Any], picked: list[int]
) -> None:
    session = spoken(session, given)
    one_by_one = [[line] for part in session for line in in_lines(part)]
    whole = played([[part] for part in session], given, picked)
    assert played(one_by_one, given, picked).summary() == whole.summary()


@given(sessions, options, picks)
def test_nothing_is_left_to_chance(
    session: list[bytes], given: dict[str, Any], picked: list[int]
) -> None:  # I16
    first, second = (played([[part] for part in session], given, picked, ask=True) for _ in "12")
    assert first.summary() == second.summary()


# --- I3 -----------------------------------------------------------------------------------------


@given(st.lists(st.one_of(lines, whole_messages), max_size=20), options, picks, st.booleans())
def test_every_command_has_one_reply(  # I3
    said: list[bytes], given: dict[str, Any], picked: list[int], ask: bool
) -> None:
    outcome = Outcome(Connection(made_of(given), ask=OPTIONAL_QUESTIONS if ask else (), entropy=ENTROPY,
                                 tls_available=True))  # fmt: skip
    answers = decisions([0, *picked])  # the greeting is not the subject
    settle(outcome, answers)
    for line in in_lines(b"".join(spoken([EHLO, *said], given))):
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


@given(sessions, options, picks)
def test_replies_are_well_formed(
    session: list[bytes], given: dict[str, Any], picked: list[int]
) -> None:  # I4
    outcome = played([[part] for part in spoken(session, given)], given, picked, ask=True)
    insist_on_replies(outcome.sent, coded=not given.get("hide_enhancedstatuscodes"))
    assert outcome.session.error is None or "\r" not in outcome.session.error


any_text = st.text(st.characters(exclude_categories=()), max_size=40) | st.sampled_from(
    [
        "x" * 2000,
        "a b " * 400,
        "\r\n" * 300,
        "é" * 900,
        "5.7.1",
        "2.0.0 x",
        "250 OK\r\n250 OK",
        "%s%s%s",
        "\x85\u2028",
    ]
)


@given(any_text, any_text, st.one_of(any_text, st.lists(any_text, max_size=4)), st.booleans())
@example(name="x", banner="\ud800", text="\ud800", utf8=True)
def test_no_text_of_the_application_breaks_a_reply(  # I17
    name: str, banner: str, text: str | list[str], utf8: bool
) -> None:
    options = Options(
        name=name, banner=banner, helo_response=banner, auth_required_message=banner, auth_methods=("PLAIN",),
        allow_insecure_auth=True, hide_enhancedstatuscodes=False,
    )  # fmt: skip
    login = Accept(user="u", text=text)
    answers: dict[type[Event], Any] = {
        MailRequested: [Reject(text=text), Accept(text=text)], AuthRequested: [Reject(454, text=text), login],
        RcptRequested: [Reject(452, text=text), ACCEPT], DataFinished: Accept(text=text),
        HelloReceived: [Reject(text=text), Accept(text=text), ACCEPT], VerifyRequested: Accept(text=text),
    }  # fmt: skip
    said = [
        *[EHLO] * 3, b"VRFY b\r\n", b"RSET\r\n", TRANSACTION[:22], LOGIN, LOGIN, b"MAIL FROM:<>\r\n",
        b"MAIL FROM:<> SMTPUTF8\r\n" if utf8 else b"MAIL FROM:<>\r\n", *[b"RCPT TO:<b@y.test>\r\n"] * 2,
        b"DATA\r\n", b".\r\n", b"QUIT\r\n",
    ]  # fmt: skip
    outcome = drive([said], options, answers, ask=[HelloReceived, VerifyRequested])
    insist_on_replies(outcome.sent, coded=False)
    assert [reply[:3] for reply in outcome.replies] == [
        "220", "550", *["250"] * 2, "252", "250", "530", "454", "235", "550", "250", "452", "250",
        "354", "250", "221",
    ]  # fmt: skip
    assert [len(reply.split("\n")) for reply in outcome.replies[2:4]] == [7, 7]  # its own and six offers


@given(any_text)
def test_no_host_name_breaks_a_reply(name: str) -> None:  # I17
    connection = Connection(Options())
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


def watch(connection: Connection, answers: Answers, fed: int, most_recipients: int) -> None:
    """Take events up to the next need of data, and look at what is kept all the while."""
    core = connection._core
    while True:
        event = connection.next_event()
        assert len(core.buffer) <= core.high_water + fed
        assert len(core.events) <= 4
        assert len(core.out) <= MANY_REPLIES + most_recipients
        if event is Signal.SEND:
            connection.data_to_send()
        elif isinstance(event, Signal):
            break
        elif connection.question is event:
            if isinstance(event, NeedsTLS | NeedsStartTLS):
                connection.tls_established(TLS)
            else:
                given = answers[type(event)](event)
                connection.decide(
                    Accept(user="u") if given is ACCEPT and isinstance(event, AuthRequested) else given
                )


@given(st.lists(items, max_size=10).map(b"".join), st.integers(1, 40), options, picks)
@example(b"RSET\r\n", 4000, {}, [])
@example(TRANSACTION + b"\r\n.\r\n", 500, {}, [])
@example(b"x" * 5000, 40, {"max_unknown_commands": None}, [])
def test_what_is_kept_is_bounded(  # I5
    said: bytes, times: int, given: dict[str, Any], picked: list[int]
) -> None:
    options = made_of({"max_recipients": 5, **given})
    connection = Connection(options, ask=OPTIONAL_QUESTIONS, entropy=ENTROPY, tls_available=True)
    core = connection._core
    limits = core.high_water, core.buffer._limit, core.buffer._auth_limit, core.coded
    answers = decisions(picked)
    watch(connection, answers, 0, 5)
    for data in (EHLO, said * times, said):
        if connection.wants_data:
            connection.receive_data(data)
        watch(connection, answers, len(data), 5)
        # What waits now is the beginning of a line, no more than a line's limit.
        assert len(core.buffer) <= options.max_auth_line_length
        assert connection.options is options
        assert (core.high_water, core.buffer._limit, core.buffer._auth_limit, core.coded) == limits  # I13


def state_of_limits(core: Core) -> tuple[object, ...]:
    return core.options, core.high_water, core.buffer._limit, core.buffer._auth_limit


@given(sessions, options, picks)
def test_nothing_a_client_sends_raises_a_limit(  # I13
    session: list[bytes], given: dict[str, Any], picked: list[int]
) -> None:
    outcome = played([[part] for part in spoken(session, given)], given, picked)
    fresh = Connection(made_of(given), entropy=ENTROPY, tls_available=True)
    assert state_of_limits(outcome.connection._core) == state_of_limits(fresh._core)


# --- I6 -----------------------------------------------------------------------------------------


@given(sessions, options, picks, sessions)
def test_after_the_end_there_is_nothing(  # I6
    session: list[bytes], given: dict[str, Any], picked: list[int], tail: list[bytes]
) -> None:
    session = [*spoken(session, given), b"*\r\n", b"\r\n.\r\n", b"QUIT\r\n"]
    outcome = played([[part] for part in session], given, picked)
    if not outcome.closed:
        return  # a body or an exchange took the QUIT
    behind = b"".join(tail)
    with_tail = played([*([part] for part in session), [behind]], given, picked)
    assert with_tail.summary() == outcome.summary()
    pipelined = played([*([part] for part in session[:-1]), [session[-1] + behind]], given, picked)
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
    core, session = connection._core, connection.session
    facts = {name: getattr(core, name) for name in Core.__slots__ if name != "session"}
    facts |= {name: getattr(session, name) for name in Session.__slots__ if name != "__dict__"}
    facts["envelope"] = envelope_facts(session.envelope)
    facts["buffer"] = (len(core.buffer), core.buffer.continuation, core.buffer.line_pending)
    return {name: value for name, value in facts.items() if name not in OUTLIVES} | vars(session)


@given(st.lists(items, max_size=10), options, picks)
@example([b"XFORWARD NAME=c.test\r\n", LOGIN, TRANSACTION[:22]], {"use_xforward": True}, [])
def test_nothing_crosses_starttls(said: list[bytes], given: dict[str, Any], picked: list[int]) -> None:  # I7
    given["disabled_commands"] = ()
    hello = LHLO if given.get("lmtp") else EHLO
    outcome = played([[part] for part in [hello, *spoken(said, given)]], given, picked)
    connection = outcome.connection
    assume(connection.state in COMMANDS)
    assume(len(connection._core.buffer) == 0)
    assume(not connection.line_pending)
    settle_with(outcome, STARTTLS)
    assume(connection.state is not State.CLOSED)  # one command too many
    fresh = played([[STARTTLS]], given, [])
    assume(fresh.connection.state is not State.CLOSED)  # one command was too many already
    assert connection.state is State.GREETED
    assert all_facts(connection) == all_facts(fresh.connection)


def settle_with(outcome: Outcome, octets: bytes) -> None:
    outcome.connection.receive_data(octets)
    settle(outcome, {})


@given(segments, st.integers(1, 30), picks)
def test_octets_behind_starttls_are_never_run(behind: bytes, octets: int, picked: list[int]) -> None:  # I7
    behind = (behind or b"NOOP\r\n")[:octets]
    outcome = played([[EHLO], [STARTTLS + behind]], {}, [0, *picked])
    assert outcome.replies[2:] == ["554 5.5.0 Error: data after STARTTLS"]
    assert outcome.of(NeedsStartTLS) == []


# --- I8, I12 ------------------------------------------------------------------------------------


@given(sessions, options, picks)
def test_outside_a_transaction_the_envelope_is_a_new_one(  # I8
    session: list[bytes], given: dict[str, Any], picked: list[int]
) -> None:
    outcome = Outcome(Connection(made_of(given), entropy=ENTROPY, tls_available=True))
    answers = decisions(picked)
    settle(outcome, answers)
    for line in in_lines(b"".join(spoken(session, given)).replace(STARTTLS, b"")):
        outcome.connection.receive_data(line)
        settle(outcome, answers)
        core, envelope = outcome.connection._core, outcome.session.envelope
        if outcome.connection.state in {State.GREETED, State.READY, State.AUTH}:
            assert envelope_facts(envelope) == FRESH
        if outcome.connection.state in {State.MAIL, State.RCPT, State.DATA}:
            assert envelope.mail_from is not None
            assert bool(envelope.rcpt_to) is (outcome.connection.state is not State.MAIL)
        if (
            line.upper().startswith((b"EHLO ", b"LHLO ", b"HELO ", b"RSET\r"))
            and outcome.replies[-1][0] == "2"
        ):
            assert outcome.session.x_forward == {}
        assert (core.transfer is None) is (outcome.connection.state is not State.DATA)
        assert (core.exchange is None) is (outcome.connection.state is not State.AUTH)


@given(sessions, options, picks)
def test_a_message_implies_all_that_it_needs(  # I12
    session: list[bytes], given: dict[str, Any], picked: list[int]
) -> None:
    seen: list[DataStarted] = []
    options = made_of(given)

    def insist(connection: Connection) -> None:
        envelope, session = connection.session.envelope, connection.session
        assert envelope.mail_from is not None
        assert envelope.rcpt_to
        assert len(envelope.rcpt_to) <= (options.max_recipients or 1000)
        assert session.secure or not options.needs_upgrade
        assert session.user is not None or not options.login_required
        assert session.opening_command

    outcome = Outcome(Connection(options, entropy=ENTROPY, tls_available=True))
    answers = decisions(picked)
    settle(outcome, answers)
    for part in spoken([LOGIN, *session, STARTTLS, EHLO, LOGIN, TRANSACTION + b".\r\n"], given):
        for line in in_lines(part):
            outcome.connection.receive_data(line)
            settle(outcome, answers)
            started = outcome.of(DataStarted)
            if outcome.connection.state is State.DATA and len(started) > len(seen):
                insist(outcome.connection)
                seen = started


# --- I9, I10 ------------------------------------------------------------------------------------

contents = st.lists(
    st.sampled_from([b"a", b".", b"..", b"\r\n", b"\r\n.", b"\r\n.\r\n", b"\xff\0"]), max_size=12
).map(lambda parts: b"".join([*parts, b"\r\n"]))


def stuffed(content: bytes) -> bytes:
    """RFC 5321 §4.5.2, as naively as it can be said."""
    return b"".join(b"." + line if line.startswith(b".") else line for line in in_lines(content)) + b".\r\n"


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
        outcome = drive([[octets[:length]]], made_of({"lmtp": lmtp}), {})
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
words = st.lists(
    st.sampled_from([
        "a", "b.c", "é", "@", "x.test", "xn--bcher-kva", "[192.0.2.1]", "[IPv6:2001:DB8::1]", '"', "\\", " ",
        ".", "-", "+", "postmaster", "@r.test:", "\u200b", "\x85", "<", ">", "+41", "+0d", "\t",
    ]),
    max_size=5,
).map("".join)  # fmt: skip
addresses = st.one_of(words, st.tuples(words, words).map("@".join), st.just("a@x.test"))
parameters = st.lists(
    st.one_of(
        st.sampled_from([
            "SIZE=1", "BODY=8BITMIME", "BODY=7bit", "SMTPUTF8", "RET=full", "ENVID=a+20b", "ENVID=a+0Db",
            "AUTH=<>", "AUTH=a+40x.test", "AUTH=a+2Bb@x.test", "X-Y", "x=é", "NOTIFY=never",
            "NOTIFY=success,DELAY", "ORCPT=rfc822;a+40b", "ORCPT=utf-8;\\x{E9}@x.test", "ORCPT=x;+01",
            "ORCPT=utf-8;é@x.test", "ORCPT=UTF-8;a\\x{2B}b@x.test", "X+=1", "=",
        ]),
        st.tuples(
            st.sampled_from(["ENVID=", "AUTH=", "ORCPT=rfc822;", "ORCPT=utf-8;", "X="]), words
        ).map("".join),
    ),
    max_size=4,
).map(lambda each: "".join(f" {word}" for word in each))  # fmt: skip


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
    outcome = played([[EHLO + mail.encode() + b"\r\n" + rcpt.encode() + b"\r\n"]], given, [])
    envelope = outcome.session.envelope
    shown = [str(each) for event in outcome.events if isinstance(event, MailRequested | RcptRequested)
             for each in address_facts(event.address)]  # fmt: skip
    assert not any(CONTROL.search(each) for each in [*shown, envelope.dsn.envid or ""])
    if envelope.mail_from is None:
        return
    said = f"MAIL FROM:{written(envelope.mail_from, {'AUTH', 'ENVID'})}\r\n"
    said += "".join(f"RCPT TO:{written(each, {'ORCPT'})}\r\n" for each in envelope.rcpt_to)
    again = played([[EHLO + said.encode()]], given, []).session.envelope
    assert envelope_facts(again) == envelope_facts(envelope)
    addresses = [envelope.mail_from, *envelope.rcpt_to]
    assert again.mail_from is not None
    assert [address_facts(each) for each in [again.mail_from, *again.rcpt_to]] == [
        address_facts(each) for each in addresses
    ]


def address_facts(address: Address) -> list[object]:
    args = sorted((keyword, str(value)) for keyword, value in address.args.items())
    orcpt, notify = address.dsn.orcpt, address.dsn.notify
    return [address.address, address.local, address.domain, address.decoded, *args, orcpt, *(notify or ["-"])]


# --- whatever is called, and when ---------------------------------------------------------------

calls = st.lists(
    st.one_of(
        st.tuples(st.just("receive_data"), items),
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
    called: list[tuple[Any, ...]], given: dict[str, Any], secure: bool, proxy: bool
) -> None:
    made = made_of({**given, "secure": secure, "use_proxy": proxy})
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
