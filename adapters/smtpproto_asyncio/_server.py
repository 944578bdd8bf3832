# asyncio and uvloop: a connection is a socket that the loop watches, and a task.
#
# As long as nothing but the client is waited for, the callbacks run the connection as if in its task, so
# a hook sees the same task and the same context wherever it goes on. What a hook waits for is awaited by
# the task itself; so a hook can be cancelled, and the connection by somebody else.

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
from asyncio.tasks import _enter_task, _leave_task  # pyright: ignore[reportPrivateUsage] # documented: "Extending"
from concurrent.futures import Future
from functools import partial
from types import coroutine
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from smtpproto_server.adapting import Driver, ServerCore, SocketDriver, Threads

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Generator, Mapping
    from types import TracebackType
    from typing import Unpack

    from smtpproto_server import OptionFields, Options, Stream
    from smtpproto_server.adapting import Identity, Listener, Place

__all__ = ["SMTPServer", "serve", "serve_connection"]

NOTHING: Final = object()


class Connection(SocketDriver):
    """A connection with a socket in the loop and a task."""

    __slots__ = (
        "_awaited", "_cancels", "_descriptor", "_foreign_cancels", "_reading", "_struck",
        "_timer", "_trap", "loop", "task",
    )  # fmt: skip

    event: ClassVar[type[asyncio.Event]] = asyncio.Event
    server: SMTPServer  # pyright: ignore[reportIncompatibleVariableOverride] - it has no other

    def __init__(
        self, server: SMTPServer, sock: socket.socket, clock: Callable[[], float], facts: Mapping[str, Any]
    ) -> None:
        self._descriptor: int = sock.fileno()
        """The socket's, also after somebody else has closed it."""
        self._timer: asyncio.TimerHandle | None = None
        self._reading: bool = False
        """The loop calls `readable`."""
        self._trap: Any = NOTHING
        """What a hook waits for."""
        self._awaited: asyncio.Future[None] | None = None
        """The task waits for this: for something to do."""
        self._cancels: int = 0
        """How often the task was cancelled by us, to end a hook."""
        self._foreign_cancels: int = 0
        """How often by somebody else, who is obeyed when the connection has ended."""
        self._struck: bool = False
        """A cancellation was raised in the hook that runs."""
        super().__init__(server, sock, clock, facts)
        self.loop: asyncio.AbstractEventLoop = server.loop
        # Not by the loop's factory: an eager one would serve before the connection is counted in.
        self.task: asyncio.Task[None] = asyncio.Task(
            self._serve(), loop=self.loop, name="smtpproto connection", context=self.context
        )
        self.task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        """Also if it was cancelled before its first step."""
        error = None if task.cancelled() else task.exception()
        if error is not None:  # a fault of ours ends one session, not the server
            self.server.report(error, "socket", self.session)
        if self in self.server.peers:
            self.end()

    # --- being moved on ---------------------------------------------------------------------------

    def run(self, call: Callable[[], object]) -> None:
        """Call in a callback of the loop, as if in the task."""
        loop, task = self.loop, self.task
        _enter_task(loop, task)
        try:
            self.context.run(call)
        finally:
            _leave_task(loop, task)

    async def _serve(self) -> None:
        """Be there for what only a task can do: to await hooks, to be cancelled."""
        self.read_on()
        self.go_on()
        while self in self.server.peers:
            self._awaited = self.loop.create_future()
            try:
                if self._trap is NOTHING:
                    await self._awaited
                await self._await_hook()
            except asyncio.CancelledError as error:
                self._cancelled(error)
            except GeneratorExit:  # the hook has had it, but Python raises it in all that await it
                if not self.loop.is_running():
                    raise
        if self._foreign_cancels:
            raise asyncio.CancelledError

    @coroutine
    def _await_hook(self) -> Generator[Any, Any, None]:
        while self._trap is not NOTHING:
            trap, self._trap = self._trap, NOTHING
            try:
                value = yield trap
            except GeneratorExit as error:
                if self.loop.is_running():  # what the hook awaits has raised it
                    self.resume(error=error)
                    return
                if self.hook is not None:
                    self.hook.close()
                raise
            except BaseException as error:  # noqa: BLE001 - passed on, cancellation above all
                self._struck = isinstance(error, asyncio.CancelledError)
                self.resume(error=error)
            else:
                self.resume(value)

    def suspend(self, trap: Any) -> None:
        """The task awaits it."""
        self._trap = trap
        self._wake()

    def _wake(self) -> None:
        if self._awaited is not None and not self._awaited.done():
            self._awaited.set_result(None)

    def poke(self) -> None:
        """In a callback of the loop."""
        self.loop.call_soon_threadsafe(self.run, self.go_on)

    # --- cancellation -----------------------------------------------------------------------------

    def _cancelled(self, error: asyncio.CancelledError) -> None:
        """While nothing was awaited, or before what a hook waits for could be."""
        trap, self._trap = self._trap, NOTHING
        if asyncio.isfuture(trap) and trap.cancel():
            self._trap = trap  # as a task does: whoever it belongs to learns of it, and then the hook
        elif self.hook is not None:
            self._struck = True
            self.resume(error=error)
        elif self.task.cancelling() > self._foreign_cancels:
            # Cancelled from outside: the loop is ending. What is left is to tell the application.
            self._foreign_cancels = self.task.cancelling()
            self.lose()

    def cancel_hook(self) -> None:
        """The hook runs in the connection's own task."""
        self._cancels += 1
        self.task.cancel()

    def hook_ended(self, error: BaseException | None) -> bool:
        """Undo our own cancellations, and find out whether there was somebody else's.

        That is one which the hook has let through. If it dealt with it, it was the hook's own: a task
        group cancels the task that waits for it, and before Python 3.13 leaves that request standing.
        """
        task, struck = self.task, self._struck
        self._struck = False
        while self._cancels:
            self._cancels -= 1
            task.uncancel()
        if task.cancelling() <= self._foreign_cancels or not struck:
            return False
        if isinstance(error, asyncio.CancelledError):
            self._foreign_cancels = task.cancelling()
            return True
        while task.cancelling() > self._foreign_cancels:
            task.uncancel()
        return False

    def own_step(self) -> bool:
        """In the connection's own task."""
        return asyncio.current_task(self.loop) is self.task

    # --- octets and time --------------------------------------------------------------------------

    def _read_to_error(self) -> None:
        """As `readable`, on a loop that reports an error once, and perhaps together with octets."""
        self.readable()
        if self._reading and (error := self.socket_error()) is not None:
            while self._reading and self.readable():  # what came before the error counts
                pass
            self.lose(error)

    def await_room(self) -> None:
        """The loop calls `writable`."""
        self.loop.add_writer(self._descriptor, self.run, self.writable)

    def room(self) -> None:
        """All that was to be sent has gone."""
        self.loop.remove_writer(self._descriptor)
        super().room()

    def hold(self) -> None:
        """The loop leaves the socket alone."""
        if self._reading:
            self._reading = False
            self.loop.remove_reader(self._descriptor)

    def read_on(self) -> None:
        """The loop looks at the socket again."""
        if not (self._reading or self.read_all):
            self._reading = True
            look = self._read_to_error if self.server.errors_come_once else self.readable
            self.loop.add_reader(self._descriptor, self.run, look)

    def drop(self) -> None:
        """Take the socket from the loop, and close it."""
        self.hold()
        if self.full:
            self.loop.remove_writer(self._descriptor)
        super().drop()

    def alarm(self, when: float) -> None:
        """By a timer of the loop."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_at(when, self._rang)

    def _rang(self) -> None:
        self._timer = None
        self.run(self.expired)

    def end(self) -> None:
        """The loop keeps nothing of it."""
        super().end()
        self.finished()

    def finished(self) -> None:
        """The task may end."""
        self._stop_timer()
        self._wake()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- threads, and others that read for the hook -----------------------------------------------

    async def apart(self, call: Callable[[], Any]) -> Any:
        """In one of the server's threads."""
        done: asyncio.Future[Any] = self.loop.create_future()
        context = contextvars.copy_context()
        threads = self.server.threads_for(self.hook_name)
        job = threads.submit(partial(_work, self.loop, done, context, call))
        try:
            return await done
        finally:
            if done.cancelled() and self.hook_name != "resolver":  # look-ups stay bounded
                threads.leave(job)

    def read_plainly(self, stream: Stream) -> bytes:
        """The loop reads, the thread waits."""
        box: Future[bytes] = Future()
        self.loop.call_soon_threadsafe(self.run, partial(self._read_for, stream, box))
        return box.result()

    def _read_for(self, stream: Stream, box: Future[bytes], begun: bool = False) -> None:  # noqa: FBT001, FBT002
        try:
            if not begun:
                self.begin_read(stream)
            try:
                piece = self.try_read(stream)
            except BaseException:
                self.end_read(stream)
                raise
        except Exception as error:  # noqa: BLE001 - for the thread
            box.set_exception(error)
            return
        if piece is None:
            stream.reader = partial(self._read_for, stream, box, begun=True)
        else:
            self.end_read(stream)
            box.set_result(piece)


