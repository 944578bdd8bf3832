# One connection being served: the engine, its hooks, its time limits, TLS, and its end.
#
# Two rules hold this file together.
#
# 1. What comes from outside (octets, a lost connection, a stop, the alarm, the end of a hook) is noted or
#    taken in, and then `go_on` is called. While the engine or a hook is on the stack it is only noted.
# 2. `go_on` alone runs the engine, sends, waits and ends. It runs until something is awaited; `waits`
#    says what, and the table `_waits` has a row for each.
#
# No runtime is in here. What a runtime adds is the section of methods that are abstract.

from __future__ import annotations

import inspect
import ssl
import sys
from enum import Enum, unique
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from smtpproto import (
    ACCEPT,
    PENDING,
    AuthRequested,
    ClientConnected,
    CommandReceived,
    ConnectionClosed,
    ConnectRequested,
    DataAborted,
    DataFinished,
    DataRequested,
    Engine,
    ExpandRequested,
    HelloReceived,
    HelpRequested,
    MailRequested,
    NeedsStartTLS,
    NeedsTLS,
    RcptRequested,
    Reject,
    SecureRequested,
    Signal,
    State,
    TimerChanged,
    VerifyRequested,
)
from smtpproto_server._clocks import NEVER, Clocks
from smtpproto_server._hooks import NOT_IMPLEMENTED, failure, read_result, read_results, reject_within
from smtpproto_server._stream import PULL, TOO_LATE, AsyncStream, MessageStream, Stream, StreamAborted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

    from smtpproto import Accept, Address, Event, IncomingMessage, Pending
    from smtpproto_server._application import Application
    from smtpproto_server._tls import TlsChannel

__all__ = ["PARTED", "Driver", "Wait"]

LAST_WORDS: Final = 5.0  # seconds that sending the end of a session may take
LINGER: Final = 1.0  # seconds for a client that still sends to read the last reply
LINGER_OCTETS: Final = 256 * 1024
READ_AHEAD: Final = 64 * 1024  # octets of ciphertext that may wait before the socket is left alone
MAX_FAULTS: Final = 8  # errors of SASL mechanisms in one run of the engine


@unique
class Wait(Enum):
    """What a connection waits for."""

    CLIENT = "octets of the client"
    HOOK = "a hook"
    ROOM = "the client to read what was sent"
    DELAY = "the end of early_talker_delay"
    LAST_REPLY = "the last reply to be sent"
    LINGER = "the client to read the last reply"
    PARTED = "on_close, after the socket was closed"


# An enum's members are slow to find in CPython 3.11.
CLIENT, HOOK, ROOM, DELAY, PARTED = Wait.CLIENT, Wait.HOOK, Wait.ROOM, Wait.DELAY, Wait.PARTED
_NEED_DATA, _CLOSED = Signal.NEED_DATA, Signal.CLOSED
_DATA, _ARRIVED, _AT_END = State.DATA, State.ARRIVED, State.CLOSED

_NO_ANSWER: Final[Any] = object()
_HANDSHAKES: Final = (NeedsTLS, NeedsStartTLS)
_ENDING: Final = frozenset({Wait.LAST_REPLY, Wait.LINGER, Wait.PARTED})
_STAGE_OF_LOSS: Final = {State.MAIL: "socket", State.RCPT: "socket", State.DATA: "stream"}
_PEER_IS_GONE: Final = frozenset({"connection lost", "internal error"})
_PEER_KNOWS: Final = frozenset({"quit", "eof", *_PEER_IS_GONE})
_YES_IS_NONE: Final = frozenset({"on_mail_from", "on_rcpt_to"})  # hooks that say no more than yes or no
_MAY_BLOCK: Final = frozenset({"on_data", "resolver"})  # plain ones never run in an event loop


class _Waiting(NamedTuple):
    """A row of the table of what a connection can wait for."""

    due: Callable[[Any], tuple[Any, float]]
    """What runs out next, and when."""
    run_out: Callable[[Any, Any], None]
    """What is done when that time has come."""


def _session_alone(event: DataRequested) -> tuple[Any, ...]:
    return (event.session,)


class _Question(NamedTuple):
    """A row of the table of questions: the hook, and what of the event it is called with."""

    hook: str
    arguments: Callable[[Any], tuple[Any, ...]] = _session_alone
    ask: Callable[[Any, Any], None] | None = None
    """What is done in place of a call of the hook."""


