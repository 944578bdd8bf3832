# Parameters of MAIL and RCPT: what each takes, what it does, and which refusal comes first.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproto._address import Address, RecipientDsn
from smtpproto._grammar import encode_xtext, has_forbidden
from smtpproto._parameters import (
    MAIL_PARAMETERS,
    RCPT_PARAMETERS,
    ParameterRules,
    _fault,
    apply_mail_parameters,
    apply_rcpt_parameters,
)
from smtpproto._session import Envelope

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from smtpproto._reply import Reply

BAD_SYNTAX = "501 5.5.4 Error: Bad command parameter syntax"
UNSUPPORTED = "555 5.5.4 Error: unsupported parameter"
BAD_ENVID = "501 5.5.4 Invalid ENVID parameter value"
BAD_AUTH = "501 5.5.4 Invalid AUTH parameter value"
BAD_ORCPT = "501 5.5.4 Invalid ORCPT parameter value"
BAD_NOTIFY = "501 5.5.4 Error: NOTIFY parameter must be NEVER, SUCCESS, FAILURE, or DELAY"
NEVER_ALONE = "501 5.5.4 Error: NOTIFY=NEVER cannot be combined with other values"
BAD_SIZE = "501 5.5.4 Invalid SIZE parameter value"
BAD_BODY = "501 5.5.4 Invalid BODY parameter value. Must be 7BIT or 8BITMIME"
BAD_RET = "501 5.5.4 Invalid RET parameter value. Must be FULL or HDRS"
BAD_SMTPUTF8 = "501 5.5.4 Invalid SMTPUTF8 parameter. This flag does not accept a value"
BAD_REQUIRETLS = "501 5.5.4 Invalid REQUIRETLS parameter. This flag does not accept a value"
NEEDS_TLS = "530 5.7.0 REQUIRETLS not permitted on non-TLS connections"


def text_of(reply: Reply | None) -> str:
    return "" if reply is None else reply.text(coded=True)


class Mail:
    """MAIL with these parameters: the refusal, or "" and what came of it."""

    def __init__(
        self, text: str, *, extended: bool = True, unknown: bool = False, secure: bool = True
    ) -> None:
        self.address = Address("a@b")
        self.envelope = Envelope()
        rules = ParameterRules(extended=extended, accept_unknown=unknown)
        self.refusal = text_of(
            apply_mail_parameters(text, self.address, self.envelope, rules=rules, secure=secure)
        )


class Rcpt:
    """RCPT with these parameters: the refusal, or "" and what came of it."""

    def __init__(
        self, text: str, *, extended: bool = True, unknown: bool = False, utf8: bool = False
    ) -> None:
        self.address = Address("a@b")
        envelope = Envelope()
        envelope._smtp_utf8 = utf8
        rules = ParameterRules(extended=extended, accept_unknown=unknown)
        self.refusal = text_of(apply_rcpt_parameters(text, self.address, envelope, rules=rules))
        assert facts(envelope) == {**facts(Envelope()), "smtp_utf8": utf8}  # never changed by RCPT


def facts(envelope: Envelope) -> dict[str, Any]:
    found = envelope.facts()
    del found["dsn"]
    return {**found, "ret": envelope.dsn.ret, "envid": envelope.dsn.envid}


# --- what they do -------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "changes"), [
    (" SIZE=10", {"declared_size": 10}),
    (" SIZE=0", {"declared_size": 0}),
    (" SIZE=99999999999999999999", {"declared_size": 99999999999999999999}),
    (" BODY=7BIT", {"body_type": "7bit"}),
    (" body=8bitmime", {"body_type": "8bitmime"}),
    (" SMTPUTF8", {"smtp_utf8": True}),
    (" RequireTLS", {"require_tls": True}),
    (" RET=full", {"ret": "FULL"}),
    (" RET=HDRS", {"ret": "HDRS"}),
    (" ENVID=QQ314159", {"envid": "QQ314159"}),
    (" ENVID=a+20b", {"envid": "a b"}),
    (" ENVID=a+2bb", {"envid": "a+b"}),
    (" ENVID=" + "x" * 100, {"envid": "x" * 100}),
    (" AUTH=<>", {}),
    (" SIZE=10  BODY=8bitmime", {"declared_size": 10, "body_type": "8bitmime"}),
    ("   smtputf8    size=1", {"declared_size": 1, "smtp_utf8": True}),
    ("", {}),
])  # fmt: skip
def test_a_parameter_of_mail_is_noted_in_the_envelope(text: str, changes: dict[str, Any]) -> None:
    mail = Mail(text)
    assert mail.refusal == ""
    assert facts(mail.envelope) == {**facts(Envelope()), **changes}


