# The connection: the engine whose questions are events.

from __future__ import annotations

from typing import TYPE_CHECKING

from smtpproto._core import Signal
from smtpproto._engine import PENDING, Engine, Pending
from smtpproto._events import DataChunk, DataStarted, Event

if TYPE_CHECKING:
    from smtpproto._address import Address
    from smtpproto._body import IncomingMessage

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

    __slots__ = ()

    def next_event(self) -> Event | Signal:
        """The next event, or the Signal that says why there is none."""
        if self.events:
            return self.events.pop(0)
        if self.asked is not None:
            return PAUSED
        signal = self.advance()
        if signal is not PAUSED:
            return signal
        return self.events.pop(0) if self.events else self.asked or PAUSED

    def put(self, event: Event) -> bool:
        """It is the next one: what else is due comes after it."""
        self.events.insert(0, event)
        return False

    # --- the questions become events ---------------------------------------------------------------

    def ask_mail(self, address: Address) -> Pending:  # noqa: ARG002 - the engine makes the event
        return PENDING

    def ask_rcpt(self, address: Address) -> Pending:  # noqa: ARG002
        return PENDING

    def message_begun(self, message: IncomingMessage) -> bool:
        return self.put(DataStarted(self.session, message))

    def message_content(self, content: bytes, message: IncomingMessage) -> bool:  # noqa: ARG002
        self.events.insert(0, DataChunk(content))
        return False

    def message_ended(self, message: IncomingMessage) -> Pending:  # noqa: ARG002
        return PENDING
