# The ten programs of the documentation, spoken to by real clients.
#
# Each is started as its user starts it, on a free port and in a folder of its own.

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import itertools
import re
import smtplib
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import pytest
import trustme

from docs.blocks import DOCS, ENVIRONMENT, PATIENCE, PORT, Process, blocks_of
from smtpproto_blocking import Address, Reject, Session, SMTPServer, Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

TEXT: Final = b"Subject: hi\r\n\r\nhello\r\n"
ANN, BOB = "ann@example.com", "bob@example.com"
BEGIN: Final = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<ann@example.com>\r\nDATA\r\n"
SENDER: Final = "someone@example.net"


@contextlib.contextmanager
def program(name: str, folder: Path, *changes: tuple[str, str]) -> Generator[Process]:
    """The program as it is, but for its port and these pieces of its text."""
    text = (DOCS / "examples" / f"{name}.py").read_text("utf-8")
    for there, here in ((PORT, "0"), *changes):
        assert text.count(there) == 1, f"{name} has {there!r} {text.count(there)} times"
        text = text.replace(there, here)
    file = folder / f"{name}.py"
    file.write_text(text, "utf-8")
    with Process([sys.executable, "-W", "error", str(file)], folder) as running:
        yield running


def until(holds: Callable[[], Any]) -> Any:
    """What a client says again until it is taken, as a queue does."""
    deadline = time.monotonic() + 2 * PATIENCE
    while not (value := holds()):
        assert time.monotonic() < deadline
    return value


def connected(running: Process, *, tls: bool = False) -> smtplib.SMTP:
    client = smtplib.SMTP("127.0.0.1", running.port, timeout=PATIENCE)
    if tls:
        client.starttls(context=unverified())
    client.ehlo()
    return client


def unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def said(reply: tuple[int, bytes]) -> str:
    return f"{reply[0]} {reply[1].decode()}"


def codes(raw: socket.socket, count: int = 1) -> list[str]:
    """The codes of so many replies."""
    lines = iter(raw.makefile("rb", buffering=0).readline, b"")
    return [line[:3].decode() for line in itertools.islice((x for x in lines if x[3:4] != b"-"), count)]


def send(client: smtplib.SMTP, *recipients: str, text: bytes = TEXT) -> str:
    """Send a message; the reply to its end, or the first refusal."""
    replies = [client.mail(SENDER), *map(client.rcpt, recipients)]
    refused = [said(reply) for reply in replies if reply[0] >= 400]
    if refused:
        client.rset()
        return refused[0]
    return said(client.data(text))


# --- a database -------------------------------------------------------------------------------------


def rows(folder: Path) -> list[tuple[str, str, bytes]]:
    with contextlib.closing(sqlite3.connect(folder / "mail.sqlite", timeout=PATIENCE)) as database:
        return database.execute("SELECT sender, recipients, message FROM mail ORDER BY id").fetchall()


def test_what_the_database_program_answers_250_is_committed(tmp_path: Path) -> None:
    with program("store_database", tmp_path) as running, connected(running) as client:
        assert send(client, ANN, BOB) == "250 stored as 1"
        assert rows(tmp_path) == [(SENDER, f"{ANN} {BOB}", TEXT)]
        assert send(client, ANN) == "250 stored as 2"
        assert len(rows(tmp_path)) == 2


def test_the_database_program_keeps_nothing_that_is_refused_or_broken_off(tmp_path: Path) -> None:
    with program("store_database", tmp_path, ("size=10_000_000", "size=1000")) as running:
        with connected(running) as client:
            assert send(client, ANN, text=b"a" * 1001).startswith("552 ")
        with socket.create_connection(("127.0.0.1", running.port), PATIENCE) as raw:
            assert codes(raw) == ["220"]
            raw.sendall(b"EHLO a\r\n" + BEGIN)
            assert codes(raw, 4) == ["250", "250", "250", "354"]
            raw.sendall(b"a bare\nnewline\r\n.\r\n" + BEGIN + b"half\r\n")
            assert codes(raw, 4) == ["550", "250", "250", "354"]
        with connected(running) as client:
            assert send(client, BOB) == "250 stored as 1"
    assert [recipients for _, recipients, _ in rows(tmp_path)] == [BOB]


