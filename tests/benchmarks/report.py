# What was measured, with all repetitions, and the circumstances: written to a file and read again.

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final, Self

from benchmarks.lineup import ENVIRONMENT, ROOT, is_there

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from benchmarks.measuring import Figures

PACKAGES: Final = ("uvloop", "anyio", "trio", "gevent", "aiosmtpd")
# What says the version of this tree, of a program or of a module of Node, and whether it is there.
PROGRAMS: Final = (
    ("commit", "git", ("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12")),
    ("node", "node", ("node", "--version")),
    ("smtp-server", "node:smtp-server", ("node", "-p", "require('smtp-server/package.json').version")),
    ("postfix", "postconf", ("postconf", "-h", "mail_version")),
)


@dataclass
class Report:
    """The figures of one run of the command, or of several that were put together."""

    about: dict[str, str] = field(default_factory=dict[str, str])
    runs: dict[str, dict[str, dict[str, list[float]]]] = field(
        default_factory=dict[str, dict[str, dict[str, list[float]]]]
    )
    """Workload, server, figure: a value for each repetition."""
    faults: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    """Workload, server: why there are no figures."""

    def add(self, workload: str, figures: dict[str, list[Figures]], faults: dict[str, str]) -> None:
        """Take what came of a workload."""
        self.runs[workload] = {
            server: {name: [_rounded(each[name]) for each in repetitions] for name in repetitions[0]}
            for server, repetitions in figures.items()
        }
        if faults:
            self.faults[workload] = faults

    def median(self, workload: str, server: str, figure: str = "cpu_us") -> float | None:
        """Of all repetitions; None if it was not measured."""
        values = self.runs.get(workload, {}).get(server, {}).get(figure)
        return median(values) if values else None

    def write(self, path: Path) -> None:
        """Store it; the values of a figure stand on one line."""
        text = json.dumps({"about": self.about, "runs": self.runs, "faults": self.faults}, indent=1)
        path.write_text(
            re.sub(r"\[[^\[\]]*\]", lambda found: " ".join(found[0].split()), text) + "\n", "utf-8"
        )

    @classmethod
    def read(cls, path: Path) -> Self:
        """The same again."""
        return cls(**json.loads(path.read_text("utf-8")))

    @classmethod
    def together(cls, reports: Iterable[Report]) -> Self:
        """One report; a workload that is in several is that of the last."""
        whole = cls()
        for report in reports:
            for workload in (*report.runs, *report.faults):
                whole.faults.pop(workload, None)
            whole.runs.update(report.runs)
            whole.faults.update(report.faults)
        return whole


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def circumstances(arguments: Sequence[str]) -> dict[str, str]:
    """When, where and with what something is measured."""
    about = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": " ".join(("python -m tests.benchmarks servers", *map(_without_folder, arguments))),
        "cpu": _cpu(),
        "cpus": str(os.cpu_count()),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        **{name: _version(name) for name in PACKAGES},
        **{name: _said(*command) for name, need, command in PROGRAMS if is_there(need)},
    }
    return {name: value for name, value in about.items() if value}


def _without_folder(argument: str) -> str:
    return Path(argument).name if argument.startswith(os.sep) else argument


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _said(*command: str) -> str:
    done = subprocess.run(command, env=ENVIRONMENT, check=False, capture_output=True, text=True)
    return "" if done.returncode else done.stdout.strip()


def _cpu() -> str:
    found = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
    return found[1] if found else platform.machine()
