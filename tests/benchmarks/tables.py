# What was measured, as tables in Markdown: for the terminal and for the page.

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Final

from benchmarks.lineup import SERVERS
from benchmarks.workloads import IDLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from benchmarks.limits import Verdict
    from benchmarks.report import Report
    from benchmarks.workloads import Workload

ORDER: Final = [server.name for server in SERVERS]


def in_order(names: Iterable[str]) -> list[str]:
    """Servers as in the line-up: ours, the floors, the others."""
    return sorted(names, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """The lines of a table."""
    yield f"| {' | '.join(titles)} |"
    yield "|" + " --- |" * len(titles)
    for row in rows:
        yield f"| {' | '.join(row)} |"


def number(value: float) -> str:
    """Three figures at the least."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


# A title, the figure, and how its median is written.
Column = tuple[str, str, "Callable[[float], str]"]
UNDER_LOAD: Final[tuple[Column, ...]] = (
    ("in the kernel", "kernel", "{:.0%}".format),
    ("units/s", "rate", number),
    ("busy", "busy", "{:.0%}".format),
    ("peak, MiB", "peak_mib", "{:.0f}".format),
    ("over idle for each session, MiB", "growth_mib", "{:.1f}".format),
)
IDLY: Final[tuple[Column, ...]] = (
    ("units/s", "rate", number),
    ("KiB for each", "kib", "{:.1f}".format),
    ("CPU while idle", "idle_cpu", "{:.1%}".format),
)


def of_workload(report: Report, workload: Workload) -> Iterator[str]:
    """A row for each server: the processor's time for a unit, its range, and more."""
    columns = IDLY if workload.group == IDLE else UNDER_LOAD
    runs = report.runs.get(workload.name, {})
    titles = ["server", f"CPU for a {workload.unit}, µs", "from ... to", *(title for title, *_ in columns)]
    yield from table(titles, (_row(name, runs[name], columns) for name in in_order(runs)))
    for name, why in report.faults.get(workload.name, {}).items():
        yield ""
        yield f"`{name}` has no figures: {' '.join(why.split())}"


def _row(name: str, figures: dict[str, list[float]], columns: Sequence[Column]) -> list[str]:
    spent = figures["cpu_us"]
    return [
        f"`{name}`",
        number(median(spent)),
        f"{number(min(spent))} ... {number(max(spent))}",
        *(written(median(figures[figure])) for _, figure, written in columns),
    ]


def of_limits(verdicts: Iterable[Verdict]) -> Iterator[str]:
    """A row for each limit that was measured."""
    rows = (
        (f"`{each.limit.workload}`", each.limit.what, number(each.measured), f"{each.limit.at_most:g}",
         "" if each.kept else "**slipped**")
        for each in verdicts
        if each.measured is not None
    )  # fmt: skip
    yield from table(("workload", "of", "measured", "limit", ""), rows)


def of_circumstances(reports: Sequence[Report]) -> Iterator[str]:
    """A row for each fact, and several where runs differ."""
    facts = dict.fromkeys(fact for report in reports for fact in report.about.items())
    names = list(dict.fromkeys(name for name, _ in facts))
    rows = sorted(facts, key=lambda fact: names.index(fact[0]))
    yield from table(("what", "which"), ((name, f"`{value}`") for name, value in rows))
