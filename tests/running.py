# A real server on asyncio, with its loop at hand, for tests of what is asyncio's alone.
#
# The client and all that other runtimes need too are smtpproto_kit's.

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any

from smtpproto_asyncio import Options, SMTPServer
from smtpproto_kit import DATA, DEADLINE, Client, wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

RUNTIMES = ("asyncio", "uvloop")

__all__ = ["DATA", "DEADLINE", "RUNTIMES", "Client", "Running", "new_loop", "running", "wait_until"]


class Running:
    """A server that runs."""

    def __init__(self, server: SMTPServer, loop: asyncio.AbstractEventLoop) -> None:
        self.server = server
        self.loop = loop
        self.errors: list[tuple[BaseException, dict[str, Any]]] = []
        self.connects: list[dict[str, Any]] = []
        self.loop_errors: list[dict[str, Any]] = []
        server.on("error", self.note_error)
        server.on("connect", self.connects.append)

    def note_error(self, error: BaseException, info: dict[str, Any]) -> None:
        self.errors.append((error, info))

    @property
    def port(self) -> int:
        address = self.server.address()
        assert isinstance(address, tuple)
        return address[1]

    def call(self, function: Callable[[], Awaitable[Any]], seconds: float = DEADLINE) -> Any:
        """Await in the server's own loop."""

        async def run() -> Any:
            return await function()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(seconds)

    def close(self, seconds: float = DEADLINE) -> None:
        self.call(self.server.close, seconds)

    def drop(self) -> None:
        """Close at once, whatever still runs."""

        async def abort() -> None:
            for peer in tuple(self.server.peers):
                peer.abort()
            await self.server.close()

        with contextlib.suppress(Exception):
            self.call(abort)

    def client(self, **how: Any) -> Client:
        return Client(self.port, **how)


@contextlib.contextmanager
def running(
    runtime: str = "asyncio", server: type[SMTPServer] = SMTPServer, **options: Any
) -> Generator[Running]:
    """A server with these options; on leaving it is closed, and nothing of it may be left."""
    options.setdefault("name", "mx.test")
    options.setdefault("auth_optional", True)
    options.setdefault("disable_reverse_lookup", True)
    options.setdefault("hide_enhancedstatuscodes", False)
    before = threading.active_count()
    made = server(Options(**options))
    loop = new_loop(runtime)
    box = Running(made, loop)
    loop.set_exception_handler(lambda _, context: box.loop_errors.append(context))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        box.call(lambda: made.listen(0, "127.0.0.1"))
        try:
            yield box
        except BaseException:
            box.drop()  # so that one failure is not followed by others
            raise
        box.close(options.get("close_timeout", 30.0) + DEADLINE)
        assert not made.sessions
        assert not made.peers
        assert not box.call(left_over)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
    assert not box.loop_errors
    wait_until(lambda: threading.active_count() <= before)


def new_loop(runtime: str) -> asyncio.AbstractEventLoop:
    if runtime == "uvloop":
        import uvloop  # noqa: PLC0415 - not there on every machine

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()


async def left_over() -> list[asyncio.Task[Any]]:
    """Tasks other than the one that asks."""
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
