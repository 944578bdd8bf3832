# Trusted peers: who is in, who is not, and what no list may contain.

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproto._peers import Peers, canonical_address


@pytest.mark.parametrize(("text", "canonical"), [
    ("192.0.2.1", "192.0.2.1"),
    ("::ffff:192.0.2.1", "192.0.2.1"),
    ("::FFFF:C000:0201", "192.0.2.1"),
    ("0:0:0:0:0:ffff:c000:201", "192.0.2.1"),
    ("::192.0.2.1", "::c000:201"),  # IPv4-compatible is not IPv4-mapped
    ("2001:0DB8:0:0:0:0:0:1", "2001:db8::1"),
    ("FE80::1%eth0", "fe80::1%eth0"),
    ("::", "::"),
    ("", ""),
    ("192.0.2.01", "192.0.2.01"),
    ("/run/mail.sock", "/run/mail.sock"),
    ("Mail.Example", "Mail.Example"),
])  # fmt: skip
def test_an_address_has_one_spelling_and_other_text_is_left_alone(text: str, canonical: str) -> None:
    assert canonical_address(text) == canonical


def test_true_is_everyone() -> None:
    peers = Peers.of(value=True)
    assert peers
    assert peers.everyone
    assert all(address in peers for address in ("192.0.2.1", "::1", "", "what?"))


@pytest.mark.parametrize("nobody", [False, [], ()])
def test_false_and_an_empty_list_are_nobody(nobody: Any) -> None:
    peers = Peers.of(nobody)
    assert not peers
    assert not peers.everyone
    assert not any(address in peers for address in ("192.0.2.1", "::1", "", "what?"))


@pytest.mark.parametrize(("entry", "inside", "outside"), [
    ("192.0.2.1", ["192.0.2.1", "::ffff:192.0.2.1"], ["192.0.2.2", "::192.0.2.1", "::1"]),
    (IPv4Address("192.0.2.1"), ["192.0.2.1"], ["192.0.2.2"]),
    ("192.0.2.0/24", ["192.0.2.0", "192.0.2.255", "::ffff:192.0.2.7"], ["192.0.3.0", "::c000:201"]),
    (ip_network("10.0.0.0/8"), ["10.255.0.1"], ["11.0.0.0"]),
    ("0.0.0.0/0", ["192.0.2.1", "::ffff:1.2.3.4"], ["::1"]),
    ("::ffff:192.0.2.1", ["192.0.2.1", "::ffff:192.0.2.1"], ["192.0.2.2"]),
    (IPv6Address("::ffff:192.0.2.1"), ["192.0.2.1"], ["192.0.2.2"]),
    ("::ffff:10.0.0.0/104", ["10.1.2.3", "::ffff:10.1.2.3"], ["11.1.2.3"]),
    ("::/0", ["::1", "fe80::1%eth0", "2001:db8::1"], ["192.0.2.1", "::ffff:192.0.2.1"]),
    ("2001:DB8::/32", ["2001:db8::1", "2001:db8:ffff::"], ["2001:db9::1"]),
    (ip_network("2001:db8::1"), ["2001:0db8::0:1"], ["2001:db8::2"]),
    ("fe80::1", ["fe80::1", "fe80::1%eth0", "FE80::1%eth1"], ["fe80::2"]),
    ("FE80::1%eth0", ["fe80::1%eth0"], ["fe80::1", "fe80::1%eth1"]),
    (IPv6Address("fe80::1%eth0"), ["fe80::1%eth0"], ["fe80::1", "fe80::1%ETH0"]),
])  # fmt: skip
def test_an_entry_covers_its_addresses_and_no_others(
    entry: Any, inside: list[str], outside: list[str]
) -> None:
    for peers in (Peers.of([entry]), Peers.of(("203.0.113.9", entry))):
        assert peers
        assert not peers.everyone
        assert all(address in peers for address in inside)
        assert not any(address in peers for address in [*outside, "", "what?", "192.0.2.1:25", "192.0.2.01"])


@pytest.mark.parametrize(("value", "words"), [
    (["localhost"], "'localhost' is neither an IP address nor a network"),
    ([""], "'' is neither"),
    (["192.0.2.1", "192.0.2.01"], "'192.0.2.01' is neither"),
    (["192.0.2.1/24"], "has host bits set"),
    (["192.0.2.0/33"], "'192.0.2.0/33' is neither"),
    (["fe80::/10%eth0"], "'fe80::/10%eth0' is not an IP address with a scope"),
    (["192.0.2.1%eth0"], "'192.0.2.1%eth0' is not an IP address with a scope"),
    ([1], "1 is neither"),
    ([b"\x7f\0\0\1"], "is neither"),
    ([True], "True is neither"),
    ([None], "None is neither"),
    ("192.0.2.1", "'192.0.2.1' is one text: a list"),
])  # fmt: skip
def test_a_slip_in_a_list_is_named(value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        Peers.of(value)


def test_the_repr_says_who_is_in() -> None:
    assert repr(Peers.of(value=True)) == "Peers.of(True)"
    assert repr(Peers.of(value=False)) == "Peers.of([])"
    peers = Peers.of(["FE80::1%a", "192.0.2.1", "::ffff:10.0.0.0/104"])
    assert repr(peers) == "Peers.of(['192.0.2.1/32', '10.0.0.0/8', 'fe80::1%a'])"


# No IPv4-mapped ones: those have their own test.
ADDRESSES = st.one_of(st.ip_addresses(v=4), st.integers(1 << 64, (1 << 128) - 1).map(IPv6Address))


@given(address=ADDRESSES, entry=ADDRESSES, bits=st.integers(0, 128))
def test_membership_is_equality_of_the_leading_bits(
    address: IPv4Address | IPv6Address, entry: IPv4Address | IPv6Address, bits: int
) -> None:
    bits = min(bits, entry.max_prefixlen)
    peers = Peers.of([ip_network(f"{entry}/{bits}", strict=False)])
    rest = entry.max_prefixlen - bits
    same = address.version == entry.version and int(address) >> rest == int(entry) >> rest
    assert (str(address) in peers) == same
    assert str(entry) in peers


@given(address=st.ip_addresses(v=4))
def test_an_ipv4_peer_is_the_same_in_ipv6_clothes(address: IPv4Address) -> None:
    mapped = f"::ffff:{address}"
    assert canonical_address(mapped) == str(address)
    assert mapped in Peers.of([str(address)])
    assert str(address) in Peers.of([mapped])


@given(text=st.text("0123456789abcdefF:.%/x", max_size=20))
def test_any_text_has_a_canonical_form_that_is_its_own(text: str) -> None:
    canonical = canonical_address(text)
    assert canonical_address(canonical) == canonical
    assert canonical == text or ip_address(text).version in (4, 6)
