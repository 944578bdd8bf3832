# Paths of MAIL and RCPT: what is one, what comes out of it, and what does not.

from __future__ import annotations

import re
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smtpproto._address import (
    MAX_MAILBOX,
    PLAIN_MAILBOX,
    Address,
    RecipientDsn,
    read_mailbox,
    read_path,
)
from smtpproto._grammar import has_forbidden

Keyword = Literal["FROM", "TO"]
LABEL = "x" * 63


def read(text: str, *, lenient: bool = False) -> str | None:
    """The address of a path that stands alone, with either verb."""
    paths = [read_path(f"{verb}:{text}", verb, lenient=lenient) for verb in VERBS]
    addresses = {path and path[0] for path in paths}
    assert len(addresses) == 1
    assert all(path is None or path[1] == "" for path in paths)
    (address,) = addresses
    return None if address is None else address.address


VERBS: tuple[Keyword, Keyword] = ("FROM", "TO")


# --- the command around it ----------------------------------------------------------------------


@pytest.mark.parametrize(("argument", "address", "rest"), [
    ("FROM:<a@b.com>", "a@b.com", ""),
    ("from: <a@b>", "a@b", ""),
    ("fRoM:    <a@b>", "a@b", ""),
    ("FROM:<>", "", ""),
    ("FROM:<> SIZE=1", "", " SIZE=1"),
    ("FROM:<a@b> SIZE=10  BODY=8BITMIME", "a@b", " SIZE=10  BODY=8BITMIME"),
    ("FROM:<a@b>SIZE=1", "a@b", "SIZE=1"),  # for the parameters' grammar to refuse
    ("FROM:<a@b>x", "a@b", "x"),
    ("FROM:<a@b>>", "a@b", ">"),
    ('FROM:<"> X=<"@b> Y', '"> X=<"@b', " Y"),
])  # fmt: skip
def test_mail_from_a_path_and_what_follows(argument: str, address: str, rest: str) -> None:
    path = read_path(argument, "FROM")
    assert path is not None
    assert (path[0].address, path[1]) == (address, rest)


@pytest.mark.parametrize("argument", [
    "", "FROM", "FROM:", "FROM: ", "FROM <a@b>", " FROM:<a@b>", "FROM :<a@b>", "FROM:\t<a@b>", "FROM:a@b.com",
    "FROM:<Postmaster>", "FROM:<postmaster>", "TO:<a@b>", "F:<a@b>", "XFROM:<a@b>", "FROM:<a@b",
    "FROM:x<a@b>",
    "FROM:< >", "FROM:<", "FROM:>", "\uff26ROM:<a@b>", "FROM\uff1a<a@b>",
])  # fmt: skip
def test_mail_without_a_path_it_may_have(argument: str) -> None:
    assert read_path(argument, "FROM") is None


@pytest.mark.parametrize(("argument", "address"), [
    ("TO:<a@b>", "a@b"),
    ("to:  <a@b>", "a@b"),
    ("TO:<Postmaster>", "Postmaster"),
    ("TO:<pOstMaster>", "pOstMaster"),
    ("TO:<postmaster@b>", "postmaster@b"),
])  # fmt: skip
def test_rcpt_to_a_path_or_postmaster(argument: str, address: str) -> None:
    path = read_path(argument, "TO")
    assert path is not None
    assert path[0].address == address


@pytest.mark.parametrize("argument", [
    "TO:<>", "TO:", "TO", "TO :<a@b>", "FROM:<a@b>", "TO:<Postmaster2>", "TO:<@r:Postmaster>",
    "TO:<po\u017ftmaster>", "TO:Postmaster",
])  # fmt: skip
def test_rcpt_without_a_path_it_may_have(argument: str) -> None:
    assert read_path(argument, "TO") is None


def test_postmaster_has_no_domain_and_the_null_path_nothing() -> None:
    postmaster, null = read_path("TO:<Postmaster>", "TO"), read_path("FROM:<>", "FROM")
    assert postmaster is not None
    assert null is not None
    assert (postmaster[0].local, postmaster[0].domain) == ("Postmaster", "")
    assert (null[0].address, null[0].local, null[0].domain) == ("", "", "")
    assert (postmaster[0].decoded, null[0].decoded) == ("Postmaster", "")


