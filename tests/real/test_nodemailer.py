# nodemailer, what most programs on Node send with.

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from real.programs import fails, succeeds
from real.receiving import MESSAGE, PASSWORD, TOKEN, USER, asyncio_only, receiving

if TYPE_CHECKING:
    from real.conftest import Trust
    from real.receiving import Receiving

pytestmark = pytest.mark.real("node", "node:nodemailer")

SCRIPT: Final = Path(__file__).with_name("nodemailer.js")
BOB = "bob@example.org"


def job(
    server: Receiving, trust: Trust, transport: dict[str, Any], message: dict[str, Any] | None = None
) -> str:
    tls = {"ca": trust.authority.read_text(), "servername": "localhost"}
    envelope = {"from": "alice@example.com", "to": [BOB]}
    return json.dumps(
        {
            "transport": {
                "host": "127.0.0.1",
                "port": server.port,
                "name": "client.test",
                "tls": tls,
                **transport,
            },
            "message": {"envelope": envelope, "raw": MESSAGE.decode(), **(message or {})},
        }
    )


def send(
    server: Receiving, trust: Trust, transport: dict[str, Any], message: dict[str, Any] | None = None
) -> Any:
    return json.loads(succeeds("node", SCRIPT, job(server, trust, transport, message)))


@pytest.mark.parametrize(
    ("options", "transport", "transmission_type"),
    [
        asyncio_only({}, {"ignoreTLS": True}, "ESMTP"),
        ({"needs_upgrade": True}, {}, "ESMTPS"),
        ({"secure": True}, {"secure": True}, "ESMTPS"),
        asyncio_only({"lmtp": True}, {"lmtp": True, "ignoreTLS": True}, "LMTP"),
        ({"lmtp": True}, {"lmtp": True}, "LMTPS"),
    ],
)
def test_it_delivers(
    runtime: str, trust: Trust, options: dict[str, Any], transport: dict[str, Any], transmission_type: str
) -> None:
    with receiving(runtime, **trust.options, **options) as server:
        assert send(server, trust, transport)["accepted"] == [BOB]
        message = server.only_message()
        assert (message.recipients, message.content) == ([BOB], MESSAGE)
        assert (message.transmission_type, message.hello) == (transmission_type, "client.test")


@pytest.mark.parametrize("mechanism", [asyncio_only("PLAIN"), "LOGIN", asyncio_only("CRAM-MD5")])
def test_it_logs_in(runtime: str, trust: Trust, mechanism: str) -> None:
    login = {"requireTLS": True, "auth": {"user": USER, "pass": PASSWORD}, "authMethod": mechanism}
    with receiving(runtime, **trust.options, auth_optional=False) as server:
        send(server, trust, login)
        assert (server.only_message().user, server.mailbox.attempts) == (USER, [mechanism])


def test_it_logs_in_with_a_token(runtime: str, trust: Trust) -> None:
    login = {"requireTLS": True, "auth": {"type": "OAuth2", "user": USER, "accessToken": TOKEN}}
    with receiving(runtime, **trust.options, auth_optional=False) as server:
        send(server, trust, login)
        assert (server.only_message().user, server.mailbox.attempts) == (USER, ["XOAUTH2"])


@pytest.mark.parametrize(
    "auth",
    [
        {"user": USER, "pass": "guess"},
        asyncio_only({"type": "OAuth2", "user": USER, "accessToken": "guess"}),
    ],
)
def test_it_is_not_let_in_with_a_wrong_secret(runtime: str, trust: Trust, auth: dict[str, str]) -> None:
    with receiving(runtime, **trust.options, auth_optional=False) as server:
        said = fails("node", SCRIPT, job(server, trust, {"requireTLS": True, "auth": auth}))
        assert json.loads(said)["response"].startswith("535 5.7.8 ")
        assert server.mailbox.messages == []


@pytest.mark.asyncio_only
def test_it_goes_on_without_a_recipient_that_was_refused(runtime: str, trust: Trust) -> None:
    envelope = {"from": "alice@example.com", "to": ["nobody@example.org", BOB]}
    with receiving(runtime) as server:
        said = send(server, trust, {"ignoreTLS": True}, {"envelope": envelope})
        assert (said["accepted"], said["rejected"]) == ([BOB], ["nobody@example.org"])
        assert server.only_message().recipients == [BOB]


@pytest.mark.asyncio_only
def test_it_asks_for_notifications(runtime: str, trust: Trust) -> None:
    dsn = {"id": "id with + and =", "return": "headers", "notify": ["failure"], "recipient": "o@example.org"}
    with receiving(runtime) as server:
        send(server, trust, {"ignoreTLS": True}, {"dsn": dsn})
        envelope = server.only_message().envelope
        assert (envelope.dsn.envid, envelope.dsn.ret) == ("id with + and =", "HDRS")
        assert envelope.rcpt_to[0].dsn.notify == ("FAILURE",)
        assert envelope.rcpt_to[0].dsn.orcpt == "rfc822;o@example.org"


def test_it_sends_to_addresses_beyond_ascii(runtime: str, trust: Trust) -> None:
    envelope = {"from": "jörg@example.com", "to": ["zoë@example.org"]}
    with receiving(runtime) as server:
        send(server, trust, {"ignoreTLS": True}, {"envelope": envelope})
        message = server.only_message()
        assert (message.sender, message.recipients) == ("jörg@example.com", ["zoë@example.org"])
        assert message.envelope.smtp_utf8
