# Several listeners of one server: what may differ between them, and what they share.

from __future__ import annotations

import smtplib
import ssl
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest

from smtpproto import ConfigurationError
from smtpproto_kit import DEADLINE, Client, Running, running
from smtpproto_kit._stage import without_tls
from smtpproto_kit.cases.test_server import BYE, FULL, GREETING, OK, listen, pair
from smtpproto_kit.cases.test_tls import options_for, trusting

if TYPE_CHECKING:
    from pathlib import Path

    from smtpproto import PlainCredentials, Session
    from smtpproto_kit import Runtime
    from smtpproto_kit.cases._colours import Hook
    from smtpproto_server import Stream

TEXT: Final = "Subject: hi\r\n\r\nhello\r\n"
SMTPS: Final[dict[str, Any]] = {"secure": True, "auth_optional": False, "name": "smtps"}
SUBMISSION: Final[dict[str, Any]] = {"needs_upgrade": True, "auth_optional": False, "name": "submission"}


class Application:
    """Its hooks note by which listener a session has come in."""

    def __init__(self) -> None:
        self.connected: list[str] = []
        self.messages: list[tuple[str, Any, bool, bytes]] = []

    def hooks(self) -> dict[str, Any]:
        return {"on_connect": self.on_connect, "on_auth": self.on_auth, "on_data": self.on_data}

    def on_connect(self, session: Session) -> Hook:
        yield None
        self.connected.append(session.listener)

    def on_auth(self, auth: PlainCredentials, _session: Session) -> Hook:
        yield None
        return auth.username if auth.password == "secret" else None

    def on_data(self, stream: Stream, session: Session) -> Hook:
        text = yield stream.read()
        self.messages.append((session.listener, session.user, session.secure, text))


def port_of(server: Running, name: str) -> int:
    """Of the listener of this name."""
    _, port = server.server.address(name)
    return int(port)


def send(smtp: smtplib.SMTP) -> None:
    assert smtp.sendmail("a@x.test", ["b@y.test"], TEXT) == {}


def test_25_465_and_587_are_served_by_one_server(runtime: Runtime) -> None:
    application, context = Application(), trusting()
    context.check_hostname = False
    options = {**options_for("mx.test"), **application.hooks()}
    with running(runtime, listen=False, **options) as server:
        listen(server, 0, "127.0.0.1", name="smtp")
        listen(server, 0, "127.0.0.1", **SMTPS)
        listen(server, 0, "127.0.0.1", **SUBMISSION)
        with smtplib.SMTP("127.0.0.1", port_of(server, "smtp"), "c.test", DEADLINE) as smtp:
            send(smtp)
        with smtplib.SMTP_SSL(
            "127.0.0.1", port_of(server, "smtps"), "c.test", timeout=DEADLINE, context=context
        ) as smtp:
            with pytest.raises(smtplib.SMTPSenderRefused, match="530"):
                send(smtp)
            smtp.login("bob", "secret")
            send(smtp)
        with smtplib.SMTP("127.0.0.1", port_of(server, "submission"), "c.test", DEADLINE) as smtp:
            with pytest.raises(smtplib.SMTPSenderRefused, match="Must issue a STARTTLS command first"):
                send(smtp)
            smtp.starttls(context=context)
            with pytest.raises(smtplib.SMTPSenderRefused, match="Error: authentication Required"):
                send(smtp)
            smtp.login("bob", "secret")
            send(smtp)
    body = TEXT.encode()
    assert application.connected == ["smtp", "smtps", "submission"]
    assert application.messages == [
        ("smtp", None, False, body),
        ("smtps", "bob", True, body),
        ("submission", "bob", True, body),
    ]


