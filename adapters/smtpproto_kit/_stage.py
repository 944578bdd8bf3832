# Rows over TCP against a real server: its hooks, and a client that says what the row says.

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import sys
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

import trustme

from smtpproto_kit._client import DEADLINE, Client
from smtpproto_kit._running import Running, running
from smtpproto_kit._scenarios import (
    Action,
    Each,
    Expire,
    Message,
    Raises,
    Returns,
    Scenario,
    Slow,
    judge,
    judge_end,
    judge_login,
)

if TYPE_CHECKING:
    from collections.abc import Generator
    from contextlib import AbstractContextManager

    from smtpproto import Session
    from smtpproto_kit._runtime import Runtime
    from smtpproto_kit._scenarios import Step

__all__ = ["UNKNOWN", "Stage", "certificate", "without_tls"]

PEER: Final = "127.0.0.1"
TRICKLE: Final = 0.02  # seconds between two octets
UNKNOWN: Final = "no-tls.test"  # no certificate for development can have been made before
TLS_ALERT: Final = 21  # record type, RFC 8446 §5.1
RAGGED: Final = (ConnectionResetError, ssl.SSLEOFError, ssl.SSLZeroReturnError)


def certificate() -> tuple[dict[str, bytes], ssl.SSLContext]:
    """Server options with a certificate for mx.test, and a context for clients that trusts it."""
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    leaf = authority.issue_cert("mx.test", key_type=trustme.KeyType.ECDSA)
    chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
    trusting = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    return {"key": leaf.private_key_pem.bytes(), "cert": chain}, trusting


class Stage:
    """What rows are played on."""

    def __init__(self) -> None:
        self.server_tls, self.client_tls = certificate()

    def play(self, scene: Scenario, runtime: Runtime | str, *, octets: bool = False) -> None:
        """Play a row once, with a server of its own, and judge it.

        `octets` sends the row's own turn octet by octet.
        """
        application = Application(scene)
        tls: AbstractContextManager[dict[str, Any]] = contextlib.nullcontext({**self.server_tls})
        if not scene.recipe.tls_available:
            tls = without_tls()
        options: dict[str, Any] = {**scene.options, **scene.recipe.server_options}
        wrong: AssertionError | None = None
        with (
            tls as given,
            running(runtime, **{**options, **given, **application.hooks()}) as server,
            _crowd(scene, server),
        ):
            application.runtime = server.runtime
            talk = Talk(scene, server, self.client_tls, octets=octets)
            with talk.client:
                try:
                    talk.play_and_judge(application)
                except AssertionError as error:
                    wrong = error  # the server is closed in good order first
        if wrong is not None:
            raise wrong
        assert application.messages == list(scene.recipe.messages), "delivered after the end"
        assert not [info for _, info in server.errors if info["stage"] == "socket"], server.errors


class Application:
    """The hooks of a row."""

    def __init__(self, scene: Scenario) -> None:
        self.scene: Scenario = scene
        self.runtime: Runtime | None = None
        self.sessions: list[Session] = []
        self.messages: list[Message] = []

    def hooks(self) -> dict[str, Any]:
        """As options."""
        names = ("on_connect", "on_auth", "on_mail_from", "on_rcpt_to", "on_data")
        return {name: getattr(self, name) for name in names}

    def answer(self, name: str, session: Session, default: Any = None) -> Generator[Any, Any, Any]:
        """What the hook says this time in this session."""
        queues = vars(session).setdefault("queues", {})
        queue = queues.setdefault(name, iter(self.scene.recipe.hooks.get(name, ())))
        given = next(queue, None)
        match given:
            case Raises(error):
                raise error
            case Returns(value):
                return value
            case Slow(seconds):
                assert self.runtime is not None
                yield self.runtime.pause(seconds)
                return default
            case Each(decisions):
                return list(decisions)
            case _:
                return default if given is None else given

    def on_connect(self, session: Session) -> Generator[Any, Any, Any]:
        self.sessions.append(session)
        return (yield from self.answer("on_connect", session))

    def on_auth(self, auth: Any, session: Session) -> Generator[Any, Any, Any]:
        return (yield from self.answer("on_auth", session, judge_login(auth)))

    def on_mail_from(self, _address: Any, session: Session) -> Generator[Any, Any, Any]:
        return (yield from self.answer("on_mail_from", session))

    def on_rcpt_to(self, _address: Any, session: Session) -> Generator[Any, Any, Any]:
        return (yield from self.answer("on_rcpt_to", session))

    def on_data(self, stream: Any, session: Session) -> Generator[Any, Any, Any]:
        data = yield stream.read()
        assert stream.complete
        self.messages.append(Message(data, len(session.envelope.rcpt_to)))
        return (yield from self.answer("on_data", session))


