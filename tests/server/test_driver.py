# The driver against a runtime that is a script: how a session begins, stops and ends.

from __future__ import annotations

from asyncio import CancelledError
from typing import Any

import pytest

from server.scripted import (
    BROKEN,
    DATA,
    DOWN,
    GO_ON,
    GREETING,
    PULL,
    QUEUED,
    TIMEOUT,
    TOO_SOON,
    UNCODED_DOWN,
    Asked,
    Play,
    hook,
    waiting,
)
from smtpproto import Accept, PlainCredentials, Reject
from smtpproto.extending import AuthRequest
from smtpproto_server._driver import LINGER, LINGER_OCTETS
from smtpproto_server.adapting import Wait

PROXY = b"PROXY TCP4 198.51.100.7 192.0.2.25 999 25\r\n"
LAST_WORDS = 5.0  # seconds that the last reply may take

# --- a whole session --------------------------------------------------------------------------------


def test_a_session_from_greeting_to_quit() -> None:
    play = Play()
    session = play.driver.session
    assert play.server.sessions == (session,)
    assert play.connects == [
        {
            "id": session.id,
            "local_address": "192.0.2.25",
            "local_port": 25,
            "remote_address": "192.0.2.1",
            "remote_port": 4321,
            "host_name_appears_as": "",
            "client_hostname": "[192.0.2.1]",
        }
    ]
    assert play.say(DATA).endswith(GO_ON)
    assert play.say(b"hi\r\n.\r\n") == QUEUED
    assert play.say(b"QUIT\r\n") == b"221 2.0.0 Bye\r\n"
    play.ends()


def test_replies_of_one_input_leave_together() -> None:
    play = Play()
    sends = play.driver.sends
    sends.clear()
    play.say(b"MAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nDATA\r\nhi\r\n")
    (sent,) = sends
    assert sent.count(b"\r\n") == 3


def test_what_ends_a_group_is_sent_before_what_follows_is_read() -> None:
    play = Play()
    sends = play.driver.sends
    sends.clear()
    play.say(b"EHLO a\r\nNOOP\r\n")
    assert sends[0].startswith(b"250-")
    assert b"OK" not in sends[0]
    assert sends[1:] == [b"250 2.0.0 OK\r\n"]


def test_the_end_of_input_ends_the_session_without_a_word() -> None:
    play = Play()
    assert play.receive(b"") == b""
    play.ends()


def test_a_lost_connection_ends_the_session() -> None:
    play = Play()
    play.lose()
    play.ends()
    assert not play.errors


@pytest.mark.parametrize(
    ("said", "stage"),
    [
        (b"", None),
        (b"MAIL FROM:<a@x>\r\n", "socket"),
        (b"MAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\n", "socket"),
        (DATA, "stream"),
    ],
)
def test_an_error_of_the_socket_is_reported_where_it_costs_a_transaction(
    said: bytes, stage: str | None
) -> None:
    play = Play()
    if said:
        play.say(said)
    fault = ConnectionResetError("reset")
    play.lose(fault)
    play.ends()
    if stage is None:
        assert not play.errors
    else:
        assert play.error() == (fault, stage)


@pytest.mark.parametrize("result", [None, "text", 7, Reject()])
def test_on_close_comes_once_after_the_socket_was_closed_whatever_it_returns(result: Any) -> None:
    play = Play(on_close=hook)
    play.say(b"QUIT\r\n")
    assert "drop" in play.driver.did
    assert not play.server.sessions
    assert play.asks("on_close").args == (play.driver.session,)
    play.answer(result)
    play.ends()
    assert not play.errors


@pytest.mark.parametrize("waits", [True, False])
def test_on_close_that_fails_is_reported(waits: bool) -> None:
    async def fails(*_: object) -> None:
        if waits:
            await waiting(Asked(()))
        raise RuntimeError("x")

    play = Play(on_close=fails)
    play.lose()
    if waits:
        play.answer()
    play.ends()
    assert play.error()[1] == "hook"


