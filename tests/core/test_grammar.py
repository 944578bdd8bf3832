# The pieces of grammar: domains, IPv6 addresses, EHLO lines, xtext.

from __future__ import annotations

from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproto._grammar import (
    canonical_ipv6,
    decode_xtext,
    encode_xtext,
    has_forbidden,
    is_domain,
    is_ehlo_keyword_line,
)

LABEL = "x" * 63


@pytest.mark.parametrize("text", [
    "localhost", "a.b", "A-1.example", "1.2.3.4", "a--b.de", "xn--bcher-kva.de", "ü.de", "例え.jp", LABEL,
    "é" * 31 + "x", ".".join([LABEL, LABEL, LABEL, LABEL[:63]]), ".".join(["é" * 31] * 4),
    ".".join(["é" * 31 + "x"] * 4),  # 255 octets
])  # fmt: skip
def test_a_domain_is_labels_between_dots(text: str) -> None:
    assert is_domain(text)


@pytest.mark.parametrize("text", [
    "", ".", "a.", ".a", "a..b", "-a", "a-", "a.-b.c", "a-.b", "a_b", "a b", "a@b", "a/b", "[1.2.3.4]",
    LABEL + "x", "é" * 32, ".".join([LABEL] * 4) + ".x", ".".join(["é" * 30] * 5), "a\n", "a\x85b",
    "é\u200b", "é\u2060", "é\ufeff", "é\ud800", "\u017f\x00",
])  # fmt: skip
def test_what_is_no_domain(text: str) -> None:
    assert not is_domain(text)


@pytest.mark.parametrize("character", "\x00\t\r\n\x1f\x7f\x80\x85\x9f\u200b\u2060\ufeff\ud800\udfff")
def test_control_and_invisible_characters_and_surrogates_are_forbidden(character: str) -> None:
    assert has_forbidden(f"a{character}b")


@pytest.mark.parametrize("text", ["", "plain text ~", "\xa0", "é", "\u200a\u200c", "\U0010ffff"])
def test_other_characters_are_not(text: str) -> None:
    assert not has_forbidden(text)


@pytest.mark.parametrize(("text", "canonical"), [
    ("FE80::1", "fe80::1"),
    ("2001:0db8:0:0:0:0:0:1", "2001:db8::1"),
    ("::", "::"),
    ("::1.2.3.4", "::102:304"),
    ("::ffff:192.168.1.1", "::ffff:192.168.1.1"),
    ("::FFFF:c0a8:101", "::ffff:192.168.1.1"),
    ("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("fe80::1%eth0", None),
    ("1.2.3.4", None),
    ("::1.2.3.04", None),
    ("1::2::3", None),
    ("12345::", None),
    ("zz", None),
    ("", None),
])  # fmt: skip
def test_an_ipv6_address_has_one_spelling(text: str, canonical: str | None) -> None:
    assert canonical_ipv6(text) == canonical


@given(address=st.ip_addresses(v=6))
def test_any_ipv6_address_keeps_its_value(address: IPv6Address) -> None:
    for text in (str(address), address.exploded.upper()):
        canonical = canonical_ipv6(text)
        assert canonical is not None
        assert IPv6Address(canonical) == address
        assert canonical_ipv6(canonical) == canonical


@pytest.mark.parametrize("text", ["X", "8BITMIME", "x-own", "LIMITS RCPTMAX=5 A", "A !~", "A " + "x" * 504])
def test_an_ehlo_line_is_a_keyword_and_words(text: str) -> None:
    assert is_ehlo_keyword_line(text)


@pytest.mark.parametrize("text", [
    "", " ", "-X", "X_Y", "X ", " X", "X  Y", "X\tY", "X é", "é", "X\r\n250 Y", "X\n", "X \x7f",
    "A " + "x" * 505,
])  # fmt: skip
def test_what_is_no_ehlo_line(text: str) -> None:
    assert not is_ehlo_keyword_line(text)


@pytest.mark.parametrize(("text", "decoded"), [
    ("", ""),
    ("plain", "plain"),
    ("a+20b", "a b"),
    ("+2b+2B+3D", "++="),
    ("+2B41", "+41"),
    ("+C3+a9", "é"),
    ("é+C3+A9", "éé"),
    ("+00+0D", "\x00\r"),
    ("+", None),
    ("a+", None),
    ("a+2", None),
    ("a+0G", None),
    ("++2B", None),
    ("a=b", None),
    ("+C3", None),
    ("+FF", None),
    ("+ED+A0+80", None),
    ("+41\ud800", None),
    ("+\uff11\uff11", None),
])  # fmt: skip
def test_xtext(text: str, decoded: str | None) -> None:
    assert decode_xtext(text) == decoded


def test_xtext_is_written_in_upper_case_digits() -> None:
    assert encode_xtext("a b=+é\n\x7f") == "a+20b+3D+2B+C3+A9+0A+7F"


@given(text=st.text())
def test_what_was_written_as_xtext_reads_the_same(text: str) -> None:
    encoded = encode_xtext(text)
    assert set(encoded) <= set(map(chr, range(0x21, 0x7F))) - {"="}
    assert decode_xtext(encoded) == text


@given(text=st.text("+0123456789abcdefABCDEFxyz=é", max_size=30))
def test_any_text_is_xtext_or_not_and_its_meaning_can_be_written_again(text: str) -> None:
    decoded = decode_xtext(text)
    assert decoded is None or decode_xtext(encode_xtext(decoded)) == decoded


# A reader whose work grows with the square of the text would not come back from these.
@pytest.mark.parametrize("piece", ["a", ".", "-", "a.", "a-", "é", "+", "+4", "+41", "=", " ", "a "])
def test_long_texts_take_no_more_than_their_length(piece: str) -> None:
    text = piece * 300_000
    assert not is_domain(text)
    assert not is_ehlo_keyword_line(text)
    assert not has_forbidden(text)
    decoded = decode_xtext(text)
    assert decoded is None or decode_xtext(encode_xtext(decoded)) == decoded
