# How the driver calls hooks, what their answers count for, and the message that on_data reads.

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import pytest

from server.scripted import (
    BROKEN,
    DATA,
    DOWN,
    GO_ON,
    GREETING,
    PULL,
    QUEUED,
    TIMEOUT,
    Asked,
    Cancelled,
    Play,
    hook,
    waiting,
)
from smtpproto import ACCEPT, Accept, Reject
from smtpproto_server import AsyncStream, Stream, StreamAborted
from smtpproto_server._hooks import HookError

if TYPE_CHECKING:
    from collections.abc import Callable

MAIL, RCPT = b"MAIL FROM:<a@x.test>\r\n", b"RCPT TO:<b@y.test>\r\n"
ACCEPTED = b"250 2.1.0 Accepted\r\n"


def end(play: Play, result: Any) -> bytes:
    """The hook that waits returns this, or raises it if it is an exception."""
    if isinstance(result, BaseException):
        return play.answer(error=result)
    return play.answer(result)


# --- hooks ------------------------------------------------------------------------------------------


def test_hooks_get_what_their_place_says() -> None:
    class Handler:
        def __getattr__(self, name: str) -> Callable[..., Any]:
            return hook

    play = Play(handler=Handler(), secure=True, greeted=False, allow_insecure_auth=True, auth_optional=False)
    session = play.driver.session
    play.tls()
    assert play.asks("on_connect").args == (session,)
    play.answer()
    ssl_object, given = play.asks("on_secure").args
    assert isinstance(ssl_object, ssl.SSLObject)
    assert given is session
    assert play.answer() == GREETING
    talk: list[tuple[bytes, str, Callable[[Any], bool], Any]] = [
        (b"EHLO Me\r\n", "on_helo", lambda args: args[:2] == ("EHLO", "Me"), None),
        (b"VRFY you\r\n", "on_vrfy", lambda args: args[0] == "you", None),
        (b"EXPN them\r\n", "on_expn", lambda args: args[0] == "them", None),
        (b"HELP us\r\n", "on_help", lambda args: args[0] == "us", None),
        (b"XWHAT is\r\n", "on_command", lambda args: args[:2] == ("XWHAT", "is"), None),
        (b"AUTH PLAIN AHUAcA==\r\n", "on_auth", lambda args: args[0].username == "u", True),
        (b"MAIL FROM:<a@x>\r\n", "on_mail_from", lambda args: args[0].address == "a@x", None),
        (b"RCPT TO:<b@y>\r\n", "on_rcpt_to", lambda args: args[0].address == "b@y", None),
        (b"DATA\r\n", "on_data_start", lambda args: args == (session,), None),
    ]
    for said, name, right, result in talk:
        play.say(said)
        asked = play.asks(name)
        assert right(asked.args)
        assert asked.args[-1] is session
        play.answer(result)
    assert session.user == "u"
    stream, given = play.asks("on_data").args
    assert given is session
    assert stream is play.stream()
    assert isinstance(stream, AsyncStream)


def test_without_on_auth_a_login_is_not_implemented() -> None:
    play = Play(allow_insecure_auth=True)
    assert play.say(b"AUTH PLAIN AHUAcA==\r\n") == b"535 5.7.8 Authentication not implemented\r\n"


def test_what_was_answered_goes_out_before_a_hook_is_waited_for() -> None:
    play = Play(on_rcpt_to=hook)
    assert play.say(MAIL + RCPT) == ACCEPTED
    play.asks("on_rcpt_to")
    assert play.answer() == b"250 2.1.5 Accepted\r\n"


@pytest.mark.parametrize("waits", [False, True])
def test_a_client_that_takes_no_replies_is_answered_no_further(waits: bool) -> None:
    async def on_rcpt_to(*_: object) -> Reject:
        if waits:
            await waiting(Asked(()))
        return Reject(text=["x" * 400] * 20)

    play = Play(on_rcpt_to=on_rcpt_to)
    play.say(MAIL)
    play.driver.takes = False
    said = play.say(RCPT * 1000)
    for _ in range(3):
        if play.driver.hook is not None:
            said += play.answer()
    assert len(said) < 64 * 1.1 * 8500
    assert play.driver.full
    play.driver.takes = True
    more = play.room()
    while play.driver.hook is not None:
        more += play.answer()
    assert (said + more).count(b"\r\n550 ") == 1000


