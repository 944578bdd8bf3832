# Options by name and value, text that is shown, and users: what needs no process to be proved.

from __future__ import annotations

import io
import json
import tomllib
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest

from smtpproto_cli._faults import Fault
from smtpproto_cli._journal import PIECE, _indented
from smtpproto_cli._settings import PYTHON_ONLY, Settings
from smtpproto_cli._text import one_line, visible
from smtpproto_server import Options

if TYPE_CHECKING:
    from pathlib import Path

SETTABLE = [spec.name for spec in fields(Options) if spec.name not in PYTHON_ONLY]


def settled(assignment: str) -> Any:
    """What an option comes to."""
    settings = Settings()
    settings.read_assignment(assignment)
    [name] = settings.values
    return getattr(settings.options(), name)


@pytest.mark.parametrize("end", ["", "=="])
def test_a_key_in_the_place_of_an_assignment_is_not_in_the_error(end: str) -> None:
    for line in ("MC4CAQAwBQYDK2VwBCIEI" + "Nq3" * 14 + "A", "-----BEGIN PRIVATE KEY-----\nMC4C"):
        with pytest.raises(Fault) as caught:
            settled(line + end)
        assert "MC4C" not in str(caught.value)


def as_toml(value: object) -> str:
    if value is None:
        return '"none"'
    # For texts, numbers, lists and what is empty, JSON is TOML.
    return json.dumps(value)


@pytest.mark.parametrize("name", SETTABLE)
def test_every_option_that_text_can_say_can_be_set_in_both_ways(name: str, tmp_path: Path) -> None:
    default = getattr(Options(), name)
    if default is None:
        default = {"key": "k", "cert": "c", "ca": "a", "max_version": "TLSv1.3"}.get(name)
    text = as_toml(default)
    assert settled(f"{name}={text}") == default
    config = tmp_path / "config.toml"
    config.write_text(f"{name} = {text}\n")
    settings = Settings()
    settings.read_file(config)
    assert getattr(settings.options(), name) == default


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("size=10", 10),
        ("size = 10_000", 10_000),
        ("size=none", None),
        ("size=None", None),
        ("socket_timeout=0.5", 0.5),
        ("socket_timeout=none", None),
        ("max_allowed_unauthenticated_commands=false", None),
        ("hide_enhancedstatuscodes=none", None),
        ("lmtp=true", True),
        ("lmtp=True", True),
        ("name=mx.example", "mx.example"),
        ('name="mx.example"', "mx.example"),
        ("name=none", "none"),
        ("banner=", ""),
        ("banner=2024", "2024"),
        ("banner=true", "true"),
        ("banner=2024-01-01", "2024-01-01"),
        ("banner=a=b # c", "a=b # c"),
        ("banner=x\nsize = 1", "x size = 1"),
        ("banner=1\nsize = 1", "1 size = 1"),
        ("banner=" + "[" * 10_000, "[" * 10_000),
        ("banner=" + "9" * 5_000, "9" * 5_000),
        ('auth_methods=["plain", "login"]', ("PLAIN", "LOGIN")),
        ("auth_methods=plain, login", ("PLAIN", "LOGIN")),
        ("auth_methods=[]", ()),
        ("disabled_commands=VRFY", ("VRFY",)),
        ("ehlo_keywords=XFOO BAR,XBAZ", ("XFOO BAR", "XBAZ")),
        ("use_proxy=true", True),
        ("use_proxy=10.0.0.0/8,::1", ("10.0.0.0/8", "::1")),
        ("cert=/etc/cert.pem", "/etc/cert.pem"),
        ("ca=none", "none"),
        ('sni_options={"x.test" = {cert = "x.pem"}}', {"x.test": {"cert": "x.pem"}}),
    ],
)  # fmt: skip
def test_a_value_on_the_command_line_is_read_as_the_option_takes_it(assignment: str, value: object) -> None:
    assert settled(assignment) == value
    assert type(settled(assignment)) is type(value)


def test_the_last_of_several_values_counts(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("size = 1\n")
    settings = Settings()
    settings.read_file(config)
    for text in ("size=2", "size=3"):
        settings.read_assignment(text)
    settings.default(size=4, lmtp=True)
    assert (settings.options().size, settings.options().lmtp) == (3, True)


def test_a_fault_names_the_place_that_set_the_value(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("size = 0\n")
    settings = Settings()
    settings.read_file(config)
    with pytest.raises(Fault, match=r"config\.toml: size must be"):
        settings.options()
    settings.read_assignment("size=-1")
    with pytest.raises(Fault, match=r"^--set: size must be"):
        settings.options()


def test_a_fault_without_a_place_stands_for_itself() -> None:
    assert str(Settings().fault(ValueError("size is odd"))) == "size is odd"
    assert str(Settings().fault(ValueError(""))) == ""


@pytest.mark.parametrize(
    "text", ["1979-05-27T07:32:00Z", "07:32:00", "inf", "nan", '"""x"""', "{a=1}", "[[1], {a=2}]", "true"]
)
def test_a_value_of_any_kind_that_toml_has_is_judged(text: str) -> None:
    assert len(tomllib.loads(f"value = {text}")) == 1
    settings = Settings()
    settings.read_assignment(f"size={text}")
    with pytest.raises(Fault, match=r"^--set: size must be"):
        settings.options()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain gr\u00fc\u00df \u65e5\u672c \U0001f600", None),
        ("no\u00a0break\u3000blanks", None),
        ("\x1b[31m", r"\x1b[31m"),
        ("\x00\x07\x08\x7f\x9b", r"\x00\x07\x08\x7f\x9b"),
        ("a\r\nb\tc", r"a\r\nb\tc"),
        ("\u202eevil\u2066\u200b\ufeff", r"\u202eevil\u2066\u200b\ufeff"),
        ("\u2028\u2029\u0085", r"\u2028\u2029\x85"),
        ("\udcff", r"\udcff"),
        ("\\x1b", None),
    ],
)
def test_what_does_not_print_is_shown_escaped(text: str, shown: str | None) -> None:
    assert visible(text) == (text if shown is None else shown)


def test_some_characters_can_be_kept() -> None:
    assert visible("a\tb\nc\x1b", keep="\t\n") == "a\tb\nc\\x1b"


def test_one_line_is_one_line() -> None:
    assert one_line("a\n  b\x1bc\r\u2028d\n") == "a b\\x1bc d"


# --- messages on a screen ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (b"", ""),
        (b"\r\n", "  \n"),
        (b"a\r\n\r\nb\r\n", "  a\n  \n  b\n"),
        (b"a\nb\rc\r\r\n", "  a\\nb\\rc\\r\n"),
        (b"no end", "  no end\n"),
        (b"cr\r", "  cr\\r\n"),
        *((b"x" * n + b"\r\ny\r\n", f"  {'x' * n}\n  y\n") for n in range(PIECE - 3, PIECE + 2)),
        (b"x" * (PIECE - 1) + b"\r\ry\r\n", f"  {'x' * (PIECE - 1)}\\r\\ry\n"),
        (b"x" + "\u00fc".encode() * PIECE + b"\r\n", f"  x{chr(0xFC) * PIECE}\n"),
    ],
)
def test_every_line_of_a_message_is_indented_and_nothing_else_begins_one(message: bytes, shown: str) -> None:
    content = io.BytesIO(message)
    assert "".join(_indented(content)) == shown
    assert not content.closed
