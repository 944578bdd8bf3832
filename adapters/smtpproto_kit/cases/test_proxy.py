# PROXY, XCLIENT, XFORWARD and the resolver: who the client is said to be, and when that counts.

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest

from smtpproto_kit import DATA, DEADLINE, Client, Running, running, wait_until
from smtpproto_kit.cases._colours import replies

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from smtpproto import Session
    from smtpproto_kit import Runtime
    from smtpproto_kit.cases._colours import Hook

V1: Final = b"PROXY TCP4 198.51.100.7 203.0.113.9 40000 25\r\n"
V1_6: Final = b"PROXY TCP6 2001:db8::7 2001:db8::9 40000 25\r\n"
UNKNOWN: Final = b"PROXY UNKNOWN whatever\r\n"
V2: Final = (
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c"
    + socket.inet_aton("198.51.100.7") + socket.inet_aton("203.0.113.9") + b"\x9c\x40\x00\x19"
)  # fmt: skip
LOCAL: Final = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"
GREETING: Final = "220 mx.test ESMTP"
NOT_ALLOWED: Final = "550 5.7.0 Error: Not allowed"
NO_COMMAND: Final = "500 5.5.2 Error: command not recognized"


class Diary:
    """Those that on_connect and on_close have seen, with the address they had then."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime: Runtime = runtime
        self.connected: list[tuple[str, int]] = []
        self.sessions: list[Session] = []
        self.closed: list[Session] = []

    def hooks(self) -> dict[str, Any]:
        return {"on_connect": self.on_connect, "on_close": self.on_close}

    def on_connect(self, session: Session) -> Hook:
        yield self.runtime.pause(0)
        self.sessions.append(session)
        self.connected.append((session.remote_address, session.remote_port))

    def on_close(self, session: Session) -> Hook:
        yield self.runtime.pause(0)
        self.closed.append(session)


def begun(server: Running, header: bytes, *, secure: bool = False) -> Client:
    """A client behind a proxy."""
    client = server.client()
    client.send(header)
    if secure:
        client.start_tls()
    return client


# --- PROXY --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secure", [True, False])
@pytest.mark.parametrize(
    ("header", "source"),
    [
        (V1, ("198.51.100.7", 40000)),
        (V1_6, ("2001:db8::7", 40000)),
        (V2, ("198.51.100.7", 40000)),
        (UNKNOWN, None),
        (LOCAL, None),
    ],
    ids=["v1", "v1 IPv6", "v2", "v1 UNKNOWN", "v2 LOCAL"],
)
def test_the_header_says_who_the_client_is(
    runtime: Runtime, secure: bool, header: bytes, source: tuple[str, int] | None
) -> None:
    diary = Diary(runtime)
    with running(runtime, use_proxy=True, secure=secure, **diary.hooks()) as server:
        with begun(server, header, secure=secure) as client:
            address, port = source or client.sock.getsockname()
            assert client.reply() == GREETING
            assert client.say("NOOP") == "250 2.0.0 OK"
            assert diary.connected == [(address, port)]
            (session,) = diary.sessions
            assert (session.local_address, session.local_port) == ("127.0.0.1", server.port)
            assert session.proxy is not None
            assert session.client_hostname == f"[{address}]"
            assert session.secure == secure
            assert [info["remote_address"] for info in server.connects] == [address]


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
def test_a_header_octet_by_octet_is_a_header(runtime: Runtime, header: bytes) -> None:
    with running(runtime, use_proxy=True) as server, server.client() as client:
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(header)):
            client.send(header[at : at + 1])
        assert client.reply() == GREETING
        assert server.connects[0]["remote_address"] == "198.51.100.7"


@pytest.mark.parametrize("secure", [True, False])
@pytest.mark.parametrize(
    ("said", "stages"),
    [
        (b"EHLO a\r\n", ["proxy"]),
        (b"proxy TCP4 1.2.3.4 1.2.3.4 1 1\r\n", ["proxy"]),
        (b"PROXY x\r\n", ["proxy"]),
        (b"\x16\x03\x01\x02\x00\x01", ["proxy"]),
        (b"\r\n", []),  # a beginning of version 2, and then the client is gone
    ],
)
def test_anything_else_is_closed_without_a_reply(
    runtime: Runtime, secure: bool, said: bytes, stages: list[str]
) -> None:
    diary = Diary(runtime)
    with running(runtime, use_proxy=True, secure=secure, **diary.hooks()) as server:
        with server.client() as client:
            client.send(said)
            client.end()
            assert client.rest() == b""
        wait_until(lambda: diary.closed)
        assert not diary.connected
        assert not server.connects
        assert [info["stage"] for _, info in server.errors] == stages


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        (["127.0.0.1"], True),
        (["192.0.2.0/24", "127.0.0.0/8"], True),
        ([ipaddress.ip_network("127.0.0.0/30")], True),
        (["192.0.2.0/24", "::1"], False),
        ([], False),
    ],
)
def test_only_those_on_the_list_send_a_header(runtime: Runtime, listed: list[Any], expected: bool) -> None:
    with running(runtime, use_proxy=listed) as server, server.client() as client:
        if expected:
            client.send(V1)
        assert client.reply() == GREETING
        assert server.connects[0]["remote_address"] == ("198.51.100.7" if expected else "127.0.0.1")
        assert client.say(V1.decode().strip()) == NO_COMMAND  # a second one never counts


def test_the_peer_is_judged_as_the_application_says_who_it_is(runtime: Runtime) -> None:
    listed = ["192.0.2.0/24"]
    with running(runtime, listen=False, use_proxy=listed, use_xclient=["198.51.100.7"]) as server:
        for peer, header in (("::ffff:192.0.2.9", V1), ("198.51.100.7", b"")):
            ours, theirs = socket.socketpair()
            serving = server.start(partial(server.server.serve_connection, ours, remote_address=peer))
            with Client(sock=theirs) as client:
                client.send(header)
                assert "XCLIENT" in client.greeted().say("EHLO a")
                (session,) = server.server.sessions
                assert session.remote_address == "198.51.100.7"
            serving.result(DEADLINE)


def test_talk_right_behind_the_header_is_too_soon(runtime: Runtime) -> None:
    with running(runtime, use_proxy=True) as server, begun(server, V1 + b"EHLO a\r\n") as client:
        assert client.replies() == ["421 mx.test You talk too soon"]


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
def test_a_hello_of_tls_right_behind_the_header_is_taken(runtime: Runtime, header: bytes) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    tls = context.wrap_bio(incoming, outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    with running(runtime, use_proxy=True, secure=True) as server:
        with begun(server, header + outgoing.read()) as client:

            def complete(step: Any) -> Any:
                while True:
                    try:
                        return step()
                    except ssl.SSLWantReadError:
                        client.send(outgoing.read())
                        octets = client.sock.recv(65536)
                        assert octets, "the connection has ended"
                        incoming.write(octets)

            complete(tls.do_handshake)
            assert complete(lambda: tls.read(100)) == GREETING.encode() + b"\r\n"
            assert server.connects[0]["remote_address"] == "198.51.100.7"


def test_max_clients_counts_those_in_the_header(runtime: Runtime) -> None:
    with running(runtime, use_proxy=True, max_clients=1) as server:
        with server.client():
            wait_until(lambda: server.server.sessions)
            with begun(server, V1) as surplus:
                assert surplus.replies() == ["421 mx.test Too many connected clients, try again in a moment"]
        wait_until(lambda: not server.server.sessions)
        with begun(server, V1) as client:
            assert client.reply() == GREETING


def test_who_is_secured_upstream_is_secure(runtime: Runtime) -> None:
    asked: list[object] = []

    def on_secure(*args: object) -> Hook:
        asked.append(args)
        yield runtime.pause(0)

    with running(runtime, use_proxy=True, tls_upstream=True, secure=True, on_secure=on_secure) as server:
        with begun(server, V1).greeted() as client:
            assert client.say("STARTTLS") == "503 5.5.1 Error: TLS already active"
            (session,) = server.server.sessions
            assert session.secure
    assert not asked


# --- XCLIENT ------------------------------------------------------------------------------------------


def test_xclient_says_who_the_client_is_and_connect_waits_for_it(runtime: Runtime) -> None:
    diary = Diary(runtime)
    with running(runtime, use_xclient=["127.0.0.1"], **diary.hooks()) as server, server.client() as client:
        assert "XCLIENT NAME ADDR PORT PROTO HELO LOGIN" in client.greeted().say("EHLO a")
        assert client.say("XCLIENT HELO=b.test") == GREETING  # says nothing about the address
        assert not server.connects
        assert client.say("XCLIENT ADDR=198.51.100.7 NAME=Client.Example PORT=99") == GREETING
        assert [
            (info["remote_address"], info["remote_port"], info["client_hostname"]) for info in server.connects
        ] == [("198.51.100.7", 99, "client.example")]
        assert "XCLIENT" not in client.say("EHLO a")
        assert client.say("XCLIENT NAME=x") == NOT_ALLOWED
        assert client.say("MAIL FROM:<a@x>") == "250 2.1.0 Accepted"
        assert len(diary.connected) == len(server.connects) == 1
        assert diary.connected[0][0] == "127.0.0.1"  # on_connect was asked before


def test_connect_comes_with_the_first_mail_when_xclient_does_not(runtime: Runtime) -> None:
    with running(runtime, use_xclient=True) as server, server.client().greeted() as client:
        assert client.say("NOOP") == "250 2.0.0 OK"
        assert not server.connects
        client.say("MAIL FROM:<a@x>")
        assert server.connects[0]["host_name_appears_as"] == "client.test"
        client.say("RSET", "MAIL FROM:<a@x>")
        assert len(server.connects) == 1


@pytest.mark.parametrize("allowed", [False, ["192.0.2.1", "2001:db8::/32"]], ids=["nobody", "others"])
def test_xclient_is_not_for_everybody(runtime: Runtime, allowed: Any) -> None:
    with running(runtime, use_xclient=allowed, use_xforward=allowed) as server:
        with server.client().greeted() as client:
            assert server.connects[0]["remote_address"] == "127.0.0.1"  # nothing to wait for
            ehlo = client.say("EHLO a")
            assert "XCLIENT" not in ehlo
            assert "XFORWARD" not in ehlo
            assert client.say("XCLIENT ADDR=198.51.100.7") == NOT_ALLOWED
            assert client.say("XFORWARD ADDR=198.51.100.7") == NOT_ALLOWED
            (session,) = server.server.sessions
            assert session.remote_address == "127.0.0.1"


@pytest.mark.parametrize("option", ["use_xclient", "use_xforward"])
def test_behind_proxy_the_address_of_the_header_is_judged(runtime: Runtime, option: str) -> None:
    command = option.removeprefix("use_").upper()
    options: dict[str, Any] = {"use_proxy": True, option: ["198.51.100.0/24"]}
    with running(runtime, **options) as server:
        with begun(server, V1) as client:
            assert command in client.greeted().say("EHLO a")
        with begun(server, V1_6) as client:
            assert command not in client.greeted().say("EHLO a")
            assert client.say(f"{command} ADDR=198.51.100.7") == NOT_ALLOWED


@pytest.mark.parametrize("known", [True, False])
def test_xclient_login_asks_on_auth(runtime: Runtime, known: bool) -> None:
    asked: list[object] = []

    def on_auth(auth: Any, _session: object) -> Hook:
        asked.append((auth.method, auth.username, auth.password))
        yield runtime.pause(0)
        return known and auth.username

    with running(runtime, use_xclient=True, on_auth=on_auth) as server, server.client().greeted() as client:
        client.send(b"XCLIENT LOGIN=ann\r\n")
        if known:
            assert client.reply() == GREETING
            (session,) = server.server.sessions
            assert session.user == "ann"
        else:
            assert client.replies() == ["550 5.7.8 Authentication credentials invalid"]
    assert asked == [("XCLIENT", "ann", None)]


# --- XFORWARD -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("allowed", [True, ["127.0.0.0/8"]], ids=["anybody", "listed"])
def test_xforward_is_for_the_application_and_lasts_for_a_message(runtime: Runtime, allowed: Any) -> None:
    seen: list[object] = []

    def on_data(stream: Any, session: Session) -> Hook:
        yield stream.read()
        seen.append((session.xforward.get("ADDR"), session.remote_address))

    with running(runtime, use_xforward=allowed, on_data=on_data) as server:
        with server.client().greeted() as client:
            assert "XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE" in client.say("EHLO a")
            assert client.say("XFORWARD ADDR=198.51.100.7 NAME=[UNAVAILABLE]") == "250 2.0.0 OK"
            for _ in range(2):
                client.send(DATA + b"hi\r\n.\r\n")
                assert replies(client, 4)[3].startswith("250 ")
            assert len(server.connects) == 1
    assert seen == [("198.51.100.7", "127.0.0.1"), (None, "127.0.0.1")]


# --- reverse lookup -----------------------------------------------------------------------------------


class Resolver:
    """Answers always the same; a coroutine function, or a plain one."""

    def __init__(self, runtime: Runtime, answer: Any, *, coroutine: bool) -> None:
        self.runtime: Runtime = runtime
        self.answer: Any = answer
        self.asked: list[str] = []
        self.reverse: Callable[[str], Any] = runtime.coloured(self.ask) if coroutine else self.look_up

    def ask(self, ip: str) -> Hook:
        yield self.runtime.pause(0)
        return self.look_up(ip)

    def look_up(self, ip: str) -> Any:
        self.asked.append(ip)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.fixture(params=["coroutine", "plain"])
def coroutine(request: pytest.FixtureRequest, runtime: Runtime) -> bool:
    if request.param == "coroutine" and not runtime.coroutines:
        pytest.skip("it has none")
    return bool(request.param == "coroutine")


def test_the_first_name_that_a_resolver_gives_is_the_clients(runtime: Runtime, coroutine: bool) -> None:
    resolver = Resolver(runtime, ["mail.client.test", "other.test"], coroutine=coroutine)
    options: dict[str, Any] = {"disable_reverse_lookup": False, "resolver": resolver, "use_proxy": True}
    with running(runtime, **options) as server, server.client() as client:
        client.send(V1)
        assert client.reply() == GREETING
        assert client.say("HELO a") == "250 mx.test Nice to meet you, mail.client.test"
        (session,) = server.server.sessions
        assert session.client_hostname == "mail.client.test"
        assert server.connects[0]["client_hostname"] == "mail.client.test"
    assert resolver.asked == ["198.51.100.7"]


def test_without_a_usable_name_it_is_the_address(runtime: Runtime, coroutine: bool) -> None:
    resolver = Resolver(runtime, None, coroutine=coroutine)
    answers: list[Any] = [[], None, ["two words"], ["b\u00fccher.test"], [""], "a.test", OSError("no DNS")]
    answers += [SystemExit(), GeneratorExit()]
    with running(runtime, disable_reverse_lookup=False, resolver=resolver) as server:
        for answer in answers:
            resolver.answer = answer
            with server.client() as client:
                assert client.reply() == GREETING
                assert client.say("HELO a") == "250 mx.test Nice to meet you, [127.0.0.1]"
        assert not server.errors
    assert resolver.asked == ["127.0.0.1"] * len(answers)


def test_a_resolver_is_not_asked_where_there_is_nothing_to_look_up(
    runtime: Runtime, coroutine: bool, tmp_path: Path
) -> None:
    resolver = Resolver(runtime, ["mail.client.test"], coroutine=coroutine)
    with running(runtime, resolver=resolver) as server, server.client() as client:  # it is disabled
        assert client.greeted().say("HELO a").endswith(" [127.0.0.1]")
    with running(runtime, disable_reverse_lookup=False, resolver=resolver, listen=False) as server:
        server.call(lambda: server.server.listen(path=str(tmp_path / "mx")))
        with Client(path=str(tmp_path / "mx")) as client:
            assert client.greeted().say("HELO a").endswith(" [local]")
    assert resolver.asked == []


def test_without_a_resolver_the_system_is_asked(runtime: Runtime) -> None:
    expected = "[127.0.0.1]"
    with contextlib.suppress(OSError):
        expected = socket.getnameinfo(("127.0.0.1", 0), socket.NI_NAMEREQD)[0]
    options: dict[str, Any] = {"disable_reverse_lookup": False, "reverse_lookup_timeout": None}
    with running(runtime, **options) as server, server.client() as client:
        assert client.reply() == GREETING
        assert client.say("HELO a") == f"250 mx.test Nice to meet you, {expected}"
