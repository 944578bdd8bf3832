# The server in memory: what hooks and clients of a real one can rely on holds here as well.

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from smtpproto import Reject, Session
from smtpproto.testing import Client, MemoryConnection, MemoryServer
from smtpproto.testing._loop import raise_in_thread
from smtpproto_server import AsyncStream, Options, Stream, StreamAborted

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

ENVELOPE = b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\nDATA\r\n"
GO_ON = b"354 End data with <CR><LF>.<CR><LF>\r\n"


def server(**options: Any) -> MemoryServer:
    return MemoryServer(**{"name": "mx.test", "auth_optional": True, **options})


def in_data(server: MemoryServer) -> MemoryConnection:
    """A connection that has been told 354."""
    connection = server.connect()
    connection.receive(b"EHLO c.test\r\n")
    assert connection.receive(ENVELOPE).endswith(GO_ON)
    return connection


def read_coroutine(chunks: list[bytes]) -> Callable[..., Any]:
    async def on_data(stream: AsyncStream, _session: Session) -> None:
        async for chunk in stream:
            chunks.append(chunk)  # noqa: PERF401 - each is looked at before the next comes

    return on_data


def read_plain(chunks: list[bytes]) -> Callable[..., Any]:
    def on_data(stream: Stream, _session: Session) -> None:
        chunks.extend(stream)

    return on_data


@pytest.mark.parametrize("reading", [read_coroutine, read_plain])
def test_a_hook_reads_the_message_as_it_comes(reading: Callable[[list[bytes]], Any]) -> None:
    chunks: list[bytes] = []
    with server(on_data=reading(chunks)) as mx:
        connection = in_data(mx)
        assert connection.receive(b"one\r\nt") == b""
        assert chunks == [b"one\r\nt"]
        assert connection.receive(b"wo\r\n.\r\nQUIT\r\n") == b"250 OK: message queued\r\n221 Bye\r\n"
        assert chunks == [b"one\r\nt", b"wo\r\n"]
        assert connection.closed
        assert connection.receive(b"NOOP\r\n") == connection.end() == b""


def test_nothing_is_handed_to_a_hook_before_it_asks() -> None:
    seen: list[int] = []

    async def on_data(stream: AsyncStream, _session: Session) -> None:
        seen.append(stream.byte_length)
        while await stream.read(70_000):
            seen.append(stream.byte_length)

    with server(on_data=on_data) as mx:
        assert in_data(mx).receive(b"x" * 998 + b"\r\n" + b"y\r\n" * 70_000 + b".\r\n").startswith(b"250 ")
    assert seen[0] == 0
    assert len(seen) > 3
    assert seen == sorted(seen)


def test_a_client_of_the_kit_speaks_to_it() -> None:
    with server() as mx:
        client = Client(mx.connect())
        assert client.greeting == "220 mx.test ESMTP"
        client.say("EHLO c.test")
        assert client.send_message(b"hello\r\n")[-1] == "250 OK: message queued"
        assert client.say("QUIT") == ["221 Bye"]
        assert client.closed


def test_what_works_on_asyncio_works_here() -> None:
    async def on_rcpt_to(_address: object, _session: Session) -> None:
        async with asyncio.timeout(5):
            await asyncio.sleep(0.001)
            assert await asyncio.to_thread(threading.get_ident) != threading.get_ident()
        async with asyncio.Lock():
            raise Reject(451)

    with server(on_rcpt_to=on_rcpt_to) as mx:
        connection = mx.connect()
        assert b"451 " in connection.receive(b"EHLO c.test\r\nMAIL FROM:<>\r\nRCPT TO:<b@y.test>\r\n")


def test_plain_hooks_run_in_threads_or_where_the_options_say() -> None:
    colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour")
    ran: list[int] = []

    def on_mail_from(*_: object) -> None:
        ran.append(threading.get_ident())
        assert colour.get("none") == "none"

    for sync_hooks in ("thread", "inline"):
        with server(on_mail_from=on_mail_from, sync_hooks=sync_hooks) as mx:
            assert b"250 Accepted" in mx.connect().receive(b"EHLO c.test\r\nMAIL FROM:<>\r\n")
    assert [ident == threading.get_ident() for ident in ran] == [False, True]