def _work(
    loop: asyncio.AbstractEventLoop,
    done: asyncio.Future[Any],
    context: contextvars.Context,
    call: Callable[[], Any],
) -> None:
    """In a thread: call, and hand the outcome to the loop."""
    result = error = None
    if done.cancelled():  # the hook was given up before it began
        return
    try:
        result = context.run(call)
    except BaseException as raised:  # noqa: BLE001 - raised where the hook was called
        error = raised
    with contextlib.suppress(RuntimeError):  # the loop was closed long ago
        loop.call_soon_threadsafe(_hand_over, done, result, error)
    del error  # its traceback holds this frame


def _hand_over(done: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)


class SMTPServer(ServerCore):
    """An SMTP or LMTP server. Takes an Options object or its fields as keywords."""

    driver: type[Driver] = Connection

    def __init__(self, options: Options | None = None, /, **fields: Unpack[OptionFields]) -> None:
        super().__init__(options, **fields)
        self._clock: Callable[[], float] = time.monotonic
        self._loop: asyncio.AbstractEventLoop | None = None
        self.errors_come_once: bool = False
        """True on libuv (uvloop): after an error of a socket its reader is called no more."""
        self._threads: dict[str, Threads] = {}
        self._closing: asyncio.Task[None] | None = None
        self._holder: asyncio.Task[None] | None = None
        """The task that enters the handler, and leaves it: what it enters may insist on one task."""
        self._entered: asyncio.Future[None]
        self._leave: asyncio.Event
        self._empty: asyncio.Event = asyncio.Event()
        self._ended: asyncio.Event = asyncio.Event()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop the server runs in."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def threads_for(self, hook: str) -> Threads:
        """Threads for a plain hook; `on_data` and look-ups, which wait for others, have their own."""
        kind = hook if hook in self.thread_limits else "hook"
        if kind not in self._threads:
            self._threads[kind] = Threads(self.thread_limits[kind], f"smtpproto-{kind}")
        return self._threads[kind]

    async def listen(self, port: int = 0, host: str | None = None, **place: Unpack[Place]) -> Self:
        """Listen on TCP (`host` None: all interfaces), on a unix socket, or on a bound socket.

        May be called again for more, each with a `name` and options of its own. Raises OSError if it
        cannot be bound, TypeError for an option that is the same for all listeners, ConfigurationError for
        options that do not go together.
        """
        closings = await self._open()
        listeners = await self.loop.run_in_executor(None, self.binding(port, host, **place))
        if self.overtaken(closings, *listeners):
            return self
        for listener in listeners:
            self._accept_from(listener)
        return self.listening(listeners)

    async def serve_connection(self, sock: socket.socket, **identity: Unpack[Identity]) -> None:
        """Serve a connected socket from greeting to close; what is given replaces its own facts.

        The socket belongs to the server from here on. Options of its own are as in `listen`.
        """
        if self.overtaken(await self._open(), sock):
            return
        connection: Connection | None = self.admit(sock, self._clock, **identity)
        if connection is None:
            return
        try:
            await asyncio.wait([connection.task])
        except asyncio.CancelledError:
            connection.abort()
            await asyncio.wait([connection.task])
            raise

    async def close(self) -> None:
        """Stop listening, let open transactions end, and return when all connections are gone.

        At the latest that is 6 seconds after `close_timeout`. A second call waits for the first.
        """
        self._leave_dead_loop()
        if self._closing is None or (self._closing.done() and (self.peers or self.listeners)):
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)

    async def wait_closed(self) -> None:
        """Return when `close` is done."""
        await self._ended.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def emptied(self) -> None:
        """Tell `close`."""
        self._empty.set()

    async def _open(self) -> int:
        """Before anything is served: be as new after a `close`. How often that has begun before."""
        self._leave_dead_loop()
        if self._closing is not None:
            await asyncio.shield(self._closing)
            self._closing = None
        if self._ended.is_set():
            self._ended = asyncio.Event()
        loop = self._loop = asyncio.get_running_loop()
        # asyncio's own clock is time.monotonic, one frame further away.
        own = getattr(loop.time, "__func__", None) is asyncio.BaseEventLoop.time
        self._clock = time.monotonic if own else loop.time
        self.errors_come_once = not isinstance(loop, asyncio.BaseEventLoop)
        self.prepare()
        closings = self.closings
        if self.managers:
            if self._holder is None:
                self._entered, self._leave = loop.create_future(), asyncio.Event()
                self._holder = loop.create_task(self._hold(self._entered), name="smtpproto handler")
            await asyncio.shield(self._entered)
        return closings

    async def _hold(self, entered: asyncio.Future[None]) -> None:
        """Enter the handler, and leave it when the server has closed or the loop ends."""
        try:
            await self.managers.enter_awaiting(partial(self.loop.run_in_executor, None))
        except BaseException as error:  # noqa: BLE001 - raised by `listen`
            self._holder = None
            entered.set_exception(error)
            return
        entered.set_result(None)
        with contextlib.suppress(asyncio.CancelledError):
            await self._leave.wait()
        await self.managers.leave_awaiting(partial(self.loop.run_in_executor, None))

    def _leave_dead_loop(self) -> None:
        """Where a loop has ended before `close` had, nothing of it can go on."""
        if self._loop is None or not self._loop.is_closed():
            return
        self._loop, self._closing, self._ended = None, None, asyncio.Event()
        self._holder = None
        self.managers.forget()
        while self.listeners:
            self.listeners.pop().close()
        for peer in self.peers.copy():
            with contextlib.suppress(RuntimeError):  # its task cannot be woken any more
                peer.end()

    def _accept_from(self, listener: Listener) -> None:
        listener.release = partial(self.loop.remove_reader, listener.sock)
        self.loop.add_reader(listener.sock, self._accept, listener)

    def _accept(self, listener: Listener) -> None:
        for sock, identity in listener.accepted():
            self.admit(sock, self._clock, **identity)
        if listener.pause:
            self.loop.remove_reader(listener.sock)
            listener.release = self.loop.call_later(listener.pause, self._accept_from, listener).cancel

    async def _close(self) -> None:
        self.close_begins()
        for seconds in self.closing():
            self._empty = asyncio.Event()
            if self.peers:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._empty.wait(), seconds)
        if self._holder is not None:
            holder, self._holder = self._holder, None
            self._leave.set()
            await asyncio.wait([holder])
        while self._threads:
            self._threads.popitem()[1].close()
        self._ended.set()
        self.emit("close")


async def serve(server: SMTPServer, port: int = 0, host: str | None = None, **place: Unpack[Place]) -> None:
    """Listen, and return when somebody has closed the server; cancelled, close it first."""
    async with server:
        await server.listen(port, host, **place)
        await server.wait_closed()


async def serve_connection(
    sock: socket.socket, options: Options | None = None, /, **fields: Unpack[OptionFields]
) -> None:
    """Serve one connected socket, with a server of its own."""
    async with SMTPServer(options, **fields) as server:
        await server.serve_connection(sock)
