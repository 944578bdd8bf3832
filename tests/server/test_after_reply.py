# session.after_reply: what a hook wants done once its reply was handed to the system.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from server.scripted import BROKEN, DATA, GO_ON, PULL, QUEUED, Play, hook
from smtpproto import Reject

if TYPE_CHECKING:
    from smtpproto import Session

SENDER, RECIPIENT = b"250 2.1.0 Accepted\r\n", b"250 2.1.5 Accepted\r\n"
MAIL, RCPT = b"MAIL FROM:<a@x.test>\r\n", b"RCPT TO:<b@y.test>\r\n"


class Noted:
    """Hooks that note when they are told that their reply was sent, and what had been sent by then."""

    def __init__(self) -> None:
        self.play: Play
        self.seen: list[tuple[str, bytes]] = []

    def note(self, name: str, session: Session) -> None:
        session.after_reply(lambda: self.seen.append((name, self.play.driver.sends[-1])))

    async def on_mail_from(self, _address: Any, session: Session) -> None:
        self.note("MAIL", session)

    async def on_rcpt_to(self, _address: Any, session: Session) -> None:
        self.note("RCPT", session)


def test_it_is_called_when_the_replies_of_the_group_have_left() -> None:
    noted = Noted()
    noted.play = Play(on_mail_from=noted.on_mail_from, on_rcpt_to=noted.on_rcpt_to)
    assert noted.play.say(MAIL + RCPT) == SENDER + RECIPIENT
    assert noted.seen == [("MAIL", SENDER + RECIPIENT), ("RCPT", SENDER + RECIPIENT)]
    noted.play.say(b"NOOP\r\n")
    assert len(noted.seen) == 2


def test_a_hook_that_waits_delays_its_own_call_and_not_that_of_a_command_before_it() -> None:
    noted = Noted()

    async def on_rcpt_to(address: Any, session: Session) -> Any:
        noted.note("RCPT", session)
        return await hook(address, session)

    noted.play = Play(on_mail_from=noted.on_mail_from, on_rcpt_to=on_rcpt_to)
    assert noted.play.say(MAIL + RCPT) == SENDER
    assert noted.seen == [("MAIL", SENDER)]
    assert noted.play.answer(None) == RECIPIENT
    assert noted.seen[1:] == [("RCPT", RECIPIENT)]


def test_the_reply_to_a_message_is_the_one_after_its_end() -> None:
    noted = Noted()

    async def on_data(stream: Any, session: Session) -> Any:
        noted.note("DATA", session)
        return await hook(stream, session)

    noted.play = Play(on_data=on_data)
    assert noted.play.say(DATA) == SENDER + RECIPIENT + GO_ON
    noted.play.answer(PULL)
    assert noted.play.say(b"hi\r\n.\r\n") == b""
    assert noted.seen == []
    assert noted.play.answer(None) == QUEUED
    assert noted.seen == [("DATA", QUEUED)]


def test_a_hook_that_does_not_read_its_message_waits_for_the_same_reply() -> None:
    noted = Noted()

    async def on_data(_stream: Any, session: Session) -> None:
        noted.note("DATA", session)

    noted.play = Play(on_data=on_data)
    assert noted.play.say(DATA) == SENDER + RECIPIENT + GO_ON
    assert noted.seen == []
    assert noted.play.say(b"hi\r\n.\r\n") == QUEUED
    assert noted.seen == [("DATA", QUEUED)]


def test_a_client_that_does_not_read_delays_it_until_all_has_gone() -> None:
    noted = Noted()
    noted.play = Play(on_mail_from=noted.on_mail_from)
    noted.play.driver.takes = False
    noted.play.say(MAIL)
    assert noted.seen == []
    noted.play.driver.takes = True
    noted.play.driver.room()
    assert noted.seen == [("MAIL", SENDER)]


@pytest.mark.parametrize("refusal", [Reject(550), Reject(421)], ids=str)
def test_a_refusal_is_a_reply_too(refusal: Reject) -> None:
    noted = Noted()

    async def on_mail_from(_address: Any, session: Session) -> None:
        noted.note("MAIL", session)
        raise refusal

    noted.play = Play(on_mail_from=on_mail_from)
    reply = noted.play.say(MAIL)
    assert reply.startswith(str(refusal.code).encode())
    assert noted.seen == [("MAIL", reply)]


def test_it_is_not_called_for_a_hook_that_was_given_up_or_a_client_that_is_gone() -> None:
    noted = Noted()

    async def on_mail_from(address: Any, session: Session) -> Any:
        noted.note("MAIL", session)
        return await hook(address, session)

    noted.play = Play(on_mail_from=on_mail_from, hook_timeout=7)
    noted.play.say(MAIL)
    assert noted.play.tick(7) == BROKEN
    assert noted.seen == []
    noted.play.say(MAIL)
    noted.play.lose()
    assert noted.seen == []


def test_what_it_raises_is_reported_and_the_session_goes_on() -> None:
    def fails() -> None:
        raise GeneratorExit

    async def on_mail_from(_address: Any, session: Session) -> None:
        session.after_reply(fails)

    play = Play(on_mail_from=on_mail_from)
    assert play.say(MAIL) == SENDER
    assert [(type(error), info["stage"]) for error, info in play.errors] == [(GeneratorExit, "hook")]
    assert play.say(RCPT) == RECIPIENT
