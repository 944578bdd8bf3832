# The page of figures: the same from the same file, with every number that was stored.

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from benchmarks.lineup import SERVERS, with_workers
from benchmarks.page import NO_FIGURES, main, page
from benchmarks.report import Report
from benchmarks.workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.lineup import Server
    from benchmarks.workloads import Workload

FIGURES = {
    "units": 10.0, "rate": 1234.5, "kernel": 0.25, "busy": 0.9, "peak_mib": 40.0, "growth_mib": 0.5,
    "kib": 5.5, "idle_cpu": 0.0,
}  # fmt: skip


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A file as the command writes it, with two repetitions of everything."""
    return written(tmp_path, SERVERS, WORKLOADS)


def written(folder: Path, servers: Sequence[Server], workloads: Sequence[Workload]) -> Path:
    report = Report({"date": "2026-01-01", "python": "CPython 3.11"})
    for place, workload in enumerate(workloads, 1):
        report.add(
            workload.name,
            {
                server.name: [{**FIGURES, "cpu_us": 100.0 * place + row + part} for part in (0.0, 1.0)]
                for row, server in enumerate((*servers, *with_workers([1, 2])))
                if workload.takes(server)
            },
            {},
        )
    report.faults["churn"] = {"trio": "it did not greet"}
    path = folder / "stored.json"
    report.write(path)
    return path


def test_the_tables_have_a_row_for_each_server_under_each_workload(stored: Path) -> None:
    report = Report.read(stored)
    text = "\n".join(page([report], "speed"))
    for workload, servers in report.runs.items():
        part = text.partition(f"\n`{workload}`: ")[2].partition("\n\n")[2].partition("\n\n")[0]
        assert set(re.findall(r"^\| `([a-z0-9-]+)` \|", part, re.MULTILINE)) == set(servers)
    assert "`trio` has no figures: it did not greet" in text
    assert "| `asyncio` | 100 | 100 ... 101 | 25% | 1,234 | 90% | 40 | 0.5 |" in text


def test_a_page_without_figures_says_so() -> None:
    assert list(page([Report()], "speed"))[-1] == NO_FIGURES


def test_facts_that_differ_from_run_to_run_are_all_told() -> None:
    reports = [Report({"date": day, "cpu": "one"}, {"churn": {}}) for day in ("monday", "tuesday")]
    lines = list(page(reports, "speed"))
    assert [line for line in lines if line.startswith(("| date", "| cpu"))] == [
        "| date | `monday` |", "| date | `tuesday` |", "| cpu | `one` |",
    ]  # fmt: skip


def test_the_same_figures_make_the_same_page_and_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the group bench")
    few = [server for server in SERVERS if server.name in {"asyncio", "floor-asyncio", "aiosmtpd"}]
    some = [workload for workload in WORKLOADS if workload.name in {"reuse10", "idle2000", "workers50"}]
    stored = written(tmp_path, few, some)
    made: list[dict[str, bytes]] = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        assert main(["--json", str(stored), "--out", str(folder / "speed")]) == 0
        made.append({str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")})
    assert made[0] == made[1]
    shown = re.findall(r"\]\((.*?)\)", made[0]["speed-tables.md"].decode())
    assert sorted(["speed-tables.md", *shown]) == sorted(made[0])
    assert len(shown) == 5  # three groups, and two kinds of ratios
    for picture in shown:
        assert (
            b">asyncio" in made[0][picture]
            or b"asyncio /" in made[0][picture]
            or b"serve-2" in made[0][picture]
        )
