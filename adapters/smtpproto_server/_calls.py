# A connection's hooks: how they are called, what they wait for, how they are given up, and the message
# that on_data reads.
#
# A coroutine hook takes its first step where it is asked; done at once, it is a decision and nothing was
# waited for. A plain hook may block, so a runtime calls it apart: in a thread, or on an empty stack.

from __future__ import annotations

import inspect
import sys
from contextvars import Context, ContextVar, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final

from smtpproto import ACCEPT, DataFinished, Reject, State
from smtpproto.extending import PENDING
from smtpproto_server._chain import ChainedHook
from smtpproto_server._clocks import NEVER
from smtpproto_server._hooks import alone, failure
from smtpproto_server._octets import Octets
from smtpproto_server._steps import plain_result, take_awaiting, without_stop_iteration
from smtpproto_server._stream import PULL, TOO_LATE, AsyncStream, MessageStream, Stream, StreamAborted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

    from smtpproto import Accept, Address, IncomingMessage, Session
    from smtpproto.extending import Pending
    from smtpproto_server._application import Application

__all__ = ["NO_ANSWER", "Calls"]

NO_ANSWER: Final[Any] = object()
_DATA = State.DATA  # an enum's members are slow to find in CPython 3.11
_YES_IS_NONE: Final = frozenset({"on_mail_from", "on_rcpt_to"})  # hooks that say no more than yes or no
_MAY_BLOCK: Final = frozenset({"on_data", "resolver"})  # plain ones never run in an event loop


