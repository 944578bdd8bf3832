# The page of figures, from what was stored: tables in Markdown, and plots.
#
#     python -m tests.benchmarks page --json FILE [FILE ...] [--out docs/speed]
#
# With --out docs/speed the tables go to docs/speed-tables.md, which docs/speed.md includes, and the
# plots into docs/speed/. The same files always give the same octets.

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.limits import BESIDE_FLOORS, BESIDE_PEERS, MEMORY, judged
from benchmarks.lineup import ROOT
from benchmarks.plots import BARS, bars, beside_limits, save
from benchmarks.report import Report
from benchmarks.tables import of_circumstances, of_limits, of_workload
from benchmarks.workloads import GROUPS, WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from benchmarks.limits import Limit, Verdict

NO_FIGURES: Final = "Nothing is stored here yet: the figures come from the commands above."
RATIOS: Final[Mapping[str, tuple[Limit, ...]]] = {
    "Ratios to the floors": BESIDE_FLOORS,
    "Ratios to others": BESIDE_PEERS,
}


def main(argv: list[str]) -> int:
    """Write the page of figures from what was stored."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks page", description=main.__doc__)
    parser.add_argument("--json", type=Path, nargs="+", metavar="FILE", required=True, help="what was stored")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "speed", help="docs/speed unless told")
    given = parser.parse_args(argv)
    reports = [Report.read(path) for path in given.json]
    text = "\n".join(page(reports, given.out.name)) + "\n"
    given.out.with_name(f"{given.out.name}-tables.md").write_text(text, "utf-8")
    for name, picture in pictures(Report.together(reports)):
        given.out.mkdir(exist_ok=True)
        save(picture, given.out / name)
    return 0


# --- the tables -----------------------------------------------------------------------------------


def page(reports: Sequence[Report], folder: str) -> Iterator[str]:
    """The lines of the page; pictures are in the folder."""
    yield "<!-- Written by `python -m tests.benchmarks page`. -->"
    whole = Report.together(reports)
    if not whole.runs:
        yield from ("", NO_FIGURES)
        return
    yield from ("", "### Circumstances", "", *of_circumstances(reports))
    for title, verdicts in _ratios(whole):
        yield from ("", f"### {title}", "", _shown(title, folder), "", *of_limits(verdicts))
    for group in GROUPS:
        workloads = [each for each in WORKLOADS if each.group == group and each.name in whole.runs]
        if workloads:
            yield from ("", f"### {group}", "", _shown(group, folder))
        for workload in workloads:
            yield from ("", f"`{workload.name}`: {workload.says}.", "", *of_workload(whole, workload))
    yield from ("", "### Limits of memory", "", *of_limits(judged(whole, MEMORY)))


def _shown(title: str, folder: str) -> str:
    return f"![{title}]({folder}/{_file_name(title)})"


def _file_name(title: str) -> str:
    return f"{title.lower().replace(' ', '-')}.svg"


def _ratios(report: Report) -> Iterator[tuple[str, list[Verdict]]]:
    for title, limits in RATIOS.items():
        verdicts = [each for each in judged(report, limits) if each.measured is not None]
        if verdicts:
            yield title, verdicts


def pictures(report: Report) -> Iterator[tuple[str, Any]]:
    """Each picture with the name of its file."""
    for title, verdicts in _ratios(report):
        yield _file_name(title), beside_limits(verdicts)
    for group, panels in BARS.items():
        measured = [panel for panel in panels if panel.workload in report.runs]
        if measured:
            yield _file_name(group), bars(report, measured)
