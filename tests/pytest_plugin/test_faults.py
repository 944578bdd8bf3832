# Faults that cannot happen are refused when they are scripted; a transcript shows no secret.

from __future__ import annotations

from typing import Any

import pytest

from smtpproto import Reject
from smtpproto_pytest._faults import Fault, Script
from smtpproto_pytest._transcript import HANGS_UP, transcript


def add(script: Script, place: Any, nth: Any = 1, times: Any = 1, **effects: Any) -> Fault:
    given: dict[str, Any] = {"reply": None, "drop": False, "delay": 0.0, **effects}
    return script.add(place, nth, times, **given)


@pytest.mark.parametrize(
    ("place", "settings", "says"),
    [
        ("rcpt", {"drop": True}, "'rcpt' is no place for a fault; there are CONNECT, EHLO, AUTH, MAIL"),
        ("RCPT", {}, "nothing happens at RCPT"),
        ("RCPT", {"reply": 451, "drop": True}, "reply=451 and drop=True"),
        ("RCPT", {"reply": 250}, "reply=250 is no fault: its code is neither 4yz nor 5yz"),
        ("DATA", {"reply": 354}, "reply=354 is no fault"),
        ("RCPT", {"reply": "too big"}, "not 'too big'"),
        ("RCPT", {"reply": "552\r\n250 ok"}, "not '552"),
        ("RCPT", {"reply": "552 4.3.4 too big"}, "enhanced code 4.3.4 does not go with 552"),
        ("BODY", {"reply": 552}, "reply=552 at BODY: the client has been told 354"),
        ("CONNECT", {"reply": "554 5.7.1 no"}, "'554 5.7.1 no' at CONNECT: there are no enhanced codes"),
        ("RCPT", {"nth": 0, "drop": True}, "nth is a whole number, 1 or more, not 0"),
        ("RCPT", {"nth": True, "drop": True}, "nth is a whole number"),
        ("RCPT", {"times": 0, "drop": True}, "times is a whole number"),
        ("RCPT", {"delay": -1}, "delay is a number of seconds, not -1"),
        ("RCPT", {"delay": float("inf")}, "not inf"),
    ],
)
def test_a_fault_that_cannot_happen_is_refused_with_both_sides_named(
    place: str, settings: dict[str, Any], says: str
) -> None:
    script = Script()
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is compared below
        add(script, place, **settings)
    assert says in str(caught.value)
    assert script.faults == []


@pytest.mark.parametrize("times", [None, 2])
def test_two_faults_at_the_same_time_and_place_are_refused_with_both_named(times: int | None) -> None:
    script = Script()
    add(script, "RCPT", 2, reply=451)
    with pytest.raises(ValueError, match=r"(?s)drop.* would come where there is .*RCPT 2: 451"):
        add(script, "RCPT", 1, times, drop=True)
    add(script, "RCPT", 3, times, drop=True)
    add(script, "MAIL", 2, drop=True)


def test_a_fault_happens_at_its_time_and_as_often_as_it_was_told() -> None:
    script = Script()
    assert script.reach("RCPT") is None
    fault = add(script, "RCPT", 2, 2, reply="451 4.2.0 later")
    forever = add(script, "RCPT", 4, None, drop=True)
    assert [script.reach("RCPT") for _ in range(5)] == [None, fault, fault, forever, forever]
    assert (fault.hits, fault.pending, forever.hits, forever.pending) == (2, False, 2, False)
    assert fault.reply == Reject(451, "4.2.0", "later")


def test_a_fault_is_pending_until_it_has_happened_as_often_as_it_should() -> None:
    script = Script()
    fault = add(script, "MAIL", 1, 2, delay=0.5)
    assert fault.pending
    script.reach("MAIL")
    assert fault.pending
    assert repr(fault) == "<Fault at MAIL 1 to 2: delay 0.5 s; happened 1 times>"


@pytest.mark.parametrize(
    ("log", "lines"),
    [
        ([("S", b"220 hi\r\n"), ("C", b"QU"), ("C", b"IT\r\n")], ["S: 220 hi", "C: QUIT"]),
        ([("C", b"AUTH PLAIN AGEAc2VjcmV0\r\n")], ["C: AUTH PLAIN ***"]),
        ([("C", b"auth login\r\n"), ("S", b"334 VXNl\r\n"), ("C", b"QUIT\r\n")],
         ["C: auth login", "S: 334 VXNl", "C: ***"]),
        ([("C", b"AUTH LOGIN\r\nc2VjcmV0\r\nNOOP\r\n")], ["C: AUTH LOGIN", "C: ***", "C: NOOP"]),
        ([("S", b"354 go\r\n"), ("C", b"a\r\n..b\r\n.\r"), ("C", b"\nQUIT\r\n")],
         ["S: 354 go", "C: (a message of 8 octets)", "C: QUIT"]),
        ([("S", b"354 go\r\n"), ("C", b".\r\n")], ["S: 354 go", "C: (a message of 0 octets)"]),
        ([("S", b"354 go\r\n"), ("C", b"half")],
         ["S: 354 go", "C: (a message of 4 octets, without its end)"]),
        ([("C", b"RCPT TO:<\xff@x>\r\n"), ("S", b"250-a\r\n250 b\r\n")],
         ["C: RCPT TO:<\\xff@x>", "S: 250-a", "S: 250 b"]),
        ([("S", b"354 go\r\n"), HANGS_UP], ["S: 354 go", "S: (hangs up)"]),
    ],
)  # fmt: skip
def test_a_transcript_has_every_line_and_no_secret(log: list[tuple[str, bytes]], lines: list[str]) -> None:
    assert list(transcript(log)) == lines
