"""The `smtpproto` command: SMTP and LMTP servers without a line of code."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

LIBRARIES: Final = frozenset({"click", "rich"})  # the extra `cli`
INTERRUPTED: Final = 130  # 128 + SIGINT, as shells count


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with `arguments`, None for those of the process; return its exit status."""
    try:
        from smtpproto_cli._command import run  # noqa: PLC0415 - what it needs may not be installed

        return run(arguments)
    except ModuleNotFoundError as error:
        if error.name not in LIBRARIES:
            raise
        sys.stderr.write(
            f"smtpproto: the package {error.name} is missing; pip install 'smtpproto-server[cli]'\n"
        )
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
