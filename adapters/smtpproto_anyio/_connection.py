# One connection on anyio: how to wait for its socket, and how to call a hook.
#
# One task serves the connection, and hooks run in it, one after the other in a cancel scope that is
# replaced when it has been used. A second task watches the socket, but only while a hook waits for
# something else.

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.lowlevel
from anyio import from_thread, to_thread

from smtpproto_server import ColouredPeer, Failed, Outcome

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Coroutine, Generator

    from anyio.abc import TaskGroup

    from smtpproto_anyio._server import SMTPServer
    from smtpproto_server import Ask, MessageBody, Serving, Step, Wait

__all__ = ["Connection"]

LAST_WORDS: Final = 5.0  # seconds that on_close may take when the connection was cancelled


class Connection(ColouredPeer["SMTPServer"]):
    """A connection in a task."""

    __slots__ = ("_busy", "_hook", "_limit", "_stepping", "_tasks", "_waiting_in", "_watched", "_watcher")

    def __init__(self, server: SMTPServer, sock: socket.socket, serving: Serving) -> None:
        super().__init__(server, sock, serving)
        self._tasks: TaskGroup | None = None
        self._waiting_in: anyio.CancelScope | None = None
        self._watcher: anyio.CancelScope | None = None
        self._watched: bool = False
        self._busy: bool = False
        self._stepping: bool = False
        self._hook: anyio.CancelScope | None = None
        self._limit: anyio.CancelScope | None = None

    async def serve(self) -> None:
        """Serve it to its end. Cancelled, it drops the client and tells the application."""
        steps = self.steps()
        try:
            async with anyio.create_task_group() as self._tasks:
                try:
                    await self._take_all(steps)
                except anyio.get_cancelled_exc_class():
                    self.lost = True
                    with anyio.move_on_after(LAST_WORDS, shield=True):
                        await self._take_all(steps, Outcome.LOST)
                    raise
                finally:
                    self._tasks.cancel_scope.cancel()
        except Exception as error:  # noqa: BLE001 - a fault of ours ends one session, not the server
            self.server.report(error, "socket", self.serving.session)
        finally:
            self.end()

    async def _take_all(self, steps: Generator[Step, Any, object], value: Outcome | None = None) -> None:
        while True:
            try:
                await self.take(steps, value)
            except BaseException as error:
                if isinstance(error, anyio.get_cancelled_exc_class()) and self.recall_hook(error):
                    value = None  # a hook that reads the message is to hear of it first
                    continue
                self._leave_scope(error)
                raise
            self._leave_scope()
            return

    # --- waiting ----------------------------------------------------------------------------------

    async def wait(self, step: Wait) -> Outcome | None:
        """In a cancel scope, which whatever happens cancels."""
        deadline = math.inf if step.deadline is None else step.deadline
        if deadline <= 0:  # the others are to have their turn
            await anyio.lowlevel.checkpoint()
            return Outcome.TIMED_OUT
        with anyio.CancelScope(deadline=deadline) as scope:
            self._waiting_in = scope
            try:
                if self._busy:  # somebody is on the way out, and wakes us
                    await anyio.sleep_forever()
                await self._at_socket(anyio.wait_writable if step.writing else anyio.wait_readable)
            finally:
                if self._waiting_in is scope:
                    self._waiting_in = None
                else:  # we were left behind by a hook, reading
                    self.wake()
        return Outcome.TIMED_OUT if scope.cancelled_caught and anyio.current_time() >= deadline else None

    async def _at_socket(self, ready: Callable[[socket.socket], Awaitable[None]]) -> None:
        # Never two at a time: anyio forgets the second when the first leaves late.
        self._busy = True
        try:
            await ready(self.sock)
        finally:
            self._busy = False

    def wake(self) -> None:
        """End the wait."""
        if self._waiting_in is not None:
            self._waiting_in.cancel()

    def begin_watch(self) -> None:
        """While a hook runs."""
        if self._watcher is None and self._tasks is not None:
            self._watcher = anyio.CancelScope()
            if not self._watched:
                self._start_watch(self._tasks, self._watcher)

    def end_watch(self) -> None:
        """No hook runs, or it reads the message."""
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None

    def _start_watch(self, tasks: TaskGroup, scope: anyio.CancelScope) -> None:
        self._watched = True
        tasks.start_soon(self._watch, tasks, scope, name="smtpproto watch")

    async def _watch(self, tasks: TaskGroup, scope: anyio.CancelScope) -> None:
        try:
            with scope, suppress(anyio.ClosedResourceError):
                # Cancelled before it began, it may find the connection's own task at the socket.
                while self.backlogged and not (self.lost or scope.cancel_called):
                    await self._at_socket(anyio.wait_writable)
                    self.write()
                while not scope.cancel_called and self.watch():
                    await self._at_socket(anyio.wait_readable)
        finally:
            self._watched = False
            self.wake()
        if self._watcher is scope:  # there is nothing more to see
            self._watcher = None
        elif self._watcher is not None:  # wanted again since
            self._start_watch(tasks, self._watcher)

    def release(self) -> None:
        """Take the socket from the loop."""
        anyio.notify_closing(self.sock)
        super().release()

    # --- hooks ------------------------------------------------------------------------------------

    def call_at_once(self, ask: Ask) -> Any:
        """In the hooks' cancel scope too."""
        self._enter_scope()
        return self.begin_at_once(ask)

    def step_hook(self, ask: Ask, begun: Coroutine[Any, Any, Any], value: Any = None) -> Any:
        """Nobody else comes to turn meanwhile."""
        self._stepping = True
        try:
            return super().step_hook(ask, begun, value)
        finally:
            self._stepping = False

    def in_hook(self) -> bool:
        """In a step that is taken at once."""
        return self._stepping

    async def call(self, ask: Ask) -> Any:
        """In the hooks' cancel scope."""
        scope = self._enter_scope()
        try:
            result = await self.call_hook(ask)
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # whatever a hook raises is contained, unless it is our own
            if not isinstance(error, Exception) and anyio.get_current_task().has_pending_cancellation():
                if self._leave_scope(error):
                    return None
                raise
            result = Failed(error)
        if scope.cancel_called:
            self._leave_scope()
        return result

    def _enter_scope(self) -> anyio.CancelScope:
        """What a hook enters, from its first step on, is then within."""
        if self._hook is None:
            self._hook = anyio.CancelScope().__enter__()
        return self._hook

    def _leave_scope(self, error: BaseException | None = None) -> bool | None:
        """True if `error` was of the scope's own making and ends here."""
        scope, self._hook = self._hook, None
        if scope is None:
            return None
        if error is None:
            return scope.__exit__(None, None, None)
        return scope.__exit__(type(error), error, error.__traceback__)

    def cancel_hook(self) -> None:
        """The hook runs in a scope of its own."""
        if self._hook is not None:
            self._hook.cancel()

    def set_limit(self, seconds: float | None) -> None:
        """By a task that sleeps: a deadline of the hook's own scope would not say why it is cancelled."""
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
        if seconds is not None and self._tasks is not None:
            self._limit = anyio.CancelScope()
            self._tasks.start_soon(self._time_out, self._limit, seconds, name="smtpproto limit")

    async def _time_out(self, scope: anyio.CancelScope, seconds: float) -> None:
        with scope:
            await anyio.sleep(seconds)
            self.interrupt(Outcome.TIMED_OUT)

    def pull_from_thread(self, body: MessageBody) -> bytes:
        """The event loop pulls, the thread waits."""
        return from_thread.run(self.pull_chunk, body, token=self.server.token)

    async def in_thread(self, call: Callable[[], Any]) -> Any:
        """In one of anyio's worker threads."""
        # In a box, as trio does not believe that a result may be awaitable.
        (result,) = await to_thread.run_sync(
            lambda: [call()], abandon_on_cancel=True, limiter=self.server.limiter
        )
        return result
