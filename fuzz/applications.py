# What a driver serves where it is fuzzed: servers whose hooks do what an input says.
#
# Each hook takes two choices of the input: what comes of it, and how it comes to that. It looks at its
# session again after each wait: nothing of its transaction may have changed, even if it was given up.

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

from fuzz.markers import Contexts
from smtpproto import Accept, Challenge, Reject
from smtpproto_server import Options, StreamAborted
from smtpproto_server.adapting import ServerCore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

__all__ = ["CONTEXTS", "LOGGED", "MOST_READS", "SAID_BY_HOOK", "Cancelled", "Play", "Server", "servers"]

SAID_BY_HOOK: Final = "hook-failed-like-this"
ALL_OF_IT: Final = 7  # reads of on_data: as many as there are pieces
MOST_READS: Final = 50
CONTEXTS: Final = Contexts()
LOGGED: Final[list[str]] = []
"""What was logged in this run, as it would be read."""


class Cancelled(BaseException):
    """What the runtime raises in a hook that was given up."""


class Failing(BaseException):
    """What no `except Exception` holds."""


class Play(Protocol):
    """The run of one input, as hooks see it."""

    def choose(self) -> tuple[int, int]:
        """What comes of a hook, and how."""
        ...

    def outside(self) -> bool:
        """Something comes from outside while the hook is on the stack."""
        ...

    def pause(self) -> Awaitable[None]:
        """Wait for the runtime."""
        ...

    def park(self) -> None:
        """The same in a thread."""
        ...

    def read_by_child(self, stream: Any) -> Awaitable[bytes]:
        """Have another task read."""
        ...

    def insist(self, holds: object, text: str) -> None:
        """An invariant; what a hook raises would be contained."""
        ...


