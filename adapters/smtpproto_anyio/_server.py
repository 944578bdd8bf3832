# anyio on asyncio and trio: a connection is a task that serves it and in which its hooks run, and a second
# one that looks after the socket while a hook waits for something else. One task of the server keeps the
# time for all of them.
#
# The wait for a client has no cancel scope of its own, which would cost as much as all the rest of it:
# what ends it before the client does is `notify_closing`.
#
# Hooks run one after the other in a cancel scope that is replaced when it has been used. Cancellation is
# level-triggered here: in a scope that was cancelled every await raises, so what is left to be done for a
# cancelled connection is done in a shielded scope, and nothing goes on before.

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from functools import partial
from heapq import heappop, heappush
from itertools import count
from threading import get_ident
from types import coroutine
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self
from weakref import ReferenceType, ref

import anyio
import anyio.lowlevel
from anyio import from_thread, to_thread

from smtpproto_server.adapting import NEVER, PARTED, ServerCore, SocketDriver, outcome

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType
    from typing import Unpack

    from anyio.abc import TaskGroup, TaskStatus
    from anyio.lowlevel import EventLoopToken

    from smtpproto import Accept, Reject, Session
    from smtpproto.extending import Pending
    from smtpproto_server import OptionFields, Options, Stream
    from smtpproto_server.adapting import Driver, Identity, Listener, Place

__all__ = ["SMTPServer", "serve", "serve_connection"]

NOTHING: Final = object()
LAST_WORDS: Final = 5.0  # seconds that on_close may take when the connection was cancelled


