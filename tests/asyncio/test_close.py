# close(): nobody new, nothing lost that was answered with 250, and an end that is certain.

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import smtpproto_asyncio._server as adapter
import smtpproto_server._loop as loop
from running import DATA, DEADLINE, RUNTIMES, Client, Running, running, wait_until
from smtpproto_server import StreamAborted

if TYPE_CHECKING:
    from collections.abc import Callable

runtimes = pytest.mark.parametrize("runtime", RUNTIMES)
DOWN = "421 4.3.2 Server shutting down"
UNCODED_DOWN = "421 Server shutting down"
ACCEPTED = "250 2.1.0 Accepted"


class Closing:
    """close() under way in the server's loop."""

    def __init__(self, server: Running) -> None:
        self.future = asyncio.run_coroutine_threadsafe(server.server.close(), server.loop)

    def wait(self) -> None:
        self.future.result(DEADLINE)


@runtimes
def test_nobody_new_is_let_in(runtime: str) -> None:
    with running(runtime) as server:
        port = server.port
        server.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), DEADLINE)


@runtimes
def test_sessions_without_a_transaction_are_ended_at_once(runtime: str) -> None:
    with running(runtime) as server, server.client() as new, server.client().greeted() as idle:
        assert new.reply() == "220 mx.test ESMTP"
        half = server.client().greeted()
        half.send(b"MAIL FRO")
        closing = Closing(server)
        for client in (new, idle, half):
            assert client.replies() == [DOWN]
            client.close()
        closing.wait()


@runtimes
def test_a_transaction_goes_on_to_the_reply_of_its_data(runtime: str) -> None:
    with running(runtime) as server, server.client().greeted() as client, server.client().greeted() as other:
        client.say("MAIL FROM:<a@x>")
        other.say("MAIL FROM:<a@x>")
        closing = Closing(server)
        assert client.say("RCPT TO:<b@y>") == "250 2.1.5 Accepted"
        assert client.say("RSET x").startswith("501 ")
        assert client.say("NOOP") == "250 2.0.0 OK"
        assert client.say("DATA").startswith("354 ")
        client.send(b"hi\r\n.\r\n")
        assert client.replies() == ["250 2.6.0 OK: message queued", DOWN]
        assert not closing.future.done()
        other.send(b"RSET\r\n")
        assert other.replies() == ["250 2.0.0 Flushed", DOWN]
        client.close()
        other.close()
        closing.wait()


@runtimes
@pytest.mark.parametrize("first", [b"", b"PROXY TCP4 1.2.3.4"])
def test_connections_in_the_proxy_header_are_closed_without_a_reply(runtime: str, first: bytes) -> None:
    with running(runtime, use_proxy=True) as server, server.client() as client:
        client.send(first)
        wait_until(lambda: server.server.connections)
        closing = Closing(server)
        assert client.rest() == b""
        closing.wait()


@runtimes
@pytest.mark.parametrize("secure", [True, False])
def test_connections_in_a_handshake_are_closed_without_a_reply(runtime: str, secure: bool) -> None:
    with running(runtime, secure=secure) as server, server.client() as client:
        if not secure:
            assert client.greeted().say("STARTTLS").startswith("220 ")
        wait_until(lambda: server.server.connections)
        closing = Closing(server)
        assert client.rest() == b""
        closing.wait()
        assert not server.errors


@runtimes
@pytest.mark.parametrize("coloured", [True, False])
def test_connections_in_the_lookup_are_told_without_a_code(runtime: str, coloured: bool) -> None:
    asked, release = threading.Event(), threading.Event()

    class Slow:
        async def reverse(self, _ip: str, /) -> list[str]:
            asked.set()
            await asyncio.Event().wait()
            return []

    class Blocking:
        def reverse(self, _ip: str, /) -> list[str]:
            asked.set()
            release.wait(DEADLINE)
            return []

    resolver = Slow() if coloured else Blocking()
    options: dict[str, Any] = {"disable_reverse_lookup": False, "reverse_lookup_timeout": None}
    try:
        with running(runtime, resolver=resolver, **options) as server, server.client() as client:
            assert asked.wait(DEADLINE)
            closing = Closing(server)
            assert client.replies() == [UNCODED_DOWN]
            client.close()
            closing.wait()
            release.set()
    finally:
        release.set()