class Calls(Octets):
    """A connection that calls hooks, one at a time."""

    __slots__ = (
        "answer", "context", "given_up", "hook", "hook_ends", "hook_name", "in_thread", "noted", "result",
        "running", "stream", "timed",
    )  # fmt: skip

    fault: BaseException | None  # of the classes below; said again for checkers of types
    lost: bool
    session: Session

    event: ClassVar[type[Any]]
    """The runtime's class Event: `set`, and `wait`, which is awaited; for a runtime with coroutines."""
    eager: ClassVar[bool] = sys.version_info >= (3, 12)
    """A task may take its first step within a hook's step: `own_step` is asked whose step it is."""

    def __init__(self, server: Application, clock: Callable[[], float], facts: Mapping[str, Any]) -> None:
        self.running: bool = False
        """The engine or a hook is on the stack."""
        self.noted: bool = False
        """Something has come meanwhile, and is to be looked at before the engine goes on."""
        self.context: Context = copy_context()
        """What hooks set in context variables, on a runtime without coroutines; with them a task has it."""
        self.hook: Any = None
        """The one that runs: a coroutine, or the call that was handed to `apart`."""
        self.hook_name: str = ""
        self.hook_ends: float = NEVER
        """When its time is over; while it waits for its message, the seconds it has left."""
        self.timed: bool = server.options.hook_timeout is not None
        self.in_thread: bool = False
        """It runs in a thread, which cannot be ended."""
        self.given_up: str | None = None
        """Why the hook that runs has no say any more: "timeout", or "closed"."""
        self.answer: Any = NO_ANSWER
        """To the engine's open question."""
        self.stream: MessageStream | None = None
        """The message that on_data is reading."""
        self.result: Any = ACCEPT
        """What on_data said before the end of its message."""
        super().__init__(server, clock, facts)

    # --- what a runtime adds ----------------------------------------------------------------------

    def suspend(self, trap: Any) -> None:
        """A coroutine hook waits for this: await it in the connection's task, then call `resume`."""
        raise NotImplementedError

    def apart(self, call: Callable[[], Any]) -> Any:
        """Call a plain hook where it may block.

        With coroutines: return a coroutine that does. Without: call it on an empty stack, and then
        `returned`.
        """
        raise NotImplementedError

    def cancel_hook(self) -> None:
        """Make the hook that runs end as soon as can be; it was given up."""
        raise NotImplementedError

    def hook_ended(self, error: BaseException | None) -> bool:  # noqa: ARG002 - for those who need it
        """The hook has ended, with this error; True: somebody else has cancelled the connection."""
        return False

    def own_step(self) -> bool:
        """Whether the task that runs now is the one in which the hook runs."""
        return True

    def read_plainly(self, stream: Stream) -> bytes:
        """The next piece, for a plain hook or whoever reads for it."""
        raise NotImplementedError

    # --- what the loop adds -----------------------------------------------------------------------

    def go_on(self) -> None:
        """Run until something is awaited."""
        raise NotImplementedError

    def named(self, result: Any) -> None:
        """The look-up has ended."""
        raise NotImplementedError

    def over(self) -> None:
        """on_close has ended."""
        raise NotImplementedError

    # --- calling ----------------------------------------------------------------------------------

    def ask_mail(self, address: Address) -> Accept | Pending:
        """on_mail_from."""
        hook = self.server.on_mail_from
        return ACCEPT if hook is None else self.call("on_mail_from", hook, address, self.session)

    def ask_rcpt(self, address: Address) -> Accept | Pending:
        """on_rcpt_to."""
        hook = self.server.on_rcpt_to
        return ACCEPT if hook is None else self.call("on_rcpt_to", hook, address, self.session)

    def call(self, name: str, hook: Callable[..., Any], *args: Any) -> Accept | Pending:
        """Call a hook. ACCEPT if it was done at its first step with a plain yes; else PENDING.

        After PENDING its answer comes, at once or later, by `_done`.
        """
        if self.after_reply:
            self.replies_queued()
        self.hook_name = name
        if hook not in self.server.coroutine_hooks and not self.server.is_coroutine(hook):
            self._call_plain(name, hook, args)
            return PENDING
        try:
            running = hook(*args)
            trap = running.send(None)
        except StopIteration as done:
            if done.value is None and name in _YES_IS_NONE and not self.noted:
                return ACCEPT
            self._done(done.value)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a hook raises is contained
            self._done(error=error)
        else:
            self.hook = running
            if self.timed or name == "resolver":
                self._start_time()
            piece = self._heed(trap)
            if piece is not None:
                self._step_hook(piece, None)
        return PENDING

    def _call_plain(self, name: str, hook: Callable[..., Any], args: tuple[Any, ...]) -> None:
        server = self.server
        if not server.coroutines:
            self.context = self.context.copy()  # a hook that was given up may still run in the last one
            call = self.hook = partial(self.context.run, partial(plain_result, name, hook, args))
            if self.timed or name == "resolver":
                self._start_time()
            try:
                self.apart(call)
            except RuntimeError as error:  # the system has no thread for it
                self._done(error=error)
        elif isinstance(hook, ChainedHook):
            self._begin(take_awaiting(hook.steps(), partial(self._ask_member, args)))
        elif server.options.sync_hooks == "thread" or name in _MAY_BLOCK:
            self.in_thread = True
            self._begin(_settled(self._apart_from_task(hook, args)))
        else:
            try:
                result = without_stop_iteration(hook, args)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001 - as in `call`
                self._done(error=error)
                return
            if inspect.isawaitable(result):
                self._begin(_settled(result))
            else:
                self._done(result)

    async def _apart_from_task(self, hook: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """In a copy of the task's context; what the hook sets there is set in the task as well."""
        were_set: dict[ContextVar[Any], Any] = {}
        try:
            return await self.apart(partial(_noting_what_is_set, were_set, hook, args))
        finally:
            for variable, value in were_set.items():
                variable.set(value)

    async def _ask_member(self, args: tuple[Any, ...], hook: Callable[..., Any]) -> Any:
        """Call one hook of a chain where hooks of its kind are called."""
        if self.server.is_coroutine(hook):
            return await hook(*args)
        if self.server.options.sync_hooks == "inline":
            result = without_stop_iteration(hook, args)
        else:
            self.in_thread = True
            try:
                result = await self._apart_from_task(hook, args)
            finally:
                self.in_thread = False
        return await result if inspect.isawaitable(result) else result

    def _begin(self, running: Coroutine[Any, Any, Any]) -> None:
        self.hook = running
        if self.timed or self.hook_name == "resolver":
            self._start_time()
        self._step_hook(None, None)

    def _start_time(self) -> None:
        options, now = self.server.options, self.clock()
        self.hook_ends = now + (options.hook_timeout or NEVER)
        if self.hook_name == "resolver":
            lookup_ends = now + (options.reverse_lookup_timeout or NEVER)
            self.hook_ends = min(self.hook_ends, self.clocks.phase_ends, lookup_ends)
        if self.stream is not None and self.stream.reader is not None:
            self.hook_ends -= now  # an eager task reads for it since its first step

    def _step_hook(self, value: Any, error: BaseException | None) -> None:
        """Let a coroutine hook go on until it is done or has to wait."""
        running = self.hook
        while True:
            try:
                trap = running.send(value) if error is None else running.throw(error)
            except StopIteration as done:
                self._done(done.value)
                return
            except KeyboardInterrupt:
                raise
            except BaseException as fault:  # noqa: BLE001 - as in `call`
                self._done(error=fault)
                return
            value, error = self._heed(trap), None
            if value is None:
                return

    def _heed(self, trap: Any) -> bytes | None:
        """See to what a coroutine hook waits for; the piece of its message that it can go on with."""
        if trap is not PULL:
            self.flush_due()
            self.suspend(trap)
            return None
        stream = self.stream
        if stream is None:  # on_data has been answered for
            return b""
        piece = stream.next_piece()
        if piece is None:
            stream.reads = True
            if self.timed:
                self.hook_ends -= self.clock()
        return piece

    def _stop_reading(self, stream: MessageStream) -> None:
        stream.reads = False
        if self.timed:
            self.hook_ends += self.clock()

    def resume(self, value: Any = None, error: BaseException | None = None) -> None:
        """What a coroutine hook waited for has come, or it is to be raised this."""
        self.running = True
        try:
            if self.stream is not None and self.stream.reads:
                self._stop_reading(self.stream)
            self._step_hook(value, error)
        finally:
            self.running = False
        self.go_on()

    def returned(self, hook: object, value: Any = None, error: BaseException | None = None) -> None:
        """A plain hook called by `apart` has ended; what one says that was given up counts no more."""
        if self.hook is hook:
            self._done(value, error)
            self.go_on()

    # --- how a hook ends --------------------------------------------------------------------------

    def _give_up(self, why: str) -> None:
        """The hook that runs has no say any more. Once it has ended, the session goes on."""
        if self.given_up is not None:
            return
        stream = self.stream
        if stream is not None:
            with self.server.verdicts:
                if stream.claimed and why == "timeout":
                    self.hook_ends = NEVER  # its message is being stored: what it says will count
                    return
                stream.abort(why if why == "timeout" else "connection_lost" if self.lost else "shutdown")
            stream.wake_reader()
        self.given_up, self.hook_ends = why, NEVER
        self.after_reply.clear()  # what is replied is not its reply
        if self.in_thread and why == "timeout" and self.hook_name != "resolver":
            # The thread may go on with the session it was given; it must not see what comes after.
            self.session = self.server.exchange(self.session)
        self.cancel_hook()

    def note_loss(self, error: BaseException | None) -> None:
        """The client can neither be read from nor written to any more; `go_on` sees to it."""
        self.lost, self.fault, self.noted = True, error, True

    def claim(self, stream: MessageStream) -> bool:
        """See `MessageStream.claim`."""
        with self.server.verdicts:
            if stream.given_up or stream.ended:
                return False
            stream.claimed = True
            return True

    def _done(self, value: Any = None, error: BaseException | None = None) -> None:
        """A hook has returned, or raised."""
        name, ran = self.hook_name, self.hook is not None
        cancelled = False
        if ran:
            self.hook, self.in_thread, self.hook_ends = None, False, NEVER
            self.clocks.since = 0.0
            if self.hook_ended(error):
                cancelled = self.lost = self.noted = True
        if error is not None or self.given_up is not None or self.lost:
            value = self._instead(name, value, None if cancelled else error, ran=ran)
        if name == "on_data":
            self._message_done(value)
        elif name == "resolver":
            self.named(value)
        elif name == "on_close":
            self.over()
        else:
            self.answer = ACCEPT if value is None and name in _YES_IS_NONE else value

    def _instead(self, name: str, value: Any, error: BaseException | None, *, ran: bool) -> Any:
        """What counts for a hook that failed, was given up, or whose client is gone."""
        why, self.given_up = self.given_up, None
        lost = self.lost and ran and name != "on_close"  # there nobody is to be answered
        if name == "resolver":
            return error if why is None else TimeoutError("the look-up was given up")
        if why == "timeout":
            self.server.report(TimeoutError(f"{name} took longer than hook_timeout"), "hook", self.session)
        elif why is None and error is not None:
            return self._failed(name, error)
        elif why is None and not lost:
            return value
        return failure(name)

    def _failed(self, name: str, error: BaseException) -> Reject:
        said, stream = alone(error), self.stream
        if isinstance(said, Reject):
            return said
        if not (isinstance(said, StreamAborted) and stream is not None and stream.aborted is not None):
            self.server.report(error, "hook", self.session)
        return failure(name)

    def _hook_works(self) -> bool:
        """A hook runs, and it is not its client that it waits for."""
        stream = self.stream
        return self.hook is not None and (stream is None or not (stream.reads or stream.reader is not None))

    # --- the message ------------------------------------------------------------------------------

    def message_begun(self, message: IncomingMessage) -> bool:
        """on_data; False: nothing is read before it reads."""
        self.clocks.begin_message()
        server = self.server
        hook, self.result = server.on_data, ACCEPT
        if hook is None:
            return True
        self.result = NO_ANSWER
        kind = AsyncStream if hook in server.coroutine_hooks or server.is_coroutine(hook) else Stream
        stream = self.stream = kind(self, message)
        self.call("on_data", hook, stream, self.session)
        return self.hook is None or stream.reads

    def message_content(self, content: bytes, message: IncomingMessage) -> bool:
        """A piece for on_data; False: it has to ask for it yet."""
        stream = self.stream
        if stream is None:
            return True
        if stream.reads:
            if message.complete and message.refusal is None:
                stream.at_end = True
            self._give(stream, content)
            return self.hook is None or stream.reads
        stream.content = content
        stream.wake_reader()
        return False

    def message_ended(self, message: IncomingMessage) -> Accept | Pending:  # noqa: ARG002 - the engine's
        """The end of the message: what on_data has said, or will say."""
        stream = self.stream
        if stream is not None:
            if stream.reads:
                self._give(stream, stream.next_piece() or b"")
            if self.hook is not None:
                stream.wake_reader()
                return PENDING
        accepted: bool = self.result is ACCEPT
        if accepted and not self.noted:
            return ACCEPT
        self.answer = self.result
        return PENDING

    def _message_done(self, value: Any) -> None:
        stream, self.stream = self.stream, None
        self.result = ACCEPT if value is None else value
        if stream is None:
            return
        stream.content, stream.reads, stream.ended, stream.at_end = None, False, True, False
        if stream.reader is not None:
            stream.wake_reader()
        if type(self.asked) is DataFinished and not self.events:
            self.answer = self.result

    def _give(self, stream: MessageStream, piece: bytes) -> None:
        self._stop_reading(stream)
        self._step_hook(piece, None)

    def _hook_has_enough(self, stream: MessageStream) -> bool:
        """Nothing more of the message, which its hook does not wait for, is read before it wants it."""
        if self.hook is None or self.state is not _DATA:
            return False
        return stream.reader is None or stream.content is not None

    # --- reading for the hook, from another task or thread ----------------------------------------

    def in_hook(self) -> bool:
        """Whether it is the hook's own step that asks."""
        return self.running and (not self.eager or self.own_step())

    async def read_elsewhere(self, stream: MessageStream) -> bytes:
        """The next piece, for a task that is not the hook's own."""
        self.begin_read(stream)
        try:
            while (piece := self.try_read(stream)) is None:
                event = self.event()
                stream.reader = event.set
                await event.wait()
        finally:
            self.end_read(stream)
        return piece

    def begin_read(self, stream: MessageStream) -> None:
        """Somebody but the hook's own step reads. Raises RuntimeError out of turn."""
        stream.check_turn(self.stream)
        stream.reader = _nobody
        if self.timed:
            self.hook_ends -= self.clock()

    def try_read(self, stream: MessageStream) -> bytes | None:
        """The piece, None if it has not come yet; raises if it never will."""
        piece = self._piece_for(stream)
        if piece is None:
            self.go_on()
            piece = self._piece_for(stream)
        return piece

    def _piece_for(self, stream: MessageStream) -> bytes | None:
        if self.stream is not stream:
            stream.check(b"")
            raise RuntimeError(TOO_LATE)
        return stream.next_piece()

    def end_read(self, stream: MessageStream) -> None:
        """The piece is there, or nobody wants to wait for it any longer."""
        if self.stream is not stream:
            return
        stream.reader = None
        if self.timed and self.hook is not None:
            self.hook_ends += self.clock()
        self.go_on()


def _nobody() -> None:
    """Reads for the hook, and has not begun to wait."""


def _noting_what_is_set(
    were_set: dict[ContextVar[Any], Any], hook: Callable[..., Any], args: tuple[Any, ...]
) -> Any:
    """Call a plain hook, and note the context variables that it has set."""
    before = copy_context()
    try:
        return without_stop_iteration(hook, args)
    finally:
        after = copy_context().items()
        were_set.update({each: value for each, value in after if before.get(each, NO_ANSWER) is not value})


async def _settled(awaitable: Awaitable[Any]) -> Any:
    """What comes of it in the end: a plain hook may return something that is to be awaited."""
    result = await awaitable
    return await result if inspect.isawaitable(result) else result
