# Who may import whom.
#
# The core is built in floors and imports go downwards only; what stands on it uses its public names;
# adapters never meet. Nothing is imported to check that: source is read, so that imports which run
# seldom are seen as well.

from __future__ import annotations

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT: Final = Path(__file__).parent.parent
CORE_FILES: Final = sorted((ROOT / "smtpproto").glob("*.py"))
# The test kit lies in the core's folder and is no part of it: it stands beside the adapters.
ADAPTER_FILES: Final = sorted([*(ROOT / "adapters").rglob("*.py"), *(ROOT / "smtpproto").glob("*/*.py")])

FLOORS: Final = (
    ("_values",),
    ("_catalogue", "_errors", "_grammar", "_peers", "_reply", "_tls"),  # values
    ("_address", "_decisions", "_events", "_parameters", "_session", "_xclient"),  # what is said
    ("_body", "_buffer", "_options", "_proxy", "_sasl", "_state"),  # small machines, each testable alone
    ("_core",),  # what one connection knows
    ("_commands", "_identity", "_login", "_message", "_opening"),  # what the verbs do
    ("_answers",),  # what decisions do
    ("_engine",),  # joins them: reads and asks
    ("_connection",),  # makes events of what is asked
    ("__init__", "extending"),
)
FLOOR: Final = {name: number for number, floor in enumerate(FLOORS) for name in floor}

# All that the core may have from outside: no clock, no chance, no file, no socket, no thread, no log.
CORE_MAY: Final = frozenset({
    "__future__", "base64", "binascii", "collections.abc", "copy", "dataclasses", "enum", "functools",
    "hashlib", "hmac", "inspect", "ipaddress", "json", "operator", "re", "types", "typing", "unicodedata",
})  # fmt: skip
CORE_MUST_NOT_CALL: Final = frozenset({"__import__", "input", "open", "print"})

LIBRARIES: Final[Mapping[str, frozenset[str]]] = {  # the I/O library of each package, if it has one
    "smtpproto_server": frozenset(),
    "smtpproto_asyncio": frozenset({"asyncio"}),
    "smtpproto_anyio": frozenset({"anyio", "sniffio"}),
    "smtpproto_gevent": frozenset({"gevent"}),
    "smtpproto_blocking": frozenset(),
    "smtpproto_cli": frozenset({"anyio", "asyncio", "click", "gevent", "rich"}),
    "smtpproto_kit": frozenset({"asyncio", "cryptography", "pytest", "trustme"}),
    "smtpproto_pytest": frozenset({"pytest", "smtpproto_kit"}),
    "smtpproto_conformance": frozenset(),
    "testing": frozenset({"asyncio", "hypothesis"}),
}
LAZILY: Final[Mapping[str, frozenset[str]]] = {  # only inside a function
    "smtpproto_server": frozenset({"cryptography"}),  # for the development certificate
    "smtpproto_cli": frozenset({"trio", "uvloop", *LIBRARIES}),  # the runtime that was asked for
    "smtpproto_kit": frozenset({"anyio", "asyncio", "gevent", "uvloop", *LIBRARIES}),
    "smtpproto_pytest": frozenset({"trustme"}),
    "testing": frozenset({"trustme"}),
}
# Packages whose files form no cycle, imports for type checkers included.
WITHOUT_CYCLES: Final = (
    "smtpproto", "smtpproto_server", "smtpproto_asyncio", "smtpproto_anyio", "smtpproto_gevent",
    "smtpproto_blocking",
)  # fmt: skip
# What does not hold yet; a package or a file that has been mended must leave its list.
MAX_LINES: Final = 600
STDLIB: Final = sys.stdlib_module_names - {"asyncio"}
BELOW: Final = frozenset({"smtpproto", "smtpproto_server"})


class Import(NamedTuple):
    module: str
    name: str
    """What is taken out of the module; "" for the module itself."""
    line: int
    lazy: bool
    for_types: bool

    def __str__(self) -> str:
        return f"line {self.line}: {self.module}{self.name and '.'}{self.name}"


def imports(node: ast.AST, *, lazy: bool = False, for_types: bool = False) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Import(names=names, lineno=line):
                yield from (Import(name.name, "", line, lazy, for_types) for name in names)
            case ast.ImportFrom(module=module, names=names, lineno=line, level=level):
                origin = "." * level + (module or "")
                yield from (Import(origin, name.name, line, lazy, for_types) for name in names)
            case ast.If(test=ast.Name(id="TYPE_CHECKING"), body=body, orelse=orelse):
                yield from imports(ast.Module(body, []), lazy=lazy, for_types=True)
                yield from imports(ast.Module(orelse, []), lazy=lazy, for_types=for_types)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                yield from imports(child, lazy=True, for_types=for_types)
            case _:
                yield from imports(child, lazy=lazy, for_types=for_types)


