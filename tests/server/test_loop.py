# The server loop without I/O: the test is the adapter. It reads each effect and says what came of
# it; the clock stands still unless a test moves it.

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, Final

import pytest
import trustme

from smtpproto import ACCEPT, Accept, Connection, Reject, Signal, State
from smtpproto_server import (
    NOT_NOW,
    PULL,
    Ask,
    AsyncStream,
    AtOnce,
    Close,
    Deliver,
    Failed,
    Options,
    Outcome,
    Receive,
    Send,
    ServerCore,
    Stream,
    StreamAborted,
)
from smtpproto_server._hooks import HookError
from smtpproto_server._loop import LAST_WORDS, LINGER, LINGER_OCTETS, MAX_UNSENT, Serving

if TYPE_CHECKING:
    from collections.abc import Callable

    from smtpproto_server import Effect, MessageBody

AUTHORITY: Final = trustme.CA(key_type=trustme.KeyType.ECDSA)
LEAF: Final = AUTHORITY.issue_cert("mx.test", key_type=trustme.KeyType.ECDSA)
TLS: Final[dict[str, Any]] = {
    "cert": b"".join(pem.bytes() for pem in LEAF.cert_chain_pems),
    "key": LEAF.private_key_pem.bytes(),
}

TIMED_OUT, LOST, STOPPED, INTERRUPTED = Outcome.TIMED_OUT, Outcome.LOST, Outcome.STOPPED, Outcome.INTERRUPTED
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


def hook(*_: object) -> None:
    """A hook that is never called: the tests say what it returned."""


class Play:
    """A connection, played by hand."""

    def __init__(self, *, sends: bool = True, greeted: bool = True, **options: Any) -> None:
        options.setdefault("name", "mx.test")
        options.setdefault("auth_optional", True)
        options.setdefault("disable_reverse_lookup", True)
        options.setdefault("hide_enhancedstatuscodes", False)
        self.now = 0.0
        self.server = ServerCore(Options(**{**TLS, **options}))
        self.errors: list[tuple[BaseException, dict[str, Any]]] = []
        self.connects: list[dict[str, Any]] = []
        self.server.on("error", self.note_error)
        self.server.on("connect", self.connects.append)
        serving = self.server.begin(("192.0.2.25", 25), ("192.0.2.1", 4321), lambda: self.now)
        assert serving is not None
        self.serving: Serving = serving
        self.sends = sends
        self.raw = b""
        self.client: TlsClient | None = None
        self.effect: Effect | None = None
        self.generator = serving.run()
        self.resume(None)
        if greeted:
            self.poll()
            assert self.sent() == GREETING
            self.say(b"EHLO client.test\r\n")
            self.sent()

    def note_error(self, error: BaseException, info: dict[str, Any]) -> None:
        self.errors.append((error, info))

    def resume(self, value: Any) -> Effect | None:
        """Say what came of the effect; Sends are carried out unless the test wants to see them."""
        try:
            self.effect = self.generator.send(value)
            while isinstance(self.effect, Send) and self.sends:
                self.raw += self.effect.data
                self.effect = self.generator.send(None)
            if isinstance(self.effect, Ask) and self.sends:  # a hook that waits
                self.raw += self.serving.output()
        except StopIteration:
            self.effect = None
        return self.effect

    def poll(self) -> None:
        """Nobody talks before the greeting."""
        assert self.receive.deadline == self.now
        self.resume(TIMED_OUT)

    def sent(self) -> bytes:
        """What was sent since the last look, decrypted."""
        raw, self.raw = self.raw, b""
        return raw if self.client is None else self.client.read(raw)

    def say(self, data: bytes, after: float = 0.0) -> bytes:
        """The client sends; what it is answered."""
        assert isinstance(self.effect, Receive), self.effect
        self.now += after
        self.resume(data if self.client is None else self.client.write(data))
        return self.sent()

    def run_out(self) -> str | bytes:
        """Nothing comes until the deadline; what is said then."""
        deadline = self.receive.deadline if isinstance(self.effect, Receive) else self.send.deadline
        assert deadline is not None
        self.now = max(self.now, deadline)
        self.resume(TIMED_OUT)
        return self.sent()

    @property
    def receive(self) -> Receive:
        assert isinstance(self.effect, Receive), self.effect
        return self.effect

    @property
    def send(self) -> Send:
        assert isinstance(self.effect, Send), self.effect
        return self.effect

    def asks(self, name: str) -> Ask:
        assert isinstance(self.effect, Ask), self.effect
        assert self.effect.name == name
        return self.effect

    def body(self) -> MessageBody:
        body = self.asks("on_data").body
        assert body is not None
        return body

    def delivered(self) -> bytes:
        assert isinstance(self.effect, Deliver), self.effect
        return self.effect.data

    def ends(self, *, lingers: bool = False) -> None:
        """The connection is closed, in the way said, and nothing is left of it."""
        if lingers:
            assert isinstance(self.effect, Receive), self.effect
            self.resume(b"")
        assert isinstance(self.effect, Close), self.effect
        self.resume(None)
        assert self.effect is None
        assert not self.server.connections
        assert self.server._clients == self.server._refusing == 0

    def stop(self, *, now: bool = False) -> bytes:
        """`stop`, and what a waiting effect is then resumed with."""
        self.serving.stop(now=now)
        if isinstance(self.effect, Receive | Send):
            self.resume(STOPPED)
        return self.sent()

    def tls(self) -> None:
        """Do the client's part of a handshake."""
        self.client = client = TlsClient()
        octets = client.shake(b"")
        while not client.done:
            self.resume(octets)
            raw, self.raw = self.raw, b""
            octets = client.shake(raw)
        self.resume(octets)

    def error(self) -> tuple[BaseException, str]:
        """The one error that was reported, and its stage."""
        ((error, info),) = self.errors
        assert info["session"] is self.serving.session
        return error, info["stage"]


class TlsClient:
    def __init__(self) -> None:
        context = ssl.create_default_context()
        context.load_verify_locations(cadata=AUTHORITY.cert_pem.bytes().decode())
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="mx.test")
        self.done = False

    def shake(self, data: bytes) -> bytes:
        self.incoming.write(data)
        try:
            self.tls.do_handshake()
            self.done = True
        except ssl.SSLWantReadError:
            pass
        return self.outgoing.read()

    def write(self, data: bytes) -> bytes:
        self.tls.write(data)
        return self.outgoing.read()

    def read(self, data: bytes) -> bytes:
        self.incoming.write(data)
        plain = b""
        try:
            while more := self.tls.read(65536):
                plain += more
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass
        return plain

    def close(self) -> bytes:
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.unwrap()
        return self.outgoing.read()


# --- a whole session --------------------------------------------------------------------------------


def test_a_session_from_greeting_to_quit() -> None:
    play = Play()
    session = play.serving.session
    assert play.server.connections == {session}
    assert play.connects == [
        {
            "id": session.id,
            "local_address": "192.0.2.25",
            "local_port": 25,
            "remote_address": "192.0.2.1",
            "remote_port": 4321,
            "host_name_appears_as": "",
            "client_hostname": "[192.0.2.1]",
        }
    ]
    assert play.say(DATA).endswith(GO_ON)
    assert play.say(b"hi\r\n.\r\n") == QUEUED
    assert play.say(b"QUIT\r\n") == b"221 2.0.0 Bye\r\n"
    play.ends()


