# The state machine's tables, entry by entry, and that the core is what they say.

from __future__ import annotations

from itertools import product

import pytest

from smtpproto import (
    ACCEPT,
    CLOSED,
    NEED_DATA,
    PAUSED,
    Accept,
    AuthRequested,
    Connection,
    NeedsStartTLS,
    NeedsTLS,
    ProtocolOptions,
)
from smtpproto import _catalogue as say
from smtpproto._state import (
    AFTER,
    BEFORE_GREETING,
    BEGIN,
    COMMANDS,
    IN_HANDSHAKE,
    IN_TRANSACTION,
    OUT_OF_ORDER,
    State,
    Step,
)
from smtpproto.testing import ENTROPY, TLS

OPTIONS = ProtocolOptions(
    name="mx.test", auth_optional=True, allow_insecure_auth=True, use_xclient=True,
    hide_enhancedstatuscodes=False,
)  # fmt: skip

STOP = (NEED_DATA, PAUSED, CLOSED)

# A line for each step that a client takes with a command.
SAID = {
    Step.HELLO: b"EHLO c.test\r\n",
    Step.AUTH: b"AUTH PLAIN\r\n",
    Step.MAIL: b"MAIL FROM:<a@x.test>\r\n",
    Step.RCPT: b"RCPT TO:<b@y.test>\r\n",
    Step.DATA: b"DATA\r\n",
    Step.RSET: b"RSET\r\n",
    Step.STARTTLS: b"STARTTLS\r\n",
    Step.XCLIENT: b"XCLIENT ADDR=192.0.2.7\r\n",
}
# How a client comes to each state in which it may say them.
WAY: dict[State, list[Step]] = {
    State.GREETED: [],
    State.READY: [Step.HELLO],
    State.MAIL: [Step.HELLO, Step.MAIL],
    State.RCPT: [Step.HELLO, Step.MAIL, Step.RCPT],
}


def settle(connection: Connection) -> bytes:
    """Answer what is asked, up to a handshake; return what was said."""
    said = b""
    while (event := connection.next_event()) not in STOP:
        said += connection.data_to_send()
        if connection.question is event and not isinstance(event, NeedsTLS | NeedsStartTLS):
            connection.decide(Accept(user="u") if isinstance(event, AuthRequested) else ACCEPT)
    return said + connection.data_to_send()


def connection_in(state: State) -> Connection:
    connection = Connection(OPTIONS, entropy=ENTROPY, tls_available=True)
    settle(connection)
    for step in WAY[state]:
        connection.receive_data(SAID[step])
        settle(connection)
    assert connection.state is state
    return connection


@pytest.mark.parametrize(("state", "step"), [*product(WAY, SAID)])
def test_a_command_takes_its_step_or_is_told_why_not(state: State, step: Step) -> None:
    connection = connection_in(state)
    connection.receive_data(SAID[step])
    reply = settle(connection)
    if step in AFTER[state]:
        assert connection.state is AFTER[state][step]
        assert reply[:1] in b"23"
    else:
        missing = say.HELO_FIRST if state is State.GREETED else OUT_OF_ORDER[step][state]
        assert reply == missing.encode(coded=True)
        assert connection.state is state


def test_every_command_has_a_step_or_an_answer_in_every_state() -> None:
    for state, step in product(COMMANDS - {State.GREETED}, SAID):
        assert (step in AFTER[state]) != (state in OUT_OF_ORDER.get(step, {}))


def test_the_states_of_commands_are_the_ones_a_client_can_come_to() -> None:
    assert set(WAY) == COMMANDS
    assert {State.MAIL, State.RCPT} == IN_TRANSACTION


def test_every_state_has_a_row_and_is_reached() -> None:
    reached = {*BEGIN.values(), *(state for row in AFTER.values() for state in row.values())}
    assert set(AFTER) == set(State) == reached | {State.CLOSED}


def test_every_step_leads_somewhere() -> None:
    assert {*BEGIN, *(step for row in AFTER.values() for step in row)} == set(Step)


def test_from_the_end_there_is_no_way() -> None:
    assert AFTER[State.CLOSED] == {}


def test_tls_always_leads_to_a_new_greeting_or_a_new_hello() -> None:
    for state in IN_HANDSHAKE:
        assert AFTER[state].keys() == {Step.HANDSHAKE}
    assert AFTER[State.UPGRADED] == {Step.APPROVED: State.GREETED}
    assert AFTER[AFTER[State.HANDSHAKE][Step.HANDSHAKE]] == {Step.GREETING: State.GREETED}


def test_only_a_recipient_leads_to_data() -> None:
    assert [state for state, row in AFTER.items() if Step.DATA in row] == [State.RCPT]
    assert [state for state, row in AFTER.items() if State.RCPT in row.values()] == [State.MAIL, State.RCPT]
    assert [state for state, row in AFTER.items() if State.MAIL in row.values()] == [State.READY]


def test_the_way_through_starttls() -> None:
    connection = connection_in(State.READY)
    connection.receive_data(SAID[Step.STARTTLS])
    settle(connection)
    states = [connection.state]
    connection.tls_established(TLS)
    states.append(connection.state)
    settle(connection)
    assert [*states, connection.state] == [State.UPGRADE, State.UPGRADED, State.GREETED]


@pytest.mark.parametrize(
    ("options", "state"),
    [
        ({"use_proxy": True}, BEGIN[Step.START_PROXY]),
        ({"use_proxy": True, "secure": True}, BEGIN[Step.START_PROXY]),
        ({"secure": True}, BEGIN[Step.START_TLS_FIRST]),
        ({"secure": True, "tls_upstream": True}, BEGIN[Step.START]),
        ({}, BEGIN[Step.START]),
    ],
)
def test_a_connection_begins_where_its_options_say(options: dict[str, bool], state: State) -> None:
    connection = Connection(ProtocolOptions(auth_methods=(), **options), tls_available=True)  # type: ignore[arg-type] # flags
    assert connection.state is state
    assert state in BEFORE_GREETING


@pytest.mark.parametrize(("secure", "step"), [(False, Step.HEADER), (True, Step.HEADER_TLS)])
def test_behind_a_proxy_header_comes_tls_or_the_client(*, secure: bool, step: Step) -> None:
    connection = Connection(ProtocolOptions(use_proxy=True, secure=secure), tls_available=True)
    connection.receive_data(b"PROXY UNKNOWN\r\n")
    while connection.question is None:
        connection.next_event()
    assert connection.state is AFTER[State.PROXY][step]


def test_an_exchange_and_a_message_lead_back_to_ready() -> None:
    connection = connection_in(State.READY)
    connection.receive_data(SAID[Step.AUTH] + b"*\r\n")
    settle(connection)
    assert connection.state is AFTER[State.AUTH][Step.AUTH_END] is State.READY
    connection = connection_in(State.RCPT)
    connection.receive_data(SAID[Step.DATA] + b".\r\n")
    settle(connection)
    assert connection.state is AFTER[State.DATA][Step.END_OF_DATA] is State.READY
