# Whatever a client says, in whatever pieces, whatever the application decides, and whatever befalls the
# connection meanwhile: every invariant holds behind every step.
#
# Two connections take each step and must come to the same. One is checked from within and fed in pieces,
# some of which come while a question is open; the other is fed octet by octet, and its replies are counted.
#
# The long run, which prints its figures:  python tests/core/test_machine.py 10000

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter, deque
from operator import methodcaller
from typing import TYPE_CHECKING, Any, Final, get_args

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from smtpproto import (
    ACCEPT,
    OPTIONAL_QUESTIONS,
    Challenge,
    Connection,
    ConnectionClosed,
    ConnectRequested,
    DataFinished,
    Event,
    LocalProtocolError,
    NeedsStartTLS,
    NeedsTLS,
    SecureRequested,
    Signal,
    State,
    TimerKind,
)
from smtpproto.testing import ENTROPY, CheckedConnection, final_state
from smtpproto.testing._conversation import answer, joined
from smtpproto.testing.strategies import (
    EHLO,
    LHLO,
    STARTTLS,
    addresses,
    bodies,
    command_lines,
    cut,
    ending_lines,
    in_lmtp,
    items,
    long_lines,
    make_options,
    noise,
    options,
    parameters,
    proxy_headers,
    sasl_exchanges,
    single_decisions,
    valid_proxy_headers,
    xclient_lines,
    xforward_lines,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from smtpproto.testing.strategies import Fields, Given, Lines

CRLF: Final = b"\r\n"
SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"  # of a PROXY header of version 2
COMMANDS: Final = frozenset({State.GREETED, State.READY, State.MAIL, State.RCPT, State.AUTH})
# What comes while these are open is no command: an early talker's, or plaintext in a handshake.
NOT_TO_BE_HURRIED: Final = (ConnectRequested, SecureRequested, NeedsTLS, NeedsStartTLS)
STEPS: Final = 50
UNCHECKED: Final = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
FIGURES: Final[Counter[str]] = Counter()

# --- what is drawn ------------------------------------------------------------------------------

# Drawn in few choices: what an example of 50 steps may draw in all is limited.
places = st.sampled_from([(), (1,), (2,), (-2,), (-3,), (-4,), (3, 5), (7, 20, -3), tuple(range(0, 60, 3))])
contents = st.sampled_from([
    b"a", b"", b".", b"..", b".\r\n", b"a\r\n..\r\nb", b"a\n.\nb", b"a\n.\r\nb", b"a\r.\r\nb", b"a\r\n.\nb",
    b"x\n.\r", b"long " * 20,
])  # fmt: skip


def both(fields: Fields, more: Fields) -> Fields:
    return {**fields, **more}


def path(verb: str, address: str, text: str) -> bytes:
    return f"{verb}:<{address}>{text}".encode("utf-8", "surrogateescape") + CRLF


beginnings = st.builds(
    both,
    options,
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            ["use_proxy", "secure", "tls_upstream", "require_smtputf8", "lenient_addresses"], st.booleans()
        ),
    ),
)
paths = st.builds(path, st.sampled_from(["MAIL FROM", "RCPT TO"]), addresses, parameters)
commands = st.one_of(
    *[command_lines] * 4, paths, xclient_lines, xforward_lines, long_lines, noise, ending_lines
)
groups = st.lists(items, min_size=1, max_size=4).map(lambda said: [line for each in said for line in each])
ENDS: Final[dict[str, Callable[[Connection], None]]] = {
    "receive_eof": Connection.receive_eof,
    "connection_lost": Connection.connection_lost,
    "shutdown": Connection.shutdown,
    "shutdown now": lambda connection: connection.shutdown(now=True),
    **{kind: methodcaller("timeout", kind) for kind in get_args(TimerKind)},
}
MISUSES: Final[dict[str, Callable[[Connection], None]]] = {
    "decide": lambda connection: connection.decide(ACCEPT),
    "decide None": lambda connection: connection.decide(None),
    "decide Challenge": lambda connection: connection.decide(Challenge(b"")),
    "tls_established": lambda connection: connection.tls_established(),
    "set_client_hostname": lambda connection: connection.set_client_hostname("c.test"),
    "timeout": lambda connection: connection.timeout("tea_time"),  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - the misuse
}

