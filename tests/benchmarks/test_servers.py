# The servers that are measured serve, the loads are answered, and a ratio that slips is a failure.
#
# Nothing here looks at how long anything takes.

from __future__ import annotations

import os
import smtplib
import sys
from typing import TYPE_CHECKING, Final

import pytest

from benchmarks.floor import BYE, EHLO, GO, OK, Sink
from benchmarks.limits import LIMITS, UNITS, Limit, judged
from benchmarks.lineup import FLOORS, OURS, PEERS, SERVERS, Server, is_there, missing, with_workers
from benchmarks.measuring import Bench, Broken, Running, interleaved
from benchmarks.report import Report, circumstances
from benchmarks.servers import chosen, concluded, main, parsed
from benchmarks.workloads import GROUPS, IDLE, TLS, WORKLOADS
from smtpproto_kit import RUNTIMES

if TYPE_CHECKING:
    from pathlib import Path

NAMED: Final = {server.name: server for server in SERVERS}
UNDER: Final = {workload.name: workload for workload in WORKLOADS}
OF_OURS: Final = [server for server in SERVERS if server.group == OURS]
STARTED: Final = [server for server in SERVERS if server.group in {OURS, FLOORS}]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it asks Linux for its figures")
BODY: Final = b"Subject: much\r\n\r\n" + (b"..x" * 20 + b"\r\n") * 4_000 + b".\r\nend\r\n"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    cpu = min(os.sched_getaffinity(0))
    return Bench(tmp_path, server_cpu=cpu, load_cpu=cpu, seconds=0.001, timeout=60.0, warm_up=0)


def deliver(client: smtplib.SMTP) -> None:
    with client:
        for _ in range(2):  # the second shows that the first was read to its end
            assert client.sendmail("a@example.com", ["b@example.com"], BODY) == {}


@pytest.mark.parametrize("server", STARTED, ids=lambda server: server.name)
def test_a_server_takes_messages_in_full(server: Server, bench: Bench) -> None:
    with Running(server, UNDER["reuse10"], bench) as running:
        deliver(smtplib.SMTP("127.0.0.1", running.port, timeout=30))
        spent, in_kernel = running.processor_time()
        assert spent > 0
        assert in_kernel >= 0
        # The kernel counts pages for each CPU and adds them up now and then: not to the last of them.
        assert running.memory_kib("VmHWM") > 0.9 * running.idle_kib > 0


@pytest.mark.parametrize("server", OF_OURS, ids=lambda server: server.name)
def test_ours_take_them_over_tls_too(server: Server, bench: Bench) -> None:
    with Running(server, UNDER["handshake"], bench) as running:
        deliver(smtplib.SMTP_SSL("127.0.0.1", running.port, timeout=30))


@pytest.mark.parametrize("server", with_workers([2]), ids=lambda server: server.name)
def test_the_command_takes_them_with_several_processes(server: Server, bench: Bench) -> None:
    with Running(server, UNDER["workers50"], bench) as running:
        deliver(smtplib.SMTP("127.0.0.1", running.port, timeout=30))
        assert len(running.family()) >= 3  # theirs, and that of who looks after them


def test_each_runtime_is_measured() -> None:
    assert {server.name for server in OF_OURS} - {"asyncio-plain"} == set(RUNTIMES)


def test_the_floor_answers_however_its_octets_are_cut() -> None:
    said = b"EHLO a\r\nMAIL FROM:<>\r\nDATA\r\n.\r\nDATA\r\nx\r\n..\r\n\r\n.\r\nRSET\r\nQUIT\r\n"
    answer = EHLO + OK + GO + OK + GO + OK + OK + BYE
    for cut in range(len(said) + 1):
        sink = Sink()
        assert sink.feed(said[:cut]) + sink.feed(said[cut:]) == answer
        assert sink.closed
    sink = Sink()
    assert b"".join(sink.feed(said[at : at + 1]) for at in range(len(said))) == answer


# --- loads ----------------------------------------------------------------------------------------


@pytest.mark.real("cc", "smtp-source")
@pytest.mark.parametrize("name", ["reuse10", "pipeline", "commands", "churn", "handshake", "tls-reuse4"])
def test_a_load_gives_the_figures_of_each_repetition(name: str, bench: Bench) -> None:
    said: list[str] = []
    figures, faults = interleaved(UNDER[name], [NAMED["asyncio"]], bench, 2, said.append)
    assert faults == {}
    assert [each["units"] >= 2 and each["cpu_us"] > 0 for each in figures["asyncio"]] == [True] * 2
    assert said == [f"{name} {turn}/3 asyncio" for turn in (1, 2, 3)]  # the first finds how many


@pytest.mark.real("cc")
def test_idle_connections_are_weighed(bench: Bench) -> None:
    few = UNDER["idle2000"]._replace(load=("{blast}", "idle", "{port}", "50"), sessions=50)
    figures, faults = interleaved(few, [NAMED["asyncio"]], bench, 1)
    assert faults == {}
    assert figures["asyncio"][0]["units"] == 50
    assert few.group == IDLE


def test_a_server_that_does_not_greet_is_told_of_with_its_last_words(bench: Bench) -> None:
    silent = Server("silent", PEERS, (sys.executable, "-c", "print('so it is'); print('I cannot')"))
    figures, faults = interleaved(UNDER["reuse10"], [silent], bench, 1)
    assert (figures, faults) == ({}, {"silent": "it did not greet: I cannot"})


