# Running a coroutine hook step by step, and telling one from a plain one.

from __future__ import annotations

import asyncio
import functools
from types import coroutine
from typing import TYPE_CHECKING, Any

import pytest

from smtpproto_server import is_coroutine_function, run_flushing

if TYPE_CHECKING:
    from collections.abc import Generator


@coroutine
def trap(value: object) -> Generator[object, Any, Any]:
    return (yield value)


class Run:
    """A hook under run_flushing, stepped by hand."""

    def __init__(self, hook: Any) -> None:
        self.flushed = 0
        self.steps: Any = run_flushing(hook, self.flush)

    def flush(self) -> None:
        self.flushed += 1


def test_a_hook_that_waits_for_nothing_is_not_flushed_for() -> None:
    async def hook() -> str:
        return "done"

    run = Run(hook())
    with pytest.raises(StopIteration) as end:
        next(run.steps)
    assert (end.value.value, run.flushed) == ("done", 0)


def test_a_hook_that_waits_is_flushed_for_once_and_gets_what_it_waits_for() -> None:
    async def hook() -> list[Any]:
        return [await trap("a"), await trap("b")]

    run = Run(hook())
    assert next(run.steps) == "a"
    assert run.flushed == 1
    assert run.steps.send(1) == "b"
    with pytest.raises(StopIteration) as end:
        run.steps.send(2)
    assert (end.value.value, run.flushed) == ([1, 2], 1)


def test_what_is_thrown_in_reaches_the_hook_which_may_go_on() -> None:
    async def hook() -> str:
        try:
            await trap("a")
        except asyncio.CancelledError:
            await trap("cleaning up")
        return "done"

    run = Run(hook())
    next(run.steps)
    assert run.steps.throw(asyncio.CancelledError()) == "cleaning up"
    with pytest.raises(StopIteration):
        run.steps.send(None)


@pytest.mark.parametrize("first", [True, False])
def test_what_the_hook_raises_comes_out(first: bool) -> None:
    async def hook() -> None:
        if not first:
            await trap("a")
        raise KeyError("x")

    run = Run(hook())
    with pytest.raises(KeyError):
        list(run.steps)


def test_closing_closes_the_hook() -> None:
    closed: list[int] = []

    async def hook() -> None:
        try:
            await trap("a")
        finally:
            closed.append(1)

    run = Run(hook())
    next(run.steps)
    run.steps.close()
    assert closed == [1]


async def coloured(*_: object) -> None: ...


def plain(*_: object) -> None: ...


class Callable:
    async def __call__(self) -> None: ...

    async def method(self) -> None: ...


@pytest.mark.parametrize(
    ("hook", "expected"),
    [
        (coloured, True),
        (plain, False),
        (functools.partial(coloured, 1), True),
        (functools.partial(functools.partial(coloured, 1), 2), True),
        (functools.partial(plain, 1), False),
        (Callable(), True),
        (Callable().method, True),
        (Callable, False),
        (print, False),
    ],
)
def test_coroutine_functions_are_told_from_plain_ones(hook: Any, expected: bool) -> None:
    assert is_coroutine_function(hook) is expected
