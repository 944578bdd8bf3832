# Time limits over real sockets, each so small that it is the one that acts.

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import Any

import pytest

import smtpproto_server._loop as loop
from running import DATA, DEADLINE, RUNTIMES, Client, Running, running, wait_until
from smtpproto_server import StreamAborted

runtimes = pytest.mark.parametrize("runtime", RUNTIMES)
TIMEOUT = "421 4.4.2 Timeout - closing connection"
UNCODED_TIMEOUT = "421 Timeout - closing connection"
SHORT = 0.2  # seconds
TOLERANCE = 2.0  # seconds by which a busy machine may be late


class Watch:
    """How long a block took: as long as a limit, and not much longer."""

    def __enter__(self) -> None:
        self.begun = time.monotonic()

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            assert SHORT * 0.9 < time.monotonic() - self.begun < SHORT + TOLERANCE


@runtimes
@pytest.mark.parametrize("limit", ["socket_timeout", "session_timeout"])
@pytest.mark.parametrize(
    ("said", "replies"), [(b"", 0), (b"EHLO a\r\n", 1), (b"EHLO a\r\nMAIL FROM:<a@x>\r\n", 2), (b"EHL", 0)]
)
def test_a_silent_client_is_told_and_left(runtime: str, limit: str, said: bytes, replies: int) -> None:
    limits: dict[str, Any] = {limit: SHORT}
    with running(runtime, **limits) as server, Watch(), server.client() as client:
        assert client.reply() == "220 mx.test ESMTP"
        client.send(said)
        assert client.replies()[replies:] == [TIMEOUT]


@runtimes
def test_every_octet_restarts_the_socket_timeout_but_not_that_of_the_command(runtime: str) -> None:
    with (
        running(runtime, socket_timeout=SHORT, command_timeout=4 * SHORT) as server,
        server.client() as client,
    ):
        client.greeted()
        begun = time.monotonic()
        tick = threading.Event()
        while time.monotonic() < begun + 3 * SHORT:  # a client that types
            client.send(b"x")
            tick.wait(SHORT / 4)
        client.send(b"\r\n")
        assert client.reply().startswith("500 ")
        begun = time.monotonic()
        while not (client.buffer or received(client)):
            client.send(b"x")
            tick.wait(SHORT / 4)
        assert time.monotonic() - begun > 3 * SHORT
        assert client.reply() == TIMEOUT


def received(client: Client) -> bool:
    client.sock.settimeout(0)
    try:
        client.buffer += client.sock.recv(1000)
    except BlockingIOError:
        pass
    finally:
        client.sock.settimeout(DEADLINE)
    return bool(client.buffer)


@runtimes
def test_a_client_that_keeps_talking_is_ended_by_session_timeout(runtime: str) -> None:
    with running(runtime, session_timeout=SHORT) as server, server.client().greeted() as client, Watch():
        while (reply := client.say("NOOP")) == "250 2.0.0 OK":
            pass
        assert reply == TIMEOUT


@runtimes
def test_what_is_left_of_a_time_may_be_as_little_as_it_likes(runtime: str) -> None:
    with running(runtime, session_timeout=0.02) as server:
        for _ in range(20):
            with server.client().greeted() as client:
                while (reply := client.say("NOOP")) == "250 2.0.0 OK":
                    pass
                assert reply == TIMEOUT
        assert not server.errors


@runtimes
@pytest.mark.parametrize("coloured", [True, False])
def test_the_time_of_a_hook_may_be_as_little_as_it_likes(runtime: str, coloured: bool) -> None:
    async def read(stream: Any, _session: object) -> None:
        async for _ in stream:
            pass

    def read_plain(stream: Any, _session: object) -> None:
        for _ in stream:
            pass

    hook = read if coloured else read_plain
    with running(runtime, on_data=hook, hook_timeout=0.0002) as server, server.client().greeted() as client:
        for _ in range(20):
            client.send(DATA)
            assert [client.reply() for _ in range(3)][2].startswith("354 ")
            client.send(b"one\r\n")
            client.send(b"two\r\n.\r\n")
            assert client.reply()[:3] in ("250", "451")


@runtimes
@pytest.mark.parametrize("said", [b"", b"PROXY TCP4"])
def test_a_proxy_header_that_does_not_come_is_not_answered(runtime: str, said: bytes) -> None:
    with running(runtime, use_proxy=True, proxy_timeout=SHORT) as server, Watch(), server.client() as client:
        client.send(said)
        assert client.rest() == b""


@runtimes
@pytest.mark.parametrize("secure", [True, False])
@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01"])
def test_a_handshake_that_does_not_come_is_not_answered(runtime: str, secure: bool, said: bytes) -> None:
    with running(runtime, secure=secure, tls_handshake_timeout=SHORT) as server, server.client() as client:
        if not secure:
            client.greeted().say("STARTTLS")
        client.send(said)
        assert client.rest() == b""
        wait_until(lambda: server.errors)
        ((error, info),) = server.errors
        assert isinstance(error, TimeoutError)
        assert info["stage"] == "tls"


@runtimes
def test_a_delay_longer_than_greeting_timeout_ends_in_it(runtime: str) -> None:
    with running(runtime, early_talker_delay=60, greeting_timeout=SHORT) as server, Watch():
        with server.client() as client:
            assert client.replies() == [UNCODED_TIMEOUT]


class Hanging:
    async def reverse(self, _ip: str, /) -> list[str]:
        await asyncio.Event().wait()
        return []


class Blocking:
    def __init__(self) -> None:
        self.release = threading.Event()

    def reverse(self, _ip: str, /) -> list[str]:
        self.release.wait(DEADLINE)
        return []


