# Several listeners of one command, with real clients on each.

from __future__ import annotations

import re
import smtplib
import socket
import ssl
from typing import TYPE_CHECKING, Final

import pytest

from cli.serving import PATIENCE, Running
from smtpproto_cli._listen import by_table, by_url
from smtpproto_cli._runtimes import RUNTIMES

if TYPE_CHECKING:
    from pathlib import Path

    from cli.serving import Serve

MESSAGE: Final = b"Subject: hi\r\n\r\nhello\r\n"
MX: Final = ("--listen", "smtp://127.0.0.1:0")
SMTPS: Final = ("--listen", "smtps://127.0.0.1:0")
SUBMISSION: Final = ("--listen", "submission://127.0.0.1:0")
THREE: Final = (*MX, *SMTPS, *SUBMISSION)
USERS: Final = ("--user", "bob:secret", "--set", "auth_optional=true")
LISTENED: Final = re.compile(r"127\.0\.0\.1:(\d+)")


def context() -> ssl.SSLContext:
    """It trusts anybody: the certificate is one for development."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    return made


def send(smtp: smtplib.SMTP) -> None:
    assert smtp.sendmail("a@example.com", ["b@example.com"], MESSAGE) == {}


def taken(server: Running) -> tuple[str, str, str]:
    """By which listener, with which user, and whether with TLS the next message was taken."""
    line = server.out.until("^id=")
    found = re.search(r" tls=(\S+) user=(\S+) listener=(\S+) stored=discarded$", line)
    assert found is not None, line
    return found[3], found[2], found[1]


def deliver_to_three(server: Running) -> None:
    mx, smtps, submission = map(int, LISTENED.findall(server.place))
    with smtplib.SMTP("127.0.0.1", mx, "c.test", PATIENCE) as smtp:
        send(smtp)
    assert taken(server) == ("smtp", "-", "no")
    with smtplib.SMTP_SSL("127.0.0.1", smtps, "c.test", timeout=PATIENCE, context=context()) as smtp:
        send(smtp)
    assert taken(server) == ("smtps", "-", "TLSv1.3")
    with smtplib.SMTP("127.0.0.1", submission, "c.test", PATIENCE) as smtp:
        with pytest.raises(smtplib.SMTPSenderRefused, match="Must issue a STARTTLS command first"):
            send(smtp)
        smtp.starttls(context=context())
        with pytest.raises(smtplib.SMTPSenderRefused, match="authentication Required"):
            send(smtp)
        smtp.login("bob", "secret")
        send(smtp)
    assert taken(server) == ("submission", "bob", "TLSv1.3")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_25_465_and_587_are_served_by_one_command(serve: Serve, runtime: str) -> None:
    server = serve("--discard", "--runtime", runtime, *THREE, *USERS)
    deliver_to_three(server)
    server.stop()


def test_workers_serve_all_listeners(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "lmtp"
    lmtp = ("--listen", f"lmtp://unix:{path}")
    server = serve("--discard", "--workers", "2", *THREE, *lmtp, *USERS)
    assert server.place.endswith(f", {path}")
    for _ in range(3):
        deliver_to_three(server)
        with smtplib.LMTP(str(path)) as client:
            send(client)
        assert taken(server) == ("lmtp", "-", "no")
    server.stop()
    assert not path.exists()


def test_tables_of_the_file_are_listeners_with_options_of_their_own(tmp_path: Path) -> None:
    config = tmp_path / "smtpproto.toml"
    config.write_text(f"""
banner = "all"
size = 1000

[[listen]]
url = "smtp://127.0.0.1:0"
name = "mx"
size = "none"

[[listen]]
host = "127.0.0.1"
port = 0
name = "small"
size = 10
banner = "small"
use_proxy = ["127.0.0.1"]

[[listen]]
path = "{tmp_path / "lmtp"}"
lmtp = true
""")
    server = Running(tmp_path, "--discard", "--config", config).ready()
    try:
        mx, small = map(int, LISTENED.findall(server.place))
        with smtplib.SMTP("127.0.0.1", mx, "c.test", PATIENCE) as smtp:
            smtp.ehlo()
            assert smtp.esmtp_features.get("size") is None
            send(smtp)
        assert taken(server)[0] == "mx"
        with socket.create_connection(("127.0.0.1", small), PATIENCE) as raw, raw.makefile("rb") as replies:
            raw.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.25 4000 25\r\n")
            assert replies.readline().endswith(b" ESMTP small\r\n")
            raw.sendall(b"EHLO c.test\r\n")
            assert [line for line in iter(replies.readline, b"250 SIZE 10\r\n") if b"192.0.2.7" in line]
        with smtplib.LMTP(str(tmp_path / "lmtp")) as lmtp:
            send(lmtp)
        assert "listener=" not in server.out.until("^id=")
        server.stop()
    finally:
        server.kill()


def test_listeners_of_the_command_line_win_over_those_of_the_file(serve: Serve, tmp_path: Path) -> None:
    config = tmp_path / "smtpproto.toml"
    config.write_text('[[listen]]\nurl = "submission://127.0.0.1:0"\n')
    server = serve("--discard", "--config", config, *MX)
    (port,) = map(int, LISTENED.findall(server.place))
    with smtplib.SMTP("127.0.0.1", port, "c.test", PATIENCE) as smtp:
        send(smtp)
    assert taken(server)[0] == "smtp"


def test_host_may_be_repeated_and_be_all_addresses(serve: Serve) -> None:
    server = serve("--discard", "--host", "127.0.0.1", "--host", "::1")
    assert re.fullmatch(r"127\.0\.0\.1:\d+, \[::1\]:\d+", server.place)
    server = serve("--discard", "--host", "*")
    places = dict(re.findall(r"(\S+):(\d+)", server.place))
    assert len(set(places.values())) == 1
    for host, port in places.items():
        address = {"[::]": "::1"}.get(host, "127.0.0.1")
        with smtplib.SMTP(address, int(port), "c.test", PATIENCE) as smtp:
            send(smtp)


@pytest.mark.parametrize(
    ("url", "place", "name"),
    [
        ("smtp://*", "*:25", "smtp"),
        ("smtps://mx.example.com", "mx.example.com:465", "smtps"),
        ("submission://192.0.2.1/", "192.0.2.1:587", "submission"),
        ("submissions://[2001:db8::1]", "[2001:db8::1]:465", "submissions"),
        ("lmtp://[::]:2424", "[::]:2424", "lmtp"),
        ("lmtp://localhost", "localhost:24", "lmtp"),
        ("lmtp://unix:/run/lmtp", "/run/lmtp", "lmtp"),
        ("smtp://unix:run/smtp", "run/smtp", "smtp"),
    ],
)
def test_a_url_says_where_to_listen(url: str, place: str, name: str) -> None:
    found = by_url(url)
    assert (str(found), found.own["name"]) == (place, name)


def test_what_a_table_says_wins_over_its_scheme() -> None:
    table = {"url": "submission://*", "name": "mine", "auth_optional": True, "size": "none"}
    assert by_table(table, "x.toml").own == {
        "name": "mine", "auth_optional": True, "lmtp": False, "needs_upgrade": True, "secure": False,
        "size": None,
    }  # fmt: skip
