# Scripted faults: where, which time, and what happens then.
#
# A fault that exists can happen: what has no place, no effect, or comes where another one does is
# refused when it is scripted, and not found out by a test that passes for the wrong reason.

from __future__ import annotations

import math
import re
import threading
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

from smtpproto import Reject

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Fault", "Place", "Script"]

Place: TypeAlias = Literal["CONNECT", "EHLO", "AUTH", "MAIL", "RCPT", "DATA", "BODY", "END_OF_DATA"]
PLACES: Final[tuple[Place, ...]] = get_args(Place)
WITHOUT_ENHANCED: Final = ("CONNECT", "EHLO")  # RFC 2034 §3
REPLY: Final = re.compile(r"([0-9]{3})(?: ([0-9]\.[0-9]{1,3}\.[0-9]{1,3}))?(?: (.*))?")


class Fault:
    """What was scripted for one place; `hits` says how often it has happened."""

    def __init__(
        self,
        place: Place,
        first: int,
        times: int | None,
        *,
        reply: Reject | None = None,
        drop: bool = False,
        delay: float = 0.0,
    ) -> None:
        self.place: Place = place
        self.first: int = first
        """The first time, counted from the start of the server."""
        self.times: int | None = times
        self.reply: Reject | None = reply
        self.drop: bool = drop
        self.delay: float = delay
        self.hits: int = 0

    @property
    def end(self) -> float:
        """The first time at which it is over."""
        return math.inf if self.times is None else self.first + self.times

    @property
    def pending(self) -> bool:
        """It has not happened as often as it should; one for ever must happen once."""
        return self.hits < (self.times or 1)

    def __repr__(self) -> str:
        last = "on" if self.times is None else f"to {self.first + self.times - 1}"
        which = f"{self.place} {self.first}" + ("" if self.times == 1 else f" {last}")
        return f"<Fault at {which}: {', '.join(self._effects())}; happened {self.hits} times>"

    def _effects(self) -> Iterable[str]:
        if self.delay:
            yield f"delay {self.delay:g} s"
        if self.drop:
            yield "drop"
        if self.reply is not None:
            yield " ".join(str(part) for part in self.reply.args if part is not None)


class Script:
    """The faults of a server, and how often each of its places was reached."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self._reached: dict[Place, int] = dict.fromkeys(PLACES, 0)
        self._lock: threading.Lock = threading.Lock()  # servers without a loop have many threads

    def add(
        self,
        place: Place,
        nth: int,
        times: int | None,
        *,
        reply: int | str | None,
        drop: bool,
        delay: float,
    ) -> Fault:
        """Script a fault; raises ValueError for one that cannot be."""
        if place not in PLACES:
            raise ValueError(f"{place!r} is no place for a fault; there are {', '.join(PLACES)}")
        _check_count("nth", nth)
        if times is not None:
            _check_count("times", times)
        if isinstance(delay, bool) or not 0 <= delay < math.inf:
            raise ValueError(f"delay is a number of seconds, not {delay!r}")
        if reply is not None and drop:
            raise ValueError(f"reply={reply!r} and drop=True: who drops the connection does not reply")
        if reply is None and not drop and not delay:
            raise ValueError(f"nothing happens at {place}: give reply, drop or delay")
        refusal = None if reply is None else _read_reply(place, reply)
        with self._lock:
            fault = Fault(
                place, self._reached[place] + nth, times, reply=refusal, drop=drop, delay=float(delay)
            )
            self._check_free(fault)
            self.faults.append(fault)
        return fault

    def _check_free(self, new: Fault) -> None:
        for old in self.faults:
            if old.place == new.place and old.first < new.end and new.first < old.end:
                raise ValueError(f"{new!r} would come where there is {old!r}")

    def reach(self, place: Place) -> Fault | None:
        """A place is reached once more: the fault that happens now, if one does."""
        with self._lock:
            self._reached[place] += 1
            now = self._reached[place]
            for fault in self.faults:
                if fault.place == place and fault.first <= now < fault.end:
                    fault.hits += 1
                    return fault
        return None


def _check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:  # pyright: ignore[reportUnnecessaryIsInstance] - callers without types
        raise ValueError(f"{name} is a whole number, 1 or more, not {value!r}")


def _read_reply(place: Place, reply: int | str) -> Reject:
    """Raises ValueError for what does not refuse, or has no place there."""
    if place == "BODY":
        raise ValueError(
            f"reply={reply!r} at BODY: the client has been told 354 and sends; "
            "it is answered at END_OF_DATA, refused before at DATA"
        )
    match = REPLY.fullmatch(str(reply))
    if match is None:
        raise ValueError(f"reply is a code or a line like '552 5.3.4 too big', not {reply!r}")
    code, enhanced, text = match.groups()
    if code[0] not in "45":
        raise ValueError(f"reply={reply!r} is no fault: its code is neither 4yz nor 5yz")
    if enhanced is not None and place in WITHOUT_ENHANCED:
        raise ValueError(f"reply={reply!r} at {place}: there are no enhanced codes there (RFC 2034 §3)")
    return Reject(int(code), enhanced, text)
