# PROXY, XCLIENT and XFORWARD over real sockets: who the client is said to be, and when that counts.

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest

from smtpproto_kit import DATA, Client, running, wait_until

if TYPE_CHECKING:
    from collections.abc import Generator

    from smtpproto import Session
    from smtpproto_kit import Runtime

    Hook = Generator[Any, Any, Any]

V1 = b"PROXY TCP4 198.51.100.7 203.0.113.9 40000 25\r\n"
V1_6 = b"PROXY TCP6 2001:db8::7 2001:db8::9 40000 25\r\n"
UNKNOWN = b"PROXY UNKNOWN whatever\r\n"
V2 = (
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c"
    + socket.inet_aton("198.51.100.7") + socket.inet_aton("203.0.113.9") + b"\x9c\x40\x00\x19"
)  # fmt: skip
LOCAL = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"
GREETING = "220 mx.test ESMTP"


class Sessions:
    """Those that on_connect has seen, with the address they had then."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []
        self.sessions: list[Session] = []

    def __call__(self, session: Session) -> None:
        self.sessions.append(session)
        self.seen.append((session.remote_address, session.remote_port))


def begun(server: Any, header: bytes, *, secure: bool) -> Client:
    client: Client = server.client()
    client.send(header)
    if secure:
        client.start_tls()
    return client


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
)
def test_the_header_says_who_the_client_is(
    runtime: Runtime, secure: bool, header: bytes, source: tuple[str, int] | None
) -> None:
    sessions = Sessions()
    with running(runtime, use_proxy=True, secure=secure, on_connect=sessions) as server:
        with begun(server, header, secure=secure) as client:
            own: tuple[str, int] = client.sock.getsockname()
            assert client.reply() == GREETING
            assert client.say("NOOP") == "250 2.0.0 OK"
            assert sessions.seen == [source or own]
            (session,) = sessions.sessions
            assert (session.local_address, session.local_port) == ("127.0.0.1", server.port)
            assert session.proxy is not None
            assert session.client_hostname == f"[{(source or own)[0]}]"
            assert server.connects[0]["remote_address"] == (source or own)[0]


@pytest.mark.parametrize("header", [V1, V2])
def test_a_header_octet_by_octet_is_a_header(runtime: Runtime, header: bytes) -> None:
    with running(runtime, use_proxy=True) as server, server.client() as client:
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(header)):
            client.send(header[at : at + 1])
        assert client.reply() == GREETING
        assert server.connects[0]["remote_address"] == "198.51.100.7"


@pytest.mark.parametrize("secure", [True, False])
@pytest.mark.parametrize(
    "said", [b"EHLO a\r\n", b"proxy TCP4 1.2.3.4 1.2.3.4 1 1\r\n", b"PROXY x\r\n", b"\r\n"]
)
def test_anything_else_is_closed_without_a_reply(runtime: Runtime, secure: bool, said: bytes) -> None:
    sessions = Sessions()
    closed: list[object] = []

    def on_close(session: object) -> None:
        closed.append(session)

    with running(runtime, use_proxy=True, secure=secure, on_connect=sessions, on_close=on_close) as server:
        with server.client() as client:
            client.send(said)
            client.end()
            assert client.rest() == b""
        wait_until(lambda: closed)
        assert not sessions.seen
        assert not server.connects
        assert [info["stage"] for _, info in server.errors] == (["proxy"] if said != b"\r\n" else [])


def test_only_those_on_the_list_send_a_header(runtime: Runtime) -> None:
    with running(runtime, use_proxy=["192.0.2.0/24"]) as server, server.client() as client:
        assert client.reply() == GREETING
        assert client.say(V1.decode().strip()) == "500 5.5.2 Error: command not recognized"
    with running(runtime, use_proxy=["127.0.0.0/8"]) as server, server.client() as client:
        client.send(V1)
        assert client.reply() == GREETING
        assert client.say(V1.decode().strip()) == "500 5.5.2 Error: command not recognized"


def test_talk_right_behind_the_header_is_too_soon(runtime: Runtime) -> None:
    with running(runtime, use_proxy=True) as server, server.client() as client:
        client.send(V1 + b"EHLO a\r\n")
        assert client.replies() == ["421 mx.test You talk too soon"]


def test_a_hello_of_tls_right_behind_the_header_is_taken(runtime: Runtime) -> None:
    with running(runtime, use_proxy=True, secure=True) as server, server.client() as client:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        tls = context.wrap_bio(incoming, outgoing)
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        client.send(V2 + outgoing.read())
        done = False
        while not done:
            incoming.write(client.sock.recv(65536))
            try:
                tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                pass
        client.send(outgoing.read())
        incoming.write(client.sock.recv(65536))
        while not incoming.pending:
            incoming.write(client.sock.recv(65536))
        try:
            assert tls.read(100) == GREETING.encode() + b"\r\n"
        except ssl.SSLWantReadError:  # session tickets came first
            incoming.write(client.sock.recv(65536))
            assert tls.read(100) == GREETING.encode() + b"\r\n"


def test_max_clients_counts_those_in_the_header(runtime: Runtime) -> None:
    with running(runtime, use_proxy=True, max_clients=1) as server, server.client():
        wait_until(lambda: server.server.connections)
        with server.client() as surplus:
            surplus.send(V1)
            assert surplus.replies() == ["421 mx.test Too many connected clients, try again in a moment"]


def test_who_is_secured_upstream_is_secure(runtime: Runtime) -> None:
    asked: list[object] = []
    with (
        running(runtime, use_proxy=True, secured=True, on_secure=asked.append) as server,
        server.client() as client,
    ):
        client.send(V1)
        client.greeted()
        assert client.say("STARTTLS") == "503 5.5.1 Error: TLS already active"
        (session,) = server.server.connections
        assert session.secure
    assert not asked


# --- XCLIENT and XFORWARD -----------------------------------------------------------------------------


def test_xclient_says_who_the_client_is_and_connect_waits_for_it(runtime: Runtime) -> None:
    sessions = Sessions()
    with (
        running(runtime, use_xclient=["127.0.0.1"], on_connect=sessions) as server,
        server.client() as client,
    ):
        assert "XCLIENT NAME ADDR PORT PROTO HELO LOGIN" in client.greeted().say("EHLO a")
        assert not server.connects
        assert client.say("XCLIENT ADDR=198.51.100.7 NAME=Client.Example PORT=99") == GREETING
        assert [
            (info["remote_address"], info["remote_port"], info["client_hostname"]) for info in server.connects
        ] == [("198.51.100.7", 99, "client.example")]
        assert "XCLIENT" not in client.say("EHLO a")
        assert client.say("XCLIENT NAME=x") == "550 5.7.0 Error: Not allowed"
        assert client.say("MAIL FROM:<a@x>") == "250 2.1.0 Accepted"
    assert len(sessions.seen) == len(server.connects) == 1


def test_connect_comes_with_the_first_mail_when_xclient_does_not(runtime: Runtime) -> None:
    with running(runtime, use_xclient=True) as server, server.client().greeted() as client:
        assert not server.connects
        client.say("MAIL FROM:<a@x>")
        wait_until(lambda: server.connects)
        assert server.connects[0]["host_name_appears_as"] == "client.test"
        client.say("RSET")
        client.say("MAIL FROM:<a@x>")
    assert len(server.connects) == 1


def test_xclient_is_not_for_everybody(runtime: Runtime) -> None:
    for allowed in (False, ["192.0.2.1"]):
        with (
            running(runtime, use_xclient=allowed, use_xforward=allowed) as server,
            server.client().greeted() as client,
        ):
            assert client.say("XCLIENT ADDR=198.51.100.7") == "550 5.7.0 Error: Not allowed"
            assert client.say("XFORWARD ADDR=198.51.100.7") == "550 5.7.0 Error: Not allowed"
            assert server.connects[0]["remote_address"] == "127.0.0.1"


def test_behind_proxy_the_address_of_the_header_is_judged(runtime: Runtime) -> None:
    with running(runtime, use_proxy=True, use_xclient=["198.51.100.7"]) as server:
        with server.client() as client:
            client.send(V1)
            assert "XCLIENT" in client.greeted().say("EHLO a")
        with server.client() as client:
            client.send(V1_6)
            assert "XCLIENT" not in client.greeted().say("EHLO a")


@pytest.mark.parametrize("known", [True, False])
def test_xclient_login_asks_on_auth(runtime: Runtime, known: bool) -> None:
    def on_auth(auth: Any, _session: object) -> object:
        assert (auth.method, auth.password) == ("XCLIENT", None)
        return known and auth.username

    with running(runtime, use_xclient=True, on_auth=on_auth) as server, server.client().greeted() as client:
        client.send(b"XCLIENT LOGIN=ann\r\n")
        if known:
            assert client.reply() == GREETING
            (session,) = server.server.connections
            assert session.user == "ann"
        else:
            assert client.replies() == ["550 5.7.8 Authentication credentials invalid"]


def test_xforward_is_for_the_application_and_lasts_for_a_message(runtime: Runtime) -> None:
    seen: list[object] = []

    def on_data(stream: Any, session: Session) -> Hook:
        yield stream.read()
        seen.append((session.x_forward.get("ADDR"), session.remote_address))

    with running(runtime, use_xforward=True, on_data=on_data) as server, server.client().greeted() as client:
        assert client.say("XFORWARD ADDR=198.51.100.7 NAME=[UNAVAILABLE]") == "250 2.0.0 OK"
        for _ in range(2):
            client.send(DATA + b"hi\r\n.\r\n")
            assert [client.reply() for _ in range(4)][3].startswith("250 ")
    assert seen == [("198.51.100.7", "127.0.0.1"), (None, "127.0.0.1")]
