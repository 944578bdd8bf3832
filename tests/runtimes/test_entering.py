# A handler that is a context manager, where runtimes differ: tasks, cancellation, signals.

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import smtpproto_blocking
from smtpproto_kit import Client, running
from smtpproto_kit._client import DEADLINE, wait_until
from smtpproto_server import chain

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from smtpproto import Session


class Tasks:
    """A handler that has tasks: a task group is left by the task that has entered it."""

    def __init__(self, runtime: str) -> None:
        self.runtime = runtime
        self.notes: list[str] = []
        self.group: AbstractAsyncContextManager[Any]
        self.tasks: Any = None

    async def __aenter__(self) -> None:
        self.group = (
            asyncio.TaskGroup() if self.runtime in ("asyncio", "uvloop") else anyio.create_task_group()
        )
        self.tasks = await self.group.__aenter__()
        self.notes.append("entered")

    async def __aexit__(self, *_: object) -> None:
        await self.group.__aexit__(None, None, None)
        self.notes.append("left")

    async def on_mail_from(self, address: object, _: Session) -> None:
        if self.runtime in ("asyncio", "uvloop"):
            self.tasks.create_task(self.log(str(address)))
        else:
            self.tasks.start_soon(self.log, str(address))

    async def log(self, address: str) -> None:
        self.notes.append(address)


@pytest.mark.parametrize("runtime", ["asyncio", "uvloop", "anyio", "trio"])
def test_a_handler_may_hold_a_task_group(runtime: str) -> None:
    if runtime == "uvloop":
        pytest.importorskip("uvloop")
    handlers = [Tasks(runtime), Tasks(runtime)]
    with running(runtime, handler=chain(*handlers)) as server:
        with server.client().greeted() as client:
            assert client.say("MAIL FROM:<a@x>").startswith("250 ")
            wait_until(lambda: all("a@x" in each.notes for each in handlers))
        server.close()
        assert [each.notes for each in handlers] == [["entered", "a@x", "left"]] * 2


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_on_anyio_a_cancelled_server_leaves_its_handler_when_on_close_has_ended(backend: str) -> None:
    from smtpproto_anyio import SMTPServer  # noqa: PLC0415 - the runtime that was asked for

    notes: list[str] = []

    class Handler:
        async def __aenter__(self) -> None:
            notes.append("entered")

        async def __aexit__(self, *args: object) -> None:
            await anyio.sleep(0.01)
            notes.append(f"left {args}")

        async def on_close(self, _: Session) -> None:
            await anyio.sleep(0.05)
            notes.append("closed")

    async def main(clients: list[Client]) -> None:
        with anyio.CancelScope() as scope:
            options: Any = {"disable_reverse_lookup": True, "handler": Handler()}
            async with SMTPServer(**options) as server:
                await server.listen(0, "127.0.0.1")
                port = int(server.addresses[0][1])
                clients.append(await anyio.to_thread.run_sync(Client, port))
                await anyio.to_thread.run_sync(clients[0].reply)
                scope.cancel()
                await anyio.sleep(DEADLINE)

    clients: list[Client] = []
    anyio.run(main, clients, backend=backend)
    clients[0].close()
    assert notes == ["entered", "closed", "left (None, None, None)"]


def test_on_anyio_a_handler_that_is_to_be_entered_needs_the_server_s_task_group() -> None:
    from smtpproto_anyio import SMTPServer  # noqa: PLC0415 - the runtime that was asked for

    async def main() -> None:
        server = SMTPServer(handler=Tasks("anyio"))
        with pytest.raises(RuntimeError, match="needs the server's task group"):
            await server.serve_connection(None)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - not used

    anyio.run(main)


def test_on_asyncio_a_loop_that_ends_before_the_server_is_closed_leaves_the_handler() -> None:
    from smtpproto_asyncio import SMTPServer  # noqa: PLC0415 - the runtime that was asked for

    handler = Tasks("asyncio")
    server = SMTPServer(handler=handler)

    async def main(*, closes: bool) -> None:
        await server.listen(0, "127.0.0.1")
        if closes:
            await server.close()

    for closes in (False, True):
        asyncio.run(main(closes=closes))
    assert handler.notes == ["entered", "left"] * 2


def test_on_blocking_sockets_a_signal_may_close_the_server_while_the_handler_is_entered() -> None:
    from smtpproto_blocking import SMTPServer  # noqa: PLC0415 - the runtime that was asked for

    notes: list[str] = []

    class Handler:
        def __enter__(self) -> None:
            os.kill(os.getpid(), signal.SIGUSR1)
            notes.append("entered")

        def __exit__(self, *_: object) -> None:
            notes.append("left")

        def on_close(self, session: Session) -> None: ...

    server = SMTPServer(handler=Handler())

    def close(_number: int, _frame: object) -> None:
        server.close()

    before = signal.signal(signal.SIGUSR1, close)
    try:
        server.listen(0, "127.0.0.1")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert notes == ["entered", "left"]
    assert not server.addresses
    server.wait_closed()


def test_on_blocking_sockets_the_handler_is_left_if_the_system_has_no_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from smtpproto_blocking import SMTPServer  # noqa: PLC0415 - the runtime that was asked for

    notes: list[str] = []

    class Handler:
        def __enter__(self) -> None:
            notes.append("entered")

        def __exit__(self, *_: object) -> None:
            notes.append("left")

        def on_close(self, session: Session) -> None: ...

    def none_left(_thread: object) -> None:
        raise RuntimeError("can't start new thread")

    with SMTPServer(handler=Handler()) as server:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", none_left)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                server.listen(0, "127.0.0.1")
        assert notes == ["entered", "left"]
        server.listen(0, "127.0.0.1")
    assert notes == ["entered", "left"] * 2


class Cancels:
    """A handler with a task, which it cancels and awaits when it is left."""

    async def __aenter__(self) -> None:
        self.task = asyncio.create_task(asyncio.sleep(DEADLINE))

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await self.task

    def on_close(self, session: object) -> None: ...


def test_on_asyncio_the_cancelled_error_of_a_handler_s_task_keeps_no_other_from_being_left() -> None:
    tasks = Tasks("asyncio")
    with running("asyncio", handler=chain(tasks, Cancels())) as server:
        server.close()
        assert tasks.notes == ["entered", "left"]


class Odd(BaseException): ...


class Breaks:
    """A handler whose end is no Exception."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        raise Odd

    def on_close(self, session: object) -> None: ...


def test_on_blocking_sockets_a_server_is_closed_whatever_its_handler_raises() -> None:
    server = smtpproto_blocking.SMTPServer(handler=Breaks(), auth_optional=True)
    closed: list[bool] = []
    server.on("close", lambda: closed.append(True))
    for _ in range(2):
        server.listen(0, "127.0.0.1")
        with pytest.raises(Odd):
            server.close()
        server.wait_closed()
        server.close()  # it is
    assert closed == [True, True]


def test_on_gevent_a_server_is_closed_whatever_its_handler_raises() -> None:
    gevent = pytest.importorskip("gevent")
    smtpproto_gevent = pytest.importorskip("smtpproto_gevent")
    server = smtpproto_gevent.SMTPServer(handler=Breaks(), auth_optional=True)
    closed: list[bool] = []
    server.on("close", lambda: closed.append(True))
    for _ in range(2):
        server.listen(0, "127.0.0.1")
        server.close()
        with gevent.Timeout(DEADLINE):
            server.wait_closed()
    assert closed == [True, True]
