# What the user did wrong.
#
# A Fault becomes one line on the standard error output and exit status 2, so its text says what
# to change. It never holds a password.

from __future__ import annotations

__all__ = ["Fault"]


class Fault(Exception):  # noqa: N818 - the user's, not an error of the program
    """The command cannot do what it was told; the text says what to change."""
