# Replies: whatever text goes in, one well-formed reply comes out.

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproto._reply import (
    MAX_REPLY_LINE,
    MAX_REPLY_LINES,
    Reply,
    challenge_line,
    default_enhanced,
    default_text,
    is_blank,
    single_line,
    split_enhanced,
)


@pytest.mark.parametrize(
    ("reply", "coded", "plain"),
    [
        (Reply(250, "2.0.0", "OK"), b"250 2.0.0 OK\r\n", b"250 OK\r\n"),
        (Reply(220, None, "mx ESMTP"), b"220 mx ESMTP\r\n", b"220 mx ESMTP\r\n"),
        (
            Reply(250, "2.1.5", ["a", "b"]),
            b"250-2.1.5 a\r\n250 2.1.5 b\r\n",
            b"250-a\r\n250 b\r\n",
        ),
    ],
)
def test_the_enhanced_code_stands_in_every_line_or_in_none(reply: Reply, coded: bytes, plain: bytes) -> None:
    assert reply.encode(coded=True) == coded
    assert reply.encode(coded=False) == plain
    assert reply.encode(coded=True) is reply.encode(coded=True), "made once"
    assert reply.encode(coded=False) is reply.encode(coded=False)
    assert reply.text(coded=True) == coded.decode()[:-2]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("no\r\n250 ok", ("no", "250 ok")),
        ("a\nb\rc", ("a", "b", "c")),
        ("a\r\n", ("a",)),
        ("a\n\nb", ("a", "", "b")),
        ("a\tb\x00c\x7fd\x1be", ("a?b?c?d?e",)),
        ("é\u2028ü\u200b", ("????",)),
        ("", ("Requested action not taken",)),
        (" \r\n ", ("Requested action not taken",)),
        ("\t\x85", ("Requested action not taken",)),
        ([], ("Requested action not taken",)),
        (["", "\n"], ("Requested action not taken",)),
        (["one", "two\nthree"], ("one", "two", "three")),
    ],
)
def test_text_becomes_printable_lines(text: str | list[str], lines: tuple[str, ...]) -> None:
    assert Reply(550, "5.1.1", text).lines == lines


def test_with_smtputf8_printable_characters_go_out_as_utf8() -> None:
    reply = Reply(550, "5.1.1", "é ü\x85\u200b\ud800 \N{GRINNING FACE}", utf8=True)
    assert reply.encode(coded=True) == "550 5.1.1 é ü??? \N{GRINNING FACE}\r\n".encode()


def test_a_long_line_is_folded_at_blanks() -> None:
    reply = Reply(550, "5.1.1", "word " * 300)
    lines = reply.encode(coded=True).split(b"\r\n")[:-1]
    assert len(lines) > 1
    assert all(len(line) + 2 <= MAX_REPLY_LINE for line in lines)
    assert all(line.startswith((b"550-5.1.1 word", b"550 5.1.1 word")) for line in lines)


def test_a_word_longer_than_a_line_is_cut_between_characters() -> None:
    reply = Reply(550, None, "x" + "é" * 600, utf8=True)
    octets = reply.encode(coded=False)
    assert all(len(line) + 2 <= MAX_REPLY_LINE for line in octets.split(b"\r\n"))
    assert "".join(reply.lines) == "x" + "é" * 600


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("x" * 506, ("x" * 506,)),
        ("x" * 507, ("x" * 506, "x")),
        ("x" * 505 + " y", ("x" * 505, "y")),
        ("x" * 506 + " y", ("x" * 506, "y")),
        ("x" * 506 + " ", ("x" * 506,)),
        (" " + "x" * 506, (" " + "x" * 505, "x")),
        ("a " + "x" * 505, ("a", "x" * 505)),
        ("x" * 1012, ("x" * 506, "x" * 506)),
    ],
)
def test_a_fold_takes_the_blank_and_nothing_else(text: str, lines: tuple[str, ...]) -> None:
    assert Reply(250, None, text).lines == lines


@pytest.mark.parametrize("piece", ["y ", "y", "\n", "y\n"])
def test_a_text_of_many_megabytes_costs_no_more_than_what_is_sent(piece: str) -> None:
    for text in (piece * 20_000_000, [piece * 100] * 100_000):
        octets = Reply(250, "2.0.0", text).encode(coded=True)
        assert len(octets) <= MAX_REPLY_LINES * MAX_REPLY_LINE


def test_a_reply_has_a_hundred_lines_at_most() -> None:
    assert len(Reply(250, None, ["x"] * 500).lines) == MAX_REPLY_LINES
    assert len(Reply(250, None, "y " * 60_000).lines) == MAX_REPLY_LINES


@pytest.mark.parametrize(
    ("code", "enhanced", "text"),
    [
        (250, "2.0.0", "OK"), (235, "2.7.0", "OK"), (251, "2.1.5", "OK"), (299, "2.0.0", "OK"),
        (421, "4.3.2", "Service not available, closing connection"),
        (450, "4.2.1", "Requested action not taken"),
        (451, "4.3.0", "Error: internal error, please try again later"),
        (452, "4.2.2", "Insufficient resources"), (454, "4.7.0", "Temporary failure"),
        (500, "5.5.2", "Request refused"), (504, "5.5.4", "Request refused"),
        (521, "5.3.2", "Request refused"), (530, "5.7.0", "Request refused"),
        (535, "5.7.8", "Error: Authentication credentials invalid"),
        (538, "5.7.11", "Request refused"), (550, "5.1.1", "Requested action not taken"),
        (551, "5.1.6", "Request refused"), (552, "5.2.2", "Request refused"),
        (553, "5.1.3", "Request refused"), (554, "5.6.0", "Transaction failed"),
        (556, "5.1.10", "Request refused"), (499, "4.0.0", "Temporary failure"),
    ],
)  # fmt: skip
def test_every_code_has_a_default_enhanced_code_and_text(code: int, enhanced: str, text: str) -> None:
    assert default_enhanced(code) == enhanced
    assert default_text(code) == text