@runtimes
def test_a_session_in_the_delay_is_told_without_a_code(runtime: str) -> None:
    with running(runtime, early_talker_delay=60) as server, server.client() as client:
        wait_until(lambda: server.server.connections)
        closing = Closing(server)
        assert client.replies() == [UNCODED_DOWN]
        client.close()
        closing.wait()


class Gate:
    """A hook that waits for the test, in either colour."""

    def __init__(self, result: object = None) -> None:
        self.result = result
        self.entered, self.released = threading.Event(), threading.Event()

    async def coroutine(self, *_: object) -> object:
        self.entered.set()
        await asyncio.get_running_loop().run_in_executor(None, self.released.wait, DEADLINE)
        return self.result

    def plain(self, *_: object) -> object:
        self.entered.set()
        self.released.wait(DEADLINE)
        return self.result

    def hook(self, colour: str) -> Callable[..., Any]:
        hook: Callable[..., Any] = getattr(self, colour)
        return hook


@runtimes
@pytest.mark.parametrize("colour", ["coroutine", "plain"])
@pytest.mark.parametrize(
    ("place", "said", "expected"),
    [
        ("on_connect", b"", [UNCODED_DOWN]),
        ("on_vrfy", b"VRFY x\r\n", ["252 2.1.5 Try to send something. No promises though", DOWN]),
        ("on_auth", b"AUTH PLAIN AHUAcA==\r\n", ["235 2.7.0 Authentication successful", DOWN]),
    ],
)
def test_a_hook_that_runs_may_end(
    runtime: str, colour: str, place: str, said: bytes, expected: list[str]
) -> None:
    gate = Gate(True if place == "on_auth" else None)
    hooks = {place: gate.hook(colour)}
    handler = type("Handler", (), {})()
    for name, hook in hooks.items():
        setattr(handler, name, hook)
    with running(runtime, handler=handler, allow_insecure_auth=True) as server, server.client() as client:
        if said:
            client.greeted().send(said)
        assert gate.entered.wait(DEADLINE)
        closing = Closing(server)
        wait_until(lambda: not server.server.addresses())
        gate.released.set()
        assert client.replies() == expected
        client.close()
        closing.wait()


@runtimes
@pytest.mark.parametrize("colour", ["coroutine", "plain"])
def test_after_close_timeout_streams_raise_and_the_rest_are_told(runtime: str, colour: str) -> None:
    reasons: list[str] = []

    async def read(stream: Any, _session: object) -> str:
        try:
            await stream.read()
        except StreamAborted as aborted:
            reasons.append(aborted.reason)
        return "kept all the same"

    def read_plain(stream: Any, _session: object) -> str:
        try:
            stream.read()
        except StreamAborted as aborted:
            reasons.append(aborted.reason)
        return "kept all the same"

    on_data = read if colour == "coroutine" else read_plain
    with running(runtime, on_data=on_data, close_timeout=0.1) as server:
        with server.client().greeted() as sending, server.client().greeted() as waiting:
            sending.send(DATA + b"half a mess")
            wait_until(lambda: sending.reply().startswith("354 "))
            waiting.say("MAIL FROM:<a@x>")
            closing = Closing(server)
            assert sending.replies() == [DOWN]
            assert waiting.replies() == [DOWN]
            sending.close()
            waiting.close()
            closing.wait()
    assert reasons == ["shutdown"]


