# The server object: where it listens, whom it counts, and what it tells.

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import sys
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from smtpproto_kit import DATA, DEADLINE, Client, Running, running, wait_until
from smtpproto_kit.cases._colours import TICK, replies

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from smtpproto import Session
    from smtpproto_kit import Runtime
    from smtpproto_kit.cases._colours import Hook

GREETING: Final = "220 mx.test ESMTP"
OK: Final = "250 2.0.0 OK"
BYE: Final = "221 2.0.0 Bye"
DOWN: Final = "421 4.3.2 Server shutting down"
FULL: Final = "421 mx.test Too many connected clients, try again in a moment"
RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: close by a reset
PLAIN: Final[dict[str, Any]] = {"name": "mx.test", "auth_optional": True, "disable_reverse_lookup": True}


class Diary:
    """What hooks and listeners have seen."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime: Runtime = runtime
        self.heard: list[str] = []
        self.connected: list[Session] = []
        self.closed: list[Session] = []

    def hooks(self) -> dict[str, Any]:
        return {"on_connect": self.on_connect, "on_close": self.on_close}

    def on_connect(self, session: Session) -> Hook:
        yield self.runtime.pause(0)
        self.connected.append(session)

    def on_close(self, session: Session) -> Hook:
        yield self.runtime.pause(0)
        self.closed.append(session)

    def notes(self, what: str) -> Callable[..., None]:
        """A listener that notes that it was called."""

        def listener(*_: object) -> None:
            self.heard.append(what)

        return listener


def listen(server: Running, *place: Any, **named: Any) -> Any:
    return server.call(lambda: server.server.listen(*place, **named))


def quit_at(port: int, host: str = "127.0.0.1") -> str:
    """Connect, be greeted, quit; the greeting."""
    with Client(sock=socket.create_connection((host, port), DEADLINE)) as client:
        greeting = client.reply()
        assert client.say("QUIT").startswith("221 ")
        assert client.rest() == b""
    return greeting


@contextlib.contextmanager
def pair() -> Generator[tuple[socket.socket, Client]]:
    """A connected socket, and the client at its other end."""
    ours, theirs = socket.socketpair()
    with Client(sock=theirs) as client, ours:
        yield ours, client


# --- listen -------------------------------------------------------------------------------------------


def test_no_host_is_every_interface_on_one_port(runtime: Runtime) -> None:
    with running(runtime, listen=False) as server:
        heard: list[object] = []
        server.server.on("listening", heard.append)
        assert server.server.address() is None
        assert server.server.addresses == []
        assert listen(server) is server.server
        first = server.server.address()
        assert heard == [first]
        assert first[1] != 0
        for host, port in server.server.addresses:
            assert port == first[1]
            assert quit_at(port, {"::": "::1"}.get(host, "127.0.0.1")) == GREETING
        server.close()
        assert server.server.address() is None
        assert server.server.addresses == []


def test_a_unix_socket_is_listened_on_and_its_clients_have_no_address(
    runtime: Runtime, tmp_path: Path
) -> None:
    path, diary = str(tmp_path / "mx"), Diary(runtime)
    options: dict[str, Any] = {"disable_reverse_lookup": False, **diary.hooks()}
    with running(runtime, listen=False, **options) as server:
        for _ in range(2):
            listen(server, path=path)
            assert server.server.address() == path
            with Client(path=path) as client:
                assert client.greeted().say("EHLO a").startswith("250-mx.test Nice to meet you, [local]")
                session = diary.connected[-1]
                assert (session.remote_address, session.remote_port, session.local_address) == ("", 0, "")
                assert session.client_hostname == "[local]"
                assert client.say("QUIT") == BYE
            server.close()
            assert not Path(path).exists()
    assert len(diary.connected) == 2


def test_a_unix_socket_that_a_dead_server_has_left_is_taken_over_and_a_new_one_is_left_alone(
    runtime: Runtime, tmp_path: Path
) -> None:
    path = tmp_path / "mx"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with running(runtime, listen=False) as server:
        listen(server, path=str(path))
        with Client(path=str(path)) as client:
            assert client.reply() == GREETING
        path.unlink()
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(path))
            server.close()
            assert path.exists()


@pytest.mark.parametrize("listens", [True, False], ids=["listening", "bound"])
def test_a_socket_that_is_handed_in_is_listened_on(runtime: Runtime, listens: bool) -> None:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    if listens:
        sock.listen()
    port = sock.getsockname()[1]
    with running(runtime, listen=False) as server:
        listen(server, sock=sock)
        assert server.server.address() == ("127.0.0.1", port)
        assert quit_at(port) == GREETING
        server.close()
        assert sock.fileno() == -1


def test_there_may_be_several_listeners(runtime: Runtime, tmp_path: Path) -> None:
    path, heard = str(tmp_path / "mx"), list[object]()
    with running(runtime, listen=False, max_clients=2) as server:
        server.server.on("listening", heard.append)
        listen(server, 0, "127.0.0.1")
        listen(server, path=path)
        listen(server, 0, "127.0.0.1")
        addresses = server.server.addresses
        assert server.server.address() == addresses[0]
        assert heard == addresses
        assert addresses[1] == path
        assert addresses[0][1] != addresses[2][1]
        with server.client().greeted(), Client(path=path).greeted(), Client(addresses[2][1]) as third:
            assert third.replies() == [FULL]  # all count together, and with them who is handed in
            with pair() as (ours, fourth):
                refusing = server.start(partial(server.server.serve_connection, ours))
                assert fourth.replies() == [FULL]
                fourth.close()
                refusing.result(DEADLINE)


def test_listen_that_fails_raises_and_leaves_the_server_as_it_was(runtime: Runtime, tmp_path: Path) -> None:
    diary = Diary(runtime)
    with running(runtime, listen=False) as server, socket.socket() as taken:
        server.server.on("listening", diary.notes("listening"))
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="in use"):
            listen(server, taken.getsockname()[1], "127.0.0.1")
        with pytest.raises(OSError, match="No such file"):
            listen(server, path=str(tmp_path / "no" / "such" / "directory"))
        with pytest.raises(OSError, match="assign"):
            listen(server, 0, "192.0.2.1")  # of no machine
        assert not diary.heard
        assert not server.errors
        assert server.server.addresses == []
        listen(server, 0, "127.0.0.1")
        assert diary.heard == ["listening"]
        assert quit_at(server.port) == GREETING


def test_a_server_listens_again_after_close_as_a_new_one_does(runtime: Runtime) -> None:
    diary = Diary(runtime)
    with running(runtime, listen=False) as server:
        server.server.on("close", diary.notes("close")).on("listening", diary.notes("listening"))
        for _ in range(3):
            listen(server, 0, "127.0.0.1")
            port = server.port
            assert quit_at(port) == GREETING
            server.close()
            server.close()
            with pytest.raises(ConnectionRefusedError):
                Client(port)
    assert diary.heard == ["listening", "close"] * 3


@pytest.mark.parametrize("fails", [False, True])
def test_the_context_manager_closes_at_exit(runtime: Runtime, fails: bool) -> None:
    made: Any = runtime.server_class(**PLAIN)
    diary, leave = Diary(runtime), threading.Event()
    made.on("close", diary.notes("close"))

    def wait() -> Hook:
        while not leave.is_set():
            yield runtime.pause(TICK)
        if fails:
            raise LookupError("of the application")

    waiting = runtime.coloured(wait)

    async def within() -> None:
        async with made as entered:
            assert entered is made
            await made.listen(0, "127.0.0.1")
            await waiting()

    def within_plain() -> None:
        with made as entered:
            assert entered is made
            made.listen(0, "127.0.0.1")
            waiting()

    with running(runtime, listen=False) as server:
        done = server.start(within if runtime.coroutines else within_plain)
        wait_until(lambda: made.addresses)
        _, port = made.address()
        with Client(port).greeted() as client:
            leave.set()
            assert client.replies() == ["421 Server shutting down"]
        error = done.exception(DEADLINE)
        assert (error is not None) == fails
        assert diary.heard == ["close"]
        assert made.addresses == []
        assert not made.peers


def test_a_client_that_is_gone_before_it_is_accepted_is_no_error(runtime: Runtime) -> None:
    faults = [errno.ECONNABORTED, errno.ECONNABORTED]

    class Hasty(socket.socket):  # Linux says so only of connections that no client can make
        def accept(self) -> Any:
            if faults:
                raise OSError(faults.pop(), "gone")
            return super().accept()

    with running(runtime, listen=False) as server:
        sock = Hasty(socket.AF_INET)
        sock.bind(("127.0.0.1", 0))
        listen(server, sock=sock)
        assert quit_at(server.port) == GREETING
        assert not faults
        assert not server.errors


# --- serve_connection ---------------------------------------------------------------------------------


def test_a_connected_socket_is_served_without_listening(runtime: Runtime) -> None:
    diary = Diary(runtime)
    identity: dict[str, Any] = {
        "id": "mine", "local_address": "192.0.2.25", "local_port": 26,
        "remote_address": "::FFFF:198.51.100.1", "remote_port": 27,
    }  # fmt: skip
    with running(runtime, listen=False, **diary.hooks()) as server, pair() as (ours, client):
        serving = server.start(partial(server.server.serve_connection, ours, **identity))
        assert client.greeted().say("NOOP") == OK
        assert not serving.done()  # it lasts as long as the connection
        assert server.server.addresses == []
        assert client.say("QUIT") == BYE
        assert client.rest() == b""
        assert serving.result(DEADLINE) is None
        assert ours.fileno() == -1
        assert not server.server.sessions
        (session,) = diary.closed
        assert (session.id, session.local_address, session.local_port) == ("mine", "192.0.2.25", 26)
        assert (session.remote_address, session.remote_port) == ("198.51.100.1", 27)
        assert session.client_hostname == "[198.51.100.1]"
        assert server.connects[0]["remote_address"] == "198.51.100.1"


def test_what_an_identity_leaves_open_the_socket_says(runtime: Runtime) -> None:
    with running(runtime, listen=False) as server, socket.create_server(("127.0.0.1", 0)) as listener:
        with Client(listener.getsockname()[1]) as client:
            ours, _ = listener.accept()
            serve = partial(server.server.serve_connection, ours, remote_address="198.51.100.2")
            serving = server.start(serve)
            assert client.reply() == GREETING
            (session,) = server.server.sessions
            assert (session.local_address, session.local_port) == listener.getsockname()
            assert session.remote_address == "198.51.100.2"
            assert session.remote_port == client.sock.getsockname()[1]
        serving.result(DEADLINE)


def test_a_connection_that_is_served_is_counted_and_closed_like_any_other(runtime: Runtime) -> None:
    diary = Diary(runtime)
    with running(runtime, listen=False, max_clients=1, **diary.hooks()) as server:
        for _ in range(2):  # the second time after a close, and without listen in between
            with pair() as (ours, client), pair() as (other, surplus):
                serving = server.start(partial(server.server.serve_connection, ours))
                assert client.reply() == GREETING
                assert len(server.server.sessions) == 1
                refusing = server.start(partial(server.server.serve_connection, other))
                assert surplus.replies() == [FULL]
                surplus.close()
                refusing.result(DEADLINE)
                closing = server.start(server.server.close)
                assert client.replies() == [DOWN]
                client.close()
                serving.result(DEADLINE)
                closing.result(DEADLINE)
            assert not server.server.sessions
    assert len(diary.connected) == 2
    assert len(diary.closed) == 4


@pytest.mark.parametrize("where", ["idle", "hook", "message"])
def test_serving_that_is_cancelled_ends_the_connection_and_calls_on_close(
    runtime: Runtime, where: str
) -> None:
    if not runtime.coroutines:
        pytest.skip("a call from another thread cannot be cancelled")
    seen: list[str] = []

    def on_helo(*_: object) -> Hook:
        if where == "hook":
            yield from until_cancelled(runtime.pause(3600))

    def on_data(stream: Any, _session: object) -> Hook:
        yield from until_cancelled(stream.read())

    def until_cancelled(waiting: Any) -> Hook:
        seen.append("called")
        try:
            yield waiting
        finally:
            seen.append("cancelled")

    def on_close(_session: object) -> Hook:
        yield runtime.pause(0)
        seen.append("closed")

    hooks: dict[str, Any] = {"on_helo": on_helo, "on_data": on_data, "on_close": on_close}
    with running(runtime, listen=False, **hooks) as server, pair() as (ours, client):
        serving = server.start(partial(server.server.serve_connection, ours))
        assert client.reply() == GREETING
        if where != "idle":
            client.send(b"EHLO a\r\n" + DATA)
            wait_until(lambda: seen)
        serving.cancel()
        client.rest()
        wait_until(lambda: "closed" in seen)
        wait_until(lambda: not server.server.peers)
        assert not server.server.sessions
    assert seen == (["closed"] if where == "idle" else ["called", "cancelled", "closed"])


@pytest.mark.parametrize("family", ["TCP, reset", "TCP", "unix"])
def test_a_socket_that_is_dead_already_is_no_accident(runtime: Runtime, family: str) -> None:
    diary = Diary(runtime)
    with running(runtime, listen=False, on_close=diary.on_close) as server:
        if family == "unix":
            ours, theirs = socket.socketpair()
        else:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                theirs = socket.create_connection(listener.getsockname())
                ours, _ = listener.accept()
        if family == "TCP, reset":
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        theirs.close()
        server.call(lambda: server.server.serve_connection(ours))
        assert not server.server.sessions
        assert not server.errors
        assert len(diary.closed) == 1


# --- the module functions -----------------------------------------------------------------------------


def module_of(runtime: Runtime) -> Any:
    """The module that the adapter's SMTPServer is in."""
    module = sys.modules[runtime.server_class.__module__]
    if not hasattr(module, "serve"):
        pytest.skip("the adapter has no functions beside its server")
    return module


