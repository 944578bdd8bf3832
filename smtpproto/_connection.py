# The connection: the engine whose questions are events.

from __future__ import annotations

from typing import TYPE_CHECKING

from smtpproto._core import Signal
from smtpproto._engine import PENDING, Engine, Pending
from smtpproto._events import DataChunk, DataStarted, Event

if TYPE_CHECKING:
    from collections.abc import Iterable

    from smtpproto._address import Address
    from smtpproto._body import IncomingMessage
    from smtpproto._options import ProtocolOptions

__all__ = ["Connection"]

PAUSED = Signal.PAUSED  # an enum's members are slow to find in CPython 3.11


class Connection(Engine):
    """One SMTP or LMTP connection, the server's side, without any I/O.

    Feed it with `receive_data`, call `next_event` until it returns a Signal, send what
    `data_to_send` gives, answer questions with `decide`.

    `local` and `remote` are the socket's addresses as (address, port), ("", 0) for a unix socket,
    `listener` the name of the place it came in by.
    `ask` names optional questions (`OPTIONAL_QUESTIONS`). `tls_available` says whether a handshake
    could be made. `entropy` (16 octets or more, secret and new for each connection) and `started`
    (seconds since the epoch) are what CRAM-MD5 challenges are made of.

    Raises ConfigurationError if the options need what was not given.
    """

    __slots__ = ("_event",)

    def __init__(
        self,
        options: ProtocolOptions | None = None,
        *,
        local: tuple[str, int] = ("", 0),
        remote: tuple[str, int] = ("", 0),
        id: str = "",  # noqa: A002 - the session's own name for it
        listener: str = "",
        ask: Iterable[type[Event]] = (),
        tls_available: bool = False,
        entropy: bytes = b"",
        started: int = 0,
    ) -> None:
        self._event: Event | None = None  # what `next_event` is to return
        super().__init__(
            options,
            local=local,
            remote=remote,
            id=id,
            listener=listener,
            ask=ask,
            tls_available=tls_available,
            entropy=entropy,
            started=started,
        )

    def next_event(self) -> Event | Signal:
        """The next event, or the Signal that says why there is none."""
        if self.events:
            return self.events.pop(0)
        if self.asked is not None:
            return PAUSED
        signal = self.advance()
        if signal is not PAUSED:
            return signal
        event, self._event = self._event, None
        return event or self.asked or PAUSED  # what was put, or the question that a method asked

    # --- the questions become events ---------------------------------------------------------------

    def ask_mail(self, address: Address) -> Pending:  # noqa: ARG002 - the engine makes the event
        return PENDING

    def ask_rcpt(self, address: Address) -> Pending:  # noqa: ARG002
        return PENDING

    def message_begun(self, message: IncomingMessage) -> bool:
        self._event = DataStarted(self.session, message)
        return False

    def message_content(self, content: bytes, message: IncomingMessage) -> bool:  # noqa: ARG002
        self._event = DataChunk(content)
        return False

    def message_ended(self, message: IncomingMessage) -> Pending:  # noqa: ARG002
        return PENDING

    def put(self, event: Event) -> bool:
        self._event = event
        return False
