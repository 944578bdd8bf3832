# Text of strangers, made fit for a terminal.
#
# Whatever a client says may reach a screen through this command. Escape sequences and characters
# that change the direction or the look of what stands beside them (Trojan Source) become visible
# before they do. Every text goes through `visible` where it is put in, and nowhere twice.

from __future__ import annotations

import unicodedata

__all__ = ["one_line", "visible"]


def visible(text: str, *, keep: str = "") -> str:
    r"""The text with everything that does not print written as `\x1b`; `keep` stays as it is."""
    if text.isprintable():
        return text
    return "".join(char if char in keep or _prints(char) else _escaped(char) for char in text)


def one_line(text: str) -> str:
    """The text on one line: line breaks and runs of blanks become a blank."""
    return visible(" ".join(text.split()))


def _prints(char: str) -> bool:
    # str.isprintable refuses all blanks but one; those of other languages do no harm.
    return char.isprintable() or unicodedata.category(char) == "Zs"


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
