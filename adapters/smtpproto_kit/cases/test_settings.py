# Options and methods that no other case is about.

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from smtpproto_kit import DEADLINE, running, wait_until
from smtpproto_kit.cases._colours import is_silent

if TYPE_CHECKING:
    from smtpproto_kit import Runtime

ALLOWED = 13_000  # octets of a line of AUTH with its CRLF, over the default


@pytest.mark.parametrize(("octets", "answer"), [(ALLOWED, "501 5.5.2 "), (ALLOWED + 1, "500 5.5.")])
def test_lines_of_auth_have_a_limit_of_their_own(runtime: Runtime, octets: int, answer: str) -> None:
    options: dict[str, Any] = {"max_auth_line_length": ALLOWED, "allow_insecure_auth": True}
    with running(runtime, **options) as server, server.client().greeted() as client:
        assert client.say("AUTH PLAIN").startswith("334")
        client.send(b"!" * (octets - 2) + b"\r\n")
        assert client.reply().startswith(answer)
        assert client.say("NOOP") == "250 2.0.0 OK"


def test_plain_hooks_take_turns_in_the_threads_there_are(runtime: Runtime) -> None:
    running_now, most = [0], [0]
    lock, released = threading.Lock(), threading.Event()

    def on_mail_from(*_: object) -> None:  # a plain function everywhere
        with lock:
            running_now[0] += 1
            most[0] = max(most[0], running_now[0])
        end = time.monotonic() + DEADLINE
        while not released.is_set() and time.monotonic() < end:
            pause()
        with lock:
            running_now[0] -= 1

    def pause() -> None:
        if runtime.coroutines:
            released.wait(0.005)
        else:
            runtime.pause(0.005)

    with running(runtime, on_mail_from=on_mail_from, hook_threads=1) as server:
        with server.client().greeted() as one, server.client().greeted() as other:
            for client in (one, other):
                client.send(b"MAIL FROM:<a@x.test>\r\n")
            # Where hooks have the connection's own thread or greenlet, it is none of these.
            wait_until(lambda: most[0] == (1 if runtime.coroutines else 2))
            is_silent(one)  # long enough for a second one to begin
            released.set()
            assert [client.reply()[:3] for client in (one, other)] == ["250", "250"]
    assert most[0] == (1 if runtime.coroutines else 2)


def test_a_listener_is_called_every_time_or_once_or_no_more(runtime: Runtime) -> None:
    every: list[dict[str, Any]] = []
    first: list[dict[str, Any]] = []
    never: list[dict[str, Any]] = []
    with running(runtime) as server:
        server.server.on("connect", every.append)
        server.server.once("connect", first.append)
        server.server.on("connect", never.append).off("connect", never.append)
        for _ in range(2):
            with server.client().greeted() as client:
                assert client.say("QUIT") == "221 2.0.0 Bye"
        assert len(server.connects) == 2
    assert every == server.connects
    assert (first, never) == (every[:1], [])


def test_a_listener_that_raises_is_nobody_s_fault(runtime: Runtime) -> None:
    def raising(_info: dict[str, Any]) -> None:
        raise RuntimeError("a fault of the application")

    with running(runtime) as server:
        server.server.on("connect", raising)
        heard: list[dict[str, Any]] = []
        server.server.on("connect", heard.append)
        with server.client().greeted() as client:
            assert client.say("NOOP") == "250 2.0.0 OK"
        assert len(heard) == 1
    assert server.errors == []


@pytest.mark.parametrize("coroutine", [False, True])
def test_a_resolver_may_be_a_function(runtime: Runtime, coroutine: bool) -> None:
    asked, named = list[str](), list[str]()

    def resolve(ip: str) -> Any:
        asked.append(ip)
        return ["mail.client.test"]
        yield  # a generator function, so that it gets the runtime's colour

    def plain(ip: str) -> list[str]:
        asked.append(ip)
        return ["mail.client.test"]

    def on_connect(session: Any) -> Any:
        named.append(session.client_hostname)
        return None
        yield

    resolver = runtime.coloured(resolve) if coroutine else plain
    options: dict[str, Any] = {"disable_reverse_lookup": False, "resolver": resolver}
    with running(runtime, on_connect=on_connect, **options) as server, server.client() as client:
        assert client.reply() == "220 mx.test ESMTP"
    assert (asked, named) == (["127.0.0.1"], ["mail.client.test"])


def test_without_close_timeout_open_transactions_end_by_themselves(runtime: Runtime) -> None:
    with running(runtime, close_timeout=None) as server, server.client().greeted() as client:
        assert client.say("MAIL FROM:<a@x.test>") == "250 2.1.0 Accepted"
        closing = server.start(server.server.close)
        wait_until(lambda: not server.server.addresses)
        is_silent(client)
        assert client.say("RCPT TO:<b@x.test>") == "250 2.1.5 Accepted"
        assert client.say("RSET") == "250 2.0.0 Flushed"
        assert client.replies() == ["421 4.3.2 Server shutting down"]
        client.close()
        closing.result(DEADLINE)


def test_a_hook_set_while_the_server_runs_is_looked_at(runtime: Runtime) -> None:
    def takes_too_little(_session: object) -> None: ...

    with running(runtime) as server, server.client().greeted() as client:
        with pytest.raises(TypeError, match=r"on_mail_from is called with \(address, session\)"):
            server.server.on_mail_from = takes_too_little
        with pytest.raises(TypeError, match=r"on_mail is no hook; did you mean on_mail_from\?"):
            server.server.on_mail = print
        assert client.say("MAIL FROM:<a@x.test>") == "250 2.1.0 Accepted"
