# Hooks on asyncio: which threads plain ones are called in, and what a hook does to the task it runs
# in. What holds for every runtime is in smtpproto_kit/cases/test_hooks.py.

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from running import DATA, RUNTIMES, running

ERROR = "Error: internal error, please try again later"


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
    assert ran["on_data"].startswith("smtpproto-hook")
    assert ran["on_mail_from"].startswith("smtpproto-hook") == (sync_hooks == "thread")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_hook_that_raises_cancelled_error_by_itself_has_failed_like_any_other(runtime: str) -> None:
    async def exiting(*_: object) -> None:
        raise asyncio.CancelledError  # a hook that mistakes cancellation for an answer

    with running(runtime, on_mail_from=exiting) as server, server.client().greeted() as client:
        assert client.say("MAIL FROM:<a@x>") == f"451 4.3.0 {ERROR}"
        assert client.say("NOOP") == "250 2.0.0 OK"
        assert isinstance(server.errors[0][0], asyncio.CancelledError)
