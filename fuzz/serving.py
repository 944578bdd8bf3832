# Whatever a client sends, however its octets and its end come, and whatever a hook returns, raises or
# fails to do: the loop ends, no message is said to be accepted that was not, no exception's text and no
# password is shown, and nothing goes in clear once TLS is up.
#
# The input: server (1), sizes of pieces (2), what comes of effects (8), what hooks do (8), and what the
# client sends. TLS is a stand-in made of markers: HELLO is the client's handshake, ALERT its goodbye,
# BROKEN a record that cannot be read, and what the server sends has the high bit set.

from __future__ import annotations

import logging
import ssl
from typing import TYPE_CHECKING, Any, Final, cast

from fuzz.playing import note
from smtpproto import Accept, Challenge, Reject, TlsDetails
from smtpproto_server import (
    PULL,
    Ask,
    Close,
    Deliver,
    Failed,
    Options,
    Outcome,
    Receive,
    Send,
    ServerCore,
    StreamAborted,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from smtpproto_server import Effect, MessageBody

__all__ = ["HEADER", "target"]

HEADER: Final = 19
HELLO: Final = b"\x16\x03"
ALERT: Final = b"\x15"
BROKEN: Final = b"\x14"
_SHIFT: Final = bytes(octet ^ 0x80 for octet in range(256))  # what stands for encryption
SAID_BY_HOOK: Final = "hook-failed-like-this"
SECRETS: Final = ("secret-word", "c2VjcmV0LXdvcmQ", "AHUAc2VjcmV0LXdvcmQ")  # as such, and in base64
MOST_EFFECTS: Final = 3000  # of a connection whose input is some hundred octets
MAX_PIECES: Final = 24


def target(data: bytes) -> None:
    """One connection from the first effect to the last."""
    if len(data) < HEADER:
        return
    Served(SERVERS[data[0] % len(SERVERS)], data).run()


# --- TLS made of markers ----------------------------------------------------------------------------


class Channel:
    """In the place of a TlsChannel."""

    ssl_object: Final = object()

    def __init__(self) -> None:
        self.closed = False
        self.shaken = False
        self._in = b""
        self._out = b""
        self._ended = False

    def receive(self, raw: bytes) -> None:
        if not self.closed:
            self._in += raw

    def receive_eof(self) -> None:
        self._ended = True

    def handshake(self) -> bool:
        if self._in.startswith(HELLO):
            self._in = self._in[len(HELLO) :]
            self.shaken = True
            return True
        if not HELLO.startswith(self._in):
            self._out += ALERT
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, "no handshake")
        if self._ended:
            raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the client went away during the TLS handshake")
        return False

    def read(self) -> bytes:
        if self._in.startswith(BROKEN):
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, "a broken record")
        clear, alert, rest = self._in.partition(ALERT)
        sound, broken, behind = clear.partition(BROKEN)
        if broken:
            self._in = broken + behind + alert + rest
        else:
            self.closed = self.closed or bool(alert)
            self._in = b""
        return sound

    def write(self, data: bytes) -> None:
        self._out += data.translate(_SHIFT)

    def outgoing(self) -> bytes:
        out, self._out = self._out, b""
        return out

    def close(self) -> None:
        pass

    def details(self) -> TlsDetails:
        return _DETAILS


class Contexts:
    """In the place of TlsContexts."""

    available: Final = True
    warning: Final = None

    def __init__(self) -> None:
        self.last: Channel | None = None

    def channel(self) -> Channel:
        self.last = Channel()
        return self.last


_DETAILS: Final = TlsDetails({"name": "X", "standard_name": "X", "version": "TLSv1.3"}, servername="mx.test")


class _Listening(logging.Handler):
    """Keeps what was logged in this run."""

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record in, as it would be read."""
        _LOGGED.append(record.getMessage())
        if record.exc_info:
            _LOGGED.append(repr(record.exc_info[1]))


_LOGGED: Final[list[str]] = []


class Server(ServerCore):
    """A server whose TLS is made of markers, and whose log is looked at."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        # Of its own: the one that has a name is everybody's.
        self.log = logging.Logger("smtpproto", logging.DEBUG)  # noqa: LOG001
        self.log.addHandler(_Listening())

    @property
    def contexts(self) -> Any:
        return _CONTEXTS


class FlushingServer(Server):
    """One of a runtime that cannot see whether a hook has to wait."""

    flushes_first = True


_CONTEXTS: Final = Contexts()


# --- what hooks do ------------------------------------------------------------------------------------


def _hook(*_: object) -> None:
    """Never called: the input says what came of it."""


