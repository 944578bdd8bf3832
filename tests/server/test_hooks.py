# What a hook's return value is read as, place by place.

from __future__ import annotations

import functools
from typing import Any

import pytest

from smtpproto import ACCEPT, Accept, Challenge, PlainCredentials, Reject
from smtpproto_server._hooks import HookError, alone, failure, read_result, read_results
from smtpproto_server.adapting import is_coroutine_function

LOGIN = PlainCredentials("ann", "", "secret")
PLACES = ["on_connect", "on_secure", "on_mail_from", "on_rcpt_to", "on_helo", "on_vrfy", "on_data", "on_auth"]


@pytest.mark.parametrize("place", [*PLACES, "on_command"])
@pytest.mark.parametrize("decision", [Accept(250), Accept(user="u"), Reject(550)])
def test_a_decision_is_itself_everywhere(place: str, decision: Accept | Reject) -> None:
    assert read_result(place, decision, LOGIN) is decision


@pytest.mark.parametrize("place", PLACES)
def test_none_accepts_except_that_nobody_logs_in_by_it(place: str) -> None:
    assert read_result(place, None, LOGIN) == ACCEPT
    assert read_result("on_auth", None, LOGIN) == Accept(user=None)


def test_a_command_that_on_command_does_not_know_stays_unknown() -> None:
    assert read_result("on_command", None) is None


@pytest.mark.parametrize(
    ("value", "user"),
    [
        (True, "ann"),
        ("bob", "bob"),
        (7, 7),
        (False, None),
        ("", None),
        (0, None),
        ({"name": "x"}, {"name": "x"}),
    ],
)
def test_what_on_auth_returns_is_the_user(value: object, user: object) -> None:
    assert read_result("on_auth", value, LOGIN) == Accept(user=user)


def test_true_without_credentials_is_a_user_like_any_other() -> None:
    value = True
    assert read_result("on_auth", value) == Accept(user=True)


def test_a_text_of_on_data_is_the_text_of_its_reply() -> None:
    assert read_result("on_data", "stored") == Accept(text="stored")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        *((place, value) for place in (*PLACES[:-2], "on_command") for value in ("text", 1, True, [None])),
        *(("on_data", value) for value in (1, True, b"text", [None])),
        *((place, Challenge(b"")) for place in PLACES[:-1]),
    ],
)
def test_what_has_no_reading_is_the_hook_s_error(place: str, value: object) -> None:
    with pytest.raises(HookError, match=place):
        read_result(place, value, LOGIN)


@pytest.mark.parametrize("place", [*PLACES, "on_command"])
def test_what_was_not_awaited_decides_nothing_and_lets_nobody_in(place: str) -> None:
    async def check() -> bool:
        return False

    forgotten = check()
    with pytest.raises(
        HookError,
        match=rf"^{place} returned coroutine, which must be awaited: is there an `await` missing\?$",
    ):
        read_result(place, forgotten, LOGIN)
    forgotten.close()


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("on_rcpt_to", True, "on_rcpt_to returned bool; it may return None, Accept or Reject"),
        (
            "on_data",
            b"",
            "on_data returned bytes; it may return None, a text, Accept or Reject, in LMTP a list of these",
        ),
        (
            "on_auth",
            Reject,
            "on_auth returned type; it may return None, Accept, Reject, Challenge, True or a user",
        ),
    ],
)
def test_the_error_says_what_the_hook_may_return(place: str, value: object, said: str) -> None:
    with pytest.raises(HookError, match=f"^{said}$"):
        read_result(place, value, LOGIN)


@pytest.mark.parametrize("place", PLACES)
def test_a_hook_that_failed_is_451_and_421_before_the_session(place: str) -> None:
    assert failure(place).code == (421 if place in ("on_connect", "on_secure") else 451)
    assert failure(place).text == "Error: internal error, please try again later"


@pytest.mark.parametrize(
    ("values", "codes", "wrong"),
    [
        ([None, "text", Reject(550)], [None, None, 550], ""),
        ((Accept(250), None, None), [250, None, None], ""),
        ([None], [None, 451, 451], "on_data returned 1 results for 3 recipients"),
        ([], [451, 451, 451], "on_data returned 0 results for 3 recipients"),
        ([None] * 4, [None] * 3, "on_data returned 4 results for 3 recipients"),
    ],
)
def test_a_list_gives_each_recipient_its_decision(values: Any, codes: list[int | None], wrong: str) -> None:
    decisions, fault = read_results(values, 3)
    assert [decision.code for decision in decisions] == codes
    assert fault == wrong


@pytest.mark.parametrize("value", [1, [None], Challenge(b"")])
def test_a_list_with_nonsense_in_it_is_the_hook_s_error(value: object) -> None:
    with pytest.raises(HookError):
        read_results([None, value], 2)


NO = Reject(550)
LOOKUP = KeyError()


@pytest.mark.parametrize(
    ("raised", "found"),
    [
        (NO, NO),
        (ExceptionGroup("x", [NO]), NO),
        (BaseExceptionGroup("x", [ExceptionGroup("y", [NO])]), NO),
        (ExceptionGroup("x", [NO, NO]), None),
        (ExceptionGroup("x", [NO, KeyError()]), None),
        (ExceptionGroup("x", [LOOKUP]), LOOKUP),
        (LOOKUP, LOOKUP),
    ],
)
def test_a_group_that_holds_one_exception_and_nothing_else_is_that_exception(
    raised: BaseException, found: BaseException | None
) -> None:
    assert alone(raised) is (found or raised)


async def coroutine_hook(*_: object) -> None: ...


def plain_hook(*_: object) -> None: ...


class Callable:
    async def __call__(self) -> None: ...

    async def method(self) -> None: ...


@pytest.mark.parametrize(
    ("hook", "expected"),
    [
        (coroutine_hook, True),
        (plain_hook, False),
        (functools.partial(coroutine_hook, 1), True),
        (functools.partial(functools.partial(coroutine_hook, 1), 2), True),
        (functools.partial(plain_hook, 1), False),
        (Callable(), True),
        (Callable().method, True),
        (Callable, False),
        (print, False),
    ],
)
def test_coroutine_functions_are_told_from_plain_ones(hook: Any, expected: bool) -> None:
    assert is_coroutine_function(hook) is expected
