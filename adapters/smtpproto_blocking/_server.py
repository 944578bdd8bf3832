# Blocking sockets: a thread accepts, and each connection has a thread from a bounded pool.
#
# Nothing here is asked again and again: a thread waits for its socket and for the server's end.

from __future__ import annotations

import select
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from smtpproto_server import Latch, PlainPeer, PlainServer

if TYPE_CHECKING:
    import socket
    from typing import Unpack

    from smtpproto_server import Identity, Listener, Options, Place

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

    def listen(self, port: int = 0, host: str | None = None, **place: Unpack[Place]) -> Self:
        """Listen on TCP (`host` None: all interfaces), on a unix socket, or on a bound socket.

        Returns when bound; a thread accepts. May be called again for more. Raises OSError if it
        cannot be bound, ConfigurationError for options that do not go together.
        """
        self.prepare()
        self.open()
        listeners = self.bind(port, host, **place)
        for listener in listeners:
            Accepting(self, listener).start()
        return self.listening(listeners)

    def serve_connection(self, sock: socket.socket, **identity: Unpack[Identity]) -> None:
        """Serve a connected socket from greeting to close; what is given replaces its own facts.

        The socket belongs to the server from here on.
        """
        self.prepare()
        self.open()
        connection = self.connect(sock, **identity)
        self.wait_until(lambda: connection not in self.peers)

    def connect(self, sock: socket.socket, **identity: Unpack[Identity]) -> Connection | None:
        """Serve a connected socket in a thread of the pool."""
        serving = self.admit(sock, time.monotonic, **identity)
        if serving is None:
            return None
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


class Accepting(threading.Thread):
    """Accepts connections until the listener is closed."""

    def __init__(self, server: SMTPServer, listener: Listener) -> None:
        super().__init__(name="smtpproto-accept", daemon=True)
        self._server: SMTPServer = server
        self._listener: Listener = listener
        self._ended: Latch = Latch()
        listener.release = self._end

    def run(self) -> None:
        poll = select.poll()
        poll.register(self._listener.sock, select.POLLIN)
        ended = select.poll()
        ended.register(self._ended, select.POLLIN)
        poll.register(self._ended, select.POLLIN)
        while not ended.poll(self._listener.pause * 1000):
            poll.poll()
            for sock, identity in self._listener.accepted():
                self._server.connect(sock, **identity)

    def _end(self) -> None:
        self._ended.set()
        if threading.current_thread() is not self:  # a listener for `error` may close the server
            self.join()
        self._ended.close()


def serve(server: SMTPServer, port: int = 0, host: str | None = None, **place: Unpack[Place]) -> None:
    """Listen, and return when the server was closed by another thread or a signal handler."""
    with server:
        server.listen(port, host, **place)
        server.wait_closed()


def serve_connection(sock: socket.socket, options: Options | None = None, /, **option_fields: Any) -> None:
    """Serve one connected socket, with a server of its own."""
    with SMTPServer(options, **option_fields) as server:
        server.serve_connection(sock)