FAILED: Final = Failed(ValueError(SAID_BY_HOOK))
NO: Final = (
    Reject(),
    Reject(421),
    Failed(Reject(451)),
    Reject(text="no\r\n2.6.0 no"),
    FAILED,
    object(),
    Outcome.TIMED_OUT,
)
LATE: Final = (Outcome.LOST, Outcome.STOPPED)
RESULTS: Final[Mapping[str, tuple[Any, ...]]] = {
    "on_auth": (True, True, True, Accept(user="u"), "u", None, False, Accept(), Challenge(b"more"), *NO),
    "on_data": (
        None,
        None,
        None,
        Accept(),
        "queued",
        [None, Reject(452)],
        [Accept(), "queued"],
        [],
        (None,),
        *NO,
    ),
    "on_command": (None, Accept(250), None, *NO),
    "on_close": (None, FAILED),
    "resolver": (["c.test"], ["a b\r\n"], [], FAILED, Outcome.TIMED_OUT, object()),
    "": (None, None, None, None, Accept(), None, None, None, None, *NO),
}
ACCEPTS: Final = (type(None), Accept, str)

HOOKS: Final[dict[str, Any]] = dict.fromkeys(
    ("on_connect", "on_secure", "on_auth", "on_mail_from", "on_rcpt_to", "on_data", "on_close"), _hook
)
MORE_HOOKS: Final[dict[str, Any]] = dict.fromkeys(
    ("on_helo", "on_data_start", "on_vrfy", "on_expn", "on_help", "on_command"), _hook
)
EVERY: Final[dict[str, Any]] = {
    "name": "mx.test", "auth_optional": True, "disable_reverse_lookup": True,
    "hide_enhancedstatuscodes": False, "allow_insecure_auth": True,
    "auth_methods": ("PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2"),
    "max_line_length": 512,
    "hook_timeout": 30.0,
}  # fmt: skip


def _servers() -> Sequence[Server]:
    given: list[dict[str, Any]] = [
        {}, {"lmtp": True}, {"size": 9}, {"secure": True}, {"use_proxy": True}, {"needs_upgrade": True},
        {**MORE_HOOKS}, {"early_talker_delay": 1.0},
        {"bare_newlines": "accept", "size": 9, "enforce_size": False},
        {"lmtp": True, "secure": True, "use_proxy": True, **MORE_HOOKS}, {"auth_optional": False},
        {"socket_timeout": None, "min_data_rate": None, "data_timeout": None, "hook_timeout": None},
        {"max_clients": 1}, {"disable_reverse_lookup": False},
    ]  # fmt: skip
    plain = [Server(Options(**EVERY | HOOKS | each)) for each in given]
    flushing = [FlushingServer(Options(**EVERY | HOOKS | each)) for each in given[:2]]
    secure: dict[str, Any] = {"secure": True}
    return [*plain, *flushing, Server(Options(**EVERY)), Server(Options(**EVERY | secure))]


# --- one connection -----------------------------------------------------------------------------------


