# Greylisting: whoever sends to somebody for the first time is asked to come again, as real servers do.
import time
from ipaddress import ip_interface
from typing import NamedTuple

import anyio

from smtpproto_anyio import Address, AsyncStream, Handler, Reject, Session, SMTPServer

DELAY = 300.0  # seconds before a second attempt counts
LIFETIME = 36 * 3600.0  # seconds until a first attempt is forgotten
MOST = 100_000  # attempts that are remembered


class Attempt(NamedTuple):
    """Who wants to send to whom."""

    network: str
    sender: str
    recipient: str


class Greylist(Handler):
    """Remembers first attempts, oldest first."""

    def __init__(self) -> None:
        self.first: dict[Attempt, float] = {}

    async def on_rcpt_to(self, address: Address, session: Session) -> None:
        """Refuse for now what was not tried `DELAY` ago."""
        now = time.monotonic()
        attempt = Attempt(network_of(session.remote_address), str(session.envelope.mail_from), str(address))
        began = self.first.setdefault(attempt, now)
        self.forget(now)
        if now - began < DELAY:
            raise Reject(451, "4.7.1", f"Greylisted, come again in {DELAY - (now - began):.0f} seconds")

    async def on_data(self, stream: AsyncStream, session: Session) -> None:
        """Take the message."""
        message = await stream.read()
        print(f"{len(message)} octets from <{session.envelope.mail_from}>", flush=True)

    def forget(self, now: float) -> None:
        """Forget what is too old, and the oldest where there is too much."""
        while self.first:
            attempt, began = next(iter(self.first.items()))
            if now - began < LIFETIME and len(self.first) <= MOST:
                return
            del self.first[attempt]


def network_of(address: str) -> str:
    """The network of a client: large senders try again from a neighbour; "" for a unix socket."""
    if not address:
        return ""
    return str(ip_interface(f"{address}/{64 if ':' in address else 24}").network)


async def main() -> None:
    """Listen until the program is interrupted."""
    async with SMTPServer(handler=Greylist(), auth_optional=True) as server:
        await server.listen(2525, "127.0.0.1")
        print("listening on", server.address(), flush=True)
        await anyio.sleep_forever()


anyio.run(main)