@runtimes
@pytest.mark.parametrize("colour", ["coroutine", "plain"])
@pytest.mark.parametrize("complete", [True, False])
def test_after_close_timeout_hooks_are_given_up(runtime: str, colour: str, complete: bool) -> None:
    gate, ended = Gate("kept all the same"), list[str]()

    async def on_data(stream: Any, session: object) -> object:
        if complete:
            await stream.read()
        try:
            return await gate.coroutine(stream, session)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    def on_data_plain(stream: Any, session: object) -> object:
        if complete:
            stream.read()
        gate.plain(stream, session)
        try:
            stream.read()
        except StreamAborted as aborted:
            ended.append(aborted.reason)
        return "kept all the same"

    hook = on_data if colour == "coroutine" else on_data_plain
    with running(runtime, on_data=hook, close_timeout=0.1) as server, server.client().greeted() as client:
        client.send(DATA + b"hi\r\n" + b".\r\n" * complete)
        assert gate.entered.wait(DEADLINE)
        closing = Closing(server)
        said = client.replies()
        assert said[-1] == DOWN
        assert not any("2.6.0" in reply for reply in said)
        client.close()
        closing.wait()
        gate.released.set()
        wait_until(lambda: ended)
    assert ended == (["cancelled"] if colour == "coroutine" else ["shutdown"])


@runtimes
def test_what_was_answered_with_250_was_stored_under_load(runtime: str) -> None:
    stored: list[bytes] = []
    answered: list[int] = []
    begun = threading.Barrier(9)

    async def on_data(stream: Any, _session: object) -> None:
        message = await stream.read()
        await asyncio.sleep(0)
        stored.append(message)

    def load(client: Client, number: int) -> None:
        seen = 0
        begun.wait(DEADLINE)
        while True:
            try:
                client.send(DATA + b"from %d\r\n.\r\n" % number)
                replies = [client.reply() for _ in range(4)]
            except (OSError, AssertionError):
                replies = []
            if len(replies) < 4 or not replies[3].startswith("250 2.6.0"):
                break
            seen += 1
        answered.append(seen)
        client.close()

    with running(runtime, on_data=on_data, close_timeout=5.0) as server:
        clients = [server.client().greeted() for _ in range(8)]
        threads = [threading.Thread(target=load, args=(client, i)) for i, client in enumerate(clients)]
        for thread in threads:
            thread.start()
        begun.wait(DEADLINE)
        wait_until(lambda: len(stored) > 200)
        server.close()
        for thread in threads:
            thread.join(DEADLINE)
    assert sum(answered) == len(stored)


@runtimes
def test_a_second_close_waits_for_the_first_and_the_event_comes_once(runtime: str) -> None:
    heard: list[str] = []
    with running(runtime) as server, server.client().greeted() as client:
        server.server.on("close", lambda: heard.append("close"))
        client.say("MAIL FROM:<a@x>")
        first = Closing(server)
        wait_until(lambda: not server.server.addresses())
        second = Closing(server)
        assert client.say("NOOP") == "250 2.0.0 OK"
        assert not first.future.done()
        assert not second.future.done()
        assert not heard
        client.send(b"QUIT\r\n")
        client.rest()
        first.wait()
        second.wait()
        server.close()
        assert heard == ["close"]


@runtimes
def test_a_close_that_is_cancelled_goes_on(runtime: str) -> None:
    with running(runtime) as server, server.client().greeted() as client:
        client.say("MAIL FROM:<a@x>")
        closing = Closing(server)
        wait_until(lambda: not server.server.addresses())
        closing.future.cancel()
        assert client.say("RSET") == "250 2.0.0 Flushed"
        assert client.replies() == [DOWN]


@runtimes
def test_a_hook_may_close_the_server(runtime: str) -> None:
    ended: list[str] = []
    with running(runtime, close_timeout=0.1) as server, server.client().greeted() as client:

        async def on_mail_from(*_: object) -> None:
            try:
                await server.server.close()
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise

        server.server.on_mail_from = on_mail_from
        client.send(b"MAIL FROM:<a@x>\r\n")
        assert client.replies() == [DOWN]
    assert ended == ["cancelled"]