def test_the_database_program_keeps_nothing_of_a_message_that_was_given_up(tmp_path: Path) -> None:
    with (
        program("store_database", tmp_path, ("hook_timeout=30", "hook_timeout=0.2")) as running,
        connected(running) as client,
    ):
        database = sqlite3.connect(tmp_path / "mail.sqlite")
        with contextlib.closing(database):
            database.execute("BEGIN IMMEDIATE")  # so that the hook has to wait
            assert send(client, ANN).startswith("451 ")
            database.rollback()
        running.until("given up")
        assert rows(tmp_path) == []


# --- quotas -----------------------------------------------------------------------------------------


def test_quotas_count_recipients_and_octets_of_a_user(tmp_path: Path) -> None:
    with program("quotas", tmp_path) as running, connected(running, tls=True) as client:
        assert said(client.mail(SENDER)).startswith("530 ")
        client.login("ann", "secret")
        assert send(client, ANN, BOB, text=b"a" * 898) == "250 1 recipients and 100 octets left"

        assert said(client.mail(SENDER, ["SIZE=101"])).startswith("250 ")
        assert said(client.rcpt(ANN)) == "552 1 recipients and 100 octets left"
        client.rset()
        assert send(client, ANN, text=b"a" * 99) == "552 1 recipients and 100 octets left"
        assert send(client, ANN, BOB) == "452 1 recipients and 100 octets left"
        assert send(client, ANN) == "250 0 recipients and 78 octets left"
        with connected(running, tls=True) as other:
            other.login("ann", "secret")
            assert send(other, ANN).startswith("452 ")
        with connected(running, tls=True) as other:
            other.login("bob", "hidden")
            assert send(other, ANN) == "250 2 recipients and 978 octets left"


@pytest.mark.parametrize(("user", "password"), [("ann", "wrong"), ("nobody", ""), ("nobody", "secret")])
def test_quotas_want_a_login(tmp_path: Path, user: str, password: str) -> None:
    with program("quotas", tmp_path) as running, connected(running, tls=True) as client:
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.login(user, password)
        assert said(client.mail(SENDER)).startswith("530 ")


def test_quotas_hold_for_two_sessions_of_a_user_at_once(tmp_path: Path) -> None:
    with program("quotas", tmp_path) as running:
        with connected(running, tls=True) as one, connected(running, tls=True) as two:
            for client in (one, two):
                client.login("ann", "secret")
                client.mail(SENDER)
                for recipient in (ANN, BOB):
                    assert said(client.rcpt(recipient)).startswith("250 ")
            assert said(one.data(TEXT)).startswith("250 ")
            assert said(two.data(TEXT)) == "552 1 recipients and 978 octets left"


# --- LMTP -------------------------------------------------------------------------------------------


def test_lmtp_has_a_result_for_each_recipient(tmp_path: Path) -> None:
    with program("lmtp_results", tmp_path, ("FULL = 100_000", "FULL = 30")) as running:
        with smtplib.LMTP("127.0.0.1", running.port, timeout=PATIENCE) as client:
            assert client.sendmail(SENDER, [ANN, "carol@example.com"], TEXT) == {
                "carol@example.com": (550, b"5.1.1 No mailbox carol@example.com")
            }
            client.mail(SENDER)
            for recipient in (BOB, ANN):
                assert said(client.rcpt(recipient)).startswith("250 ")
            assert said(client.data(TEXT)).startswith("250 2.6.0 bob has it as ")
            assert said(client.getreply()) == "452 4.2.2 The mailbox of ann is full"
    for name in ("ann", "bob"):
        (file,) = (tmp_path / "mailboxes" / name / "new").iterdir()
        stored = file.read_bytes()
        assert stored.endswith(TEXT)
        assert re.match(
            rb"Return-Path: <someone@example.net>\r\nDelivered-To: %s@example.com\r\nReceived: from .*"
            rb"by mx.example.com .* for <%s@example.com>;" % (name.encode(), name.encode()),
            stored,
            re.DOTALL,
        )