def test_a_listener_has_the_options_it_was_given_and_else_the_server_s(
    runtime: Runtime, tmp_path: Path
) -> None:
    application, path = Application(), str(tmp_path / "lmtp")
    with running(runtime, listen=False, size=1000, banner="all", **application.hooks()) as server:
        listen(server, 0, "127.0.0.1")
        listen(server, 0, "127.0.0.1", name="small", size=10, banner="small", hide_starttls=True)
        listen(server, path=path, name="lmtp", lmtp=True, auth_methods=(), hide_size=True)
        with server.client() as client:
            assert client.reply() == f"{GREETING} all"
            offers = client.say("EHLO a")
            assert "250-STARTTLS\n" in offers
            assert offers.endswith("SIZE 1000")
            assert client.say("QUIT") == BYE
        with Client(port_of(server, "small")) as client:
            assert client.reply() == f"{GREETING} small"
            offers = client.say("EHLO a")
            assert "STARTTLS" not in offers
            assert offers.endswith("SIZE 10")
            assert client.say("MAIL FROM:<a@x.test> SIZE=11").startswith("552 5.3.4 ")
        with Client(path=path) as client:
            assert client.reply() == "220 mx.test LMTP all"
            assert "SIZE" not in client.say("LHLO a")
            assert client.say("MAIL FROM:<a@x.test>", "RCPT TO:<b@y.test>", "DATA").startswith("354 ")
            assert client.say("hi\r\n.").startswith("250 ")
    assert application.connected == ["", "small", "lmtp"]
    assert application.messages == [("lmtp", None, False, b"hi\r\n")]


def test_a_proxy_header_is_read_where_the_listener_says_so(runtime: Runtime) -> None:
    with running(runtime, listen=False, early_talker_delay=0.0) as server:
        listen(server, 0, "127.0.0.1")
        listen(server, 0, "127.0.0.1", name="proxied", use_proxy=["127.0.0.1"], tls_upstream=True)
        with server.client() as client:
            assert client.reply() == GREETING
        with Client(port_of(server, "proxied")) as client:
            client.send(b"PROXY TCP4 192.0.2.7 192.0.2.25 4000 25\r\n")
            assert client.reply() == GREETING
            assert client.say("EHLO a").startswith("250-mx.test Nice to meet you, [192.0.2.7]")
            assert client.say("STARTTLS").startswith("503 ")
            (session,) = [each for each in server.server.sessions if each.listener]
            assert (session.listener, session.secure, session.remote_address) == (
                "proxied",
                True,
                "192.0.2.7",
            )


def test_max_clients_counts_the_clients_of_all_listeners(runtime: Runtime) -> None:
    with running(runtime, listen=False, max_clients=1, **options_for("mx.test")) as server:
        listen(server, 0, "127.0.0.1")
        listen(server, 0, "127.0.0.1", secure=True, name="smtps")
        with server.client().greeted() as first:
            with Client(port_of(server, "smtps"), tls=True) as second:
                assert second.replies() == [FULL]
            assert first.say("QUIT") == BYE
            first.rest()
        with Client(port_of(server, "smtps"), tls=True).greeted(), server.client() as third:
            assert third.replies() == [FULL]


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"max_clients": 3}, TypeError, "^max_clients is the same for all listeners, so give it to"),
        ({"max_clients": 3}, TypeError, "; they may differ in secure, needs_upgrade, "),
        ({"on_data": print}, TypeError, "^on_data is the same for all listeners"),
        ({"secrue": True}, TypeError, r"^there is no option 'secrue' \(did you mean secure\?\)$"),
        ({"size": -1}, ValueError, "^size must be a whole number, 1 or more, or None for no limit, not -1$"),
        ({"secure": 1}, ValueError, "^secure must be True or False, not 1$"),
        ({"auth_methods": ["NTLM"]}, ValueError, "^auth_methods names 'NTLM'"),
        ({"name": 25}, ValueError, "^name must be text, not 25$"),
        ({"needs_upgrade": True}, ConfigurationError, "needs_upgrade asks for STARTTLS"),
    ],
)  # fmt: skip
def test_a_listener_with_options_it_cannot_have_is_not_bound(
    runtime: Runtime, tmp_path: Path, given: dict[str, Any], error: type[Exception], said: str
) -> None:
    path = tmp_path / "mx"
    with running(runtime, disabled_commands=["STARTTLS"]) as server:
        with pytest.raises(error, match=said):
            listen(server, path=str(path), **given)
        assert not path.exists()
        assert len(server.server.addresses) == 1
        with pair() as (ours, _client), pytest.raises(error, match=said):
            server.call(partial(server.server.serve_connection, ours, **given))
        with server.client() as client:
            assert client.reply() == GREETING