def test_replies_of_one_input_leave_together() -> None:
    play = Play(sends=False, greeted=False)
    play.resume(TIMED_OUT)
    play.resume(None)
    play.resume(b"EHLO a\r\n")
    play.resume(None)
    play.resume(b"MAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nDATA\r\nhi\r\n")
    assert play.send.data.count(b"\r\n") == 3
    assert not play.send.last


def test_what_ends_a_group_is_sent_before_what_follows_is_read() -> None:
    play = Play(sends=False, greeted=False)
    play.resume(TIMED_OUT)
    play.resume(None)
    play.resume(b"EHLO a\r\nNOOP\r\n")
    assert play.send.data.startswith(b"250-")
    assert b"OK" not in play.send.data
    play.resume(None)
    assert play.send.data == b"250 2.0.0 OK\r\n"


def test_the_end_of_input_ends_the_session_without_a_word() -> None:
    play = Play()
    assert play.say(b"") == b""
    play.ends()


def test_a_lost_connection_ends_the_session() -> None:
    play = Play()
    play.resume(LOST)
    play.ends()
    assert not play.errors


@pytest.mark.parametrize(
    ("said", "stage"),
    [
        (b"", None),
        (b"MAIL FROM:<a@x>\r\n", "socket"),
        (b"MAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\n", "socket"),
        (DATA, "stream"),
    ],
)
def test_an_error_of_the_socket_is_reported_where_it_costs_a_transaction(
    said: bytes, stage: str | None
) -> None:
    play = Play()
    if said:
        play.say(said)
    play.serving.fault = ConnectionResetError("reset")
    play.resume(LOST)
    play.ends()
    if stage is None:
        assert not play.errors
    else:
        assert play.error() == (play.serving.fault, stage)


def test_on_close_comes_once_after_close_whatever_it_returns() -> None:
    for result in (None, "text", object(), Reject(), LOST):
        play = Play(on_close=hook)
        play.say(b"QUIT\r\n")
        assert isinstance(play.effect, Close)
        play.resume(None)
        assert not play.server.connections
        assert play.asks("on_close").args == (play.serving.session,)
        assert play.resume(result) is None
        assert not play.errors


@pytest.mark.parametrize("result", [Failed(RuntimeError("x")), TIMED_OUT])
def test_on_close_that_fails_is_reported(result: Any) -> None:
    play = Play(on_close=hook, hook_timeout=3)
    play.say(b"QUIT\r\n")
    play.resume(None)
    assert play.asks("on_close").seconds == 3
    play.resume(result)
    assert play.error()[1] == "hook"


