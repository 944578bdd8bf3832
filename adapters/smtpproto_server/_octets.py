# A connection's octets: what is sent and received, in the clear or through TLS.

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, Final

from smtpproto import NeedsStartTLS, NeedsTLS, State
from smtpproto.extending import Engine
from smtpproto_server._clocks import KEPT, NEVER, Clocks
from smtpproto_server._log import about

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from smtpproto import TimerKind
    from smtpproto_server._application import Application
    from smtpproto_server._tls_channel import TlsChannel

__all__ = ["HANDSHAKES", "Octets"]

READ_AHEAD: Final = 64 * 1024  # octets of ciphertext that may wait before the socket is left alone
HANDSHAKES: Final = (NeedsTLS, NeedsStartTLS)

_ARRIVED, _AT_END = State.ARRIVED, State.CLOSED  # an enum's members are slow to find in CPython 3.11
_STAGE_OF_LOSS: Final = {State.MAIL: "socket", State.RCPT: "socket", State.DATA: "stream"}


class Octets(Engine):
    """The engine of a connection, with what carries its octets."""

    __slots__ = (
        "after_reply",
        "answered",
        "channel",
        "clock",
        "clocks",
        "fault",
        "full",
        "held",
        "lost",
        "server",
    )

    def __init__(self, server: Application, clock: Callable[[], float], facts: Mapping[str, Any]) -> None:
        """`facts` are what an Engine takes, the options of its listener among them."""
        self.server: Application = server
        self.clock: Callable[[], float] = clock
        self.clocks: Clocks = Clocks(facts["options"])
        self.channel: TlsChannel | None = None
        self.answered: list[Callable[[], object]] = []
        """Those of `after_reply` whose reply is queued."""
        self.full: bool = False
        """Not all that was sent has gone; `room` will be called."""
        self.held: bool = False
        """`hold` was called: no more octets come before `read_on`."""
        self.lost: bool = False
        """The client can neither be read from nor written to any more."""
        self.fault: BaseException | None = None
        """What the socket died of, if that is known."""
        super().__init__(**facts)
        self.after_reply: list[Callable[[], object]] = self.session.after_reply_calls
        """What hooks gave to `session.after_reply`."""

    # --- what a runtime adds ----------------------------------------------------------------------

    def send(self, octets: bytes) -> None:
        """Send to the client; set `full` if not all has gone, and call `room` when it has."""
        raise NotImplementedError

    def hold(self) -> None:
        """Read no more octets before `read_on`."""

    def read_on(self) -> None:
        """Read octets again."""

    def octets_wait(self) -> bool:
        """Whether the socket has octets that were not received yet."""
        return False

    def end_output(self) -> None:
        """Shut the sending side down after all that was sent."""
        raise NotImplementedError

    def drop(self) -> None:
        """Close the socket."""
        raise NotImplementedError

    # --- sending ----------------------------------------------------------------------------------

    def _flush(self) -> None:
        """Send the replies that are ready."""
        self.clocks.line_ends = NEVER  # a line was answered: if one is pending, it is another
        octets, channel = self.data_to_send(), self.channel
        if channel is not None:
            channel.write(octets)
            octets = channel.outgoing()
        if not self.lost:
            self.send(octets)
        if self.answered and not self.full:
            self.replies_sent()

    def replies_queued(self) -> None:
        """The commands whose hooks gave something to `after_reply` have their replies queued."""
        self.answered += self.after_reply
        self.after_reply.clear()

    def replies_sent(self) -> None:
        """All replies were handed to the system."""
        calls, self.answered = self.answered, []
        for call in () if self.lost else calls:
            try:
                call()
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001 - contained as in a hook
                self.server.report(error, "hook", self.session)

    def flush_due(self) -> None:
        """A hook is waited for: what was answered before it goes out."""
        if self.out:
            self._flush()

    def _say_last(self, *, goodbye: bool) -> bool:
        """Send the last reply, and TLS's goodbye; False if there was nothing to be said."""
        said = bool(self.out)
        self.flush_due()
        channel = self.channel
        if channel is not None and goodbye and not self.lost:
            channel.close()
            if octets := channel.outgoing():
                self.send(octets)
                said = True
        return said

    # --- receiving --------------------------------------------------------------------------------

    def _hold(self) -> None:
        if not (self.held or self.eof or self.state is _AT_END):
            self.held = True
            self.hold()

    def _release(self) -> None:
        if self.held:
            self.held = False
            self.read_on()

    def _peer_lost(self, error: BaseException | None) -> None:
        """An error of the socket is worth an event where it costs a transaction or a handshake."""
        stage = _STAGE_OF_LOSS.get(self.state)
        if type(self.asked) in HANDSHAKES:
            error, stage = ConnectionError("lost in the TLS handshake"), "tls"
        was_open = self.state is not _AT_END
        self.connection_lost()
        if error is None or not was_open:
            return
        if stage is not None:
            self.server.report(error, stage, self.session)
        else:
            session = self.session
            self.server.log.debug("%s: connection lost: %r", session.id, error, extra=about(session))

    # --- TLS --------------------------------------------------------------------------------------

    def begin_handshake(self, event: NeedsTLS | NeedsStartTLS) -> bool:
        """No reply to what goes wrong here, and no way back to plaintext (RFC 3207 §4.1).

        False: the engine stands still until it is done.
        """
        self.flush_due()
        self.channel = self.server.contexts.channel()
        if isinstance(event, NeedsTLS) and event.data:
            self._shake_hands(self.channel, event.data)
        return self.asked is not event

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
        octets = channel.outgoing()  # TLS's own alert, too
        if octets and not self.lost:
            self.send(octets)
        if error is not None:
            self.connection_lost()
            self.server.report(error, "tls", self.session)
        elif done and type(self.asked) in HANDSHAKES:
            self.tls_established(channel.details())

    def _take_encrypted(self, channel: TlsChannel, data: bytes) -> None:
        if type(self.asked) in HANDSHAKES:
            self._shake_hands(channel, data)
            return
        if data:
            channel.receive(data)
        else:
            channel.receive_eof()
        if self.state is _ARRIVED:  # a client that talks too soon interrupts the hook
            self._decrypt(channel)
        if channel.pending > READ_AHEAD:
            self._hold()

    def _decrypt(self, channel: TlsChannel) -> bool:
        """Pass on what the TLS layer has ready; False when it needs more octets first."""
        if not self.wants_data or type(self.asked) in HANDSHAKES:
            return False
        try:
            plain = channel.read()
        except ssl.SSLError as error:
            if (alert := channel.outgoing()) and not self.lost:
                self.send(alert)
            self._peer_lost(error)
            return True
        ended = channel.closed or channel.ended
        if plain:
            self.receive_data(plain)
        elif ended:
            self.receive_eof()
        return bool(plain) or ended

    # --- time -------------------------------------------------------------------------------------

    def start_timer(self, kind: TimerKind, seconds: float | None) -> None:
        """A limit of the core begins."""
        if kind in KEPT and seconds is not None:
            self.clocks.set(kind, self.clock() + seconds)

    def stop_timer(self, kind: TimerKind, seconds: float | None) -> None:  # noqa: ARG002 - the core's signature
        """A limit of the core ends."""
        self.clocks.set(kind, NEVER)

    def _charge(self) -> None:
        """The wait for octets of a message is over, or has lasted for a while."""
        message = self.transfer
        if message is not None and not self.clocks.charge(self.clock(), message.byte_length):
            self.timeout("min_data_rate")
