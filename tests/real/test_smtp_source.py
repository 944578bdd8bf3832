# Postfix's load generator: many sessions, many recipients, octets in the order it likes.

from __future__ import annotations

from typing import Any

import pytest

from real.programs import succeeds
from real.receiving import asyncio_only, receiving

pytestmark = pytest.mark.real("smtp-source")


@pytest.mark.parametrize("lmtp", [False, asyncio_only(True)])
@pytest.mark.parametrize(
    ("more", "recipients"),
    [
        asyncio_only([], 1),
        (["-d"], 1),  # many messages on a connection
        (["-r", "50"], 50),
        (["-l", "100000"], 1),
        asyncio_only(["-N"], 1),  # messages that are no mail
    ],
)
def test_it_delivers_all_its_messages(runtime: str, more: list[str], recipients: int, *, lmtp: bool) -> None:
    options: dict[str, Any] = {"lmtp": lmtp}
    count, sessions = 200, 20
    with receiving(runtime, **options) as server:
        load = ["-m", str(count), "-s", str(sessions), "-f", "a@example.com", "-t", "b@example.org"]
        succeeds("smtp-source", *load, *more, *(["-L"] if lmtp else []), f"inet:{server.place}")
        assert server.server.errors == []
        assert [len(message.recipients) for message in server.mailbox.messages] == [recipients] * count
        assert {message.transmission_type for message in server.mailbox.messages} == {
            "LMTP" if lmtp else "SMTP"
        }
