# What real clients talk to: a server that keeps what it was sent, and their trust in it.
#
# Clients get the server's certificate to check wherever they can: a client that trusts anybody
# would not notice a handshake with the wrong one. Hooks that wait are generators, which `running`
# gives the colour of each runtime.

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest

from smtpproto import (
    CramMd5Credentials,
    Credentials,
    LoginCredentials,
    PlainCredentials,
    Reject,
    XOAuth2Credentials,
)
from smtpproto_kit import Running, running

if TYPE_CHECKING:
    from collections.abc import Generator

    from smtpproto import Envelope, ProxyInfo, Session
    from smtpproto_server import AsyncStream

USER: Final = "alice"
PASSWORD: Final = "a secret, with = and spaces"
TOKEN: Final = "ya29.token"
METHODS: Final = ("PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2")

# Everything that a client or a server could get wrong about dots.
MESSAGE: Final = (
    b"From: <alice@example.com>\r\nTo: <bob@example.org>\r\nSubject: dots\r\n"
    b"Date: Thu, 01 Jan 2026 00:00:00 +0000\r\nMessage-ID: <1@example.com>\r\n\r\n"
    b".\r\n..\r\n.x\r\nx.\r\n\r\n.\r\n"
)


@dataclass(frozen=True)
class Message:
    """One message as it came, with what the session said then."""

    envelope: Envelope
    content: bytes
    transmission_type: str
    user: Any
    tls: str | None
    """The protocol's version, None in the clear."""
    hello: str
    client: tuple[str, int]
    client_hostname: str
    proxy: ProxyInfo | None
    xclient: dict[str, str | None]
    xforward: dict[str, str | None]

    @property
    def sender(self) -> str:
        return str(self.envelope.mail_from)

    @property
    def recipients(self) -> list[str]:
        return [str(address) for address in self.envelope.rcpt_to]


class Mailbox:
    """Hooks: let USER in, refuse whoever is called nobody, keep what comes.

    In LMTP, whoever is called full is refused behind the data.
    """

    def __init__(self, *, lmtp: bool) -> None:
        self.messages: list[Message] = []
        self.attempts: list[str] = []
        """The mechanism of each login that was tried."""
        self._lmtp: bool = lmtp

    def on_auth(self, auth: Credentials, session: Session) -> bool:
        del session
        self.attempts.append(auth.method)
        return auth.username == USER and _proves(auth)

    def on_rcpt_to(self, address: Any, session: Session) -> None:
        del session
        if address.local == "nobody":
            raise Reject(550, "5.1.1", "No such user here")

    def on_data(
        self, stream: AsyncStream, session: Session
    ) -> Generator[Any, Any, list[Reject | None] | None]:
        content = yield stream.read()
        self.messages.append(
            Message(
                envelope=session.envelope,
                content=content,
                transmission_type=session.transmission_type,
                user=session.user,
                tls=session.tls_options["version"] if session.tls_options else None,
                hello=session.host_name_appears_as,
                client=(session.remote_address, session.remote_port),
                client_hostname=session.client_hostname,
                proxy=session.proxy,
                xclient=dict(session.xclient),
                xforward=dict(session.xforward),
            )
        )
        if not self._lmtp:
            return None
        full = Reject(552, "5.2.2", "Mailbox full")
        return [full if address.local == "full" else None for address in session.envelope.rcpt_to]


def _proves(auth: Credentials) -> bool:
    match auth:
        case PlainCredentials() | LoginCredentials():
            return auth.password == PASSWORD
        case CramMd5Credentials():
            return auth.validate_password(PASSWORD)
        case XOAuth2Credentials():
            return auth.access_token == TOKEN
        case _:
            return auth.method == "XCLIENT"


class Receiving:
    """A server that runs, and what it has received."""

    def __init__(self, server: Running, mailbox: Mailbox) -> None:
        self.server = server
        self.mailbox = mailbox

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}"

    def only_message(self) -> Message:
        """The one message that has come; nothing may have gone wrong on the way."""
        assert self.server.errors == []
        assert len(self.mailbox.messages) == 1
        return self.mailbox.messages[0]


def asyncio_only(*row: Any) -> Any:
    """A row of a parametrised table that is left out on all other runtimes."""
    return pytest.param(*row, marks=pytest.mark.asyncio_only)


@contextlib.contextmanager
def receiving(runtime: str, /, **options: Any) -> Generator[Receiving]:
    """A server with these options that announces all it can and keeps what it is sent."""
    shown = {"hide_dsn": False, "hide_requiretls": False, "hide_enhancedstatuscodes": False}
    login = {"sync_hooks": "inline", "auth_methods": METHODS, "auth_optional": True, "size": 64 * 1024 * 1024}
    mailbox = Mailbox(lmtp=bool(options.get("lmtp")))
    hooks = {
        "on_auth": mailbox.on_auth,
        "on_rcpt_to": mailbox.on_rcpt_to,
        "on_data": mailbox.on_data,
    }
    settings: dict[str, Any] = {**shown, **login, **hooks, **options}
    with running(runtime, **settings) as server:
        yield Receiving(server, mailbox)
