# The time limits of a connection, with a clock that the test moves.

from __future__ import annotations

from typing import Any

import pytest

from server.scripted import (
    BROKEN,
    DATA,
    GREETING,
    PULL,
    QUEUED,
    TIMEOUT,
    UNCODED_TIMEOUT,
    Asked,
    Play,
    TlsClient,
    hook,
    waiting,
)

PROXY = b"PROXY TCP4 198.51.100.7 192.0.2.25 999 25\r\n"
LAST_WORDS = 5


class Resolver:
    async def reverse(self, ip: str, /) -> Any:
        return await waiting(Asked((ip,)))


def test_socket_timeout_is_restarted_by_every_octet() -> None:
    play = Play(command_timeout=None)
    assert play.due == 60
    play.say(b"N", after=50)
    assert play.due == 110
    play.say(b"OOP\r\n", after=59)
    assert play.due == 169
    assert play.run_out() == TIMEOUT
    play.ends(lingers=True)


def test_no_time_runs_without_limits() -> None:
    off: dict[str, Any] = dict.fromkeys(
        (
            "socket_timeout",
            "command_timeout",
            "data_timeout",
            "min_data_rate",
            "session_timeout",
            "greeting_timeout",
        )
    )
    play = Play(**off)
    assert play.due is None
    play.say(b"MAIL", after=1e6)
    assert play.due is None
    play.tick(1e6)  # an alarm that comes for nothing
    assert play.due is None
    play.say(DATA[4:])
    assert play.due is None
    play.say(b"x", after=1e6)
    assert play.say(b"\r\n.\r\n", after=1e6) == QUEUED


def test_an_alarm_that_comes_early_changes_nothing_and_is_set_again() -> None:
    play = Play(command_timeout=100)
    for _ in range(3):
        play.now += 15
        play.driver.ring()
        assert play.sent() == b""
        assert play.due == 60
    play.say(b"N", after=10)
    assert play.due == 115
    assert play.tick(55) == b""
    assert play.due == 115
    assert play.run_out() == TIMEOUT


@pytest.mark.parametrize("limit", [60.0, None])
def test_a_reply_that_is_not_taken_runs_into_socket_timeout(limit: float | None) -> None:
    play = Play(socket_timeout=limit, command_timeout=None)
    play.driver.takes = False
    play.say(b"NOOP\r\n")
    assert play.due == limit
    if limit is not None:
        assert play.run_out() == TIMEOUT
        assert play.due == limit + LAST_WORDS
        play.run_out()
        play.ends()


def test_command_timeout_runs_from_the_first_octet_of_a_line_to_its_end() -> None:
    play = Play(command_timeout=100)
    play.say(b"N", after=30)
    assert play.due == 90
    play.say(b"O", after=50)
    assert play.due == 130
    play.say(b"OP\r\nRS", after=49)
    assert play.due == 189
    play.say(b"E", after=59)
    assert play.due == 229
    assert play.run_out() == TIMEOUT
    play.ends(lingers=True)


def test_command_timeout_runs_for_lines_of_auth() -> None:
    play = Play(command_timeout=100, allow_insecure_auth=True)
    assert play.say(b"AUTH LOGIN\r\n").startswith(b"334 ")
    play.say(b"A", after=50)
    play.say(b"A", after=50)
    assert play.due == 150


@pytest.mark.parametrize("delay", [40, 30])
def test_greeting_timeout_ends_the_delay(delay: float) -> None:
    play = Play(early_talker_delay=delay, greeted=False, greeting_timeout=20)
    assert play.due == 20
    assert play.run_out() == UNCODED_TIMEOUT
    play.ends(lingers=True)


@pytest.mark.parametrize(
    ("lookup", "greeting", "seconds", "ends"),
    [
        (1.5, 30, 1.5, False),
        (40, 30, 30, True),
        (None, 30, 30, True),
        (None, None, None, False),
        (9, None, 9, False),
    ],
)
def test_greeting_timeout_ends_the_look_up(
    lookup: float | None, greeting: float | None, seconds: float | None, ends: bool
) -> None:
    play = Play(
        resolver=Resolver(),
        disable_reverse_lookup=False,
        reverse_lookup_timeout=lookup,
        greeting_timeout=greeting,
        greeted=False,
    )
    play.asks("resolver")
    assert play.due == seconds
    if ends:
        assert play.run_out() == UNCODED_TIMEOUT
        play.ends(lingers=True)
    elif seconds is not None:
        assert play.run_out() == GREETING
        assert play.driver.session.client_hostname == "[192.0.2.1]"


