# The core against a second server (fuzz/model.py) that was written from the specification alone.
#
# What the two say, hand over and remember must be the same. Where they differ, one of them is wrong,
# and the specification tells which; the model itself is held to the conformance rows and literals.
#
# The long run, so many examples of each search, other ones each time:  python tests/core/test_model.py 50000

from __future__ import annotations

import argparse
import sys
import time
from itertools import chain, count
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fuzz.model import Message, Prediction, Say, agrees, predict
from smtpproto import (
    ACCEPT,
    Accept,
    AuthRequested,
    ConnectRequested,
    DataChunk,
    DataFinished,
    DataStarted,
    Event,
    MailRequested,
    ProtocolOptions,
    RcptRequested,
    Reject,
    SecureRequested,
)
from smtpproto.testing import Outcome, drive
from smtpproto.testing import strategies as kit
from smtpproto_kit._rows import played, scenario
from smtpproto_kit._scenarios import Action, Expectation, judge

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Facts = tuple[str, dict[str, Any], dict[str, Any], list[Any]]


# --- decisions ------------------------------------------------------------------------------------

KINDS: Final[dict[type[Event], str]] = {
    ConnectRequested: "connect", SecureRequested: "secure", AuthRequested: "auth", MailRequested: "mail",
    RcptRequested: "rcpt", DataFinished: "data",
}  # fmt: skip
YES: Final = (ACCEPT, Say())
NO: Final = [
    (Reject(), Say(yes=False)),
    (Reject(451), Say(yes=False, code=451)),
    (Reject(550), Say(yes=False, code=550)),
    (Reject(text="é\r\n5.7.1 x"), Say(yes=False, text="é\r\n5.7.1 x")),
    (Reject(text="5.7.1 Not from you"), Say(yes=False, text="5.7.1 Not from you")),
    (Reject(421), Say(yes=False, code=421)),
]
EACH: Final = [YES, (Reject(452), Say(yes=False, code=452))]
CHOICES: Final[dict[str, list[tuple[Any, Any]]]] = {
    "connect": [YES] * 30 + NO,
    "secure": [YES] * 20 + NO,
    "auth": [YES] * 4 + [(Accept(), Say(login=False)), *NO],
    "mail": [YES] * 9 + NO,
    "rcpt": [YES] * 9 + [(Accept(251, text="é later"), Say(code=251, text="é later")), *NO],
    "data": [YES] * 3 + [(Accept(text="as 1"), Say(text="as 1")), (EACH, EACH), *NO],
}
picks = st.lists(st.integers(0, 100), max_size=20)


def choice(picked: Sequence[int], kind: str, number: int) -> tuple[Any, Any]:
    """What both decide: the choice picked, and yes when the picks are used up."""
    choices = CHOICES[kind]
    return choices[picked[number] % len(choices)] if number < len(picked) else choices[0]


def of_the_model(picked: Sequence[int], *, lmtp: bool) -> Callable[[str, int], Any]:
    def decide(kind: str, number: int) -> Any:
        said = choice(picked, kind, number)[1]
        if said is EACH:
            return [each for _, each in EACH] if lmtp else Say()
        return said

    return decide


class Application:
    """The decisions for the core, and the envelope of every message as it was when it ended."""

    def __init__(self, picked: Sequence[int]) -> None:
        self.picked = picked
        self.turn = count()
        self.session: Any = None
        self.envelopes: list[Facts] = []

    def decide(self, event: Any) -> Any:
        if isinstance(event, ConnectRequested):
            self.session = event.session
        if isinstance(event, DataFinished):
            self.envelopes.append(envelope_facts(self.session.envelope))
        said = choice(self.picked, KINDS[type(event)], next(self.turn))[0]
        if said is EACH:
            each = [EACH[i % 2][0] for i in range(len(self.session.envelope.rcpt_to))]
            return each if self.session.lmtp else ACCEPT
        return said


# --- the two of them ------------------------------------------------------------------------------

TALKATIVE: Final[dict[str, Any]] = {
    "name": "mx.test", "auth_methods": ("PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2"), "max_line_length": 512,
    "auth_optional": True, "allow_insecure_auth": True, "hide_enhancedstatuscodes": False,
}  # fmt: skip
REMEMBERED: Final = (
    "opening_command", "host_name_appears_as", "user", "secure", "transaction", "transmission_type",
    "remote_address", "remote_port", "client_hostname", "xclient", "xforward",
)  # fmt: skip


