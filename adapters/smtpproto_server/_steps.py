# Calls that follow one another, each depending on what came of those before.
#
# A generator gives what is to be called, and is sent the result or raised the error. So what it decides
# is written once, for runtimes that call and for those that await.

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    Steps: TypeAlias = Generator[Any, Any, Any]

__all__ = ["Steps", "plain_result", "take", "take_awaiting", "without_stop_iteration"]


def take(steps: Steps, call: Callable[[Any], Any]) -> Any:
    """Call what the steps give; what they return in the end."""
    value = error = None
    try:
        while True:
            step = steps.send(value) if error is None else steps.throw(error)
            value = error = None
            try:
                value = call(step)
            except BaseException as raised:  # noqa: BLE001 - the steps say whether it ends them
                error = raised
    except StopIteration as done:
        return done.value
    finally:
        del error  # its traceback holds this frame


async def take_awaiting(steps: Steps, call: Callable[[Any], Awaitable[Any]]) -> Any:
    """As `take`, and await each."""
    value = error = None
    try:
        while True:
            step = steps.send(value) if error is None else steps.throw(error)
            value = error = None
            try:
                value = await call(step)
            except BaseException as raised:  # noqa: BLE001 - the steps say whether it ends them
                error = raised
    except StopIteration as done:
        return done.value
    finally:
        del error  # its traceback holds this frame


def plain_result(name: str, hook: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Call a hook in a runtime without coroutines."""
    result = without_stop_iteration(hook, args)
    if inspect.iscoroutine(result):
        result.close()
        raise TypeError(f"{name} gave a coroutine; this runtime takes plain functions")
    return result


def without_stop_iteration(hook: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Call a plain hook. Its StopIteration would get lost on the way out of a coroutine or a thread."""
    try:
        return hook(*args)
    except StopIteration as stop:
        raise RuntimeError("the hook raised StopIteration") from stop