@pytest.mark.parametrize(("text", "dsn"), [
    (" NOTIFY=NEVER", RecipientDsn(("NEVER",))),
    (" notify=Success,FAILURE,delay", RecipientDsn(("SUCCESS", "FAILURE", "DELAY"))),
    (" NOTIFY=DELAY", RecipientDsn(("DELAY",))),
    (" ORCPT=rfc822;b+2Bc@y.test", RecipientDsn(orcpt="rfc822;b+c@y.test")),
    (" ORCPT=x400;a+3Db;c", RecipientDsn(orcpt="x400;a=b;c")),
    (" ORCPT=rfc822;" + "x" * 493, RecipientDsn(orcpt="rfc822;" + "x" * 493)),
    (r" ORCPT=utf-8;\x{E9}@y.test", RecipientDsn(orcpt="utf-8;é@y.test")),
    (r" ORCPT=UTF-8;\x{e9}\x{2b}\x{1F4E7}\x{10FFFD}@y", RecipientDsn(orcpt="UTF-8;é+\U0001f4e7\U0010fffd@y")),
    (r' ORCPT=utf-8;"\x{20}\x{5C}\x{5c}\x{3D}"@y', RecipientDsn(orcpt=r'utf-8;" \\="@y')),
    (" ORCPT=utf-8;b@c", RecipientDsn(orcpt="utf-8;b@c")),
    (" ORCPT=rfc822;b@c NOTIFY=DELAY", RecipientDsn(("DELAY",), "rfc822;b@c")),
    ("", RecipientDsn()),
])  # fmt: skip
def test_a_parameter_of_rcpt_is_noted_in_the_address(text: str, dsn: RecipientDsn) -> None:
    rcpt = Rcpt(text)
    assert rcpt.refusal == ""
    assert rcpt.address.dsn == dsn


def test_args_are_as_sent_but_for_the_names_and_for_xtext() -> None:
    sent = " size=010 Body=8bitmime smtputf8 requiretls ret=hdrs envid=+41b auth=e+3Dmc2@example.com x-e=1"
    mail = Mail(sent, unknown=True)
    assert mail.refusal == ""
    assert mail.address.args == {
        "SIZE": "010", "BODY": "8bitmime", "SMTPUTF8": True, "REQUIRETLS": True, "RET": "hdrs",
        "ENVID": "Ab", "AUTH": "e=mc2@example.com", "X-E": "1",
    }  # fmt: skip
    rcpt = Rcpt(r" notify=never orcpt=utf-8;\x{E9}@b")
    assert rcpt.address.args == {"NOTIFY": "never", "ORCPT": "utf-8;é@b"}


@pytest.mark.parametrize(("text", "mailbox"), [
    (" AUTH=<>", "<>"),
    (" AUTH=e+3Dmc2@example.com", "e=mc2@example.com"),
    (' AUTH="a+20b"@[IPv6:FE80::1]', '"a b"@[IPv6:FE80::1]'),
    (" AUTH=+C3+A9@b SMTPUTF8", "é@b"),
    (" SMTPUTF8 AUTH=é@ü", "é@ü"),
])  # fmt: skip
def test_auth_is_a_mailbox_or_nobody_and_stands_in_args_alone(text: str, mailbox: str) -> None:
    mail = Mail(text)
    assert (mail.refusal, mail.address.args["AUTH"]) == ("", mailbox)


# --- what they refuse ---------------------------------------------------------------------------


