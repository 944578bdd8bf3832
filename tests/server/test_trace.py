# Trace lines, as octets and as an ordinary mail parser reads them.

from __future__ import annotations

import datetime as dt
import email
import email.policy
import email.utils
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smtpproto import Address, Session
from smtpproto.testing import make_session
from smtpproto_server import received_line, trace_lines

if TYPE_CHECKING:
    from email.message import EmailMessage

NOON = 1_700_000_000.25
NOON_TEXT = "Tue, 14 Nov 2023 22:13:20 +0000"
TLS = {"name": "AES", "standard_name": "TLS_AES_256_GCM_SHA384", "version": "TLSv1.3"}


def address(text: str) -> Address:
    return Address(text)


def session(
    *, sender: str | None = "a@example.com", to: tuple[str, ...] = ("b@example.org",), **facts: Any
) -> Session:
    known: dict[str, Any] = {
        "remote_address": "192.0.2.1",
        "remote_port": 4711,
        "client_hostname": "client.example",
        "opening_command": "EHLO",
        "host_name_appears_as": "mx.example",
    }
    return make_session(
        None if sender is None else address(sender), [address(each) for each in to], **known | facts
    )


def trace(made: Session, *, received_by: str = "here.example", when: float | dt.datetime = NOON) -> bytes:
    return trace_lines(made, received_by=received_by, when=when)


def parsed(octets: bytes) -> EmailMessage:
    return email.message_from_bytes(octets + b"\r\nbody", policy=email.policy.SMTPUTF8)


def received(made: Session, **how: Any) -> str:
    """The Received field, unfolded, without its name."""
    fields = trace(made, **how).decode().replace("\r\n\t", " ").split("\r\n")
    (text,) = [field for field in fields if field.startswith("Received: ")]
    return text.removeprefix("Received: ")


def test_the_whole_trace_of_one_message() -> None:
    assert trace(session()) == (
        b"Return-Path: <a@example.com>\r\n"
        b"Delivered-To: b@example.org\r\n"
        b"Received: from mx.example (client.example [192.0.2.1]) by here.example\r\n"
        b"\twith ESMTP id 0123456789abcdef-1 for <b@example.org>;\r\n"
        b"\tTue, 14 Nov 2023 22:13:20 +0000\r\n"
    )


def test_a_relay_writes_received_alone() -> None:
    made = session()
    line = received_line(made, received_by="here.example", when=NOON)
    assert line.startswith(
        b"Received: from mx.example (client.example [192.0.2.1]) by here.example\r\n\twith "
    )
    assert trace(made) == b"Return-Path: <a@example.com>\r\nDelivered-To: b@example.org\r\n" + line
    assert parsed(line).keys() == ["Received"]


def test_a_relay_names_the_recipient_if_its_copy_is_for_one() -> None:
    made = session(to=("b@x.org", "c@x.org"))
    assert b" for " not in received_line(made, received_by="here", when=NOON)
    for one in made.envelope.rcpt_to:
        line = received_line(made, received_by="here", when=NOON, recipients=[one])
        assert f" for <{one.address}>;" in line.decode().replace("\r\n\t", " ")


def test_a_line_of_a_relay_is_utf_8_only_if_the_recipient_is() -> None:
    made = session(sender="é@ü.de", to=("ö@ü.de", "b@x.org"), smtp_utf8=True, client_hostname="é.example")
    of_all, of_one, of_other = (
        received_line(made, received_by="ü.example", when=NOON, recipients=whom)
        for whom in (None, made.envelope.rcpt_to[:1], made.envelope.rcpt_to[1:])
    )
    assert of_all.isascii()
    assert "for <ö@ü.de>;".encode() in of_one.replace(b"\r\n\t", b" ")
    assert of_other.isascii()


@pytest.mark.parametrize("sender", ["", None])
def test_no_sender_is_the_null_path(sender: str | None) -> None:
    assert trace(session(sender=sender)).startswith(b"Return-Path: <>\r\n")


