# Decisions: well formed when made, and what reply each stands for.

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproto import _catalogue as say
from smtpproto._decisions import ACCEPT, Accept, Challenge, Reject, decided_reply
from smtpproto._message import MESSAGE_ENHANCED
from smtpproto._reply import MAX_REPLY_LINE, Reply

RCPT_OK = Reply(250, "2.1.5", "Accepted")
NO_MAILBOX = Reply(550, "5.1.1", "Requested action not taken")


@pytest.mark.parametrize("code", [354, 200.0, 550, 100, 999, True])
def test_accept_takes_no_other_codes(code: Any) -> None:
    with pytest.raises(ValueError, match=f"Accept takes a code from 200 to 299, not {code}$"):
        Accept(code)


@pytest.mark.parametrize("code", [250, 354, 600, 399])
def test_reject_takes_no_other_codes(code: Any) -> None:
    with pytest.raises(ValueError, match=f"Reject takes a code from 400 to 599, not {code}$"):
        Reject(code)


@pytest.mark.parametrize("decision", [Accept, Reject])
def test_a_text_is_no_code(decision: Any) -> None:
    with pytest.raises(ValueError, match=r"takes a code from .*, not str$"):
        decision("550")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Accept(250, "5.1.1"), "enhanced code 5.1.1 does not go with 250"),
        (lambda: Accept(enhanced="4.0.0"), "enhanced code 4.0.0 does not go with class 2"),
        (lambda: Reject(550, "4.7.1"), "enhanced code 4.7.1 does not go with 550"),
        (lambda: Reject(450, "5.7.1"), "enhanced code 5.7.1 does not go with 450"),
        (lambda: Reject(enhanced="2.0.0"), "enhanced code 2.0.0 does not go with class 45"),
        (
            lambda: Reject(550, "Not here"),
            r"'Not here' is not an enhanced status code such as 5.7.1 \(RFC 3463 §2\); a text is text=...",
        ),
        (lambda: Reject(550, "5.7"), "'5.7' is not an enhanced status code"),
        (lambda: Reject(550, "5.07.1"), "'5.07.1' is not an enhanced status code"),
        (lambda: Reject(550, "5.7.1000"), "'5.7.1000' is not an enhanced status code"),
    ],
)
def test_an_enhanced_code_that_does_not_fit_is_refused_at_once(made: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made()


@pytest.mark.parametrize(("text", "types"), [
    ([1], "int"), ([b"x"], "bytes"), (["a", None], "str, NoneType"),
])  # fmt: skip
def test_a_text_is_str_or_lines_of_str(text: Any, types: str) -> None:
    for kind in (Accept, Reject):
        with pytest.raises(
            TypeError, match=rf"\Aa reply text is str or a list of str, not a list of {types}\Z"
        ):
            kind(text=text)


def test_a_challenge_takes_octets() -> None:
    text: Any = "text"
    with pytest.raises(TypeError, match="Challenge takes bytes, not str"):
        Challenge(text)


@pytest.mark.parametrize(
    ("decision", "default", "expected"),
    [
        (ACCEPT, RCPT_OK, Reply(250, "2.1.5", "Accepted")),
        (Accept(251), RCPT_OK, Reply(251, "2.1.5", "Accepted")),
        (Accept(250), RCPT_OK, RCPT_OK),
        (Accept(text=""), RCPT_OK, RCPT_OK),
        (Accept(251, text=" "), RCPT_OK, Reply(251, "2.1.5", "Accepted")),
        (Accept(text="2.1.9"), RCPT_OK, Reply(250, "2.1.9", "Accepted")),
        (Accept(text=["2.1.9", "fine"]), RCPT_OK, Reply(250, "2.1.9", "fine")),
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
        (Reject(554, text=""), NO_MAILBOX, Reply(554, "5.6.0", "Transaction failed")),
        (Reject(550, "5.7.1", ""), NO_MAILBOX, Reply(550, "5.7.1", "Requested action not taken")),
        (Reject(550, "5.7.1", "5.1.1 no"), NO_MAILBOX, Reply(550, "5.7.1", "5.1.1 no")),
        (Reject(421), NO_MAILBOX, Reply(421, "4.3.2", "Service not available, closing connection")),
        (Reject(text="5.7.1\nno"), NO_MAILBOX, Reply(550, "5.7.1", "no")),
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


# Behaviour §13.2: the context of the hook first, then the table of codes.
@pytest.mark.parametrize(
    ("place", "decision", "code", "enhanced"),
    [
        (say.SENDER_OK, ACCEPT, 250, "2.1.0"),
        (say.SENDER_OK, Accept(250, text="x"), 250, "2.1.0"),
        (say.MAILBOX_REFUSED, Reject(550), 550, "5.1.1"),
        (say.MAILBOX_REFUSED, Reject(553), 553, "5.1.3"),
        (say.MAILBOX_REFUSED, Reject(450), 450, "4.2.1"),
        (say.RECIPIENT_OK, Accept(text="x"), 250, "2.1.5"),
        (say.RECIPIENT_OK, Accept(251), 251, "2.1.5"),
        (say.RECIPIENT_OK, Accept(251, text="x"), 251, "2.1.5"),
        (say.QUEUED, Accept(text="x"), 250, "2.6.0"),
        (say.QUEUED, Accept(text="2.0.0 x"), 250, "2.0.0"),
        (say.MESSAGE_REFUSED, Reject(), 450, "4.2.1"),
        (say.MESSAGE_REFUSED, Reject(550), 550, "5.7.1"),
        (say.MESSAGE_REFUSED, Reject(550, "5.6.0"), 550, "5.6.0"),
        (say.MESSAGE_REFUSED, Reject(554), 554, "5.6.0"),
        (say.MESSAGE_REFUSED, Reject(452), 452, "4.2.2"),
        (say.SECURITY_REFUSED, Reject(), 554, "5.7.1"),
        (say.SECURITY_REFUSED, Reject(554), 554, "5.7.1"),
        (say.SECURITY_REFUSED, Reject(text="x"), 554, "5.7.1"),
        (say.SECURITY_REFUSED, Reject(550), 550, "5.1.1"),
        (say.LOGIN_OK, Accept(user="u"), 235, "2.7.0"),
        (say.LOGIN_OK, Accept(235, text="x", user="u"), 235, "2.7.0"),
        (say.LOGIN_REFUSED, Reject(), 535, "5.7.8"),
        (say.LOGIN_REFUSED, Reject(454), 454, "4.7.0"),
        (say.DATA_REFUSED, Reject(), 554, "5.6.0"),
        (say.CANNOT_VERIFY, Accept(250), 250, "2.0.0"),
        (say.HELP, Accept(211), 211, "2.0.0"),
    ],
)
def test_the_context_of_the_hook_goes_before_the_table_of_codes(
    place: Reply, decision: Accept | Reject, code: int, enhanced: str
) -> None:
    codes = MESSAGE_ENHANCED if place is say.MESSAGE_REFUSED else None
    reply = decided_reply(decision, place, code_defaults=codes)
    assert (reply.code, reply.enhanced) == (code, enhanced)


@pytest.mark.parametrize(
    ("decision", "place"),
    [(ACCEPT, RCPT_OK), (Accept(250), RCPT_OK), (Reject(), NO_MAILBOX), (Reject(550), NO_MAILBOX)],
)
def test_a_decision_without_words_costs_no_new_reply(decision: Accept | Reject, place: Reply) -> None:
    assert decided_reply(decision, place) is place


CODES = st.sampled_from([None, 400, 421, 450, 451, 499, 500, 535, 550, 554, 599])
SUBJECTS = st.sampled_from([None, "0.0", "7.1", "999.999"])
LINE = re.compile(r"(\d{3})[- ](\d\.\d{1,3}\.\d{1,3}) [^\x00-\x1f\x7f-\x9f]*")


@given(
    CODES, SUBJECTS,
    st.one_of(
        st.text(), st.lists(st.text(), max_size=4), st.text(alphabet="245.17 \r\n"),
        st.from_regex(r"\A[245]\.[0-9]\.[0-9] .*"), st.text(alphabet="a ", min_size=400),
    ),
    st.sampled_from([say.MAILBOX_REFUSED, say.MESSAGE_REFUSED, say.SECURITY_REFUSED, say.LOGIN_REFUSED]),
    st.booleans(),
)  # fmt: skip
def test_no_text_changes_what_was_asked(
    code: int | None, subject: str | None, text: str | list[str], place: Reply, utf8: bool
) -> None:
    """I4 and I17: one reply of the code and enhanced code asked, or of the place's where none was."""
    expected = code or place.code
    enhanced = subject and f"{expected // 100}.{subject}"
    reply = decided_reply(Reject(code, enhanced, text), place, utf8=utf8)
    lines = reply.encode(coded=True).decode().removesuffix("\r\n").split("\r\n")
    found = [LINE.fullmatch(line) for line in lines]
    assert {match and match[1] for match in found} == {str(expected)}
    assert {match and match[2] for match in found} == {reply.enhanced}
    assert enhanced in {None, reply.enhanced}
    assert str(reply.enhanced)[0] == str(expected)[0]
    assert [line[3] for line in lines] == ["-"] * (len(lines) - 1) + [" "]
    assert all(len(line.encode()) + 2 <= MAX_REPLY_LINE for line in lines)


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


def test_a_reject_survives_copying_whatever_its_text_was_made_of() -> None:
    refusal = Reject(550, "5.7.1", (line for line in ["a", "b"]), challenge={"status": "400"})
    assert refusal.text == ("a", "b")
    assert copy.copy(refusal) == refusal
    assert pickle.loads(pickle.dumps(refusal)) == refusal  # noqa: S301 - our own octets


@pytest.mark.parametrize("challenge", [{"a": object()}, {"a": float("nan")}, 5])
def test_a_challenge_that_is_no_json_fails_where_it_is_written(challenge: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        Reject(challenge=challenge)


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


def test_an_accept_does_not_show_who_logged_in_but_that_somebody_did() -> None:
    assert repr(Accept(235, "2.7.0", "in", user="me")) == "Accept(235, '2.7.0', 'in', user=***)"
    assert repr(Accept(user="")) == "Accept(None, None, None, user=***)"


def test_a_challenge_does_not_show_its_octets() -> None:
    assert repr(Challenge(b"secret")) == "Challenge(<6 octets>)"
