# What networks, peers and hooks do to a server: ends at every octet, peers that are slow or never
# read, hooks that fail. No message is answered with 250 that was not kept, and nothing is left.

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

import pytest

from smtpproto import Accept, Reject
from smtpproto_kit import DATA, DEADLINE, Client, Runtime, running, wait_until
from smtpproto_kit.cases._narrow import narrow

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    Hook = Generator[Any, Any, Any]

EHLO: Final = b"EHLO client.test\r\n"
AUTH: Final = b"AUTH LOGIN\r\ndXNlcg==\r\ncGFzc3dvcmQ=\r\n"
BODY: Final = b"Subject: x\r\n\r\n..dots\r\nend\r\n"
SESSION: Final = EHLO + AUTH + DATA + BODY + b".\r\nRSET\r\nQUIT\r\n"
END_OF_DATA: Final = SESSION.index(BODY) + len(BODY) + len(b".\r\n")
CODES: Final = ["250", "334", "334", "235", "250", "250", "354", "250", "250", "221"]
KEPT: Final = b"250 2.6.0 "
RESET: Final = struct.pack("ii", 1, 0)
WAYS: Final = ("reset", "half-close", "close")


@pytest.fixture(params=["own", "plain"])
def colour(request: pytest.FixtureRequest, runtime: Runtime) -> str:
    """Of hooks: the runtime's own, or plain functions, which coroutine runtimes call in threads."""
    if request.param == "plain" and not runtime.coroutines:
        pytest.skip("all its hooks are plain functions")
    return str(request.param)


class Store:
    """What was delivered, and which sessions were closed."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.closed: list[str] = []

    def on_data(self, stream: Any, _session: object) -> Hook:
        self.messages.append((yield stream.read()))

    def on_auth(self, auth: Any, _session: object) -> Hook:
        yield None
        return auth.username

    def on_close(self, session: Any) -> Hook:
        yield None
        self.closed.append(session.id)


class PlainStore:
    """The same with plain hooks."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.closed: list[str] = []

    def on_data(self, stream: Any, _session: object) -> None:
        self.messages.append(stream.read())

    def on_auth(self, auth: Any, _session: object) -> object:
        return auth.username

    def on_close(self, session: Any) -> None:
        self.closed.append(session.id)


STORES: Final[dict[str, Callable[[], Store | PlainStore]]] = {"own": Store, "plain": PlainStore}


def break_off(client: Client, how: str) -> bytes:
    """End a connection; what the server said before."""
    said = b""
    if how == "half-close":
        client.end()
        said = client.rest()
    elif how == "reset":
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    client.close()
    return said


# --- ends at every octet --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", WAYS)
def test_a_session_may_break_off_at_every_octet(runtime: Runtime, colour: str, how: str) -> None:
    store, answered = STORES[colour](), 0
    with running(runtime, handler=store, allow_insecure_auth=True) as server:
        for at in range(len(SESSION) + 1):
            client = server.client()
            assert client.line() == "220 mx.test ESMTP"
            client.send(SESSION[:at])
            answered += KEPT in break_off(client, how)
        wait_until(lambda: len(store.closed) == len(SESSION) + 1)
        assert len(set(store.closed)) == len(SESSION) + 1
        whole = len(SESSION) - END_OF_DATA + 1
        assert set(store.messages) <= {BODY.replace(b"..", b".")}
        if how == "half-close":  # nothing got lost on the way
            assert len(store.messages) == answered == whole
        else:
            assert len(store.messages) <= whole
        assert {info["stage"] for _, info in server.errors} <= {"socket", "stream"}
        with server.client().greeted() as client:
            assert client.say("NOOP") == "250 2.0.0 OK"


