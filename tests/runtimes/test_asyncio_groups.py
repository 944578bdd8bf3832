# Task groups, timeouts and shields in a hook: what they cancel is the hook's own affair.

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from running import DATA, RUNTIMES, running

runtimes = pytest.mark.parametrize("runtime", RUNTIMES)


async def fail() -> None:
    raise OSError("the webhook is down")


@runtimes
def test_a_message_whose_hook_survives_a_failed_task_group_is_answered_and_the_session_goes_on(
    runtime: str,
) -> None:
    async def on_data(stream: Any, _session: object) -> str:
        await stream.read()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
        except* OSError:
            pass
        async with asyncio.timeout(60):
            await asyncio.shield(asyncio.sleep(0))
        return "stored"

    with running(runtime, on_data=on_data) as server, server.client().greeted() as client:
        for _ in range(2):
            client.send(DATA + b"x\r\n.\r\n")
            assert [client.reply() for _ in range(4)][3] == "250 2.6.0 stored"
        assert client.say("NOOP") == "250 2.0.0 OK"
        assert not server.errors


@runtimes
def test_a_failed_task_group_that_leaves_its_hook_is_a_failed_hook(runtime: str) -> None:
    async def on_rcpt_to(*_: object) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())

    with running(runtime, on_rcpt_to=on_rcpt_to) as server, server.client().greeted() as client:
        client.say("MAIL FROM:<a@b.c>")
        assert client.say("RCPT TO:<d@e.f>").startswith("451 4.3.0 ")
        assert client.say("NOOP") == "250 2.0.0 OK"
        assert [type(error) for error, _ in server.errors] == [ExceptionGroup]
