# Blocking sockets: a connection is a thread of a bounded pool that serves it and in which its hooks are
# called.
#
# The thread has the connection (`lock`) but for two times: while it polls, and while it is in a hook. A
# hook that is given up keeps its thread, and another one takes the connection on.
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
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from smtpproto_server import NEVER, PARTED, ServerCore, SocketDriver, Threads, Timers, Wait

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Generator, Mapping
    from types import TracebackType
    from typing import Unpack

    from smtpproto_server import Driver, Identity, Job, Listener, MessageStream, Options, Place, Stream

__all__ = ["SMTPServer", "serve", "serve_connection"]


STEP: Final = 0.02  # seconds that a step of `close` waits for connections in which listeners hang


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

    __slots__ = ("__weakref__", "_due_call", "_looked_up", "_polling", "_timer_at", "job", "lock")

    server: SMTPServer  # pyright: ignore[reportIncompatibleVariableOverride] - it has no other

    def __init__(
        self, server: SMTPServer, sock: socket.socket, clock: Callable[[], float], facts: Mapping[str, Any]
    ) -> None:
        self.lock: threading.RLock = threading.RLock()
        self._polling: threading.Lock = threading.Lock()
        """Held while a thread waits for the client, so a hook that was left behind, reading, goes first."""
        self.job: Job | None = None
        """The work of the thread that serves it."""
        self._due_call: Callable[[], Any] | None = None
        """The hook that is to be called."""
        self._looked_up: Latch | None = None
        """Set when the look-up has ended: another thread polls meanwhile."""
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
                    if self.noted:
                        self.go_on()
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
            self.server.serve(self, "socket")

    def _run_hook(self, call: Callable[[], Any]) -> bool:
        """Call a hook; False if it was given up, and the connection is another thread's."""
        value = error = None
        try:
            value = call()
        except KeyboardInterrupt:
            raise
        except BaseException as raised:  # noqa: BLE001 - whatever a hook raises is contained
            error = raised
        try:
            with self.lock:
                if self.hook is not call:
                    return False
                parted = self.waits is PARTED
                lost = None if parted else self.socket_error()
                if lost is not None:
                    self.note_loss(lost)
                self.returned(call, value, error)
        finally:
            del error  # its traceback holds this frame
        return True

    def _pump(self, stream: MessageStream | None) -> None:
        """Wait for the client, the time or `close`; take in what came if `stream` is still the message."""
        with self._polling:
            with self.lock:
                if self._due_call is not None:  # the look-up has ended meanwhile
                    return
                if self._is_over(stream) or self.noted:
                    self.go_on()
                    return
                poll = None if self.has_more() else self._poll()
                left = None if self.rings == NEVER else math.ceil((self.rings - self.clock()) * 1000)
            ready = {self.sock.fileno()}
            if poll is not None:
                ready = {descriptor for descriptor, _ in poll.poll(None if left is None else max(0, left))}
        with self.lock:
            if self._looked_up is not None and self._looked_up.fileno() in ready:
                self._forget_look_up()
            if self._is_over(stream):
                return
            if not ready:
                self.expired()
            elif self.sock.fileno() not in ready:
                self.go_on()
            elif self.full:
                self.writable()
            else:
                self.readable()

    def _poll(self) -> select.poll:
        """What is waited for: the client, a step of `close`, the end of a look-up."""
        poll = select.poll()
        if self.full:
            poll.register(self.sock, select.POLLOUT)
        elif not self.read_all:
            poll.register(self.sock, select.POLLIN)
        # Each step of `close` sets a latch. The ones this connection has seen stay set.
        latches = self.server.latches
        if self.stop_seen < len(latches):
            poll.register(latches[self.stop_seen], select.POLLIN)
        if self._looked_up is not None:
            poll.register(self._looked_up, select.POLLIN)
        return poll

    def _is_over(self, stream: MessageStream | None) -> bool:
        return stream is not self.stream or self.waits is PARTED or self not in self.server.peers

    # --- hooks ----------------------------------------------------------------------------------------

    def apart(self, call: Callable[[], Any]) -> None:
        """In the connection's thread, once the engine is not on its stack; a look-up in one of its own."""
        self.flush_due()
        if self.hook_name == "resolver":
            looked_up = Latch()
            try:
                self.server.lookups.submit(partial(self._look_up_name, call, looked_up))
            except RuntimeError:  # the system has no thread for it
                looked_up.close()
                raise
            self._looked_up = looked_up
            return
        self.in_thread = True
        self._due_call = call
        self._set_timer()

    def _look_up_name(self, call: Callable[[], Any], looked_up: Latch) -> None:
        self._run_hook(call)
        with self.lock:
            looked_up.set()

    def _forget_look_up(self) -> None:
        if self._looked_up is not None:
            self._looked_up.close()
            self._looked_up = None

    def drop(self) -> None:
        """Close the socket, and what waits for the look-up."""
        self._forget_look_up()
        super().drop()

    def cancel_hook(self) -> None:
        """The hook goes on, and the connection without it."""
        waits, looks_up = self._due_call is not None, self.hook_name == "resolver"
        self._due_call = None
        self._done()
        if waits or looks_up:
            return
        if self.job is not None:
            self.server.pool.leave(self.job)
        self.server.serve(self, "socket")

    def poke(self) -> None:
        """A thread that polls is woken by the server's latch; while a hook runs nobody polls.

        A lock that is held for longer is held in a listener of the application's. `close` does not wait
        for it: what was noted is seen when the listener returns.
        """
        with self._held() as held:
            if held and self.hook is not None:
                self.go_on()

    def abort(self) -> None:
        """Drop the connection, and leave a hook that runs to itself."""
        with self._held() as held:
            if held:
                super().abort()
            else:
                self.lost = self.noted = True

    def end(self) -> None:
        """Nothing is left to be done, or nothing can be: count the connection out."""
        with self._held():  # without it, too: `close` has waited long enough
            super().end()

    @contextlib.contextmanager
    def _held(self) -> Generator[bool]:
        """Have the connection, if it can be had soon; False: it could not.

        All connections of a step of `close` share its patience, so many that hang do not delay it.
        """
        server, began = self.server, time.monotonic()
        held = self.lock.acquire(timeout=server.patience)
        server.patience = max(0.0, server.patience - (time.monotonic() - began))
        try:
            yield held
        finally:
            if held:
                self.lock.release()

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
                self.expired()
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


