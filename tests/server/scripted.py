# A runtime that is a script: the test says which octets come, what time it is and what hooks do.
#
# The clock stands still unless a test moves it. What the runtime is asked to do is only written down.

from __future__ import annotations

import ssl
from types import coroutine
from typing import TYPE_CHECKING, Any, ClassVar, Final

import pytest
import trustme

from smtpproto_server import Options
from smtpproto_server._tls import TLS_OPTION_NAMES
from smtpproto_server.adapting import NEVER, Driver, ServerCore, TlsContexts

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from smtpproto_server import Stream
    from smtpproto_server.adapting import MessageStream

__all__ = [
    "BROKEN", "DATA", "DOWN", "GO_ON", "GREETING", "PULL", "QUEUED", "TIMEOUT", "TLS", "TOO_SOON",
    "UNCODED_DOWN", "UNCODED_TIMEOUT", "Asked", "Cancelled", "Play", "Scripted", "ScriptedServer",
    "TlsClient", "hook", "waiting",
]  # fmt: skip

AUTHORITY: Final = trustme.CA(key_type=trustme.KeyType.ECDSA)
LEAF: Final = AUTHORITY.issue_cert("mx.test", key_type=trustme.KeyType.ECDSA)
TLS: Final[dict[str, Any]] = {
    "cert": b"".join(pem.bytes() for pem in LEAF.cert_chain_pems),
    "key": LEAF.private_key_pem.bytes(),
}
BEGIN: Final = 1000.0  # seconds: where the clock stands when a connection begins

GREETING = b"220 mx.test ESMTP\r\n"
TIMEOUT = b"421 4.4.2 Timeout - closing connection\r\n"
UNCODED_TIMEOUT = b"421 Timeout - closing connection\r\n"
DOWN = b"421 4.3.2 Server shutting down\r\n"
UNCODED_DOWN = b"421 Server shutting down\r\n"
GO_ON = b"354 End data with <CR><LF>.<CR><LF>\r\n"
QUEUED = b"250 2.6.0 OK: message queued\r\n"
BROKEN = b"451 4.3.0 Error: internal error, please try again later\r\n"
DATA = b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\nDATA\r\n"
TOO_SOON = b"421 mx.test You talk too soon\r\n"

PULL: Final = object()
"""What a hook that waits is told if it is to read the next piece of its message."""


class Cancelled(BaseException):
    """What the runtime raises in a hook that was given up."""


class Asked:
    """What a hook waits for: that the test says what it does."""

    def __init__(self, args: tuple[Any, ...], call: Callable[[], Any] | None = None) -> None:
        self.args: tuple[Any, ...] = args
        self.call: Callable[[], Any] | None = call
        """The plain hook that is to be called in a thread."""
        self.pieces: list[bytes] = []
        """Of the message, as they were read."""


@coroutine
def waiting(what: Any) -> Generator[Any, Any, Any]:
    """Wait for what the test says."""
    return (yield what)


async def hook(*args: Any) -> Any:
    """A hook that waits; it reads when it is told to, and returns what it is given."""
    asked = Asked(args)
    while (given := await waiting(asked)) is PULL:
        asked.pieces.append(await args[0].read(1 << 20))
    return given


