# What a user gets who installs the wheel and nothing else.

from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
import venv
from email.parser import HeaderParser
from pathlib import Path
from typing import TYPE_CHECKING, Final
from zipfile import ZipFile

import pytest

if TYPE_CHECKING:
    from email.message import Message

ROOT: Final = Path(__file__).parent.parent
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
FOLDERS: Final = [
    Path(folder) for folder in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
]
PACKAGES: Final = {folder.name for folder in FOLDERS}

# What `import smtpproto` must not bring in, not even by way of another module. `time` and `os` are
# missing here because the interpreter itself has them; test_floors keeps the core away from them.
NOT_FOR_THE_CORE: Final = (PACKAGES - {"smtpproto"}) | {
    "asyncio", "concurrent.futures", "email", "http", "logging", "multiprocessing", "queue", "random",
    "secrets", "select", "selectors", "socket", "ssl", "subprocess", "tempfile", "threading", "urllib",
}  # fmt: skip
IN_THE_SDIST: Final = {"LICENSE", "README.md", "adapters", "pyproject.toml", "smtpproto", "tests"}
PERHAPS_IN_THE_SDIST: Final = {".gitignore", "PKG-INFO", "docs", "fuzz"}


def run(*command: str | Path) -> str:
    """What a program says on both its outputs; it must succeed."""
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel that was built out of it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    return folder


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> Path:
    [path] = distributions.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def contents(wheel: Path) -> dict[str, bytes]:
    """The wheel's files by their names."""
    with ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def metadata(contents: dict[str, bytes]) -> Message:
    [text] = [content for name, content in contents.items() if name.endswith(".dist-info/METADATA")]
    return HeaderParser().parsestr(text.decode())


@pytest.fixture(scope="module")
def clean_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the wheel and nothing else, not even pip."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "-q", "--python", python, "install", "--no-deps", "--no-index", wheel)
    return python


def test_every_adapter_in_the_tree_is_shipped() -> None:
    folders = {init.parent.relative_to(ROOT) for init in ROOT.glob("adapters/*/__init__.py")}
    assert folders | {Path("smtpproto")} == set(FOLDERS)


def test_the_wheel_holds_the_packages_and_nothing_else(contents: dict[str, bytes]) -> None:
    tops = {name.partition("/")[0] for name in contents}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES


@pytest.mark.parametrize("folder", FOLDERS, ids=str)
def test_a_package_is_shipped_whole_and_typed(folder: Path, contents: dict[str, bytes]) -> None:
    here = ROOT / folder
    sources = [*here.rglob("*.py"), here / "py.typed", here / "__init__.py"]
    shipped = {name for name in contents if name.startswith(f"{folder.name}/")}
    assert {path.relative_to(here.parent).as_posix() for path in sources} <= shipped


def test_nothing_else_is_required(metadata: Message) -> None:
    requirements = metadata.get_all("Requires-Dist", [])
    assert [requirement for requirement in requirements if "extra ==" not in requirement] == []


def test_the_sdist_brings_tests_and_docs_but_nothing_made(distributions: Path) -> None:
    [path] = distributions.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        tops = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    assert tops >= IN_THE_SDIST
    assert tops <= IN_THE_SDIST | PERHAPS_IN_THE_SDIST


def test_the_core_needs_nothing_but_the_wheel(clean_python: Path, metadata: Message) -> None:
    says = run(clean_python, "-I", "-c", "import smtpproto; print(smtpproto.__version__)")
    assert (metadata["Name"], metadata["Version"]) == ("smtpproto-server", says.strip())


def test_importing_the_core_brings_in_no_io_and_no_adapter(clean_python: Path) -> None:
    times = run(clean_python, "-I", "-X", "importtime", "-c", "import smtpproto")
    imported = {line.rpartition("|")[2].strip() for line in times.splitlines()}
    assert "smtpproto._connection" in imported
    assert imported & NOT_FOR_THE_CORE == set()
