# swaks, the tester's client: every option of it that changes what we read.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from real.programs import fails, succeeds
from real.receiving import MESSAGE, PASSWORD, USER, Receiving, asyncio_only, receiving

if TYPE_CHECKING:
    from pathlib import Path

    from real.conftest import Trust

pytestmark = pytest.mark.real("swaks")

ALICE = "alice@example.com"
BOB = "bob@example.org"
LOGIN = ["--auth-user", USER, "--auth-password", PASSWORD]
PROXIED = [
    "--proxy-source", "192.0.2.7", "--proxy-source-port", "1234",
    "--proxy-dest", "192.0.2.9", "--proxy-dest-port", "25",
]  # fmt: skip
PROXIED6 = [
    "--proxy-source", "2001:db8::7", "--proxy-source-port", "1234",
    "--proxy-dest", "2001:db8::9", "--proxy-dest-port", "25",
]  # fmt: skip
# swaks takes a dot on the last line of a file for the end of the data.
LETTER = MESSAGE + b"end\r\n"


@pytest.fixture
def letter(tmp_path: Path) -> Path:
    path = tmp_path / "letter"
    path.write_bytes(LETTER.removesuffix(b"\r\n"))  # swaks puts it back
    return path


def arguments(server: Receiving, file: Path, trust: Trust) -> list[str | Path]:
    return [
        "--server", "127.0.0.1", "--port", str(server.port), "--helo", "client.test", "--timeout", "20",
        "--from", ALICE, "--to", BOB, "--data", f"@{file}", "--tls-ca-path", trust.authority, "--tls-verify",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "more", "transmission_type"),
    [
        asyncio_only({}, [], "ESMTP"),
        asyncio_only({}, ["--protocol", "SMTP"], "SMTP"),
        ({}, ["--pipeline"], "ESMTP"),
        asyncio_only({"needs_upgrade": True}, ["--tls"], "ESMTPS"),
        ({"needs_upgrade": True}, ["--tls", "--pipeline"], "ESMTPS"),
        ({"secure": True}, ["--tlsc"], "ESMTPS"),
        asyncio_only({"lmtp": True}, ["--protocol", "LMTP"], "LMTP"),
        ({"lmtp": True}, ["--protocol", "LMTP", "--pipeline"], "LMTP"),
        ({"lmtp": True}, ["--protocol", "LMTP", "--tls"], "LMTPS"),
    ],
)
def test_it_delivers(
    runtime: str, trust: Trust, letter: Path, options: dict[str, Any], more: list[str], transmission_type: str
) -> None:
    with receiving(runtime, **trust.options, **options) as server:
        succeeds("swaks", *arguments(server, letter, trust), *more)
        message = server.only_message()
        assert (message.sender, message.recipients, message.content) == (ALICE, [BOB], LETTER)
        assert (message.transmission_type, message.hello) == (transmission_type, "client.test")


@pytest.mark.parametrize("tls", ["--tls", "--tlsc"])
@pytest.mark.parametrize("mechanism", ["PLAIN", asyncio_only("LOGIN"), asyncio_only("CRAM-MD5")])
def test_it_logs_in(runtime: str, trust: Trust, letter: Path, mechanism: str, tls: str) -> None:
    with receiving(runtime, **trust.options, auth_optional=False, secure=tls == "--tlsc") as server:
        succeeds("swaks", *arguments(server, letter, trust), tls, "--auth", mechanism, *LOGIN)
        message = server.only_message()
        assert (message.user, message.transmission_type, message.content) == (USER, "ESMTPSA", LETTER)
        assert server.mailbox.attempts == [mechanism]


@pytest.mark.parametrize("mechanism", ["PLAIN", asyncio_only("LOGIN"), asyncio_only("CRAM-MD5")])
def test_it_is_not_let_in_with_a_wrong_password(
    runtime: str, trust: Trust, letter: Path, mechanism: str
) -> None:
    login = ["--auth", mechanism, "--auth-user", USER, "--auth-password", "guess"]
    with receiving(runtime, **trust.options, auth_optional=False) as server:
        said = fails("swaks", *arguments(server, letter, trust), "--tls", *login)
        assert "<~* 535 5.7.8 Error: Authentication credentials invalid" in said
        assert server.mailbox.messages == []


