# Every time limit, each so small that it is the one that acts, and what is not to be counted in it.

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from smtpproto_kit import DATA, DEADLINE, Client, running, wait_until
from smtpproto_kit.cases._colours import QUEUED, both, deliver, in_thread, is_silent, replies
from smtpproto_kit.cases._narrow import narrow
from smtpproto_server import StreamAborted

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from smtpproto_kit import Runtime
    from smtpproto_kit.cases._colours import Colour, Hook

GREETING: Final = "220 mx.test ESMTP"
OK: Final = "250 2.0.0 OK"
TIMEOUT: Final = "421 4.4.2 Timeout - closing connection"
UNCODED_TIMEOUT: Final = "421 Timeout - closing connection"
SHORT: Final = 0.15  # seconds
TOLERANCE: Final = 2.0  # seconds by which a busy machine may be late
NOW_AND_THEN: Final = 0.02  # seconds between two octets of a client that types
NEVER: Final[dict[str, Any]] = dict.fromkeys(
    (
        "socket_timeout", "command_timeout", "greeting_timeout", "proxy_timeout", "tls_handshake_timeout",
        "data_timeout", "min_data_rate", "session_timeout", "hook_timeout", "reverse_lookup_timeout",
    )
)  # fmt: skip


class Watch:
    """How long a block took: as long as a limit, and not much longer."""

    def __enter__(self) -> None:
        self.begun = time.monotonic()

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            assert SHORT * 0.9 < time.monotonic() - self.begun < SHORT + TOLERANCE


def type_until(client: Client, octets: bytes, done: Callable[[], object]) -> None:
    """A client that types, as long as it takes."""
    tick, end = threading.Event(), time.monotonic() + DEADLINE
    while not done():
        assert time.monotonic() < end, "nothing stopped it"
        client.send(octets)
        tick.wait(NOW_AND_THEN)


def has_heard(client: Client) -> bool:
    """The server has said something; it is left for `reply`."""
    client.sock.settimeout(0)
    with contextlib.suppress(BlockingIOError):
        client.buffer += client.sock.recv(1000)
    client.sock.settimeout(DEADLINE)
    return bool(client.buffer)


