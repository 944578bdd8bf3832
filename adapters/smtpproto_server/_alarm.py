# One deadline that mostly moves on, over a runtime's timers.

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Alarm"]


class Timer(Protocol):
    def cancel(self) -> object:
        """Do not fire."""


class Alarm:
    """Calls `ring` at a deadline that is set anew for every wait.

    A connection waits often and seldom waits long, so a timer that is running already is left to
    fire early and look again. `start(seconds, callback)` is the runtime's way to make one.
    """

    __slots__ = ("_clock", "_deadline", "_ring", "_start", "_timer", "_timer_at")

    def __init__(
        self,
        clock: Callable[[], float],
        start: Callable[[float, Callable[[], object]], Timer],
        ring: Callable[[], object],
    ) -> None:
        self._clock: Callable[[], float] = clock
        self._start: Callable[[float, Callable[[], object]], Timer] = start
        self._ring: Callable[[], object] = ring
        self._deadline: float | None = None
        self._timer: Timer | None = None
        self._timer_at: float = 0.0

    def set(self, deadline: float | None) -> None:
        """Ring at `deadline` (the clock's absolute seconds) and not before; None: not at all."""
        self._deadline = deadline
        if deadline is None or (self._timer is not None and self._timer_at <= deadline):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._start(max(0.0, deadline - self._clock()), self._look)

    def cancel(self) -> None:
        """Never ring again, and let go of who would have heard it."""
        self._deadline, self._ring = None, _nobody
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._deadline is None:
            return
        if self._deadline <= self._clock():
            self._ring()
        else:
            self.set(self._deadline)


def _nobody() -> None:
    return None
