# ProtocolOptions: what is accepted, in which form it is kept, and what follows from it.

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass, fields
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

import pytest

from smtpproto import ConfigurationError, ProtocolOptions
from smtpproto.extending import Check, Mechanism, Plain, option

if TYPE_CHECKING:
    from smtpproto import Session


def plain(_session: Session) -> Mechanism:
    return Plain()


# What §2 of the behaviour says about each option of the core: its default, good values and how they
# are kept, bad values.
FLAG = ([(True, True), (False, False)], [None, 1, 0, "yes"])
LINE = ([("a", "a"), ("", ""), ("a\r\nb", "a b"), ("é\0", "??")], [None, 1, b"a"])
TIME = ([(None, None), (1, 1.0), (0.5, 0.5)], [0, -1, True, False, "1", float("inf"), float("nan")])
PEERS: tuple[list[tuple[Any, Any]], list[Any]] = (
    [
        (True, True), (False, False), ([], ()),
        (["192.0.2.1", "2001:db8::/32"], ("192.0.2.1", "2001:db8::/32")),
        ((ip_address("::1"), ip_network("10.0.0.0/8")), (ip_address("::1"), ip_network("10.0.0.0/8"))),
    ],
    ["192.0.2.1", b"", None, 1, ["mx.test"], ["192.0.2.0/33"], [1]],
)  # fmt: skip
LIMIT = ([(None, None), (1, 1), (7, 7)], [0, -1, True, 1.0, "1"])

TABLE: dict[str, tuple[Any, list[tuple[Any, Any]], list[Any]]] = {
    "secure": (False, *FLAG),
    "tls_upstream": (False, *FLAG),
    "needs_upgrade": (False, *FLAG),
    "name": ("", *LINE),
    "banner": ("", *LINE),
    "lmtp": (False, *FLAG),
    "helo_response": (
        "%s Nice to meet you, %s", [("", "%s Nice to meet you, %s"), ("a\nb", "a b")], [None, 1]
    ),
    "ehlo_keywords": (
        (), [(["X-A", "XB 1 2"], ("X-A", "XB 1 2"))], ["X-A", ["-A"], ["A\r\nB"], [""], [1], 1]
    ),
    "auth_methods": (
        ("PLAIN", "LOGIN"),
        [([" xoauth2", "cram-md5 ", "Plain", "PLAIN"], ("XOAUTH2", "CRAM-MD5", "PLAIN")), ([], ())],
        ["PLAIN", b"PLAIN", None, [1], ["SCRAM-SHA-1"], [""]],
    ),
    "auth_optional": (False, *FLAG),
    "allow_insecure_auth": (False, *FLAG),
    "auth_required_message": ("Error: authentication Required", *LINE),
    "max_auth_attempts": (3, *LIMIT),
    "sasl_mechanisms": (
        {},
        [({" x-plain": plain}, {"X-PLAIN": plain})],
        [None, 1, {"X PLAIN": plain}, {"X": 1}, {"X" * 21: plain}, ["X"]],
    ),
    "hide_pipelining": (False, *FLAG),
    "hide_8bitmime": (False, *FLAG),
    "hide_smtputf8": (False, *FLAG),
    "hide_enhancedstatuscodes": (None, [(None, None), (True, True), (False, False)], [0, "no"]),
    "hide_dsn": (True, *FLAG),
    "hide_starttls": (False, *FLAG),
    "hide_requiretls": (True, *FLAG),
    "hide_size": (False, *FLAG),
    "disabled_commands": ((), [([" vrfy", "VRFY", "Help"], ("VRFY", "HELP"))], ["VRFY", None, [None]]),
    "size": (None, *LIMIT),
    "enforce_size": (True, *FLAG),
    "socket_timeout": (60.0, *TIME),
    "command_timeout": (300.0, *TIME),
    "greeting_timeout": (30.0, *TIME),
    "proxy_timeout": (5.0, *TIME),
    "tls_handshake_timeout": (30.0, *TIME),
    "data_timeout": (3600.0, *TIME),
    "min_data_rate": (100.0, *TIME),
    "session_timeout": (3600.0, *TIME),
    "max_allowed_unauthenticated_commands": (
        10, [(False, None), (None, None), (1, 1)], [0, -1, True, 1.5, "3"]
    ),
    "max_unknown_commands": (10, *LIMIT),
    "max_recipients": (1000, *LIMIT),
    "max_line_length": (4096, [(512, 512), (10_000, 10_000)], [511, None, True, 512.0]),
    "max_auth_line_length": (12288, [(12288, 12288)], [12287, None]),
    "bare_newlines": ("reject", [("accept", "accept"), ("reject", "reject")], ["Reject", None, True]),
    "unknown_parameters": ("reject", [("accept", "accept"), ("reject", "reject")], ["", None]),
    "require_smtputf8": (True, *FLAG),
    "lenient_addresses": (False, *FLAG),
    "use_proxy": (False, *PEERS),
    "use_xclient": (False, *PEERS),
    "use_xforward": (False, *PEERS),
}  # fmt: skip


