# One session at somebody's hooks, and what can be wrong with them.
#
# The server is the real one, so what is found here is the hooks' doing. A session is played in three
# cuts, each upon a new handler if one can be made, and once again upon the handler that knows it.

from __future__ import annotations

import contextlib
import itertools
import logging
import re
import threading
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Self

from smtpproto import ACCEPT, Reject
from smtpproto.testing._conversation import octets, split_replies
from smtpproto.testing._loop import MemoryServer, ServingPeer, raise_in_thread
from smtpproto_server import Options, StreamAborted
from smtpproto_server.adapting import HOOKS, OPTIONAL_HOOKS, Driver

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterator, Sequence

    from smtpproto import Accept, IncomingMessage, Session
    from smtpproto.extending import Pending
    from smtpproto_server.adapting import MessageStream

    Check = Callable[["Visit"], Any]
    Cut = Callable[[bytes], list[bytes]]
    Said = Sequence[str | bytes]

__all__ = ["FAULTS", "Fault", "Mail", "Trial", "Visit"]

FAULTS: Final = {
    "raises": "a hook raised what is no Reject",
    "nonsense": "a hook returned what its place has no meaning for",
    "hangs": "a hook did not come back",
    "unread": "a message was accepted of which on_data had not read everything",
    "secret": "a reply tells a password",
    "check": "your check failed",
    "memory": "the same session, come again, was answered otherwise",
    "cut": "the outcome depends on how the octets were cut",
    "server": "the server itself failed",
}
"""What can be found, by the name under which it can be allowed."""

HOOK_SECONDS: Final = 2.0  # for each call of a hook, if the options have no hook_timeout
MIN_SECONDS: Final = 1.0  # till a hook goes round in circles; a hook that waits has its hook_timeout
LOOKS: Final = 10  # within that time
MAX_ENDS: Final = 100  # reads behind the end of a message before a hook is known to go round in circles
MIN_SECRET: Final = 6  # characters; a shorter one stands in many a text by chance
MAX_SHOWN: Final = 300  # characters of what a check returns
MAX_PIECES: Final = 200  # of a segment

_WELL_FORMED: Final = re.compile(r"((\d\d\d)-[^\x00-\x1f\x7f]*\n)*\d\d\d [^\x00-\x1f\x7f]*")
_CODES: Final = re.compile(r"\d\d\d(?:[ -]\d\.\d{1,3}\.\d{1,3}(?= ))?")


class Mail:
    """A message that on_data was called for."""

    def __init__(self, session: Session, message: IncomingMessage, at: int) -> None:
        envelope = session.envelope
        self.mail_from: str = str(envelope.mail_from)
        """The sender; "" is the null reverse-path."""
        self.rcpt_to: list[str] = [str(each) for each in envelope.rcpt_to]
        self.unread: int = 0
        """Octets of it that the hook left unread."""
        self.replies: list[str] = []
        """What the client was told: one reply, in LMTP one for each recipient; [] if it broke off."""
        self._message: IncomingMessage = message
        self._at: int = at
        self._content: bytearray = bytearray()

    @property
    def content(self) -> bytes:
        """What the client sent, without dot-stuffing, whether the hook has read it or not."""
        return bytes(self._content)

    @property
    def complete(self) -> bool:
        """The client has sent its end."""
        return self._message.complete

    @property
    def accepted(self) -> bool:
        """The client was told 250, for one recipient at least: the message is yours."""
        return any(reply.startswith("2") for reply in self.replies)

    def take(self, chunk: bytes, *, read: bool) -> None:
        """Octets have come, and the hook has read them or has not."""
        self._content += chunk
        self.unread += 0 if read else len(chunk)

    def find_replies(self, sent: bytes, *, lmtp: bool) -> None:
        """Take its own out of all that was sent."""
        if self.complete:
            self.replies = split_replies(sent[self._at :])[: len(self.rcpt_to) if lmtp else 1]

    def __repr__(self) -> str:
        return f"<Mail from {self.mail_from!r} to {self.rcpt_to!r}: {self.replies!r}>"


class Visit:
    """What one session came to."""

    def __init__(self, handler: Any) -> None:
        self.handler: Any = handler
        """Whose hooks were called."""
        self.mails: list[Mail] = []
        """The messages on_data was called for, in their order."""
        self.replies: list[str] = []
        """All replies, the greeting first; the lines of one are joined by LF."""
        self.seen: Any = None
        """What the check has returned."""

    @property
    def codes(self) -> list[str]:
        """The codes of the replies, the enhanced ones too, without the texts."""
        return [match[0] for match in map(_CODES.match, self.replies) if match]


