# `smtpproto conformance`: what it takes and how it shows what was found.
#
# The run itself is smtpproto_conformance's. Whatever the server said is made visible before it
# reaches the terminal, and the password is never in it.

from __future__ import annotations

import contextlib
import re
import sys
from collections import defaultdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from smtpproto_cli._faults import Fault
from smtpproto_cli._text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from rich.console import Console

    from smtpproto_conformance import Login, Place, Report, Result, Security, Suite

__all__ = ["conformance"]

STDOUT: Final = "-"
PLACE: Final = click.Path(dir_okay=False, allow_dash=True, writable=True)


@click.command()
@click.argument("target", metavar="HOST:PORT")
@click.option("--lmtp", is_flag=True, help="The server speaks LMTP.")
@click.option("--tls", is_flag=True, help="TLS from the first octet.")
@click.option("--starttls", is_flag=True, help="Begin transactions with STARTTLS.")
@click.option("--user", metavar="NAME:PASSWORD", help="Log in before transactions, and ask the rows of AUTH.")
@click.option("--from", "sender", metavar="ADDRESS", default="postmaster@localhost", show_default=True,
              help="A sender that the server accepts.")  # fmt: skip
@click.option("--to", "recipients", metavar="ADDRESS", multiple=True, default=("postmaster@localhost",),
              show_default="postmaster@localhost",
              help="A recipient that the server accepts; twice for a second one.")  # fmt: skip
@click.option("--helo", metavar="NAME", default="c.test", show_default=True, help="What EHLO says.")
@click.option("--only", metavar="RFC5321,...", help="Only the rows of these documents, or with these ids.")
@click.option(
    "--strict", is_flag=True, help="What differs from a SHOULD or a stricter choice counts as well."
)
@click.option("--timeout", type=click.FloatRange(0.1, 300), default=10.0, show_default=True,
              help="Seconds to wait for a reply.")  # fmt: skip
@click.option("--deadline", type=click.FloatRange(1, 86400), default=900.0, show_default=True,
              help="Seconds for the whole run.")  # fmt: skip
@click.option(
    "--json", "json_place", metavar="FILE", type=PLACE, help="Write the results as JSON; - for here."
)
@click.option("--junit", "junit_place", metavar="FILE", type=PLACE,
              help="Write the results as JUnit XML; - for here.")  # fmt: skip
@click.option("--i-own-this-server", "own", is_flag=True, help="Ask a server on another machine.")
def conformance(
    *,
    target: str,
    lmtp: bool,
    tls: bool,
    starttls: bool,
    user: str | None,
    sender: str,
    recipients: tuple[str, ...],
    helo: str,
    only: str | None,
    strict: bool,
    timeout: float,
    deadline: float,
    json_place: str | None,
    junit_place: str | None,
    own: bool,
) -> int:
    """Ask a server whether it does what the RFCs say.

    It is a black box: rows that cannot be told from outside are listed with the reason. The
    server gets hostile input and test messages, so it has to be on this machine unless you say
    that it is yours. Exit status: 0 if all rows that rest on a MUST pass, 1 if one fails, 2 if
    the server could not be asked.
    """
    from smtpproto_conformance import Suite, Target, Unreachable, chosen  # noqa: PLC0415 - serve needs none of it

    if json_place == junit_place == STDOUT:
        raise Fault("--json - and --junit - exclude each other; write one to a file")
    for name, values in {"--from": (sender,), "--to": recipients, "--helo": (helo,)}.items():
        if not all(re.fullmatch(r"[!-;=?-~]+", each) for each in values):
            raise Fault(f"{name} wants ASCII without blanks and angle brackets")
    if not all("@" in each for each in (sender, *recipients)) or len(recipients) > 2:  # noqa: PLR2004 - see --to
        raise Fault("--from and --to want addresses with an @, and --to at most two of them")
    try:
        cases = chosen([each for each in (only or "").split(",") if each])
    except LookupError as error:
        raise Fault(f"--only: {error.args[0]}") from None
    suite = Suite(
        Target(
            place=_place(target, own=own), security=_security(tls=tls, starttls=starttls), lmtp=lmtp,
            login=_login(user), helo=helo, sender=sender, recipients=recipients, patience=timeout,
        ),
        cases,
        deadline,
    )  # fmt: skip
    try:
        with _progress(suite) as progress:
            report = suite.run(progress)
    except Unreachable as error:
        raise Fault(f"{target}: {error}") from None
    _write(report, json_place, junit_place, strict=strict)
    if report.ended:
        raise Fault(f"{target}: {report.ended}")
    return 0 if report.passes(strict=strict) else 1


# --- what was said --------------------------------------------------------------------------------


