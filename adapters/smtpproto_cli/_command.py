# The command line: what can be said, and what it comes to.
#
# Only this file and `_conformance.py` know click. Every fault of the user ends here as one line and
# exit status 2.

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import click

import smtpproto
from smtpproto_cli._conformance import conformance
from smtpproto_cli._faults import Fault
from smtpproto_cli._journal import Journal, log_to_stderr
from smtpproto_cli._listen import HOST, PORT, SCHEMES, by_flags, by_table, by_url
from smtpproto_cli._places import HandedIn, Places, handed_in
from smtpproto_cli._runtimes import RUNTIMES, load
from smtpproto_cli._service import Alone, Service, checked
from smtpproto_cli._settings import Settings
from smtpproto_cli._sinks import Discarding, Printing, Storing
from smtpproto_cli._text import one_line
from smtpproto_cli._users import Users

if TYPE_CHECKING:
    from collections.abc import Sequence

    from smtpproto_cli._sinks import Sink

__all__ = ["run"]

MAILDIR: Final = "mail"
ABORTED: Final = 130  # 128 + SIGINT

_SETTINGS: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_FILE: Final = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)
_version = click.version_option(smtpproto.__version__, prog_name="smtpproto", message="%(prog)s %(version)s")


def run(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say, None for those of the process; return the exit status."""
    try:
        status: object = command.main(arguments, prog_name="smtpproto", standalone_mode=False)
    except click.exceptions.Abort:
        return ABORTED
    except click.ClickException as error:
        return _complain(f"{error.format_message()} (see: {_command_path(error)} --help)")
    except Fault as fault:
        return _complain(str(fault))
    finally:
        _let_go_of_output()
    return status if isinstance(status, int) else 0


@click.group(context_settings=_SETTINGS, no_args_is_help=False)
@_version
def command() -> None:
    """Receive mail over SMTP and LMTP."""


command.add_command(conformance)


@command.command()
@click.option(
    "--listen",
    "urls",
    metavar="URL",
    multiple=True,
    help=f"Listen there: SCHEME://HOST:PORT or SCHEME://unix:PATH; {', '.join(SCHEMES)}. May be repeated.",
)
@click.option(
    "--host", "hosts", multiple=True, show_default=HOST, help="Address or name to listen on. May be repeated."
)
@click.option(
    "--port", type=click.IntRange(0, 65535), show_default=str(PORT), help="Port; 0 for one that is free."
)
@click.option("--unix", metavar="PATH", help="Listen on a unix socket instead.")
@click.option(
    "--runtime",
    metavar="NAME",
    type=click.Choice(list(RUNTIMES)),
    default="asyncio",
    show_default=True,
    help=f"What runs the server: {', '.join(RUNTIMES)}.",
)
@click.option(
    "--workers",
    metavar="N",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Processes that serve the port together.",
)
@click.option(
    "--maildir",
    metavar="DIR",
    type=click.Path(path_type=Path),
    show_default=f"./{MAILDIR}",
    help="Store messages in this Maildir, made if need be.",
)
@click.option("--print", "printing", is_flag=True, help="Print messages instead.")
@click.option("--discard", is_flag=True, help="Drop messages instead.")
@click.option("--no-trace", is_flag=True, help="Store messages without Return-Path, Delivered-To, Received.")
@click.option("--config", metavar="FILE.toml", type=_FILE, help="Options of the server, name = value.")
@click.option(
    "--set",
    "assignments",
    metavar="NAME=VALUE",
    multiple=True,
    help="Set one option of the server; wins over --config. May be repeated.",
)
@click.option(
    "--user",
    "users",
    metavar="NAME:PASSWORD",
    multiple=True,
    help="Somebody who may log in; with users, mail needs a login. May be repeated.",
)
@click.option("--tls-cert", metavar="FILE", type=_FILE, help="Certificate chain, PEM.")
@click.option("--tls-key", metavar="FILE", type=_FILE, help="Its private key, PEM, if the chain has none.")
@click.option("--implicit-tls", is_flag=True, help="TLS from the first octet instead of STARTTLS.")
@click.option("--lmtp", is_flag=True, help="LMTP instead of SMTP.")
@click.option("-v", "--verbose", is_flag=True, help="Log what goes on to the standard error output.")
@_version
def serve(
    *,
    urls: tuple[str, ...],
    hosts: tuple[str, ...],
    port: int | None,
    unix: str | None,
    runtime: str,
    workers: int,
    maildir: Path | None,
    printing: bool,
    discard: bool,
    no_trace: bool,
    config: Path | None,
    assignments: tuple[str, ...],
    users: tuple[str, ...],
    tls_cert: Path | None,
    tls_key: Path | None,
    implicit_tls: bool,
    lmtp: bool,
    verbose: bool,
) -> int:
    """Receive mail and store it in ./mail, until SIGINT or SIGTERM.

    Options of the server are those of smtpproto_server.Options. A value is TOML or plain text:
    size=10485760, banner=hello, use_proxy=10.0.0.0/8,127.0.0.1, socket_timeout=none.

    By default STARTTLS works with a certificate made for the occasion. Logging in needs TLS
    unless allow_insecure_auth=true is set. SIGHUP reads certificate files again.
    """
    log_to_stderr(verbose=verbose)
    sockets = handed_in(os.environ)
    runs = load(runtime)
    settings = Settings()
    if config is not None:
        settings.read_file(config)
    flags: dict[str, Any] = {
        "--tls-cert": tls_cert, "--tls-key": tls_key,
        "--implicit-tls": implicit_tls or None, "--lmtp": lmtp or None,
    }  # fmt: skip
    for flag, value in flags.items():
        if value is not None:
            settings.put(_OPTION_OF[flag], value, flag)
    for each in assignments:
        settings.read_assignment(each)
    placed = bool(hosts) or port is not None or unix is not None
    if sockets is not None and (placed or urls or settings.listeners):
        raise Fault("sockets are handed in (LISTEN_FDS); leave out --host, --port, --unix and --listen")
    places = sockets or _listeners(settings, urls, placed=placed) or Places(by_flags(hosts, port, unix))
    if urls and (implicit_tls or lmtp):
        raise Fault("--implicit-tls and --lmtp do not go with --listen; say smtps:// or lmtp://")
    if tls_key is not None and settings.values.get("cert") is None:
        raise Fault("--tls-key belongs to a certificate; add --tls-cert")
    hooks = _login(settings, Users(users), places)
    settings.default(sync_hooks="inline")  # on_auth is quick
    # First without, because a directory is only made when everything else is well.
    options = settings.options(**hooks)
    core = checked(options, settings, places.places)
    journal = Journal(sys.stdout)
    sink = _sink(maildir, journal, printing=printing, discard=discard, trace=not no_trace, name=options.name)
    options = settings.options(**hooks, on_data=runs.hook(sink))
    with places.bind() as bound:
        if workers > 1:
            from smtpproto_cli._supervisor import Supervisor  # noqa: PLC0415 - most servers are one process

            return Supervisor(
                runs.run, options, bound, core=core, settings=settings, sink=sink, journal=journal
            ).run(workers)
        runs.run(
            Service(options, bound.listening, settings=settings, sink=sink, report=Alone(bound, journal))
        )
    return 0


_OPTION_OF: Final = {
    "--tls-cert": "cert", "--tls-key": "key", "--implicit-tls": "secure", "--lmtp": "lmtp",
}  # fmt: skip


def _listeners(settings: Settings, urls: Sequence[str], *, placed: bool) -> Places | None:
    """Those of `--listen`, which win over those of the file."""
    if placed and (urls or settings.listeners):
        raise Fault("--host, --port and --unix do not go with --listen or [[listen]]; say it there")
    if urls:
        return Places([by_url(url) for url in urls])
    tables = [by_table(table, origin) for table, origin in settings.listeners]
    return Places(tables) if tables else None


def _login(settings: Settings, users: Users, places: Places | HandedIn) -> dict[str, Any]:
    """The hook for logins. Without users nobody can log in, so nobody is asked to."""
    if users:
        return {"on_auth": users.on_auth}
    needs = "needs somebody who can log in; add --user name:password"
    if settings.values.get("auth_optional") is False:
        raise Fault(f"auth_optional=false {needs}")
    for place in places.places:
        if place.own.get("auth_optional") is False:
            raise place.fault(f"mail here {needs}")
    settings.default(auth_optional=True, auth_methods=())
    return {}


def _sink(
    maildir: Path | None, journal: Journal, *, printing: bool, discard: bool, trace: bool, name: str
) -> Sink:
    if (maildir is not None) + printing + discard > 1:
        raise Fault("--maildir, --print and --discard exclude each other; choose one")
    if printing:
        return Printing(journal)
    if discard:
        return Discarding(journal)
    return Storing(Path(MAILDIR) if maildir is None else maildir, journal, trace=trace, name=name)


def _command_path(error: click.ClickException) -> str:
    context: click.Context | None = getattr(error, "ctx", None)
    return context.command_path if context else "smtpproto"


def _complain(text: str) -> int:
    click.echo(f"smtpproto: {one_line(text)}", err=True)
    return 2


def _let_go_of_output() -> None:
    """A reader that went away is no fault of ours; the interpreter would complain at the end."""
    output: IO[str] | None = sys.stdout  # None if it was closed before we were started
    if output is None:
        return
    try:
        output.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())
