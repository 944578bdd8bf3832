# close(): nobody new, nothing lost that was answered with 250, and an end that is certain.

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from smtpproto_kit import DATA, DEADLINE, Client, Running, Runtime, running, wait_until
from smtpproto_server import StreamAborted

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from concurrent.futures import Future

    Hook = Generator[Any, Any, Any]

DOWN = "421 4.3.2 Server shutting down"
UNCODED_DOWN = "421 Server shutting down"
KEPT = "kept all the same"


@pytest.fixture(params=["own", "plain"])
def colour(request: pytest.FixtureRequest, runtime: Runtime) -> str:
    """Of hooks: the runtime's own, or plain functions, which coroutine runtimes call in threads."""
    if request.param == "plain" and not runtime.coroutines:
        pytest.skip("all its hooks are plain functions")
    return str(request.param)


class Gate:
    """A hook that waits for the test, in either colour."""

    def __init__(self, runtime: Runtime, result: object = None) -> None:
        self.runtime = runtime
        self.result = result
        self.entered, self.released = threading.Event(), threading.Event()

    def own(self, *_: object) -> Hook:
        self.entered.set()
        end = time.monotonic() + DEADLINE
        while not self.released.is_set() and time.monotonic() < end:
            yield self.runtime.pause(0.005)
        return self.result

    def plain(self, *_: object) -> object:
        self.entered.set()
        self.released.wait(DEADLINE)
        return self.result

    def hook(self, colour: str) -> Callable[..., Any]:
        return self.own if colour == "own" else self.plain


def begin_close(server: Running) -> Future[Any]:
    """close() under way in the runtime, its listeners closed."""
    closing = server.start(server.server.close)
    wait_until(lambda: not server.server.addresses)
    return closing


# --- step by step (behaviour §12.2) --------------------------------------------------------------------


def test_nobody_new_is_let_in(runtime: Runtime) -> None:
    with running(runtime) as server:
        port = server.port
        server.call(lambda: server.server.listen(0, "127.0.0.1"))
        (_, other) = server.server.addresses[1]
        server.close()
        assert server.server.address() is None
        for each in (port, other):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", each), DEADLINE)


def test_nobody_new_is_let_in_while_a_transaction_goes_on(runtime: Runtime) -> None:
    with running(runtime) as server, server.client().greeted() as client:
        port = server.port
        client.say("MAIL FROM:<a@x>")
        closing = begin_close(server)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), DEADLINE)
        assert client.say("RSET") == "250 2.0.0 Flushed"
        assert client.replies() == [DOWN]
        client.close()
        closing.result(DEADLINE)


def test_sessions_without_a_transaction_are_ended_at_once(runtime: Runtime) -> None:
    with running(runtime) as server:
        with server.client() as new, server.client().greeted() as idle, server.client().greeted() as half:
            assert new.reply() == "220 mx.test ESMTP"
            half.send(b"MAIL FRO")
            closing = begin_close(server)
            for client in (new, idle, half):
                assert client.replies() == [DOWN]
                client.close()
            closing.result(DEADLINE)


def test_a_session_in_the_middle_of_a_login_is_ended_at_once(runtime: Runtime) -> None:
    with running(runtime, allow_insecure_auth=True) as server, server.client().greeted() as client:
        assert client.say("AUTH LOGIN").startswith("334 ")
        closing = begin_close(server)
        assert client.replies() == [DOWN]
        client.close()
        closing.result(DEADLINE)


def test_a_transaction_goes_on_to_the_reply_of_its_data(runtime: Runtime) -> None:
    with running(runtime) as server, server.client().greeted() as client, server.client().greeted() as other:
        client.say("MAIL FROM:<a@x>")
        other.say("MAIL FROM:<a@x>")
        closing = begin_close(server)
        assert client.say("RCPT TO:<b@y>") == "250 2.1.5 Accepted"
        assert client.say("RSET x").startswith("501 ")
        assert client.say("NOOP") == "250 2.0.0 OK"
        assert client.say("DATA").startswith("354 ")
        client.send(b"hi\r\n.\r\n")
        assert client.replies() == ["250 2.6.0 OK: message queued", DOWN]
        assert not closing.done()
        other.send(b"RSET\r\n")
        assert other.replies() == ["250 2.0.0 Flushed", DOWN]
        client.close()
        other.close()
        closing.result(DEADLINE)


@pytest.mark.parametrize(
    ("last", "answer"),
    [(b"EHLO a\r\n", "250-mx.test "), (b"QUIT\r\n", "221 2.0.0 Bye"), (b"HELO a\r\n", "250 mx.test ")],
)
def test_a_command_that_ends_a_transaction_gets_its_reply(runtime: Runtime, last: bytes, answer: str) -> None:
    with running(runtime) as server, server.client().greeted() as client:
        client.say("MAIL FROM:<a@x>")
        closing = begin_close(server)
        client.send(last)
        first, *others = client.replies()
        assert first.startswith(answer)
        assert others == ([] if last == b"QUIT\r\n" else [DOWN])
        client.close()
        closing.result(DEADLINE)


