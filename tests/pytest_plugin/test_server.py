# The server of the fixture, on every runtime, with the clients that applications use.

from __future__ import annotations

import asyncio
import contextlib
import importlib
import smtplib
import socket
import ssl
import threading
import time
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any, Final

import aiosmtplib
import pytest

from smtpproto_kit import RUNTIMES, Client, wait_until
from smtpproto_pytest import CapturingServer, capturing

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXT: Final = b"Subject: hi\r\n\r\nhello\r\n"
REFUSED: Final = (smtplib.SMTPException, OSError)
USERS: Final = {"ann": "secret"}
QUICKLY: Final = 3.0  # seconds; much less than any time limit of a server

# Django ships no types.
SETTINGS: Final[Any] = importlib.import_module("django.conf").settings
OVERRIDE: Final[Any] = importlib.import_module("django.test").override_settings
MAIL: Final[Any] = importlib.import_module("django.core.mail")

if not SETTINGS.configured:
    SETTINGS.configure()


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(runtime: str) -> Iterator[CapturingServer]:
    with capturing(runtime) as made:
        yield made


def send(server: CapturingServer, *recipients: str, text: bytes = TEXT, timeout: float = 10.0) -> Any:
    """Send with smtplib; the recipients that were refused."""
    with smtplib.SMTP(server.host, server.port, timeout=timeout) as client:
        return client.sendmail("a@x.test", recipients or ["b@y.test"], text)


# --- what is kept -----------------------------------------------------------------------------------


def test_a_message_is_kept_with_envelope_and_session(server: CapturingServer) -> None:
    send(server, "b@y.test", "c@z.test")
    message = server.wait_for_message()
    assert (message.mail_from, message.rcpt_to) == ("a@x.test", ["b@y.test", "c@z.test"])
    assert message.raw == TEXT
    assert isinstance(message.email, EmailMessage)
    assert (message.email["Subject"], message.email.get_content()) == ("hi", "hello\n")
    session = message.session
    assert (session.user, session.secure, session.opening_command) == (None, False, "EHLO")
    assert session.host_name_appears_as.startswith("[")
    assert repr(message) == f"<Message from 'a@x.test' to ['b@y.test', 'c@z.test'], {len(TEXT)} octets>"
    assert server.messages == [message]


def test_octets_arrive_as_they_were_sent_with_dots_and_any_byte(server: CapturingServer) -> None:
    raw = b"X: \xff\r\n\r\n.\r\n..\r\n.dot\r\n" + bytes(b for b in range(256) if b not in b"\r\n") + b"\r\n"
    with Client(server.port).greeted() as client:
        client.say("MAIL FROM:<> BODY=8BITMIME", "RCPT TO:<b@y.test>", "DATA")
        client.send(raw.replace(b"\r\n.", b"\r\n..") + b".\r\n")
        assert client.reply().startswith("250 ")
    message = server.wait_for_message()
    assert message.raw == raw
    assert (message.mail_from, message.envelope.body_type) == ("", "8bitmime")


def test_each_message_keeps_the_envelope_that_it_came_with(server: CapturingServer) -> None:
    with smtplib.SMTP(server.host, server.port) as client:
        for name in ("one", "two", "three"):
            client.sendmail(f"{name}@x.test", [f"{name}@y.test"], TEXT)
    assert [message.rcpt_to for message in server.messages] == [
        ["one@y.test"],
        ["two@y.test"],
        ["three@y.test"],
    ]
    assert [message.session.transaction for message in server.messages] == [1, 2, 3]


def test_a_message_with_bare_newlines_or_over_the_size_is_refused_and_not_kept(runtime: str) -> None:
    with capturing(runtime, size=100) as server:
        with Client(server.port).greeted() as client:
            client.say("MAIL FROM:<a@x.test>", "RCPT TO:<b@y.test>", "DATA")
            client.send(b"bare\n\r\n.\r\n")
            assert client.reply().startswith("550 5.6.0")
            client.say("MAIL FROM:<a@x.test>", "RCPT TO:<b@y.test>", "DATA")
            client.send(b"x" * 200 + b"\r\n.\r\n")
            assert client.reply().startswith("552 5.3.4")
        assert server.messages == []


