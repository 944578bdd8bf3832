# What speed must not slip below: ratios of two servers in one run, and limits of memory.
#
# A ratio holds on any machine where both were measured under the same load at the same time; a time
# holds on one machine. So there is no limit for a time. Each limit is what was measured, and about a sixth
# more: medians on a shared machine move.

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from benchmarks.report import Report


class Limit(NamedTuple):
    """What a figure may be at the most, or with `over` its ratio to that of another server."""

    workload: str
    server: str
    at_most: float
    over: str = ""
    figure: str = "cpu_us"

    @property
    def what(self) -> str:
        """The ratio or the figure, in words."""
        return f"{self.server}{self.over and ' / '}{self.over}{UNITS[self.figure]}"

    def __str__(self) -> str:
        return f"{self.workload}: {self.what}"


UNITS: Final = {
    "cpu_us": "",
    "growth_mib": ", MiB over idle for each session",
    "kib": ", KiB for each connection",
}


def ratios(server: str, over: str, **at_most: float) -> Iterator[Limit]:
    """A limit for each workload, of the processor's time."""
    return (Limit(workload, server, value, over) for workload, value in at_most.items())


ON_SOCKETS: Final = (
    "small10", "small50", "small200", "churn", "reuse10", "pipeline", "rcpt100", "commands", "large1m",
    "pipeline1m", "large20m",
)  # fmt: skip
OURS: Final = ("asyncio", "asyncio-plain", "uvloop", "anyio", "trio", "gevent", "blocking")
# Against the floor of the same style: what the protocol, its checks and the hooks may take.
BESIDE_FLOORS: Final = (
    *ratios(
        "asyncio", "floor-asyncio",
        small10=2.8, reuse10=3.1, churn=2.4, pipeline=4.9, rcpt100=5.2, commands=4, pipeline1m=1,
        large20m=1.1,
    ),
    *ratios("asyncio", "floor-buffered", pipeline1m=1.4, large20m=2.2),
    *ratios("uvloop", "floor-uvloop-buffered", small10=3.9, reuse10=3.2, pipeline=5.2, pipeline1m=1.3),
    *ratios("gevent", "floor-gevent", reuse10=1.8, pipeline=4.8, large1m=1.4, pipeline1m=1.25),
    *ratios("blocking", "floor-threads", reuse10=5, pipeline=11.1, large1m=1.6, pipeline1m=1.6),
    *ratios("anyio", "floor-anyio", reuse10=1.7, pipeline=2.4, large1m=1.1, pipeline1m=0.8),
)  # fmt: skip
BESIDE_PEERS: Final = (
    *ratios("asyncio", "aiosmtpd", small10=0.54, reuse10=0.25, pipeline=0.15, rcpt100=0.03, pipeline1m=0.05),
    *ratios(
        "uvloop",
        "aiosmtpd-uvloop",
        small10=0.41,
        reuse10=0.29,
        pipeline=0.155,
        rcpt100=0.031,
        pipeline1m=0.04,
    ),
    *(Limit(workload, "asyncio", 1.0, "node-smtp-server") for workload in ON_SOCKETS),
    *ratios("asyncio", "smtp-sink", pipeline1m=0.3, large20m=1),
)
MEMORY: Final = (
    *(Limit("large20m", server, 8.0, figure="growth_mib") for server in OURS),
    Limit("idle2000", "asyncio", 4.7, figure="kib"),
)
LIMITS: Final = (*BESIDE_FLOORS, *BESIDE_PEERS, *MEMORY)


class Verdict(NamedTuple):
    """A limit, and what was measured; None if it was not."""

    limit: Limit
    measured: float | None

    @property
    def kept(self) -> bool:
        """Whether it is within the limit, or not known."""
        return self.measured is None or self.measured <= self.limit.at_most


def judged(report: Report, limits: Iterable[Limit] = LIMITS) -> list[Verdict]:
    """Each limit with what the report has for it."""
    return [Verdict(limit, measured(report, limit)) for limit in limits]


def measured(report: Report, limit: Limit) -> float | None:
    """The ratio of two medians, or a median."""
    value = report.median(limit.workload, limit.server, limit.figure)
    if not limit.over:
        return value
    other = report.median(limit.workload, limit.over, limit.figure)
    return value / other if value is not None and other else None