@pytest.mark.parametrize("text", [
    "SIZE=1", "x", ">", "é", "\tSIZE=1", " =1", " X=a=b", " X==", " SIZE=", " NOTIFY=", " -X=1", " X_Y=1",
    " X:1",
    " SIZE=1\tBODY=7BIT", " SIZE=1 SIZE=2", " SIZE=1 size=1", " SMTPUTF8 smtputf8", " X=1 X", " X=1 Y=\x01",
    " X=1 Y=\x7f", " X=1 ", " ", " é", " X=é", " \u017fIZE=1", " X\n", " X=1\n", " X\x00", " SIZE=1 \n",
])  # fmt: skip
def test_faults_of_the_text_come_before_all_that_it_says(text: str) -> None:
    for command in (Mail(text), Mail(text, unknown=True), Rcpt(text), Rcpt(text, unknown=True)):
        assert command.refusal == BAD_SYNTAX


@pytest.mark.parametrize(("text", "refusal"), [
    (" SIZE", BAD_SIZE),
    (" SIZE=-1", BAD_SIZE),
    (" SIZE=+1", BAD_SIZE),
    (" SIZE=1e9", BAD_SIZE),
    (" SIZE=1_0", BAD_SIZE),
    (" SIZE=" + "1" * 21, BAD_SIZE),
    (" SIZE=\u0661 SMTPUTF8", BAD_SIZE),
    (" SIZE=\xb2 SMTPUTF8", BAD_SIZE),
    (" BODY", BAD_BODY),
    (" BODY=BINARYMIME", BAD_BODY),
    (" BODY=7B\u0131T SMTPUTF8", BAD_BODY),
    (" SMTPUTF8=1", BAD_SMTPUTF8),
    (" SMTPUTF8=é", BAD_SMTPUTF8),
    (" REQUIRETLS=1", BAD_REQUIRETLS),
    (" RET", BAD_RET),
    (" RET=BODY", BAD_RET),
    (" RET=HDR\u017f SMTPUTF8", BAD_RET),
    (" ENVID", BAD_ENVID),
    (" ENVID=a+0D", BAD_ENVID),
    (" ENVID=a+0Gb", BAD_ENVID),
    (" ENVID=a+", BAD_ENVID),
    (" ENVID=a+7F", BAD_ENVID),
    (" ENVID=+C3+A9", BAD_ENVID),
    (" ENVID=é SMTPUTF8", BAD_ENVID),
    (" ENVID=" + "x" * 101, BAD_ENVID),
    (" ENVID=" + "+41" * 34, BAD_ENVID),
    (" AUTH", BAD_AUTH),
    (" AUTH=a", BAD_AUTH),
    (" AUTH=<a@b>", BAD_AUTH),
    (" AUTH=+3C+3Ea", BAD_AUTH),
    (" AUTH=a+0D+0Ab", BAD_AUTH),
    (' AUTH="+0D"@b', BAD_AUTH),
    (" AUTH=a+@b", BAD_AUTH),
    (" AUTH=+C3+A9@b", BAD_AUTH),
    (" AUTH=+E2+80+8B@b SMTPUTF8", BAD_AUTH),
])  # fmt: skip
def test_what_parameters_of_mail_do_not_take(text: str, refusal: str) -> None:
    assert Mail(text).refusal == refusal


