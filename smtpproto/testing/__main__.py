# The command: hostile sessions for a handler that is named.
#
# Standard output is a module of tests, standard error what people read, so the one can be kept.

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from smtpproto import ConfigurationError
from smtpproto.testing._handler import MAX_EXAMPLES, MAX_SECONDS, handler_faults
from smtpproto.testing._visits import FAULTS

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from smtpproto.testing._handler import HandlerFault

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 if nothing was found, 1 for faults, 2 for an argument that cannot be taken."""
    sys.path.insert(0, str(Path.cwd()))
    parser = _parser()
    given = parser.parse_args(arguments)
    count = 0
    try:
        with _unlogged(), contextlib.closing(_faults(given)) as faults:
            for fault in faults:
                count += 1
                sys.stderr.write(f"{fault.kind}: {fault.text}\n")
                _, _, test = fault.test.partition("\n\n\n")  # what is imported is the same for all
                sys.stdout.write(f"\n\n{test}" if count > 1 else fault.test)
                sys.stdout.flush()
    except (ConfigurationError, TypeError, ValueError) as error:
        parser.error(str(error))
    sys.stderr.write(f"{count or 'no'} fault{'s' * (count != 1)} found\n")
    return bool(count)


@contextlib.contextmanager
def _unlogged() -> Generator[None]:
    """What hooks log of hostile sessions is no finding."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, without the usage: --help has that."""
        self.exit(2, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m smtpproto.testing",
        description="Throw hostile sessions at a handler's hooks. What is found is written as tests.",
    )
    parser.add_argument(
        "handler", type=_named, metavar="MODULE:HANDLER", help="a class is better than an object"
    )
    parser.add_argument("--options", type=_named, metavar="MODULE:OPTIONS", help="an Options object")
    parser.add_argument("--check", type=_named, metavar="MODULE:FUNCTION", help="called after every session")
    parser.add_argument("--allow", action="append", choices=FAULTS, default=[], help="not a fault here")
    parser.add_argument("--mailbox", action="append", default=[], help="an address that the handler knows")
    parser.add_argument("--login", nargs=2, metavar=("NAME", "PASSWORD"), help="what the handler lets in")
    parser.add_argument("--seconds", type=float, default=MAX_SECONDS, help="default: %(default)s")
    parser.add_argument("--examples", type=int, default=MAX_EXAMPLES, help="sessions, default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="other sessions, default: %(default)s")
    return parser


def _named(name: str) -> Any:
    """What MODULE:NAME is; a name may have dots."""
    module, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for each in path.split("."):
            found = getattr(found, each)
    except Exception as error:  # noqa: BLE001 - a module can fail in any way while it is imported
        says_all = isinstance(error, ImportError | AttributeError | ValueError)
        why = " ".join(str(error).split())
        if not says_all:
            why = f"{type(error).__name__}: {why}"
        raise argparse.ArgumentTypeError(f"{name!r} cannot be had: {why}") from None
    return found


def _faults(given: argparse.Namespace) -> Generator[HandlerFault]:
    search = handler_faults(
        given.handler, given.options, check=given.check, allow=given.allow, mailboxes=given.mailbox,
        login=given.login and tuple(given.login), max_examples=given.examples, seconds=given.seconds,
        seed=given.seed,
    )  # fmt: skip
    with contextlib.closing(search):
        while True:
            with contextlib.redirect_stdout(io.StringIO()):  # what the handler prints is no test
                fault = next(search, None)
            if fault is None:
                return
            yield fault


if __name__ == "__main__":
    sys.exit(main())
