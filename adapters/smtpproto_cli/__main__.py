# `python -m smtpproto_cli` is the command `smtpproto`.

from __future__ import annotations

import sys

from smtpproto_cli import main

if __name__ == "__main__":
    sys.exit(main())
