# Context variables: what a hook sets is there for the later hooks of its connection, and for no others.

from __future__ import annotations

from contextvars import ContextVar
from itertools import cycle
from typing import TYPE_CHECKING, Any, Final

import pytest

from smtpproto_kit import DATA, running, wait_until
from smtpproto_kit.cases._colours import Gate, native, plain, replies

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from smtpproto_kit import Runtime

    Hook = Generator[Any, Any, Any]
    Trail = tuple[str, ...]

TRAIL: Final[ContextVar[tuple[str, ...]]] = ContextVar("TRAIL")
CALLED: Final = (
    "on_connect", "on_secure", "on_helo", "on_auth", "on_mail_from", "on_rcpt_to", "on_data_start", "on_data",
    "on_vrfy", "on_close",
)  # fmt: skip
COLOURS: Final = {
    "native": [native],
    "plain": [plain],
    "native and plain": [native, plain],
    "plain and native": [plain, native],
}


def hook(name: str, closed: dict[str, Trail]) -> Callable[..., Hook]:
    """Adds its name to the trail of its session; the last hook keeps it."""

    def steps(*args: Any) -> Hook:
        session = args[-1]
        if name == "on_connect":
            assert TRAIL.get(()) == ()
            TRAIL.set((session.id,))
        if name == "on_data":
            TRAIL.set((*TRAIL.get(), "reads"))
            yield args[0].read()
        TRAIL.set((*TRAIL.get(), name))
        if name == "on_close":
            closed[session.id] = TRAIL.get()
        return name == "on_auth" or None

    return steps


@pytest.mark.parametrize("colours", COLOURS.values(), ids=COLOURS)
@pytest.mark.parametrize("sync_hooks", ["thread", "inline"])
def test_what_a_hook_sets_is_seen_by_later_ones_of_its_connection_alone(
    runtime: Runtime, colours: list[Any], sync_hooks: str
) -> None:
    closed: dict[str, Trail] = {}
    hooks: dict[str, Any] = {
        name: colour(hook(name, closed)) for name, colour in zip(CALLED, cycle(colours), strict=False)
    }
    with running(runtime, sync_hooks=sync_hooks, **hooks) as server:
        for _ in range(2):  # threads that are used again
            with server.client().greeted() as one, server.client().greeted() as other:
                for client in (one, other):
                    client.say("STARTTLS")
                    client.start_tls()
                for line in ("EHLO a", "AUTH PLAIN AHUAcA==", "MAIL FROM:<a@x>", "RCPT TO:<b@y>", "DATA"):
                    assert one.say(line)[0] == other.say(line)[0] in "23"
                for client in (one, other):
                    client.say("x\r\n.", "VRFY b", "QUIT")
        wait_until(lambda: len(closed) == 4)
    called = ("on_connect", "on_helo", "on_secure", *CALLED[2:7], "reads", *CALLED[7:])
    assert closed == {session: (session, *called) for session in closed}


@pytest.mark.parametrize("colour", [native, plain])
def test_a_hook_that_raises_has_set_what_it_has_set(runtime: Runtime, colour: Any) -> None:
    seen: list[Trail] = []

    def on_mail_from(*_: object) -> Hook:
        yield
        TRAIL.set(("before",))
        raise ValueError

    def on_vrfy(*_: object) -> Hook:
        yield
        seen.append(TRAIL.get())

    with (
        running(runtime, on_mail_from=colour(on_mail_from), on_vrfy=on_vrfy) as server,
        server.client().greeted() as client,
    ):
        assert client.say("MAIL FROM:<a@x.test>").startswith("451")
        client.say("VRFY a")
    assert seen == [("before",)]


def test_a_hook_that_was_given_up_and_still_runs_stops_no_later_one(runtime: Runtime) -> None:
    gate = Gate(runtime, plain)
    seen: list[Trail] = []

    def on_connect(*_: object) -> Hook:
        yield
        TRAIL.set(("first",))

    def on_mail_from(*_: object) -> Hook:
        yield from gate.passed()

    def notes(*_: object) -> Hook:
        yield
        seen.append(TRAIL.get())

    hooks: dict[str, Any] = {
        "on_connect": plain(on_connect),
        "on_mail_from": plain(on_mail_from),
        "on_helo": plain(notes),
        "on_close": plain(notes),
    }
    with running(runtime, hook_timeout=0.2, **hooks) as server:
        with server.client().greeted() as client:
            client.send(DATA)
            assert [reply[:3] for reply in replies(client, 3)] == ["451", "503", "503"]
            client.say("HELO again")
        wait_until(lambda: len(seen) == 3)
        gate.open()
    assert seen == [("first",)] * 3
