# A connection in a runtime that has coroutines: its steps are taken, and its hooks called, in one.
#
# No runtime is imported here. What an adapter adds is how to wait for its socket and what a call of
# a hook looks like from outside: limits, cancellation, threads.

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

from smtpproto_server._effects import NOT_NOW, PULL, Failed
from smtpproto_server._peer import READ_TWICE, Peer, ServerT, Wait
from smtpproto_server._steps import carry_on, run_flushing, trapped, without_stop_iteration
from smtpproto_server._stream import AsyncStream, Stream

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Coroutine, Generator

    from smtpproto_server._effects import Ask, Outcome
    from smtpproto_server._loop import Serving
    from smtpproto_server._peer import Step
    from smtpproto_server._stream import MessageBody

__all__ = ["ColouredPeer"]


class ColouredPeer(Peer[ServerT]):
    """A connection whose waits and hooks are awaited."""

    __slots__ = ("_reader",)

    def __init__(self, server: ServerT, sock: socket.socket, serving: Serving) -> None:
        super().__init__(server, sock, serving)
        self._reader: Ask | None = None  # whose hook has, or has had, the message

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

    def in_hook(self) -> bool:
        """Whether it is surely a hook itself that asks, and not a task of its own."""
        return False

    # --- what it may call -------------------------------------------------------------------------

    def begin_at_once(self, ask: Ask) -> Any:
        """Take a hook's first step where the connection stands: `call_at_once`, if a runtime allows it."""
        if self.lost:
            return NOT_NOW
        if ask.body is not None:
            self._reader = ask
        return self.begin_hook(ask)

    def deliver_at_once(self, data: bytes) -> Any:
        """The hook that pulls goes on where the connection stands."""
        ask = self._reader
        if ask is None or ask.begun is None or ask.trap is not PULL:
            return NOT_NOW
        begun, ask.begun = ask.begun, None
        return self.step_hook(ask, begun, data)

    def recall_hook(self, error: BaseException) -> bool:
        """Have the loop call the hook that pulls with an error; False if there is none."""
        reader = self._reader
        if reader is None or reader.begun is None:
            return False
        reader.thrown = error
        self.serving.recalled = self._woken = True
        return True

    def being_read(self) -> bool:
        """By the hook itself too."""
        reader = self._reader
        return (reader is not None and reader.begun is not None) or super().being_read()

    def begin_pull(self, body: MessageBody) -> object:
        """Not while the hook itself pulls."""
        reader = self._reader
        if self._asking is None and reader is not None and reader.body is body and reader.begun is not None:
            raise RuntimeError(READ_TWICE)
        return super().begin_pull(body)

    async def take(self, steps: Generator[Step, Any, Any], value: Any = None) -> Any:
        """Take steps to their end, beginning with what came of the one before; what they return."""
        while True:
            try:
                step = steps.send(value)
            except StopIteration as done:
                return done.value
            value = await (self.wait(step) if isinstance(step, Wait) else self.call(step))

    def next_chunk(self, body: MessageBody) -> Awaitable[bytes]:
        """What the stream of a coroutine hook has next; pulled by the hook itself, it is resumed with it."""
        if self.in_hook() and not self.being_read():
            return trapped(PULL)
        return self.pull_chunk(body)

    async def pull_chunk(self, body: MessageBody) -> bytes:
        """The same for a hook in any task: the steps up to the chunk are taken here."""
        pulling = self.begin_pull(body)
        try:
            chunk: bytes = await self.take(self.pull())
        finally:
            self.end_pull(pulling)
        return chunk

    def begin_hook(self, ask: Ask) -> Any:
        """Take a hook's first step: what it gives, a Failed, PULL, or NOT_NOW: `call_hook` then goes on.

        It runs where this is called, so the runtime must take that for the connection's own task.
        """
        hook, server, body = ask.hook, self.server, ask.body
        try:
            if server.is_coroutine(hook):
                args = ask.args
                if body is not None:
                    args = (AsyncStream(body, self.next_chunk, self.chunk_at_hand), *args)
                begun = hook(*args)
            elif body is None and server.options.sync_hooks == "inline":
                result = without_stop_iteration(hook, *ask.args)
                if not inspect.isawaitable(result):
                    return result
                begun = _awaiting(result)
            else:
                return NOT_NOW
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a hook raises is contained
            return Failed(error)
        return self.step_hook(ask, begun)

    def step_hook(self, ask: Ask, begun: Coroutine[Any, Any, Any], value: Any = None) -> Any:
        """The same for a further step."""
        try:
            trap = begun.send(value)
        except StopIteration as done:
            ask.begun = None
            return done.value
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 - as above
            ask.begun = None
            return Failed(error)
        ask.begun, ask.trap = begun, trap
        return PULL if trap is PULL else NOT_NOW

    async def call_hook(self, ask: Ask) -> Any:
        """Call a hook; what it raises is raised.

        A coroutine function runs here, a plain one in a thread, or here if the options say so.
        """
        if ask.begun is not None:
            begun, thrown = ask.begun, ask.thrown
            ask.begun = ask.thrown = None
            self.flush()
            result = await carry_on(begun, ask.trap, thrown)
            if result is PULL:
                ask.begun, ask.trap = begun, PULL
            return result
        hook, args, body = ask.hook, ask.args, ask.body
        if self.server.is_coroutine(hook):
            if body is not None:
                args = (AsyncStream(body, self.next_chunk, self.chunk_at_hand), *args)
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


async def _awaiting(result: Awaitable[Any]) -> Any:
    return await result
