# One connection on asyncio: the interpreter of the server loop's effects.
#
# It moves octets, keeps one deadline and runs hooks; it knows no SMTP. One task serves the
# connection from accept to close, and nothing else is scheduled for a command.

from __future__ import annotations

import asyncio
import contextvars
import inspect
from concurrent.futures import Future as ThreadFuture
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from smtpproto_server import (
    PULL,
    Ask,
    AsyncStream,
    Close,
    Deliver,
    Failed,
    Outcome,
    Receive,
    Send,
    Stream,
    run_flushing,
    socket_address,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Generator

    from smtpproto_asyncio._server import SMTPServer
    from smtpproto_server import Effect, MessageBody, Serving

__all__ = ["Connection"]

READ_AHEAD: Final = 64 * 1024  # octets that may wait here before the socket is left alone
FAIR: Final = 8  # writes on end, with up to 64 replies each, before the other connections get their turn
TOO_LATE: Final = "the stream belongs to on_data, which has returned"


class Connection(asyncio.BufferedProtocol):
    """A transport on one side, a `Serving` on the other."""

    __slots__ = (
        "_asking", "_cancels", "_closed", "_deadline", "_doomed", "_eof", "_identity",
        "_inbox", "_interrupted", "_limit", "_limit_at", "_loop", "_lost", "_paused", "_pending", "_pulling",
        "_reading", "_run", "_server", "_serving", "_stopping", "_task", "_thread_pull", "_threaded",
        "_timer", "_timer_at", "_transport", "_unwaited", "_waiter", "_woken",
    )  # fmt: skip

    def __init__(
        self, server: SMTPServer, sock: socket.socket, identity: dict[str, Any] | None = None
    ) -> None:
        self._server: SMTPServer = server
        self._loop: asyncio.AbstractEventLoop = server.loop
        self._identity: dict[str, Any] = identity or {}
        self._serving: Serving | None = None
        self._run: Generator[Effect, Any, None] | None = None
        self._transport: asyncio.Transport | None = None
        self._stopping: int = 0

        self._inbox: bytes = b""
        self._eof: bool = False
        self._lost: bool = False
        self._closed: bool = False
        self._woken: bool = False
        self._reading: bool = True
        self._paused: bool = False
        self._unwaited: int = 0
        self._waiter: asyncio.Future[Outcome | None] | None = None
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float = 0.0  # what is near is no TimerHandle in uvloop, and cannot be asked

        self._asking: Ask | None = None
        self._interrupted: Outcome | None = None
        self._cancels: int = 0
        self._doomed: int = 0
        self._limit: asyncio.TimerHandle | None = None
        self._limit_at: float = 0.0
        self._pulling: object | None = None
        self._pending: Effect | None = None
        self._thread_pull: ThreadFuture[bytes] | None = None
        self._threaded: object | None = None

        server.peers.add(self)
        self._task: asyncio.Task[None] = self._loop.create_task(self._serve(sock))

    # --- what the transport calls -----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A stream protocol gets no other; uvloop's classes do not inherit from asyncio's.
        transport = cast("asyncio.Transport", transport)
        self._transport = transport
        # A Send is done when the kernel has it all, so any octet that stays here is a pause.
        transport.set_write_buffer_limits(0)
        local = socket_address(transport.get_extra_info("sockname"))
        remote = socket_address(transport.get_extra_info("peername"))
        given = self._identity
        serving = self._server.begin(
            (_first(given.get("local_address"), local[0]), _first(given.get("local_port"), local[1])),
            (_first(given.get("remote_address"), remote[0]), _first(given.get("remote_port"), remote[1])),
            self._loop.time,
            given.get("id"),
        )
        if serving is None:
            transport.abort()
            return
        self._serving = serving
        self._run = serving.run()
        if self._stopping:
            self.stop(now=self._stopping > 1)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        # All connections of a server read into the same memory: between here and
        # buffer_updated nothing else runs.
        return self._server.read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(self._server.read_buffer[:nbytes])
        self._inbox = self._inbox + data if self._inbox else data
        if len(self._inbox) > READ_AHEAD and self._reading and self._transport is not None:
            self._reading = False
            self._transport.pause_reading()
        if self._asking is not None and self._asking.watch:
            self._interrupt(Outcome.INTERRUPTED)
        else:
            self._wake()

    def eof_received(self) -> bool:
        self._eof = True
        self._wake()
        return True  # the client may still read

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if self._serving is not None:
            self._serving.fault = exc
        self._interrupt(Outcome.LOST)
        self._wake()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._wake()

    # --- what the server calls --------------------------------------------------------------------

    def stop(self, *, now: bool = False) -> None:
        """End the session: soon, or now."""
        self._stopping = max(self._stopping, 2 if now else 1)
        if self._serving is None:  # connection_made will look
            return
        self._serving.stop(now=now)
        self._woken = True
        if now or (self._asking is not None and self._asking.lookup):
            self._interrupt(Outcome.STOPPED)
        self._wake()

    def abort(self) -> None:
        """Drop the connection, and cancel a hook that runs once more if it would not hear."""
        if self._transport is not None:
            self._transport.abort()
        self.stop(now=True)
        if self._asking is not None:
            self._cancel_hook()

    def forget(self) -> None:
        """Count the connection out whatever still runs: a hook that will not be cancelled."""
        if self._serving is not None:
            self._server.closed(self._serving, "aborted")
        self._server.gone(self)

    async def finished(self) -> None:
        """Wait for the end of the connection, hooks included."""
        await asyncio.wait([self._task])

    # --- the interpreter --------------------------------------------------------------------------

    async def _serve(self, sock: socket.socket) -> None:
        try:
            if await self._connect(sock) and self._run is not None:
                await self._interpret(self._run)
        finally:
            if self._run is not None:
                self._run.close()
            if self._timer is not None:
                self._timer.cancel()
            if self._transport is not None and not self._closed:
                self._transport.abort()
            self.forget()
        if self._doomed:
            raise asyncio.CancelledError

    async def _connect(self, sock: socket.socket) -> bool:
        try:
            await self._loop.connect_accepted_socket(lambda: self, sock)
        except OSError as error:  # gone before we looked
            self._server.log.debug("a connection was lost at once: %r", error)
            sock.close()
            return False
        return True

    async def _interpret(self, run: Generator[Effect, Any, None]) -> None:
        value: Any = None
        while True:
            try:
                effect = run.send(value)
            except StopIteration:
                return
            try:
                value = await self._perform(effect)
            except asyncio.CancelledError:
                self._note_cancel()
                value = Outcome.LOST

    async def _perform(self, effect: Effect) -> Any:
        if type(effect) is Receive:
            return await self._receive(effect)
        if type(effect) is Send:
            return await self._send(effect)
        if type(effect) is Ask:
            return await self._ask(effect)
        assert type(effect) is Close  # noqa: S101 - Deliver is consumed by _drive
        return self._close()

    async def _receive(self, effect: Receive) -> bytes | Outcome:
        late = False
        while True:
            if self._inbox:
                data, self._inbox = self._inbox, b""
                if not self._reading and self._transport is not None:
                    self._reading = True
                    self._transport.resume_reading()
                return data
            if self._lost:
                return Outcome.LOST
            if self._eof:
                return b""
            if self._woken:
                self._woken = False
                return Outcome.STOPPED
            if late:
                return Outcome.TIMED_OUT
            late = await self._wait(effect.deadline) is Outcome.TIMED_OUT

    async def _send(self, effect: Send) -> Outcome | None:
        transport = self._transport
        if effect.data and transport is not None and not self._lost:
            transport.write(effect.data)
            effect.data = b""  # a pull that is given up performs its effect again
            self._unwaited += 1
            if self._unwaited > FAIR:
                await self._wait(0.0)
        while self._paused and not self._lost:
            if self._woken:
                self._woken = False
                return Outcome.STOPPED
            if await self._wait(effect.deadline) is Outcome.TIMED_OUT and self._paused:
                return Outcome.TIMED_OUT
        if self._lost or transport is None:
            return Outcome.LOST
        return self._end_output(transport) if effect.last else None

    def _end_output(self, transport: asyncio.Transport) -> Outcome | None:
        try:
            transport.write_eof()
        except OSError:  # the peer was faster
            return Outcome.LOST
        return None

    def _close(self) -> None:
        self._closed = True
        if self._transport is not None:
            if self._paused:
                self._transport.abort()
            else:
                self._transport.close()

    def _note_cancel(self) -> None:
        """Somebody else cancels our task: the loop is ending.

        What is left is telling the application; behind that the task ends as cancelled.
        """
        self._doomed = self._task.cancelling()
        self._lost = True
        if self._transport is not None:
            self._transport.abort()

    # --- waiting ----------------------------------------------------------------------------------

    async def _wait(self, deadline: float | None) -> Outcome | None:
        """Wait for anything to happen, or for the deadline.

        One that is past lets the loop turn once, so that what the socket holds is seen.
        """
        waiter: asyncio.Future[Outcome | None] = self._loop.create_future()
        self._waiter = waiter
        self._unwaited = 0
        if deadline is None or deadline > self._loop.time():
            self._arm(deadline)
        else:
            self._loop.call_soon(_set_once, waiter, Outcome.TIMED_OUT)
        try:
            outcome = await waiter
        finally:
            owner = self._waiter is waiter
            if owner:
                self._waiter = None
        if not owner:  # a task that on_data left behind, reading
            raise RuntimeError(TOO_LATE)
        return outcome

    def _wake(self, outcome: Outcome | None = None) -> None:
        if self._waiter is not None:
            _set_once(self._waiter, outcome)

    def _arm(self, deadline: float | None) -> None:
        """Deadlines mostly move on: the timer in the loop is left to fire early and look again."""
        self._deadline = deadline
        if deadline is None:
            return
        if self._timer is not None:
            if self._timer_at <= deadline:
                return
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._loop.call_at(deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._waiter is None or self._deadline is None:
            return
        if self._deadline <= self._loop.time():
            self._wake(Outcome.TIMED_OUT)
        else:
            self._arm(self._deadline)

    # --- hooks ------------------------------------------------------------------------------------

    async def _ask(self, ask: Ask) -> Any:
        if self._lost and not self._closed:
            return Outcome.LOST
        if ask.watch and self._inbox:
            return Outcome.INTERRUPTED
        self._asking, self._interrupted = ask, None
        if ask.seconds is not None:
            self._start_limit(ask.seconds)
        result: Any = None
        try:
            result = await self._call(ask)
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a hook raises is contained
            # A CancelledError too, unless it is somebody's wish: then it is seen below.
            result = Failed(error)
        finally:
            self._asking = None
            if self._limit is not None:
                self._limit.cancel()
                self._limit = None
        if self._was_cancelled():
            result = Outcome.LOST
        elif self._interrupted is not None:
            result = self._interrupted
        if self._pulling is not None or self._pending is not None:
            await self._catch_up()
        return result

    def _was_cancelled(self) -> bool:
        """Take our own cancellations of the hook back; True if there was one of somebody else."""
        while self._cancels:
            self._cancels -= 1
            self._task.uncancel()
        if self._task.cancelling() == self._doomed:
            return False
        self._note_cancel()
        return True

    async def _call(self, ask: Ask) -> Any:
        hook, args, body = ask.hook, ask.args, ask.body
        if self._server.is_coroutine(hook):
            if body is not None:
                args = (AsyncStream(body, self._pull), *args)
            return await run_flushing(hook(*args), self._flush)
        if body is None and not ask.lookup and self._server.options.sync_hooks == "inline":
            result = hook(*args)
            if result is None:
                return None
        else:
            self._flush()
            if body is not None:
                args = (Stream(body, partial(self._pull_from_thread, body)), *args)
            result = await self._in_thread(partial(contextvars.copy_context().run, hook, *args), body)
        if inspect.isawaitable(result):
            self._flush()
            return await result
        return result

    def _flush(self) -> None:
        if self._asking is not None and self._transport is not None and not self._closed:
            data = self._asking.output()
            if data:
                self._transport.write(data)

    def _interrupt(self, outcome: Outcome) -> None:
        """Cancel the hook that runs, unless it waits for the message: then the stream raises."""
        if self._asking is None or self._interrupted is not None or self._pulling is not None:
            return
        if self._closed and outcome is Outcome.LOST:  # on_close runs after the end
            return
        self._interrupted = outcome
        if self._asking.body is not None:
            self._asking.body.give_up(outcome)
        self._cancel_hook()

    def _cancel_hook(self) -> None:
        self._cancels += 1
        self._task.cancel()

    # --- the message, pulled by on_data -----------------------------------------------------------

    async def _pull(self) -> bytes:
        if self._asking is None:
            raise RuntimeError(TOO_LATE)
        if self._pulling is not None:
            raise RuntimeError("the stream is being read already")
        pull = self._pulling = object()
        left = self._hold_limit()
        try:
            return await self._drive(PULL)
        finally:
            if self._pulling is pull:
                self._pulling = None
                if left is not None:
                    self._start_limit(left)

    def _start_limit(self, seconds: float) -> None:
        self._limit_at = self._loop.time() + seconds
        self._limit = self._loop.call_at(self._limit_at, self._interrupt, Outcome.TIMED_OUT)

    def _hold_limit(self) -> float | None:
        """Stop the hook's time while it waits for the client; what is left of it."""
        if self._limit is None:
            return None
        left = self._limit_at - self._loop.time()
        self._limit.cancel()
        self._limit = None
        return left

    async def _drive(self, value: Any) -> bytes:
        """Run the loop up to the chunk that was asked for."""
        assert self._run is not None  # noqa: S101 - hooks run only while it does
        # A pull that was cancelled left its effect behind: it is done again, not skipped.
        effect = self._run.send(value) if self._pending is None else self._pending
        while not isinstance(effect, Deliver):
            self._pending = effect
            value = await self._perform(effect)
            self._pending = None
            effect = self._run.send(value)
        return effect.data

    async def _catch_up(self) -> None:
        """The hook is over but a pull is not: take the loop over, and bring it to the chunk."""
        self._pulling = None
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            _set_once(waiter, None)
        while self._pending is not None:
            try:
                await self._drive(None)
            except asyncio.CancelledError:
                self._note_cancel()

    def _pull_from_thread(self, body: MessageBody) -> bytes:
        future: ThreadFuture[bytes] = ThreadFuture()
        self._loop.call_soon_threadsafe(self._note_pull, body, future)
        return future.result()

    def _note_pull(self, body: MessageBody, future: ThreadFuture[bytes]) -> None:
        if self._threaded is not body:
            future.set_exception(RuntimeError(TOO_LATE))
        elif self._thread_pull is not None:
            future.set_exception(RuntimeError("the stream is being read already"))
        else:
            self._thread_pull = future
            self._wake()

    async def _in_thread(self, call: Callable[[], Any], body: MessageBody | None) -> Any:
        """Run a plain hook in the pool; its pulls are served here, in the connection's own task."""
        done = self._loop.run_in_executor(self._server.pool, call)
        done.add_done_callback(self._thread_done)
        self._threaded = body
        try:
            while not done.done():
                if self._thread_pull is None:
                    await self._wait(None)
                    continue
                chunk = await self._pull()
                self._thread_pull.set_result(chunk)
                self._thread_pull = None
        finally:
            self._threaded = None
            if not done.done():
                done.cancel()  # one that has not begun never will; another runs on for nothing
                if body is not None:
                    body.give_up(self._interrupted or Outcome.LOST)
            if self._thread_pull is not None:
                self._thread_pull.set_exception(RuntimeError(TOO_LATE))
                self._thread_pull = None
        return done.result()

    def _thread_done(self, done: asyncio.Future[Any]) -> None:
        if not done.cancelled():
            done.exception()  # looked at, so that one that nobody waits for is not complained of
        self._wake()


def _set_once(waiter: asyncio.Future[Outcome | None], outcome: Outcome | None) -> None:
    if not waiter.done():
        waiter.set_result(outcome)


def _first(given: Any, found: Any) -> Any:
    return found if given is None else given
