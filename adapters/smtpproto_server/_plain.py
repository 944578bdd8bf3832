# Connections and servers for runtimes without coroutines, where a hook is called in a thread.
#
# A thread that is in a hook cannot be cancelled, but it can be left alone: the connection belongs
# to whoever has its turn. A hook that is given up loses the turn, somebody else takes the steps
# on, and what the hook returns one day is nobody's.

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
import threading
import time
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Self, TypeVar

from smtpproto_server._effects import Ask, Outcome
from smtpproto_server._peer import TOO_LATE, Peer, Wait
from smtpproto_server._server import ServerCore
from smtpproto_server._steps import call_plain, plain_call

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import TracebackType
    from typing import Unpack

    from smtpproto_server._listener import Listener
    from smtpproto_server._loop import Serving
    from smtpproto_server._options import Options
    from smtpproto_server._peer import Step
    from smtpproto_server._server import Identity, Place
    from smtpproto_server._stream import MessageBody

__all__ = ["GIVEN_UP", "Latch", "PlainPeer", "PlainServer"]


class _GivenUp:
    """The hook was given up: the thread it ran in has nothing to do with the connection any more."""


GIVEN_UP: Final = _GivenUp()


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


class PlainServer(ServerCore):
    """A server whose hooks are plain functions. It may be closed from any thread.

    A runtime says how to serve a connection that was accepted.
    """

    coroutines: ClassVar[bool] = False
    flushes_first: ClassVar[bool] = True

    def __init__(self, options: Options | None = None, /, **option_fields: Any) -> None:
        super().__init__(options, **option_fields)
        self.latches: list[Latch] = []
        """Set, one after the other, by the steps of `close`."""
        self._closing: threading.RLock = threading.RLock()
        self._in_closing: bool = False
        self._closed: bool = False
        self._change: threading.Condition = threading.Condition()
        self._gate: threading.Lock = threading.Lock()  # held while it is open

    def serve(self, sock: socket.socket, serving: Serving) -> PlainPeer[Any]:
        """Make a connection, and see that somebody takes its steps: of the runtime's own."""
        raise NotImplementedError

    # --- listening and closing ----------------------------------------------------------------------

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
        peer = self.connect(sock, **identity)
        self.wait_until(lambda: peer not in self.peers)

    def connect(self, sock: socket.socket, **identity: Unpack[Identity]) -> PlainPeer[Any] | None:
        """Begin to serve a connected socket, unless it is one too many."""
        serving = self.admit(sock, time.monotonic, **identity)
        return None if serving is None else self.serve(sock, serving)

    def close(self) -> None:
        """Stop listening, let open transactions end, and return when all connections are gone.

        At the latest that is 6 seconds after `close_timeout`. A second call waits for the first.
        """
        with self._closing:
            # In a signal handler, which may have come within: the call below it goes on.
            if self._in_closing or self._closed:
                return
            self._in_closing = True
            try:
                for latch, seconds in zip_longest(self.latches, self.closing()):
                    if latch is not None:
                        latch.set()
                    self.wait_until(lambda: not self.peers, seconds)
                self.closed_all()
            finally:
                self._in_closing = False

    def closed_all(self) -> None:
        """Let go of everything; `close` is done."""
        while self.latches:
            self.latches.pop().close()
        self._closed = True
        self.emit("close")
        if self._gate.locked():
            self._gate.release()

    def wait_closed(self) -> None:
        """Return when `close` is done, in a signal handler or in another thread."""
        # Not a Condition: a handler may run between its look and its wait, and would not be noticed.
        with self._gate:
            return

    def wait_until(self, true: Callable[[], bool], seconds: float | None = None) -> None:
        """Wait for what comes true when a connection ends, or the server."""
        with self._change:
            self._change.wait_for(true, seconds)

    def open(self) -> None:
        """Before anything is served: build what it needs, be as new after a `close`."""
        with self._closing:
            self._closed = False
            self._gate.acquire(blocking=False)
            if not self.latches:
                self.latches = [Latch() for _ in range(LATCHES)]

    def gone(self, peer: Peer[Any]) -> None:
        """Tell all who wait."""
        self.peers.discard(peer)
        with self._change:
            self._change.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


LATCHES: Final = 3  # as many as `closing` has steps


PlainServerT = TypeVar("PlainServerT", bound=PlainServer)


