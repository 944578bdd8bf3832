# One hook in two colours, and what a hook waits for: what the cases of the stream share.

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

import pytest

from smtpproto_kit import DATA, DEADLINE, Client, Running

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from smtpproto_kit import Runtime

    Hook = Generator[Any, Any, Any]
    Steps = Callable[..., Hook]
    Colour = Callable[[Steps], Callable[..., Any]]

__all__ = [
    "ERROR", "LINE", "QUEUED", "TICK", "Gate", "begin", "both", "deliver", "elsewhere", "in_thread",
    "is_silent", "native", "plain", "replies",
]  # fmt: skip

QUEUED: Final = "250 2.6.0 OK: message queued"
ERROR: Final = "451 4.3.0 Error: internal error, please try again later"
LINE: Final = b"x" * 70 + b"\r\n"
TICK: Final = 0.005  # seconds between two looks at a condition


def native(hook: Steps) -> Callable[..., Any]:
    """The runtime's own colour, which `running` gives."""
    return hook


def plain(hook: Steps) -> Callable[..., Any]:
    """A plain function everywhere: where hooks are coroutines it is called in a thread."""

    def function(*args: Any) -> Any:
        steps = hook(*args)
        value: Any = None
        try:
            while True:
                value = steps.send(value)
        except StopIteration as done:
            return done.value

    return function


both = pytest.mark.parametrize("colour", [native, plain], ids=["native", "plain"])


def in_thread(runtime: Runtime, colour: Colour) -> bool:
    """The hook is a plain function where others are coroutines."""
    return colour is plain and runtime.coroutines


class Gate:
    """What a hook waits for."""

    def __init__(self, runtime: Runtime, colour: Colour = native) -> None:
        self.event: threading.Event = threading.Event()
        self._runtime: Runtime = runtime
        self._threaded: bool = in_thread(runtime, colour)

    def open(self) -> None:
        self.event.set()

    def passed(self) -> Hook:
        """Until it is open: a cancelled hook is cancelled here."""
        for _ in range(int(DEADLINE / TICK)):
            if self.event.is_set():
                return
            if self._threaded:
                self.event.wait(TICK)
            else:
                yield self._runtime.pause(TICK)


def elsewhere(server: Running, colour: Colour, steps: Steps) -> Future[Any]:
    """Run beside the hook: in another task or greenlet of its runtime, or in another thread."""
    future: Future[Any] = Future()

    def run() -> None:  # not from the hook itself: into a loop one comes from outside
        try:
            if in_thread(server.runtime, colour):
                future.set_result(plain(steps)())
            else:
                future.set_result(server.call(server.runtime.coloured(steps)))
        except BaseException as error:  # noqa: BLE001 - whoever waits is to see it
            future.set_exception(error)

    threading.Thread(target=run).start()
    return future


def replies(client: Client, count: int) -> list[str]:
    return [client.reply() for _ in range(count)]


def deliver(client: Client, body: bytes) -> str:
    """Send a message; its reply."""
    client.send(DATA + body + b".\r\n")
    return replies(client, 4)[3]


def begin(client: Client) -> None:
    """Come as far as the 354."""
    client.send(DATA)
    assert replies(client, 3)[2].startswith("354 ")


def is_silent(client: Client, seconds: float = 0.1) -> None:
    """Nothing comes for some time, which may also be what the test wants to pass."""
    client.sock.settimeout(seconds)
    with pytest.raises(TimeoutError):
        client.reply()
    client.sock.settimeout(DEADLINE)
