# A real server in the runtime asked for, and the promise that nothing of it is left behind.

from __future__ import annotations

import contextlib
import gc
import inspect
import threading
import warnings
from typing import TYPE_CHECKING, Any, Final

from smtpproto_kit._client import DEADLINE, Client, wait_until
from smtpproto_kit._runtimes import runtime_named
from smtpproto_kit._shown import watch
from smtpproto_server import Options
from smtpproto_server.adapting import HOOKS, OPTIONAL_HOOKS

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from concurrent.futures import Future

    from smtpproto_kit._runtime import Runtime
    from smtpproto_server.adapting import ServerCore

__all__ = ["Running", "running"]

USUAL: Final[Mapping[str, Any]] = {
    "name": "mx.test",
    "auth_optional": True,
    "disable_reverse_lookup": True,
    "hide_enhancedstatuscodes": False,
}
"""Options that a case does not have to give."""


class Running:
    """A server that runs."""

    def __init__(
        self, runtime: Runtime, server: ServerCore, start: Callable[[Callable[[], Any]], Future[Any]]
    ) -> None:
        self.runtime: Runtime = runtime
        self.server: Any = server
        """The adapter's SMTPServer."""
        self.start: Callable[[Callable[[], Any]], Future[Any]] = start
        """Run a function in the runtime, await what it gives if that is to be awaited; a Future."""
        self.errors: list[tuple[BaseException, dict[str, Any]]] = []
        self.connects: list[dict[str, Any]] = []
        server.on("error", self._note_error)
        server.on("connect", self.connects.append)

    def _note_error(self, error: BaseException, info: dict[str, Any]) -> None:
        self.errors.append((error, info))

    @property
    def port(self) -> int:
        """Of the first listener."""
        return int(self.server.port)

    def call(self, function: Callable[[], Any], seconds: float = DEADLINE) -> Any:
        """`start`, and wait for the result."""
        return self.start(function).result(seconds)

    def close(self, seconds: float = DEADLINE) -> None:
        """Close the server and wait until it is done."""
        self.call(self.server.close, seconds)

    def drop(self) -> None:
        """Close at once, whatever still runs."""

        def abort() -> Any:
            for peer in self.server.peers.copy():
                peer.abort()
            return self.server.close()

        with contextlib.suppress(Exception):
            self.call(abort)

    def client(self, **how: Any) -> Client:
        """A client that has just connected."""
        return Client(self.port, **how)


@contextlib.contextmanager
def running(
    runtime: Runtime | str = "asyncio",
    server: type[Any] | None = None,
    *,
    listen: bool = True,
    **options: Any,
) -> Generator[Running]:
    """A server with these options, listening on a free port of 127.0.0.1.

    Hooks that are generator functions get the runtime's colour (`Runtime.coloured`), options and
    methods of the class `server` alike; others are taken as they are. On leaving, the server is
    closed, and no task, greenlet, thread or warning of it may be left.
    """
    if isinstance(runtime, str):
        runtime = runtime_named(runtime)
    given: dict[str, Any] = {**USUAL, **options}
    for name in (*HOOKS, *OPTIONAL_HOOKS):
        if inspect.isgeneratorfunction(given.get(name)):
            given[name] = runtime.coloured(given[name])
    before = set(threading.enumerate())
    made: ServerCore = (server or runtime.server_class)(Options(**given))
    for name in (*HOOKS, *OPTIONAL_HOOKS):
        if inspect.isgeneratorfunction(getattr(made, name)):
            setattr(made, name, runtime.coloured(getattr(made, name)))
    watch(made, options, USUAL)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with runtime.serve(made) as start:
            box = Running(runtime, made, start)
            if listen:
                box.call(lambda: box.server.listen(0, "127.0.0.1"))
            try:
                yield box
            except BaseException:
                box.drop()  # so that one failure is not followed by others
                raise
            box.close((given.get("close_timeout", 30.0) or 0.0) + DEADLINE)
            assert not made.sessions
            assert not made.peers
            left: list[str] = box.call(runtime.left_over)
            assert not left, left
        wait_until(lambda: all(map(runtime.keeps, set(threading.enumerate()) - before)))
        gc.collect(0)
    assert not warned, [str(each.message) for each in warned]
