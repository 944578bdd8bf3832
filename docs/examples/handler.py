# A mail server with a handler: one method for each thing you want to decide.
import asyncio

from smtpproto_asyncio import Address, AsyncStream, Handler, Reject, Session, SMTPServer


class Mail(Handler):
    """Takes mail for example.com and prints what came."""

    async def on_rcpt_to(self, address: Address, _session: Session) -> None:
        """Say who may receive mail here."""
        if address.domain.lower() != "example.com":
            raise Reject(550, "5.1.1", f"Nobody here is called {address.local}")

    async def on_data(self, stream: AsyncStream, session: Session) -> str:
        """Take a message; the text returned is what the client reads behind its 250."""
        message = await stream.read()
        print(f"{len(message)} octets from <{session.envelope.mail_from}>", flush=True)
        return "thank you"


async def main() -> None:
    """Listen until the program is interrupted."""
    async with SMTPServer(handler=Mail(), auth_optional=True, size=10_000_000) as server:
        await server.listen(2525, "127.0.0.1")
        print("listening on", server.address(), flush=True)
        await asyncio.Event().wait()


asyncio.run(main())
