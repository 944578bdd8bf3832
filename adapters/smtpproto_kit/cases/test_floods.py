# More than a server can bear: floods of connections and commands, no descriptors. Whatever happens
# to one, the others are served, and afterwards nothing is left.

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import socket
import struct
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from smtpproto_kit import DATA, DEADLINE, Client, Running, Runtime, running, wait_until

if TYPE_CHECKING:
    from collections.abc import Generator

    Hook = Generator[Any, Any, Any]

EHLO: Final = b"EHLO client.test\r\n"
RESET: Final = struct.pack("ii", 1, 0)
TOLD: Final = b"421 mx.test Too many connected clients, try again in a moment\r\n"
SPARE: Final = 200  # descriptors of everything else in the process


@contextlib.contextmanager
def open_files(soft: int) -> Generator[None]:
    """So many descriptors for this process at the most."""
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))


def descriptors() -> int:
    return sum(1 for _ in Path("/dev/fd").iterdir())


def first_words(server: Running, number: int) -> dict[socket.socket, bytes]:
    """Connect so many clients at once; the first that each is told."""
    said: dict[socket.socket, bytes] = {}
    address = ("127.0.0.1", server.port)
    with selectors.DefaultSelector() as selector:
        for _ in range(number):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(address)
            selector.register(sock, selectors.EVENT_READ, sock)
        while len(said) < number:
            found = selector.select(DEADLINE)
            assert found, f"{len(said)} of {number} heard something"
            for key, _ in found:
                sock = key.data
                said[sock] = sock.recv(4096)
                selector.unregister(sock)
    return said


def test_of_1000_connections_at_once_500_are_greeted_and_500_told_421(runtime: Runtime) -> None:
    wanted = 2 * 1000 + SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"it needs {wanted} descriptors, and may have {hard}")
    with open_files(max(soft, wanted)), running(runtime, listen=False, max_clients=500) as server:
        server.call(lambda: server.server.listen(0, "127.0.0.1", backlog=1024))
        said = first_words(server, 1000)
        words = list(said.values())
        assert words.count(b"220 mx.test ESMTP\r\n") == 500
        assert words.count(TOLD) == 500
        for sock, word in said.items():
            sock.settimeout(DEADLINE)
            if word == TOLD:
                sock.close()
            else:
                sock.sendall(b"QUIT\r\n")
        for sock, word in said.items():
            if word != TOLD:
                assert sock.recv(100) == b"221 2.0.0 Bye\r\n"
                sock.close()
        wait_until(lambda: not server.server.peers)
        with server.client().greeted() as client:  # all were counted out
            assert client.say("NOOP") == "250 2.0.0 OK"
        assert not server.errors


def test_a_flood_of_commands_does_not_hold_up_the_others(runtime: Runtime) -> None:
    with (
        running(runtime) as server,
        server.client().greeted() as flooding,
        server.client().greeted() as other,
    ):
        reader = threading.Thread(target=flooding.rest)
        reader.start()
        flooding.send(EHLO * 8_000)
        for _ in range(50):
            assert other.say("NOOP") == "250 2.0.0 OK"
        flooding.end()
        reader.join(DEADLINE)
        assert not reader.is_alive()


# --- no descriptors ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def no_descriptors() -> Generator[None]:
    """No file can be opened, and no connection accepted (EMFILE)."""
    lowest = os.dup(0)
    os.close(lowest)
    with open_files(lowest):
        with pytest.raises(OSError, match="Too many open files"):
            os.dup(0)
        yield


def test_without_descriptors_connections_wait_and_sessions_go_on(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smtpproto_server._listener.SHORTAGE", 0.1)
    kept: list[bytes] = []

    def on_data(stream: Any, _session: object) -> Hook:
        kept.append((yield stream.read()))

    with running(runtime, on_data=on_data) as server, server.client().greeted() as client:
        late = Client.__new__(Client)
        late.buffer, late.sock = b"", socket.socket()
        late.sock.settimeout(DEADLINE)
        with no_descriptors():
            late.sock.connect(("127.0.0.1", server.port))
            wait_until(lambda: len(server.errors) >= 2)  # it is tried again, and not all the time
            client.send(DATA + b"hi\r\n.\r\n")
            assert [client.reply()[:3] for _ in range(4)] == ["250", "250", "354", "250"]
            assert kept == [b"hi\r\n"]
        assert len(server.errors) < 20
        for error, info in server.errors:
            assert isinstance(error, OSError)
            assert info == {"stage": "accept", "session": None, "remote_address": ""}
        with late.greeted():
            assert late.say("NOOP") == "250 2.0.0 OK"


def test_without_descriptors_a_server_can_be_closed(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smtpproto_server._listener.SHORTAGE", 3600.0)
    with running(runtime) as server, socket.socket() as late:
        late.settimeout(DEADLINE)
        with no_descriptors():
            late.connect(("127.0.0.1", server.port))
            wait_until(lambda: server.errors)
            server.close()
        with contextlib.suppress(ConnectionResetError):
            assert late.recv(100) == b""


def test_who_hears_of_the_shortage_may_close_a_server_without_coroutines(runtime: Runtime) -> None:
    if runtime.coroutines:
        pytest.skip("a listener cannot await")
    heard: list[str] = []

    def close(*_: object) -> None:
        server.server.close()

    with running(runtime, close_timeout=0.1) as server, socket.socket() as late:
        server.server.on("close", lambda: heard.append("close"))
        server.server.once("error", close)
        with no_descriptors():
            late.connect(("127.0.0.1", server.port))
            wait_until(lambda: heard)
        assert not server.server.addresses


# --- what is left -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("secure", [True, False])
def test_connections_that_come_and_go_leave_nothing_behind(runtime: Runtime, secure: bool) -> None:
    with running(runtime, secure=secure, max_clients=70) as server:
        with server.client(tls=secure).greeted() as client:
            client.send(DATA + b".\r\nQUIT\r\n")
            client.rest()
        wait_until(lambda: not server.server.peers)
        before = descriptors()
        for i in range(60):
            client = server.client(tls=secure and i % 3 == 0)
            if i % 3 == 0:
                client.send(b"" if i % 2 else EHLO)
            if i % 2:
                client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.close()
        # Accepted in their turn: when this one is greeted, none is left in the backlog.
        with server.client(tls=secure).greeted() as last:
            last.say("QUIT")
            last.rest()
        wait_until(lambda: not server.server.peers)
        wait_until(lambda: descriptors() <= before)
        assert not server.server.sessions
        with contextlib.ExitStack() as stack:  # the count for max_clients is right again
            for _ in range(70):
                client = stack.enter_context(server.client(tls=secure))
                assert client.reply() == "220 mx.test ESMTP"
            with server.client(tls=secure) as one_too_many:
                assert one_too_many.replies() == [TOLD.decode().strip()]


def test_a_server_leaves_no_descriptor_behind(runtime: Runtime) -> None:
    def once() -> None:
        with running(runtime) as server, server.client().greeted() as client:
            client.say("QUIT")
            client.rest()

    once()
    before = descriptors()
    for _ in range(5):
        once()
    assert descriptors() <= before