def insist(
    said: Sequence[bytes], fields: dict[str, Any], picked: Sequence[int] = (), *, tls: bool = True
) -> None:
    """Both come to the same. Segments are sent whole: octets behind STARTTLS are an attack."""
    fields = TALKATIVE | fields
    application = Application(picked)
    answers = dict.fromkeys(KINDS, application.decide)
    outcome = drive([[part] for part in said], ProtocolOptions(**fields), answers, tls_available=tls)
    core = of_the_outcome(outcome, application.envelopes)
    model = predict(said, fields, of_the_model(picked, lmtp=bool(fields.get("lmtp"))), tls=tls)
    assert agrees(core.replies, model.replies), f"{core.replies}\nmodel:\n{model.replies}"
    assert core[1:] == model[1:]


def of_the_outcome(outcome: Outcome, envelopes: list[Facts]) -> Prediction:
    facts = {name: getattr(outcome.session, name) for name in REMEMBERED}
    facts["xclient"] = {name: value for name, value in facts["xclient"].items() if ":DEFAULT" not in name}
    return Prediction(outcome.replies, messages(outcome, envelopes), outcome.closed is not None, facts)


def messages(outcome: Outcome, envelopes: list[Facts]) -> list[Message]:
    whole: list[Message] = []
    data = b""
    for event in outcome.events:
        if isinstance(event, DataStarted):
            data = b""
        elif isinstance(event, DataChunk):
            data += event.data
        elif isinstance(event, DataFinished):
            refusal = str(event.refusal.code) if event.refusal else None
            whole.append(
                Message(*envelopes[len(whole)], data, event.byte_length, event.size_exceeded, refusal)
            )
    return whole


def envelope_facts(envelope: Any) -> Facts:
    facts = {
        "body_type": envelope.body_type, "smtp_utf8": envelope.smtp_utf8,
        "require_tls": envelope.require_tls, "declared_size": envelope.declared_size,
        "ret": envelope.dsn.ret, "envid": envelope.dsn.envid,
    }  # fmt: skip
    rcpt_to = [
        (each.address, dict(each.args), each.dsn.notify and [*each.dsn.notify], each.dsn.orcpt)
        for each in envelope.rcpt_to
    ]
    return (envelope.mail_from.address, dict(envelope.mail_from.args), facts, rcpt_to)


# --- sessions -------------------------------------------------------------------------------------

more_options = st.fixed_dictionaries(
    {},
    optional={
        "tls_upstream": st.booleans(),
        "hide_dsn": st.booleans(),
        "hide_requiretls": st.booleans(),
        "hide_size": st.booleans(),
        "hide_starttls": st.booleans(),
        "hide_pipelining": st.booleans(),
        "require_smtputf8": st.booleans(),
        "lenient_addresses": st.booleans(),
        "auth_methods": st.sampled_from([(), ("LOGIN",), (" plain",)]),
        "banner": st.just("hi"),
        "helo_response": st.sampled_from(["%s", "%s %s %s", "hello"]),
        "max_recipients": st.none(),
        "max_unknown_commands": st.none(),
        "max_allowed_unauthenticated_commands": st.sampled_from([None, False]),
    },
)
options: st.SearchStrategy[kit.Fields] = st.tuples(kit.options, more_options).map(lambda two: two[0] | two[1])


def spoken(session: kit.Said, fields: dict[str, Any]) -> list[bytes]:
    return [b"".join(part) for part in (kit.in_lmtp(session) if fields.get("lmtp") else session)]


@given(kit.sessions, options, picks, st.booleans())
@example([[kit.EHLO, b"AUTH XOAUTH2 dXNlcj11AWF1dGg9QmVhcmVyIHQBAQ==\r\n", b"\xc3\r\n"]], {}, [0, 5], True)
@example([[b"XCLIENT LOGIN=u\r\n"]], {"use_xclient": True}, [0, 6], True)
def test_the_core_does_what_the_specification_says(
    session: kit.Said, fields: dict[str, Any], picked: list[int], tls: bool
) -> None:
    tls = tls or bool(fields.get("needs_upgrade"))
    insist(spoken(session, fields), fields, picked, tls=tls)


