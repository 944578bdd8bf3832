# Speed: how much work the server does, and whether that is more than it was.
#
#     python -m tests.benchmarks NAME [options]
#
# A figure in seconds is true of one machine on one day, and fails nobody. What fails are ratios of
# two things that were measured in the same run.

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT: Final = Path(__file__).parents[2]

# Each is a module beside this one, imported only when it is asked for: not all need the same packages.
COMMANDS: Final[Mapping[str, str]] = {
    "core": "time the core alone, against h11",
    "instructions": "count the instructions of the core under valgrind, against h11",
    "growth": "see that ten times the input is ten times the work, whatever the input",
    "compiled": "compile the core with mypyc and time both",
    "servers": "time servers over sockets",
    "page": "write the tables and plots of docs/speed.md",
}


def main(argv: Sequence[str]) -> int:
    """Run one of the commands; 1 if a limit was passed."""
    if not argv or argv[0] not in COMMANDS:
        print("python -m tests.benchmarks NAME [--help]\n")
        for name, what in COMMANDS.items():
            print(f"  {name:14}{what}")
        return 2
    sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "adapters")]
    return int(importlib.import_module(f"benchmarks.{argv[0]}").main(argv[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
