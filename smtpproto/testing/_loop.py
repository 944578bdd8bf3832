# A server without sockets: the real driver, with the client's end of it in the same thread.
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
from concurrent.futures import Future
from functools import partial
from types import coroutine
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, cast

from smtpproto import NeedsStartTLS, NeedsTLS
from smtpproto.testing._conversation import TLS
from smtpproto_server.adapting import NEVER, PARTED, Driver, ServerCore, TlsContexts, Wait

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from smtpproto import TlsDetails
    from smtpproto_server import Options, Stream
    from smtpproto_server.adapting import TlsChannel

__all__ = ["LOCAL", "REMOTE", "MemoryConnection", "MemoryServer", "ServingPeer", "raise_in_thread"]

SEGMENT: Final = 64 * 1024  # octets that arrive at once, at most
LOCAL: Final = ("192.0.2.25", 25)
REMOTE: Final = ("192.0.2.1", 4321)
LAST_STEPS: Final = 0.5  # seconds for what hooks have left behind to end
START: Final = 1.0  # what the driver's clock shows at the beginning: to it, 0.0 is no time
NOTHING: Final = object()


class MemoryServer(ServerCore):
    """A server that listens nowhere: `connect` gives the client's end of a connection.

    Takes what every SMTPServer takes, an Options object or its fields as keywords. Use it in `with`,
    not inside a coroutine. STARTTLS works, without encryption; no name is looked up.
    """

    def __init__(self, options: Options | None = None, /, **option_fields: Any) -> None:
        super().__init__(options, **option_fields)
        self.now: float = 0.0
        """The server's clock, in seconds: `MemoryConnection.wait` moves it, and a hook that is given up."""
        self.loop: asyncio.AbstractEventLoop = asyncio.new_event_loop()
        """Where coroutine hooks run, whenever a client does something."""

    @property
    def contexts(self) -> TlsContexts:
        """TLS that is agreed upon and not done."""
        return cast("TlsContexts", _PlainContexts)

    def connect(self, remote: tuple[str, int] = REMOTE) -> MemoryConnection:
        """A client comes, from this address and port."""
        return MemoryConnection(self.arrival(remote))

    def arrival(self, remote: tuple[str, int] = REMOTE) -> Any:
        """The server's end of a new connection."""
        peer = self.begin(None, LOCAL, remote, lambda: START + self.now)
        assert peer is not None  # a client over the limit gets its reply, and here that takes no time
        return peer

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
        """The client sends; what it is answered, after the greeting. After the end nobody hears it."""
        answer, self._unheard = self._unheard, b""
        for at in range(0, len(octets), SEGMENT):
            if not self.closed:
                answer += self._peer.settle(self._peer.received, octets[at : at + SEGMENT])
        return answer

    def end(self) -> bytes:
        """The client sends no more; what it is answered yet."""
        answer, self._unheard = self._unheard, b""
        return answer + self._peer.settle(self._peer.received, b"")

    def lose(self) -> None:
        """The connection breaks: nobody hears anybody any more."""
        self._peer.settle(self._peer.lose)

    def wait(self, seconds: float) -> bytes:
        """The client says nothing for so many seconds of the server's clock; what it is sent then."""
        server = self._peer.server
        until = server.now + seconds
        said, self._unheard = self._unheard, b""
        while not self.closed and self._peer.rings <= until + START:
            server.now = max(server.now, self._peer.rings - START)
            said += self._peer.settle(self._peer.expired)
        server.now = until
        return said