def test_the_table_names_every_option() -> None:
    assert {field.name for field in fields(ProtocolOptions)} == set(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_an_option_has_its_default(name: str) -> None:
    assert getattr(ProtocolOptions(), name) == TABLE[name][0]


@pytest.mark.parametrize(
    ("name", "given", "kept"), [(name, *good) for name, (_, goods, _) in TABLE.items() for good in goods]
)
def test_an_option_is_kept_in_one_form(name: str, given: Any, kept: Any) -> None:
    value = getattr(ProtocolOptions(**{name: given}), name)
    assert value == kept
    assert type(value) is type(kept)


@pytest.mark.parametrize(
    ("name", "bad"), [(name, bad) for name, (_, _, bads) in TABLE.items() for bad in bads]
)
def test_a_wrong_value_raises_and_names_the_option(name: str, bad: Any) -> None:
    with pytest.raises(ValueError, match=rf"\A{name} "):
        ProtocolOptions(**{name: bad})


@pytest.mark.parametrize(
    "bad",
    [{"auth_methods": ["SCRAM-SHA-1"]}, {"auth_methods": ["PLAIN", "X"], "sasl_mechanisms": {"Y": plain}}],
)
def test_an_unknown_mechanism_is_named(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"auth_methods names '(SCRAM-SHA-1|X)', which is neither one of"):
        ProtocolOptions(**bad)


def test_a_registered_mechanism_may_be_listed() -> None:
    assert ProtocolOptions(auth_methods=("x-plain",), sasl_mechanisms={"X-PLAIN": plain}).auth_methods == (
        "X-PLAIN",
    )


def test_an_unknown_name_raises() -> None:
    with pytest.raises(TypeError, match="hide_everything"):
        ProtocolOptions(hide_everything=True)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue] - the point


def test_options_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        ProtocolOptions().size = 1  # type: ignore[misc] # pyright: ignore[reportAttributeAccessIssue] - the point


def test_needs_upgrade_needs_starttls() -> None:
    with pytest.raises(ConfigurationError, match=r"needs_upgrade .* disabled_commands"):
        ProtocolOptions(needs_upgrade=True, disabled_commands=("starttls",))
    ProtocolOptions(needs_upgrade=True, disabled_commands=("STARTTLS",), secure=True)
    ProtocolOptions(needs_upgrade=True, disabled_commands=("STARTTLS",), tls_upstream=True)


# --- for options of adapters --------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class MoreOptions(ProtocolOptions):
    patience: float = option(Check.seconds, 1.0)
    handler: object = None


def test_a_subclass_adds_options_with_the_same_checks() -> None:
    assert MoreOptions(patience=2, handler=plain, size=5) == MoreOptions(patience=2.0, handler=plain, size=5)
    with pytest.raises(ValueError, match="patience must be a number"):
        MoreOptions(patience=-1)


