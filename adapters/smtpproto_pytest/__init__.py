"""A real mail server for the tests of whoever sends mail: the fixture `smtp_server` of pytest."""

# pytest imports this package into every run where it is installed, mostly runs that send no mail:
# nothing of smtpproto is imported before somebody asks for it.

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from smtpproto_pytest._faults import Fault
    from smtpproto_pytest._message import Message
    from smtpproto_pytest._server import CapturingServer, capturing

__all__ = ["CapturingServer", "Fault", "Message", "capturing"]

_MODULES: Final = {
    "CapturingServer": "_server",
    "Fault": "_faults",
    "Message": "_message",
    "capturing": "_server",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
