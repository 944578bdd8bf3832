# Effects: what the server loop wants done.
#
# The loop is a generator; it yields one of these and is sent what came of it. An adapter is the
# interpreter of these few classes in its own runtime, and nothing more. Failures come back as
# values: nothing is thrown into the loop, so no cancellation can be swallowed there.
#
# The loop reuses its effect objects. Read what you need before you resume it.

from __future__ import annotations

from enum import Enum, unique
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from smtpproto_server._stream import MessageBody

__all__ = [
    "NOT_NOW",
    "Ask",
    "AtOnce",
    "Close",
    "Deliver",
    "Effect",
    "Failed",
    "Outcome",
    "Pull",
    "Receive",
    "Send",
]


@unique
class Outcome(Enum):
    """What came of an effect, when it is not the plain success."""

    TIMED_OUT = "TIMED_OUT"
    """The deadline or the time limit passed first."""
    LOST = "LOST"
    """The peer can neither be read from nor written to any more."""
    STOPPED = "STOPPED"
    """`Serving.stop` was called: look at it."""
    INTERRUPTED = "INTERRUPTED"
    """Ask with `watch`: octets of the client came first. The hook was cancelled where possible."""


class Failed:
    """A hook raised."""

    __slots__ = ("exception",)

    def __init__(self, exception: BaseException) -> None:
        self.exception: BaseException = exception


class Pull:
    """Sent into the loop while `on_data` runs: it wants the next chunk. The loop yields Deliver."""


PULL: Final = Pull()


class Receive:
    """Wait for octets. Resume with them, with b"" at the end of the input, or with an Outcome.

    TIMED_OUT at `deadline` (the clock's absolute seconds, None for never; a deadline in the past
    asks for what is there now); STOPPED as soon as `Serving.stop` is called.
    """

    __slots__ = ("deadline",)

    def __init__(self) -> None:
        self.deadline: float | None = None


class Send:
    """Send all of `data`. Resume with None when the peer's side has room again, else an Outcome.

    With `last` no more will be sent: shut the sending side down behind the data.
    """

    __slots__ = ("data", "deadline", "last")

    def __init__(self) -> None:
        self.data: bytes = b""
        self.deadline: float | None = None
        self.last: bool = False


class Ask:
    """Call `hook(*args)`. Resume with what it returned, a Failed, or an Outcome.

    The time limit `seconds` (None: none) does not run while the hook waits for a chunk. What
    `Serving.output` gives must be sent before the hook is waited for; a hook that is done at once
    need not have it sent. With `watch` octets of the client interrupt the hook. With
    `body` the first argument is to be a stream over it, of the hook's own colour; each chunk the
    hook wants is asked for by resuming with PULL. `lookup` marks the reverse lookup: a plain
    function blocks and belongs into a thread everywhere, and `stop` ends it with STOPPED. A lost
    connection ends a coroutine hook with LOST, `stop(now=True)` with STOPPED.
    """

    __slots__ = (
        "args",
        "begun",
        "body",
        "hook",
        "lookup",
        "name",
        "seconds",
        "thrown",
        "trap",
        "watch",
    )

    def __init__(self) -> None:
        self.name: str = ""
        self.hook: Callable[..., Any] = _nothing
        self.args: tuple[Any, ...] = ()
        self.seconds: float | None = None
        self.watch: bool = False
        self.lookup: bool = False
        self.body: MessageBody | None = None
        # Of the adapter's own: what `AtOnce` has begun and could not end.
        self.begun: Coroutine[Any, Any, Any] | None = None
        self.trap: Any = None  # what it waits for: PULL or a thing of the runtime
        self.thrown: BaseException | None = None  # what it is told in place of what it waits for


class Deliver:
    """The chunk a PULL asked for: resume with what the hook wants next, as for `ask`, which goes on."""

    __slots__ = ("ask", "data")

    def __init__(self, ask: Ask) -> None:
        self.ask: Ask = ask
        self.data: bytes = b""
        """b"" at the end of the message, or when the body is aborted."""


class Close:
    """Close the connection, now. Resume with None; only an Ask (on_close) may follow."""

    __slots__ = ()


Effect = Receive | Send | Ask | Deliver | Close


class AtOnce:
    """What needs no waiting and is done in place of an effect. Here that is nothing."""

    __slots__ = ()

    def send_at_once(self, data: bytes) -> bytes | None:
        """Send; None when all has gone, else what a Send is to be yielded for (b"": what was taken)."""
        return data

    def call_at_once(self, ask: Ask) -> Any:  # noqa: ARG002 - for those who can
        """Call the hook: what an Ask would give, or NOT_NOW; then the Ask is to be yielded."""
        return NOT_NOW

    def deliver_at_once(self, data: bytes) -> Any:  # noqa: ARG002 - as above
        """Give a hook the chunk it pulled: what a Deliver would give, or NOT_NOW.

        It, and `call_at_once`, give PULL only where `Serving.chunk_at_hand` has had nothing.
        """
        return NOT_NOW


NOTHING_AT_ONCE: Final = AtOnce()


class _NotNow:
    """It has to be waited for."""


NOT_NOW: Final = _NotNow()


def _nothing() -> None:
    return None
