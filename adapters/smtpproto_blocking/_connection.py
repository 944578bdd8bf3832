# One connection on blocking sockets: a thread that serves it and in which its hooks are called.
#
# The thread has the connection (`lock`) but for two times: while it polls, and while it is in a hook. A
# hook that is given up keeps its thread, and another one takes the connection on.

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
import threading
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

from smtpproto_server import NEVER, PARTED, SocketDriver, Wait

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from smtpproto_blocking._server import SMTPServer
    from smtpproto_server import MessageStream, Stream

__all__ = ["Connection", "Latch"]


class Latch:
    """Set once, and can be polled for it by any number of threads: a pipe nobody writes to."""

    __slots__ = ("_reading", "_writing")

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()

    def fileno(self) -> int:
        """Readable when set."""
        return self._reading

    def set(self) -> None:
        """Wake whoever polls, now and later."""
        if self._writing >= 0:
            os.close(self._writing)
            self._writing = -1

    def close(self) -> None:
        """Nobody polls it any more."""
        self.set()
        os.close(self._reading)


class Connection(SocketDriver):
    """A connection in a thread."""

    __slots__ = ("__weakref__", "_due_call", "_polling", "_timer_at", "lock")

    server: SMTPServer  # pyright: ignore[reportIncompatibleVariableOverride] - it has no other

    def __init__(
        self, server: SMTPServer, sock: socket.socket, clock: Callable[[], float], facts: Mapping[str, Any]
    ) -> None:
        self.lock: threading.RLock = threading.RLock()
        self._polling: threading.Lock = threading.Lock()
        """Held while a thread waits for the client, so a hook that was left behind, reading, goes first."""
        self._due_call: Callable[[], Any] | None = None
        """The hook that is to be called."""
        self._timer_at: float = NEVER
        """When the server's timer calls."""
        super().__init__(server, sock, clock, facts)

    # --- the thread -----------------------------------------------------------------------------------

    def serve(self) -> None:
        """Serve in this thread, to the end or until a hook in it is given up."""
        try:
            with self.lock:
                self.go_on()
            while self in self.server.peers:
                with self.lock:
                    call, self._due_call = self._due_call, None
                if call is None:
                    self._pump(None)
                elif not self._run_hook(call):
                    return
        except BaseException as error:  # noqa: BLE001 - a fault of ours ends one session, not the server
            self.server.report(error, "socket", self.session)
            self.end()

    def turn_away(self) -> None:
        """Serve a client over the limit where it was accepted: its 421 is sent, and not waited for."""
        with self.lock:
            self.go_on()
            if self.waits is Wait.LINGER:
                self.readable()  # what it has sent already would turn the end into a reset
            if self.waits is not PARTED:
                self.lose()
            called = self._due_call is not None
        if called:  # on_close
            self.server.serve(self)

    def _run_hook(self, call: Callable[[], Any]) -> bool:
        """Call a hook; False if it was given up, and the connection is another thread's."""
        value = error = None
        try:
            value = call()
        except KeyboardInterrupt:
            raise
        except BaseException as raised:  # noqa: BLE001 - whatever a hook raises is contained
            error = raised
        with self.lock:
            if self.hook is not call:
                return False
            number = 0 if self.waits is PARTED else self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                self.lost, self.fault, self.noted = True, OSError(number, os.strerror(number)), True
            self.returned(call, value, error)
        return True

    def _pump(self, stream: MessageStream | None) -> None:
        """Wait for the client, the time or `close`; take in what came if `stream` is still the message."""
        with self._polling:
            poll = select.poll()
            with self.lock:
                if self._is_over(stream) or self.noted:
                    self.go_on()
                    return
                poll.register(self.sock, select.POLLOUT if self.full else select.POLLIN)
                # Each step of `close` sets a latch. The ones this connection has seen stay set.
                latches = self.server.latches
                if self.stop_seen < len(latches):
                    poll.register(latches[self.stop_seen], select.POLLIN)
                left = None if self.when == NEVER else math.ceil((self.when - self.clock()) * 1000)
            ready = {descriptor for descriptor, _ in poll.poll(None if left is None else max(0, left))}
        with self.lock:
            if self._is_over(stream):
                return
            if not ready:
                self.rang()
            elif self.sock.fileno() not in ready:
                self.go_on()
            elif self.full:
                self.writable()
            else:
                self.readable()

    def _is_over(self, stream: MessageStream | None) -> bool:
        return stream is not self.stream or self.waits is PARTED or self not in self.server.peers

    # --- hooks ----------------------------------------------------------------------------------------

    def apart(self, call: Callable[[], Any]) -> None:
        """In the connection's thread, once the engine is not on its stack; a look-up in one of its own."""
        self._flush_due()
        if self.hook_name == "resolver":
            self.server.lookups.submit(partial(self._look_up_name, call))
            return
        self.in_thread = True
        self._due_call = call
        self._set_timer()

    def _look_up_name(self, call: Callable[[], Any]) -> None:
        self._run_hook(call)

    def cancel_hook(self) -> None:
        """The hook goes on, and the connection without it."""
        waits, looks_up = self._due_call is not None, self.hook_name == "resolver"
        self._due_call = None
        self._done()
        if waits or looks_up:
            return
        try:
            self.server.pool.submit(self.serve)
        except RuntimeError as error:  # the system has no thread for it
            self.server.report(error, "socket", self.session)
            self.end()

    def poke(self) -> None:
        """A thread that polls is woken by the server's latch; while a hook runs nobody polls."""
        with self.lock:
            if self.hook is not None:
                self.go_on()

    def _set_timer(self) -> None:
        """A thread in a hook does not look at the time: the server's timer does."""
        if self._hook_works() and self.hook_ends < self._timer_at:
            self._timer_at = self.hook_ends
            self.server.timers.call_at(self.hook_ends, partial(_ring, weakref.ref(self)))

    def look_at_hook(self) -> None:
        """The timer: the time of a hook may be over."""
        with self.lock:
            self._timer_at = NEVER
            if self._hook_works() and self.clock() >= self.hook_ends:
                self.rang()
            else:
                self._set_timer()

    def read_plainly(self, stream: Stream) -> bytes:
        """The thread that reads waits for the client."""
        with self.lock:
            self.begin_read(stream)
        try:
            while True:
                with self.lock:
                    piece = self.try_read(stream)
                if piece is not None:
                    return piece
                self._pump(stream)
        finally:
            with self.lock, contextlib.suppress(OSError):
                self.end_read(stream)
                self._set_timer()


def _ring(connection: weakref.ref[Connection]) -> None:
    found = connection()
    if found is not None:
        found.look_at_hook()
