# One connection on gevent: how to wait for its socket, and how to call a hook.
#
# One greenlet serves the connection, and hooks run in it. That a hook waits shows in the hub coming
# to turn: only then are the replies before it sent and the client watched.

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import gevent
from gevent.hub import Waiter

from smtpproto_server import NOT_NOW, Alarm, Outcome, Peer, Wait, call_plain, plain_call

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Generator

    from smtpproto_gevent._server import SMTPServer
    from smtpproto_server import Ask, MessageBody, Serving, Step

__all__ = ["Connection"]

READ: Final = 1  # events, as libev and libuv have them
WRITE: Final = 2


class HookCancelled(gevent.GreenletExit):  # type: ignore[misc] # gevent ships no types for mypy
    """Raised in a hook that is given up."""


class Connection(Peer["SMTPServer"]):
    """A connection in a greenlet."""

    __slots__ = (
        "_alarm", "_greenlet", "_hub", "_limit", "_noticing", "_readable", "_turn", "_waiter", "_writable",
    )  # fmt: skip

    def __init__(self, server: SMTPServer, sock: socket.socket, serving: Serving) -> None:
        super().__init__(server, sock, serving)
        self._hub: Any = gevent.get_hub()
        loop = self._hub.loop
        self._readable: Any = loop.io(sock.fileno(), READ)
        self._writable: Any = loop.io(sock.fileno(), WRITE)
        self._alarm: Alarm = Alarm(
            time.monotonic, partial(Timer, loop), partial(self._wake, Outcome.TIMED_OUT)
        )
        self._waiter: Waiter[Outcome | None] | None = None
        self._limit: Timer | None = None
        self._turn: object | None = None
        self._noticing: object | None = None
        self._greenlet: gevent.Greenlet[..., None] = gevent.Greenlet(self._serve)
        self._greenlet.start()

    def join(self) -> None:
        """Wait for the end of the connection, hooks included."""
        self._greenlet.join()

    def _serve(self) -> None:
        steps, value = self.steps(), None
        try:
            while True:
                try:
                    self._take(steps, value)
                except gevent.GreenletExit:
                    # Somebody kills it. What is left is telling the application.
                    self.lost, value = True, Outcome.LOST
                else:
                    return
        finally:
            self._alarm.cancel()
            self.end()

    def _take(self, steps: Generator[Step, Any, Any], value: Any = None) -> Any:
        while True:
            try:
                step = steps.send(value)
            except StopIteration as done:
                return done.value
            value = self._wait(step) if isinstance(step, Wait) else self._call(step)

    # --- waiting ----------------------------------------------------------------------------------

    def _wait(self, step: Wait) -> Outcome | None:
        waiter: Waiter[Outcome | None] = Waiter(self._hub)
        self._waiter = waiter
        if step.deadline is not None and step.deadline <= time.monotonic():
            self._hub.loop.run_callback(self._wake, Outcome.TIMED_OUT)
        else:
            self._alarm.set(step.deadline)
        watcher = self._writable if step.writing else self._readable
        watcher.start(self._wake)
        try:
            outcome: Outcome | None = waiter.get()
        finally:
            if self._waiter is waiter:  # else somebody else waits by now, for a hook has left us behind
                self._waiter = None
                watcher.stop()
        return outcome

    def wake(self) -> None:
        """End the wait that goes on now, and no later one; from any greenlet."""
        if self._waiter is not None:
            self._hub.loop.run_callback(self._waiter.switch, None)

    def _wake(self, outcome: Outcome | None = None) -> None:
        if self._waiter is not None:
            self._waiter.switch(outcome)

    def begin_watch(self) -> None:
        """While a hook runs."""
        self._readable.start(self._watch, self._readable)
        if self.backlogged:
            self._writable.start(self._watch, self._writable)

    def _watch(self, watcher: Any) -> None:
        if not self.watch() or (watcher is self._writable and not self.backlogged):
            watcher.stop()

    def end_watch(self) -> None:
        """No hook runs, or it reads the message."""
        self._readable.stop()
        self._writable.stop()

    def release(self) -> None:
        """Take the socket from the loop."""
        self._readable.close()
        self._writable.close()
        super().release()

    # --- hooks ------------------------------------------------------------------------------------

    def call_at_once(self, ask: Ask) -> Any:
        """All of it: who waits in a hook waits in this greenlet."""
        if ask.body is not None:
            return NOT_NOW
        before = self.begin_ask(ask)
        if before is not None:
            return before
        try:
            result = self._call(ask)
        except gevent.GreenletExit:  # as in _serve
            self.lost, result = True, Outcome.LOST
        return self.end_ask(ask, result)

    def _call(self, ask: Ask) -> Any:
        turn = self._turn = object()
        if self._noticing is None:
            self._noticing = self._hub.loop.run_callback(self._notice)
        call = plain_call(ask, self._pull)
        try:
            if ask.lookup:
                return self._hub.threadpool.apply(call_plain, (ask.name, call))
            return call_plain(ask.name, call, (gevent.GreenletExit,))
        except HookCancelled:
            return None
        finally:
            if self._turn is turn:
                self._turn = None

    def _notice(self) -> None:
        """The hub has come to turn: if a hook runs, it waits."""
        self._noticing = None
        self.flush()

    def cancel_hook(self) -> None:
        """The hook runs in the connection's own greenlet."""
        self._hub.loop.run_callback(self._throw, self._turn)

    def _throw(self, turn: object | None) -> None:
        if turn is not None and self._turn is turn:
            self._greenlet.throw(HookCancelled)

    def set_limit(self, seconds: float | None) -> None:
        """By a timer of the loop."""
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
        if seconds is not None:
            self._limit = Timer(self._hub.loop, seconds, partial(self.interrupt, Outcome.TIMED_OUT))

    def _pull(self, body: MessageBody) -> bytes:
        chunk = self.chunk_at_hand(body)
        if chunk is not None:
            return chunk
        pulling = self.begin_pull(body)
        try:
            pulled: bytes = self._take(self.pull())
        finally:
            self.end_pull(pulling)
        return pulled


class Timer:
    """A timer of gevent's loop, to be cancelled."""

    __slots__ = ("_timer",)

    def __init__(self, loop: Any, seconds: float, callback: Callable[[], object]) -> None:
        self._timer: Any = loop.timer(seconds)
        self._timer.start(callback, update=True)

    def cancel(self) -> None:
        """Do not fire."""
        self._timer.close()
