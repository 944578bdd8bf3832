# What the pages say is what the code does: options, hooks, RFCs, links, fragments.

from __future__ import annotations

import importlib
import re
import runpy
import sys
import tomllib
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

import pytest

import smtpproto
from docs.blocks import DOCS, PAGES, ROOT
from smtpproto._catalogue import MESSAGE_REFUSED, RECIPIENT_OK
from smtpproto_kit import RUNTIMES, runtime_named
from smtpproto_server import Options
from smtpproto_server.adapting import EVENTS, HOOKS, OPTIONAL_HOOKS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OPTIONS: Final = {field.name for field in fields(Options)}
SUPPORTED: Final = (
    "5321", "5322", "1870", "2033", "2034", "2920", "3207", "3461", "3463", "3848", "4616", "4954", "2195",
    "5248", "6152", "6531", "6533", "7504", "7505", "8314", "8689",
)  # fmt: skip
ABSENT: Final = (
    "BDAT", "CHUNKING", "BINARYMIME", "SCRAM", "OAUTHBEARER", "EXTERNAL", "LIMITS", "DELIVERBY",
    "MT-PRIORITY", "FUTURERELEASE",
)  # fmt: skip


def page(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


def section(text: str, title: str) -> str:
    """What stands below a heading, to the next of its height."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def column(text: str, number: int) -> Iterator[str]:
    """The names in code style in one column of the tables of a text."""
    for line in text.splitlines():
        if line.startswith("| `"):
            yield from re.findall(r"`([^`]*)`", line.strip("|").split(" | ")[number])


def names(text: str, number: int) -> set[str]:
    """The same without arguments and values."""
    return {re.match(r"\w*", name)[0] for name in column(text, number)}  # type: ignore[index] # matches always


@pytest.fixture
def facts() -> Iterator[dict[str, Any]]:
    """What the site's tables are made of."""
    folder = str(DOCS / "_ext")
    sys.path.insert(0, folder)
    yield runpy.run_path(f"{folder}/facts.py")
    sys.path.remove(folder)


def test_the_table_of_options_has_a_text_for_each(facts: dict[str, Any]) -> None:
    rows = facts["option_rows"]()
    assert {row.name for row in rows} == OPTIONS
    assert [row.name for row in rows if not (row.text and row.group)] == []


def test_the_table_of_options_tells_the_core_s_from_the_adapters(facts: dict[str, Any]) -> None:
    in_core = {row.name for row in facts["option_rows"]() if row.in_core}
    assert in_core == {field.name for field in fields(smtpproto.ProtocolOptions)}


def test_the_tables_of_events_and_the_reference_have_every_event(facts: dict[str, Any]) -> None:
    events = {
        name
        for name in smtpproto.__all__
        if isinstance(getattr(smtpproto, name), type)
        and issubclass(getattr(smtpproto, name), smtpproto.Event)
    }
    assert {kind.__name__ for kind in facts["event_types"]()} == events - {"Event"}
    assert set(re.findall(r"autoclass:: (\w+)", page("events.md"))) == events | {"IncomingMessage"}


def test_the_table_of_commands_says_what_the_core_says(facts: dict[str, Any]) -> None:
    cells = dict(facts["answers"]())
    assert cells["DATA"][1:] == ["503 5.5.1 Error: need RCPT command"] * 2 + ["→ `DATA`"]
    assert all(cell for row in ("MAIL", "RCPT", "DATA", "AUTH") for cell in cells[row])


def test_every_hook_has_its_row_and_its_arguments() -> None:
    assert names(page("hooks.md").partition("## Further questions")[0], 0) == set(HOOKS)
    assert names(section(page("hooks.md"), "Further questions"), 0) == set(OPTIONAL_HOOKS)


def test_the_replies_that_the_page_of_hooks_names_are_the_core_s() -> None:
    assert f"250 2.1.5 {RECIPIENT_OK.lines[0]}" in page("hooks.md")
    assert f"{MESSAGE_REFUSED.code} {MESSAGE_REFUSED.enhanced}" in page("hooks.md")


def test_every_event_of_the_server_has_its_row() -> None:
    assert names(section(page("server.md"), "Events of the server"), 0) == set(EVENTS)


@pytest.mark.parametrize(
    ("name", "title", "others"),
    [
        ("migrate-seed.md", "Options", {"False", "SSLContext", "SMTP"}),
        ("migrate-aiosmtpd.md", "Parameters", {"SMTPServer", "await", "lmtp"}),
    ],
)
def test_what_options_became_are_options(name: str, title: str, others: set[str]) -> None:
    assert names(section(page(name), title), 1) - others <= OPTIONS


def test_every_camel_case_name_keeps_its_words() -> None:
    for line in section(page("migrate-seed.md"), "Options").splitlines():
        if not line.startswith("| `"):
            continue
        there, here = (re.findall(r"`(\w+)`", cell) for cell in line.strip("|").split(" | ")[:2])
        assert [name.lower() for name in there] == [name.replace("_", "") for name in here]


def test_every_callback_of_the_configuration_page_has_a_hook() -> None:
    table = section(page("migrate-seed.md"), "Callbacks")
    assert names(table, 1) == set(HOOKS)
    assert {name.lower() for name in names(table, 0)} == {hook.replace("_", "") for hook in HOOKS}


def test_every_hook_has_its_place_in_the_table_for_aiosmtpd() -> None:
    table = section(page("migrate-aiosmtpd.md"), "Handler methods")
    named = set(re.findall(r"\bon_\w+", table))
    assert named == {*HOOKS, *OPTIONAL_HOOKS}


def test_the_page_of_adapters_has_every_runtime_with_its_module_and_its_extra() -> None:
    table = page("adapters.md").partition("## What differs")[0]
    assert list(column(table, 0)) == list(RUNTIMES)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for runtime, module, install in zip(*(column(table, number) for number in (0, 2, 3)), strict=True):
        assert runtime_named(runtime).server_class is importlib.import_module(module).SMTPServer
        assert install == ("smtpproto-server" + (f"[{runtime}]" if runtime in extras else ""))


def test_the_tables_of_what_differs_and_what_it_costs_leave_no_runtime_out() -> None:
    differs, costs = (section(page("adapters.md"), title) for title in ("What differs", "What they cost"))
    methods, hooks = (set(column(part, 0)) for part in differs.split("What becomes of a hook"))
    assert methods == hooks == set(column(costs, 0)) == set(RUNTIMES)


def test_the_page_of_adapters_says_which_runtimes_have_coroutines() -> None:
    for line in section(page("adapters.md"), "What differs").partition("With `sync_hooks")[0].splitlines():
        runtimes, methods = (*line.strip("|").split(" | ")[:1], line)
        for runtime in re.findall(r"`(\w+)`", runtimes):
            assert runtime_named(runtime).coroutines == ("| coroutines |" in methods)


@pytest.mark.parametrize("number", SUPPORTED)
def test_the_page_of_rfcs_has_every_rfc_that_is_supported(number: str) -> None:
    assert re.search(rf"RFC {number}\b", page("rfcs.md"))


@pytest.mark.parametrize("extension", ABSENT)
def test_the_page_of_rfcs_says_what_is_not_there(extension: str) -> None:
    assert extension in section(page("rfcs.md"), "Not there")


def test_what_the_page_of_rfcs_says_of_defaults_is_so() -> None:
    text, defaults = page("rfcs.md"), Options(name="mx.test")
    assert (defaults.max_line_length, defaults.max_recipients, defaults.socket_timeout) == (4096, 1000, 60)
    assert "4096 octets" in text
    assert "1000 recipients" in text
    assert "waits 60 seconds" in text
    assert (defaults.max_auth_attempts, defaults.max_unknown_commands) == (3, 10)
    assert "Three failed logins" in text
    assert "Ten unknown commands" in text


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_link_to_a_file_finds_it(path: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text("utf-8"))
    assert [target for target in targets if not (path.parent / target).exists()] == []


def test_the_sections_that_tests_and_the_kit_name_are_on_the_page_of_behaviour() -> None:
    headings = set(re.findall(r"^###? (\d+(?:\.\d+)?) ", page("behaviour.md"), re.MULTILINE))
    rows = (ROOT / "adapters" / "smtpproto_kit" / "_rows.py").read_text("utf-8")
    tests = [
        line
        for path in (ROOT / "tests" / "core").glob("*.py")
        for line in path.read_text("utf-8").splitlines()
        if line.startswith("# ---") or "ehaviour" in line
    ]
    text = re.sub(r"RFC \d+ §[\d.]+", "", "\n".join([rows, *tests]))
    named = set(re.findall(r"§(\d+(?:\.\d+)?)", text))
    assert len(named) > 20
    assert named <= headings


def test_a_fragment_of_the_changelog_has_a_name_that_says_what_it_is() -> None:
    for path in (DOCS / "changes").iterdir():
        assert path.name == "README.md" or re.fullmatch(
            r"\d+\.(feature|fix|change|removal)(\.\d+)?\.md", path.name
        )