# --- mailboxes ----------------------------------------------------------------------------------

KEPT = [
    "a@b.com", "a@localhost", "a+b=c@d.com", "a!b%c@d.com", "!#$%&'*+-/=?^_`{|}~@b", "a" * 200 + "@b.com",
    "a" * 252 + "@b", "=?utf-8?q?=41?=@x.test", "a.b.c@d", "A@B.Com", "a@1.2.3.4", "a@b--c.de",
    '"a b"@c.com', '"a@b"@c.com', r'"a\"b"@c.com', r'"\\"@c', r'"\a\ "@c', '""@c', '"a..b."@c', '"<>"@c',
    '"é"@c', "é@ü.de", "é@b", "a@ü", "a@[1.2.3.4]", "a@[0.0.0.0]", "a@[255.249.199.99]", "a@[IPv6:fe80::1]",
    "a@[IPv6:::ffff:192.168.1.1]", "a@[IPv6:::]", "é@[IPv6:::1]", "a@xn--bcher-kva.de", f"a@{LABEL}.de",
    "a" * 224 + "@[IPv6:::ffff:254.254.254.254]",  # 254 octets
    "é" * 126 + "@b", f"a@{'é' * 31}.de", "\U0001f4e7@b", "a\xa0b@c",
]  # fmt: skip


@pytest.mark.parametrize("mailbox", KEPT)
def test_a_mailbox_is_kept_as_it_was_sent(mailbox: str) -> None:
    assert read(f"<{mailbox}>") == mailbox
    assert read(f"<{mailbox}>", lenient=True) == mailbox
    address = read_mailbox(mailbox)
    assert address is not None
    assert (address.address, f"{address.local}@{address.domain}") == (mailbox, mailbox)


@pytest.mark.parametrize(("mailbox", "canonical"), [
    ("a@[ipv6:FE80::1]", "a@[IPv6:fe80::1]"),
    ("a@[IPv6:2001:db8:0:0:0:0:0:1]", "a@[IPv6:2001:db8::1]"),
    ("a@[IPV6:::ffff:c0a8:101]", "a@[IPv6:::ffff:192.168.1.1]"),
])  # fmt: skip
def test_an_ipv6_literal_has_one_spelling(mailbox: str, canonical: str) -> None:
    assert read(f"<{mailbox}>") == read(f"<{mailbox}>", lenient=True) == canonical
    address = read_mailbox(mailbox)
    assert address is not None
    assert (address.address, address.domain) == (canonical, canonical[2:])


@pytest.mark.parametrize(("path", "mailbox"), [
    ("<@r1.net,@r2.net:a@b.com>", "a@b.com"),
    ("<@r:a@b>", "a@b"),
    ('<@r:"a:b"@c>', '"a:b"@c'),
    ("<@ü.net:a@[IPv6:FE80::1]>", "a@[IPv6:fe80::1]"),
    (f"<@{'.'.join([LABEL] * 4)}:a@b>", "a@b"),
])  # fmt: skip
def test_a_source_route_is_checked_and_removed(path: str, mailbox: str) -> None:
    assert read(path) == mailbox


@pytest.mark.parametrize("path", [
    "<@r1.net:>", "<@-x:a@b.com>", "<@r1.net a@b>", "<@r1.net,a@b>", "<@r1.net,:a@b>", "<@r1.net,r2.net:a@b>",
    "<@:a@b>", "<:a@b>", "<@r1.net, @r2.net:a@b>", "<@r1.net@r2.net:a@b>", "<@[1.2.3.4]:a@b>", "<@r:@s:a@b>",
    f"<@{'.'.join([LABEL] * 4)}.x:a@b>", f"<@{'é' * 32}:a@b>", "<@é\u200b:a@b>",
])  # fmt: skip
def test_a_bad_source_route_is_a_fault(path: str) -> None:
    assert read(path) is None