def test_lmtp_delivers_to_the_others_if_a_mailbox_cannot_be_written(tmp_path: Path) -> None:
    with program("lmtp_results", tmp_path) as running:
        (tmp_path / "mailboxes" / "ann").write_bytes(b"")
        with smtplib.LMTP("127.0.0.1", running.port, timeout=PATIENCE) as client:
            client.ehlo()
            client.mail(SENDER)
            for recipient in (ANN, BOB):
                client.rcpt(recipient)
            assert said(client.data(TEXT)) == "451 4.3.0 The mailbox of ann cannot be written"
            assert said(client.getreply()).startswith("250 2.6.0 bob has it as ")


# --- a relay ----------------------------------------------------------------------------------------


class NextHost:
    """The server that the relay hands on to: it notes all it is given, and refuses what is said."""

    def __init__(self) -> None:
        self.given: list[tuple[Address, tuple[Address, ...], bytes]] = []
        self.at_data: Reject | None = None
        self.at_end: Reject | None = None

    def on_data_start(self, _session: Session) -> Reject | None:
        return self.at_data

    def on_mail_from(self, address: Address, _session: Session) -> None:
        if address.local == "spammer":
            raise Reject(550, "5.7.1", ["We know you,", "and do not want you"])

    def on_rcpt_to(self, address: Address, _session: Session) -> None:
        if address.local == "full":
            raise Reject(452, "4.2.2", "The mailbox is full")

    def on_data(self, stream: Stream, session: Session) -> Reject | str:
        message, envelope = stream.read(), session.envelope
        if self.at_end is not None:
            return self.at_end
        assert envelope.mail_from is not None
        self.given.append((envelope.mail_from, envelope.rcpt_to, message))
        return "taken"


@pytest.fixture
def next_host() -> Iterator[tuple[NextHost, SMTPServer]]:
    handler = NextHost()
    with SMTPServer(
        handler=handler, auth_methods=(), close_timeout=0, hide_dsn=False, hide_enhancedstatuscodes=False
    ) as server:
        server.listen(0, "127.0.0.1")
        yield handler, server


@contextlib.contextmanager
def relaying(folder: Path, server: SMTPServer) -> Generator[smtplib.SMTP]:
    address = server.address()
    assert isinstance(address, tuple)
    with program("relay", folder, ("2626", str(address[1]))) as running, connected(running) as client:
        yield client


def test_a_relay_hands_a_message_on_with_its_parameters(
    tmp_path: Path, next_host: tuple[NextHost, SMTPServer]
) -> None:
    handler, server = next_host
    with relaying(tmp_path, server) as client:
        assert said(client.mail(SENDER, ["RET=HDRS", "ENVID=a+20REQUIRETLS"])).startswith("250 ")
        assert said(client.rcpt('"a b"@example.com', ["NOTIFY=NEVER", "ORCPT=rfc822;a+2Bb@x"])).startswith(
            "250 "
        )
        assert said(client.data(TEXT + b".dot\r\n")) == "250 2.6.0 taken"
    ((sender, (recipient,), message),) = handler.given
    assert (sender.address, recipient.address) == (SENDER, '"a b"@example.com')
    assert sender.args == {"RET": "HDRS", "ENVID": "a REQUIRETLS"}
    assert recipient.args == {"NOTIFY": "NEVER", "ORCPT": "rfc822;a+b@x"}
    received, is_ours, rest = message.partition(TEXT)
    assert (is_ours, rest) == (TEXT, b".dot\r\n")
    assert re.fullmatch(rb"Received: from .*by relay\.example\.com.*\r\n", received, re.DOTALL)


def test_a_relay_hands_on_an_address_outside_ascii(
    tmp_path: Path, next_host: tuple[NextHost, SMTPServer]
) -> None:
    handler, server = next_host
    with relaying(tmp_path, server) as client:
        for name in ("jörg", "ann"):  # in one session, and the second as usual
            utf8 = not name.isascii()
            client.mail(SENDER, ["SMTPUTF8", "BODY=8BITMIME"] if utf8 else [])
            assert said(client.rcpt(f"{name}@example.com")).startswith("250 ")
            assert said(client.data(f"Subject: {name}\r\n".encode())).startswith("250 ")
    assert [recipients[0].local for _, recipients, _ in handler.given] == ["jörg", "ann"]
    assert [sender.args for sender, _, _ in handler.given] == [{"SMTPUTF8": True, "BODY": "8BITMIME"}, {}]


