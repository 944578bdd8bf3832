# Each benchmark does the work that it says. Nothing here is timed.

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.conversations import BOUNCE, CONVERSATIONS, KIB, LINES, Conversation, body, codes, play
from benchmarks.yardstick import requests
from smtpproto import ACCEPT, Connection, DataChunk, Signal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.conversations import BareNewlines


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("conversation", [*CONVERSATIONS, BOUNCE], ids=lambda each: each.name)
def test_a_conversation_gets_the_replies_it_names(conversation: Conversation, times: int) -> None:
    assert codes(play(conversation, times)) == conversation.codes


@pytest.mark.parametrize("bare_newlines", ["reject", "accept"])
@pytest.mark.parametrize(("size", "piece"), [(1000, 1), (10 * KIB, KIB), (200 * KIB, 64 * KIB), (780, 78)])
@pytest.mark.parametrize("kind", LINES)
def test_a_body_is_cut_as_it_says_and_arrives(
    kind: str, size: int, piece: int, bare_newlines: BareNewlines
) -> None:
    conversation = body(kind, size, piece, bare_newlines)
    envelope, *pieces, end = conversation.says
    assert {len(each) for each in pieces} == {piece}
    wire = b"".join(pieces) + end
    assert wire.startswith(LINES[kind])
    assert size <= len(wire) + piece + len(LINES[kind])
    assert (
        b"".join(_contents(conversation))
        == wire.removesuffix(b".\r\n").replace(b"\r\n.", b"\r\n")[kind == "every line dotted" :]
    )
    assert codes(play(conversation, 2)) == conversation.codes
    assert envelope.endswith(b"DATA\r\n")


def _contents(conversation: Conversation) -> Iterator[bytes]:
    connection = Connection(conversation.options)
    for octets in (b"", b"EHLO x\r\n", *conversation.says):
        connection.receive_data(octets)
        while (event := connection.next_event()) is not Signal.NEED_DATA:
            if isinstance(event, DataChunk):
                yield event.data
            if connection.question is event:
                connection.decide(ACCEPT)


def test_the_yardstick_answers_every_request() -> None:
    assert requests(3) == b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n"
