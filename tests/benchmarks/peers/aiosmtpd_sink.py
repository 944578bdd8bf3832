# aiosmtpd as a server that drops every message, on the main thread's own loop.

from __future__ import annotations

import argparse
import asyncio
import ssl
from typing import Any

from aiosmtpd.smtp import SMTP


class Handler:
    """Takes every message."""

    async def handle_DATA(self, _server: Any, _session: Any, _envelope: Any) -> str:  # noqa: N802 - its name
        """Answer."""
        return "250 OK"


async def serve(port: int, context: ssl.SSLContext | None) -> None:
    """Listen until the process is ended."""
    loop = asyncio.get_running_loop()
    handler = Handler()

    def made() -> SMTP:
        return SMTP(handler, hostname="localhost", ident="sink", data_size_limit=100 << 20, loop=loop)

    server = await loop.create_server(made, "127.0.0.1", port, backlog=4096, ssl=context)
    await server.serve_forever()


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--uvloop", action="store_true")
    parser.add_argument(
        "--tls", metavar="PEM", help="TLS from the first octet, with this key and certificate"
    )
    given = parser.parse_args()
    context = None
    if given.tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(given.tls)
    if given.uvloop:
        import uvloop  # noqa: PLC0415 - the loop that was asked for

        uvloop.run(serve(given.port, context))
    else:
        asyncio.run(serve(given.port, context))


if __name__ == "__main__":
    main()