class Connection(SocketDriver):
    """A connection in a task."""

    __slots__ = (
        "__weakref__", "_again", "_busy", "_cancelled", "_own", "_rang", "_scope", "_shielded", "_tasks",
        "_trap", "_watching",
    )  # fmt: skip

    event: ClassVar[type[anyio.Event]] = anyio.Event
    server: SMTPServer  # pyright: ignore[reportIncompatibleVariableOverride] - it has no other

    def __init__(
        self, server: SMTPServer, sock: socket.socket, clock: Callable[[], float], facts: Mapping[str, Any]
    ) -> None:
        self._tasks: TaskGroup | None = None
        self._own: int = 0
        """The id of the task that serves."""
        self._trap: Any = NOTHING
        """What a hook waits for."""
        self._scope: anyio.CancelScope | None = None
        """Around the hooks."""
        self._watching: anyio.CancelScope | None = None
        """Around the wait of the second task; cancelled, it looks again what there is to wait for."""
        self._busy: bool = False
        """The second task waits at the socket: never both at a time."""
        self._again: bool = False
        """`poke` was called."""
        self._rang: bool = False
        """The time of `rings` has come."""
        self._cancelled: bool = False
        """Somebody else has cancelled the connection."""
        self._shielded: bool = False
        """What is left is being done where nothing cancels it."""
        super().__init__(server, sock, clock, facts)

    # --- the whole ------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Serve it to its end. Cancelled, it drops the client and tells the application."""
        try:
            async with anyio.create_task_group() as self._tasks:
                try:
                    await self._serve()
                except anyio.get_cancelled_exc_class():
                    self._shielded = True
                    self._leave_scope()  # scopes are left in the order in which they nest
                    with anyio.move_on_after(LAST_WORDS, shield=True):
                        self.lose()
                        await self._serve()
                    raise
                finally:
                    self._tasks.cancel_scope.cancel()
        except Exception as error:  # noqa: BLE001 - a fault of ours ends one session, not the server
            self.server.report(error, "socket", self.session)
        finally:
            self.end()

    async def _serve(self) -> None:
        self._own = anyio.get_current_task().id
        self.go_on()
        while self in self.server.peers:
            if self._trap is not NOTHING:
                await self._await_hook()
                continue
            try:
                await self._wait()
            except anyio.get_cancelled_exc_class() as error:
                if self.stream is None or not self.stream.reads:
                    raise
                self.resume(error=error)  # a hook that reads the message is to hear of it first
                if self._cancelled and not self._shielded:
                    raise

    def go_on(self) -> None:
        """Not between a cancellation and the shield against it: `on_close` would begin in a dead scope."""
        if self._shielded or not self._cancelled:
            super().go_on()

    # --- waiting for the socket, the time or a poke -----------------------------------------------------

    async def _wait(self) -> None:
        while self._busy:  # the second task is on its way out
            await anyio.lowlevel.checkpoint()
        if self._again:
            self._again = False
            await anyio.lowlevel.checkpoint()
            self.go_on()
        elif self._rang:
            self._rang = False
            self.expired()
        elif self.waits is PARTED:
            await anyio.sleep_forever()
        elif self.has_more() or await self._at_socket():
            self._look()

    async def _at_socket(self) -> bool:
        """Wait until something can be done there; False: `notify_closing` was called."""
        try:
            await (anyio.wait_writable if self.full else anyio.wait_readable)(self.sock)
        except anyio.ClosedResourceError:
            return False
        return True

    def _look(self) -> None:
        if self.full:
            self.writable()
        else:
            self.readable()

    def poke(self) -> None:
        """End the wait."""
        self._again = True
        if not self._hook_runs():
            self._leave_socket()
        elif not self.running:
            self._again = False
            self.go_on()  # no hook is called in it: one runs

    def _leave_socket(self) -> None:
        if self.waits is not PARTED:
            anyio.notify_closing(self.sock)

    def alarm(self, when: float) -> None:
        """By the server."""
        self.server.wake_at(when, self)

    def ring(self) -> None:
        """The alarm, or one that was set for the same connection before it."""
        if self.clock() < self.rings:
            return
        if self._hook_runs() or self.waits is PARTED:
            self.expired()
        else:
            self._rang = True
            self._leave_socket()

    def read_on(self) -> None:
        """The socket is of interest again."""
        if self._watching is not None:
            self._watching.cancel()

    def drop(self) -> None:
        """Take the socket from the loop, and close it."""
        anyio.notify_closing(self.sock)
        super().drop()

    # --- a hook that waits --------------------------------------------------------------------------

    def suspend(self, trap: Any) -> None:
        """The connection's task awaits it."""
        self._trap = trap

    @coroutine
    def _await_hook(self) -> Generator[Any, Any, None]:
        while self._trap is not NOTHING:
            if self._watching is None and self._tasks is not None:
                self._tasks.start_soon(self._watch, name="smtpproto watch")
            trap, self._trap = self._trap, NOTHING
            try:
                value = yield trap
            except GeneratorExit:
                if self.hook is not None:
                    self.hook.close()
                raise
            except BaseException as error:
                self.resume(error=error)
                if self._cancelled and not self._shielded:
                    raise
            else:
                self.resume(value)
        self.read_on()

    async def _watch(self) -> None:
        """The second task: see what the client does while a hook waits."""
        if self._watching is not None:
            return
        while self._hook_runs() and self.waits is not PARTED:
            with anyio.CancelScope() as self._watching:
                if self.lost or ((self.held or self.read_all) and not self.full):
                    await anyio.sleep_forever()
                self._busy = True
                try:
                    came = await self._at_socket()
                finally:
                    self._busy = False
                if came and self._hook_runs():
                    self._look()
        self._watching = None

    def _hook_runs(self) -> bool:
        return self.hook is not None and (self.stream is None or not self.stream.reads)

    # --- cancellation -------------------------------------------------------------------------------

    def call(self, name: str, hook: Callable[..., Any], *args: Any) -> Accept | Pending:
        """In the hooks' cancel scope: what a hook enters, from its first step on, is then within."""
        if self._scope is None:
            self._scope = anyio.CancelScope().__enter__()
        return super().call(name, hook, *args)

    def cancel_hook(self) -> None:
        """By its scope."""
        if self._scope is not None:
            self._scope.cancel()

    def hook_ended(self, error: BaseException | None) -> bool:
        """Leave the scope if it was used; True if the cancellation was somebody else's."""
        scope = self._scope
        cancelled = isinstance(error, anyio.get_cancelled_exc_class())
        if scope is None or not (scope.cancel_called or cancelled):
            return False
        foreign = not scope.cancel_called and anyio.get_current_task().has_pending_cancellation()
        self._leave_scope(error if cancelled else None)
        if foreign:
            self._cancelled = True
        return foreign

    def _leave_scope(self, error: BaseException | None = None) -> None:
        scope, self._scope = self._scope, None
        if scope is None:
            return
        if error is None:
            scope.__exit__(None, None, None)
        else:
            scope.__exit__(type(error), error, error.__traceback__)

    def finished(self) -> None:
        """The last hook has ended."""
        self._leave_scope()

    def own_step(self) -> bool:
        """In the task that serves."""
        return anyio.get_current_task().id == self._own

    # --- threads, and others that read for the hook -------------------------------------------------

    async def apart(self, call: Callable[[], Any]) -> Any:
        """In one of anyio's worker threads.

        trio does not take a result that may be awaitable, and Python raises a GeneratorExit of the thread
        in all that await it, up to the server's task group.
        """
        limiter = self.server.limiter_for(self.hook_name)
        if self.hook_name == "resolver":  # look-ups stay bounded, those included that were given up
            result, error = await to_thread.run_sync(outcome, call, abandon_on_cancel=True, limiter=limiter)
        else:  # trio counts a thread that was left alone until it ends, and its hook may hang for ever
            async with limiter:
                result, error = await to_thread.run_sync(
                    outcome, call, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1)
                )
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback holds this frame
        return result

    def read_plainly(self, stream: Stream) -> bytes:
        """The event loop reads, the thread waits."""
        return from_thread.run(self.read_elsewhere, stream, token=self.server.token)