REFUSED = [
    "a@b.com", "<a@b", "<<a@b>>", "<a @b.com>", "<a@ b>", "< a@b>", "<a@b >", "<nodomain>", "<@b.com>",
    "<a@>", "<@>",
    '<a"b@c.com>', '<"a@c.com>', "<a@b@c.com>", "<a(c)@b.com>", "<a,b@c>", "<a:b@c>", "<a;b@c>", "<a[b@c>",
    r"<a\b@c>",
    '<"a"b@c>', '<a"b"@c>', '<"a"."b"@c>', '<"a"b"@c>', r'<"a\"@c>', '<"\\é"@c>', '<"a\tb"@c>',
    '<"\\\x01"@c>', '<"a',
    "<.a@b>", "<a.@b>", "<a..b@c>", "<a@b..c>", "<a@.b>", "<a@b.>", "<a@b_c.de>", "<a@-b.de>", "<a@b-.de>",
    "<a@b,c>",
    f"<a@{LABEL}x.de>", "<" + "a" * 253 + "@b>", "<" + "é" * 127 + "@b>", f"<a@{'é' * 32}.de>",
    "<a@[999.1.1.1]>", "<a@[1.2.3]>", "<a@[1.2.3.04]>", "<a@[1.2.3.4.5]>", "<a@[256.1.1.1]>", "<a@[]>",
    "<a@[::1]>",
    "<a@[IPv6:zz]>", "<a@[IPv6:]>", "<a@[IPv6:1]>", "<a@[IPv6:1::2::3]>", "<a@[IPv6:fe80::1%eth0]>",
    "<a@[tag:x]>",
    "<a@[IPv6:1.2.3.4]>", "<a@[ 1.2.3.4]>", "<a@[1.2.3.4>", "<a@1.2.3.4]>", "<a@[1.2.3.4].de>",
    "<a@[\u0661.2.3.4]>",
    "<" + "a" * 227 + "@[IPv6:::ffff:fefe:fefe]>",  # 252 octets, in canonical form 256
]  # fmt: skip


@pytest.mark.parametrize("path", REFUSED)
def test_what_is_no_mailbox(path: str) -> None:
    assert read(path) is None
    assert read_path(f"TO:{path}", "TO") is None
    assert read_mailbox(path.removeprefix("<").removesuffix(">")) is None or path in {"a@b.com", "<a@b"}


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize("form", ["<a{}b@c>", '<"a{}b"@c>', "<a@b{}c>", "<é{}@ü>", "<{}@b>", "<a@{}>"])
@pytest.mark.parametrize("character", "\x00\x01\t\n\r\x1b\x1f\x7f\x80\x85\x9f\u200b\u2060\ufeff\ud800\udfff")
def test_some_characters_are_never_allowed(character: str, form: str, *, lenient: bool) -> None:
    assert read(form.format(character), lenient=lenient) is None


# --- lenient ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mailbox", [
    "ilo.@x.com", ".te..st@x..com", "a@b_c.de", "a@-b-", "a@.", ".@b", "x" * 300 + "@b",
    f"a@{LABEL}x.{'y' * 300}",
    'a"b@c', "é..@ü_", "a..b@[1.2.3.4]", "a..b@[IPv6:fe80::1]",
])  # fmt: skip
def test_lenient_addresses_have_no_rules_for_dots_labels_and_lengths(mailbox: str) -> None:
    assert read(f"<{mailbox}>") is None
    assert read(f"<{mailbox}>", lenient=True) == mailbox
    path = read_path(f"TO:<{mailbox}>", "TO", lenient=True)
    assert path is not None
    assert f"{path[0].local}@{path[0].domain}" == mailbox


@pytest.mark.parametrize(("argument", "verb", "address"), [
    ("FROM :<a@b>", "FROM", "a@b"),
    ("FROM  : <a..b@b>", "FROM", "a..b@b"),
    ("FROM :<>", "FROM", ""),
    ("FROM:<>", "FROM", ""),
    ("to :<postmaster>", "TO", "postmaster"),
    ("TO :<@r:a@b>", "TO", "a@b"),
    ('TO :<"a b"@c>', "TO", '"a b"@c'),
    ("TO :<a.@[ipv6:FE80::1]> X :Y", "TO", "a.@[IPv6:fe80::1]"),
])  # fmt: skip
def test_lenient_addresses_allow_blanks_before_the_colon(argument: str, verb: Keyword, address: str) -> None:
    path = read_path(argument, verb, lenient=True)
    assert path is not None
    assert path[0].address == address
    assert path[1] in {"", " X :Y"}


