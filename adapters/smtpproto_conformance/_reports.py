# A run's result for programs: JSON, and JUnit for those that collect tests.

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any, Final

from smtpproto_conformance._judging import Verdict

if TYPE_CHECKING:
    from smtpproto_conformance._suite import Report, Result

__all__ = ["as_json", "as_junit"]

# XML 1.0 §2.2 has no way to write these, and a server may well.
NOT_IN_XML: Final = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def as_json(report: Report) -> str:
    """Counts, and an object for each row."""
    return json.dumps(
        {
            "counts": {verdict.value: number for verdict, number in report.counts.items()},
            "ended": report.ended,
            "rows": [_row(result) for result in report.results],
        },
        indent=2,
    )


def _row(result: Result) -> dict[str, Any]:
    case, outcome = result.case, result.outcome
    return {
        "id": case.id, "source": case.source, "level": case.level.value, "setup": case.setup,
        "input": case.input, "allowed": " ".join(case.allowed), "verdict": outcome.verdict.value,
        "reason": outcome.reason,
    }  # fmt: skip


def as_junit(report: Report, *, strict: bool = False) -> str:
    """A test suite; what is not told is skipped, and what differs is a failure only with `strict`."""
    suite = ET.Element("testsuite", name="smtpproto conformance", tests=str(len(report.results)))
    failing = {Verdict.FAIL, Verdict.DIFFERS} if strict else {Verdict.FAIL}
    suite.set("failures", str(sum(report.counts[each] for each in failing)))
    suite.set("skipped", str(report.counts[Verdict.NOT_TOLD]))
    for result in report.results:
        _add(suite, result, failing)
    if report.ended:
        ET.SubElement(suite, "system-err").text = _fit(report.ended)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True)


def _add(suite: ET.Element, result: Result, failing: set[Verdict]) -> None:
    case, outcome = result.case, result.outcome
    test = ET.SubElement(suite, "testcase", classname=case.source, name=f"{case.id} {case.level.value}")
    if outcome.verdict in failing:
        ET.SubElement(test, "failure", message=_fit(outcome.reason))
    elif outcome.verdict is Verdict.NOT_TOLD:
        ET.SubElement(test, "skipped", message=_fit(outcome.reason))
    elif outcome.reason:
        ET.SubElement(test, "system-out").text = _fit(f"{outcome.verdict.value}: {outcome.reason}")


def _fit(text: str) -> str:
    return NOT_IN_XML.sub("�", text)