class Record:
    """A client under TLS that stops after so many octets of all it sends, whatever they mean."""

    def __init__(self, client: Client, left: int) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.client = client
        self.left = left
        self.sent = 0
        self.greeting = b""
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing)

    def send(self, octets: bytes) -> bool:
        """False when that was the last of it."""
        octets = octets[: self.left]
        self.left -= len(octets)
        self.sent += len(octets)
        self.client.send(octets)
        return self.left > 0

    def talk(self, *, secure: bool) -> None:
        """Say all of a session, each line in a record of its own."""
        if not secure:
            assert self.client.line() == "220 mx.test ESMTP"
            if not self.send(EHLO + b"STARTTLS\r\n"):
                return
            assert [self.client.reply()[:3] for _ in range(2)] == ["250", "220"]
        while not self.handshake():
            if not self.send(self.outgoing.read()):
                return
            self.incoming.write(self.client.sock.recv(65536))
        if not self.send(self.outgoing.read()):
            return
        while secure and not self.greeting:
            self.greeting = self.understood(self.client.sock.recv(65536))
        for line in SESSION.splitlines(keepends=True):
            self.tls.write(line)
        self.send(self.outgoing.read())

    def handshake(self) -> bool:
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def understood(self, octets: bytes) -> bytes:
        """What the server said, as far as it can be read."""
        said = b""
        self.incoming.write(self.client.buffer + octets)
        with contextlib.suppress(ssl.SSLError):
            while octet := self.tls.read(4096):
                said += octet
        return said


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("secure", [True, False])
def test_a_session_under_tls_may_break_off_at_every_octet(runtime: Runtime, how: str, secure: bool) -> None:
    store, answered = Store(), 0
    with running(runtime, handler=store, secure=secure) as server:
        with server.client() as client:
            client.sock.settimeout(DEADLINE)
            whole = Record(client, 1_000_000)
            whole.talk(secure=secure)
            assert KEPT in whole.understood(client.rest())
        wait_until(lambda: store.closed)
        store.messages.clear()
        tried = range(0, whole.sent, 13)  # coprime to the lengths of records: all places in turn
        for at in tried:
            client = server.client()
            record = Record(client, at)
            record.talk(secure=secure)
            answered += KEPT in record.understood(break_off(client, how))
        wait_until(lambda: len(store.closed) == len(tried) + 1)
        assert set(store.messages) <= {BODY.replace(b"..", b".")}
        if how == "half-close":
            assert len(store.messages) == answered > 0
        assert {info["stage"] for _, info in server.errors} <= {"tls", "socket", "stream"}


def test_one_octet_at_a_time_is_a_session(runtime: Runtime, colour: str) -> None:
    store = STORES[colour]()
    with running(runtime, handler=store, allow_insecure_auth=True) as server, server.client() as client:
        assert client.reply() == "220 mx.test ESMTP"
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(SESSION)):
            client.send(SESSION[at : at + 1])
        assert [reply[:3] for reply in client.replies()] == CODES
    assert store.messages == [BODY.replace(b"..", b".")]


def test_a_session_in_one_segment_is_a_session(runtime: Runtime, colour: str) -> None:
    store = STORES[colour]()
    with running(runtime, handler=store, allow_insecure_auth=True) as server, server.client() as client:
        assert client.reply() == "220 mx.test ESMTP"
        client.send(SESSION)
        assert [reply[:3] for reply in client.replies()] == CODES
    assert store.messages == [BODY.replace(b"..", b".")]


@pytest.mark.parametrize(
    ("limits", "said", "octet"),
    [
        ({"command_timeout": 0.2}, b"", b"x"),
        ({"data_timeout": 0.2}, DATA, b"x\r\n"),
        ({"min_data_rate": 1000.0, "socket_timeout": 0.2}, DATA, b"x\r\n"),
        ({"session_timeout": 0.2}, b"", b"RSET\r\n"),
    ],
)
def test_a_peer_that_sends_an_octet_now_and_then_is_not_waited_for_for_ever(
    runtime: Runtime, limits: dict[str, float], said: bytes, octet: bytes
) -> None:
    store = Store()
    options: dict[str, Any] = {"socket_timeout": 5.0, **limits}
    with running(runtime, handler=store, **options) as server, server.client().greeted() as client:
        client.send(said)
        for _ in said.splitlines():
            client.reply()
        slowly = (octet[at % len(octet) :][:1] for at in range(1000))
        with contextlib.suppress(ConnectionError):
            while not any(b"421" in part for part in heard(client)):
                client.send(next(slowly))
        wait_until(lambda: not server.server.sessions)
    assert store.messages == []


def heard(client: Client) -> list[bytes]:
    """What comes within 20 ms."""
    ready, _, _ = select.select([client.sock], [], [], 0.02)
    return [client.sock.recv(65536) or b"421"] if ready else []


# --- hooks and their ends ---------------------------------------------------------------------------------


def test_a_reset_within_a_hook_ends_it_or_drops_what_it_says(runtime: Runtime, colour: str) -> None:
    begun, release = threading.Event(), threading.Event()
    seen: list[str] = []

    def on_rcpt_to(*_: object) -> Hook:
        begun.set()
        try:
            while not release.is_set():
                yield runtime.pause(0.005)
        except BaseException:
            seen.append("cancelled")
            raise
        seen.append("dropped")

    def on_rcpt_to_plain(*_: object) -> None:
        begun.set()
        release.wait(DEADLINE)
        seen.append("dropped")

    def on_close(_session: object) -> Hook:
        yield None
        seen.append("closed")

    hook = on_rcpt_to if colour == "own" else on_rcpt_to_plain
    with running(runtime, on_rcpt_to=hook, on_close=on_close) as server:
        client = server.client().greeted()
        client.send(DATA.removesuffix(b"DATA\r\n"))
        assert begun.wait(DEADLINE)
        break_off(client, "reset")
        if runtime.cancels:  # nobody else sees the reset before the hook has ended
            wait_until(lambda: "closed" in seen)
        release.set()
        wait_until(lambda: len(seen) == 2)
        ((error, info),) = server.errors
        assert isinstance(error, ConnectionError)
        assert info["stage"] == "socket"
    if not runtime.cancels:
        assert seen == ["dropped", "closed"]
    else:
        assert seen == (["cancelled", "closed"] if colour == "own" else ["closed", "dropped"])


