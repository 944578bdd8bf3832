# Servers over sockets, side by side: the processor's time for each unit of work, and memory.
#
#     python -m tests.benchmarks servers [--workload reuse10,pipeline] [--json FILE]
#
# Every workload is put to all servers in turns, and limits.py says what the ratios may be.

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.limits import judged
from benchmarks.lineup import FLOORS, OURS, PEERS, SERVERS, missing, with_workers
from benchmarks.measuring import Bench, interleaved
from benchmarks.report import Report, circumstances
from benchmarks.tables import of_limits, of_workload
from benchmarks.workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.limits import Verdict
    from benchmarks.lineup import Server
    from benchmarks.workloads import Workload

ALL: Final = "all"
NONE: Final = "none"


def main(argv: list[str]) -> int:
    """Measure servers side by side; 1 if a limit has slipped or a server has failed."""
    wanted = parsed(argv)
    if wanted.list:
        return listed()
    servers, workloads = chosen(wanted)
    cpus = sorted(os.sched_getaffinity(0))
    report = Report(circumstances(argv))
    with tempfile.TemporaryDirectory(prefix="smtpproto-benchmarks-") as folder:
        bench = Bench(
            Path(folder),
            server_cpu=cpus[0] if wanted.server_cpu is None else wanted.server_cpu,
            load_cpu=cpus[-1] if wanted.load_cpu is None else wanted.load_cpu,
            seconds=wanted.seconds,
            timeout=wanted.timeout,
            warm_up=wanted.warm_up,
        )
        for workload in workloads:
            lineup = [server for server in servers if workload.takes(server)]
            if not lineup:
                continue
            report.add(workload.name, *interleaved(workload, lineup, bench, wanted.reps, told))
            told("")
            print(
                f"\n### {workload.name}: {workload.says}\n",
                *of_workload(report, workload),
                sep="\n",
                flush=True,
            )
            if wanted.json:
                report.write(wanted.json)
    return concluded(report)


def parsed(argv: Sequence[str]) -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks servers", description=main.__doc__)
    several: dict[str, Any] = {"type": separated, "metavar": "NAME,..."}
    parser.add_argument("--servers", default=[OURS, FLOORS], help="names, ours, floors, none", **several)
    parser.add_argument("--peers", default=[ALL], help="names, all that are installed, none", **several)
    parser.add_argument("--workload", default=[ALL], help="names, all", **several)
    parser.add_argument("--workers", default=[], help="`smtpproto serve` with so many", **several)
    parser.add_argument("--reps", type=int, default=5, help="repetitions; 5 unless told")
    parser.add_argument("--seconds", type=float, default=1.0, help="aimed length of one; 1 unless told")
    parser.add_argument("--warm-up", type=int, default=3000, help="messages before the first")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds, of a repetition")
    parser.add_argument("--server-cpu", type=int, help="the first unless told")
    parser.add_argument("--load-cpu", type=int, help="the last unless told")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all repetitions here")
    parser.add_argument("--list", action="store_true", help="say what can be measured here")
    return parser.parse_args(argv)


def separated(names: str) -> list[str]:
    """Names with commas between them."""
    return names.split(",")


def listed() -> int:
    """Say what there is, and what it wants."""
    for server in SERVERS:
        print(server.name, *lacking(server))
    print()
    for workload in WORKLOADS:
        print(f"{workload.name}: {workload.says}", *lacking(workload))
    return 0


def lacking(each: Server | Workload) -> list[str]:
    """A remark on what is not installed."""
    absent = missing(each.needs)
    return [f"(needs {', '.join(absent)})"] if absent else []


def chosen(wanted: argparse.Namespace) -> tuple[list[Server], list[Workload]]:
    """The servers and workloads that are asked for and can be had; what cannot is named."""
    names = {*wanted.servers, *(PEERS if name == ALL else name for name in wanted.peers)} - {NONE}
    servers = [server for server in SERVERS if names & {server.name, server.group}]
    servers += with_workers(map(int, wanted.workers))
    workloads = [each for each in WORKLOADS if {ALL, each.name} & set(wanted.workload)]
    unknown = names - {OURS, FLOORS, PEERS, *(each.name for each in SERVERS)}
    unknown |= set(wanted.workload) - {ALL, *(each.name for each in WORKLOADS)}
    if unknown:
        sys.exit(f"there is no {', '.join(sorted(unknown))}: see --list")
    every: list[Server | Workload] = [*servers, *workloads]
    wanting = [each for each in every if missing(each.needs)]
    for each in wanting:
        print("left out:", each.name, *lacking(each))
    return (
        [server for server in servers if server not in wanting],
        [workload for workload in workloads if workload not in wanting],
    )


def told(what: str) -> None:
    """Say on a terminal what is going on, over what was said before."""
    if sys.stderr.isatty():
        print(f"\r{what:60}\r", end="", file=sys.stderr, flush=True)


def concluded(report: Report) -> int:
    """Print each limit beside what was measured; the status of the command."""
    verdicts = judged(report)
    slipped = [str(each.limit) for each in verdicts if not each.kept]
    failed = [f"{name} under {workload}" for workload, names in report.faults.items() for name in names]
    print("\n### Limits\n", *of_limits(verdicts), "", sep="\n")
    print("not measured:", "; ".join(unknown(verdicts)) or "none")
    print("slipped:", "; ".join(slipped) or "none")
    print("failed:", "; ".join(failed) or "none")
    return int(bool(slipped or failed))


def unknown(verdicts: Sequence[Verdict]) -> list[str]:
    """What has a limit and was not measured, with its workloads."""
    found: dict[str, list[str]] = {}
    for limit, measured in verdicts:
        if measured is None:
            found.setdefault(limit.what, []).append(limit.workload)
    return [f"{what} ({', '.join(workloads)})" for what, workloads in found.items()]
