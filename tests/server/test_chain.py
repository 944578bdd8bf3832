# Handlers in a row: who is asked, whose answer counts, and what can be no chain.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from server.scripted import BROKEN, DATA, GO_ON, QUEUED, Cancelled, Play, ScriptedServer, hook
from smtpproto import Accept, Challenge, Reject
from smtpproto_server import Options, chain

if TYPE_CHECKING:
    from collections.abc import Callable

    from smtpproto import Session
    from smtpproto_server import Stream

MAIL, RCPT = b"MAIL FROM:<a@x.test>\r\n", b"RCPT TO:<b@y.test>\r\n"
ACCEPTED = b"250 2.1.0 Accepted\r\n"
LOGIN = b"AUTH PLAIN AHUAcA==\r\n"
NO_LOGIN = b"535 5.7.8 Error: Authentication credentials invalid\r\n"


class Member:
    """A handler with the hooks that it is given."""

    def __init__(self, **hooks: Any) -> None:
        self.__dict__.update(hooks)


class PlainOnly(ScriptedServer):
    coroutines = False


def says(value: object, asked: list[object] | None = None) -> Callable[..., Any]:
    """A hook that returns this, or raises it."""

    async def answering(*_: object) -> Any:
        if asked is not None:
            asked.append(value)
        if isinstance(value, Exception):
            raise value
        return value

    return answering


def plainly(value: object, asked: list[object] | None = None) -> Callable[..., Any]:
    def answering(*_: object) -> Any:
        if asked is not None:
            asked.append(value)
        if isinstance(value, Exception):
            raise value
        return value

    return answering


def gives_a_coroutine(*args: object) -> Any:
    return hook(*args)


def members(name: str, *hooks: Callable[..., Any]) -> Any:
    return chain(*(Member(**{name: each}) for each in hooks))


def ask(line: bytes, handler: Any, **options: Any) -> bytes:
    """What a client that says this is answered by hooks that do not wait."""
    play = Play(handler=handler, sync_hooks="inline", **options)
    return play.say(line)


REFUSED, OTHER = Reject(550, "5.7.1", "Not you"), Reject(551, "5.7.1", "Nor you")
FRIEND, BETTER = Accept(250, "2.1.0", "Friend"), Accept(250, "2.1.0", "Better")


# --- whose answer counts ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "asked", "reply"),
    [
        ([None, None], 2, ACCEPTED),
        ([None, Accept()], 2, ACCEPTED),
        ([Accept(), FRIEND, BETTER, None], 4, b"250 2.1.0 Friend\r\n"),
        ([REFUSED, None, OTHER], 1, b"550 5.7.1 Not you\r\n"),
        ([FRIEND, REFUSED, OTHER], 2, b"550 5.7.1 Not you\r\n"),
        ([None, OTHER], 2, b"551 5.7.1 Nor you\r\n"),
        ([ValueError("broken"), REFUSED], 1, BROKEN),
        ([None, "a text", REFUSED], 2, BROKEN),
    ],
)
@pytest.mark.parametrize("kind", [says, plainly], ids=["coroutines", "plain"])
def test_the_first_reject_counts_and_else_the_first_accept_that_says_more_than_yes(
    kind: Callable[..., Any], said: list[object], asked: int, reply: bytes
) -> None:
    seen: list[object] = []
    assert ask(MAIL, members("on_mail_from", *(kind(each, seen) for each in said))) == reply
    assert seen == said[:asked]


def test_a_reject_may_be_raised() -> None:
    seen: list[object] = []

    async def raising(*_: object) -> None:
        raise OTHER

    assert ask(MAIL, members("on_mail_from", raising, says(None, seen))) == b"551 5.7.1 Nor you\r\n"
    assert seen == []


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (b"HELO a\r\n", "on_helo"),
        (MAIL, "on_mail_from"),
        (MAIL + RCPT, "on_rcpt_to"),
        (DATA, "on_data_start"),
        (b"VRFY me\r\n", "on_vrfy"),
        (b"EXPN us\r\n", "on_expn"),
        (b"HELP\r\n", "on_help"),
    ],
)
def test_each_hook_that_says_yes_or_no_is_asked_of_all(line: bytes, name: str) -> None:
    seen: list[object] = []
    refusing = members(name, says(None, seen), plainly(None, seen), says(REFUSED, seen), says(None, seen))
    assert ask(line, refusing).endswith(b" Not you\r\n")
    assert seen[-3:] == [None, None, REFUSED]


@pytest.mark.parametrize(
    ("said", "asked", "reply"),
    [
        ([None, Accept(user="me"), REFUSED], 2, b"235 2.7.0 Authentication successful\r\n"),
        ([None, "me"], 2, b"235 2.7.0 Authentication successful\r\n"),
        ([None, False, "me"], 2, NO_LOGIN),
        ([REFUSED, "me"], 1, b"550 5.7.1 Not you\r\n"),
        ([None, None], 2, NO_LOGIN),
    ],
)
def test_the_first_answer_to_a_login_counts_and_none_is_a_refusal(
    said: list[object], asked: int, reply: bytes
) -> None:
    seen: list[object] = []
    handler = members("on_auth", *(says(each, seen) for each in said))
    assert ask(LOGIN, handler, allow_insecure_auth=True) == reply
    assert seen == said[:asked]


