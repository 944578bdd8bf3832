# The six runtimes, each started in a thread of its own. An adapter is imported when it is asked for.

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar, Final

from smtpproto_kit._runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from smtpproto_server.adapting import ServerCore

    Call = Callable[[Callable[[], Any]], Future[Any]]

__all__ = ["RUNTIMES", "Threads", "runtime_named"]


async def _awaited(function: Callable[[], Any]) -> Any:
    result = function()
    return await result if inspect.isawaitable(result) else result


class Asyncio(Runtime):
    """asyncio's own loop, or uvloop."""

    def __init__(self, name: str) -> None:
        from smtpproto_asyncio import SMTPServer  # noqa: PLC0415 - the runtime that was asked for

        self.name: str = name
        self.loops: str = name
        """The module whose `new_event_loop` makes them."""
        self.server_class: type[ServerCore] = SMTPServer

    @contextlib.contextmanager
    def serve(self, server: ServerCore) -> Generator[Call]:
        """A loop that runs for ever in a thread."""
        import asyncio  # noqa: PLC0415 - as above

        maker: Any = importlib.import_module(self.loops)
        loop = maker.new_event_loop()
        complaints: list[dict[str, Any]] = []

        def complain(_loop: object, context: dict[str, Any]) -> None:
            complaints.append(context)

        loop.set_exception_handler(complain)
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            yield lambda function: asyncio.run_coroutine_threadsafe(_awaited(function), loop)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()
        assert not complaints, complaints
        del server

    def pause(self, seconds: float) -> Any:
        """A task's sleep."""
        import asyncio  # noqa: PLC0415 - as above

        return asyncio.sleep(seconds)

    def left_over(self) -> list[str]:
        """Tasks but the one that asks."""
        import asyncio  # noqa: PLC0415 - as above

        return [repr(task) for task in asyncio.all_tasks() if task is not asyncio.current_task()]


class AnyIO(Runtime):
    """anyio, on asyncio or on trio."""

    def __init__(self, name: str) -> None:
        from smtpproto_anyio import SMTPServer  # noqa: PLC0415 - as above

        self.name: str = name
        self.backend: str = "trio" if name == "trio" else "asyncio"
        self.server_class: type[ServerCore] = SMTPServer

    @contextlib.contextmanager
    def serve(self, server: ServerCore) -> Generator[Call]:
        """A portal into a loop of its own; the server's task group lives in it."""
        from anyio.from_thread import start_blocking_portal  # noqa: PLC0415 - as above

        entered: Any = server
        with start_blocking_portal(self.backend) as portal, portal.wrap_async_context_manager(entered):
            yield lambda function: portal.start_task_soon(_awaited, function)

    def pause(self, seconds: float) -> Any:
        """A task's sleep."""
        import anyio  # noqa: PLC0415 - as above

        return anyio.sleep(seconds)

    def left_over(self) -> list[str]:
        """Tasks that serve a connection."""
        import anyio  # noqa: PLC0415 - as above

        return [str(task.name) for task in anyio.get_running_tasks() if "smtpproto" in str(task.name)]

    def keeps(self, thread: threading.Thread) -> bool:
        """Trio's threads stay for some seconds in case they are needed again."""
        return thread.name.startswith("Trio thread")