@pytest.mark.parametrize("result", ["text", 1, object(), Accept(251), OSError("disk"), KeyError("x")])
def test_a_hook_that_fails_is_answered_with_451_and_reported(result: Any) -> None:
    play = Play(on_mail_from=hook)
    play.say(MAIL)
    assert end(play, result) == BROKEN
    assert play.error()[1] == "hook"


@pytest.mark.parametrize(
    "error",
    [GeneratorExit(), SystemExit(1), BaseExceptionGroup("x", [GeneratorExit(), KeyError()]), StopIteration()],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_whatever_a_hook_raises_is_contained(error: BaseException, at_once: bool) -> None:
    async def raises(*_: object) -> None:
        if not at_once:
            await waiting(Asked(()))
        raise error

    play = Play(on_mail_from=raises)
    said = play.say(MAIL)
    if not at_once:
        said += play.answer()
    assert said == BROKEN
    assert play.say(b"NOOP\r\n") == b"250 2.0.0 OK\r\n"
    assert play.error()[1] == "hook"


def test_a_result_that_cannot_even_be_looked_at_is_answered_with_451() -> None:
    class Evil:
        def __bool__(self) -> bool:
            raise ValueError("neither")

    play = Play(on_auth=hook, allow_insecure_auth=True)
    play.say(b"AUTH PLAIN AHUAcA==\r\n")
    assert play.answer(Evil()) == BROKEN
    assert isinstance(play.error()[0], ValueError)


NO = Reject(550, text="no")


@pytest.mark.parametrize(
    "raised", [NO, ExceptionGroup("x", [NO]), ExceptionGroup("x", [ExceptionGroup("y", [NO])])]
)
def test_a_refusal_may_be_raised_alone_or_in_a_group_that_holds_nothing_else(raised: Exception) -> None:
    play = Play(on_mail_from=hook)
    play.say(MAIL)
    assert play.answer(error=raised) == b"550 5.1.1 no\r\n"
    play.say(MAIL)
    assert play.answer(NO) == b"550 5.1.1 no\r\n"
    assert not play.errors


@pytest.mark.parametrize("also", [[], [Reject(550)], [KeyError("x")]])
def test_a_group_that_holds_more_than_one_refusal_is_an_error(also: list[Exception]) -> None:
    play = Play(on_mail_from=hook)
    play.say(MAIL)
    group = ExceptionGroup("x", [Reject(550), *also]) if also else ExceptionGroup("x", [KeyError("y")])
    assert play.answer(error=group) == BROKEN
    assert play.error()[0] is group


@pytest.mark.parametrize("said", [MAIL, b"NOOP\r\n" + MAIL])
def test_a_hook_during_which_the_connection_is_lost_decides_nothing(said: bytes) -> None:
    play = Play(on_mail_from=hook)
    play.say(said)
    assert play.lose() == b""
    play.ends()
    assert not play.errors


@pytest.mark.parametrize("options", [{"on_mail_from": hook}, {"on_connect": hook}])
def test_what_a_hook_raises_while_the_server_stops_is_reported(options: dict[str, Any]) -> None:
    error = RuntimeError("x")

    async def raises(*args: Any) -> None:
        try:
            await hook(*args)
        except Cancelled:
            raise error from None

    (name,) = options
    hooks: dict[str, Any] = {name: raises}
    play = Play(greeted=name == "on_mail_from", **hooks)
    if name == "on_mail_from":
        play.say(MAIL)
    play.stop(now=True)
    play.ends(lingers=True)
    assert [each for each, _ in play.errors] in ([], [error])


def test_a_hook_that_answers_at_once_is_not_waited_for() -> None:
    answers: list[Any] = [None, Reject(550, "5.7.1", "not you"), ValueError(), 17, ACCEPT]
    called: list[str] = []

    def says(name: str) -> Callable[..., Any]:
        async def at_once(*_: object) -> Any:
            called.append(name)
            answer = answers.pop(0)
            if isinstance(answer, ValueError):
                raise answer
            return answer

        return at_once

    play = Play(on_mail_from=says("on_mail_from"), on_rcpt_to=says("on_rcpt_to"))
    refused = b"550 5.7.1 not you\r\n"
    assert play.say(MAIL + 4 * RCPT).splitlines(keepends=True) == [
        ACCEPTED, refused, BROKEN, BROKEN, b"250 2.1.5 Accepted\r\n"
    ]  # fmt: skip
    assert called == ["on_mail_from"] + ["on_rcpt_to"] * 4
    assert [type(error) for error, _ in play.errors] == [ValueError, HookError]


@pytest.mark.parametrize("coroutines", [True, False])
def test_a_plain_hook_is_called_where_it_may_block(coroutines: bool) -> None:
    called: list[bool] = []

    def on_mail_from(*_: object) -> None:
        called.append(play.driver.running)

    play = Play(on_mail_from=on_mail_from, coroutines=coroutines)
    assert play.say(b"NOOP\r\n" + MAIL) == b"250 2.0.0 OK\r\n"
    assert not called
    assert play.call() == ACCEPTED
    assert called == [False]  # the engine was on nobody's stack


def test_a_plain_hook_may_be_called_inline_and_on_data_never_is() -> None:
    def on_mail_from(*_: object) -> Reject:
        return NO

    def on_data(stream: Stream, _session: object) -> str:
        return str(len(b"".join(stream)))

    play = Play(on_mail_from=on_mail_from, on_data=on_data, sync_hooks="inline")
    assert play.say(MAIL) == b"550 5.1.1 no\r\n"
    play.server.on_mail_from = None
    play.say(DATA)
    play.driver.to_come = [b"hi\r\n", b".\r\n"]
    assert play.call() == b"250 2.6.0 4\r\n"


# --- the message ------------------------------------------------------------------------------------


def test_the_hook_pulls_the_message() -> None:
    play = Play(on_data=hook)
    assert play.say(DATA).endswith(GO_ON)
    stream, asked = play.stream(), play.asks("on_data")
    play.answer(PULL)
    play.say(b"one\r\n")
    assert asked.pieces == [b"one\r\n"]
    play.answer(PULL)
    play.say(b"..two\r\n.")
    assert asked.pieces[1:] == [b".two\r\n"]
    assert not stream.complete
    play.answer(PULL)
    play.say(b"\r\n")
    assert asked.pieces[2:] == [b""]
    assert stream.complete
    play.answer(PULL)  # as often as it likes
    assert asked.pieces[3:] == [b""]
    assert not stream.ended
    assert play.answer("stored") == b"250 2.6.0 stored\r\n"
    assert stream.ended
    assert stream.aborted is None


def test_body_octets_in_the_segment_of_data_follow_the_354() -> None:
    play = Play(on_data=hook)
    said = play.say(DATA + b"hi\r\n.\r\nQUIT\r\n")
    asked = play.asks("on_data")
    said += play.answer(PULL)
    assert asked.pieces == [b"hi\r\n"]
    said += play.answer()
    assert said.endswith(GO_ON + QUEUED + b"221 2.0.0 Bye\r\n")


def test_a_message_is_pulled_and_answered_at_once() -> None:
    got: list[bytes] = []

    async def on_data(stream: AsyncStream, _session: object) -> str:
        async for piece in stream:
            got.append(piece)  # noqa: PERF401
        return "that was all"

    play = Play(on_data=on_data)
    assert play.say(DATA).endswith(GO_ON)
    assert play.say(b"one\r\n") == b""
    assert play.say(b"two\r\n.\r\n") == b"250 2.6.0 that was all\r\n"
    assert got == [b"one\r\n", b"two\r\n"]


def test_nothing_is_read_for_a_hook_before_it_wants_it() -> None:
    play = Play(on_data=hook)
    play.say(DATA + b"one\r\n")
    stream = play.stream()
    assert stream.byte_length == 0
    taken = 0
    while "hold" not in play.driver.did:
        play.say(b"x" * 1998 + b"\r\n")
        taken += 2000
        assert taken < 120_000
    assert taken > 40_000
    assert stream.byte_length == 0
    while play.driver.held:
        play.answer(PULL)
    assert play.driver.did[-1] == "read_on"


@pytest.mark.parametrize("result", [None, Reject(text="no"), RuntimeError("x")])
def test_a_hook_that_returns_early_is_answered_after_the_end_of_data(result: Any) -> None:
    play = Play(on_data=hook)
    play.say(DATA)
    play.answer(PULL)
    play.say(b"one\r\n")
    assert end(play, result) == b""
    assert play.say(b"two\r\n") == b""
    expected = {type(None): QUEUED, Reject: b"450 4.2.1 no\r\n", RuntimeError: BROKEN}[type(result)]
    assert play.say(b".\r\nNOOP\r\n") == expected + b"250 2.0.0 OK\r\n"


def cut_off(play: Play, how: str) -> bytes:
    if how == "eof":
        return play.receive(b"")
    if how == "lost":
        return play.lose()
    if how == "timeout":
        return play.tick(60)
    return play.stop(now=True)


@pytest.mark.parametrize("how", ["eof", "lost", "timeout", "stop"])
@pytest.mark.parametrize("listens", [True, False, None])
def test_an_aborted_message_is_answered_with_no_acceptance(how: str, listens: bool | None) -> None:
    reasons: list[str] = []

    async def on_data(stream: AsyncStream, _session: object) -> str:
        if listens is None:
            return "early"
        for _ in range(3):
            try:
                async for _ in stream:
                    pass
            except StreamAborted as aborted:
                reasons.append(aborted.reason)
                if listens:
                    raise
        return "stored"

    play = Play(on_data=on_data)
    play.say(DATA)
    play.say(b"one\r\n")
    said = cut_off(play, how)
    expected = {"timeout": TIMEOUT, "stop": DOWN}.get(how, b"")
    assert said == expected
    reason = {"timeout": "timeout", "stop": "shutdown"}.get(how, "connection_lost")
    assert reasons == {True: [reason], False: [reason] * 3, None: []}[listens]
    play.ends(lingers=bool(expected))
    assert not play.errors


@pytest.mark.parametrize(
    ("raised", "reported"), [(RuntimeError("x"), 1), (StreamAborted("lost"), 0), (Reject(), 0)]
)
def test_what_on_data_raises_when_the_client_is_gone_is_reported(raised: Exception, reported: int) -> None:
    async def on_data(stream: AsyncStream, _session: object) -> None:
        try:
            await stream.read()
        except StreamAborted:
            raise raised from None

    play = Play(on_data=on_data)
    play.say(DATA + b"hi\r\n")
    play.receive(b"")  # within the message
    play.ends()
    assert [error for error, _ in play.errors] == [raised] * reported


@pytest.mark.parametrize("result", [None, StreamAborted("bare_newline"), Reject(), OSError("disk")])
def test_a_bare_newline_aborts_the_stream_and_is_refused(result: Any) -> None:
    reasons: list[str] = []

    async def on_data(stream: AsyncStream, _session: object) -> None:
        assert await stream.read(100) == b"one"
        try:
            await stream.read(100)
        except StreamAborted as aborted:
            reasons.append(aborted.reason)
        if result is not None:
            raise result

    play = Play(on_data=on_data)
    play.say(DATA)
    play.say(b"one\ntwo\r\n")
    assert reasons == ["bare_newline"]
    assert play.say(b".\r\n") == b"550 5.6.0 Error: message contains bare newline characters\r\n"
    assert len(play.errors) == isinstance(result, OSError)


def test_a_refused_message_that_a_task_group_was_reading_is_no_error() -> None:
    async def on_data(stream: AsyncStream, _session: object) -> None:
        try:
            await stream.read()
        except StreamAborted as refused:
            raise ExceptionGroup("x", [refused]) from None

    play = Play(on_data=on_data, size=3)
    play.say(DATA)
    assert play.say(b"four\r\n.\r\n").startswith(b"552 5.3.4 ")
    assert not play.errors


def test_a_hook_that_is_lost_with_its_connection_is_answered_nothing() -> None:
    play = Play(on_data=hook)
    play.say(DATA)
    stream = play.stream()
    assert play.lose(ConnectionResetError("reset")) == b""
    assert stream.aborted == "connection_lost"
    play.ends()
    assert play.error()[1] == "stream"


def test_a_hook_that_is_lost_after_the_end_of_data_is_answered_nothing() -> None:
    play = Play(on_data=hook)
    play.say(DATA)
    play.answer(PULL)
    play.say(b".\r\n")
    play.asks("on_data")
    assert play.lose() == b""
    play.ends()


def test_two_messages_in_one_segment_are_two_messages() -> None:
    play = Play(on_data=hook)
    said = play.say((DATA + b"one\r\n.\r\n") + (DATA + b"two\r\n.\r\n"))
    for text in (b"one\r\n", b"two\r\n"):
        asked = play.asks("on_data")
        said += play.answer(PULL)
        said += play.answer(PULL)
        assert asked.pieces == [text, b""]
        said += play.answer()
    assert said.count(QUEUED) == 2


COMES: dict[str, Callable[[Play], bytes]] = {
    "a piece": lambda play: play.say(b"hi\r\n"),
    "the end of the message": lambda play: play.say(b".\r\n"),
    "a bare newline": lambda play: play.say(b"\n"),
    "the end of input": lambda play: play.receive(b""),
    "lost": lambda play: play.lose(),
    "timeout": lambda play: play.tick(60),
    "stop now": lambda play: play.stop(now=True),
    "the end of the hook": lambda play: play.answer(),
}


@pytest.mark.parametrize("what", COMES)
def test_who_reads_for_the_hook_is_woken_whatever_comes(what: str) -> None:
    play, woken = Play(on_data=hook), list[bool]()
    play.say(DATA)
    stream = play.stream()
    play.driver.begin_read(stream)
    assert play.driver.try_read(stream) is None
    stream.reader = lambda: woken.append(True)
    COMES[what](play)
    assert woken


LMTP = b"LHLO a\r\nMAIL FROM:<a@x>\r\n" + b"".join(b"RCPT TO:<%d@y>\r\n" % i for i in range(3)) + b"DATA\r\n"
FINE, SORRY = b"250 2.6.0 OK: message accepted\r\n", b"450 4.2.1 Requested action not taken\r\n"


@pytest.mark.parametrize(
    ("result", "replies", "errors"),
    [
        (None, [FINE] * 3, 0),
        (Reject(), [SORRY] * 3, 0),
        ([None, Reject(), "kept"], [FINE, SORRY, b"250 2.6.0 kept\r\n"], 0),
        ((None, None, None), [FINE] * 3, 0),
        ([None], [FINE, BROKEN, BROKEN], 1),
        ([], [BROKEN] * 3, 1),
        ([Reject()] * 4, [SORRY] * 3, 1),
        ([None, 7, None], [BROKEN] * 3, 1),
        ([None, [None], None], [BROKEN] * 3, 1),
        (OSError("disk"), [BROKEN] * 3, 1),
        (Reject(421, text="go"), [b"421 4.3.2 go\r\n"], 0),
    ],
)
def test_lmtp_answers_once_for_each_recipient(result: Any, replies: list[bytes], errors: int) -> None:
    play = Play(lmtp=True, on_data=hook, greeted=False)
    assert play.say(LMTP).endswith(GO_ON)
    play.answer(PULL)
    said = play.say(b"hi\r\n.\r\n")
    said += play.answer(error=result) if isinstance(result, OSError) else play.answer(result)
    assert said == b"".join(replies)
    assert [info["stage"] for _, info in play.errors] == ["hook"] * errors


def test_a_list_is_an_error_in_smtp() -> None:
    play = Play(on_data=hook)
    play.say(DATA)
    play.answer([None])
    assert play.say(b".\r\n") == BROKEN