class Fault(Exception):  # noqa: N818 - a word that users read
    """Something is wrong; `kind` is one of FAULTS."""

    def __init__(self, kind: str, text: str, *, hook: str = "", error: BaseException | None = None) -> None:
        super().__init__(text)
        self.kind: str = kind
        self.text: str = text
        self.hook: str = hook
        self.error: BaseException | None = error
        """What was raised in the hook or the check."""
        self.key: tuple[object, ...] = (kind, hook, type(error), _line(_frames(error)))
        """Equal for what is likely to be the same mistake."""

    @property
    def trace(self) -> str:
        """The traceback of `error`, from where the hook or the check begins; "" without one."""
        frames = _frames(self.error)
        if self.error is None or not frames:
            return ""
        lines = traceback.format_list(frames) + traceback.format_exception_only(self.error)
        return "Traceback (most recent call last):\n" + "".join(lines).rstrip()


class Trial:
    """Plays sessions to somebody's hooks; use it in `with`.

    `handler` has the hooks, or is a class or function that makes what has them. Raises TypeError if
    nobody has any, ValueError for an unknown word in `allow`.
    """

    def __init__(
        self, handler: Any, options: Options | None, check: Check | None, allow: Collection[str]
    ) -> None:
        if unknown := set(allow) - set(FAULTS):
            raise ValueError(f"nothing is called {min(unknown)!r} in allow; there are {', '.join(FAULTS)}")
        self.options: Options = options or Options(name="mx.test", auth_optional=True)
        self.makes: bool = isinstance(handler, type) or (callable(handler) and not _hooks_of(handler))
        """Every play can have a handler of its own."""
        if handler is not None and not self.makes and not _hooks_of(handler):
            raise TypeError(f"{handler!r} has no hook: none of {', '.join(_HOOKS)}")
        self._handler: Any = handler
        self._check: Check | None = check
        self._allow: Collection[str] = allow
        self._watchdog: Watchdog = Watchdog(2 * (self.options.hook_timeout or HOOK_SECONDS))
        self._shared: _Server | None = None

    def play(self, *said: str | bytes) -> None:
        """Play one session, each segment when everything before it was answered; raises Fault."""
        with self._server() as server:
            first = self._visit(server, _whole, said)
            self._ask_check(first)
            if self.makes:  # first with new handlers, as this one remembers
                self._cut_otherwise(first, said)
            if "memory" not in self._allow:
                _compare("memory", "come again", first, self._visit(server, _whole, said))
            if not self.makes and "memory" not in self._allow:
                self._cut_otherwise(first, said)

    def _cut_otherwise(self, first: Visit, said: Said) -> None:
        if "cut" in self._allow:
            return
        for how, cut in _CUTS.items():
            if any(len(cut(each)) > 1 for each in said if isinstance(each, bytes)):
                with self._server() as server:
                    other = self._visit(server, cut, said)
                    self._ask_check(other)
                    _compare("cut", how, first, other, seen=self.makes)

    def _visit(self, server: _Server, cut: Cut, said: Said) -> Visit:
        visit = Visit(server.options.handler)
        try:
            sent = server.play(visit, itertools.chain.from_iterable(_pieces(each, cut) for each in said))
        except Hangs as error:
            self._watchdog.end()
            if self._shared is not None:  # it was interrupted somewhere
                self._shared.close()
                self._shared = None
            server.faults = [Fault("hangs", "a hook did not come back", error=error)]
            sent = b""
        visit.replies = split_replies(sent)
        for mail in visit.mails:
            mail.find_replies(sent, lmtp=self.options.lmtp)
        for fault in (*server.faults, *_found(visit, server.secrets)):
            if fault.kind not in self._allow:
                raise fault
        return visit

    def _ask_check(self, visit: Visit) -> None:
        if self._check is None:
            return
        try:
            visit.seen = self._check(visit)
        except Exception as error:  # noqa: BLE001 - whatever it raises is what it says
            if "check" not in self._allow:
                lines = [frame.line or "" for frame in _frames(error)[-1:]]
                raise Fault(
                    "check", ": ".join(["the check failed", *lines, _said(error)]), error=error
                ) from None

    @contextlib.contextmanager
    def _server(self) -> Generator[_Server]:
        """With a new handler, if one can be made; else the same for all."""
        if self._shared is not None:
            yield self._shared
            return
        server = _Server(self._handler() if self.makes else self._handler, self.options, self._watchdog)
        if not self.makes:
            self._shared = server
            yield server
            return
        with server:
            yield server

    def __enter__(self) -> Self:
        self._watchdog.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._watchdog.stop()
        if self._shared is not None:
            self._shared.close()


