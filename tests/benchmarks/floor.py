# The floor: the least that a Python server of SMTP can do, in each style of I/O.
#
#     python tests/benchmarks/floor.py --style asyncio --port 2525
#
# No check, no limit, no time limit, and arguments of commands are not looked at. What is left is what
# the interpreter, the event loop and the kernel take. A server that does its work cannot be cheaper
# than the same style here, so what it takes beyond that is the price of the work.

from __future__ import annotations

import argparse
import asyncio
import socket
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from anyio.abc import SocketStream

    Serve = Callable[[int], Coroutine[Any, Any, None]]

GREETING: Final = b"220 floor ESMTP\r\n"
EHLO: Final = b"250-floor\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 104857600\r\n"
OK: Final = b"250 OK\r\n"
GO: Final = b"354 go\r\n"
BYE: Final = b"221 bye\r\n"
END: Final = b"\r\n.\r\n"
READ: Final = 262144  # octets of one read, what asyncio and uvloop take of themselves
REPLIES: Final[Mapping[bytes, bytes]] = {b"EHLO": EHLO, b"LHLO": EHLO, b"HELO": OK}
HOST: Final = "127.0.0.1"
BACKLOG: Final = 4096
STACK: Final = 256 * 1024  # octets, for each thread


class Sink:
    """Takes octets, gives those of the replies; `closed` is set after QUIT."""

    __slots__ = ("buf", "closed", "in_data", "tail")

    def __init__(self) -> None:
        self.buf: bytes = b""
        self.in_data: bool = False
        self.tail: bytes = b""
        self.closed: bool = False

    def feed(self, data: bytes) -> bytes:
        """The replies to what has come."""
        out = b""
        while True:
            if self.in_data:
                data = self.tail + data
                end = data.find(END)
                if end < 0:
                    self.tail = data[-4:]
                    return out
                self.in_data = False
                out += OK
                data = data[end + 5 :]
            if self.buf:
                data = self.buf + data
                self.buf = b""
            pos = 0
            while not self.in_data:
                newline = data.find(b"\r\n", pos)
                if newline < 0:
                    self.buf = data[pos:]
                    return out
                verb = data[pos : pos + 4].upper()
                pos = newline + 2
                if verb == b"DATA":
                    out += GO
                    self.in_data = True
                    self.tail = b"\r\n"  # an empty message ends with a dot and CRLF alone
                elif verb == b"QUIT":
                    self.closed = True
                    return out + BYE
                else:
                    out += REPLIES.get(verb, OK)
            data = data[pos:]


# --- sockets that block: threads, and greenlets ---------------------------------------------------


def session(sock: Any) -> None:
    """Serve one client on a socket that waits."""
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sink = Sink()
        sock.sendall(GREETING)
        while not sink.closed and (data := sock.recv(READ)):
            if out := sink.feed(data):
                sock.sendall(out)
    except OSError:
        pass
    finally:
        sock.close()


def on_threads(port: int) -> None:
    """A thread for each client."""
    threading.stack_size(STACK)
    listener = socket.create_server((HOST, port), backlog=BACKLOG)
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=session, args=(sock,), daemon=True).start()


def on_gevent(port: int) -> None:
    """A greenlet for each client."""
    from gevent.server import StreamServer  # noqa: PLC0415 - the style that was asked for

    StreamServer((HOST, port), lambda sock, _: session(sock), backlog=BACKLOG).serve_forever()


# --- coroutines -----------------------------------------------------------------------------------


def on_anyio(port: int, backend: str) -> None:
    """A task for each client, on asyncio or trio."""
    import anyio  # noqa: PLC0415 - the style that was asked for

    async def serve(stream: SocketStream) -> None:
        async with stream:
            sink = Sink()
            try:
                await stream.send(GREETING)
                while not sink.closed:
                    if out := sink.feed(await stream.receive(READ)):
                        await stream.send(out)
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass

    async def main() -> None:
        listener = await anyio.create_tcp_listener(local_host=HOST, local_port=port, backlog=BACKLOG)
        await listener.serve(serve)

    anyio.run(main, backend=backend)


class Protocol(asyncio.Protocol):
    """Is called with what the loop has read."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self.transport: asyncio.Transport = cast("asyncio.Transport", transport)  # uvloop's is not one
        self.sink: Sink = Sink()
        self.transport.write(GREETING)

    def data_received(self, data: bytes) -> None:
        """Answer."""
        if out := self.sink.feed(data):
            self.transport.write(out)
        if self.sink.closed:
            self.transport.close()


class Buffered(asyncio.BufferedProtocol):
    """Has the loop read into a buffer that all connections share."""

    shared: ClassVar[memoryview] = memoryview(bytearray(READ))
    """Holds nothing between two calls."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self.transport: asyncio.Transport = cast("asyncio.Transport", transport)  # uvloop's is not one
        self.sink: Sink = Sink()
        self.transport.write(GREETING)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - as asyncio calls it
        """Where to read to."""
        return self.shared

    def buffer_updated(self, nbytes: int) -> None:
        """Answer."""
        if out := self.sink.feed(bytes(self.shared[:nbytes])):
            self.transport.write(out)
        if self.sink.closed:
            self.transport.close()


async def with_streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one client by way of asyncio's streams."""
    sink = Sink()
    writer.write(GREETING)
    try:
        while not sink.closed and (data := await reader.read(READ)):
            if out := sink.feed(data):
                writer.write(out)
                await writer.drain()
    except ConnectionError:
        pass
    writer.close()


async def serve_streams(port: int) -> None:
    """Serve with streams."""
    server = await asyncio.start_server(with_streams, HOST, port, backlog=BACKLOG)
    await server.serve_forever()


async def serve_protocol(port: int, kind: type[asyncio.BaseProtocol] = Protocol) -> None:
    """Serve with a protocol."""
    server = await asyncio.get_running_loop().create_server(kind, HOST, port, backlog=BACKLOG)
    await server.serve_forever()


serve_buffered: Final = partial(serve_protocol, kind=Buffered)


def on_asyncio(port: int, serve: Serve) -> None:
    """On the standard library's loop."""
    asyncio.run(serve(port))


def on_uvloop(port: int, serve: Serve) -> None:
    """On uvloop's."""
    import uvloop  # noqa: PLC0415 - the style that was asked for

    uvloop.run(serve(port))


STYLES: Final[Mapping[str, Callable[[int], None]]] = {
    "asyncio": partial(on_asyncio, serve=serve_protocol),
    "buffered": partial(on_asyncio, serve=serve_buffered),
    "streams": partial(on_asyncio, serve=serve_streams),
    "uvloop": partial(on_uvloop, serve=serve_protocol),
    "uvloop-buffered": partial(on_uvloop, serve=serve_buffered),
    "anyio": partial(on_anyio, backend="asyncio"),
    "trio": partial(on_anyio, backend="trio"),
    "gevent": on_gevent,
    "threads": on_threads,
}


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--style", choices=STYLES, required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    STYLES[given.style](given.port)


if __name__ == "__main__":
    main()
