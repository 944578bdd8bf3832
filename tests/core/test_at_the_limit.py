# Replies, decisions and sessions: what stands exactly at a limit, and what is kept exactly as it is.

from __future__ import annotations

import math
from typing import Any

import pytest

from smtpproto import ACCEPT, Accept, Challenge, Reject, Session, TlsCipher, TlsDetails
from smtpproto import _catalogue as say
from smtpproto._decisions import decided_reply
from smtpproto._reply import Reply, single_line, split_enhanced

# --- replies ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("enhanced", "room"), [(None, 506), ("2.0.0", 500), ("2.1.10", 499)])
def test_a_line_of_a_reply_has_512_octets_and_not_one_more(enhanced: str | None, room: int) -> None:
    assert Reply(250, enhanced, "x" * room).lines == ("x" * room,)
    assert Reply(250, enhanced, "x" * (room + 1)).lines == ("x" * room, "x")


def test_a_long_line_is_cut_at_the_last_blank_that_fits() -> None:
    words = "a" * 200 + " " + "b" * 200 + " " + "c" * 200
    assert Reply(250, "2.0.0", words).lines == ("a" * 200 + " " + "b" * 200, "c" * 200)


@pytest.mark.parametrize("before", ["", "x"])
def test_a_long_word_is_never_cut_within_a_character(before: str) -> None:
    fits = (500 - len(before)) // 2
    reply = Reply(250, "2.0.0", before + "é" * 400, utf8=True)
    assert reply.lines == (before + "é" * fits, "é" * (400 - fits))


@pytest.mark.parametrize("code", [400, 421, 499])
def test_an_enhanced_code_goes_with_the_first_digit_of_the_code(code: int) -> None:
    assert split_enhanced(code, "4.7.1 later") == ("4.7.1", "later")


def test_replies_and_decisions_that_are_equal_have_one_hash_and_others_another() -> None:
    pairs: list[tuple[Any, Any]] = [
        (Reply(250, None, "a"), Reply(250, None, "b")), (Accept(250), Accept(251)),
        (Reject(450), Reject(550)), (Challenge(b"a"), Challenge(b"b")),
    ]  # fmt: skip
    assert all(hash(one) != hash(other) for one, other in pairs)


def test_line_breaks_become_blanks_and_what_cannot_be_read_a_question_mark() -> None:
    assert single_line("a\r\nb\nc\rd\x00é") == "a b c d??"


# --- decisions ----------------------------------------------------------------------------------


def test_a_decision_keeps_what_it_was_made_of() -> None:
    assert Accept(251, "2.1.9", "x", user="u").enhanced == "2.1.9"
    assert Reject(550, "5.7.1", ["a", "b"]).args == (550, "5.7.1", ("a", "b"))


@pytest.mark.parametrize(
    ("decision", "default", "reply"),
    [
        (Reject(enhanced="5.7.1"), say.HELP_REFUSED, Reply(502, "5.7.1", say.HELP_REFUSED.lines)),
        (Accept(200), say.SENDER_OK, Reply(200, "2.0.0", say.SENDER_OK.lines)),
        (ACCEPT, say.SENDER_OK, say.SENDER_OK),
    ],
)
def test_what_a_decision_leaves_open_is_the_places(
    decision: Accept | Reject, default: Reply, reply: Reply
) -> None:
    assert decided_reply(decision, default) == reply


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_challenge_for_xoauth2_is_json_and_nothing_near_it(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        Reject(challenge={"seconds": number})


# --- sessions -----------------------------------------------------------------------------------


def test_details_of_a_handshake_keep_what_they_were_made_of() -> None:
    suite = TlsCipher(name="N", standard_name="S", version="TLSv1.3")
    details = TlsDetails(suite, servername="mx", peer_certificate={"version": 3})
    assert (details.options, details.servername, details.peer_certificate) == (suite, "mx", {"version": 3})


def test_a_port_is_no_name() -> None:
    assert Session(remote=("192.0.2.1", 0)).client_hostname == "[192.0.2.1]"
