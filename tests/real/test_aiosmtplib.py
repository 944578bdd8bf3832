# aiosmtplib, from a loop of its own.

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from email.message import EmailMessage
from typing import TYPE_CHECKING

import aiosmtplib
import pytest

from real.receiving import MESSAGE, PASSWORD, USER, receiving
from smtpproto_kit import DEADLINE

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from real.conftest import Trust
    from real.receiving import Receiving

BOB = ["bob@example.org"]
PATIENCE = 10.0  # seconds
TICK = 0.001  # seconds between two looks at a condition


@asynccontextmanager
async def client(
    server: Receiving, trust: Trust, *, starttls: bool = False, tls: bool = False
) -> AsyncGenerator[aiosmtplib.SMTP]:
    """A client. At the end it has said QUIT, and its socket is closed, which TLS does some turns later."""
    smtp = aiosmtplib.SMTP(
        hostname="localhost", port=server.port, local_hostname="client.test", timeout=PATIENCE,
        start_tls=starttls, use_tls=tls, tls_context=trust.context if starttls or tls else None,
    )  # fmt: skip
    async with smtp:
        sock = None if smtp.transport is None else smtp.transport.get_extra_info("socket")
        yield smtp
    async with asyncio.timeout(DEADLINE):
        while sock is not None and sock.fileno() >= 0:  # noqa: ASYNC110 - nobody says when
            await asyncio.sleep(TICK)


@pytest.mark.parametrize("how", ["", "starttls", "tls"])
def test_it_delivers(runtime: str, trust: Trust, how: str) -> None:
    async def deliver() -> None:
        async with client(server, trust, starttls=how == "starttls", tls=how == "tls") as smtp:
            await smtp.sendmail("a@example.com", BOB, MESSAGE)

    with receiving(runtime, **trust.options, secure=how == "tls") as server:
        asyncio.run(deliver())
        message = server.only_message()
        assert (message.recipients, message.content, message.tls is not None) == (BOB, MESSAGE, how != "")


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_it_logs_in(runtime: str, trust: Trust, mechanism: str) -> None:
    async def deliver() -> None:
        async with client(server, trust, starttls=True) as smtp:
            await smtp.login(USER, PASSWORD)
            await smtp.sendmail("a@example.com", BOB, MESSAGE)

    with receiving(runtime, **trust.options, auth_methods=[mechanism], auth_optional=False) as server:
        asyncio.run(deliver())
        assert (server.only_message().user, server.mailbox.attempts) == (USER, [mechanism])


def test_it_sends_to_addresses_beyond_ascii(runtime: str, trust: Trust) -> None:
    letter = EmailMessage()
    letter["From"], letter["To"], letter["Subject"] = "jörg@example.com", "zoë@example.org", "été"
    letter.set_content("ça va\n")

    async def deliver() -> None:
        async with client(server, trust) as smtp:
            await smtp.send_message(letter)

    with receiving(runtime) as server:
        asyncio.run(deliver())
        message = server.only_message()
        assert (message.sender, message.recipients) == ("jörg@example.com", ["zoë@example.org"])
        assert message.envelope.smtp_utf8


def test_fifty_of_them_deliver_at_once(runtime: str, trust: Trust) -> None:
    async def deliver(number: int) -> None:
        async with client(server, trust, starttls=number % 2 == 0) as smtp:
            await smtp.sendmail(f"a{number}@example.com", BOB, b"%d\r\n" % number + MESSAGE)

    async def deliver_all() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(50):
                group.create_task(deliver(number))

    with receiving(runtime, **trust.options) as server:
        asyncio.run(deliver_all())
        assert server.server.errors == []
        came = {message.sender: message.content for message in server.mailbox.messages}
        assert came == {f"a{n}@example.com": b"%d\r\n" % n + MESSAGE for n in range(50)}
