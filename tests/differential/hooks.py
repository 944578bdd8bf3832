# The application of a conversation: hooks that do what its seed says, and a server that records.
#
# Each hook is written once, as a generator that says what it wants to wait for. It is called as a
# coroutine function or as a plain one.

from __future__ import annotations

import logging
import ssl
from collections import Counter
from functools import cache, partial
from types import coroutine
from typing import TYPE_CHECKING, Any, Final

from differential.facts import Record, value_facts
from differential.talks import CHALLENGE, ENTROPY, GOODBYE, HELLO, SETTINGS

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from differential.talks import Talk
    from differential.versions import Version

    # Makes what a hook returns or raises: given the version's module and the hook's arguments.
    Answer = Callable[[Any, Any], Any]

__all__ = ["WAIT", "Cancelled", "Stage", "facts_of_connection", "server_for"]

ALL: Final = -1  # to be read: the rest of the message


class Cancelled(BaseException):
    """What ends a hook that was given up."""


class _Wait:
    """What a hook yields that waits for the conversation's next hook step."""


WAIT: Final = _Wait()


@coroutine
def _waiting() -> Generator[Any, Any, None]:
    yield WAIT


# --- what hooks answer --------------------------------------------------------------------------------

WRONG: Final = object()  # that no place has a reading for


class _Returned:
    """A Reject that is returned, where others are raised."""

    def __init__(self, value: Any) -> None:
        self.value: Any = value


_NO: Final[Sequence[Answer]] = (
    lambda p, _: p.Reject(),
    lambda p, _: _Returned(p.Reject(452, "4.2.2")),
    lambda p, _: p.Reject(421),
    lambda p, _: _Returned(p.Reject(text="no\r\n2.6.0 no")),
    lambda _p, _: ValueError("hook-failed"),
    lambda _p, _: GeneratorExit(),
    lambda _p, _: WRONG,
    lambda p, _: BaseExceptionGroup("group", [p.Reject(553)]),
    lambda p, _: BaseExceptionGroup("group", [p.Reject(553), ValueError("other")]),
)


def _often(times: int, answer: Answer) -> Sequence[Answer]:
    return [answer] * times


def _nothing(times: int) -> Sequence[Answer]:
    return _often(times, lambda _p, _a: None)


def _each(_p: Any, args: Sequence[Any]) -> Any:
    p, session = _p, args[-1]
    given = (None, p.Reject(452), "kept", p.Accept(), p.Reject(421))
    count = len(session.envelope.rcpt_to) + (session.transaction % 5 == 4)
    return [given[n % 5] for n in range(count)]


_MOSTLY: Final[Sequence[Answer]] = (*_nothing(36), lambda p, _: p.Accept(), *_NO)
_ANSWERS: Final[Mapping[str, Sequence[Answer]]] = {
    "on_connect": (*_nothing(150), *_NO),
    "on_secure": (*_nothing(150), *_NO),
    "on_helo": (*_nothing(100), *_NO),
    "on_auth": (
        *_often(14, lambda _p, _: True),
        lambda p, _: p.Accept(user="u"),
        *_often(6, lambda p, _: p.Challenge(CHALLENGE)),
        *_often(2, lambda p, _: p.Reject(challenge={"status": "400"})),
        lambda _p, _: None,
        lambda _p, _: "name",
        *_NO,
    ),
    "on_data": (
        *_nothing(20),
        lambda p, _: p.Accept(text="as 1"),
        lambda _p, _: "queued",
        *_often(6, _each),
        *_NO,
    ),
    "on_command": (*_nothing(8), lambda p, _: p.Accept(250), *_NO),
    "on_vrfy": (*_nothing(3), lambda p, _: p.Accept(250, text="b"), *_NO),
    "on_close": (*_nothing(8), lambda _p, _: ValueError("hook-failed")),
    "resolver": (
        *_often(4, lambda _p, _: ["c.test"]),
        lambda _p, _: ["a b\r\n"],
        lambda _p, _: [],
        lambda _p, _: OSError("no name"),
        lambda _p, _: WRONG,
    ),
}
_READS: Final = (ALL, ALL, ALL, ALL, 10, 100, 0, 3000)
_AFTER_ABORT: Final = ("raise", "raise", "raise", "fail", "return")