@pytest.mark.parametrize(("text", "refusal"), [
    (" NOTIFY", BAD_NOTIFY),
    (" NOTIFY=FOO", BAD_NOTIFY),
    (" NOTIFY=SUCCESS,", BAD_NOTIFY),
    (" NOTIFY=,", BAD_NOTIFY),
    (" NOTIFY=DELAY,delay", BAD_NOTIFY),
    (" NOTIFY=NEVER,FOO", BAD_NOTIFY),
    (" NOTIFY=\u017fUCCESS", BAD_NOTIFY),
    (" NOTIFY=NEVER,DELAY", NEVER_ALONE),
    (" NOTIFY=success,never", NEVER_ALONE),
    (" NOTIFY=NEVER,NEVER", NEVER_ALONE),
    (" ORCPT", BAD_ORCPT),
    (" ORCPT=b@c", BAD_ORCPT),
    (" ORCPT=rfc822;", BAD_ORCPT),
    (" ORCPT=;b@c", BAD_ORCPT),
    (" ORCPT=a.b;c", BAD_ORCPT),
    (" ORCPT=é;c", BAD_ORCPT),
    (" ORCPT=rfc822;a+0Ab", BAD_ORCPT),
    (" ORCPT=rfc822;a+00b", BAD_ORCPT),
    (" ORCPT=rfc822;a+", BAD_ORCPT),
    (" ORCPT=rfc822;+E2+80+8B", BAD_ORCPT),
    (" ORCPT=rfc822;" + "x" * 494, BAD_ORCPT),
    (" ORCPT=rfc822;" + "é" * 250, BAD_ORCPT),
    (" ORCPT=utf-8;a+2Bb@c", BAD_ORCPT),
    (" ORCPT=utf-8;nodomain", BAD_ORCPT),
    (r" ORCPT=utf-8;\x{0D}@c", BAD_ORCPT),
    (r" ORCPT=utf-8;\x{41}@c", BAD_ORCPT),
    (r" ORCPT=utf-8;\x{85}@c", BAD_ORCPT),
    (r" ORCPT=utf-8;\x{00E9}@c", BAD_ORCPT),
    (r" ORCPT=utf-8;\x{D800}@c", BAD_ORCPT),
    (r" ORCPT=utf-8;\x{110000}@c", BAD_ORCPT),
    (r" ORCPT=utf-8;\x{200B}@c", BAD_ORCPT),
    (r" ORCPT=utf-8;\xE9@c", BAD_ORCPT),
    (r" ORCPT=utf-8;\x{}@c", BAD_ORCPT),
])  # fmt: skip
def test_what_parameters_of_rcpt_do_not_take(text: str, refusal: str) -> None:
    assert Rcpt(text, utf8=True).refusal == refusal


def test_an_unknown_keyword_is_unsupported_unless_it_is_to_be_kept() -> None:
    for text in (" FOO", " FOO=BAR", " SIZE=x FOO", " NOTIFY=x FOO"):
        assert Mail(text).refusal == UNSUPPORTED
        assert Rcpt(text).refusal == UNSUPPORTED
    kept = {"FOO": True, "BAR": "1;+"}
    assert Mail(" foo Bar=1;+", unknown=True).address.args == kept
    assert Rcpt(" foo Bar=1;+", unknown=True).address.args == kept


def test_keywords_of_mail_are_unknown_to_rcpt_and_the_other_way_round() -> None:
    assert not MAIL_PARAMETERS.keys() & RCPT_PARAMETERS.keys()
    assert {Rcpt(f" {keyword}=x").refusal for keyword in MAIL_PARAMETERS} == {UNSUPPORTED}
    assert {Mail(f" {keyword}=x").refusal for keyword in RCPT_PARAMETERS} == {UNSUPPORTED}


@pytest.mark.parametrize("text", [" SIZE=1", " FOO", " =", "x", " X=é"])
def test_after_helo_there_are_no_parameters(text: str) -> None:
    assert Mail(text, extended=False, unknown=True).refusal == UNSUPPORTED
    assert Rcpt(text, extended=False, unknown=True).refusal == UNSUPPORTED


@pytest.mark.parametrize("text", [" REQUIRETLS", " REQUIRETLS=1", " RET=x REQUIRETLS"])
def test_requiretls_is_not_for_the_clear(text: str) -> None:
    assert Mail(text, secure=False).refusal == NEEDS_TLS