@pytest.mark.parametrize("path", [
    "a@b.com", "<a@b", "<<a@b>>", "<a b@c>", "<a@b@c>", "<.@b@c>", "<@b>", "<a.@>", "<@>", "<a>", "<a@b c_>",
    "<[a]@b_>",
    "<a.@[999.1.1.1]>", "<a.@[IPv6:zz]>", "<a.@[IPv6:1::2::3]>", "<a.@[x]>", "<a.@r]>", "<@r:a.@b>", "",
])  # fmt: skip
def test_lenient_addresses_still_have_a_form(path: str) -> None:
    assert read(path, lenient=True) is None


@pytest.mark.parametrize("argument", [
    "  FROM:<a@b>", " FROM:<a@b>", "FROM\t:<a@b>", "FROM : :<a@b>", "FROM <a@b>", "FR OM:<a@b>",
    "FROM:<Postmaster>",
])  # fmt: skip
def test_lenient_addresses_allow_no_other_blanks(argument: str) -> None:
    assert read_path(argument, "FROM", lenient=True) is None


# --- A-labels -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("address", "decoded"), [
    ("a@xn--bcher-kva.de", "a@bücher.de"),
    ("a@XN--BCHER-KVA.de", "a@bücher.de"),
    ("A@B.xn--strae-oqa.De", "A@B.straße.De"),
    ("a@xn--bcher-kva.xn--p1ai", "a@bücher.рф"),
    ("a@ü.xn--bcher-kva", "a@ü.bücher"),
    ("xn--bcher-kva@b.de", "xn--bcher-kva@b.de"),
    ("a@b.com", "a@b.com"),
    ("a@xn--ls8h.la", "a@💩.la"),
    ("a@[IPv6:fe80::1]", "a@[IPv6:fe80::1]"),
    ('"xn--.b"@xn--bcher-kva', '"xn--.b"@bücher'),
])  # fmt: skip
def test_a_labels_are_decoded_for_people(address: str, decoded: str) -> None:
    read_address = read_mailbox(address)
    assert read_address is not None
    assert read_address.decoded == decoded


def a_label(text: str) -> str:
    return f"xn--{text.encode('punycode').decode()}"


@pytest.mark.parametrize("label", [
    "xn--", "xn--a", "xn--a-", "xn--abc-", "xn--99999999", "xn--zzzzzzzzzzzz", "xn--ü",
    # no punycode, or ASCII in it
    *map(a_label, [
        "bÜcher", "\u212bx", "a\uff0eb", "\ufb01x", "a\u0308b",  # second spellings
        "é\x85", "é\u200b", "é\u202e", "é\u200d", "a\xadb", "é\xa0b", "é\ue000", "é\U0010ffff",  # no printing
        "é\ufe0f", "\u3164é", "é\u115f", "é\u034f", "é\U000e0100",  # printing nothing
        "a\u3002b", "\u0301a",  # a second dot, an accent on the dot before
    ]),
])  # fmt: skip
def test_a_label_that_would_hide_something_stays_as_it_is(label: str) -> None:
    address = Address(f"a@{label}.de")
    assert address.decoded == address.address


def test_one_bad_a_label_leaves_the_whole_address_as_it_is() -> None:
    assert Address("a@xn--bcher-kva.xn--a").decoded == "a@xn--bcher-kva.xn--a"


def test_a_label_too_long_for_dns_is_not_decoded() -> None:
    label = a_label("é" * 4000)
    assert Address(f"a@{label}").decoded == f"a@{label}"


def test_an_a_label_of_63_octets_is_decoded_and_one_of_64_is_not() -> None:
    text = "é" + "a" * 55
    longest, longer = a_label(text), a_label(f"{text}a")
    assert (len(longest), len(longer)) == (63, 64)
    assert Address(f"a@{longest}").decoded == f"a@{text}"
    assert Address(f"a@{longer}").decoded == f"a@{longer}"