def test_an_option_has_its_default_and_its_check() -> None:
    made = option(Check.seconds, 1.5)
    assert (made.default, dict(made.metadata)) == (1.5, {"check": Check.seconds})


def test_an_option_is_shown_unless_it_is_secret() -> None:
    @dataclass(frozen=True, kw_only=True, eq=False)
    class Keys(ProtocolOptions):
        label: str = option(Check.line, "none")
        key: str = option(Check.line, "none", secret=True)

    shown = repr(Keys(label="visible", key="hidden"))
    assert "label='visible'" in shown
    assert "hidden" not in shown
    wrong: Any = b"hidden"
    with pytest.raises(ValueError, match=r"\Alabel must be text, not b'hidden'\Z"):
        Keys(label=wrong)
    with pytest.raises(ValueError, match=r"\Akey must be text, not bytes\Z"):
        Keys(key=wrong)


def test_an_option_behind_one_without_a_check_is_checked() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Mixed(ProtocolOptions):
        handler: object = None
        patience: float = option(Check.seconds, 1.0)

    with pytest.raises(ValueError, match="patience must be a number"):
        Mixed(patience=-1)


def test_seconds_may_be_nothing_but_not_less() -> None:
    assert Check.seconds(0) == 0.0
    assert Check.seconds(2) == 2.0
    for bad in (-0.1, None, True, "1", float("inf"), float("nan")):
        with pytest.raises(ValueError, match="0 or more"):
            Check.seconds(bad)


# --- what follows -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "coded"),
    [
        ({}, False), ({"lmtp": True}, True),
        ({"hide_enhancedstatuscodes": False}, True), ({"hide_enhancedstatuscodes": True}, False),
        ({"lmtp": True, "hide_enhancedstatuscodes": True}, False),
    ],
)  # fmt: skip
def test_enhanced_codes_are_on_in_lmtp_only_unless_said(options: dict[str, Any], *, coded: bool) -> None:
    assert ProtocolOptions(**options).coded is coded


@pytest.mark.parametrize(
    ("options", "exists", "required"),
    [
        ({}, True, True), ({"auth_optional": True}, True, False), ({"auth_methods": ()}, False, False),
        ({"disabled_commands": ("auth",)}, False, False),
    ],
)  # fmt: skip
def test_without_auth_no_login_is_required(options: dict[str, Any], *, exists: bool, required: bool) -> None:
    made = ProtocolOptions(**options)
    assert (made.has_auth, made.login_required) == (exists, required)
    assert ("AUTH" in made.absent_commands) is not exists


def test_the_other_protocols_hello_is_absent() -> None:
    assert ProtocolOptions().absent_commands == {"LHLO"}
    assert ProtocolOptions(lmtp=True, disabled_commands=("vrfy",)).absent_commands == {"HELO", "EHLO", "VRFY"}


@pytest.mark.parametrize(
    ("options", "greeting"),
    [
        ({}, "localhost ESMTP"), ({"name": "mx.test"}, "mx.test ESMTP"),
        ({"name": "mx.test", "banner": "hello\nthere"}, "mx.test ESMTP hello there"),
        ({"name": "mx.test", "lmtp": True}, "mx.test LMTP"),
    ],
)  # fmt: skip
def test_the_greeting_names_server_and_protocol(options: dict[str, Any], greeting: str) -> None:
    assert ProtocolOptions(**options).greeting == greeting


def test_lists_of_peers_are_read_once() -> None:
    options = ProtocolOptions(use_proxy=["10.0.0.0/8"], use_xclient=True)
    assert "10.1.2.3" in options.proxy_peers
    assert "" in options.xclient_peers
    assert "10.1.2.3" not in options.xforward_peers
    assert options.proxy_peers is options.proxy_peers
