# Blocking sockets when there are no threads, when clients are refused, and when a signal comes early.

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import pytest

from smtpproto_blocking import SMTPServer
from smtpproto_kit import running, wait_until


def test_a_connection_that_gets_no_thread_is_reported_and_counted_out_and_the_next_one_is_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = threading.Thread.start

    def no_thread(self: threading.Thread) -> None:
        if self.name.startswith("smtpproto-"):
            raise RuntimeError("can't start new thread")
        start(self)

    with running("blocking", max_clients=1) as server:
        monkeypatch.setattr(threading.Thread, "start", no_thread)
        with server.client() as client:
            assert client.replies() == []
        wait_until(lambda: not server.server.peers)
        assert [info["stage"] for _, info in server.errors] == ["accept"]
        monkeypatch.undo()
        with server.client() as client:
            assert client.reply() == "220 mx.test ESMTP"


def test_refused_clients_that_stay_silent_keep_nobody_waiting() -> None:
    others = set(threading.enumerate())  # that tests before this one have left idle
    with running("blocking", max_clients=2) as server:
        served = [server.client().greeted() for _ in range(2)]
        refused = [server.client() for _ in range(20)]
        for client in refused:
            assert client.replies() == ["421 mx.test Too many connected clients, try again in a moment"]
        ours = [each for each in {*threading.enumerate()} - others if each.name.startswith("smtpproto-")]
        assert len(ours) <= 5  # two connections, one that accepts, the timer
        for client in (*served, *refused):
            client.close()
        wait_until(lambda: not server.server.peers)
        with server.client() as client:
            assert client.reply() == "220 mx.test ESMTP"


@pytest.mark.parametrize("where", ["prepare", "binding", "listening"])
def test_a_close_by_a_signal_within_listen_is_not_lost(where: str) -> None:
    server = SMTPServer(name="mx.test")

    def close(*_: object) -> None:
        server.close()

    before = signal.signal(signal.SIGUSR1, close)
    step = getattr(server, where)

    def interrupted(*args: Any, **how: Any) -> Any:
        result = step(*args, **how)
        os.kill(os.getpid(), signal.SIGUSR1)
        return result

    setattr(server, where, interrupted)
    try:
        server.listen(0, "127.0.0.1")
        server.wait_closed()
        assert server.addresses == []
    finally:
        signal.signal(signal.SIGUSR1, before)
        server.close()