def test_a_fault_of_our_own_ends_one_session(monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play(on_close=hook)
    monkeypatch.setattr(Connection, "receive_data", failing)
    play.resume(b"NOOP\r\n")
    assert isinstance(play.effect, Close)
    play.resume(None)
    play.asks("on_close")
    assert play.resume(None) is None
    assert play.error()[1] == "socket"


def test_a_fault_of_our_own_within_a_message_ends_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play(on_data=hook)
    play.say(DATA)
    body = play.body()
    play.resume(PULL)
    monkeypatch.setattr(Connection, "receive_data", failing)
    play.resume(b"hi\r\n")
    assert play.delivered() == b""
    assert body.aborted == "connection_lost"
    play.resume(Failed(StreamAborted("connection_lost")))
    play.ends()
    assert play.error()[1] == "socket"


def failing(*_: object) -> None:
    raise ZeroDivisionError


# --- time -------------------------------------------------------------------------------------------


def test_socket_timeout_is_restarted_by_every_octet() -> None:
    play = Play(command_timeout=None)
    assert play.receive.deadline == 60
    play.say(b"N", after=50)
    assert play.receive.deadline == 110
    play.say(b"OOP\r\n", after=59)
    assert play.receive.deadline == 169
    assert play.run_out() == TIMEOUT
    play.ends(lingers=True)


def test_no_time_runs_without_limits() -> None:
    off: dict[str, Any] = dict.fromkeys(
        (
            "socket_timeout",
            "command_timeout",
            "data_timeout",
            "min_data_rate",
            "session_timeout",
            "greeting_timeout",
        )
    )
    play = Play(**off)
    assert play.receive.deadline is None
    play.say(b"MAIL", after=1e6)
    assert play.receive.deadline is None
    play.resume(TIMED_OUT)  # nothing that could time out
    assert play.receive.deadline is None
    play.say(DATA[4:])
    assert play.receive.deadline is None
    play.say(b"x", after=1e6)
    assert play.say(b"\r\n.\r\n", after=1e6) == QUEUED


@pytest.mark.parametrize("limit", [60.0, None])
def test_a_reply_that_cannot_be_written_runs_into_socket_timeout(limit: float | None) -> None:
    play = Play(socket_timeout=limit)
    play.sends = False
    play.say(b"NOOP\r\n")
    assert play.send.deadline == limit
    if limit is not None:
        play.run_out()
        assert (play.send.data, play.send.last) == (TIMEOUT, True)
        assert play.send.deadline == play.now + LAST_WORDS
        play.run_out()
        play.ends()


def test_command_timeout_runs_from_the_first_octet_of_a_line_to_its_end() -> None:
    play = Play(command_timeout=100)
    play.say(b"N", after=30)
    assert play.receive.deadline == 90
    play.say(b"O", after=50)
    assert play.receive.deadline == 130
    play.say(b"OP\r\nRS", after=49)
    assert play.receive.deadline == 189
    play.say(b"E", after=59)
    assert play.receive.deadline == 229
    assert play.run_out() == TIMEOUT
    play.ends(lingers=True)


def test_command_timeout_runs_for_lines_of_auth() -> None:
    play = Play(command_timeout=100, allow_insecure_auth=True)
    assert play.say(b"AUTH LOGIN\r\n").startswith(b"334 ")
    play.say(b"A", after=50)
    play.say(b"A", after=50)
    assert play.receive.deadline == 150


@pytest.mark.parametrize("delay", [40, 30])
def test_greeting_timeout_ends_the_delay(delay: float) -> None:
    play = Play(early_talker_delay=delay, greeted=False, greeting_timeout=20)
    assert play.receive.deadline == 20
    assert play.run_out() == UNCODED_TIMEOUT
    play.ends(lingers=True)


@pytest.mark.parametrize(
    ("lookup", "greeting", "seconds", "ends"),
    [
        (1.5, 30, 1.5, False),
        (40, 30, 30, True),
        (None, 30, 30, True),
        (None, None, None, False),
        (9, None, 9, False),
    ],
)
def test_greeting_timeout_ends_the_lookup(
    lookup: float | None, greeting: float | None, seconds: float | None, ends: bool
) -> None:
    play = Play(
        disable_reverse_lookup=False, reverse_lookup_timeout=lookup, greeting_timeout=greeting, greeted=False
    )
    assert play.asks("resolver").seconds == seconds
    if ends:
        play.now += 30
        play.resume(TIMED_OUT)
        assert play.sent() == UNCODED_TIMEOUT
        play.ends(lingers=True)
    elif seconds is not None:
        play.resume(TIMED_OUT)
        play.poll()
        assert play.sent() == GREETING
        assert play.serving.session.client_hostname == "[192.0.2.1]"


def test_greeting_timeout_does_not_run_while_a_hook_works() -> None:
    play = Play(on_connect=hook, greeting_timeout=20, greeted=False)
    assert play.asks("on_connect").seconds is None
    play.now += 1000
    play.resume(None)
    play.poll()
    assert play.sent() == GREETING


def test_proxy_timeout_runs_to_the_end_of_the_header_and_says_nothing() -> None:
    play = Play(use_proxy=True, greeted=False)
    assert play.receive.deadline == 5
    play.say(b"PRO", after=4)
    assert play.receive.deadline == 5
    assert play.run_out() == b""
    play.ends()
    assert not play.connects


def test_proxy_timeout_ends_with_the_header() -> None:
    play = Play(use_proxy=True, greeted=False)
    play.say(b"PROXY TCP4 198.51.100.7 192.0.2.25 999 25\r\n", after=4)
    play.poll()
    assert play.sent() == GREETING
    assert play.receive.deadline == 64
    assert play.connects[0]["remote_address"] == "198.51.100.7"


@pytest.mark.parametrize("limits", [{"proxy_timeout": None}, {"proxy_timeout": 100.0}])
def test_session_timeout_does_not_act_before_a_command_is_awaited(limits: dict[str, Any]) -> None:
    play = Play(use_proxy=True, session_timeout=10, socket_timeout=50, greeted=False, **limits)
    assert play.receive.deadline == 50
    play.say(b"PROXY TCP4 198.51.100.7 192.0.2.25 999 25\r\n", after=20)
    play.resume(TIMED_OUT)
    assert play.sent() == GREETING + TIMEOUT
    play.ends(lingers=True)


@pytest.mark.parametrize("said", [b"", b"STARTTLS\r\n"], ids=["implicit", "STARTTLS"])
def test_tls_handshake_timeout_closes_without_a_reply(said: bytes) -> None:
    play = Play(secure=not said, greeted=bool(said), session_timeout=10)
    if said:
        assert play.say(said) == b"220 2.0.0 Ready to start TLS\r\n"
    assert play.receive.deadline == 30
    play.resume(TlsClient().shake(b"")[:100])
    assert play.receive.deadline == 30
    assert play.run_out() == b""
    play.ends()
    error, stage = play.error()
    assert (type(error), stage) == (TimeoutError, "tls")


def test_data_timeout_leaves_out_what_the_hook_takes() -> None:
    play = Play(on_data=hook, data_timeout=100, socket_timeout=70, min_data_rate=None)
    play.say(DATA)
    play.body()
    play.now += 500
    play.resume(PULL)
    assert play.receive.deadline == play.now + 70
    play.say(b"x", after=60)
    assert play.delivered() == b"x"
    play.now += 1000
    play.resume(PULL)
    assert play.receive.deadline == play.now + 40
    assert play.run_out() == b""
    assert play.delivered() == b""
    play.resume(Failed(StreamAborted("timeout")))
    assert play.sent() == TIMEOUT
    play.ends(lingers=True)
    assert not play.errors


def test_data_timeout_runs_while_a_message_is_drained() -> None:
    play = Play(data_timeout=100, socket_timeout=70, min_data_rate=None)
    play.say(DATA)
    play.say(b"x", after=60)
    assert play.receive.deadline == 100
    assert play.run_out() == TIMEOUT
    play.ends(lingers=True)


@pytest.mark.parametrize(("limit", "window"), [(20.0, 20), (None, 60)])
def test_min_data_rate_is_judged_in_every_full_window(limit: float | None, window: float) -> None:
    play = Play(on_data=hook, min_data_rate=10, socket_timeout=limit)
    play.say(DATA)
    body = play.body()
    for _ in range(3):
        play.now += 1000  # the hook's own time
        play.resume(PULL)
        assert play.receive.deadline == play.now + window
        play.say(b"x" * int(10 * window), after=window / 2)
        play.now += 1000
        play.resume(PULL)
        assert play.receive.deadline == play.now + window / 2
        assert play.run_out() == b""
        play.say(b"x")
    play.resume(PULL)
    play.say(b"x" * int(10 * window - 2), after=window - 1)
    play.resume(PULL)
    assert play.run_out() == b""
    assert body.aborted == "timeout"
    play.resume(Failed(StreamAborted("timeout")))
    assert play.sent() == TIMEOUT


def test_a_slow_window_ends_the_session_also_when_octets_end_it() -> None:
    play = Play(min_data_rate=10, socket_timeout=20)
    play.say(DATA)
    play.say(b"x", after=15)
    assert play.say(b"x" * 100, after=5) == TIMEOUT


def test_session_timeout_acts_where_a_command_is_awaited() -> None:
    play = Play(session_timeout=100)
    assert play.receive.deadline == 60
    play.say(b"NOOP\r\n", after=50)
    assert play.receive.deadline == 100
    assert play.run_out() == TIMEOUT
    play.ends(lingers=True)


def test_session_timeout_lets_a_message_through() -> None:
    play = Play(session_timeout=100, socket_timeout=1000, min_data_rate=None)
    play.say(DATA, after=99)
    assert play.receive.deadline == 1099
    assert play.say(b"hi\r\n.\r\n", after=500) == QUEUED + TIMEOUT
    play.ends(lingers=True)


def test_session_timeout_acts_on_a_client_that_never_lets_us_wait() -> None:
    play = Play(session_timeout=100)
    for _ in range(9):
        assert play.say(b"NOOP\r\n", after=10) == b"250 2.0.0 OK\r\n"
    assert play.say(b"NOOP\r\n", after=10) == b"250 2.0.0 OK\r\n" + TIMEOUT


def test_hook_timeout_is_given_to_hooks_and_answered_with_451() -> None:
    play = Play(on_mail_from=hook, hook_timeout=7)
    play.resume(b"MAIL FROM:<a@x>\r\n")
    assert play.asks("on_mail_from").seconds == 7
    play.resume(TIMED_OUT)
    assert play.sent() == BROKEN
    error, stage = play.error()
    assert (type(error), stage) == (TimeoutError, "hook")
    assert play.say(b"NOOP\r\n") == b"250 2.0.0 OK\r\n"


@pytest.mark.parametrize("name", ["on_connect", "on_secure"])
def test_hook_timeout_before_the_greeting_closes(name: str) -> None:
    hooks: dict[str, Any] = {name: hook}
    play = Play(hook_timeout=7, secure=name == "on_secure", greeted=False, **hooks)
    if name == "on_secure":
        play.tls()
        play.poll()
    play.asks(name)
    play.resume(TIMED_OUT)
    play.poll()
    assert play.sent() == b"421 Error: internal error, please try again later\r\n"


def test_hook_timeout_of_on_data_drains_the_message_first() -> None:
    play = Play(on_data=hook, hook_timeout=7)
    play.say(DATA)
    body = play.body()
    play.resume(TIMED_OUT)
    assert body.aborted == "timeout"
    assert play.say(b"hi\r\n.\r\nNOOP\r\n") == BROKEN + b"250 2.0.0 OK\r\n"


@pytest.mark.parametrize(
    ("raised", "reported"), [(RuntimeError("x"), 1), (StreamAborted("lost"), 0), (Reject(), 0)]
)
def test_what_on_data_raises_when_the_client_is_gone_is_reported(raised: Exception, reported: int) -> None:
    play = Play(on_data=hook)
    play.say(DATA + b"hi\r\n")
    play.body()
    play.resume(PULL)
    play.resume(PULL)
    play.resume(b"")  # the end of the input, inside the message
    play.resume(Failed(raised))
    play.ends()
    assert [error for error, _ in play.errors] == [raised] * reported


@pytest.mark.parametrize("options", [{"on_mail_from": hook}, {"on_connect": hook}])
def test_what_a_hook_raises_while_the_server_stops_is_reported(options: dict[str, Any]) -> None:
    play = Play(greeted="on_mail_from" in options, **options)
    if "on_mail_from" in options:
        play.say(DATA[:22])
    play.stop(now=True)
    error = RuntimeError("x")
    play.resume(Failed(error))
    play.ends(lingers=isinstance(play.effect, Receive))
    assert [each for each, _ in play.errors] == [error]


# --- hooks ------------------------------------------------------------------------------------------


def test_hooks_get_what_their_place_says() -> None:
    class Handler:
        def __getattr__(self, name: str) -> Callable[..., None]:
            return hook

    play = Play(handler=Handler(), secure=True, greeted=False, allow_insecure_auth=True, auth_optional=False)
    session = play.serving.session
    play.tls()
    assert play.asks("on_connect").args == (session,)
    assert play.asks("on_connect").watch
    play.resume(None)
    play.poll()
    ssl_object, given = play.asks("on_secure").args
    assert isinstance(ssl_object, ssl.SSLObject)
    assert given is session
    assert play.asks("on_secure").watch
    play.resume(None)
    play.poll()
    assert play.sent() == GREETING
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
        ask = play.asks(name)
        assert right(ask.args)
        assert ask.args[-1] is session
        assert (ask.watch, ask.lookup, ask.body) == (False, False, None)
        play.resume(result)
    assert session.user == "u"
    assert play.asks("on_data").args == (session,)
    assert play.body() is play.asks("on_data").body


def test_without_on_auth_a_login_is_not_implemented() -> None:
    play = Play(allow_insecure_auth=True)
    assert play.say(b"AUTH PLAIN AHUAcA==\r\n") == b"535 5.7.8 Authentication not implemented\r\n"


def test_octets_for_the_peer_are_handed_to_the_hook_that_waits() -> None:
    play = Play(on_rcpt_to=hook)
    play.sends = False
    play.resume(b"MAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\n")
    assert play.sent() == b""
    play.asks("on_rcpt_to")
    assert play.serving.output() == b"250 2.1.0 Accepted\r\n"
    assert play.serving.output() == b""
    play.resume(None)
    assert play.send.data == b"250 2.1.5 Accepted\r\n"


def test_what_was_handed_to_hooks_is_seen_through_before_it_is_too_much() -> None:
    play = Play(on_rcpt_to=hook)
    play.say(b"MAIL FROM:<a@x>\r\n")
    play.sends = False
    play.resume(b"RCPT TO:<b@y>\r\n" * 100)
    for after in (None, LOST):
        handed = 0
        while isinstance(play.effect, Ask):
            handed += len(play.serving.output())
            play.resume(Reject(text=["x" * 400] * 20))
        assert MAX_UNSENT < handed < MAX_UNSENT + 20_000
        assert play.send.data.startswith(b"550-")
        play.resume(after)
    play.ends()


@pytest.mark.parametrize(
    "result", ["text", 1, object(), Accept(251), Failed(OSError("disk")), Failed(KeyError("x"))]
)
def test_a_hook_that_fails_is_answered_with_451_and_reported(result: Any) -> None:
    play = Play(on_mail_from=hook)
    play.resume(b"MAIL FROM:<a@x>\r\n")
    play.resume(result)
    assert play.sent() == BROKEN
    assert play.error()[1] == "hook"


def test_a_result_that_cannot_even_be_looked_at_is_answered_with_451() -> None:
    class Evil:
        def __bool__(self) -> bool:
            raise ValueError("neither")

    play = Play(on_auth=hook, allow_insecure_auth=True)
    play.resume(b"AUTH PLAIN AHUAcA==\r\n")
    play.resume(Evil())
    assert play.sent() == BROKEN
    assert isinstance(play.error()[0], ValueError)


@pytest.mark.parametrize("result", [Reject(550, text="no"), Failed(Reject(550, text="no"))])
def test_a_refusal_may_be_returned_or_raised(result: Any) -> None:
    play = Play(on_mail_from=hook)
    play.resume(b"MAIL FROM:<a@x>\r\n")
    play.resume(result)
    assert play.sent() == b"550 5.1.1 no\r\n"
    assert not play.errors


@pytest.mark.parametrize("said", [b"MAIL FROM:<a@x>\r\n", b"NOOP\r\nMAIL FROM:<a@x>\r\n"])
def test_a_hook_during_which_the_connection_is_lost_decides_nothing(said: bytes) -> None:
    play = Play(on_mail_from=hook)
    play.resume(said)
    play.resume(LOST)
    play.ends()
    assert not play.errors


def test_a_mechanism_that_raises_is_an_error_of_the_application_and_the_session_goes_on() -> None:
    class Broken:
        server_first = False

        def step(self, _response: bytes | None) -> None:
            raise KeyError("x")

    def make(_session: object) -> Broken:
        return Broken()

    mechanisms: dict[str, Any] = {"X-BROKEN": make}
    play = Play(sasl_mechanisms=mechanisms, auth_methods=["X-BROKEN"], allow_insecure_auth=True)
    assert play.say(b"AUTH X-BROKEN AAAA\r\nNOOP\r\n") == BROKEN + b"250 2.0.0 OK\r\n"
    assert isinstance(play.error()[0], KeyError)
    assert play.error()[1] == "hook"


# --- before the greeting ----------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [0.0, 5.0])
@pytest.mark.parametrize("header", [b"", b"PROXY TCP4 198.51.100.7 192.0.2.25 999 25\r\n"])
def test_who_talks_before_the_greeting_is_turned_away(delay: float, header: bytes) -> None:
    play = Play(early_talker_delay=delay, greeted=False, use_proxy=bool(header))
    if header:
        play.say(header)
    assert play.receive.deadline == delay
    assert play.say(b"EHLO a\r\n") == TOO_SOON
    play.ends(lingers=True)


def test_early_talk_behind_a_proxy_header_is_noticed_without_waiting() -> None:
    play = Play(greeted=False, use_proxy=True)
    assert play.say(b"PROXY TCP4 198.51.100.7 192.0.2.25 999 25\r\nEHLO a\r\n") == TOO_SOON


def test_the_delay_is_waited_out() -> None:
    play = Play(early_talker_delay=5, greeted=False)
    play.run_out()
    play.poll()
    assert play.sent() == GREETING
    assert play.now == 5


def test_a_client_that_has_ended_its_input_is_greeted_and_seen_off() -> None:
    play = Play(early_talker_delay=5, greeted=False)
    play.resume(b"")
    play.resume(b"")
    assert play.sent() == GREETING
    play.ends()


def test_a_client_that_is_lost_during_the_delay_is_not_asked_for() -> None:
    play = Play(early_talker_delay=5, on_connect=hook, greeted=False)
    play.resume(LOST)
    play.ends()


def test_a_client_that_is_lost_when_it_is_looked_for_is_not_greeted() -> None:
    play = Play(greeted=False)
    play.resume(LOST)
    assert play.sent() == b""
    play.ends()


@pytest.mark.parametrize("after", [INTERRUPTED, "answer"])
def test_octets_during_on_connect_interrupt_it(after: Any) -> None:
    play = Play(on_connect=hook, greeted=False)
    play.asks("on_connect")
    play.resume(INTERRUPTED if after is INTERRUPTED else None)
    play.resume(b"EHLO a\r\n")
    assert play.sent() == TOO_SOON
    play.ends(lingers=True)


@pytest.mark.parametrize(("what", "said"), [(b"", b""), (LOST, b""), (STOPPED, UNCODED_DOWN)])
def test_an_interrupted_client_that_is_then_gone_is_not_greeted(what: Any, said: bytes) -> None:
    play = Play(on_connect=hook, greeted=False)
    play.resume(INTERRUPTED)
    if what is STOPPED:
        play.serving.stop()
    play.resume(what)
    assert play.sent() == said
    play.ends(lingers=bool(said))
    assert not play.errors


def test_names_are_looked_up_unless_that_is_off() -> None:
    play = Play(disable_reverse_lookup=False, greeted=False)
    ask = play.asks("resolver")
    assert (ask.args, ask.lookup, ask.watch) == (("192.0.2.1",), True, True)
    play.resume(["Host.EXAMPLE", "other"])
    play.poll()
    assert play.serving.session.client_hostname == "host.example"
    assert play.sent() == GREETING


@pytest.mark.parametrize(
    "result", [[], None, "name", ["a b"], ["é"], [7], Failed(OSError("no such host")), TIMED_OUT]
)
def test_a_lookup_without_a_usable_name_changes_nothing(result: Any) -> None:
    play = Play(disable_reverse_lookup=False, greeted=False)
    play.resume(result)
    play.poll()
    assert play.serving.session.client_hostname == "[192.0.2.1]"
    assert not play.errors


def test_octets_during_the_lookup_end_it() -> None:
    play = Play(disable_reverse_lookup=False, greeted=False)
    play.resume(INTERRUPTED)
    assert play.say(b"EHLO a\r\n") == TOO_SOON


def test_a_connection_lost_during_the_lookup_is_over() -> None:
    play = Play(disable_reverse_lookup=False, greeted=False, on_connect=hook)
    play.resume(LOST)
    play.ends()


def test_a_unix_socket_is_not_looked_up() -> None:
    server = ServerCore(Options(name="mx.test", **TLS))
    serving = server.begin(("", 0), ("", 0), lambda: 0.0)
    assert serving is not None
    assert isinstance(next(serving.run()), Receive)
    assert serving.session.client_hostname == "[local]"


# --- TLS --------------------------------------------------------------------------------------------


def test_implicit_tls_comes_before_everything() -> None:
    play = Play(secure=True, greeted=False)
    play.tls()
    play.poll()
    play.poll()
    assert play.sent() == GREETING
    assert play.say(b"QUIT\r\n") == b"221 2.0.0 Bye\r\n"
    play.ends()
    session = play.serving.session
    assert session.secure
    assert session.servername == "mx.test"


def test_a_hello_in_one_piece_with_the_proxy_header_is_used() -> None:
    play = Play(secure=True, use_proxy=True, greeted=False)
    client = TlsClient()
    play.resume(b"PROXY TCP4 198.51.100.7 192.0.2.25 999 25\r\n" + client.shake(b""))
    raw, play.raw = play.raw, b""
    octets = client.shake(raw)
    play.client = client
    play.resume(octets)
    play.poll()
    play.poll()
    assert play.sent() == GREETING


def test_starttls_upgrades_and_asks_on_secure_before_any_command() -> None:
    play = Play(on_secure=hook)
    assert play.say(b"STARTTLS\r\n") == b"220 2.0.0 Ready to start TLS\r\n"
    play.tls()
    assert not play.asks("on_secure").watch
    play.resume(None)
    assert play.say(b"NOOP\r\n") == b"250 2.0.0 OK\r\n"
    assert play.say(b"MAIL FROM:<a@x>\r\n") == b"503 5.5.1 Error: send HELO/EHLO first\r\n"


def test_on_secure_refuses_over_tls() -> None:
    play = Play(on_secure=hook)
    play.say(b"STARTTLS\r\n")
    play.tls()
    play.resume(Reject())
    assert play.sent() == b"554 5.7.1 Transaction failed\r\n"
    play.ends(lingers=True)


@pytest.mark.parametrize("delay", [0.0, 5.0])
def test_early_talk_in_one_piece_with_the_end_of_the_handshake_is_noticed(delay: float) -> None:
    play = Play(secure=True, greeted=False, early_talker_delay=delay)
    play.client = client = TlsClient()
    play.resume(client.shake(b""))
    raw, play.raw = play.raw, b""
    play.resume(client.shake(raw) + client.write(b"EHLO a\r\n"))
    assert play.sent() == TOO_SOON


def test_early_talk_in_a_record_that_comes_in_pieces_is_noticed() -> None:
    play = Play(secure=True, greeted=False, on_connect=hook)
    play.tls()
    play.asks("on_connect")
    assert play.client is not None
    record = play.client.write(b"EHLO a\r\n")
    play.resume(INTERRUPTED)
    play.resume(record[:9])
    assert play.sent() == b""
    assert play.receive.deadline == 30
    play.resume(record[9:])
    assert play.sent() == TOO_SOON
    assert not play.errors


def test_a_record_that_never_ends_runs_into_greeting_timeout() -> None:
    play = Play(secure=True, greeted=False, on_connect=hook)
    play.tls()
    assert play.client is not None
    play.resume(INTERRUPTED)
    play.resume(play.client.write(b"EHLO a\r\n")[:9])
    assert play.run_out() == UNCODED_TIMEOUT
    play.ends(lingers=True)


def test_a_record_that_waits_without_a_limit_just_waits() -> None:
    play = Play(secure=True, greeted=False, on_connect=hook, greeting_timeout=None, socket_timeout=None)
    play.tls()
    assert play.client is not None
    record = play.client.write(b"EHLO a\r\n")
    play.resume(INTERRUPTED)
    play.resume(record[:9])
    assert play.receive.deadline is None
    play.resume(record[9:])
    assert play.sent() == TOO_SOON


def test_a_client_that_says_goodbye_during_on_connect_is_gone() -> None:
    play = Play(secure=True, greeted=False, on_connect=hook)
    play.tls()
    assert play.client is not None
    play.resume(INTERRUPTED)
    play.resume(play.client.close())
    play.ends()
    assert not play.errors


def test_plaintext_in_place_of_a_handshake_closes_without_a_reply() -> None:
    play = Play()
    play.say(b"STARTTLS\r\n")
    play.resume(b"EHLO a\r\n")
    assert b"SMTP" not in play.sent()
    play.ends()
    assert play.error()[1] == "tls"


@pytest.mark.parametrize("what", [b"", LOST])
@pytest.mark.parametrize("secure", [True, False])
def test_a_client_that_goes_away_in_the_handshake_is_an_error(what: Any, secure: bool) -> None:
    play = Play(secure=secure, greeted=not secure)
    if not secure:
        play.say(b"STARTTLS\r\n")
    play.resume(TlsClient().shake(b""))
    play.resume(what)
    play.ends()
    assert play.error()[1] == "tls"


def test_a_handshake_that_cannot_be_written_is_an_error() -> None:
    play = Play(secure=True, greeted=False)
    play.sends = False
    play.resume(TlsClient().shake(b""))
    play.send  # noqa: B018
    play.resume(LOST)
    play.ends()
    assert play.error()[1] == "tls"


def test_a_220_that_cannot_be_written_is_followed_by_no_handshake() -> None:
    play = Play()
    play.sends = False
    play.say(b"STARTTLS\r\n")
    play.resume(LOST)
    play.ends()
    assert not play.errors


def test_a_broken_record_is_a_lost_connection() -> None:
    play = Play()
    play.say(b"STARTTLS\r\n")
    play.tls()
    assert play.say(b"EHLO a\r\nMAIL FROM:<a@x>\r\n").endswith(b"250 2.1.0 Accepted\r\n")
    play.resume(b"\x17\x03\x03\x00\x20" + bytes(32))
    with pytest.raises(ssl.SSLError, match="bad record"):  # the alert is sent
        play.sent()
    assert isinstance(play.error()[0], ssl.SSLError)
    assert play.error()[1] == "socket"
    play.ends()


@pytest.mark.parametrize("polite", [True, False])
def test_the_end_of_tls_within_a_message_is_a_lost_connection(polite: bool) -> None:
    play = Play(on_data=hook)
    play.say(b"STARTTLS\r\n")
    play.tls()
    play.say(b"EHLO a\r\n" + DATA)
    assert play.client is not None
    body = play.body()
    play.resume(PULL)
    play.say(b"hi\r\n")
    assert play.delivered() == b"hi\r\n"
    play.resume(PULL)
    if polite:
        play.resume(play.client.close())
    else:
        play.resume(b"")
    assert play.delivered() == b""
    assert body.aborted == "connection_lost"
    play.resume(Failed(StreamAborted("connection_lost")))
    play.ends(lingers=isinstance(play.effect, Receive))


def test_a_large_message_in_one_read_is_decrypted_in_pieces() -> None:
    play = Play(on_data=hook)
    play.say(b"STARTTLS\r\n")
    play.tls()
    play.say(b"EHLO a\r\n" + DATA)
    assert play.client is not None
    message = b"x" * 70 + b"\r\n"
    play.resume(PULL)
    play.resume(play.client.write(message * 4000 + b".\r\n"))
    got = b""
    while chunk := play.delivered():
        got += chunk
        play.resume(PULL)
    assert got == message * 4000
    play.resume(None)
    assert play.sent().endswith(QUEUED)


def test_octets_that_came_before_the_end_of_tls_are_used() -> None:
    play = Play()
    play.say(b"STARTTLS\r\n")
    play.tls()
    assert play.client is not None
    big = b"NOOP\r\n" * 20_000
    play.resume(play.client.write(big))
    play.resume(b"")
    assert play.sent().count(b"250") == 20_000


# --- the message ------------------------------------------------------------------------------------


def test_the_hook_pulls_the_message() -> None:
    play = Play(on_data=hook)
    assert play.say(DATA).endswith(GO_ON)
    body = play.body()
    play.resume(PULL)
    play.say(b"one\r\n")
    assert play.delivered() == b"one\r\n"
    play.resume(PULL)
    play.say(b"..two\r\n.")
    assert play.delivered() == b".two\r\n"
    assert not body.message.complete
    play.resume(PULL)
    play.say(b"\r\n")
    assert play.delivered() == b""
    assert body.message.complete
    play.resume(PULL)  # as often as it likes
    assert play.delivered() == b""
    assert not body.ended
    play.resume("stored")
    assert body.ended
    assert play.sent() == b"250 2.6.0 stored\r\n"
    assert body.aborted is None


def test_body_octets_in_the_segment_of_data_follow_the_354() -> None:
    play = Play(on_data=hook)
    play.resume(DATA + b"hi\r\n.\r\nQUIT\r\n")
    play.resume(PULL)
    assert play.delivered() == b"hi\r\n"
    play.resume(PULL)
    assert play.delivered() == b""
    play.resume(None)
    assert play.sent().endswith(GO_ON + QUEUED + b"221 2.0.0 Bye\r\n")


@pytest.mark.parametrize("result", [None, Reject(text="no"), Failed(RuntimeError("x"))])
def test_a_hook_that_returns_early_is_answered_after_the_end_of_data(result: Any) -> None:
    play = Play(on_data=hook)
    play.say(DATA)
    play.resume(PULL)
    play.say(b"one\r\n")
    play.resume(result)
    assert play.say(b"two\r\n") == b""
    expected = {type(None): QUEUED, Reject: b"450 4.2.1 no\r\n", Failed: BROKEN}[type(result)]
    assert play.say(b".\r\nNOOP\r\n") == expected + b"250 2.0.0 OK\r\n"


@pytest.mark.parametrize("how", ["eof", "lost", "timeout", "stop"])
@pytest.mark.parametrize("pulls", [True, False])
def test_an_aborted_message_is_answered_with_no_acceptance(how: str, pulls: bool) -> None:
    play = Play(on_data=hook)
    play.say(DATA)
    body = play.body()
    if pulls:
        play.resume(PULL)
        play.say(b"one\r\n")
        play.resume(PULL)
    else:
        play.resume(None)
    if how == "eof":
        play.resume(b"")
    elif how == "lost":
        play.resume(LOST)
    elif how == "timeout":
        play.now += 60
        play.resume(TIMED_OUT)
    else:
        play.serving.stop(now=True)
        play.resume(STOPPED)
    if pulls:
        assert play.delivered() == b""
        play.resume(PULL)  # a hook that does not listen
        assert play.delivered() == b""
        play.resume("stored")
    assert body.aborted == {"timeout": "timeout", "stop": "shutdown"}.get(how, "connection_lost")
    expected = {"timeout": TIMEOUT, "stop": DOWN}.get(how, b"")
    assert play.sent().removeprefix(GO_ON) == expected
    play.ends(lingers=bool(expected))


@pytest.mark.parametrize(
    "result", [None, Failed(StreamAborted("bare_newline")), Reject(), Failed(OSError("disk"))]
)
def test_a_bare_newline_aborts_the_stream_and_is_refused(result: Any) -> None:
    play = Play(on_data=hook)
    play.say(DATA)
    body = play.body()
    play.resume(PULL)
    play.say(b"one\ntwo\r\n")
    assert play.delivered() == b"one"
    play.resume(PULL)
    assert play.delivered() == b""
    assert body.aborted == "bare_newline"
    play.resume(result)
    assert play.say(b".\r\n") == b"550 5.6.0 Error: message contains bare newline characters\r\n"
    assert len(play.errors) == (isinstance(result, Failed) and isinstance(result.exception, OSError))


def test_a_hook_that_is_lost_with_its_connection_is_answered_nothing() -> None:
    play = Play(on_data=hook)
    play.say(DATA)
    body = play.body()
    play.serving.fault = ConnectionResetError("reset")
    play.resume(LOST)
    assert body.aborted == "connection_lost"
    play.ends()
    assert play.error()[1] == "stream"


def test_a_hook_that_is_lost_behind_the_end_of_data_is_answered_nothing() -> None:
    play = Play(on_data=hook)
    play.say(DATA)
    play.resume(PULL)
    play.resume(b".\r\n")
    assert play.delivered() == b""
    play.resume(LOST)
    assert play.sent() == b""
    play.ends()


def test_two_messages_in_one_segment_are_two_messages() -> None:
    play = Play(on_data=hook)
    play.resume((DATA + b"one\r\n.\r\n") + (DATA + b"two\r\n.\r\n"))
    for text in (b"one\r\n", b"two\r\n"):
        play.resume(PULL)
        assert play.delivered() == text
        play.resume(PULL)
        assert play.delivered() == b""
        play.resume(None)
    assert play.sent().count(QUEUED) == 2


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
        (Failed(OSError("disk")), [BROKEN] * 3, 1),
        (Reject(421, text="go"), [b"421 4.3.2 go\r\n"], 0),
    ],
)
def test_lmtp_answers_once_for_each_recipient(result: Any, replies: list[bytes], errors: int) -> None:
    play = Play(lmtp=True, on_data=hook, greeted=False)
    play.poll()
    play.say(LMTP)
    play.sent()
    play.resume(PULL)
    play.resume(b"hi\r\n.\r\n")
    play.resume(result)
    assert play.sent().removeprefix(GO_ON) == b"".join(replies)
    assert [info["stage"] for _, info in play.errors] == ["hook"] * errors