@pytest.mark.parametrize("end", ["close", "cancel"])
def test_serve_listens_and_returns_when_the_server_is_closed(runtime: Runtime, end: str) -> None:
    if end == "cancel" and not runtime.coroutines:
        pytest.skip("a call from another thread cannot be cancelled")
    serve = module_of(runtime).serve
    made: Any = runtime.server_class(**PLAIN)
    with running(runtime, listen=False) as server:
        serving = server.start(lambda: serve(made, 0, "127.0.0.1"))
        wait_until(lambda: made.addresses)
        host, port = made.address()
        assert host == "127.0.0.1"
        with Client(port).greeted() as client:
            assert not serving.done()
            if end == "cancel":
                serving.cancel()
                client.rest()
            else:
                closing = server.start(made.close)
                assert client.replies() == ["421 Server shutting down"]
                client.close()
                closing.result(DEADLINE)
                assert serving.result(DEADLINE) is None
        wait_until(lambda: not made.peers)
        assert made.addresses == []


def test_serve_raises_what_listen_raises(runtime: Runtime) -> None:
    serve = module_of(runtime).serve
    made: Any = runtime.server_class(**PLAIN)
    with running(runtime, listen=False) as server:
        error: Any = server.start(lambda: serve(made, path="/no/such/directory")).exception(DEADLINE)
    while hasattr(error, "exceptions"):  # a task group's
        (error,) = error.exceptions
    assert isinstance(error, OSError)


