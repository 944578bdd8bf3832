# Who is measured: our servers, the floors, and servers of others. Each is a row with its command.
#
# A server listens on 127.0.0.1:{port}, takes every message and drops it. Where it can do TLS from the
# first octet, `tls` is what is added to its command for that.

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
# Debian puts smtp-source and smtp-sink where only root looks. What is measured is this tree, unless
# PYTHONPATH names another one: a tree that was compiled, for instance.
ENVIRONMENT: Final = {
    **os.environ,
    "PATH": os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]),
    "PYTHONPATH": os.pathsep.join(
        [*filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT), str(ROOT / "adapters")]
    ),
}

OURS: Final = "ours"
FLOORS: Final = "floors"
PEERS: Final = "peers"
WORKERS: Final = "workers"


class Server(NamedTuple):
    """Something that can be measured."""

    name: str
    group: str
    command: tuple[str, ...]
    tls: tuple[str, ...] = ()
    """What makes it speak TLS with the key and certificate in {pem}; empty: it is not measured so."""
    needs: tuple[str, ...] = ()
    """Programs, and modules as python:NAME and node:NAME."""


def _ours(name: str, *options: str, runtime: str = "", needs: tuple[str, ...] = ()) -> Server:
    program = (sys.executable, str(HERE / "ours.py"), "--port", "{port}")
    return Server(
        name, OURS, (*program, "--runtime", runtime or name, *options), ("--tls", "{pem}"), needs
    )  # fmt: skip


def _floor(style: str, *needs: str) -> Server:
    program = (sys.executable, str(HERE / "floor.py"), "--port", "{port}")
    return Server(f"floor-{style}", FLOORS, (*program, "--style", style), needs=needs)


def _aiosmtpd(name: str, *options: str, needs: tuple[str, ...] = ()) -> Server:
    program = (sys.executable, str(HERE / "peers" / "aiosmtpd_sink.py"), "--port", "{port}")
    return Server(name, PEERS, (*program, *options), ("--tls", "{pem}"), ("python:aiosmtpd", *needs))


AS_NOBODY: Final = ("-u", "nobody") if os.geteuid() == 0 else ()  # root must say who smtp-sink is to be

SERVERS: Final = (
    _ours("asyncio"),
    _ours("asyncio-plain", "--plain", runtime="asyncio"),
    _ours("uvloop", needs=("python:uvloop",)),
    _ours("anyio", needs=("python:anyio",)),
    _ours("trio", needs=("python:anyio", "python:trio")),
    _ours("gevent", needs=("python:gevent",)),
    _ours("blocking"),
    _floor("asyncio"),
    _floor("buffered"),
    _floor("streams"),
    _floor("uvloop", "python:uvloop"),
    _floor("uvloop-buffered", "python:uvloop"),
    _floor("anyio", "python:anyio"),
    _floor("trio", "python:anyio", "python:trio"),
    _floor("gevent", "python:gevent"),
    _floor("threads"),
    _aiosmtpd("aiosmtpd"),
    _aiosmtpd("aiosmtpd-uvloop", "--uvloop", needs=("python:uvloop",)),
    Server(
        "node-smtp-server",
        PEERS,
        ("node", str(HERE / "peers" / "smtp_server_sink.cjs"), "{port}"),
        ("{pem}",),
        ("node", "node:smtp-server"),
    ),
    Server(
        "smtp-sink",
        PEERS,
        ("smtp-sink", *AS_NOBODY, "-m", "20000", "-h", "localhost", "127.0.0.1:{port}", "4096"),
        needs=("smtp-sink",),
    ),
)


def with_workers(counts: Iterable[int]) -> tuple[Server, ...]:
    """The command `smtpproto serve`, with so many processes."""
    serve = (
        sys.executable, "-m", "smtpproto_cli", "serve", "--port", "{port}", "--discard",
        "--set", "disable_reverse_lookup=true", "--workers",
    )  # fmt: skip
    return tuple(
        Server(f"serve-{count}", WORKERS, (*serve, str(count)), needs=("python:click", "python:rich"))
        for count in counts
    )


def missing(needs: Iterable[str]) -> list[str]:
    """What of it this machine does not have."""
    return [need for need in needs if not is_there(need)]


@cache
def is_there(need: str) -> bool:
    """Whether this machine has a program, or a module of Python or Node."""
    match need.split(":"):
        case ["python", module]:
            return importlib.util.find_spec(module) is not None
        case ["node", module] if is_there("node"):
            resolve = ("node", "-e", f"require.resolve({module!r})")
            return subprocess.run(resolve, env=ENVIRONMENT, check=False, capture_output=True).returncode == 0
        case [program]:
            return shutil.which(program, path=ENVIRONMENT["PATH"]) is not None
        case _:
            return False