def test_a_list_is_an_error_in_smtp() -> None:
    play = Play(on_data=hook)
    play.say(DATA)
    play.resume([None])
    assert play.say(b".\r\n") == BROKEN


# --- stop -------------------------------------------------------------------------------------------


def test_stop_in_the_proxy_header_closes_without_a_reply() -> None:
    play = Play(use_proxy=True, greeted=False)
    assert play.stop() == b""
    play.ends()


@pytest.mark.parametrize("secure", [True, False])
def test_stop_in_a_handshake_closes_without_a_reply(secure: bool) -> None:
    play = Play(secure=secure, greeted=not secure)
    if not secure:
        play.say(b"STARTTLS\r\n")
    assert play.stop() == b""
    play.ends()
    assert not play.errors


@pytest.mark.parametrize("now", [False, True])
def test_stop_while_a_handshake_is_written_closes_without_a_reply(now: bool) -> None:
    play = Play(secure=True, greeted=False)
    play.sends = False
    play.resume(TlsClient().shake(b""))
    play.serving.stop(now=now)
    play.resume(STOPPED)
    if not now:
        assert play.send.data == b""
        play.resume(None)
    play.ends()
    assert not play.errors


def test_stop_in_the_delay_is_a_421() -> None:
    play = Play(early_talker_delay=9, greeted=False)
    assert play.stop() == UNCODED_DOWN
    play.ends(lingers=True)