@pytest.mark.parametrize("whole", [True, False], ids=["options", "fields"])
def test_serve_connection_serves_one_with_a_server_of_its_own(runtime: Runtime, whole: bool) -> None:
    module = module_of(runtime)
    came: list[bytes] = []

    def on_data(stream: Any, _session: object) -> Hook:
        came.append((yield stream.read()))

    fields: dict[str, Any] = {**PLAIN, "on_data": runtime.coloured(on_data)}
    with running(runtime, listen=False) as server, pair() as (ours, client):
        if whole:
            options = type(server.server.options)(**fields)
            serving = server.start(lambda: module.serve_connection(ours, options))
        else:
            serving = server.start(lambda: module.serve_connection(ours, **fields))
        client.greeted().send(DATA + b"hi\r\n.\r\n")
        assert replies(client, 4)[3] == "250 OK: message queued"
        assert not serving.done()
        assert client.say("QUIT") == "221 Bye"
        assert client.rest() == b""
        assert serving.result(DEADLINE) is None
        assert ours.fileno() == -1
    assert came == [b"hi\r\n"]


# --- events and the set of sessions -------------------------------------------------------------------


def test_connect_tells_who_is_there_and_connections_holds_the_sessions(runtime: Runtime) -> None:
    with running(runtime) as server:
        with server.client().greeted() as first, server.client().greeted() as second:
            one, two = server.server.sessions
            assert {info["id"] for info in server.connects} == {one.id, two.id}
            info = server.connects[0]
            assert info["remote_address"] == info["local_address"] == "127.0.0.1"
            assert info["remote_port"] == first.sock.getsockname()[1]
            assert info["local_port"] == server.port
            assert info["client_hostname"] == "[127.0.0.1]"
            assert info["host_name_appears_as"] == ""
            assert first.say("QUIT") == BYE
            assert first.rest() == b""
            wait_until(lambda: len(server.server.sessions) == 1)
            assert second.say("NOOP") == OK
        wait_until(lambda: not server.server.sessions)
    assert len(server.connects) == 2