def test_of_several_faults_the_first_in_the_order_of_the_table_is_told() -> None:
    rows = [
        ("SIZE=x", BAD_SIZE), ("BODY=x", BAD_BODY), ("SMTPUTF8=x", BAD_SMTPUTF8),
        ("REQUIRETLS=x", BAD_REQUIRETLS),
        ("RET=x", BAD_RET), ("ENVID=+", BAD_ENVID), ("AUTH=x", BAD_AUTH),
    ]  # fmt: skip
    assert [text.partition("=")[0] for text, _ in rows] == list(MAIL_PARAMETERS)
    for first, (_, refusal) in enumerate(rows):
        assert Mail("".join(f" {text}" for text, _ in reversed(rows[first:]))).refusal == refusal
    assert Rcpt(" ORCPT=x NOTIFY=x").refusal == BAD_NOTIFY


def test_a_value_at_fault_is_501_with_the_code_for_arguments() -> None:
    assert text_of(_fault("Invalid X parameter value")) == "501 5.5.4 Invalid X parameter value"


def test_a_parameter_of_rcpt_leaves_alone_what_another_has_noted() -> None:
    address = Address("a@b")
    for keyword, value in (("ORCPT", "rfc822;b@c"), ("NOTIFY", "delay"), ("ORCPT", "rfc822;b@d")):
        assert RCPT_PARAMETERS[keyword].read(value, address, Envelope()) is None
    assert address.dsn == RecipientDsn(("DELAY",), "rfc822;b@d")
    assert RCPT_PARAMETERS["NOTIFY"].read("NEVER", address, Envelope()) is None
    assert address.dsn == RecipientDsn(("NEVER",), "rfc822;b@d")


# --- beyond ASCII -------------------------------------------------------------------------------


def test_values_beyond_ascii_need_smtputf8() -> None:
    assert Mail(" X=é", unknown=True).refusal == BAD_SYNTAX
    assert Mail(" X=é SMTPUTF8", unknown=True).address.args == {"X": "é", "SMTPUTF8": True}
    assert Rcpt(" X=é", unknown=True).refusal == BAD_SYNTAX
    assert Rcpt(" X=é", unknown=True, utf8=True).address.args == {"X": "é"}
    assert Rcpt(" ORCPT=utf-8;é@b", utf8=True).address.dsn.orcpt == "utf-8;é@b"


def test_rcpt_cannot_give_itself_smtputf8() -> None:
    assert Rcpt(" X=é SMTPUTF8", unknown=True).refusal == BAD_SYNTAX


def test_xtext_of_a_type_other_than_utf_8_needs_smtputf8_for_more_than_ascii() -> None:
    assert Rcpt(" ORCPT=rfc822;+C3+A9@b").refusal == BAD_ORCPT
    assert Rcpt(" ORCPT=rfc822;+C3+A9@b", utf8=True).address.dsn.orcpt == "rfc822;é@b"


@pytest.mark.parametrize("character", "\x00\t\n\r\x1b\x7f\x80\x85\x9f\u200b\u2060\ufeff\ud800")
def test_some_characters_are_never_allowed(character: str) -> None:
    assert Mail(f" SMTPUTF8 X=é{character}", unknown=True).refusal == BAD_SYNTAX
    assert Rcpt(f" X=é{character}b", unknown=True, utf8=True).refusal == BAD_SYNTAX


# --- properties ---------------------------------------------------------------------------------


def spell(args: Mapping[str, Any], known: Container[str], *, utf8: bool) -> str:
    """Write parameters as a client would."""
    return "".join(
        f" {keyword}"
        if value is True
        else f" {keyword}={encode(keyword if keyword in known else '', value, utf8=utf8)}"
        for keyword, value in args.items()
    )


def encode(keyword: str, value: str, *, utf8: bool) -> str:
    kind, semicolon, original = value.partition(";")
    match keyword, kind.lower():
        case "ORCPT", "utf-8":
            return f"{kind};" + "".join(
                rf"\x{{{ord(c):X}}}" if c in " +=\\" or not (utf8 or c.isascii()) else c for c in original
            )
        case "ORCPT", _:
            return kind + semicolon + xtext(original)
        case "AUTH" | "ENVID", _:
            return xtext(value)
        case _:
            return value


def xtext(text: str) -> str:
    return "".join(encode_xtext(c) if c.isascii() else c for c in text)