def test_greeting_timeout_does_not_run_while_a_hook_works() -> None:
    play = Play(on_connect=hook, greeting_timeout=20, greeted=False)
    play.asks("on_connect")
    assert play.due is None
    play.now += 1000
    assert play.answer() == GREETING


def test_proxy_timeout_runs_to_the_end_of_the_header_and_says_nothing() -> None:
    play = Play(use_proxy=True, greeted=False)
    assert play.due == 5
    play.say(b"PRO", after=4)
    assert play.due == 5
    assert play.run_out() == b""
    play.ends()
    assert not play.connects


def test_proxy_timeout_ends_with_the_header() -> None:
    play = Play(use_proxy=True, greeted=False)
    assert play.say(PROXY, after=4) == GREETING
    assert play.due == 64
    assert play.connects[0]["remote_address"] == "198.51.100.7"


@pytest.mark.parametrize("limits", [{"proxy_timeout": None}, {"proxy_timeout": 100.0}])
def test_session_timeout_does_not_act_before_a_command_is_awaited(limits: dict[str, Any]) -> None:
    play = Play(use_proxy=True, session_timeout=10, socket_timeout=50, greeted=False, **limits)
    assert play.due == 50
    assert play.say(PROXY, after=20) == GREETING + TIMEOUT
    play.ends(lingers=True)


@pytest.mark.parametrize("said", [b"", b"STARTTLS\r\n"], ids=["implicit", "STARTTLS"])
def test_tls_handshake_timeout_closes_without_a_reply(said: bytes) -> None:
    play = Play(secure=not said, greeted=bool(said), session_timeout=10)
    if said:
        assert play.say(said) == b"220 2.0.0 Ready to start TLS\r\n"
    assert play.due == 30
    play.receive(TlsClient().shake(b"")[:100], after=10)
    assert play.due == 30
    assert play.run_out() == b""
    play.ends()
    error, stage = play.error()
    assert (type(error), stage) == (TimeoutError, "tls")


def test_data_timeout_leaves_out_what_the_hook_takes() -> None:
    play = Play(on_data=hook, data_timeout=100, socket_timeout=70, min_data_rate=None)
    play.say(DATA)
    play.tick(500)
    play.answer(PULL)
    assert play.due == 570
    play.say(b"x", after=60)
    assert play.asks("on_data").pieces == [b"x"]
    play.tick(1000)
    play.answer(PULL)
    assert play.due == 1600
    assert play.run_out() == TIMEOUT  # the hook was raised StreamAborted("timeout")
    assert play.driver.hook is None
    play.ends(lingers=True)
    assert not play.errors


def test_data_timeout_runs_while_a_message_is_drained() -> None:
    play = Play(data_timeout=100, socket_timeout=70, min_data_rate=None)
    play.say(DATA)
    play.say(b"x", after=60)
    assert play.due == 100
    assert play.run_out() == TIMEOUT
    play.ends(lingers=True)


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(("limit", "window"), [(20.0, 20), (None, 60)])
def test_min_data_rate_is_judged_in_every_full_window(limit: float | None, window: int, tls: bool) -> None:
    play = Play(on_data=hook, min_data_rate=10, socket_timeout=limit)
    if tls:
        play.say(b"STARTTLS\r\n")
        play.tls()
        play.say(b"EHLO a\r\n")
    play.say(DATA)
    stream = play.stream()
    for _ in range(3):
        play.tick(1000)  # the hook's own time
        play.answer(PULL)
        assert play.due == play.now - 1000 + window
        play.say(b"x" * 10 * window, after=window / 2)
        play.tick(1000)
        play.answer(PULL)
        assert play.due == play.now - 1000 + window / 2
        assert play.run_out() == b""
        play.say(b"x")
    play.answer(PULL)
    play.say(b"x" * (10 * window - 2), after=window - 1)
    play.answer(PULL)
    assert play.run_out() == TIMEOUT
    assert stream.aborted == "timeout"