def has_passed(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


class Kept:
    """on_data that reads to the end, and how that was."""

    def __init__(self) -> None:
        self.how: list[object] = []

    def on_data(self, stream: Any, _session: object) -> Hook:
        try:
            self.how.append((yield stream.read()))
        except StreamAborted as aborted:
            self.how.append(aborted.reason)
            raise


# --- commands ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("secure", [True, False])
@pytest.mark.parametrize("limit", ["socket_timeout", "session_timeout"])
def test_a_silent_client_is_told_and_left(runtime: Runtime, limit: str, secure: bool) -> None:
    limits: dict[str, Any] = {**NEVER, limit: SHORT}
    said = (b"", b"EHL", b"EHLO a\r\n", b"EHLO a\r\nMAIL FROM:<a@x>\r\n")
    with running(runtime, secure=secure, **limits) as server, Watch(), contextlib.ExitStack() as stack:
        clients: list[Client] = []
        for lines in said:
            client = stack.enter_context(server.client(tls=secure))
            assert client.reply() == GREETING
            client.send(lines)
            clients.append(client)
        for client, lines in zip(clients, said, strict=True):
            assert client.replies()[lines.count(b"\n") :] == [TIMEOUT]
        assert not server.errors


def test_every_octet_restarts_the_socket_timeout(runtime: Runtime) -> None:
    limits: dict[str, Any] = {**NEVER, "socket_timeout": SHORT}
    with running(runtime, **limits) as server, server.client().greeted() as client:
        type_until(client, b"x", has_passed(2 * SHORT))
        client.send(b"\r\n")
        assert client.reply().startswith("500 ")
        with Watch():
            assert client.replies() == [TIMEOUT]


@pytest.mark.parametrize("begun", ["", "AUTH LOGIN"])
def test_a_line_that_drips_is_ended_by_command_timeout(runtime: Runtime, begun: str) -> None:
    options: dict[str, Any] = {
        **NEVER,
        "command_timeout": SHORT,
        "socket_timeout": 60,
        "allow_insecure_auth": True,
    }
    with running(runtime, **options) as server, server.client().greeted() as client:
        assert not begun or client.say(begun).startswith("334 ")
        is_silent(client, 2 * SHORT)  # which is not in a line
        with Watch():
            type_until(client, b"x", lambda: has_heard(client))
        assert client.replies() == [TIMEOUT]


def test_a_client_that_keeps_talking_is_ended_by_session_timeout(runtime: Runtime) -> None:
    limits: dict[str, Any] = {**NEVER, "session_timeout": SHORT}
    with running(runtime, **limits) as server, Watch():
        with server.client() as client:
            reply = client.reply()
            while reply != TIMEOUT:
                assert reply in (GREETING, OK)
                reply = client.say("NOOP")
            assert client.reply() == ""


def test_what_is_left_of_a_time_may_be_as_little_as_it_likes(runtime: Runtime) -> None:
    with running(runtime, session_timeout=0.02) as server:
        for _ in range(20):
            with server.client() as client:
                reply = client.reply()
                while reply != TIMEOUT:
                    assert reply in (GREETING, OK)
                    reply = client.say("NOOP")
        assert not server.errors


def test_session_timeout_waits_for_the_end_of_a_message(runtime: Runtime) -> None:
    kept = Kept()
    options: dict[str, Any] = {**NEVER, "session_timeout": SHORT}
    with running(runtime, on_data=kept.on_data, **options) as server, server.client() as client:
        assert client.reply() == GREETING
        client.send(b"EHLO a\r\n" + DATA)
        assert replies(client, 4)[3].startswith("354 ")
        type_until(client, b"x", has_passed(2 * SHORT))
        client.send(b"\r\n.\r\n")
        assert client.replies() == [QUEUED, TIMEOUT]
    (body,) = kept.how
    assert isinstance(body, bytes)
    assert body.strip(b"x") == b"\r\n"


def test_without_limits_a_client_may_take_its_time(runtime: Runtime) -> None:
    kept = Kept()
    with running(runtime, on_data=kept.on_data, use_proxy=True, **NEVER) as server:
        with server.client() as client:
            client.send(b"PROXY ")
            is_silent(client, SHORT / 2)
            client.send(b"UNKNOWN\r\n")
            client.greeted().send(b"STARTTLS\r\n")
            assert client.reply().startswith("220 ")
            is_silent(client, SHORT / 2)
            client.start_tls()
            is_silent(client, SHORT / 2)
            client.send(b"EHLO a\r\n" + DATA)
            assert replies(client, 4)[3].startswith("354 ")
            is_silent(client, SHORT / 2)
            client.send(b"hi\r\n.\r\n")
            assert client.reply() == QUEUED
    assert kept.how == [b"hi\r\n"]


@pytest.mark.parametrize("more", [0, 50_000], ids=["", "that asks for more"])
def test_a_client_that_reads_no_replies_runs_into_socket_timeout(
    runtime: Runtime, more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smtpproto_server._driver.LAST_WORDS", SHORT)
    options: dict[str, Any] = {**NEVER, "socket_timeout": SHORT}
    with running(runtime, **options) as server, narrow(server) as client:
        assert client.reply() == GREETING
        with contextlib.suppress(ConnectionError):
            client.send(b"EHLO a\r\n" * 500 + b"NOOP\r\n" * more)
        wait_until(lambda: not server.server.sessions)
        assert client.rest().count(b"250 ") < 500  # or it would have read them all
        assert not server.errors


# --- before the greeting ----------------------------------------------------------------------------


def test_a_proxy_header_that_does_not_come_is_not_answered(runtime: Runtime) -> None:
    options: dict[str, Any] = {**NEVER, "proxy_timeout": SHORT}
    with running(runtime, use_proxy=True, **options) as server, Watch(), contextlib.ExitStack() as stack:
        clients: list[Client] = []
        for said in (b"", b"PROXY TCP4", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c"):
            clients.append(stack.enter_context(server.client()))
            clients[-1].send(said)
        for client in clients:
            assert client.rest() == b""


def test_a_proxy_header_that_drips_is_not_waited_for(runtime: Runtime) -> None:
    options: dict[str, Any] = {**NEVER, "proxy_timeout": SHORT}
    with running(runtime, use_proxy=True, **options) as server, server.client() as client, Watch():
        client.send(b"PROXY UNKNOWN ")
        wait_until(lambda: server.server.sessions)
        with contextlib.suppress(ConnectionError):  # it has closed
            type_until(client, b"x", lambda: not server.server.sessions)


@pytest.mark.parametrize("secure", [True, False])
def test_a_handshake_that_does_not_come_is_not_answered(runtime: Runtime, secure: bool) -> None:
    options: dict[str, Any] = {**NEVER, "tls_handshake_timeout": SHORT}
    with running(runtime, secure=secure, **options) as server:
        with Watch(), server.client() as silent, server.client() as slow:
            for client in (silent, slow):
                if not secure:
                    assert client.greeted().say("STARTTLS").startswith("220 ")
            slow.send(b"\x16\x03\x01\x02\x00\x01")
            assert silent.rest() == slow.rest() == b""
        wait_until(lambda: len(server.errors) == 2)
        for error, info in server.errors:
            assert isinstance(error, TimeoutError)
            assert info["stage"] == "tls"


def test_the_greeting_is_held_back_for_early_talker_delay(runtime: Runtime) -> None:
    asked: list[float] = []

    def on_connect(_session: object) -> Hook:
        asked.append(time.monotonic())
        yield runtime.pause(0)

    options: dict[str, Any] = {**NEVER, "early_talker_delay": SHORT}
    with running(runtime, on_connect=on_connect, **options) as server, server.client() as client:
        with Watch():
            assert client.reply() == GREETING
        assert time.monotonic() - asked[0] < SHORT  # the delay comes before the hook
        assert client.say("NOOP") == OK


@pytest.mark.parametrize("secure", [True, False])
def test_a_delay_longer_than_greeting_timeout_ends_in_it(runtime: Runtime, secure: bool) -> None:
    options: dict[str, Any] = {**NEVER, "early_talker_delay": 60, "greeting_timeout": SHORT}
    with running(runtime, secure=secure, **options) as server, server.client(tls=secure) as client, Watch():
        assert client.replies() == [UNCODED_TIMEOUT]


def test_the_time_of_a_hook_does_not_count_for_greeting_timeout(runtime: Runtime) -> None:
    def on_connect(_session: object) -> Hook:
        yield runtime.pause(1.5 * SHORT)

    options: dict[str, Any] = {**NEVER, "greeting_timeout": SHORT}
    with running(runtime, on_connect=on_connect, **options) as server, server.client().greeted() as client:
        is_silent(client, SHORT)  # nor is it taken up again
        assert client.say("NOOP") == OK


class Hanging:
    """A resolver that does not answer: a coroutine function, or a plain one in a thread."""

    def __init__(self, runtime: Runtime, *, coroutine: bool) -> None:
        self.runtime: Runtime = runtime
        self.released: threading.Event = threading.Event()
        self.reverse: Callable[[str], Any] = runtime.coloured(self.hang) if coroutine else self.block

    def hang(self, _ip: str) -> Hook:
        yield self.runtime.pause(3600)
        return []

    def block(self, _ip: str) -> list[str]:
        self.released.wait(DEADLINE)
        return []


@pytest.fixture(params=["coroutine", "plain"])
def resolver(request: pytest.FixtureRequest, runtime: Runtime) -> Generator[Hanging]:
    coroutine = request.param == "coroutine"
    if coroutine and not runtime.coroutines:
        pytest.skip("it has none")
    hanging = Hanging(runtime, coroutine=coroutine)
    yield hanging
    hanging.released.set()


@pytest.mark.parametrize(
    ("lookup", "greeting", "expected"),
    [(SHORT, 60, GREETING), (60, SHORT, UNCODED_TIMEOUT), (None, SHORT, UNCODED_TIMEOUT)],
)
def test_a_resolver_that_hangs_is_waited_for_so_long(
    runtime: Runtime, resolver: Hanging, lookup: float | None, greeting: float, expected: str
) -> None:
    limits: dict[str, Any] = {**NEVER, "reverse_lookup_timeout": lookup, "greeting_timeout": greeting}
    with running(runtime, disable_reverse_lookup=False, resolver=resolver, **limits) as server:
        try:
            with Watch(), server.client() as client:
                assert client.reply() == expected
                if expected == GREETING:
                    (session,) = server.server.sessions
                    assert session.client_hostname == "[127.0.0.1]"
            assert not server.errors
        finally:
            resolver.released.set()


# --- messages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["socket_timeout", "data_timeout"])
def test_a_message_that_stops_is_given_up(runtime: Runtime, limit: str) -> None:
    kept = Kept()
    limits: dict[str, Any] = {**NEVER, limit: SHORT}
    with running(runtime, on_data=kept.on_data, **limits) as server, server.client().greeted() as client:
        with Watch():
            client.send(DATA + b"hi\r\n")
            assert client.replies()[3:] == [TIMEOUT]
        wait_until(lambda: kept.how)
        assert not server.errors
    assert kept.how == ["timeout"]


@pytest.mark.parametrize(
    "limits", [{"data_timeout": SHORT}, {"min_data_rate": 1000, "socket_timeout": SHORT}], ids=list
)
def test_a_message_that_drips_is_given_up(runtime: Runtime, limits: dict[str, Any]) -> None:
    kept = Kept()
    options: dict[str, Any] = {**NEVER, **limits}
    with running(runtime, on_data=kept.on_data, **options) as server, server.client().greeted() as client:
        client.send(DATA)
        replies(client, 3)
        with Watch():
            type_until(client, b"x", lambda: has_heard(client))
        assert client.replies() == [TIMEOUT]
        wait_until(lambda: kept.how)
    assert kept.how == ["timeout"]


def test_a_message_that_is_slow_but_not_too_slow_is_not_given_up(runtime: Runtime) -> None:
    kept = Kept()
    options: dict[str, Any] = {**NEVER, "min_data_rate": 100, "socket_timeout": SHORT}
    with running(runtime, on_data=kept.on_data, **options) as server, server.client().greeted() as client:
        client.send(DATA)
        replies(client, 3)
        type_until(client, b"x" * 60 + b"\r\n", has_passed(2.5 * SHORT))
        client.send(b".\r\n")
        assert client.reply() == QUEUED


@both
def test_time_that_the_hook_takes_is_not_the_client_s(runtime: Runtime, colour: Colour) -> None:
    tick = threading.Event()

    def slow(stream: Any, _session: object) -> Hook:
        if in_thread(runtime, colour):
            tick.wait(2 * SHORT)
        else:
            yield runtime.pause(2 * SHORT)
        return str(len((yield stream.read())))

    limits = dict.fromkeys(("socket_timeout", "data_timeout", "session_timeout", "command_timeout"), SHORT)
    options: dict[str, Any] = {**limits, "min_data_rate": 1_000_000, "on_data": colour(slow)}
    with running(runtime, **options) as server, server.client() as client:
        assert client.reply() == GREETING
        client.send(b"EHLO a\r\n" + DATA + b"hi\r\n.\r\n")
        assert replies(client, 5)[4] == "250 2.6.0 4"
        assert client.replies() == [TIMEOUT]  # of the session, which is over as soon as it may be


@pytest.mark.parametrize("place", ["on_mail_from", "on_vrfy"])
def test_no_time_of_the_client_runs_in_a_hook(runtime: Runtime, place: str) -> None:
    def hook(*_: object) -> Hook:
        yield runtime.pause(1.5 * SHORT)

    options: dict[str, Any] = {**NEVER, "socket_timeout": SHORT, "command_timeout": SHORT, place: hook}
    command = "MAIL FROM:<a@x>" if place == "on_mail_from" else "VRFY x"
    with running(runtime, **options) as server, server.client().greeted() as client:
        assert client.say(command).startswith("25")
        with Watch():
            assert client.replies() == [TIMEOUT]


# --- hooks ------------------------------------------------------------------------------------------


@both
def test_the_time_of_a_hook_may_be_as_little_as_it_likes(runtime: Runtime, colour: Colour) -> None:
    def read(stream: Any, _session: object) -> Hook:
        while (yield stream.read(65536)):
            pass

    hook = colour(read)
    with running(runtime, on_data=hook, hook_timeout=0.0002) as server, server.client().greeted() as client:
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(20):
            client.send(DATA)
            assert replies(client, 3)[2].startswith("354 ")
            client.send(b"one\r\n")
            client.send(b"two\r\n.\r\n")
            assert client.reply()[:3] in ("250", "451")
        assert client.say("NOOP") == OK


@both
def test_time_that_the_client_takes_is_not_the_hook_s(runtime: Runtime, colour: Colour) -> None:
    def read(stream: Any, _session: object) -> Hook:
        size = 0
        while chunk := (yield stream.read(65536)):
            size += len(chunk)
        return str(size)

    options: dict[str, Any] = {**NEVER, "on_data": colour(read), "hook_timeout": SHORT}
    with running(runtime, **options) as server, server.client().greeted() as client:
        client.send(DATA)
        assert replies(client, 3)[2].startswith("354 ")
        type_until(client, b"x", has_passed(2 * SHORT))  # in many pieces, each of them waited for
        client.send(b"\r\n.\r\n")
        assert client.reply().startswith("250 2.6.0 ")
        assert not server.errors


def test_a_hook_that_has_read_everything_is_still_timed(runtime: Runtime) -> None:
    def read_and_hang(stream: Any, _session: object) -> Hook:
        yield stream.read()
        yield runtime.pause(3600)

    options: dict[str, Any] = {**NEVER, "on_data": read_and_hang, "hook_timeout": SHORT}
    with running(runtime, **options) as server, server.client().greeted() as client, Watch():
        assert deliver(client, b"hi\r\n").startswith("451 4.3.0 ")


@pytest.mark.parametrize("place", ["on_connect", "on_mail_from", "on_close"])
def test_hook_timeout_is_for_each_call(runtime: Runtime, place: str) -> None:
    called: list[object] = []

    def hook(*_: object) -> Hook:
        called.append(place)
        yield runtime.pause(3600)

    options: dict[str, Any] = {**NEVER, place: hook, "hook_timeout": SHORT}
    with running(runtime, **options) as server, Watch():
        with server.client() as client:
            if place == "on_connect":
                assert client.replies() == ["421 Error: internal error, please try again later"]
            else:
                client.greeted()
            if place == "on_mail_from":
                assert client.say("MAIL FROM:<a@x>").startswith("451 4.3.0 ")
        wait_until(lambda: not server.server.peers)
        ((error, info),) = server.errors
        assert str(error) == f"{place} took longer than hook_timeout"
        assert info["stage"] == "hook"
    assert called == [place]
