# Users, and TLS in both its forms.

from __future__ import annotations

import base64
import contextlib
import smtplib
import ssl
from typing import TYPE_CHECKING, Final

import pytest
import trustme

from cli.serving import PATIENCE, command

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from cli.serving import Running, Serve

MESSAGE: Final = b"Subject: hi\r\n\r\nhello\r\n"
ALICE: Final = ("--user", "alice:a b:c\u00e9", "--user", "bob:builder")
PASSWORD: Final = "a b:c\u00e9"
INSECURE: Final = ("--set", "allow_insecure_auth=true")
ALL_METHODS: Final = ("--set", "auth_methods=PLAIN,LOGIN,CRAM-MD5,XOAUTH2")


@contextlib.contextmanager
def client(server: Running) -> Generator[smtplib.SMTP]:
    with smtplib.SMTP(server.host, server.port, timeout=PATIENCE) as smtp:
        smtp.ehlo()
        yield smtp


def unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def plain(*parts: str) -> str:
    return f"PLAIN {b64(chr(0).join(parts))}"


def authenticate(smtp: smtplib.SMTP, mechanism: str, user: str, password: str) -> int:
    """The code of smtplib's own exchange; smtplib knows passwords in ASCII only."""
    smtp.user, smtp.password = user, password
    method = getattr(smtp, f"auth_{mechanism.lower().replace('-', '_')}")
    try:
        return smtp.auth(mechanism, method, initial_response_ok=mechanism == "PLAIN")[0]
    except smtplib.SMTPAuthenticationError as error:
        return error.smtp_code