@pytest.mark.parametrize("first", [b"", b"PROXY TCP4 1.2.3.4"])
def test_connections_in_the_proxy_header_are_closed_without_a_reply(runtime: Runtime, first: bytes) -> None:
    with running(runtime, use_proxy=True) as server, server.client() as client:
        client.send(first)
        wait_until(lambda: server.server.sessions)
        closing = begin_close(server)
        assert client.rest() == b""
        closing.result(DEADLINE)


@pytest.mark.parametrize("first", [b"", b"\x16\x03\x01\x02"])
@pytest.mark.parametrize("secure", [True, False])
def test_connections_in_a_handshake_are_closed_without_a_reply(
    runtime: Runtime, secure: bool, first: bytes
) -> None:
    with running(runtime, secure=secure) as server, server.client() as client:
        if not secure:
            assert client.greeted().say("STARTTLS").startswith("220 ")
        wait_until(lambda: server.server.sessions)
        client.send(first)
        closing = begin_close(server)
        assert client.rest() == b""
        closing.result(DEADLINE)
        assert not server.errors


@pytest.mark.parametrize("coroutine", [True, False])
def test_connections_in_the_lookup_are_told_without_a_code(runtime: Runtime, coroutine: bool) -> None:
    if coroutine and not runtime.coroutines:
        pytest.skip("it has none")
    asked, release = threading.Event(), threading.Event()

    class Resolver:
        def reverse(self, _ip: str, /) -> Any:
            asked.set()
            release.wait(DEADLINE)
            return []

    class Coroutines:
        def __init__(self) -> None:
            self.reverse = runtime.coloured(self.ask)

        def ask(self, _ip: str) -> Hook:
            asked.set()
            yield runtime.pause(3600)

    resolver = Coroutines() if coroutine else Resolver()
    options: dict[str, Any] = {"disable_reverse_lookup": False, "reverse_lookup_timeout": None}
    try:
        with running(runtime, resolver=resolver, **options) as server, server.client() as client:
            assert asked.wait(DEADLINE)
            closing = begin_close(server)
            assert client.replies() == [UNCODED_DOWN]
            client.close()
            closing.result(DEADLINE)
            release.set()
    finally:
        release.set()


def test_a_session_in_the_delay_is_told_without_a_code(runtime: Runtime) -> None:
    with running(runtime, early_talker_delay=60) as server, server.client() as client:
        wait_until(lambda: server.server.sessions)
        closing = begin_close(server)
        assert client.replies() == [UNCODED_DOWN]
        client.close()
        closing.result(DEADLINE)


@pytest.mark.parametrize(
    ("place", "said", "expected"),
    [
        ("on_connect", b"", [UNCODED_DOWN]),
        ("on_helo", b"", ["250 mx.test Nice to meet you, [127.0.0.1]", DOWN]),
        ("on_vrfy", b"VRFY x\r\n", ["252 2.1.5 Try to send something. No promises though", DOWN]),
        ("on_auth", b"AUTH PLAIN AHUAcA==\r\n", ["235 2.7.0 Authentication successful", DOWN]),
    ],
)
def test_a_hook_that_runs_may_end(
    runtime: Runtime, colour: str, place: str, said: bytes, expected: list[str]
) -> None:
    gate = Gate(runtime, True if place == "on_auth" else None)
    hooks: dict[str, Any] = {place: gate.hook(colour)}
    with running(runtime, allow_insecure_auth=True, **hooks) as server, server.client() as client:
        if said:
            client.greeted().send(said)
        elif place == "on_helo":
            client.reply()
            client.send(b"HELO a\r\n")
        assert gate.entered.wait(DEADLINE)
        closing = begin_close(server)
        gate.released.set()
        assert client.replies() == expected
        client.close()
        closing.result(DEADLINE)


def test_a_message_whose_hook_runs_is_answered(runtime: Runtime, colour: str) -> None:
    gate = Gate(runtime)
    with running(runtime, on_data=gate.hook(colour)) as server, server.client().greeted() as client:
        client.send(DATA + b"hi\r\n.\r\n")
        assert gate.entered.wait(DEADLINE)
        closing = begin_close(server)
        gate.released.set()
        assert client.replies()[-2:] == ["250 2.6.0 OK: message queued", DOWN]
        client.close()
        closing.result(DEADLINE)


# --- after close_timeout --------------------------------------------------------------------------------