class ServingPeer(Driver):
    """The server's end: a task that runs the driver, and rests whenever only the client can go on."""

    __slots__ = (
        "_awaited", "_calls", "_rests", "_sent", "_thread", "_timer", "_timer_at", "_trap", "task",
    )  # fmt: skip

    event: ClassVar[type[asyncio.Event]] = asyncio.Event
    server: MemoryServer  # pyright: ignore[reportIncompatibleVariableOverride] - set once

    def __init__(
        self, server: MemoryServer, _sock: None, clock: Callable[[], float], facts: Mapping[str, Any]
    ) -> None:
        self._awaited: asyncio.Future[None] | None = None
        """The task waits for this: for something to do."""
        self._calls: list[Callable[[], None]] = []
        self._rests: asyncio.Event = asyncio.Event()
        self._sent: bytearray = bytearray()
        self._thread: int | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float = NEVER
        self._trap: Any = NOTHING
        """What a hook waits for."""
        super().__init__(server, clock, facts)
        self.task: asyncio.Task[None] = server.loop.create_task(self._serve())
        self.task.add_done_callback(_look_at)

    @property
    def closed(self) -> bool:
        """The connection has ended."""
        return self.waits is PARTED

    def settle(self, call: Callable[..., None] | None = None, *args: Any) -> bytes:
        """Have this called, let the server go on until it rests, and return what it has sent."""
        sent = self.server.loop.run_until_complete(self.settled(call, *args))
        if self.task.done():
            self.task.result()  # a fault of ours is not to be kept
        return sent

    async def settled(self, call: Callable[..., None] | None = None, *args: Any) -> bytes:
        """The same within the event loop."""
        if not self.task.done():
            if call is not None:
                self._rests.clear()
                self._do(partial(call, *args))
            await self._rests.wait()
        sent, self._sent = bytes(self._sent), bytearray()
        return sent

    # --- running ------------------------------------------------------------------------------------

    def go_on(self) -> None:
        """Run until something is awaited, and see whether it is the client."""
        super().go_on()
        if self.running:
            return
        if isinstance(self.asked, NeedsTLS | NeedsStartTLS):  # the handshake is done
            self.tls_established(TLS)
            super().go_on()
        self._limit(self.hook_ends if self._hook_works() else NEVER)
        if self.hook is None if self.closed else self.waits is not Wait.HOOK:
            self._rests.set()

    async def _serve(self) -> None:
        try:
            self.go_on()
            while self in self.server.peers:
                try:
                    if self._calls:
                        self._calls.pop(0)()
                    elif self._trap is NOTHING:
                        self._awaited = self.server.loop.create_future()
                        await self._awaited
                    else:
                        await self._await_hook()
                except asyncio.CancelledError as error:
                    self._cancelled(error)
                except GeneratorExit:  # passed on to the hook, but Python raises it in all that await it
                    if not self.server.loop.is_running():
                        raise
        finally:
            if self in self.server.peers:
                self.end()
            self._rests.set()

    def _do(self, call: Callable[[], None]) -> None:
        """In the task, where hooks run; while that awaits a hook, no other can begin."""
        if self._awaited is None:
            call()
        else:
            self._calls.append(call)
            self._wake()

    @coroutine
    def _await_hook(self) -> Generator[Any, Any, None]:
        trap, self._trap, self._awaited = self._trap, NOTHING, None
        try:
            value = yield trap
        except BaseException as error:  # passed on, cancellation above all
            if isinstance(error, GeneratorExit) and not self.server.loop.is_running():  # that has gone
                if self.hook is not None:
                    self.hook.close()
                raise
            self.resume(error=error)
        else:
            self.resume(value)

    def suspend(self, trap: Any) -> None:
        """The task awaits it."""
        self._trap = trap
        self._wake()

    def _wake(self) -> None:
        if self._awaited is not None and not self._awaited.done():
            self._awaited.set_result(None)

    def poke(self) -> None:
        """In the event loop, when it runs again."""
        self.server.loop.call_soon_threadsafe(self._do, self.go_on)

    def finished(self) -> None:
        """The task may end."""
        self._limit(NEVER)
        self._wake()

    # --- cancellation -------------------------------------------------------------------------------

    def _cancelled(self, error: asyncio.CancelledError) -> None:
        """While no hook was awaited, or before what one waits for could be."""
        trap, self._trap = self._trap, NOTHING
        if asyncio.isfuture(trap) and trap.cancel():
            self._trap = trap  # as a task does: whoever it belongs to learns of it, and then the hook
        elif self.hook is not None:
            self.resume(error=error)
        elif self.task.cancelling():  # else it was ours, for a hook that has ended since
            self.lose()

    def cancel_hook(self) -> None:
        """The hook runs in the connection's own task, or in a thread that must not go on for ever."""
        self.task.cancel()
        if self._thread is not None:
            raise_in_thread(self._thread, SystemExit)

    def hook_ended(self, error: BaseException | None) -> bool:  # noqa: ARG002 - the driver's signature
        """Whoever has cancelled the task meant the hook."""
        while self.task.cancelling():
            self.task.uncancel()
        return False

    def own_step(self) -> bool:
        """In the connection's own task."""
        return asyncio.current_task(self.server.loop) is self.task

    # --- the socket that is not there, and time -----------------------------------------------------

    def send(self, octets: bytes) -> None:
        """The client takes everything at once."""
        self._sent += octets

    def end_output(self) -> None:
        """The client hears the last reply and goes: it need not be waited for."""
        self.inbox.append(b"")
        self.noted = True

    def drop(self) -> None:
        """There is nothing to be closed."""

    def alarm(self, when: float) -> None:
        """`MemoryConnection.wait` looks at `rings`."""

    def _limit(self, when: float) -> None:
        """The client's time passes in `MemoryConnection.wait`, that of hooks is everybody's."""
        if when == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = None, when
        if when != NEVER:
            self._timer = self.server.loop.call_later(when - self.clock(), self._rang, when)

    def _rang(self, when: float) -> None:
        self._timer, self._timer_at = None, NEVER
        self.server.now = max(self.server.now, when - START)
        self._do(self.expired)

    # --- threads, and others that read for the hook -------------------------------------------------

    async def apart(self, call: Callable[[], Any]) -> Any:
        """In a thread of its own, that keeps no program from ending."""
        loop = self.server.loop
        done: asyncio.Future[Any] = loop.create_future()
        context = contextvars.copy_context()

        def run() -> None:
            try:
                settle = partial(_settle, done, done.set_result, context.run(call))
            except BaseException as error:  # noqa: BLE001 - raised where the hook was called
                settle = partial(_settle, done, done.set_exception, error)
            with contextlib.suppress(RuntimeError):  # the server was closed long ago
                loop.call_soon_threadsafe(settle)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self._thread = thread.ident
        try:
            return await done
        finally:
            self._thread = None

    def read_plainly(self, stream: Stream) -> bytes:
        """The loop reads, the thread waits."""
        box: Future[bytes] = Future()
        self.server.loop.call_soon_threadsafe(self._read_for, stream, box)
        return box.result()

    def _read_for(self, stream: Stream, box: Future[bytes], begun: bool = False) -> None:  # noqa: FBT001, FBT002
        try:
            if not begun:
                self.begin_read(stream)
            try:
                piece = self.try_read(stream)
            except BaseException:
                self.end_read(stream)
                raise
        except Exception as error:  # noqa: BLE001 - for the thread
            box.set_exception(error)
            return
        if piece is None:
            stream.reader = partial(self._read_for, stream, box, begun=True)
        else:
            self.end_read(stream)
            box.set_result(piece)


MemoryServer.driver = ServingPeer


class _PlainChannel:
    """What stands for a TlsChannel."""

    closed: Final = False
    pending: Final = 0

    def __init__(self) -> None:
        self.ended: bool = False
        self._incoming: bytes = b""
        self._outgoing: bytes = b""

    @property
    def ssl_object(self) -> ssl.SSLObject:
        return _finished_handshake()

    def receive(self, raw: bytes) -> None:
        self._incoming += raw

    def receive_eof(self) -> None:
        self.ended = True

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


def _settle(future: asyncio.Future[Any], settle: Callable[[Any], None], outcome: Any) -> None:
    if not future.done():
        settle(outcome)


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