def test_a_plain_hook_that_has_not_begun_when_its_connection_is_lost_never_does(runtime: Runtime) -> None:
    if not runtime.coroutines:
        pytest.skip("its hooks do not wait for a thread")
    release, called = threading.Event(), list[int]()

    def on_mail_from(address: Any, _session: object) -> None:
        called.append(len(address.address))
        release.wait(DEADLINE)

    with running(runtime, on_mail_from=on_mail_from, hook_threads=1) as server:
        with server.client().greeted() as first:
            first.send(b"MAIL FROM:<a@x>\r\n")
            wait_until(lambda: called)
            second = server.client().greeted()
            second.send(b"MAIL FROM:<abc@x>\r\n")
            break_off(second, "reset")
            wait_until(lambda: len(server.server.sessions) == 1)
            release.set()
            assert first.reply() == "250 2.1.0 Accepted"
    assert called == [3]


# Where a hook may wait, and the client's part up to there.
MESSAGE: Final = DATA + b"one\r\ntwo\r\n.\r\n"
PLACES: Final[dict[str, bytes]] = {
    "on_connect": b"",
    "on_helo": EHLO,
    "on_auth": EHLO + b"AUTH PLAIN AHUAcA==\r\n",
    "on_vrfy": EHLO + b"VRFY x\r\n",
    "on_mail_from": EHLO + MESSAGE,
    "on_rcpt_to": EHLO + MESSAGE,
    "on_data_start": EHLO + MESSAGE,
    "on_data before reading": EHLO + MESSAGE,
    "on_data while reading": EHLO + MESSAGE,
    "on_data after reading": EHLO + MESSAGE,
    "on_close": EHLO + b"QUIT\r\n",
}


class Faulty:
    """A hook that does something at one of its awaits."""

    def __init__(self, runtime: Runtime, place: str, fault: str) -> None:
        self.runtime, self.place, self.fault = runtime, place, fault
        self.entered = threading.Event()
        self.went_on = False

    def hook(self, *args: Any) -> Hook:
        if "while" in self.place:
            yield args[0].read(3)
        elif "after" in self.place:
            yield args[0].read()
        yield self.runtime.pause(0)
        self.entered.set()
        if self.fault == "raises":
            raise LookupError("a fault of the application's")
        if self.fault == "ends the process":
            sys.exit("no")
        yield self.runtime.pause(3600)
        self.went_on = True


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("fault", ["raises", "ends the process", "hangs", "is cancelled"])
def test_a_hook_may_fail_at_every_await(runtime: Runtime, place: str, fault: str) -> None:
    faulty = Faulty(runtime, place, fault)
    options: dict[str, Any] = {
        "allow_insecure_auth": True,
        "close_timeout": 0.0,
        "hook_timeout": 0.05 if fault == "hangs" else None,
        place.split(maxsplit=1)[0]: faulty.hook,
    }
    with running(runtime, **options) as server:
        with server.client() as client:
            if place != "on_connect":
                assert client.reply() == "220 mx.test ESMTP"
            client.send(PLACES[place])
            assert faulty.entered.wait(DEADLINE)
            if fault == "is cancelled":
                break_off(client, "reset")
            else:
                client.end()
                said = client.rest()
                assert KEPT not in said
                assert b"a fault" not in said
                assert place == "on_close" or b"internal error" in said
                wait_until(lambda: server.errors)
                assert {info["stage"] for _, info in server.errors} == {"hook"}
        if fault != "is cancelled" or (runtime.cancels and place != "on_close"):
            wait_until(lambda: not server.server.peers)
        setattr(server.server, place.split(maxsplit=1)[0], None)
        with server.client().greeted() as other:  # nobody else is touched
            assert other.say("NOOP") == "250 2.0.0 OK"
    assert not (faulty.went_on and runtime.cancels)


@pytest.mark.parametrize("kind", [SystemExit, GeneratorExit])
def test_a_plain_hook_that_would_end_the_process_or_its_task_has_failed(
    runtime: Runtime, kind: type[BaseException]
) -> None:
    def leave(*_: object) -> None:
        raise kind

    with running(runtime, on_mail_from=leave) as server, server.client().greeted() as client:
        assert client.say("MAIL FROM:<a@x>").startswith("451 4.3.0 ")
        assert client.say("NOOP") == "250 2.0.0 OK"
        assert isinstance(server.errors[0][0], kind)


