# Decisions: well formed when made, and what reply each stands for.

from __future__ import annotations

from typing import Any

import pytest

from smtpproto._decisions import ACCEPT, Accept, Challenge, Reject, decided_reply
from smtpproto._reply import Reply

RCPT_OK = Reply(250, "2.1.5", "Accepted")
NO_MAILBOX = Reply(550, "5.1.1", "Requested action not taken")


@pytest.mark.parametrize("code", [354, 200.0, "250", 550, 100, 999, True])
def test_accept_takes_no_other_codes(code: Any) -> None:
    with pytest.raises(ValueError, match=f"Accept takes a code from 200 to 299, not {code!r}"):
        Accept(code)


@pytest.mark.parametrize("code", [250, 354, 600, 399, "550"])
def test_reject_takes_no_other_codes(code: Any) -> None:
    with pytest.raises(ValueError, match=f"Reject takes a code from 400 to 599, not {code!r}"):
        Reject(code)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Accept(250, "5.1.1"), "enhanced code 5.1.1 does not go with 250"),
        (lambda: Accept(enhanced="4.0.0"), "enhanced code 4.0.0 does not go with class 2"),
        (lambda: Reject(550, "4.7.1"), "enhanced code 4.7.1 does not go with 550"),
        (lambda: Reject(450, "5.7.1"), "enhanced code 5.7.1 does not go with 450"),
        (lambda: Reject(enhanced="2.0.0"), "enhanced code 2.0.0 does not go with class 45"),
        (lambda: Reject(550, "5.7"), "'5.7' is not an enhanced status code"),
        (lambda: Reject(550, "5.07.1"), "'5.07.1' is not an enhanced status code"),
        (lambda: Reject(550, "5.7.1000"), "'5.7.1000' is not an enhanced status code"),
    ],
)
def test_an_enhanced_code_that_does_not_fit_is_refused_at_once(made: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made()


@pytest.mark.parametrize("text", [[1], [b"x"], ["a", None]])
def test_a_text_is_str_or_lines_of_str(text: Any) -> None:
    with pytest.raises(TypeError, match="a reply text is str or a list of str"):
        Reject(text=text)


def test_a_challenge_takes_octets() -> None:
    text: Any = "text"
    with pytest.raises(TypeError, match="Challenge takes bytes, not str"):
        Challenge(text)


@pytest.mark.parametrize(
    ("decision", "default", "expected"),
    [
        (ACCEPT, RCPT_OK, Reply(250, "2.1.5", "Accepted")),
        (Accept(251), RCPT_OK, Reply(251, "2.1.5", "OK")),
        (Accept(text="fine"), RCPT_OK, Reply(250, "2.1.5", "fine")),
        (Accept(text=["one", "two"]), RCPT_OK, Reply(250, "2.1.5", ["one", "two"])),
        (Accept(text="2.1.9 fine"), RCPT_OK, Reply(250, "2.1.9", "fine")),
        (Accept(enhanced="2.1.9"), RCPT_OK, Reply(250, "2.1.9", "Accepted")),
        (Reject(), NO_MAILBOX, NO_MAILBOX),
        (Reject(550), NO_MAILBOX, NO_MAILBOX),
        (Reject(text="no"), NO_MAILBOX, Reply(550, "5.1.1", "no")),
        (Reject(text=""), NO_MAILBOX, NO_MAILBOX),
        (Reject(text=[]), NO_MAILBOX, NO_MAILBOX),
        (Reject(554), NO_MAILBOX, Reply(554, "5.6.0", "Transaction failed")),
        (Reject(450, text="4.7.1 wait"), NO_MAILBOX, Reply(450, "4.7.1", "wait")),
        (Reject(450, text="5.7.1 wait"), NO_MAILBOX, Reply(450, "4.2.1", "5.7.1 wait")),
        (
            Reject(enhanced="4.7.1"),
            NO_MAILBOX,
            Reply(451, "4.7.1", "Error: internal error, please try again later"),
        ),
        (Reject(enhanced="5.7.1"), NO_MAILBOX, Reply(550, "5.7.1", "Requested action not taken")),
        (Reject(text="5.7.1 a\r\nb"), NO_MAILBOX, Reply(550, "5.7.1", ["a", "b"])),
    ],
)
def test_a_decision_fills_in_what_it_says_and_leaves_the_rest_to_its_place(
    decision: Accept | Reject, default: Reply, expected: Reply
) -> None:
    assert decided_reply(decision, default) == expected


def test_the_place_may_have_enhanced_codes_of_its_own() -> None:
    later = Reply(450, "4.2.1", "Requested action not taken")
    assert decided_reply(Reject(550), later, code_defaults={550: "5.7.1"}).enhanced == "5.7.1"
    assert decided_reply(Reject(552), later, code_defaults={550: "5.7.1"}).enhanced == "5.2.2"


def test_a_place_without_enhanced_codes_stays_without_for_its_own_code() -> None:
    assert decided_reply(Reject(text="no"), Reply(554, None, "x")).enhanced is None


def test_texts_keep_their_characters_only_with_smtputf8() -> None:
    assert decided_reply(Reject(text="é"), NO_MAILBOX).lines == ("?",)
    assert decided_reply(Reject(text="é"), NO_MAILBOX, utf8=True).lines == ("é",)


def test_a_reject_can_be_raised() -> None:
    with pytest.raises(Reject) as caught:
        raise Reject(550, "5.7.1", "no", challenge={"status": "400"})
    assert caught.value.code == 550
    assert caught.value.challenge == {"status": "400"}


def test_decisions_are_values() -> None:
    assert Accept(250, text="a", user="u") == Accept(250, text="a", user="u")
    assert Accept() != Accept(user="u")
    assert Accept() != Reject()
    assert Reject(550) == Reject(550)
    assert Reject(550) != Reject(551)
    assert Reject() != Accept()
    assert Challenge(b"a") == Challenge(b"a")
    assert Challenge(b"a") != b"a"
    assert len({Accept(), Accept(), Reject(), Reject(), Challenge(b""), Challenge(b"")}) == 3
    assert repr(Accept(250)) == "Accept(250, None, None, user=None)"
    assert repr(Reject(550, text="no")) == "Reject(550, None, 'no')"


def test_a_challenge_does_not_show_its_octets() -> None:
    assert repr(Challenge(b"secret")) == "Challenge(<6 octets>)"
