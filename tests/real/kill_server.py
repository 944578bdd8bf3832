# What is a 250 worth? Kills a server under load, again and again, and looks into its Maildir.
#
#     python tests/real/kill_server.py --times 200
#
# Four clients send messages of all sizes. At a step that chance chooses (a connection, a command, a
# piece of a message, a reply) the server gets SIGKILL. Then, of all that has been sent so far:
#
# - every message whose 250 a client saw is in new/, octet for octet;
# - every file in new/ is one that was sent, whole: nothing there is partial;
# - a message may be there twice only if its 250 got lost and its client sent it again.
#
# The next server takes over the same Maildir, and clients begin with what they got no 250 for. After
# the last round a server that nobody kills takes the rest, and nothing may be missing.

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
from real.load import Ledger, Load, Mail  # noqa: E402
from real.served import Served  # noqa: E402

STEPS: Final = 1000  # the most that a round takes until the server is killed


def main() -> int:
    arguments = argparse.ArgumentParser(description="Kill a server under load and look into its Maildir.")
    arguments.add_argument("--times", type=int, default=200, help="how often; 200 unless told")
    arguments.add_argument("--seed", type=int, help="to choose the same steps again")
    arguments.add_argument("--runtime", default="asyncio")
    given = arguments.parse_args()
    seed = random.randrange(2**32) if given.seed is None else given.seed  # noqa: S311 - only to vary
    with tempfile.TemporaryDirectory(prefix="smtpproto-kill-") as folder:
        return run(Path(folder) / "mail", times=given.times, seed=seed, runtime=given.runtime)


def run(maildir: Path, *, times: int, seed: int, runtime: str) -> int:
    """All rounds; the exit status."""
    began = time.monotonic()
    mail = Mail(seed)
    ledger = Ledger(mail)
    dice = random.Random(seed)  # noqa: S311 - only to be reproducible
    faults: list[str] = []
    for _ in range(times):
        with Served("--maildir", maildir, "--runtime", runtime) as server:
            load = Load(server.port, mail, ledger, steps=dice.randint(1, STEPS))
            load.start()
            if not load.until_now():
                faults.append("the server did not last until it was killed")
            server.kill()
            load.join()
        faults += server.complaints() + load.faults + ledger.read(maildir)
    with Served("--maildir", maildir, "--runtime", runtime) as server:
        load = Load(server.port, mail, ledger, steps=None)
        load.start()
        load.join()
        server.kill()
    faults += server.complaints() + load.faults + ledger.read(maildir)
    faults += [f"message {number} never came" for number in ledger.missing()]
    cut_short = len(list((maildir / "tmp").iterdir()))
    figures = {
        "messages": len(ledger.attempts), "sent": ledger.sent, "250 seen": len(ledger.acknowledged),
        "lost": len(ledger.lost()), "duplicates": ledger.duplicates, "there before their 250": ledger.early,
        "unfinished in tmp/": cut_short, "faults": len(faults),
    }  # fmt: skip
    how = f"{runtime}, seed {seed}, {time.monotonic() - began:.0f} s"
    listed = ", ".join(f"{name} {count}" for name, count in figures.items())
    sys.stdout.write(f"killed {times} times ({how}): {listed}\n")
    for fault in faults:
        sys.stdout.write(f"FAULT: {fault}\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
