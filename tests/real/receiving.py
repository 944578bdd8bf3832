# What real clients talk to: a server that keeps what it was sent, and their trust in it.
#
# Clients get the server's certificate to check wherever they can: a client that trusts anybody
# would not notice a handshake with the wrong one.

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from running import Running, running
from smtpproto import (
    CramMd5Credentials,
    Credentials,
    LoginCredentials,
    PlainCredentials,
    Reject,
    XOAuth2Credentials,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path

    from smtpproto import Envelope, Session
    from smtpproto_server import AsyncStream

USER: Final = "alice"
PASSWORD: Final = "a secret, with = and spaces"
TOKEN: Final = "ya29.token"
METHODS: Final = ("PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2")
PATIENCE: Final = 60.0  # seconds; a program that takes longer hangs
PROGRAM_PATH: Final = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])

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

    async def on_auth(self, auth: Credentials, session: Session) -> bool:
        del session
        self.attempts.append(auth.method)
        return auth.username == USER and _proves(auth)

    async def on_rcpt_to(self, address: Any, session: Session) -> None:
        del session
        if address.local == "nobody":
            raise Reject(550, "5.1.1", "No such user here")

    async def on_data(self, stream: AsyncStream, session: Session) -> list[Reject | None] | None:
        content = b"".join([chunk async for chunk in stream])
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


@contextlib.contextmanager
def receiving(runtime: str = "asyncio", /, **options: Any) -> Generator[Receiving]:
    """A server with these options that announces all it can and keeps what it is sent."""
    shown = {"hide_dsn": False, "hide_requiretls": False, "hide_enhancedstatuscodes": False}
    login = {"auth_methods": METHODS, "auth_optional": True, "size": 64 * 1024 * 1024}
    mailbox = Mailbox(lmtp=bool(options.get("lmtp")))
    settings: dict[str, Any] = {**shown, **login, **options}
    with running(runtime, handler=mailbox, **settings) as server:
        yield Receiving(server, mailbox)


def program(
    name: str, *arguments: str | Path, stdin: bytes = b"", environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end."""
    return subprocess.run(
        [shutil.which(name, path=PROGRAM_PATH) or name, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8", **(environment or {})},
    )


def succeeds(name: str, *arguments: str | Path, stdin: bytes = b"", **environment: str) -> str:
    """What a program says that must end well."""
    done = program(name, *arguments, stdin=stdin, environment=environment)
    said = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode == 0, said
    return said


def fails(name: str, *arguments: str | Path, stdin: bytes = b"", **environment: str) -> str:
    """What a program says that must not end well."""
    done = program(name, *arguments, stdin=stdin, environment=environment)
    said = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode != 0, said
    return said