class Driver(Engine):
    """A connection being served. A runtime's connection is a subclass."""

    __slots__ = (
        "answer", "channel", "clock", "clocks", "counted", "ends", "fault", "full", "given_up", "held", "hook",
        "hook_ends", "hook_name", "in_thread", "inbox", "linger", "lost", "noted", "peeks", "reason", "result", "running",
        "server", "stop_seen", "stopping", "stream", "timed", "waits",
    )  # fmt: skip

    eager: ClassVar[bool] = sys.version_info >= (3, 12)
    """A task may take its first step within a hook's step: `own_step` is asked whose step it is."""

    def __init__(self, server: Application, *, clock: Callable[[], float], **facts: Any) -> None:
        self.server: Application = server
        self.clock: Callable[[], float] = clock
        self.clocks: Clocks = Clocks(server.options)
        self.waits: Wait = CLIENT
        """What is awaited, while nothing runs."""
        self.ends: float = NEVER
        """When DELAY, LAST_REPLY or LINGER is over."""
        self.linger: int = LINGER_OCTETS
        """How many octets of the client LINGER still takes."""
        # What has come from outside.
        self.running: bool = False
        """The engine or a hook is on the stack."""
        self.noted: bool = False
        """Something has come meanwhile, and is to be looked at before the engine goes on."""
        self.inbox: list[bytes] = []
        self.stopping: int = 0
        """0 go on, 1 end when the transaction has ended, 2 end now."""
        self.stop_seen: int = 0
        self.lost: bool = False
        """The client can neither be read from nor written to any more."""
        self.fault: BaseException | None = None
        """What the socket died of, if that is known."""
        # Octets.
        self.channel: TlsChannel | None = None
        self.full: bool = False
        """Not all that was sent has gone; `room` will be called."""
        self.held: bool = False
        """`hold` was called: no more octets come before `read_on`."""
        # The hook that runs, and what the last one said.
        self.hook: Any = None
        self.hook_name: str = ""
        self.hook_ends: float = NEVER
        """When its time is over; while it waits for its message, the seconds it has left."""
        self.timed: bool = server.options.hook_timeout is not None
        self.in_thread: bool = False
        """It runs in a thread, which cannot be ended."""
        self.given_up: str | None = None
        """Why the hook that runs has no say any more: "timeout", or "closed"."""
        self.answer: Any = _NO_ANSWER
        """To the engine's open question."""
        self.peeks: bool = False
        """It is to be seen, before the answer counts, whether the client talks too soon."""
        self.stream: MessageStream | None = None
        """The message that the hook `on_data` is reading."""
        self.result: Any = ACCEPT
        """What on_data said before the end of its message."""
        self.reason: str = ""
        """Why the connection has ended."""
        self.counted: bool = True
        """Counted for `max_clients`; False for a connection over the limit."""
        super().__init__(server.options, **facts)

    # --- what a runtime adds ----------------------------------------------------------------------

    def send(self, octets: bytes) -> None:
        """Send to the client; set `full` if not all has gone, and call `room` when it has."""
        raise NotImplementedError

    def alarm(self, when: float) -> None:
        """Call `expired` then (the clock's seconds; NEVER: not), or earlier, or more than once."""
        raise NotImplementedError

    def end_output(self) -> None:
        """Shut the sending side down after all that was sent."""
        raise NotImplementedError

    def drop(self) -> None:
        """Close the socket."""
        raise NotImplementedError

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

    def poke(self) -> None:
        """Call `go_on` soon, where the connection runs; may be called from any thread."""
        raise NotImplementedError

    def hold(self) -> None:
        """Read no more octets before `read_on`."""

    def read_on(self) -> None:
        """Read octets again."""

    def octets_wait(self) -> bool:
        """Whether the socket has octets that were not received yet."""
        return False

    def own_step(self) -> bool:
        """Whether the task that runs now is the one in which the hook runs."""
        return True

    def hook_ended(self, error: BaseException | None) -> bool:  # noqa: ARG002 - for those who need it
        """The hook has ended, with this error; True: somebody else has cancelled the connection."""
        return False

    def finished(self) -> None:
        """Nothing is left to be done."""

    # --- from outside -----------------------------------------------------------------------------

    def begin(self) -> None:
        """Go on for the first time, where octets may be here already that were only noted.

        The engine has to say first whether they belong to TLS.
        """
        noted, self.noted, self.running = self.noted, False, False
        self.go_on()
        if noted:
            self.noted = True
            self.go_on()

    def received(self, data: bytes) -> None:
        """Octets have come from the socket; b"" is their end."""
        if self.running or self.channel is not None or not data or self.waits in _ENDING:
            self.inbox.append(data)
            self.noted = True
        else:
            self._heard()
            self.receive_data(data)
        self.go_on()
        # While the client is waited for, all that comes has been taken.
        if (self.full or not self.clocks.since) and not self.wants_data:
            self._hold()

    def lose(self, error: BaseException | None = None) -> None:
        """The client can neither be read from nor written to any more."""
        if not self.lost:
            self.lost, self.fault, self.noted = True, error, True
        self.go_on()

    def room(self) -> None:
        """All that was to be sent has gone."""
        self.full = False
        self.clocks.since = 0.0
        self.go_on()

    def stop(self, *, now: bool = False) -> None:
        """End the session: after the transaction, or now. May be called from any thread."""
        self.stopping, self.noted = max(self.stopping, 2 if now else 1), True
        self.poke()

    def abort(self) -> None:
        """Drop the connection, and cancel a hook that runs once more if it would not end."""
        again = self.given_up is not None
        self.lost = True
        self.stop(now=True)
        if self.hook is not None and (again or self.waits is PARTED):
            self.cancel_hook()

    def end(self) -> None:
        """Nothing is left to be done, or nothing can be: count the connection out."""
        if self.waits is not PARTED:
            self.waits = PARTED
            self.drop()
        self.server.closed(self.session, self.reason or "aborted", counted=self.counted)
        self.server.gone(self)

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

    def expired(self) -> None:
        """The alarm: act if something has run out by now, else set the alarm again."""
        self.running = True
        try:
            now = self.clock()
            kind, when = self._waits[self.waits].due(self)
            if when > now:
                self.alarm(when)
                return
            self._waits[self.waits].run_out(self, kind)
        finally:
            self.running = False
        self.go_on()

    # --- the loop ---------------------------------------------------------------------------------

    def go_on(self) -> None:  # noqa: C901, PLR0912 - the whole loop, to be read in one piece
        """Run until something is awaited. Called from within, it does nothing: what is new was noted."""
        if self.running:
            return
        self.running, faults = True, 0
        try:
            while True:
                if self.noted:
                    self._take_notes()
                if self.full and self.state is not _AT_END:
                    self._wait_for_room()
                    return
                if self.stream is not None and self._hook_has_enough(self.stream):
                    self._wait_for(HOOK)
                    return
                try:
                    signal = self.advance()
                except Exception as error:  # a SASL mechanism of the application's; its AUTH is answered
                    self.server.report(error, "hook", self.session)
                    faults += 1
                    if faults > MAX_FAULTS:
                        raise
                    continue
                if signal is _CLOSED:
                    if self._has_ended():
                        return
                    continue
                if self.out:
                    self._flush()
                if self.noted:
                    continue
                if signal is _NEED_DATA:
                    if not self.full and not self._decrypt() and self._wait_for_client():
                        return
                elif self._stands_still():
                    return
        except Exception as error:  # noqa: BLE001 - a fault of ours ends one session, not the server
            self._fail(error)
        finally:
            self.running = False

    def _stands_still(self) -> bool:
        """The engine stands still: True if the answer to its question is not there yet."""
        if type(self.asked) in _HANDSHAKES:
            return self._wait_for_client()
        if self.asked is None:
            return False  # it stood still for a hook, which has gone on
        if self.answer is _NO_ANSWER:
            if self.waits is not DELAY:
                self._wait_for(HOOK)
            return True
        if self.peeks and not self.eof and self.octets_wait():
            self.peeks = False
            return self._wait_for_client()
        self._settle()
        return False

    def _take_notes(self) -> None:
        self.noted = False
        inbox, self.inbox = self.inbox, []
        for data in inbox:
            self._take(data)
        if self.lost and self.waits is not PARTED:
            self._peer_lost(self.fault)
        if self.stopping > self.stop_seen:
            self.stop_seen = self.stopping
            looks_up = self.hook is not None and self.hook_name == "resolver"
            self.shutdown(now=self.stopping > 1 or self.waits is DELAY or looks_up)

    def _has_ended(self) -> bool:
        """The engine is at its end: True if something has to be waited for yet."""
        if self.hook is not None:
            reads_elsewhere = self.stream is not None and self.stream.reader is not None
            wanted = self.stream is None or self.lost or self.stopping > 1
            if self.hook_name != "on_close" and wanted and not reads_elsewhere:
                self._give_up("closed")
            if self.hook is not None:
                if self.waits is not PARTED:
                    self._wait_for(HOOK)
                return True
        self._finish()
        return self.waits is PARTED or not self.noted

    def _hook_has_enough(self, stream: MessageStream) -> bool:
        """Nothing more of the message is read before its hook wants it."""
        if self.hook is None or stream.reads or self.state is not _DATA:
            return False
        return stream.reader is None or stream.content is not None

    def _hook_works(self) -> bool:
        """A hook runs, and it is not its client that it waits for."""
        stream = self.stream
        return self.hook is not None and (stream is None or not (stream.reads or stream.reader is not None))

    def _wait_for(self, wait: Wait) -> None:
        self.waits = wait
        self.alarm(self._waits[wait].due(self)[1])

    def _settle(self) -> None:
        """Give the engine the answer."""
        event, value = self.asked, self.answer
        self.answer, self.peeks = _NO_ANSWER, False
        name = self._questions[type(event)].hook
        try:
            if not (value is ACCEPT or isinstance(value, Reject)):
                value = self._read(name, value, event)
            self.decide(value)
        except Exception as error:  # noqa: BLE001 - what an application returns can be anything
            self.server.report(error, "hook", self.session)
            self.decide(failure(name))

    def _read(self, name: str, value: Any, event: Event | None) -> Any:
        """What a hook returned, as a decision."""
        if name == "on_data" and isinstance(value, list | tuple) and self.options.lmtp:
            decisions, wrong = read_results(value, len(self.session.envelope.rcpt_to))
            if wrong:
                self.server.report(ValueError(wrong), "hook", self.session)
            return decisions
        return read_result(name, value, event.auth if type(event) is AuthRequested else None)

    def _fail(self, error: Exception) -> None:
        self.server.report(error, "socket", self.session)
        self.connection_lost()
        self.lost, self.reason = True, "internal error"
        if self.hook is None:
            self._finish()

    # --- octets -----------------------------------------------------------------------------------

    def _heard(self) -> None:
        """Octets, or their end: the wait for the client is over."""
        clocks = self.clocks
        if clocks.since:
            if self.state is _DATA and self.transfer is not None:
                self._charge(self.transfer)
            clocks.since = 0.0

    def _take(self, data: bytes) -> None:
        self._heard()
        if self.waits in _ENDING:
            self._drain(data)
        elif self.channel is not None:
            self._take_encrypted(self.channel, data)
        elif data:
            self.receive_data(data)
        else:
            self.receive_eof()
        if not data and self.waits is DELAY:  # the client has said all it will ever say
            self._end_delay()

    def _hold(self) -> None:
        if not (self.held or self.waits in _ENDING or self.eof):
            self.held = True
            self.hold()

    def _release(self) -> None:
        if self.held:
            self.held = False
            self.read_on()

    def _flush(self) -> None:
        """Send the replies that are ready."""
        self.clocks.answered()
        self._send(self.data_to_send())

    def _flush_due(self) -> None:
        """A hook is waited for: what was answered before it goes out."""
        if self.out:
            self._flush()

    def _send(self, octets: bytes) -> None:
        channel = self.channel
        if channel is not None:
            if octets:
                channel.write(octets)
            octets = channel.outgoing()
        if octets and not self.lost:
            self.send(octets)

    def _peer_lost(self, error: BaseException | None) -> None:
        """An error of the socket is worth an event where it costs a transaction or a handshake."""
        stage = _STAGE_OF_LOSS.get(self.state)
        if type(self.asked) in _HANDSHAKES:
            error, stage = ConnectionError("lost in the TLS handshake"), "tls"
        was_open = self.state is not _AT_END
        self.connection_lost()
        if error is None or not was_open:
            return
        if stage is not None:
            self.server.report(error, stage, self.session)
        else:
            self.server.log.debug("%s: connection lost: %r", self.session.id, error)

    # --- TLS --------------------------------------------------------------------------------------

    def _begin_handshake(self, event: NeedsTLS | NeedsStartTLS) -> None:
        """No reply to what goes wrong here, and no way back to plaintext (RFC 3207 §4.1)."""
        self._flush_due()
        self.channel = self.server.contexts.channel()
        if isinstance(event, NeedsTLS) and event.data:
            self._shake_hands(self.channel, event.data)

    def _shake_hands(self, channel: TlsChannel, data: bytes) -> None:
        error, done = None, False
        if data:
            channel.receive(data)
        else:
            channel.receive_eof()
        try:
            done = channel.handshake()
        except (ssl.SSLError, ssl.CertificateError) as fault:
            error = fault
        self._send(b"")  # TLS's own alert, too
        if error is not None:
            self.connection_lost()
            self.server.report(error, "tls", self.session)
        elif done and type(self.asked) in _HANDSHAKES:
            self.tls_established(channel.details())

    def _take_encrypted(self, channel: TlsChannel, data: bytes) -> None:
        if type(self.asked) in _HANDSHAKES:
            self._shake_hands(channel, data)
            return
        if data:
            channel.receive(data)
        else:
            channel.receive_eof()
        if self.state is _ARRIVED:  # a client that talks too soon interrupts the hook
            self._decrypt()
        if not data and not self._decrypt():
            self.receive_eof()
        if channel.pending > READ_AHEAD:
            self._hold()

    def _decrypt(self) -> bool:
        """Pass on what the TLS layer has ready; False when it needs more octets first."""
        channel = self.channel
        if channel is None or not self.wants_data or type(self.asked) in _HANDSHAKES:
            return False
        try:
            plain = channel.read()
        except ssl.SSLError as error:
            self._peer_lost(error)
            return True
        if plain:
            self.receive_data(plain)
        elif channel.closed:
            self.receive_eof()
            if self.state is _ARRIVED and self.hook is not None:
                self.connection_lost()
        return bool(plain) or channel.closed

    # --- time -------------------------------------------------------------------------------------

    def _wait_for_client(self) -> bool:
        """Wait for octets; False if the session's time is over already."""
        clocks, now = self.clocks, self.clock()
        if not clocks.since:  # else the wait goes on that has begun
            clocks.since = now
        if clocks.session_is_over(self.state, now):
            self.timeout("session_timeout")
            return False
        if self.held:
            self._release()
        self.waits = CLIENT
        self.alarm(clocks.next(self)[1])
        return True

    def _wait_for_room(self) -> None:
        if self._hook_works():
            self._wait_for(HOOK)
        else:
            self.clocks.since = self.clock()
            self._wait_for(ROOM)

    def _charge(self, message: IncomingMessage) -> None:
        if not self.clocks.charge(self.clock(), message.byte_length):
            self.timeout("min_data_rate")

    def _client_is_late(self, kind: Any) -> None:
        if kind == "min_data_rate":
            if self.transfer is not None:
                self._charge(self.transfer)
            return
        if kind == "tls_handshake_timeout":
            self.server.report(TimeoutError("the TLS handshake took too long"), "tls", self.session)
        self.timeout(kind)

    def _hook_is_late(self, _kind: Any) -> None:
        if self.hook_name == "resolver" and self.clocks.phase_ends <= self.clock():
            self.timeout("greeting_timeout")
        else:
            self._give_up("timeout")

    def _delay_is_over(self, kind: Any) -> None:
        if kind is None:
            self._end_delay()
        else:
            self.timeout(kind)

    def _due_of_client(self) -> tuple[Any, float]:
        return self.clocks.next(self) if self.clocks.since else (None, NEVER)

    def _due_of_room(self) -> tuple[Any, float]:
        return "socket_timeout", self.clocks.idle_until()

    def _due_of_hook(self) -> tuple[Any, float]:
        return None, self.hook_ends if self._hook_works() else NEVER

    def _due_of_delay(self) -> tuple[Any, float]:
        clocks = self.clocks
        if self.ends <= clocks.phase_ends:
            return None, self.ends
        return "greeting_timeout", clocks.phase_ends

    def _due_of_end(self) -> tuple[Any, float]:
        return None, self.ends

    # --- hooks ------------------------------------------------------------------------------------

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
            self._start_time()
            piece = self._heed(trap)
            if piece is not None:
                self._step_hook(piece, None)
        return PENDING

    def _call_plain(self, name: str, hook: Callable[..., Any], args: tuple[Any, ...]) -> None:
        server = self.server
        if not server.coroutines:
            call = self.hook = partial(_plain_result, name, hook, args)
            self.in_thread = True
            self._start_time()
            self.apart(call)
        elif server.options.sync_hooks == "thread" or name in _MAY_BLOCK:
            self.in_thread = True
            self._begin(self.apart(partial(_without_stop_iteration, hook, args)))
        else:
            try:
                result = _without_stop_iteration(hook, args)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001 - as in `call`
                self._done(error=error)
                return
            if inspect.isawaitable(result):
                self._begin(_awaiting(result))
            else:
                self._done(result)

    def _begin(self, running: Coroutine[Any, Any, Any]) -> None:
        self.hook = running
        self._start_time()
        self._step_hook(None, None)

    def _start_time(self) -> None:
        if not self.timed and self.hook_name != "resolver":
            return
        options, now = self.server.options, self.clock()
        self.hook_ends = now + (options.hook_timeout or NEVER)
        if self.hook_name == "resolver":
            lookup_ends = now + (options.reverse_lookup_timeout or NEVER)
            self.hook_ends = min(self.hook_ends, self.clocks.phase_ends, lookup_ends)

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
            self._flush_due()
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
                stream.given_up = True
            stream.abort(why if why == "timeout" else "connection_lost" if self.lost else "shutdown")
            stream.wake_reader()
        self.given_up = why
        if self.in_thread and why == "timeout" and self.hook_name != "resolver":
            # The thread may go on with the session it was given; it must not see what comes after.
            self.session = self.server.exchange(self.session)
        self.cancel_hook()

    def claim(self, stream: MessageStream) -> bool:
        """See `MessageStream.claim`."""
        with self.server.verdicts:
            if stream.given_up or stream.aborted is not None or stream.ended:
                return False
            stream.claimed = True
            return True

    def _done(self, value: Any = None, error: BaseException | None = None) -> None:
        """A hook has returned, or raised."""
        name, ran = self.hook_name, self.hook is not None
        if ran:
            self.hook, self.in_thread, self.hook_ends = None, False, NEVER
            self.clocks.since = 0.0
            if self.hook_ended(error):
                self.lost = self.noted = True
        if error is not None or self.given_up is not None or self.lost:
            value = self._instead(name, value, error, ran=ran)
        if name == "on_data":
            self._message_done(value)
        elif name == "resolver":
            self._named(value)
        elif name == "on_close":
            self._over()
        else:
            self.answer = value

    def _instead(self, name: str, value: Any, error: BaseException | None, *, ran: bool) -> Any:
        """What counts for a hook that failed, was given up, or whose client is gone."""
        why, self.given_up = self.given_up, None
        lost = self.lost and ran
        if name == "resolver":
            return error if why is None else TimeoutError("the look-up was given up")
        if why == "timeout":
            self.server.report(TimeoutError(f"{name} took longer than hook_timeout"), "hook", self.session)
        elif why is None and not lost:
            return value if error is None else self._failed(name, error)
        return failure(name)

    def _failed(self, name: str, error: BaseException) -> Reject:
        reject = reject_within(error)
        if reject is not None:
            return reject
        stream = self.stream
        if not (isinstance(error, StreamAborted) and stream is not None and stream.aborted is not None):
            self.server.report(error, "hook", self.session)
        return failure(name)

    # --- what else the engine asks and tells ------------------------------------------------------

    def start_timer(self, kind: Any, seconds: float | None) -> None:
        """A limit begins."""
        if seconds is not None:
            self.clocks.set(kind, seconds, self.clock())

    def stop_timer(self, kind: Any, seconds: float | None) -> None:
        """A limit ends."""
        if seconds is not None:
            self.clocks.set(kind, None, 0.0)

    def put(self, event: Event) -> bool:
        """Any event but the frequent questions; False: the engine stands still."""
        row = self._questions.get(type(event))
        if row is None:
            note = self._notes.get(type(event))
            return note is None or note(self, event)
        if row.ask is not None:
            row.ask(self, event)
        else:
            self._ask(row.hook, *row.arguments(event))
        return False

    def _ask(self, name: str, *args: Any) -> None:
        hook = getattr(self.server, name)
        if hook is None:
            self.answer = NOT_IMPLEMENTED if name == "on_auth" else ACCEPT
        elif self.call(name, hook, *args) is ACCEPT:
            self.answer = ACCEPT

    def _note_tls(self, event: NeedsTLS | NeedsStartTLS) -> bool:
        self._begin_handshake(event)
        return self.asked is not event

    def _note_timer(self, event: TimerChanged) -> bool:
        self.clocks.set(event.kind, event.seconds, self.clock())
        return True

    def _note_client(self, event: ClientConnected) -> bool:
        self.server.connected(event.session)
        return True

    def _note_abort(self, event: DataAborted) -> bool:
        stream = self.stream
        if stream is not None:
            stream.abort(event.reason)
            if stream.reads:
                self._give(stream, b"")
            else:
                stream.wake_reader()
        return True

    def _note_end(self, event: ConnectionClosed) -> bool:
        self.reason = event.reason
        return True

    # --- before the greeting: the delay, the name, on_connect -------------------------------------

    def _arrive(self, _event: Event) -> None:
        delay = self.server.options.early_talker_delay
        if not delay:
            self._look_up()
            return
        self.ends = self.clock() + delay
        self._wait_for(DELAY)
        self._decrypt()

    def _end_delay(self) -> None:
        self.waits = HOOK
        if type(self.asked) is ConnectRequested:
            self._look_up()

    def _look_up(self) -> None:
        ip = self.session.remote_address
        if not ip or self.server.options.disable_reverse_lookup:
            self._ask_before_greeting("on_connect", self.session)
        else:
            self.call("resolver", self.server.resolve, ip)

    def _named(self, result: Any) -> None:
        if type(self.asked) is not ConnectRequested:
            return
        name = self.server.checked_name(self.session.remote_address, result)
        if name:
            self.set_client_hostname(name)
        self._ask_before_greeting("on_connect", self.session)

    def _secure(self, _event: Event) -> None:
        tls = None if self.channel is None else self.channel.ssl_object
        self._ask_before_greeting("on_secure", tls, self.session)

    def _ask_before_greeting(self, name: str, *args: Any) -> None:
        self.peeks = self.state is _ARRIVED
        self._ask(name, *args)

    # --- the message ------------------------------------------------------------------------------

    def message_begun(self, message: IncomingMessage) -> bool:
        """on_data; False: nothing is read before it reads."""
        self.clocks.begin_message()
        server = self.server
        hook, self.result = server.on_data, ACCEPT
        if hook is None:
            return True
        self.result = _NO_ANSWER
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
            return True
        stream.content = content
        stream.wake_reader()
        return False

    def message_ended(self, message: IncomingMessage) -> Accept | Pending:
        """The end of the message: what on_data has said, or will say."""
        stream = self.stream
        if stream is not None:
            if stream.reads:
                self._give(stream, b"")
            if self.hook is not None:
                stream.wake_reader()
                return PENDING
        if self.result is ACCEPT and message.refusal is None and not self.noted:
            return ACCEPT
        self.answer = self.result
        return PENDING

    def _message_done(self, value: Any) -> None:
        stream, self.stream = self.stream, None
        self.result = ACCEPT if value is None else value
        if stream is None:
            return
        stream.content, stream.reads, stream.ended, stream.at_end = None, False, True, False
        stream.wake_reader()
        if type(self.asked) is DataFinished:
            self.answer = self.result

    def _give(self, stream: MessageStream, piece: bytes) -> None:
        self._stop_reading(stream)
        self._step_hook(piece, None)

    # --- reading for the hook, from another task or thread ----------------------------------------

    def in_hook(self) -> bool:
        """Whether it is the hook's own step that asks."""
        return self.running and (not self.eager or self.own_step())

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
        if self.hook is not None:
            if self.timed:
                self.hook_ends += self.clock()
            self._wait_for(HOOK)

    # --- the end ----------------------------------------------------------------------------------

    def _finish(self) -> None:
        """All is decided. Come closer to the end: send what is left, let the client read it, part."""
        if self.waits not in _ENDING:
            self.waits, self.ends = Wait.LAST_REPLY, self.clock() + LAST_WORDS
            self.answer = _NO_ANSWER
            if not self._say_last():
                self._part()
                return
        if self.waits is PARTED:
            return
        if self.lost:
            self._part()
        elif self.full:
            self.alarm(self.ends)
        elif self.reason in _PEER_KNOWS:
            self._part()
        elif self.waits is Wait.LAST_REPLY:
            # Closing on unread octets would reset the connection, and the reset may overtake the reply.
            self.end_output()
            self.ends = min(self.ends, self.clock() + LINGER)
            self.waits = Wait.LINGER
            self.alarm(self.ends)
            self._release()

    def _say_last(self) -> bool:
        """Send the last reply and TLS's goodbye; False if there is nothing to be said."""
        said = bool(self.out)
        if said:
            self._flush()
        channel = self.channel
        if channel is not None and self.reason not in _PEER_IS_GONE and not self.lost:
            channel.close()
            octets = channel.outgoing()
            if octets:
                self.send(octets)
                said = True
        return said

    def _drain(self, data: bytes) -> None:
        """What a client still sends that is at its end is of no use any more."""
        if self.waits is Wait.LINGER:
            self.linger -= len(data)
            if not data or self.linger <= 0:
                self._part()

    def _part(self, _kind: Any = None) -> None:
        self.waits, self.ends = PARTED, NEVER
        self.drop()
        self.server.closed(self.session, self.reason, counted=self.counted)
        hook = self.server.on_close
        if hook is None:
            self._over()
        else:
            self.call("on_close", hook, self.session)

    def _over(self) -> None:
        self.server.gone(self)
        self.finished()

    # --- tables -----------------------------------------------------------------------------------

    _waits: ClassVar[Mapping[Wait, _Waiting]] = {
        Wait.CLIENT: _Waiting(_due_of_client, _client_is_late),
        Wait.HOOK: _Waiting(_due_of_hook, _hook_is_late),
        Wait.ROOM: _Waiting(_due_of_room, _client_is_late),
        Wait.DELAY: _Waiting(_due_of_delay, _delay_is_over),
        Wait.LAST_REPLY: _Waiting(_due_of_end, _part),
        Wait.LINGER: _Waiting(_due_of_end, _part),
        Wait.PARTED: _Waiting(_due_of_hook, _hook_is_late),
    }
    _questions: ClassVar[Mapping[type[Event], _Question]] = {
        ConnectRequested: _Question("on_connect", ask=_arrive),
        SecureRequested: _Question("on_secure", ask=_secure),
        AuthRequested: _Question("on_auth", attrgetter("auth", "session")),
        MailRequested: _Question("on_mail_from"),
        RcptRequested: _Question("on_rcpt_to"),
        DataFinished: _Question("on_data"),
        HelloReceived: _Question("on_helo", attrgetter("verb", "name", "session")),
        DataRequested: _Question("on_data_start", _session_alone),
        VerifyRequested: _Question("on_vrfy", attrgetter("argument", "session")),
        ExpandRequested: _Question("on_expn", attrgetter("argument", "session")),
        HelpRequested: _Question("on_help", attrgetter("argument", "session")),
        CommandReceived: _Question("on_command", attrgetter("verb", "argument", "session")),
    }
    _notes: ClassVar[Mapping[type[Event], Callable[[Any, Any], bool]]] = {
        NeedsTLS: _note_tls,
        NeedsStartTLS: _note_tls,
        TimerChanged: _note_timer,
        ClientConnected: _note_client,
        DataAborted: _note_abort,
        ConnectionClosed: _note_end,
    }


def _nobody() -> None:
    """Reads for the hook, and has not begun to wait."""


def _without_stop_iteration(hook: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Call a plain hook. Its StopIteration would get lost on the way out of a coroutine or a thread."""
    try:
        return hook(*args)
    except StopIteration as stop:
        raise RuntimeError("the hook raised StopIteration") from stop


def _plain_result(name: str, hook: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Call a hook in a runtime without coroutines."""
    result = _without_stop_iteration(hook, args)
    if inspect.iscoroutine(result):
        result.close()
        raise TypeError(f"{name} gave a coroutine; this runtime takes plain functions")
    return result


async def _awaiting(result: Awaitable[Any]) -> Any:
    return await result
