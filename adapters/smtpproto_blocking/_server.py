# Blocking sockets: a connection is a thread of a bounded pool that serves it and in which its hooks are
# called.
#
# The thread has the connection (`lock`) but for two times: while it polls, and while it is in a hook. A
# hook that is given up keeps its thread, and another one takes the connection on. A look-up has the
# connection alone, in a thread for look-ups, and then hands it back to the pool.
#
# The server may be closed from any thread and from a signal handler. A handler may run in between any two
# steps of the main thread, so what is waited for there is waited for a moment at a time.

from __future__ import annotations

import contextlib
import math
import os
import select
import threading
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from smtpproto_server.adapting import (
    NEVER,
    PARTED,
    PlainDriver,
    ServerCore,
    Threads,
    Timers,
    Wait,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping
    from typing import Unpack

    from smtpproto_server import OptionFields, Options, Stream
    from smtpproto_server.adapting import Arrival, Driver, Identity, Job, Listener, MessageStream, Place

__all__ = ["SMTPServer", "serve", "serve_connection"]


STEP: Final = 0.02  # seconds until something is looked at again that could not be waited for


class Connection(PlainDriver):
    """A connection in a thread."""

    __slots__ = ("__weakref__", "_polling", "_timer_at", "job", "lock")

    server: SMTPServer  # pyright: ignore[reportIncompatibleVariableOverride] - it has no other

    def __init__(
        self, server: SMTPServer, sock: socket.socket, clock: Callable[[], float], facts: Mapping[str, Any]
    ) -> None:
        self.lock: threading.RLock = threading.RLock()
        self._polling: threading.Lock = threading.Lock()
        """Held while a thread waits for the client; the thread of a hook that was given up may be one."""
        self.job: Job | None = None
        """The work of the thread that serves it."""
        self._timer_at: float = NEVER
        """When the server's timer calls."""
        super().__init__(server, sock, clock, facts)

    # --- the thread -----------------------------------------------------------------------------------

    def serve(self) -> None:
        """In a thread of the pool."""
        try:
            with self.lock:
                super().serve()
        except BaseException as error:  # noqa: BLE001 - a fault of ours ends one session, not the server
            if self in self.server.peers:  # else `close` has waited long enough
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
            called = self.due_call is not None
        if called:  # on_close
            self.server.serve(self, "socket")

    def wait(self, stream: MessageStream | None) -> None:  # noqa: ARG002 - it has no more to wait for
        """For the client, for `close`, and for the time."""
        poll, server = select.poll(), self.server
        if self.full:
            poll.register(self.sock, select.POLLOUT)
        elif not self.read_all:
            poll.register(self.sock, select.POLLIN)
        until = self.rings
        wake = server.wake  # those that wait keep it
        if wake.was_set:  # `close` has begun, and its next steps wake nobody
            until = min(until, self.clock() + STEP)
        else:
            poll.register(wake, select.POLLIN)
        left = None if until == NEVER else max(0, math.ceil((until - self.clock()) * 1000))
        self._unlocked(partial(self._poll, poll, left))

    def _poll(self, poll: select.poll, left: int | None) -> None:
        with self._polling:
            poll.poll(left)

    def _unlocked(self, call: Callable[[], Any]) -> Any:
        self.lock.release()
        try:
            return call()
        finally:
            self.lock.acquire()

    # --- hooks ----------------------------------------------------------------------------------------

    def apart(self, call: Callable[[], Any]) -> None:
        """In the connection's thread, which may be kept; so the replies before it are sent."""
        self.flush_due()
        self.in_thread = True
        super().apart(call)
        self._set_timer()

    def run_hook(self, call: Callable[[], Any]) -> bool:
        """A look-up has a thread of its own, which hands the connection back to one of the pool."""
        if self.hook_name != "resolver":
            return super().run_hook(call)
        try:
            self.server.lookups.submit(partial(self._name_client, call))
        except RuntimeError as error:  # the system has no thread for it
            self.returned(call, error=error)
            return True
        return False

    def _name_client(self, call: Callable[[], Any]) -> None:
        with self.lock:
            if self.hook is call and super().run_hook(call):
                self.server.serve(self, "socket")

    def call_hook(self, call: Callable[[], Any]) -> Any:
        """Without the lock. Nobody has watched the client meanwhile."""
        try:
            return self._unlocked(call)
        finally:
            if self.hook is call and self.waits is not PARTED:
                lost = self.socket_error()
                if lost is not None:
                    self.note_loss(lost)

    def cancel_hook(self) -> None:
        """The hook goes on, and the connection without it."""
        began, looks_up = self.due_call is None, self.hook_name == "resolver"
        self.due_call: Callable[[], Any] | None = None
        self._done()
        if began:
            if self.job is not None and not looks_up:
                self.server.pool.leave(self.job)
            self.server.serve(self, "socket")

    def read_plainly(self, stream: Stream) -> bytes:
        """With the lock but for the waits."""
        with self.lock:
            try:
                return super().read_plainly(stream)
            finally:
                self._set_timer()

    # --- the timers' thread ---------------------------------------------------------------------------

    def poke(self) -> None:
        """By the timers' thread: while a hook runs nobody polls."""
        self._look_at(0.0)

    def abort(self) -> None:
        """Drop the connection, and leave a hook that runs to itself."""
        self.lost = True
        self.stop(now=True)

    def look(self) -> None:
        """Go on if a hook runs: its time may be over, or the session is to end. Else wake who polls."""
        if not self.lock.acquire(blocking=False):  # it is held for long in a listener of the application's
            self._look_at(self.clock() + STEP)
            return
        try:
            self._timer_at = NEVER
            if self.hook is not None:
                self.go_on()
            if self._hook_works() and self.clock() >= self.hook_ends:
                self.expired()
            self._set_timer()
            if self.stopping and not self.server.ending.was_set:
                self.server.wake_all()
        finally:
            self.lock.release()

    def _set_timer(self) -> None:
        if self._hook_works() and self.hook_ends < self._timer_at:
            self._timer_at = self.hook_ends
            self._look_at(self.hook_ends)

    def _look_at(self, when: float) -> None:
        self.server.timers.call_at(when, partial(_look, weakref.ref(self)))


def _look(connection: weakref.ref[Connection]) -> None:
    found = connection()
    if found is not None:
        found.look()


class Wake:
    """Readable once it was set: the end of a pipe into which nobody writes, and whose other end is closed."""

    def __init__(self) -> None:
        self.was_set: bool = False
        self._read, self._write = os.pipe()

    def fileno(self) -> int:
        """For `poll`."""
        return self._read

    def set(self) -> None:
        """Wake all that wait for it."""
        self.was_set = True
        write, self._write = self._write, -1
        if write >= 0:
            os.close(write)

    def close(self) -> None:
        """Nobody waits for it any more."""
        self.set()
        read, self._read = self._read, -1
        if read >= 0:
            os.close(read)

    __del__ = close


THREADS: Final = 4096  # where `max_clients` sets no bound
LOOK: Final = 0.5  # seconds after which a wait looks again: a signal may have come just before it


class SMTPServer(ServerCore):
    """An SMTP or LMTP server. Takes an Options object or its fields as keywords."""

    coroutines: ClassVar[bool] = False
    driver: type[Driver] = Connection
    threads: ClassVar[int] = THREADS
    """Connections that are served at a time when `max_clients` is None; more wait their turn."""

    def __init__(self, options: Options | None = None, /, **fields: Unpack[OptionFields]) -> None:
        super().__init__(options, **fields)
        self.ending: Wake
        """Set once `close` has begun."""
        self.wake: Wake
        """Set then, and when a connection is to look at what was noted; then there is another one."""
        self.pool: Threads
        """The threads of connections; as many again as `max_clients` for those that are refused."""
        self.lookups: Threads
        self.timers: Timers
        self._in_closing: bool = False
        self._closing: threading.RLock = threading.RLock()
        self._open: bool = False
        self._change: threading.Condition = threading.Condition()

    # --- listening and closing ----------------------------------------------------------------------

    def listen(self, port: int = 0, host: str | None = None, **place: Unpack[Place]) -> Self:
        """Listen on TCP (`host` None: all interfaces), on a unix socket, or on a bound socket.

        Returns when bound; a thread accepts. May be called again for more, each with a `name` and
        options of its own. Raises OSError if it cannot be bound, TypeError for an option that is the same
        for all listeners, ConfigurationError for options that do not go together, RuntimeError if the
        system has no thread.
        """
        closings = self._begin()
        listeners = self.binding(port, host, **place)()
        accepting = threading.Thread(
            target=self._accept, args=[listeners], name="smtpproto-accept", daemon=True
        )
        try:
            accepting.start()
        except RuntimeError:  # the system has no thread for it
            for listener in listeners:
                listener.close()
            raise
        for listener in listeners:
            listener.release = partial(_join, accepting)
        self.listening(listeners)
        if self.overtaken(closings, *listeners):  # a signal handler has closed the server meanwhile
            self.listeners.clear()
            self.close()
        return self

    def serve_connection(self, sock: socket.socket, **identity: Unpack[Identity]) -> None:
        """Serve a connected socket from greeting to close; what is given replaces its own facts.

        The socket belongs to the server from here on. Options of its own are as in `listen`.
        """
        if self.overtaken(self._begin(), sock):  # as in `listen`
            self.close()
            return
        connection = self.connect(sock, **identity)
        self._wait_until(lambda: connection not in self.peers)

    def connect(self, sock: socket.socket, **identity: Unpack[Arrival]) -> Connection | None:
        """Begin to serve a connected socket, unless it is over the limit."""
        connection: Connection | None = self.admit(sock, time.monotonic, **identity)
        if connection is None:
            return None
        if connection.refused and not connection.implicit_tls:
            connection.turn_away()
        else:
            self.serve(connection, "accept")
        return connection

    def serve(self, connection: Connection, stage: str) -> None:
        """In a thread of the pool. An error is one of this `stage`."""
        try:
            with connection.lock:  # its thread begins when it has its job
                connection.job = self.pool.submit(connection.serve)
        except RuntimeError as error:  # the system has no thread for it
            self.report(error, stage, connection.session)
            connection.end()

    def close(self) -> None:
        """Stop listening, let open transactions end, and return when all connections are gone.

        At the latest that is 6 seconds after `close_timeout`. A second call waits for the first.
        """
        self.close_begins()
        with self._closing:
            # In a signal handler, which may have come within: the call below it goes on.
            if self._in_closing or not self._open:
                return
            self._in_closing = True
            try:
                self.ending.set()
                self.wake.set()
                for seconds in self.closing():
                    self._wait_until(lambda: not self.peers, seconds)
                self._let_go()
            finally:
                self._in_closing = False

    def wait_closed(self) -> None:
        """Return when `close` is done, in a signal handler or in another thread."""
        self._wait_until(lambda: not self._open)

    def wake_all(self) -> None:
        """Have all that wait for their clients look at what was noted. In the timers' thread alone."""
        woken = self.wake
        with contextlib.suppress(OSError):  # without a descriptor for a new one they look again and again
            self.wake = Wake()
        woken.set()
        if self.ending.was_set:  # meanwhile
            self.wake.set()

    def _let_go(self) -> None:
        """Everything has ended; a thread that will not end is left to itself."""
        for threads in (self.pool, self.lookups, self.timers):
            threads.close()
        self.ending.close()
        self.wake.close()
        try:
            self.managers.leave()
        finally:
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

    def _begin(self) -> int:
        """Before anything is served: be as new after a `close`. How often `close` was called before."""
        closings = self.closings
        self.prepare()
        with self._closing:
            if not self._open:
                self.managers.enter()
                try:
                    self._make()
                except BaseException:
                    self.managers.leave()
                    raise
                self._open = True
        return closings

    def _make(self) -> None:
        """Raises OSError or RuntimeError if the system has no descriptor or no thread."""
        limit = self.options.max_clients
        self.pool = Threads(self.threads if limit is None else 2 * limit, "smtpproto")
        self.lookups = Threads(self.thread_limits["resolver"], "smtpproto-resolver")
        self.timers = Timers()
        self.ending, self.wake = Wake(), Wake()
        self.timers.start()

    def _accept(self, listeners: list[Listener]) -> None:
        """In a thread, until the server closes."""
        if self.ending.was_set:
            return
        ended, poll, ending = select.poll(), select.poll(), self.ending
        ended.register(ending, select.POLLIN)
        for descriptor in (ending.fileno(), *(listener.sock.fileno() for listener in listeners)):
            poll.register(descriptor, select.POLLIN)
        while not ended.poll(max(listener.pause for listener in listeners) * 1000):
            poll.poll()
            for listener in listeners:
                for sock, identity in listener.accepted():
                    try:
                        self.connect(sock, **identity)
                    except Exception as error:  # noqa: BLE001 - costs this connection, not the others
                        self.report(error, "accept", None)
                        with contextlib.suppress(OSError):
                            sock.close()

    def gone(self, peer: object) -> None:
        """Tell all who wait."""
        super().gone(peer)
        with self._change:
            self._change.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _join(accepting: threading.Thread) -> None:
    if accepting is not threading.current_thread():  # a listener for `error` may close the server
        accepting.join(LOOK)  # it may hang in a listener


def serve(server: SMTPServer, port: int = 0, host: str | None = None, **place: Unpack[Place]) -> None:
    """Listen, and return when the server was closed by another thread or a signal handler."""
    with server:
        server.listen(port, host, **place)
        server.wait_closed()


def serve_connection(
    sock: socket.socket, options: Options | None = None, /, **fields: Unpack[OptionFields]
) -> None:
    """Serve one connected socket, with a server of its own."""
    with SMTPServer(options, **fields) as server:
        server.serve_connection(sock)
