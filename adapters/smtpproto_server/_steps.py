# Calling hooks: coroutine functions and plain ones, in the loop, in a thread or where we stand.

from __future__ import annotations

import functools
import inspect
from types import coroutine
from typing import TYPE_CHECKING, Any

from smtpproto_server._effects import Failed
from smtpproto_server._stream import AsyncStream, Stream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator

    from smtpproto_server._effects import Ask
    from smtpproto_server._peer import Peer
    from smtpproto_server._stream import MessageBody

__all__ = ["call_coloured", "call_plain", "is_coroutine_function", "plain_call", "run_flushing"]


async def call_coloured(
    peer: Peer[Any],
    ask: Ask,
    pull: Callable[[MessageBody], Awaitable[bytes]],
    in_thread: Callable[[Callable[[], Any]], Awaitable[Any]],
    pull_from_thread: Callable[[MessageBody], bytes],
) -> Any:
    """Call a hook in a runtime that has coroutines; what it raises is raised.

    A coroutine function runs here, a plain one in a thread, or here if the options say so.
    """
    hook, args, body = ask.hook, ask.args, ask.body
    if peer.server.is_coroutine(hook):
        if body is not None:
            args = (AsyncStream(body, functools.partial(pull, body)), *args)
        return await run_flushing(hook(*args), peer.flush)
    if body is None and not ask.lookup and peer.server.options.sync_hooks == "inline":
        result = hook(*args)  # Python itself makes a RuntimeError of StopIteration here
    else:
        peer.flush()
        if body is not None:
            args = (Stream(body, functools.partial(pull_from_thread, body)), *args)
        result = await in_thread(functools.partial(_without_stop_iteration, hook, *args))
    if inspect.isawaitable(result):
        peer.flush()
        return await result
    return result


def _without_stop_iteration(hook: Callable[..., Any], *args: Any) -> Any:
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
    return functools.partial(_without_stop_iteration, ask.hook, *args)


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
