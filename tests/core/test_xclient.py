# Attributes of XCLIENT and XFORWARD.

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproto._grammar import encode_xtext
from smtpproto._reply import Reply
from smtpproto._xclient import XCLIENT_ATTRIBUTES, XFORWARD_ATTRIBUTES, read_attributes

BAD_SYNTAX = "501 5.5.4 Error: Bad command parameter syntax"
BAD_ADDRESS = "501 5.5.4 Error: Bad command parameter syntax. Invalid address"


def xclient(text: str) -> dict[str, str | None] | str:
    """What XCLIENT takes from it, or the refusal."""
    result = read_attributes(text, XCLIENT_ATTRIBUTES)
    return result.text(coded=True) if isinstance(result, Reply) else result


def xforward(text: str) -> dict[str, str | None] | str:
    """What XFORWARD takes from it, or the refusal."""
    result = read_attributes(text, XFORWARD_ATTRIBUTES)
    return result.text(coded=True) if isinstance(result, Reply) else result


def test_the_attributes_stand_in_the_order_in_which_they_are_advertised() -> None:
    assert " ".join(XCLIENT_ATTRIBUTES) == "NAME ADDR PORT PROTO HELO LOGIN"
    assert " ".join(XFORWARD_ATTRIBUTES) == "NAME ADDR PORT PROTO HELO IDENT SOURCE"


@pytest.mark.parametrize(("text", "attributes"), [
    ("NAME=spike.porcupine.org ADDR=168.100.189.2", {"NAME": "spike.porcupine.org", "ADDR": "168.100.189.2"}),
    ("name=A.b", {"NAME": "A.b"}),
    ("NAME=a+2Bb+3D", {"NAME": "a+b="}),
    ("  PORT=0   PROTO=esmtp", {"PORT": "0", "PROTO": "ESMTP"}),
    ("PORT=65535", {"PORT": "65535"}),
    ("PROTO=SMTP", {"PROTO": "SMTP"}),
    ("PROTO=LMTP", {"PROTO": "LMTP"}),
    ("HELO=[1.2.3.4]", {"HELO": "[1.2.3.4]"}),
    ("NAME=[UNAVAILABLE]", {"NAME": None}),
    ("NAME=[tempunavail] ADDR=[Unavailable]", {"NAME": None, "ADDR": None}),
    ("PORT=[UNAVAILABLE] PROTO=[TEMPUNAVAIL]", {"PORT": None, "PROTO": None}),
    ("NAME=" + "x" * 255, {"NAME": "x" * 255}),
    ("NAME=" + "+41" * 255, {"NAME": "A" * 255}),
])  # fmt: skip
def test_attributes_of_both_commands(text: str, attributes: dict[str, str | None]) -> None:
    assert xclient(text) == xforward(text) == attributes


@pytest.mark.parametrize(("value", "canonical"), [
    ("1.2.3.4", "1.2.3.4"),
    ("IPV6:2001:DB8::1", "2001:db8::1"),
    ("ipv6:::1", "::1"),
    ("2001:db8:0:0::1", "2001:db8::1"),
    ("::ffff:1.2.3.4", "1.2.3.4"),
    ("IPv6:::ffff:102:304", "1.2.3.4"),
])  # fmt: skip
def test_an_address_is_canonical(value: str, canonical: str) -> None:
    assert xclient(f"ADDR={value}") == xforward(f"ADDR={value}") == {"ADDR": canonical}


@pytest.mark.parametrize("value", [
    "999.1.1.1", "1.2.3", "1.2.3.04", "IPV6:1.2.3.4", "IPV6:", "IPV4:1.2.3.4", "fe80::1%eth0", "[1.2.3.4]",
    "host", "16909060",
    "1.2.3.4/24", "",
])  # fmt: skip
def test_an_address_is_an_address(value: str) -> None:
    assert xclient(f"ADDR={value}") == xforward(f"ADDR={value}") == BAD_ADDRESS
    assert xclient(f"NAME=a ADDR={value} PORT=1") == BAD_ADDRESS


