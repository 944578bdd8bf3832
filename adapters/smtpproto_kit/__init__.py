"""What every adapter must do, as tests to be run against one: yours, or one of the six runtimes."""

from __future__ import annotations

from smtpproto_kit._client import DATA, DEADLINE, Client, wait_until
from smtpproto_kit._running import Running, running
from smtpproto_kit._runtime import Runtime
from smtpproto_kit._runtimes import RUNTIMES, Threads, runtime_named

__all__ = [
    "DATA", "DEADLINE", "RUNTIMES", "Client", "Running", "Runtime", "Threads", "running", "runtime_named",
    "wait_until",
]  # fmt: skip
