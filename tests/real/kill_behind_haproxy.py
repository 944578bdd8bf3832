# What is a 250 worth when one of two servers dies? Kills one of two behind HAProxy, again and again.
#
#     python tests/real/kill_behind_haproxy.py --times 100 --runtimes asyncio blocking
#
# Two servers of different runtimes have a Maildir each, and HAProxy gives connections to both in turn.
# Four clients send messages of all sizes. At a step that chance chooses one of the servers gets SIGKILL;
# clients whose connection broke connect again and send again what they got no 250 for. Load goes on over
# the other server for a while, and ends when every message that was begun has its 250. Then:
#
# - every message whose 250 a client saw is in one of the two Maildirs, octet for octet;
# - every file there is one that was sent, whole: nothing is partial;
# - a message may be there twice only if its 250 got lost and its client sent it again.

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

sys.path[:0] = [str(Path(__file__).parents[1])]

# Found by the line above when this is a command.
from real.balancing import haproxy  # noqa: E402
from real.load import Ledger, Load, Mail  # noqa: E402
from real.served import Served  # noqa: E402

STEPS: Final = 800  # the most that a round takes until a server is killed
AFTERWARDS: Final = 300  # steps that the other one has to go on for


def main() -> int:
    arguments = argparse.ArgumentParser(description="Kill one of two servers behind HAProxy, under load.")
    arguments.add_argument("--times", type=int, default=100, help="how often; 100 unless told")
    arguments.add_argument("--seed", type=int, help="to choose the same steps again")
    arguments.add_argument("--runtimes", nargs=2, default=["asyncio", "blocking"])
    given = arguments.parse_args()
    seed = random.randrange(2**32) if given.seed is None else given.seed  # noqa: S311 - only to vary
    with tempfile.TemporaryDirectory(prefix="smtpproto-kill-") as folder:
        return Rounds(Path(folder), given.runtimes, seed).run(given.times)


class Rounds:
    """Round after round over the same two Maildirs."""

    def __init__(self, folder: Path, runtimes: list[str], seed: int) -> None:
        self._folder: Final = folder
        self._runtimes: Final = runtimes
        self._maildirs: Final = [folder / "first", folder / "second"]
        self._seed: Final = seed
        self._mail: Final = Mail(seed)
        self._ledger: Final = Ledger(self._mail)
        self._dice: Final = random.Random(seed)  # noqa: S311 - only to be reproducible
        self._stored: Final = [0, 0]
        """Files that each server has put into its Maildir."""
        self._breaks: int = 0

    def run(self, times: int) -> int:
        """All rounds; the exit status."""
        began = time.monotonic()
        faults = [fault for number in range(times) for fault in self._round(victim=number % 2)]
        faults += [f"message {number} never came" for number in self._ledger.missing()]
        faults += [
            f"{on} received nothing"
            for on, count in zip(self._runtimes, self._stored, strict=True)
            if not count
        ]
        ledger = self._ledger
        figures = {
            "messages": len(ledger.attempts), "sent": ledger.sent, "250 seen": len(ledger.acknowledged),
            "lost": len(ledger.lost()), "duplicates": ledger.duplicates, "broken connections": self._breaks,
            **{f"stored by {on}": count for on, count in zip(self._runtimes, self._stored, strict=True)},
            "faults": len(faults),
        }  # fmt: skip
        how = f"{' and '.join(self._runtimes)}, seed {self._seed}, {time.monotonic() - began:.0f} s"
        listed = ", ".join(f"{name} {count}" for name, count in figures.items())
        sys.stdout.write(f"killed one of two {times} times ({how}): {listed}\n")
        for fault in faults:
            sys.stdout.write(f"FAULT: {fault}\n")
        return 1 if faults else 0

    def _round(self, victim: int) -> list[str]:
        faults: list[str] = []
        with (
            self._served(0) as first,
            self._served(1) as second,
            haproxy(self._folder, first.port, second.port, header="send-proxy-v2") as port,
        ):
            load = Load(port, self._mail, self._ledger, steps=self._dice.randint(1, STEPS), lasting=True)
            load.start()
            if not load.until_now():
                faults.append("the servers did not last until one was killed")
            (first, second)[victim].kill()
            load.go_on(AFTERWARDS)
            if not load.until_now():
                faults.append("the other server did not go on")
            load.finish()
            load.join()
        self._breaks += load.breaks
        faults += first.complaints() + second.complaints() + load.faults
        for index, maildir in enumerate(self._maildirs):
            self._stored[index] += len(list((maildir / "new").iterdir()))
        return faults + self._ledger.read(*self._maildirs)

    def _served(self, index: int) -> Served:
        return Served(
            "--maildir",
            self._maildirs[index],
            "--runtime",
            self._runtimes[index],
            "--set",
            "use_proxy=127.0.0.1",
        )


if __name__ == "__main__":
    sys.exit(main())
