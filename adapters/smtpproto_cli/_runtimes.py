# The runtimes by name. Each is imported when it is asked for: the others need not be installed.

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from smtpproto_cli._faults import Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from smtpproto_cli._service import Service

__all__ = ["RUNTIMES"]


def _on_asyncio(service: Service) -> None:
    from smtpproto_cli._asyncio import run  # noqa: PLC0415 - the runtime that was asked for

    run(service, None)


def _on_uvloop(service: Service) -> None:
    from smtpproto_cli._asyncio import run  # noqa: PLC0415 - the runtime that was asked for

    try:
        import uvloop  # noqa: PLC0415 - may not be installed
    except ModuleNotFoundError:
        raise Fault(
            "--runtime uvloop: uvloop is not installed; pip install 'smtpproto-server[cli,uvloop]'"
        ) from None
    run(service, uvloop.new_event_loop)


RUNTIMES: Final[Mapping[str, Callable[[Service], None]]] = {"asyncio": _on_asyncio, "uvloop": _on_uvloop}
"""Functions that serve until a signal ends it."""