class Talk:
    """A client that plays a row."""

    def __init__(self, scene: Scenario, server: Running, tls: ssl.SSLContext, *, octets: bool) -> None:
        self.scene: Scenario = scene
        self.server: Running = server
        self.tls: ssl.SSLContext = tls
        self.octets: bool = octets
        self.client: Client = server.client()
        self.client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def play(self) -> list[str]:
        """Take all turns and judge each; returns all replies."""
        replies: list[str] = []
        closed = False
        for number, (steps, expected) in enumerate(self.scene.turns):
            due = len(expected.replies)
            came: list[str] = []
            for step, behind in zip(steps, (*steps[1:], None), strict=True):
                self.take(step, octets=self.octets and number == self.scene.input_at)
                if isinstance(step, bytes) and isinstance(behind, bytes):
                    came.append(self.client.reply())
            came += [self.client.reply() for _ in range(due - len(came))]
            if expected.close:
                assert _no_reply(self.rest())
                closed = True
            judge(expected, came, closed=closed)
            replies += came
        if not closed:
            assert self.server.server.sessions, "the server has closed"
        return replies

    def play_and_judge(self, application: Application) -> None:
        """Take all turns; what came must be right, and nothing may come behind it."""
        replies = self.play()
        session = application.sessions[-1] if application.sessions else None
        judge_end(self.scene, replies, application.messages, session, PEER)
        self.end()
        assert _no_reply(self.rest())

    def take(self, step: Step, *, octets: bool) -> None:
        """Do one thing."""
        sock = self.client.sock
        match step:
            case Action.TLS:
                self.client.start_tls(self.tls, "mx.test")
            case Action.END:
                self.end()
            case Action.SHUTDOWN:
                self.server.start(self.server.server.close)
            case Action.TRICKLE:
                for _ in range(int(DEADLINE / TRICKLE)):
                    if select.select([sock], [], [], TRICKLE)[0]:
                        break
                    sock.sendall(b"x")
            case Action.REFUSE | Expire():
                pass  # it comes by itself
            case _:
                pieces = [step[i : i + 1] for i in range(len(step))] if octets else [step]
                # The server may have had enough before all is sent.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
                    for piece in pieces:
                        sock.sendall(piece)

    def end(self) -> None:
        """Send no more, under TLS too."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.client.sock, socket.SHUT_WR)

    def rest(self) -> bytes:
        """All until the server closes."""
        data, self.client.buffer = self.client.buffer, b""
        with contextlib.suppress(*RAGGED):
            while more := self.client.sock.recv(65536):
                data += more
        return data


def _no_reply(octets: bytes) -> bool:
    """Nothing, or the alert with which TLS ends a handshake."""
    return not octets or octets[0] == TLS_ALERT


@contextlib.contextmanager
def without_tls() -> Generator[dict[str, Any]]:
    """Server options without a certificate, and the package that makes some cannot be imported."""
    with mock.patch.dict(sys.modules, {"cryptography": None}):
        yield {"name": UNKNOWN}


@contextlib.contextmanager
def _crowd(scene: Scenario, server: Running) -> Generator[None]:
    """The client that is there already, where the row's is one too many."""
    if Action.REFUSE not in scene.own:
        yield
        return
    with server.client() as client:
        client.greeted()
        yield
