# server.sessions and server.disconnect(): from the runtime, from hooks and listeners, and from other threads.

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

import pytest

from smtpproto import Reject
from smtpproto_kit import DATA, DEADLINE, running, wait_until
from smtpproto_kit.cases._colours import Gate, begin, both, in_thread, plain
from smtpproto_server import StreamAborted

if TYPE_CHECKING:
    from collections.abc import Callable

    from smtpproto import Session
    from smtpproto_kit import Client, Running, Runtime
    from smtpproto_kit.cases._colours import Colour, Hook

    Disconnect = Callable[..., bool]

DOWN: Final = "421 4.3.2 Server shutting down"
ENOUGH: Final = Reject(421, "4.7.0", "Enough")
TOLD: Final = "421 4.7.0 Enough"


@pytest.fixture(params=["in the runtime", "in another thread"])
def disconnect(request: pytest.FixtureRequest) -> Callable[[Running], Disconnect]:
    """The server's disconnect, called there."""

    def chosen(server: Running) -> Disconnect:
        def called(*args: object) -> bool:
            if request.param == "in another thread":
                return bool(server.server.disconnect(*args))
            return bool(server.call(lambda: server.server.disconnect(*args)))

        return called

    return chosen


def hears_the_end(client: Client, *last: str) -> None:
    """These replies, and then the end, before the client says anything."""
    assert client.replies() == list(last)
    client.close()


def test_a_client_that_is_waited_for_is_told_and_no_other_is(
    runtime: Runtime, disconnect: Callable[[Running], Disconnect]
) -> None:
    with running(runtime) as server, server.client() as other:
        other.greeted()
        (kept,) = server.server.sessions
        for reply, said in ((), DOWN), ((ENOUGH,), TOLD):
            with server.client() as client:
                client.greeted()
                (session,) = set(server.server.sessions) - {kept}
                assert disconnect(server)(session, *reply)
                hears_the_end(client, said)
            wait_until(lambda: server.server.sessions == (kept,))
            assert not disconnect(server)(session)
        with pytest.raises(ValueError, match="a connection is ended with 421, not 550"):
            disconnect(server)(kept, Reject(550))
        assert other.say("NOOP") == "250 2.0.0 OK"


@both
def test_a_hook_that_waits_is_cancelled_or_left_alone(
    runtime: Runtime, colour: Colour, disconnect: Callable[[Running], Disconnect]
) -> None:
    sessions: list[Session] = []
    gate = Gate(runtime, colour)

    def on_mail_from(_address: object, session: Session) -> Hook:
        sessions.append(session)
        yield from gate.passed()

    with running(runtime, on_mail_from=colour(on_mail_from)) as server, server.client().greeted() as client:
        client.send(b"MAIL FROM:<a@x>\r\n")
        wait_until(lambda: sessions)
        assert disconnect(server)(sessions[0], ENOUGH)
        hears_the_end(client, TOLD)
        wait_until(lambda: not server.server.sessions)
        gate.open()


@both
def test_a_hook_that_reads_hears_that_the_server_ends_the_session(
    runtime: Runtime, colour: Colour, disconnect: Callable[[Running], Disconnect]
) -> None:
    seen: list[str] = []

    def on_data(stream: Any, _session: object) -> Hook:
        try:
            while True:
                seen.append(str(len((yield stream.read(1)))))
        except StreamAborted as error:
            seen.append(error.reason)
            raise

    with running(runtime, on_data=colour(on_data)) as server, server.client().greeted() as client:
        begin(client)
        client.send(b"x")
        wait_until(lambda: seen)
        (session,) = server.server.sessions
        assert disconnect(server)(session)
        hears_the_end(client, DOWN)
        wait_until(lambda: not server.server.peers)
        assert seen == ["1", "shutdown"]
        assert server.errors == []


@both
def test_a_hook_may_end_its_own_session(runtime: Runtime, colour: Colour) -> None:
    seen: list[bool] = []

    def on_mail_from(_address: object, session: Session) -> Hook:
        yield None if in_thread(runtime, colour) else runtime.pause(0)
        seen.append(server.server.disconnect(session, ENOUGH))

    def on_close(session: Session) -> Hook:
        yield None if in_thread(runtime, colour) else runtime.pause(0)
        seen.append(server.server.disconnect(session))

    hooks: dict[str, Any] = {"on_mail_from": colour(on_mail_from), "on_close": colour(on_close)}
    with running(runtime, **hooks) as server, server.client().greeted() as client:
        client.send(b"MAIL FROM:<a@x>\r\n")
        hears_the_end(client, TOLD)
        wait_until(lambda: len(seen) == 2)
        assert seen == [True, False]


def test_a_listener_may_end_the_session_that_it_hears_of(runtime: Runtime) -> None:
    def connected(_info: object) -> None:
        server.server.disconnect(server.server.sessions[0], ENOUGH)

    with running(runtime) as server:
        server.server.on("connect", connected)
        with server.client() as client:
            hears_the_end(client, "220 mx.test ESMTP", TOLD)


def test_the_session_of_a_hook_that_was_given_up_stands_for_its_connection(runtime: Runtime) -> None:
    sessions: list[Session] = []
    gate = Gate(runtime, plain)

    def on_mail_from(_address: object, session: Session) -> Hook:
        sessions.append(session)
        yield from gate.passed()

    with running(runtime, hook_timeout=0.2, on_mail_from=plain(on_mail_from)) as server:
        with server.client().greeted() as client:
            client.send(b"MAIL FROM:<a@x>\r\n")
            assert client.reply().startswith("451 ")
            assert server.call(lambda: server.server.disconnect(sessions[0], ENOUGH))
            hears_the_end(client, TOLD)
        gate.open()


def test_many_are_ended_at_once(runtime: Runtime) -> None:
    with running(runtime) as server:
        clients = [server.client().greeted() for _ in range(20)]
        clients[0].send(DATA)
        enders = [
            threading.Thread(target=server.server.disconnect, args=[session])
            for session in server.server.sessions
        ]
        for thread in enders:
            thread.start()
        for thread in enders:
            thread.join(DEADLINE)
        for client in clients:
            assert client.replies()[-1] == DOWN
            client.close()
        wait_until(lambda: not server.server.peers)
