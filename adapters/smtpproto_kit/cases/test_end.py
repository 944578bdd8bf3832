# The end that close() promises: whatever peers, hooks and listeners do, it comes, and in time.

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from smtpproto_kit import DATA, DEADLINE, Client, Running, Runtime, running, wait_until
from smtpproto_kit.cases._narrow import narrow
from smtpproto_server import StreamAborted

if TYPE_CHECKING:
    from collections.abc import Generator

    Hook = Generator[Any, Any, Any]

DOWN = "421 4.3.2 Server shutting down"
KEPT = "kept all the same"


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter times than the real ones, for cases that need the last of them."""
    monkeypatch.setattr("smtpproto_server._server.GRACE", 0.6)
    monkeypatch.setattr("smtpproto_server._server.LAST_GRACE", 0.1)
    monkeypatch.setattr("smtpproto_server._driver.LAST_WORDS", 0.4)


def close_in_time(server: Running) -> None:
    begun = time.monotonic()
    server.close()
    assert time.monotonic() - begun < 3


def stuffed(server: Running) -> Client:
    """A client that reads nothing and has asked for more than the sockets hold."""
    client = narrow(server)
    client.reply()
    client.fill(b"EHLO a\r\n", 0.2)
    return client


@pytest.mark.usefixtures("hurried")
def test_a_peer_that_never_reads_does_not_keep_the_server_open(runtime: Runtime) -> None:
    closed: list[object] = []

    def on_close(session: object) -> Hook:
        yield runtime.pause(0)
        closed.append(session)

    with running(runtime, close_timeout=0.1, on_close=on_close) as server:
        with stuffed(server):
            close_in_time(server)
    assert len(closed) == 1


@pytest.mark.usefixtures("hurried")
def test_a_peer_that_never_reads_what_a_hook_waits_behind_does_not_either(runtime: Runtime) -> None:
    def on_vrfy(*_: object) -> Hook:
        yield runtime.pause(3600)

    with running(runtime, close_timeout=0.1, on_vrfy=on_vrfy) as server, narrow(server) as client:
        client.reply()  # the greeting; all else stays unread
        client.fill(b"RSET\r\n" * 1000 + b"VRFY x\r\n", 0.2)
        close_in_time(server)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("place", ["on_mail_from", "on_data", "on_data that reads", "on_close"])
def test_a_hook_that_will_not_be_cancelled_does_not_keep_the_server_open(
    runtime: Runtime, place: str
) -> None:
    entered, release, ended = threading.Event(), threading.Event(), threading.Event()

    def stubborn(*args: Any) -> Hook:
        entered.set()
        end = time.monotonic() + DEADLINE
        while not release.is_set() and time.monotonic() < end:
            with contextlib.suppress(BaseException):
                if "reads" in place:
                    with contextlib.suppress(StreamAborted):
                        yield args[0].read()
                yield runtime.pause(0.01)
        ended.set()
        return KEPT

    hooks: dict[str, Any] = {place.split(maxsplit=1)[0]: stubborn}
    with running(runtime, close_timeout=0.1, max_clients=1, **hooks) as server:
        client = server.client().greeted()
        client.send(b"QUIT\r\n" if place == "on_close" else DATA + b"x")
        assert entered.wait(DEADLINE)
        if place == "on_close":
            assert client.reply() == "221 2.0.0 Bye"
        close_in_time(server)
        assert not server.server.sessions
        assert not server.server.peers
        assert place == "on_close" or not any("2.6.0" in reply for reply in client.replies())
        server.call(lambda: server.server.listen(0, "127.0.0.1"))  # as on a new server
        with server.client() as other:
            assert other.reply() == "220 mx.test ESMTP"
            release.set()
            assert ended.wait(DEADLINE)
            assert other.say("NOOP") == "250 2.0.0 OK"
            with server.client() as one_too_many:  # nobody was counted out twice
                assert one_too_many.reply().startswith("421 mx.test Too many")
        client.close()
        server.close()
        wait_until(lambda: not server.call(runtime.left_over))


@pytest.mark.usefixtures("hurried")
def test_a_hook_that_takes_its_time_to_clean_up_and_a_peer_that_never_reads_end_too(runtime: Runtime) -> None:
    seen: list[str] = []

    def on_vrfy(*_: object) -> Hook:
        seen.append("called")
        try:
            yield runtime.pause(3600)
        finally:
            try:
                yield runtime.pause(0.4)
            finally:
                seen.append("cleaned up")

    def on_close(_session: object) -> Hook:
        yield runtime.pause(0)
        seen.append("closed")

    with running(runtime, close_timeout=0.1, on_close=on_close) as server:
        with stuffed(server), server.client().greeted():
            server.server.on_vrfy = runtime.coloured(on_vrfy)
            with server.client() as slow:
                slow.greeted().send(b"VRFY x\r\n")
                wait_until(lambda: "called" in seen)
                close_in_time(server)
                assert slow.rest() in (b"", DOWN.encode() + b"\r\n")
    assert seen.count("closed") == 3
    assert "cleaned up" in seen


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("event", ["listening", "connect", "close"])
def test_a_listener_may_close_a_server_without_coroutines(runtime: Runtime, event: str) -> None:
    if runtime.coroutines:
        pytest.skip("a listener cannot await")
    heard: list[str] = []

    def close(*_: object) -> None:
        server.server.close()

    with running(runtime, close_timeout=0.1) as server:
        server.server.on("close", lambda: heard.append("close"))
        server.server.once(event, close)
        begun = time.monotonic()
        if event == "listening":
            server.call(lambda: server.server.listen(0, "127.0.0.1"))
        elif event == "connect":
            with server.client() as client:
                client.rest()
        else:
            server.close()
        wait_until(lambda: heard)
        assert time.monotonic() - begun < 3
        assert not server.server.addresses
    assert heard == ["close"]
