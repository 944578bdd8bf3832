# A message that was received, as a test looks at it.

from __future__ import annotations

import copy
import email.policy
from email.parser import BytesParser
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from email.message import EmailMessage

    from smtpproto import Envelope, Session

__all__ = ["Message"]


class Message:
    """A message, with its envelope and the session it came in."""

    def __init__(self, raw: bytes, session: Session) -> None:
        self.raw: bytes = raw
        """The octets that the client meant: dots that were doubled for the way are single again."""
        self.session: Session = copy.copy(session)
        """The session as it was then: `user`, `secure`, `tls_options`, `host_name_appears_as` ..."""

    @property
    def envelope(self) -> Envelope:
        """Sender and recipients with their parameters, `body_type`, `smtp_utf8` ..."""
        return self.session.envelope

    @property
    def mail_from(self) -> str:
        """The sender of the envelope; "" is the null reverse-path `<>`."""
        return str(self.envelope.mail_from)

    @property
    def rcpt_to(self) -> list[str]:
        """The recipients that were accepted, in order."""
        return [str(address) for address in self.envelope.rcpt_to]

    @cached_property
    def email(self) -> EmailMessage:
        """The message, parsed with `email.policy.default`; its lines end with LF, as in Python's texts."""
        return BytesParser(policy=email.policy.default).parsebytes(self.raw.replace(b"\r\n", b"\n"))

    def __repr__(self) -> str:
        return f"<Message from {self.mail_from!r} to {self.rcpt_to}, {len(self.raw)} octets>"