# --- the two sides ------------------------------------------------------------------------------


class Side:
    """A connection, what it was told to decide, and what came of the present step."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.due: Given = {}
        self.sent = b""
        self.events: list[Event] = []

    def settle(self, later: Iterable[bytes] = (), *, hurried: bool = False) -> None:
        """Take events and decide, feeding the pieces: at rest, or `hurried` while a question is open."""
        connection, pieces = self.connection, deque(later)
        while True:
            event = connection.next_event()
            if isinstance(event, Signal):
                self.sent += connection.data_to_send()
                if event is Signal.NEED_DATA and pieces:
                    connection.receive_data(pieces.popleft())
                elif event is not Signal.SEND:
                    assert event is not Signal.PAUSED
                    return
                continue
            self.events.append(event)
            if connection.question is not event:
                continue
            self.sent += connection.data_to_send()
            if hurried and pieces and connection.wants_data and not isinstance(event, NOT_TO_BE_HURRIED):
                connection.receive_data(pieces.popleft())
            answer(connection, event, self.due)

    def taken(self) -> tuple[object, ...]:
        """What came of this step, which then is over; adjacent pieces of a message are one."""
        taken = self.sent, joined(self.events)
        self.sent, self.events = b"", []
        return taken


class Slow(Side):
    """The side that hears one octet at a time, and so knows what each reply is for (I3)."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.line = b""  # the present one, of commands
        self.answered = 0  # replies to it

    def hear(self, octets: bytes) -> None:
        for octet in octets:
            before = self.connection.state
            expected = len(self.connection.session.envelope.rcpt_to) if self.connection.session.lmtp else 1
            said, seen = len(self.sent), len(self.events)
            self.connection.receive_data(bytes([octet]))
            self.settle()
            replies = _replies_in(self.sent[said:])
            ended = any(isinstance(event, DataFinished) for event in self.events[seen:])
            if before is State.CLOSED:
                assert replies == 0  # I6
            elif before is State.DATA:
                self._count_answers(replies, expected if ended else 0)
            elif before in COMMANDS:
                self._count_replies(octet, replies)

    def _count_answers(self, replies: int, expected: int) -> None:
        """RFC 2033 §4.2: one for each recipient, unless the last word came before."""
        if self.connection.state is State.CLOSED:
            assert 0 < replies <= expected + 1  # the last word of a shutdown
        else:
            assert replies == expected
        self.line, self.answered = b"", 0

    def _count_replies(self, octet: int, replies: int) -> None:
        self.line = self.line[-1:] + bytes([octet])
        self.answered += replies
        if self.connection.state is State.CLOSED:
            assert self.answered <= 2  # a line that is far too long is told so, and then that this is enough
        elif self.line == CRLF:
            assert self.answered == 1
            self.line, self.answered = b"", 0
        else:
            assert self.answered <= 1


def _replies_in(octets: bytes) -> int:
    return sum(line[3:4] == b" " for line in octets.split(CRLF))


# --- the machine --------------------------------------------------------------------------------


