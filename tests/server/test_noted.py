# What comes from outside while the engine or a hook is on the stack is only noted, and applied after.

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest

from server.scripted import DOWN, TIMEOUT, Asked, Play, Scripted, hook, waiting
from smtpproto import ACCEPT, ProtocolOptions, Signal
from smtpproto.extending import Engine
from smtpproto_anyio._server import Connection as OnAnyio
from smtpproto_asyncio._server import Connection as OnAsyncio
from smtpproto_blocking._server import Connection as OnBlocking
from smtpproto_gevent._server import Connection as OnGevent
from smtpproto_server._calls import Calls
from smtpproto_server._octets import Octets
from smtpproto_server.adapting import Driver, SocketDriver

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from smtpproto import Accept, Address, Event

NOOP: Final = b"250 2.0.0 OK\r\n"

OUTSIDE: Final[Mapping[str, Callable[[Scripted], object]]] = {
    "nothing": lambda _: None,
    "octets": lambda driver: driver.received(b"NOOP\r\n"),
    "the end of input": lambda driver: driver.received(b""),
    "lost": lambda driver: driver.lose(),
    "lost with an error": lambda driver: driver.lose(ConnectionResetError("reset")),
    "room": lambda driver: driver.room(),
    "stop": lambda driver: driver.stop(),
    "stop now": lambda driver: driver.stop(now=True),
    "abort": lambda driver: driver.abort(),
    "the alarm": lambda driver: driver.ring(),
    "a hook of long ago": lambda driver: driver.returned(object()),
    "going on": lambda driver: driver.go_on(),
}


class Probe:
    """Calls from outside, once, at a point of the stack; nothing may come of it there."""

    def __init__(self, outside: str) -> None:
        self.outside: str = outside
        self.play: Play | None = None
        self.reached: bool = False

    def __call__(self, *_: object) -> None:
        if self.play is None or self.reached:
            return
        self.reached = True
        driver = self.play.driver
        assert driver.running
        before = facts(driver)
        OUTSIDE[self.outside](driver)
        assert facts(driver) == before
        assert driver.running


def facts(driver: Scripted) -> list[Any]:
    """What a call from outside must not change while something runs."""
    return [
        driver.state, driver.asked, list(driver.events), list(driver.out), driver.buffer.at,
        driver.buffer.chunk, len(driver.buffer), driver.eof, driver.draining, driver.waits, driver.wire,
        driver.answer, driver.result, list(driver.session.envelope.rcpt_to), driver.transfer,
    ]  # fmt: skip


def at_once(probe: Probe) -> Callable[..., Any]:
    async def called(*_: object) -> None:
        probe()

    return called


def after_a_wait(probe: Probe) -> Callable[..., Any]:
    async def called(*_: object) -> None:
        await waiting(Asked(()))
        probe()

    return called


def reads(probe: Probe, number: int) -> Callable[..., Any]:
    """In on_data, after so many pieces."""

    async def on_data(stream: Any, _session: object) -> None:
        for _ in range(number):
            await stream.read(1000)
        probe()
        async for _ in stream:
            pass

    return on_data


def acting(name: str) -> Callable[[Probe], dict[str, Any]]:
    """Within what the runtime is asked to do."""

    def options(probe: Probe) -> dict[str, Any]:
        return {name: probe}

    return options


class Mechanism:
    server_first = False

    def __init__(self, probe: Probe, _session: object) -> None:
        self.probe = probe

    def step(self, _response: bytes | None) -> None:
        self.probe()
        raise KeyError("x")


POINTS: Final[Mapping[str, Callable[[Probe], dict[str, Any]]]] = {
    "on_mail_from at once": lambda probe: {"on_mail_from": at_once(probe)},
    "on_rcpt_to at once": lambda probe: {"on_rcpt_to": at_once(probe)},
    "on_data_start at once": lambda probe: {"on_data_start": at_once(probe)},
    "on_vrfy at once": lambda probe: {"on_vrfy": at_once(probe)},
    "on_mail_from later": lambda probe: {"on_mail_from": after_a_wait(probe)},
    "on_rcpt_to later": lambda probe: {"on_rcpt_to": after_a_wait(probe)},
    "on_vrfy later": lambda probe: {"on_vrfy": after_a_wait(probe)},
    "the beginning of a message": lambda probe: {"on_data": reads(probe, 0)},
    "a piece of a message": lambda probe: {"on_data": reads(probe, 1)},
    "the end of a message": lambda probe: {"on_data": reads(probe, 3)},
    "a plain hook inline": lambda probe: {"on_rcpt_to": probe, "sync_hooks": "inline"},
    "a mechanism": lambda probe: {
        "sasl_mechanisms": {"X-PROBE": partial(Mechanism, probe)},
        "auth_methods": ["X-PROBE"],
        "allow_insecure_auth": True,
    },
    "suspend": acting("suspend"),
    "send": acting("send"),
    "alarm": lambda probe: {"alarm": probe, "on_vrfy": hook, "hook_timeout": 5.0},
}
SAID: Final = (
    b"AUTH X-PROBE AAAA\r\n", b"VRFY x\r\n", b"MAIL FROM:<a@x>\r\n", b"RCPT TO:<b@y>\r\n", b"DATA\r\n",
    b"one\r\n", b"two\r\n", b".\r\n", b"MAIL FROM:<b@x>\r\nRSET\r\n",
)  # fmt: skip
TEXT: Final = frozenset({"on_data_start at once", "the beginning of a message", "a piece of a message"})
"""Points where a line of the client's is one of its message."""


def both(own: Callable[..., object], probe: Callable[[], object], *args: object) -> None:
    own(*args)
    probe()