def test_all_are_asked_again_with_the_answer_to_a_challenge() -> None:
    seen: list[object] = []

    async def second_factor(auth: Any, _session: Session) -> Any:
        return Challenge(b"code?") if auth.response is None else auth.response

    play = Play(handler=members("on_auth", says(None, seen), second_factor), allow_insecure_auth=True)
    assert play.say(LOGIN) == b"334 Y29kZT8=\r\n"
    assert play.say(b"MTIz\r\n") == b"235 2.7.0 Authentication successful\r\n"
    assert seen == [None, None]


def test_the_first_to_whom_a_command_belongs_answers_it() -> None:
    seen: list[object] = []
    pong = Accept(250, "2.0.0", "Pong")
    handler = members("on_command", says(None, seen), says(pong, seen), says(REFUSED, seen))
    assert ask(b"XPING\r\n", handler) == b"250 2.0.0 Pong\r\n"
    assert seen == [None, pong]
    nobody = members("on_command", says(None), says(None))
    assert ask(b"XPING\r\n", nobody).startswith(b"500 ")


@pytest.mark.parametrize("kind", [says, plainly], ids=["coroutines", "plain"])
def test_on_close_is_called_of_all_whatever_one_of_them_raises(kind: Callable[..., Any]) -> None:
    seen: list[object] = []
    one, two = ValueError("one"), KeyError("two")
    handler = members("on_close", kind(None, seen), kind(one, seen), kind(True, seen), kind(two, seen))
    play = Play(handler=handler, sync_hooks="inline")
    play.say(b"QUIT\r\n")
    play.lose()
    play.ends()
    assert seen == [None, one, True, two]
    error, stage = play.error()
    assert isinstance(error, ExceptionGroup)
    assert list(map(repr, cast("ExceptionGroup[Exception]", error).exceptions)) == [repr(one), repr(two)]
    assert stage == "hook"


def test_one_error_of_on_close_is_reported_as_it_is() -> None:
    fault = ValueError("one")
    play = Play(handler=members("on_close", says(fault), says(None)))
    play.lose()
    play.ends()
    assert play.error() == (fault, "hook")


# --- coroutines and plain functions -------------------------------------------------------------------


def test_a_plain_hook_is_called_apart_and_a_coroutine_is_awaited_each_in_its_turn() -> None:
    seen: list[object] = []
    play = Play(handler=members("on_mail_from", hook, plainly(None, seen), hook, plainly(FRIEND, seen)))
    assert play.say(MAIL) == b""
    assert len(play.asks("on_mail_from").args) == 2
    assert play.answer() == b""
    assert play.asks("on_mail_from").call is not None
    assert seen == []
    assert play.call() == b""
    assert seen == [None]
    assert play.answer() == b""
    assert play.call() == b"250 2.1.0 Friend\r\n"
    assert seen == [None, FRIEND]


def test_a_plain_hook_may_give_something_to_be_awaited() -> None:
    play = Play(handler=members("on_mail_from", gives_a_coroutine, plainly(REFUSED)))
    assert play.say(MAIL) == b""
    assert play.call() == b""
    assert play.answer() == b""
    assert play.call() == b"550 5.7.1 Not you\r\n"


def test_a_plain_hook_that_raises_stop_iteration_has_failed() -> None:
    play = Play(handler=members("on_mail_from", plainly(None), plainly(StopIteration("no"))))
    play.say(MAIL)
    play.call()
    assert play.call() == BROKEN
    assert isinstance(play.error()[0], RuntimeError)


def test_hook_timeout_is_for_all_of_them_together() -> None:
    seen: list[object] = []
    play = Play(handler=members("on_mail_from", hook, hook, plainly(None, seen)), hook_timeout=7)
    play.say(MAIL)
    assert play.tick(4) == b""
    assert play.answer() == b""
    assert play.tick(4) == BROKEN
    assert seen == []
    assert play.say(b"NOOP\r\n") == b"250 2.0.0 OK\r\n"


def test_a_plain_member_that_was_given_up_keeps_its_session_and_the_others_are_not_asked() -> None:
    seen: list[object] = []
    play = Play(handler=members("on_mail_from", plainly(None), says(None, seen)), hook_timeout=7)
    session = play.driver.session
    play.say(MAIL)
    assert play.tick(8) == BROKEN
    assert play.driver.session is not session
    assert seen == []


def test_a_coroutine_member_that_was_given_up_leaves_the_session_to_the_connection() -> None:
    play = Play(handler=members("on_mail_from", plainly(None), hook), hook_timeout=7)
    session = play.driver.session
    play.say(MAIL)
    play.call()
    assert play.tick(8) == BROKEN
    assert play.driver.session is session


