# Hooks on asyncio: every way in which one of the seven can answer, and every way in which it can
# fail. Whatever it does, the client gets one proper reply and other connections do not notice.

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from running import DATA, RUNTIMES, Client, Running, running, wait_until
from smtpproto import Accept, Challenge, Credentials, Mechanism, Reject, Session
from smtpproto_asyncio import SMTPServer

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = "the text of an exception"
EHLO = b"EHLO client.test\r\n"
ERROR = "Error: internal error, please try again later"


async def raising(*_: object) -> None:
    raise RuntimeError(SECRET)


async def hanging(*_: object) -> None:
    await asyncio.Event().wait()


async def nonsense(*_: object) -> object:
    return 42


def raising_in_thread(*_: object) -> None:
    raise RuntimeError(SECRET)


def nonsense_in_thread(*_: object) -> object:
    return object()


async def exiting(*_: object) -> None:
    raise asyncio.CancelledError  # a hook that mistakes cancellation for an answer


# What the hook that fails is asked by, and what the client then reads.
LOGIN = b"AUTH PLAIN AHUAcA==\r\n"
PLACES: dict[str, tuple[bytes, list[str]]] = {
    "on_connect": (b"", [f"421 {ERROR}"]),
    "on_secure": (b"", [f"421 {ERROR}"]),
    "on_auth": (LOGIN + b"NOOP\r\n", [f"451 4.3.0 {ERROR}", "250 2.0.0 OK"]),
    "on_mail_from": (b"MAIL FROM:<a@x>\r\nNOOP\r\n", [f"451 4.3.0 {ERROR}", "250 2.0.0 OK"]),
    "on_rcpt_to": (
        b"MAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nNOOP\r\n",
        ["250 2.1.0 Accepted", f"451 4.3.0 {ERROR}", "250 2.0.0 OK"],
    ),
    "on_data": (
        DATA + b"hi\r\n.\r\nNOOP\r\n",
        [
            "250 2.1.0 Accepted",
            "250 2.1.5 Accepted",
            "354 End data with <CR><LF>.<CR><LF>",
            f"451 4.3.0 {ERROR}",
            "250 2.0.0 OK",
        ],
    ),
}
FAILURES = [raising, hanging, nonsense, raising_in_thread, nonsense_in_thread]


def greeted_or_not(server: Running, place: str) -> Client:
    """A client that has come as far as the place."""
    client = server.client(tls=place == "on_secure")
    if place not in ("on_connect", "on_secure"):
        client.greeted()
    return client


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    ("place", "failure"),
    [
        (place, failure)
        for place in PLACES
        for failure in FAILURES
        # Any true value of on_auth is a user, so nothing that it returns is nonsense.
        if not (place == "on_auth" and "nonsense" in failure.__name__)
    ],
    ids=lambda each: getattr(each, "__name__", each),
)
def test_a_hook_that_fails_is_answered_and_reported(
    runtime: str, place: str, failure: Callable[..., Any]
) -> None:
    said, expected = PLACES[place]
    hooks: dict[str, Any] = {place: failure, "hook_timeout": 0.2, "allow_insecure_auth": True}
    with (
        running(runtime, secure=place == "on_secure", **hooks) as server,
        greeted_or_not(server, place) as client,
    ):
        client.send(said + b"QUIT\r\n" if said else b"")
        replies = client.replies()
        assert [reply for reply in replies if not reply.startswith("221 ")] == expected
        assert SECRET not in str(replies)
        wait_until(lambda: server.errors)
        (error, info), *more = server.errors
        assert not more
        assert info["stage"] == "hook"
        assert info["remote_address"] == "127.0.0.1"
        assert isinstance(error, RuntimeError | TimeoutError | TypeError)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("failure", [raising, hanging, raising_in_thread], ids=lambda each: each.__name__)
