"""Tests for what is built on smtpproto, with the means by which smtpproto itself is tested.

Needs the extra `testing`: `pip install 'smtpproto-server[testing]'`. The strategies for Hypothesis
are in `smtpproto.testing.strategies`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

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
from smtpproto.testing._made import make_session

if TYPE_CHECKING:
    from smtpproto.testing._handler import HandlerFault, check_handler, fuzz_handler
    from smtpproto.testing._loop import MemoryConnection, MemoryServer
    from smtpproto.testing._visits import FAULTS, Mail, Visit

__all__ = [
    "ENTROPY", "FAULTS", "INVARIANTS", "TLS", "CheckedConnection", "Client", "ConnectionEndpoint", "Endpoint",
    "HandlerFault", "InvariantBroken", "Mail", "MemoryConnection", "MemoryServer", "Outcome", "Visit",
    "check_handler", "check_server", "converse", "cuts", "drive", "final_state", "fuzz_handler",
    "make_session", "message", "octets", "play", "settle", "split_replies",
]  # fmt: skip

# Hooks need the server loop, asyncio and Hypothesis. Who only plays conversations does not wait for
# them, and pytest can be told of Hypothesis before it is imported.
_LATER: Final = {
    "FAULTS": "_visits", "HandlerFault": "_handler", "Mail": "_visits", "MemoryConnection": "_loop",
    "MemoryServer": "_loop", "Visit": "_visits", "check_handler": "_handler", "fuzz_handler": "_handler",
}  # fmt: skip


if not TYPE_CHECKING:  # so that checkers know a name from a mistake

    def __getattr__(name: str) -> Any:
        """What is imported when it is asked for (PEP 562)."""
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
