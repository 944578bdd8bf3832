# The server object on asyncio: listening, serving, closing.

from __future__ import annotations

import asyncio
import contextlib
import time
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from smtpproto_asyncio._connection import Connection
from smtpproto_server import ServerCore, Threads

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from types import TracebackType
    from typing import Unpack

    from smtpproto_server import Identity, Listener, Options, Place

__all__ = ["SMTPServer", "serve", "serve_connection"]


# Octets; one for each server, not for each connection. What is made of them, twice for the search for
# bare newlines, then stays in a processor's second cache: larger pieces cost more than further reads.
READ_BUFFER: Final = 64 * 1024


class SMTPServer(ServerCore):
    """An SMTP or LMTP server. Takes an Options object or its fields as keywords."""

    driver: ClassVar[Callable[..., Connection]] = Connection

    def __init__(self, options: Options | None = None, /, **option_fields: Any) -> None:
        super().__init__(options, **option_fields)
        self.read_buffer: memoryview = memoryview(bytearray(READ_BUFFER))
        self._clock: Callable[[], float] = time.monotonic
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads: dict[str, Threads] = {}
        self._closing: asyncio.Task[None] | None = None
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
        kind = hook if hook in self.most_threads() else "hook"
        if kind not in self._threads:
            self._threads[kind] = Threads(self.most_threads()[kind], f"smtpproto-{kind}")
        return self._threads[kind]

    async def listen(self, port: int = 0, host: str | None = None, **place: Unpack[Place]) -> Self:
        """Listen on TCP (`host` None: all interfaces), on a unix socket, or on a bound socket.

        May be called again for more. Raises OSError if it cannot be bound, ConfigurationError for
        options that do not go together.
        """
        await self._open()
        listeners = await self.loop.run_in_executor(None, partial(self.bind, port, host, **place))
        for listener in listeners:
            self._accept_from(listener)
        return self.listening(listeners)

    async def serve_connection(self, sock: socket.socket, **identity: Unpack[Identity]) -> None:
        """Serve a connected socket from greeting to close; what is given replaces its own facts.

        The socket belongs to the server from here on.
        """
        await self._open()
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

    async def _open(self) -> None:
        if self._closing is not None:
            await asyncio.shield(self._closing)
            self._closing = None
        self._ended.clear()
        loop = self._loop = asyncio.get_running_loop()
        # asyncio's own clock is time.monotonic, one frame further away.
        own = getattr(loop.time, "__func__", None) is asyncio.BaseEventLoop.time
        self._clock = time.monotonic if own else loop.time
        self.prepare()

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
        for seconds in self.closing():
            self._empty.clear()
            if self.peers:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._empty.wait(), seconds)
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
    sock: socket.socket, options: Options | None = None, /, **option_fields: Any
) -> None:
    """Serve one connected socket, with a server of its own."""
    async with SMTPServer(options, **option_fields) as server:
        await server.serve_connection(sock)
