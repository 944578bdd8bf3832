# Plain hooks that wait for others keep no thread from hooks that do not: a slow sender in DATA, a name
# server that does not answer.

from __future__ import annotations

import threading
from typing import Any

import pytest

from smtpproto_kit import DATA, DEADLINE, running

COROUTINES = pytest.mark.parametrize("runtime", ["asyncio", "uvloop", "anyio", "trio"])


def on_data(stream: Any, _session: object) -> str:
    return str(len(stream.read()))


@COROUTINES
def test_a_message_is_taken_while_more_senders_than_hook_threads_sit_in_data(runtime: str) -> None:
    with running(runtime, on_data=on_data, hook_threads=2) as server:
        slow = [server.client().greeted() for _ in range(5)]
        for client in slow:
            client.send(DATA + b"begun")
            assert [client.reply()[:3] for _ in range(3)] == ["250", "250", "354"]
        with server.client().greeted() as client:
            client.send(DATA + b"whole\r\n.\r\n")
            assert [client.reply() for _ in range(4)][3] == "250 2.6.0 7"
        for client in slow:
            client.send(b" and ended\r\n.\r\n")
            assert client.reply() == "250 2.6.0 17"
            client.close()


@COROUTINES
def test_plain_hooks_run_while_more_look_ups_than_hook_threads_hang(runtime: str) -> None:
    release = threading.Event()

    class Resolver:
        def reverse(self, _ip: str) -> list[str]:
            release.wait(DEADLINE)
            return []

    def on_vrfy(*_: object) -> None:
        return None

    options: dict[str, Any] = {"disable_reverse_lookup": False, "reverse_lookup_timeout": 0.05}
    try:
        with running(runtime, on_vrfy=on_vrfy, resolver=Resolver(), hook_threads=2, **options) as server:
            for _ in range(5):
                with server.client().greeted() as client:
                    assert client.say("VRFY x").startswith("252 ")
            release.set()
    finally:
        release.set()