def test_on_close_that_takes_too_long_is_given_up_and_reported() -> None:
    play = Play(on_close=hook, hook_timeout=3)
    play.say(b"QUIT\r\n")
    assert play.due == 3
    play.run_out()
    play.ends()
    assert play.error()[1] == "hook"


def test_a_fault_of_our_own_ends_one_session(monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play(on_close=hook)
    monkeypatch.setattr(type(play.driver), "_wait_for_client", failing)
    play.say(b"NOOP\r\n")
    play.asks("on_close")
    play.answer()
    play.ends()
    assert play.error()[1] == "socket"


def test_a_fault_of_our_own_within_a_message_ends_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play(on_data=hook)
    play.say(DATA)
    stream = play.stream()
    play.answer(PULL)
    play.say(b"hi\r\n")
    monkeypatch.setattr(type(play.driver), "_wait_for_client", failing)
    play.answer(PULL)
    assert stream.aborted == "connection_lost"
    play.ends()
    assert play.errors[0][1]["stage"] == "socket"


def failing(*_: object) -> None:
    raise ZeroDivisionError


# --- before the greeting ----------------------------------------------------------------------------


@pytest.mark.parametrize("header", [b"", PROXY])
def test_who_talks_during_the_delay_is_turned_away(header: bytes) -> None:
    play = Play(early_talker_delay=5.0, greeted=False, use_proxy=bool(header))
    if header:
        play.say(header)
    assert play.due == 5
    assert play.say(b"EHLO a\r\n") == TOO_SOON
    play.ends(lingers=True)


@pytest.mark.parametrize("header", [b"", PROXY])
def test_who_has_talked_when_the_answer_is_there_is_turned_away(header: bytes) -> None:
    play = Play(greeted=False, use_proxy=bool(header), begins=False)
    play.driver.waiting_octets = True
    play.driver.go_on()
    if header:
        play.say(header)
    assert play.sent() == b""
    assert play.driver.waits is Wait.CLIENT
    assert play.say(b"EHLO a\r\n") == TOO_SOON
    play.ends(lingers=True)


def test_the_socket_is_looked_into_once() -> None:
    play = Play(greeted=False, begins=False)
    play.driver.waiting_octets = True  # which may be no more than the end of the input, and stays so
    play.driver.go_on()
    assert play.driver.did == ["octets_wait"]
    assert play.receive(b"") == GREETING
    play.ends()


def test_early_talk_in_one_piece_with_a_proxy_header_is_noticed_without_waiting() -> None:
    play = Play(greeted=False, use_proxy=True)
    assert play.say(PROXY + b"EHLO a\r\n") == TOO_SOON


def test_the_delay_is_waited_out() -> None:
    play = Play(early_talker_delay=5, greeted=False)
    assert play.due == 5
    assert play.run_out() == GREETING


def test_a_client_that_has_ended_its_input_is_greeted_and_seen_off() -> None:
    play = Play(early_talker_delay=5, greeted=False)
    assert play.receive(b"") == GREETING
    play.ends()


def test_a_client_that_is_lost_during_the_delay_is_not_asked_for() -> None:
    play = Play(early_talker_delay=5, on_connect=hook, greeted=False)
    play.lose()
    play.ends()


def test_a_client_that_is_lost_before_the_first_step_is_not_greeted() -> None:
    play = Play(greeted=False, begins=False)
    assert play.lose() == b""
    play.ends()


@pytest.mark.parametrize("at_once", [True, False])
def test_octets_during_on_connect_turn_the_client_away(at_once: bool) -> None:
    play = Play(on_connect=hook, greeted=False)
    play.asks("on_connect")
    said = play.say(b"EHLO a\r\n")
    if not at_once:
        said += play.say(b"NOOP\r\n")
    assert said == TOO_SOON
    assert play.driver.hook is None
    play.ends(lingers=True)


@pytest.mark.parametrize(("what", "said"), [("eof", GREETING), ("lost", b""), ("stop", UNCODED_DOWN)])
def test_a_client_that_is_gone_during_on_connect(what: str, said: bytes) -> None:
    play = Play(on_connect=hook, greeted=False)
    if what == "eof":
        play.receive(b"")
    elif what == "lost":
        play.lose()
    else:
        play.stop()
    if play.driver.hook is not None:
        assert play.answer() == said
    else:
        assert what == "lost"
    play.ends(lingers=what == "stop")
    assert not play.errors


def test_names_are_looked_up_unless_that_is_off() -> None:
    play = Play(resolver=Resolver(), disable_reverse_lookup=False, greeted=False)
    assert play.asks("resolver").args == ("192.0.2.1",)
    assert play.answer(["Host.EXAMPLE", "other"]) == GREETING
    assert play.driver.session.client_hostname == "host.example"


class Resolver:
    async def reverse(self, ip: str, /) -> Any:
        return await waiting(Asked((ip,)))


@pytest.mark.parametrize(
    "result", [[], None, "name", ["a b"], ["é"], [7], OSError("no such host"), "too late"]
)
def test_a_look_up_without_a_usable_name_changes_nothing(result: Any) -> None:
    play = Play(resolver=Resolver(), disable_reverse_lookup=False, greeted=False)
    if result == "too late":
        assert play.run_out() == GREETING
    elif isinstance(result, OSError):
        assert play.answer(error=result) == GREETING
    else:
        assert play.answer(result) == GREETING
    assert play.driver.session.client_hostname == "[192.0.2.1]"
    assert not play.errors


def test_octets_during_the_look_up_end_it() -> None:
    play = Play(resolver=Resolver(), disable_reverse_lookup=False, greeted=False)
    assert play.say(b"EHLO a\r\n") == TOO_SOON
    play.ends(lingers=True)


def test_a_connection_that_is_lost_during_the_look_up_is_over() -> None:
    play = Play(resolver=Resolver(), disable_reverse_lookup=False, greeted=False, on_connect=hook)
    play.lose()
    play.ends()


def test_a_unix_socket_is_not_looked_up() -> None:
    play = Play(resolver=Resolver(), disable_reverse_lookup=False, greeted=False, begins=False)
    driver = play.server.begin(None, ("", 0), ("", 0), lambda: 0.0)
    driver.go_on()
    assert driver.wire == GREETING
    assert driver.session.client_hostname == "[local]"


# --- stop -------------------------------------------------------------------------------------------


def test_stop_in_the_proxy_header_closes_without_a_reply() -> None:
    play = Play(use_proxy=True, greeted=False)
    assert play.stop() == b""
    play.ends()


@pytest.mark.parametrize("now", [False, True])
@pytest.mark.parametrize("secure", [True, False])
def test_stop_in_a_handshake_closes_without_a_reply(secure: bool, now: bool) -> None:
    play = Play(secure=secure, greeted=not secure)
    if not secure:
        play.say(b"STARTTLS\r\n")
    assert play.stop(now=now) == b""
    play.ends()
    assert not play.errors


@pytest.mark.parametrize("options", [{"early_talker_delay": 9}, {"resolver": Resolver()}])
def test_stop_in_the_delay_and_in_the_look_up_is_a_421(options: dict[str, Any]) -> None:
    play = Play(greeted=False, disable_reverse_lookup="resolver" not in options, **options)
    assert play.stop() == UNCODED_DOWN
    play.ends(lingers=True)


def test_stop_before_the_first_step_is_a_421_in_place_of_the_greeting() -> None:
    play = Play(greeted=False, begins=False, on_connect=hook)
    said = play.stop()
    if play.driver.hook is not None:
        said = play.answer()
    assert said == UNCODED_DOWN
    play.ends(lingers=True)


@pytest.mark.parametrize("now", [False, True])
def test_stop_in_on_connect_is_a_421_in_place_of_the_greeting(now: bool) -> None:
    play = Play(on_connect=hook, greeted=False)
    said = play.stop(now=now)
    assert (said + (b"" if now else play.answer())) == UNCODED_DOWN
    play.ends(lingers=True)


@pytest.mark.parametrize("now", [False, True])
def test_stop_between_commands_is_a_421(now: bool) -> None:
    play = Play()
    assert play.stop(now=now) == DOWN
    play.ends(lingers=True)


def test_stop_within_a_hook_waits_for_its_reply() -> None:
    play = Play(on_vrfy=hook)
    play.say(b"VRFY x\r\n")
    assert play.stop() == b""
    assert play.answer() == b"252 2.1.5 Try to send something. No promises though\r\n" + DOWN
    play.ends(lingers=True)


def test_stop_now_within_a_hook_drops_its_answer() -> None:
    play = Play(on_mail_from=hook)
    play.say(b"MAIL FROM:<a@x>\r\n")
    assert play.stop(now=True) == DOWN
    play.ends(lingers=True)


@pytest.mark.parametrize("on_data", [hook, None])
def test_stop_lets_a_transaction_end(on_data: Any) -> None:
    play = Play(on_data=on_data)
    play.say(b"MAIL FROM:<a@x>\r\n")
    assert play.stop() == b""
    assert play.say(b"RCPT TO:<b@y>\r\n") == b"250 2.1.5 Accepted\r\n"
    play.say(b"DATA\r\n")
    if on_data:
        play.answer(PULL)
    said = play.say(b"hi\r\n.\r\n")
    if on_data:
        said = play.answer()
    assert said == QUEUED + DOWN
    play.ends(lingers=True)


def test_stop_lets_a_message_end_that_is_coming_in() -> None:
    play = Play(on_data=hook)
    play.say(DATA)
    play.answer(PULL)
    play.stop()
    play.say(b"hi\r\n.\r\n")
    assert play.asks("on_data").pieces == [b"hi\r\n"]
    assert play.answer() == QUEUED + DOWN


def test_stop_now_while_on_data_works_drops_its_answer() -> None:
    play = Play(on_data=hook)
    play.say(DATA)
    stream = play.stream()
    play.answer(PULL)
    play.say(b".\r\n")
    assert play.stop(now=True) == DOWN
    assert stream.aborted == "shutdown"
    play.ends(lingers=True)


def test_stop_ends_a_transaction_that_is_given_up() -> None:
    play = Play()
    play.say(b"MAIL FROM:<a@x>\r\n")
    play.stop()
    assert play.say(b"RSET\r\n") == b"250 2.0.0 Flushed\r\n" + DOWN


def test_stop_now_ends_a_transaction() -> None:
    play = Play()
    play.say(b"MAIL FROM:<a@x>\r\n")
    assert play.stop(now=True) == DOWN


def test_stop_while_a_reply_is_not_taken_waits_for_it() -> None:
    play = Play()
    play.driver.takes = False
    assert play.say(b"NOOP\r\n") == b"250 2.0.0 OK\r\n"
    assert play.stop() == b""
    assert play.room() == DOWN
    assert "end_output" not in play.driver.did
    play.room()
    play.ends(lingers=True)


def test_stop_now_while_a_reply_is_not_taken_does_not_wait() -> None:
    play = Play()
    play.driver.takes = False
    play.say(b"NOOP\r\n")
    assert play.stop(now=True) == DOWN
    assert play.due == LAST_WORDS
    play.run_out()
    play.ends()


def test_stop_now_goes_before_stop() -> None:
    play = Play()
    play.say(b"MAIL FROM:<a@x>\r\n")
    play.driver.stop(now=True)
    assert play.stop() == DOWN


@pytest.mark.parametrize("where", ["idle", "hook", "message", "on_close", "end"])
def test_abort_ends_a_connection_wherever_it_is(where: str) -> None:
    hooks: dict[str, dict[str, Any]] = {
        "hook": {"on_mail_from": hook},
        "message": {"on_data": hook},
        "on_close": {"on_close": hook},
    }
    play = Play(**hooks.get(where, {}))
    if where in ("hook", "message"):
        play.say(DATA)
    if where in ("on_close", "end"):
        play.say(b"QUIT\r\n" if where == "on_close" else b"")
    if where == "end":
        play.stop()
    play.abort()
    play.ends()


# --- the end ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [True, False])
def test_a_last_reply_that_is_not_taken_does_not_keep_the_connection(lost: bool) -> None:
    play = Play()
    play.driver.takes = False
    assert play.run_out() == TIMEOUT
    assert play.due == 60 + LAST_WORDS
    play.stop()
    assert play.due == 60 + LAST_WORDS
    if lost:
        play.lose()
    else:
        play.run_out()
    play.ends()


def test_a_client_that_still_sends_may_read_our_last_reply() -> None:
    play = Play()
    play.run_out()
    assert play.due == 60 + LINGER
    play.receive(b"x" * 1000)
    play.stop()
    assert play.due == 60 + LINGER
    play.run_out()
    play.ends()


def test_a_client_that_never_stops_sending_is_not_listened_to_for_ever() -> None:
    play = Play()
    play.run_out()
    for _ in range(LINGER_OCTETS // 65536):
        assert "drop" not in play.driver.did
        play.receive(bytes(65536))
    play.ends()


def test_after_quit_nobody_lingers_and_tls_is_ended_politely() -> None:
    play = Play()
    play.say(b"STARTTLS\r\n")
    play.tls()
    play.say(b"NOOP\r\n")
    assert play.say(b"QUIT\r\n") == b"221 2.0.0 Bye\r\n"
    assert play.client is not None
    assert play.client.tls.read(1) == b""  # close_notify
    play.ends()


def test_one_client_more_than_the_limit_is_told_and_counted_apart() -> None:
    play = Play(max_clients=1)
    driver = play.server.begin(None, ("192.0.2.25", 25), ("192.0.2.2", 1), lambda: 0.0)
    assert driver.refused
    assert play.server.counts[True] == 1
    driver.go_on()
    assert driver.wire == b"421 mx.test Too many connected clients, try again in a moment\r\n"
    driver.received(b"")
    assert "finished" in driver.did
    assert play.server.counts[True] == 0
    assert play.server.counts[False] == 1


class Broken:
    """A mechanism that raises where it is told to."""

    def __init__(self, place: str, error: BaseException) -> None:
        self.place: str = place
        self.error: BaseException = error

    @property
    def server_first(self) -> bool:
        self.fail("server_first")
        return False

    def step(self, _response: bytes | None) -> AuthRequest:
        self.fail("step")
        return AuthRequest(PlainCredentials("", "u", "p"))

    def refused(self, _refusal: object) -> None:
        self.fail("refused")

    @property
    def refusal_text(self) -> str:
        self.fail("refusal_text")
        return "no"

    def fail(self, place: str) -> None:
        if place == self.place:
            raise self.error


@pytest.mark.parametrize("error", [KeyError("x"), SystemExit(1), GeneratorExit(), CancelledError()], ids=repr)
@pytest.mark.parametrize("place", ["factory", "server_first", "step", "refused", "refusal_text"])
def test_a_mechanism_that_raises_is_an_error_of_the_application_and_the_session_goes_on(
    place: str, error: BaseException
) -> None:
    def make(_session: object) -> Broken:
        mechanism = Broken(place, error)
        mechanism.fail("factory")
        return mechanism

    async def on_auth(*_: object) -> Accept:
        return Accept()  # without a user: refused

    mechanisms: dict[str, Any] = {"X-BROKEN": make}
    play = Play(
        on_auth=on_auth, sasl_mechanisms=mechanisms, auth_methods=["X-BROKEN"], allow_insecure_auth=True
    )
    assert play.say(b"AUTH X-BROKEN AAAA\r\n" * 2 + b"NOOP\r\n") == BROKEN * 2 + b"250 2.0.0 OK\r\n"
    assert [(found, info["stage"]) for found, info in play.errors] == [(error, "hook")] * 2


def test_a_keyboard_interrupt_in_a_mechanism_is_passed_on() -> None:
    def make(_session: object) -> Broken:
        return Broken("step", KeyboardInterrupt())

    mechanisms: dict[str, Any] = {"X-BROKEN": make}
    play = Play(sasl_mechanisms=mechanisms, auth_methods=["X-BROKEN"], allow_insecure_auth=True)
    with pytest.raises(KeyboardInterrupt):
        play.say(b"AUTH X-BROKEN AAAA\r\n")
