# Secrets: what a client logs in with is in no log, and is not asked for where anybody can read it.

from __future__ import annotations

import base64
import logging
from typing import TYPE_CHECKING, Any, Final

import pytest

from running import running
from smtpproto import Reject
from smtpproto.testing import play

if TYPE_CHECKING:
    from collections.abc import Callable


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


def accepts(_auth: object, _session: object) -> bool:
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
