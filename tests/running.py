# A real server in a thread of its own, and a plain socket to talk to it.
#
# Tests of adapters go over real sockets. `running` starts a server on a free port of 127.0.0.1 in
# the runtime asked for; `Client` is a blocking socket that waits with a deadline, never by sleeping.

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any, Self

from smtpproto_asyncio import Options, SMTPServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

RUNTIMES = ("asyncio", "uvloop")
DEADLINE = 10.0  # seconds until a test gives up waiting

DATA = b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\nDATA\r\n"


class Running:
    """A server that runs."""

    def __init__(self, server: SMTPServer, loop: asyncio.AbstractEventLoop) -> None:
        self.server = server
        self.loop = loop
        self.errors: list[tuple[BaseException, dict[str, Any]]] = []
        self.connects: list[dict[str, Any]] = []
        self.loop_errors: list[dict[str, Any]] = []
        server.on("error", self.note_error)
        server.on("connect", self.connects.append)

    def note_error(self, error: BaseException, info: dict[str, Any]) -> None:
        self.errors.append((error, info))

    @property
    def port(self) -> int:
        address = self.server.address()
        assert isinstance(address, tuple)
        return address[1]

    def call(self, function: Callable[[], Awaitable[Any]], seconds: float = DEADLINE) -> Any:
        """Await in the server's own loop."""

        async def run() -> Any:
            return await function()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(seconds)

    def close(self, seconds: float = DEADLINE) -> None:
        self.call(self.server.close, seconds)

    def drop(self) -> None:
        """Close at once, whatever still runs."""

        async def abort() -> None:
            for peer in tuple(self.server.peers):
                peer.abort()
            await self.server.close()

        with contextlib.suppress(Exception):
            self.call(abort)

    def client(self, **how: Any) -> Client:
        return Client(self.port, **how)


@contextlib.contextmanager
def running(
    runtime: str = "asyncio", server: type[SMTPServer] = SMTPServer, **options: Any
) -> Generator[Running]:
    """A server with these options; on leaving it is closed, and nothing of it may be left."""
    options.setdefault("name", "mx.test")
    options.setdefault("auth_optional", True)
    options.setdefault("disable_reverse_lookup", True)
    options.setdefault("hide_enhancedstatuscodes", False)
    before = threading.active_count()
    made = server(Options(**options))
    loop = new_loop(runtime)
    box = Running(made, loop)
    loop.set_exception_handler(lambda _, context: box.loop_errors.append(context))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        box.call(lambda: made.listen(0, "127.0.0.1"))
        try:
            yield box
        except BaseException:
            box.drop()  # so that one failure is not followed by others
            raise
        box.close(options.get("close_timeout", 30.0) + DEADLINE)
        assert not made.connections
        assert not made.peers
        assert not box.call(left_over)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
    assert not box.loop_errors
    wait_until(lambda: threading.active_count() <= before)


def new_loop(runtime: str) -> asyncio.AbstractEventLoop:
    if runtime == "uvloop":
        import uvloop  # noqa: PLC0415 - not there on every machine

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()


async def left_over() -> list[asyncio.Task[Any]]:
    """Tasks other than the one that asks."""
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


def wait_until(true: Callable[[], object], seconds: float = DEADLINE) -> None:
    """Wait for a condition, looking often; fail at the deadline."""
    end = time.monotonic() + seconds
    tick = threading.Event()
    while not true():
        assert time.monotonic() < end, "the condition did not come true"
        tick.wait(0.005)


class Client:
    """A client on a blocking socket."""

    def __init__(self, port: int = 0, *, path: str | None = None, tls: bool = False) -> None:
        if path is not None:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(DEADLINE)
            self.sock.connect(path)
        else:
            self.sock = socket.create_connection(("127.0.0.1", port), DEADLINE)
        self.buffer = b""
        if tls:
            self.start_tls()

    def start_tls(self, context: ssl.SSLContext | None = None, name: str = "localhost") -> None:
        """The client's part of a handshake; by default it trusts anybody."""
        if context is None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        self.sock = context.wrap_socket(self.sock, server_hostname=name)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def reply(self) -> str:
        """The next reply; its lines are joined by LF. "" when the connection has ended."""
        lines: list[str] = []
        while True:
            line = self.line()
            if not line:
                assert not lines, f"the connection ended within a reply: {lines}"
                return ""
            lines.append(line)
            if line[3:4] != "-":
                return "\n".join(lines)

    def line(self) -> str:
        while b"\r\n" not in self.buffer:
            data = self.sock.recv(65536)
            if not data:
                assert not self.buffer, f"the connection ended within a line: {self.buffer!r}"
                return ""
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return line.decode()

    def say(self, *lines: str) -> str:
        """Send command lines, each when the one before was answered; the last reply."""
        answer = ""
        for line in lines:
            self.send(line.encode() + b"\r\n")
            answer = self.reply()
        return answer

    def greeted(self) -> Self:
        """Read the greeting and say EHLO."""
        assert self.reply().startswith("220 ")
        assert self.say("EHLO client.test").startswith("250")
        return self

    def rest(self) -> bytes:
        """All until the server closes; a reset is an end too."""
        data, self.buffer = self.buffer, b""
        with contextlib.suppress(ConnectionResetError):
            while more := self.sock.recv(65536):
                data += more
        return data

    def replies(self) -> list[str]:
        """All further replies until the server closes."""
        return list(iter(self.reply, ""))

    def fill(self, line: bytes, seconds: float = 0.3) -> int:
        """Send a line again and again until for some time nothing goes in; how many octets went."""
        sent, many = 0, line * (65536 // len(line) + 1)
        self.sock.settimeout(seconds)
        with contextlib.suppress(TimeoutError):
            while True:
                sent += self.sock.send(many[sent % len(line) :])
        self.sock.settimeout(DEADLINE)
        return sent

    def end(self) -> None:
        """Say that no more will be sent."""
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