class Conversations(RuleBasedStateMachine):
    """Conversations, one behind the other."""

    def __init__(self) -> None:
        super().__init__()
        FIGURES["examples"] += 1
        self.sides: tuple[Side, Slow]
        self.header = b""
        self.steps = 0

    # --- beginnings -----------------------------------------------------------------------------

    @initialize(fields=beginnings, ask=st.booleans())
    def begin(self, fields: Fields, ask: bool) -> None:
        FIGURES["conversations"] += 1
        self._count_step()
        self.again: tuple[Fields, bool] = fields, ask
        made = make_options(fields)
        how: dict[str, Any] = {
            "ask": OPTIONAL_QUESTIONS if ask else (), "entropy": ENTROPY, "tls_available": True,
            "remote": ("192.0.2.1", 4321),
        }  # fmt: skip
        self.sides = Side(CheckedConnection(made, **how)), Slow(Connection(made, **how))
        self.header = b""
        self.closings = 0
        for side in self.sides:
            side.settle()
        self._compare()

    def _count_step(self) -> None:
        self.steps += 1
        FIGURES["steps"] += 1

    def _is(self, *states: State) -> bool:
        return self.sides[0].connection.state in states

    @precondition(lambda self: self._is(State.CLOSED))
    @rule()
    def begin_anew(self) -> None:
        self.begin(*self.again)

    @precondition(lambda self: not self._is(State.CLOSED))
    @rule(decision=single_decisions)
    def the_application_will_decide(self, decision: tuple[type[Event], Any]) -> None:
        self._count_step()
        kind, given = decision
        for side in self.sides:
            side.due.setdefault(kind, []).append(given)

    # --- what is said ---------------------------------------------------------------------------

    @precondition(lambda self: self._is(*COMMANDS, State.DATA))
    @rule(places=places, more=st.booleans(), content=contents)
    def say_what_is_next(self, places: Iterable[int], more: bool, content: bytes) -> None:
        """What a good client would say here."""
        connection = self.sides[0].connection
        hello = LHLO if connection.options.lmtp else EHLO
        said = {
            State.GREETED: hello,
            State.READY: b"MAIL FROM:<a@x.test> SIZE=1\r\n" if more else b"MAIL FROM:<a@x.test>\r\n",
            State.AUTH: b"AHUAcA==\r\n",
            State.MAIL: b"RCPT TO:<b@y.test>\r\n",
            State.RCPT: b"RCPT TO:<c@y.test>\r\n" if more else b"DATA\r\n",
            State.DATA: content + b"\r\n.\r\n",
        }[connection.state]
        self._say(said, places)

    @precondition(lambda self: self._is(*COMMANDS, State.DATA))
    @rule(line=commands, places=places)
    def say_a_line(self, line: bytes, places: Iterable[int]) -> None:
        self._say(line, places)

    @precondition(lambda self: self._is(*COMMANDS, State.DATA))
    @rule(group=groups, places=places, hurried=st.booleans())
    def say_a_group(self, group: Lines, places: Iterable[int], hurried: bool) -> None:
        [lines] = in_lmtp([group]) if self.sides[0].connection.options.lmtp else [group]
        self._say(b"".join(lines), places, hurried=hurried)

    @precondition(lambda self: self._is(State.READY, State.AUTH))
    @rule(exchange=sasl_exchanges, places=places, hurried=st.booleans())
    def log_in(self, exchange: Lines, places: Iterable[int], hurried: bool) -> None:
        self._say(b"".join(exchange), places, hurried=hurried)

    @precondition(lambda self: self._is(State.DATA))
    @rule(octets=st.one_of(bodies, noise), places=places)
    def say_a_part_of_a_message(self, octets: bytes, places: Iterable[int]) -> None:
        self._say(octets, places)

    @precondition(lambda self: self._is(State.PROXY))
    @rule(octets=st.one_of(*[valid_proxy_headers] * 2, proxy_headers, noise), places=places)
    def name_the_client(self, octets: bytes, places: Iterable[int]) -> None:
        self._say(octets, places)

    @precondition(lambda self: self._is(*COMMANDS))
    @rule(places=places)
    def start_tls(self, places: Iterable[int]) -> None:
        self._say(STARTTLS, places)

    @precondition(lambda self: self._may_start_tls())
    @rule(behind=st.one_of(noise, command_lines))
    def hide_octets_behind_starttls(self, behind: bytes) -> None:
        self._count_step()
        for side in self.sides:
            side.settle([STARTTLS + (behind or b"x")])
            assert not any(isinstance(event, NeedsStartTLS) for event in side.events)  # I7
            assert side.connection.state is State.CLOSED
        self._compare()

    def _may_start_tls(self) -> bool:
        connection = self.sides[0].connection
        return (
            self._is(*COMMANDS - {State.AUTH})
            and not connection.line_pending
            and not connection.session.secure
            and "STARTTLS" not in connection.options.absent_commands
        )

    # --- what befalls a connection ----------------------------------------------------------------

    @precondition(lambda self: not self._is(State.CLOSED))
    @rule(end=st.sampled_from(sorted(ENDS)))
    def come_to_an_end(self, end: str) -> None:
        self._count_step()
        for side in self.sides:
            ENDS[end](side.connection)
            side.settle()
        self._compare()

    @precondition(lambda self: not self._is(State.CLOSED))
    @rule(misuse=st.sampled_from(sorted(MISUSES)))
    def be_misused(self, misuse: str) -> None:
        self._count_step()
        for side in self.sides:
            with pytest.raises(LocalProtocolError):
                MISUSES[misuse](side.connection)
            side.settle()
        self._compare()

    @precondition(lambda self: self._is(State.CLOSED))
    @rule(octets=st.one_of(commands, noise), end=st.sampled_from(sorted(ENDS)))
    def go_on_behind_the_end(self, octets: bytes, end: str) -> None:  # I6
        self._count_step()
        for side in self.sides:
            side.connection.receive_data(octets)
            ENDS[end](side.connection)
            assert side.connection.next_event() is Signal.CLOSED
            assert side.connection.data_to_send() == b""

    # --- behind each step -------------------------------------------------------------------------

    def _say(self, octets: bytes, places: Iterable[int], *, hurried: bool = False) -> None:
        self._count_step()
        FIGURES["octets"] += len(octets)
        quick, slow = self.sides
        for part in self._parted(octets):
            quick.settle(cut(part, places), hurried=hurried)
            slow.hear(part)
        self._compare()

    def _parted(self, octets: bytes) -> list[bytes]:
        """Parted behind a PROXY header: what follows it is another layer's."""
        if not self._is(State.PROXY):
            return [octets]
        before = len(self.header)
        self.header += octets
        if self.header.startswith(SIGNATURE) and len(self.header) >= 16:
            end = 16 + int.from_bytes(self.header[14:16], "big")
        else:
            end = self.header.find(CRLF) + 2 or len(self.header)
        return [octets[: end - before], octets[end - before :]]

    def _compare(self) -> None:
        """I1, I2 and I16: the same outcome, and the same facts for whatever comes next."""
        quick, slow = self.sides
        self.closings += sum(isinstance(event, ConnectionClosed) for event in quick.events)
        assert self.closings == self._is(State.CLOSED)
        assert quick.taken() == slow.taken()
        assert final_state(quick.connection) == final_state(slow.connection)

    def teardown(self) -> None:
        """The application goes away, and takes what is left."""
        FIGURES["examples of 50 steps"] += self.steps == STEPS
        for side in self.sides if hasattr(self, "sides") else ():
            side.connection.connection_lost()
            side.settle()
            if isinstance(side.connection, CheckedConnection):
                side.connection.finish()


TestConversations = Conversations.TestCase
pytest.mark.timeout(600)(TestConversations)  # a failure is shrunk before it is told
TestConversations.settings = settings(
    max_examples=100,
    stateful_step_count=STEPS,
    suppress_health_check=UNCHECKED,
    report_multiple_bugs=False,
)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Play so many examples, other ones each time.")
    parser.add_argument("examples", type=int)
    examples = parser.parse_args().examples
    began = time.monotonic()
    run_state_machine_as_test(
        Conversations,
        settings=settings(
            max_examples=examples, stateful_step_count=STEPS, deadline=None, database=None,
            suppress_health_check=UNCHECKED, report_multiple_bugs=False,
        ),
        _min_steps=STEPS,
    )  # fmt: skip
    figures = [*FIGURES.items(), ("seconds", round(time.monotonic() - began))]
    sys.stdout.write("".join(f"{name}: {number}\n" for name, number in figures))