class SMTPServer(ServerCore):
    """An SMTP or LMTP server. Takes an Options object or its fields as keywords.

    Enter it to listen: `async with SMTPServer(...) as server` holds the tasks that serve. On
    leaving it is closed; when it is cancelled, its connections are too.
    """

    driver: type[Driver] = Connection

    def __init__(self, options: Options | None = None, /, **fields: Unpack[OptionFields]) -> None:
        super().__init__(options, **fields)
        self._manager: AbstractAsyncContextManager[Self] | None = None
        self._tasks: TaskGroup | None = None
        self._limiters: dict[str, anyio.CapacityLimiter] = {}
        self._alarms: list[tuple[float, int, ReferenceType[Connection]]] = []
        """A heap; an alarm stays in it when its connection has ended or needs it no more."""
        self._numbers: Iterator[int] = count()
        self._sleeps: set[anyio.CancelScope] = set()
        """Around the waits for the first alarm, one for each call of `listen` and `serve_connection`."""
        self.token: EventLoopToken
        """The loop that threads find their way back to."""
        self._thread: int = 0
        """Where it runs."""
        self._entering: anyio.Lock
        """Held while the handler is entered or left."""
        self._held: anyio.CancelScope | None = None
        """Around the wait of the one task that enters the handler and leaves it, as cancel scopes demand."""
        self._left: anyio.Event
        self._parting: bool = False
        """`async with` is being left: the handler is, when the last connection has ended."""
        self._empty: anyio.Event | None = None
        self._closing: anyio.Event | None = None
        self._ended: anyio.Event | None = None

    def limiter_for(self, hook: str) -> anyio.CapacityLimiter:
        """Bounds the threads for plain hooks; `on_data` and look-ups, which wait, have their own."""
        kind = hook if hook in self.thread_limits else "hook"
        if kind not in self._limiters:
            self._limiters[kind] = anyio.CapacityLimiter(self.thread_limits[kind])
        return self._limiters[kind]

    def wake_at(self, when: float, connection: Connection) -> None:
        """Have its `ring` called then."""
        heappush(self._alarms, (when, next(self._numbers), ref(connection)))
        if self._alarms[0][0] == when:
            for sleep in self._sleeps:
                sleep.deadline = when

    async def listen(self, port: int = 0, host: str | None = None, **place: Unpack[Place]) -> Self:
        """Listen on TCP (`host` None: all interfaces), on a unix socket, or on a bound socket.

        May be called again for more, each with a `name` and options of its own. Raises OSError if it
        cannot be bound, TypeError for an option that is the same for all listeners, ConfigurationError for
        options that do not go together, RuntimeError outside of `async with`.
        """
        if self._tasks is None:
            raise RuntimeError("listen() needs the server's task group: use `async with server:` around it")
        closings = await self._open()
        listeners = await to_thread.run_sync(self.binding(port, host, **place))
        if self.overtaken(closings, *listeners):
            return self
        self._tasks.start_soon(self._keep_time, name="smtpproto time")
        for listener in listeners:
            scope = anyio.CancelScope()
            listener.release = partial(_let_go, listener, scope)
            self._tasks.start_soon(self._accept, self._tasks, listener, scope, name="smtpproto accept")
        return self.listening(listeners)

    async def serve_connection(self, sock: socket.socket, **identity: Unpack[Identity]) -> None:
        """Serve a connected socket from greeting to close; what is given replaces its own facts.

        The socket belongs to the server from here on. Options of its own are as in `listen`.
        """
        if self.overtaken(await self._open(), sock):
            return
        connection = self.admit(sock, anyio.current_time, **identity)
        if connection is None:
            return
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_time, name="smtpproto time")
            await connection.serve()
            tasks.cancel_scope.cancel()

    async def close(self) -> None:
        """Stop listening, let open transactions end, and return when all connections are gone.

        At the latest that is 6 seconds after `close_timeout`. A second call waits for the first.
        """
        if self._closing is None or (self._closing.is_set() and (self.peers or self.listeners)):
            self._closing = anyio.Event()
            if self._tasks is None:
                await self._close(self._closing)
            else:  # where it goes on if we are cancelled
                self._tasks.start_soon(self._close, self._closing, name="smtpproto close")
        await self._closing.wait()

    def disconnect(self, session: Session, reply: Reject | None = None) -> bool:
        """See `ServerCore`; in another thread it waits for the event loop to do it."""
        if self._thread in (0, get_ident()) or not self.peers:  # without them the loop may have ended
            return super().disconnect(session, reply)
        return from_thread.run_sync(super().disconnect, session, reply, token=self.token)

    async def wait_closed(self) -> None:
        """Return when `close` is done."""
        if self._ended is None:
            self._ended = anyio.Event()
        await self._ended.wait()

    async def __aenter__(self) -> Self:
        self._manager = self._entered()
        return await self._manager.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return None if self._manager is None else await self._manager.__aexit__(kind, error, trace)

    def emptied(self) -> None:
        """Tell `close`."""
        if self._empty is not None:
            self._empty.set()
        if self._parting and self._held is not None:
            self._held.cancel()

    @asynccontextmanager
    async def _entered(self) -> AsyncGenerator[Self]:
        async with anyio.create_task_group() as tasks:
            self._tasks, self._entering, self._parting = tasks, anyio.Lock(), False
            try:
                yield self
            finally:
                try:
                    await self.close()
                finally:
                    self._tasks, self._parting = None, True
                    tasks.cancel_scope.cancel()
                    if self._held is not None:  # `close` was cancelled
                        self._held.deadline = anyio.current_time() + (2 * LAST_WORDS if self.peers else 0)

    async def _open(self) -> int:
        """Before anything is served: be as new after a `close`. How often that has begun before."""
        if self._closing is not None:
            await self._closing.wait()
            self._closing = None
        if self._ended is not None and self._ended.is_set():
            self._ended = None
        self.token, self._thread = anyio.lowlevel.current_token(), get_ident()
        self.prepare()
        closings = self.closings
        if self.managers:
            if self._tasks is None:
                raise RuntimeError("the handler needs the server's task group: use `async with server:`")
            async with self._entering:
                if self._held is None:
                    await self._tasks.start(self._hold, name="smtpproto handler")
        return closings

    async def _hold(self, *, task_status: TaskStatus[None]) -> None:
        """Enter the handler, and leave it when the server has closed.

        Scopes nest, so what bounds the leaving is around the entering as well.
        """
        self._left = anyio.Event()
        try:
            with anyio.CancelScope() as scope:
                await self.managers.enter_awaiting(to_thread.run_sync)
                scope.shield = True
                with anyio.CancelScope(shield=True) as self._held:
                    task_status.started()
                    await anyio.sleep_forever()
                if self._parting:
                    scope.deadline = anyio.current_time() + LAST_WORDS
                else:
                    scope.shield = False
                await self.managers.leave_awaiting(to_thread.run_sync)
        finally:
            self._held = None
            self._left.set()

    async def _leave(self) -> None:
        async with self._entering:
            if self._held is not None:
                self._held.cancel()
                await self._left.wait()

    async def _keep_time(self) -> None:
        while self._closing is None or not self._closing.is_set():
            with anyio.CancelScope(deadline=self._alarms[0][0] if self._alarms else NEVER) as sleep:
                self._sleeps.add(sleep)
                try:
                    await anyio.sleep_forever()
                finally:
                    self._sleeps.remove(sleep)
            while self._alarms and self._alarms[0][0] <= anyio.current_time():
                self._ring(heappop(self._alarms)[2]())

    def _ring(self, connection: Connection | None) -> None:
        if connection is not None and connection in self.peers:
            connection.ring()

    async def _accept(self, tasks: TaskGroup, listener: Listener, scope: anyio.CancelScope) -> None:
        with scope, suppress(anyio.ClosedResourceError):
            while True:
                await anyio.wait_readable(listener.sock)
                for sock, identity in listener.accepted():
                    connection = self.admit(sock, anyio.current_time, **identity)
                    if connection is not None:
                        tasks.start_soon(connection.serve, name="smtpproto connection")
                await anyio.sleep(listener.pause)

    async def _close(self, done: anyio.Event) -> None:
        self.close_begins()
        try:
            for seconds in self.closing():
                self._empty = anyio.Event()
                if self.peers:
                    with anyio.move_on_after(seconds):
                        await self._empty.wait()
            if self.managers and self._tasks is not None:
                await self._leave()
        finally:
            done.set()
            for sleep in self._sleeps:
                sleep.cancel()
        if self._ended is not None:
            self._ended.set()
        self.emit("close")


def _let_go(listener: Listener, scope: anyio.CancelScope) -> None:
    scope.cancel()
    anyio.notify_closing(listener.sock)


async def serve(
    server: SMTPServer,
    port: int = 0,
    host: str | None = None,
    *,
    task_status: TaskStatus[SMTPServer] = anyio.TASK_STATUS_IGNORED,
    **place: Unpack[Place],
) -> None:
    """Listen, and return when somebody has closed the server; `task_status` gets it when it is bound."""
    async with server:
        await server.listen(port, host, **place)
        task_status.started(server)
        await server.wait_closed()


async def serve_connection(
    sock: socket.socket, options: Options | None = None, /, **fields: Unpack[OptionFields]
) -> None:
    """Serve one connected socket, with a server of its own."""
    async with SMTPServer(options, **fields) as server:
        await server.serve_connection(sock)