@given(st.lists(kit.items, max_size=5), st.binary(max_size=8), options, picks)
def test_octets_behind_starttls_do_what_the_specification_says(
    before: list[kit.Lines], behind: bytes, fields: dict[str, Any], picked: list[int]
) -> None:
    said = [kit.EHLO, *chain.from_iterable(before), kit.STARTTLS, behind]
    insist(spoken([said], fields), fields, picked)


X: Final = "a@x.test"
MORE_PARAMETERS: Final = [
    "SIZE=" + "9" * 20, "SIZE=" + "9" * 21, "SIZE=1e9", "BODY=BINARYMIME", "BODY", "SMTPUTF8=1", "RET=x",
    "ENVID=" + "a" * 100, "ENVID=" + "a" * 101, "ENVID=+7F", "AUTH=a", f"AUTH=@r.test:{X}", "AUTH=+C3+A9@x",
    "NOTIFY=never,DELAY", "NOTIFY=never,never", "NOTIFY=success,success", "NOTIFY=SUCCESS,", "ORCPT=b@c",
    "ORCPT=rfc822;" + "a" * 493, "ORCPT=rfc822;" + "a" * 494, "ORCPT=rfc822;+C3+A9", r"ORCPT=utf-8;\x{20}",
    r'ORCPT=utf-8;"a\x{20}b"@x', r"ORCPT=utf-8;\x{85}@x", r"ORCPT=utf-8;\x{D800}@x", r"ORCPT=utf-8;\x{41}@x",
    r"ORCPT=utf-8;\x{10FFFF}@x", r"ORCPT=utf-8;\x{110000}@x", "ORCPT=utf-8;a", "\u017fIZE=1", "S\u0130ZE=1",
]  # fmt: skip
MORE_ADDRESSES: Final = [
    "a" * 63 + "@x", "x@" + "a" * 63, "x@" + "a" * 64, "x@" + "é" * 31, "x@" + "é" * 32, "a" * 252 + "@x",
    "a" * 253 + "@x", "a@[1.2.3.04]", "a@[IPv6:::ffff:192.0.2.1]", "a@[IPv6:fe80::1%1]", "a@[tag:x]", "(@x",
    "@r.test,@s.test:a@x", "@-r:a@x", "POSTMASTER", "", "a@b_c.test", "a\u200b@x", '""@x', '"\\é"@x',
    "a@x\u0131",
]  # fmt: skip
transactions = st.builds(
    "MAIL FROM:<{}>{}\r\nRSET\r\nMAIL FROM:<a@x.test>{}\r\n{}<{}>{}\r\nDATA\r\n.\r\n".format,
    kit.addresses | st.sampled_from(MORE_ADDRESSES),
    kit.parameters | st.sampled_from(MORE_PARAMETERS).map(" {}".format),
    st.sampled_from(["", " SMTPUTF8"]),
    st.sampled_from(["RCPT TO:"] * 6 + ["rcpt to: ", "RCPT  TO:", "RCPT TO :"]),
    kit.addresses | st.sampled_from(MORE_ADDRESSES),
    kit.parameters | st.sampled_from(MORE_PARAMETERS).map("  {} ".format) | st.sampled_from(["X", "\tX"]),
)


@given(st.lists(transactions, min_size=1, max_size=3), st.sampled_from(["EHLO", "EHLO", "HELO"]), options)
def test_addresses_and_parameters_are_read_as_the_specification_says(
    said: list[str], hello: str, fields: dict[str, Any]
) -> None:
    verb = "LHLO" if fields.get("lmtp") else hello
    fields = fields | {"auth_optional": True, "needs_upgrade": False, "max_unknown_commands": None}
    insist([f"{verb} c.test\r\n{''.join(said)}".encode()], fields)


SPOILT: Final = [
    b"NOOP \0", b"NOOP\r", b"a\nb", b"NOOP \xff", b"NOOP \x7f", "R\u017fET".encode(), b"NOOP\tx", b"NOOP",
    *[b"NOOP " + b"x" * size for size in (505, 506, 2000, 4091, 5000)],
    b"AUTH PLAIN", b"AUTH PLAIN", b"AHUAcA==", b"\0", b"AUTH LOGIN " + b"x" * 12275,
    b"x" * 12291, b"x" * 98305,
]  # fmt: skip
RESTS: Final = [
    b"",
    b"\r\n",
    b"\r",
    b"NOOP",
    *[b"x" * size for size in (511, 512, 513, 4097)],
    b"\xc3",
    b"\0",
]


