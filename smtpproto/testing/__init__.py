"""Tests for what is built on smtpproto, with the means by which smtpproto itself is tested.

Needs the extra `testing`: `pip install 'smtpproto-server[testing]'`.
"""

from __future__ import annotations

from smtpproto.testing._conversation import (
    ENTROPY,
    TLS,
    Outcome,
    converse,
    cuts,
    drive,
    final_state,
    message,
    octets,
    play,
    settle,
    split_replies,
)

__all__ = [
    "ENTROPY", "TLS", "Outcome", "converse", "cuts", "drive", "final_state", "message", "octets", "play",
    "settle", "split_replies",
]  # fmt: skip
