# The server object on asyncio: listening, counting down, closing.

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, Self

from smtpproto_asyncio._connection import Connection
from smtpproto_server import ServerCore, bind_tcp, bind_unix, listener_address

if TYPE_CHECKING:
    import socket
    from types import TracebackType

    from smtpproto_server import Options

__all__ = ["SMTPServer"]

SHORTAGE: Final = 1.0  # seconds without accepting when the system has no more descriptors
READ_BUFFER: Final = 256 * 1024  # octets; one for each server, not for each connection
GRACE: Final = 5.5  # seconds from the end of close_timeout until connections are dropped
LAST_GRACE: Final = 0.4  # seconds until those that still run are left to themselves


class SMTPServer(ServerCore):
    """An SMTP or LMTP server. Takes an Options object or its fields as keywords."""

    def __init__(self, options: Options | None = None, /, **option_fields: Any) -> None:
        super().__init__(options, **option_fields)
        self.peers: set[Connection] = set()
        self.read_buffer: memoryview = memoryview(bytearray(READ_BUFFER))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listeners_open: list[Listener] = []
        self._pool: ThreadPoolExecutor | None = None
        self._closing: asyncio.Task[None] | None = None
        self._empty: asyncio.Event | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop the server runs in."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    @property
    def pool(self) -> ThreadPoolExecutor:
        """Threads for plain hooks."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.options.hook_threads, thread_name_prefix="smtpproto-hook")
        return self._pool

    # --- listening ----------------------------------------------------------------------------------

    async def listen(
        self,
        port: int = 0,
        host: str | None = None,
        *,
        path: str | None = None,
        sock: socket.socket | None = None,
        backlog: int = 100,
    ) -> Self:
        """Listen on TCP (`host` None: all interfaces), on a unix socket, or on a bound socket.

        May be called again for more. Raises OSError if it cannot be bound, ConfigurationError for
        options that do not go together.
        """
        if self._closing is not None:
            await asyncio.shield(self._closing)
            self._closing = None
        self._loop = asyncio.get_running_loop()
        self.prepare()
        if sock is not None:
            sock.settimeout(0)
            sock.listen(backlog)
            sockets = [sock]
        elif path is not None:
            sockets = [bind_unix(path, backlog)]
        else:
            sockets = await self._loop.run_in_executor(None, bind_tcp, host, port, backlog)
        listeners = [Listener(self, each, backlog) for each in sockets]
        self._listeners_open += listeners
        self.emit("listening", listeners[0].address)
        return self

    def address(self) -> tuple[str, int] | str | None:
        """`(host, port)` or the path of the first listener, None when not listening."""
        return self._listeners_open[0].address if self._listeners_open else None

    def addresses(self) -> list[tuple[str, int] | str]:
        """The addresses of all listeners."""
        return [listener.address for listener in self._listeners_open]

    async def serve_connection(
        self,
        sock: socket.socket,
        *,
        id: str | None = None,  # noqa: A002 - the session's own name for it
        local_address: str | None = None,
        local_port: int | None = None,
        remote_address: str | None = None,
        remote_port: int | None = None,
    ) -> None:
        """Serve a connected socket from greeting to close; what is given replaces its own facts.

        The socket belongs to the server from here on.
        """
        self._loop = asyncio.get_running_loop()
        self.contexts  # noqa: B018 - built for its faults
        identity = {
            "id": id,
            "local_address": local_address,
            "local_port": local_port,
            "remote_address": remote_address,
            "remote_port": remote_port,
        }
        sock.settimeout(0)
        connection = Connection(self, sock, identity)
        try:
            await connection.finished()
        except asyncio.CancelledError:
            connection.abort()
            await connection.finished()
            raise

    # --- the end ------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Stop listening, let open transactions end, and return when all connections are gone.

        At the latest that is 6 seconds after `close_timeout`.
        """
        closing = self._closing
        if closing is None or (closing.done() and (self.peers or self._listeners_open)):
            closing = self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(closing)

    async def _close(self) -> None:
        for listener in self._listeners_open:
            listener.close()
        self._listeners_open.clear()
        for peer in tuple(self.peers):
            peer.stop()
        if not await self._emptied(self.options.close_timeout):
            for peer in tuple(self.peers):
                peer.stop(now=True)
            if not await self._emptied(GRACE):
                await self._drop()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None
        self.emit("close")

    async def _drop(self) -> None:
        for peer in tuple(self.peers):
            peer.abort()
        if not await self._emptied(LAST_GRACE):
            for peer in tuple(self.peers):  # their hooks will not be cancelled
                peer.forget()

    async def _emptied(self, seconds: float) -> bool:
        """Wait until no connection is left; False if some are after that time."""
        self._empty = asyncio.Event()
        try:
            async with asyncio.timeout(seconds):
                while self.peers:
                    self._empty.clear()
                    await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def gone(self, connection: Connection) -> None:
        """A connection has ended."""
        self.peers.discard(connection)
        if self._empty is not None:
            self._empty.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class Listener:
    """A listening socket; every connection it accepts becomes a Connection of the server."""

    # Not loop.create_server: what its accept fails of is told to the loop alone.
    __slots__ = ("_backlog", "_pause", "_server", "_sock", "address")

    def __init__(self, server: SMTPServer, sock: socket.socket, backlog: int) -> None:
        self._server: SMTPServer = server
        self._sock: socket.socket = sock
        self._backlog: int = backlog
        self._pause: asyncio.TimerHandle | None = None
        self.address: tuple[str, int] | str = listener_address(sock)
        self._begin()

    def close(self) -> None:
        """Accept no more."""
        if self._pause is not None:
            self._pause.cancel()
        self._server.loop.remove_reader(self._sock)
        self._sock.close()

    def _begin(self) -> None:
        self._pause = None
        self._server.loop.add_reader(self._sock, self._accept)

    def _accept(self) -> None:
        for _ in range(self._backlog):
            try:
                sock, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # EMFILE above all. The client waits in the backlog, and so do we: the socket stays readable.
                self._server.report(error, "accept", None)
                self._server.loop.remove_reader(self._sock)
                self._pause = self._server.loop.call_later(SHORTAGE, self._begin)
                return
            sock.settimeout(0)
            Connection(self._server, sock)
