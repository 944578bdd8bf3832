# gevent: a connection is a greenlet that serves it and in which its hooks are called.
#
# That a hook waits shows in the hub coming to turn: only then are the replies before it sent and the
# client watched. The hub wakes the greenlet when something has come; the engine runs in the hub only while
# a hook has the greenlet, when it cannot ask anything.

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import gevent
from gevent.event import Event
from gevent.hub import Waiter
from gevent.lock import BoundedSemaphore
from gevent.monkey import get_original
from gevent.threadpool import ThreadPool

from smtpproto_server.adapting import PARTED, PlainDriver, ServerCore, outcome

if TYPE_CHECKING:
    import socket
    import threading
    from collections.abc import Callable, Mapping
    from typing import Unpack

    from smtpproto_server import OptionFields, Options
    from smtpproto_server.adapting import Driver, Identity, Listener, MessageStream, Place

__all__ = ["SMTPServer", "serve", "serve_connection"]

READ: Final = 1  # events, as libev and libuv have them
WRITE: Final = 2


class HookCancelled(gevent.GreenletExit):  # type: ignore[misc] # gevent ships no types for mypy
    """Raised in a hook that is given up."""


class Connection(PlainDriver):
    """A connection in a greenlet."""

    __slots__ = ("_hub", "_noticing", "_timer", "_waiter", "_watched", "_watcher", "greenlet")

    server: SMTPServer  # pyright: ignore[reportIncompatibleVariableOverride] - it has no other

    def __init__(
        self, server: SMTPServer, sock: socket.socket, clock: Callable[[], float], facts: Mapping[str, Any]
    ) -> None:
        hub = self._hub = gevent.get_hub()
        self._watcher: Any = hub.loop.io(sock.fileno(), READ)
        self._watched: int = 0
        """What the hub watches the socket for."""
        self._timer: Any = None
        self._waiter: Waiter[None] | None = None
        """Of the greenlet that waits for the client."""
        self._noticing: bool = False
        """The hub will see whether a hook waits."""
        super().__init__(server, sock, clock, facts)
        self.greenlet: gevent.Greenlet[..., None] = gevent.Greenlet(self.serve)
        self.greenlet.rawlink(self._greenlet_ended)
        self.greenlet.start()

    def _greenlet_ended(self, _greenlet: object) -> None:
        """Also if it was killed before its first step, or interrupted there."""
        if self in self.server.peers:
            self.end()
        self._stop_timer()

    # --- hooks ----------------------------------------------------------------------------------------

    def call_hook(self, call: Callable[[], Any]) -> Any:
        """In the connection's greenlet; a look-up in a thread."""
        if not self._noticing:
            self._noticing = True
            self._hub.loop.run_callback(self._notice)
        try:
            return self._look_up_name(call) if self.hook_name == "resolver" else call()
        except HookCancelled:
            raise
        except gevent.GreenletExit:  # somebody kills it
            self.lost = self.noted = True
            raise

    def _look_up_name(self, call: Callable[[], Any]) -> Any:
        """In a thread. What is raised there is raised here: SystemExit would end the hub."""
        name, error = self.server.lookups.apply(outcome, (call,))
        if error is None:
            return name
        try:
            raise error
        finally:
            del error  # its traceback holds this frame

    def _in_call(self) -> bool:
        """A hook has the greenlet."""
        return self.hook is not None and self.due_call is None

    def _notice(self) -> None:
        """The hub has come to turn: if a hook runs, it waits."""
        self._noticing = False
        if self._in_call() and self.waits is not PARTED:
            self.flush_due()
            if self.noted:  # the client was gone already
                self.go_on()
            self._watch()

    def cancel_hook(self) -> None:
        """The hook runs in the connection's own greenlet."""
        self._hub.loop.run_callback(self._throw, self.hook)

    def _throw(self, hook: object) -> None:
        if self.hook is hook and self._in_call():
            self.greenlet.throw(HookCancelled)

    # --- waiting --------------------------------------------------------------------------------------

    def wait(self, stream: MessageStream | None) -> None:
        """In the hub, until it wakes this greenlet."""
        waiter = self._waiter = Waiter(self._hub)
        if stream is not None:
            stream.reader = lambda: self._hub.loop.run_callback(waiter.switch, None)
        self._watch()
        try:
            waiter.get()
        except gevent.GreenletExit:
            if stream is not None:
                raise
            self.lose()  # somebody kills it: what is left is to tell the application
        finally:
            if self._waiter is waiter:  # else somebody else waits by now, for a hook has left this one behind
                self._waiter = None

    def _watch(self) -> None:
        """Have the hub watch the socket for what is awaited of it."""
        if self.waits is PARTED:
            return
        events = WRITE if self.full else 0 if self.held or self.read_all else READ
        if events != self._watched:
            self._watch_for(events)

    def _watch_for(self, events: int) -> None:
        self._watched = events
        self._watcher.stop()
        if events:
            self._watcher.events = events
            self._watcher.start(self._ready)

    def _ready(self) -> None:
        """Wake the greenlet that waits for the socket; while a hook has it, the hub takes in what came."""
        if self._waiter is not None:
            self._waiter.switch(None)
        elif not self._in_call():  # it waits in a listener of the application's
            self._watch_for(0)
        else:
            if self.full:
                self.writable()
            else:
                self.readable()
            self._watch()

    def _wake(self) -> None:
        if self._waiter is not None:
            self._waiter.switch(None)
        elif self._in_call():
            self.go_on()

    def poke(self) -> None:
        """In a callback of the hub."""
        self._hub.loop.run_callback_threadsafe(self._wake)

    def alarm(self, when: float) -> None:
        """By a timer of the hub."""
        self._stop_timer()
        self._timer = self._hub.loop.timer(max(0.0, when - self.clock()))
        self._timer.start(self._rang, update=True)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    def _rang(self) -> None:
        self._stop_timer()
        if self._in_call() and self._hook_works():
            self.expired()
        else:
            self.rings = 0.0  # a timer may be a little early: `expired` looks, and sets it again
            self._wake()

    def drop(self) -> None:
        """Take the socket from the loop, and close it."""
        self._watcher.close()
        super().drop()

    def finished(self) -> None:
        """The greenlet may end."""
        self._hub.loop.run_callback(self._wake)