def test_listen_while_closing_comes_behind_the_close(runtime: Runtime) -> None:
    diary = Diary(runtime)
    with running(runtime) as server, server.client().greeted() as client:
        server.server.on("close", diary.notes("close")).on("listening", diary.notes("listening"))
        client.say("MAIL FROM:<a@x>")  # so that it takes its time
        closing = server.start(server.server.close)
        wait_until(lambda: not server.server.addresses)
        again = server.start(lambda: server.server.listen(0, "127.0.0.1"))
        assert client.say("NOOP") == OK
        client.send(b"QUIT\r\n")
        closing.result(DEADLINE)
        again.result(DEADLINE)
        assert diary.heard == ["close", "listening"]


@pytest.mark.parametrize("kind", [LookupError, pytest.fail.Exception])
@pytest.mark.parametrize("event", ["listening", "connect", "error", "close"])
def test_a_listener_that_raises_hurts_nobody(
    runtime: Runtime, event: str, kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    diary = Diary(runtime)

    def fail(*_: object) -> None:
        raise kind

    def on_vrfy(*_: object) -> Hook:
        yield runtime.pause(0)
        raise LookupError("of a hook")

    with running(runtime, listen=False, on_vrfy=on_vrfy) as server:
        server.server.on(event, fail).on(event, diary.notes(event))
        listen(server, 0, "127.0.0.1")
        with server.client().greeted() as client:
            assert client.say("VRFY x").startswith("451 ")
            assert client.say("QUIT") == BYE
        server.close()
    assert diary.heard == [event]
    assert f"a listener for {event!r} raised" in caplog.text


# --- max_clients --------------------------------------------------------------------------------------


@pytest.mark.parametrize("secure", [False, True])
def test_max_clients_are_served_and_the_others_told(runtime: Runtime, secure: bool) -> None:
    diary = Diary(runtime)
    with running(runtime, max_clients=2, secure=secure, **diary.hooks()) as server:
        with server.client(tls=secure).greeted(), server.client(tls=secure).greeted() as second:
            for _ in range(3):
                with server.client(tls=secure) as surplus:
                    assert surplus.replies() == [FULL]
            wait_until(lambda: len(diary.closed) == 3)
            assert second.say("QUIT") == BYE
            second.rest()
            wait_until(lambda: len(server.server.sessions) == 1)
            with server.client(tls=secure).greeted():
                pass
        wait_until(lambda: len(diary.closed) == 6)
    assert len(diary.connected) == 3
    assert not set(diary.closed[:3]) & set(diary.connected)


def test_who_has_not_shaken_hands_yet_counts(runtime: Runtime) -> None:
    with running(runtime, max_clients=1, secure=True) as server:
        with server.client():
            wait_until(lambda: server.server.sessions)
            with server.client(tls=True) as surplus:
                assert surplus.replies() == [FULL]
        wait_until(lambda: not server.server.sessions)
        with server.client(tls=True) as client:
            assert client.reply() == GREETING


def test_under_tls_only_so_many_refusals_are_pending(runtime: Runtime) -> None:
    with running(runtime, max_clients=1, secure=True) as server, server.client(tls=True).greeted():
        with server.client() as pending:
            wait_until(lambda: len(server.server.sessions) == 2)
            with server.client() as silent:
                assert silent.rest() == b""
            pending.start_tls()
            assert pending.replies() == [FULL]


# --- the end of input ---------------------------------------------------------------------------------


def test_what_was_said_before_a_half_close_is_answered(runtime: Runtime) -> None:
    came: list[bytes] = []

    def on_rcpt_to(*_: object) -> Hook:
        yield runtime.pause(0.02)

    def on_data(stream: Any, _session: object) -> Hook:
        came.append((yield stream.read()))
        yield runtime.pause(0.02)

    with running(runtime, on_rcpt_to=on_rcpt_to, on_data=on_data) as server:
        with server.client().greeted() as client:
            client.send(DATA + b"hi\r\n.\r\nNOOP\r\nFO")
            client.end()
            assert [reply[:3] for reply in client.replies()] == ["250", "250", "354", "250", "250"]
        with server.client().greeted() as client:
            client.send(b"QUIT\r\n")
            client.end()
            assert client.replies() == [BYE]
        with server.client() as client:
            assert client.reply() == GREETING
            client.end()
            assert client.replies() == []
        wait_until(lambda: not server.server.sessions)
        assert not server.errors
    assert came == [b"hi\r\n"]
