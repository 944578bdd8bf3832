# Whatever a hook raises that is not the runtime's own cancellation costs one reply: the client is told
# 451, the error is reported, and the session goes on.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from smtpproto import Reject
from smtpproto_kit import DATA, running

if TYPE_CHECKING:
    from collections.abc import Generator

    from smtpproto_kit import Runtime

    Hook = Generator[Any, Any, Any]

BROKEN = "451 4.3.0 Error: internal error, please try again later"


class Odd(BaseException):
    """Not an Exception."""


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "after a wait"])
@pytest.mark.parametrize("kind", [GeneratorExit, SystemExit, Odd], ids=lambda kind: kind.__name__)
def test_a_hook_that_ends_in_any_base_exception_has_failed(
    runtime: Runtime, kind: type[BaseException], waits: bool
) -> None:
    def on_vrfy(*_: object) -> Hook:
        if waits:
            yield runtime.pause(0)
        raise kind

    def on_data(stream: Any, _session: object) -> Hook:
        yield stream.read()
        raise kind

    with running(runtime, on_vrfy=on_vrfy, on_data=on_data) as server, server.client().greeted() as client:
        assert client.say("VRFY x") == BROKEN
        client.send(DATA + b"x\r\n.\r\n")
        assert [client.reply() for _ in range(4)][3] == BROKEN
        assert client.say("NOOP") == "250 2.0.0 OK"
        assert [type(error) for error, _ in server.errors] == [kind, kind]


class UntoldError(Exception):
    """It cannot be printed."""

    def __str__(self) -> str:
        raise ValueError("no text")


def test_an_exception_that_cannot_be_printed_is_an_error_like_others(runtime: Runtime) -> None:
    def on_vrfy(*_: object) -> Hook:
        yield runtime.pause(0)
        raise UntoldError

    with running(runtime, on_vrfy=on_vrfy) as server, server.client().greeted() as client:
        assert client.say("VRFY x") == BROKEN
        assert client.say("NOOP") == "250 2.0.0 OK"
        assert [type(error) for error, _ in server.errors] == [UntoldError]


def test_a_group_that_holds_one_reject_counts_as_that_reject(runtime: Runtime) -> None:
    def on_vrfy(*_: object) -> Hook:
        yield runtime.pause(0)
        raise ExceptionGroup("tasks", [ExceptionGroup("within", [Reject(550, "5.1.1", "Nobody")])])

    with running(runtime, on_vrfy=on_vrfy) as server, server.client().greeted() as client:
        assert client.say("VRFY x") == "550 5.1.1 Nobody"
        assert not server.errors