class Stage:
    """One conversation's hooks, and the record of what they saw."""

    def __init__(self, version: Version, talk: Talk) -> None:
        self.p: Any = version.smtpproto
        self.aborted: Any = version.smtpproto_server.StreamAborted
        self.talk: Talk = talk
        self.record: Record = Record()
        self.asked: Counter[str] = Counter()
        self.now: float = 1000.0
        self.wait: Callable[[], None] = _never
        """How a plain hook waits."""

    def clock(self) -> float:
        return self.now

    def end_step(self, session: Any, *facts: Any) -> None:
        """All that a step has led to was seen."""
        self.record.end_step(session, *facts)

    # --- hooks ------------------------------------------------------------------------------------

    async def call_async(self, name: str, *args: Any) -> Any:
        """The hook as a coroutine function."""
        acting, value, error = self._act(name, args), None, None
        while True:
            try:
                wanted = acting.send(value) if error is None else acting.throw(error)
            except StopIteration as done:
                return done.value
            value = error = None
            try:
                if wanted is WAIT:
                    await _waiting()
                else:
                    value = await args[0].read(wanted)
            except BaseException as raised:  # noqa: BLE001 - the hook sees it
                error = raised

    def call_plain(self, name: str, *args: Any) -> Any:
        """The hook as a plain function."""
        acting, value, error = self._act(name, args), None, None
        while True:
            try:
                wanted = acting.send(value) if error is None else acting.throw(error)
            except StopIteration as done:
                return done.value
            value = error = None
            try:
                if wanted is WAIT:
                    self.wait()
                else:
                    value = args[0].read(wanted)
            except BaseException as raised:  # noqa: BLE001 - as above
                error = raised

    def _act(self, name: str, args: tuple[Any, ...]) -> Generator[Any, Any, Any]:
        number = self.asked[name]
        self.asked[name] += 1
        seen = args[1:] if name in _FIRST_IS_NO_VALUE else args
        self.record.note("hook", name, *map(value_facts, seen))
        picked = self.talk.pick(name, number)
        waits = self.talk.waits_for(name, number)
        try:
            for _ in range(waits):
                yield WAIT
            if name == "on_data":
                yield from self._read(args[0], picked >> 8, wait_again=waits > 1)
        except Cancelled:
            self.record.note("cancelled", name)
            raise
        answers = _ANSWERS.get(name, _MOSTLY)
        answer: Any = answers[picked % len(answers)](self.p, args)
        self.record.note("done", name)
        if isinstance(answer, _Returned):
            return answer.value
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _read(self, stream: Any, picked: int, *, wait_again: bool) -> Generator[Any, Any, None]:
        wanted = _READS[picked % len(_READS)]
        ended = wanted == ALL
        try:
            if ended:
                octets = yield ALL
                if stream.refusal is None:
                    self.record.content(octets)
            while wanted > 0 and not ended:
                octets = yield wanted
                if octets:
                    self.record.content(octets)
                wanted -= len(octets)
                ended = not octets
        except self.aborted as error:
            if error.reason != "size_exceeded":  # then, a message over `size` ended as a whole one does
                self._end_aborted(error, picked)
                return
            ended = True
        if wait_again:
            yield WAIT
        if ended:  # else it depends on how much came at once
            facts = (stream.byte_length, stream.complete, stream.size_exceeded, repr(stream.refusal))
            self.record.note("stream", *facts)

    def _end_aborted(self, error: Any, picked: int) -> None:
        self.record.note("aborted", error.reason)
        match _AFTER_ABORT[(picked >> 4) % len(_AFTER_ABORT)]:
            case "raise":
                raise error
            case "fail":
                raise ValueError("the hook gives up") from error
            case _:
                return


_FIRST_IS_NO_VALUE: Final = frozenset({"on_secure", "on_data"})


def _never() -> None:
    raise AssertionError("a coroutine runtime's plain hook waits")


# --- the server ---------------------------------------------------------------------------------------


class _Resolver:
    def __init__(self, reverse: Any) -> None:
        self.reverse: Any = reverse