class _Listening(logging.Handler):
    """Keeps what was logged in this run."""

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record in, as it would be read."""
        LOGGED.append(record.getMessage())
        if record.exc_info:
            LOGGED.append(repr(record.exc_info[1]))


class Server(ServerCore):
    """A server whose TLS is made of markers, and whose log is looked at."""

    play: Play

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        # Of its own: the one that has a name is everybody's.
        self.log = logging.Logger("smtpproto", logging.DEBUG)  # noqa: LOG001
        self.log.addHandler(_Listening())
        self.reported: list[tuple[BaseException, str]] = []
        self.on("error", self._note)

    def _note(self, error: BaseException, info: dict[str, Any]) -> None:
        self.reported.append((error, info["stage"]))

    def forget(self) -> None:
        """Begin anew, whatever a run that failed has left."""
        self.reported.clear()
        self._sessions.clear()
        self.peers.clear()
        self.counts.update({False: 0, True: 0})

    @property
    def contexts(self) -> Any:
        """TLS made of markers."""
        return CONTEXTS


class ThreadedServer(Server):
    """One of a runtime without coroutines."""

    coroutines: ClassVar[bool] = False


# --- what hooks do ------------------------------------------------------------------------------------

RAISED: Final = (
    ValueError(SAID_BY_HOOK),
    Failing(SAID_BY_HOOK),
    GeneratorExit(),
    StopIteration(),
    Reject(451),
)
NO: Final = (Reject(), Reject(421), Reject(text="no\r\n2.6.0 no"), object(), *RAISED)
RESULTS: Final[Mapping[str, tuple[Any, ...]]] = {
    "on_auth": (True, True, True, Accept(user="u"), "u", None, False, Challenge(b"more"), *NO),
    "on_data": (None, Accept(), "queued", [None, Reject(452)], [Accept(), "queued"], [], (None,), *NO),
    "on_command": (None, Accept(250), None, *NO),
    "on_close": (None, None, *RAISED),
    "resolver": (["c.test"], ["a b\r\n"], [], object(), *RAISED),
    "": (*[None] * 5, Accept(), None, *NO),
}


def _end(name: str, choice: int) -> Any:
    results = RESULTS.get(name, RESULTS[""])
    result = results[choice % len(results)]
    if isinstance(result, Reject) and choice & 1:
        return result
    if isinstance(result, BaseException):
        raise result.with_traceback(None)
    return result


def _seen(args: Sequence[Any]) -> tuple[object, ...]:
    """What of its transaction a hook can see."""
    envelope = getattr(args[-1], "envelope", None)
    return () if envelope is None else (envelope, envelope.mail_from, list(envelope.rcpt_to))


WAITS, MEDDLES, HEEDLESS = 3, 4, 8
TURNS: Final = (0, 1, 2, 12)


def coroutine_hook(name: str) -> Callable[..., Any]:
    """A coroutine function."""

    async def hook(*args: Any) -> Any:
        play = Server.play
        choice, how = play.choose()
        seen = _seen(args)
        reads = (how & 7) if name == "on_data" else 0
        if how & MEDDLES and not reads:
            play.outside()
        try:
            for turn in range(MOST_READS if reads == ALL_OF_IT else reads):
                if not await (play.read_by_child(args[0]) if turn == 1 and choice & 1 else args[0].read(9)):
                    break
            for _ in range(TURNS[how & WAITS]):
                await play.pause()
                play.insist(_seen(args) == seen, "another transaction")
        except (Cancelled, StreamAborted):
            if not how & HEEDLESS:
                raise
        if how & HEEDLESS:
            await play.pause()
            play.insist(_seen(args) == seen, "another transaction")
            if name == "on_data" and args[0].claim():
                play.outside()
        return _end(name, choice)

    return hook


def plain_hook(name: str) -> Callable[..., Any]:
    """A plain function, in what stands for a thread."""

    def hook(*args: Any) -> Any:
        play = Server.play
        choice, how = play.choose()
        seen = _seen(args)
        reads = (how & 7) if name == "on_data" else 0
        try:
            for _ in range(MOST_READS if reads == ALL_OF_IT else reads):
                if not args[0].read(9):
                    break
        except StreamAborted:
            if not how & HEEDLESS:
                raise
        for _ in range(TURNS[how & WAITS]):
            play.park()
            play.insist(_seen(args) == seen, "another transaction in a thread")
        if name == "on_data" and how & HEEDLESS and args[0].claim():
            play.park()
        return _end(name, choice)

    return hook


class _Names:
    """Reverse DNS."""

    def __init__(self, hook: Callable[[str], Callable[..., Any]]) -> None:
        self.reverse = hook("resolver")


HOOKS: Final = ("on_connect", "on_secure", "on_auth", "on_mail_from", "on_rcpt_to", "on_data", "on_close")
MORE_HOOKS: Final = ("on_helo", "on_data_start", "on_vrfy", "on_expn", "on_help", "on_command")
EVERY: Final[dict[str, Any]] = {
    "name": "mx.test", "auth_optional": True, "disable_reverse_lookup": True,
    "hide_enhancedstatuscodes": False, "allow_insecure_auth": True,
    "auth_methods": ("PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2"),
    "max_line_length": 512,
    "hook_timeout": 30.0,
}  # fmt: skip


def servers() -> list[Server]:
    """Each of them is chosen by an octet of the input."""
    more: dict[str, Any] = {"more": True}
    given: list[dict[str, Any]] = [
        {}, {"lmtp": True}, {"size": 9}, {"secure": True}, {"use_proxy": True}, {"needs_upgrade": True},
        more, {"early_talker_delay": 1.0},
        {"bare_newlines": "accept", "size": 9, "enforce_size": False},
        {"lmtp": True, "secure": True, "use_proxy": True, **more}, {"auth_optional": False},
        {"socket_timeout": None, "min_data_rate": None, "data_timeout": None, "hook_timeout": None},
        {"max_clients": 1}, {"disable_reverse_lookup": False, "early_talker_delay": 1.0},
        {"disable_reverse_lookup": False, "session_timeout": 40.0},
    ]  # fmt: skip
    made = [_server(Server, coroutine_hook, each) for each in given]
    made += [_server(Server, plain_hook, each) for each in (*given[:2], given[6], given[13])]
    made += [_server(ThreadedServer, plain_hook, each) for each in given]
    made += [Server(Options(**EVERY)), Server(Options(**EVERY, secure=True))]
    return made


def _server(kind: type[Server], hook: Callable[[str], Any], given: Mapping[str, Any]) -> Server:
    chosen = dict(given)
    names = (*HOOKS, *MORE_HOOKS) if chosen.pop("more", False) else HOOKS
    every = dict(EVERY)
    every.update({name: hook(name) for name in names}, resolver=_Names(hook))
    every.update(chosen)
    return kind(Options(**every))