@pytest.mark.parametrize("result", [STOPPED, ["name"]])
def test_stop_in_the_lookup_is_a_421(result: Any) -> None:
    play = Play(disable_reverse_lookup=False, greeted=False)
    play.serving.stop()
    play.resume(result)
    assert play.sent() == UNCODED_DOWN
    play.ends(lingers=True)


def test_stop_before_the_greeting_is_a_421_in_its_place() -> None:
    play = Play(greeted=False)
    assert play.stop() == UNCODED_DOWN
    play.ends(lingers=True)


def test_stop_before_the_lookup_is_a_421() -> None:
    server = ServerCore(Options(name="mx.test", **TLS))
    serving = server.begin(("192.0.2.25", 25), ("192.0.2.1", 9), lambda: 0.0)
    assert serving is not None
    serving.stop()
    effect = next(serving.run())
    assert isinstance(effect, Send)
    assert effect.data == UNCODED_DOWN


@pytest.mark.parametrize(("now", "result"), [(False, None), (True, STOPPED)])
def test_stop_in_on_connect_is_a_421_in_place_of_the_greeting(now: bool, result: Any) -> None:
    play = Play(on_connect=hook, greeted=False)
    play.stop(now=now)
    play.resume(result)
    if not now:
        play.poll()
    assert play.sent() == UNCODED_DOWN
    play.ends(lingers=True)