def test_on_close_that_fails_is_reported_and_nothing_more(runtime: str, failure: Callable[..., Any]) -> None:
    with running(runtime, on_close=failure, hook_timeout=0.2) as server, server.client().greeted() as client:
        assert client.say("QUIT") == "221 2.0.0 Bye"
        assert client.rest() == b""
        wait_until(lambda: server.errors)
        assert server.errors[0][1]["stage"] == "hook"


@pytest.mark.parametrize("place", [*PLACES, "on_close"])
def test_other_connections_do_not_notice_a_hook_that_hangs(place: str) -> None:
    first: list[int] = []

    async def hang_the_first(*_: object) -> object:
        if not first:
            first.append(1)
            await asyncio.Event().wait()
        return "user" if place == "on_auth" else None

    options: dict[str, Any] = {place: hang_the_first, "close_timeout": 0.0, "allow_insecure_auth": True}
    tls = place == "on_secure"
    with running(secure=tls, **options) as server, server.client(tls=tls) as hung:
        if place not in ("on_connect", "on_secure"):
            hung.greeted().send(PLACES.get(place, (b"QUIT\r\n",))[0])
        wait_until(lambda: first)
        with server.client(tls=tls).greeted() as other:
            other.send(DATA + b"hi\r\n.\r\nQUIT\r\n")
            assert "250 2.6.0 OK: message queued" in other.replies()


@pytest.mark.parametrize("how", ["raise", "return", "raise in a thread"])
@pytest.mark.parametrize(
    ("place", "refusal", "expected"),
    [
        ("on_connect", Reject(), "554 Transaction failed"),
        ("on_connect", Reject(421, text="go"), "421 go"),
        ("on_secure", Reject(), "554 Transaction failed"),
        ("on_auth", Reject(), "535 5.7.8 Error: Authentication credentials invalid"),
        ("on_auth", Reject(454, text="later"), "454 4.7.0 later"),
        ("on_mail_from", Reject(), "550 5.1.1 Requested action not taken"),
        ("on_mail_from", Reject(451, "4.7.1", "greylisted"), "451 4.7.1 greylisted"),
        ("on_rcpt_to", Reject(text="5.1.1 no such user"), "550 5.1.1 no such user"),
        ("on_rcpt_to", Reject(556), "556 5.1.10 Request refused"),
        ("on_data", Reject(), "450 4.2.1 Requested action not taken"),
        ("on_data", Reject(550, text="spam\r\n250 ok"), "550-5.7.1 spam\n550 5.7.1 250 ok"),
    ],
)
def test_a_refusal_is_returned_or_raised(how: str, place: str, refusal: Reject, expected: str) -> None:
    async def refuse(*_: object) -> Reject:
        if how == "raise":
            raise refusal
        return refusal

    def refuse_in_thread(*_: object) -> Reject:
        raise refusal

    hook = refuse_in_thread if how == "raise in a thread" else refuse
    options: dict[str, Any] = {place: hook, "allow_insecure_auth": True}
    with running(secure=place == "on_secure", **options) as server, greeted_or_not(server, place) as client:
        client.send(PLACES[place][0])
        client.send(b"QUIT\r\n" if PLACES[place][0] else b"")
        assert expected in client.replies()
        assert not server.errors


