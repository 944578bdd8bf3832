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
from cryptography import x509

from smtpproto import ConfigurationError, Reject
from smtpproto_kit import DATA, DEADLINE, Client, Running, running, wait_until
from smtpproto_kit._stage import without_tls
from smtpproto_kit.cases._colours import QUEUED, both, replies
from smtpproto_server import StreamAborted

if TYPE_CHECKING:
    from pathlib import Path

    from smtpproto import Session
    from smtpproto_kit import Runtime
    from smtpproto_kit.cases._colours import Colour, Hook

modes: Final = pytest.mark.parametrize("secure", [True, False], ids=["implicit", "STARTTLS"])
GREETING: Final = "220 mx.test ESMTP"
OK: Final = "250 2.0.0 OK"
EC: Final = trustme.KeyType.ECDSA
AUTHORITY: Final = trustme.CA(key_type=EC)
STRANGER: Final = trustme.CA(key_type=EC)  # nobody trusts it


@functools.cache
def options_for(*names: str) -> dict[str, Any]:
    """Certificate and key of these names, as options."""
    return fresh(*names)


def fresh(*names: str) -> dict[str, Any]:
    """The same with a certificate that was not there before."""
    leaf = AUTHORITY.issue_cert(*names, key_type=EC)
    chain = b"".join(pem.bytes() for pem in leaf.cert_chain_pems)
    return {"cert": chain, "key": leaf.private_key_pem.bytes()}