def test_a_load_that_fails_is_told_of(bench: Bench) -> None:
    wrong = UNDER["handshake"]._replace(load=(sys.executable, "-c", "raise SystemExit('fatal: why')"))
    with Running(NAMED["floor-threads"], UNDER["reuse10"], bench) as running:
        running.workload = wrong
        with pytest.raises(Broken, match="the load failed: fatal: why"):
            running.under_load(1)


def test_what_is_not_installed_is_known() -> None:
    assert missing(["python:no_such_module", "node:no-such-module", "no-such-program"]) == [
        "python:no_such_module", "node:no-such-module", "no-such-program",
    ]  # fmt: skip
    assert is_there("python:smtpproto")


# --- results --------------------------------------------------------------------------------------


def report_of(**medians: float) -> Report:
    """One workload; the figures of each server lie around its median."""
    report = Report({"date": "2026-01-01"})
    repetitions = {
        name.replace("_", "-"): [{"cpu_us": value * part} for part in (0.5, 1.0, 9.0)]
        for name, value in medians.items()
    }
    report.add("reuse10", repetitions, {})
    return report


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    report = report_of(asyncio=120.0, floor_asyncio=100.0)
    report.faults["churn"] = {"asyncio": "it did not greet: [no]"}
    report.write(tmp_path / "report.json")
    assert Report.read(tmp_path / "report.json") == report
    assert "[ 60.0, 120.0, 1080.0 ]" in (tmp_path / "report.json").read_text()


def test_of_reports_that_are_put_together_the_last_word_on_a_workload_holds() -> None:
    first, last = report_of(asyncio=1.0), report_of(asyncio=2.0)
    first.faults = {"reuse10": {"trio": "broken"}, "churn": {"trio": "broken"}}
    whole = Report.together([first, last])
    assert whole.median("reuse10", "asyncio") == 2.0
    assert whole.faults == {"churn": {"trio": "broken"}}
    assert whole.median("reuse10", "trio") is None


def test_circumstances_name_no_folder() -> None:
    about = circumstances(["--json", "/somewhere/file.json", "--reps", "3"])
    assert about["command"] == "python -m tests.benchmarks servers --json file.json --reps 3"
    assert {"date", "cpu", "kernel", "python"} <= set(about)


@pytest.mark.parametrize(("ours", "kept"), [(310.0, True), (310.1, False)])
def test_a_ratio_above_its_limit_has_slipped(
    ours: float, kept: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    report = report_of(asyncio=ours, floor_asyncio=100.0)
    [verdict] = judged(report, [Limit("reuse10", "asyncio", 3.1, "floor-asyncio")])
    assert verdict.kept is kept
    assert concluded(report) == (0 if kept else 1)
    said = capsys.readouterr().out
    assert ("slipped: none" in said) is kept
    assert ("slipped: reuse10: asyncio / floor-asyncio" in said) is not kept
    assert "asyncio / aiosmtpd (small10, reuse10, pipeline, rcpt100, pipeline1m)" in said  # not measured


def test_a_figure_above_its_limit_has_slipped() -> None:
    report = Report()
    report.add("idle2000", {"asyncio": [{"kib": 7.0}]}, {})
    assert [each.kept for each in judged(report, [Limit("idle2000", "asyncio", 6.0, figure="kib")])] == [
        False
    ]


def test_a_server_that_failed_fails_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    report = report_of(asyncio=1.0)
    report.faults = {"churn": {"trio": "broken"}}
    assert concluded(report) == 1
    assert "failed: trio under churn" in capsys.readouterr().out


@pytest.mark.parametrize("limit", LIMITS, ids=str)
def test_a_limit_is_for_something_that_is_measured(limit: Limit) -> None:
    for name in filter(None, (limit.server, limit.over)):
        assert UNDER[limit.workload].takes(NAMED[name])
    assert limit.figure in UNITS


def test_no_ratio_has_two_limits() -> None:
    pairs = [(limit.workload, limit.server, limit.over, limit.figure) for limit in LIMITS]
    assert len(pairs) == len(set(pairs))


# --- the command ----------------------------------------------------------------------------------


def test_servers_and_workloads_are_chosen_by_name() -> None:
    servers, workloads = chosen(
        parsed(["--servers", "trio,floors", "--peers", "none", "--workload", "handshake"])
    )
    assert [server.name for server in servers if server.group != FLOORS] == ["trio"]
    assert [workload.name for workload in workloads] == ["handshake"]
    assert [server.name for server in servers if workloads[0].takes(server)] == ["trio"]
    assert workloads[0].group == TLS


def test_a_name_that_there_is_not_ends_the_command() -> None:
    with pytest.raises(SystemExit, match="there is no nobody, nothing"):
        main(["--servers", "nobody", "--workload", "nothing"])


def test_what_can_be_measured_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    said = capsys.readouterr().out
    assert [name for name in (*NAMED, *UNDER) if name not in said] == []


def test_every_workload_is_in_a_group() -> None:
    assert {workload.group for workload in WORKLOADS} == set(GROUPS)


@pytest.mark.real("smtp-source", "cc")
def test_the_command_measures_and_stores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = tmp_path / "stored.json"
    options = ["--reps", "1", "--seconds", "0.001", "--warm-up", "10", "--json", str(stored)]
    main(["--servers", "floor-asyncio,floor-threads", "--peers", "none", "--workload", "reuse10", *options])
    report = Report.read(stored)
    assert list(report.runs["reuse10"]) == ["floor-asyncio", "floor-threads"]
    assert "| `floor-threads` |" in capsys.readouterr().out