@pytest.mark.parametrize(
    ("place", "answer", "expected"),
    [
        ("on_mail_from", None, "250 2.1.0 Accepted"),
        ("on_mail_from", Accept(text="hello"), "250 2.1.0 hello"),
        ("on_rcpt_to", Accept(251, text="will forward"), "251 2.1.5 will forward"),
        ("on_data", None, "250 2.6.0 OK: message queued"),
        ("on_data", "stored as 7", "250 2.6.0 stored as 7"),
        ("on_data", Accept(text="2.5.0 so"), "250 2.5.0 so"),
        ("on_data", ["a list"], f"451 4.3.0 {ERROR}"),
        ("on_mail_from", Accept(251), f"451 4.3.0 {ERROR}"),
        ("on_mail_from", "text", f"451 4.3.0 {ERROR}"),
        ("on_auth", True, "235 2.7.0 Authentication successful"),
        ("on_auth", {"name": "u"}, "235 2.7.0 Authentication successful"),
        ("on_auth", Accept(user="u"), "235 2.7.0 Authentication successful"),
        ("on_auth", None, "535 5.7.8 Error: Authentication credentials invalid"),
        ("on_auth", False, "535 5.7.8 Error: Authentication credentials invalid"),
        ("on_auth", "", "535 5.7.8 Error: Authentication credentials invalid"),
        ("on_auth", Accept(), "535 5.7.8 Error: Authentication credentials invalid"),
        ("on_auth", RuntimeError("to be raised"), f"451 4.3.0 {ERROR}"),
        ("on_auth", Reject, f"451 4.3.0 {ERROR}"),
    ],
)
def test_what_a_hook_returns_is_read_as_its_place_says(place: str, answer: object, expected: str) -> None:
    async def hook(*_: object) -> object:
        return answer

    options: dict[str, Any] = {place: hook, "allow_insecure_auth": True}
    with running(**options) as server, server.client().greeted() as client:
        client.send(PLACES[place][0] + b"QUIT\r\n")
        assert expected in client.replies()


def test_on_auth_may_ask_one_thing_more() -> None:
    async def on_auth(auth: Credentials, _session: Session) -> Challenge | str | None:
        if auth.response is None:
            return Challenge(b"Code:")
        return auth.username if auth.response == b"123" else None

    with running(allow_insecure_auth=True, on_auth=on_auth) as server, server.client().greeted() as client:
        assert client.say("AUTH PLAIN AHUAcA==") == "334 Q29kZTo="
        assert client.say("MTI0") == "535 5.7.8 Error: Authentication credentials invalid"
        assert client.say("AUTH PLAIN AHUAcA==", "MTIz") == "235 2.7.0 Authentication successful"


def test_without_on_auth_nobody_logs_in() -> None:
    with running(allow_insecure_auth=True) as server, server.client().greeted() as client:
        assert client.say("AUTH PLAIN AHUAcA==") == "535 5.7.8 Authentication not implemented"


def test_hooks_are_options_methods_or_attributes_set_later() -> None:
    class Own(SMTPServer):
        async def on_mail_from(self, *_: object) -> Accept:
            return Accept(text="method")

    class Handler:
        async def on_mail_from(self, *_: object) -> Accept:
            return Accept(text="handler")

    async def option(*_: object) -> Accept:
        return Accept(text="option")

    async def later(*_: object) -> Accept:
        return Accept(text="later")

    ways: list[tuple[dict[str, Any], str]] = [
        ({"server": Own}, "method"),
        ({"handler": Handler()}, "handler"),
        ({"on_mail_from": option}, "option"),
        ({"server": Own, "on_mail_from": option, "handler": Handler()}, "option"),
        ({"server": Own, "handler": Handler()}, "method"),
    ]
    for how, expected in ways:
        with running(**how) as server, server.client().greeted() as client:
            assert client.say("MAIL FROM:<a@x>") == f"250 2.1.0 {expected}"
            server.server.on_mail_from = later
            assert client.say("RSET", "MAIL FROM:<a@x>") == "250 2.1.0 later"
            server.server.on_mail_from = None
            assert client.say("RSET", "MAIL FROM:<a@x>") == "250 2.1.0 Accepted"


