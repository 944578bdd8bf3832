# A server without sockets: the real server loop, with the client's end of it in the same thread.
#
# Hooks are called as smtpproto_asyncio calls them, so what works here works there: coroutine
# functions on an event loop, plain ones in threads, one at a time for each connection. The server's
# own clock is not theirs: it stands still until somebody says that nothing comes for a while.

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import ctypes
import functools
import ssl
import threading
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, cast

from smtpproto.testing._conversation import TLS
from smtpproto_server import ColouredPeer, Failed, Outcome, ServerCore, TlsContexts

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from smtpproto import TlsDetails
    from smtpproto_server import Ask, MessageBody, Options, Serving, TlsChannel, Wait

__all__ = ["LOCAL", "REMOTE", "MemoryConnection", "MemoryServer", "ServingPeer", "raise_in_thread"]

SEGMENT: Final = 64 * 1024  # octets that arrive at once, at most
LOCAL: Final = ("192.0.2.25", 25)
REMOTE: Final = ("192.0.2.1", 4321)
LAST_STEPS: Final = 0.5  # seconds for what hooks have left behind to end


class MemoryServer(ServerCore):
    """A server that listens nowhere: `connect` gives the client's end of a connection.

    Takes what every SMTPServer takes, an Options object or its fields as keywords. Use it in `with`,
    not inside a coroutine. STARTTLS works, without encryption; no name is looked up.
    """

    def __init__(self, options: Options | None = None, /, **option_fields: Any) -> None:
        super().__init__(options, **option_fields)
        self.now: float = 0.0
        """The server's clock, in seconds; `MemoryConnection.wait` moves it."""
        self.loop: asyncio.AbstractEventLoop = asyncio.new_event_loop()
        """Where coroutine hooks run, whenever a client does something."""

    @property
    def contexts(self) -> TlsContexts:
        """TLS that is agreed upon and not done."""
        return cast("TlsContexts", _PlainContexts)

    def connect(self, remote: tuple[str, int] = REMOTE) -> MemoryConnection:
        """A client comes, from this address and port."""
        serving = self.begin(LOCAL, remote, lambda: self.now)
        assert serving is not None  # for one too many it is said why, and here that takes no time
        return MemoryConnection(ServingPeer(self, serving))

    @property
    def resolve(self) -> Callable[[str], Any]:
        """The resolver of the options, or nobody."""
        return super().resolve if self.options.resolver else _no_names

    def close(self) -> None:
        """Drop the connections, cancel what hooks have left behind, and close the event loop."""
        if self.loop.is_closed():
            return
        served = [cast("ServingPeer", peer) for peer in self.peers]  # it makes no others
        for peer in served:
            peer.abort()
        self.loop.run_until_complete(_end_tasks([peer.task for peer in served]))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class MemoryConnection:
    """The client's end of a connection to a MemoryServer: an Endpoint.

    Each call returns what the server has sent meanwhile, when it has nothing left to do but to wait
    for the client. A hook that waits for anything but its message is waited for.
    """

    def __init__(self, peer: ServingPeer) -> None:
        self._peer: ServingPeer = peer
        self._unheard: bytes = peer.settle()

    @property
    def closed(self) -> bool:
        """The server has ended the connection, or the client has."""
        return self._peer.closed

    def receive(self, octets: bytes) -> bytes:
        """The client sends; what it is answered, behind the greeting. After the end nobody hears it."""
        answer, self._unheard = self._unheard, b""
        for at in range(0, len(octets), SEGMENT):
            if not self.closed:
                self._peer.take_in(octets[at : at + SEGMENT])
                answer += self._peer.settle()
        return answer

    def end(self) -> bytes:
        """The client sends no more; what it is told yet."""
        answer, self._unheard = self._unheard, b""
        self._peer.eof = True
        return answer + self._peer.settle()

    def lose(self) -> None:
        """The connection breaks: nobody hears anybody any more."""
        self._peer.lost = True
        self._peer.settle()

    def wait(self, seconds: float) -> bytes:
        """The client says nothing for so many seconds of the server's clock; what it is told then."""
        server = self._peer.server
        until = server.now + seconds
        said, self._unheard = self._unheard, b""
        while not self.closed and (deadline := self._peer.deadline) is not None and deadline <= until:
            server.now = max(server.now, deadline)
            said += self._peer.settle(Outcome.TIMED_OUT)
        server.now = until
        return said


