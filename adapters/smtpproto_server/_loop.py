# The server loop: one connection from the first octet to the last, written once.
#
# A generator of effects drives the core: it says when to read, to write and to call a hook, and
# an adapter does it. It is a complete server without I/O; tests feed it lists. What came of an
# effect returns as a value, and no `finally` in this file yields.

from __future__ import annotations

import ssl
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from smtpproto import (
    ACCEPT,
    AuthRequested,
    ClientConnected,
    CommandReceived,
    ConnectionClosed,
    ConnectRequested,
    DataAborted,
    DataChunk,
    DataFinished,
    DataRequested,
    DataStarted,
    Event,
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
from smtpproto_server._effects import (
    NOT_NOW,
    NOTHING_AT_ONCE,
    PULL,
    Ask,
    AtOnce,
    Close,
    Deliver,
    Failed,
    Outcome,
    Receive,
    Send,
)
from smtpproto_server._hooks import NOT_IMPLEMENTED, failure, read_result, read_results
from smtpproto_server._stream import MessageBody, StreamAborted

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from smtpproto import Accept, Connection, Decision, Session, TimerKind
    from smtpproto_server._effects import Effect
    from smtpproto_server._server import ServerCore
    from smtpproto_server._tls_channel import TlsChannel

__all__ = ["Serving"]

LAST_WORDS: Final = 5.0  # seconds that sending the end of a session may take
LINGER: Final = 1.0  # seconds for a client that still sends to read our last reply
LINGER_OCTETS: Final = 256 * 1024
MAX_UNSENT: Final = 64 * 1024  # octets handed to a hook's `output` before a Send sees them through
DEFAULT_WINDOW: Final = 60.0  # seconds over which min_data_rate is judged without socket_timeout


class Serving:
    """One connection being served.

    Run `run()` as a generator of effects; call `stop` from outside it to end the session.
    """

    __slots__ = (
        "_ask", "_body", "_channel", "_clock", "_close_reason", "_command_deadline", "_core",
        "_data_left", "_finished", "_hook_timeout", "_min_data_rate", "_phase", "_phase_ends", "_question",
        "_receive", "_runs_out", "_server", "_session_ends", "_since", "_socket_timeout",
        "_stop_seen", "_unsent",
        "_window_left", "_window_octets", "at_once", "counted", "fault", "recalled", "stopping",
    )  # fmt: skip

    def __init__(self, server: ServerCore, core: Connection, clock: Callable[[], float]) -> None:
        self._server: ServerCore = server
        self._core: Connection = core
        self._clock: Callable[[], float] = clock
        self._channel: TlsChannel | None = None
        self._socket_timeout: float | None = core.options.socket_timeout
        self._hook_timeout: float | None = server.options.hook_timeout
        self._min_data_rate: float | None = core.options.min_data_rate
        self._session_ends: float = _NEVER
        self._phase: TimerKind | None = None  # before the greeting or in a handshake: what runs then,
        self._phase_ends: float = _NEVER  # and until when
        self._command_deadline: float | None = None
        self._data_left: float | None = None
        self._window_left: float = 0.0
        self._window_octets: int = 0
        self._body: MessageBody | None = None
        self._finished: DataFinished | None = None
        self._since: float = 0.0  # when the wait for a piece of the message began,
        self._runs_out: TimerKind | None = None  # what runs out when a wait lasts too long
        self._close_reason: str = ""
        self._stop_seen: int = 0
        self.stopping: int = 0
        """0 go on, 1 end when the transaction has ended, 2 end now."""
        self.counted: bool = True
        """Counted for `max_clients`; False for a connection that is one too many."""
        self.fault: BaseException | None = None
        """Set by the adapter before LOST: what the socket died of, if it is known."""
        self._unsent: int = 0
        self._receive: Receive = Receive()
        # Made when first needed. Two: what never changes from one question to the next need not be
        # said again.
        self._question: Ask | None = None
        self._ask: Ask | None = None
        self.at_once: AtOnce = NOTHING_AT_ONCE
        """What the adapter can do without waiting; the rest becomes an effect."""
        self.recalled: bool = False
        """Set by an adapter whose hook, while it pulled, was given something else to do.

        A Receive that goes on is then to be resumed with STOPPED, and the hook's Ask comes again.
        """

    @property
    def session(self) -> Session:
        """The session being served."""
        return self._core.session

    def now(self) -> float:
        """The runtime's clock, in seconds."""
        return self._clock()

    @property
    def expendable(self) -> bool:
        """Nothing would be lost by cancelling what runs now: `stop(now=True)` was called."""
        return self.stopping > 1

    def stop(self, *, now: bool = False) -> None:
        """Ask for the end.

        The adapter then resumes a waiting Receive or Send with STOPPED, and with `now` cancels a
        hook that runs.
        """
        self.stopping = max(self.stopping, 2 if now else 1)

    # --- the whole ------------------------------------------------------------------------------

    def run(self) -> Generator[Effect, Any, None]:  # noqa: C901 - what comes most often is done here
        """Serve the connection; the adapter closes the socket when the generator ends."""
        core, notes = self._core, self._notes
        try:
            while True:
                try:
                    event = core.next_event()
                except Exception as error:  # noqa: BLE001 - a SASL mechanism of the application's raised
                    self._server.report(error, "hook", self.session)
                    continue  # its AUTH is answered already; the session goes on
                if event is _NEED_DATA:
                    rest = self._flush_at_once()
                    if rest is not None:
                        yield from self._transmit(rest)
                    elif self._begin_wait():
                        self._end_wait((yield self._receive))
                elif event is _CLOSED:
                    break
                elif (question := _QUESTIONS.get(type(event))) is not None:
                    ask = self._answer_at_once(event, question)
                    if ask is not None:
                        yield from self._ask_hook(cast("Event", event), ask)
                elif (note := notes.get(type(event))) is not None:
                    note(self, event)
                else:
                    yield from self._react(event)
        except Exception as error:  # noqa: BLE001 - a fault of ours ends one session, not the server
            self._fail(error)
        yield from self._say_goodbye()
        yield _CLOSE
        self._server.closed(self, self._close_reason)
        hook = self._server.hook("on_close")
        if hook is not None:
            result = yield self._call("on_close", hook, (self.session,))
            self._judge("on_close", result)

    def _fail(self, error: Exception) -> None:
        self._server.report(error, "socket", self.session)
        self._core.connection_lost()
        self._close_reason = "internal error"

    def _react(self, event: Event | Signal) -> Generator[Effect, Any, None]:
        if event is Signal.SEND:
            return self._flush()
        reaction = self._reactions.get(type(event))
        return _nothing() if reaction is None else reaction(self, event)

    # --- octets ---------------------------------------------------------------------------------

    def _output(self) -> bytes:
        """What is ready for the peer, encrypted if it must be."""
        data = self._core.data_to_send()
        if data:  # a line has been answered: if one is pending, it is another
            self._command_deadline = None
        channel = self._channel
        if channel is None:
            return data
        if data:
            channel.write(data)
        return channel.outgoing()

    def output(self) -> bytes:
        """Take the octets for the peer that must be sent before a hook is waited for."""
        data = self._output()
        self._unsent += len(data)
        return data

    def _flush(self) -> Generator[Effect, Any, None]:
        rest = self._flush_at_once()
        if rest is not None:
            yield from self._transmit(rest)

    def _flush_at_once(self) -> bytes | None:
        """Send what is ready, as far as that can be at once; None when all has gone."""
        data = self._output()
        if not data and not self._unsent:  # nothing, and nothing a hook was given may be left
            return None
        self._unsent = 0
        return self.at_once.send_at_once(data)

    def _transmit(self, rest: bytes) -> Generator[Effect, Any, None]:
        send = Send()
        send.data = rest
        limit = self._socket_timeout
        send.deadline = None if limit is None else self._clock() + limit
        result = yield send
        while result is Outcome.STOPPED:
            if self.recalled:
                return
            if self.expendable:
                self._pass_on_stop()
                return
            # Its reply is on the way; the loop sees the stop at the next boundary.
            send.data = b""
            result = yield send
        if result is Outcome.LOST:
            self._peer_lost(self.fault)
        elif result is Outcome.TIMED_OUT:
            self._core.timeout("socket_timeout")

    def _begin_wait(self) -> bool:
        """Whether the peer is to be waited for; if not, the core has what came instead."""
        if self.stopping > self._stop_seen:
            self._pass_on_stop()
            return False
        if self.recalled or (self._channel is not None and self._take_decrypted(self._channel)):
            return False
        now = self._clock()
        if self._body is not None:
            self._since = now
        kind = self._runs_out = self._next_deadline(now)
        if kind == "session_timeout" and (self._receive.deadline or now) <= now:
            self._core.timeout(kind)  # also for a client that never lets us wait
            return False
        return True

    def _end_wait(self, result: Any) -> None:
        """Give the core what came of the wait."""
        kind = self._runs_out
        if self._body is not None:
            self._account(self._since, result)
        if isinstance(result, bytes):
            self._take(result)
        elif result is Outcome.TIMED_OUT and kind is not None and kind != "min_data_rate":
            self._core.timeout(kind)
        elif result is Outcome.LOST:
            self._peer_lost(self.fault)

    def _take(self, data: bytes) -> None:
        """Octets from the socket, b"" at their end."""
        core, channel = self._core, self._channel
        if channel is None:
            if data:
                core.receive_data(data)
            else:
                core.receive_eof()
            return
        if data:
            channel.receive(data)
        else:
            channel.receive_eof()
        if not self._take_decrypted(channel) and not data:
            core.receive_eof()

    def _take_decrypted(self, channel: TlsChannel) -> bool:
        """Pass on what the TLS layer has ready; False when it needs more octets first."""
        try:
            plain = channel.read()
        except ssl.SSLError as error:
            self._peer_lost(error)
            return True
        if plain:
            self._core.receive_data(plain)
        elif channel.closed:
            self._core.receive_eof()
        return bool(plain) or channel.closed

    def _peer_lost(self, error: BaseException | None) -> None:
        """An error of the socket is worth an event where it costs a transaction."""
        stage = _STAGE_OF_LOSS.get(self._core.state)
        self._core.connection_lost()
        if error is not None and stage is not None:
            self._server.report(error, stage, self.session)
        elif error is not None:
            self._server.log.debug("%s: connection lost: %r", self.session.id, error)

    def _pass_on_stop(self, *, now: bool = False) -> None:
        self._stop_seen = self.stopping
        self._core.shutdown(now=now or self.expendable)

    # --- time -----------------------------------------------------------------------------------

    def _next_deadline(self, now: float) -> TimerKind | None:
        """Set the deadline of the next Receive; return what runs out then."""
        core = self._core
        limit = self._socket_timeout
        kind: TimerKind | None = None
        deadline = _NEVER
        if limit is not None:
            kind, deadline = "socket_timeout", now + limit
        if self._body is not None:
            if self._data_left is not None and now + self._data_left < deadline:
                kind, deadline = "data_timeout", now + self._data_left
            if self._min_data_rate is not None and now + self._window_left < deadline:
                kind, deadline = "min_data_rate", now + self._window_left
        elif core.line_pending:
            if self._command_deadline is None and core.options.command_timeout is not None:
                self._command_deadline = now + core.options.command_timeout
            if self._command_deadline is not None and self._command_deadline < deadline:
                kind, deadline = "command_timeout", self._command_deadline
        else:
            self._command_deadline = None
        if self._phase_ends < deadline:
            kind, deadline = self._phase, self._phase_ends
        if self._session_ends < deadline and core.state in _COMMAND_AWAITED:
            kind, deadline = "session_timeout", self._session_ends
        self._receive.deadline = None if kind is None else deadline
        return kind

    def _account(self, since: float, result: Any) -> None:
        """Charge the wait for the peer to the message it belongs to."""
        waited = self._clock() - since
        if self._data_left is not None:
            self._data_left -= waited
        rate = self._min_data_rate
        if rate is None:
            return
        self._window_left -= waited
        if isinstance(result, bytes):
            self._window_octets += len(result)
        if self._window_left > 0:
            return
        window = self._socket_timeout or DEFAULT_WINDOW
        if self._window_octets < rate * window:
            self._core.timeout("min_data_rate")
        self._window_left, self._window_octets = window, 0

    def _timer_changed(self, event: TimerChanged) -> None:
        ends = _NEVER if event.seconds is None else self._clock() + event.seconds
        if event.kind == "session_timeout":
            self._session_ends = ends
        elif event.kind in _PHASES:
            self._phase, self._phase_ends = event.kind, ends

    # --- hooks ------------------------------------------------------------------------------------

    def _call(
        self,
        name: str,
        hook: Callable[..., Any],
        args: tuple[Any, ...],
        *,
        watch: bool = False,
        body: MessageBody | None = None,
        lookup: bool = False,
    ) -> Ask:
        ask = self._ask
        if ask is None:
            ask = self._ask = Ask()
        ask.name, ask.hook, ask.args = name, hook, args
        ask.watch, ask.body, ask.lookup, ask.seconds = watch, body, lookup, self._hook_timeout
        return ask

    def _call_if_set(self, name: str, args: tuple[Any, ...], *, watch: bool) -> Ask | None:
        hook = self._server.hook(name)
        return None if hook is None else self._call(name, hook, args, watch=watch)

    def _judge(self, name: str, result: Any) -> Reject | None:
        """Report a hook that failed; None when it did not."""
        if isinstance(result, Failed):
            error: BaseException = result.exception
            if isinstance(error, Reject):
                return error
            self._server.report(error, "hook", self.session)
        elif result is Outcome.TIMED_OUT:
            self._server.report(TimeoutError(f"{name} took longer than hook_timeout"), "hook", self.session)
        else:
            return None
        return failure(name)

    def _answer_at_once(self, event: Any, question: _Question) -> Ask | None:
        """Put the event's question to its hook if that need not wait; if it must, the Ask for it."""
        core, server, name = self._core, self._server, question.hook
        hook = getattr(server, name)
        if hook is None:
            core.decide(question.without)
            return None
        arguments, ask = question.arguments, self._question
        if ask is None:
            ask = self._question = Ask()
            ask.seconds = self._hook_timeout
        ask.name, ask.hook, ask.args = name, hook, arguments(event)
        if server.flushes_first or self._unsent > MAX_UNSENT:
            return ask
        result = self.at_once.call_at_once(ask)
        if result is NOT_NOW:
            return ask
        if self.stopping > self._stop_seen or (result is not None and isinstance(result, Outcome)):
            self._note_outcome(result)
            if core.question is not event:
                self._judge(name, result)
                return None
        if result is None and question.nothing is not None:
            core.decide(question.nothing)
        else:
            self._decide(name, result, event.auth if type(event) is AuthRequested else None)
        return None

    def _ask_hook(
        self, event: Event, ask: Ask | None, *, before_greeting: bool = False
    ) -> Generator[Effect, Any, None]:
        """Put the event's question to a hook, None if there is none, and give the core its decision."""
        core = self._core
        name = "" if ask is None else ask.name
        result: Any = None
        if ask is not None:
            if not (yield from self._send_before_hook()) or core.question is not event:
                return
            result = yield ask
            if isinstance(result, Outcome) or self.stopping > self._stop_seen:
                yield from self._look_up_from(event, result)
        if before_greeting and core.question is event:
            yield from self._poll()
        if core.question is not event:
            self._judge(name, result)  # nobody is answered, but a fault of the hook's is one
            return
        if ask is None:
            core.decide(ACCEPT)
        else:
            self._decide(name, result, event.auth if isinstance(event, AuthRequested) else None)

    def _send_before_hook(self) -> Generator[Effect, Any, bool]:
        """What must be sent before a hook is called; False if the connection ended of it."""
        if not self._server.flushes_first and self._unsent <= MAX_UNSENT:
            return True
        yield from self._flush()
        return self._core.state is not State.CLOSED

    def _look_up_from(self, event: Event, result: Any) -> Generator[Effect, Any, None]:
        """Something else came while a hook ran: then the question may be open no longer."""
        if result is Outcome.INTERRUPTED:
            yield from self._hear_out(event)
        self._note_outcome(result)

    def _note_outcome(self, result: Any) -> None:
        if result is Outcome.LOST:
            self._peer_lost(self.fault)
        if self.stopping > self._stop_seen:
            self._pass_on_stop()

    def _decide(self, name: str, result: Any, auth: Any = None) -> None:
        core = self._core
        decision: Decision | None = self._judge(name, result)
        if decision is None:
            try:
                core.decide(read_result(name, result, auth))
            except Exception as error:  # noqa: BLE001 - a result of the application's can be anything
                self._server.report(error, "hook", self.session)
                core.decide(failure(name))
        else:
            core.decide(decision)

    def _poll(self) -> Generator[Effect, Any, None]:
        """Take what the client has sent by now, without waiting."""
        if self._channel is not None and self._take_decrypted(self._channel):
            return
        self._receive.deadline = self._clock()
        result = yield self._receive
        if isinstance(result, bytes):
            self._take(result)
        elif result is Outcome.LOST:
            self._peer_lost(self.fault)
        elif result is Outcome.STOPPED:
            self._pass_on_stop()

    def _hear_out(self, event: Event) -> Generator[Effect, Any, None]:
        """The client has begun to speak: read on until it is certain what that was.

        Under TLS a record can come in pieces, and may say no more than goodbye.
        """
        core = self._core
        while core.question is event:
            kind = self._next_deadline(self._clock())
            result = yield self._receive
            if isinstance(result, bytes):
                self._take(result)
                if not result or (self._channel is not None and self._channel.closed):
                    core.connection_lost()
            elif result is Outcome.TIMED_OUT and kind is not None:
                core.timeout(kind)
            elif result is Outcome.STOPPED:
                self._pass_on_stop(now=True)
            else:
                self._peer_lost(self.fault)

    # --- before the greeting --------------------------------------------------------------------

    def _connect(self, event: ConnectRequested) -> Generator[Effect, Any, None]:
        server, core = self._server, self._core
        if server.options.early_talker_delay:
            yield from self._hold_back(event, server.options.early_talker_delay)
        if core.question is event:
            yield from self._find_name(event)
        if core.question is event:
            ask = self._call_if_set("on_connect", (event.session,), watch=True)
            yield from self._ask_hook(event, ask, before_greeting=True)

    def _hold_back(self, event: ConnectRequested, delay: float) -> Generator[Effect, Any, None]:
        core = self._core
        until = self._clock() + delay
        limit = self._phase_ends
        if self._channel is not None:
            self._take_decrypted(self._channel)
        while core.question is event:
            self._receive.deadline = min(until, limit)
            result = yield self._receive
            if isinstance(result, bytes):
                self._take(result)
                if not result:  # it has said all it will ever say
                    return
            elif result is Outcome.TIMED_OUT:
                if limit < until:
                    core.timeout("greeting_timeout")
                return
            elif result is Outcome.STOPPED:
                self._pass_on_stop(now=True)
            else:
                self._peer_lost(self.fault)

    def _find_name(self, event: ConnectRequested) -> Generator[Effect, Any, None]:
        server, core = self._server, self._core
        options = server.options
        ip = event.session.remote_address
        if not ip or options.disable_reverse_lookup:
            return
        if self.stopping > self._stop_seen:
            self._pass_on_stop(now=True)
            return
        limit = _NEVER if options.reverse_lookup_timeout is None else options.reverse_lookup_timeout
        left = self._phase_ends - self._clock()
        ask = self._call("resolver", server.resolve, (ip,), watch=True, lookup=True)
        ask.seconds = min(limit, left)
        if ask.seconds == _NEVER:
            ask.seconds = None
        result = yield ask
        if self.stopping > self._stop_seen:
            self._pass_on_stop(now=True)
        elif result is Outcome.TIMED_OUT and left <= limit:
            core.timeout("greeting_timeout")
        elif result in _ANSWERED_BY_PEER:
            yield from self._look_up_from(event, result)
        else:
            name = server.checked_name(ip, result)
            if name:
                core.set_client_hostname(name)

    def _secure(self, event: SecureRequested) -> Generator[Effect, Any, None]:
        ssl_object = self._channel.ssl_object if self._channel else None
        before_greeting = self._core.state is State.ARRIVED
        ask = self._call_if_set("on_secure", (ssl_object, event.session), watch=before_greeting)
        return self._ask_hook(event, ask, before_greeting=before_greeting)

    def _connected(self, event: ClientConnected) -> None:
        self._server.connected(event.session)

    # --- TLS --------------------------------------------------------------------------------------

    def _handshake(self, event: NeedsTLS | NeedsStartTLS) -> Generator[Effect, Any, None]:
        """No reply to what goes wrong here, and no way back to plaintext (RFC 3207 §4.1)."""
        core = self._core
        yield from self._flush()
        if core.question is not event:
            return
        channel = self._server.contexts.channel()
        if isinstance(event, NeedsTLS) and event.data:
            channel.receive(event.data)
        error = yield from self._shake_hands(event, channel)
        if error is not None:
            core.connection_lost()
            self._server.report(error, "tls", self.session)
        elif core.question is event:
            self._channel = channel
            core.tls_established(channel.details())

    def _shake_hands(
        self, event: NeedsTLS | NeedsStartTLS, channel: TlsChannel
    ) -> Generator[Effect, Any, Exception | None]:
        """What went wrong, if anything did; when `stop` ends it, the question is open no longer."""
        core = self._core
        while True:
            done, error = _step(channel)
            octets = channel.outgoing()  # TLS's own alert, too
            if octets and (rest := self.at_once.send_at_once(octets)) is not None:
                yield from self._transmit(rest)
            if self.stopping > self._stop_seen:
                self._pass_on_stop()
            if done or error is not None:
                return error
            if core.question is not event:
                return None if self.stopping else ConnectionError("lost in the TLS handshake")
            kind = self._next_deadline(self._clock())
            result = yield self._receive
            if isinstance(result, bytes):
                if result:
                    channel.receive(result)
                else:
                    channel.receive_eof()
            elif result is Outcome.TIMED_OUT and kind is not None:
                core.timeout(kind)
                return TimeoutError("the TLS handshake took too long")
            elif result is Outcome.LOST:
                return ConnectionError("lost in the TLS handshake")

    # --- the message ------------------------------------------------------------------------------

    def _message(self, event: DataStarted) -> Generator[Effect, Any, None]:
        """Let on_data pull the message, drain what it leaves, and answer."""
        server = self._server
        window = self._socket_timeout or DEFAULT_WINDOW
        self._window_left, self._window_octets = window, 0
        self._data_left = self._core.options.data_timeout
        self._finished = None
        body = self._body = MessageBody(event.message)
        hook = server.on_data
        result: Any = None
        if hook is not None and (yield from self._send_before_hook()):
            ask = self._call("on_data", hook, (event.session,), body=body)
            result = yield from self._let_pull(ask)
            body.ended, ask.body = True, None
            if isinstance(result, Outcome):
                body.give_up(result)
            if result is Outcome.LOST:
                self._peer_lost(self.fault)
        if self.stopping > self._stop_seen:
            self._pass_on_stop()
        while self._finished is None and (yield from self._next_chunk()) is not None:
            pass  # what the hook did not want is read and dropped
        self._body = None
        if self._finished is not None and self._core.question is self._finished:
            self._answer_message(body, result)
        elif not _stream_aborted(result):
            self._judge("on_data", result)  # as in _ask_hook

    def _let_pull(self, ask: Ask) -> Generator[Effect, Any, Any]:
        """Call on_data and give it what it pulls; what it returns."""
        at_once, deliver = self.at_once, Deliver(ask)
        effect: Ask | Deliver = ask
        result = at_once.call_at_once(ask)
        looked = True  # whoever pulls at once has seen that nothing is at hand
        while True:
            if result is NOT_NOW:
                result, looked = (yield effect), False
            if result is not PULL:
                return result
            deliver.data = (yield from self._next_chunk(looked=looked)) or b""
            if self.recalled:
                self.recalled = False
                effect, result = ask, NOT_NOW
            else:
                effect, result, looked = deliver, at_once.deliver_at_once(deliver.data), True

    def _next_chunk(self, *, looked: bool = False) -> Generator[Effect, Any, bytes | None]:
        """The next octets of the message; b"" where it ends or is aborted, None when all is over.

        `looked`: none are at hand.
        """
        try:
            chunk = None if looked else self.chunk_at_hand()
            while chunk is None:
                if self.recalled or self._body is None or self._close_reason:
                    return None
                rest = self._flush_at_once()
                if rest is not None:
                    yield from self._transmit(rest)
                elif self._begin_wait():
                    self._end_wait((yield self._receive))
                chunk = self.chunk_at_hand()
        except Exception as error:  # noqa: BLE001 - the hook that pulls is not to be told
            return self._fail_within(error)
        return chunk

    def chunk_at_hand(self) -> bytes | None:
        """The next octets of the message as `_next_chunk` gives them, None if they have not come yet.

        An adapter may call it for the hook that has the message, between two Pulls.
        """
        core, body = self._core, self._body
        if body is None:
            return None
        try:
            while self._finished is None:
                event = core.next_event()
                if type(event) is DataChunk:
                    return event.data
                if event is _NEED_DATA or event is _CLOSED:
                    return None
                if self._note(event, body):
                    break
        except Exception as error:  # noqa: BLE001 - as above
            return self._fail_within(error)
        return b""

    def _fail_within(self, error: Exception) -> bytes:
        self._fail(error)
        if self._body is not None:
            self._body.give_up(Outcome.LOST)
        return b""

    def _note(self, event: Event | Signal, body: MessageBody) -> bool:
        """Take an event within a message that is no octets; True when no octets will come."""
        if isinstance(event, DataFinished):
            self._finished = event
        elif isinstance(event, DataAborted):
            body.aborted = event.reason
            return True
        elif isinstance(event, TimerChanged):
            self._timer_changed(event)
        elif isinstance(event, ConnectionClosed):
            self._note_end(event)
        return False

    def _answer_message(self, body: MessageBody, result: Any) -> None:
        core = self._core
        refusal = body.message.refusal
        if result is None:
            core.decide(ACCEPT)
        elif refusal is not None and _stream_aborted(result):
            core.decide(refusal)
        elif isinstance(result, list | tuple) and core.options.lmtp:
            self._answer_each(result)
        else:
            self._decide("on_data", result)

    def _answer_each(self, results: Any) -> None:
        core = self._core
        try:
            decisions, wrong = read_results(results, len(core.session.envelope.rcpt_to))
            core.decide(decisions)
        except Exception as error:  # noqa: BLE001 - as in _decide
            self._server.report(error, "hook", self.session)
            core.decide(failure("on_data"))
            return
        if wrong:
            self._server.report(ValueError(wrong), "hook", self.session)

    def _note_end(self, event: ConnectionClosed) -> None:
        self._close_reason = event.reason

    # --- the end ----------------------------------------------------------------------------------

    def _say_goodbye(self) -> Generator[Effect, Any, None]:
        """Send what is left, and see that a client which is still talking can read it."""
        data = self._output()
        if self._channel is not None and self._close_reason not in _PEER_IS_GONE:
            self._channel.close()
            data += self._channel.outgoing()
        if not data:
            return
        send = Send()
        send.data, send.last = data, self._close_reason not in _PEER_KNOWS
        deadline = send.deadline = self._clock() + LAST_WORDS
        result = yield send
        while result is Outcome.STOPPED:
            send.data = b""
            result = yield send
        if result is not None or not send.last:
            return
        # Closing on unread octets would reset the connection, and the reset may overtake the reply.
        self._receive.deadline = min(deadline, self._clock() + LINGER)
        octets = 0
        while octets < LINGER_OCTETS:
            result = yield self._receive
            if result is Outcome.STOPPED:
                continue
            if not isinstance(result, bytes) or not result:
                return
            octets += len(result)

    _notes: ClassVar[Mapping[type[object], Callable[[Any, Any], None]]] = {
        TimerChanged: _timer_changed,
        ClientConnected: _connected,
        ConnectionClosed: _note_end,
    }
    _reactions: ClassVar[Mapping[type[object], Callable[[Any, Any], Generator[Effect, Any, None]]]] = {
        NeedsTLS: _handshake,
        NeedsStartTLS: _handshake,
        ConnectRequested: _connect,
        SecureRequested: _secure,
        DataStarted: _message,
    }


_CLOSE: Final = Close()
# An enum's members are slow to find in CPython 3.11.
_NEED_DATA: Final = Signal.NEED_DATA
_CLOSED: Final = Signal.CLOSED
_NEVER: Final = float("inf")
_ANSWERED_BY_PEER: Final = (Outcome.LOST, Outcome.INTERRUPTED)
_PHASES: Final = frozenset({"proxy_timeout", "tls_handshake_timeout", "greeting_timeout"})
_COMMAND_AWAITED: Final = frozenset({State.GREETED, State.READY, State.AUTH, State.MAIL, State.RCPT})
_STAGE_OF_LOSS: Final = {State.MAIL: "socket", State.RCPT: "socket", State.DATA: "stream"}
_PEER_IS_GONE: Final = frozenset({"connection lost", "internal error"})
_PEER_KNOWS: Final = frozenset({"quit", "eof", *_PEER_IS_GONE})


@dataclass(frozen=True, slots=True)
class _Question:
    """A question that is simply put to a hook."""

    hook: str
    arguments: Callable[[Any], tuple[Any, ...]]
    """What of the event the hook is called with."""
    without: Accept | Reject
    """What is decided if there is no such hook."""
    nothing: Accept | None
    """What a hook that returns None has said; None: `read_result` knows."""


def _session_alone(event: DataRequested) -> tuple[Any, ...]:
    return (event.session,)


_QUESTIONS: Final[Mapping[type[object], _Question]] = {
    AuthRequested: _Question("on_auth", attrgetter("auth", "session"), NOT_IMPLEMENTED, None),
    MailRequested: _Question("on_mail_from", attrgetter("address", "session"), ACCEPT, ACCEPT),
    RcptRequested: _Question("on_rcpt_to", attrgetter("address", "session"), ACCEPT, ACCEPT),
    HelloReceived: _Question("on_helo", attrgetter("verb", "name", "session"), ACCEPT, ACCEPT),
    DataRequested: _Question("on_data_start", _session_alone, ACCEPT, ACCEPT),
    VerifyRequested: _Question("on_vrfy", attrgetter("argument", "session"), ACCEPT, ACCEPT),
    ExpandRequested: _Question("on_expn", attrgetter("argument", "session"), ACCEPT, ACCEPT),
    HelpRequested: _Question("on_help", attrgetter("argument", "session"), ACCEPT, ACCEPT),
    CommandReceived: _Question("on_command", attrgetter("verb", "argument", "session"), ACCEPT, None),
}


def _step(channel: TlsChannel) -> tuple[bool, Exception | None]:
    try:
        return channel.handshake(), None
    except (ssl.SSLError, ssl.CertificateError) as error:
        return False, error


def _stream_aborted(result: Any) -> bool:
    """The hook failed only because its message did."""
    return isinstance(result, Failed) and isinstance(result.exception, StreamAborted)


def _nothing() -> Generator[Effect, Any, None]:
    return
    yield  # a generator without effects
