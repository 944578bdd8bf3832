# Whatever comes from outside, and when, and whatever a hook returns, raises or fails to do: the connection
# ends, nobody waits for what will not come, no message is said to be accepted that was not, no hook sees
# another transaction than its own, no exception's text and no password is shown, nothing goes in clear once
# TLS is up and nothing at all after the end, and what waits to be read has a bound.
#
# The runtime is made of the input: server (1), sizes of pieces (2), what comes from outside (16), what hooks
# do (16), and what the client sends. A thread is a greenlet, so that it stands still anywhere.

from __future__ import annotations

import re
from types import coroutine
from typing import TYPE_CHECKING, Any, Final, cast

from fuzz.applications import CONTEXTS, LOGGED, MOST_READS, SAID_BY_HOOK, Cancelled, Server, servers
from fuzz.markers import decrypted
from fuzz.playing import note
from smtpproto import Accept, NeedsStartTLS, NeedsTLS
from smtpproto_server.adapting import NEVER, PARTED, Driver, Wait

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence

    from smtpproto_server import Stream
    from smtpproto_server.adapting import MessageStream

__all__ = ["HEADER", "LARGE", "OUTSIDES", "PLAIN", "RECEIVE", "SERVERS", "target"]

HEADER: Final = 35
SECRETS: Final = ("secret-word", "c2VjcmV0LXdvcmQ", "AHUAc2VjcmV0LXdvcmQ")  # as such, and in base64
MOST_STEPS: Final = 3000  # of a connection whose input is some hundred octets
MAX_PIECES: Final = 24
MAX_PIECE: Final = 40 * 1024
PATIENCE: Final = 4  # steps of the connection to one of a thread that it has given up
LARGE: Final = 255  # in the place of a size
STRETCH: Final = re.compile(rb"(?s)\xfe(.)")  # many lines, without an input as long
SERVERS: Final = servers()
PLAIN: Final = (0, 11, 15, 19, 30)
"""Where two deliveries are in order: coroutine hooks, the same without limits, threads, no coroutines."""


def target(data: bytes) -> None:
    """One connection from its beginning to its end."""
    if len(data) >= HEADER:
        Script(SERVERS[data[0] % len(SERVERS)], data).run()


@coroutine
def _trap(what: object) -> Generator[Any, Any, Any]:
    return (yield what)


PAUSE: Final = object()


class Task:
    """A thread, or another task of a hook's: something that goes on a step at a time."""

    def __init__(self, step: Callable[[Any], Any]) -> None:
        self._step = step
        self.done = False
        self.value: Any = None
        self.error: BaseException | None = None

    def go_on(self) -> None:
        """One step more."""
        try:
            self.done, self.value = self._step(None)
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            self.done, self.error = True, error


def _thread(call: Callable[[], Any]) -> Task:
    from greenlet import getcurrent, greenlet  # noqa: PLC0415 - the other targets do without

    run = greenlet(call)

    def step(_: Any) -> tuple[bool, Any]:
        run.parent = getcurrent()
        value = run.switch()
        return run.dead, value

    return Task(step)


def _child(running: Coroutine[Any, Any, Any]) -> Task:
    def step(_: Any) -> tuple[bool, Any]:
        try:
            running.send(None)
        except StopIteration as stop:
            return True, stop.value
        return False, None

    return Task(step)


