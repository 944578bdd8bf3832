# msmtp, as it stands in for sendmail.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from real.programs import fails, succeeds
from real.receiving import MESSAGE, PASSWORD, USER, asyncio_only, receiving

if TYPE_CHECKING:
    from real.conftest import Trust
    from real.receiving import Receiving

pytestmark = pytest.mark.real("msmtp")

ALICE = "alice@example.com"
BOB = "bob@example.org"
TLS = ["--tls=on", "--tls-starttls=on"]
LOCAL = MESSAGE.replace(b"\r\n", b"\n")  # as programs hand it to sendmail


def arguments(server: Receiving, trust: Trust) -> list[str]:
    return [
        "--host=localhost", f"--port={server.port}", "--domain=client.test", "--timeout=20",
        f"--from={ALICE}", f"--tls-trust-file={trust.authority}",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "more", "transmission_type"),
    [
        ({}, [], "ESMTP"),
        ({"needs_upgrade": True}, TLS, "ESMTPS"),
        ({"secure": True}, ["--tls=on", "--tls-starttls=off"], "ESMTPS"),
        ({"lmtp": True}, ["--protocol=lmtp"], "LMTP"),
        ({"lmtp": True}, ["--protocol=lmtp", *TLS], "LMTPS"),
    ],
)
def test_it_delivers(
    runtime: str, trust: Trust, options: dict[str, Any], more: list[str], transmission_type: str
) -> None:
    with receiving(runtime, **trust.options, **options) as server:
        succeeds("msmtp", *arguments(server, trust), *more, "--", BOB, "carol@example.org", stdin=LOCAL)
        message = server.only_message()
        assert (message.sender, message.recipients) == (ALICE, [BOB, "carol@example.org"])
        assert (message.content, message.transmission_type) == (MESSAGE, transmission_type)


@pytest.mark.parametrize("mechanism", ["plain", asyncio_only("login"), asyncio_only("cram-md5")])
def test_it_logs_in(runtime: str, trust: Trust, mechanism: str) -> None:
    login = [f"--auth={mechanism}", f"--user={USER}", f"--passwordeval=echo '{PASSWORD}'"]
    with receiving(runtime, **trust.options, auth_optional=False) as server:
        succeeds("msmtp", *arguments(server, trust), *TLS, *login, "--", BOB, stdin=LOCAL)
        message = server.only_message()
        assert (message.user, message.transmission_type, message.content) == (USER, "ESMTPSA", MESSAGE)
        assert server.mailbox.attempts == [mechanism.upper()]


@pytest.mark.asyncio_only
def test_it_asks_for_notifications(runtime: str, trust: Trust) -> None:
    dsn = ["--dsn-notify=failure,delay", "--dsn-return=hdrs"]
    with receiving(runtime) as server:
        succeeds("msmtp", *arguments(server, trust), *dsn, "--", BOB, stdin=LOCAL)
        envelope = server.only_message().envelope
        assert (envelope.dsn.ret, envelope.rcpt_to[0].dsn.notify) == ("HDRS", ("FAILURE", "DELAY"))


@pytest.mark.parametrize("recipient", ["nobody@example.org", "full@example.org"])
def test_it_hears_of_a_recipient_refused_over_lmtp(runtime: str, trust: Trust, recipient: str) -> None:
    with receiving(runtime, lmtp=True) as server:
        said = fails("msmtp", *arguments(server, trust), "--protocol=lmtp", "--", recipient, stdin=LOCAL)
        assert recipient in said
