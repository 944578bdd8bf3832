# Every code block of the documentation runs.
#
# Python blocks are programs, and a server among them really receives a message. Console blocks are
# typed in and show what they say. A block of a kind that has no row in RULES fails.

from __future__ import annotations

import itertools
import re
import signal
import subprocess
import sys
import tomllib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

import pytest

from docs.blocks import (
    DOCS,
    ENVIRONMENT,
    PAGES,
    PATIENCE,
    PORT,
    ROOT,
    Block,
    Process,
    Terminals,
    blocks_of,
    commands,
    deliver,
)
from smtpproto_cli._listen import by_table
from smtpproto_cli._settings import Settings
from smtpproto_server.adapting import ServerCore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from smtpproto_server.adapting import ListenerFields

EXAMPLES: Final = sorted((DOCS / "examples").glob("*.py"))
TUTORIALS: Final = [DOCS / "examples" / name for name in ("handler.py", "plain_sockets.py")]
BLOCKS: Final = [block for page in PAGES for block in blocks_of(page)]
TERMINALS: Final = sorted({block.page for block in BLOCKS if block.kind == "console"})

# What tests/real/test_deploying.py asks for.
DEPLOYED: Final = re.findall(
    r'"(run-with-\w+|\w+\.md)"', (ROOT / "tests" / "real" / "test_deploying.py").read_text("utf-8")
)

# Put behind a block that only defines a handler, so that a message goes through it.
SERVE_HANDLER: Final = f"""

import asyncio
from smtpproto_asyncio import SMTPServer

async def main():
    async with SMTPServer(handler=Handler(), auth_optional=True) as server:
        await server.listen({PORT}, "127.0.0.1")
        print("listening on", server.address())
        await asyncio.Event().wait()

asyncio.run(main())
"""


