# The rows over TCP against the asyncio adapter, whole and octet by octet, with real TLS.

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
import socket
import ssl
import sys
from typing import TYPE_CHECKING, Any, Final

import pytest
import trustme

from conformance.scenarios import (
    Action,
    Each,
    Expectation,
    Expire,
    Message,
    Raises,
    Returns,
    Scenario,
    Slow,
    judge,
    judge_end,
    judge_login,
    played,
    scenario,
)
from running import DEADLINE, Client, Running, running
from smtpproto import Options

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from conformance.scenarios import Step
    from smtpproto import Session

PEER: Final = "127.0.0.1"
SHORT: Final = 300  # octets; what is longer is not sent one by one
TRICKLE: Final = 0.02  # seconds between two octets
TLS_ALERT: Final = 21  # record type, RFC 8446 §5.1
RAGGED: Final = (ConnectionResetError, ssl.SSLEOFError, ssl.SSLZeroReturnError)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


@pytest.fixture(scope="module")
def server_tls(authority: trustme.CA) -> dict[str, bytes]:
    leaf = authority.issue_cert("mx.test", key_type=trustme.KeyType.ECDSA)
    chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
    return {"key": leaf.private_key_pem.bytes(), "cert": chain}


@pytest.fixture(scope="module")
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())


class Application:
    """The hooks of a row."""

    def __init__(self, scene: Scenario) -> None:
        self.scene: Scenario = scene
        self.sessions: list[Session] = []
        self.messages: list[Message] = []

    def hooks(self) -> dict[str, Any]:
        names = ("on_connect", "on_auth", "on_mail_from", "on_rcpt_to", "on_data")
        return {name: getattr(self, name) for name in names}

    async def answer(self, name: str, session: Session, default: Any = None) -> Any:
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
                await asyncio.sleep(seconds)
                return default
            case Each(decisions):
                return list(decisions)
            case _:
                return default if given is None else given

    async def on_connect(self, session: Session) -> Any:
        self.sessions.append(session)
        return await self.answer("on_connect", session)

    async def on_auth(self, auth: Any, session: Session) -> Any:
        return await self.answer("on_auth", session, judge_login(auth))

    async def on_mail_from(self, _address: Any, session: Session) -> Any:
        return await self.answer("on_mail_from", session)

    async def on_rcpt_to(self, _address: Any, session: Session) -> Any:
        return await self.answer("on_rcpt_to", session)

    async def on_data(self, stream: Any, session: Session) -> Any:
        data = await stream.read()
        assert stream.complete
        if stream.refusal is None:
            self.messages.append(Message(data, len(session.envelope.rcpt_to)))
        return await self.answer("on_data", session)


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
            assert self.server.server.connections, "the server has closed"
        return replies

    def play_and_judge(self, application: Application) -> None:
        """Take all turns; what came must be right, and nothing may come behind it."""
        replies = self.play()
        session = application.sessions[-1] if application.sessions else None
        judge_end(self.scene, replies, application.messages, session, PEER)
        self.end()
        assert _no_reply(self.rest())

    def take(self, step: Step, *, octets: bool) -> None:
        sock = self.client.sock
        match step:
            case Action.TLS:
                self.client.start_tls(self.tls, "mx.test")
            case Action.END:
                self.end()
            case Action.SHUTDOWN:
                asyncio.run_coroutine_threadsafe(self.server.server.close(), self.server.loop)
            case Action.TRICKLE:
                while not select.select([sock], [], [], TRICKLE)[0]:
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


def ways(scene: Scenario) -> Iterable[bool]:
    """In one piece, and octet by octet where that is cheap."""
    yield False
    sent = [step for step in scene.own if isinstance(step, bytes)]
    if not scene.recipe.whole and 1 < sum(map(len, sent)) <= SHORT:
        yield True


@contextlib.contextmanager
def crowd(scene: Scenario, server: Running) -> Generator[None]:
    """The client that is there already, where the row's is one too many."""
    if Action.REFUSE not in scene.own:
        yield
        return
    with server.client() as client:
        client.greeted()
        yield


class Stage:
    """What rows are played on."""

    def __init__(self, server_tls: dict[str, bytes], client_tls: ssl.SSLContext) -> None:
        self.server_tls: dict[str, bytes] = server_tls
        self.client_tls: ssl.SSLContext = client_tls

    def play(self, scene: Scenario, runtime: str = "asyncio", *, octets: bool = False) -> None:
        """Play a row once, with a server of its own, and judge it."""
        application = Application(scene)
        options: dict[str, Any] = {**self.server_tls, **scene.options, **scene.recipe.server_options}
        if not scene.recipe.tls_available:
            # A name for which no certificate can have been made before; see `without_certificates`.
            options |= {"key": None, "cert": None, "name": "no-tls.test"}
        wrong: AssertionError | None = None
        with running(runtime, **options, **application.hooks()) as server, crowd(scene, server):
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


@pytest.fixture
def stage(server_tls: dict[str, bytes], client_tls: ssl.SSLContext) -> Stage:
    return Stage(server_tls, client_tls)


@pytest.fixture
def without_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package that makes certificates for development cannot be imported."""
    monkeypatch.setitem(sys.modules, "cryptography", None)


@pytest.mark.usefixtures("without_certificates")
@pytest.mark.parametrize("row", played())
def test_a_row_holds_over_tcp(row: str, stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "smtpproto")
    scene = scenario(row)
    for octets in ways(scene):
        stage.play(scene, octets=octets)
    for record in caplog.records:
        # What clients write must not write in the log, and their passwords must not be in it.
        assert record.getMessage().isprintable()
        assert "AHUAcA" not in record.getMessage()


@pytest.mark.usefixtures("without_certificates")
@pytest.mark.parametrize("row", played())
def test_a_row_holds_on_uvloop(row: str, stage: Stage) -> None:
    pytest.importorskip("uvloop")
    stage.play(scenario(row), "uvloop")


@pytest.mark.parametrize("row", ["C001", "C052", "C056", "C107", "C218", "C238", "C286", "C344"])
def test_a_wrong_expectation_fails_over_tcp(row: str, stage: Stage) -> None:
    scene = scenario(row)
    (code, enhanced), *others = scene.turns[scene.input_at].expected.replies
    for wrong in ((299, enhanced), (code, f"{str(code)[0]}.9.9")):
        with pytest.raises(AssertionError):
            stage.play(scene.expecting(Expectation((wrong, *others))))


def test_a_wrong_message_fails_over_tcp(stage: Stage) -> None:
    with pytest.raises(AssertionError):
        stage.play(scenario("C107").judged_by(messages=(Message(b"a\r\n"),)))


def test_no_other_limit_can_close_in_the_place_of_the_one_a_row_is_about() -> None:
    limits = {"socket_timeout", "command_timeout", "proxy_timeout", "data_timeout", "session_timeout"}
    for scene in map(scenario, played()):
        made = Options(**scene.options)
        waits = {step.kind for step in scene.own if isinstance(step, Expire)}
        if Action.TRICKLE in scene.own or scene.id == "C382":  # these are about not closing for silence
            waits.add("socket_timeout")
        for limit in limits - waits:
            assert getattr(made, limit) > DEADLINE, (scene.id, limit)
