# A relay: what the next host says of a sender, a recipient or a message is what the client hears.
import smtplib
import time
from collections.abc import Callable

from smtpproto_blocking import Address, PlainHandler, Reject, Session, SMTPServer, Stream, received_line

HOST = "relay.example.com"
NEXT_HOST = ("127.0.0.1", 2626)
DOMAIN = "example.com"  # relaying for everybody invites spam
MAX_HOPS = 50
GOOD = range(200, 300)
CLOSING = 421


class Relay(PlainHandler):
    """Speaks with the next host while the client speaks with us, so no message is ever returned."""

    def on_connect(self, session: Session[None, smtplib.SMTP]) -> None:
        """Give the session a client of its own, which is not connected yet."""
        session.state = smtplib.SMTP(local_hostname=HOST, timeout=30)

    def on_mail_from(self, address: Address, session: Session[None, smtplib.SMTP]) -> None:
        """Connect, anew for each message, and name the sender with all parameters."""
        next_host = session.state
        next_host.close()
        ask(next_host.connect, *NEXT_HOST)
        ask(next_host.ehlo)
        ask(next_host.mail, address.address, address.to_parameters())

    def on_rcpt_to(self, address: Address, session: Session[None, smtplib.SMTP]) -> None:
        """Ask for each recipient."""
        if address.domain.lower() != DOMAIN:
            raise Reject(550, "5.7.1", f"No relaying to {address.domain}")
        ask(session.state.rcpt, address.address, address.to_parameters())

    def on_data(self, stream: Stream, session: Session[None, smtplib.SMTP]) -> str:
        """Hand the message on once all of it is there."""
        message = stream.read()
        if message.lower().count(b"\nreceived:") > MAX_HOPS:
            raise Reject(554, "5.4.6", "The message goes round in circles")
        if not stream.claim():  # the client is gone, and will send it again
            raise Reject
        received = received_line(session, received_by=HOST, when=time.time())
        return ask(session.state.data, received + message)

    def on_close(self, session: Session[None, smtplib.SMTP | None]) -> None:
        """End the conversation with the next host."""
        if session.state is not None:  # it is for a client that was gone before `on_connect`
            session.state.close()


def ask(command: Callable[..., tuple[int, bytes]], *arguments: object) -> str:
    """Give the next host a command; the text of its reply. A refusal becomes ours, all its lines."""
    try:
        code, reply = command(*arguments)
    except smtplib.SMTPDataError as error:  # DATA itself was refused
        code, text = error.smtp_code, error.smtp_error
        reply = text.encode() if isinstance(text, str) else text
    except (OSError, smtplib.SMTPException) as error:
        raise Reject(451, "4.4.1", "The next host does not answer") from error
    lines = reply.decode(errors="replace").splitlines() or [""]
    if code not in GOOD:
        refusal = Reject.parse("\n".join(f"{code} {line}" for line in lines))
        # Their connection ends with a 421; ours need not.
        raise refusal if code != CLOSING else Reject(451, "4.4.2", refusal.text)
    return " ".join(lines)


with SMTPServer(
    handler=Relay(), name=HOST, auth_methods=(), hide_dsn=False, hide_enhancedstatuscodes=False
) as server:
    server.listen(2525, "127.0.0.1")
    print("listening on", server.address(), flush=True)
    server.wait_closed()
