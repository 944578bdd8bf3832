# One connection: a non-blocking socket on one side, a `Serving` on the other.
#
# All that adapters would otherwise each do in their own way is here, as generators of steps: what
# is read and written, when a hook may be interrupted, and how a hook pulls a message through the
# loop. What is left to a runtime is to wait for a socket and to call a hook. A wait that ends too
# early costs a look and nothing else, so an adapter may end any wait at any time.

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar

from smtpproto_server._effects import (
    NOTHING_AT_ONCE,
    PULL,
    Ask,
    AtOnce,
    Close,
    Deliver,
    Outcome,
    Receive,
    Send,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from smtpproto_server._effects import Effect
    from smtpproto_server._loop import Serving
    from smtpproto_server._server import ServerCore
    from smtpproto_server._stream import MessageBody

__all__ = ["Peer", "Step", "Wait"]

READ_SIZE: Final = 64 * 1024  # octets
READ_AHEAD: Final = 64 * 1024  # octets that may wait here for a hook before the socket is left alone
FAIR: Final = 8  # reads or writes on end before the other connections get their turn
PAST: Final = 0.0
_TIMED_OUT: Final = Outcome.TIMED_OUT  # an enum's members are slow to find in CPython 3.11
READ_TWICE: Final = "the stream is being read already"
TOO_LATE: Final = "the stream belongs to on_data, which has returned"


class Wait:
    """Wait until the socket can be read, or written, until `wake` is called, or until the deadline.

    Resume with TIMED_OUT at `deadline` (the clock's absolute seconds, None for never), else with
    None. A deadline in the past asks to let others run, and then to come back.
    """

    __slots__ = ("deadline", "writing")

    def __init__(self) -> None:
        self.deadline: float | None = None
        self.writing: bool = False


Step = Wait | Ask


ServerT = TypeVar("ServerT", bound="ServerCore")


class Peer(AtOnce, Generic[ServerT]):
    """A connection as `steps()`; a subclass is an adapter's way to take them.

    It waits for a Wait and calls the hook for an Ask, whose result, or Failed, it sends back. It
    gives a hook that reads the message a stream over `pull`, and defines what is "of the
    runtime's own".
    """

    __slots__ = (
        "_asking", "_chunk", "_effects", "_inbox", "_interrupted", "_limit_at", "_pulling", "_ready", "_rest",
        "_unwaited", "_waiting", "_woken", "closed", "eof", "lost", "server", "serving", "sock",
    )  # fmt: skip

    pushed: ClassVar[bool] = False
    """Octets come through `take_in` by themselves, and are not read from the socket here."""

    def __init__(self, server: ServerT, sock: socket.socket, serving: Serving) -> None:
        self.server: ServerT = server
        self.sock: socket.socket = sock
        self.serving: Serving = serving
        self.closed: bool = False
        self.eof: bool = False
        self.lost: bool = False
        self._effects: Generator[Effect, Any, None] = serving.run()
        self._waiting: Wait = Wait()
        self._inbox: bytes = b""
        self._rest: bytes | memoryview = b""
        self._ready: bool = False  # more is likely to be there
        self._unwaited: int = 0
        self._woken: bool = False
        self._asking: Ask | None = None
        self._interrupted: Outcome | None = None
        self._limit_at: float | None = None
        self._chunk: Generator[Step, Any, bytes] | None = None
        self._pulling: object | None = None
        serving.at_once = self
        server.peers.add(self)

    # --- what the runtime does --------------------------------------------------------------------

    def wake(self) -> None:
        """End the Wait that is going on, if one is: of the runtime's own."""
        raise NotImplementedError

    def cancel_hook(self) -> None:
        """Make the Ask that is going on end as soon as can be: of the runtime's own."""
        raise NotImplementedError

    def set_limit(self, seconds: float | None) -> None:
        """Call `interrupt(TIMED_OUT)` in so many seconds, or not at all: of the runtime's own."""
        raise NotImplementedError

    def begin_watch(self) -> None:
        """Call `watch` whenever the socket can be read, as long as it says True: of the runtime's own."""

    def end_watch(self) -> None:
        """Call `watch` no more: of the runtime's own. One call too many must not hurt."""

    def release(self) -> None:
        """Close the socket; extended by a runtime that has to let go of it first."""
        with contextlib.suppress(OSError):
            self.sock.close()

    def more_to_come(self) -> bool:
        """Whether the socket has what was not pushed yet: of a runtime's own that pushes."""
        return True

    # --- what it may call -------------------------------------------------------------------------

    def steps(self) -> Generator[Step, Any, object]:
        """The whole connection. Call `end` behind it, whatever ended it."""
        return self._run_loop()

    def pull(self) -> Generator[Step, Any, bytes]:
        """The next chunk of the message, for a hook that runs; between `begin_pull` and `end_pull`."""
        pulling = self._pulling
        if self._chunk is None:
            self._chunk = self._run_loop(PULL, pulling=True)
        value: Any = None
        while True:
            try:
                step = self._chunk.send(value)
            except StopIteration as done:
                self._chunk = None
                return done.value  # type: ignore[no-any-return] # typeshed has Any there
            value = yield step
            if self._pulling is not pulling:  # it was left behind by a hook that has returned
                raise RuntimeError(TOO_LATE)

    def chunk_at_hand(self, body: MessageBody) -> bytes | None:
        """The next chunk if no pull is needed for it, else None. Not for a hook in another thread."""
        if body.ended or body.aborted is not None or self.being_read():
            return None
        return self.serving.chunk_at_hand()

    def being_read(self) -> bool:
        """Somebody waits for the next chunk, or has begun to."""
        return self._pulling is not None or self._chunk is not None

    def begin_pull(self, body: MessageBody) -> object:
        """Stop the hook's clock while it waits for the client. Raises RuntimeError out of turn."""
        asking = self._asking
        if self._pulling is not None:
            raise RuntimeError(READ_TWICE)
        # Somebody whom an earlier on_data left behind must not take octets of a later message.
        if asking is None or asking.body is not body or self._interrupted is not None:
            raise RuntimeError(TOO_LATE)
        self._pulling = pulling = object()
        self.end_watch()
        if self._limit_at is not None:
            self.set_limit(None)
            self._limit_at -= self.serving.now()
        return pulling

    def end_pull(self, pulling: object) -> None:
        """The chunk is there, or the hook does not want to wait for it any longer."""
        if self._pulling is not pulling:
            return
        self._pulling = None
        if self._limit_at is not None:
            self._start_limit(self._limit_at)
        if not self.eof:
            self.begin_watch()

    def flush(self) -> None:
        """The hook has to wait: what was answered before it goes out, and the client is watched."""
        if self._asking is None or self.lost or self.closed:
            return
        data = self.serving.output()
        if data:
            self._rest = bytes(self._rest) + data
            self.write()
        if self._pulling is None and not self.eof:
            self.begin_watch()

    @property
    def backlogged(self) -> bool:
        """`flush` could not send everything: call `watch` when the socket can be written as well."""
        return len(self._rest) > 0

    def watch(self) -> bool:
        """The socket can be read, or written, while a hook runs; False: there is nothing more to see."""
        self.write()
        if self._asking is None or self._pulling is not None or self.eof or self.full():
            return False
        data = self.read()
        if isinstance(data, bytes):
            self.take_in(data)
        if self.lost:
            self.interrupt(Outcome.LOST)
        return not (self.lost or self.eof or self.full())

    def full(self) -> bool:
        """So much has been read ahead that the socket is to be left alone."""
        return len(self._inbox) > READ_AHEAD

    def take_in(self, data: bytes) -> None:
        """Octets came that nobody has asked for yet."""
        self._inbox = self._inbox + data if self._inbox else data
        if data and self._asking is not None and self._asking.watch:
            self.interrupt(Outcome.INTERRUPTED)

    def interrupt(self, outcome: Outcome) -> None:
        """Cancel the hook that runs, unless it waits for the message: then the stream raises."""
        if self._asking is None or self._interrupted is not None or self._pulling is not None:
            return
        if self.closed and outcome is Outcome.LOST:  # on_close runs after the end
            return
        self._interrupted = outcome
        if self._asking.body is not None:
            self._asking.body.give_up(outcome)
        self.cancel_hook()

    def stop(self, *, now: bool = False) -> None:
        """End the session: soon, or now."""
        self.serving.stop(now=now)
        self._woken = True
        if now or (self._asking is not None and self._asking.lookup):
            self.interrupt(Outcome.STOPPED)
        self.wake()

    def abort(self) -> None:
        """Drop the connection, and cancel a hook that runs once more if it would not hear."""
        self.lost = True
        self.stop(now=True)
        if self._asking is not None and self._interrupted is not None:
            self.cancel_hook()

    def end(self) -> None:
        """Nothing is left to be done, or nothing can be: count the connection out."""
        self._close()
        self.serving.at_once = NOTHING_AT_ONCE  # it knows us, we know it: no more work for the collector
        self.server.closed(self.serving, "aborted")
        self.server.gone(self)

    # --- effects ----------------------------------------------------------------------------------

    def _run_loop(self, value: Any = None, *, pulling: bool = False) -> Generator[Step, Any, bytes]:
        """Run the loop to its end, or `pulling` up to the next chunk, which is returned."""
        effects = self._effects
        while True:
            try:
                effect = effects.send(value)
            except StopIteration:
                if pulling:  # never b"", which would be the end of the message
                    raise RuntimeError(TOO_LATE) from None
                return b""
            if type(effect) is Receive:  # not by way of _perform, as nothing comes as often
                late = self._is_past(effect.deadline)
                if self._unwaited > FAIR:
                    yield self._wait_until(PAST)  # the others have their turn
                while (value := self.received(late=late)) is None:
                    late = (yield self._wait_until(effect.deadline)) is _TIMED_OUT
                    self._ready = True
            elif pulling and type(effect) is Deliver:
                return effect.data
            else:
                value = yield from self._perform(effect)

    def _perform(self, effect: Effect) -> Generator[Step, Any, Any]:
        return self._ways[type(effect)](self, effect)

    def send_at_once(self, data: bytes) -> bytes | None:
        """At once, as far as the system takes it."""
        self._rest = bytes(self._rest) + data if self._rest else data
        return None if not self.lost and self.write() else b""

    def received(self, *, late: bool) -> bytes | Outcome | None:
        """What a Receive is resumed with, None if that is yet to come."""
        if self._inbox:
            data, self._inbox = self._inbox, b""
            return data
        if self.lost:
            return Outcome.LOST
        if self.eof:
            return b""
        if (self._ready or late) and not self.serving.recalled:
            self._unwaited += 1
            found = self.read()
            if found is not None:
                return found
        if self._woken:
            self._woken = False
            return Outcome.STOPPED
        return Outcome.TIMED_OUT if late else None

    def _is_past(self, deadline: float | None) -> bool:
        """Whether a Receive asks for what is there, and nothing can be on its way to us."""
        return (
            deadline is not None
            and deadline <= self.serving.now()
            and not (self.pushed and self.more_to_come())
        )

    def _send(self, effect: Send) -> Generator[Step, Any, Outcome | None]:
        if effect.data:
            self._rest = bytes(self._rest) + effect.data if self._rest else effect.data
            self._unwaited += 1
            if self._unwaited > FAIR:
                yield self._wait_until(PAST)
        late = False
        while not self.lost and not self.write():
            if self._woken:
                self._woken = False
                return Outcome.STOPPED
            if late:
                return Outcome.TIMED_OUT
            late = (yield self._wait_until(effect.deadline, writing=True)) is _TIMED_OUT
        if self.lost:
            return Outcome.LOST
        return Outcome.LOST if effect.last and not self.end_output() else None

    def _ask(self, ask: Ask) -> Generator[Step, Any, Any]:
        before = self.begin_ask(ask)
        if before is not None:
            return before
        result = self.end_ask(ask, (yield ask))
        if self._chunk is not None:  # the loop has to come to the end of a pull that was given up
            yield from self._chunk
            self._chunk = None
        return result

    def begin_ask(self, ask: Ask) -> Outcome | None:
        """Before a hook is called: an Outcome if it is not to be called at all."""
        if self.lost and not self.closed:
            return Outcome.LOST
        if ask.watch and self._inbox:
            return Outcome.INTERRUPTED
        self._asking, self._interrupted = ask, None
        if ask.seconds is not None:
            self._start_limit(ask.seconds)
        return None

    def end_ask(self, ask: Ask, result: Any) -> Any:
        """Behind the hook: what came of it."""
        if result is PULL and ask.seconds is not None and self._limit_at is not None:
            ask.seconds = self._limit_at - self.serving.now()  # what is left when it goes on
        self._asking = None
        self.end_watch()
        if self._limit_at is not None:
            self._limit_at = None
            self.set_limit(None)
        if self._interrupted is not None:
            result = self._interrupted
        if self._pulling is not None:  # by somebody the hook has left behind
            self._pulling = None
            self.wake()
        return result

    def _deliver(self, effect: Deliver) -> Generator[Step, Any, Any]:
        """The hook goes on, with the chunk."""
        return self._ask(effect.ask)

    def _end(self, _effect: Close) -> Generator[Step, Any, None]:
        self._close()
        return _nothing()

    _ways: ClassVar[Mapping[type[object], Callable[[Any, Any], Generator[Step, Any, Any]]]] = {
        Send: _send,
        Ask: _ask,
        Deliver: _deliver,
        Close: _end,
    }

    # --- the socket -------------------------------------------------------------------------------

    def read(self) -> bytes | Outcome | None:
        """What the socket has: octets, b"" at their end, LOST, or None when there is nothing yet."""
        try:
            data = self.sock.recv(READ_SIZE)
        except (BlockingIOError, InterruptedError):
            self._ready = False
            return None
        except OSError as error:
            self.lose(error)
            return Outcome.LOST
        self._ready = len(data) == READ_SIZE
        self.eof = not data
        return data

    def write(self) -> bool:
        """Give the system what it takes; True when it has taken all."""
        if self._rest and not self.closed:
            try:
                sent = self.sock.send(self._rest)
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                self.lose(error)
                return False
            self._rest = b"" if sent == len(self._rest) else memoryview(self._rest)[sent:]
        return not self._rest

    def end_output(self) -> bool:
        """Shut the sending side down."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:  # the peer was faster
            return False
        return True

    def lose(self, error: OSError) -> None:
        """The connection died of this."""
        self.lost = True
        self.serving.fault = error

    def _close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.release()

    # --- time -------------------------------------------------------------------------------------

    def _wait_until(self, deadline: float | None, *, writing: bool = False) -> Wait:
        wait = self._waiting
        wait.deadline, wait.writing = deadline, writing
        self._unwaited = 0
        return wait

    def _start_limit(self, seconds: float) -> None:
        self._limit_at = self.serving.now() + seconds
        self.set_limit(max(0.0, seconds))


def _nothing() -> Generator[Step, Any, None]:
    return
    yield  # a generator without steps
