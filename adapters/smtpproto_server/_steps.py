# Coroutine hooks, one step at a time.

from __future__ import annotations

import functools
import inspect
from types import coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

__all__ = ["is_coroutine_function", "run_flushing"]


@coroutine
def run_flushing(hook: Coroutine[Any, Any, Any], flush: Callable[[], None]) -> Generator[Any, Any, Any]:
    """Await a hook; call `flush` if it does not finish in its first step.

    A hook that has nothing to wait for then costs no write of its own: the replies before it go
    out together with its own. It works for every runtime, as it passes on what the hook yields.
    """
    try:
        trap = hook.send(None)
    except StopIteration as done:
        return done.value
    flush()
    while True:
        try:
            value = yield trap
        except GeneratorExit:
            hook.close()
            raise
        except BaseException as error:  # noqa: BLE001 - passed on, cancellation above all
            step = functools.partial(hook.throw, error)
        else:
            step = functools.partial(hook.send, value)
        try:
            trap = step()
        except StopIteration as done:
            return done.value


def is_coroutine_function(hook: Callable[..., Any]) -> bool:
    """True for what gives a coroutine when called, through partials and callable objects."""
    while isinstance(hook, functools.partial):
        hook = hook.func
    return inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(type(hook).__call__)
