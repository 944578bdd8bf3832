# Secrets: what a client logs in with is in no log, and is not asked for where anybody can read it.

from __future__ import annotations

import base64
import logging
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest

from running import running
from smtpproto import Accept, ConfigurationError, Reject
from smtpproto.extending import option
from smtpproto.testing import play
from smtpproto_server import Options
from smtpproto_server.adapting import TlsContexts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


SECRET: Final = "tr0ub4dor"
PLAIN: Final = encoded(f"\0user\0{SECRET}")
PASSWORD: Final = encoded(SECRET)
TOKEN: Final = encoded(f"user=user\1auth=Bearer {SECRET}\1\1")
LOGINS: Final = (
    (f"AUTH PLAIN {PLAIN}",),
    ("AUTH PLAIN", PLAIN),
    ("AUTH LOGIN", encoded("user"), PASSWORD),
    (f"AUTH XOAUTH2 {TOKEN}", ""),
    (f"AUTH PLAIN {SECRET}",),  # said as it is: no base64, but a password all the same
)


def accepts(*_: object) -> bool:
    return True


def refuses(_auth: object, _session: object) -> None:
    raise Reject


def returns_nonsense(auth: object, _session: object) -> Any:
    return KeyError(auth)


def fails(auth: object, _session: object) -> None:
    raise KeyError(auth)


@pytest.mark.parametrize("on_auth", [accepts, refuses, returns_nonsense, fails])
def test_no_login_is_in_the_log(on_auth: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    how: dict[str, Any] = {"allow_insecure_auth": True, "auth_methods": ["PLAIN", "LOGIN", "XOAUTH2"]}
    with running("asyncio", on_auth=on_auth, **how) as server:
        for lines in LOGINS:
            with server.client().greeted() as client:
                for line in lines:
                    if client.say(line)[:3] != "334":
                        break
                assert client.say("QUIT") == "221 2.0.0 Bye"
    assert "connection from [127.0.0.1]" in caplog.text
    told = caplog.text + repr(server.errors)
    assert not [secret for secret in (SECRET, PLAIN, PASSWORD, TOKEN) if secret in told]


def test_no_password_is_taken_in_the_clear_where_tls_cannot_be_had() -> None:
    replies = play("EHLO c.test", LOGINS[0][0], made_with={"tls_available": False}, auth_optional=False)
    assert "AUTH" not in replies[1]
    assert replies[2] == "538 5.7.11 Error: Must issue a STARTTLS command first"


# --- options ------------------------------------------------------------------------------------

KEY: Final = f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n"


@dataclass
class Handler:
    """An application's object whose repr is careless."""

    password: str

    def on_auth(self, _auth: object, _session: object) -> bool:
        return False


@dataclass(frozen=True, kw_only=True)
class MoreOptions(Options):
    token: str = option(str, "", secret=True)


def mechanism(_password: str, _session: object) -> Any:
    raise NotImplementedError


SECRET_OPTIONS: Final[dict[str, Any]] = {
    "key": KEY,
    "cert": KEY,
    "ca": [KEY],
    "sni_options": {"mail.example": {"key": KEY}},
    "sasl_mechanisms": {"SCRAM": partial(mechanism, SECRET)},
    "handler": Handler(SECRET),
    "on_auth": Handler(SECRET).on_auth,
    "on_mail_from": partial(accepts, SECRET),
    "token": SECRET,
}


@pytest.mark.parametrize("name", SECRET_OPTIONS)
def test_no_key_password_or_object_of_the_application_is_in_the_repr_of_options(name: str) -> None:
    options = MoreOptions(size=4321, **{name: SECRET_OPTIONS[name]})
    assert SECRET not in repr(options)
    assert "size=4321" in repr(options)


@pytest.mark.parametrize(
    "wrong",
    [{"on_auth": {"user": SECRET}}, {"resolver": Handler(SECRET)}, {"sasl_mechanisms": [SECRET]}],
    ids=str,
)
def test_an_error_about_such_an_option_names_the_type_of_its_value(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises((TypeError, ValueError), match=rf"^{name} must .*, not {type(wrong[name]).__name__}$"):
        Options(**wrong)


COMPARING: Final = f"""
from smtpproto_server import Options

KEY = {KEY!r}

def test_that_fails():
    one, other = Options(key=KEY), Options(key=KEY * 2)
    assert one == other
"""


def test_pytest_shows_no_key_when_options_differ(tmp_path: Path) -> None:
    file = tmp_path / "test_it.py"
    file.write_text(COMPARING)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-vv", "-p", "no:cacheprovider", file],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    shown = "".join(line for line in run.stdout.splitlines() if line.startswith("E "))
    assert run.returncode == pytest.ExitCode.TESTS_FAILED
    assert "Options(" in shown
    assert SECRET not in shown


# RFC 8410: the whole of an Ed25519 key is one line of 64 characters.
ED25519: Final = "MC4CAQAwBQYDK2VwBCIEI" + "Nq3" * 14 + "A"


@pytest.mark.parametrize("name", ["key", "cert", "ca"])
@pytest.mark.parametrize("text", [ED25519, f"{ED25519}\n-----END PRIVATE KEY-----\n", "MIGH" * 60])
def test_a_key_that_has_lost_its_first_line_is_not_in_the_error(name: str, text: str) -> None:
    pair = {"cert": KEY.replace("PRIVATE KEY", "CERTIFICATE"), "key": KEY, "request_cert": True}
    with pytest.raises(ConfigurationError) as caught:
        TlsContexts({**pair, name: text}, name="mx.test")
    assert text[:20] not in str(caught.value)


def test_a_path_that_cannot_be_read_is_in_the_error() -> None:
    path = "/etc/smtpproto/a-rather-long-name-of-a-folder/private.key"
    with pytest.raises(ConfigurationError, match=f"^key: cannot read '{path}': No such file"):
        TlsContexts({"cert": KEY.replace("PRIVATE KEY", "CERTIFICATE"), "key": path}, name="mx.test")


# --- decisions ----------------------------------------------------------------------------------


def test_whoever_has_logged_in_is_not_in_the_repr_of_the_decision() -> None:
    assert repr(Accept(user=Handler(SECRET))) == "Accept(None, None, None, user=***)"


@pytest.mark.parametrize("decision", [Accept, Reject])
def test_a_user_in_the_place_of_the_code_is_not_in_the_error(decision: type[Accept | Reject]) -> None:
    with pytest.raises(ValueError, match=r"takes a code from \d+ to \d+, not Handler$"):
        decision(Handler(SECRET))  # type: ignore[arg-type] # what is tested
    with pytest.raises(TypeError, match=r"a reply text is str or a list of str, not a list of str, Handler$"):
        decision(text=["x", Handler(SECRET)])  # type: ignore[list-item] # what is tested
