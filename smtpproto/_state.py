# The state machine.
#
# Which step leads from which state to which, and what a command is told in a state where it has
# no step. This file has never seen an octet: it knows steps and states, not spelling. The picture
# in the documentation is drawn from these tables.

from __future__ import annotations

from enum import Enum, unique
from typing import TYPE_CHECKING, Final

from smtpproto import _catalogue as say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from smtpproto._reply import Reply

__all__ = ["AFTER", "OUT_OF_ORDER", "State", "Step"]


@unique
class State(Enum):
    """Where a connection stands."""

    PROXY = "a PROXY header is awaited"
    HANDSHAKE = "implicit TLS: the first handshake"
    ARRIVED = "connected, not greeted"
    GREETED = "greeted, HELO, EHLO or LHLO is awaited"
    READY = "a transaction may begin"
    AUTH = "within a SASL exchange"
    MAIL = "a sender was accepted"
    RCPT = "a recipient was accepted"
    DATA = "the message is coming in"
    UPGRADE = "STARTTLS: the handshake"
    UPGRADED = "TLS is up, not yet approved"
    CLOSED = "the end"


@unique
class Step(Enum):
    """What moves a connection from state to state."""

    START = "connected"
    START_PROXY = "connected, PROXY expected"
    START_TLS_FIRST = "connected, implicit TLS"
    HEADER = "PROXY header"
    HEADER_TLS = "PROXY header, implicit TLS"
    HANDSHAKE = "handshake done"
    GREETING = "220 greeting"
    HELLO = "HELO EHLO LHLO"
    AUTH = "AUTH"
    AUTH_END = "235, or a refusal"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA, 354"
    END_OF_DATA = "end of data"
    RSET = "RSET"
    STARTTLS = "STARTTLS, 220"
    APPROVED = "approved"
    XCLIENT = "XCLIENT"


# Members are looked up for every command, and Enum's own hash is Python code.
State.__hash__ = Step.__hash__ = object.__hash__  # type: ignore[method-assign] # the point

# Beginnings have no state to come from.
BEGIN: Final[Mapping[Step, State]] = {
    Step.START: State.ARRIVED,
    Step.START_PROXY: State.PROXY,
    Step.START_TLS_FIRST: State.HANDSHAKE,
}

# CLOSED is reached from everywhere (QUIT, 421, the end of the input) and left to nowhere.
AFTER: Final[Mapping[State, Mapping[Step, State]]] = {
    State.PROXY: {Step.HEADER: State.ARRIVED, Step.HEADER_TLS: State.HANDSHAKE},
    State.HANDSHAKE: {Step.HANDSHAKE: State.ARRIVED},
    State.ARRIVED: {Step.GREETING: State.GREETED},
    State.GREETED: {
        Step.HELLO: State.READY,
        Step.RSET: State.GREETED,
        Step.STARTTLS: State.UPGRADE,
        Step.XCLIENT: State.GREETED,
    },
    State.READY: {
        Step.HELLO: State.READY,
        Step.AUTH: State.AUTH,
        Step.MAIL: State.MAIL,
        Step.RSET: State.READY,
        Step.STARTTLS: State.UPGRADE,
        Step.XCLIENT: State.GREETED,
    },
    State.AUTH: {Step.AUTH_END: State.READY},
    State.MAIL: {
        Step.RCPT: State.RCPT,
        Step.HELLO: State.READY,
        Step.RSET: State.READY,
        Step.STARTTLS: State.UPGRADE,
    },
    State.RCPT: {
        Step.RCPT: State.RCPT,
        Step.DATA: State.DATA,
        Step.HELLO: State.READY,
        Step.RSET: State.READY,
        Step.STARTTLS: State.UPGRADE,
    },
    State.DATA: {Step.END_OF_DATA: State.READY},
    State.UPGRADE: {Step.HANDSHAKE: State.UPGRADED},
    State.UPGRADED: {Step.APPROVED: State.GREETED},  # RFC 3207 §4.2: EHLO again
    State.CLOSED: {},
}

# Where a command has no step above, this is what it is told. (GREETED has its own answers:
# HELO_NEEDED below, asked before a command's own checks.)
OUT_OF_ORDER: Final[Mapping[Step, Mapping[State, Reply]]] = {
    Step.MAIL: {State.MAIL: say.NESTED_MAIL, State.RCPT: say.NESTED_MAIL},
    Step.RCPT: {State.READY: say.NEED_MAIL},
    Step.DATA: {State.READY: say.NEED_RCPT, State.MAIL: say.NEED_RCPT},
    Step.AUTH: {State.MAIL: say.IN_TRANSACTION, State.RCPT: say.IN_TRANSACTION},
    Step.XCLIENT: {State.MAIL: say.IN_TRANSACTION, State.RCPT: say.IN_TRANSACTION},
}

IN_TRANSACTION: Final = frozenset({State.MAIL, State.RCPT})
COMMANDS: Final = frozenset({State.GREETED, State.READY, State.MAIL, State.RCPT})
BEFORE_GREETING: Final = frozenset({State.PROXY, State.HANDSHAKE, State.ARRIVED})
IN_HANDSHAKE: Final = frozenset({State.HANDSHAKE, State.UPGRADE})