class Gevent(Runtime):
    """gevent, in a hub of its own; nothing is patched."""

    coroutines: ClassVar[bool] = False

    def __init__(self) -> None:
        from smtpproto_gevent import SMTPServer  # noqa: PLC0415 - as above

        self.name: str = "gevent"
        self.server_class: type[ServerCore] = SMTPServer

    @contextlib.contextmanager
    def serve(self, server: ServerCore) -> Generator[Call]:
        """A thread with a hub that greenlets are sent into."""
        import gevent  # noqa: PLC0415 - as above
        from gevent.event import Event  # noqa: PLC0415 - as above

        started: Future[Any] = Future()
        ended = Event()

        def run() -> None:
            hub = gevent.get_hub()
            visitor = hub.loop.async_()  # a loop that waits for nobody would end
            visitor.start(len, ())
            hub.loop.run_callback(started.set_result, hub)
            ended.wait()
            visitor.close()
            hub.destroy(destroy_loop=True)

        thread = threading.Thread(target=run)
        thread.start()
        hub = started.result()

        def start(function: Callable[[], Any]) -> Future[Any]:
            future: Future[Any] = Future()
            hub.loop.run_callback_threadsafe(gevent.spawn, _fulfil, future, function)
            return future

        try:
            yield start
        finally:
            hub.loop.run_callback_threadsafe(ended.set)
            thread.join()
        del server

    def pause(self, seconds: float) -> Any:
        """A greenlet's sleep."""
        import gevent  # noqa: PLC0415 - as above

        gevent.sleep(seconds)

    def left_over(self) -> list[str]:
        """Greenlets of this hub but the one that asks."""
        import gc  # noqa: PLC0415 - as above

        import gevent  # noqa: PLC0415 - as above

        hub, me = gevent.get_hub(), gevent.getcurrent()
        # Those whose parent is the hub. By their type: isinstance asks what an object says it is, and
        # somebody's lazy settings may have much to do to answer.
        greenlets: list[Any] = [
            each for each in gc.get_referrers(hub) if issubclass(type(each), gevent.Greenlet)
        ]
        return [
            repr(each)
            for each in greenlets
            if each is not me and getattr(each, "parent", None) is hub and not each.dead
        ]


class Threads(Runtime):
    """Threads, for an adapter whose methods and hooks are plain functions."""

    coroutines: ClassVar[bool] = False
    cancels: ClassVar[bool] = False

    def __init__(self, name: str, server_class: type[ServerCore]) -> None:
        self.name: str = name
        self.server_class: type[ServerCore] = server_class
        self._ended: threading.Event = threading.Event()

    @contextlib.contextmanager
    def serve(self, server: ServerCore) -> Generator[Call]:
        """A thread for each call."""
        self._ended.clear()
        with ThreadPoolExecutor(CALLERS) as pool:
            try:
                yield pool.submit
            finally:
                self._ended.set()
        del server

    def pause(self, seconds: float) -> Any:
        """A thread's sleep, cut short when the server has ended."""
        self._ended.wait(seconds)


def _blocking() -> Runtime:
    from smtpproto_blocking import SMTPServer  # noqa: PLC0415 - the runtime that was asked for

    return Threads("blocking", SMTPServer)


def _fulfil(future: Future[Any], function: Callable[[], Any]) -> None:
    try:
        future.set_result(function())
    except BaseException as error:  # noqa: BLE001 - whoever waits is to see it
        future.set_exception(error)


CALLERS: Final = 8
RUNTIMES: Final = ("asyncio", "uvloop", "anyio", "trio", "gevent", "blocking")
_MAKERS: Final[dict[str, Callable[[], Runtime]]] = {
    "asyncio": lambda: Asyncio("asyncio"),
    "uvloop": lambda: Asyncio("uvloop"),
    "anyio": lambda: AnyIO("anyio"),
    "trio": lambda: AnyIO("trio"),
    "gevent": Gevent,
    "blocking": _blocking,
}


# What each needs besides this distribution; the extra to install it has the runtime's name.
_NEEDS: Final[Mapping[str, tuple[str, ...]]] = {
    "uvloop": ("uvloop",),
    "anyio": ("anyio",),
    "trio": ("anyio", "trio"),
    "gevent": ("gevent",),
}


def runtime_named(name: str) -> Runtime:
    """One of the six, or `module:object` for an adapter of your own: a Runtime, or its class.

    Raises LookupError for a name that is none or whose package is missing, TypeError for an object
    that is no Runtime.
    """
    if name in _MAKERS:
        for package in _NEEDS.get(name, ()):
            if importlib.util.find_spec(package) is None:
                raise LookupError(f"{name} needs {package}: pip install 'smtpproto-server[{name}]'")
        return _MAKERS[name]()
    found = _imported(name)
    runtime: Any = found() if isinstance(found, type) else found
    if not isinstance(runtime, Runtime):
        raise TypeError(f"{name} is {runtime!r}; it must be a smtpproto_kit.Runtime")
    return runtime


def _imported(name: str) -> Any:
    module, _, attribute = name.partition(":")
    if not (module and attribute) or module.startswith("."):
        raise LookupError(f"{name} is no runtime: {', '.join(RUNTIMES)} are, or module:object of your own")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise LookupError(f"{name}: {error}") from error