def test_optional_questions_are_asked_when_the_handler_defines_them() -> None:
    class Handler:
        async def on_helo(self, verb: str, name: str, _session: object) -> Reject | None:
            return Reject(text=f"{verb} {name} no") if name == "bad.test" else None

        async def on_vrfy(self, argument: str, _session: object) -> Accept:
            return Accept(250, text=f"<{argument}@x.test>")

        async def on_expn(self, argument: str, _session: object) -> Accept:
            return Accept(text=[f"<{argument}1@x.test>", f"<{argument}2@x.test>"])

        async def on_help(self, argument: str, _session: object) -> Accept:
            return Accept(text=f"no help on {argument}")

        async def on_command(self, verb: str, argument: str, _session: object) -> Accept | None:
            return Accept(299, text=argument) if verb == "XPING" else None

        async def on_data_start(self, _session: object) -> Reject:
            return Reject()

    with running(handler=Handler()) as server, server.client() as client:
        assert client.reply() == "220 mx.test ESMTP"
        assert client.say("EHLO bad.test") == "550 EHLO bad.test no"
        assert client.say("EHLO good.test").startswith("250-mx.test")
        assert client.say("VRFY me") == "250 2.0.0 <me@x.test>"
        assert client.say("EXPN l") == "250-2.0.0 <l1@x.test>\n250 2.0.0 <l2@x.test>"
        assert client.say("HELP me") == "214 2.0.0 no help on me"
        assert client.say("XPING pong") == "299 2.0.0 pong"
        assert client.say("XPONG ping") == "500 5.5.2 Error: command not recognized"
        assert client.say("MAIL FROM:<a@x>", "RCPT TO:<b@y>", "DATA") == "554 5.6.0 Transaction failed"


@pytest.mark.parametrize("sync_hooks", ["thread", "inline"])
def test_plain_hooks_run_where_sync_hooks_says(sync_hooks: str) -> None:
    ran: dict[str, str] = {}

    def on_mail_from(*_: object) -> None:
        ran["on_mail_from"] = threading.current_thread().name

    def on_data(stream: Any, _session: object) -> str:
        ran["on_data"] = threading.current_thread().name
        return str(len(b"".join(stream)))

    options: dict[str, Any] = {"on_mail_from": on_mail_from, "on_data": on_data, "sync_hooks": sync_hooks}
    with running(**options) as server, server.client().greeted() as client:
        client.send(DATA + b"hi\r\n.\r\nQUIT\r\n")
        assert "250 2.6.0 4" in client.replies()
    assert ran["on_data"].startswith("smtpproto-hook")
    assert ran["on_mail_from"].startswith("smtpproto-hook") == (sync_hooks == "thread")


def test_a_coroutine_hook_is_cancelled_when_the_connection_is_lost() -> None:
    seen: list[str] = []

    async def on_mail_from(*_: object) -> None:
        seen.append("called")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def on_close(_session: object) -> None:
        seen.append("closed")

    with running(on_mail_from=on_mail_from, on_close=on_close) as server:
        client = server.client().greeted()
        client.send(b"MAIL FROM:<a@x>\r\n")
        wait_until(lambda: "called" in seen)
        reset(client)
        wait_until(lambda: "closed" in seen)
        assert seen == ["called", "cancelled", "closed"]
        assert not server.errors


def test_a_hook_that_raises_cancelled_error_by_itself_has_failed_like_any_other() -> None:
    with running(on_mail_from=exiting) as server, server.client().greeted() as client:
        assert client.say("MAIL FROM:<a@x>") == f"451 4.3.0 {ERROR}"
        assert client.say("NOOP") == "250 2.0.0 OK"
        assert isinstance(server.errors[0][0], asyncio.CancelledError)


def reset(client: Client) -> None:
    """Close so that the server gets a reset."""
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def test_a_sasl_mechanism_that_raises_is_a_hook_that_fails() -> None:
    class Faulty(Mechanism):
        def step(self, response: bytes | None) -> NoReturn:
            raise RuntimeError(SECRET, response)

    def make(_session: Session) -> Mechanism:
        return Faulty()

    options: dict[str, Any] = {"auth_methods": ["X-OWN"], "sasl_mechanisms": {"X-OWN": make}}
    with running(allow_insecure_auth=True, **options) as server, server.client().greeted() as client:
        assert client.say("AUTH X-OWN") == f"451 4.3.0 {ERROR}"
        assert client.say("NOOP") == "250 2.0.0 OK"
        assert [info["stage"] for _, info in server.errors] == ["hook"]
