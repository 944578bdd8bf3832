# A failing input made small: of its kind of failure, none of its octets can be left out or made plainer.

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Failure", "failure", "shrunk"]

MOST_TRIES: Final = 20_000


class Failure(NamedTuple):
    """What failed and where; two inputs that fail alike show one fault."""

    kind: str
    place: str
    """File and line of the code that raised."""


def failure(run: Callable[[bytes], None], data: bytes) -> Failure | None:
    """How the target fails on an input, None if it does not."""
    try:
        run(data)
    except Exception as error:  # noqa: BLE001 - whatever it raises is what is looked for
        last = traceback.extract_tb(error.__traceback__)[-1]
        return Failure(type(error).__name__, f"{last.filename}:{last.lineno}")
    return None


def shrunk(run: Callable[[bytes], None], data: bytes) -> bytes:
    """The smallest input found that fails as `data` does."""
    expected = failure(run, data)
    if expected is None:
        return data
    tries = 0
    while tries < MOST_TRIES:
        for smaller in _smaller(data):
            tries += 1
            if failure(run, smaller) == expected:
                data = smaller
                break
        else:
            return data
    return data


def _smaller(data: bytes) -> Iterator[bytes]:
    """Without a part of it, the largest first; then with plainer octets."""
    size = len(data) // 2
    while size:
        for at in range(0, len(data), size):
            yield data[:at] + data[at + size :]
        size //= 2
    for at, octet in enumerate(data):
        for plain in b"\0ax":
            if plain < octet and octet not in b"\0ax\r\n":
                yield data[:at] + bytes([plain]) + data[at + 1 :]