def test_each_recipient_is_named_in_order_and_none_of_several_in_for() -> None:
    octets = trace(session(to=("c@x.org", "b@x.org", "c@x.org")))
    assert re.findall(rb"Delivered-To: (.*)\r\n", octets) == [b"c@x.org", b"b@x.org", b"c@x.org"]
    assert b"for <" not in octets


def test_a_copy_for_one_recipient_names_only_that_one() -> None:
    made = session(to=("b@x.org", "c@x.org"))
    octets = trace_lines(made, received_by="here", when=NOON, recipients=made.envelope.rcpt_to[1:])
    assert b"Delivered-To: c@x.org\r\n" in octets
    assert b"for <c@x.org>;" in octets.replace(b"\r\n\t", b" ")
    assert b"b@x.org" not in octets


@pytest.mark.parametrize(
    ("facts", "clause"),
    [
        ({}, "from mx.example (client.example [192.0.2.1]) by"),
        ({"client_hostname": "[192.0.2.1]"}, "from mx.example ([192.0.2.1]) by"),
        (
            {"remote_address": "2001:db8::1", "client_hostname": "[2001:db8::1]"},
            "from mx.example ([IPv6:2001:db8::1]) by",
        ),
        ({"remote_address": "fe80::1%eth0"}, "from mx.example (client.example [IPv6:fe80::1%eth0]) by"),
        ({"remote_address": "", "client_hostname": "[local]"}, "from mx.example ([local]) by"),
        ({"remote_address": "", "client_hostname": "name.example"}, "from mx.example (name.example) by"),
        ({"remote_address": "a](b\r\nc"}, "from mx.example (client.example [a--b--c]) by"),
        ({"host_name_appears_as": "[192.0.2.9]"}, "from [192.0.2.9] (client.example [192.0.2.1]) by"),
        ({"host_name_appears_as": "my_host"}, "from my_host (client.example [192.0.2.1]) by"),
        ({"host_name_appears_as": ""}, "from [192.0.2.1] (client.example [192.0.2.1]) by"),
        (
            {"host_name_appears_as": "", "remote_address": "", "client_hostname": "[local]"},
            "from unknown ([local]) by",
        ),
        (
            {"host_name_appears_as": "a;b"},
            "from [192.0.2.1] (client.example [192.0.2.1]) (HELO a;b) by",
        ),
        (
            {"host_name_appears_as": r"a)(b\c"},
            r"from [192.0.2.1] (client.example [192.0.2.1]) (HELO a\)\(b\\c) by",
        ),
        ({"client_hostname": r"x)\y"}, r"from mx.example (x\)\\y [192.0.2.1]) by"),
        ({"client_hostname": "é\r\nX: y"}, "from mx.example (???X: y [192.0.2.1]) by"),
    ],
)
def test_from_says_what_the_client_called_itself_and_who_it_is(facts: dict[str, Any], clause: str) -> None:
    assert received(session(**facts)).startswith(clause)


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("here.example", "here.example"),
        ("[192.0.2.5]", "[192.0.2.5]"),
        ("my host;x.example", "my-host-x.example"),
        ("bücher.example", "b-cher.example"),
        ("a\r\nb", "a--b"),
        ("", "unknown"),
    ],
)
def test_by_is_a_domain_whatever_was_configured(name: str, written: str) -> None:
    assert f" by {written} with " in received(session(), received_by=name)