def test_a_relay_tells_its_client_what_the_next_host_refuses(
    tmp_path: Path, next_host: tuple[NextHost, SMTPServer]
) -> None:
    handler, server = next_host
    with relaying(tmp_path, server) as client:
        assert said(client.mail("spammer@example.net")) == "550 5.7.1 We know you,\n5.7.1 and do not want you"
        assert said(client.mail(SENDER)).startswith("250 ")
        assert said(client.rcpt("full@example.com")) == "452 4.2.2 The mailbox is full"
        assert said(client.rcpt("ann@elsewhere.example")) == "550 5.7.1 No relaying to elsewhere.example"
        assert said(client.rcpt(ANN)).startswith("250 ")
        handler.at_end = Reject(554, "5.6.0", "We do not like it")
        assert said(client.data(TEXT)) == "554 5.6.0 We do not like it"
        handler.at_data = Reject(554, "5.3.0", "Nor do we want anything else")
        assert send(client, ANN) == "554 5.3.0 Nor do we want anything else"
        circling = b"Received: from a by b\r\n" * 51 + TEXT
        assert send(client, ANN, text=b"X: y\r\n" + circling).startswith("554 5.4.6 ")
    assert handler.given == []


def test_a_relay_asks_its_client_to_come_again_if_the_next_host_is_away(
    tmp_path: Path, next_host: tuple[NextHost, SMTPServer]
) -> None:
    handler, server = next_host
    with relaying(tmp_path, server) as client:
        client.mail(SENDER)
        server.close()  # it tells the relay, too
        assert said(client.rcpt(ANN)) == "451 4.4.2 Server shutting down"
        assert said(client.rcpt(ANN)) == "451 4.4.1 The next host does not answer"
        client.rset()
        assert said(client.mail(SENDER)) == "451 4.4.1 The next host does not answer"
    assert handler.given == []


# --- greylisting ------------------------------------------------------------------------------------


def test_greylisting_takes_what_comes_again(tmp_path: Path) -> None:
    with (
        program("greylisting", tmp_path, ("DELAY = 300.0", "DELAY = 0.5")) as running,
        connected(running) as client,
    ):
        began = time.monotonic()
        assert send(client, ANN).startswith("451 Greylisted, come again in ")
        assert send(client, BOB).startswith("451 ")
        until(lambda: send(client, ANN).startswith("250 "))
        assert time.monotonic() - began >= 0.5
        assert running.until("octets") == f"22 octets from <{SENDER}>"
        assert send(client, ANN).startswith("250 ")
        assert send(client, "carol@example.com").startswith("451 ")


def test_greylisting_forgets_the_oldest_where_there_is_too_much(tmp_path: Path) -> None:
    with (
        program(
            "greylisting", tmp_path, ("DELAY = 300.0", "DELAY = 0.2"), ("MOST = 100_000", "MOST = 2")
        ) as running,
        connected(running) as client,
    ):
        until(lambda: send(client, ANN).startswith("250 "))
        for name in "ab":
            assert send(client, f"{name}@example.com").startswith("451 ")
        assert send(client, ANN).startswith("451 ")


# --- a mechanism ------------------------------------------------------------------------------------


