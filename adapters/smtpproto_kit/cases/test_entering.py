# A handler that is a context manager is entered before the server listens, and left after it has closed.

from __future__ import annotations

import socket
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from smtpproto_kit import DATA, DEADLINE, Client, running, wait_until
from smtpproto_kit.cases._colours import TICK, replies
from smtpproto_server import chain

if TYPE_CHECKING:
    from collections.abc import Callable

    from smtpproto_kit import Runtime
    from smtpproto_kit.cases._colours import Hook

    Note = Callable[..., None]

NOTHING = (None, None, None)


class Diary:
    """What handlers are told, and whether somebody is served meanwhile."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.notes: list[Any] = []
        self.begun, self.gate = threading.Event(), threading.Event()
        self.gate.set()
        self.threads: set[threading.Thread] = set()

    def listening(self, _address: object) -> None:
        self.notes.append("listening")

    def handler(self, name: str, *, plain: bool = False, fault: str = "") -> Any:
        """A handler of the runtime's own kind, or a plain one."""

        def note(what: str, *args: object) -> None:
            self.notes.append((name, what, *args))
            self.threads.add(threading.current_thread())
            if what == fault:
                raise ValueError(f"{name}: {what}")

        def on_close(_handler: object, _session: object) -> None:
            note("on_close")

        methods = self.plain_methods(note) if plain else self.own_methods(note)
        return type("Member", (), {**methods, "on_close": on_close})()

    def plain_methods(self, note: Note) -> dict[str, Any]:
        def enter(_handler: object) -> None:
            note("enter")

        def leave(_handler: object, *args: object) -> None:
            note("exit", *args)

        return {"__enter__": enter, "__exit__": leave}

    def own_methods(self, note: Note) -> dict[str, Any]:
        def enter(_handler: object) -> Hook:
            self.begun.set()
            for _ in range(int(DEADLINE / TICK)):
                if self.gate.is_set():
                    break
                yield self.runtime.pause(TICK)
            note("enter")

        def leave(_handler: object, *args: object) -> Hook:
            yield self.runtime.pause(0)
            note("exit", *args)

        a = "a" if self.runtime.coroutines else ""
        coloured = self.runtime.coloured
        return {f"__{a}enter__": coloured(enter), f"__{a}exit__": coloured(leave)}


def listen(server: Any, **place: Any) -> Any:
    return server.call(lambda: server.server.listen(0, "127.0.0.1", **place))


def test_it_is_entered_once_before_the_first_listen_and_left_when_all_have_ended(runtime: Runtime) -> None:
    diary = Diary(runtime)
    with running(runtime, listen=False, handler=diary.handler("own")) as server:
        server.server.on("listening", diary.listening)
        server.server.on("close", lambda: diary.notes.append("close"))
        assert diary.notes == []
        for _ in range(2):
            listen(server)
            listen(server)
            assert diary.notes == [("own", "enter"), "listening", "listening"]
            with server.client().greeted() as client:
                client.send(DATA)
                assert replies(client, 3)[2].startswith("354 ")
                closing = server.start(server.server.close)
                client.send(b"hi\r\n.\r\n")
                assert client.replies()[0] == "250 2.6.0 OK: message queued"
                client.close()
                closing.result(DEADLINE)
            assert diary.notes[3:] == [("own", "on_close"), ("own", "exit", *NOTHING), "close"]
            diary.notes.clear()
    assert diary.notes == []


@pytest.mark.parametrize("sync_hooks", ["thread", "inline"])
def test_members_of_a_chain_are_entered_in_order_and_left_in_reverse(
    runtime: Runtime, sync_hooks: str
) -> None:
    diary, other = Diary(runtime), Diary(runtime)
    plain = other.handler("plain", plain=True)
    handler = chain(diary.handler("first"), chain(plain, diary.handler("last")))
    with running(runtime, handler=handler, sync_hooks=sync_hooks) as server:
        assert diary.notes == [("first", "enter"), ("last", "enter")]
        assert other.notes == [("plain", "enter")]
        server.close()
        assert diary.notes[2:] == [("last", "exit", *NOTHING), ("first", "exit", *NOTHING)]
        assert other.notes[1:] == [("plain", "exit", *NOTHING)]
    if runtime.coroutines:
        assert diary.threads.isdisjoint(other.threads) == (sync_hooks == "thread")