@pytest.mark.parametrize(
    ("facts", "smtp_utf8", "protocol"),
    [
        ({"opening_command": "HELO"}, False, "SMTP"),
        ({}, False, "ESMTP"),
        ({"secure": True}, False, "ESMTPS"),
        ({"user": "u"}, False, "ESMTPA"),
        ({"secure": True, "user": "u"}, False, "ESMTPSA"),
        ({"lmtp": True, "secure": True, "user": "u"}, False, "LMTPSA"),
        ({}, True, "UTF8SMTP"),
        ({"user": "u"}, True, "UTF8SMTPA"),
        ({"secure": True}, True, "UTF8SMTPS"),
        ({"secure": True, "user": "u"}, True, "UTF8SMTPSA"),
        ({"lmtp": True}, True, "UTF8LMTP"),
        ({"lmtp": True, "secure": True}, True, "UTF8LMTPS"),
    ],
)
def test_with_is_the_registered_protocol(facts: dict[str, Any], smtp_utf8: bool, protocol: str) -> None:
    assert f" with {protocol} id " in received(session(**facts, smtp_utf8=smtp_utf8))


def test_the_user_is_not_named() -> None:
    assert "secret-user" not in received(session(user="secret-user"))


@pytest.mark.parametrize(
    ("facts", "clause"),
    [
        ({"transaction": 7}, "with ESMTP id 0123456789abcdef-7 for"),
        ({"id": "own id.1;x"}, "with ESMTP id own-id-1-x-1 for"),
        ({"id": ""}, "with ESMTP for"),
        ({"tls_options": TLS}, "id 0123456789abcdef-1 (TLSv1.3 TLS_AES_256_GCM_SHA384) for"),
    ],
)
def test_id_counts_transactions_and_tls_is_a_comment(facts: dict[str, Any], clause: str) -> None:
    assert f"{clause} <b@example.org>; {NOON_TEXT}" in received(session(**facts))


@pytest.mark.parametrize(
    "to", ['"a b;>"@c.com', r'"a\"b"@c.com', "a@[IPv6:fe80::1]", "é@ü.de", "a+b=c@d.com"]
)
def test_for_takes_every_mailbox_of_the_grammar(to: str) -> None:
    assert f" for <{to}>; " in received(session(to=(to,)))


@pytest.mark.parametrize(
    "to", ["Postmaster", 'a"b@c', "a;b@c", "a(b@c", "a,b@c.d", "a@b@c", "a\x00b@c.d", "x" * 990 + "@c.de"]
)
def test_for_leaves_out_what_would_break_the_clause(to: str) -> None:
    octets = trace(session(to=(to,)))
    assert b"id 0123456789abcdef-1;" in octets
    assert b"<" not in octets.partition(b"Received")[2]


def test_the_end_of_the_stamp_may_be_a_comment_or_the_protocol() -> None:
    assert f"(TLSv1.3 TLS_AES_256_GCM_SHA384); {NOON_TEXT}" in received(
        session(tls_options=TLS, to=("a@x", "b@x"))
    )
    assert f"with ESMTP; {NOON_TEXT}" in received(session(id="", to=("a@x", "b@x")))


@pytest.mark.parametrize(
    ("when", "date"),
    [
        (NOON, NOON_TEXT),
        (0, "Thu, 01 Jan 1970 00:00:00 +0000"),
        (dt.datetime(2024, 2, 29, 1, 2, 3, tzinfo=dt.UTC), "Thu, 29 Feb 2024 01:02:03 +0000"),
        (
            dt.datetime(2024, 2, 29, 1, 2, 3, 999, tzinfo=dt.timezone(dt.timedelta(hours=-5, minutes=-30))),
            "Thu, 29 Feb 2024 01:02:03 -0530",
        ),
    ],
)
def test_the_date_has_a_numeric_zone(when: float | dt.datetime, date: str) -> None:
    assert received(session(), when=when).endswith(f"; {date}")


def test_a_datetime_without_a_zone_is_local_time() -> None:
    local = dt.datetime(2024, 2, 29, 1, 2, 3)  # noqa: DTZ001 - the case itself
    date = received(session(), when=local).rpartition("; ")[2]
    assert email.utils.parsedate_to_datetime(date) == local.astimezone()


def test_smtputf8_addresses_are_written_as_utf_8() -> None:
    octets = trace(session(sender="é@ü.de", to=("ö@ü.de",)))
    assert octets.startswith("Return-Path: <é@ü.de>\r\nDelivered-To: ö@ü.de\r\n".encode())