@given(label=st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=59))
def test_a_decoded_label_is_visible_and_gives_back_its_a_label(label: str) -> None:
    domain = f"xn--{label}"
    decoded = Address(f"a@{domain}").decoded.removeprefix("a@")
    assert decoded.isprintable()
    assert not has_forbidden(decoded)
    assert "." not in decoded
    assert decoded == domain or a_label(decoded) == domain


@given(text=st.text(st.characters(min_codepoint=0x80, exclude_categories=["Cs"]), min_size=1, max_size=12))
def test_any_unicode_label_is_shown_whole_or_not_at_all(text: str) -> None:
    domain = a_label(text)
    assert Address(f"a@{domain}").decoded in {f"a@{domain}", f"a@{text}"}


# --- the value ----------------------------------------------------------------------------------


def test_an_address_is_its_text() -> None:
    address = Address("a@b")
    assert str(address) == "a@b"
    assert repr(address) == "<Address 'a@b'>"
    assert address == Address("a@b")
    assert address != Address("A@b")
    assert address != "a@b"
    assert len({address, Address("a@b"), Address("a@c")}) == 2


def test_addresses_that_differ_do_not_meet_in_a_hash_table() -> None:
    hashes = {hash(Address(f"{number}@b")) for number in range(1000)}
    assert len(hashes) > 990


def test_an_address_begins_without_parameters() -> None:
    address = Address("a@b")
    assert address.args == {}
    assert address.dsn == RecipientDsn(notify=None, orcpt=None)


# --- properties ---------------------------------------------------------------------------------

WIDE = st.characters(min_codepoint=0xA0, exclude_categories=["Cs"], exclude_characters="\u200b\u2060\ufeff")
LETTERS = st.sampled_from("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789")
ATOM = st.text(LETTERS | st.sampled_from("!#$%&'*+-/=?^_`{|}~") | WIDE, min_size=1, max_size=8)
QUOTED = st.lists(
    st.sampled_from([" ", "a", "@", ">", ".", "(", r"\"", r"\\", r"\a", r"\ "]) | WIDE, max_size=10
).map(lambda parts: f'"{"".join(parts)}"')
LOCALS = st.lists(ATOM, min_size=1, max_size=4).map(".".join) | QUOTED
LABELS = st.tuples(LETTERS | WIDE, st.text(LETTERS | st.just("-"), max_size=8), LETTERS).map("".join)
DOMAINS = st.one_of(
    st.lists(LABELS, min_size=1, max_size=4).map(".".join),
    st.ip_addresses(v=4).map("[{}]".format),
    st.ip_addresses(v=6).map("[IPv6:{}]".format),
)
ANYTHING = st.text(
    st.sampled_from('<>@".\\,:;[]() aAbé-_=+') | st.characters(codec=None), max_size=40
) | st.from_regex(r'[a.@"\\ <>]{0,30}@[a.\-:\[\]1]{0,20}', fullmatch=True)


@given(local=LOCALS, domain=DOMAINS)
def test_whatever_the_grammar_makes_is_read(local: str, domain: str) -> None:
    address = read_mailbox(f"{local}@{domain}")
    assert address is not None
    assert address.local == local
    assert read(f"<{local}@{domain}>") == read(f"<@r:{local}@{domain}>") == address.address
    assert address.domain == domain or domain.startswith("[IPv6:")


@given(text=ANYTHING, verb=st.sampled_from(VERBS), lenient=st.booleans())
@example(text="a@[IPV6:::FFFF:1.2.3.4]", verb="TO", lenient=False)
@example(text="a..@[IPV6:::FFFF:1.2.3.4]", verb="TO", lenient=True)
@example(text="@r:a@b", verb="FROM", lenient=True)
def test_what_was_read_is_clean_and_reads_the_same_when_written_again(
    text: str, verb: Keyword, *, lenient: bool
) -> None:
    path = read_path(f"{verb}:<{text}>", verb, lenient=lenient)
    if path is None:
        return
    address, rest = path
    assert not has_forbidden(address.address)
    assert "\n" not in address.decoded
    assert text.endswith(rest[:-1])
    again = read_path(f"{verb}:<{address}>{rest}", verb, lenient=lenient)
    assert again is not None
    assert (again[0], again[0].local, again[0].domain, again[1]) == (
        address,
        address.local,
        address.domain,
        rest,
    )


