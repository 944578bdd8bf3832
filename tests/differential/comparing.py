# One conversation on every player, the first difference between two of them, and the smallest conversation
# that still shows it.

from __future__ import annotations

import traceback
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from differential.events import play_events
from differential.served_now import play_now
from differential.served_then import play_then
from differential.talks import SETTINGS, Step, cut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from differential.talks import Talk
    from differential.versions import Version

__all__ = ["DELIBERATE", "Deliberate", "Difference", "compare", "shown", "smallest"]


class Deliberate(NamedTuple):
    """A difference that is meant."""

    reason: str
    is_it: Callable[[tuple[Any, ...], tuple[Any, ...]], bool]
    """Given the first step that differs, as it is now and as it was then."""
    players: str = ""
    """Only these, where it begins so."""


def _octets(now: bytes, then: bytes) -> Callable[[tuple[Any, ...], tuple[Any, ...]], bool]:
    return lambda new, old: now in new[0] and now not in old[0] and then in old[0]


def _one_batch_later(new: tuple[Any, ...], old: tuple[Any, ...]) -> bool:
    before, too_late, _ = old[0].partition(b"Timeout - closing connection\r\n")
    said_before = before[: before.rfind(b"421")]
    goes_on = len(new[0]) > len(said_before) or _hooks(new) > _hooks(old)
    return bool(too_late) and goes_on and bool(new[0].startswith(said_before))


def _hooks(step: tuple[Any, ...]) -> int:
    return sum(seen[:1] == ("hook",) and seen[1] != "on_close" for seen in step[1])


def _is_not_reported(new: tuple[Any, ...], old: tuple[Any, ...]) -> bool:
    """Reports of hooks are missing, and nothing else."""
    if not (new[1] and old[1] and new[1][-1][0] == old[1][-1][0] == "reports"):
        return False
    fewer, more = new[1][-1], old[1][-1]
    missing = [each for each in more if each not in fewer]
    only_hooks = all(stage == "hook" for stage, *_ in missing)
    rest = tuple(each for each in more if each not in missing)
    return bool(only_hooks and rest == fewer and (new[0], new[1][:-1]) == (old[0], old[1][:-1]))


def _asked_about(new: tuple[Any, ...], old: tuple[Any, ...]) -> bool:
    """The application is asked for a command that had got a 502, or the last 421, without that."""
    return (b"502 " in old[0] or b"unrecognized" in old[0]) and _commands(new) > _commands(old)


def _commands(step: tuple[Any, ...]) -> int:
    return sum(seen[:1] == ("CommandRequested",) or seen[:2] == ("hook", "on_command") for seen in step[1])


DELIBERATE: Final[Sequence[Deliberate]] = (
    Deliberate(
        "on_command is asked before every 502: for TURN, ETRN, SEND, SOML, SAML and BDAT, and for EXPN where "
        "there is no on_expn.",
        _asked_about,
    ),
    Deliberate(
        "Octets are read while a hook is waited for. So a client that begins its handshake before the 220 "
        "has sent data after STARTTLS (RFC 3207), also where the two came separately.",
        _octets(b"Error: data after STARTTLS", b"Ready to start TLS"),
    ),
    Deliberate(
        "A client that talks before the greeting, while the server stops and a hook is waited for, gets one "
        "of two 421 replies. Both are true, and the connection ends with either.",
        _octets(b"421 mx.test You talk too soon", b"421 Server shutting down"),
    ),
    Deliberate(
        "Commands that came while a hook was waited for are answered before the time of the session is "
        "looked at. That is done whenever the client is waited for, after one buffer of them at most.",
        _one_batch_later,
    ),
    Deliberate(
        "A plain on_data is given up when its stream has said that no more will come: the client is lost, or "
        "the server stops. What it raises after that is not reported.",
        _is_not_reported,
        players="driver, plain hooks on the stack",
    ),
)


class Difference(NamedTuple):
    """Where two plays of a conversation part."""

    talk: Talk
    players: str
    step: int
    now: Any
    then: Any


def compare(today: Version, earlier: Version, given: Talk) -> tuple[int, Difference | None]:
    """How often the conversation was played, and the first difference that is not meant."""
    plays = 0
    for each in (given, cut(given)):
        for count, players, now, then in _pairs(today, earlier, each):
            plays += count
            found = _first(each, players, now, then)
            if found is not None:
                return plays, found
    return plays, None