class Scripted(Driver):
    """A connection whose runtime is a script."""

    def __init__(
        self, server: Any, _sock: object, clock: Callable[[], float], facts: Mapping[str, Any]
    ) -> None:
        self.wire: bytes = b""
        """What was sent and not looked at yet."""
        self.sends: list[bytes] = []
        """Each piece that was sent."""
        self.takes: bool = True
        """Whether the client takes what is sent."""
        self.rings_at: float = NEVER
        """When the alarm rings."""
        self.waiting_octets: bool = False
        """What `octets_wait` is to say."""
        self.trap: Any = None
        """What a coroutine hook waits for."""
        self.due_call: Callable[[], Any] | None = None
        """The plain hook that is to be called on an empty stack."""
        self.to_come: list[bytes | Callable[[], object]] = []
        """What comes, or happens, while a plain hook waits for its message."""
        self.waits_elsewhere: Callable[[], None] | None = None
        """In place of `to_come`: wait on another stack until something has come."""
        self.did: list[str] = []
        """What the runtime was asked to do."""
        self.pokes: int = 0
        self.cancels: int = 0
        super().__init__(server, clock, facts)

    def send(self, octets: bytes) -> None:
        assert "drop" not in self.did
        self.sends.append(octets)
        self.wire += octets
        if not self.takes:
            self.full = True

    def hold(self) -> None:
        self.did.append("hold")

    def read_on(self) -> None:
        self.did.append("read_on")

    def octets_wait(self) -> bool:
        self.did.append("octets_wait")
        return self.waiting_octets

    def end_output(self) -> None:
        self.did.append("end_output")

    def drop(self) -> None:
        self.did.append("drop")

    def finished(self) -> None:
        self.did.append("finished")

    def alarm(self, when: float) -> None:
        assert when < self.rings_at
        self.rings_at = when

    def ring(self) -> None:
        self.rings_at = NEVER
        self.expired()

    def poke(self) -> None:
        self.pokes += 1

    def suspend(self, trap: Any) -> None:
        assert self.trap is None
        self.trap = trap

    def apart(self, call: Callable[[], Any]) -> Any:
        if self.server.coroutines:
            return waiting(Asked((), call))
        self.in_thread = True
        self.flush_due()
        self.due_call = call
        return None

    def cancel_hook(self) -> None:
        if self.server.coroutines:
            self.cancels += 1
        else:  # a hook that is called keeps its thread; the connection goes on without it
            self.due_call = None
            self._done()

    async def read_elsewhere(self, stream: MessageStream) -> bytes:
        self.begin_read(stream)
        try:
            while (piece := self.try_read(stream)) is None:
                stream.reader = _woken
                self.come()
        finally:
            self.end_read(stream)
        return piece

    def read_plainly(self, stream: Stream) -> bytes:
        self.begin_read(stream)
        try:
            while (piece := self.try_read(stream)) is None:
                stream.reader = _woken
                self.come()
        finally:
            self.end_read(stream)
        return piece

    def come(self) -> None:
        """The next of what comes; the script must not end before its reader has what it wants."""
        if self.waits_elsewhere is not None:
            self.waits_elsewhere()
            return
        assert self.to_come, "a reader waits, and nothing is to come"
        what = self.to_come.pop(0)
        if isinstance(what, bytes):
            self.received(what)
        else:
            what()


def _woken() -> None:
    """A reader is called when its piece may be there."""


class ScriptedServer(ServerCore):
    driver: type[Driver] = Scripted


class PlayedServer(ScriptedServer):
    built: ClassVar[dict[str, TlsContexts]] = {}

    def _build_contexts(self) -> TlsContexts:
        """Those that were built for the same options: a test has hundreds of servers."""
        key = repr([getattr(self.options, name) for name in (*TLS_OPTION_NAMES, "name", "tls_upstream")])
        if key not in self.built:
            self.built[key] = super()._build_contexts()
        return self.built[key]


class ThreadLike(PlayedServer):
    """Of a runtime that has no coroutines."""

    coroutines: ClassVar[bool] = False


