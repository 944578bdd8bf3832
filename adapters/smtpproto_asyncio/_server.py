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

READ_BUFFER: Final = 256 * 1024  # octets; one for each server, not for each connection
GRACE: Final = 5.5  # seconds from the end of close_timeout until connections are dropped


class SMTPServer(ServerCore):
    """An SMTP or LMTP server. Takes an Options object or its fields as keywords."""

    def __init__(self, options: Options | None = None, /, **option_fields: Any) -> None:
        super().__init__(options, **option_fields)
        self.peers: set[Connection] = set()
        self.read_buffer: memoryview = memoryview(bytearray(READ_BUFFER))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._servers: list[tuple[asyncio.AbstractServer, tuple[str, int] | str]] = []
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
        self._loop = asyncio.get_running_loop()
        self._closing = None
        self.prepare()
        if sock is not None:
            sock.settimeout(0)
            sockets = [sock]
        elif path is not None:
            sockets = [bind_unix(path, backlog)]
        else:
            sockets = await self._loop.run_in_executor(None, bind_tcp, host, port, backlog)
        for each in sockets:
            address = listener_address(each)
            create = self._loop.create_unix_server if isinstance(address, str) else self._loop.create_server
            listener = await create(lambda: Connection(self), sock=each, backlog=backlog)
            self._servers.append((listener, address))
        self.emit("listening", self._servers[-len(sockets)][1])
        return self

    def address(self) -> tuple[str, int] | str | None:
        """`(host, port)` or the path of the first listener, None when not listening."""
        return self._servers[0][1] if self._servers else None

    def addresses(self) -> list[tuple[str, int] | str]:
        """The addresses of all listeners."""
        return [address for _, address in self._servers]

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
        """Serve a connected socket from greeting to close; what is given replaces its own facts."""
        loop = self._loop = asyncio.get_running_loop()
        self.prepare()
        identity = {
            "id": id,
            "local": None if local_address is None else (local_address, local_port or 0),
            "remote": None if remote_address is None else (remote_address, remote_port or 0),
        }
        sock.settimeout(0)
        _, connection = await loop.connect_accepted_socket(lambda: Connection(self, identity), sock)
        try:
            await connection.finished()
        except asyncio.CancelledError:
            connection.abort()
            raise

    # --- the end ------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Stop listening, let open transactions end, and return when all connections are gone.

        At the latest that is 6 seconds after `close_timeout`.
        """
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        for listener, _ in self._servers:
            listener.close()
        self._servers.clear()
        for peer in tuple(self.peers):
            peer.stop()
        if not await self._emptied(self.options.close_timeout):
            for peer in tuple(self.peers):
                peer.stop(now=True)
            if not await self._emptied(GRACE):
                for peer in tuple(self.peers):
                    peer.abort()
                await self._emptied(0.4)
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None
        self.emit("close")

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
