# Blocking sockets: each connection has a thread from a bounded pool.
#
# Nothing here is asked again and again: a thread waits for its socket and for the server's end.

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar, Final

from smtpproto_server import PlainPeer, PlainServer

if TYPE_CHECKING:
    import socket
    from typing import Unpack

    from smtpproto_server import Options, Place, Serving

__all__ = ["SMTPServer", "serve", "serve_connection"]

THREADS: Final = 4096  # where `max_clients` sets no bound


class Connection(PlainPeer["SMTPServer"]):
    """A connection in a thread."""

    def go_on(self) -> None:
        """The thread that served it is in a hook that was given up."""
        self.server.pool.submit(self.take)


class SMTPServer(PlainServer):
    """An SMTP or LMTP server. Takes an Options object or its fields as keywords."""

    threads: ClassVar[int] = THREADS
    """Connections that are served at a time when `max_clients` is None; more wait their turn."""

    def __init__(self, options: Options | None = None, /, **option_fields: Any) -> None:
        super().__init__(options, **option_fields)
        self._pool: ThreadPoolExecutor | None = None

    @property
    def pool(self) -> ThreadPoolExecutor:
        """The threads of connections; as many again as `max_clients` for those that are refused."""
        if self._pool is None:
            limit = self.options.max_clients
            threads = self.threads if limit is None else 2 * limit
            self._pool = ThreadPoolExecutor(threads, thread_name_prefix="smtpproto")
        return self._pool

    def serve(self, sock: socket.socket, serving: Serving) -> Connection:
        """In a thread of the pool."""
        connection = Connection(self, sock, serving)
        try:
            self.pool.submit(connection.take)
        except RuntimeError as error:  # the system has no thread for it
            self.report(error, "accept", serving.session)
            connection.end()
        return connection

    def closed_all(self) -> None:
        """The pool goes too; a thread that will not end is left to itself."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)
            self._pool = None
        super().closed_all()


def serve(server: SMTPServer, port: int = 0, host: str | None = None, **place: Unpack[Place]) -> None:
    """Listen, and return when the server was closed by another thread or a signal handler."""
    with server:
        server.listen(port, host, **place)
        server.wait_closed()


def serve_connection(sock: socket.socket, options: Options | None = None, /, **option_fields: Any) -> None:
    """Serve one connected socket, with a server of its own."""
    with SMTPServer(options, **option_fields) as server:
        server.serve_connection(sock)