class Play:
    """A connection, played by hand."""

    def __init__(
        self,
        *,
        greeted: bool = True,
        coroutines: bool = True,
        begins: bool = True,
        tls: bool = True,
        peer: tuple[str, int] = ("192.0.2.1", 4321),
        **options: Any,
    ) -> None:
        options.setdefault("name", "mx.test")
        options.setdefault("auth_optional", True)
        options.setdefault("disable_reverse_lookup", True)
        options.setdefault("hide_enhancedstatuscodes", False)
        self.now: float = BEGIN
        self.server: ScriptedServer = (PlayedServer if coroutines else ThreadLike)(
            Options(**{**(TLS if tls else {}), **options})
        )
        self.errors: list[tuple[BaseException, dict[str, Any]]] = []
        self.connects: list[dict[str, Any]] = []
        self.server.on("error", self.note_error)
        self.server.on("connect", self.connects.append)
        self.client: TlsClient | None = None
        self.driver: Scripted = self.server.begin(None, ("192.0.2.25", 25), peer, lambda: self.now)
        if begins:
            self.driver.go_on()
        if greeted:
            assert self.sent() == GREETING
            self.say(b"EHLO client.test\r\n")

    def note_error(self, error: BaseException, info: dict[str, Any]) -> None:
        self.errors.append((error, info))

    # --- the runtime ------------------------------------------------------------------------------

    def settle(self) -> bytes:
        """Do what the runtime was asked to do soon; what was sent since the last look."""
        driver = self.driver
        for _ in range(100):
            if driver.pokes:
                driver.pokes = 0
                driver.go_on()
            elif driver.cancels and driver.hook is not None:
                driver.cancels, driver.trap = 0, None
                driver.resume(error=Cancelled())
            else:
                driver.cancels = 0
                return self.sent()
        raise AssertionError("the connection does not settle")

    def receive(self, data: bytes, after: float = 0.0) -> bytes:
        """Octets of the client come; what is sent then."""
        self.now += after
        self.driver.received(data)
        return self.settle()

    def say(self, data: bytes, after: float = 0.0) -> bytes:
        """The client says something, under TLS where it has begun; what it is answered."""
        return self.receive(data if self.client is None else self.client.write(data), after)

    def lose(self, error: BaseException | None = None) -> bytes:
        """The connection is lost."""
        self.driver.lose(error)
        return self.settle()

    def stop(self, *, now: bool = False) -> bytes:
        """The server stops."""
        self.driver.stop(now=now)
        return self.settle()

    def abort(self) -> bytes:
        """The server drops the connection."""
        self.driver.abort()
        return self.settle()

    def room(self) -> bytes:
        """The client has taken all that was sent."""
        self.driver.room()
        return self.settle()

    @property
    def due(self) -> float | None:
        """When something runs out, in seconds since the beginning; the alarm rings then or earlier."""
        driver = self.driver
        _, when = driver._waits[driver.waits].due(driver)
        assert driver.rings_at <= when
        return None if when == NEVER else when - BEGIN

    def run_out(self) -> bytes:
        """Nothing comes until something runs out; what is sent then."""
        assert self.due is not None
        return self.tick(max(0.0, self.due + BEGIN - self.now))

    def tick(self, seconds: float) -> bytes:
        """So much time passes; what is sent meanwhile."""
        driver, end = self.driver, self.now + seconds
        said = b""
        for _ in range(1000):
            if driver.rings_at > end:
                self.now = end
                return said
            self.now = max(self.now, driver.rings_at)
            driver.ring()
            said += self.settle()
        raise AssertionError("the alarm rings for ever")

    # --- hooks ------------------------------------------------------------------------------------

    def asks(self, name: str) -> Asked:
        """The hook of this name waits for what the test says."""
        assert self.driver.hook is not None
        assert self.driver.hook_name == name
        assert isinstance(self.driver.trap, Asked), self.driver.trap
        return self.driver.trap

    def answer(self, value: Any = None, error: BaseException | None = None) -> bytes:
        """The hook that waits returns this, raises it, or reads (PULL)."""
        driver = self.driver
        assert isinstance(driver.trap, Asked), driver.trap
        driver.trap = None
        driver.resume(value, error)
        return self.settle()

    def call(self) -> bytes:
        """The plain hook that is due is called, in a thread or on an empty stack."""
        driver, value, error = self.driver, None, None
        apart = driver.due_call is None
        call = self.driver.trap.call if apart else driver.due_call
        driver.due_call = None
        assert call is not None
        try:
            value = call()
        except Exception as raised:  # noqa: BLE001 - the driver is to be shown it
            error = raised
        if apart:
            return self.answer(value, error)
        driver.returned(call, value, error)
        return self.settle()

    def stream(self) -> MessageStream:
        """The message that on_data reads."""
        assert self.driver.stream is not None
        return self.driver.stream

    # --- what came of it --------------------------------------------------------------------------

    def sent(self) -> bytes:
        """What was sent since the last look, decrypted."""
        wire, self.driver.wire = self.driver.wire, b""
        return wire if self.client is None else self.client.read(wire)

    def ends(self, *, lingers: bool = False) -> None:
        """The connection is closed, in the way said, and nothing is left of it."""
        driver = self.driver
        if lingers:
            assert "drop" not in driver.did
            assert driver.did.count("end_output") == 1
            self.receive(b"")
        assert driver.did.count("drop") == 1
        assert driver.did[-1] == "finished"
        assert driver.hook is None
        assert not self.server.peers
        assert not self.server.sessions
        assert self.server.counts[False] == self.server.counts[True] == 0

    def error(self) -> tuple[BaseException, str]:
        """The one error that was reported, and its stage."""
        assert len(self.errors) == 1
        error, info = self.errors[0]
        assert info["session"] is self.driver.session
        return error, info["stage"]

    def tls(self) -> bytes:
        """Do the client's part of a handshake; what is sent then."""
        self.client = client = TlsClient()
        octets = client.shake(b"")
        while not client.done:
            self.driver.received(octets)
            wire, self.driver.wire = self.driver.wire, b""
            octets = client.shake(wire)
        return self.receive(octets)


class TlsClient:
    """A client's TLS, without I/O."""

    def __init__(self) -> None:
        context = ssl.create_default_context()
        context.load_verify_locations(cadata=AUTHORITY.cert_pem.bytes().decode())
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="mx.test")
        self.done = False

    def shake(self, data: bytes) -> bytes:
        """Take octets of the handshake; what goes back."""
        self.incoming.write(data)
        try:
            self.tls.do_handshake()
            self.done = True
        except ssl.SSLWantReadError:
            pass
        return self.outgoing.read()

    def write(self, data: bytes) -> bytes:
        """Encrypt."""
        if data:
            self.tls.write(data)
        return self.outgoing.read()

    def read(self, data: bytes) -> bytes:
        """Decrypt."""
        self.incoming.write(data)
        plain = b""
        try:
            while more := self.tls.read(65536):
                plain += more
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass
        return plain

    def close(self) -> bytes:
        """Say goodbye."""
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.unwrap()
        return self.outgoing.read()