@pytest.mark.parametrize("name", ["secure", "needs_upgrade"])
def test_a_listener_that_needs_tls_is_not_bound_without_it(runtime: Runtime, name: str) -> None:
    with without_tls() as options, running(runtime, **options) as server:
        with pytest.raises(ConfigurationError, match=f"^{name}=True needs TLS: TLS is not available"):
            listen(server, 0, "127.0.0.1", **{name: True})
        assert len(server.server.addresses) == 1
        listen(server, 0, "127.0.0.1", tls_upstream=True, name="behind", **{name: True})
        with Client(port_of(server, "behind")) as client:
            assert client.reply().startswith("220 ")


def test_a_server_whose_listeners_need_no_tls_may_need_it_itself(runtime: Runtime) -> None:
    with without_tls() as options, running(runtime, listen=False, secure=True, **options) as server:
        listen(server, 0, "127.0.0.1", secure=False)
        with server.client() as client:
            assert client.reply().startswith("220 ")


def test_a_connection_that_is_handed_in_may_have_a_name_and_options(runtime: Runtime) -> None:
    application = Application()
    with running(runtime, listen=False, **application.hooks()) as server:
        for given in ({}, {"name": "inetd", "lmtp": True}):
            with pair() as (ours, client):
                serving = server.start(partial(server.server.serve_connection, ours, **given))
                assert client.reply() == ("220 mx.test LMTP" if given else GREETING)
                assert client.say("QUIT") == BYE
                serving.result(DEADLINE)
    assert application.connected == ["", "inetd"]


def test_each_listener_has_its_handshake(runtime: Runtime) -> None:
    with running(runtime, listen=False, **options_for("mx.test"), secure=True) as server:
        listen(server, 0, "127.0.0.1")
        listen(server, 0, "127.0.0.1", secure=False, name="clear")
        with server.client(tls=True) as client:
            assert client.reply() == GREETING
        with Client(port_of(server, "clear")).greeted() as client:
            assert client.say("STARTTLS") == "220 2.0.0 Ready to start TLS"
            client.start_tls(trusting(), "mx.test")
            assert isinstance(client.sock, ssl.SSLSocket)
            assert client.say("NOOP") == OK


def test_a_listener_may_have_mechanisms_of_its_own(runtime: Runtime) -> None:
    with running(runtime, listen=False, auth_methods=()) as server:
        listen(server, 0, "127.0.0.1")
        given: dict[str, Any] = {"auth_methods": ["cram-md5"], "allow_insecure_auth": True}
        listen(server, 0, "127.0.0.1", name="logins", **given)
        with server.client() as client:
            assert "AUTH" not in client.greeted().say("EHLO a")
        with Client(port_of(server, "logins")) as client:
            assert "250-AUTH CRAM-MD5\n" in client.greeted().say("EHLO a")
            assert client.say("AUTH CRAM-MD5").startswith("334 ")


def test_port_is_a_number_or_an_error_that_says_why(runtime: Runtime, tmp_path: Path) -> None:
    path = str(tmp_path / "mx")
    with running(runtime, listen=False) as server:
        with pytest.raises(RuntimeError, match=r"does not listen; call listen\(\) first"):
            _ = server.server.port
        listen(server, path=path, name="local")
        with pytest.raises(RuntimeError, match="there is no port: the server listens on the path"):
            _ = server.server.port
        listen(server, 0, "127.0.0.1", name="tcp")
        assert server.server.addresses == [path, server.server.address("tcp")]
        assert server.server.address() == server.server.address("local") == path
        assert server.server.address("other") is None
        server.close()
        listen(server, 0, "127.0.0.1")
        assert server.server.address() == ("127.0.0.1", server.server.port)
