"""An adapter on the standard library's selectors: a connection has a thread only while there is work."""

from __future__ import annotations

import math
import selectors
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from smtpproto_server import GIVEN_UP, Outcome, PlainPeer, PlainServer, Wait

if TYPE_CHECKING:
    from collections.abc import Callable

    from smtpproto_server import Serving

THREADS: Final = 1000


class Connection(PlainPeer["SMTPServer"]):
    """Takes its steps in a thread of the pool; the selector's thread waits for it."""

    woken: bool = False

    def take(self, value: Any = None) -> None:
        """Take steps, up to the next that waits."""
        self.woken = False
        while value is not GIVEN_UP and (step := self.step(value)) is not None:
            if isinstance(step, Wait):
                self.server.soon(self.server.park, self, step)
                return
            value = self.call(step, self.turn)

    def go_on(self) -> None:
        """The hook was given up: its thread will not come back."""
        self.server.pool.submit(self.take)

    def wake(self) -> None:
        """End the wait, or the one that is about to begin."""
        self.woken = True
        self.server.soon(self.server.unpark, self)


class SMTPServer(PlainServer):
    """The server; `listen`, `serve_connection` and `close` come with PlainServer."""

    thread: threading.Thread | None = None

    def open(self) -> None:
        """Start the selector's thread."""
        super().open()
        if self.thread is None:
            self.pool = ThreadPoolExecutor(THREADS)
            self.calls: SimpleQueue[Callable[[], object]] = SimpleQueue()
            self.parked: dict[Connection, float] = {}
            self.knocker, self.door = socket.socketpair()
            self.selector = selectors.DefaultSelector()
            self.selector.register(self.door, selectors.EVENT_READ, lambda: self.door.recv(4096))
            self.thread = threading.Thread(target=self.run)
            self.thread.start()

    def soon(self, call: Callable[..., object], *args: object) -> None:
        """Call it in the selector's thread."""
        self.calls.put(partial(call, *args))
        self.knocker.send(b"!")

    def run(self) -> None:
        """Wait for all sockets and deadlines."""
        while self.thread is not None:
            soonest = min(self.parked.values(), default=math.inf)
            seconds = None if soonest == math.inf else max(0.0, soonest - time.monotonic())
            for key, _ in self.selector.select(seconds):
                key.data()
            while not self.calls.empty():
                self.calls.get()()
            for connection in [peer for peer, at in self.parked.items() if at <= time.monotonic()]:
                self.unpark(connection, Outcome.TIMED_OUT)

    def park(self, connection: Connection, wait: Wait) -> None:
        """Wait for a connection's socket."""
        event = selectors.EVENT_WRITE if wait.writing else selectors.EVENT_READ
        self.parked[connection] = math.inf if wait.deadline is None else wait.deadline
        self.selector.register(connection.sock, event, partial(self.unpark, connection))
        if connection.woken:
            self.unpark(connection)

    def unpark(self, connection: Connection, value: Outcome | None = None) -> None:
        """Give it a thread."""
        if self.parked.pop(connection, None) is not None:
            self.selector.unregister(connection.sock)
            self.pool.submit(connection.take, value)

    def serve(self, sock: socket.socket, serving: Serving) -> Connection:
        """Begin with the first step."""
        connection = Connection(self, sock, serving)
        self.pool.submit(connection.take)
        return connection

    def closed_all(self) -> None:
        """The selector's thread ends with the server."""
        thread, self.thread = self.thread, None
        if thread is not None:
            self.knocker.send(b"!")
            thread.join()
            self.pool.shutdown(wait=False)
            for each in (self.selector, self.knocker, self.door):
                each.close()
        super().closed_all()