class _Channel:
    """TLS as markers: HELLO is the handshake, GOODBYE the end, and nothing is encrypted."""

    ssl_object: Final = None

    def __init__(self, p: Any) -> None:
        self.closed: bool = False
        self.pending: int = 0
        self._p: Any = p
        self._in: bytes = b""
        self.ended: bool = False
        self._shaken: bool = False
        self._out: bytes = b""

    def receive(self, raw: bytes) -> None:
        if not self.closed:
            self._in += raw

    def receive_eof(self) -> None:
        self.ended = True

    def handshake(self) -> bool:
        if self._in.startswith(HELLO):
            self._in = self._in[len(HELLO) :]
            self._out += b"<TLS>"
            self._shaken = True
            return True
        if not HELLO.startswith(self._in):
            self._out += b"<ALERT>"
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, "no handshake")
        if self.ended:
            raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the client went away during the TLS handshake")
        return False

    def read(self) -> bytes:
        clear, goodbye, _ = self._in.partition(GOODBYE)
        self.closed = self.closed or bool(goodbye)
        self._in = b""
        return clear

    def write(self, data: bytes) -> None:
        self._out += data

    def outgoing(self) -> bytes:
        out, self._out = self._out, b""
        return out

    def close(self) -> None:
        if self._shaken:
            self._out += b"<BYE>"

    def details(self) -> Any:
        return self._p.TlsDetails({"name": "X", "version": "TLSv1.3"}, servername="mx.test")


class _Contexts:
    available: Final = True
    warning: Final = None

    def __init__(self, p: Any) -> None:
        self.channel: Callable[[], _Channel] = partial(_Channel, p)


@cache
def _server_class(version: Version, *, coroutines: bool) -> Any:
    contexts = _Contexts(version.smtpproto)

    def report(self: Any, error: BaseException, stage: str, _session: Any, _remote: str = "") -> None:
        what, _, _ = str(error).partition("; it may return")  # all that it may is said today
        self.stage.record.reports.append((stage, type(error).__name__, what))

    def connected(self: Any, session: Any) -> None:
        self.stage.record.note("connect", session.client_hostname, session.remote_address)

    members = {
        "contexts": property(lambda _: contexts),
        "report": report,
        "connected": connected,
        "coroutines": coroutines,
    }
    return type("Server", (version.adapting.ServerCore,), members)


@cache
def server_for(version: Version, setting: int, lacks: int, *, asks: bool, plain: str = "") -> Any:
    """A server whose hooks are those of its `stage`.

    `plain` says which hooks are plain functions: "" none, "some" all but on_data, as in an event loop,
    "all" in a runtime without coroutines.
    """
    s = version.smtpproto_server
    given = dict(SETTINGS[setting])
    kind = _server_class(version, coroutines=plain != "all")
    server: Any = None

    def made(name: str) -> Callable[..., Any]:
        async def call_async(*args: Any) -> Any:
            return await server.stage.call_async(name, *args)

        def call_plain(*args: Any) -> Any:
            return server.stage.call_plain(name, *args)

        return call_plain if plain == "all" or (plain == "some" and name != "on_data") else call_async

    names = (*version.adapting.HOOKS, *(version.adapting.OPTIONAL_HOOKS if asks else ()))
    left_out = _LACKING[lacks]
    given |= {name: made(name) for name in names if name not in left_out}
    if plain == "some":
        given["sync_hooks"] = "inline" if lacks % 2 else "thread"
    server = kind(s.Options(**version.fields(**given), resolver=_Resolver(made("resolver"))))
    server.log = logging.Logger("smtpproto", logging.CRITICAL)  # noqa: LOG001 - that of the name is everybody's
    return server


_LACKING: Final[Sequence[frozenset[str]]] = (
    *[frozenset[str]()] * 5,
    frozenset({"on_mail_from", "on_rcpt_to"}),
    frozenset({"on_data", "on_secure"}),
    frozenset({"on_auth", "on_close", "on_connect"}),
)


def facts_of_connection(version: Version) -> dict[str, Any]:
    """What a connection is made with."""
    return version.fields(
        local=("192.0.2.25", 25),
        remote=("192.0.2.1", 4321),
        id="0123456789abcdef",
        tls_available=True,
        entropy=ENTROPY,
        started=0,
    )
