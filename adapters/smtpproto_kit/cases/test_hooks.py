# Hooks: every way in which one of them can answer, and every way in which it can fail. Whatever it
# does, the client gets one proper reply and other connections do not notice.

from __future__ import annotations

import asyncio
import functools
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any, Final, NoReturn

import pytest

from smtpproto import Accept, Challenge, Credentials, Reject, Session
from smtpproto.extending import Mechanism
from smtpproto_kit import DATA, DEADLINE, Client, Running, running, wait_until
from smtpproto_server import Options
from smtpproto_server.adapting import HOOKS, OPTIONAL_HOOKS

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from smtpproto_kit import Runtime

    Hook = Generator[Any, Any, Any]

SECRET: Final = "the text of an exception"
ERROR: Final = "Error: internal error, please try again later"
TICK: Final = 0.005  # seconds between two looks at a condition

# What the hook that fails is asked by, and what the client then reads.
LOGIN: Final = b"AUTH PLAIN AHUAcA==\r\n"
PLACES: Final[dict[str, tuple[bytes, list[str]]]] = {
    "on_connect": (b"", [f"421 {ERROR}"]),
    "on_secure": (b"", [f"421 {ERROR}"]),
    "on_auth": (LOGIN + b"NOOP\r\n", [f"451 4.3.0 {ERROR}", "250 2.0.0 OK"]),
    "on_mail_from": (b"MAIL FROM:<a@x>\r\nNOOP\r\n", [f"451 4.3.0 {ERROR}", "250 2.0.0 OK"]),
    "on_rcpt_to": (
        b"MAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nNOOP\r\n",
        ["250 2.1.0 Accepted", f"451 4.3.0 {ERROR}", "250 2.0.0 OK"],
    ),
    "on_data_start": (
        DATA + b"NOOP\r\n",
        ["250 2.1.0 Accepted", "250 2.1.5 Accepted", f"451 4.3.0 {ERROR}", "250 2.0.0 OK"],
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
    "on_helo": (b"HELO other.test\r\nNOOP\r\n", [f"451 {ERROR}", "250 2.0.0 OK"]),
    "on_vrfy": (b"VRFY me\r\nNOOP\r\n", [f"451 4.3.0 {ERROR}", "250 2.0.0 OK"]),
    "on_expn": (b"EXPN list\r\nNOOP\r\n", [f"451 4.3.0 {ERROR}", "250 2.0.0 OK"]),
    "on_help": (b"HELP\r\nNOOP\r\n", [f"451 4.3.0 {ERROR}", "250 2.0.0 OK"]),
    "on_command": (b"XPING\r\nNOOP\r\n", [f"451 4.3.0 {ERROR}", "250 2.0.0 OK"]),
}
BEFORE_GREETING: Final = ("on_connect", "on_secure")


# --- failures ---------------------------------------------------------------------------------------

# Each makes a hook for the runtime. A generator function gets the runtime's colour, a plain one is
# called in a thread where hooks are coroutines.


def raising(_runtime: Runtime) -> Callable[..., Any]:
    def hook(*_: object) -> Hook:
        yield
        raise RuntimeError(SECRET)

    return hook


def raising_plainly(_runtime: Runtime) -> Callable[..., Any]:
    def hook(*_: object) -> None:
        raise RuntimeError(SECRET)

    return hook


def hanging(runtime: Runtime) -> Callable[..., Any]:
    def hook(*_: object) -> Hook:
        yield runtime.pause(3600)

    return hook


def nonsense(_runtime: Runtime) -> Callable[..., Any]:
    def hook(*_: object) -> Hook:
        yield
        return 42

    return hook


def nonsense_plainly(_runtime: Runtime) -> Callable[..., Any]:
    def hook(*_: object) -> object:
        return object()

    return hook


def stopping_plainly(_runtime: Runtime) -> Callable[..., Any]:
    """What `next` does at the end: a future takes it for no exception at all."""

    def hook(*_: object) -> None:
        raise StopIteration(SECRET)

    return hook


def exiting(_runtime: Runtime) -> Callable[..., Any]:
    def hook(*_: object) -> Hook:
        yield
        raise SystemExit(SECRET)

    return hook


def exiting_plainly(_runtime: Runtime) -> Callable[..., Any]:
    def hook(*_: object) -> None:
        raise SystemExit(SECRET)

    return hook


def cancelled(_runtime: Runtime) -> Callable[..., Any]:
    """Nobody has cancelled it: such as what a loop of the hook's own has left behind."""

    def hook(*_: object) -> Hook:
        yield
        raise asyncio.CancelledError(SECRET)

    return hook


def cancelled_plainly(_runtime: Runtime) -> Callable[..., Any]:
    def hook(*_: object) -> None:
        raise asyncio.CancelledError(SECRET)

    return hook


FAILURES: Final[dict[Callable[[Any], Callable[..., Any]], type[BaseException]]] = {
    raising: RuntimeError,
    raising_plainly: RuntimeError,
    hanging: TimeoutError,
    nonsense: TypeError,
    nonsense_plainly: TypeError,
    stopping_plainly: RuntimeError,
    exiting: SystemExit,
    exiting_plainly: SystemExit,
    cancelled: asyncio.CancelledError,
    cancelled_plainly: asyncio.CancelledError,
}


def called(each: object) -> str:
    """The name of a row."""
    return getattr(each, "__name__", str(each))


def arrived(server: Running, place: str) -> Client:
    """A client that has come as far as the place."""
    client = server.client(tls=place == "on_secure")
    if place == "on_helo":
        client.reply()
    elif place not in BEFORE_GREETING:
        client.greeted()
    return client


def options_for(place: str, hook: object, **more: Any) -> dict[str, Any]:
    """The hook in its place, which can be reached."""
    return {place: hook, "secure": place == "on_secure", "allow_insecure_auth": True, **more}


@pytest.mark.parametrize(
    ("place", "failure"),
    [
        (place, failure)
        for place in PLACES
        for failure in FAILURES
        # Any true value of on_auth is a user, so nothing that it returns is nonsense.
        if not (place == "on_auth" and "nonsense" in failure.__name__)
        and not (place in OPTIONAL_HOOKS and "plainly" in failure.__name__)
    ],
    ids=called,
)
def test_a_hook_that_fails_is_answered_and_reported(
    runtime: Runtime, place: str, failure: Callable[[Runtime], Callable[..., Any]]
) -> None:
    said, expected = PLACES[place]
    options = options_for(place, failure(runtime), hook_timeout=0.1 if failure is hanging else None)
    with running(runtime, **options) as server, arrived(server, place) as client:
        client.send(said + b"QUIT\r\n" if said else b"")
        replies = client.replies()
        assert [reply for reply in replies if not reply.startswith("221 ")] == expected
        assert SECRET not in str(replies)
        wait_until(lambda: server.errors)
        (error, info), *more = server.errors
        assert not more
        assert info["stage"] == "hook"
        assert info["remote_address"] == "127.0.0.1"
        assert isinstance(error, FAILURES[failure])


@pytest.mark.parametrize(
    "failure", [each for each in FAILURES if "nonsense" not in each.__name__], ids=called
)
def test_on_close_that_fails_is_reported_and_nothing_more(
    runtime: Runtime, failure: Callable[[Runtime], Callable[..., Any]]
) -> None:
    limit = 0.1 if failure is hanging else None
    with running(runtime, on_close=failure(runtime), hook_timeout=limit) as server:
        with server.client().greeted() as client:
            assert client.say("QUIT") == "221 2.0.0 Bye"
            assert client.rest() == b""
            wait_until(lambda: server.errors)
            wait_until(lambda: not server.server.peers)
    ((error, info),) = server.errors
    assert info["stage"] == "hook"
    assert isinstance(error, FAILURES[failure])


@pytest.mark.parametrize("place", [*PLACES, "on_close"])
def test_other_connections_do_not_notice_a_hook_that_hangs(runtime: Runtime, place: str) -> None:
    first: list[int] = []

    def hang_the_first(*_: object) -> Hook:
        if not first:
            first.append(1)
            yield runtime.pause(3600)
        return "user" if place == "on_auth" else None

    options = options_for(place, hang_the_first, close_timeout=0.0)
    said = b"QUIT\r\n" if place == "on_close" else PLACES[place][0]
    with running(runtime, **options) as server, server.client(tls=place == "on_secure") as hung:
        if place not in BEFORE_GREETING:
            hung.reply()
            hung.send(said if place == "on_helo" else b"EHLO client.test\r\n" + said)
        wait_until(lambda: first)
        with server.client(tls=place == "on_secure").greeted() as other:
            other.send(DATA + b"hi\r\n.\r\nQUIT\r\n")
            assert "250 2.6.0 OK: message queued" in other.replies()


def test_a_hook_that_was_given_up_is_left_behind_and_its_result_is_nobody_s(runtime: Runtime) -> None:
    gate = threading.Event()
    seen: list[str] = []

    def on_mail_from(address: Any, _session: object) -> Hook:
        if address.local != "slow":
            return Accept(text=f"for {address.local}")
        try:
            for _ in range(int(DEADLINE / TICK)):
                if gate.is_set():
                    break
                yield runtime.pause(TICK)
        except BaseException:
            seen.append("cancelled")
            raise
        seen.append("returned")
        return Reject(text="much too late")

    with running(runtime, on_mail_from=on_mail_from, hook_timeout=0.1) as server:
        with server.client().greeted() as client:
            assert client.say("MAIL FROM:<slow@x>") == f"451 4.3.0 {ERROR}"
            assert seen == (["cancelled"] if runtime.cancels else [])
            assert client.say("MAIL FROM:<quick@x>") == "250 2.1.0 for quick"
            gate.set()
            wait_until(lambda: seen)
            assert client.say("NOOP") == "250 2.0.0 OK"
            assert client.say("RSET", "MAIL FROM:<next@x>") == "250 2.1.0 for next"
            client.send(b"QUIT\r\n")
            assert client.replies() == ["221 2.0.0 Bye"]
        ((error, _),) = server.errors
    assert str(error) == "on_mail_from took longer than hook_timeout"
    assert seen == ["cancelled" if runtime.cancels else "returned"]


def test_a_hook_is_cancelled_or_its_result_dropped_when_the_connection_is_lost(runtime: Runtime) -> None:
    gate = threading.Event()
    seen: list[str] = []

    def on_mail_from(*_args: object) -> Hook:
        seen.append("called")
        try:
            for _ in range(int(DEADLINE / TICK)):
                if gate.is_set():
                    break
                yield runtime.pause(TICK)
        except BaseException:
            seen.append("cancelled")
            raise
        seen.append("returned")

    def on_close(_session: object) -> None:
        seen.append("closed")

    with running(runtime, on_mail_from=on_mail_from, on_close=on_close) as server:
        client = server.client().greeted()
        client.send(b"MAIL FROM:<a@x>\r\n")
        wait_until(lambda: "called" in seen)
        reset(client)
        if not runtime.cancels:
            gate.set()
        wait_until(lambda: "closed" in seen)
        assert seen == ["called", "cancelled" if runtime.cancels else "returned", "closed"]
        assert not server.errors


def reset(client: Client) -> None:
    """Close so that the server gets a reset."""
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def test_a_sasl_mechanism_that_raises_is_a_hook_that_fails(runtime: Runtime) -> None:
    class Faulty(Mechanism):
        def step(self, response: bytes | None) -> NoReturn:
            raise RuntimeError(SECRET, response)

    def make(_session: Session) -> Mechanism:
        return Faulty()

    options: dict[str, Any] = {"auth_methods": ["X-OWN"], "sasl_mechanisms": {"X-OWN": make}}
    with running(runtime, allow_insecure_auth=True, **options) as server:
        with server.client().greeted() as client:
            assert client.say("AUTH X-OWN") == f"451 4.3.0 {ERROR}"
            assert client.say("NOOP") == "250 2.0.0 OK"
            assert [info["stage"] for _, info in server.errors] == ["hook"]


# --- answers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["raise", "return", "raise plainly"])
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
def test_a_refusal_is_returned_or_raised(
    runtime: Runtime, how: str, place: str, refusal: Reject, expected: str
) -> None:
    def refuse(*_: object) -> Hook:
        yield
        if how == "raise":
            raise refusal
        return refusal

    def refuse_plainly(*_: object) -> Reject:
        raise refusal

    options = options_for(place, refuse_plainly if how == "raise plainly" else refuse)
    with running(runtime, **options) as server, arrived(server, place) as client:
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
def test_what_a_hook_returns_is_read_as_its_place_says(
    runtime: Runtime, place: str, answer: object, expected: str
) -> None:
    def hook(*_: object) -> Hook:
        yield
        return answer

    with running(runtime, **options_for(place, hook)) as server, server.client().greeted() as client:
        client.send(PLACES[place][0] + b"QUIT\r\n")
        assert expected in client.replies()


def test_on_auth_may_ask_one_thing_more(runtime: Runtime) -> None:
    def on_auth(auth: Credentials, _session: Session) -> Hook:
        yield
        if auth.response is None:
            return Challenge(b"Code:")
        return auth.username if auth.response == b"123" else None

    with running(runtime, **options_for("on_auth", on_auth)) as server, server.client().greeted() as client:
        assert client.say("AUTH PLAIN AHUAcA==") == "334 Q29kZTo="
        assert client.say("MTI0") == "535 5.7.8 Error: Authentication credentials invalid"
        assert client.say("AUTH PLAIN AHUAcA==", "MTIz") == "235 2.7.0 Authentication successful"


def test_without_on_auth_nobody_logs_in(runtime: Runtime) -> None:
    with running(runtime, allow_insecure_auth=True) as server, server.client().greeted() as client:
        assert client.say("AUTH PLAIN AHUAcA==") == "535 5.7.8 Authentication not implemented"


# --- where hooks come from, and where they run --------------------------------------------------------


def test_hooks_are_options_methods_or_attributes_set_later(runtime: Runtime) -> None:
    def named(text: str) -> Callable[..., Any]:
        def hook(*_: object) -> Hook:
            yield
            return Accept(text=text)

        return runtime.coloured(hook)

    own = type("Own", (runtime.server_class,), {"on_mail_from": named("method")})
    handler = type("Handler", (), {"on_mail_from": named("handler")})()
    ways: list[tuple[dict[str, Any], str]] = [
        ({"server": own}, "method"),
        ({"handler": handler}, "handler"),
        ({"on_mail_from": named("option")}, "option"),
        ({"server": own, "on_mail_from": named("option"), "handler": handler}, "option"),
        ({"server": own, "handler": handler}, "method"),
    ]
    for how, expected in ways:
        with running(runtime, **how) as server, server.client().greeted() as client:
            assert client.say("MAIL FROM:<a@x>") == f"250 2.1.0 {expected}"
            server.server.on_mail_from = named("later")
            assert client.say("RSET", "MAIL FROM:<a@x>") == "250 2.1.0 later"
            server.server.on_mail_from = None
            assert client.say("RSET", "MAIL FROM:<a@x>") == "250 2.1.0 Accepted"


def test_optional_questions_are_asked_when_the_handler_defines_them(runtime: Runtime) -> None:
    class Handler:
        def on_helo(self, verb: str, name: str, _session: object) -> Hook:
            yield
            return Reject(text=f"{verb} {name} no") if name == "bad.test" else None

        def on_vrfy(self, argument: str, _session: object) -> Hook:
            yield
            return Accept(250, text=f"<{argument}@x.test>")

        def on_expn(self, argument: str, _session: object) -> Hook:
            yield
            return Accept(text=[f"<{argument}1@x.test>", f"<{argument}2@x.test>"])

        def on_help(self, argument: str, _session: object) -> Hook:
            yield
            return Accept(text=f"no help on {argument}")

        def on_command(self, verb: str, argument: str, _session: object) -> Hook:
            yield
            return Accept(299, text=argument) if verb == "XPING" else None

        def on_data_start(self, _session: object) -> Hook:
            yield
            return Reject()

    with running(runtime, handler=Handler()) as server, server.client() as client:
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
def test_plain_hooks_run_where_sync_hooks_says(runtime: Runtime, sync_hooks: str) -> None:
    ran: dict[str, int] = {}

    def on_mail_from(*_: object) -> None:
        ran["on_mail_from"] = threading.get_ident()

    def on_data(stream: Any, _session: object) -> str:
        ran["on_data"] = threading.get_ident()
        return str(len(b"".join(stream)))

    options: dict[str, Any] = {"on_mail_from": on_mail_from, "on_data": on_data, "sync_hooks": sync_hooks}
    with running(runtime, **options) as server, server.client().greeted() as client:
        client.send(DATA + b"hi\r\n.\r\nQUIT\r\n")
        assert "250 2.6.0 4" in client.replies()
        loop = server.call(threading.get_ident)
    if runtime.coroutines:
        assert ran["on_data"] != loop
        assert (ran["on_mail_from"] == loop) == (sync_hooks == "inline")
    elif runtime.own_thread:
        assert ran["on_mail_from"] == ran["on_data"]


# --- colours ----------------------------------------------------------------------------------------


async def coroutine_function(*_: object) -> None:
    raise AssertionError("it must not run")


class Called:
    async def __call__(self, *_: object) -> None:
        raise AssertionError("it must not run")


COROUTINE_FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    "function": coroutine_function,
    "partial": functools.partial(coroutine_function, "of more"),
    "object": Called(),
}


