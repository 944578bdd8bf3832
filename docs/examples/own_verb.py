# A verb of one's own: ETRN (RFC 1985), by which a host that is not always there asks for its mail.
import asyncio
from collections import defaultdict
from functools import partial

from smtpproto_asyncio import Accept, AsyncStream, Handler, Reject, Session, SMTPServer

HOSTS = ("branch.example.com", "shop.example.com")


class Holding(Handler):
    """Holds mail for hosts until they ask for it."""

    def __init__(self) -> None:
        self.held: defaultdict[str, list[bytes]] = defaultdict(list)

    async def on_data(self, stream: AsyncStream, session: Session) -> None:
        """Hold a message for each host that it is for."""
        message = await stream.read()
        for host in {address.domain.lower() for address in session.envelope.rcpt_to}:
            self.held[host].append(message)

    async def on_command(self, verb: str, argument: str, session: Session) -> Accept | None:
        """Answer ETRN. None for every other verb: it is as unknown as before, and counted."""
        if verb != "ETRN":
            return None
        host = argument.lower()
        if host not in HOSTS:
            raise Reject(459, "4.7.1", f"Node {argument} not allowed: no mail is held for it")
        if not self.held[host]:
            return Accept(251, text=f"OK, no messages waiting for {host}")
        session.after_reply(partial(self.send, host))  # the client need not wait for that
        return Accept(253, text=f"OK, {len(self.held[host])} pending messages for {host} started")

    def send(self, host: str) -> None:
        """Send what is held; here it is only told."""
        for message in self.held.pop(host, []):
            print(f"{len(message)} octets to {host}", flush=True)


async def main() -> None:
    """Listen until the program is interrupted."""
    async with SMTPServer(handler=Holding(), auth_optional=True, ehlo_keywords=["ETRN"]) as server:
        await server.listen(2525, "127.0.0.1")
        print("listening on", server.address(), flush=True)
        await asyncio.Event().wait()


asyncio.run(main())