@pytest.mark.parametrize("text", [
    "", " ", "NAME", "NAME=", "=a", "=", "FOO=1", "NAME=a NAME=b", "NAME=a name=b", "NAME=a LOCAL=b", "HELO=",
    "PROTO=",
    "PORT=", "PORT=65536", "PORT=99999", "PORT=-1", "PORT=+2B1", "PORT=1e3", "PORT=000025", "PORT=0x19",
    "PROTO=QMTP",
    "PROTO=ESMTPS", "NAME=+", "NAME=a+0", "NAME=a+0G", "NAME=a+0D+0A", "NAME=a+00", "NAME=a+20b", "NAME=+09",
    "NAME=a\tb", "NAME=a\tHELO=b", "NAME=+7F", "NAME=é", "NAME=+C3+A9", "NAME=+C3", "NAME=a=b", "NAME =a",
    "é",
    "PROTO=\u017fMTP", "NAME=\uff21", "NAME=" + "x" * 256, "NAME=[unavailable]x NAME=[UNAVAILABLE]",
    "NAME=a +41DDR=1.2.3.4",
])  # fmt: skip
def test_one_fault_refuses_all(text: str) -> None:
    assert xclient(text) == xforward(text) == BAD_SYNTAX


@pytest.mark.parametrize(("text", "attributes"), [
    ("LOGIN=user+40example.com", {"LOGIN": "user@example.com"}),
    ("LOGIN=", {"LOGIN": ""}),
    ("login= NAME=a", {"LOGIN": "", "NAME": "a"}),
    ("LOGIN=[UNAVAILABLE]", {"LOGIN": None}),
    ("IDENT=x", BAD_SYNTAX),
    ("SOURCE=LOCAL", BAD_SYNTAX),
])  # fmt: skip
def test_xclient_has_a_login_which_may_be_empty(text: str, attributes: dict[str, str | None] | str) -> None:
    assert xclient(text) == attributes


@pytest.mark.parametrize(("text", "attributes"), [
    ("IDENT=4Zx+2B SOURCE=local", {"IDENT": "4Zx+", "SOURCE": "LOCAL"}),
    ("SOURCE=REMOTE", {"SOURCE": "REMOTE"}),
    ("SOURCE=[UNAVAILABLE]", {"SOURCE": None}),
    ("SOURCE=ELSEWHERE", BAD_SYNTAX),
    ("\u017fOURCE=LOCAL", BAD_SYNTAX),
    ("SOURCE=", BAD_SYNTAX),
    ("IDENT=", BAD_SYNTAX),
    ("LOGIN=x", BAD_SYNTAX),
])  # fmt: skip
def test_xforward_has_an_identifier_and_a_source(text: str, attributes: dict[str, str | None] | str) -> None:
    assert xforward(text) == attributes


NAMES = st.sampled_from([*XCLIENT_ATTRIBUTES, *XFORWARD_ATTRIBUTES, "name", "FOO"])
VALUES = st.one_of(
    st.text(max_size=8),
    st.text("ab+4120D=[]", max_size=8),
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)).map(encode_xtext),
    st.ip_addresses().map(str),
    st.sampled_from(["25", "ESMTP", "LOCAL", "[UNAVAILABLE]", "IPV6:::1"]),
)


@given(pairs=st.lists(st.tuples(NAMES, VALUES), max_size=3))
def test_what_was_taken_is_clean_and_can_be_said_again(pairs: list[tuple[str, str]]) -> None:
    text = " ".join(f"{name}={value}" for name, value in pairs)
    for read in (xclient, xforward):
        taken = read(text)
        if isinstance(taken, str):
            continue
        values = {name: "[UNAVAILABLE]" if value is None else value for name, value in taken.items()}
        assert all(value.isascii() and value.isprintable() and " " not in value for value in values.values())
        assert all(len(value) <= 255 for value in values.values())
        assert read(" ".join(f"{name}={encode_xtext(value)}" for name, value in values.items())) == taken
        address = taken.get("ADDR")
        assert address is None or str(ip_address(address)) == address


# A reader whose work grows with the square of the text would not come back from these.
@pytest.mark.parametrize("piece", [" ", "=", "a", "+", "+41", "NAME=", "NAME=a ", "é", "1.", ":", "\t"])
def test_long_texts_take_no_more_than_their_length(piece: str) -> None:
    many = piece * 300_000
    for text in (many, f"NAME={many}", f"ADDR={many}", f"PORT={many}", f"NAME=a{many}=b"):
        assert isinstance(xclient(text), str) or piece == " "