@pytest.mark.parametrize("kind", COROUTINE_FUNCTIONS)
@pytest.mark.parametrize("name", [*HOOKS, *OPTIONAL_HOOKS])
def test_a_coroutine_function_is_a_hook_only_where_there_are_coroutines(
    runtime: Runtime, name: str, kind: str
) -> None:
    hook = COROUTINE_FUNCTIONS[kind]
    own = type("Own", (runtime.server_class,), {name: staticmethod(hook)})
    handler = type("Handler", (), {name: staticmethod(hook)})()
    ways: list[tuple[type[Any], Options]] = [
        (runtime.server_class, Options(**options_for(name, hook))),
        (runtime.server_class, Options(handler=handler)),
        (own, Options()),
    ]
    for server_class, options in ways:
        if runtime.coroutines:
            assert getattr(server_class(options), name) is hook
        else:
            with pytest.raises(TypeError) as raised:
                server_class(options)
            assert str(raised.value) == f"{name} is a coroutine function; this runtime takes plain functions"


def test_a_resolver_is_asked_for_its_colour_too(runtime: Runtime) -> None:
    class Resolver:
        reverse = coroutine_function

    if runtime.coroutines:
        runtime.server_class(Options(resolver=Resolver()))
    else:
        with pytest.raises(TypeError, match=r"resolver is a coroutine function; .* takes plain functions"):
            runtime.server_class(Options(resolver=Resolver()))


@pytest.mark.parametrize("place", PLACES)
def test_a_plain_hook_that_gives_a_coroutine_fails_where_hooks_are_plain(
    runtime: Runtime, place: str
) -> None:
    if runtime.coroutines:
        pytest.skip("hooks may be coroutine functions")

    def gives_a_coroutine(*args: Any) -> Any:
        return coroutine_function(*args)

    said, expected = PLACES[place]
    with running(runtime, **options_for(place, None)) as server:
        with pytest.raises(TypeError, match=f"{place} is a coroutine function; .* takes plain functions"):
            setattr(server.server, place, coroutine_function)
        setattr(server.server, place, gives_a_coroutine)
        with arrived(server, place) as client:
            client.send(said + b"QUIT\r\n" if said else b"")
            assert [reply for reply in client.replies() if not reply.startswith("221 ")] == expected
            wait_until(lambda: server.errors)
    ((error, info),) = server.errors
    assert isinstance(error, TypeError)
    assert str(error).endswith(" gave a coroutine; this runtime takes plain functions")
    assert info["stage"] == "hook"
    # And no warning of a coroutine that was never awaited: `running` looks for it.