def test_after_close_timeout_streams_raise_and_the_rest_are_told(runtime: Runtime, colour: str) -> None:
    reasons: list[str] = []

    def read(stream: Any, _session: object) -> Hook:
        try:
            yield stream.read()
        except StreamAborted as aborted:
            reasons.append(aborted.reason)
        return KEPT

    def read_plain(stream: Any, _session: object) -> str:
        try:
            stream.read()
        except StreamAborted as aborted:
            reasons.append(aborted.reason)
        return KEPT

    on_data = read if colour == "own" else read_plain
    with running(runtime, on_data=on_data, close_timeout=0.1) as server:
        with server.client().greeted() as sending, server.client().greeted() as waiting:
            sending.send(DATA + b"half a mess")
            wait_until(lambda: sending.reply().startswith("354 "))
            waiting.say("MAIL FROM:<a@x>")
            closing = begin_close(server)
            assert sending.replies() == [DOWN]
            assert waiting.replies() == [DOWN]
            sending.close()
            waiting.close()
            closing.result(DEADLINE)
    assert reasons == ["shutdown"]


@pytest.mark.parametrize("complete", [True, False])
def test_after_close_timeout_hooks_are_given_up(runtime: Runtime, colour: str, complete: bool) -> None:
    gate, ended = Gate(runtime), list[str]()

    def on_data(stream: Any, _session: object) -> Hook:
        if complete:
            yield stream.read()
        try:
            yield from gate.own()
        except BaseException:
            ended.append("cancelled")
            raise
        try:
            yield stream.read()
        except StreamAborted as aborted:
            ended.append(aborted.reason)
        return KEPT

    def on_data_plain(stream: Any, _session: object) -> str:
        if complete:
            stream.read()
        gate.plain()
        try:
            stream.read()
        except StreamAborted as aborted:
            ended.append(aborted.reason)
        return KEPT

    hook = on_data if colour == "own" else on_data_plain
    with running(runtime, on_data=hook, close_timeout=0.1) as server, server.client().greeted() as client:
        client.send(DATA + b"hi\r\n" + b".\r\n" * complete)
        assert gate.entered.wait(DEADLINE)
        closing = begin_close(server)
        said = client.replies()
        assert said[-1] == DOWN
        assert not any("2.6.0" in reply for reply in said)
        client.close()
        closing.result(DEADLINE)
        gate.released.set()
        wait_until(lambda: ended)
    assert ended == (["cancelled"] if colour == "own" and runtime.cancels else ["shutdown"])


def test_hooks_that_hang_and_those_behind_them_do_not_keep_the_server_open(
    runtime: Runtime, colour: str
) -> None:
    gate = Gate(runtime)
    hook = gate.hook(colour)
    with running(runtime, close_timeout=0.1, on_mail_from=hook, hook_threads=1) as server:
        clients = [server.client().greeted() for _ in range(3)]
        for client in clients:
            client.send(b"MAIL FROM:<a@x>\r\n")
        assert gate.entered.wait(DEADLINE)
        begun = time.monotonic()
        server.close()
        assert time.monotonic() - begun < 3
        for client in clients:
            assert client.replies() == [DOWN]
            client.close()
        gate.released.set()


# --- under load -----------------------------------------------------------------------------------------


class Load:
    """A client that sends messages until it is told to stop; which were answered with 250."""

    def __init__(self, client: Client, number: int) -> None:
        self.client = client
        self.number = number
        self.answered: list[bytes] = []
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        with self.client, contextlib.suppress(OSError, AssertionError):
            for count in range(100_000):
                message = b"%d from %d\r\n" % (count, self.number)
                self.client.send(DATA + message + b".\r\n")
                for expected in ("250 2.1.0", "250 2.1.5", "354 ", "250 2.6.0"):
                    if not self.client.reply().startswith(expected):
                        return
                self.answered.append(message)


@pytest.mark.parametrize("close_timeout", [5.0, 0.0])
def test_what_was_answered_with_250_was_stored_under_load(
    runtime: Runtime, colour: str, close_timeout: float
) -> None:
    stored: list[bytes] = []

    def on_data(stream: Any, _session: object) -> Hook:
        message = yield stream.read()
        yield runtime.pause(0)
        stored.append(message)

    def on_data_plain(stream: Any, _session: object) -> None:
        stored.append(stream.read())

    hook = on_data if colour == "own" else on_data_plain
    with running(runtime, on_data=hook, close_timeout=close_timeout) as server:
        clients = [Load(server.client().greeted(), number) for number in range(8)]
        for client in clients:
            client.thread.start()
        wait_until(lambda: len(stored) > 200)
        server.close()
        for client in clients:
            client.thread.join(DEADLINE)
            assert not client.thread.is_alive()
    answered = sorted(message for client in clients for message in client.answered)
    assert len(set(stored)) == len(stored)
    if close_timeout:
        assert answered == sorted(stored)
    else:  # one that was kept but not answered comes again; the other way round it would be lost
        assert set(answered) <= set(stored)


