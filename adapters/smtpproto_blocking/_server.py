# The server object on blocking sockets: each connection has a thread from a bounded pool.
#
# It may be closed from any thread and from a signal handler. A handler may run in between any two steps
# of the main thread, so what is waited for there is waited for a moment at a time.

from __future__ import annotations

import contextlib
import select
import threading
import time
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from smtpproto_blocking._connection import Connection, Latch
from smtpproto_server import ServerCore, Threads, Timers

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from types import TracebackType
    from typing import Unpack

    from smtpproto_server import Identity, Listener, Options, Place

__all__ = ["SMTPServer", "serve", "serve_connection"]

THREADS: Final = 4096  # where `max_clients` sets no bound
LATCHES: Final = 3  # as many as `closing` has steps
LOOK: Final = 0.5  # seconds after which a wait looks again: a signal may have come just before it


class SMTPServer(ServerCore):
    """An SMTP or LMTP server. Takes an Options object or its fields as keywords."""

    coroutines: ClassVar[bool] = False
    driver: ClassVar[Callable[..., Connection]] = Connection
    threads: ClassVar[int] = THREADS
    """Connections that are served at a time when `max_clients` is None; more wait their turn."""

    def __init__(self, options: Options | None = None, /, **option_fields: Any) -> None:
        super().__init__(options, **option_fields)
        self.latches: list[Latch] = []
        """Set, one after the other, by the steps of `close`."""
        self.pool: Threads
        """The threads of connections; as many again as `max_clients` for those that are refused."""
        self.lookups: Threads
        self.timers: Timers
        self._closing: threading.RLock = threading.RLock()
        self._in_closing: bool = False
        self._open: bool = False
        self._closings: int = 0
        self._change: threading.Condition = threading.Condition()

    # --- listening and closing ----------------------------------------------------------------------

    def listen(self, port: int = 0, host: str | None = None, **place: Unpack[Place]) -> Self:
        """Listen on TCP (`host` None: all interfaces), on a unix socket, or on a bound socket.

        Returns when bound; a thread accepts. May be called again for more. Raises OSError if it
        cannot be bound, ConfigurationError for options that do not go together, RuntimeError if the
        system has no thread.
        """
        closings = self._closings
        self.prepare()
        self._make_ready()
        listeners = self.bind(port, host, **place)
        for listener in listeners:
            Accepting(self, listener).start()
        self.listening(listeners)
        if self._closings != closings:  # a signal handler has closed the server meanwhile
            for listener in listeners:
                listener.close()
            self.listeners.clear()
            self.close()
        return self

    def serve_connection(self, sock: socket.socket, **identity: Unpack[Identity]) -> None:
        """Serve a connected socket from greeting to close; what is given replaces its own facts.

        The socket belongs to the server from here on.
        """
        self.prepare()
        self._make_ready()
        connection = self.connect(sock, **identity)
        self._wait_until(lambda: connection not in self.peers)

    def connect(self, sock: socket.socket, **identity: Unpack[Identity]) -> Connection | None:
        """Begin to serve a connected socket, unless it is over the limit."""
        connection: Connection | None = self.admit(sock, time.monotonic, **identity)
        if connection is None:
            return None
        if connection.refused and not connection.implicit_tls:
            connection.turn_away()
        else:
            self.serve(connection)
        return connection

    def serve(self, connection: Connection) -> None:
        """In a thread of the pool."""
        try:
            self.pool.submit(connection.serve)
        except RuntimeError as error:  # the system has no thread for it
            self.report(error, "accept", connection.session)
            connection.end()

    def close(self) -> None:
        """Stop listening, let open transactions end, and return when all connections are gone.

        At the latest that is 6 seconds after `close_timeout`. A second call waits for the first.
        """
        self._closings += 1
        with self._closing:
            # In a signal handler, which may have come within: the call below it goes on.
            if self._in_closing or not self._open:
                return
            self._in_closing = True
            try:
                for latch, seconds in zip_longest(self.latches, self.closing()):
                    if latch is not None:
                        latch.set()
                    self._wait_until(lambda: not self.peers, seconds)
                self._let_go()
            finally:
                self._in_closing = False

    def wait_closed(self) -> None:
        """Return when `close` is done, in a signal handler or in another thread."""
        self._wait_until(lambda: not self._open)

    def _let_go(self) -> None:
        """Everything has ended; a thread that will not end is left to itself."""
        for threads in (self.pool, self.lookups, self.timers):
            threads.close()
        while self.latches:
            self.latches.pop().close()
        self._open = False
        self.emit("close")
        with self._change:
            self._change.notify_all()

    def _wait_until(self, true: Callable[[], bool], seconds: float | None = None) -> None:
        """Wait for what comes true when a connection ends, or the server."""
        ends = None if seconds is None else time.monotonic() + seconds
        while not true():
            left = LOOK if ends is None else min(LOOK, ends - time.monotonic())
            if left <= 0:
                return
            with self._change:
                self._change.wait_for(true, left)

    def _make_ready(self) -> None:
        """Before anything is served: be as new after a `close`."""
        with self._closing:
            if self._open:
                return
            limit = self.options.max_clients
            self.pool = Threads(self.threads if limit is None else 2 * limit, "smtpproto")
            self.lookups = Threads(self.most_threads()["resolver"], "smtpproto-resolver")
            self.timers = Timers()
            self.timers.start()
            self.latches = [Latch() for _ in range(LATCHES)]
            self._open = True

    def gone(self, peer: object) -> None:
        """Tell all who wait."""
        super().gone(peer)
        with self._change:
            self._change.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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
                try:
                    self._server.connect(sock, **identity)
                except Exception as error:  # noqa: BLE001 - costs this connection, not the others
                    self._server.report(error, "accept", None)
                    with contextlib.suppress(OSError):
                        sock.close()

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
