# One connection being served: the loop that runs the engine, its time limits, its beginning and its end.
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

from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from smtpproto import (
    ACCEPT,
    AuthRequested,
    ClientConnected,
    CommandRequested,
    ConnectionClosed,
    ConnectRequested,
    DataAborted,
    DataFinished,
    DataRequested,
    ExpandRequested,
    HelloRequested,
    HelpRequested,
    MailRequested,
    NeedsStartTLS,
    NeedsTLS,
    RcptRequested,
    Reject,
    SecureRequested,
    Signal,
    State,
    VerifyRequested,
)
from smtpproto_server._calls import NO_ANSWER, Calls
from smtpproto_server._clocks import NEVER
from smtpproto_server._hooks import NOT_IMPLEMENTED, failure, read_result, read_results
from smtpproto_server._octets import HANDSHAKES
from smtpproto_server._rows import Question, Wait, Waiting, session_alone

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from smtpproto import Event
    from smtpproto_server._application import Application

__all__ = ["PARTED", "Driver", "Wait"]

LAST_WORDS: Final = 5.0  # seconds that sending the end of a session may take
LINGER: Final = 1.0  # seconds for a client that still sends to read the last reply
LINGER_OCTETS: Final = 256 * 1024


# An enum's members are slow to find in CPython 3.11.
CLIENT, HOOK, ROOM, DELAY, PARTED = Wait.CLIENT, Wait.HOOK, Wait.ROOM, Wait.DELAY, Wait.PARTED
_NEED_DATA, _PAUSED, _CLOSED = Signal.NEED_DATA, Signal.PAUSED, Signal.CLOSED
_DATA, _ARRIVED, _AT_END = State.DATA, State.ARRIVED, State.CLOSED

_ENDING: Final = frozenset({Wait.LAST_REPLY, Wait.LINGER, Wait.PARTED})
INTERNAL_ERROR: Final = "internal error"
_PEER_IS_GONE: Final = frozenset({"connection lost", INTERNAL_ERROR})
_PEER_KNOWS: Final = frozenset({"quit", "eof", *_PEER_IS_GONE})