# --- who may call it, and how often -----------------------------------------------------------------------


def test_a_second_close_waits_for_the_first_and_the_event_comes_once(runtime: Runtime) -> None:
    heard: list[str] = []
    with running(runtime) as server, server.client().greeted() as client:
        server.server.on("close", lambda: heard.append("close"))
        client.say("MAIL FROM:<a@x>")
        first = begin_close(server)
        second = server.start(server.server.close)
        assert client.say("NOOP") == "250 2.0.0 OK"
        assert not first.done()
        assert not second.done()
        assert not heard
        client.send(b"QUIT\r\n")
        client.rest()
        first.result(DEADLINE)
        second.result(DEADLINE)
        server.close()
        assert heard == ["close"]


def test_who_waits_for_the_end_is_told(runtime: Runtime) -> None:
    with running(runtime) as server, server.client().greeted() as client:
        waiting = server.start(server.server.wait_closed)
        client.say("MAIL FROM:<a@x>")
        closing = begin_close(server)
        assert client.say("NOOP") == "250 2.0.0 OK"
        assert not waiting.done()
        client.send(b"QUIT\r\n")
        client.rest()
        waiting.result(DEADLINE)
        closing.result(DEADLINE)


def test_a_close_that_is_cancelled_goes_on(runtime: Runtime) -> None:
    if not runtime.coroutines:
        pytest.skip("a call from another thread cannot be cancelled")
    heard: list[str] = []
    with running(runtime, close_timeout=0.3) as server:
        server.server.on("close", lambda: heard.append("close"))
        with server.client().greeted() as client, server.client().greeted() as stays:
            client.say("MAIL FROM:<a@x>")
            stays.say("MAIL FROM:<a@x>")
            begin_close(server).cancel()
            assert client.say("RSET") == "250 2.0.0 Flushed"
            assert client.replies() == [DOWN]
            assert stays.replies() == [DOWN]
        wait_until(lambda: heard)
    assert heard == ["close"]


def test_another_thread_may_close_a_server_without_coroutines(runtime: Runtime) -> None:
    if runtime.coroutines:
        pytest.skip("close() has to be awaited in its loop")
    heard: list[str] = []
    with running(runtime) as server, server.client().greeted() as client:
        server.server.on("close", lambda: heard.append("close"))
        client.say("MAIL FROM:<a@x>")
        thread = threading.Thread(target=server.server.close)
        thread.start()
        wait_until(lambda: not server.server.addresses)
        assert client.say("RSET") == "250 2.0.0 Flushed"
        assert client.replies() == [DOWN]
        client.close()
        thread.join(DEADLINE)
        assert not thread.is_alive()
        assert heard == ["close"]


def test_a_hook_may_close_the_server(runtime: Runtime) -> None:
    ended: list[str] = []
    heard: list[str] = []
    with running(runtime, close_timeout=0.1) as server, server.client().greeted() as client:

        def on_mail_from(*_: object) -> Hook:
            try:
                yield server.server.close()
            except BaseException:
                ended.append("cancelled")
                raise
            ended.append("left alone")

        server.server.on_mail_from = runtime.coloured(on_mail_from)
        server.server.on("close", lambda: heard.append("close"))
        client.send(b"MAIL FROM:<a@x>\r\n")
        assert client.replies() == [DOWN]
        client.close()
        wait_until(lambda: heard)
        wait_until(lambda: ended)
        assert ended == (["cancelled"] if runtime.cancels else ["left alone"])
        server.close()
        assert heard == ["close"]


def test_listening_after_close_is_as_on_a_new_server(runtime: Runtime) -> None:
    heard: list[str] = []
    with running(runtime) as server:
        server.server.on("close", lambda: heard.append("close"))
        for times in (1, 2, 3):
            with server.client().greeted() as client:
                assert client.say("MAIL FROM:<a@x>") == "250 2.1.0 Accepted"
                assert len(server.server.sessions) == 1
                client.send(b"QUIT\r\n")
                client.rest()
            server.close()
            assert len(heard) == times
            server.call(lambda: server.server.listen(0, "127.0.0.1"))


def test_listening_while_closing_waits_for_the_end(runtime: Runtime) -> None:
    with running(runtime) as server, server.client().greeted() as client:
        client.say("MAIL FROM:<a@x>")
        closing = begin_close(server)
        again = server.start(lambda: server.server.listen(0, "127.0.0.1"))
        assert client.say("NOOP") == "250 2.0.0 OK"
        assert not server.server.addresses
        assert client.say("RSET") == "250 2.0.0 Flushed"
        assert client.replies() == [DOWN]
        client.close()
        closing.result(DEADLINE)
        again.result(DEADLINE)
        with server.client().greeted() as other:
            assert other.say("NOOP") == "250 2.0.0 OK"
