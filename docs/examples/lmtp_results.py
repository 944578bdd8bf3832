# LMTP: a message for several mailboxes, and a reply for each of them.
import asyncio
import mailbox
import time
from pathlib import Path

from smtpproto_asyncio import Address, PlainHandler, Reject, Session, SMTPServer, Stream, trace_lines

HOST = "mx.example.com"
MAILBOXES = Path("mailboxes")
USERS = {"ann", "bob"}
FULL = 100_000  # octets in a mailbox


class Delivery(PlainHandler):
    """Delivers into a Maildir for each user."""

    def __init__(self) -> None:
        MAILBOXES.mkdir(exist_ok=True)

    def on_rcpt_to(self, address: Address, _session: Session) -> None:
        """Know the mailboxes."""
        if address.local.lower() not in USERS:
            raise Reject(550, "5.1.1", f"No mailbox {address}")

    def on_data(self, stream: Stream, session: Session) -> list[str | Reject]:
        """Deliver to one recipient after the other: the results stand in the order of the envelope."""
        message = stream.read()
        if not stream.claim():  # nobody would hear of it
            raise Reject
        return [self.deliver(message, recipient, session) for recipient in session.envelope.rcpt_to]

    def deliver(self, message: bytes, recipient: Address, session: Session) -> str | Reject:
        """Deliver to one recipient. Whatever fails is told of this one only: the others have it."""
        name = recipient.local.lower()
        trace = trace_lines(session, received_by=HOST, when=time.time(), recipients=[recipient])
        try:
            box = mailbox.Maildir(MAILBOXES / name, create=True)
            if sum(len(box.get_bytes(key)) for key in box.iterkeys()) + len(message) > FULL:
                return Reject(452, "4.2.2", f"The mailbox of {name} is full")
            return f"{name} has it as {box.add(trace + message)}"
        except (OSError, mailbox.Error):
            return Reject(451, "4.3.0", f"The mailbox of {name} cannot be written")


async def main() -> None:
    """Listen until the program is interrupted."""
    async with SMTPServer(handler=Delivery(), lmtp=True, name=HOST, auth_methods=()) as server:
        await server.listen(2525, "127.0.0.1")
        print("listening on", server.address(), flush=True)
        await asyncio.Event().wait()


asyncio.run(main())
