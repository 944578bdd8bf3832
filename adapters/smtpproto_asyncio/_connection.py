# One connection on asyncio: how to wait for its socket, and how to call a hook.
#
# The transport's callbacks move the connection on, as long as nothing but its socket is waited for.
# A hook that waits for something else is awaited by the connection's task. In both a hook sees the
# same task and the same context.

from __future__ import annotations

import asyncio
import contextvars
import socket
from asyncio.tasks import _enter_task, _leave_task  # pyright: ignore[reportPrivateUsage] # documented: "Extending"
from functools import partial
from types import coroutine
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from smtpproto_server import Alarm, ColouredPeer, Failed, Outcome, Wait, trapped

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from smtpproto_asyncio._server import SMTPServer
    from smtpproto_server import Ask, MessageBody, Serving, Step

__all__ = ["Connection"]

NOTHING: Final = object()


class Connection(ColouredPeer["SMTPServer"], asyncio.BufferedProtocol):
    """A connection that its transport moves on, and a task for hooks that wait."""

    # Transports, as uvloop says nothing of a reset to those who watch a socket of their own.
    __slots__ = (
        "_alarm", "_calling", "_cancels", "_context", "_doomed", "_limit", "_loop", "_needed", "_over",
        "_paused", "_reading", "_standing", "_steps", "_transport", "_trap", "_waiter", "task",
    )  # fmt: skip

    pushed: ClassVar[bool] = True

    def __init__(self, server: SMTPServer, sock: socket.socket, serving: Serving) -> None:
        super().__init__(server, sock, serving)
        loop = self._loop = server.loop
        self._alarm: Alarm = Alarm(server.clock, server.call_later, self._rang)
        self._waiter: asyncio.Future[Outcome | None] | None = None
        self._transport: asyncio.Transport | None = None
        self._reading: bool = True
        self._paused: bool = False
        self._limit: asyncio.TimerHandle | None = None
        self._cancels: int = 0
        self._doomed: int = 0
        self._steps: Generator[Step, Any, object] = self.steps()
        self._standing: bool = False  # at a Wait, which a callback ends
        self._over: bool = False
        self._calling: Coroutine[Any, Any, Any] | None = None
        self._trap: Any = NOTHING  # what the hook waits for
        self._needed: asyncio.Future[None] | None = None
        self._context: contextvars.Context = contextvars.copy_context()
        self.task: asyncio.Task[None] = loop.create_task(
            self._serve(), name="smtpproto connection", context=self._context
        )

    # --- being moved on ---------------------------------------------------------------------------

    async def _serve(self) -> None:
        """Be there for what only a task can do: to begin, to await hooks, to be cancelled."""
        try:
            value: Any = None
            try:
                await self._loop.connect_accepted_socket(lambda: self, self.sock)
            except OSError as error:  # gone before we looked
                self.server.log.debug("a connection was lost at once: %r", error)
                self.lost = True
            except asyncio.CancelledError:
                value = self._note_cancel()
            self._go_on(value)
            while not self._over:
                self._needed = self._loop.create_future()
                try:
                    if self._trap is NOTHING:
                        await self._needed
                except asyncio.CancelledError as error:
                    self._cancelled(error)
                await self._await_hook()
        finally:
            self._alarm.cancel()
            self.end()
        if self._doomed:
            raise asyncio.CancelledError

    @coroutine
    def _await_hook(self) -> Generator[Any, Any, None]:
        while self._trap is not NOTHING:
            trap, self._trap = self._trap, NOTHING
            try:
                value = yield trap
            except GeneratorExit:  # the loop has gone
                if self._calling is not None:
                    self._calling.close()
                raise
            except BaseException as error:  # noqa: BLE001 - passed on, cancellation above all
                self._go_on(error=error)
            else:
                self._go_on(value)

    def _cancelled(self, error: asyncio.CancelledError) -> None:
        """While the socket was waited for, or before what a hook waits for could be."""
        trap, self._trap = self._trap, NOTHING
        if asyncio.isfuture(trap) and trap.cancel():
            self._trap = trap  # as a task does: whoever it belongs to learns of it, and then the hook
            return
        self._standing = False
        if self._calling is not None:  # by a hook that reads the message
            self._go_on(error=error)
        elif self.recall_hook(error):
            self._go_on()
        else:
            # Somebody else's wish: the loop is ending. What is left is telling the application.
            self._go_on(self._note_cancel())

    def _resume(self, value: Any = None) -> None:
        """Go on, in a callback of the loop."""
        if not self._standing:
            return
        self._standing = False
        loop, task = self._loop, self.task
        _enter_task(loop, task)
        try:
            self._context.run(self._go_on, value)
        finally:
            _leave_task(loop, task)
        if not self._standing and self._needed is not None and not self._needed.done():
            self._needed.set_result(None)

    def _go_on(self, value: Any = None, error: BaseException | None = None) -> None:
        """Take steps until the socket has to be waited for, or what a hook waits for, or all is over."""
        while True:
            calling = self._calling
            if calling is None:
                try:
                    step = self._steps.send(value)
                except StopIteration:
                    self._over = True
                    return
                if isinstance(step, Wait):
                    self._stand(step)
                    return
                calling = self._calling = self.call(step)
                value = None
            try:
                trap = calling.send(value) if error is None else calling.throw(error)
            except StopIteration as done:
                self._calling, value, error = None, done.value, None
                continue
            if trap is self._waiting:
                self._stand(trap)
            else:
                self._trap = trap
            return

    def _stand(self, step: Wait) -> None:
        self._standing = True
        self._expect(step)

    def _expect(self, step: Wait) -> None:
        """See to it that the wait ends at its deadline, and that octets come."""
        self._alarm.set(step.deadline)
        if not self._reading and not step.writing and self._transport is not None:
            self._reading = True
            self._transport.resume_reading()

    # --- what the transport calls -----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A stream protocol gets no other; uvloop's classes do not inherit from asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        # The system has it all when nothing is left here, so any octet that stays is a pause.
        self._transport.set_write_buffer_limits(0)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        # All connections of a server read into the same memory: between here and
        # buffer_updated nothing else runs.
        return self.server.read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.take_in(bytes(self.server.read_buffer[:nbytes]))
        if self.full() and self._reading and self._transport is not None:
            self._reading = False
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        self.eof = True
        self._wake()
        return True  # the client may still read

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.serving.fault = exc
        self.interrupt(Outcome.LOST)
        self._wake()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        # Not here: a transport that is closed by us now would be lost twice.
        self._loop.call_soon(self._wake)

    # --- the socket -------------------------------------------------------------------------------

    def read(self) -> None:
        """Nothing but what was pushed."""

    def more_to_come(self) -> bool:
        """Look: a turn of the loop only to find nothing costs more."""
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:  # the transport will tell
            return True
        return True

    def write(self) -> bool:
        """Give it all to the transport."""
        if self._rest and self._transport is not None and not self.closed:
            self._transport.write(self._rest)
            self._rest = b""
        return not self._paused

    def end_output(self) -> bool:
        """By the transport."""
        try:
            if self._transport is not None:
                self._transport.write_eof()
        except OSError:  # the peer was faster
            return False
        return True

    def release(self) -> None:
        """The transport closes the socket."""
        if self._transport is None:
            super().release()
        elif self._paused or self.lost:
            self._transport.abort()
        else:
            self._transport.close()

    # --- waiting ----------------------------------------------------------------------------------

    async def wait(self, step: Wait) -> Outcome | None:
        """In the callbacks; in a task of the hook's own by a future."""
        outcome: Outcome | None
        if asyncio.current_task(self._loop) is self.task:
            outcome = await trapped(step)
            return outcome
        self._expect(step)
        waiter = self._waiter = self._loop.create_future()
        try:
            outcome = await waiter
        finally:
            if self._waiter is waiter:
                self._waiter = None
        return outcome

    def wake(self) -> None:
        """End the wait, whoever calls this."""
        self._loop.call_soon(self._wake)

    def _rang(self) -> None:
        self._wake(Outcome.TIMED_OUT)

    def _wake(self, outcome: Outcome | None = None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(outcome)
        else:
            self._resume(outcome)

    # --- hooks ------------------------------------------------------------------------------------

    def call_at_once(self, ask: Ask) -> Any:
        """The connection's task has been entered."""
        return self.begin_at_once(ask)

    def in_hook(self) -> bool:
        """In the connection's own task."""
        return asyncio.current_task(self._loop) is self.task

    async def call(self, ask: Ask) -> Any:
        """In the connection's own task."""
        try:
            result = await self.call_hook(ask)
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a hook raises is contained
            # A CancelledError too, unless it is somebody's wish: then it is seen below.
            result = Failed(error)
        while self._cancels:  # our own, which have done their work
            self._cancels -= 1
            self.task.uncancel()
        return result if self.task.cancelling() == self._doomed else self._note_cancel()

    def _note_cancel(self) -> Outcome:
        self._doomed = self.task.cancelling()
        self.lost = True
        return Outcome.LOST

    def cancel_hook(self) -> None:
        """The hook runs in the connection's own task."""
        self._cancels += 1
        self.task.cancel()

    def set_limit(self, seconds: float | None) -> None:
        """By a timer of the loop."""
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
        if seconds is not None:
            self._limit = self._loop.call_later(seconds, self.interrupt, Outcome.TIMED_OUT)

    def pull_from_thread(self, body: MessageBody) -> bytes:
        """The loop pulls, the thread waits."""
        return asyncio.run_coroutine_threadsafe(self.pull_chunk(body), self._loop).result()

    async def in_thread(self, call: Callable[[], Any]) -> Any:
        """In the loop's executor."""
        call = partial(contextvars.copy_context().run, call)
        return await self._loop.run_in_executor(self.server.pool, call)
