# Planted faults: the tool finds each of them, and accuses the server of nothing else.

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from smtpproto_conformance import Report, Suite, Target, Verdict, chosen, resolved

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType


def _faulty() -> ModuleType:
    """The module beside this one; tests are in no package."""
    spec = importlib.util.spec_from_file_location("faulty", Path(__file__).parent / "faulty.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


serving: Final[Any] = _faulty().serving

# Each fault, and all rows that it makes fail or differ.
FAULTS: Final[Mapping[str, set[str]]] = {
    "250 is said with 5.1.0": {"C161"},
    "CRLF in a reply's text": {"C047"},
    "DATA needs no recipient": {"C103"},
    "EHLO keeps the transaction": {"P004"},
    "EHLO's lines have two codes": {"C047"},
    "HELO is unknown": {"C007"},
    "LF.LF ends the data": {"C112", "P009", "P011"},
    "MAIL may be nested": {"C055"},
    "MAIL needs no EHLO": {"C016", "C224"},
    "QUIT does not close": {"C032"},
    "STARTTLS is offered again": {"C217"},
    "a bare CR ends a command": {"C043", "C065"},
    "lines of 900 are too long": {"C130", "C131"},
    "lower case is unknown": {"C008", "C053"},
    "plaintext is kept over STARTTLS": {"C227", "C232"},
    "unknown commands have no reply": {"C046", "P029", "P032"},
}
LMTP_FAULTS: Final[Mapping[str, set[str]]] = {
    "LMTP has one reply": {"C317", "C319"},
    "DATA needs no recipient": {"C103", "C320"},
}


def ask(port: int, *, lmtp: bool = False) -> Report:
    target = Target(place=resolved(f"127.0.0.1:{port}"), lmtp=lmtp, patience=2.0)
    return Suite(target, chosen([])).run()


def wrong(report: Report) -> set[str]:
    bad = {Verdict.FAIL, Verdict.DIFFERS}
    return {each.case.id for each in report.results if each.outcome.verdict in bad}


@pytest.mark.parametrize("lmtp", [False, True], ids=["SMTP", "LMTP"])
def test_the_server_passes_without_a_fault(lmtp: bool) -> None:
    with serving(lmtp=lmtp) as port:
        report = ask(port, lmtp=lmtp)
    assert wrong(report) == set()
    assert report.counts[Verdict.PASS] > 110


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_seen_in_its_rows_and_no_other(fault: str) -> None:
    with serving(fault) as port:
        assert wrong(ask(port)) == FAULTS[fault]


@pytest.mark.parametrize("fault", LMTP_FAULTS)
def test_a_fault_of_lmtp_is_seen_in_its_rows_and_no_other(fault: str) -> None:
    with serving(fault, lmtp=True) as port:
        assert wrong(ask(port, lmtp=True)) == LMTP_FAULTS[fault]
