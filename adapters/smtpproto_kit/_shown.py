# What a case shows: the options it sets, the hooks that are there, the events and methods it meets.
#
# Nobody writes this down by hand. `running` notes what a case uses, the plugin puts it into the
# case's report, and `python -m smtpproto_kit --table FILE` makes a table of it.

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, Final

from smtpproto_server import Options
from smtpproto_server.adapting import EVENTS, HOOKS, OPTIONAL_HOOKS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from smtpproto_server.adapting import ServerCore

__all__ = ["NOTED", "Shown", "names", "watch"]

METHODS: Final = (
    "listen", "close", "wait_closed", "address", "serve_connection", "update_secure_context", "on", "once",
    "off",
)  # fmt: skip
NOTED: Final[set[str]] = set()
"""By the case that runs."""
FEW: Final = 2  # cases that are named for each row
_HOOKS: Final = frozenset({*HOOKS, *OPTIONAL_HOOKS})


def names() -> Mapping[str, list[str]]:
    """All there is to be shown, by kind."""
    options = [field.name for field in dataclasses.fields(Options) if field.name not in _HOOKS]
    return {
        "option": options,
        "hook": [*HOOKS, *OPTIONAL_HOOKS],
        "event": list(EVENTS),
        "method": list(METHODS),
    }


def watch(server: ServerCore, given: Mapping[str, Any], usual: Mapping[str, Any]) -> None:
    """Note what a case uses: what it has `given` to a server, and what is called and emitted there."""
    plain = Options()
    for name, value in given.items():
        if name not in _HOOKS and (name in usual or value != getattr(plain, name)):
            NOTED.add(f"option {name}")
    NOTED.update(f"hook {name}" for name in _HOOKS if getattr(server, name) is not None)
    watched: Any = server
    for name in METHODS:
        setattr(watched, name, _noting(f"method {name}", getattr(server, name)))
    emit = server.emit

    def noting(event: str, *args: Any, **how: Any) -> None:
        NOTED.add(f"event {event}")
        emit(event, *args, **how)

    watched.emit = noting


def _noting(name: str, method: Any) -> Any:
    @functools.wraps(method)
    def noting(*args: Any, **how: Any) -> Any:
        NOTED.add(name)
        return method(*args, **how)

    return noting


class Shown:
    """Which cases show what, for which runtimes."""

    def __init__(self) -> None:
        self._by_name: dict[str, dict[str, set[str]]] = {}
        self._specific: dict[str, int] = {}

    def add(self, runtime: str, case: str, shows: Iterable[str]) -> None:
        """A case has passed."""
        shows = list(shows)
        self._specific[case] = min(len(shows), self._specific.get(case, len(shows)))
        for name in shows:
            self._by_name.setdefault(name, {}).setdefault(runtime, set()).add(case)

    def table(self, runtimes: Iterable[str]) -> Iterator[str]:
        """As Markdown: a row for each name, a column for each runtime, and cases that show it."""
        runtimes = list(runtimes)
        for kind, each in names().items():
            yield from (f"## {kind.capitalize()}s", "")
            yield f"| {kind} | {' | '.join(runtimes)} | shown by, among others |"
            yield f"|---|{'---|' * len(runtimes)}---|"
            for name in each:
                by = self._by_name.get(f"{kind} {name}", {})
                cells = ["yes" if by.get(runtime) else "" for runtime in runtimes]
                yield f"| `{name}` | {' | '.join(cells)} | {', '.join(self._few(by))} |"
            yield ""

    def _few(self, by: Mapping[str, set[str]]) -> list[str]:
        """Those that show little else, and that all runtimes have passed."""
        known = {case for cases in by.values() for case in cases}
        everywhere = [case for case in known if all(case in cases for cases in by.values())]
        found = sorted(everywhere, key=lambda case: (self._specific[case], case))
        return [f"`{case}`" for case in found[:FEW]]