def core_file(found: Import) -> str | None:
    """The core's file that is imported, None for what is not the core's."""
    package, _, file = found.module.partition(".")
    if package != "smtpproto":
        return None
    return file or (found.name if found.name in FLOOR else "__init__")


def _is_of_checkers(found: Import) -> bool:
    """What every checker of types brings along."""
    return found.for_types and found.module == "typing_extensions"


def core_faults(file: str, source: str) -> Iterator[str]:
    """What a file of the core imports and must not."""
    if file not in FLOOR:
        yield f"{file} has no floor"
        return
    tree = ast.parse(source)
    for found in imports(tree):
        target = core_file(found)
        if target is None and found.module not in CORE_MAY and not _is_of_checkers(found):
            yield f"{found} is not for the core"
        if target and FLOOR.get(target, len(FLOORS)) > FLOOR[file] and not found.for_types:
            yield f"{found} is above {file}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in CORE_MUST_NOT_CALL:
            yield f"line {node.lineno}: {node.id} is not for the core"


def run_time_graph(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Which file of the core needs which others to be imported."""
    return {
        file: {core_file(found) or "" for found in imports(ast.parse(source)) if not found.for_types} - {""}
        for file, source in sources.items()
    }


def import_graph(package: str, sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Which file of a package names which others, for type checkers too."""
    graph: dict[str, set[str]] = {}
    for file, source in sources.items():
        graph[file] = set()
        for found in imports(ast.parse(source)):
            top, _, inner = found.module.partition(".")
            if top == package:
                graph[file].add(inner or (found.name if found.name in sources else "__init__"))
    return graph


def cycle_in(graph: Mapping[str, set[str]]) -> list[str]:
    """The files of a cycle, the first of them once more at the end; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        cycle: list[str] = error.args[1]
        return cycle
    return []


def files_of(package: str) -> dict[str, str]:
    """The sources of a package by the names of its files."""
    folder = ROOT if package == "smtpproto" else ROOT / "adapters"
    return {path.stem: path.read_text("utf-8") for path in (folder / package).glob("*.py")}


def lines_of(source: str) -> int:
    return len(source.splitlines())


def public_names(package: Path, file: str = "__init__") -> frozenset[str]:
    """What a package, or a public file of it, says in `__all__`."""
    for node in ast.parse((package / f"{file}.py").read_text("utf-8")).body:
        match node:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                return frozenset(ast.literal_eval(value))
            case _:
                pass
    raise AssertionError(f"{package} has no __all__")


def adapter_faults(package: str, source: str) -> Iterator[str]:
    """What a file of an adapter, of the shared part or of the command imports and must not."""
    public = {
        "smtpproto": public_names(ROOT / "smtpproto"),
        "smtpproto.extending": public_names(ROOT / "smtpproto", "extending"),
    }
    if package != "smtpproto_server":
        public["smtpproto_server"] = public_names(ROOT / "adapters" / "smtpproto_server")
        public["smtpproto_server.adapting"] = public_names(ROOT / "adapters" / "smtpproto_server", "adapting")
    libraries = STDLIB | LIBRARIES[package] | {package}
    tree = ast.parse(source)
    for found in imports(tree):
        top = found.module.partition(".")[0]
        if found.module.startswith(f"smtpproto.{package}"):  # the kit's own files
            continue
        if top in public:
            if found.module not in public or (found.name and found.name not in public[found.module]):
                yield f"{found} is not a public name"
        elif top not in libraries and not (
            top in LAZILY.get(package, ()) and (found.lazy or found.for_types)
        ):
            yield f"{found} is not for {package}"
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr=attr) if name in public and attr[0] == "_":
                if attr != "__version__":
                    yield f"line {node.lineno}: {name}.{attr} is not a public name"
            case _:
                pass


@pytest.mark.parametrize("path", CORE_FILES, ids=lambda path: path.stem)
def test_a_file_of_the_core_imports_only_from_its_own_floor_and_below(path: Path) -> None:
    assert list(core_faults(path.stem, path.read_text("utf-8"))) == []


def test_no_two_files_of_the_core_need_each_other() -> None:
    graph = run_time_graph({path.stem: path.read_text("utf-8") for path in CORE_FILES})
    TopologicalSorter(graph).prepare()  # raises CycleError and names the files


@pytest.mark.parametrize("package", WITHOUT_CYCLES)
def test_the_files_of_a_package_form_no_cycle_of_imports_even_for_types(package: str) -> None:
    found = bool(cycle_in(import_graph(package, files_of(package))))
    assert not found


def test_no_file_is_too_long() -> None:
    too_long = {
        str(path.relative_to(ROOT))
        for path in [*CORE_FILES, *ADAPTER_FILES]
        if lines_of(path.read_text("utf-8")) > MAX_LINES
    }
    assert not too_long


@pytest.mark.parametrize("path", ADAPTER_FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_an_adapter_imports_only_public_names_and_its_own_library(path: Path) -> None:
    package = path.parts[len(ROOT.parts) + 1]
    assert list(adapter_faults(package, path.read_text("utf-8"))) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("_state", "import socket"),
        ("_state", "import os.path"),
        ("_state", "from asyncio import Future"),
        ("_state", "def f():\n    import time"),
        ("_state", "if TYPE_CHECKING:\n    import ssl"),
        ("_state", "try:\n    import random\nexcept ImportError: ..."),
        ("_state", "import click"),
        ("_state", "import collections"),
        ("_state", "from smtpproto_server import Options"),
        ("_state", "from . import _reply"),
        ("_state", "__import__('socket')"),
        ("_state", "from smtpproto._connection import Connection"),
        ("_state", "import smtpproto._connection"),
        ("_state", "from smtpproto import _connection"),
        ("_state", "from smtpproto import Connection"),
        ("_state", "def f():\n    from smtpproto._connection import Connection"),
        ("_state", "from smtpproto._unknown import x"),
        ("_unknown", ""),
    ],
)
def test_a_planted_fault_in_the_core_is_found(file: str, source: str) -> None:
    assert list(core_faults(file, source))


def test_an_import_for_types_may_go_upwards() -> None:
    assert not list(
        core_faults("_state", "if TYPE_CHECKING:\n    from smtpproto._connection import Connection")
    )


def test_a_planted_cycle_is_found() -> None:
    sources = {"_body": "from smtpproto import _buffer", "_buffer": "from smtpproto._body import x"}
    with pytest.raises(ValueError, match="cycle"):
        TopologicalSorter(run_time_graph(sources)).prepare()


@pytest.mark.parametrize(
    "back",
    [
        "if TYPE_CHECKING:\n    from package._one import x",
        "from package import _one",
        "import package._one",
        "def f():\n    from package._one import x",
    ],
)
def test_a_planted_cycle_for_types_is_found(back: str) -> None:
    sources = {"_one": "from package._other import y", "_other": back}
    assert set(cycle_in(import_graph("package", sources))) == {"_one", "_other"}


def test_imports_in_one_direction_are_no_cycle() -> None:
    sources = {
        "__init__": "from package._one import x",
        "_one": "from package import _other\nfrom elsewhere import z",
        "_other": "from elsewhere._one import y",
    }
    assert cycle_in(import_graph("package", sources)) == []


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("smtpproto_server", "from smtpproto._reply import Reply"),
        ("smtpproto_server", "from smtpproto import _reply"),
        ("smtpproto_server", "from smtpproto import *"),
        ("smtpproto_server", "import smtpproto\nsmtpproto._reply"),
        ("smtpproto_server", "import smtpproto._reply"),
        ("smtpproto_server", "import asyncio"),
        ("smtpproto_server", "def f():\n    import asyncio"),
        ("smtpproto_server", "from gevent import sleep"),
        ("smtpproto_server", "from cryptography import x509"),
        ("smtpproto_server", "import smtpproto_asyncio"),
        ("smtpproto_server", "from . import _loop"),
        ("smtpproto_asyncio", "from smtpproto_server._loop import Serving"),
        ("smtpproto_asyncio", "import trio"),
        ("smtpproto_asyncio", "def f():\n    from smtpproto_gevent import SMTPServer"),
        ("smtpproto_blocking", "import asyncio"),
        ("smtpproto_cli", "from smtpproto_asyncio import SMTPServer"),
        ("smtpproto_cli", "def f():\n    from smtpproto_server._loop import Serving"),
    ],
)
def test_a_planted_fault_in_an_adapter_is_found(package: str, source: str) -> None:
    assert list(adapter_faults(package, source))


@pytest.mark.parametrize(
    ("package", "source"),
    [
        (
            "smtpproto_server",
            "import ssl\nfrom smtpproto import Connection\nfrom smtpproto_server._loop import x",
        ),
        ("smtpproto_server", "def f():\n    from cryptography import x509"),
        ("smtpproto_asyncio", "import asyncio\nfrom smtpproto_server import Options"),
        ("smtpproto_cli", "import click, rich.console, smtpproto\nsmtpproto.__version__"),
        ("smtpproto_cli", "def f():\n    from smtpproto_asyncio import SMTPServer"),
    ],
)
def test_what_an_adapter_is_made_of_is_no_fault(package: str, source: str) -> None:
    assert not list(adapter_faults(package, source))
