"""Tests for what is built on smtpproto, with the means by which smtpproto itself is tested.

Needs the extra `testing`: `pip install 'smtpproto-server[testing]'`. The strategies for Hypothesis
are in `smtpproto.testing.strategies`.
"""

from __future__ import annotations

from smtpproto.testing._check_server import check_server
from smtpproto.testing._checked import INVARIANTS, CheckedConnection, InvariantBroken
from smtpproto.testing._conversation import (
    ENTROPY,
    TLS,
    Outcome,
    converse,
    cuts,
    drive,
    final_state,
    message,
    octets,
    play,
    settle,
    split_replies,
)
from smtpproto.testing._endpoint import Client, ConnectionEndpoint, Endpoint
from smtpproto.testing._handler import HandlerFault, check_handler, fuzz_handler
from smtpproto.testing._loop import MemoryConnection, MemoryServer
from smtpproto.testing._visits import FAULTS, Mail, Visit

__all__ = [
    "ENTROPY", "FAULTS", "INVARIANTS", "TLS", "CheckedConnection", "Client", "ConnectionEndpoint", "Endpoint",
    "HandlerFault", "InvariantBroken", "Mail", "MemoryConnection", "MemoryServer", "Outcome", "Visit",
    "check_handler", "check_server", "converse", "cuts", "drive", "final_state", "fuzz_handler", "message",
    "octets", "play", "settle", "split_replies",
]  # fmt: skip