class PlainPeer(Peer[PlainServerT], Generic[PlainServerT]):
    """A connection whose hooks are called in the thread that has its turn."""

    __slots__ = ("_limit", "_lock", "_pull_lock", "_steps", "latches", "turn")

    def __init__(self, server: PlainServerT, sock: socket.socket, serving: Serving) -> None:
        super().__init__(server, sock, serving)
        self.latches: list[Latch] = server.latches
        self._lock: threading.RLock = threading.RLock()
        self._pull_lock: threading.Lock = threading.Lock()
        self.turn: object | None = None
        """Whose the connection is while a hook runs, or waits to be called."""
        self._limit: threading.Timer | None = None
        self._steps: Generator[Step, Any, object] = self.steps()

    def go_on(self) -> None:
        """Call `take` in another thread, as the hook was given up: of the runtime's own."""
        raise NotImplementedError

    def step(self, value: Any = None) -> Step | None:
        """The next step, given what came of the one before; None when it was the last, and all is over."""
        try:
            step = self._steps.send(value)
        except StopIteration:
            self.end()
            return None
        if isinstance(step, Ask):
            self.turn = object()
        return step

    def take(self) -> None:
        """Take all steps in this thread, unless a hook of them is given up."""
        value: Any = None
        while value is not GIVEN_UP and (step := self.step(value)) is not None:
            value = self.wait(step) if isinstance(step, Wait) else self.call(step, self.turn)

    def wait(self, step: Wait) -> Outcome | None:
        """Wait in this thread."""
        poll = select.poll()
        poll.register(self.sock, select.POLLOUT if step.writing else select.POLLIN)
        # Each step of `close` has a latch; the ones that this connection has heard of stay set.
        if self.serving.stopping < len(self.latches):
            poll.register(self.latches[self.serving.stopping], select.POLLIN)
        milliseconds: float | None = None
        if step.deadline is not None:
            milliseconds = max(0, math.ceil((step.deadline - self.serving.now()) * 1000))
        return None if poll.poll(milliseconds) else Outcome.TIMED_OUT

    def call(self, ask: Ask, turn: object | None) -> Any:
        """Call the hook in this thread: what it gives, a Failed, or GIVEN_UP.

        `turn` is what stood in `turn` with the step, if this comes later or from another thread.
        """
        with self._lock:
            if self.turn is not turn:  # given up before it began
                return GIVEN_UP
            name, call = ask.name, plain_call(ask, partial(self._pull, turn))
        result = call_plain(name, call)
        with self._lock:
            if self.turn is not turn:
                return GIVEN_UP
            self.turn = None
        if not self.closed and (error := self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
            self.lose(OSError(error, os.strerror(error)))
            return Outcome.LOST  # and what the hook said with it
        with self._pull_lock:  # a thread that the hook has left behind, reading, comes to its end
            return result

    def _pull(self, turn: object, body: MessageBody) -> bytes:
        with self._pull_lock if self._pulling is None else contextlib.nullcontext():
            with self._lock:
                if self.turn is not turn:
                    raise RuntimeError(TOO_LATE)
                pulling = self.begin_pull(body)
            try:
                return self._drive(self.pull())
            finally:
                self.end_pull(pulling)

    def _drive(self, steps: Generator[Step, Any, bytes]) -> bytes:
        value: Any = None
        while True:
            try:
                step = steps.send(value)
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return] # typeshed has Any there
            assert isinstance(step, Wait)  # noqa: S101 - within a hook no other is called
            value = self.wait(step)

    # --- giving hooks up --------------------------------------------------------------------------

    def interrupt(self, outcome: Outcome) -> None:
        """As for every Peer, but from any thread."""
        with self._lock:
            super().interrupt(outcome)

    def end_pull(self, pulling: object) -> None:
        """As for every Peer, but from any thread."""
        with self._lock:
            super().end_pull(pulling)

    def cancel_hook(self) -> None:
        """Take the turn from the hook that runs."""
        with self._lock:
            turn, self.turn = self.turn, None
        if turn is not None:
            self.go_on()

    def set_limit(self, seconds: float | None) -> None:
        """A thread of its own: this one is in the hook."""
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
        if seconds is not None:
            self._limit = threading.Timer(seconds, self.interrupt, (Outcome.TIMED_OUT,))
            self._limit.daemon = True
            self._limit.start()

    def wake(self) -> None:
        """Whoever waits polls the server's latches."""


class Accepting(threading.Thread):
    """Accepts connections until the listener is closed."""

    def __init__(self, server: PlainServer, listener: Listener) -> None:
        super().__init__(name="smtpproto-accept", daemon=True)
        self._server: PlainServer = server
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