class Driver(Calls):
    """A connection being served. A runtime's connection is a subclass."""

    __slots__ = (
        "ends", "farewell", "inbox", "linger", "peeks", "reason", "rings", "stop_seen", "stopping", "waits",
    )  # fmt: skip

    # Of the classes below; said again for checkers of types.
    answer: Any
    lost: bool
    noted: bool
    running: bool

    def __init__(self, server: Application, clock: Callable[[], float], facts: Mapping[str, Any]) -> None:
        self.waits: Wait = CLIENT
        """What is awaited, while nothing runs."""
        self.ends: float = NEVER
        """When DELAY, LAST_REPLY or LINGER is over."""
        self.rings: float = NEVER
        """When the alarm is set for. It may come early, and then looks again."""
        self.linger: int = LINGER_OCTETS
        """How many octets of the client LINGER still takes."""
        self.inbox: list[bytes] = []
        """Octets that have come while something ran."""
        self.stopping: int = 0
        """0 go on, 1 end when the transaction has ended, 2 end now."""
        self.stop_seen: int = 0
        self.farewell: Reject | None = None
        """What is said at the end that comes now; None: that the server shuts down."""
        self.peeks: bool = False
        """It is to be seen, before the answer counts, whether the client talks too soon."""
        self.reason: str = ""
        """Why the connection has ended."""
        super().__init__(server, clock, facts)

    # --- what a runtime adds ----------------------------------------------------------------------

    def alarm(self, when: float) -> None:
        """Call `expired` then, at `rings` (the clock's seconds), in place of any later time.

        A runtime whose waits look at `rings` has nothing to do here.
        """

    def poke(self) -> None:
        """Call `go_on` soon, where the connection runs. Called where the server's `close` runs."""
        raise NotImplementedError

    def finished(self) -> None:
        """Nothing is left to be done."""

    # --- from outside -----------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        """Octets have come from the socket; b"" is their end."""
        if self.running or self.channel is not None or not data or self.state is _AT_END:
            self.inbox.append(data)
            self.noted = True
        else:
            clocks = self.clocks
            try:
                if clocks.since and self.state is _DATA:
                    self._charge()
                clocks.since = 0.0
                self.receive_data(data)
            except Exception as error:  # noqa: BLE001 - as in go_on
                self._fail(error)
        self.go_on()
        # While the client is waited for, all that comes has been taken.
        if (self.full or not self.clocks.since) and not self.wants_data:
            self._hold()

    def lose(self, error: BaseException | None = None) -> None:
        """The client can neither be read from nor written to any more."""
        if self.lost or self.waits is PARTED:
            return
        self.note_loss(error)
        self.go_on()

    def room(self) -> None:
        """All that was to be sent has gone."""
        self.full = False
        if self.answered:
            self.replies_sent()
        self.clocks.since = 0.0
        self.go_on()

    def disconnect(self, reply: Reject | None) -> None:
        """End the session now, and say this."""
        if self.stopping < 2:  # noqa: PLR2004 - it does not end yet
            self.farewell = reply
        self.stop(now=True)

    def stop(self, *, now: bool = False) -> None:
        """End the session: after the transaction, or now."""
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
        self.server.closed(self.session, self.reason or "aborted", refused=self.refused)
        self.server.gone(self)

    def expired(self) -> None:
        """The alarm: act if something has run out by now, else set the alarm again."""
        self.rings = NEVER
        if self.running:  # the next wait sets it again
            return
        self.running = True
        try:
            kind, when = self._waits[self.waits].due(self)
            if when > self.clock():
                self._alarm_by(when)
                return
            self._waits[self.waits].run_out(self, kind)
        except Exception as error:  # noqa: BLE001 - as in go_on
            self._fail(error)
        finally:
            self.running = False
        self.go_on()

    # --- the loop ---------------------------------------------------------------------------------

    def go_on(self) -> None:  # noqa: C901, PLR0912 - the whole loop, to be read in one piece
        """Run until something is awaited. Called from within, it does nothing: what is new was noted."""
        if self.running:
            return
        self.running = True
        try:
            while True:
                if self.noted:
                    self._take_notes()
                if self.full and self.state is not _AT_END:
                    self._wait_for_room()
                    return
                stream = self.stream
                if stream is not None and not stream.reads and self._hook_has_enough(stream):
                    self._wait_for(HOOK)
                    return
                signal = self.advance()
                if signal is _CLOSED:
                    if self._has_ended():
                        return
                    continue
                if self.out and signal is not _PAUSED:  # a hook that waits has had it sent
                    if self.after_reply and self.transfer is None:
                        self.replies_queued()
                    self._flush()
                if self.noted:
                    continue
                if signal is _NEED_DATA:
                    if self.full or (self.channel is not None and self._decrypt(self.channel)):
                        continue
                    if self._wait_for_client():
                        return
                elif signal is _PAUSED and self._stands_still():
                    return
        except Exception as error:  # noqa: BLE001 - a fault of ours ends one session, not the server
            self._fail(error)
        finally:
            self.running = False

    def _stands_still(self) -> bool:
        """The engine stands still: True if the answer to its question is not there yet."""
        if type(self.asked) in HANDSHAKES:
            return self._wait_for_client()
        if self.asked is None or self.events:
            return False  # it stood still for a hook, which has gone on
        if self.answer is NO_ANSWER:
            if self.waits is not DELAY:
                self._wait_for(HOOK)
            return True
        if self.peeks and not self.eof:
            if self.channel is not None and self._decrypt(self.channel):
                return False
            if self.inbox or self.octets_wait():
                self.peeks = False
                return self._wait_for_client()
        self._decide_asked()
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
            at_once = self.stopping > 1 or self.waits is DELAY or looks_up
            self.shutdown(now=at_once, reply=self.farewell)

    def _take(self, data: bytes) -> None:
        if self.clocks.since and self.state is _DATA:
            self._charge()
        self.clocks.since = 0.0
        if self.state is _AT_END:
            self._drain(data)
        elif self.channel is not None:
            self._take_encrypted(self.channel, data)
            if self.channel.closed and self.state is _ARRIVED and self.hook is not None:
                self.connection_lost()  # it has said goodbye to a server that has not greeted it
        elif data:
            self.receive_data(data)
        else:
            self.receive_eof()
        if not data and self.waits is DELAY:  # the client has said all it will ever say
            self._end_delay()

    def _has_ended(self) -> bool:
        """The engine is at its end: True if something has to be waited for yet."""
        if self.hook is not None:
            reads_elsewhere = self.stream is not None and self.stream.reader is not None
            wanted = self.stream is None or self.lost or self.stopping > 1
            if self.hook_name != "on_close" and wanted and not reads_elsewhere:
                self._give_up("closed")
            if self.hook is not None:
                self._wait_for(PARTED if self.waits is PARTED else HOOK)
                return True
        self._finish()
        if self.waits is PARTED:
            self._wait_for(PARTED)
            return True
        return not self.noted

    def _wait_for(self, wait: Wait) -> None:
        self.waits = wait
        self._alarm_by(self._waits[wait].due(self)[1])

    def _alarm_by(self, when: float) -> None:
        """See to it that the alarm comes then, or earlier."""
        if when < self.rings:
            self.rings = when
            self.alarm(when)

    def _decide_asked(self) -> None:
        """Give the engine the answer."""
        event, value = self.asked, self.answer
        assert event is not None  # noqa: S101 - the caller has looked
        self.answer, self.peeks = NO_ANSWER, False
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
        if name == "on_data" and isinstance(value, list | tuple) and self.lmtp:
            decisions, wrong = read_results(cast("Sequence[Any]", value), len(self.session.envelope.rcpt_to))
            if wrong:
                self.server.report(ValueError(wrong), "hook", self.session)
            return decisions
        return read_result(name, value, event.auth if type(event) is AuthRequested else None)

    def _fail(self, error: Exception) -> None:
        self.server.report(error, "socket", self.session)
        if self.reason == INTERNAL_ERROR:  # again
            self.end()
            return
        self.connection_lost()
        self.lost, self.reason = True, INTERNAL_ERROR
        if self.hook is None:
            self._finish()
        else:  # it is to be told, and given up
            self.noted = True
            self.poke()

    # --- time -------------------------------------------------------------------------------------

    def _wait_for_client(self) -> bool:
        """Wait for octets; False if the session's time is over already."""
        clocks, now = self.clocks, self.clock()
        if not clocks.since:  # else the wait goes on that has begun
            clocks.since = now
        rings = self.rings
        if (  # unless the alarm comes early enough for the plainest of waits
            not now < rings <= clocks.since + clocks.idle
            or rings > clocks.phase_ends
            or rings > clocks.session_ends
            or self.state is _DATA
            or self.buffer.begun is not None
        ):
            kind, when = clocks.next(self)
            if when <= now and kind == "session_timeout":
                self.timeout(kind)
                return False
            self._alarm_by(when)
        if self.held:
            self._release()
        self.waits = CLIENT
        return True

    def _wait_for_room(self) -> None:
        if self._hook_works():
            self._wait_for(HOOK)
        else:
            self.clocks.since = self.clock()
            self._wait_for(ROOM)

    def _client_is_late(self, kind: Any) -> None:
        if kind == "min_data_rate":
            self._charge()
            return
        if type(self.asked) in HANDSHAKES:
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

    def _due_of_end(self) -> tuple[Any, float]:
        return None, self.ends

    def _due_of_hook(self) -> tuple[Any, float]:
        return None, self.hook_ends if self._hook_works() else NEVER

    def _due_of_delay(self) -> tuple[Any, float]:
        clocks = self.clocks
        if self.ends <= clocks.phase_ends:
            return None, self.ends
        return "greeting_timeout", clocks.phase_ends

    # --- what else the engine asks and tells ------------------------------------------------------

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
        return self.begin_handshake(event)

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
        self.reason = self.reason or event.reason
        return True

    def mechanism_failed(self, error: BaseException) -> None:
        """As a hook that failed."""
        if isinstance(error, KeyboardInterrupt):
            raise error
        self.server.report(error, "hook", self.session)

    # --- before the greeting: the delay, the name, on_connect -------------------------------------

    def _arrive(self, _event: Event) -> None:
        if delay := self.server.options.early_talker_delay:
            self.ends = self.clock() + delay
            self._wait_for(DELAY)
            if self.channel is not None:
                self._decrypt(self.channel)
        else:
            self._look_up()
        if self.stopping:  # a stop that was seen before ends the delay and the look-up, too
            self.stop_seen, self.noted = 0, True

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

    def named(self, result: Any) -> None:
        """The look-up has ended."""
        if type(self.asked) is not ConnectRequested:
            return
        name = self.server.checked_name(self.session, result)
        if name:
            self.set_client_hostname(name)
        self._ask_before_greeting("on_connect", self.session)

    def _secure(self, _event: Event) -> None:
        tls = None if self.channel is None else self.channel.ssl_object
        self._ask_before_greeting("on_secure", tls, self.session)

    def _ask_before_greeting(self, name: str, *args: Any) -> None:
        self.peeks = self.state is _ARRIVED
        self._ask(name, *args)

    # --- the end ----------------------------------------------------------------------------------

    def _finish(self) -> None:
        """All is decided. Come closer to the end: send what is left, let the client read it, part."""
        if self.waits not in _ENDING:
            self.waits, self.ends = Wait.LAST_REPLY, self.clock() + LAST_WORDS
            self.answer = NO_ANSWER
            self.replies_queued()
            if not self._say_last(goodbye=self.reason not in _PEER_IS_GONE):
                self._part()
                return
        if self.waits is PARTED:
            return
        if self.lost:
            self._part()
        elif self.full:
            self._alarm_by(self.ends)
        elif self.eof or self.reason in _PEER_KNOWS:
            self._part()
        elif self.waits is Wait.LAST_REPLY:
            # Closing on unread octets would reset the connection, and the reset may overtake the reply.
            self.end_output()
            self.ends = min(self.ends, self.clock() + LINGER)
            self.waits = Wait.LINGER
            self._alarm_by(self.ends)
            self._release()

    def _drain(self, data: bytes) -> None:
        """What a client still sends that is at its end is of no use any more."""
        if self.waits is Wait.LINGER:
            self.linger -= len(data)
            if not data or self.linger <= 0:
                self._part()

    def _part(self, _kind: Any = None) -> None:
        self.waits, self.ends = PARTED, NEVER
        self.drop()
        self.server.closed(self.session, self.reason, refused=self.refused)
        hook = self.server.on_close
        if hook is None:
            self.over()
        else:
            self.call("on_close", hook, self.session)

    def over(self) -> None:
        """on_close has ended: nothing is left."""
        self.server.gone(self)
        self.finished()

    # --- tables -----------------------------------------------------------------------------------

    _waits: ClassVar[Mapping[Wait, Waiting]] = {
        Wait.CLIENT: Waiting(_due_of_client, _client_is_late),
        Wait.HOOK: Waiting(_due_of_hook, _hook_is_late),
        Wait.ROOM: Waiting(_due_of_room, _client_is_late),
        Wait.DELAY: Waiting(_due_of_delay, _delay_is_over),
        Wait.LAST_REPLY: Waiting(_due_of_end, _part),
        Wait.LINGER: Waiting(_due_of_end, _part),
        Wait.PARTED: Waiting(_due_of_hook, _hook_is_late),
    }
    _questions: ClassVar[Mapping[type[Event], Question]] = {
        ConnectRequested: Question("on_connect", ask=_arrive),
        SecureRequested: Question("on_secure", ask=_secure),
        AuthRequested: Question("on_auth", attrgetter("auth", "session")),
        MailRequested: Question("on_mail_from"),
        RcptRequested: Question("on_rcpt_to"),
        DataFinished: Question("on_data"),
        HelloRequested: Question("on_helo", attrgetter("verb", "name", "session")),
        DataRequested: Question("on_data_start", session_alone),
        VerifyRequested: Question("on_vrfy", attrgetter("argument", "session")),
        ExpandRequested: Question("on_expn", attrgetter("argument", "session")),
        HelpRequested: Question("on_help", attrgetter("argument", "session")),
        CommandRequested: Question("on_command", attrgetter("verb", "argument", "session")),
    }
    _notes: ClassVar[Mapping[type[Event], Callable[[Any, Any], bool]]] = {
        NeedsTLS: _note_tls,
        NeedsStartTLS: _note_tls,
        ClientConnected: _note_client,
        DataAborted: _note_abort,
        ConnectionClosed: _note_end,
    }