THREADS: Final = 4096  # where `max_clients` sets no bound
LATCHES: Final = 3  # as many as `closing` has steps
LOOK: Final = 0.5  # seconds after which a wait looks again: a signal may have come just before it


class SMTPServer(ServerCore):
    """An SMTP or LMTP server. Takes an Options object or its fields as keywords."""

    coroutines: ClassVar[bool] = False
    driver: type[Driver] = Connection
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
        self.patience: float = STEP
        """How long `close` still waits for connections that something holds, in seconds."""
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
        try:
            for listener in listeners:
                Accepting(self, listener).start()
        except RuntimeError:  # the system has no thread for it
            for listener in listeners:
                listener.close()
            raise
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
        closings = self._closings
        self.prepare()
        self._make_ready()
        if self._closings != closings:  # as in `listen`
            sock.close()
            self.close()
            return
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
        self._closings += 1
        with self._closing:
            # In a signal handler, which may have come within: the call below it goes on.
            if self._in_closing or not self._open:
                return
            self._in_closing = True
            try:
                self.patience = STEP
                for latch, seconds in zip_longest(self.latches, self.closing()):
                    if latch is not None:
                        latch.set()
                    self._wait_until(lambda: not self.peers, seconds)
                    self.patience = STEP
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
            self.lookups = Threads(self.thread_limits["resolver"], "smtpproto-resolver")
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
            self.join(LOOK)  # it may hang in a listener
        if not self.is_alive():
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
