# A certificate for each server name, and certificates of clients that stand for a login.
import asyncio
import ssl

from smtpproto_asyncio import Address, AsyncStream, Handler, Reject, Session, SMTPServer

CLIENTS = {"scanner@example.com": "the scanner", "shop@example.com": "the shop"}


class Certified(Handler):
    """Takes mail of clients whose certificate names somebody we know."""

    async def on_secure(self, _tls: ssl.SSLObject | None, session: Session[str]) -> None:
        """Log the client in. The certificate was verified before, with the option `ca`."""
        for kind, name in (session.peer_certificate or {}).get("subjectAltName", ()):
            if kind == "email" and name in CLIENTS:
                session.user = CLIENTS[name]

    async def on_mail_from(self, _address: Address, session: Session[str]) -> None:
        """Ask for a login: the server itself only does where there are mechanisms for it."""
        if session.user is None:
            raise Reject(530, "5.7.0", "A certificate that we know is needed")

    async def on_data(self, stream: AsyncStream, session: Session[str]) -> str:
        """Take a message."""
        size = len(await stream.read())
        return f"{size} octets of {session.user} for {session.servername}"


async def main() -> None:
    """Listen until the program is interrupted."""
    async with SMTPServer(
        handler=Certified(),
        auth_methods=(),
        needs_upgrade=True,
        cert="mx.example.com.pem",  # with its key
        sni_options={"mail.example.org": {"cert": "mail.example.org.pem"}},
        ca="clients.pem",
        request_cert=True,
        reject_unauthorized=False,  # who has none may look around
    ) as server:
        await server.listen(2525, "127.0.0.1")
        print("listening on", server.address(), flush=True)
        await asyncio.Event().wait()


asyncio.run(main())
