# Quotas: a user may send to so many recipients and so many octets, and is told when that is used up.
import asyncio
from dataclasses import dataclass

from smtpproto_asyncio import Address, AsyncStream, Credentials, Handler, Reject, Session, SMTPServer

PASSWORDS = {"ann": "secret", "bob": "hidden"}


@dataclass
class Account:
    """What a user has left."""

    recipients: int = 3
    octets: int = 1000

    def __str__(self) -> str:
        return f"{self.recipients} recipients and {self.octets} octets left"


class Quotas(Handler):
    """Counts what users send; `session.state` is the account of the one who has logged in."""

    def __init__(self) -> None:
        self.accounts = {user: Account() for user in PASSWORDS}

    async def on_auth(self, auth: Credentials, session: Session[str, Account]) -> bool:
        """Let a user in, and find the account."""
        if auth.username not in PASSWORDS or not auth.validate_password(PASSWORDS[auth.username]):
            return False
        session.state = self.accounts[auth.username]
        return True

    async def on_rcpt_to(self, _address: Address, session: Session[str, Account]) -> None:
        """Refuse what is known to be too much before it is sent."""
        account, envelope = session.state, session.envelope
        if len(envelope.rcpt_to) >= account.recipients:
            raise Reject(452, "4.5.3", str(account))
        if (envelope.declared_size or 0) > account.octets:
            raise Reject(552, "5.2.3", str(account))

    async def on_data(self, stream: AsyncStream, session: Session[str, Account]) -> str:
        """Look again, as another session of the same user may have been quicker; then take it off."""
        account, message, recipients = session.state, await stream.read(), len(session.envelope.rcpt_to)
        if recipients > account.recipients or len(message) > account.octets:
            raise Reject(552, "5.2.3", str(account))
        account.recipients -= recipients
        account.octets -= len(message)
        return str(account)


async def main() -> None:
    """Listen until the program is interrupted."""
    async with SMTPServer(handler=Quotas(), size=10_000_000) as server:
        await server.listen(2525, "127.0.0.1")  # login after STARTTLS: ann secret
        print("listening on", server.address(), flush=True)
        await asyncio.Event().wait()


asyncio.run(main())
