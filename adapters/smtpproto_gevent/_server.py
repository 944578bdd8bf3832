# The server object on gevent: listening, serving, closing.

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import gevent
from gevent.event import Event
from gevent.monkey import get_original
from gevent.threadpool import ThreadPool

from smtpproto_gevent._connection import READ, Connection
from smtpproto_server import ServerCore

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from types import TracebackType
    from typing import Unpack

    from smtpproto_server import Identity, Listener, Options, Place

__all__ = ["SMTPServer", "serve", "serve_connection"]


IDLE: Final = 1  # seconds that a thread for look-ups stays


class SMTPServer(ServerCore):
    """An SMTP or LMTP server. Takes an Options object or its fields as keywords."""

    coroutines: ClassVar[bool] = False
    driver: ClassVar[Callable[..., Connection]] = Connection

    def __init__(self, options: Options | None = None, /, **option_fields: Any) -> None:
        super().__init__(options, **option_fields)
        self._hub: Any = None
        self._lookups: ThreadPool | None = None
        self._closing: gevent.Greenlet[..., None] | None = None
        self._empty: Event = Event()
        self._ended: Event = Event()

    @property
    def lookups(self) -> ThreadPool:
        """Threads for reverse DNS; the hub's are for others."""
        if self._lookups is None:
            self._lookups = ThreadPool(self.most_threads()["resolver"], self._hub, IDLE)
        return self._lookups

    def listen(self, port: int = 0, host: str | None = None, **place: Unpack[Place]) -> Self:
        """Listen on TCP (`host` None: all interfaces), on a unix socket, or on a bound socket.

        Returns when bound; a greenlet accepts. May be called again for more. Raises OSError if it
        cannot be bound, ConfigurationError for options that do not go together.
        """
        self._open()
        listeners = gevent.get_hub().threadpool.apply(partial(self.bind, port, host, **place))
        for listener in listeners:
            listener.release = gevent.spawn(self._accept, listener).kill
        return self.listening(listeners)

    def serve_connection(self, sock: socket.socket, **identity: Unpack[Identity]) -> None:
        """Serve a connected socket from greeting to close; what is given replaces its own facts.

        The socket belongs to the server from here on.
        """
        self._open()
        connection: Connection | None = self.admit(sock, time.monotonic, **identity)
        if connection is not None:
            try:
                connection.join()
            except BaseException:  # we are killed, or have run out of time
                connection.abort()
                connection.join()
                raise

    def close(self) -> None:
        """Stop listening, let open transactions end, and return when all connections are gone.

        At the latest that is 6 seconds after `close_timeout`. A second call waits for the first.
        """
        if self._hub is not None and self._hub is not gevent.get_hub():  # another thread
            done = get_original("_thread", "allocate_lock")()
            done.acquire()
            self._hub.loop.run_callback_threadsafe(gevent.spawn, self._close_for, done)
            done.acquire()
            return
        if self._closing is gevent.getcurrent():  # a listener for `close`
            return
        if self._closing is None or (self._closing.ready() and (self.peers or self.listeners)):
            self._closing = gevent.spawn(self._close)
        self._closing.join()

    def wait_closed(self) -> None:
        """Return when `close` is done."""
        self._ended.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def emptied(self) -> None:
        """Tell `close`."""
        self._empty.set()

    def _open(self) -> None:
        if self._closing is not None:
            self._closing.join()
            self._closing = None
        self._ended.clear()
        self._hub = gevent.get_hub()
        self.prepare()

    def _accept(self, listener: Listener) -> None:
        hub = gevent.get_hub()
        readable = hub.loop.io(listener.sock.fileno(), READ)
        try:
            while True:
                hub.wait(readable)
                for sock, identity in listener.accepted():
                    self.admit(sock, time.monotonic, **identity)
                gevent.sleep(listener.pause)
        finally:
            readable.close()

    def _close_for(self, done: Any) -> None:
        try:
            self.close()
        finally:
            done.release()

    def _close(self) -> None:
        for seconds in self.closing():
            self._empty.clear()
            if self.peers:
                self._empty.wait(seconds)
        self._ended.set()
        self.emit("close")


def serve(server: SMTPServer, port: int = 0, host: str | None = None, **place: Unpack[Place]) -> None:
    """Listen, and return when another greenlet has closed the server."""
    with server:
        server.listen(port, host, **place)
        server.wait_closed()


def serve_connection(sock: socket.socket, options: Options | None = None, /, **option_fields: Any) -> None:
    """Serve one connected socket, with a server of its own."""
    with SMTPServer(options, **option_fields) as server:
        server.serve_connection(sock)
