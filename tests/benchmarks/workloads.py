# What servers are measured under: each workload is a row with the command that makes the load.
#
# {port} is the server's, {n} how many units there are to be. The loads are Postfix's smtp-source, what
# it cannot do in blast.c, and TLS in tls_load.py. Everything stays on 127.0.0.1 and is bounded.

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final, NamedTuple

from benchmarks.lineup import HERE, WORKERS

if TYPE_CHECKING:
    from benchmarks.lineup import Server

KIB: Final = 1024
MIB: Final = 1024 * KIB

SESSIONS: Final = "New connections"
REUSED: Final = "Many messages in a session"
LARGE: Final = "Large messages"
TLS: Final = "Over TLS"
IDLE: Final = "Idle connections"
SEVERAL: Final = "Several processes"
GROUPS: Final = (SESSIONS, REUSED, LARGE, TLS, IDLE, SEVERAL)

SOURCE: Final = ("smtp-source", "-M", "localhost", "-f", "a@example.com", "-t", "d@example.com", "-N")
OVER_TLS: Final = (sys.executable, str(HERE / "tls_load.py"))
TO: Final = "127.0.0.1:{port}"


class Workload(NamedTuple):
    """A load, and what one unit of it is."""

    name: str
    group: str
    says: str
    """What the clients do."""
    load: tuple[str, ...]
    most: int
    """Units of one repetition, however quick the server is."""
    sessions: int = 1
    """Connections at a time."""
    octets: int = 0
    """Of the message in a unit."""
    unit: str = "message"

    def takes(self, server: Server) -> bool:
        """Whether a server is measured under it."""
        if self.group == SEVERAL:
            return server.group == WORKERS
        return server.group != WORKERS and (self.group != TLS or bool(server.tls))

    @property
    def needs(self) -> tuple[str, ...]:
        """What makes the load, and blast, which warms servers; as `lineup.missing` takes it."""
        if self.group == TLS:
            return ("python:trustme",)
        return ("cc", *(("smtp-source",) if self.load[0] == "smtp-source" else ()))


def _source(sessions: int, octets: int, *options: str) -> tuple[str, ...]:
    return (*SOURCE, *options, "-s", str(sessions), "-l", str(octets), "-m", "{n}", TO)


def _blast(kind: str, sessions: int, *options: str) -> tuple[str, ...]:
    return ("{blast}", kind, "{port}", str(sessions), *options)


def _new_connections(sessions: int) -> Workload:
    says = f"a connection for each message of 1 KiB, {sessions} at a time"
    return Workload(f"small{sessions}", SESSIONS, says, _source(sessions, KIB), 20_000, sessions, KIB)


WORKLOADS: Final = (
    _new_connections(10),
    _new_connections(50),
    _new_connections(200),
    Workload(
        "churn", SESSIONS, "connect, greeting, QUIT, 50 at a time",
        _blast("churn", 50, "{n}"), 20_000, 50, unit="connection",
    ),
    Workload(
        "reuse10", REUSED, "messages of 1 KiB in 10 sessions, each command waits for its reply",
        _source(10, KIB, "-d"), 60_000, 10, KIB,
    ),
    Workload(
        "pipeline", REUSED, "messages of 1 KiB in 8 sessions, one write for the end of one and the "
        "next MAIL, RCPT and DATA", _blast("pipeline", 8, "{n}", "1024", "1"), 200_000, 8, KIB,
    ),
    Workload(
        "rcpt100", REUSED, "the same with 100 recipients for each message",
        _blast("pipeline", 8, "{n}", "1024", "100"), 20_000, 8, KIB,
    ),
    Workload(
        "commands", REUSED, "MAIL, RCPT, RSET in 4 sessions, 50 times in one write",
        _blast("commands", 4, "{n}", "50"), 400_000, 4, unit="transaction",
    ),
    Workload(
        "large1m", LARGE, "messages of 1 MiB in 4 sessions, each command waits for its reply",
        _source(4, MIB, "-d"), 2_000, 4, MIB,
    ),
    Workload(
        "pipeline1m", LARGE, "messages of 1 MiB in 4 sessions, one write for each",
        _blast("pipeline", 4, "{n}", str(MIB), "1"), 4_000, 4, MIB,
    ),
    Workload(
        "large20m", LARGE, "messages of 20 MiB in 2 sessions, each command waits for its reply",
        _source(2, 20 * MIB, "-d"), 100, 2, 20 * MIB,
    ),
    Workload(
        "handshake", TLS, "connect, handshake, greeting, QUIT, 4 at a time",
        (*OVER_TLS, "handshakes", "{port}", "4", "{n}"), 4_000, 4, unit="connection",
    ),
    Workload(
        "tls-reuse4", TLS, "messages of 1 KiB in 4 sessions, each command waits for its reply",
        (*OVER_TLS, "messages", "{port}", "4", "{n}", str(KIB)), 20_000, 4, KIB,
    ),
    Workload(
        "tls-large1m", TLS, "messages of 1 MiB in 4 sessions, each command waits for its reply",
        (*OVER_TLS, "messages", "{port}", "4", "{n}", str(MIB)), 1_000, 4, MIB,
    ),
    Workload(
        "idle2000", IDLE, "2,000 connections have said EHLO and are silent",
        _blast("idle", 2000), 2_000, 2_000, unit="connection",
    ),
    Workload(
        "workers50", SEVERAL, "a connection for each message of 1 KiB, 50 at a time; nothing is pinned",
        _source(50, KIB), 20_000, 50, KIB,
    ),
    Workload(
        "workers-reuse10", SEVERAL, "messages of 1 KiB in 10 sessions; nothing is pinned",
        _source(10, KIB, "-d"), 60_000, 10, KIB,
    ),
)  # fmt: skip