def played(outside: str, point: str) -> tuple[Play, Probe, bytes]:
    """A session in which this comes from outside at that point; what was sent."""
    probe = Probe(outside)
    options = POINTS[point](probe)
    acts = {name: options.pop(name) for name in ("suspend", "send", "alarm") if name in options}
    options.setdefault("on_help", hook)
    play = Play(**options)
    for name, act in acts.items():
        own = getattr(play.driver, name)
        setattr(play.driver, name, partial(both, own, act))
    probe.play = play
    said = b""
    for each in (*SAID, b"HELP\r\n"):
        if "drop" not in play.driver.did and not play.driver.eof:
            said += play.say(each)
        for _ in range(10):
            if isinstance(play.driver.trap, Asked):
                said += play.answer()
    return play, probe, said


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("outside", OUTSIDE)
def test_what_comes_from_outside_is_noted_and_then_applied(outside: str, point: str) -> None:
    play, probe, said = played(outside, point)
    assert probe.reached
    _, _, undisturbed = played("nothing", point)
    driver = play.driver
    if outside in ("nothing", "room", "the alarm", "a hook of long ago", "going on"):
        assert said == undisturbed
    elif outside == "octets":
        assert said.count(NOOP) == (point not in TEXT)
    elif outside in ("lost", "lost with an error", "abort"):
        assert undisturbed.startswith(said)
    elif outside == "the end of input":
        assert driver.eof
    else:
        assert said.endswith(DOWN) or said == undisturbed + DOWN
    if "drop" not in driver.did:
        play.lose()
    play.ends()


def test_a_server_that_a_hook_stops_at_once_is_stopped() -> None:
    async def on_mail_from(*_: object) -> None:
        play.driver.stop(now=True)

    play = Play(on_mail_from=on_mail_from)
    assert play.say(b"MAIL FROM:<a@x.test>\r\n") == DOWN
    play.ends(lingers=True)


@pytest.mark.parametrize("number", range(1, 6))
@pytest.mark.parametrize("now", [True, False])
def test_what_the_fast_path_may_do_does_not_outlive_a_call_from_outside(number: int, now: bool) -> None:
    """However many plain lines lie ready: the next is not read before the stop was seen."""
    called = 0

    async def counts(*_: object) -> None:
        nonlocal called
        called += 1
        if called == number:
            play.driver.stop(now=now)

    play = Play(on_mail_from=counts, on_rcpt_to=counts)
    one = b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\nRSET\r\n"
    said = play.say(one * 10)
    assert said.endswith(DOWN)
    assert called == number
    play.ends(lingers=True)


class Hasty(Engine):
    """An engine that is called from outside within its first question."""

    def __init__(self, outside: Callable[[Engine], None]) -> None:
        self.outside: Callable[[Engine], None] = outside
        self.rcpts: int = 0
        super().__init__(ProtocolOptions(auth_optional=True, hide_enhancedstatuscodes=False))

    def ask_mail(self, address: Address) -> Accept:  # noqa: ARG002
        self.outside(self)
        return ACCEPT

    def ask_rcpt(self, address: Address) -> Accept:  # noqa: ARG002
        self.rcpts += 1
        return ACCEPT

    def put(self, event: Event) -> bool:
        if self.asked is event:
            self.decide(ACCEPT)
        return True


@pytest.mark.parametrize(
    ("outside", "said"),
    [
        (partial(Engine.shutdown, now=True), DOWN),
        (partial(Engine.timeout, kind="socket_timeout"), TIMEOUT),
        (Engine.connection_lost, b""),
    ],
)
def test_the_engines_own_fast_path_does_not_outlive_a_call_from_outside(
    outside: Callable[[Engine], None], said: bytes
) -> None:
    engine = Hasty(outside)
    for line in (b"", b"EHLO a\r\n", b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\n"):
        engine.data_to_send()
        engine.receive_data(line)
        while engine.advance() is Signal.SEND:
            engine.data_to_send()
    assert engine.advance() is Signal.CLOSED
    assert engine.data_to_send() == said
    assert engine.rcpts == 0


# --- names ------------------------------------------------------------------------------------------

QUESTIONS: Final = frozenset({
    "ask_mail", "ask_rcpt", "mechanism_failed", "message_begun", "message_content", "message_ended", "put",
    "start_timer", "stop_timer",
})  # fmt: skip
PYTHONS: Final = frozenset(
    {"__init__", "__slots__", "__doc__", "__module__", "__annotations__", "__weakref__"}
)


@pytest.mark.parametrize(
    "kind",
    [Octets, Calls, Driver, SocketDriver, OnAsyncio, OnAnyio, OnGevent, OnBlocking],
    ids=lambda kind: kind.__module__,
)
def test_only_what_the_engine_asks_is_overridden(kind: type[Driver]) -> None:
    """A runtime's `connection_lost` and the engine's were one, by accident, once."""
    theirs = {name for each in Engine.__mro__[:-1] for name in vars(each)}
    theirs |= {name for each in Engine.__mro__[:-1] for name in getattr(each, "__slots__", ())}
    own = {name for name in vars(kind) if not name.startswith("__")} | set(getattr(kind, "__slots__", ()))
    assert own & theirs - PYTHONS <= QUESTIONS


@pytest.mark.parametrize("kind", [OnAsyncio, OnAnyio, OnGevent, OnBlocking], ids=lambda kind: kind.__module__)
def test_no_attribute_of_one_floor_is_another_of_the_next(kind: type[Driver]) -> None:
    """Slots of the same name on two floors would be two attributes."""
    floors = [set(vars(each).get("__slots__", ())) for each in kind.__mro__]
    for number, floor in enumerate(floors):
        for below in floors[number + 1 :]:
            assert not floor & below
    assert not any("__dict__" in vars(each) for each in kind.__mro__[:-1])
