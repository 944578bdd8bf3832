"""An adapter on the standard library's selectors: one thread waits for all clients, others run the hooks."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from smtpproto_server.adapting import NEVER, PARTED, Driver, ServerCore, SocketDriver, Threads, Wait

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from smtpproto_server import Options, Stream
    from smtpproto_server.adapting import Listener

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
LONGEST: Final = 60.0  # seconds after which the selector's thread looks at the time again


class Connection(SocketDriver):
    """Runs in whichever thread has the server's lock; no hook is called with it."""

    __slots__ = ("watched",)

    server: SMTPServer  # pyright: ignore[reportIncompatibleVariableOverride] - it has no other

    def __init__(
        self, server: SMTPServer, sock: socket.socket, clock: Callable[[], float], facts: Mapping[str, Any]
    ) -> None:
        self.watched: int = 0
        """What the selector watches the socket for."""
        super().__init__(server, sock, clock, facts)

    def go_on(self) -> None:
        """Run until something is awaited, and have the socket watched for it."""
        super().go_on()
        self.watch()

    def watch(self) -> None:
        """See that the selector's thread waits for what this connection waits for."""
        if self.waits is PARTED or self.lost:
            events = 0
        elif self.full:
            events = WRITE
        else:
            events = 0 if self.held or self.read_all or self.waits is Wait.HOOK else READ
        selector = self.server.selector
        if events != self.watched:
            if self.watched:
                selector.unregister(self.sock)
            if events:
                selector.register(self.sock, events, self.ready)
            self.watched = events
        self.server.knock()

    def ready(self) -> None:
        """The socket can be read, or written if that is waited for."""
        if self.full:
            self.writable()
        else:
            self.readable()

    # --- what a driver asks of its runtime ----------------------------------------------------------

    def hold(self) -> None:
        """Read no more for now; `go_on` sees when that is over."""
        self.watch()

    def drop(self) -> None:
        """Take the socket from the selector, and close it."""
        self.watch()
        super().drop()

    def poke(self) -> None:
        """Any thread may go on with a connection."""
        with self.server.lock:
            self.go_on()

    def apart(self, call: Callable[[], Any]) -> None:
        """In a thread."""
        self.flush_due()
        self.in_thread = True  # a hook that is given up keeps it: it must not see what comes after
        threads = self.server.lookups if self.hook_name == "resolver" else self.server.hooks
        try:
            threads.submit(partial(self.work, call))
        except RuntimeError as error:  # the system has none for it
            self.returned(call, error=error)

    def work(self, call: Callable[[], Any]) -> None:
        """Call a hook, in its thread."""
        value = error = None
        try:
            value = call()
        except BaseException as raised:  # noqa: BLE001 - whatever a hook raises is contained
            error = raised
        with self.server.lock:
            # The socket was not watched meanwhile: a client that has reset the connection is not answered.
            if self.waits is not PARTED and (lost := self.socket_error()) is not None:
                self.lose(lost)
            self.returned(call, value, error)

    def cancel_hook(self) -> None:
        """A thread cannot be ended: leave it alone, and go on without what it returns."""
        self.returned(self.hook)

    def read_plainly(self, stream: Stream) -> bytes:
        """The hook's thread waits until the selector's has brought the next piece."""
        brought, lock = threading.Event(), self.server.lock
        with lock:
            self.begin_read(stream)
            stream.reader = brought.set
        try:
            while True:
                with lock:
                    piece = self.try_read(stream)
                if piece is not None:
                    return piece
                brought.wait()
                brought.clear()
        finally:
            with lock:
                self.end_read(stream)


