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
    is_coroutine_function,
    run_flushing,
    socket_address,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from smtpproto_asyncio._server import SMTPServer
    from smtpproto_server import Effect, Serving

__all__ = ["Connection"]

READ_AHEAD: Final = 64 * 1024  # octets that may wait here before the socket is left alone


class Connection(asyncio.BufferedProtocol):
    """A transport on one side, a `Serving` on the other."""

    __slots__ = (
        "_asking", "_closed", "_deadline", "_drained", "_eof", "_hook_limit", "_identity", "_inbox",
        "_interrupted", "_loop", "_lost", "_paused", "_pending", "_pulling", "_reading", "_run", "_server",
        "_serving", "_task", "_thread_pull", "_threaded", "_timer", "_transport", "_waiter", "_woken",
    )  # fmt: skip

    def __init__(self, server: SMTPServer, identity: dict[str, Any] | None = None) -> None:
        self._server: SMTPServer = server
        self._loop: asyncio.AbstractEventLoop = server.loop
        self._identity: dict[str, Any] | None = identity
        self._serving: Serving | None = None
        self._run: Generator[Effect, Any, None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None

        self._inbox: bytes = b""
        self._eof: bool = False
        self._lost: bool = False
        self._closed: bool = False
        self._woken: bool = False
        self._reading: bool = True
        self._paused: bool = False
        self._waiter: asyncio.Future[Outcome | None] | None = None
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None

        self._asking: Ask | None = None
        self._interrupted: Outcome | None = None
        self._hook_limit: asyncio.Timeout | None = None
        self._pulling: bool = False
        self._pending: Effect | None = None
        self._thread_pull: ThreadFuture[bytes] | None = None
        self._threaded: bool = False

    # --- what the transport calls -----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A stream protocol gets no other; uvloop's classes do not inherit from asyncio's.
        transport = cast("asyncio.Transport", transport)
        self._transport = transport
        # A Send is done when the kernel has it all, so any octet that stays here is a pause.
        transport.set_write_buffer_limits(0)
        local = socket_address(transport.get_extra_info("sockname"))
        remote = socket_address(transport.get_extra_info("peername"))
        session_id = None
        if self._identity is not None:
            session_id = self._identity["id"]
            local = self._identity["local"] or local
            remote = self._identity["remote"] or remote
        serving = self._server.begin(local, remote, self._loop.time, session_id)
        if serving is None:
            transport.abort()
            return
        self._serving = serving
        self._run = serving.run()
        self._server.peers.add(self)
        self._task = self._loop.create_task(self._serve(self._run))

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
        elif not self._paused:
            self._wake()

    def eof_received(self) -> bool:
        self._eof = True
        self._wake()
        return True  # the client may still read

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - whatever it was, it is over
        self._lost = True
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
        if self._serving is None:
            return
        self._serving.stop(now=now)
        self._woken = True
        if now or (self._asking is not None and self._asking.lookup):
            self._interrupt(Outcome.STOPPED)
        self._wake()

    def abort(self) -> None:
        """Drop the connection and whatever runs for it."""
        if self._transport is not None:
            self._transport.abort()
        if self._task is not None:
            self._task.cancel()

    async def finished(self) -> None:
        """Wait for the end of the connection, hooks included."""
        if self._task is not None:
            await asyncio.wait([self._task])

    # --- the interpreter --------------------------------------------------------------------------

    async def _serve(self, run: Generator[Effect, Any, None]) -> None:
        try:
            value: Any = None
            while True:
                effect = run.send(value)
                value = await self._perform(effect)
        except StopIteration:
            pass
        finally:
            run.close()
            if self._timer is not None:
                self._timer.cancel()
            if not self._closed and self._transport is not None and self._serving is not None:
                self._transport.abort()
                self._server.closed(self._serving, "aborted")
            self._server.gone(self)

    async def _perform(self, effect: Effect) -> Any:
        if type(effect) is Receive:
            return await self._receive(effect)
        if type(effect) is Send:
            return await self._send(effect)
        if type(effect) is Ask:
            return await self._ask(effect)
        assert type(effect) is Close  # noqa: S101 - Deliver is consumed by _pull
        return self._close()

    async def _receive(self, effect: Receive) -> bytes | Outcome:
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
            if await self._wait(effect.deadline) is Outcome.TIMED_OUT:
                return Outcome.TIMED_OUT

    async def _send(self, effect: Send) -> Outcome | None:
        transport = self._transport
        if self._lost or transport is None:
            return Outcome.LOST
        if effect.data:
            transport.write(effect.data)
        if effect.last and not self._end_output(transport):
            return Outcome.LOST
        while self._paused:
            if self._woken:
                self._woken = False
                return Outcome.STOPPED
            if await self._wait(effect.deadline) is Outcome.TIMED_OUT:
                return Outcome.TIMED_OUT
            if self._lost:  # pyright: ignore[reportUnnecessaryComparison] - changed while we waited
                break
        return Outcome.LOST if self._lost else None

    def _end_output(self, transport: asyncio.Transport) -> bool:
        try:
            transport.write_eof()
        except OSError:  # the peer was faster
            return False
        return True

    def _close(self) -> None:
        self._closed = True
        if self._transport is not None:
            if self._paused:
                self._transport.abort()
            else:
                self._transport.close()

    # --- waiting ----------------------------------------------------------------------------------

    async def _wait(self, deadline: float | None) -> Outcome | None:
        """Wait for anything to happen, or for the deadline."""
        if deadline is not None and deadline <= self._loop.time():
            return Outcome.TIMED_OUT
        self._waiter = self._loop.create_future()
        self._arm(deadline)
        try:
            return await self._waiter
        finally:
            self._waiter = None

    def _wake(self, outcome: Outcome | None = None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(outcome)

    def _arm(self, deadline: float | None) -> None:
        """Deadlines mostly move on: the timer in the loop is left to fire early and look again."""
        self._deadline = deadline
        if deadline is None:
            return
        if self._timer is not None:
            if self._timer.when() <= deadline:
                return
            self._timer.cancel()
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
        try:
            async with asyncio.timeout(ask.seconds) as self._hook_limit:
                result = await self._call(ask)
        except asyncio.CancelledError:
            if self._interrupted is None:
                raise
            result = self._interrupted
        except Exception as error:  # noqa: BLE001 - whatever a hook raises is contained
            expired = self._hook_limit is not None and self._hook_limit.expired()
            result = Outcome.TIMED_OUT if expired and isinstance(error, TimeoutError) else Failed(error)
        finally:
            self._asking, self._hook_limit = None, None
        if self._interrupted is not None:
            result = self._interrupted
            if self._task is not None:
                self._task.uncancel()
        while self._pending is not None:
            await self._drive(None)
        return result

    async def _call(self, ask: Ask) -> Any:
        hook, args = ask.hook, ask.args
        if is_coroutine_function(hook):
            if ask.body is not None:
                args = (AsyncStream(ask.body, self._pull), *args)
            return await run_flushing(hook(*args), self._flush)
        if ask.body is None and not ask.lookup and self._server.options.sync_hooks == "inline":
            result = hook(*args)
        else:
            self._flush()
            if ask.body is not None:
                args = (Stream(ask.body, self._pull_from_thread), *args)
            result = await self._in_thread(partial(contextvars.copy_context().run, hook, *args))
        return await result if inspect.isawaitable(result) else result

    def _flush(self) -> None:
        if self._asking is not None and self._transport is not None and not self._closed:
            data = self._asking.output()
            if data:
                self._transport.write(data)

    def _interrupt(self, outcome: Outcome) -> None:
        """Cancel the hook that runs, unless it waits for the message: then the stream raises."""
        if self._asking is None or self._interrupted is not None or self._pulling:
            return
        if self._closed and outcome is Outcome.LOST:  # on_close runs after the end
            return
        if self._task is not None:
            self._interrupted = outcome
            self._task.cancel()

    # --- the message, pulled by on_data -----------------------------------------------------------

    async def _pull(self) -> bytes:
        if self._pulling:
            raise RuntimeError("the stream is being read already")
        limit, left = self._hook_limit, None
        when = None if limit is None else limit.when()
        if limit is not None and when is not None:
            left = when - self._loop.time()
            limit.reschedule(None)
        self._pulling = True
        try:
            return await self._drive(PULL)
        finally:
            self._pulling = False
            if limit is not None and left is not None:
                limit.reschedule(self._loop.time() + left)

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

    def _pull_from_thread(self) -> bytes:
        future: ThreadFuture[bytes] = ThreadFuture()
        self._loop.call_soon_threadsafe(self._note_pull, future)
        return future.result()

    def _note_pull(self, future: ThreadFuture[bytes]) -> None:
        if self._threaded:
            self._thread_pull = future
            self._wake()
        else:
            future.set_exception(RuntimeError("the stream belongs to on_data, which has been given up"))

    async def _in_thread(self, call: Callable[[], Any]) -> Any:
        """Run a plain hook in the pool; its pulls are served here, in the connection's own task."""
        done = self._loop.run_in_executor(self._server.pool, call)
        done.add_done_callback(self._thread_done)
        self._threaded = True
        try:
            while not done.done():
                if self._thread_pull is None:
                    await self._wait(None)
                    continue
                chunk = await self._pull()
                self._thread_pull.set_result(chunk)
                self._thread_pull = None
        except BaseException as error:
            if self._thread_pull is not None:
                self._thread_pull.set_exception(error)
                self._thread_pull = None
            raise
        finally:
            self._threaded = False
        return done.result()

    def _thread_done(self, done: asyncio.Future[Any]) -> None:
        if not done.cancelled():
            done.exception()  # looked at, so that one that nobody waits for is not complained of
        self._wake()
