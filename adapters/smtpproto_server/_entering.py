# What is entered before a server listens and left after it has closed: those of its handlers that are
# context managers.

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from smtpproto_server._chain import members_of
from smtpproto_server._steps import take, take_awaiting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from smtpproto_server._application import Application
    from smtpproto_server._steps import Steps

    InThread = Callable[[Callable[[], Any]], Awaitable[Any]]

__all__ = ["Managers"]


class Managed(NamedTuple):
    """A call that a context manager gets."""

    call: Callable[[], Any]
    awaited: bool
    """What it gives is to be awaited; else it may block."""


class Managers:
    """A server's handler, or the members of its chain, as far as they are context managers.

    Raises TypeError for one that is to be awaited where nothing can be.
    """

    def __init__(self, server: Application) -> None:
        self._server: Application = server
        self._all: tuple[object, ...] = tuple(filter(self._is_manager, members_of(server.options.handler)))
        self._to_leave: list[object] = []
        self.entered: bool = False
        """All of them are, until they are left."""

    def __len__(self) -> int:
        return len(self._all)

    def enter(self) -> None:
        """Enter all, unless that was done. If one raises, those before it are left."""
        take(self._entering(), _call)

    def leave(self) -> None:
        """Leave those that were entered, the last one first, whatever one raises. Errors are reported."""
        take(self._leaving(), _call)

    async def enter_awaiting(self, in_thread: InThread) -> None:
        """As `enter`, with coroutines: what may block is given to `in_thread`."""
        await take_awaiting(self._entering(), partial(self._call_awaiting, in_thread))

    async def leave_awaiting(self, in_thread: InThread) -> None:
        """As `leave`, with coroutines."""
        await take_awaiting(self._leaving(), partial(self._call_awaiting, in_thread))

    def forget(self) -> None:
        """They cannot be left any more."""
        self.entered = False
        self._to_leave.clear()

    async def _call_awaiting(self, in_thread: InThread, managed: Managed) -> None:
        if managed.awaited:
            await managed.call()
        elif self._server.options.sync_hooks == "inline":
            managed.call()
        else:
            await in_thread(managed.call)

    def _entering(self) -> Steps:
        if self.entered:
            return
        for manager in self._all:
            try:
                yield self._managed(manager, "enter")
            except BaseException:
                yield from self._leaving()
                raise
            self._to_leave.append(manager)
        self.entered = True

    def _leaving(self) -> Steps:
        self.entered = False
        while self._to_leave:
            try:
                yield self._managed(self._to_leave.pop(), "exit", None, None, None)
            except Exception as error:  # noqa: BLE001 - the others are to be left, too
                self._server.report(error, "hook", None)
            except BaseException:
                yield from self._leaving()
                raise

    def _is_manager(self, handler: object) -> bool:
        kind = type(handler)
        plain = hasattr(kind, "__enter__") and hasattr(kind, "__exit__")
        awaited = _is_awaited(handler)
        if awaited and not plain and not self._server.coroutines:
            raise TypeError(f"{kind.__qualname__} has __aenter__; this runtime takes __enter__ and __exit__")
        return plain or awaited

    def _managed(self, manager: object, what: str, *args: None) -> Managed:
        awaited = self._server.coroutines and _is_awaited(manager)
        method: Any = getattr(type(manager), f"__a{what}__" if awaited else f"__{what}__")
        return Managed(lambda: method(manager, *args), awaited)


def _is_awaited(handler: object) -> bool:
    kind = type(handler)
    return hasattr(kind, "__aenter__") and hasattr(kind, "__aexit__")


def _call(managed: Managed) -> Any:
    return managed.call()