def test_what_cancels_on_close_cancels_it_for_all() -> None:
    seen: list[object] = []
    play = Play(handler=members("on_close", hook, says(None, seen)), hook_timeout=7)
    play.lose()
    play.asks("on_close")
    play.answer(error=Cancelled())
    play.ends()
    assert seen == []


def test_plain_members_are_called_one_after_the_other_on_an_empty_stack() -> None:
    seen: list[object] = []
    handler = members("on_mail_from", plainly(None, seen), plainly(FRIEND, seen), plainly(None, seen))
    play = Play(handler=handler, coroutines=False)
    assert play.say(MAIL) == b""
    assert play.call() == b"250 2.1.0 Friend\r\n"
    assert seen == [None, FRIEND, None]


def test_a_member_that_gives_a_coroutine_where_there_are_none_has_failed() -> None:
    handler = members("on_mail_from", plainly(None), gives_a_coroutine, plainly(None))
    play = Play(handler=handler, coroutines=False)
    play.say(MAIL)
    assert play.call() == BROKEN
    assert "on_mail_from gave a coroutine" in str(play.error()[0])


# --- what a chain has ---------------------------------------------------------------------------------


def test_a_chain_has_the_hooks_of_its_members_and_no_others() -> None:
    handler = chain(Member(on_mail_from=says(None), on_vrfy=None), Member(on_rcpt_to=says(None)))
    play = Play(handler=handler)
    assert play.server.on_mail_from is not None
    assert play.server.on_rcpt_to is not None
    assert play.server.on_data is None
    assert play.server.on_vrfy is None
    assert play.say(b"VRFY a\r\n").startswith(b"252 ")


def test_a_hook_that_one_member_has_is_that_member_s_own() -> None:
    own = says(None)
    assert Play(handler=chain(Member(on_mail_from=own), Member(on_help=own))).server.on_mail_from is own


def test_on_data_is_its_owner_s() -> None:
    async def on_data(stream: Any, _session: Session) -> str:
        return f"{len(await stream.read())} octets"

    play = Play(handler=chain(Member(on_mail_from=says(None)), Member(on_data=on_data)))
    assert play.say(DATA).endswith(GO_ON)
    assert play.say(b"hi\r\n.\r\n") == b"250 2.6.0 4 octets\r\n"


def test_without_an_owner_of_on_data_messages_are_accepted() -> None:
    assert ask(DATA + b"hi\r\n.\r\n", members("on_mail_from", says(None), says(None))).endswith(QUEUED)


class Store:
    def on_data(self, stream: Stream, session: Session) -> None: ...


class Relay(Store):
    pass


def test_two_owners_of_on_data_are_a_type_error() -> None:
    with pytest.raises(TypeError, match="one handler of a chain may have on_data, and Store and Relay have"):
        chain(Store(), Relay())


def test_chains_nest() -> None:
    seen: list[object] = []
    inner = members("on_mail_from", says(FRIEND, seen), plainly(None, seen))
    outer = chain(Member(on_mail_from=says(None, seen)), inner, Member(on_mail_from=says(BETTER, seen)))
    assert ask(MAIL, outer) == b"250 2.1.0 Friend\r\n"
    assert seen == [None, FRIEND, None, BETTER]


def test_an_option_takes_the_place_of_the_chain_s_hook() -> None:
    handler = members("on_mail_from", says(None), says(REFUSED))
    assert ask(MAIL, handler, on_mail_from=says(FRIEND)) == b"250 2.1.0 Friend\r\n"


class Misspelt:
    def on_rcpt(self, address: object, session: object) -> None: ...


class TakesTooLittle:
    def on_rcpt_to(self, session: object) -> None: ...


@pytest.mark.parametrize(
    ("member", "fault"),
    [
        (Misspelt(), "Misspelt.on_rcpt is no hook; did you mean on_rcpt_to?"),
        (TakesTooLittle(), r"on_rcpt_to is called with \(address, session\)"),
        (TakesTooLittle, "handler is the class TakesTooLittle"),
        (object(), "the handler object has no hook"),
        (None, "the handler NoneType has no hook"),
        (Member(on_rcpt_to="yes"), "on_rcpt_to must be a function, not str"),
    ],
)
def test_what_is_wrong_with_a_member_is_said_when_the_chain_is_made(member: object, fault: str) -> None:
    with pytest.raises(TypeError, match=fault):
        chain(Member(on_mail_from=says(None)), member)


def test_a_chain_of_nobody_is_no_handler() -> None:
    with pytest.raises(TypeError, match="the handler Chain has no hook"):
        Options(handler=chain())


def test_a_coroutine_member_is_refused_where_hooks_are_plain() -> None:
    handler = members("on_mail_from", plainly(None), says(None))
    with pytest.raises(TypeError, match="on_mail_from is a coroutine function"):
        PlainOnly(handler=handler)
