# The plots: bars for each workload, and ratios beside their limits.
#
# matplotlib is imported only by who draws. Its types are known in part only, so here it has none.

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from benchmarks.lineup import FLOORS, OURS, PEERS, SERVERS, WORKERS
from benchmarks.tables import in_order, number
from benchmarks.workloads import GROUPS, IDLE, SEVERAL, WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from benchmarks.limits import Verdict
    from benchmarks.report import Report

COLOURS: Final = {OURS: "#2b6cb0", FLOORS: "#a0aec0", PEERS: "#d69e2e", WORKERS: "#2b6cb0"}
GROUP_OF: Final = {server.name: server.group for server in SERVERS}
CUT: Final = frozenset(server.name for server in SERVERS if server.group == PEERS)  # whose bars may be
SLIPPED: Final = "#c53030"
STYLE: Final = {
    "svg.hashsalt": "smtpproto",  # names inside a picture do not change from run to run
    "svg.fonttype": "none",
    "font.size": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


class Panel(NamedTuple):
    """Bars for one figure of one workload."""

    workload: str
    figure: str = "cpu_us"
    says: str = "µs of CPU"


# The pictures of each group of workloads.
BOTH_MEMORIES: Final = (
    Panel("idle2000", "kib", "KiB for each idle connection"),
    Panel("large20m", "growth_mib", "MiB over idle for each session"),
)
PROCESSES: Final = tuple(
    Panel(workload.name, figure, says)
    for workload in WORKLOADS
    if workload.group == SEVERAL
    for figure, says in (("rate", "messages a second"), ("cpu_us", "µs of CPU"))
)
BARS: Final[Mapping[str, tuple[Panel, ...]]] = {
    group: tuple(Panel(each.name) for each in WORKLOADS if each.group == group) for group in GROUPS
} | {IDLE: BOTH_MEMORIES, SEVERAL: PROCESSES}


def bars(report: Report, panels: Sequence[Panel]) -> Any:
    """A bar for each server, side by side for each of the panels.

    A panel is as wide as ours and the floors need, to be told from each other. A longer bar runs out
    of it, and has its number all the same.
    """
    servers = in_order({name for panel in panels for name in report.runs[panel.workload]})
    figure, columns = _made(len(panels), len(servers))
    for axes, panel in zip(columns, panels, strict=True):
        medians = {name: report.median(panel.workload, name, panel.figure) for name in servers}
        known = {name: value for name, value in medians.items() if value is not None}
        edge = 1.3 * max([value for name, value in known.items() if name not in CUT] or known.values())
        axes.barh(servers, [medians[name] or 0 for name in servers], color=[colour(name) for name in servers])
        for name, value in known.items():
            outside = value > edge
            axes.text(
                edge if outside else value,
                name,
                f"{number(value)} \N{RIGHTWARDS ARROW}" if outside else f" {number(value)}",
                ha="right" if outside else "left",
                va="center",
            )
        axes.set_xlim(0, edge)
        axes.set_title(f"{panel.workload}\n{panel.says}", loc="left", fontsize="medium")
    columns[0].invert_yaxis()
    return figure


def colour(name: str) -> str:
    """That of the server's group."""
    return COLOURS[GROUP_OF.get(name, WORKERS)]


def beside_limits(verdicts: Sequence[Verdict]) -> Any:
    """A bar for each ratio, and a stroke for its limit."""
    figure, (axes,) = _made(1, len(verdicts))
    names = [f"{each.limit.workload}   {each.limit.what}" for each in verdicts]
    ratios, limits = [each.measured or 0 for each in verdicts], [each.limit.at_most for each in verdicts]
    axes.barh(names, ratios, color=[COLOURS[OURS] if each.kept else SLIPPED for each in verdicts])
    axes.scatter(limits, names, marker="|", s=90, color="black", zorder=3)
    for name, ratio, limit in zip(names, ratios, limits, strict=True):
        axes.text(max(ratio, limit), name, f"  {number(ratio)}", va="center")
    axes.margins(x=0.1, y=0.01)
    axes.set_xlim(left=0)
    axes.invert_yaxis()
    return figure


def _made(panels: int, rows: int) -> tuple[Any, list[Any]]:
    with import_module("matplotlib").rc_context(STYLE):
        figure = import_module("matplotlib.figure").Figure(
            figsize=(10, 1.0 + 0.22 * rows), layout="constrained"
        )
        return figure, list(figure.subplots(1, panels, sharey=True, squeeze=False)[0])


def save(figure: Any, path: Path) -> None:
    """Write it as SVG, without the time and the version that made it."""
    with import_module("matplotlib").rc_context(STYLE):
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