@given(text=ANYTHING, verb=st.sampled_from(VERBS))
def test_lenient_reads_all_that_strict_reads(text: str, verb: Keyword) -> None:
    strict = read_path(f"{verb}:<{text}>", verb)
    assert strict is None or read_path(f"{verb}:<{text}>", verb, lenient=True) == strict


# A reader whose work grows with the square of the text would not come back from these.
@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize(
    "piece",
    ["a", ".", "a.", '"', "\\", '\\"', "@", "@a,", "a@", " ", "<", ":", "[", "1.", "-", "a-", "é", "xn--."],
)
def test_long_paths_take_no_more_than_their_length(piece: str, *, lenient: bool) -> None:
    many = piece * 300_000
    for text in (
        many,
        f"<{many}",
        f"<a@{many}",
        f'<"{many}',
        f"<@{many}",
        f"<@a:{many}",
        f"<{many}@b>x",
        f"<a@[{many}]>",
    ):
        path = read_path(f"FROM:{text}", "FROM", lenient=lenient)
        assert path is None or (lenient and len(path[0].decoded) > 300_000)
        assert read_path(f"FROM{text}", "FROM", lenient=lenient) is None


# --- the plain mailbox ---------------------------------------------------------------------------

PLAIN: re.Pattern[bytes] = re.compile(f"<({PLAIN_MAILBOX})>".encode())


def plain(text: str, keyword: Keyword) -> Address | None:
    """What the pattern of plain mailboxes makes of it; whatever it takes, `read_path` takes likewise."""
    match = PLAIN.fullmatch(text.encode("utf-8", "surrogatepass"))
    if match is None or len(match[1]) > MAX_MAILBOX:
        return None
    address = Address(match[1].decode())
    path = read_path(f"{keyword}:{text}", keyword)
    assert path is not None
    slow, rest = path
    assert (address.address, address.local, address.domain, "") == (
        slow.address,
        slow.local,
        slow.domain,
        rest,
    )
    return address


@pytest.mark.parametrize("keyword", VERBS)
@pytest.mark.parametrize(("text", "is_plain"), [
    ("<a@b>", True),
    ("<a.b+c@mail.example.com>", True),
    ("<!#$%&'*+-/=?^_`{|}~09azAZ@x-y.test>", True),
    (f"<a@{LABEL}.test>", True),
    (f"<{'l' * (254 - 64)}@{LABEL}>", True),
    (f"<{'l' * (255 - 64)}@{LABEL}>", False),
    (f"<a@{LABEL}x>", False),
    ("<>", False),
    ("<Postmaster>", False),
    ("<a@b> SIZE=1", False),
    (" <a@b>", False),
    ("<a@b> ", False),
    ("<@c:a@b>", False),
    ('<"a"@b>', False),
    ("<a@[192.0.2.1]>", False),
    ("<a@-b>", False), ("<a@b->", False), ("<a@b.>", False), ("<a@.b>", False), ("<a@b..c>", False),
    ("<.a@b>", False), ("<a.@b>", False), ("<a..b@c>", False), ("<a@b@c>", False), ("<a@b_c>", False),
    ("<a b@c>", False), ("<a\\b@c>", False), ("<ä@b>", False), ("<a@ä>", False), ("<a@b>\n", False),
    ("<a@b", False), ("a@b", False), ("<a@b>x", False),
])  # fmt: skip
def test_a_plain_mailbox_is_recognised(text: str, is_plain: bool, keyword: Keyword) -> None:
    assert (plain(text, keyword) is not None) is is_plain


@given(text=st.text('aZ09!+-=._@<>"\\[]: é\r\n', max_size=20), keyword=st.sampled_from(VERBS))
def test_a_plain_mailbox_is_read_as_any_other(text: str, keyword: Keyword) -> None:
    plain(f"<{text}>", keyword)