def test_what_a_plain_hook_raises_is_answered_even_if_it_ends_iterations() -> None:
    def on_rcpt_to(*_: object) -> None:
        next(iter(()))

    errors: list[BaseException] = []

    def note(error: BaseException, _info: object) -> None:
        errors.append(error)

    with server(on_rcpt_to=on_rcpt_to) as mx:
        mx.on("error", note)
        assert b"451 " in mx.connect().receive(b"EHLO c.test\r\nMAIL FROM:<>\r\nRCPT TO:<b@y.test>\r\n")
    assert len(errors) == 1


@pytest.mark.parametrize("reading", [read_coroutine, read_plain])
def test_a_lost_connection_and_an_early_end_break_a_message_off(
    reading: Callable[[list[bytes]], Any],
) -> None:
    ended: list[str] = []

    def on_close(session: Session) -> None:
        ended.append(session.id)

    for leave in (MemoryConnection.lose, MemoryConnection.end):
        chunks: list[bytes] = []
        with server(on_data=reading(chunks), on_close=on_close) as mx:
            connection = in_data(mx)
            connection.receive(b"half of it\r\n")
            leave(connection)
            assert connection.closed
        assert chunks == [b"half of it\r\n"]
    assert len(set(ended)) == 2


def test_time_passes_when_a_client_waits_and_takes_none() -> None:
    aborted: list[str] = []

    async def on_data(stream: AsyncStream, _session: Session) -> None:
        try:
            await stream.read()
        except StreamAborted as error:
            aborted.append(error.reason)
            raise

    began = time.monotonic()
    with server(on_data=on_data, min_data_rate=None) as mx:
        connection = in_data(mx)
        assert connection.wait(59) == b""
        assert not connection.closed
        assert connection.wait(1).startswith(b"421 ")
        assert connection.closed
        assert aborted == ["timeout"]
        assert mx.now == 60
        assert connection.wait(1) == b""
    assert time.monotonic() - began < 30


def test_the_greeting_is_heard_in_the_first_answer_whatever_that_answers() -> None:
    greeting = b"220 mx.test ESMTP\r\n"
    with server() as mx:
        assert mx.connect().receive(b"") == greeting
        assert mx.connect().receive(b"NOOP\r\n") == greeting + b"250 OK\r\n"
        assert mx.connect().wait(0) == greeting
        assert mx.connect().end() == greeting


def test_starttls_is_agreed_upon_and_its_facts_are_a_real_handshakes() -> None:
    seen: list[tuple[bool, str | None, bool]] = []

    def on_secure(ssl_object: ssl.SSLObject, session: Session) -> None:
        seen.append((session.secure, ssl_object.version(), ssl_object.getpeercert() is None))

    with server(on_secure=on_secure) as mx:
        connection = mx.connect()
        answer = connection.receive(b"EHLO c.test\r\nSTARTTLS\r\n")
        assert answer.endswith(b"220 Ready to start TLS\r\n")
        assert b"STARTTLS" not in connection.receive(b"EHLO c.test\r\n")
        assert connection.receive(b"QUIT\r\n") == b"221 Bye\r\n"
    assert seen == [(True, "TLSv1.3", True)]


def test_an_end_within_tls_is_an_end() -> None:
    with server(secure=True) as mx:
        connection = mx.connect()
        assert connection.receive(b"") == b"220 mx.test ESMTP\r\n"
        connection.end()
        assert connection.closed


def test_names_are_looked_up_by_the_resolver_of_the_options_only() -> None:
    class Resolver:
        async def reverse(self, _ip: str) -> list[str]:
            return ["c.test"]

    with server() as mx, server(resolver=Resolver()) as named:
        assert b"[192.0.2.1]" in mx.connect().receive(b"EHLO c.test\r\n")
        assert b"Nice to meet you, c.test" in named.connect(("192.0.2.9", 1)).receive(b"EHLO c.test\r\n")