def run_python(text: str, folder: Path) -> list[str]:
    """Run a program to its end, a server until it has received a message; what it printed."""
    if re.search(r"^class Handler\b", text, re.MULTILINE) and PORT not in text:
        text += SERVE_HANDLER
    program = folder / "program.py"
    program.write_text(text.replace(PORT, "0"), "utf-8")
    arguments = [sys.executable, "-W", "error", str(program)]
    if PORT not in text:
        done = subprocess.run(
            arguments,
            cwd=folder,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()
    login = re.search(r"# login: (\S+) (\S+)", text)
    with Process(arguments, folder) as server:
        deliver(server.port, lmtp="lmtp=True" in text, login=(login[1], login[2]) if login else None)
        # It ends as any program does, or on its own.
        assert server.stop(signal.SIGINT) in {-signal.SIGINT, 0}
    return server.lines[1:]


# --- a rule for each kind ---------------------------------------------------------------------------


def python_runs(block: Block, folder: Path) -> None:
    if block.marker is None:
        run_python(block.text, folder)
    else:  # what it needs beside it is there in another test
        compile(block.text, str(block), "exec")
        assert block.marker in DEPLOYED


def toml_is_taken(block: Block, folder: Path) -> None:
    """All of it are options, with values that they take."""
    tomllib.loads(block.text)
    file = folder / "server.toml"
    file.write_text(block.text, "utf-8")
    settings = Settings()
    settings.read_file(file)
    server = ServerCore(replace(settings.options(), cert=None, key=None))
    for table, origin in settings.listeners:
        own: dict[str, Any] = {**by_table(table, origin).own}
        server.check_listener(own.pop("name", ""), cast("ListenerFields", own))


def shell_is_known(block: Block, _folder: Path) -> None:
    """A measurement takes long and has a short run in a test of its own; the rest sets things up."""
    known = 0
    for line in block.text.splitlines():
        for form, is_right in SHELL:
            if match := re.fullmatch(form, line):
                is_right(*match.groups())
                known += 1
    if known < len(block.text.splitlines()):
        set_up_is_what_ci_does(block)


def paths_are_there(paths: str) -> None:
    named = [path for path in paths.split() if not path.startswith("-")]
    assert [path for path in named if not (ROOT / path).exists()] == []


def project_has_these(told: str) -> None:
    """All extras and groups that pip is told to install, and it is told of one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    extras, groups = re.findall(r"'\.\[(\w+)\]'", told), re.findall(r"--group (\w+)", told)
    assert extras or groups
    assert set(extras) <= project["project"]["optional-dependencies"].keys()
    assert set(groups) <= project["dependency-groups"].keys()


def module_takes_these_options(module: str, arguments: str) -> None:
    # A command of the module's has options of its own.
    named = itertools.takewhile(str.isalpha, arguments.split())
    takes_these_options(["-m", module, *named], arguments)


def program_takes_these_options(program: str, arguments: str) -> None:
    takes_these_options([str(ROOT / program)], arguments)


def takes_these_options(program: list[str], arguments: str) -> None:
    said = subprocess.run(
        [sys.executable, *program, "--help"],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert [each for each in arguments.split() if each.startswith("--") and each not in said.stdout] == []


SHELL: Final[tuple[tuple[str, Callable[..., None]], ...]] = (
    (r"\.venv/bin/python (tests/\S+\.py)(.*)", program_takes_these_options),
    (r"\.venv/bin/python -m ([a-z.]+)(.*)", module_takes_these_options),
    (r"\.venv/bin/pytest (tests/.*)", paths_are_there),
    (r"\.venv/bin/pip install ([^&]*)", project_has_these),
)


def set_up_is_what_ci_does(block: Block) -> None:
    """Commands that install things are not run here; CI runs the very same."""
    ci = (ROOT / ".ci" / "run").read_text("utf-8")
    project_has_these(block.text)
    match block.marker:
        case "run-command":
            assert block.text.endswith("&& .venv/bin/smtpproto serve\n")  # run with the terminals of its page
        case "test-command":
            taken = re.search(r"test_command=\$\((awk .*? README\.md)\)", ci, re.DOTALL)
            assert taken is not None
            said = subprocess.run(
                ["bash", "-c", taken[1]], cwd=ROOT, capture_output=True, text=True, check=True
            )
            assert said.stdout == block.text
        case "docs-command":
            assert "--group docs" in ci
            assert re.search(r"\.venv/bin/sphinx-build -W .*docs ", ci)
        case _:
            raise AssertionError(f"{block}: nobody knows what this set-up command is")


def console_begins_with_a_command(block: Block, _folder: Path) -> None:
    """What the commands do is tested with all of their page, below."""
    assert list(commands(block.text))


def included_file_is_an_example(block: Block, _folder: Path) -> None:
    """It is run below or in test_programs.py, as the file that it is."""
    assert block.page.parent / block.kind.split()[1] in EXAMPLES


def included_page_is_there(block: Block, _folder: Path) -> None:
    """It is a page to all other tests."""
    assert block.page.parent / block.kind.split()[1] in PAGES


def foreign_python_compiles(block: Block, _folder: Path) -> None:
    """Code for another library, which is not installed here."""
    compile(block.text, str(block), "exec")


def holds_only_directives(block: Block, _folder: Path) -> None:
    """Content comes from the code; sphinx-build -W looks at it."""
    for line in block.text.splitlines():
        assert re.match(r"\.\. (?:auto\w+|currentmodule)::|   (?::|\.\. auto\w+::)|$", line), line


def is_a_file_of_a_recipe(block: Block, _folder: Path) -> None:
    """tests/real/test_deploying.py tries it with the program it is for."""
    assert re.match(r"(?:#!.*\n)?# /\S+\n", block.text), f"{block} does not say where it goes"
    assert block.page.name in DEPLOYED


def is_a_drawing_or_such_a_file(block: Block, folder: Path) -> None:
    if block.page.name in DEPLOYED:
        is_a_file_of_a_recipe(block, folder)


def is_no_code(_block: Block, _folder: Path) -> None: ...


RULES: Final[Mapping[str, Callable[[Block, Path], None]]] = {
    "python": python_runs,
    "toml": toml_is_taken,
    "sh": shell_is_known,
    "console": console_begins_with_a_command,
    "{literalinclude}": included_file_is_an_example,
    "{include}": included_page_is_there,
    "{code-block} python": foreign_python_compiles,
    "{code-block} text": is_a_drawing_or_such_a_file,
    "{code-block} ini": is_a_file_of_a_recipe,
    "{code-block} sh": is_a_file_of_a_recipe,
    "{eval-rst}": holds_only_directives,
    "{toctree}": is_no_code,
    "{options-table}": is_no_code,
    "{events-table}": is_no_code,
    "{steps-table}": is_no_code,
    "{commands-table}": is_no_code,
    "{unreleased}": is_no_code,
}


def rule_of(kind: str) -> Callable[[Block, Path], None] | None:
    first = kind.partition(" ")[0]
    return RULES.get(kind) or (RULES.get(first) if first in {"{include}", "{literalinclude}"} else None)


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_code_block_does_what_its_page_says(block: Block, tmp_path: Path) -> None:
    rule = rule_of(block.kind)
    assert rule is not None, f"{block}: no rule for a block of the kind {block.kind!r}"
    rule(block, tmp_path)


@pytest.mark.parametrize("page", TERMINALS, ids=lambda page: page.name)
def test_the_terminals_of_a_page_show_what_it_says(page: Path, tmp_path: Path) -> None:
    with Terminals(tmp_path) as terminals:
        for block in blocks_of(page):
            if block.marker == "run-command":
                terminals.run("smtpproto serve", [])
            elif block.kind == "console":
                for command, shown in commands(block.text):
                    terminals.run(command, shown)
        terminals.end()


@pytest.mark.parametrize("example", TUTORIALS, ids=lambda path: path.stem)
def test_an_example_receives_a_message(example: Path, tmp_path: Path) -> None:
    assert run_python(example.read_text("utf-8"), tmp_path) == ["22 octets from <a@example.com>"]


def test_a_server_on_plain_sockets_takes_no_more_than_forty_lines_and_no_adapter() -> None:
    text = (DOCS / "examples" / "plain_sockets.py").read_text("utf-8")
    assert len(text.splitlines()) <= 40
    assert not re.search(r"smtpproto_\w+|asyncio", text)


def test_the_readme_shows_the_examples_as_they_are() -> None:
    python = [block.text for block in BLOCKS if block.page == ROOT / "README.md" and block.kind == "python"]
    shown = [text for text in python if "\ndef test_" not in text]  # pytest runs those
    assert sorted(shown) == sorted(example.read_text("utf-8") for example in TUTORIALS)


def test_every_example_stands_on_a_page() -> None:
    included = {
        block.page.parent / block.kind.split()[1]
        for block in BLOCKS
        if block.kind.startswith("{literalinclude}")
    }
    assert included == set(EXAMPLES)


def test_a_block_of_an_unknown_kind_has_no_rule() -> None:
    assert rule_of("ruby") is None
    assert rule_of("") is None


@pytest.mark.parametrize("text", ["    indented()\n", "```python\nopen_to_the_end()\n"])
def test_a_block_that_could_hide_from_these_tests_is_a_fault(text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(AssertionError, match=r"use a fence|no end"):
        list(blocks_of(page))
