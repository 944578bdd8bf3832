# A message that the server refuses whatever its hook says never looks like a whole one.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from smtpproto import Reject
from smtpproto_kit import running
from smtpproto_kit.cases._colours import LINE, begin, both, deliver
from smtpproto_server import StreamRefused

if TYPE_CHECKING:
    from collections.abc import Callable

    from smtpproto_kit import Runtime
    from smtpproto_kit.cases._colours import Colour, Hook

SIZE: Final = len(LINE) * 2
TOO_LARGE: Final = f"552 5.3.4 Error: message exceeds fixed maximum message size {SIZE}"
BARE: Final = "550 5.6.0 Error: message contains bare newline characters"

# What comes, what of it is handed out, why it is refused, and the reply.
REFUSED: Final[dict[str, tuple[bytes, bytes, str, str]]] = {
    "over size": (LINE * 5, LINE * 2, "size_exceeded", TOO_LARGE),
    "an empty line over size": (LINE * 2 + b"\r\n", LINE * 2, "size_exceeded", TOO_LARGE),
    "bare newline": (b"one\ntwo\r\n", b"one", "bare_newline", BARE),
    "bare newline over size": (LINE * 3 + b"one\ntwo\r\n", LINE * 2, "bare_newline", BARE),
}


def read(stream: Any, _got: list[bytes]) -> Hook:
    yield stream.read()


def read_n(stream: Any, got: list[bytes]) -> Hook:
    while piece := (yield stream.read(7)):
        got.append(piece)


def iterate(stream: Any, got: list[bytes]) -> Hook:
    def step() -> Any:
        return next(stream, b"") if hasattr(stream, "__next__") else anext(stream, b"")

    while piece := (yield step()):
        got.append(piece)


WAYS: Final[dict[str, Callable[[Any, list[bytes]], Hook]]] = {
    "read": read,
    "read n": read_n,
    "iterate": iterate,
}


@both
@pytest.mark.parametrize("how", REFUSED)
@pytest.mark.parametrize("way", WAYS)
def test_reading_a_message_that_will_be_refused_never_ends_as_a_whole_one_does(
    runtime: Runtime, colour: Colour, how: str, way: str
) -> None:
    body, handed_out, reason, reply = REFUSED[how]
    got, seen = list[bytes](), list[object]()

    def on_data(stream: Any, _session: object) -> Hook:
        for _ in range(2):
            with pytest.raises(StreamRefused) as raised:
                yield from WAYS[way](stream, got)
            seen.append((raised.value.reason, str(raised.value.refusal.code)))
        seen.append((stream.given_up, stream.claim()))
        return "kept all the same"

    with running(runtime, on_data=colour(on_data), size=SIZE) as server, server.client().greeted() as client:
        assert deliver(client, body) == reply
        begin(client)
        for line in (*body.splitlines(keepends=True), b".\r\n"):
            client.send(line)
        assert client.reply() == reply
        assert not server.errors
    assert b"".join(got) == (b"" if way == "read" else handed_out * 2)
    assert seen == [(reason, reply[:3]), (reason, reply[:3]), (True, False)] * 2


@both
@pytest.mark.parametrize("how", REFUSED)
def test_a_hook_that_lets_the_exception_pass_has_not_failed(
    runtime: Runtime, colour: Colour, how: str
) -> None:
    body, _, _, reply = REFUSED[how]
    kept: list[bytes] = []

    def on_data(stream: Any, _session: object) -> Hook:
        kept.append((yield stream.read()))
        return "kept"

    with running(runtime, on_data=colour(on_data), size=SIZE) as server, server.client().greeted() as client:
        assert deliver(client, body) == reply
        assert deliver(client, LINE * 2) == "250 2.6.0 kept"
        assert not server.errors
    assert kept == [LINE * 2]


@both
@pytest.mark.parametrize("how", REFUSED)
@pytest.mark.parametrize("answer", [None, "kept", Reject(450, "4.2.0", "not now"), Reject(421)], ids=str)
def test_a_hook_that_does_not_read_to_the_end_changes_nothing_in_the_reply(
    runtime: Runtime, colour: Colour, how: str, answer: object
) -> None:
    body, _, _, reply = REFUSED[how]

    def on_data(stream: Any, _session: object) -> Hook:
        yield stream.read(1)
        return answer

    with running(runtime, on_data=colour(on_data), size=SIZE) as server, server.client().greeted() as client:
        assert deliver(client, body) == reply
        assert client.say("NOOP") == "250 2.0.0 OK"
        assert not server.errors


@both
def test_in_lmtp_every_recipient_is_answered_with_the_refusal(runtime: Runtime, colour: Colour) -> None:
    def on_data(stream: Any, _session: object) -> Hook:
        yield stream.read()

    with running(runtime, on_data=colour(on_data), size=SIZE, lmtp=True) as server:
        with server.client() as client:
            client.reply()
            client.send(b"LHLO c.test\r\nMAIL FROM:<>\r\n" + b"RCPT TO:<b@x.test>\r\n" * 2 + b"DATA\r\n")
            client.send(LINE * 3 + b".\r\nQUIT\r\n")
            assert client.replies()[-3:] == [TOO_LARGE, TOO_LARGE, "221 2.0.0 Bye"]
        assert not server.errors
