# What the kit has to know of a runtime: how a server is run in it, and the colour of its hooks.

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Generator
    from concurrent.futures import Future
    from contextlib import AbstractContextManager

    from smtpproto_server.adapting import ServerCore

    Call = Callable[[Callable[[], Any]], Future[Any]]

__all__ = ["Runtime"]


class Runtime:
    """A runtime and the adapter for it. Subclass it for your own, and name an instance to the kit.

    Cases write hooks as generator functions in which `yield` stands for await: `yield
    stream.read()`, `yield runtime.pause(1)`. `coloured` makes of one what the runtime calls a
    hook, so that one case serves runtimes of both colours.
    """

    name: str
    server_class: type[ServerCore]
    coroutines: ClassVar[bool] = True
    """Hooks may be coroutine functions, and `pause` gives something to be awaited."""
    cancels: ClassVar[bool] = True
    """A hook that waits can be cancelled; otherwise it is left alone and its result dropped."""

    own_thread: ClassVar[bool] = True
    """Without coroutines: all plain hooks of a connection run in one thread."""

    def __str__(self) -> str:
        return self.name

    def serve(self, server: ServerCore) -> AbstractContextManager[Call]:
        """Run the runtime in a thread of its own, with the server entered as a context manager.

        Gives a function that runs another there, awaits what it returns if it is awaitable, and
        gives a Future of the result. On leaving, the server's context manager is left too, and
        everything has ended.
        """
        raise NotImplementedError

    def pause(self, seconds: float) -> Any:
        """Let a hook wait, as the runtime's users would; where it cannot be cancelled, not beyond `serve`."""
        raise NotImplementedError

    def left_over(self) -> list[str]:
        """Called in the runtime: tasks or greenlets other than its own, when no connection is left."""
        return []

    def keeps(self, thread: threading.Thread) -> bool:  # noqa: ARG002 - for those that do
        """Whether the runtime, not the server, keeps an idle thread for later."""
        return False

    def coloured(self, hook: Callable[..., Generator[Any, Any, Any]]) -> Callable[..., Any]:
        """A hook of the runtime's colour."""
        if self.coroutines:

            @functools.wraps(hook)
            async def coroutine(*args: Any) -> Any:
                steps = hook(*args)
                try:
                    waiting = next(steps)
                    while True:
                        try:
                            value = (await waiting) if inspect.isawaitable(waiting) else waiting
                        except BaseException as error:  # noqa: BLE001 - the hook is to see it
                            waiting = steps.throw(error)
                        else:
                            waiting = steps.send(value)
                except StopIteration as done:
                    return done.value
                finally:
                    steps.close()

            return coroutine

        @functools.wraps(hook)
        def plain(*args: Any) -> Any:
            steps = hook(*args)
            value: Any = None
            try:
                while True:
                    value = steps.send(value)
            except StopIteration as done:
                return done.value
            finally:
                steps.close()

        return plain
