# Calling hooks: what coroutine functions and plain ones need, wherever they are called.

from __future__ import annotations

import functools
import inspect
from types import coroutine
from typing import TYPE_CHECKING, Any

from smtpproto_server._effects import PULL, Failed
from smtpproto_server._stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from smtpproto_server._effects import Ask
    from smtpproto_server._stream import MessageBody

__all__ = [
    "call_plain",
    "carry_on",
    "is_coroutine_function",
    "plain_call",
    "run_flushing",
    "trapped",
    "without_stop_iteration",
]


def without_stop_iteration(hook: Callable[..., Any], *args: Any) -> Any:
    """Call a hook. Its StopIteration would get lost on the way out of a thread: a future takes none."""
    try:
        return hook(*args)
    except StopIteration as stop:
        raise RuntimeError("the hook raised StopIteration") from stop


def plain_call(ask: Ask, pull: Callable[[MessageBody], bytes]) -> Callable[[], Any]:
    """The call of a hook in a runtime without coroutines, for `call_plain`, now or later."""
    body, args = ask.body, ask.args
    if body is not None:
        args = (Stream(body, functools.partial(pull, body)), *args)
    return functools.partial(without_stop_iteration, ask.hook, *args)


def call_plain(name: str, call: Callable[[], Any], ends: tuple[type[BaseException], ...] = ()) -> Any:
    """Call a hook in a runtime without coroutines; what it raises comes back as a Failed.

    `ends` are what the runtime itself raises in a hook, to end it.
    """
    try:
        result = call()
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except ends:
        raise
    except BaseException as error:  # noqa: BLE001 - whatever a hook raises is contained
        return Failed(error)
    if inspect.iscoroutine(result):
        result.close()
        return Failed(TypeError(f"{name} gave a coroutine; this runtime takes plain functions"))
    return result


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
    return (yield from _steps(hook, trap, None))


@coroutine
def carry_on(
    hook: Coroutine[Any, Any, Any], trap: Any, error: BaseException | None = None
) -> Generator[Any, Any, Any]:
    """Await a hook that has taken its first step: it waits for `trap`, or is thrown `error` there."""
    return (yield from _steps(hook, trap, error))


def _steps(
    hook: Coroutine[Any, Any, Any], trap: Any, error: BaseException | None
) -> Generator[Any, Any, Any]:
    """Pass on what a hook waits for and what came of it; what it returns, or PULL when it wants that."""
    value: Any = None
    while True:
        if error is None:
            try:
                value = yield trap
            except GeneratorExit:
                hook.close()
                raise
            except BaseException as raised:  # noqa: BLE001 - passed on, cancellation above all
                error = raised
        try:
            trap = hook.send(value) if error is None else hook.throw(error)
        except StopIteration as done:
            return done.value
        if trap is PULL:
            return PULL
        error = None


@coroutine
def trapped(trap: Any) -> Generator[Any, Any, Any]:
    """Await what is meant for whoever takes the hook's steps."""
    return (yield trap)


def is_coroutine_function(hook: Callable[..., Any]) -> bool:
    """True for what gives a coroutine when called, through partials and callable objects."""
    while isinstance(hook, functools.partial):
        hook = hook.func
    return inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(type(hook).__call__)
