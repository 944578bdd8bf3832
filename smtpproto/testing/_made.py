# Sessions as a test wants them.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from smtpproto import Address, Envelope, Session

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["make_session"]


def make_session(
    mail_from: Address | str | None = None, rcpt_to: Iterable[Address | str] = (), **fields: Any
) -> Session:
    """A session to call a hook with: its envelope, and fields of both by their names.

    Raises TypeError for a name that neither a session nor an envelope has, ValueError for a text that is
    no address.
    """
    sender = Address.parse(mail_from) if isinstance(mail_from, str) else mail_from
    recipients = [Address.parse(each) if isinstance(each, str) else each for each in rcpt_to]
    session, envelope = Session("0123456789abcdef"), Envelope(sender, recipients)
    known = session.facts()
    unknown = fields.keys() - known.keys() - envelope.facts().keys()
    if unknown:
        raise TypeError(f"neither a session nor an envelope has {', '.join(sorted(unknown))}")
    for name, value in (*fields.items(), ("envelope", envelope)):
        owner = session if name in known else envelope
        setattr(owner, name if name in SETTABLE else f"_{name}", value)
    return session


SETTABLE: Final = frozenset({"state", "user"})