def test_the_default_enhanced_code_has_the_class_of_its_code() -> None:
    for code in (*range(200, 300), *range(400, 600)):
        assert re.fullmatch(rf"{code // 100}\.\d{{1,3}}\.\d{{1,3}}", default_enhanced(code))
        assert default_text(code)


@pytest.mark.parametrize(
    ("text", "blank"),
    [("", True), (" \r\n", True), ([], True), (["", " "], True), ("x", False), (["", "x"], False)],
)
def test_a_text_of_blanks_says_nothing(text: str | list[str], blank: bool) -> None:
    assert is_blank(text) is blank


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        (550, "5.7.1 spam", ("5.7.1", "spam")),
        (550, "5.7.1", ("5.7.1", "")),
        (550, "5.7.1\r\nspam", ("5.7.1", "spam")),
        (550, "5.7.1\nspam", ("5.7.1", "spam")),
        (550, "5.7.1\rspam", ("5.7.1", "spam")),
        (550, "5.7.1000 spam", (None, "5.7.1000 spam")),
        (550, "5.7.\N{ARABIC-INDIC DIGIT ONE} spam", (None, "5.7.\N{ARABIC-INDIC DIGIT ONE} spam")),
        (550, " 5.7.1 spam", (None, " 5.7.1 spam")),
        (250, "2.6.0 queued", ("2.6.0", "queued")),
        (550, "4.7.1 spam", (None, "4.7.1 spam")),
        (550, "5.7.1spam", (None, "5.7.1spam")),
        (550, "5.07.1 spam", (None, "5.07.1 spam")),
        (450, "4.7.1 wait", ("4.7.1", "wait")),
        (550, "spam", (None, "spam")),
    ],
)
def test_an_enhanced_code_of_the_right_class_is_taken_from_the_text(
    code: int, text: str, expected: tuple[str | None, str]
) -> None:
    assert split_enhanced(code, text) == expected


def test_names_and_banners_stay_one_line() -> None:
    assert single_line("mx\r\nevil\n\x00é") == "mx evil ??"


def test_a_challenge_is_one_line_of_base64() -> None:
    assert challenge_line(b"") == b"334 \r\n"
    assert challenge_line(b"Username:") == b"334 VXNlcm5hbWU6\r\n"
    assert challenge_line(b"x" * 3000).count(b"\r\n") == 1


def test_replies_are_values() -> None:
    assert Reply(250, "2.0.0", "OK") == Reply(250, "2.0.0", ["OK"])
    assert hash(Reply(250, "2.0.0", "OK")) == hash(Reply(250, "2.0.0", "OK"))
    assert Reply(250, "2.0.0", "OK") != Reply(250, None, "OK")
    assert Reply(250, "2.0.0", "OK") != "250 OK"
    assert repr(Reply(250, "2.0.0", "OK")) == "<Reply '250 2.0.0 OK'>"


LINE = re.compile(rb"(\d{3})([- ])(?:([245]\.\d{1,3}\.\d{1,3}) )?([^\x00-\x1f\x7f]*)\r\n")


@given(
    st.sampled_from([250, 421, 451, 550, 554]),
    st.one_of(st.text(), st.lists(st.text(), max_size=5), st.text(alphabet="\r\n 5.7é")),
    st.booleans(),
)
def test_any_text_at_all_makes_one_reply(code: int, text: str | list[str], utf8: bool) -> None:
    """I4 and I17: one code, one enhanced code, lines that fit, nothing that could end one early."""
    enhanced = f"{code // 100}.7.1"
    octets = Reply(code, enhanced, text, utf8=utf8).encode(coded=True)
    lines = LINE.findall(octets)
    assert b"".join(b"%s%s%s %s\r\n" % line for line in lines) == octets
    assert [separator for _, separator, _, _ in lines] == [b"-"] * (len(lines) - 1) + [b" "]
    assert {line[0] for line in lines} == {str(code).encode()}
    assert {line[2] for line in lines} == {enhanced.encode()}
    assert all(len(line) + 2 <= MAX_REPLY_LINE for line in octets.split(b"\r\n"))
    assert utf8 or octets.isascii()


@given(st.text(alphabet="ab ", max_size=3000), st.integers(0, 2))
def test_folding_loses_nothing_but_the_blanks_it_stands_in_for(text: str, breaks: int) -> None:
    text += "\r\n" * breaks + "end"
    lines = Reply(250, "2.6.0", text).lines
    assert "".join(lines).replace(" ", "") == text.replace("\r\n", "").replace(" ", "")


@given(st.text())
def test_a_single_line_is_printable_ascii(text: str) -> None:
    line = single_line(text)
    assert line.isascii()
    assert line.isprintable()