@pytest.mark.parametrize("pipeline", [asyncio_only([]), ["--pipeline"]])
def test_it_hears_of_each_recipient_over_lmtp(
    runtime: str, trust: Trust, letter: Path, pipeline: list[str]
) -> None:
    three = "bob@example.org,nobody@example.org,full@example.org"
    with receiving(runtime, lmtp=True) as server:
        said = succeeds(
            "swaks", *arguments(server, letter, trust), "--protocol", "LMTP", "--to", three, *pipeline
        )
        message = server.only_message()
        assert (message.recipients, message.content) == (["bob@example.org", "full@example.org"], LETTER)
        for reply in ("550 5.1.1 No such user", "250 2.6.0 OK: message accepted", "552 5.2.2 Mailbox full"):
            assert reply in said


@pytest.mark.parametrize(
    ("more", "source"),
    [
        (["--proxy-version", "1", "--proxy-family", "TCP4", *PROXIED], ("192.0.2.7", 1234)),
        asyncio_only(["--proxy-version", "2", "--proxy-family", "AF_INET", *PROXIED], ("192.0.2.7", 1234)),
        asyncio_only(["--proxy-version", "1", "--proxy-family", "TCP6", *PROXIED6], ("2001:db8::7", 1234)),
        (["--proxy-version", "2", "--proxy-family", "AF_INET6", *PROXIED6], ("2001:db8::7", 1234)),
        asyncio_only(["--proxy-version", "1", "--proxy", "UNKNOWN"], None),
        # Not LOCAL: what this swaks sends for it is no header of version 2 (command 2, and cut short).
    ],
)  # fmt: skip
@pytest.mark.parametrize("tls", [asyncio_only([]), ["--tls"], ["--tlsc"]])
def test_its_proxy_header_says_who_the_client_is(
    runtime: str, trust: Trust, letter: Path, more: list[str], source: tuple[str, int] | None, tls: list[str]
) -> None:
    with receiving(runtime, **trust.options, use_proxy=["127.0.0.1"], secure=tls == ["--tlsc"]) as server:
        succeeds("swaks", *arguments(server, letter, trust), *more, *tls)
        message = server.only_message()
        assert message.content == LETTER
        assert message.client[0] == (source[0] if source else "127.0.0.1")
        assert source is None or message.client == source
        assert (message.tls is not None) == bool(tls)


@pytest.mark.asyncio_only
def test_it_is_not_served_without_the_header_that_is_expected(
    runtime: str, trust: Trust, letter: Path
) -> None:
    with receiving(runtime, use_proxy=["127.0.0.1"]) as server:
        fails("swaks", *arguments(server, letter, trust), "--timeout", "1")
        assert server.mailbox.messages == []


@pytest.mark.parametrize("tls", [asyncio_only([]), ["--tls"]])
def test_its_xclient_says_who_the_client_is(runtime: str, trust: Trust, letter: Path, tls: list[str]) -> None:
    xclient = [
        "--xclient-addr", "192.0.2.7", "--xclient-port", "1234", "--xclient-name", "far.example",
        "--xclient-helo", "hello.example", "--xclient-proto", "ESMTP", "--xclient-login", USER,
    ]  # fmt: skip
    with receiving(runtime, **trust.options, use_xclient=["127.0.0.1"]) as server:
        said = succeeds("swaks", *arguments(server, letter, trust), *xclient, *tls)
        message = server.only_message()
        assert (message.client, message.client_hostname) == (("192.0.2.7", 1234), "far.example")
        assert (message.user, message.content) == (USER, LETTER)
        assert said.count("220 mx.test ESMTP") == 2


@pytest.mark.asyncio_only
def test_its_xclient_may_be_written_by_hand_and_come_in_two_parts(
    runtime: str, trust: Trust, letter: Path
) -> None:
    xclient = ["--xclient", "NAME=far.example", "--xclient-delim", "--xclient", "ADDR=IPV6:2001:db8::7"]
    with receiving(runtime, use_xclient=["127.0.0.1"]) as server:
        succeeds("swaks", *arguments(server, letter, trust), *xclient)
        assert server.only_message().client[0] == "2001:db8::7"
