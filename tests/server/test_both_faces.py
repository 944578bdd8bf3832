# One engine, two faces: every conversation of the core's own tests, as events and by the driver.
#
# Whatever the octets are cut into, both faces say the same and hand over the same messages. Where TLS
# begins nothing is cut: what comes then is a handshake, which the face of events knows nothing of.

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import pytest
from greenlet import getcurrent, greenlet

from server.scripted import Asked, Play, Scripted, waiting
from smtpproto_kit._conversations import (
    COMMON,
    HANDSHAKE,
    INFORMED,
    Answers,
    Conversation,
    conversations,
    replies_of_core,
)
from smtpproto_kit._stage import without_tls
from smtpproto_server import StreamAborted, StreamRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOCAL: Final = ("192.0.2.25", 25)
PEER: Final = ("192.0.2.1", 4321)
LONG: Final = 2000  # octets; what is longer is cut into larger pieces, for the sake of time


def whole(said: bytes) -> list[bytes]:
    return [said]


def lines(said: bytes) -> list[bytes]:
    return said.splitlines(keepends=True)


def octets(said: bytes) -> list[bytes]:
    size = max(1, len(said) // LONG)
    ends = [*range(0, len(said), size), len(said)]
    return [said[start:end] for start, end in pairwise(ends) if end > start]


class Hooks:
    """The hooks of a conversation: at once, after a wait, or plain ones."""

    def __init__(self, answers: Answers, how: str) -> None:
        self.answers: Answers = answers
        self.how: str = how

    def options(self, conversation: Conversation) -> dict[str, Any]:
        hooks: dict[str, Any] = {name: self.hook(name) for name in (*INFORMED, *conversation.asks)}
        return {**hooks, "on_data": self.on_plain_data if self.how == "plain" else self.on_data}

    def hook(self, name: str) -> Callable[..., Any]:
        def plain(*args: Any) -> Any:
            return self.answers.next(name, args[0] if name == "on_auth" else None)

        async def coroutine(*args: Any) -> Any:
            if self.how == "later":
                await waiting(Asked(args))
            return plain(*args)

        return plain if self.how == "plain" else coroutine

    async def on_data(self, stream: Any, session: object) -> Any:
        if self.how == "later":
            await waiting(Asked((stream, session)))
        try:
            data = await stream.read()
        except StreamAborted as error:
            return self.aborted(error)
        return self.whole(data)

    def on_plain_data(self, stream: Any, _session: object) -> Any:
        try:
            data = stream.read()
        except StreamAborted as error:
            return self.aborted(error)
        return self.whole(data)

    def aborted(self, error: StreamAborted) -> None:
        if isinstance(error, StreamRefused):  # the core asks all the same when its end is there
            self.answers.next("on_data")

    def whole(self, data: bytes) -> Any:
        self.answers.messages.append(data)
        return self.answers.next("on_data")


class Driven:
    """A conversation, had with the driver."""

    def __init__(self, conversation: Conversation, how: str) -> None:
        self.answers = Answers(conversation.answers)
        options = {**COMMON, **conversation.options, **Hooks(self.answers, how).options(conversation)}
        self.play = Play(
            begins=False,
            greeted=False,
            coroutines=how != "plain",
            peer=conversation.peer or PEER,
            tls=conversation.tls_available,
            **options,
        )
        self.reader: greenlet | None = None
        self.woken: bool = False
        self.play.driver.waits_elsewhere = self.wait

    def settle(self) -> bytes:
        """Let hooks go on until the client is waited for."""
        play, driver = self.play, self.play.driver
        said = play.settle()
        for _ in range(100_000):
            if driver.trap is not None:
                said += play.answer()
            elif driver.due_call is not None:
                self.reader = greenlet(partial(self.run, driver.due_call))
                driver.due_call = None
                said += self.switch()
            elif self.reader is not None and not self.reader.dead and self.woken:
                said += self.switch()
            else:
                return said
        raise AssertionError("hooks are called without end")

    def run(self, call: Callable[[], Any]) -> None:
        """A plain hook, on a stack of its own."""
        value = error = None
        try:
            value = call()
        except Exception as raised:  # noqa: BLE001 - the driver is to be shown it
            error = raised
        self.play.driver.returned(call, value, error)

    def switch(self) -> bytes:
        assert self.reader is not None
        self.woken = False
        self.reader.switch()
        return self.play.settle()

    def wait(self) -> None:
        """A plain hook waits for its message."""
        parent = getcurrent().parent
        assert parent is not None
        parent.switch()

    def encoded(self, said: bytes) -> bytes:
        client = self.play.client
        return client.write(said) if client is not None and said else said

    def say(self, pieces: list[bytes]) -> bytes:
        said = b""
        for piece in pieces:
            self.play.driver.received(self.encoded(piece))
            self.woken = True
            said += self.settle()
        return said


def cut(conversation: Conversation, into: Callable[[bytes], list[bytes]]) -> Conversation:
    """The same, said in pieces; whole where TLS begins within."""
    exchanges, _ = replies_of_core(conversation, {**COMMON, **conversation.options}, PEER, LOCAL)
    said: list[bytes] = []
    for exchange in exchanges[1:-1]:
        assert exchange.said is not None
        said += [exchange.said] if HANDSHAKE in exchange.replies else into(exchange.said)
    return replace(conversation, said=tuple(said))


def transcript_of_events(conversation: Conversation) -> tuple[list[Any], list[bytes]]:
    options = {**COMMON, **conversation.options}
    exchanges, messages = replies_of_core(conversation, options, conversation.peer or PEER, LOCAL)
    return [exchange.replies for exchange in exchanges], messages


def transcript_of_driver(conversation: Conversation, how: str) -> tuple[list[Any], list[bytes]]:
    driven = Driven(conversation, how)
    play, replies = driven.play, list[Any]()
    for number, said in enumerate((b"", *conversation.said, None)):
        if number == 0:
            play.driver.go_on()
            came = driven.settle()
        elif said is None:
            came = driven.say([b""])
        else:
            came = driven.say([said])
        parts: list[bytes | None] = [came]
        while _shakes_hands(play.driver):
            parts += [HANDSHAKE, play.tls() + driven.settle()]
        replies.append(tuple(parts))
    if "drop" not in play.driver.did:
        play.receive(b"")
    assert "finished" in play.driver.did
    assert not play.server.peers
    return replies, driven.answers.messages


def _shakes_hands(driver: Scripted) -> bool:
    return type(driver.asked).__name__ in ("NeedsTLS", "NeedsStartTLS")


EVERY: Final = {
    chunk: [each for servers in found.values() for each in servers]
    for chunk, found in conversations().items()
}


def differences(chunk: str, into: Callable[[bytes], list[bytes]], how: str) -> Iterator[str]:
    for each in EVERY[chunk]:
        conversation = cut(each, into)
        if each.tls_available:
            driven = transcript_of_driver(conversation, how)
        else:
            with without_tls() as options:
                named = replace(conversation, options={**conversation.options, **options})
                driven, conversation = transcript_of_driver(named, how), named
        events = transcript_of_events(conversation)
        if events != driven:
            yield f"{each.name}: {driven} by the driver, {events} as events"


@pytest.mark.parametrize("how", ["at once", "later", "plain"])
@pytest.mark.parametrize("into", [whole, lines, octets])
@pytest.mark.parametrize("chunk", EVERY)
def test_both_faces_say_the_same(chunk: str, into: Callable[[bytes], list[bytes]], how: str) -> None:
    found = list(differences(chunk, into, how))
    assert not found, "\n".join(found[:3])


def test_there_is_something_to_compare() -> None:
    assert sum(map(len, EVERY.values())) > 800
