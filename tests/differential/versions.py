# The packages twice in one process: as they are today, and as a commit of the repository's history has them.

from __future__ import annotations

import contextlib
import importlib
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

__all__ = ["NAMES_NOW", "NAMES_THEN", "NotInHistory", "Version", "earlier", "today"]

ROOT: Final = Path(__file__).parents[2]
TODAY: Final = "today"
NAMES_THEN: Final[Mapping[str, str]] = {
    "HelloRequested": "HelloReceived",
    "CommandRequested": "CommandReceived",
    "ProtocolOptions": "Options",
    "tls_upstream": "secured",
    "remote": "peer",
    "id": "session_id",
    "xclient": "x_client",
    "xforward": "x_forward",
}
NAMES_NOW: Final = {then: now for now, then in NAMES_THEN.items() if then != "Options"}
"""By the earlier name, for those that one version alone has."""
PACKAGES: Final = ("smtpproto", "smtpproto_server")


class NotInHistory(Exception):  # noqa: N818 - says what is the case
    """The commit is no ancestor of this state, or the clone has no history."""


@dataclass(frozen=True, slots=True)
class Version:
    """The two packages of one state."""

    name: str
    smtpproto: Any
    smtpproto_server: Any

    @property
    def adapting(self) -> Any:
        """What adapters are made of."""
        return getattr(self.smtpproto_server, "adapting", self.smtpproto_server)

    def name_of(self, name: str) -> str:
        """What this version calls what has this name today."""
        return name if self.name == TODAY else NAMES_THEN.get(name, name)

    def fields(self, **given: Any) -> dict[str, Any]:
        """Keyword arguments by today's names, as this version names them."""
        return {self.name_of(name): value for name, value in given.items()}


def today() -> Version:
    """The packages that everybody imports."""
    importlib.import_module("smtpproto_server.adapting")
    return Version(TODAY, *(importlib.import_module(name) for name in PACKAGES))


def earlier(commit: str) -> Version:
    """The packages of a commit; raises NotInHistory."""
    with tempfile.TemporaryDirectory() as folder:
        _take_out(commit, Path(folder))
        with _set_aside(), _found_first([folder, str(Path(folder, "adapters"))]):
            return Version(commit, *(importlib.import_module(name) for name in PACKAGES))


def _take_out(commit: str, folder: Path) -> None:
    ancestor = ["git", "merge-base", "--is-ancestor", commit, "HEAD"]
    if subprocess.run(ancestor, cwd=ROOT, check=False, capture_output=True).returncode != 0:
        raise NotInHistory(commit)
    archive = ["git", "archive", commit, "smtpproto", "adapters/smtpproto_server"]
    packed = subprocess.run(archive, cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=BytesIO(packed)) as archived:
        archived.extractall(folder, filter="data")


@contextlib.contextmanager
def _set_aside() -> Generator[None]:
    """Nothing of the packages has been imported yet; afterwards what was imported before."""
    kept = {name: sys.modules.pop(name) for name in _imported()}
    try:
        yield
    finally:
        for name in _imported():
            del sys.modules[name]
        sys.modules.update(kept)


def _imported() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] in PACKAGES]


@contextlib.contextmanager
def _found_first(folders: list[str]) -> Generator[None]:
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path[:0] = folders
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for folder in folders:
            sys.path.remove(folder)
        sys.dont_write_bytecode = writes