def _pairs(today: Version, earlier: Version, given: Talk) -> Iterator[tuple[int, str, Any, Any]]:
    """How many plays, the players' names, and what they saw."""
    yield 2, "events", _seen(play_events, today, given), _seen(play_events, earlier, given)
    served = _seen(play_then, earlier, given)
    yield 2, "driver, coroutine hooks", _seen(play_now, today, given), served
    if given.waits or given.seed % 2:
        yield 1, "driver, plain hooks on the stack", _seen(play_now, today, given, "all"), served
    else:
        yield 1, "driver, plain hooks among coroutines", _seen(play_now, today, given, "some"), served


def _seen(play: Callable[..., Any], *args: Any) -> Any:
    """What a player has seen; that it failed is a difference as well."""
    try:
        return play(*args)
    except Exception:  # noqa: BLE001 - whatever it is, its seed must be told
        return [(b"", [traceback.format_exc()], (), None)]


def _first(given: Talk, players: str, now: Any, then: Any) -> Difference | None:
    for number, (new, old) in enumerate(zip(now, then, strict=False)):
        if new != old:
            if any(players.startswith(each.players) and each.is_it(new, old) for each in DELIBERATE):
                return None
            return Difference(given, players, number, new, old)
    if len(now) != len(then):
        return Difference(given, players, min(len(now), len(then)), now[len(then) :], then[len(now) :])
    return None


# --- the smallest conversation ------------------------------------------------------------------------


def smallest(today: Version, earlier: Version, found: Difference) -> Difference:
    """The same difference, or another one, in a conversation from which nothing can be left out."""
    best, goes_on = found, True
    while goes_on:
        goes_on = False
        for smaller in _smaller(best.talk):
            difference = _again(today, earlier, smaller, best.players)
            if difference is not None:
                best, goes_on = difference, True
                break
    return best


def _again(today: Version, earlier: Version, given: Talk, players: str) -> Difference | None:
    for _, names, now, then in _pairs(today, earlier, given):
        if names == players:
            return _first(given, players, now, then)
    return None


def _smaller(given: Talk) -> Iterator[Talk]:
    steps = given.steps
    half = len(steps) // 2
    while half:  # large pieces first
        for at in range(0, len(steps), half):
            yield replace(given, steps=steps[:at] + steps[at + half :])
        half //= 2
    for at, (step, following) in enumerate(pairwise(steps)):
        if step.what == following.what == "octets":
            yield replace(
                given, steps=(*steps[:at], Step("octets", step.of + following.of), *steps[at + 2 :])
            )
    for at, step in enumerate(steps):
        if step.what == "octets" and step.of.count(b"\n") > 1:
            lines = step.of.splitlines(keepends=True)
            for line in range(len(lines)):
                rest = b"".join(lines[:line] + lines[line + 1 :])
                yield replace(given, steps=(*steps[:at], Step("octets", rest), *steps[at + 1 :]))
    if given.asks:
        yield replace(given, asks=False)
    if given.early:
        yield replace(given, early=False)


def shown(found: Difference) -> str:
    """A difference to be read."""
    given = found.talk
    setting = {
        name: value for name, value in SETTINGS[given.setting].items() if value != SETTINGS[0].get(name)
    }
    flags = f"asks={given.asks} waits={given.waits} early={given.early}"
    lines = [f"seed {given.seed}, {found.players}, {setting}, {flags}"]
    for number, step in enumerate(given.steps):
        mark = ">" if number + 1 == found.step else " "
        lines.append(f"  {mark} {step.what} {'' if step.of is None else repr(step.of)[:200]}")
    return "\n".join([*lines, *_both(found.now, found.then, "  ")])


def _both(now: Any, then: Any, indent: str) -> list[str]:
    """What differs, in the lists within lists that plays are."""
    if isinstance(now, list | tuple) and isinstance(then, list | tuple):
        news: Sequence[Any] = cast("Any", now)
        olds: Sequence[Any] = cast("Any", then)
        for new, old in zip(news, olds, strict=False):
            if new != old:
                return _both(new, old, indent)
        return _shortened(news[len(olds) :], olds[len(news) :], indent)
    return _shortened(cast("object", now), then, indent)


def _shortened(now: object, then: object, indent: str) -> list[str]:
    return [f"{indent}now:  {repr(now)[-600:]}", f"{indent}then: {repr(then)[-600:]}"]