def test_an_address_that_no_line_can_hold_gets_no_line() -> None:
    octets = trace(session(sender="s" * 1000 + "@x", to=("r" * 1000 + "@x", "b@x")))
    assert octets.startswith(b"Delivered-To: b@x\r\n")


def test_the_longest_addresses_fill_a_line() -> None:
    sender, recipient = b"s" * (998 - len("Return-Path: <>")), b"r" * (998 - len("Delivered-To: "))
    octets = trace(session(sender=sender.decode(), to=(recipient.decode(),)))
    assert octets.startswith(b"Return-Path: <" + sender + b">\r\nDelivered-To: " + recipient + b"\r\n")


ODD = st.text(
    st.characters(codec=None) | st.sampled_from('\r\n\t ();<>"\\@.,[]:\x00\x85\u2028\ud800'), max_size=1200
)


@given(
    helo=ODD, hostname=ODD, ip=ODD, identity=ODD, name=ODD, sender=ODD, to=st.lists(ODD, max_size=3), tls=ODD
)
@example(
    helo="(" * 255, hostname="\\" * 255, ip=":" * 300, identity="x" * 999, name="n" * 999,
    sender="s" * 983, to=["t" * 990 + "@x"], tls="T" * 999,
)  # fmt: skip
def test_whatever_the_values_each_field_is_one_field(
    helo: str, hostname: str, ip: str, identity: str, name: str, sender: str, to: list[str], tls: str
) -> None:
    made = session(
        sender=sender, to=tuple(to), host_name_appears_as=helo, client_hostname=hostname, remote_address=ip,
        id=identity, tls_options={**TLS, "version": tls},
    )  # fmt: skip
    octets = trace(made, received_by=name)
    lines = octets.split(b"\r\n")
    assert lines.pop() == b""
    names = [line.split(b":")[0] for line in lines if not line.startswith(b"\t")]
    assert names == sorted(names, key=[b"Return-Path", b"Delivered-To", b"Received"].index)
    assert names.count(b"Received") == 1
    for line in lines:
        assert 0 < len(line) <= 998
        assert line.strip(b"\t ")
        assert not re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", line)
        line.decode()
    assert lines[-1].endswith(NOON_TEXT.encode())


@given(helo=ODD, hostname=ODD, to=ODD)
def test_only_the_last_semicolon_outside_comments_and_paths_ends_the_stamp(
    helo: str, hostname: str, to: str
) -> None:
    text = received(session(host_name_appears_as=helo, client_hostname=hostname, to=(to,)))
    assert unquoted(text).count(";") == 1


def unquoted(text: str) -> str:
    """What is left of a field without comments, quoted strings and literals."""
    return re.sub(r'\((?:[^()\\]|\\.)*\)|"(?:[^"\\]|\\.)*"|\[[^\[\]\\]*\]', "", text)


def test_lines_are_folded_at_78_between_and_inside_clauses() -> None:
    octets = trace(
        session(
            host_name_appears_as="h" * 60 + ".example",
            client_hostname="c" * 60 + ".example",
            remote_address="2001:db8:1111:2222:3333:4444:5555:6666",
            to=("r" * 70 + "@example.org",),
            tls_options=TLS,
        )
    )
    lines = octets.split(b"\r\n")[2:]
    assert max(map(len, lines)) == len("\t<@example.org>;") + 70
    assert b"\t(" + b"c" * 60 + b".example" in lines
    assert b"\t[IPv6:2001:db8:1111:2222:3333:4444:5555:6666]) by here.example with ESMTP" in lines
    message = parsed(octets)
    assert message["Return-Path"] == "<a@example.com>"
    assert message["Delivered-To"] == "r" * 70 + "@example.org"
    assert len(message.get_all("Received", [])) == 1
    assert message.defects == []
