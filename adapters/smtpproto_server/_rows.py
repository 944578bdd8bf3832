# What a connection waits for, and the rows of the driver's tables.

from __future__ import annotations

from enum import Enum, unique
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from smtpproto import DataRequested

__all__ = ["Question", "Wait", "Waiting", "session_alone"]


@unique
class Wait(Enum):
    """What a connection waits for."""

    CLIENT = "octets of the client"
    HOOK = "a hook"
    ROOM = "the client to read what was sent"
    DELAY = "the end of early_talker_delay"
    LAST_REPLY = "the last reply to be sent"
    LINGER = "the client to read the last reply"
    PARTED = "on_close, after the socket was closed"


Wait.__hash__ = object.__hash__  # type: ignore[method-assign] # Enum's own is Python code


class Waiting(NamedTuple):
    """A row of the table of what a connection can wait for."""

    due: Callable[[Any], tuple[Any, float]]
    """What runs out next, and when."""
    run_out: Callable[[Any, Any], None]
    """What is done when that time has come."""


def session_alone(event: DataRequested) -> tuple[Any, ...]:
    return (event.session,)


class Question(NamedTuple):
    """A row of the table of questions: the hook, and what of the event it is called with."""

    hook: str
    arguments: Callable[[Any], tuple[Any, ...]] = session_alone
    ask: Callable[[Any, Any], None] | None = None
    """What is done in place of a call of the hook."""