# --- the end is certain -----------------------------------------------------------------------------


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter times than the real ones, for tests that need the last of them."""
    monkeypatch.setattr(adapter, "GRACE", 0.6)
    monkeypatch.setattr(adapter, "LAST_GRACE", 0.1)
    monkeypatch.setattr(loop, "LAST_WORDS", 0.4)


def stuffed(server: Running) -> Client:
    """A client that reads nothing and has asked for more than the sockets hold."""
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    narrow.bind(("127.0.0.1", 0))
    port = narrow.getsockname()[1]
    server.call(lambda: server.server.listen(sock=narrow))
    client = Client.__new__(Client)
    client.buffer = b""
    client.sock = socket.socket()
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.sock.settimeout(DEADLINE)
    client.sock.connect(("127.0.0.1", port))
    client.reply()
    client.send(b"EHLO a\r\n" * 1000)
    wait_until(lambda: any(peer._paused for peer in server.server.peers))
    return client


@runtimes
@pytest.mark.usefixtures("hurried")
def test_a_peer_that_never_reads_does_not_keep_the_server_open(runtime: str) -> None:
    closed: list[object] = []
    with running(runtime, close_timeout=0.1, on_close=closed.append) as server:
        client = stuffed(server)
        begun = time.monotonic()
        server.close()
        assert time.monotonic() - begun < 3
        client.close()
    assert len(closed) == 1


def test_the_real_times_end_within_six_seconds_of_close_timeout() -> None:
    with running(close_timeout=0.2) as server:
        client = stuffed(server)
        begun = time.monotonic()
        server.close()
        assert time.monotonic() - begun < 0.2 + 6
        client.close()


@runtimes
@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("place", ["on_mail_from", "on_data", "on_data that reads", "on_close"])
def test_a_hook_that_will_not_be_cancelled_does_not_keep_the_server_open(runtime: str, place: str) -> None:
    release, cancels = threading.Event(), list[int]()

    async def stubborn(*args: Any) -> str:
        while not release.is_set():
            try:
                if "reads" in place:
                    await args[0].read()
                await asyncio.sleep(0.01)
            except StreamAborted:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                cancels.append(1)
        return "kept all the same"

    hooks: dict[str, Any] = {place.split(maxsplit=1)[0]: stubborn}
    with running(runtime, close_timeout=0.1, **hooks) as server:
        client = server.client().greeted()
        client.send(b"QUIT\r\n" if place == "on_close" else DATA + b"x")
        wait_until(
            lambda: asyncio.run_coroutine_threadsafe(asyncio.sleep(0), server.loop).result(DEADLINE) is None
        )
        if place == "on_close":
            assert client.reply() == "221 2.0.0 Bye"
        begun = time.monotonic()
        server.close()
        assert time.monotonic() - begun < 3
        assert not server.server.connections
        assert not server.server.peers
        assert server.server._clients == 0
        assert place == "on_close" or not any("2.6.0" in reply for reply in client.replies())
        server.call(lambda: server.server.listen(0, "127.0.0.1"))  # as on a new server
        with server.client().greeted() as other:
            assert other.say("NOOP") == "250 2.0.0 OK"
        release.set()
        client.close()
        wait_until(lambda: not [task for task in asyncio.all_tasks(server.loop) if "_serve" in repr(task)])
        assert server.server._clients == 0


@runtimes
@pytest.mark.usefixtures("hurried")
def test_plain_hooks_that_hang_do_not_keep_the_server_open(runtime: str) -> None:
    gate = Gate()
    with running(runtime, close_timeout=0.1, on_mail_from=gate.plain, hook_threads=1) as server:
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


@runtimes
@pytest.mark.usefixtures("hurried")
def test_a_hook_that_takes_its_time_to_clean_up_and_a_peer_that_never_reads_end_too(runtime: str) -> None:
    seen: list[str] = []

    async def on_vrfy(*_: object) -> None:
        seen.append("called")
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.4)
            seen.append("cleaned up")

    async def on_close(_session: object) -> None:
        seen.append("closed")

    handler = type("Handler", (), {})()
    with running(runtime, handler=handler, close_timeout=0.1, on_close=on_close) as server:
        client = stuffed(server)
        with server.client().greeted():
            pass
        server.server.on_vrfy = on_vrfy
        with server.client() as slow:
            slow.greeted().send(b"VRFY x\r\n")
            wait_until(lambda: "called" in seen)
            server.close()
            assert slow.rest() in (b"", DOWN.encode() + b"\r\n")
        client.close()
    assert seen.count("closed") == 3
    assert "cleaned up" in seen