class Served:
    """A connection, the input being client, network, clock and hooks."""

    def __init__(self, server: Server, data: bytes) -> None:
        self.server = server
        self.now = 0.0
        _CONTEXTS.last = None
        serving = server.begin(("192.0.2.25", 25), ("192.0.2.1", 4321), lambda: self.now)
        assert serving is not None
        self.serving = serving
        self.pieces = _pieces(data[HEADER:], data[1], 1 + data[2] % 64)
        self.outcomes = _nibbles(data[3:11])
        self.results = _nibbles(data[11:HEADER])
        self.sent: list[bytes] = []
        self.messages: list[tuple[MessageBody, Any, int]] = []
        self.generator: Generator[Effect, Any, None] = serving.run()
        self.effects = 0
        self.closed = False

    def run(self) -> None:
        _LOGGED.clear()
        effect = self._resume(None)
        while effect is not None:
            effect = self._resume(self._come_of(effect))
        assert self.closed
        assert not self.server.connections
        assert self.server._clients == self.server._refusing == 0
        self._insist_on_verdicts()
        log = "\n".join(_LOGGED)
        shown = log + repr(self.serving.session)
        assert not any(secret in shown for secret in SECRETS), log  # I20
        clear = b"".join(self.sent)
        assert SAID_BY_HOOK.encode() not in clear  # I18
        assert SAID_BY_HOOK.encode() not in clear.translate(_SHIFT)

    def _resume(self, value: Any) -> Effect | None:
        self.effects += 1
        assert self.effects < MOST_EFFECTS, "no end"
        try:
            return self.generator.send(value)
        except StopIteration:
            return None

    def _come_of(self, effect: Effect) -> Any:
        if isinstance(effect, Receive):
            return self._receive(effect)
        if isinstance(effect, Send):
            return self._send(effect)
        if isinstance(effect, Ask):
            return self._ask(effect)
        assert isinstance(effect, Close), effect
        assert not self.closed
        self.closed = True
        return None

    def _receive(self, effect: Receive) -> Any:
        assert not self.closed
        choice = next(self.outcomes)
        if effect.deadline is not None and effect.deadline <= self.now and choice < POLL_HEARS:
            return Outcome.TIMED_OUT
        return self._mishap(choice, effect.deadline) or next(self.pieces, b"")

    def _send(self, effect: Send) -> Any:
        assert not self.closed
        self._take(effect.data)
        return self._mishap(next(self.outcomes), effect.deadline)

    def _mishap(self, choice: int, deadline: float | None) -> Outcome | None:
        """What comes instead of the client, if anything."""
        if choice in STOPS:
            self.serving.stop(now=STOPS[choice])
            return Outcome.STOPPED
        if choice == LOSES:
            return Outcome.LOST
        if choice == LATER and deadline is not None:
            self.now = max(self.now, deadline)
            return Outcome.TIMED_OUT
        return None

    def _take(self, data: bytes) -> None:
        channel = _CONTEXTS.last
        if channel is not None and channel.shaken:
            assert not data or min(data) >= 0x80, data  # noqa: PLR2004 - in clear  # I7
            code = data.translate(_SHIFT)[:3]
        else:
            code = data[:3]
        if code.isdigit():
            note(int(code), len(self.messages))
        self.sent.append(data)

    def _ask(self, ask: Ask) -> Any:
        name = ask.name
        assert not self.closed or name == "on_close"
        choice = next(self.results)
        results = RESULTS.get(name, RESULTS[""])
        result = results[choice % len(results)]
        if result is Outcome.TIMED_OUT and ask.seconds is None:
            result = None
        if name == "on_data":
            return self._read_message(ask, result, pulls=next(self.results))
        if choice:  # one that takes its time
            self._take(self.serving.output())
        late = next(self.outcomes)
        if ask.watch and late == LATER:
            return Outcome.INTERRUPTED
        return self._late(late, result)

    def _late(self, choice: int, result: Any) -> Any:
        """What ends a hook that waits."""
        if STOPS.get(choice):
            self.serving.stop(now=True)
            return Outcome.STOPPED
        return Outcome.LOST if choice == LOSES else result

    def _read_message(self, ask: Ask, result: Any, *, pulls: int) -> Any:
        """on_data: it reads some of the message, all of it, or does not notice that there is no more."""
        body = ask.body
        assert body is not None
        recipients = len(self.serving.session.envelope.rcpt_to) if self.serving.session.lmtp else 1
        heedless = bool(pulls & 8)
        for _ in range(pulls & 7 if pulls & 7 != 7 else MOST_EFFECTS):  # noqa: PLR2004 - all of it
            effect = self._resume(PULL)
            while not isinstance(effect, Deliver):
                assert effect is not None
                effect = self._resume(self._come_of(effect))
            if effect.data:
                continue
            if body.aborted is not None and not heedless:
                result = Failed(StreamAborted(body.aborted))
            break
        result = self._late(next(self.outcomes), result)
        self.messages.append((body, result, recipients))
        return result

    def _insist_on_verdicts(self) -> None:  # I9, I19
        """No more recipients were told that a message was accepted than a hook accepted it for."""
        allowed = sum(_accepted(*message) for message in self.messages)
        if self.server.hook("on_data") is None:
            return
        sent = b"".join(self.sent)
        said = sum(
            line.startswith((b"250 2.6.0", b"250-2.6.0"))
            for line in (sent + sent.translate(_SHIFT)).split(b"\r\n")
        )
        assert said <= allowed, (said, allowed)


def _accepted(body: MessageBody, result: Any, recipients: int) -> int:
    message = body.message
    if not message.complete or message.refusal is not None or body.aborted is not None:
        return 0
    if isinstance(result, list | tuple):
        results = cast("Sequence[Any]", result)
        return sum(isinstance(each, ACCEPTS) for each in results[:recipients])
    return recipients * isinstance(result, ACCEPTS)


# What comes of an effect, by the input's choice of sixteen; usually the plain success.
POLL_HEARS: Final = 8  # from here on a look at what is there finds the client's next octets
LATER, LOSES = 12, 13
STOPS: Final = {14: False, 15: True}


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
    if octets[at:]:
        yield octets[at:]


SERVERS: Final = _servers()
