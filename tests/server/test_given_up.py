# A hook that was given up: it keeps what it was given, and has no say in what comes after.

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any

import pytest

from server.scripted import BROKEN, DATA, DOWN, QUEUED, Cancelled, Play, hook
from smtpproto_server import StreamAborted

if TYPE_CHECKING:
    from collections.abc import Callable

    from smtpproto import Session
    from smtpproto_server import Stream

SECOND = b"MAIL FROM:<other@x.test>\r\nRCPT TO:<c@y.test>\r\n"
both_kinds = pytest.mark.parametrize("coroutines", [True, False], ids=["threads", "an empty stack"])


def run(play: Play) -> Any:
    """The plain hook that is due is called, and what it returns or raises comes too late."""
    driver = play.driver
    call = driver.due_call if driver.due_call is not None else driver.trap.call
    assert call is not None
    result = call()
    driver.returned(call, result)
    assert play.settle() == b""
    return result


@both_kinds
def test_a_plain_hook_that_was_given_up_keeps_its_session_and_never_sees_a_later_transaction(
    coroutines: bool,
) -> None:
    said: list[bytes] = []
    kept: list[Session] = []

    def on_data(stream: Stream, session: Session) -> str:
        envelope, before = session.envelope, copy(session.envelope)
        said.append(play.tick(7))
        said.append(play.say(b"hi\r\n.\r\n"))
        said.append(play.say(SECOND))
        assert session.envelope is envelope  # looked at late
        assert (envelope.mail_from, envelope.rcpt_to) == (before.mail_from, before.rcpt_to)
        assert str(envelope.mail_from) == "a@x.test"
        assert [str(address) for address in envelope.rcpt_to] == ["b@y.test"]
        assert not stream.claim()
        with pytest.raises(StreamAborted, match="timeout"):
            stream.read()
        kept.append(session)
        return "kept"

    play = Play(on_data=on_data, hook_timeout=7, coroutines=coroutines)
    play.say(DATA)
    first = play.driver.session
    assert run(play) == "kept"
    assert said == [b"", BROKEN, b"250 2.1.0 Accepted\r\n250 2.1.5 Accepted\r\n"]
    (session,) = kept
    now = play.driver.session
    assert session is first
    assert session is not now
    assert play.server.sessions == (now,)
    assert (now.id, now.remote_address) == (session.id, session.remote_address)
    assert str(now.envelope.mail_from) == "other@x.test"
    assert [str(each) for each in session.envelope.rcpt_to] == ["b@y.test"]
    assert [info["stage"] for _, info in play.errors] == ["hook"]
    play.lose()
    play.ends()


@both_kinds
def test_a_session_that_the_application_kept_stays_as_it_was(coroutines: bool) -> None:
    kept: list[Session] = []
    closed: list[Session] = []

    def on_mail_from(_address: object, session: Session) -> None:
        kept.append(session)
        assert play.tick(7) == BROKEN

    def on_close(session: Session) -> None:
        closed.append(session)

    play = Play(on_mail_from=on_mail_from, on_close=on_close, hook_timeout=7, coroutines=coroutines)
    play.say(b"MAIL FROM:<a@x.test>\r\n")
    run(play)
    (session,) = kept
    envelope = session.envelope
    play.server.on_mail_from = None
    play.say(b"EHLO other.test\r\n" + DATA)
    assert play.say(b"hi\r\n.\r\n") == QUEUED
    assert session.host_name_appears_as == "client.test"
    assert session.envelope is envelope
    assert not envelope.rcpt_to
    play.say(b"QUIT\r\n")
    play.call()
    assert closed == [play.driver.session]
    assert closed != kept
    play.ends()


def test_a_coroutine_that_was_given_up_has_ended_so_the_session_stays_the_same() -> None:
    play = Play(on_data=hook, hook_timeout=7)
    play.say(DATA)
    session = play.driver.session
    play.run_out()
    assert play.say(b".\r\n") == BROKEN
    assert play.driver.session is session


@both_kinds
def test_from_a_claim_on_the_hook_is_not_given_up_and_what_it_returns_counts(coroutines: bool) -> None:
    def on_data(stream: Stream, session: Session) -> str:
        play.driver.to_come = [b"hi\r\n.\r\n"]
        stream.read()
        assert stream.claim()
        assert play.tick(1000) == b""
        assert session is play.driver.session
        assert stream.claim()
        return "kept"

    play = Play(on_data=on_data, hook_timeout=7, coroutines=coroutines)
    play.say(DATA)
    assert play.call() == b"250 2.6.0 kept\r\n"
    assert not play.errors


def test_the_time_of_later_hooks_is_not_that_of_one_that_has_claimed() -> None:
    async def on_data(stream: Any, session: Session) -> None:
        assert stream.claim()
        await hook(stream, session)

    play = Play(on_data=on_data, on_mail_from=hook, hook_timeout=7)
    play.say(DATA.replace(b"MAIL", b"RSET\r\nMAIL"))
    play.answer()
    play.tick(50)
    assert play.driver.hook is not None
    play.answer()
    assert play.say(b".\r\nMAIL FROM:<a@x>\r\n") == QUEUED
    assert play.run_out() == BROKEN


def test_a_hook_has_its_time_also_if_somebody_reads_for_it_since_its_first_step() -> None:
    async def on_data(stream: Any, session: Session) -> None:
        play.driver.begin_read(stream)  # an eager task of asyncio does
        await hook(stream, session)

    play = Play(on_data=on_data, hook_timeout=7)
    play.say(DATA)
    play.tick(50)  # this is the client's
    play.say(b".\r\n")
    stream = play.stream()
    assert play.driver.try_read(stream) == b""
    play.driver.end_read(stream)
    assert play.tick(6.9) == b""
    assert play.tick(0.2) == BROKEN


GONE: dict[str, Callable[[Play], bytes]] = {
    "timeout": lambda play: play.tick(7),
    "lost": lambda play: play.lose(),
    "stop now": lambda play: play.stop(now=True),
    "abort": lambda play: play.abort(),
}


@both_kinds
@pytest.mark.parametrize("how", GONE)
def test_no_claim_is_to_be_had_once_the_hook_has_no_say(how: str, coroutines: bool) -> None:
    claims: list[bool] = []

    def on_data(stream: Stream, _session: object) -> None:
        GONE[how](play)
        claims.append(stream.claim())

    play = Play(on_data=on_data, hook_timeout=7, coroutines=coroutines)
    play.say(DATA)
    run(play)
    assert claims == [False]


def test_no_claim_is_to_be_had_when_the_hook_has_returned() -> None:
    play = Play(on_data=hook)
    play.say(DATA)
    stream = play.stream()
    play.answer()
    assert not stream.claim()
    assert play.say(b".\r\n") == QUEUED
    assert not stream.claim()


@pytest.mark.parametrize("error", [None, KeyError("x"), Cancelled()])
def test_however_a_hook_ends_that_was_given_up_it_is_answered_once(error: BaseException | None) -> None:
    async def stubborn(*args: Any) -> str:
        try:
            await hook(*args)
        except Cancelled:
            if error is not None:
                raise error from None
        return "too late"

    play = Play(on_data=stubborn, hook_timeout=7)
    play.say(DATA + b".\r\n")
    assert play.run_out() == BROKEN
    assert play.say(b"NOOP\r\n") == b"250 2.0.0 OK\r\n"
    assert play.stop() == DOWN