class ScramClient:
    """The client's side of RFC 5802, as smtplib's `auth` calls it."""

    def __init__(self, user: str, password: str) -> None:
        self.bare = f"n={user},r=rOprNGfwEbeRWgbNEkqO"
        self.password = password.encode()
        self.signature = b""
        self.proved = False

    def __call__(self, challenge: bytes | None = None) -> str:
        if not challenge:
            return f"n,,{self.bare}"
        if challenge.startswith(b"v="):
            self.proved = hmac.compare_digest(base64.b64decode(challenge[2:]), self.signature)
            return ""
        fields = dict(part.split("=", 1) for part in challenge.decode().split(","))
        salted = hashlib.pbkdf2_hmac("sha256", self.password, base64.b64decode(fields["s"]), int(fields["i"]))
        final = f"c=biws,r={fields['r']}"
        message = f"{self.bare},{challenge.decode()},{final}".encode()
        key = hmac.digest(salted, b"Client Key", "sha256")
        signed = hmac.digest(hashlib.sha256(key).digest(), message, "sha256")
        self.signature = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), message, "sha256")
        proof = base64.b64encode(bytes(a ^ b for a, b in zip(key, signed, strict=True))).decode()
        return f"{final},p={proof}"


@pytest.mark.parametrize("initial", [True, False])
def test_scram_lets_in_who_knows_the_password_and_proves_the_server_too(
    tmp_path: Path, initial: bool
) -> None:
    with program("own_mechanism", tmp_path) as running, connected(running, tls=True) as client:
        assert client.esmtp_features["auth"].strip() == "SCRAM-SHA-256"
        scram = ScramClient("ann", "secret")
        assert client.auth("SCRAM-SHA-256", scram, initial_response_ok=initial)[0] == 235
        assert scram.proved
        assert send(client, ANN).startswith("250 ")


def test_scram_refuses_who_does_not(tmp_path: Path) -> None:
    changes = ('auth_methods=["', 'max_auth_attempts=None, auth_methods=["')
    with program("own_mechanism", tmp_path, changes) as running, connected(running, tls=True) as client:
        for user, password in (("ann", "wrong"), ("nobody", "secret"), ("nobody", "")):
            with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
                client.auth("SCRAM-SHA-256", ScramClient(user, password))
            assert refused.value.smtp_code == 535
        salts = {challenged(client, "nobody")[1] for _ in range(2)}
        assert len(salts) == 1  # as those of a user
        for wrong in ("p=tls-unique,,n=ann,r=abc", "n,,n=ann", "n,,n=\udcff,r=abc"):
            encoded = base64.b64encode(wrong.encode(errors="surrogateescape")).decode()
            assert client.docmd("AUTH", f"SCRAM-SHA-256 {encoded}")[0] == 501
        for wrong in ("", "c=biws,r=abc,p=AAAA", "c=biws,r={nonce},p=AAAA", "c=biws,r={nonce},p=!", "*"):
            nonce, _ = challenged(client, "ann", cancel=False)
            encoded = base64.b64encode(wrong.format(nonce=nonce).encode()).decode()
            assert client.docmd(wrong if wrong == "*" else encoded)[0] == 501
        assert said(client.mail(SENDER)).startswith("530 ")


def challenged(client: smtplib.SMTP, user: str, *, cancel: bool = True) -> tuple[str, str]:
    """The server's nonce and salt."""
    code, reply = client.docmd(
        "AUTH", f"SCRAM-SHA-256 {base64.b64encode(f'n,,n={user},r=abc'.encode()).decode()}"
    )
    assert code == 334
    if cancel:
        assert client.docmd("*")[0] == 501
    fields = dict(part.split("=", 1) for part in base64.b64decode(reply).decode().split(","))
    return fields["r"], fields["s"]


# --- a verb -----------------------------------------------------------------------------------------


def test_etrn_sends_what_is_held(tmp_path: Path) -> None:
    with program("own_verb", tmp_path) as running, connected(running) as client:
        assert client.has_extn("etrn")
        assert (
            said(client.docmd("ETRN", "shop.example.com"))
            == "251 OK, no messages waiting for shop.example.com"
        )
        assert send(client, "a@shop.example.com", "b@shop.example.com").startswith("250 ")
        assert said(client.docmd("etrn", "Shop.example.com")) == (
            "253 OK, 1 pending messages for shop.example.com started"
        )
        assert running.until("octets to") == "22 octets to shop.example.com"
        assert said(client.docmd("ETRN", "shop.example.com")).startswith("251 ")
        assert said(client.docmd("ETRN", "other.example")) == (
            "459 Node other.example not allowed: no mail is held for it"
        )
        assert client.docmd("XYZZY")[0] == 500
        assert client.docmd("TURN")[0] == 502