class SMTPServer(ServerCore):
    """The server; its options, hooks, events and the rest come with ServerCore."""

    coroutines: ClassVar[bool] = False
    driver: type[Driver] = Connection

    def __init__(self, options: Options | None = None, /, **option_fields: Any) -> None:
        super().__init__(options, **option_fields)
        self.lock = threading.RLock()
        self.change = threading.Condition(self.lock)
        self.thread: threading.Thread | None = None
        self.is_closing = False
        self.lookups: Threads
        self.hooks: Threads
        self.selector: selectors.BaseSelector
        self.knocker: socket.socket
        self.door: socket.socket

    def listen(self, port: int = 0, host: str | None = None, **place: Any) -> Self:
        """Listen on TCP, on a unix socket, or on a bound socket."""
        closings = self.open()
        listeners = self.binding(port, host, **place)()
        with self.lock:
            if self.overtaken(closings, *listeners):
                return self
            for listener in listeners:
                self.accept_from(listener)
        return self.listening(listeners)  # not with the lock: a listener may close the server

    def serve_connection(self, sock: socket.socket, **identity: Any) -> None:
        """Serve a connected socket from greeting to close."""
        closings = self.open()
        with self.lock:
            if closings != self.closings:
                sock.close()
                return
            connection = self.connect(sock, identity)
            self.change.wait_for(lambda: connection not in self.peers)

    def close(self) -> None:
        """Stop listening, let open transactions end, and return when all connections are gone."""
        if threading.current_thread() is self.thread:  # a listener for one of the server's events
            threading.Thread(target=self.close).start()
            return
        self.close_begins()
        with self.lock:
            if self.thread is None or self.is_closing:
                self.wait_closed()
                return
            self.is_closing = True
            for seconds in self.closing():
                self.change.wait_for(lambda: not self.peers, seconds)
            self.knocker.close()
        self.thread.join()
        with self.lock:
            for each in (self.hooks, self.lookups, self.selector, self.door):
                each.close()
            self.managers.leave()
            self.thread = None
            self.emit("close")
            self.change.notify_all()

    def wait_closed(self) -> None:
        """Return when `close` is done."""
        with self.lock:
            self.change.wait_for(lambda: self.thread is None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the selector's thread ----------------------------------------------------------------------

    def open(self) -> int:
        """Start it, and what it needs; first let a `close` come to its end."""
        closings = self.closings
        self.prepare()
        with self.lock:
            if self.is_closing:
                self.wait_closed()
            if self.thread is None:
                self.managers.enter()
                self.hooks = Threads(self.thread_limits["on_data"], "hooks")
                self.lookups = Threads(self.thread_limits["resolver"], "names")
                self.selector = selectors.DefaultSelector()
                self.door, self.knocker = socket.socketpair()
                self.knocker.settimeout(0)
                self.selector.register(self.door, READ, lambda: self.door.recv(4096))
                self.is_closing = False
                self.thread = threading.Thread(target=self.run)
                self.thread.start()
        return closings

    def run(self) -> None:
        """Wait for all sockets, and for the time."""
        while self.knocker.fileno() >= 0:
            with self.lock:
                soonest = min((peer.rings for peer in self.peers), default=NEVER)
            ready = self.selector.select(min(soonest - time.monotonic(), LONGEST))
            with self.lock:
                for key, _ in ready:
                    key.data()
                for peer in [each for each in self.peers if each.rings <= time.monotonic()]:
                    peer.expired()

    def knock(self) -> None:
        """Have it look again at what is to be waited for."""
        if threading.current_thread() is not self.thread:
            with suppress(OSError):  # full, or closed at the end
                self.knocker.send(b"!")

    # --- connections --------------------------------------------------------------------------------

    def accept_from(self, listener: Listener) -> None:
        """Accept connections from now on."""
        with self.lock:
            if listener.sock.fileno() >= 0:
                self.selector.register(listener.sock, READ, partial(self.accept, listener))
                listener.release = partial(self.selector.unregister, listener.sock)
                self.knock()

    def accept(self, listener: Listener) -> None:
        """Serve all that wait."""
        for sock, identity in listener.accepted():
            self.connect(sock, identity)
        if listener.pause:  # the system has no more descriptors
            self.selector.unregister(listener.sock)
            timer = threading.Timer(listener.pause, self.accept_from, [listener])
            listener.release = timer.cancel
            timer.start()

    def connect(self, sock: socket.socket, identity: Mapping[str, Any]) -> Connection | None:
        """Begin to serve a connected socket, unless it is over the limit."""
        connection: Connection | None = self.admit(sock, time.monotonic, **identity)
        if connection is not None:
            connection.go_on()
        return connection

    def gone(self, peer: object) -> None:
        """Tell all who wait for the end of a connection."""
        super().gone(peer)
        self.change.notify_all()