class Fake(Driver):
    """A connection whose runtime does what a script says."""

    __slots__ = (
        "cancel_due", "claimed", "ended", "message", "over_", "parted", "poked", "rcpts", "script",
        "short", "struck", "task", "trap", "when",
    )  # fmt: skip

    def __init__(
        self, server: Server, _sock: None, clock: Callable[[], float], facts: Mapping[str, Any]
    ) -> None:
        self.script: Script = cast("Script", Server.play)
        self.cancel_due: bool = False
        self.claimed: bool = False
        self.ended: bool = False
        self.message: Any = None
        self.over_: int = 0
        self.parted: bool = False
        self.poked: bool = False
        self.rcpts: int = 0
        self.short: bool = False
        self.struck: bool = False  # somebody else has cancelled the connection
        self.task: Task | None = None  # of a runtime without coroutines
        self.trap: Any = None
        self.when: float = NEVER
        super().__init__(server, clock, facts)

    # --- octets -------------------------------------------------------------------------------------

    def send(self, octets: bytes) -> None:
        self.script.insist(not (self.parted or self.ended), "sent after the end")
        self.script.insist(not self.lost, "sent to nobody")
        self.script.take(octets)
        self.full = self.short
        self.short = False

    def end_output(self) -> None:
        self.script.insist(not (self.parted or self.ended or self.full), "ended twice, or too soon")
        self.ended = True

    def drop(self) -> None:
        self.script.insist(not self.parted, "closed twice")
        self.parted = True

    def octets_wait(self) -> bool:
        return self.script.octets_wait()

    def alarm(self, when: float) -> None:
        self.when = when

    def poke(self) -> None:
        self.poked = True

    def finished(self) -> None:
        self.over_ += 1

    # --- hooks --------------------------------------------------------------------------------------

    def suspend(self, trap: Any) -> None:
        self.script.insist(self.trap is None, "a hook waits for two things")
        self.trap = trap

    def apart(self, call: Callable[[], Any]) -> Any:
        task = _thread(call)
        self.script.threads.append(task)
        if self.server.coroutines:
            return self._await(task)
        self.task = task
        self.script.calls[id(task)] = call
        return None

    async def _await(self, task: Task) -> Any:
        await _trap(task)
        if task.error is not None:
            raise task.error
        return task.value

    def cancel_hook(self) -> None:
        self.script.insist(self.hook is not None, "cancelled nobody")
        self.script.insist(not self.claimed or self.given_up != "timeout", "a store was given up")
        self.cancel_due = True

    def claim(self, stream: MessageStream) -> bool:
        claimed = super().claim(stream)
        self.script.insist(not (claimed and self.given_up), "a hook that was given up may store")
        self.claimed = self.claimed or claimed
        return claimed

    def hook_ended(self, error: BaseException | None) -> bool:
        foreign, self.struck = self.struck, False
        return foreign and isinstance(error, Cancelled)

    def message_begun(self, message: Any) -> bool:
        self.message, self.claimed = message, False
        self.rcpts = len(self.session.envelope.rcpt_to) if self.session.lmtp else 1
        return super().message_begun(message)

    def _done(self, value: Any = None, error: BaseException | None = None) -> None:
        if self.hook_name == "on_data" and error is None and not self.cancel_due:
            self.script.verdicts.append((self.message, self.stream, value, self.rcpts))
        self.cancel_due = self.claimed = False
        super()._done(value, error)

    # --- others that read ---------------------------------------------------------------------------

    async def read_elsewhere(self, stream: MessageStream) -> bytes:
        self.begin_read(stream)
        try:
            while (piece := self.try_read(stream)) is None:
                stream.reader = _nothing
                await _trap(PAUSE)
        finally:
            self.end_read(stream)
        return piece

    def read_plainly(self, stream: Stream) -> bytes:
        self.begin_read(stream)
        try:
            while (piece := self.try_read(stream)) is None:
                stream.reader = _nothing
                self.script.park()
        finally:
            self.end_read(stream)
        return piece


def _nothing() -> None:
    """A reader looks again at each step."""


Server.driver = Fake