def _place(text: str, *, own: bool) -> Place:
    from smtpproto_conformance import NotYours, resolved  # noqa: PLC0415 - as above

    try:
        return resolved(text, own=own)
    except ValueError as error:
        raise Fault(str(error)) from None
    except NotYours as error:
        hint = "" if own else "; if the server is yours, add --i-own-this-server"
        raise Fault(f"{error}{hint}") from None


def _security(*, tls: bool, starttls: bool) -> Security:
    from smtpproto_conformance import Security  # noqa: PLC0415 - as above

    if tls and starttls:
        raise Fault("--tls and --starttls exclude each other; choose one")
    return Security.TLS if tls else Security.STARTTLS if starttls else Security.NONE


def _login(text: str | None) -> Login | None:
    from smtpproto_conformance import Login  # noqa: PLC0415 - as above

    if text is None:
        return None
    name, colon, password = text.partition(":")
    if not (name and colon and password):
        raise Fault("--user wants name:password, neither of them empty")
    if any("\ud800" <= char <= "\udfff" for char in text):  # octets of the command line that are not UTF-8
        raise Fault("--user: name and password must be UTF-8")
    return Login(name, password)


# --- what is shown --------------------------------------------------------------------------------


@contextlib.contextmanager
def _progress(suite: Suite) -> Generator[Callable[[Result], None]]:
    """A bar on the standard error output, if that is a terminal."""
    from rich.console import Console  # noqa: PLC0415 - as above
    from rich.progress import Progress  # noqa: PLC0415 - as above

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("conformance", total=len(suite))
        yield lambda result: bar.update(task, advance=1, description=result.case.id)


def _write(report: Report, json_place: str | None, junit_place: str | None, *, strict: bool) -> None:
    from smtpproto_conformance import as_json, as_junit  # noqa: PLC0415 - as above

    texts = {
        place: text
        for place, text in ((json_place, as_json(report)), (junit_place, as_junit(report, strict=strict)))
        if place is not None
    }
    if STDOUT not in texts:
        _show(report)
    for place, text in texts.items():
        if place == STDOUT:
            click.echo(text)
            continue
        try:
            Path(place).write_text(f"{text}\n", "utf-8")
        except OSError as error:
            raise Fault(f"cannot write {place}: {error.strerror}") from error


def _show(report: Report) -> None:
    from rich.console import Console  # noqa: PLC0415 - as above

    console = Console()
    told = [result for result in report.results if not result.case.not_told]
    by_source = sorted(told, key=lambda result: _order(result.case.source))
    for document, results in groupby(by_source, key=lambda result: result.case.source.split()[0].strip(",")):
        _show_document(console, document, list(results))
    _show_not_told(console, [result for result in report.results if result.case.not_told])
    counts = ", ".join(f"{number} {verdict.value}" for verdict, number in report.counts.items())
    console.print(f"{counts}", highlight=False)


def _order(source: str) -> tuple[str, list[int]]:
    document, _, section = source.partition(" ")
    return document.strip(","), [int(each) for each in re.findall(r"[0-9]+", section.split(",")[0])]


def _show_document(console: Console, document: str, results: list[Result]) -> None:
    from rich.table import Table  # noqa: PLC0415 - as above
    from rich.text import Text  # noqa: PLC0415 - as above

    table = Table(title=document, title_justify="left", box=None, pad_edge=False)
    for column in ("section", "row", "level", "result", "input", "reason"):
        table.add_column(column, overflow="fold", no_wrap=column in {"row", "level", "result"})
    for result in results:
        case, outcome = result.case, result.outcome
        verdict = Text(outcome.verdict.value, style=STYLES[outcome.verdict.value])
        section = case.source.removeprefix(document).strip(" ,")
        said = case.input if len(case.input) <= INPUT else f"{case.input[:INPUT]}..."
        cells = (section, case.id, case.level.value, verdict, said, one_line(outcome.reason))
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in cells))
    console.print(table)
    console.print()


def _show_not_told(console: Console, results: list[Result]) -> None:
    """Those that nobody can tell from outside, by the reason."""
    from rich.text import Text  # noqa: PLC0415 - as above

    reasons: defaultdict[str, list[str]] = defaultdict(list)
    for result in results:
        reasons[result.case.not_told].append(result.case.id)
    if reasons:
        console.print("Not told from outside; the in-process runner asks these:")
    for reason, ids in reasons.items():
        # Whoever searches a file does so by lines: they are folded for a terminal only.
        console.print(Text(f"  {reason}: {', '.join(ids)}"), soft_wrap=not sys.stdout.isatty())
    console.print()


INPUT: Final = 40  # characters of a row's input that are shown
STYLES: Final = {"pass": "green", "fail": "bold red", "differs": "yellow", "not told": "dim"}
