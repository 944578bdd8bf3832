# Telling systemd how far we are: sd_notify(3), for `Type=notify`.

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Final

__all__ = ["READY", "STOPPING", "notify"]

READY: Final = b"READY=1"
STOPPING: Final = b"STOPPING=1"


def notify(state: bytes) -> None:
    """Say it to whoever started us, if they want to know. Nobody listening is no fault."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path[:1] not in ("/", "@"):
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1.0)  # a datagram that finds its queue full
        sock.sendto(state, path.replace("@", "\0", 1) if path[0] == "@" else path)
