# Our servers, as they are measured: one runtime in a process of its own, which drops every message.
#
#     python tests/benchmarks/ours.py --runtime asyncio --port 2525 [--plain] [--tls FILE.pem]
#
# Options are the defaults, all checks on, but for two: nobody logs in, and no name is looked up, which
# the servers it is compared with do not do either. The hooks are the three that most servers have.

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Final

from smtpproto_server import Options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from smtpproto import Address, Session
    from smtpproto_server import AsyncStream, Stream

HOST: Final = "127.0.0.1"
BACKLOG: Final = 4096  # hundreds of clients may come at once


class Coroutines:
    """Takes everything; for runtimes that have coroutines."""

    async def on_mail_from(self, _address: Address, _session: Session) -> None:
        """Take the sender."""

    async def on_rcpt_to(self, _address: Address, _session: Session) -> None:
        """Take the recipient."""

    async def on_data(self, stream: AsyncStream, _session: Session) -> None:
        """Read the message chunk by chunk and drop it."""
        async for _ in stream:
            pass


class Plain:
    """The same in plain functions."""

    def on_mail_from(self, _address: Address, _session: Session) -> None:
        """Take the sender."""

    def on_rcpt_to(self, _address: Address, _session: Session) -> None:
        """Take the recipient."""

    def on_data(self, stream: Stream, _session: Session) -> None:
        """Read the message chunk by chunk and drop it."""
        for _ in stream:
            pass


async def in_loop(port: int, options: Options) -> None:
    """On asyncio and on uvloop."""
    from smtpproto_asyncio import SMTPServer, serve  # noqa: PLC0415 - the runtime that was asked for

    await serve(SMTPServer(options), port, HOST, backlog=BACKLOG)


def on_asyncio(port: int, options: Options) -> None:
    import asyncio  # noqa: PLC0415 - the same

    asyncio.run(in_loop(port, options))


def on_uvloop(port: int, options: Options) -> None:
    import uvloop  # noqa: PLC0415 - the same

    uvloop.run(in_loop(port, options))


def on_anyio(port: int, options: Options, backend: str = "asyncio") -> None:
    import anyio  # noqa: PLC0415 - the same

    from smtpproto_anyio import SMTPServer, serve  # noqa: PLC0415 - the same

    async def main() -> None:
        await serve(SMTPServer(options), port, HOST, backlog=BACKLOG)

    anyio.run(main, backend=backend)


def on_trio(port: int, options: Options) -> None:
    on_anyio(port, options, "trio")


def on_gevent(port: int, options: Options) -> None:
    from smtpproto_gevent import SMTPServer, serve  # noqa: PLC0415 - the same

    serve(SMTPServer(options), port, HOST, backlog=BACKLOG)


def on_blocking(port: int, options: Options) -> None:
    from smtpproto_blocking import SMTPServer, serve  # noqa: PLC0415 - the same

    serve(SMTPServer(options), port, HOST, backlog=BACKLOG)


RUNTIMES: Final[Mapping[str, Callable[[int, Options], None]]] = {
    "asyncio": on_asyncio,
    "uvloop": on_uvloop,
    "anyio": on_anyio,
    "trio": on_trio,
    "gevent": on_gevent,
    "blocking": on_blocking,
}
WITHOUT_COROUTINES: Final = frozenset({"gevent", "blocking"})


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--runtime", choices=RUNTIMES, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--plain", action="store_true", help="plain hooks where there are coroutines too")
    parser.add_argument(
        "--tls", metavar="PEM", help="TLS from the first octet, with this key and certificate"
    )
    given = parser.parse_args()
    plain = given.plain or given.runtime in WITHOUT_COROUTINES
    tls: dict[str, Any] = {"secure": True, "cert": given.tls} if given.tls else {}
    handler = Plain() if plain else Coroutines()
    options = Options(handler=handler, auth_optional=True, disable_reverse_lookup=True, **tls)
    RUNTIMES[given.runtime](given.port, options)


if __name__ == "__main__":
    main()
