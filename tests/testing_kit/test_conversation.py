# Conversations: that two ways which differ are told, and that an answer which cannot be is none.

from __future__ import annotations

from itertools import count

import pytest

from smtpproto import (
    ACCEPT,
    Accept,
    AuthRequested,
    Challenge,
    DataFinished,
    Event,
    MailRequested,
    Reject,
)
from smtpproto.testing import converse, message, play


def test_two_cuts_that_come_to_different_ends_are_told_with_both() -> None:
    plays = count()

    def fickle(_event: Event) -> Accept | Reject:
        return Reject(550) if next(plays) else ACCEPT

    with pytest.raises(AssertionError, match=r"(?s)\Acut as .*550 5\.1\.1.*whole:.*250 2\.1\.0"):
        play("EHLO a", "MAIL FROM:<a@x.test>", answers={MailRequested: fickle})


def test_a_user_who_is_named_has_nothing_to_be_challenged_with() -> None:
    outcome = converse("XCLIENT LOGIN=u", answers={AuthRequested: Challenge(b"?")}, use_xclient=True)
    assert outcome.session.user == "u"


def test_of_an_answer_for_each_recipient_smtp_takes_the_first() -> None:
    answers = {DataFinished: (Reject(552), ACCEPT)}
    to_two = message(to=["b@y.test", "c@y.test"])
    assert [reply[:3] for reply in play("EHLO a", *to_two, answers=answers)[-1:]] == ["552"]
    assert [reply[:3] for reply in play("LHLO a", *to_two, answers=answers, lmtp=True)[-2:]] == ["552", "250"]
