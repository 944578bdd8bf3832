# Faults around a connection cost that connection at most: its admission, a cancelled server, a listener
# that hangs, a look-up in a thread.

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

from smtpproto_anyio import SMTPServer
from smtpproto_kit import DEADLINE, running, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

ALL = pytest.mark.parametrize("runtime", ["asyncio", "uvloop", "anyio", "trio", "gevent", "blocking"])


@ALL
def test_a_connection_that_cannot_be_made_is_reported_and_closed_and_the_next_one_is_served(
    runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(runtime) as server:
        questions = server.server._questions

        def fail_once() -> Any:
            monkeypatch.setattr(server.server, "_questions", questions)
            raise ValueError("once")

        monkeypatch.setattr(server.server, "_questions", fail_once)
        with server.client() as client:
            assert client.replies() == []
        assert [(info["stage"], str(error)) for error, info in server.errors] == [("accept", "once")]
        with server.client() as client:
            assert client.reply() == "220 mx.test ESMTP"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("hook", [False, True])
@pytest.mark.parametrize("closing", [False, True])
def test_cancelling_the_scope_around_a_server_raises_nothing_and_reports_nothing(
    backend: str, *, hook: bool, closing: bool
) -> None:
    closed: list[bool] = []
    errors: list[BaseException] = []

    async def on_mail_from(*_: object) -> None:
        await anyio.lowlevel.checkpoint()

    async def on_close(*_: object) -> None:
        await anyio.lowlevel.checkpoint()
        closed.append(True)

    def on_error(error: BaseException, _info: object) -> None:
        errors.append(error)

    async def main() -> None:
        server = SMTPServer(
            name="mx.test", disable_reverse_lookup=True, auth_optional=True,
            on_mail_from=on_mail_from if hook else None, on_close=on_close if closing else None,
        )  # fmt: skip
        server.on("error", on_error)
        with anyio.CancelScope() as scope:
            async with server:
                await server.listen(0, "127.0.0.1")
                address = server.address()
                assert isinstance(address, tuple)
                async with await anyio.connect_tcp(*address) as client:
                    octets = b""
                    await client.send(b"EHLO a\r\nMAIL FROM:<a@b.example>\r\n")
                    while b"Accepted" not in octets:
                        octets += await client.receive()
                    scope.cancel()
                    await anyio.sleep_forever()
        assert not server.peers

    anyio.run(main, backend=backend)
    assert (closed, errors) == ([True] * closing, [])


def test_blocking_calls_on_connect_when_the_look_up_has_ended_and_not_when_its_time_is_over() -> None:
    class Resolver:
        def reverse(self, _ip: str) -> list[str]:
            return ["client.test"]

    def on_connect(*_: object) -> None:
        return None

    options: dict[str, Any] = {"disable_reverse_lookup": False, "reverse_lookup_timeout": 10 * DEADLINE}
    with running("blocking", resolver=Resolver(), on_connect=on_connect, **options) as server:
        for _ in range(5):
            with server.client() as client:  # it waits for DEADLINE at the most
                assert client.reply() == "220 mx.test ESMTP"


def test_blocking_closes_although_a_listener_hangs_with_the_connection() -> None:
    hangs, release = threading.Event(), threading.Event()

    def connect(_session: object) -> None:
        hangs.set()
        release.wait()

    with running("blocking", close_timeout=0.1) as server:
        server.server.on("connect", connect)
        client = server.client()
        try:
            wait_until(hangs.is_set)
            closes: Callable[[], None] = server.server.close
            closing = threading.Thread(target=closes, daemon=True)
            closing.start()
            closing.join(DEADLINE)
            assert not closing.is_alive()
        finally:
            release.set()
            client.close()
