# One connection on asyncio: how to wait for its socket, and how to call a hook.
#
# One task serves the connection from accept to close, and nothing else is scheduled for a command.

from __future__ import annotations

import asyncio
import contextvars
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

from smtpproto_server import Alarm, ColouredPeer, Failed, Outcome

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Generator

    from smtpproto_asyncio._server import SMTPServer
    from smtpproto_server import Ask, MessageBody, Serving, Step, Wait

__all__ = ["Connection"]


class Connection(ColouredPeer["SMTPServer"], asyncio.BufferedProtocol):
    """A connection in a task; its transport pushes what it reads."""

    # Transports, as uvloop says nothing of a reset to those who watch a socket of their own.
    __slots__ = (
        "_alarm", "_cancels", "_doomed", "_limit", "_loop", "_paused", "_reading", "_transport", "_waiter",
        "task",
    )  # fmt: skip

    pushed: ClassVar[bool] = True

    def __init__(self, server: SMTPServer, sock: socket.socket, serving: Serving) -> None:
        super().__init__(server, sock, serving)
        loop = self._loop = server.loop
        self._alarm: Alarm = Alarm(loop.time, loop.call_later, partial(self._wake, Outcome.TIMED_OUT))
        self._waiter: asyncio.Future[Outcome | None] | None = None
        self._transport: asyncio.Transport | None = None
        self._reading: bool = True
        self._paused: bool = False
        self._limit: asyncio.TimerHandle | None = None
        self._cancels: int = 0
        self._doomed: int = 0
        self.task: asyncio.Task[None] = loop.create_task(self._serve())

    async def _serve(self) -> None:
        steps: Generator[Step, Any, None] | None = None
        value: Any = None
        try:
            while True:
                try:
                    if steps is None:
                        await self._loop.connect_accepted_socket(lambda: self, self.sock)
                        steps = self.steps()
                    await self.take(steps, value)
                except OSError as error:  # gone before we looked
                    self.server.log.debug("a connection was lost at once: %r", error)
                    steps, self.lost = self.steps(), True
                except asyncio.CancelledError:
                    # Somebody else's wish: the loop is ending. What is left is telling the application.
                    steps, value = steps or self.steps(), self._note_cancel()
                else:
                    break
        finally:
            self._alarm.cancel()
            self.end()
        if self._doomed:
            raise asyncio.CancelledError

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
        if self.full and self._reading and self._transport is not None:
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
        self._wake()

    # --- the socket -------------------------------------------------------------------------------

    def read(self) -> None:
        """Nothing but what was pushed."""

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
        """By a future, which whatever happens resolves."""
        waiter: asyncio.Future[Outcome | None] = self._loop.create_future()
        self._waiter = waiter
        if step.deadline is not None and step.deadline <= self._loop.time():
            self._loop.call_soon(self._wake, Outcome.TIMED_OUT)
        else:
            self._alarm.set(step.deadline)
        if not self._reading and not step.writing and self._transport is not None:
            self._reading = True
            self._transport.resume_reading()
        try:
            return await waiter
        finally:
            if self._waiter is waiter:
                self._waiter = None

    def wake(self) -> None:
        """End the wait."""
        self._wake()

    def _wake(self, outcome: Outcome | None = None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(outcome)

    # --- hooks ------------------------------------------------------------------------------------

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
        return asyncio.run_coroutine_threadsafe(self.next_chunk(body), self._loop).result()

    async def in_thread(self, call: Callable[[], Any]) -> Any:
        """In the loop's executor."""
        call = partial(contextvars.copy_context().run, call)
        return await self._loop.run_in_executor(self.server.pool, call)