def _found(visit: Visit, secrets: set[str]) -> Iterator[Fault]:
    """What the outcome itself says."""
    for reply in visit.replies:
        if any(secret in reply for secret in secrets):
            yield Fault("secret", "a reply tells the password of the client")
        if not _WELL_FORMED.fullmatch(reply):
            yield Fault("server", f"this is no reply: {reply!r}")
    for mail in visit.mails:
        if mail.accepted and mail.unread:
            yield Fault(
                "unread",
                f"on_data accepted a message and left {mail.unread} of its {len(mail.content)} octets unread",
                hook="on_data",
            )


def _compare(kind: str, how: str, first: Visit, other: Visit, *, seen: bool = False) -> None:
    for one, two in itertools.zip_longest(first.codes, other.codes, fillvalue="nothing"):
        if one != two:
            raise Fault(kind, f"{how}, the client is told {two} where it was told {one}")
    if seen and first.seen != other.seen:
        raise Fault(kind, f"{how}, the check returns {_short(other.seen)}; else {_short(first.seen)}")


# --- the server -------------------------------------------------------------------------------------


class Hangs(BaseException):
    """Raised in a hook that goes round in circles; no `except Exception` holds it."""


class _Peer(ServingPeer):
    """Notes what hooks raise, which messages they are given, and how much of them they read."""

    __slots__ = ("_count", "_ends", "_mail")

    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride] - set once

    def __init__(self, *args: Any) -> None:
        self._count: int = 0
        self._ends: int = 0
        self._mail: Mail | None = None
        super().__init__(*args)

    def send(self, octets: bytes) -> None:
        """Count what is sent."""
        self._count += len(octets)
        super().send(octets)

    def call(self, name: str, hook: Callable[..., Any], *args: Any) -> Accept | Pending:
        """A hook that does not end is a fault."""
        server = self.server
        if name == "on_auth":
            server.secrets |= _secrets(args[0])
        server.watchdog.begin()
        accepted = super().call(name, hook, *args)
        if accepted is ACCEPT:  # else `_done` says so
            server.watchdog.end()
        return accepted

    def _done(self, value: Any = None, error: BaseException | None = None) -> None:
        """Judge how the hook has ended."""
        self.server.watchdog.end()
        stream, mail = self.stream, self._mail
        if error is not None and self.given_up is None and not self.lost:
            self._note_failure(error)
        if self.hook_name == "on_data" and mail is not None and stream is not None:
            mail.unread = len(stream.content or b"")
        super()._done(value, error)

    def _note_failure(self, error: BaseException) -> None:
        name, stream = self.hook_name, self.stream
        broken = stream is not None and (stream.aborted is not None or stream.message.refusal is not None)
        if isinstance(error, Reject) or (isinstance(error, StreamAborted) and broken):
            return
        fault = Fault("raises", f"{name} raised {_said(error)}", hook=name, error=error)
        if isinstance(error, Hangs):
            fault = Fault("hangs", f"{name} goes round in circles", hook=name, error=error)
        self.server.faults.append(fault)

    # --- the message --------------------------------------------------------------------------------

    def message_begun(self, message: IncomingMessage) -> bool:
        """A message for on_data."""
        self._mail, self._ends = Mail(self.session, message, self._count + sum(map(len, self.out))), 0
        if self.server.on_data is not None:
            self.server.visit.mails.append(self._mail)
        return super().message_begun(message)

    def message_content(self, content: bytes, message: IncomingMessage) -> bool:
        """A hook that has ended reads no more."""
        assert self._mail is not None
        self._mail.take(content, read=self.stream is not None)
        return super().message_content(content, message)

    def _give(self, stream: MessageStream, piece: bytes) -> None:
        """Each further read is to be seen here, too."""
        stream.at_end = False
        self.server.watchdog.begin()
        super()._give(stream, piece)

    def _heed(self, trap: Any) -> bytes | None:
        """While a hook waits for the client, it does not hang."""
        piece = super()._heed(trap)
        if self.stream is not None and self.stream.reads:
            self.server.watchdog.end()
        self._ends += piece == b""
        if self._ends <= MAX_ENDS:
            return piece
        self._ends = 0
        self._step_hook(None, Hangs())
        return None

    def try_read(self, stream: MessageStream) -> bytes | None:
        """The same for whoever reads for the hook."""
        piece = super().try_read(stream)
        if piece is None:
            self.server.watchdog.end()
        return piece

    def end_read(self, stream: MessageStream) -> None:
        """The hook goes on."""
        if self.stream is stream:
            self.server.watchdog.begin()
        super().end_read(stream)


