# The server loop: one connection from the first octet to the last, written once.
#
# A generator of effects drives the core: it says when to read, to write and to call a hook, and
# an adapter does it. It is a complete server without I/O; tests feed it lists. What came of an
# effect returns as a value, and no `finally` in this file yields.

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, ClassVar, Final

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
from smtpproto_server._effects import Ask, Close, Deliver, Failed, Outcome, Pull, Receive, Send
from smtpproto_server._hooks import NOT_IMPLEMENTED, failure, read_result, read_results
from smtpproto_server._stream import MessageBody, StreamAborted

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from smtpproto import Connection, Decision, Session, TimerKind
    from smtpproto_server._effects import Effect
    from smtpproto_server._server import ServerCore
    from smtpproto_server._tls import TlsChannel

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
        "_data_left", "_deadlines", "_deliver", "_finished", "_receive", "_send", "_server",
        "_stop_seen", "_unsent", "_window_left", "_window_octets", "counted", "fault", "stopping",
    )  # fmt: skip

    def __init__(self, server: ServerCore, core: Connection, clock: Callable[[], float]) -> None:
        self._server: ServerCore = server
        self._core: Connection = core
        self._clock: Callable[[], float] = clock
        self._channel: TlsChannel | None = None
        self._deadlines: dict[TimerKind, float] = {}
        self._command_deadline: float | None = None
        self._data_left: float | None = None
        self._window_left: float = 0.0
        self._window_octets: int = 0
        self._body: MessageBody | None = None
        self._finished: DataFinished | None = None
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
        self._send: Send = Send()
        self._deliver: Deliver = Deliver()
        self._ask: Ask = Ask(self._output_for_hook)

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

    def run(self) -> Generator[Effect, Any, None]:
        """Serve the connection; the adapter closes the socket when the generator ends."""
        try:
            while (event := self._next_event()) is not Signal.CLOSED:
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

    def _next_event(self) -> Event | Signal:
        try:
            return self._core.next_event()
        except Exception as error:  # noqa: BLE001 - a SASL mechanism of the application's raised
            self._server.report(error, "hook", self.session)
            return self._core.next_event()  # its AUTH is answered already; the session goes on

    def _fail(self, error: Exception) -> None:
        self._server.report(error, "socket", self.session)
        self._core.connection_lost()
        self._close_reason = "internal error"

    def _react(self, event: Event | Signal) -> Generator[Effect, Any, None]:
        if event is Signal.NEED_DATA:
            return self._wait_for_peer()
        if event is Signal.SEND:
            return self._flush()
        if isinstance(event, Event) and type(event) in _HOOK_OF:
            name, *fields = _HOOK_OF[type(event)]
            return self._ask_hook(event, name, *(getattr(event, field) for field in fields))
        return self._reactions.get(type(event), _ignore)(self, event)

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

    def _output_for_hook(self) -> bytes:
        data = self._output()
        self._unsent += len(data)
        return data

    def _flush(self) -> Generator[Effect, Any, None]:
        data = self._output()
        if data:
            yield from self._transmit(data)

    def _transmit(self, data: bytes) -> Generator[Effect, Any, None]:
        send = self._send
        send.data = data
        self._unsent = 0
        limit = self._core.options.socket_timeout
        send.deadline = None if limit is None else self._clock() + limit
        result = yield send
        while result is Outcome.STOPPED:
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

    def _wait_for_peer(self) -> Generator[Effect, Any, None]:
        """Send what is ready, then give the core the next octets, or what came instead."""
        core = self._core
        data = self._output()
        if data:
            yield from self._transmit(data)
            if core.state is State.CLOSED:
                return
        if self.stopping > self._stop_seen:
            self._pass_on_stop()
            return
        if self._channel is not None and self._take_decrypted(self._channel):
            return
        now = self._clock()
        kind = self._next_deadline(now)
        if kind == "session_timeout" and (self._receive.deadline or now) <= now:
            core.timeout(kind)  # also for a client that never lets us wait
            return
        result = yield self._receive
        if core.in_message:
            self._account(now, result)
        if isinstance(result, bytes):
            self._take(result)
        elif result is Outcome.TIMED_OUT and kind is not None and kind != "min_data_rate":
            core.timeout(kind)
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
        options = core.options
        limit = options.socket_timeout
        kind: TimerKind | None = None
        deadline = _NEVER
        if limit is not None:
            kind, deadline = "socket_timeout", now + limit
        if core.line_pending:
            if self._command_deadline is None and options.command_timeout is not None:
                self._command_deadline = now + options.command_timeout
            if self._command_deadline is not None and self._command_deadline < deadline:
                kind, deadline = "command_timeout", self._command_deadline
        else:
            self._command_deadline = None
        for other, at in self._deadlines.items():
            if at < deadline and (other != "session_timeout" or core.state in _COMMAND_AWAITED):
                kind, deadline = other, at
        if core.in_message:
            if self._data_left is not None and now + self._data_left < deadline:
                kind, deadline = "data_timeout", now + self._data_left
            if options.min_data_rate is not None and now + self._window_left < deadline:
                kind, deadline = "min_data_rate", now + self._window_left
        self._receive.deadline = None if kind is None else deadline
        return kind

    def _account(self, since: float, result: Any) -> None:
        """Charge the wait for the peer to the message it belongs to."""
        waited = self._clock() - since
        if self._data_left is not None:
            self._data_left -= waited
        rate = self._core.options.min_data_rate
        if rate is None:
            return
        self._window_left -= waited
        if isinstance(result, bytes):
            self._window_octets += len(result)
        if self._window_left > 0:
            return
        window = self._core.options.socket_timeout or DEFAULT_WINDOW
        if self._window_octets < rate * window:
            self._core.timeout("min_data_rate")
        self._window_left, self._window_octets = window, 0

    def _timer_changed(self, event: TimerChanged) -> Generator[Effect, Any, None]:
        if event.kind == "data_timeout":
            self._data_left = event.seconds
        elif event.kind not in _HELD_BY_LOOP:
            if event.seconds is None:
                self._deadlines.pop(event.kind, None)
            else:
                self._deadlines[event.kind] = self._clock() + event.seconds
        return _nothing()

    # --- hooks ------------------------------------------------------------------------------------

    def _call(
        self,
        name: str,
        hook: Callable[..., Any],
        args: tuple[Any, ...],
        *,
        watch: bool = False,
        body: MessageBody | None = None,
    ) -> Ask:
        ask = self._ask
        ask.name, ask.hook, ask.args, ask.watch, ask.body = name, hook, args, watch, body
        ask.seconds, ask.lookup = self._server.options.hook_timeout, False
        return ask

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

    def _ask_hook(
        self, event: Event, name: str, *args: Any, before_greeting: bool = False
    ) -> Generator[Effect, Any, None]:
        """Put the event's question to a hook and give the core its decision."""
        hook = self._server.hook(name)
        core = self._core
        result: Any = None
        if hook is not None:
            if not (yield from self._send_before_hook()) or core.question is not event:
                return
            result = yield self._call(name, hook, args, watch=before_greeting)
            if isinstance(result, Outcome) or self.stopping > self._stop_seen:
                yield from self._look_up_from(event, result)
        if before_greeting and core.question is event:
            yield from self._poll()
        if core.question is not event:
            self._judge(name, result)  # nobody is answered, but a fault of the hook's is one
            return
        if hook is None:
            core.decide(NOT_IMPLEMENTED if name == "on_auth" else ACCEPT)
        else:
            self._decide(name, result, event.auth if isinstance(event, AuthRequested) else None)

    def _send_before_hook(self) -> Generator[Effect, Any, bool]:
        """What must be sent before a hook is called; False if the connection ended of it."""
        if self._server.flushes_first:
            yield from self._flush()
        elif self._unsent > MAX_UNSENT:
            yield from self._transmit(self._output())
        return self._core.state is not State.CLOSED

    def _look_up_from(self, event: Event, result: Any) -> Generator[Effect, Any, None]:
        """Something else came while a hook ran: then the question may be open no longer."""
        if result is Outcome.LOST:
            self._peer_lost(self.fault)
        elif result is Outcome.INTERRUPTED:
            yield from self._hear_out(event)
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
            yield from self._ask_hook(event, "on_connect", event.session, before_greeting=True)

    def _hold_back(self, event: ConnectRequested, delay: float) -> Generator[Effect, Any, None]:
        core = self._core
        until = self._clock() + delay
        limit = self._deadlines.get("greeting_timeout", _NEVER)
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
        left = self._deadlines.get("greeting_timeout", _NEVER) - self._clock()
        ask = self._call("resolver", server.resolve, (ip,), watch=True)
        ask.seconds, ask.lookup = min(limit, left), True
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
        return self._ask_hook(event, "on_secure", ssl_object, event.session, before_greeting=before_greeting)

    def _connected(self, event: ClientConnected) -> Generator[Effect, Any, None]:
        self._server.connected(event.session)
        return _nothing()

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
            if octets:
                yield from self._transmit(octets)
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
        window = self._core.options.socket_timeout or DEFAULT_WINDOW
        self._window_left, self._window_octets = window, 0
        self._finished = None
        body = self._body = MessageBody(event.message)
        hook = server.hook("on_data")
        result: Any = None
        if hook is not None and (yield from self._send_before_hook()):
            result = yield self._call("on_data", hook, (event.session,), body=body)
            while isinstance(result, Pull):
                self._deliver.data = (yield from self._next_chunk()) or b""
                result = yield self._deliver
            body.ended = True
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

    def _next_chunk(self) -> Generator[Effect, Any, bytes | None]:
        """The next octets of the message; b"" where it ends or is aborted, None when all is over."""
        core, body = self._core, self._body
        if body is None:
            return None
        try:
            while self._finished is None:
                event = core.next_event()
                if isinstance(event, DataChunk):
                    return event.data
                if event is Signal.NEED_DATA:
                    yield from self._wait_for_peer()
                elif event is Signal.CLOSED:
                    return None
                elif self._note(event, body):
                    return b""
        except Exception as error:  # noqa: BLE001 - the hook that pulls is not to be told
            self._fail(error)
            body.give_up(Outcome.LOST)
            return None
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
        if refusal is not None and _stream_aborted(result):
            core.decide(refusal)
            return
        if isinstance(result, list | tuple) and core.options.lmtp:
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

    def _note_end(self, event: ConnectionClosed) -> Generator[Effect, Any, None]:
        self._close_reason = event.reason
        return _nothing()

    # --- the end ----------------------------------------------------------------------------------

    def _say_goodbye(self) -> Generator[Effect, Any, None]:
        """Send what is left, and see that a client which is still talking can read it."""
        data = self._output()
        if self._channel is not None and self._close_reason not in _PEER_IS_GONE:
            self._channel.close()
            data += self._channel.outgoing()
        if not data:
            return
        send = self._send
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

    _reactions: ClassVar[Mapping[type[object], Callable[[Any, Any], Generator[Effect, Any, None]]]] = {
        TimerChanged: _timer_changed,
        NeedsTLS: _handshake,
        NeedsStartTLS: _handshake,
        ConnectRequested: _connect,
        SecureRequested: _secure,
        ClientConnected: _connected,
        DataStarted: _message,
        ConnectionClosed: _note_end,
    }


