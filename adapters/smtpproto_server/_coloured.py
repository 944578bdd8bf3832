# A connection in a runtime that has coroutines: its steps are taken, and its hooks called, in one.
#
# No runtime is imported here. What an adapter adds is how to wait for its socket and what a call of
# a hook looks like from outside: limits, cancellation, threads.

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

from smtpproto_server._peer import Peer, ServerT, Wait
from smtpproto_server._steps import run_flushing, without_stop_iteration
from smtpproto_server._stream import AsyncStream, Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from smtpproto_server._effects import Ask, Outcome
    from smtpproto_server._peer import Step
    from smtpproto_server._stream import MessageBody

__all__ = ["ColouredPeer"]


class ColouredPeer(Peer[ServerT]):
    """A connection whose waits and hooks are awaited."""

    __slots__ = ()

    # --- what the runtime does --------------------------------------------------------------------

    async def wait(self, step: Wait) -> Outcome | None:
        """Wait for the socket, until the step's deadline or `wake`: of the runtime's own."""
        raise NotImplementedError

    async def call(self, ask: Ask) -> Any:
        """`call_hook`, and what it raises as a Failed: of the runtime's own."""
        raise NotImplementedError

    async def in_thread(self, call: Callable[[], Any]) -> Any:
        """Call a plain function in a thread; raises what it raises: of the runtime's own."""
        raise NotImplementedError

    def pull_from_thread(self, body: MessageBody) -> bytes:
        """`next_chunk`, for a hook in a thread: of the runtime's own."""
        raise NotImplementedError

    # --- what it may call -------------------------------------------------------------------------

    async def take(self, steps: Generator[Step, Any, Any], value: Any = None) -> Any:
        """Take steps to their end, beginning with what came of the one before; what they return."""
        while True:
            try:
                step = steps.send(value)
            except StopIteration as done:
                return done.value
            value = await (self.wait(step) if isinstance(step, Wait) else self.call(step))

    async def next_chunk(self, body: MessageBody) -> bytes:
        """What the stream of a hook has next."""
        pulling = self.begin_pull(body)
        try:
            chunk: bytes = await self.take(self.pull())
        finally:
            self.end_pull(pulling)
        return chunk

    async def call_hook(self, ask: Ask) -> Any:
        """Call a hook; what it raises is raised.

        A coroutine function runs here, a plain one in a thread, or here if the options say so.
        """
        hook, args, body = ask.hook, ask.args, ask.body
        if self.server.is_coroutine(hook):
            if body is not None:
                args = (AsyncStream(body, functools.partial(self.next_chunk, body)), *args)
            return await run_flushing(hook(*args), self.flush)
        if body is None and not ask.lookup and self.server.options.sync_hooks == "inline":
            result = hook(*args)  # Python itself makes a RuntimeError of StopIteration here
        else:
            self.flush()
            if body is not None:
                args = (Stream(body, functools.partial(self.pull_from_thread, body)), *args)
            result = await self.in_thread(functools.partial(without_stop_iteration, hook, *args))
        if inspect.isawaitable(result):
            self.flush()
            return await result
        return result