def test_what_cannot_be_entered_is_raised_by_listen_and_nothing_is_bound(runtime: Runtime) -> None:
    diary = Diary(runtime)
    handler = chain(diary.handler("first"), diary.handler("broken", fault="enter"))
    with running(runtime, listen=False, handler=handler) as server:
        for _ in range(2):
            with pytest.raises(ValueError, match="broken: enter"):
                listen(server)
            assert not server.server.addresses
            assert diary.notes == [("first", "enter"), ("broken", "enter"), ("first", "exit", *NOTHING)]
            diary.notes.clear()
    assert diary.notes == []


def test_what_is_raised_on_leaving_is_reported_and_close_ends(runtime: Runtime) -> None:
    diary = Diary(runtime)
    handler = chain(diary.handler("first"), diary.handler("broken", fault="exit"))
    with running(runtime, handler=handler) as server:
        server.close()
        ((error, info),) = server.errors
    assert str(error) == "broken: exit"
    assert info == {"stage": "hook", "session": None, "remote_address": ""}
    assert diary.notes[2:] == [("broken", "exit", *NOTHING), ("first", "exit", *NOTHING)]


def test_it_is_entered_for_a_connection_that_is_handed_in(runtime: Runtime) -> None:
    diary = Diary(runtime)
    with running(runtime, listen=False, handler=diary.handler("own")) as server:
        ours, theirs = socket.socketpair()
        with Client(sock=theirs) as client:
            serving = server.start(partial(server.server.serve_connection, ours))
            assert client.reply() == "220 mx.test ESMTP"
            assert diary.notes == [("own", "enter")]
            assert client.say("QUIT").startswith("221 ")
            client.close()
            serving.result(DEADLINE)
        assert diary.notes == [("own", "enter"), ("own", "on_close")]
        server.close()
    assert diary.notes[2:] == [("own", "exit", *NOTHING)]


def test_two_that_listen_at_once_enter_it_once(runtime: Runtime) -> None:
    diary = Diary(runtime)
    diary.gate.clear()
    with running(runtime, listen=False, handler=diary.handler("own")) as server:
        calls = [server.start(lambda: server.server.listen(0, "127.0.0.1")) for _ in range(2)]
        diary.gate.set()
        for each in calls:
            each.result(DEADLINE)
        assert diary.notes == [("own", "enter")]
        assert len(server.server.addresses) == 2
    assert diary.notes[1:] == [("own", "exit", *NOTHING)]


def test_a_listen_that_is_overtaken_by_close_while_it_enters_does_not_listen(runtime: Runtime) -> None:
    diary = Diary(runtime)
    diary.gate.clear()
    with running(runtime, listen=False, handler=diary.handler("own")) as server:
        listening = server.start(lambda: server.server.listen(0, "127.0.0.1"))
        assert diary.begun.wait(DEADLINE)
        closing = server.start(server.server.close)
        wait_until(lambda: server.server.closings)
        diary.gate.set()
        closing.result(DEADLINE)
        listening.result(DEADLINE)
        assert not server.server.addresses
    assert diary.notes == [("own", "enter"), ("own", "exit", *NOTHING)]


def test_an_asynchronous_one_is_refused_where_there_are_no_coroutines(runtime: Runtime) -> None:
    class Waits:
        async def __aenter__(self) -> None: ...
        async def __aexit__(self, *_: object) -> None: ...
        def on_close(self, session: object) -> None: ...

    if runtime.coroutines:
        runtime.server_class(handler=Waits())
        return
    with pytest.raises(TypeError, match="Waits has __aenter__"):
        runtime.server_class(handler=Waits())