_CLOSE: Final = Close()
_NEVER: Final = float("inf")
_ANSWERED_BY_PEER: Final = (Outcome.LOST, Outcome.INTERRUPTED)
_HELD_BY_LOOP: Final = frozenset({"socket_timeout", "command_timeout", "min_data_rate"})
_COMMAND_AWAITED: Final = frozenset({State.GREETED, State.READY, State.AUTH, State.MAIL, State.RCPT})
_STAGE_OF_LOSS: Final = {State.MAIL: "socket", State.RCPT: "socket", State.DATA: "stream"}
_PEER_IS_GONE: Final = frozenset({"connection lost", "internal error"})
_PEER_KNOWS: Final = frozenset({"quit", "eof", *_PEER_IS_GONE})

# Events whose question is simply put to a hook: its name, and the fields that are its arguments.
_HOOK_OF: Final[Mapping[type[object], tuple[str, ...]]] = {
    AuthRequested: ("on_auth", "auth", "session"),
    MailRequested: ("on_mail_from", "address", "session"),
    RcptRequested: ("on_rcpt_to", "address", "session"),
    HelloReceived: ("on_helo", "verb", "name", "session"),
    DataRequested: ("on_data_start", "session"),
    VerifyRequested: ("on_vrfy", "argument", "session"),
    ExpandRequested: ("on_expn", "argument", "session"),
    HelpRequested: ("on_help", "argument", "session"),
    CommandReceived: ("on_command", "verb", "argument", "session"),
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


def _ignore(_serving: Any, _event: Any) -> Generator[Effect, Any, None]:
    return _nothing()