@given(st.lists(st.sampled_from(SPOILT), max_size=6), st.sampled_from(RESTS), options)
def test_lines_that_cannot_be_get_what_the_specification_says(
    said: list[bytes], rest: bytes, fields: dict[str, Any]
) -> None:
    insist([b"\r\n".join([*spoken([[kit.EHLO[:-2]]], {}), *said, rest])], fields)


@given(st.lists(kit.sasl_exchanges | st.just([kit.EHLO]), min_size=1, max_size=6), options, picks)
def test_logins_go_as_the_specification_says(
    exchanges: list[kit.Lines], fields: dict[str, Any], picked: list[int]
) -> None:
    insist(spoken([[kit.EHLO], *exchanges], fields), fields | {"auth_optional": False}, picked)


# --- the model itself -----------------------------------------------------------------------------

# Whose password it is the model does not see, nor what is said where a handshake belongs.
BEYOND: Final = {"C229", "C257", "C259", "C260", "C262", "C284"}


def told_by_octets(row: str) -> bool:
    scene = scenario(row)
    steps = [step for turn in scene.turns for step in turn.steps]
    usual = scene.recipe.tls_available and not scene.recipe.early and not scene.recipe.hooks
    named = {name for name, value in scene.options.items() if value is not True and name.startswith("use_x")}
    left_out = named | {name for name in ("use_proxy", "secure") if scene.options.get(name)}
    only_octets = all(isinstance(step, bytes) or step is Action.TLS for step in steps)
    return usual and only_octets and not left_out and row not in BEYOND


ROWS: Final = [row for row in played() if told_by_octets(row)]


@pytest.mark.parametrize("row", ROWS)
def test_the_model_answers_as_the_conformance_row_says(row: str) -> None:
    scene = scenario(row)
    said = [step for turn in scene.turns for step in turn.steps if isinstance(step, bytes)]
    expected = Expectation(
        tuple(chain.from_iterable(turn.expected.replies for turn in scene.turns)),
        any(turn.expected.close for turn in scene.turns),
    )
    predicted = predict(said, {"name": "mx.test"} | dict(scene.options))
    replies = [reply.replace("…", "x") for reply in predicted.replies]
    judge(expected, replies, closed=predicted.closed)
    if scene.recipe.says:
        assert replies[-1] == scene.recipe.says
    assert [each.data for each in predicted.messages if not each.refusal] == [
        each.data for each in scene.recipe.messages
    ] or not scene.recipe.messages


def test_most_rows_are_played_against_the_model() -> None:
    assert len(ROWS) > 100


@given(st.lists(st.binary(max_size=60)), options, picks)
def test_no_octets_make_the_model_raise(said: list[bytes], fields: dict[str, Any], picked: list[int]) -> None:
    insist(said, fields, picked)


def test_a_reply_that_the_specification_leaves_open_agrees_by_its_codes() -> None:
    assert agrees(["501 5.5.4 some words"], ["501 5.5.4 …"])
    assert not agrees(["501 5.5.2 some words"], ["501 5.5.4 …"])
    assert not agrees(["250 OK", "250 OK"], ["250 OK"])
    assert not agrees(["250 OK."], ["250 OK"])


def test_a_core_that_differs_is_noticed() -> None:
    said = [b"EHLO c.test\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nDATA\r\n..\r\n.\r\n"]
    for wrong in ({"lmtp": True}, {"size": 1}, {"name": "other.test"}):
        outcome = drive([said], ProtocolOptions(**TALKATIVE), {})
        assert not agrees(outcome.replies, predict(said, TALKATIVE | wrong).replies)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Play so many examples of each search, other ones each time."
    )
    parser.add_argument("examples", type=int)
    long = settings(deadline=None, database=None, max_examples=parser.parse_args().examples)
    for search in (
        test_the_core_does_what_the_specification_says,
        test_octets_behind_starttls_do_what_the_specification_says,
        test_addresses_and_parameters_are_read_as_the_specification_says,
        test_lines_that_cannot_be_get_what_the_specification_says,
        test_logins_go_as_the_specification_says,
        test_no_octets_make_the_model_raise,
    ):
        began = time.monotonic()
        long(search)()
        sys.stdout.write(f"{search.__name__}: {time.monotonic() - began:.0f} s, nothing found\n")
