# Conversations over real sockets, side by side with the bare core.

from __future__ import annotations

import contextlib
import socket
import ssl
import sys
from typing import TYPE_CHECKING, Any, Final

from smtpproto_kit._client import DEADLINE, Client
from smtpproto_kit._conversations import (
    COMMON,
    HANDSHAKE,
    INFORMED,
    LOCAL,
    Answers,
    Conversation,
    Exchange,
    replies_of_core,
)
from smtpproto_kit._running import Running, running
from smtpproto_kit._stage import certificate, without_tls
from smtpproto_server import StreamAborted

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

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
        tls: dict[str, Any] = {**self._server_tls} if first.tls_available else {}
        application = _Application()
        with (
            contextlib.nullcontext() if first.tls_available else without_tls(options),
            running(runtime, **options, **tls, **application.hooks(first.asks)) as server,
        ):
            for each in conversations:
                difference = self._difference(server, each, options, application)
                if difference:
                    yield f"{each.name}: {difference}"

    def _difference(
        self, server: Running, conversation: Conversation, options: dict[str, Any], application: _Application
    ) -> str:
        with _client(server, conversation) as client:
            application.answers = Answers(conversation)
            peer, local = conversation.peer, LOCAL
            if peer is None:
                peer, local = (HOST, client.sock.getsockname()[1]), (HOST, server.port)
            exchanges, messages = replies_of_core(conversation, options, peer, local)
            try:
                for each in exchanges:
                    self._take(client, each)
                _compare(b"", _octets(client))
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
            if octets is HANDSHAKE:
                client.start_tls(self._client_tls, "mx.test")
            else:
                _compare(octets, _octets(client, len(octets)))


class _Application:
    """The hooks of all conversations with a server, one conversation after the other."""

    def __init__(self) -> None:
        self.answers: Answers = Answers()

    def hooks(self, asks: Iterable[str]) -> dict[str, Any]:
        """As options."""
        return {"on_data": self._on_data, **{name: self._hook(name) for name in (*INFORMED, *asks)}}

    def _hook(self, name: str) -> Callable[..., Generator[Any, Any, Any]]:
        def hook(*args: Any) -> Generator[Any, Any, Any]:
            return self._of(args[-1]).next(name, args[0] if name == "on_auth" else None)
            yield  # a generator function, so that it gets the runtime's colour

        return hook

    def _on_data(self, stream: Any, session: Session) -> Generator[Any, Any, Any]:
        answers = self._of(session)
        try:
            data = yield stream.read()
        except StreamAborted:
            if stream.refusal is not None:  # the core asks all the same when its end is there
                answers.next("on_data")
            raise
        if stream.refusal is None:
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


def _octets(client: Client, number: int = sys.maxsize) -> bytes:
    """So many octets, or all until the server closes."""
    data = b""
    with contextlib.suppress(*GONE):
        while len(data) < number and (more := client.sock.recv(min(number - len(data), 65536))):
            data += more
    return data


def _compare(expected: bytes, came: bytes) -> None:
    assert came == expected, f"{came!r} came, and {expected!r} from the core"
