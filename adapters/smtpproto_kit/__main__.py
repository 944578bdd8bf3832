# `python -m smtpproto_kit [NAME ...] [-- PYTEST-OPTION ...]`: all cases against runtimes, and an account.

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from smtpproto_kit._runtimes import RUNTIMES, runtime_named
from smtpproto_kit._shown import Shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["main"]

NEEDED: Final = ("pytest", "trustme")
CASES: Final = Path(__file__).parent / "cases"
COLUMNS: Final = ("conversations", "rows", "passed", "failed", "skipped", "seconds")
TITLE: Final = """# What each runtime is shown to do

Written by `python -m smtpproto_kit --table docs/adapters-table.md`: the options that a case sets, the
hooks that are there, the events and methods it meets. "yes" is a case that has passed on that runtime
over real sockets."""
MISUSED: Final = 2  # exit status
# No settings of the folder it is started in; whatever warns is a fault, as in our own tests.
OURS: Final = [
    "-c",
    os.devnull,
    f"--rootdir={CASES}",
    "-p",
    "smtpproto_kit.plugin",
    "--import-mode=importlib",
]
STRICT: Final = [
    "-p",
    "no:cacheprovider",
    "-W",
    "error",
    "-W",
    "ignore::pytest.PytestAssertRewriteWarning",
    "-q",
    "--no-header",
]


class Account:
    """A plugin of pytest: what became of the cases, runtime by runtime."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {}
        self.shown: Shown = Shown()
        self._outcomes: dict[tuple[str, str], str] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Count a case's setup, call or teardown."""
        properties = dict(report.user_properties)
        name = properties.pop("runtime", "-")
        shows = properties.pop("shows", ())
        count = self.counts.setdefault(name, Counter())
        count["seconds"] += report.duration
        case = (name, report.nodeid)
        if self._outcomes.get(case, "passed") == "passed":
            self._outcomes[case] = report.outcome
        if report.when == "call":
            count.update(properties)
        if report.when == "call" and report.passed:
            file, *_, function = report.nodeid.partition("[")[0].split("::")
            self.shown.add(name, f"{Path(file).stem}::{function}", shows)

    def lines(self) -> Iterator[str]:
        """The table."""
        for (name, _), outcome in self._outcomes.items():
            self.counts[name][outcome] += 1
        width = max(map(len, ("runtime", *self.counts)))
        yield "  ".join([f"{'runtime':{width}}", *COLUMNS])
        for name, count in self.counts.items():
            cells = (f"{round(count[column], 1):{len(column)}}" for column in COLUMNS)
            yield "  ".join([f"{name:{width}}", *cells])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit status."""
    said = list(sys.argv[1:] if arguments is None else arguments)
    at = said.index("--") if "--" in said else len(said)
    parser = argparse.ArgumentParser(
        prog="python -m smtpproto_kit",
        description="Run the cases that every adapter must pass, and print an account of them.",
        epilog="Behind -- stand options for pytest, for instance: -- -x -k test_rows",
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"{', '.join(RUNTIMES)}, or module:object for a smtpproto_kit.Runtime of your own; "
        "by default those of the six whose packages are installed",
    )
    parser.add_argument("--table", type=Path, metavar="FILE", help="write down which case shows what")
    parsed = parser.parse_args(said[:at])
    names: list[str] = parsed.names
    for package in NEEDED:
        if importlib.util.find_spec(package) is None:
            return _misused(f"the cases need {package}: pip install 'smtpproto-server[testing]'")
    try:
        for name in names:
            runtime_named(name)
    except (LookupError, TypeError) as error:
        return _misused(str(error))
    return run(names or list(_installed()), said[at + 1 :], parsed.table)


def run(names: Sequence[str], options: Sequence[str], table: Path | None = None) -> int:
    """Run the cases for these runtimes, print the account, and give pytest's exit status."""
    import pytest  # noqa: PLC0415 - `main` has seen that it is there

    account = Account()
    adapters = [word for name in names for word in ("--adapter", name)]
    status = pytest.main([*OURS, *adapters, *options, str(CASES)], plugins=[account])
    # In the order they were asked for; with several processes they came in any.
    order = sorted(account.counts, key=lambda name: names.index(name) if name in names else len(names))
    account.counts = {name: account.counts[name] for name in order}
    sys.stdout.writelines(f"{line}\n" for line in ("", *account.lines()))
    if table is not None:
        lines = [TITLE, "", *account.shown.table(account.counts)]
        table.write_text("\n".join(lines), "utf-8")
    return int(status)


def _installed() -> Iterator[str]:
    """Those of the six that can run; of the others it is said why not."""
    for name in RUNTIMES:
        try:
            runtime_named(name)
        except LookupError as error:
            sys.stderr.write(f"left out: {error}\n")
        else:
            yield name


def _misused(why: str) -> int:
    sys.stderr.write(f"{why}\n")
    return MISUSED


if __name__ == "__main__":
    raise SystemExit(main())
