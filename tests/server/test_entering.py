# Handlers that are context managers: which are entered and left, in which order, and what goes wrong.

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from server.scripted import ScriptedServer
from smtpproto_server import chain


class PlainOnly(ScriptedServer):
    coroutines = False


class Hooks:
    def on_mail_from(self, address: object, session: object) -> None: ...


class Plain(Hooks):
    """A context manager, which notes what it is told."""

    def __init__(
        self,
        notes: list[Any],
        name: str = "plain",
        fault: str = "",
        kind: type[BaseException] = ValueError,
    ) -> None:
        self.notes, self.name, self.fault, self.kind = notes, name, fault, kind

    def note(self, what: str, *args: object) -> None:
        self.notes.append((self.name, what, *args))
        if self.fault == what:
            raise self.kind(f"{self.name} {what}")

    def __enter__(self) -> None:
        self.note("enter")

    def __exit__(self, *args: object) -> None:
        self.note("exit", *args)


class Awaited(Plain):
    """Both kinds of a context manager."""

    async def __aenter__(self) -> None:
        self.note("aenter")

    async def __aexit__(self, *args: object) -> None:
        self.note("aexit", *args)


class OnlyAwaited(Hooks):
    async def __aenter__(self) -> None: ...
    async def __aexit__(self, *args: object) -> None: ...


def test_members_are_entered_in_order_and_left_in_reverse() -> None:
    notes: list[Any] = []
    server = PlainOnly(handler=chain(Plain(notes, "a"), Hooks(), chain(Plain(notes, "b"))))
    assert len(server.managers) == 2
    for _ in range(2):
        server.managers.enter()
        server.managers.enter()  # they are
        assert notes == [("a", "enter"), ("b", "enter")]
        server.managers.leave()
        server.managers.leave()
        nothing = (None, None, None)
        assert notes[2:] == [("b", "exit", *nothing), ("a", "exit", *nothing)]
        notes.clear()


def test_where_there_are_coroutines_both_kinds_are_entered_and_the_awaited_goes_first() -> None:
    notes: list[Any] = []
    server = ScriptedServer(handler=chain(Awaited(notes, "a"), Plain(notes, "b")))
    asyncio.run(server.managers.enter_awaiting(asyncio.to_thread))
    asyncio.run(server.managers.leave_awaiting(asyncio.to_thread))
    assert [each[:2] for each in notes] == [("a", "aenter"), ("b", "enter"), ("b", "exit"), ("a", "aexit")]


def test_where_there_are_none_the_plain_kind_is_taken() -> None:
    notes: list[Any] = []
    server = PlainOnly(handler=Awaited(notes))
    server.managers.enter()
    assert notes == [("plain", "enter")]


@pytest.mark.parametrize("handler", [OnlyAwaited(), chain(Hooks(), OnlyAwaited())])
def test_one_that_has_to_be_awaited_is_refused_where_nothing_can_be(handler: object) -> None:
    with pytest.raises(TypeError, match="OnlyAwaited has __aenter__; this runtime takes __enter__"):
        PlainOnly(handler=handler)
    assert len(ScriptedServer(handler=handler).managers) == 1


@pytest.mark.parametrize("handler", [None, Hooks(), chain(Hooks(), Hooks())])
def test_others_are_left_alone(handler: object) -> None:
    assert not ScriptedServer(handler=handler).managers


def test_when_one_cannot_be_entered_those_before_it_are_left() -> None:
    notes: list[Any] = []
    server = PlainOnly(handler=chain(Plain(notes, "a"), Plain(notes, "b", "enter"), Plain(notes, "c")))
    for _ in range(2):
        with pytest.raises(ValueError, match="b enter"):
            server.managers.enter()
        assert [each[:2] for each in notes] == [("a", "enter"), ("b", "enter"), ("a", "exit")]
        notes.clear()
        assert not server.managers.entered


def test_what_is_raised_on_leaving_is_reported_and_the_others_are_left() -> None:
    notes: list[Any] = []
    errors: list[tuple[str, dict[str, Any]]] = []
    server = PlainOnly(handler=chain(Plain(notes, "a"), Plain(notes, "b", "exit")))
    server.on("error", lambda error, info: errors.append((str(error), info)))
    server.managers.enter()
    server.managers.leave()
    assert [each[:2] for each in notes[2:]] == [("b", "exit"), ("a", "exit")]
    assert errors == [("b exit", {"stage": "hook", "session": None, "remote_address": ""})]


class Odd(BaseException):
    """As the CancelledError of a task that was cancelled and awaited."""


def test_also_after_what_is_no_exception_the_others_are_left() -> None:
    notes: list[Any] = []
    server = PlainOnly(handler=chain(Plain(notes, "a"), Plain(notes, "b", "exit", Odd), Plain(notes, "c")))
    for _ in range(2):
        server.managers.enter()
        with pytest.raises(Odd, match="b exit"):
            server.managers.leave()
        assert [each[:2] for each in notes[3:]] == [("c", "exit"), ("b", "exit"), ("a", "exit")]
        notes.clear()


def test_what_is_forgotten_is_not_left() -> None:
    notes: list[Any] = []
    server = PlainOnly(handler=Plain(notes))
    server.managers.enter()
    server.managers.forget()
    server.managers.leave()
    assert notes == [("plain", "enter")]
