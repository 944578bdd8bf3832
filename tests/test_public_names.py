# The public names: how many there are, that each is in the reference, and that no two are mistaken.

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from smtpproto_server.adapting import ServerCore

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DOCS: Final = Path(__file__).parents[1] / "docs"
ADAPTERS: Final = ("smtpproto_asyncio", "smtpproto_anyio", "smtpproto_gevent", "smtpproto_blocking")
OWN: Final = ("SMTPServer", "serve", "serve_connection")  # what each adapter has of its own
MOST: Final[Mapping[str, int]] = {"smtpproto": 60, "smtpproto_server": 15, **dict.fromkeys(ADAPTERS, 20)}
FOR_AUTHORS: Final = ("smtpproto.extending", "smtpproto_server.adapting")
# What a server has for the connections of its own adapter; neither programs nor authors are told of it.
BETWEEN: Final[Mapping[str, frozenset[str]]] = {
    "smtpproto_asyncio": frozenset({"errors_come_once", "loop", "threads_for"}),
    "smtpproto_anyio": frozenset({"limiter_for", "token", "wake_at"}),
    "smtpproto_gevent": frozenset({"lookups"}),
    "smtpproto_blocking": frozenset(
        {"connect", "ending", "lookups", "pool", "serve", "threads", "timers", "wake", "wake_all"}
    ),
}
DIRECTIVE: Final = re.compile(
    r"^\.\. (currentmodule|autoclass|autofunction|autodata|autoexception):: ([\w.]+)", re.MULTILINE
)


def public(module: str) -> dict[str, Any]:
    """What a module has in `__all__`."""
    found = importlib.import_module(module)
    return {name: getattr(found, name) for name in found.__all__}


def documented() -> Iterator[str]:
    """The names in the reference, each with the module that a page takes it from."""
    for page in DOCS.glob("*.md"):
        module = ""
        for kind, name in DIRECTIVE.findall(page.read_text("utf-8")):
            if kind == "currentmodule":
                module = name
            else:
                yield name if name.count(".") else f"{module}.{name}"


@pytest.mark.parametrize("module", MOST)
def test_a_program_finds_its_way_among_few_names(module: str) -> None:
    assert len(public(module)) <= MOST[module]


@pytest.mark.parametrize("module", [*MOST, *FOR_AUTHORS])
def test_every_public_name_is_in_the_reference_and_says_what_it_is(module: str) -> None:
    reference = {name.rpartition(".")[2] for name in documented()}
    assert set(public(module)) - reference == set()
    mute = [name for name, value in public(module).items() if inspect.isclass(value) and not value.__doc__]
    assert mute == []


def test_the_reference_takes_each_name_from_where_it_is() -> None:
    modules = {name.rpartition(".")[0] for name in documented()}
    there = {f"{module}.{name}" for module in modules for name in dir(importlib.import_module(module))}
    assert set(documented()) - there == set()


@pytest.mark.parametrize("module", [*MOST, *FOR_AUTHORS])
def test_no_name_is_private_or_there_twice(module: str) -> None:
    names = importlib.import_module(module).__all__
    assert sorted(set(names)) == sorted(names)
    assert [name for name in names if name.startswith("_")] == []


def test_two_public_things_of_one_name_are_the_same_thing() -> None:
    known: dict[str, Any] = {}
    for module in (*MOST, *FOR_AUTHORS):
        for name, value in public(module).items():
            if not (module in ADAPTERS and name in OWN):
                assert known.setdefault(name, value) is value, f"{module}.{name}"


@pytest.mark.parametrize("module", ADAPTERS)
def test_all_that_an_adapter_hands_on_has_its_own_name_elsewhere(module: str) -> None:
    others = {**public("smtpproto"), **public("smtpproto_server")}
    assert {
        name: value for name, value in public(module).items() if name not in OWN
    }.items() <= others.items()
    assert set(OWN) <= set(public(module))


def test_the_page_on_what_is_public_names_every_module() -> None:
    page = (DOCS / "stability.md").read_text("utf-8")
    assert [module for module in (*MOST, *FOR_AUTHORS) if f"`{module}`" not in page] == []


def members_in_the_reference() -> set[str]:
    """Of SMTPServer, as programs are told."""
    page = (DOCS / "server.md").read_text("utf-8")
    return set(re.findall(r"^   \.\. auto(?:method|attribute|property):: (\w+)", page, re.MULTILINE))


@pytest.mark.parametrize("module", ADAPTERS)
def test_a_server_has_what_the_reference_says_and_little_else(module: str) -> None:
    kind: type[ServerCore] = importlib.import_module(module).SMTPServer
    members = {name for name in (*dir(kind), *vars(kind())) if not name.startswith("_")}
    assert members_in_the_reference() - members == set()
    for_authors = {*dir(ServerCore), *vars(ServerCore()), *ServerCore.__annotations__}
    own = members - members_in_the_reference() - for_authors
    assert own - BETWEEN[module] == set()
