# A connection's octets: TLS, what the client does not take, and what is not read for the time being.

from __future__ import annotations

import ssl
from typing import Any

import pytest

from server.scripted import (
    DATA,
    DOWN,
    GREETING,
    PULL,
    QUEUED,
    TOO_SOON,
    UNCODED_TIMEOUT,
    Play,
    TlsClient,
    hook,
)
from smtpproto import Reject
from smtpproto_server.adapting import Wait

PROXY = b"PROXY TCP4 198.51.100.7 192.0.2.25 999 25\r\n"
NOOP = b"250 2.0.0 OK\r\n"


def secured(**options: Any) -> Play:
    """A session after STARTTLS and EHLO."""
    play = Play(**options)
    assert play.say(b"STARTTLS\r\n") == b"220 2.0.0 Ready to start TLS\r\n"
    play.tls()
    assert play.say(b"EHLO a\r\n").startswith(b"250-")
    return play


# --- TLS --------------------------------------------------------------------------------------------


def test_implicit_tls_comes_before_everything() -> None:
    play = Play(secure=True, greeted=False)
    assert play.tls() == GREETING
    assert play.say(b"QUIT\r\n") == b"221 2.0.0 Bye\r\n"
    play.ends()
    session = play.driver.session
    assert session.secure
    assert session.servername == "mx.test"


def test_a_hello_in_one_piece_with_the_proxy_header_is_used() -> None:
    play = Play(secure=True, use_proxy=True, greeted=False)
    client = TlsClient()
    play.driver.received(PROXY + client.shake(b""))
    octets = client.shake(play.driver.wire)
    play.driver.wire, play.client = b"", client
    assert play.receive(octets) == GREETING


def test_starttls_upgrades_and_asks_on_secure_before_any_command() -> None:
    play = Play(on_secure=hook)
    assert play.say(b"STARTTLS\r\n") == b"220 2.0.0 Ready to start TLS\r\n"
    play.tls()
    play.asks("on_secure")
    assert play.say(b"NOOP\r\n") == b""
    assert play.answer() == NOOP
    assert play.say(b"MAIL FROM:<a@x>\r\n") == b"503 5.5.1 Error: send HELO/EHLO first\r\n"


def test_on_secure_refuses_over_tls() -> None:
    play = Play(on_secure=hook)
    play.say(b"STARTTLS\r\n")
    play.tls()
    assert play.answer(Reject()) == b"554 5.7.1 Transaction failed\r\n"
    play.ends(lingers=True)


@pytest.mark.parametrize("name", ["", "on_connect", "on_secure"])
@pytest.mark.parametrize("delay", [0.0, 5.0])
def test_early_talk_in_one_piece_with_the_end_of_the_handshake_is_noticed(delay: float, name: str) -> None:
    hooks: dict[str, Any] = {name: hook} if name else {}
    play = Play(secure=True, greeted=False, early_talker_delay=delay, **hooks)
    play.client = client = TlsClient()
    play.driver.received(client.shake(b""))
    octets = client.shake(play.driver.wire)
    play.driver.wire = b""
    said = play.receive(octets + client.write(b"EHLO a\r\n"))
    if play.driver.hook is not None:
        said += play.answer()
    assert said == TOO_SOON


def test_early_talk_in_a_record_that_comes_in_pieces_is_noticed() -> None:
    play = Play(secure=True, greeted=False, on_connect=hook)
    play.tls()
    play.asks("on_connect")
    assert play.client is not None
    record = play.client.write(b"EHLO a\r\n")
    assert play.receive(record[:9]) == b""
    assert play.receive(record[9:]) == TOO_SOON
    assert not play.errors


def test_a_record_that_never_ends_runs_into_greeting_timeout() -> None:
    play = Play(secure=True, greeted=False)
    play.client = client = TlsClient()
    play.driver.received(client.shake(b""))
    octets = client.shake(play.driver.wire)
    play.driver.wire, play.driver.waiting_octets = b"", True  # a record that has begun
    assert play.receive(octets) == b""
    assert play.driver.waits is Wait.CLIENT
    assert play.receive(client.write(b"EHLO a\r\n")[:9]) == b""
    assert play.due == 30
    assert play.run_out() == UNCODED_TIMEOUT
    play.ends(lingers=True)


def test_a_client_that_says_goodbye_during_on_connect_is_gone() -> None:
    play = Play(secure=True, greeted=False, on_connect=hook)
    play.tls()
    assert play.client is not None
    play.receive(play.client.close())
    play.ends()
    assert not play.errors


def test_plaintext_in_place_of_a_handshake_closes_without_a_reply() -> None:
    play = Play()
    play.say(b"STARTTLS\r\n")
    assert b"SMTP" not in play.receive(b"EHLO a\r\n")
    play.ends()
    assert play.error()[1] == "tls"


@pytest.mark.parametrize("lost", [True, False])
@pytest.mark.parametrize("secure", [True, False])
def test_a_client_that_goes_away_in_the_handshake_is_an_error(lost: bool, secure: bool) -> None:
    play = Play(secure=secure, greeted=not secure)
    if not secure:
        play.say(b"STARTTLS\r\n")
    play.receive(TlsClient().shake(b""))
    assert (play.lose() if lost else play.receive(b"")) == b""
    play.ends()
    assert play.error()[1] == "tls"