def test_min_data_rate_counts_octets_of_the_message_and_not_those_of_tls() -> None:
    """Each octet alone comes in a record of more than twenty, which would be fast enough."""
    play = Play(min_data_rate=1, socket_timeout=20)
    play.say(b"STARTTLS\r\n")
    play.tls()
    play.say(b"EHLO a\r\n" + DATA)
    said = b"".join(play.say(b"x", after=2.5) for _ in range(8))
    assert said == TIMEOUT
    play.ends(lingers=True)


def test_a_slow_window_ends_the_session_also_when_octets_end_it() -> None:
    play = Play(min_data_rate=10, socket_timeout=20)
    play.say(DATA)
    play.say(b"x", after=15)
    assert play.say(b"x" * 100, after=5) == TIMEOUT


def test_session_timeout_acts_where_a_command_is_awaited() -> None:
    play = Play(session_timeout=100)
    assert play.due == 60
    play.say(b"NOOP\r\n", after=50)
    assert play.due == 100
    assert play.run_out() == TIMEOUT
    play.ends(lingers=True)


def test_session_timeout_lets_a_message_through() -> None:
    play = Play(session_timeout=100, socket_timeout=1000, min_data_rate=None)
    play.say(DATA, after=99)
    assert play.due == 1099
    assert play.say(b"hi\r\n.\r\n", after=500) == QUEUED + TIMEOUT
    play.ends(lingers=True)


def test_session_timeout_acts_on_a_client_that_never_lets_us_wait() -> None:
    play = Play(session_timeout=100)
    for _ in range(9):
        assert play.say(b"NOOP\r\n", after=10) == b"250 2.0.0 OK\r\n"
    assert play.say(b"NOOP\r\n", after=10) == b"250 2.0.0 OK\r\n" + TIMEOUT


def test_hook_timeout_is_answered_with_451() -> None:
    play = Play(on_mail_from=hook, hook_timeout=7)
    play.say(b"MAIL FROM:<a@x>\r\n")
    assert play.due == 7
    assert play.run_out() == BROKEN
    error, stage = play.error()
    assert (type(error), stage) == (TimeoutError, "hook")
    assert play.say(b"NOOP\r\n") == b"250 2.0.0 OK\r\n"


@pytest.mark.parametrize("name", ["on_connect", "on_secure"])
def test_hook_timeout_before_the_greeting_closes(name: str) -> None:
    hooks: dict[str, Any] = {name: hook}
    play = Play(hook_timeout=7, secure=name == "on_secure", greeted=False, **hooks)
    if name == "on_secure":
        play.tls()
    play.asks(name)
    assert play.run_out() == b"421 Error: internal error, please try again later\r\n"


def test_hook_timeout_of_on_data_drains_the_message_first() -> None:
    play = Play(on_data=hook, hook_timeout=7)
    play.say(DATA)
    stream = play.stream()
    assert play.run_out() == b""
    assert stream.aborted == "timeout"
    assert play.say(b"hi\r\n.\r\nNOOP\r\n") == BROKEN + b"250 2.0.0 OK\r\n"


def test_hook_timeout_leaves_out_the_wait_for_the_client() -> None:
    play = Play(on_data=hook, hook_timeout=7)
    play.say(DATA)
    play.tick(5)
    play.answer(PULL)
    assert play.due == 65  # of the client's socket_timeout
    play.say(b"hi\r\n", after=50)
    play.asks("on_data")
    assert play.due == 57
    play.run_out()
    assert play.say(b".\r\n") == BROKEN


def test_a_hook_that_does_not_end_when_it_is_given_up_is_waited_for_and_counts_no_more() -> None:
    cancelled: list[BaseException] = []

    async def stubborn(*args: Any) -> None:
        try:
            await hook(*args)
        except BaseException as error:  # noqa: BLE001 - what it must not do
            cancelled.append(error)
        await hook(*args)

    play = Play(on_mail_from=stubborn, hook_timeout=7)
    play.say(b"MAIL FROM:<a@x>\r\n")
    assert play.run_out() == b""
    assert len(cancelled) == 1
    assert play.tick(1000) == b""
    assert play.answer() == BROKEN
    assert len(play.errors) == 1
