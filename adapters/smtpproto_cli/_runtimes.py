# The runtimes by name. Each is imported when it is asked for: the others need not be installed.

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Final

from smtpproto_cli._faults import Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from smtpproto_cli._service import Service

    Run = Callable[[Service], None]

__all__ = ["RUNTIMES", "load"]

# ruff: noqa: PLC0415 - each function imports the runtime that was asked for


def _asyncio() -> Run:
    from smtpproto_cli._asyncio import run

    return partial(run, loop_factory=None)


def _uvloop() -> Run:
    import uvloop

    from smtpproto_cli._asyncio import run

    return partial(run, loop_factory=uvloop.new_event_loop)


def _anyio() -> Run:
    from smtpproto_cli._anyio import run

    return partial(run, backend="asyncio")


def _trio() -> Run:
    from smtpproto_cli._anyio import run

    import_module("trio")  # anyio would miss it too late

    return partial(run, backend="trio")


def _gevent() -> Run:
    from smtpproto_cli._gevent import run

    return run


def _blocking() -> Run:
    from smtpproto_cli._blocking import run

    return run


RUNTIMES: Final[Mapping[str, Callable[[], Run]]] = {
    "asyncio": _asyncio,
    "uvloop": _uvloop,
    "anyio": _anyio,
    "trio": _trio,
    "gevent": _gevent,
    "blocking": _blocking,
}
"""What gives functions that serve until a signal ends it."""

_PACKAGES: Final = frozenset({"anyio", "gevent", "trio", "uvloop"})


def load(name: str) -> Run:
    """The runtime of that name. Raises Fault if a package it needs is not installed."""
    try:
        return RUNTIMES[name]()
    except ModuleNotFoundError as error:
        if error.name not in _PACKAGES:
            raise
        raise Fault(
            f"--runtime {name}: {error.name} is not installed; pip install 'smtpproto-server[cli,{name}]'"
        ) from None