def test_waits_give_each_message_once_and_clear_forgets_them(server: CapturingServer) -> None:
    for name in ("one", "two", "three"):
        send(server, f"{name}@y.test")
    assert server.wait_for_message().rcpt_to == ["one@y.test"]
    assert [each.rcpt_to for each in server.wait_for_messages(2)] == [["two@y.test"], ["three@y.test"]]
    server.clear()
    assert (server.messages, server.transcript) == ([], "")
    send(server, "four@y.test")
    assert server.wait_for_message().rcpt_to == ["four@y.test"]


def test_a_wait_lasts_until_the_message_comes(server: CapturingServer) -> None:
    server.script("DATA", delay=0.2)
    sending = threading.Thread(target=send, args=(server,))
    sending.start()
    try:
        assert server.wait_for_message().raw == TEXT
    finally:
        sending.join()


def test_a_wait_in_vain_says_what_was_said_but_no_secret(runtime: str) -> None:
    with capturing(runtime, users=USERS) as server:
        server.script("RCPT", nth=2, reply=451)
        with smtplib.SMTP(server.host, server.port) as client:
            client.login("ann", "secret")
            client.mail("a@x.test")
            assert client.rcpt("no address")[0] == 501
            with pytest.raises(AssertionError) as caught:
                server.wait_for_message(timeout=0.05)
        said = str(caught.value)
        assert said.startswith("0 of 1 messages came in 0.05 s\nconnection 1:\n  S: 220 smtp.test ESMTP\n")
        assert "  C: AUTH PLAIN ***\n  S: 235 2.7.0" in said
        assert "  S: 501 5.1.3 Error: Bad recipient address syntax" in said
        assert "not happened: <Fault at RCPT 2: 451; happened 0 times>" in said
        assert "AGFubgBzZWNyZXQ" not in said  # base64 of the password


def test_a_wait_in_vain_says_that_nobody_has_connected() -> None:
    with capturing() as server, pytest.raises(AssertionError, match="nobody has connected"):
        server.wait_for_message(timeout=0.01)


# --- TLS and logins ---------------------------------------------------------------------------------


def test_starttls_with_a_throw_away_certificate_that_the_client_trusts(runtime: str) -> None:
    with capturing(runtime, tls="starttls", users=USERS) as server:
        with smtplib.SMTP(server.host, server.port) as client:
            with pytest.raises(smtplib.SMTPNotSupportedError):  # no password in the clear
                client.login("ann", "secret")
            client.starttls(context=server.client_context)
            client.login("ann", "secret")
            client.sendmail("a@x.test", ["b@y.test"], TEXT)
        session = server.wait_for_message().session
        assert (session.user, session.secure) == ("ann", True)
        assert "C: MAIL FROM:<a@x.test>".lower() in server.transcript.lower()  # in the clear


def test_implicit_tls_with_the_authority_as_a_file(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with capturing(runtime, tls="implicit") as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(server.ca_file))
        with smtplib.SMTP_SSL("localhost", server.port) as client:
            client.sendmail("a@x.test", ["b@y.test"], TEXT)
        assert server.wait_for_message().session.secure
        file = server.ca_file
    assert not file.exists()


def test_a_client_that_does_not_trust_the_certificate_is_no_fault_of_the_server(runtime: str) -> None:
    with capturing(runtime, tls="implicit") as server:
        stranger = ssl.create_default_context()
        with pytest.raises(ssl.SSLCertVerificationError):
            smtplib.SMTP_SSL("localhost", server.port, context=stranger)
        assert server.messages == []


