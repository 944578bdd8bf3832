# One message.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smtpproto_kit import running

if TYPE_CHECKING:
    from collections.abc import Generator

    from smtpproto_kit import Runtime


def test_a_message_arrives_as_it_was_sent(runtime: Runtime) -> None:
    came: list[bytes] = []

    def on_data(stream: Any, _session: Any) -> Generator[Any, Any, None]:
        came.append((yield stream.read()))

    with running(runtime, on_data=on_data) as server, server.client().greeted() as client:
        answer = client.say("MAIL FROM:<a@x.test>", "RCPT TO:<b@y.test>", "DATA", "hello\r\n.")
    assert answer == "250 2.6.0 OK: message queued"
    assert came == [b"hello\r\n"]