@runtimes
@pytest.mark.parametrize("kind", [Hanging, Blocking])
@pytest.mark.parametrize(
    ("lookup", "greeting", "expected"),
    [(SHORT, 60, "220 mx.test ESMTP"), (60, SHORT, UNCODED_TIMEOUT), (None, SHORT, UNCODED_TIMEOUT)],
)
def test_a_resolver_that_hangs_is_waited_for_so_long(
    runtime: str, kind: type[Hanging | Blocking], lookup: float | None, greeting: float, expected: str
) -> None:
    resolver = kind()
    limits: dict[str, Any] = {"reverse_lookup_timeout": lookup, "greeting_timeout": greeting}
    with running(runtime, disable_reverse_lookup=False, resolver=resolver, **limits) as server:
        try:
            with Watch(), server.client() as client:
                assert client.reply() == expected
                if expected.startswith("220"):
                    (session,) = server.server.connections
                    assert session.client_hostname == "[127.0.0.1]"
        finally:
            if isinstance(resolver, Blocking):
                resolver.release.set()


class Kept:
    """on_data that reads to the end, and how that was."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    async def __call__(self, stream: Any, _session: object) -> None:
        try:
            await stream.read()
        except StreamAborted as aborted:
            self.reasons.append(aborted.reason)
            raise


@runtimes
@pytest.mark.parametrize("limit", ["socket_timeout", "data_timeout"])
def test_a_message_that_stops_is_given_up(runtime: str, limit: str) -> None:
    kept = Kept()
    limits: dict[str, Any] = {limit: SHORT}
    with running(runtime, on_data=kept, **limits) as server, server.client().greeted() as client:
        with Watch():
            client.send(DATA + b"hi\r\n")
            assert client.replies()[3:] == [TIMEOUT]
        wait_until(lambda: kept.reasons)
        assert kept.reasons == ["timeout"]
        assert not server.errors


@runtimes
def test_a_message_that_drips_is_given_up(runtime: str) -> None:
    kept, tick = Kept(), threading.Event()
    options: dict[str, Any] = {"socket_timeout": 2 * SHORT, "min_data_rate": 1000}
    with running(runtime, on_data=kept, **options) as server, server.client().greeted() as client:
        client.send(DATA)
        for _ in range(3):
            client.reply()
        with Watch():
            while not received(client):
                client.send(b"x")
                tick.wait(SHORT / 8)
        assert client.reply() == TIMEOUT
        wait_until(lambda: kept.reasons)
    assert kept.reasons == ["timeout"]


@runtimes
@pytest.mark.parametrize("coloured", [True, False])
def test_time_that_the_hook_takes_is_not_the_client_s(runtime: str, coloured: bool) -> None:
    tick = threading.Event()

    async def slow(stream: Any, _session: object) -> str:
        await asyncio.sleep(3 * SHORT)
        return str(len(await stream.read()))

    def slow_plain(stream: Any, _session: object) -> str:
        tick.wait(3 * SHORT)
        return str(len(stream.read()))

    limits = dict.fromkeys(("socket_timeout", "data_timeout", "session_timeout", "command_timeout"), SHORT)
    options: dict[str, Any] = {
        **limits,
        "min_data_rate": 1_000_000,
        "on_data": slow if coloured else slow_plain,
    }
    with running(runtime, **options) as server, server.client().greeted() as client:
        client.send(DATA + b"hi\r\n.\r\nQUIT\r\n")
        assert "250 2.6.0 4" in client.replies()


@runtimes
@pytest.mark.parametrize("coloured", [True, False])
def test_time_that_the_client_takes_is_not_the_hook_s(runtime: str, coloured: bool) -> None:
    tick = threading.Event()

    async def read(stream: Any, _session: object) -> str:
        return str(len(await stream.read()))

    def read_plain(stream: Any, _session: object) -> str:
        return str(len(stream.read()))

    hook = read if coloured else read_plain
    with running(runtime, on_data=hook, hook_timeout=SHORT) as server, server.client().greeted() as client:
        client.send(DATA)
        for _ in range(6):
            tick.wait(SHORT / 2)
            client.send(b"hi\r\n")
        client.send(b".\r\nQUIT\r\n")
        assert "250 2.6.0 24" in client.replies()
        assert not server.errors


@runtimes
def test_a_hook_that_has_read_everything_is_still_timed(runtime: str) -> None:
    async def read_and_hang(stream: Any, _session: object) -> None:
        await stream.read()
        await asyncio.Event().wait()

    with (
        running(runtime, on_data=read_and_hang, hook_timeout=SHORT) as server,
        server.client().greeted() as client,
    ):
        client.send(DATA + b"hi\r\n.\r\nQUIT\r\n")
        with Watch():
            assert client.replies()[3].startswith("451 4.3.0 ")


@runtimes
@pytest.mark.parametrize("after", [0, 50_000])
def test_replies_that_nobody_reads_run_into_socket_timeout(
    runtime: str, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LAST_WORDS", SHORT)
    with running(runtime, socket_timeout=SHORT) as server:
        client = deaf(server)
        client.sendall(b"EHLO a\r\n" * 500 + b"NOOP\r\n" * after)
        wait_until(lambda: any(peer._paused for peer in server.server.peers))
        wait_until(lambda: not server.server.connections)
        client.close()


def deaf(server: Running) -> socket.socket:
    """A client with small buffers on both sides, which reads its greeting and nothing more."""
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    narrow.bind(("127.0.0.1", 0))
    port = narrow.getsockname()[1]
    server.call(lambda: server.server.listen(sock=narrow))
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(DEADLINE)
    client.connect(("127.0.0.1", port))
    assert client.recv(100).startswith(b"220 ")
    return client