@pytest.mark.parametrize("now", [False, True])
def test_stop_between_commands_is_a_421(now: bool) -> None:
    play = Play()
    assert play.stop(now=now) == DOWN
    play.ends(lingers=True)


def test_stop_within_a_hook_waits_for_its_reply() -> None:
    play = Play(on_vrfy=hook)
    play.resume(b"VRFY x\r\n")
    play.serving.stop()
    play.resume(None)
    assert play.sent() == b"252 2.1.5 Try to send something. No promises though\r\n" + DOWN
    play.ends(lingers=True)


def test_stop_now_within_a_hook_drops_its_answer() -> None:
    play = Play(on_mail_from=hook)
    play.resume(b"MAIL FROM:<a@x>\r\n")
    play.serving.stop(now=True)
    play.resume(None)
    assert play.sent() == DOWN
    play.ends(lingers=True)


@pytest.mark.parametrize("on_data", [hook, None])
def test_stop_lets_a_transaction_end(on_data: Any) -> None:
    play = Play(on_data=on_data)
    play.say(b"MAIL FROM:<a@x>\r\n")
    assert play.stop() == b""
    assert play.say(b"RCPT TO:<b@y>\r\n") == b"250 2.1.5 Accepted\r\n"
    play.say(b"DATA\r\n")
    if on_data:
        play.resume(PULL)
    said = play.say(b"hi\r\n.\r\n")
    if on_data:
        play.resume(None)
        said = play.sent()
    assert said == QUEUED + DOWN
    play.ends(lingers=True)


def test_stop_lets_a_message_end_that_is_coming_in() -> None:
    play = Play(on_data=hook)
    play.say(DATA)
    play.resume(PULL)
    play.serving.stop()
    play.resume(STOPPED)
    play.say(b"hi\r\n.\r\n")
    assert play.delivered() == b"hi\r\n"
    play.resume(None)
    assert play.sent() == QUEUED + DOWN


def test_stop_while_on_data_works_waits_for_its_reply() -> None:
    play = Play(on_data=hook)
    play.say(DATA)
    play.resume(PULL)
    play.resume(b".\r\n")
    play.serving.stop()
    play.resume(None)
    assert play.sent() == QUEUED + DOWN


def test_stop_now_while_on_data_works_drops_its_answer() -> None:
    play = Play(on_data=hook)
    play.say(DATA)
    body = play.body()
    play.resume(PULL)
    play.resume(b".\r\n")
    play.serving.stop(now=True)
    play.resume(STOPPED)
    assert body.aborted == "shutdown"
    assert play.sent() == DOWN


def test_stop_ends_a_transaction_that_is_given_up() -> None:
    play = Play()
    play.say(b"MAIL FROM:<a@x>\r\n")
    play.stop()
    assert play.say(b"RSET\r\n") == b"250 2.0.0 Flushed\r\n" + DOWN


def test_stop_now_ends_a_transaction() -> None:
    play = Play()
    play.say(b"MAIL FROM:<a@x>\r\n")
    assert play.stop(now=True) == DOWN


def test_stop_while_a_reply_is_written_waits_for_it() -> None:
    play = Play()
    play.sends = False
    play.resume(b"NOOP\r\n")
    play.serving.stop()
    play.resume(STOPPED)
    assert play.send.data == b""
    play.resume(None)
    assert play.send.data == DOWN


def test_stop_now_while_a_reply_is_written_does_not_wait() -> None:
    play = Play()
    play.sends = False
    play.resume(b"NOOP\r\n")
    play.serving.stop(now=True)
    play.resume(STOPPED)
    assert (play.send.data, play.send.last) == (DOWN, True)


def test_stop_now_while_octets_for_a_message_are_written_aborts_it() -> None:
    play = Play(on_data=hook)
    play.sends = False
    play.resume(DATA)
    body = play.body()
    play.resume(PULL)
    assert play.send.data.endswith(GO_ON)
    play.serving.stop(now=True)
    play.resume(STOPPED)
    assert play.delivered() == b""
    assert body.aborted == "shutdown"


def test_stop_now_goes_before_stop() -> None:
    play = Play()
    play.serving.stop(now=True)
    play.serving.stop()
    assert play.serving.expendable


# --- the end ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("result", [LOST, TIMED_OUT])
def test_last_words_that_cannot_be_sent_do_not_keep_the_connection(result: Any) -> None:
    play = Play()
    play.sends = False
    play.now = 60
    play.resume(TIMED_OUT)
    assert play.send.deadline == 65
    play.resume(STOPPED)
    assert play.send.data == b""
    play.resume(result)
    play.ends()


def test_a_client_that_still_sends_may_read_our_last_words() -> None:
    play = Play()
    play.now = 60
    play.resume(TIMED_OUT)
    assert play.receive.deadline == 60 + LINGER
    play.resume(b"x" * 1000)
    play.resume(STOPPED)
    assert play.receive.deadline == 60 + LINGER
    play.resume(TIMED_OUT)
    play.ends()


def test_a_client_that_never_stops_sending_is_not_listened_to_for_ever() -> None:
    play = Play()
    play.now = 60
    play.resume(TIMED_OUT)
    for _ in range(LINGER_OCTETS // 65536):
        play.receive  # noqa: B018
        play.resume(bytes(65536))
    play.ends()


def test_after_quit_nobody_lingers_and_tls_is_ended_politely() -> None:
    play = Play()
    play.say(b"STARTTLS\r\n")
    play.tls()
    play.say(b"NOOP\r\n")
    assert play.client is not None
    play.sends = False
    play.resume(play.client.write(b"QUIT\r\n"))
    assert not play.send.last
    assert play.client.read(play.send.data) == b"221 2.0.0 Bye\r\n"
    assert play.client.tls.read(1) == b""  # close_notify


def test_one_client_too_many_is_told_and_counted_apart() -> None:
    play = Play(max_clients=1)
    serving = play.server.begin(("192.0.2.25", 25), ("192.0.2.2", 1), lambda: 0.0)
    assert serving is not None
    assert not serving.counted
    run = serving.run()
    effect = next(run)
    assert isinstance(effect, Send)
    assert effect.data == b"421 mx.test Too many connected clients, try again in a moment\r\n"
    assert play.server._refusing == 1
    for result in (None, b""):
        effect = run.send(result)
    assert isinstance(effect, Close)
    with pytest.raises(StopIteration):
        run.send(None)
    assert play.server._refusing == 0
    assert play.server._clients == 1


# --- what cannot be reached by talking --------------------------------------------------------------


def test_a_chunk_is_not_to_be_had_without_a_message() -> None:
    play = Play()
    with pytest.raises(StopIteration) as end:
        next(play.serving._next_chunk())
    assert end.value.value is None


def test_the_body_is_no_stream_of_a_connection_in_another_state() -> None:
    play = Play()
    assert play.serving._core.state is State.READY
    assert play.serving._core.next_event() is Signal.NEED_DATA


def test_streams_are_made_over_the_body() -> None:
    play = Play(on_data=hook)
    play.say(DATA)
    body = play.body()
    assert Stream(body, bytes).byte_length == 0
    assert AsyncStream(body, nothing, lambda _: None).refusal is None


async def nothing(_body: MessageBody) -> bytes:
    return b""


# --- what needs no waiting ----------------------------------------------------------------------


class Prompt(AtOnce):
    """An adapter that sends at once, and whose hooks give at once what they are told to."""

    def __init__(self, play: Play, *results: Any) -> None:
        self.play = play
        self.results = list(results)
        self.called: list[str] = []
        self.delivered: list[bytes] = []
        play.serving.at_once = self

    def send_at_once(self, data: bytes) -> bytes | None:
        self.play.raw += data
        return None

    def call_at_once(self, ask: Ask) -> Any:
        self.called.append(ask.name)
        return self.next()

    def deliver_at_once(self, data: bytes) -> Any:
        self.delivered.append(data)
        return self.next()

    def next(self) -> Any:
        result = self.results.pop(0)
        return result() if callable(result) else result


def test_a_hook_that_answers_at_once_is_not_asked() -> None:
    play = Play(on_mail_from=hook, on_rcpt_to=hook)
    prompt = Prompt(play, None, Reject(550, "5.7.1", "not you"), Failed(ValueError()), 17, ACCEPT)
    rcpt = b"RCPT TO:<b@y.test>\r\n"
    refused = b"550 5.7.1 not you\r\n"
    assert play.say(b"MAIL FROM:<a@x.test>\r\n" + 4 * rcpt).splitlines(keepends=True) == [
        b"250 2.1.0 Accepted\r\n", refused, BROKEN, BROKEN, b"250 2.1.5 Accepted\r\n"
    ]  # fmt: skip
    assert prompt.called == ["on_mail_from"] + ["on_rcpt_to"] * 4
    assert [type(error) for error, _ in play.errors] == [ValueError, HookError]


def test_a_hook_that_has_to_wait_is_asked_then() -> None:
    play = Play(on_mail_from=hook)
    Prompt(play, NOT_NOW)
    assert play.say(b"MAIL FROM:<a@x.test>\r\n") == b""
    play.asks("on_mail_from")
    play.resume(None)
    assert play.sent() == b"250 2.1.0 Accepted\r\n"


def test_a_server_that_a_hook_stops_at_once_is_stopped() -> None:
    play = Play(on_mail_from=hook)
    Prompt(play, lambda: play.serving.stop(now=True))
    assert play.say(b"MAIL FROM:<a@x.test>\r\n") == DOWN
    play.ends(lingers=True)


def test_a_message_is_pulled_and_answered_at_once() -> None:
    play = Play(on_data=hook)
    prompt = Prompt(play, PULL, PULL, lambda: play.serving.chunk_at_hand() or "that was all")
    assert play.say(DATA).endswith(GO_ON)
    assert play.say(b"one\r\n") == b""
    assert play.say(b"two\r\n.\r\n") == b"250 2.6.0 that was all\r\n"
    assert prompt.delivered == [b"one\r\n", b"two\r\n"]


def test_a_hook_that_waits_for_something_else_is_delivered_to() -> None:
    play = Play(on_data=hook)
    prompt = Prompt(play, PULL, NOT_NOW, PULL, NOT_NOW)
    play.say(DATA)
    play.say(b"one\r\n")
    assert play.delivered() == b"one\r\n"
    play.resume(PULL)
    play.say(b"two\r\n.\r\n")
    assert prompt.delivered == [b"one\r\n", b"two\r\n"]
    play.resume(PULL)
    assert play.delivered() == b""
    play.resume(None)
    assert play.sent() == QUEUED


def test_a_hook_that_is_recalled_from_its_pull_is_asked_again_and_loses_nothing() -> None:
    play = Play(on_data=hook)
    prompt = Prompt(play, PULL, None)
    play.say(DATA)
    play.serving.recalled = True
    play.resume(STOPPED)
    play.asks("on_data")
    assert not play.serving.recalled
    play.resume(PULL)
    assert play.say(b"one\r\n.\r\n") == QUEUED
    assert prompt.delivered == [b"one\r\n"]


def test_a_hook_is_recalled_behind_a_reply_that_the_client_does_not_take() -> None:
    play = Play(on_data=hook)

    class Slow(Prompt):
        def send_at_once(self, data: bytes) -> bytes | None:
            self.play.raw += data
            return b""  # it is on the way

    Slow(play, PULL)
    play.sends = False
    play.say(DATA)
    assert play.send.data == b""
    play.serving.recalled = True
    play.resume(STOPPED)
    play.asks("on_data")