def test_a_handshake_that_the_client_does_not_take_is_an_error() -> None:
    play = Play(secure=True, greeted=False)
    play.driver.takes = False
    play.receive(TlsClient().shake(b""))
    assert play.driver.full
    play.lose()
    play.ends()
    assert play.error()[1] == "tls"


def test_a_220_that_the_client_does_not_take_is_followed_by_the_end() -> None:
    play = Play()
    play.driver.takes = False
    play.say(b"STARTTLS\r\n")
    play.lose()
    play.ends()


def test_a_broken_record_is_a_lost_connection() -> None:
    play = secured()
    play.say(b"MAIL FROM:<a@x>\r\n")
    with pytest.raises(ssl.SSLError, match="bad record"):  # the alert is sent
        play.receive(b"\x17\x03\x03\x00\x20" + bytes(32))
    error, stage = play.error()
    assert isinstance(error, ssl.SSLError)
    assert stage == "socket"
    play.ends()


@pytest.mark.parametrize("polite", [True, False])
def test_the_end_of_tls_within_a_message_is_a_lost_connection(polite: bool) -> None:
    play = secured(on_data=hook)
    play.say(DATA)
    assert play.client is not None
    stream = play.stream()
    play.answer(PULL)
    play.say(b"hi\r\n")
    play.answer(PULL)
    play.receive(play.client.close() if polite else b"")
    assert stream.aborted == "connection_lost"
    play.ends()


def test_a_large_message_in_one_read_is_decrypted_in_pieces() -> None:
    play = secured(on_data=hook)
    play.say(DATA)
    asked = play.asks("on_data")
    message = b"x" * 70 + b"\r\n"
    play.answer(PULL)
    play.say(message * 4000 + b".\r\n")
    while asked.pieces[-1]:
        assert len(asked.pieces) < 100
        play.answer(PULL)
    assert b"".join(asked.pieces) == message * 4000
    assert play.answer() == QUEUED


@pytest.mark.parametrize("waits", [True, False])
def test_octets_that_came_before_the_end_of_tls_are_used(waits: bool) -> None:
    play = secured(**({"on_helo": hook} if waits else {})) if not waits else Play(on_helo=hook)
    if waits:
        play.answer()
        play.say(b"STARTTLS\r\n")
        play.tls()
        play.say(b"EHLO a\r\n")
    assert play.client is not None
    play.driver.received(play.client.write(b"NOOP\r\n" * 20_000))
    play.driver.received(b"")
    said = play.settle()
    if waits:
        said = play.answer()
    assert said.count(b"250 2.0.0 OK") == 20_000
    play.ends()


def test_secure_session_stops_over_tls() -> None:
    play = secured()
    assert play.stop() == DOWN
    play.ends(lingers=True)


# --- what the client does not take --------------------------------------------------------------------


def test_while_the_client_takes_no_replies_nothing_is_answered_and_reading_stops() -> None:
    play = Play()
    play.driver.takes = False
    said = play.say(b"NOOP\r\n")
    assert play.driver.waits is Wait.ROOM
    for _ in range(100):
        assert play.say(b"NOOP\r\n" * 1000) == b""
        if play.driver.held:
            break
    assert play.driver.did == ["octets_wait", "hold"]
    play.driver.takes = True
    said += play.room()
    assert said == NOOP * said.count(b"\r\n")
    assert said.count(b"\r\n") > 10_000
    assert play.driver.did[-1] == "read_on"
    assert play.say(b"NOOP\r\n") == NOOP


def test_octets_that_wait_are_bounded_whatever_comes() -> None:
    play = Play(on_vrfy=hook)
    play.say(b"VRFY x\r\n")
    sent = 0
    while not play.driver.held:
        play.say(b"NOOP\r\n" * 500)
        sent += 500
        assert sent < 40_000
    assert len(play.driver.buffer) < 256 * 1024
    assert play.answer().count(NOOP) == sent
    assert not play.driver.held


def test_ciphertext_that_waits_is_bounded_whatever_comes() -> None:
    play = secured(on_vrfy=hook)
    play.say(b"VRFY x\r\n")
    sent = 0
    while not play.driver.held:
        play.say(b"NOOP\r\n" * 500)
        sent += 500
        assert sent < 40_000
    assert play.answer().count(NOOP) == sent
    assert not play.driver.held


def test_room_that_comes_while_a_hook_works_is_seen_when_it_has_ended() -> None:
    play = Play(on_mail_from=hook)
    play.driver.takes = False
    assert play.say(b"NOOP\r\nMAIL FROM:<a@x>\r\n") == NOOP
    while play.driver.hook is None:
        play.driver.takes = True
        play.room()
        play.driver.takes = False
    play.driver.full = True
    assert play.answer() == b""
    play.driver.takes = True
    assert play.room() == b"250 2.1.0 Accepted\r\n"


def test_a_client_that_takes_the_end_late_is_waited_for() -> None:
    play = Play()
    play.driver.takes = False
    assert play.stop() == DOWN
    assert "end_output" not in play.driver.did
    play.room()
    play.ends(lingers=True)
