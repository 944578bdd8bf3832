# Conversations over real sockets, side by side with the bare core.

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, Any, Final

from smtpproto_kit._client import DEADLINE, Client
from smtpproto_kit._conversations import (
    COMMON,
    INFORMED,
    LOCAL,
    Answers,
    Conversation,
    Exchange,
    replies_of_core,
)
from smtpproto_kit._running import Running, running
from smtpproto_kit._stage import UNKNOWN, certificate, without_tls
from smtpproto_server import StreamRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence
    from contextlib import AbstractContextManager

    from smtpproto import Session
    from smtpproto_kit._runtime import Runtime

__all__ = ["Conversing"]

HOST: Final = "127.0.0.1"
GONE: Final = (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError, ssl.SSLZeroReturnError)


class Conversing:
    """Has conversations with servers of a runtime, and compares."""

    def __init__(self) -> None:
        self._server_tls, self._client_tls = certificate()

    def differences(self, runtime: Runtime, conversations: Sequence[Conversation]) -> Iterable[str]:
        """Have conversations that one server can have; what was not as with the core, by name."""
        first = conversations[0]
        options: dict[str, Any] = {**COMMON, **first.options}
        application = _Application()
        with (
            self._tls(options, available=first.tls_available) as tls,
            running(runtime, **{**options, **tls, **application.hooks(first.asks)}) as server,
        ):
            for each in conversations:
                difference = self._difference(server, each, options, application)
                if difference:
                    yield f"{each.name}: {difference}"

    def _tls(self, options: dict[str, Any], *, available: bool) -> AbstractContextManager[dict[str, Any]]:
        if available:
            return contextlib.nullcontext({**self._server_tls})
        options["name"] = UNKNOWN
        return without_tls()

    def _difference(
        self, server: Running, conversation: Conversation, options: dict[str, Any], application: _Application
    ) -> str:
        application.answers = Answers(conversation.answers)
        with _client(server, conversation) as client:
            peer, local = conversation.peer, LOCAL
            if peer is None:
                peer, local = (HOST, client.sock.getsockname()[1]), (HOST, server.port)
            exchanges, messages = replies_of_core(conversation, options, peer, local)
            try:
                for each in exchanges:
                    self._take(client, each)
                _expect_end(client)
            except AssertionError as error:
                return str(error)
            except OSError as error:
                return repr(error)
        arrived = application.answers.messages
        return "" if arrived == messages else f"these messages arrived: {arrived!r}, not {messages!r}"

    def _take(self, client: Client, exchange: Exchange) -> None:
        with contextlib.suppress(*GONE):  # the server may have had enough before all is sent
            if exchange.said is None:
                socket.socket.shutdown(client.sock, socket.SHUT_WR)  # under TLS too
            else:
                client.send(exchange.said)
        for octets in exchange.replies:
            if octets is None:  # HANDSHAKE
                client.start_tls(self._client_tls, "mx.test")
            else:
                _expect(client, octets)


class _Application:
    """The hooks of all conversations with a server, one conversation after the other."""

    def __init__(self) -> None:
        self.answers: Answers = Answers()

    def hooks(self, asks: Iterable[str]) -> dict[str, Any]:
        """As options."""
        return {**{name: self._hook(name) for name in (*INFORMED, *asks)}, "on_data": self._on_data}

    def _hook(self, name: str) -> Callable[..., Generator[Any, Any, Any]]:
        def hook(*args: Any) -> Generator[Any, Any, Any]:
            return self._of(args[-1]).next(name, args[0] if name == "on_auth" else None)
            yield  # a generator function, so that it gets the runtime's colour

        return hook

    def _on_data(self, stream: Any, session: Session) -> Generator[Any, Any, Any]:
        answers = self._of(session)
        try:
            data = yield stream.read()
        except StreamRefused:  # the core asks all the same when its end is there
            answers.next("on_data")
            raise
        answers.messages.append(data)
        return answers.next("on_data")

    def _of(self, session: Session) -> Answers:
        """A hook that is late answers for its own session."""
        answers: Answers = vars(session).setdefault("answers", self.answers)
        return answers


@contextlib.contextmanager
def _client(server: Running, conversation: Conversation) -> Generator[Client]:
    """From the address the conversation names, if it does."""
    if conversation.peer is None:
        with server.client() as client:
            yield client
        return
    (host, port), (remote, remote_port) = LOCAL, conversation.peer
    ours, theirs = socket.socketpair()
    served = server.start(
        lambda: server.server.serve_connection(
            theirs, local_address=host, local_port=port, remote_address=remote, remote_port=remote_port
        )
    )
    with Client(sock=ours) as client:
        yield client
    served.result(DEADLINE)


def _expect(client: Client, expected: bytes) -> None:
    """These octets come, and not others; it is said at the first that differs."""
    came, more = b"", b"."
    with contextlib.suppress(TimeoutError, *GONE):
        while more and came != expected and expected.startswith(came):
            more = client.sock.recv(len(expected) - len(came))
            came += more
    assert came == expected, f"{came!r} came, and {expected!r} from the core"


def _expect_end(client: Client) -> None:
    """The server closes, and says nothing more."""
    came = b""
    with contextlib.suppress(*GONE):
        came = client.sock.recv(65536)
    assert not came, f"{came!r} came, and nothing from the core"