def test_one_client_too_many_is_told_so() -> None:
    for secure in (False, True):
        with server(max_clients=1, secure=secure) as mx:
            assert mx.connect().receive(b"").startswith(b"220 ")
            for _ in range(3):
                late = mx.connect()
                assert late.receive(b"").startswith(b"421 ")
                assert late.closed


def test_two_clients_are_served_side_by_side() -> None:
    got: dict[str, bytes] = {}

    def on_data(stream: Stream, session: Session) -> None:
        got[session.id] = stream.read()

    with server(on_data=on_data) as mx:
        first, second = in_data(mx), in_data(mx)
        assert first.receive(b"1") == second.receive(b"2") == b""
        assert second.receive(b"2\r\n.\r\n").startswith(b"250 ")
        assert first.receive(b"1\r\n.\r\n").startswith(b"250 ")
    assert sorted(got.values()) == [b"11\r\n", b"22\r\n"]


def sleeping_coroutine() -> Callable[..., Any]:
    async def on_rcpt_to(*_: object) -> None:
        await asyncio.sleep(60)

    return on_rcpt_to


def spinning_thread() -> Callable[..., Any]:
    def on_rcpt_to(*_: object) -> None:
        while True:
            time.sleep(0.001)

    return on_rcpt_to


@pytest.mark.parametrize("hook", [sleeping_coroutine, spinning_thread])
def test_a_hook_that_takes_too_long_is_given_up_and_ended(hook: Callable[[], Any]) -> None:
    before = set(threading.enumerate())
    with server(on_rcpt_to=hook(), hook_timeout=0.05) as mx:
        connection = mx.connect()
        assert b"451 " in connection.receive(b"EHLO c.test\r\nMAIL FROM:<>\r\nRCPT TO:<b@y.test>\r\n")
        assert connection.receive(b"QUIT\r\n") == b"221 Bye\r\n"
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()


def test_what_a_hook_leaves_behind_ends_with_the_server() -> None:
    cancelled: list[bool] = []

    async def linger() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    class Handler:
        async def on_mail_from(self, *_: object) -> None:
            self.task = asyncio.create_task(linger())
            await asyncio.sleep(0)

    mx = server(handler=Handler())
    in_data(mx)
    mx.close()
    mx.close()
    assert cancelled == [True]
    assert not mx.peers


def test_on_close_is_called_when_the_server_closes_and_given_up_if_it_does_not_end() -> None:
    closed: list[str] = []

    async def on_close(session: Session) -> None:
        closed.append(session.id)
        await asyncio.sleep(60)

    mx = server(on_close=on_close)
    in_data(mx)
    mx.close()
    assert len(closed) == 1


def test_a_thread_that_comes_back_behind_the_end_of_the_server_hurts_nobody() -> None:
    begun, go_on = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def on_mail_from(*_: object) -> None:
        threads.append(threading.current_thread())
        begun.set()
        while not go_on.is_set():
            with contextlib.suppress(SystemExit):
                go_on.wait(0.05)

    with server(on_mail_from=on_mail_from, hook_timeout=0.01) as mx:
        mx.connect().receive(b"EHLO c.test\r\nMAIL FROM:<>\r\n")
        assert begun.is_set()
    go_on.set()
    threads[0].join(10)
    assert not threads[0].is_alive()


def test_an_interrupt_of_the_user_goes_through_a_hook() -> None:
    async def on_mail_from(*_: object) -> None:
        raise KeyboardInterrupt

    mx = server(on_mail_from=on_mail_from)
    connection = mx.connect()
    with pytest.raises(KeyboardInterrupt):
        connection.receive(b"EHLO c.test\r\nMAIL FROM:<>\r\n")
    mx.close()


def test_an_options_object_is_as_good_as_its_fields() -> None:
    with MemoryServer(Options(name="other.test")) as mx:
        assert mx.connect().receive(b"") == b"220 other.test ESMTP\r\n"


def test_where_the_interpreter_cannot_reach_into_threads_nothing_happens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr("ctypes.pythonapi")
    raise_in_thread(threading.get_ident(), SystemExit)