PIECES = st.sampled_from([
    "SIZE", "BODY", "SMTPUTF8", "RET", "ENVID", "AUTH", "NOTIFY", "ORCPT", "x-own", "=", "=", " ", " ",
    "7BIT", "FULL",
    "NEVER", ",", "DELAY", "rfc822;", "utf-8;", r"\x{E9}", r"\x{1F4E7}", r"\x{20}", "+", "+2B", "+20",
    "+C3+A9", "é", "a",
    "@", ".", "<>", '"', "\\", ";", "1", "\t", "\x85", "\u200b",
])  # fmt: skip
WORDS = st.one_of(
    st.lists(PIECES, max_size=6).map("".join),
    st.builds("SIZE={}".format, st.integers(0, 10**21)),
    st.builds("ENVID={}".format, st.text("ab+20", max_size=12)),
    st.builds("AUTH={}@b".format, st.text("ab+20C3A9é", max_size=12)),
    st.builds("ORCPT=rfc822;{}@b".format, st.lists(PIECES, max_size=4).map("".join)),
    st.builds("ORCPT=utf-8;{}@b".format, st.lists(PIECES, max_size=4).map("".join)),
    st.sampled_from(["SMTPUTF8", "BODY=8BITMIME", "RET=hdrs", "NOTIFY=delay,success", "X=é"]),
)  # fmt: skip
TEXTS = st.lists(WORDS, min_size=1, max_size=4).map(lambda words: "".join(f" {word}" for word in words))


def is_clean(address: Address) -> bool:
    texts = [text for text in (*address.args.values(), *address.args) if text is not True]
    return not any(map(has_forbidden, texts))


@given(text=TEXTS)
def test_what_mail_took_is_clean_and_can_be_said_again(text: str) -> None:
    mail = Mail(text, unknown=True)
    if mail.refusal:
        return
    assert is_clean(mail.address)
    again = Mail(spell(mail.address.args, MAIL_PARAMETERS, utf8=mail.envelope.smtp_utf8), unknown=True)
    assert again.refusal == ""
    assert again.address.args == mail.address.args
    assert facts(again.envelope) == facts(mail.envelope)


@given(text=TEXTS, utf8=st.booleans())
def test_what_rcpt_took_is_clean_and_can_be_said_again(text: str, *, utf8: bool) -> None:
    rcpt = Rcpt(text, unknown=True, utf8=utf8)
    if rcpt.refusal:
        return
    assert is_clean(rcpt.address)
    again = Rcpt(spell(rcpt.address.args, RCPT_PARAMETERS, utf8=utf8), unknown=True, utf8=utf8)
    assert again.refusal == ""
    assert (again.address.args, again.address.dsn) == (rcpt.address.args, rcpt.address.dsn)


@given(text=st.text(st.characters(codec=None), max_size=60))
def test_any_text_has_an_answer(text: str) -> None:
    for command in (Mail(text, unknown=True), Rcpt(text, unknown=True, utf8=True)):
        assert command.refusal[:3] in {"", "501"}


# A reader whose work grows with the square of the text would not come back from these.
@pytest.mark.parametrize("piece", [
    " ", "=", "a", " a", " a=b", " a=", "-", "é", "+", "+41", ",", "NEVER,", ";", "\\", r"\x{", r"\x{E9}",
    "<", "@", "\t",
])  # fmt: skip
def test_long_texts_take_no_more_than_their_length(piece: str) -> None:
    many = piece * 200_000
    for text in (many, f" SIZE={many}", f" ENVID={many}", f" AUTH={many}", f" NOTIFY={many}", f" RET={many}"):
        for command in (Mail(text, unknown=True), Rcpt(text, unknown=True, utf8=True)):
            assert command.refusal or len(command.address.args) == 1
    for kind in ("rfc822", "utf-8"):
        assert Rcpt(f" ORCPT={kind};{many}", utf8=True).refusal


def test_a_thousand_different_keywords_are_a_thousand_args() -> None:
    text = "".join(f" x{number}=1" for number in range(1000))
    assert len(Mail(text, unknown=True).address.args) == 1000
    assert Mail(text).refusal == UNSUPPORTED