class ServingPeer(ColouredPeer[MemoryServer]):
    """The server's end: a task that rests whenever only the client can go on."""

    __slots__ = ("_cancels", "_limit", "_rests", "_sent", "_thread", "_waiter", "deadline", "task")

    pushed: ClassVar[bool] = True

    def __init__(self, server: MemoryServer, serving: Serving) -> None:
        # There is no socket, and whatever would touch it is replaced below.
        super().__init__(server, cast("socket.socket", None), serving)
        self.deadline: float | None = None
        """When the server wants to be woken, if the client says nothing."""
        self._cancels: int = 0
        self._limit: asyncio.TimerHandle | None = None
        self._rests: asyncio.Event = asyncio.Event()
        self._sent: bytearray = bytearray()
        self._thread: int | None = None
        self._waiter: asyncio.Future[Outcome | None] | None = None
        self.task: asyncio.Task[None] = server.loop.create_task(self._serve())
        self.task.add_done_callback(_look_at)

    def settle(self, outcome: Outcome | None = None) -> bytes:
        """Let the server go on until it rests; what it has sent."""
        sent = self.server.loop.run_until_complete(self.settled(outcome))
        if self.task.done():
            self.task.result()  # a fault of ours is not to be kept
        return sent

    async def settled(self, outcome: Outcome | None = None) -> bytes:
        """The same within the event loop."""
        if not self.task.done():
            self._rests.clear()
            self._wake(outcome)
            await self._rests.wait()
        sent, self._sent = bytes(self._sent), bytearray()
        return sent

    async def _serve(self) -> None:
        try:
            await self.take(self.steps())
        finally:
            self.end()
            self._rests.set()

    # --- waiting ------------------------------------------------------------------------------------

    async def wait(self, step: Wait) -> Outcome | None:
        """By a future; meanwhile it is the client's turn."""
        if step.deadline is not None and step.deadline <= self.server.now:
            return Outcome.TIMED_OUT
        waiter: asyncio.Future[Outcome | None] = self.server.loop.create_future()
        self._waiter = waiter
        self.deadline = step.deadline
        self._rests.set()
        try:
            return await waiter
        finally:
            if self._waiter is waiter:  # and not that of the server, which a hook's reader has overlapped
                self._waiter = None

    def wake(self) -> None:
        """End the wait."""
        self._wake()

    def _wake(self, outcome: Outcome | None = None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(outcome)

    # --- the socket that is not there ---------------------------------------------------------------

    def read(self) -> None:
        """Nothing but what was taken in."""

    def write(self) -> bool:
        """The client takes everything at once."""
        self._sent += self._rest
        self._rest = b""
        return True

    def end_output(self) -> bool:
        """The client hears the last reply and goes: it need not be waited for."""
        self.eof = True
        return True

    def release(self) -> None:
        """There is nothing to be closed."""

    # --- hooks --------------------------------------------------------------------------------------

    async def call(self, ask: Ask) -> Any:
        """Call a hook; what it returned, or a Failed."""
        try:
            result = await self.call_hook(ask)
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a hook raises is contained
            result = Failed(error)
        while self._cancels:  # our own, which have done their work
            self._cancels -= 1
            self.task.uncancel()
        return result

    def cancel_hook(self) -> None:
        """The hook runs in the connection's own task, or in a thread that must not go on for ever."""
        self._cancels += 1
        self.task.cancel()
        if self._thread is not None:
            raise_in_thread(self._thread, SystemExit)

    def set_limit(self, seconds: float | None) -> None:
        """In the time of the hooks, which is everybody's."""
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
        if seconds is not None:
            self._limit = self.server.loop.call_later(seconds, self.interrupt, Outcome.TIMED_OUT)

    def pull_from_thread(self, body: MessageBody) -> bytes:
        """The loop pulls, the thread waits."""
        return asyncio.run_coroutine_threadsafe(self.pull_chunk(body), self.server.loop).result()

    async def in_thread(self, call: Callable[[], Any]) -> Any:
        """A thread of its own, that keeps no program from ending."""
        loop = self.server.loop
        done: asyncio.Future[Any] = loop.create_future()
        context = contextvars.copy_context()

        def run() -> None:
            result: Any
            try:
                result = context.run(call)
            except BaseException as error:  # noqa: BLE001 - raised where the hook was called
                result = Failed(error)
            with contextlib.suppress(RuntimeError):  # the server was closed long ago
                loop.call_soon_threadsafe(_resolve, done, result)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self._thread = thread.ident
        try:
            result = await done
        finally:
            self._thread = None
        if isinstance(result, Failed):
            raise result.exception
        return result


class _PlainChannel:
    """What stands for a TlsChannel."""

    closed: Final = False

    def __init__(self) -> None:
        self._incoming: bytes = b""
        self._outgoing: bytes = b""

    @property
    def ssl_object(self) -> ssl.SSLObject:
        return _finished_handshake()

    def receive(self, raw: bytes) -> None:
        self._incoming += raw

    def receive_eof(self) -> None: ...

    def handshake(self) -> bool:
        return True

    def read(self) -> bytes:
        plain, self._incoming = self._incoming, b""
        return plain

    def write(self, data: bytes) -> None:
        self._outgoing += data

    def outgoing(self) -> bytes:
        octets, self._outgoing = self._outgoing, b""
        return octets

    def close(self) -> None: ...

    def details(self) -> TlsDetails:
        return TLS


class _PlainContexts:
    """What stands for TlsContexts."""

    available: Final = True
    warning: Final = None

    @staticmethod
    def channel() -> TlsChannel:
        return cast("TlsChannel", _PlainChannel())


@functools.cache
def _finished_handshake() -> ssl.SSLObject:
    """A real one, for hooks that ask it questions: the same for all."""
    import trustme  # noqa: PLC0415 - takes longer to import than all the rest, and few hooks need it

    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf = authority.issue_cert("mx.test")
    leaf.configure_cert(context)  # pyright: ignore[reportUnknownMemberType] - it would take pyOpenSSL's, too
    server = context.wrap_bio(to_server, to_client, server_side=True)
    client = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    tls = client.wrap_bio(to_client, to_server, server_hostname="mx.test")
    for side in (tls, server, tls, server):
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    return server


def raise_in_thread(thread: int, kind: type[BaseException]) -> None:
    """Raise in a thread when it next runs Python. Does nothing where the interpreter cannot."""
    if hasattr(ctypes, "pythonapi"):
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(kind))


def _resolve(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)


def _look_at(task: asyncio.Task[None]) -> None:
    """What has ended it is known already, be it a KeyboardInterrupt."""
    with contextlib.suppress(asyncio.CancelledError):
        task.exception()


async def _end_tasks(serving: list[asyncio.Task[None]]) -> None:
    """Connections end by themselves, with `on_close`; what else there is is cancelled."""
    if serving:
        await asyncio.wait(serving, timeout=LAST_STEPS)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=LAST_STEPS)


async def _no_names(_ip: str) -> list[str]:
    return []