@pytest.mark.parametrize("sync_hooks", ["thread", "inline"])
def test_a_plain_hook_may_return_what_is_to_be_awaited(runtime: Runtime, sync_hooks: str) -> None:
    if not runtime.coroutines:
        pytest.skip("nothing is awaited")
    released = threading.Event()

    def later() -> Hook:
        while not released.is_set():
            yield runtime.pause(0.005)
        return Reject(text="later")

    awaitable = runtime.coloured(later)

    def on_rcpt_to(*_: object) -> Any:
        return awaitable()

    def on_mail_from(*_: object) -> Accept:
        return Accept(text="now")

    hooks: dict[str, Any] = {"on_mail_from": on_mail_from, "on_rcpt_to": on_rcpt_to}
    with running(runtime, sync_hooks=sync_hooks, **hooks) as server, server.client().greeted() as client:
        client.send(b"MAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\n")
        assert client.reply() == "250 2.1.0 now"  # it does not wait for the other
        released.set()
        assert client.reply() == "550 5.1.1 later"


@pytest.mark.parametrize("secure", [True, False])
def test_who_talks_in_the_delay_is_not_greeted(runtime: Runtime, secure: bool) -> None:
    with running(runtime, secure=secure, early_talker_delay=60) as server:
        with server.client(tls=secure) as client:
            client.send(EHLO)
            assert client.replies() == ["421 mx.test You talk too soon"]
            assert not server.errors


@pytest.mark.parametrize("secure", [True, False])
def test_who_talks_before_the_greeting_interrupts_on_connect(
    runtime: Runtime, colour: str, secure: bool
) -> None:
    begun, release, seen = threading.Event(), threading.Event(), list[str]()

    def on_connect(*_: object) -> Hook:
        begun.set()
        try:
            while not release.is_set():
                yield runtime.pause(0.005)
        except BaseException:
            seen.append("cancelled")
            raise

    def on_connect_plain(*_: object) -> None:
        begun.set()
        release.wait(DEADLINE)

    hook = on_connect if colour == "own" else on_connect_plain
    with running(runtime, secure=secure, on_connect=hook) as server, server.client(tls=secure) as client:
        assert begun.wait(DEADLINE)
        client.send(EHLO)
        if not runtime.cancels:
            release.set()
        assert client.replies() == ["421 mx.test You talk too soon"]
        release.set()
        assert not server.errors
    assert seen == (["cancelled"] if colour == "own" and runtime.cancels else [])


# --- peers that never read ----------------------------------------------------------------------------------


@pytest.mark.parametrize("hooked", [True, False])
def test_a_peer_that_never_reads_is_not_read_from_for_ever(runtime: Runtime, hooked: bool) -> None:
    def on_vrfy(*_: object) -> Hook:
        yield runtime.pause(0)

    options: dict[str, Any] = {"on_vrfy": on_vrfy} if hooked else {}
    with running(runtime, close_timeout=0.0, **options) as server, narrow(server).greeted() as client:
        line = b"VRFY " + b"x" * 500 + b"\r\n"
        sent = client.fill(line)
        assert sent < 2 * 1024 * 1024
        with server.client().greeted() as other:  # nobody else notices
            assert other.say("NOOP") == "250 2.0.0 OK"
        for _ in range(sent // len(line)):
            assert client.reply().startswith("252 ")


@pytest.mark.parametrize("tls", [False, True])
def test_a_message_larger_than_all_buffers_goes_through_narrow_sockets(
    runtime: Runtime, colour: str, tls: bool
) -> None:
    store = STORES[colour]()
    with running(runtime, handler=store, secure=tls) as server, narrow(server) as client:
        if tls:
            client.start_tls()
        client.greeted().send(DATA + b"x" * 998 + b"\r\n" + b"y" * 300_000 + b"\r\n.\r\n")
        assert [client.reply() for _ in range(4)][3].startswith("250 ")
    assert store.messages == [b"x" * 998 + b"\r\n" + b"y" * 300_000 + b"\r\n"]


@pytest.mark.parametrize("tls", [False, True])
def test_long_replies_go_through_narrow_sockets(runtime: Runtime, tls: bool) -> None:
    with running(runtime, secure=tls) as server, narrow(server) as client:
        if tls:
            client.start_tls()
        assert client.reply() == "220 mx.test ESMTP"
        client.send(EHLO * 300 + b"QUIT\r\n")
        replies = client.replies()
        assert len(replies) == 301
        assert replies[-1] == "221 2.0.0 Bye"


def test_replies_are_not_held_back_for_the_clients_acknowledgement(runtime: Runtime) -> None:
    with running(runtime) as server, server.client().greeted():
        (peer,) = server.server.peers
        # Otherwise a reply behind another waits 40 ms for it (RFC 1122 §4.2.3.4).
        assert peer.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
