# Listeners of the server's events, which are plain functions everywhere.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from smtpproto_kit import running

if TYPE_CHECKING:
    from smtpproto_kit import Runtime

EVENTS = ("listening", "close", "connect", "error")


async def waits(*_: object) -> None: ...


def test_a_coroutine_function_is_refused_and_a_plain_one_is_called(runtime: Runtime) -> None:
    heard: list[tuple[object, ...]] = []

    def closed(*args: object) -> None:
        heard.append(args)

    with running(runtime, listen=False) as server:
        for event in EVENTS:
            for call in (server.server.on, server.server.once):
                with pytest.raises(TypeError, match=f"the listener for '{event}' is a coroutine function"):
                    call(event, waits)
        server.server.once("close", closed)
        server.call(lambda: server.server.listen(0, "127.0.0.1"))
        with server.client() as client:
            client.greeted()
        server.close()
    assert heard == [()]


def test_a_listener_that_raises_is_contained_whatever_another_did_to_what_they_are_told(
    runtime: Runtime,
) -> None:
    def empties(*args: Any) -> None:
        args[-1].clear()

    def fails(*_: object) -> None:
        raise ValueError("a listener of the application's")

    def on_vrfy(*_: object) -> Any:
        raise ValueError("a hook of the application's")

    with running(runtime, on_vrfy=on_vrfy) as server:
        for event in ("connect", "error"):
            server.server.on(event, empties).on(event, fails)
        for _ in range(2):
            with server.client().greeted() as client:
                assert client.say("VRFY x").startswith("451 ")
                assert client.say("NOOP") == "250 2.0.0 OK"
