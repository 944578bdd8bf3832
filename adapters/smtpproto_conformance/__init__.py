"""Ask any SMTP or LMTP server, as a black box, whether it does what the RFCs say."""

from __future__ import annotations

from smtpproto_conformance._judging import Level, Verdict
from smtpproto_conformance._reports import as_json, as_junit
from smtpproto_conformance._suite import Report, Result, Suite, Unreachable
from smtpproto_conformance._table import Case, cases, chosen
from smtpproto_conformance._target import Login, NotYours, Place, Security, Target, resolved

__all__ = [
    "Case", "Level", "Login", "NotYours", "Place", "Report", "Result", "Security", "Suite", "Target",
    "Unreachable", "Verdict", "as_json", "as_junit", "cases", "chosen", "resolved",
]  # fmt: skip