class Script:
    """The runtime's side of a connection, as the input says."""

    def __init__(self, server: Server, data: bytes) -> None:
        self.server = server
        self.now = 1.0
        self.steps = 0
        self.outsides = _nibbles(data[3:19])
        self.choices = _nibbles(data[19:HEADER])
        octets = STRETCH.sub(lambda match: b"NOOP\r\n" * match[1][0], data[HEADER:])
        self.pieces = _pieces(octets, data[1], MAX_PIECE if data[2] == LARGE else 1 + data[2] % 64)
        self.next_piece = next(self.pieces, b"")
        self.said_all = False
        self.sent: list[bytes] = []
        self.threads: list[Task] = []
        self.calls: dict[int, Any] = {}
        self.verdicts: list[tuple[Any, Any, Any, int]] = []
        self.broken: list[str] = []
        self.ours: list[BaseException] = []
        self.driver: Any = None
        CONTEXTS.last = None
        Server.play = self

    # --- the hooks' side ----------------------------------------------------------------------------

    def insist(self, holds: object, text: str) -> None:
        if not holds:
            self.broken.append(text)

    def choose(self) -> tuple[int, int]:
        return next(self.choices), next(self.choices)

    def park(self) -> None:
        from greenlet import getcurrent  # noqa: PLC0415

        parent = getcurrent().parent
        assert parent is not None
        parent.switch()

    async def pause(self) -> None:
        await _trap(PAUSE)

    async def read_by_child(self, stream: Any) -> bytes:
        reads = stream.read(9)
        child = _child(reads)
        try:
            await _trap(child)
        finally:
            reads.close()
        if child.error is not None:
            raise child.error
        return cast("bytes", child.value)

    def octets_wait(self) -> bool:
        """Whether this client talks before it is greeted."""
        return bool(self.next_piece) and not self.said_all and next(self.outsides) in _TALKS

    # --- running ------------------------------------------------------------------------------------

    def run(self) -> None:
        LOGGED.clear()
        self.server.forget()
        driver = self.driver = self.server.begin(
            None, ("192.0.2.25", 25), ("192.0.2.1", 4321), lambda: self.now
        )
        driver.go_on()
        for _ in range(MOST_STEPS):
            if driver.over_:
                break
            self._look()
            if driver.poked:
                driver.poked = False
                driver.go_on()
            elif not self.outside():
                self._go_on()
        assert driver.over_, f"no end: {driver.waits}"
        self._look()
        for _ in range(MOST_READS):
            for task in self.threads:
                if not task.done:
                    task.go_on()
        self._insist_on_the_end()

    def _look(self) -> None:
        """What holds while nothing is on the stack."""
        driver = self.driver
        assert not self.broken, self.broken
        assert not driver.running, "it thinks that something runs"
        waiting = sum(map(len, driver.inbox)) + len(driver.buffer)
        assert waiting <= driver.high_water + MAX_PIECE, f"{waiting} octets wait"
        if driver.over_ or driver.poked:
            return
        waits, options = driver.waits, self.server.options
        works = driver._hook_works()
        if works or driver.hook is not None:
            return
        assert waits is not Wait.HOOK, "it waits for a hook that is none"
        assert waits is not PARTED, "it waits for nobody"
        assert not (waits is Wait.CLIENT and driver.held), "it waits for the client, and does not read"
        assert driver.when < NEVER or not options.socket_timeout, "it waits without a limit"
        # In a TLS handshake the client is waited for all the same.
        assert not driver.full or waits in _WITH_ROOM or type(driver.asked) in _HANDSHAKES, (
            "no room, and no wait"
        )

    def outside(self) -> bool:
        """What the input has come from outside now; False if nothing."""
        act = OUTSIDES.get(next(self.outsides))
        return act is not None and act(self) is not False

    def _receive(self) -> bool:
        driver = self.driver
        if driver.held or self.said_all or driver.parted or driver.lost:
            return False
        piece, self.next_piece = self.next_piece, next(self.pieces, b"")
        self.said_all = not piece
        driver.received(piece)
        return True

    def _end_input(self) -> bool:
        self.next_piece, self.pieces = b"", _pieces(b"", 0, 1)
        return self._receive()

    def _lose(self) -> bool:
        if self.driver.parted:
            return False
        error = OSError("the network")
        self.ours.append(error)
        self.driver.lose(error)
        return True

    def _lose_quietly(self) -> bool:
        if self.driver.parted:
            return False
        self.driver.lose()
        return True

    def _later(self) -> bool:
        if self.driver.when == NEVER or self.driver.running:
            return False
        for _ in range(2):  # an alarm may come early, and then looks again
            if self.driver.when < NEVER:
                self.now, self.driver.when = max(self.now, self.driver.when), NEVER
                self.driver.expired()
                assert self.driver.when > self.now, "its alarm rings without end"
        return True

    def _too_early(self) -> bool:
        self.driver.expired()
        return True

    def _fill(self) -> bool:
        self.driver.short = True
        return False

    def _go_on(self) -> None:
        """What comes next where nothing special does."""
        driver = self.driver
        self.now += 0.25
        self.steps += 1
        for task in self.threads if self.steps % PATIENCE == 0 else ():
            if not task.done and task is not self._awaited_thread():
                task.go_on()
        if driver.full and not driver.parted:
            driver.room()
        elif driver.cancel_due and self._cancel():
            pass
        elif self._hook_can_go_on():
            self._step_hook()
        elif not self._receive():
            assert self._later(), f"nothing comes of {driver.waits}"

    def _cancel_from_outside(self) -> bool:
        """Somebody cancels the connection, while a hook waits in it."""
        if self.driver.running or self.driver.hook is None:
            return False
        self.driver.struck = True
        if self._cancel():
            return True
        self.driver.struck = False
        return False

    def _awaited_thread(self) -> Any:
        driver = self.driver
        return driver.trap if isinstance(driver.trap, Task) else driver.task

    def _hook_can_go_on(self) -> bool:
        """It waits for the runtime; or somebody reads for it, and the piece is there."""
        driver = self.driver
        if driver.trap is not None or (driver.task is not None and driver._hook_works()):
            return True
        stream = driver.stream
        waits = self._awaited_thread() is not None
        return waits and (stream is None or stream.content is not None or stream.aborted is not None
                          or stream.message.complete or stream.message.has_bare_newline)  # fmt: skip

    def _cancel(self) -> bool:
        driver = self.driver
        if not self.server.coroutines or driver.hook is None:
            return False
        if driver.trap is None and not (driver.stream is not None and driver.stream.reads):
            return False
        driver.trap = None
        driver.resume(error=Cancelled())
        return True

    def _step_hook(self) -> None:
        driver = self.driver
        trap = self._awaited_thread()
        if isinstance(trap, Task):
            stream = driver.stream
            reading = stream is not None and stream.reader is not None
            trap.go_on()
            if not trap.done:
                still = driver.stream is not None and driver.stream.reader is not None
                if reading and still and not self._receive():
                    assert self._later() or driver.over_ or driver.poked, "a reader waits for nothing"
                return
            if driver.task is trap:
                driver.task = None
                driver.returned(self.calls[id(trap)], trap.value, trap.error)
                return
        driver.trap = None
        driver.resume(None)

    # --- the end ------------------------------------------------------------------------------------

    def take(self, data: bytes) -> None:
        channel = CONTEXTS.last
        code = data[:3]
        if channel is not None and channel.shaken:
            self.insist(not data or min(data) >= 0x80, f"in clear: {data!r}")  # noqa: PLR2004 # I7
            code = decrypted(data)[:3]
        if code.isdigit():
            note(int(code), len(self.verdicts))
        self.sent.append(data)

    def _insist_on_the_end(self) -> None:
        driver, server = self.driver, self.server
        assert not self.broken, self.broken
        assert driver.parted
        assert driver.over_ == 1, "it ended twice"
        assert not server.sessions
        assert not server.peers
        assert server.counts == {False: 0, True: 0}
        for error, stage in server.reported:
            assert stage != "socket" or error in self.ours, repr(error)
            assert stage != "hook" or not isinstance(error, _FAULTS), repr(error)
        self._insist_on_verdicts()
        log = "\n".join(LOGGED)
        shown = log + repr(driver.session)
        assert not any(secret in shown for secret in SECRETS), log  # I20
        clear = b"".join(self.sent)
        assert SAID_BY_HOOK.encode() not in clear  # I18
        assert SAID_BY_HOOK.encode() not in decrypted(clear)

    def _insist_on_verdicts(self) -> None:  # I9, I19
        """No more recipients were told that a message was accepted than a hook accepted it for."""
        if self.server.on_data is None:
            return
        allowed = sum(_accepted(*verdict) for verdict in self.verdicts)
        sent = b"".join(self.sent)
        said = sum(
            line.startswith((b"250 2.6.0", b"250-2.6.0")) for line in (sent + decrypted(sent)).split(b"\r\n")
        )
        assert said <= allowed, (said, allowed)


