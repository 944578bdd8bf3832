# The runtimes by name. Each is imported when it is asked for: the others need not be installed.

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Final, NamedTuple

from smtpproto_cli._faults import Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from smtpproto_cli._service import Service
    from smtpproto_cli._sinks import Awaits, CoroutineHook, PlainHook, Sink, Waits

__all__ = ["RUNTIMES", "Runtime", "load"]

# ruff: noqa: PLC0415 - each function imports the runtime that was asked for


class Runtime(NamedTuple):
    """What runs a server."""

    run: Callable[[Service], object]
    """Serves until a signal, and then ends the process."""
    hook: Callable[[Sink], CoroutineHook | PlainHook]
    """The hook of a sink that this runtime calls."""


def _coroutine(wait: Awaits) -> Callable[[Sink], CoroutineHook]:
    def hook(sink: Sink) -> CoroutineHook:
        return sink.coroutine(wait)

    return hook


def _plain(wait: Waits) -> Callable[[Sink], PlainHook]:
    def hook(sink: Sink) -> PlainHook:
        return sink.plain(wait)

    return hook


def _asyncio() -> Runtime:
    import asyncio

    from smtpproto_cli._asyncio import run

    return Runtime(partial(run, loop_factory=None), _coroutine(asyncio.wrap_future))


def _uvloop() -> Runtime:
    import uvloop

    from smtpproto_cli._asyncio import run

    return _asyncio()._replace(run=partial(run, loop_factory=uvloop.new_event_loop))


def _anyio() -> Runtime:
    from smtpproto_cli._anyio import run

    return _asyncio()._replace(run=partial(run, backend="asyncio"))


def _trio() -> Runtime:
    import_module("trio")  # anyio would miss it too late

    from smtpproto_cli._anyio import run, wait_on_trio

    return Runtime(partial(run, backend="trio"), _coroutine(wait_on_trio))


def _gevent() -> Runtime:
    from smtpproto_cli._gevent import run, wait

    return Runtime(run, _plain(wait))


def _blocking() -> Runtime:
    from smtpproto_cli._blocking import run, wait

    return Runtime(run, _plain(wait))


RUNTIMES: Final[Mapping[str, Callable[[], Runtime]]] = {
    "asyncio": _asyncio,
    "uvloop": _uvloop,
    "anyio": _anyio,
    "trio": _trio,
    "gevent": _gevent,
    "blocking": _blocking,
}

_PACKAGES: Final = frozenset({"anyio", "gevent", "trio", "uvloop"})


def load(name: str) -> Runtime:
    """The runtime of that name. Raises Fault if a package it needs is not installed."""
    try:
        return RUNTIMES[name]()
    except ModuleNotFoundError as error:
        if error.name not in _PACKAGES:
            raise
        raise Fault(
            f"--runtime {name}: {error.name} is not installed; pip install 'smtpproto-server[cli,{name}]'"
        ) from None
