# The live sessions of a server, and how one of them is ended.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from server.scripted import DATA, DOWN, GO_ON, GREETING, UNCODED_DOWN, Play, hook
from smtpproto import Accept, Reject, Session
from smtpproto_server import StreamAborted

if TYPE_CHECKING:
    from smtpproto_server import AsyncStream

MAIL = b"MAIL FROM:<a@x.test>\r\n"


def yes(*_: object) -> None: ...


def disconnect(play: Play, *reply: Any) -> bytes:
    """End the session; what is sent then."""
    assert play.server.disconnect(play.driver.session, *reply)
    return play.settle()


def test_sessions_are_those_that_live_as_they_were_when_one_asked() -> None:
    play = Play()
    session = play.driver.session
    before = play.server.sessions
    assert before == (session,)
    play.say(b"QUIT\r\n")
    play.lose()
    assert play.server.sessions == ()
    assert before == (session,)


def test_a_session_that_is_ended_is_told_421_and_closed() -> None:
    play = Play()
    session = play.driver.session
    assert disconnect(play) == DOWN
    play.ends(lingers=True)
    assert session.close_reason == "shutdown"
    assert not play.server.disconnect(session)


@pytest.mark.parametrize(
    ("reply", "sent", "uncoded"),
    [
        (Reject(421, "4.7.0", "Enough"), b"421 4.7.0 Enough\r\n", b"421 Enough\r\n"),
        (Reject(text="Enough"), b"421 4.3.2 Enough\r\n", b"421 Enough\r\n"),
        (Reject(text=("A", "B")), b"421-4.3.2 A\r\n421 4.3.2 B\r\n", b"421-A\r\n421 B\r\n"),
    ],
)
def test_the_reply_may_be_given(reply: Reject, sent: bytes, uncoded: bytes) -> None:
    assert disconnect(Play(), reply) == sent
    assert disconnect(Play(hide_enhancedstatuscodes=True), reply) == uncoded


@pytest.mark.parametrize("reply", [Reject(550), Reject(454, "4.7.0"), Accept(250)])
def test_another_code_than_421_is_a_value_error(reply: Any) -> None:
    play = Play()
    with pytest.raises(ValueError, match=f"a connection is ended with 421, not {reply.code}"):
        play.server.disconnect(play.driver.session, reply)
    assert play.say(b"NOOP\r\n") == b"250 2.0.0 OK\r\n"


def test_an_enhanced_code_alone_does_not_make_it_another_code() -> None:
    play = Play()
    with pytest.raises(ValueError, match=r"enhanced code 5\.7\.1 does not go with 421"):
        play.server.disconnect(play.driver.session, Reject(None, "5.7.1", "Enough"))
    assert disconnect(play, Reject(None, "4.7.1", "Enough")) == b"421 4.7.1 Enough\r\n"


def test_before_the_greeting_no_enhanced_code_is_sent() -> None:
    play = Play(greeted=False, on_connect=hook)
    assert disconnect(play) == UNCODED_DOWN
    play = Play(greeted=False, on_connect=hook)
    assert disconnect(play, Reject(421, "4.7.0", "Enough")) == b"421 Enough\r\n"


def test_a_client_in_its_handshake_is_told_nothing() -> None:
    play = Play(greeted=False, secure=True)
    assert disconnect(play) == b""
    play.ends()


def test_an_open_transaction_does_not_go_on() -> None:
    play = Play()
    play.say(MAIL)
    assert disconnect(play) == DOWN


def test_a_hook_that_runs_is_cancelled() -> None:
    play = Play(on_mail_from=hook)
    play.say(MAIL)
    assert disconnect(play, Reject(421, "4.7.0", "Enough")) == b"421 4.7.0 Enough\r\n"
    play.ends(lingers=True)


def test_a_hook_that_reads_is_told_that_the_server_ends() -> None:
    seen: list[str] = []

    async def on_data(stream: AsyncStream, _session: Session) -> None:
        try:
            await stream.read()
        except StreamAborted as error:
            seen.append(error.reason)
            raise

    play = Play(on_data=on_data)
    assert play.say(DATA).endswith(GO_ON)
    assert disconnect(play) == DOWN
    assert seen == ["shutdown"]
    assert play.errors == []


def test_a_hook_may_end_its_own_session_and_what_it_returns_is_dropped() -> None:
    async def on_mail_from(_address: object, session: Session) -> None:
        assert play.server.disconnect(session, Reject(421, "4.7.0", "Enough"))

    play = Play(on_mail_from=on_mail_from)
    assert play.say(MAIL) == b"421 4.7.0 Enough\r\n"
    play.ends(lingers=True)


def test_on_close_is_too_late() -> None:
    seen: list[bool] = []

    async def on_close(session: Session) -> None:
        seen.append(play.server.disconnect(session))

    play = Play(on_close=on_close)
    play.lose()
    play.ends()
    assert seen == [False]


def test_a_listener_may_end_the_session_it_hears_of() -> None:
    play = Play(begins=False, greeted=False)
    play.server.on("connect", lambda _info: play.server.disconnect(play.driver.session))
    play.driver.go_on()
    assert play.settle() == GREETING + DOWN
    play.ends(lingers=True)


def test_the_session_of_a_hook_that_was_given_up_stands_for_its_connection() -> None:
    play = Play(on_mail_from=yes, hook_timeout=7)
    session = play.driver.session
    play.say(MAIL)
    play.tick(8)
    assert play.driver.session is not session
    assert play.server.sessions == (play.driver.session,)
    assert play.server.disconnect(session)
    assert play.settle() == DOWN
    play.ends(lingers=True)
    assert not play.server.disconnect(session)


def test_of_two_sessions_with_one_id_the_one_that_is_given_is_ended() -> None:
    play = Play()
    other = play.server.begin(None, ("192.0.2.25", 25), ("192.0.2.1", 1), lambda: 0.0, play.driver.session.id)
    other.go_on()
    assert disconnect(play) == DOWN
    assert not other.stopping


def test_a_session_that_is_over_does_not_stand_for_a_later_one_with_its_id() -> None:
    play = Play()
    session = play.driver.session
    play.lose()
    other = play.server.begin(None, ("192.0.2.25", 25), ("192.0.2.1", 1), lambda: 0.0, session.id)
    assert not play.server.disconnect(session)
    assert not other.stopping


def test_a_session_of_nobody_is_over() -> None:
    assert not Play().server.disconnect(Session("192.0.2.1"))


def test_the_end_goes_before_a_shutdown_that_waits_and_the_first_reply_counts() -> None:
    play = Play(on_mail_from=hook)
    play.say(MAIL)
    play.stop()
    play.server.disconnect(play.driver.session, Reject(421, "4.7.0", "Enough"))
    play.server.disconnect(play.driver.session, Reject(421, "4.7.0", "More than enough"))
    play.driver.stop(now=True)
    assert play.settle() == b"421 4.7.0 Enough\r\n"