def _accepted(message: Any, stream: Any, result: Any, recipients: int) -> int:
    if (
        not message.complete
        or message.refusal is not None
        or (stream is not None and stream.aborted is not None)
    ):
        return 0
    if isinstance(result, list | tuple):
        results = cast("Sequence[Any]", result)
        return sum(isinstance(each, ACCEPTS) for each in results[:recipients])
    return recipients * isinstance(result, ACCEPTS)


_HANDSHAKES: Final = (NeedsStartTLS, NeedsTLS)
_TALKS: Final = frozenset({8, 9})
ACCEPTS: Final = (type(None), Accept, str)
_FAULTS: Final = (AssertionError, AttributeError, KeyError, IndexError, NameError)
_WITH_ROOM: Final = frozenset({Wait.ROOM, Wait.LAST_REPLY, PARTED, Wait.LINGER})

RECEIVE: Final = 8
OUTSIDES: Final[Mapping[int, Callable[[Script], bool | None]]] = {
    4: Script._cancel_from_outside,
    5: Script._too_early,
    6: Script._later,
    7: Script._fill,
    RECEIVE: Script._receive,
    9: Script._end_input,
    10: Script._lose,
    11: Script._lose_quietly,
    12: lambda script: script.driver.stop(),
    13: lambda script: script.driver.stop(now=True),
    14: lambda script: script.driver.abort(),
    15: lambda script: script.driver.room() if script.driver.full else False,
}


def _nibbles(octets: bytes) -> Generator[int]:
    for octet in octets:
        yield octet & 15
        yield octet >> 4
    while True:
        yield 0


def _pieces(octets: bytes, first: int, size: int) -> Generator[bytes]:
    at = first
    if octets[:first]:
        yield octets[:first]
    for _ in range(MAX_PIECES):
        if at >= len(octets):
            return
        yield octets[at : at + size]
        at += size
    for rest in range(at, len(octets), MAX_PIECE):
        yield octets[rest : rest + MAX_PIECE]
