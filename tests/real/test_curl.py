# curl, which speaks SMTP from the command line and from a great many programs.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from real.programs import fails, succeeds
from real.receiving import MESSAGE, PASSWORD, TOKEN, USER, asyncio_only, receiving

if TYPE_CHECKING:
    from pathlib import Path

    from real.conftest import Trust
    from real.receiving import Receiving

pytestmark = pytest.mark.real("curl")

ALICE = "alice@example.com"
BOB = "bob@example.org"


def arguments(server: Receiving, file: Path, trust: Trust, scheme: str = "smtp") -> list[str | Path]:
    return [
        "--silent", "--show-error", "--noproxy", "*", "--max-time", "30", "--cacert", trust.authority,
        "--mail-from", ALICE, "--mail-rcpt", BOB, "--upload-file", file,
        f"{scheme}://{server.place}/client.test",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "scheme", "more", "transmission_type"),
    [
        ({}, "smtp", [], "ESMTP"),
        ({}, "smtp", ["--ssl-reqd"], "ESMTPS"),
        ({"secure": True}, "smtps", [], "ESMTPS"),
    ],
)
def test_it_delivers(
    runtime: str,
    trust: Trust,
    message_file: Path,
    options: dict[str, Any],
    scheme: str,
    more: list[str],
    transmission_type: str,
) -> None:
    with receiving(runtime, **trust.options, **options) as server:
        succeeds("curl", *arguments(server, message_file, trust, scheme), *more)
        message = server.only_message()
        assert (message.sender, message.recipients, message.content) == (ALICE, [BOB], MESSAGE)
        assert (message.transmission_type, message.hello) == (transmission_type, "client.test")
        assert message.envelope.declared_size == len(MESSAGE)


@pytest.mark.parametrize("initial_response", [[], ["--sasl-ir"]])
@pytest.mark.parametrize("mechanism", [asyncio_only("PLAIN"), asyncio_only("LOGIN"), "CRAM-MD5"])
def test_it_logs_in(
    runtime: str, trust: Trust, message_file: Path, mechanism: str, initial_response: list[str]
) -> None:
    login = ["--user", f"{USER}:{PASSWORD}", "--login-options", f"AUTH={mechanism}", *initial_response]
    with receiving(runtime, **trust.options, auth_optional=False) as server:
        succeeds("curl", *arguments(server, message_file, trust), "--ssl-reqd", *login)
        message = server.only_message()
        assert (message.user, message.transmission_type, message.content) == (USER, "ESMTPSA", MESSAGE)
        assert server.mailbox.attempts == [mechanism]


def test_it_logs_in_with_a_token(runtime: str, trust: Trust, message_file: Path) -> None:
    login = ["--user", USER, "--oauth2-bearer", TOKEN, "--login-options", "AUTH=XOAUTH2"]
    with receiving(runtime, **trust.options, auth_optional=False) as server:
        succeeds("curl", *arguments(server, message_file, trust), "--ssl-reqd", *login)
        assert (server.only_message().user, server.mailbox.attempts) == (USER, ["XOAUTH2"])


def test_it_is_not_let_in_with_a_wrong_password(runtime: str, trust: Trust, message_file: Path) -> None:
    with receiving(runtime, **trust.options, auth_optional=False) as server:
        said = fails("curl", *arguments(server, message_file, trust), "--ssl-reqd", "--user", f"{USER}:guess")
        assert "Login denied" in said
        assert server.mailbox.messages == []


def test_it_goes_on_without_a_recipient_that_was_refused(
    runtime: str, trust: Trust, message_file: Path
) -> None:
    more = ["--mail-rcpt", "nobody@example.org", "--mail-rcpt", "carol@example.org", "--mail-rcpt-allowfails"]
    with receiving(runtime) as server:
        succeeds("curl", *arguments(server, message_file, trust), *more)
        assert server.only_message().recipients == [BOB, "carol@example.org"]


def test_it_sends_to_addresses_beyond_ascii(runtime: str, trust: Trust, message_file: Path) -> None:
    with receiving(runtime) as server:
        succeeds("curl", *arguments(server, message_file, trust), "--mail-rcpt", "zoë@example.org")
        message = server.only_message()
        assert message.recipients == [BOB, "zoë@example.org"]
        assert message.envelope.smtp_utf8


@pytest.mark.asyncio_only
def test_its_brackets_around_the_author_are_no_mailbox(
    runtime: str, trust: Trust, message_file: Path
) -> None:
    # RFC 4954 §5 has AUTH=mailbox; this curl sends AUTH=<mailbox>.
    author = ["--ssl-reqd", "--user", f"{USER}:{PASSWORD}", "--mail-auth", "carol@example.com"]
    with receiving(runtime, **trust.options) as server:
        assert "MAIL failed: 501" in fails("curl", *arguments(server, message_file, trust), *author)
        succeeds("curl", *arguments(server, message_file, trust), *author[:-1], "")
        mail_from = server.only_message().envelope.mail_from
        assert mail_from is not None
        assert mail_from.args["AUTH"] == "<>"


def test_it_delivers_twenty_mebibytes(runtime: str, trust: Trust, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(MESSAGE * (20 * 1024 * 1024 // len(MESSAGE)))
    with receiving(runtime, **trust.options) as server:
        succeeds("curl", *arguments(server, large, trust), "--ssl-reqd")
        assert server.only_message().content == large.read_bytes()


@pytest.mark.asyncio_only
def test_it_asks_for_help(runtime: str, trust: Trust) -> None:
    with receiving(runtime, **trust.options) as server:
        said = succeeds("curl", "--silent", "--noproxy", "*", "--request", "HELP", f"smtp://{server.place}/")
        assert "rfc5321" in said