class _Server(MemoryServer):
    """A server that looks its hooks over the shoulder."""

    driver = _Peer

    def __init__(self, handler: Any, options: Options, watchdog: Watchdog) -> None:
        limit = options.hook_timeout or HOOK_SECONDS
        super().__init__(replace(options, handler=handler or options.handler, hook_timeout=limit))
        self.log: logging.Logger = _SILENT
        self.loop.set_exception_handler(_ignore)
        self.watchdog: Watchdog = watchdog
        self.visit: Visit = Visit(handler)
        self.faults: list[Fault] = []
        self.secrets: set[str] = set()
        self.on("error", self._note_error)

    def play(self, visit: Visit, pieces: Iterator[bytes]) -> bytes:
        """A client says this, and goes; all that it was told."""
        self.visit, self.faults, self.secrets = visit, [], set()
        return self.loop.run_until_complete(self._converse(pieces))

    async def _converse(self, pieces: Iterator[bytes]) -> bytes:
        peer = self.arrival()
        sent = [await peer.settled()]
        for piece in pieces:
            if piece and not peer.closed:
                sent += [await peer.settled(peer.received, piece)]
        sent.append(await peer.settled(peer.received, b""))
        await peer.task
        return b"".join(sent)

    def _note_error(self, error: BaseException, info: dict[str, Any]) -> None:
        """What a hook raised is known already."""
        if any(fault.error is error for fault in self.faults):
            return
        if info["stage"] == "socket":
            self.faults.append(Fault("server", f"the server failed with {_said(error)}", error=error))
        elif info["stage"] == "hook":
            kind = "hangs" if isinstance(error, TimeoutError) else "nonsense"
            self.faults.append(Fault(kind, str(error), hook=str(error).partition(" ")[0], error=error))


class Watchdog:
    """Raises Hangs in this thread when a call in it has taken too long, and again as long as it does.

    Again, as one may be swallowed: by the hook, or where Python raises nothing, as in a callback of a
    weak reference. It counts how often it has looked rather than the time, for when the whole process
    stands still, that is nobody's circle.
    """

    def __init__(self, seconds: float) -> None:
        self._pause: float = max(seconds, MIN_SECONDS) / LOOKS
        self._looks: list[None] | None = None  # at the call that goes on
        self._thread: int = threading.get_ident()
        self._stopped: threading.Event = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._watch, daemon=True).start()

    def stop(self) -> None:
        self.end()
        self._stopped.set()

    def begin(self) -> None:
        """A hook runs."""
        self._looks = []

    def end(self) -> None:
        """It does not."""
        self._looks = None

    def look(self) -> None:
        """See whether the same call still goes on."""
        looks = self._looks
        if looks is None:
            return
        looks.append(None)
        if len(looks) > LOOKS and self._looks is looks:
            looks.clear()
            raise_in_thread(self._thread, Hangs)

    def _watch(self) -> None:
        while not self._stopped.wait(self._pause):
            self.look()


def _pieces(segment: str | bytes, cut: Cut) -> list[bytes]:
    """A hook can notice only how messages come; cutting command lines would cost time for nothing."""
    return cut(segment) if isinstance(segment, bytes) else [octets(segment)]


def _whole(segment: bytes) -> list[bytes]:
    return [segment]


def _lines(segment: bytes) -> list[bytes]:
    return segment.splitlines(keepends=True)


def _octets(segment: bytes) -> list[bytes]:
    size = len(segment) // MAX_PIECES + 1
    return [segment[at : at + size] for at in range(0, len(segment), size)]


_CUTS: Final[dict[str, Cut]] = {"cut into lines": _lines, "cut into octets": _octets}
_HOOKS: Final = (*HOOKS, *OPTIONAL_HOOKS)
_SILENT: Final = logging.getLogger("smtpproto.testing.silent")
_SILENT.disabled = True  # what it would say of hooks that fail is found and told anyway
_CALLERS: Final = {__file__, *(f.__code__.co_filename for f in (Driver.call, ServingPeer.suspend))}


def _ignore(*_: object) -> None:
    """Tasks that hooks have left behind are not what is looked at."""


def _hooks_of(handler: Any) -> list[str]:
    return [name for name in _HOOKS if callable(getattr(handler, name, None))]


def _frames(error: BaseException | None) -> list[traceback.FrameSummary]:
    """Where it was raised, without those who called."""
    if error is None:
        return []
    frames = traceback.extract_tb(error.__traceback__)
    return [frame for frame in frames if frame.filename not in _CALLERS]


def _line(frames: Sequence[traceback.FrameSummary]) -> int | None:
    """The last line reached in the file in which it began, whatever that line called."""
    lines = [frame.lineno for frame in frames if frame.filename == frames[0].filename]
    return lines[-1] if lines else None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _said(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).strip().partition("\n")[0]


def _secrets(auth: Any) -> set[str]:
    given = {getattr(auth, name, "") for name in ("password", "access_token")}
    return {each for each in given if isinstance(each, str) and len(each) >= MIN_SECRET}
