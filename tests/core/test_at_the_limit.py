# What stands exactly at a limit, and one octet beyond it; what is written exactly as it is.

from __future__ import annotations

import math
from typing import Any

import pytest

from smtpproto import ACCEPT, Accept, Challenge, Reject, Session, TlsDetails, TlsOptions
from smtpproto import _catalogue as say
from smtpproto._address import Address, read_path
from smtpproto._decisions import decided_reply
from smtpproto._grammar import encode_xtext, is_domain
from smtpproto._proxy import ProxyInfo, ProxyReader, _crc32c_table  # pyright: ignore[reportPrivateUsage] - else only an import would run it
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
        (Address("a@x", "a", "x"), Address("b@x", "b", "x")),
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
    suite = TlsOptions(name="N", standard_name="S", version="TLSv1.3")
    details = TlsDetails(suite, servername="mx", peer_certificate={"version": 3})
    assert (details.options, details.servername, details.peer_certificate) == (suite, "mx", {"version": 3})


def test_a_port_is_no_name() -> None:
    assert Session(remote=("192.0.2.1", 0)).client_hostname == "[192.0.2.1]"


# --- addresses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("local", "taken"), [(254 - 26, True), (255 - 26, False)])
def test_an_ipv6_literal_counts_as_it_is_spelled_in_the_end(local: int, *, taken: bool) -> None:
    text = "a" * local
    read = read_path(f"FROM:<{text}@[IPv6:::ffff:c0a8:101]>", "FROM")
    assert (read is not None) is taken
    assert read is None or read[0].address == f"{text}@[IPv6:::ffff:192.168.1.1]"


@pytest.mark.parametrize("path", ["<@-r:a@x>", f"<{'a' * 253}@x>", "<a@x"])
def test_what_has_the_form_of_a_path_and_is_none_is_refused(path: str) -> None:
    assert read_path(f"FROM:{path}", "FROM") is None


def test_a_lenient_address_has_a_local_part_too() -> None:
    read = read_path("FROM:<a..b@x_y>", "FROM", lenient=True)
    assert read is not None
    assert (read[0].local, read[0].domain) == ("a..b", "x_y")


def test_a_label_of_63_octets_is_shown_in_its_own_letters() -> None:
    label = "ü" + "a" * 54
    encoded = f"xn--{label.encode('punycode').decode()}"
    while len(encoded) < 63:
        label += "a"
        encoded = f"xn--{label.encode('punycode').decode()}"
    assert len(encoded) == 63
    assert Address(f"a@{encoded}", "a", encoded).decoded == f"a@{label}"


def test_a_domain_beyond_ascii_has_255_octets_at_most() -> None:
    labels = ["é" * 31] * 4
    for last, taken in ((3, True), (4, False)):
        domain = ".".join([*labels, "a" * last])
        assert len(domain.encode()) == 252 + last
        assert is_domain(domain) is taken


def test_xtext_is_written_in_capitals() -> None:
    assert encode_xtext("é+=") == "+C3+A9+2B+3D"


# --- PROXY --------------------------------------------------------------------------------------


def test_the_table_of_checksums_is_castagnolis() -> None:
    table = list(_crc32c_table())
    assert len(table) == 256
    assert (table[0], table[1], table[128], table[255]) == (0, 0xF26B8303, 0x82F63B78, 0xAD7D5351)


@pytest.mark.parametrize("path", ["/run/X", "/run/x"])
def test_a_path_ends_before_its_nul_and_nothing_else(path: str) -> None:
    field = path.encode().ljust(108, b"\0")
    result = ProxyReader().feed(b"\r\n\r\n\0\r\nQUIT\n\x21\x31" + (216).to_bytes(2, "big") + field * 2)
    assert isinstance(result, ProxyInfo)
    assert (result.source, result.destination) == (path, path)
