# Hooks on asyncio: which threads plain ones are called in, and what a hook does to the task it runs
# in. What holds for every runtime is in smtpproto_kit/cases/test_hooks.py.

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import Any

import pytest

from running import DATA, RUNTIMES, Client, running, wait_until

ERROR = "Error: internal error, please try again later"


def begin(client: Client) -> None:
    """Up to the 354."""
    client.send(DATA)
    assert [client.reply()[:3] for _ in range(3)] == ["250", "250", "354"]


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("sync_hooks", ["thread", "inline"])
def test_plain_hooks_run_in_threads_of_the_server_s_own(runtime: str, sync_hooks: str) -> None:
    ran: dict[str, str] = {}

    def on_mail_from(*_: object) -> None:
        ran["on_mail_from"] = threading.current_thread().name

    def on_data(stream: Any, _session: object) -> str:
        ran["on_data"] = threading.current_thread().name
        return str(len(b"".join(stream)))

    options: dict[str, Any] = {"on_mail_from": on_mail_from, "on_data": on_data, "sync_hooks": sync_hooks}
    with running(runtime, **options) as server, server.client().greeted() as client:
        client.send(DATA + b"hi\r\n.\r\nQUIT\r\n")
        assert "250 2.6.0 4" in client.replies()
    assert ran["on_data"].startswith("smtpproto-on_data")
    assert ran["on_mail_from"].startswith("smtpproto-hook") == (sync_hooks == "thread")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_hook_that_raises_cancelled_error_by_itself_has_failed_like_any_other(runtime: str) -> None:
    async def exiting(*_: object) -> None:
        raise asyncio.CancelledError  # a hook that mistakes cancellation for an answer

    with running(runtime, on_mail_from=exiting) as server, server.client().greeted() as client:
        assert client.say("MAIL FROM:<a@x>") == f"451 4.3.0 {ERROR}"
        assert client.say("NOOP") == "250 2.0.0 OK"
        assert isinstance(server.errors[0][0], asyncio.CancelledError)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("waits", [False, True])
def test_all_hooks_of_a_connection_see_one_task_and_one_context(runtime: str, waits: bool) -> None:
    said: contextvars.ContextVar[str] = contextvars.ContextVar("said", default="")
    tasks: set[object] = set()

    async def hook(*_: object) -> None:
        tasks.add(asyncio.current_task())
        said.set(said.get() + "x")
        if waits:
            await asyncio.sleep(0)
            tasks.add(asyncio.current_task())

    async def on_data(stream: Any, _session: object) -> str:
        await hook()
        async for _ in stream:
            await hook()
        return said.get()

    with (
        running(runtime, on_helo=hook, on_rcpt_to=hook, on_data=on_data) as server,
        server.client().greeted() as client,
    ):
        begin(client)
        assert client.say("hi\r\n.") == "250 2.6.0 xxxx"
    assert len(tasks) == 1
    assert None not in tasks


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_timeout_of_the_hook_s_own_ends_its_pull(runtime: str) -> None:
    got: list[bytes | str] = []

    async def on_data(stream: Any, _session: object) -> str:
        try:
            async with asyncio.timeout(0.01):
                got.append(await stream.read(3))
        except TimeoutError:
            got.append("late")
            await asyncio.sleep(0)
        got.append(await stream.read())
        task = asyncio.current_task()
        return str(task and task.cancelling())

    with running(runtime, on_data=on_data) as server, server.client().greeted() as client:
        client.send(DATA)
        [client.reply() for _ in range(3)]
        wait_until(lambda: got)
        assert client.say("hello\r\n.") == "250 2.6.0 0"
    assert got == ["late", b"hello\r\n"]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_hook_that_gives_up_while_it_pulls_is_answered_for(runtime: str) -> None:
    given_up: list[bool] = []

    async def on_data(stream: Any, _session: object) -> None:
        try:
            async with asyncio.timeout(0.01):
                await stream.read()
        finally:
            given_up.append(True)

    with running(runtime, on_data=on_data) as server, server.client().greeted() as client:
        client.send(DATA)
        [client.reply() for _ in range(3)]
        wait_until(lambda: given_up)
        assert client.say("hello\r\n.") == f"451 4.3.0 {ERROR}"
        wait_until(lambda: server.errors)
        assert isinstance(server.errors[0][0], TimeoutError)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_task_that_is_cancelled_while_its_hook_pulls_ends_its_connection(runtime: str) -> None:
    seen: list[str] = []

    async def on_data(stream: Any, _session: object) -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_soon(task.cancel)
        try:
            await stream.read()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def on_close(_session: object) -> None:
        seen.append("closed")

    with (
        running(runtime, on_data=on_data, on_close=on_close) as server,
        server.client().greeted() as client,
    ):
        begin(client)
        assert client.replies() == []
        wait_until(lambda: seen == ["cancelled", "closed"])