def test_without_tls_and_users_neither_is_offered(server: CapturingServer) -> None:
    with smtplib.SMTP(server.host, server.port) as client:
        client.ehlo()
        assert not client.has_extn("starttls")
        assert not client.has_extn("auth")
    with pytest.raises(ValueError, match="this server has no TLS: give tls='starttls'"):
        server.client_context  # noqa: B018 - it raises
    with pytest.raises(ValueError, match="this server has no TLS"):
        server.ca_file  # noqa: B018 - it raises


def test_with_users_nobody_else_may_send(runtime: str) -> None:
    with capturing(runtime, users=USERS) as server:
        with smtplib.SMTP(server.host, server.port) as client:
            with pytest.raises(smtplib.SMTPSenderRefused, match="530"):
                client.sendmail("a@x.test", ["b@y.test"], TEXT)
            with pytest.raises(smtplib.SMTPAuthenticationError):
                client.login("ann", "wrong")
            with pytest.raises(smtplib.SMTPAuthenticationError):
                client.login("bob", "secret")
            server.users["bob"] = "word"
            client.login("bob", "word")
            client.sendmail("a@x.test", ["b@y.test"], TEXT)
        assert server.wait_for_message().session.user == "bob"


@pytest.mark.parametrize("method", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_each_method_proves_the_password(method: str) -> None:
    with capturing(users=USERS, auth_methods=[method]) as server:
        with smtplib.SMTP(server.host, server.port) as client:
            with pytest.raises(smtplib.SMTPAuthenticationError):
                client.login("ann", "wrong")
            client.login("ann", "secret")


def xoauth2(_challenge: bytes | None = None) -> str:
    return "user=ann\x01auth=Bearer token\x01\x01"


def test_xoauth2_takes_the_users_token() -> None:
    with capturing(users={"ann": "token"}, auth_methods=["XOAUTH2"]) as server:
        with smtplib.SMTP(server.host, server.port) as client:
            client.ehlo()
            assert client.auth("XOAUTH2", xoauth2)[0] == 235


# --- faults, each kind on each runtime --------------------------------------------------------------

PLACES: Final = ("CONNECT", "EHLO", "AUTH", "MAIL", "RCPT", "DATA", "BODY", "END_OF_DATA")


@pytest.fixture
def guarded(runtime: str) -> Iterator[CapturingServer]:
    """A server at which every place is passed."""
    with capturing(runtime, users=USERS) as made:
        yield made


def pass_all(server: CapturingServer) -> None:
    with smtplib.SMTP(server.host, server.port, timeout=10) as client:
        client.login("ann", "secret")
        client.sendmail("a@x.test", ["b@y.test"], TEXT)


@pytest.mark.parametrize("place", PLACES)
def test_a_connection_is_dropped_without_a_word(guarded: CapturingServer, place: Any) -> None:
    fault = guarded.script(place, drop=True)
    with pytest.raises((smtplib.SMTPServerDisconnected, ConnectionError)):
        pass_all(guarded)
    assert (fault.hits, guarded.pending) == (1, [])
    assert "421" not in guarded.transcript
    pass_all(guarded)
    # What was lost at END_OF_DATA is the reply alone: whoever tries again sends it twice.
    assert len(guarded.wait_for_messages(1 + (place == "END_OF_DATA"))) == len(guarded.messages)


@pytest.mark.parametrize("place", PLACES)
def test_the_transcript_of_a_drop_ends_with_what_the_client_has_read(
    guarded: CapturingServer, place: Any
) -> None:
    guarded.script(place, drop=True)
    read = [f"  S: {line}" for line in lines_read(guarded)]
    said = [line for line in guarded.transcript.splitlines() if line.startswith("  S: ")]
    assert said == [*read, "  S: (hangs up)"]
    assert guarded.transcript.endswith("  S: (hangs up)")


def lines_read(server: CapturingServer) -> list[str]:
    """Pass all places, each command when the one before was answered; what the server has said."""
    commands = ("EHLO c.test", "AUTH PLAIN AGFubgBzZWNyZXQ=", "MAIL FROM:<>", "RCPT TO:<b@y.test>", "DATA")
    lines: list[str] = []
    with Client(server.port) as client, contextlib.suppress(ConnectionError):
        for octets in (b"", *(f"{line}\r\n".encode() for line in commands), TEXT + b".\r\n"):
            client.send(octets)
            lines += client.reply().splitlines()
    return lines


@pytest.mark.parametrize("place", [place for place in PLACES if place != "BODY"])
def test_a_command_is_refused_as_it_was_written(guarded: CapturingServer, place: Any) -> None:
    line = "454 not today" if place in {"CONNECT", "EHLO"} else "454 4.7.9 not today"
    guarded.script(place, times=2, reply=line)  # twice: EHLO is followed by HELO, one login by another
    with pytest.raises(REFUSED):
        pass_all(guarded)
    assert f"S: {line}\n" in guarded.transcript + "\n"
    assert guarded.messages == []


@pytest.mark.parametrize("place", PLACES)
def test_an_answer_comes_late(guarded: CapturingServer, place: Any) -> None:
    fault = guarded.script(place, delay=0.3)
    begun = time.monotonic()
    pass_all(guarded)
    assert time.monotonic() - begun >= 0.3
    assert (fault.hits, len(guarded.messages)) == (1, 1)


def test_the_second_recipient_is_refused_and_the_others_get_the_message(server: CapturingServer) -> None:
    server.script("RCPT", nth=2, reply=451)
    refused = send(server, "b@y.test", "c@y.test", "d@y.test")
    assert refused == {"c@y.test": (451, b"4.3.0 Error: internal error, please try again later")}
    assert server.wait_for_message().rcpt_to == ["b@y.test", "d@y.test"]


def test_a_421_also_ends_the_connection(server: CapturingServer) -> None:
    server.script("MAIL", reply="421 4.3.2 closing")
    with Client(server.port).greeted() as client:
        assert client.say("MAIL FROM:<a@x.test>") == "421 4.3.2 closing"
        assert client.reply() == ""


def test_a_client_that_does_not_wait_for_the_answer_leaves_its_message_behind(
    server: CapturingServer,
) -> None:
    server.script("END_OF_DATA", delay=60)
    with pytest.raises(REFUSED):
        send(server, timeout=0.2)
    send(server)  # the client tries again
    assert len(server.wait_for_messages(2)) == 2


def test_faults_are_counted_over_all_connections_from_where_they_were_scripted(
    server: CapturingServer,
) -> None:
    send(server)
    fault = server.script("MAIL", nth=2, reply=550)
    send(server)
    assert server.pending == [fault]
    with pytest.raises(smtplib.SMTPSenderRefused):
        send(server)
    assert server.pending == []


def test_the_replies_before_a_drop_are_sent_to_a_client_that_pipelines(server: CapturingServer) -> None:
    server.script("RCPT", drop=True)
    with Client(server.port).greeted() as client:
        client.send(b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\n")
        assert client.replies() == ["250 2.1.0 Accepted"]


# --- the end ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines", [(), ("EHLO a",), ("EHLO a", "MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>", "DATA")]
)
def test_a_client_that_is_left_connected_does_not_hold_up_the_end(
    runtime: str, lines: tuple[str, ...]
) -> None:
    with capturing(runtime) as server:
        client = Client(server.port)
        client.reply()
        client.say(*lines)
        begun = time.monotonic()
    assert time.monotonic() - begun < QUICKLY
    with client:
        assert client.rest() == b""


@pytest.mark.parametrize("tls", [None, "implicit"])
def test_a_delay_that_still_runs_does_not_hold_up_the_end(runtime: str, tls: Any) -> None:
    with capturing(runtime, tls=tls) as server:
        fault = server.script("CONNECT", delay=60)
        client = Client(server.port, tls=tls is not None)
        wait_until(lambda: fault.hits)
        begun = time.monotonic()
    assert time.monotonic() - begun < QUICKLY
    client.close()


def test_nothing_of_a_server_is_left(runtime: str) -> None:
    before = threading.active_count()
    with capturing(runtime) as server:
        send(server)
    # trio keeps idle threads for some seconds.
    wait_until(
        lambda: threading.active_count() <= before or any("Trio" in t.name for t in threading.enumerate())
    )
    with pytest.raises(ConnectionRefusedError), socket.create_connection((server.host, server.port)):
        pass


def test_a_hook_that_fails_is_told_at_the_end(runtime: str) -> None:
    def on_vrfy(_argument: str, _session: object) -> None:
        raise RuntimeError("out of paper")

    with pytest.raises(AssertionError, match=r"^smtp_server has failed: hook: RuntimeError: out of paper$"):
        with capturing(runtime, on_vrfy=on_vrfy) as server, Client(server.port).greeted() as client:
            assert client.say("VRFY x").startswith("451")


def test_two_servers_of_different_runtimes_run_at_once() -> None:
    with capturing("trio") as one, capturing("gevent") as two:
        send(one, "one@y.test")
        send(two, "two@y.test")
        assert [each.wait_for_message().rcpt_to for each in (one, two)] == [["one@y.test"], ["two@y.test"]]


# --- settings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "kind", "says"),
    [
        ({"runtime": "twisted"}, LookupError, "twisted is no runtime: asyncio, uvloop, anyio, trio"),
        ({"tls": "tls"}, ValueError, "tls is None, 'starttls' or 'implicit', not 'tls'"),
        ({"secure": True}, TypeError, "the option secure cannot be given: give tls='implicit'"),
        ({"on_rcpt_to": print}, TypeError, "the option on_rcpt_to cannot be given: script RCPT"),
        ({"siez": 1}, TypeError, "siez"),
        ({"size": "big"}, ValueError, "size must be a whole number"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(
    settings: dict[str, Any], kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says), capturing(**settings):
        pass


def test_options_of_the_server_are_taken(runtime: str) -> None:
    with capturing(runtime, lmtp=True, name="store.test") as server:
        with smtplib.LMTP(server.host, server.port) as client:
            client.sendmail("a@x.test", ["b@y.test"], TEXT)
        assert server.wait_for_message().session.lmtp
        assert server.transcript.startswith("connection 1:\n  S: 220 store.test LMTP\n")


# --- other clients ----------------------------------------------------------------------------------


def test_aiosmtplib_sends(runtime: str) -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@x.test", "b@y.test", "Grüße"
    message.set_content("ä\n.\n")
    with capturing(runtime, tls="starttls", users=USERS) as server:
        asyncio.run(
            aiosmtplib.send(
                message,
                hostname=server.host,
                port=server.port,
                start_tls=True,
                tls_context=server.client_context,
                username="ann",
                password="secret",
            )
        )
        received = server.wait_for_message()
        assert (received.email["Subject"], received.email.get_content()) == ("Grüße", "ä\n.\n")
        assert received.session.user == "ann"


def test_django_sends_and_meets_a_fault(server: CapturingServer) -> None:
    settings = OVERRIDE(
        EMAIL_BACKEND="django.core.mail.backends.smtp.EmailBackend",
        EMAIL_HOST=server.host,
        EMAIL_PORT=server.port,
    )
    with settings:
        assert MAIL.send_mail("hi", "hello", "a@x.test", ["b@y.test"]) == 1
        server.script("END_OF_DATA", reply="552 5.3.4 too big")
        with pytest.raises(smtplib.SMTPDataError, match="too big"):
            MAIL.send_mail("hi", "hello", "a@x.test", ["b@y.test"])
    assert server.wait_for_message().email["Subject"] == "hi"
    assert len(server.messages) == 1
