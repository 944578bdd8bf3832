# chain(): several handlers in the place of one, of both colours where the runtime has both.

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, cast

import pytest

from smtpproto import Reject
from smtpproto_kit import DATA, running
from smtpproto_kit.cases._colours import QUEUED, deliver, replies
from smtpproto_server import chain

if TYPE_CHECKING:
    from smtpproto import Session
    from smtpproto_kit import Runtime
    from smtpproto_kit.cases._colours import Hook

REFUSED = "550 5.7.1 Not you"


class Member:
    """A handler whose hooks are of one colour, and which notes that they were called."""

    def __init__(self, name: str, notes: list[str], runtime: Runtime, *, plain: bool) -> None:
        self.runtime, self.threads = runtime, set[threading.Thread]()

        def note(hook: str) -> None:
            notes.append(f"{name}: {hook}")
            self.threads.add(threading.current_thread())

        def on_mail_from(address: object, _session: object) -> None:
            note("on_mail_from")
            if str(address) == f"{name}@x":
                raise Reject(550, "5.7.1", "Not you")

        def on_close(_session: object) -> None:
            note("on_close")
            raise RuntimeError(name)

        def waiting_on_mail_from(address: object, session: object) -> Hook:
            yield runtime.pause(0.01)
            on_mail_from(address, session)

        def waiting_on_close(session: object) -> Hook:
            yield runtime.pause(0.01)
            on_close(session)

        self.on_mail_from: Any = on_mail_from if plain else runtime.coloured(waiting_on_mail_from)
        self.on_close: Any = on_close if plain else runtime.coloured(waiting_on_close)


class Store:
    """The owner of on_data."""

    def __init__(self, runtime: Runtime) -> None:
        self.messages: list[bytes] = []

        def on_data(stream: Any, _session: Session) -> Hook:
            self.messages.append((yield stream.read()))

        self.on_data: Any = runtime.coloured(on_data)


@pytest.mark.parametrize("sync_hooks", ["thread", "inline"])
def test_members_of_both_colours_are_asked_in_order_and_the_first_reject_counts(
    runtime: Runtime, sync_hooks: str
) -> None:
    notes: list[str] = []
    own, plain, last = (
        Member(name, notes, runtime, plain=name == "plain") for name in ("own", "plain", "last")
    )
    store = Store(runtime)
    handler = chain(own, chain(plain, store), last)
    with running(runtime, handler=handler, sync_hooks=sync_hooks) as server:
        with server.client().greeted() as client:
            assert client.say("MAIL FROM:<plain@x>") == REFUSED
            assert client.say("MAIL FROM:<last@x>") == REFUSED
            assert deliver(client, b"hi\r\n") == QUEUED
            assert client.say("QUIT").startswith("221 ")
            assert client.rest() == b""
        server.close()
    assert store.messages == [b"hi\r\n"]
    mail = [f"{name}: on_mail_from" for name in ("own", "plain", "last")]
    assert notes == [*mail[:2], *mail, *mail, *(f"{name}: on_close" for name in ("own", "plain", "last"))]
    ((error, info),) = server.errors
    assert isinstance(error, ExceptionGroup)
    assert list(map(str, cast("ExceptionGroup[Exception]", error).exceptions)) == ["own", "plain", "last"]
    assert info["stage"] == "hook"
    if runtime.coroutines:
        assert plain.threads.isdisjoint(own.threads) == (sync_hooks == "thread")


def test_a_member_that_waits_holds_up_no_other_connection(runtime: Runtime) -> None:
    entered, released = threading.Event(), threading.Event()

    def plain(_address: object, _session: object) -> None: ...

    def on_mail_from(address: object, _session: object) -> Hook:
        if str(address) == "slow@x":
            entered.set()
            while not released.is_set():
                yield runtime.pause(0.005)

    class Two:
        on_mail_from: Any

    one, two = Two(), Two()
    one.on_mail_from, two.on_mail_from = plain, runtime.coloured(on_mail_from)
    with running(runtime, handler=chain(one, two)) as server:
        with server.client().greeted() as slow, server.client().greeted() as client:
            slow.send(b"MAIL FROM:<slow@x>\r\n")
            assert entered.wait(60)
            client.send(DATA + b"hi\r\n.\r\n")
            assert replies(client, 4)[3] == QUEUED
            released.set()
            assert slow.reply().startswith("250 ")


def test_a_coroutine_member_is_refused_where_hooks_are_plain(runtime: Runtime) -> None:
    if runtime.coroutines:
        pytest.skip("its hooks may be coroutine functions")

    class Waits:
        async def on_close(self, session: object) -> None: ...

    class Plain:
        def on_close(self, session: object) -> None: ...

    with pytest.raises(TypeError, match="on_close is a coroutine function"):
        runtime.server_class(handler=chain(Plain(), Waits()))
