# A hook that was given up keeps what it was given, and has no say in what comes after.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smtpproto_kit import running, wait_until
from smtpproto_kit.cases._colours import ERROR, LINE, Gate, begin, both, deliver, is_silent

if TYPE_CHECKING:
    from smtpproto import Session
    from smtpproto_kit import Runtime
    from smtpproto_kit.cases._colours import Colour, Hook

FIRST = "a@x.test"
SECOND = "MAIL FROM:<second@x.test>"


@both
def test_a_hook_that_was_given_up_has_no_claim_to_its_message(runtime: Runtime, colour: Colour) -> None:
    gate, claims = Gate(runtime, colour), list[bool]()

    def on_data(stream: Any, _session: object) -> Hook:
        yield stream.read()
        try:
            yield from gate.passed()
        finally:  # also of a hook that is cancelled
            claims.append(stream.claim())
        return "much too late"

    with running(runtime, on_data=colour(on_data), hook_timeout=0.1) as server:
        with server.client().greeted() as client:
            assert deliver(client, LINE) == ERROR
            gate.open()
            wait_until(lambda: claims)
            assert claims == [False]
            assert client.say("NOOP") == "250 2.0.0 OK"
        ((error, _),) = server.errors
    assert str(error) == "on_data took longer than hook_timeout"


@both
def test_a_hook_that_has_claimed_its_message_is_waited_for(runtime: Runtime, colour: Colour) -> None:
    gate, claims = Gate(runtime, colour), list[bool]()

    def on_data(stream: Any, _session: object) -> Hook:
        yield stream.read()
        claims.append(stream.claim())
        yield from gate.passed()
        claims.append(stream.claim())
        return "kept"

    with running(runtime, on_data=colour(on_data), hook_timeout=0.1) as server:
        with server.client().greeted() as client:
            begin(client)
            client.send(LINE + b".\r\n")
            wait_until(lambda: claims)
            is_silent(client, 0.3)  # longer than hook_timeout
            gate.open()
            assert client.reply() == "250 2.6.0 kept"
        assert claims == [True, True]
        assert not server.errors


@both
def test_a_hook_that_was_given_up_never_sees_a_later_transaction(runtime: Runtime, colour: Colour) -> None:
    gate, seen = Gate(runtime, colour), list[str]()

    def on_data(_stream: object, session: Session) -> Hook:
        try:
            yield from gate.passed()
        finally:
            seen.append(str(session.envelope.mail_from))
        return "much too late"

    with running(runtime, on_data=colour(on_data), hook_timeout=0.1) as server:
        with server.client().greeted() as client:
            assert deliver(client, LINE) == ERROR
            assert client.say(SECOND) == "250 2.1.0 Accepted"
            gate.open()
            wait_until(lambda: seen)
            assert seen == [FIRST]
