# TLS over real sockets: STARTTLS and implicit, whose certificate is shown, and what goes wrong.

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any, Final

import pytest
import trustme

from smtpproto import Reject
from smtpproto_kit import DATA, DEADLINE, Client, Running, running, wait_until
from smtpproto_server import StreamAborted

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from smtpproto import Session
    from smtpproto_kit import Runtime

    Hook = Generator[Any, Any, Any]

modes = pytest.mark.parametrize("secure", [True, False], ids=["implicit", "STARTTLS"])
EC: Final = trustme.KeyType.ECDSA
AUTHORITY: Final = trustme.CA(key_type=EC)


@functools.cache
def options_for(*names: str) -> dict[str, Any]:
    """Certificate and key of these names, as options."""
    leaf = AUTHORITY.issue_cert(*names, key_type=EC)
    chain = b"".join(pem.bytes() for pem in leaf.cert_chain_pems)
    return {"cert": chain, "key": leaf.private_key_pem.bytes()}


def trusting(identity: str | None = None, directory: Path | None = None) -> ssl.SSLContext:
    """A client's context that trusts AUTHORITY; with a certificate of its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=AUTHORITY.cert_pem.bytes().decode())
    if identity is not None and directory is not None:
        pem = directory / "identity.pem"
        AUTHORITY.issue_cert(identity, key_type=EC).private_key_and_cert_chain_pem.write_to_path(str(pem))
        context.load_cert_chain(pem)
    return context


def upgraded(
    server: Running, secure: bool, context: ssl.SSLContext | None = None, name: str = "mx.test"
) -> Client:
    """A client under TLS, greeted, in either mode."""
    client = server.client()
    try:
        if secure:
            client.start_tls(context or trusting(), name)
            assert client.reply() == "220 mx.test ESMTP"
        else:
            assert "STARTTLS" in client.greeted().say("EHLO a")
            assert client.say("STARTTLS") == "220 2.0.0 Ready to start TLS"
            client.start_tls(context or trusting(), name)
    except BaseException:
        client.close()
        raise
    return client


@modes
def test_a_message_is_delivered_over_tls(runtime: Runtime, secure: bool) -> None:
    body, got = b"x" * 70 + b"\r\n", list[bytes]()

    def on_data(stream: Any, session: Session) -> Hook:
        assert session.transmission_type == "ESMTPS"
        got.append((yield stream.read()))

    with running(runtime, secure=secure, on_data=on_data, **options_for("mx.test")) as server:
        with upgraded(server, secure) as client:
            ehlo = client.say("EHLO client.test")
            assert "STARTTLS" not in ehlo
            assert "AUTH PLAIN LOGIN" in ehlo
            client.send(DATA + body * 10_000 + b".\r\n")
            assert [client.reply() for _ in range(4)][3] == "250 2.6.0 OK: message queued"
            assert client.say("STARTTLS") == "503 5.5.1 Error: TLS already active"
            assert client.say("QUIT") == "221 2.0.0 Bye"
            assert client.sock.recv(1) == b""  # an end with close_notify, or this would raise
    assert got == [body * 10_000]
    assert not server.errors


@modes
def test_the_session_tells_of_tls_and_on_secure_gets_the_ssl_object(runtime: Runtime, secure: bool) -> None:
    seen: list[tuple[Any, Session]] = []

    def on_secure(ssl_object: Any, session: Session) -> None:
        seen.append((ssl_object, session))

    def on_close(session: Session) -> None:
        sessions.append(session)

    sessions: list[Session] = []
    tls = options_for("mx.test")
    with running(runtime, secure=secure, on_secure=on_secure, on_close=on_close, **tls) as server:
        with upgraded(server, secure) as client:
            assert client.say("NOOP") == "250 2.0.0 OK"
            ((ssl_object, session),) = seen
            assert isinstance(ssl_object, ssl.SSLObject)
            assert session.secure
            assert session.servername == "mx.test"
            assert session.tls_options is not None
            assert session.tls_options["version"] == client.sock.version() == ssl_object.version()  # type: ignore[attr-defined]
            assert session.tls_options["name"] == client.sock.cipher()[0]  # type: ignore[attr-defined]
            assert session.peer_certificate is None
        with server.client() as plain:
            plain.close()
        wait_until(lambda: len(sessions) == 2)
    assert sum(session.secure for session in sessions) == 1


@modes
def test_on_secure_may_refuse(runtime: Runtime, secure: bool) -> None:
    def on_secure(*_: object) -> Reject:
        return Reject(text="not like this")

    with running(runtime, secure=secure, on_secure=on_secure, **options_for("mx.test")) as server:
        with server.client() as client:
            if not secure:
                client.greeted().say("STARTTLS")
            client.start_tls(trusting(), "mx.test")
            assert client.replies() == ["554 not like this" if secure else "554 5.7.1 not like this"]


@modes
def test_each_name_gets_its_certificate(runtime: Runtime, secure: bool) -> None:
    names = {"shop.test": options_for("shop.test"), "xn--bcher-kva.test": options_for("xn--bcher-kva.test")}
    with running(runtime, secure=secure, sni_options=names, **options_for("mx.test")) as server:
        for name in ("shop.test", "xn--bcher-kva.test", "mx.test"):
            with upgraded(server, secure, name=name) as client:
                assert client.say("NOOP") == "250 2.0.0 OK"
                (session,) = server.server.connections
                assert session.servername == name
                assert client.say("QUIT") == "221 2.0.0 Bye"
                client.rest()
            wait_until(lambda: not server.server.connections)
        with pytest.raises(ssl.SSLCertVerificationError):
            upgraded(server, secure, name="other.test")
        wait_until(lambda: server.errors)


@modes
@pytest.mark.parametrize("reject", [True, False])
def test_client_certificates(runtime: Runtime, secure: bool, reject: bool, tmp_path: Path) -> None:
    asked: dict[str, Any] = {
        "request_cert": True,
        "reject_unauthorized": reject,
        "ca": AUTHORITY.cert_pem.bytes(),
    }
    with running(runtime, secure=secure, **asked, **options_for("mx.test")) as server:
        with upgraded(server, secure, trusting("user@mx.test", tmp_path)) as client:
            assert client.say("NOOP") == "250 2.0.0 OK"
            (session,) = server.server.connections
            assert session.peer_certificate is not None
            assert ("email", "user@mx.test") in session.peer_certificate["subjectAltName"]
        wait_until(lambda: not server.server.connections)
        if reject:
            with (
                contextlib.suppress(ssl.SSLError, OSError, AssertionError),
                upgraded(server, secure) as client,
            ):
                assert not client.say("NOOP")
            wait_until(lambda: server.errors)
            assert server.errors[0][1]["stage"] == "tls"
        else:
            with upgraded(server, secure) as client:
                assert client.say("NOOP") == "250 2.0.0 OK"
                (session,) = server.server.connections
                assert session.peer_certificate is None


@modes
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions_have_limits(runtime: Runtime, secure: bool, version: ssl.TLSVersion) -> None:
    own, other = ("TLSv1.2", "TLSv1.3") if version is ssl.TLSVersion.TLSv1_2 else ("TLSv1.3", "TLSv1.2")
    context = trusting()
    context.minimum_version = context.maximum_version = version
    tls = options_for("mx.test")
    with running(runtime, secure=secure, min_version=own, max_version=own, **tls) as server:
        with upgraded(server, secure, context) as client:
            assert client.say("NOOP") == "250 2.0.0 OK"
            assert client.sock.version() == own  # type: ignore[attr-defined]
    with running(runtime, secure=secure, min_version=other, max_version=other, **tls) as server:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            upgraded(server, secure, context)
        wait_until(lambda: server.errors)
        assert server.errors[0][1]["stage"] == "tls"


# --- what goes wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize("behind", [b"x", b"EHLO a\r\n", b"MAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\n"])
def test_plaintext_behind_starttls_is_refused_and_nothing_of_it_runs(runtime: Runtime, behind: bytes) -> None:
    asked: list[object] = []

    def on_mail_from(*args: object) -> None:
        asked.append(args)

    with running(runtime, on_mail_from=on_mail_from) as server, server.client().greeted() as client:
        client.send(b"STARTTLS\r\n" + behind)
        assert client.replies() == ["554 5.5.0 Error: data after STARTTLS"]
        assert not asked


@pytest.mark.parametrize(
    "said", [b"EHLO a\r\n", b"GET / HTTP/1.0\r\n\r\n", bytes(range(256)) * 20, b"\x16\x03\x01\xff\xff"]
)
@modes
def test_garbage_in_place_of_a_handshake_closes_without_a_reply(
    runtime: Runtime, secure: bool, said: bytes
) -> None:
    with running(runtime, secure=secure) as server, server.client() as client:
        if not secure:
            client.greeted().say("STARTTLS")
        client.send(said)
        client.end()
        answer = client.rest()
        assert not answer or answer[0] == 0x15  # an alert of TLS at most
        wait_until(lambda: server.errors)
        assert [info["stage"] for _, info in server.errors] == ["tls"]
        wait_until(lambda: not server.server.connections)


@pytest.mark.parametrize("polite", [True, False])
@pytest.mark.parametrize("coloured", [True, False])
def test_an_end_within_a_message_is_a_lost_connection(runtime: Runtime, polite: bool, coloured: bool) -> None:
    seen: list[object] = []

    def on_data(stream: Any, _session: object) -> Hook:
        try:
            seen.append((yield stream.read()))
        except StreamAborted as aborted:
            seen.append(aborted.reason)

    def on_data_plain(stream: Any, _session: object) -> None:
        try:
            seen.append(stream.read())
        except StreamAborted as aborted:
            seen.append(aborted.reason)

    with running(runtime, secure=True, on_data=on_data if coloured else on_data_plain) as server:
        with server.client(tls=True).greeted() as client:
            client.send(DATA + b"half a mess")
            assert [client.reply() for _ in range(3)][2].startswith("354 ")
            if polite:
                assert isinstance(client.sock, ssl.SSLSocket)
                client.sock = client.sock.unwrap()
            else:
                client.end()
            wait_until(lambda: seen)
            wait_until(lambda: not server.server.connections)
    assert seen == ["connection_lost"]


def test_talk_before_the_greeting_is_noticed_under_tls(runtime: Runtime) -> None:
    with running(runtime, secure=True, early_talker_delay=60) as server, server.client() as client:
        client.start_tls()
        client.send(b"EHLO a\r\n")
        assert client.replies() == ["421 mx.test You talk too soon"]


def test_a_client_that_goes_away_in_the_handshake_is_an_error_and_no_more(runtime: Runtime) -> None:
    with running(runtime, secure=True) as server:
        for said in (b"", b"\x16\x03\x01"):
            with server.client() as client:
                client.send(said)
        wait_until(lambda: len(server.errors) == 2)
        assert {info["stage"] for _, info in server.errors} == {"tls"}
        wait_until(lambda: not server.server.connections)


# --- contexts ---------------------------------------------------------------------------------------


def test_new_contexts_are_used_by_later_handshakes_and_running_ones_stay(runtime: Runtime) -> None:
    def certificate(client: Client) -> Any:
        assert isinstance(client.sock, ssl.SSLSocket)
        return client.sock.getpeercert(binary_form=True)

    with (
        running(runtime, secure=True, **options_for("mx.test")) as server,
        upgraded(server, secure=True) as first,
    ):
        fresh = AUTHORITY.issue_cert("mx.test", key_type=EC)
        server.server.update_secure_context(cert=fresh.private_key_and_cert_chain_pem.bytes(), key=None)
        with upgraded(server, secure=True) as second:
            assert certificate(second) != certificate(first)
            assert first.say("NOOP") == second.say("NOOP") == "250 2.0.0 OK"


def test_many_handshakes_at_a_time(runtime: Runtime) -> None:
    with running(runtime, secure=True) as server:
        replies: list[str] = []

        def talk() -> None:
            with Client(server.port, tls=True) as client:
                client.greeted()
                replies.append(client.say("QUIT"))

        threads = [threading.Thread(target=talk) for _ in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        assert replies == ["221 2.0.0 Bye"] * 30


def test_a_record_octet_by_octet_is_a_record(runtime: Runtime) -> None:
    with running(runtime, secure=True) as server, server.client() as client:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        tls = context.wrap_bio(incoming, outgoing)
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def exchange(step: Any) -> Any:
            while True:
                with contextlib.suppress(ssl.SSLWantReadError):
                    result = step()
                    drip(client, outgoing.read())
                    return result
                drip(client, outgoing.read())
                incoming.write(client.sock.recv(65536))

        exchange(tls.do_handshake)
        assert exchange(lambda: tls.read(100)) == b"220 mx.test ESMTP\r\n"
        exchange(lambda: tls.write(b"NOOP\r\nQUIT\r\n"))
        assert exchange(lambda: tls.read(100)) == b"250 2.0.0 OK\r\n"
        assert exchange(lambda: tls.read(100)) == b"221 2.0.0 Bye\r\n"


def drip(client: Client, octets: bytes) -> None:
    for at in range(len(octets)):
        client.send(octets[at : at + 1])
