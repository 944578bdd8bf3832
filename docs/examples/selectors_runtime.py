"""What the kit has to know of the adapter next to this file."""

from __future__ import annotations

from typing import ClassVar

from selectors_adapter import SMTPServer
from smtpproto_kit import Threads


class Selectors(Threads):
    """Threads, of which a connection has one only while there is work."""

    own_thread: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__("selectors", SMTPServer)