# --- users ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
@pytest.mark.parametrize(
    ("user", "password", "code"),
    [
        ("bob", "builder", 235),
        ("bob", "Builder", 535),
        ("bob", "", 535),
        ("bob", "builder ", 535),
        ("Bob", "builder", 535),
        ("nobody", "builder", 535),
        ("alice", "builder", 535),
    ],
)
def test_a_login_takes_the_right_user_with_the_right_password(
    shared: Running, mechanism: str, user: str, password: str, code: int
) -> None:
    with client(shared) as smtp:
        assert authenticate(smtp, mechanism, user, password) == code


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One server for all questions about logins: it keeps nothing between them."""
    from cli.serving import Running  # noqa: PLC0415 - the type and the value have one name

    server = Running(
        tmp_path_factory.mktemp("shared"), "--port", "0", "--discard", *ALICE, *INSECURE, *ALL_METHODS
    )
    try:
        yield server.ready()
    finally:
        server.kill()


def test_a_password_may_hold_colons_blanks_and_letters_of_any_kind(shared: Running) -> None:
    with client(shared) as smtp:
        assert smtp.docmd("AUTH", plain("", "alice", PASSWORD))[0] == 235


@pytest.mark.parametrize(("authzid", "code"), [("bob", 235), ("alice", 535)])
def test_nobody_acts_for_another(shared: Running, authzid: str, code: int) -> None:
    with client(shared) as smtp:
        assert smtp.docmd("AUTH", plain(authzid, "bob", "builder"))[0] == code


def test_a_token_is_no_password(shared: Running) -> None:
    with client(shared) as smtp:
        response = b64("user=bob\x01auth=Bearer builder\x01\x01")
        assert smtp.docmd("AUTH", f"XOAUTH2 {response}")[0] == 334
        assert smtp.docmd("")[0] == 535


def test_with_users_mail_needs_a_login_and_the_line_names_the_user(serve: Serve) -> None:
    server = serve(*ALICE, *INSECURE, "--no-trace")
    with client(server) as smtp:
        assert smtp.esmtp_features["auth"].split() == ["PLAIN", "LOGIN"]
        assert smtp.mail("a@example.com")[0] == 530
        smtp.login("bob", "builder")
        smtp.sendmail("a@example.com", ["b@example.com"], MESSAGE)
    assert server.message_line()["user"] == "bob"
    assert server.new_mail() == [MESSAGE]


def test_with_users_and_auth_optional_mail_needs_no_login(serve: Serve) -> None:
    server = serve(*ALICE, *INSECURE, "--set", "auth_optional=true", "--discard")
    with client(server) as smtp:
        assert "auth" in smtp.esmtp_features
        smtp.sendmail("a@example.com", ["b@example.com"], MESSAGE)
    assert server.message_line()["user"] == "-"


def test_a_login_in_the_clear_is_not_offered_and_refused(serve: Serve) -> None:
    with client(serve(*ALICE)) as smtp:
        assert "auth" not in smtp.esmtp_features
        assert smtp.docmd("AUTH", "PLAIN")[0] == 538


def test_without_users_there_is_no_auth(serve: Serve) -> None:
    with client(serve("--discard", *INSECURE)) as smtp:
        assert "auth" not in smtp.esmtp_features
        assert smtp.docmd("AUTH", "PLAIN")[0] == 500
        assert smtp.mail("a@example.com")[0] == 250


def test_without_users_auth_can_be_offered_and_nobody_gets_in(serve: Serve) -> None:
    with client(serve("--discard", *INSECURE, "--set", 'auth_methods=["PLAIN"]')) as smtp:
        assert smtp.esmtp_features["auth"].split() == ["PLAIN"]
        assert authenticate(smtp, "PLAIN", "bob", "builder") == 535
        assert smtp.mail("a@example.com")[0] == 250


@pytest.mark.parametrize(("user", "code"), [("bob", 220), ("nobody", 550)])
def test_a_trusted_peer_may_name_a_user(serve: Serve, user: str, code: int) -> None:
    with client(serve(*ALICE, "--discard", "--set", "use_xclient=127.0.0.1")) as smtp:
        assert smtp.docmd("XCLIENT", f"LOGIN={user}")[0] == code


# --- TLS --------------------------------------------------------------------------------------------


def test_starttls_works_with_a_certificate_made_for_the_occasion(serve: Serve) -> None:
    server = serve(*ALICE, "--no-trace")
    with client(server) as smtp:
        smtp.starttls(context=unverified())
        smtp.login("bob", "builder")
        smtp.sendmail("a@example.com", ["b@example.com"], MESSAGE)
    facts = server.message_line()
    assert (facts["tls"], facts["user"]) == ("TLSv1.3", "bob")
    assert server.new_mail() == [MESSAGE]
    assert any("development only" in line for line in server.stop())


def test_implicit_tls_works_with_a_certificate_made_for_the_occasion(serve: Serve) -> None:
    server = serve("--implicit-tls", "--discard")
    with smtplib.SMTP_SSL(server.host, server.port, context=unverified(), timeout=PATIENCE) as smtp:
        smtp.sendmail("a@example.com", ["b@example.com"], MESSAGE)
        assert not smtp.has_extn("starttls")
    assert server.message_line()["tls"] == "TLSv1.3"


def test_tls_that_ends_upstream_is_shown_as_such(serve: Serve) -> None:
    server = serve("--discard", "--set", "tls_upstream=true")
    with client(server) as smtp:
        smtp.sendmail("a@example.com", ["b@example.com"], MESSAGE)
    assert server.message_line()["tls"] == "upstream"


@pytest.fixture
def authority(tmp_path: Path) -> tuple[ssl.SSLContext, Path, Path, Path]:
    """What trusts an authority; a chain, its key, and both in one file."""
    ca = trustme.CA()
    issued = ca.issue_cert("localhost", "127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "chain.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    context = ssl.create_default_context()
    context.load_verify_locations(cadata=ca.cert_pem.bytes().decode())
    return context, tmp_path / "chain.pem", tmp_path / "key.pem", tmp_path / "both.pem"


@pytest.mark.parametrize("how", ["two files", "one file", "config"])
def test_a_certificate_of_ones_own_is_used(
    serve: Serve, tmp_path: Path, authority: tuple[ssl.SSLContext, Path, Path, Path], how: str
) -> None:
    context, chain, key, both = authority
    config = tmp_path / "server.toml"
    config.write_text(f'cert = "{chain}"\nkey = "{key}"\n')
    arguments: dict[str, list[str | Path]] = {
        "two files": ["--tls-cert", chain, "--tls-key", key],
        "one file": ["--tls-cert", both],
        "config": ["--config", config],
    }
    server = serve("--discard", *arguments[how])
    with client(server) as smtp:
        assert smtp.starttls(context=context)[0] == 220
        smtp.sendmail("a@example.com", ["b@example.com"], MESSAGE)
    assert server.stop() == []


def test_implicit_tls_and_other_options_of_tls_go_with_it(
    serve: Serve, authority: tuple[ssl.SSLContext, Path, Path, Path]
) -> None:
    context, _, _, both = authority
    server = serve("--implicit-tls", "--discard", "--tls-cert", both, "--set", "max_version=TLSv1.2")
    with smtplib.SMTP_SSL(server.host, server.port, context=context, timeout=PATIENCE) as smtp:
        smtp.sendmail("a@example.com", ["b@example.com"], MESSAGE)
    assert server.message_line()["tls"] == "TLSv1.2"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tls-key", "key.pem"], "--tls-key belongs to a certificate; add --tls-cert"),
        (["--tls-cert", "chain.pem"], "there is no private key: set key"),
        (["--tls-cert", "chain.pem", "--tls-key", "other.pem"], "the key does not belong to the certificate"),
        (["--tls-cert", "text.pem"], "--tls-cert: cert is not PEM"),
        (["--tls-cert", "key.pem"], "--tls-cert: cert contains no certificate"),
        (["--set", "cert=none.pem"], "--set: cert: cannot read 'none.pem': No such file or directory"),
        (
            ["--tls-cert", "both.pem", "--set", 'sni_options={x={cert="no"}}'],
            "--set: sni_options['x']: cert: cannot read 'no': No such file or directory",
        ),
        (["--set", "max_version=SSLv3"], "--set: max_version must be one of TLSv1"),
        (
            ["--tls-cert", "both.pem", "--set", "min_version=TLSv1.9"],
            "--set: min_version must be one of TLSv1",
        ),
    ],
)
def test_a_certificate_that_cannot_be_used_is_told_in_one_line(
    authority: tuple[ssl.SSLContext, Path, Path, Path], tmp_path: Path, arguments: list[str], said: str
) -> None:
    assert authority[1].parent == tmp_path
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(tmp_path / "other.pem")
    (tmp_path / "text.pem").write_text("hello")
    done = command("serve", "--port", "0", "--discard", *arguments, directory=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr
