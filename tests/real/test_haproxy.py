# HAProxy in front: it says who the client is, and lets TLS through without a look into it.

from __future__ import annotations

import contextlib
import smtplib
from typing import TYPE_CHECKING

import pytest

from real.balancing import haproxy
from real.receiving import MESSAGE, asyncio_only, receiving

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from real.conftest import Trust

pytestmark = pytest.mark.real("haproxy")

PATIENCE = 10.0  # seconds
BOB = ["bob@example.org"]
FAR = "127.0.0.7"  # where clients have it from; HAProxy itself is 127.0.0.1


@contextlib.contextmanager
def client(port: int, trust: Trust, tls: str) -> Generator[smtplib.SMTP]:
    """A client with an address of its own."""
    if tls == "implicit":
        smtp: smtplib.SMTP = smtplib.SMTP_SSL(
            "localhost", port, "client.test", timeout=PATIENCE, context=trust.context, source_address=(FAR, 0)
        )
    else:
        smtp = smtplib.SMTP("localhost", port, "client.test", timeout=PATIENCE, source_address=(FAR, 0))
    with smtp:
        if tls == "starttls":
            smtp.starttls(context=trust.context)
        yield smtp


@pytest.mark.parametrize(
    ("header", "tls"),
    [
        ("send-proxy", "starttls"),
        ("send-proxy-v2", "implicit"),
        ("send-proxy", "none"),
        asyncio_only("send-proxy", "implicit"),
        asyncio_only("send-proxy-v2", "starttls"),
        asyncio_only("send-proxy-v2", "none"),
    ],
)
def test_the_client_behind_it_is_known(
    runtime: str, trust: Trust, tmp_path: Path, header: str, tls: str
) -> None:
    options = {**trust.options, "use_proxy": ["127.0.0.1"], "secure": tls == "implicit"}
    with (
        receiving(runtime, **options) as server,
        haproxy(tmp_path, server.port, header=header) as port,
        client(port, trust, tls) as smtp,
    ):
        assert smtp.sock is not None
        mine: tuple[str, int] = smtp.sock.getsockname()
        smtp.sendmail("a@example.com", BOB, MESSAGE)
        message = server.only_message()
        assert (message.content, message.client) == (MESSAGE, mine)
        assert (message.tls is not None) == (tls != "none")
        assert message.proxy is not None
        assert (message.proxy.version, message.proxy.command) == (2 if header.endswith("v2") else 1, "PROXY")
        assert (message.proxy.family, message.proxy.source) == ("TCP4", mine)
        assert message.proxy.destination == ("127.0.0.1", port)


@pytest.mark.parametrize("header", ["send-proxy", asyncio_only("send-proxy-v2")])
def test_each_of_its_clients_is_known(runtime: str, trust: Trust, tmp_path: Path, header: str) -> None:
    with (
        receiving(runtime, **trust.options, use_proxy=["127.0.0.1"]) as server,
        haproxy(tmp_path, server.port, header=header) as port,
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(client(port, trust, "starttls")) for _ in range(20)]
        for smtp in clients:
            smtp.sendmail("a@example.com", BOB, MESSAGE)
        mine = [smtp.sock.getsockname() for smtp in clients if smtp.sock is not None]
        assert [message.client for message in server.mailbox.messages] == mine