def server_context(*names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    show(context, AUTHORITY.issue_cert(*names, key_type=EC))
    return context


def show(context: ssl.SSLContext, leaf: trustme.LeafCert) -> None:
    """Let it show this certificate."""
    leaf.configure_cert(context)  # pyright: ignore[reportUnknownMemberType] - it names pyOpenSSL's types, too


def trusting(identity: str | None = None, issuer: trustme.CA = AUTHORITY) -> ssl.SSLContext:
    """A client's context that trusts AUTHORITY; with a certificate of its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=AUTHORITY.cert_pem.bytes().decode())
    if identity is not None:
        show(context, issuer.issue_cert(identity, key_type=EC))
    return context


def upgraded(
    server: Running, secure: bool, context: ssl.SSLContext | None = None, name: str = "mx.test"
) -> Client:
    """A client under TLS, greeted, in either mode."""
    client = server.client()
    try:
        if secure:
            client.start_tls(context or trusting(), name)
            assert client.reply() == GREETING
        else:
            assert "STARTTLS" in client.greeted().say("EHLO a")
            assert client.say("STARTTLS") == "220 2.0.0 Ready to start TLS"
            client.start_tls(context or trusting(), name)
    except BaseException:
        client.close()
        raise
    return client


def tls_of(client: Client) -> ssl.SSLSocket:
    assert isinstance(client.sock, ssl.SSLSocket)
    return client.sock


def certificate(client: Client) -> bytes:
    """What the server has shown."""
    shown = tls_of(client).getpeercert(binary_form=True)
    assert shown is not None
    return shown


# --- what goes well -----------------------------------------------------------------------------------


@modes
def test_a_message_is_delivered_over_tls(runtime: Runtime, secure: bool) -> None:
    body = b"x" * 70 + b"\r\n"
    got: list[object] = []

    def on_data(stream: Any, session: Session) -> Hook:
        got.extend((session.transmission_type, (yield stream.read())))

    with running(runtime, secure=secure, on_data=on_data, **options_for("mx.test")) as server:
        with upgraded(server, secure) as client:
            ehlo = client.say("EHLO client.test")
            assert "STARTTLS" not in ehlo
            assert "AUTH PLAIN LOGIN" in ehlo
            client.send(DATA + body * 10_000 + b".\r\n")
            assert replies(client, 4)[3] == QUEUED
            assert client.say("STARTTLS") == "503 5.5.1 Error: TLS already active"
            assert client.say("QUIT") == "221 2.0.0 Bye"
            assert client.sock.recv(1) == b""  # an end with close_notify, or this would raise
        assert not server.errors
    assert got == ["ESMTPS", body * 10_000]


@modes
def test_the_session_tells_of_tls_and_on_secure_gets_the_ssl_object(runtime: Runtime, secure: bool) -> None:
    seen: list[tuple[Any, Session]] = []
    closed: list[Session] = []

    def on_secure(ssl_object: Any, session: Session) -> Hook:
        yield runtime.pause(0)
        seen.append((ssl_object, session))

    def on_close(session: Session) -> Hook:
        yield runtime.pause(0)
        closed.append(session)

    hooks: dict[str, Any] = {"on_secure": on_secure, "on_close": on_close}
    with running(runtime, secure=secure, **hooks, **options_for("mx.test")) as server:
        with upgraded(server, secure) as client:
            assert client.say("NOOP") == OK
            ((ssl_object, session),) = seen
            assert isinstance(ssl_object, ssl.SSLObject)
            assert session.secure
            assert session.servername == "mx.test"
            assert session.tls_options is not None
            assert session.tls_options["version"] == tls_of(client).version() == ssl_object.version()
            cipher = tls_of(client).cipher()
            assert cipher is not None
            assert session.tls_options["name"] == cipher[0]
            assert session.peer_certificate is None
        with server.client() as plain:
            plain.close()
        wait_until(lambda: len(closed) == 2)
    assert sum(session.secure for session in closed) == 1
    assert len(seen) == 1


@modes
def test_on_secure_may_refuse(runtime: Runtime, secure: bool) -> None:
    def on_secure(*_: object) -> Hook:
        yield runtime.pause(0)
        return Reject(text="not like this")

    with running(runtime, secure=secure, on_secure=on_secure, **options_for("mx.test")) as server:
        with server.client() as client:
            if not secure:
                client.greeted().say("STARTTLS")
            client.start_tls(trusting(), "mx.test")
            assert client.replies() == ["554 not like this" if secure else "554 5.7.1 not like this"]


@modes
def test_each_name_gets_its_certificate(runtime: Runtime, secure: bool) -> None:
    names: dict[str, Any] = {
        "shop.test": options_for("shop.test"),
        "bücher.test": options_for("xn--bcher-kva.test"),
        "own.test": server_context("own.test"),
    }
    with running(runtime, secure=secure, sni_options=names, **options_for("mx.test")) as server:
        for name in ("shop.test", "xn--bcher-kva.test", "own.test", "mx.test"):
            with upgraded(server, secure, name=name) as client:
                assert client.say("NOOP") == OK
                (session,) = server.server.sessions
                assert session.servername == name
                assert client.say("QUIT") == "221 2.0.0 Bye"
                client.rest()
            wait_until(lambda: not server.server.sessions)
        assert not server.errors
        with pytest.raises(ssl.SSLCertVerificationError):
            upgraded(server, secure, name="other.test")
        wait_until(lambda: server.errors)


@modes
def test_without_a_name_the_default_certificate_is_shown(runtime: Runtime, secure: bool) -> None:
    names = {"shop.test": options_for("shop.test")}
    context = trusting()
    context.check_hostname = False
    with running(runtime, secure=secure, sni_options=names, **options_for("mx.test")) as server:
        with server.client() as client:
            if not secure:
                client.greeted().say("STARTTLS")
            client.sock = context.wrap_socket(client.sock)
            assert x509.load_der_x509_certificate(certificate(client)) == x509.load_pem_x509_certificate(
                options_for("mx.test")["cert"]
            )


@modes
@pytest.mark.parametrize("reject", [True, False])
def test_client_certificates(runtime: Runtime, secure: bool, reject: bool) -> None:
    asked: dict[str, Any] = {
        "request_cert": True,
        "reject_unauthorized": reject,
        "ca": AUTHORITY.cert_pem.bytes(),
    }
    with running(runtime, secure=secure, **asked, **options_for("mx.test")) as server:

        def is_refused(context: ssl.SSLContext) -> None:
            before = len(server.errors)
            with contextlib.suppress(OSError), server.client() as client:  # its alert, or a reset
                if not secure:
                    client.greeted().say("STARTTLS")
                client.start_tls(context, "mx.test")
                assert client.replies() == []
            wait_until(lambda: len(server.errors) > before)
            assert server.errors[-1][1]["stage"] == "tls"

        with upgraded(server, secure, trusting("user@mx.test")) as client:
            assert client.say("NOOP") == OK
            (session,) = server.server.sessions
            assert session.peer_certificate is not None
            assert ("email", "user@mx.test") in session.peer_certificate["subjectAltName"]
        wait_until(lambda: not server.server.sessions)
        is_refused(trusting("user@mx.test", STRANGER))
        if reject:
            is_refused(trusting())
        else:
            wait_until(lambda: not server.server.sessions)
            with upgraded(server, secure) as client:
                assert client.say("NOOP") == OK
                (session,) = server.server.sessions
                assert session.peer_certificate is None


@modes
@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_versions_have_limits(runtime: Runtime, secure: bool, version: str) -> None:
    other = "TLSv1.3" if version == "TLSv1.2" else "TLSv1.2"
    context = trusting()
    context.minimum_version = context.maximum_version = {
        "TLSv1.2": ssl.TLSVersion.TLSv1_2,
        "TLSv1.3": ssl.TLSVersion.TLSv1_3,
    }[version]
    tls = options_for("mx.test")
    with running(runtime, secure=secure, min_version=version, max_version=version, **tls) as server:
        with upgraded(server, secure, context) as client:
            assert client.say("NOOP") == OK
            assert tls_of(client).version() == version
    with running(runtime, secure=secure, min_version=other, max_version=other, **tls) as server:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            upgraded(server, secure, context)
        wait_until(lambda: server.errors)
        assert server.errors[0][1]["stage"] == "tls"


def test_many_handshakes_at_a_time(runtime: Runtime) -> None:
    with running(runtime, secure=True) as server:
        said: list[str] = []

        def talk() -> None:
            with server.client(tls=True) as client:
                said.append(client.greeted().say("QUIT"))

        threads = [threading.Thread(target=talk) for _ in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        assert said == ["221 2.0.0 Bye"] * 30


class Bare:
    """A client's TLS over a plain socket, whose octets can be seen."""

    def __init__(self, client: Client) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.client: Client = client
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls: ssl.SSLObject = context.wrap_bio(self.incoming, self.outgoing)
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def exchange(self, step: Any) -> Any:
        """Take a step, each octet of it in a segment of its own."""
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                result = step()
                self.drip()
                return result
            self.drip()
            octets = self.client.sock.recv(65536)
            assert octets, "the connection has ended"
            self.incoming.write(octets)

    def drip(self) -> None:
        octets = self.outgoing.read()
        for at in range(len(octets)):
            self.client.send(octets[at : at + 1])


def test_a_record_octet_by_octet_is_a_record(runtime: Runtime) -> None:
    with running(runtime, secure=True) as server, server.client() as client:
        bare = Bare(client)
        bare.exchange(bare.tls.do_handshake)
        assert bare.exchange(lambda: bare.tls.read(100)) == b"220 mx.test ESMTP\r\n"
        bare.exchange(lambda: bare.tls.write(b"NOOP\r\nQUIT\r\n"))
        assert bare.exchange(lambda: bare.tls.read(100)) == b"250 2.0.0 OK\r\n"
        assert bare.exchange(lambda: bare.tls.read(100)) == b"221 2.0.0 Bye\r\n"


# --- what goes wrong ----------------------------------------------------------------------------------


@pytest.mark.parametrize("behind", [b"x", b"EHLO a\r\n", b"MAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\n"])
def test_plaintext_behind_starttls_is_refused_and_nothing_of_it_runs(runtime: Runtime, behind: bytes) -> None:
    asked: list[object] = []

    def on_mail_from(*args: object) -> Hook:
        asked.append(args)
        yield runtime.pause(0)

    with running(runtime, on_mail_from=on_mail_from) as server, server.client().greeted() as client:
        client.send(b"STARTTLS\r\n" + behind)
        assert client.replies() == ["554 5.5.0 Error: data after STARTTLS"]
        assert not asked
        assert not server.errors


@modes
@pytest.mark.parametrize(
    "said",
    [b"EHLO a\r\n", b"GET / HTTP/1.0\r\n\r\n", bytes(range(256)) * 20, b"\x16\x03\x01\xff\xff"],
    ids=["SMTP", "HTTP", "noise", "a record too long"],
)
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
        ((_, info),) = server.errors
        assert info["stage"] == "tls"
        assert info["remote_address"] == "127.0.0.1"
        assert not info["session"].secure
        wait_until(lambda: not server.server.sessions)


@modes
def test_a_client_that_goes_away_in_the_handshake_is_an_error_and_no_more(
    runtime: Runtime, secure: bool
) -> None:
    closed: list[object] = []

    def on_close(session: object) -> Hook:
        closed.append(session)
        yield runtime.pause(0)

    with running(runtime, secure=secure, on_close=on_close) as server:
        for said in (b"", b"\x16\x03\x01"):
            with server.client() as client:
                if not secure:
                    client.greeted().say("STARTTLS")
                client.send(said)
        wait_until(lambda: len(server.errors) == 2)
        assert {info["stage"] for _, info in server.errors} == {"tls"}
        wait_until(lambda: len(closed) == 2)
        with upgraded(server, secure, anybody()) as client:
            assert client.say("NOOP") == OK


def anybody() -> ssl.SSLContext:
    """A client's context that trusts whoever answers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@both
@pytest.mark.parametrize("polite", [True, False], ids=["close_notify", "end of stream"])
def test_an_end_within_a_message_is_a_lost_connection(runtime: Runtime, polite: bool, colour: Colour) -> None:
    seen: list[object] = []

    def on_data(stream: Any, _session: object) -> Hook:
        try:
            seen.append((yield stream.read()))
        except StreamAborted as aborted:
            seen.append(aborted.reason)

    with running(runtime, secure=True, on_data=colour(on_data)) as server:
        with server.client(tls=True).greeted() as client:
            client.send(DATA + b"half a mess")
            assert replies(client, 3)[2].startswith("354 ")
            if polite:
                client.sock = tls_of(client).unwrap()
            else:
                client.end()
            wait_until(lambda: seen)
            wait_until(lambda: not server.server.sessions)
    assert seen == ["connection_lost"]


# --- contexts -----------------------------------------------------------------------------------------


@modes
def test_new_contexts_are_used_by_later_handshakes_and_running_ones_stay(
    runtime: Runtime, secure: bool
) -> None:
    with running(runtime, secure=secure, **fresh("mx.test")) as server:
        with upgraded(server, secure) as first, server.client() as waiting:
            if not secure:
                waiting.greeted()
            server.call(lambda: server.server.update_secure_context(**fresh("mx.test")))
            with upgraded(server, secure) as second:
                assert certificate(second) != certificate(first)
                assert first.say("NOOP") == second.say("NOOP") == OK
                if not secure:  # it was here before, but has not yet shaken hands
                    waiting.say("STARTTLS")
                    waiting.start_tls(trusting(), "mx.test")
                    assert certificate(waiting) == certificate(second)


def test_an_update_may_bring_a_context_and_one_with_a_fault_changes_nothing(runtime: Runtime) -> None:
    def shown() -> bytes:
        with upgraded(server, secure=True) as client:
            return certificate(client)

    with running(runtime, secure=True, **options_for("mx.test")) as server:
        before = shown()
        with pytest.raises(ConfigurationError):
            server.call(lambda: server.server.update_secure_context(key=b"no key"))
        assert shown() == before
        context = server_context("mx.test")
        server.call(lambda: server.server.update_secure_context(ssl_context=context, cert=None, key=None))
        assert shown() != before


def test_an_update_without_options_reads_all_files_again(runtime: Runtime, tmp_path: Path) -> None:
    def write(ca: trustme.CA) -> None:
        for name in ("mx.test", "shop.test"):
            for option, pem in fresh(name).items():
                (tmp_path / f"{option}.{name}").write_bytes(pem)
        (tmp_path / "ca").write_bytes(ca.cert_pem.bytes())

    def shown(name: str, issuer: trustme.CA) -> bytes:
        with upgraded(server, secure=True, context=trusting("user@x.test", issuer), name=name) as client:
            return certificate(client)

    def files(name: str) -> dict[str, Any]:
        return {option: tmp_path / f"{option}.{name}" for option in ("cert", "key")}

    write(AUTHORITY)
    client_certificates: dict[str, Any] = {
        "ca": tmp_path / "ca",
        "request_cert": True,
        "max_version": "TLSv1.2",  # with it a client learns within the handshake that it is refused
    }
    by_name = {"shop.test": files("shop.test")}
    with running(
        runtime, secure=True, **files("mx.test"), **client_certificates, sni_options=by_name
    ) as server:
        names = ("mx.test", "shop.test")
        before = [shown(name, AUTHORITY) for name in names]
        write(STRANGER)
        assert [shown(name, AUTHORITY) for name in names] == before
        server.call(server.server.update_secure_context)
        after = [shown(name, STRANGER) for name in names]
        assert len({*before, *after}) == 4
        for name in names:
            with pytest.raises(ssl.SSLError):
                shown(name, AUTHORITY)
        (tmp_path / "key.shop.test").unlink()
        with pytest.raises(ConfigurationError, match=r"^sni_options\['shop.test'\]: key: cannot read"):
            server.call(server.server.update_secure_context)
        assert [shown(name, STRANGER) for name in names] == after


def test_contexts_may_change_while_clients_shake_hands(runtime: Runtime) -> None:
    certificates = [options_for("mx.test", f"{i}.test") for i in range(4)]
    ends: list[str] = []
    with running(runtime, secure=True, **certificates[0]) as server:

        def talk() -> None:
            for _ in range(5):
                with upgraded(server, secure=True) as client:
                    ends.append(client.say("EHLO a", "QUIT"))

        threads = [threading.Thread(target=talk) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            for each in certificates:
                server.call(functools.partial(server.server.update_secure_context, **each))
        for thread in threads:
            thread.join(DEADLINE)
        assert not server.errors
    assert ends == ["221 2.0.0 Bye"] * 20


@modes
def test_a_context_of_the_application_is_used_as_it_is(runtime: Runtime, secure: bool) -> None:
    context = server_context("mx.test")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with running(runtime, secure=secure, ssl_context=context) as server:
        with upgraded(server, secure) as client:
            assert client.say("NOOP") == OK
            assert tls_of(client).version() == "TLSv1.2"


def test_key_and_certificate_may_be_paths(runtime: Runtime, tmp_path: Path) -> None:
    given = options_for("mx.test")
    for name, pem in given.items():
        (tmp_path / name).write_bytes(pem)
    with running(runtime, secure=True, key=str(tmp_path / "key"), cert=tmp_path / "cert") as server:
        with upgraded(server, secure=True) as client:
            assert client.say("NOOP") == OK


@modes
def test_without_any_option_there_is_a_certificate_for_development(runtime: Runtime, secure: bool) -> None:
    shown: list[bytes] = []
    with running(runtime, secure=secure) as server:
        for _ in range(2):
            with upgraded(server, secure, anybody()) as client:
                shown.append(certificate(client))
    assert len(set(shown)) == 1
    names = x509.load_der_x509_certificate(shown[0]).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert names.value.get_values_for_type(x509.DNSName) == ["localhost", "mx.test"]


@pytest.mark.parametrize(
    "options",
    [{"key": "no key"}, {"cert": options_for("mx.test")["cert"]}, {"secure": True}, {"needs_upgrade": True}],
    ids=["a bad key", "no key", "secure without TLS", "needs_upgrade without TLS"],
)
def test_options_that_do_not_go_together_are_found_by_listen(
    runtime: Runtime, options: dict[str, Any]
) -> None:
    with without_tls() as nothing, running(runtime, listen=False, **nothing, **options) as server:
        with pytest.raises(ConfigurationError):
            server.call(lambda: server.server.listen(0, "127.0.0.1"))
        assert server.server.addresses == []
