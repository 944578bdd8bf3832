# The server object on anyio: listening, serving, closing, within a task group of its own.

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

import anyio
import anyio.lowlevel
from anyio import to_thread

from smtpproto_anyio._connection import Connection
from smtpproto_server import ServerCore

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncGenerator, Callable
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType
    from typing import Unpack

    from anyio.abc import TaskGroup, TaskStatus
    from anyio.lowlevel import EventLoopToken

    from smtpproto_server import Identity, Listener, Options, Place

__all__ = ["SMTPServer", "serve", "serve_connection"]


class SMTPServer(ServerCore):
    """An SMTP or LMTP server. Takes an Options object or its fields as keywords.

    Enter it to listen: `async with SMTPServer(...) as server` holds the tasks that serve. On
    leaving it is closed; when it is cancelled, its connections are too.
    """

    driver: ClassVar[Callable[..., Connection]] = Connection

    def __init__(self, options: Options | None = None, /, **option_fields: Any) -> None:
        super().__init__(options, **option_fields)
        self._manager: AbstractAsyncContextManager[Self] | None = None
        self._tasks: TaskGroup | None = None
        self._limiters: dict[str, anyio.CapacityLimiter] = {}
        self._token: EventLoopToken | None = None
        self._empty: anyio.Event | None = None
        self._closing: anyio.Event | None = None
        self._ended: anyio.Event | None = None

    def limiter_for(self, hook: str) -> anyio.CapacityLimiter:
        """Bounds the threads for plain hooks; `on_data` and look-ups, which wait, have their own."""
        kind = hook if hook in self.most_threads() else "hook"
        if kind not in self._limiters:
            self._limiters[kind] = anyio.CapacityLimiter(self.most_threads()[kind])
        return self._limiters[kind]

    @property
    def token(self) -> EventLoopToken:
        """The loop that threads find their way back to."""
        if self._token is None:
            self._token = anyio.lowlevel.current_token()
        return self._token

    async def listen(self, port: int = 0, host: str | None = None, **place: Unpack[Place]) -> Self:
        """Listen on TCP (`host` None: all interfaces), on a unix socket, or on a bound socket.

        May be called again for more. Raises OSError if it cannot be bound, ConfigurationError for
        options that do not go together, RuntimeError outside of `async with`.
        """
        if self._tasks is None:
            raise RuntimeError("listen() needs the server's task group: use `async with server:` around it")
        await self._open()
        listeners = await to_thread.run_sync(partial(self.bind, port, host, **place))
        for listener in listeners:
            scope = anyio.CancelScope()
            listener.release = partial(_let_go, listener, scope)
            self._tasks.start_soon(self._accept, self._tasks, listener, scope, name="smtpproto accept")
        return self.listening(listeners)

    async def serve_connection(self, sock: socket.socket, **identity: Unpack[Identity]) -> None:
        """Serve a connected socket from greeting to close; what is given replaces its own facts.

        The socket belongs to the server from here on.
        """
        await self._open()
        connection = self.admit(sock, anyio.current_time, **identity)
        if connection is not None:
            await connection.serve()

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

    @asynccontextmanager
    async def _entered(self) -> AsyncGenerator[Self]:
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            try:
                yield self
            finally:
                try:
                    await self.close()
                finally:
                    self._tasks = None
                    tasks.cancel_scope.cancel()

    async def _open(self) -> None:
        if self._closing is not None:
            await self._closing.wait()
            self._closing = None
        if self._ended is not None and self._ended.is_set():
            self._ended = None
        self._token = anyio.lowlevel.current_token()
        self.prepare()

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
        try:
            for seconds in self.closing():
                self._empty = anyio.Event()
                if self.peers:
                    with anyio.move_on_after(seconds):
                        await self._empty.wait()
        finally:
            done.set()
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
    sock: socket.socket, options: Options | None = None, /, **option_fields: Any
) -> None:
    """Serve one connected socket, with a server of its own."""
    async with SMTPServer(options, **option_fields) as server:
        await server.serve_connection(sock)