IDLE: Final = 1  # seconds that a thread for look-ups stays


class SMTPServer(ServerCore):
    """An SMTP or LMTP server. Takes an Options object or its fields as keywords."""

    coroutines: ClassVar[bool] = False
    driver: type[Driver] = Connection
    not_of_listeners: ClassVar[tuple[type[BaseException], ...]] = (KeyboardInterrupt, gevent.GreenletExit)

    def __init__(self, options: Options | None = None, /, **fields: Unpack[OptionFields]) -> None:
        super().__init__(options, **fields)
        # Nothing switches while they are held. A patched process has locks that are Python code: a signal
        # that interrupts it would leave them locked for ever.
        self.counting: threading.RLock = get_original("_thread", "RLock")()
        self.verdicts: threading.Lock = get_original("_thread", "allocate_lock")()
        self._hub: Any = None
        self.lookups: ThreadPool
        """Threads for reverse DNS; the hub's are for others."""
        self._closing: gevent.Greenlet[..., None] | None = None
        self._entering: BoundedSemaphore = BoundedSemaphore(1)
        """Held while the handler is entered or left."""
        self._empty: Event = Event()
        self._ended: Event = Event()

    def listen(self, port: int = 0, host: str | None = None, **place: Unpack[Place]) -> Self:
        """Listen on TCP (`host` None: all interfaces), on a unix socket, or on a bound socket.

        Returns when bound; a greenlet accepts. May be called again for more, each with a `name` and
        options of its own. Raises OSError if it cannot be bound, TypeError for an option that is the same
        for all listeners, ConfigurationError for options that do not go together.
        """
        closings = self._open()
        listeners = gevent.get_hub().threadpool.apply(self.binding(port, host, **place))
        if self.overtaken(closings, *listeners):
            return self
        for listener in listeners:
            listener.release = gevent.spawn(self._accept, listener).kill
        return self.listening(listeners)

    def serve_connection(self, sock: socket.socket, **identity: Unpack[Identity]) -> None:
        """Serve a connected socket from greeting to close; what is given replaces its own facts.

        The socket belongs to the server from here on. Options of its own are as in `listen`.
        """
        if self.overtaken(self._open(), sock):
            return
        connection: Connection | None = self.admit(sock, time.monotonic, **identity)
        if connection is not None:
            try:
                connection.greenlet.join()
            except BaseException:  # we are killed, or have run out of time
                connection.abort()
                connection.greenlet.join()
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

    def __exit__(self, *_: object) -> None:
        self.close()

    def emptied(self) -> None:
        """Tell `close`."""
        self._empty.set()

    def _open(self) -> int:
        """Before anything is served: be as new after a `close`. How often that has begun before."""
        if self._closing is not None:
            self._closing.join()
            self._closing = None
        self._ended.clear()
        if self._hub is not gevent.get_hub():
            self._hub = gevent.get_hub()
            self.lookups = ThreadPool(self.thread_limits["resolver"], self._hub, IDLE)
        self.prepare()
        closings = self.closings
        with self._entering:
            self.managers.enter()
        return closings

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
        self.close_begins()
        for seconds in self.closing():
            self._empty.clear()
            if self.peers:
                self._empty.wait(seconds)
        try:
            with self._entering:
                self.managers.leave()
        finally:
            self._ended.set()
            self.emit("close")


def serve(server: SMTPServer, port: int = 0, host: str | None = None, **place: Unpack[Place]) -> None:
    """Listen, and return when another greenlet has closed the server."""
    with server:
        server.listen(port, host, **place)
        server.wait_closed()


def serve_connection(
    sock: socket.socket, options: Options | None = None, /, **fields: Unpack[OptionFields]
) -> None:
    """Serve one connected socket, with a server of its own."""
    with SMTPServer(options, **fields) as server:
        server.serve_connection(sock)