# --- certificates, by hand and by an adapter ----------------------------------------------------------


AUTHORITY: Final = trustme.CA()
CLIENTS: Final = trustme.CA()


def trusting(client: Path | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=AUTHORITY.cert_pem.bytes().decode())
    if client is not None:
        context.load_cert_chain(client)
    return context


def issued(authority: trustme.CA, name: str, folder: Path) -> Path:
    """A file with a certificate and its key."""
    file = folder / f"{name}.pem"
    authority.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(file)
    return file


def start_tls(client: smtplib.SMTP, context: ssl.SSLContext, name: str) -> None:
    """STARTTLS with this server name, where smtplib takes the address it has connected to."""
    vars(client)["_host"] = name
    client.starttls(context=context)
    client.ehlo()


def test_a_server_on_events_asks_for_starttls_and_takes_mail_then(tmp_path: Path) -> None:
    leaf = AUTHORITY.issue_cert("localhost")
    leaf.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    leaf.private_key_pem.write_to_path(tmp_path / "key.pem")
    with program("events_starttls", tmp_path) as running, connected(running) as client:
        assert said(client.mail(SENDER)).startswith("530 ")
        start_tls(client, trusting(), "localhost")
        assert not client.has_extn("starttls")
        assert send(client, "ann@elsewhere.example") == "550 No such user here"
        text = TEXT * 50_000
        assert send(client, ANN, text=text).startswith("250 ")
        assert running.until("octets") == f"{len(text)} octets from <{SENDER}>"
        with connected(running) as other:  # one that breaks off its handshake
            assert other.docmd("STARTTLS")[0] == 220
            assert other.sock is not None
            other.sock.sendall(b"EHLO a\r\n")
            with contextlib.suppress(ConnectionResetError):
                while other.sock.recv(4096):
                    pass
            other.close()
        assert send(client, ANN).startswith("250 ")


def test_a_certificate_of_a_client_is_its_login_and_each_name_has_its_own(tmp_path: Path) -> None:
    for name in ("mx.example.com", "mail.example.org"):
        issued(AUTHORITY, name, tmp_path)
    CLIENTS.cert_pem.write_to_path(tmp_path / "clients.pem")
    known = trusting(issued(CLIENTS, "scanner@example.com", tmp_path))
    strange = trusting(issued(CLIENTS, "stranger@example.com", tmp_path))
    forged = trusting(issued(AUTHORITY, "scanner@example.com", tmp_path))
    with program("certificates", tmp_path) as running:
        for name in ("mx.example.com", "mail.example.org"):
            with connected(running) as client:
                assert said(client.mail(SENDER)).startswith("530 ")
                start_tls(client, known, name)
                assert send(client, ANN) == f"250 22 octets of the scanner for {name}"
        for context in (trusting(), strange):
            with connected(running) as client:
                start_tls(client, context, "mx.example.com")
                assert send(client, ANN) == "530 A certificate that we know is needed"
        with connected(running) as client, pytest.raises(ssl.SSLCertVerificationError):
            start_tls(client, known, "other.example")
        with pytest.raises((OSError, smtplib.SMTPServerDisconnected)), connected(running) as client:
            start_tls(client, forged, "mx.example.com")


# --- Django -----------------------------------------------------------------------------------------


def test_the_django_tests_pass(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            str(DOCS / "examples" / "test_django.py"),
        ],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


# --- all of them ------------------------------------------------------------------------------------

PROGRAMS: Final = [block.kind.split()[1] for block in blocks_of(DOCS / "programs.md")]


def test_there_are_ten_programs() -> None:
    assert len(PROGRAMS) == 10


@pytest.mark.parametrize("path", PROGRAMS)
def test_a_program_takes_all_it_needs_from_one_package_of_ours(path: str) -> None:
    text = (DOCS / path).read_text("utf-8")
    packages = set(re.findall(r"^(?:from|import) (smtpproto\w*(?:\.\w+)?)", text, re.MULTILINE))
    assert len(packages - {"smtpproto.extending"}) == 1
    assert "type: ignore" not in text
    assert "pyright:" not in text
