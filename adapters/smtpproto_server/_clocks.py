# The time limits of one connection, as far as the client is waited for.
#
# The core says where a limit begins and what happens when it has run out; this file
# says which one runs out first. It has no clock: every method is given the time, in seconds.

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from smtpproto import State

if TYPE_CHECKING:
    from smtpproto import TimerKind
    from smtpproto.extending import Engine
    from smtpproto_server._options import Options

__all__ = ["DEFAULT_WINDOW", "KEPT", "NEVER", "Clocks"]

NEVER: Final = float("inf")
KEPT: Final = frozenset({"session_timeout", "proxy_timeout", "tls_handshake_timeout", "greeting_timeout"})
"""The limits that begin where the core says; the others follow from what is waited for."""
DEFAULT_WINDOW: Final = 60.0  # seconds over which min_data_rate is judged without socket_timeout

_DATA: Final = State.DATA  # an enum's members are slow to find in CPython 3.11
_SESSION_MAY_END: Final = frozenset({State.GREETED, State.READY, State.AUTH, State.MAIL, State.RCPT})


class Clocks:
    """Which time limit runs out next, and when. A limit that is off ends never."""

    __slots__ = (
        "_data_left", "_options", "_window_began", "_window_left", "idle", "line_ends", "phase", "phase_ends",
        "session_ends", "since",
    )  # fmt: skip

    def __init__(self, options: Options) -> None:
        self._options: Options = options
        self.idle: float = options.socket_timeout or NEVER
        """`socket_timeout`, in seconds."""
        self.since: float = 0.0
        """When the wait for the client began; 0.0 while nobody waits for it."""
        self.session_ends: float = NEVER
        self.phase: TimerKind | None = None
        """What runs before the greeting or in a handshake, until `phase_ends`."""
        self.phase_ends: float = NEVER
        self.line_ends: float = NEVER
        """When `command_timeout` is over for the line that is pending."""
        self._data_left: float = NEVER
        self._window_left: float = NEVER  # of the window over which min_data_rate is judged
        self._window_began: int = 0  # the length of the message when the window began

    def set(self, kind: TimerKind, ends: float) -> None:
        """A limit among KEPT ends then."""
        if kind == "session_timeout":
            self.session_ends = ends
        else:
            self.phase, self.phase_ends = kind, ends

    def begin_message(self) -> None:
        """The 354 was sent."""
        options = self._options
        self._data_left = options.data_timeout or NEVER
        self._window_left = (
            NEVER if options.min_data_rate is None else options.socket_timeout or DEFAULT_WINDOW
        )
        self._window_began = 0

    def idle_until(self) -> float:
        """When `socket_timeout` runs out for the wait that goes on."""
        return self.since + self.idle

    def next(self, engine: Engine) -> tuple[TimerKind | None, float]:
        """What runs out next while the client is waited for, and when."""
        since, state = self.since, engine.state
        kind: TimerKind | None = "socket_timeout"
        when = since + self.idle
        if state is _DATA:
            if since + self._data_left < when:
                kind, when = "data_timeout", since + self._data_left
            if since + self._window_left < when:
                kind, when = "min_data_rate", since + self._window_left
        elif engine.buffer.begun is not None:
            if self.line_ends == NEVER:
                self.line_ends = since + (self._options.command_timeout or NEVER)
            if self.line_ends < when:
                kind, when = "command_timeout", self.line_ends
        else:
            self.line_ends = NEVER
        if self.phase_ends < when:
            kind, when = self.phase, self.phase_ends
        if self.session_ends < when and state in _SESSION_MAY_END:
            kind, when = "session_timeout", self.session_ends
        return kind, when

    def charge(self, now: float, byte_length: int) -> bool:
        """Charge the wait until now to the message, of which so many octets have come; False: too slow."""
        waited, self.since = now - self.since, now
        self._data_left -= waited
        self._window_left -= waited
        if self._window_left > 0:
            return True
        window = self._options.socket_timeout or DEFAULT_WINDOW
        enough = byte_length - self._window_began >= (self._options.min_data_rate or 0.0) * window
        self._window_left, self._window_began = window, byte_length
        return enough
