# One play of a connection, for millions of plays: whatever happens is looked at while it happens.
#
# The application's decisions come out of the input too, so that two plays of the same octets and
# decisions can be compared, whatever lay between them.

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, cast

from smtpproto import (
    ACCEPT,
    OPTIONAL_QUESTIONS,
    Accept,
    AuthRequested,
    Challenge,
    ClientConnected,
    CommandRequested,
    Connection,
    ConnectionClosed,
    ConnectRequested,
    DataAborted,
    DataChunk,
    DataFinished,
    DataRequested,
    DataStarted,
    Event,
    ExpandRequested,
    HelloRequested,
    HelpRequested,
    MailRequested,
    NeedsStartTLS,
    NeedsTLS,
    ProtocolOptions,
    ProxyReceived,
    RcptRequested,
    Reject,
    SecureRequested,
    Signal,
    State,
    TlsDetails,
    VerifyRequested,
    XClientCredentials,
)
from smtpproto._engine import MANY_REPLIES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from smtpproto import Envelope

__all__ = ["NOTED", "OPTIONS", "Play", "insist_on_replies", "is_fresh", "note"]

ENTROPY: Final = bytes(range(16))
TLS: Final = TlsDetails({"name": "X", "standard_name": "X", "version": "TLSv1.3"}, servername="mx.test")

# --- what the input chooses from --------------------------------------------------------------------

# An address costs time at every turn, and only XCLIENT looks at it.
_PEERS: Final = (("", 0), ("192.0.2.1", 4321))
EVERY: Final[dict[str, Any]] = {
    "name": "mx.test", "auth_methods": ("PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2"), "max_line_length": 512,
    "auth_optional": True, "allow_insecure_auth": True, "hide_enhancedstatuscodes": False, "hide_dsn": False,
    "hide_requiretls": False, "max_unknown_commands": 6,
}  # fmt: skip

_GIVEN: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"lmtp": True},
    {"auth_optional": False},
    {"use_proxy": True},
    {"use_xclient": True, "use_xforward": True},
    {"bare_newlines": "accept"},
    {"size": 9},
    {"size": 9, "enforce_size": False},
    {"lenient_addresses": True, "unknown_parameters": "accept"},
    {"require_smtputf8": False, "unknown_parameters": "accept"},
    {"needs_upgrade": True},
    {"secure": True},
    {"tls_upstream": True},
    {"hide_enhancedstatuscodes": True},
    {"lmtp": True, "size": 20, "bare_newlines": "accept"},
    {"lmtp": True, "auth_optional": False, "allow_insecure_auth": False},
    {"use_proxy": True, "secure": True},
    {"use_proxy": True, "use_xclient": True, "auth_optional": False},
    {"max_unknown_commands": 1, "max_recipients": 1},
    {"max_recipients": 2, "lmtp": True},
    {"auth_optional": False, "max_allowed_unauthenticated_commands": 3, "max_auth_attempts": 1},
    {"max_auth_attempts": 2, "max_unknown_commands": 2},
    {"disabled_commands": ("HELP", "RSET", "STARTTLS")},
    {"disabled_commands": ("AUTH", "XCLIENT", "VRFY")},
    {"auth_methods": ()},
    {"auth_methods": ("XOAUTH2",), "auth_optional": False},
    {"hide_dsn": True, "hide_size": True, "hide_8bitmime": True, "hide_requiretls": True},
    {"hide_smtputf8": True, "hide_pipelining": True, "hide_starttls": True},
    {"max_unknown_commands": None, "max_auth_attempts": None},
    {"ehlo_keywords": ("X-ONE", "X-TWO 2"), "banner": "ready", "helo_response": "%s says hello to %s"},
    {"secure": True, "lmtp": True, "bare_newlines": "accept"},
    {"needs_upgrade": True, "auth_optional": False, "lenient_addresses": True, "size": 1000},
)

# Made once: a play costs less than the options it is played with.
OPTIONS: Final = tuple(ProtocolOptions(**EVERY | given) for given in _GIVEN)

# --- what is worth keeping an input for -----------------------------------------------------------------

NOTED: Final = bytearray(1 << 12)
"""What was noted in this run; the fuzzer takes each octet that is set for another place it has reached."""


def note(place: int, what: int) -> None:
    """Tell the fuzzer of something that no branch of the code shows, such as a reply in a state."""
    NOTED[(place * 601 + what) % len(NOTED)] = 1


# --- what the application decides -----------------------------------------------------------------------

NO: Final = (Reject(), Reject(451), Reject(text="é\r\n5.7.1 x"), Reject(421))
EACH: Final = "each"  # a list of decisions, where there is a recipient for each
CHOICES: Final[Mapping[type[Event], tuple[Any, ...]]] = {
    ConnectRequested: (*[ACCEPT] * 12, *NO),
    SecureRequested: (*[ACCEPT] * 12, *NO),
    HelloRequested: (*[ACCEPT] * 11, Accept(text="a\r\nb"), *NO),
    AuthRequested: (
        *[ACCEPT] * 8,
        Accept(),
        Challenge(b"more"),
        Reject(challenge={"a": 1}),
        Reject(454),
        *NO,
    ),
    MailRequested: (*[ACCEPT] * 11, Accept(text="x" * 600), *NO),
    RcptRequested: (*[ACCEPT] * 10, Accept(251), Reject(452), *NO),
    DataRequested: (*[ACCEPT] * 12, *NO),
    DataFinished: (*[ACCEPT] * 9, Accept(text="as 1"), EACH, Reject(550), *NO),
    VerifyRequested: (ACCEPT, Accept(250, text=["b", "c"]), *NO),
    ExpandRequested: (ACCEPT, *NO),
    HelpRequested: (ACCEPT, Accept(211), *NO),
    CommandRequested: (None, Accept(299), *NO),
}
BARE_NEWLINE: Final = 550  # the code of that refusal
MOST_EVENTS: Final = 5  # that wait: timers, an abortion, the end
PICKS: Final = 16  # decisions that the input chooses; those behind them are the first choice

# --- what is compared -------------------------------------------------------------------------------


def _parsed(event: Any) -> tuple[object, ...]:
    address = event.address
    return address.address, address.args, address.dsn


# The facts of events that carry a session, which is another one in each play; others are themselves.
_FACTS: Final[Mapping[type[Event], Callable[[Any], object]]] = {
    ConnectRequested: lambda _: "connect",
    SecureRequested: lambda _: "secure",
    ClientConnected: lambda event: ("client", event.session.remote_address, event.session.client_hostname),
    DataStarted: lambda _: "start",
    DataRequested: lambda _: "data",
    MailRequested: lambda event: ("mail", *_parsed(event)),
    RcptRequested: lambda event: ("rcpt", *_parsed(event)),
    AuthRequested: lambda event: ("auth", event.auth.method, event.auth.username, event.auth.response),
    HelloRequested: lambda event: ("hello", event.verb, event.name),
    VerifyRequested: lambda event: ("vrfy", event.argument),
    ExpandRequested: lambda event: ("expn", event.argument),
    HelpRequested: lambda event: ("help", event.argument),
    CommandRequested: lambda event: ("command", event.verb, event.argument),
    ProxyReceived: lambda event: repr(event.proxy),
}

CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# RFC 5321 §4.2: one code on all lines of a reply, and lines of 512 octets at most, CRLF included.
# A challenge (334) is one line of whatever length (RFC 4954 §4).
REPLIES: Final = re.compile(
    rb"(?:(?P<code>[245][0-9]{2})(?:-[^\x00-\x1f\x7f]{0,506}\r\n(?P=code))* [^\x00-\x1f\x7f]{0,506}\r\n"
    rb"|334 [A-Za-z0-9+/=]*\r\n|354 [ -~]{1,506}\r\n)*"
)
# RFC 2034 §4: the enhanced code has the class of the code.
WRONG_CLASS: Final = re.compile(rb"(?m)^([245])[0-9][0-9][ -](?!\1)[245]\.[0-9]{1,3}\.[0-9]{1,3} ")


def insist_on_replies(sent: bytes, *, coded: bool) -> None:
    """I4: octets that are a sequence of well-formed replies."""
    assert REPLIES.fullmatch(sent), sent
    assert not (coded and WRONG_CLASS.search(sent)), sent
    sent.decode()


class Play:
    """A connection, what it was asked and what came of it."""

    __slots__ = (
        "aborted", "asked", "closed",
        "connection", "content", "core", "events", "finished", "limits", "open", "options",
        "picks", "sent", "session",
    )  # fmt: skip

    def __init__(self, options: ProtocolOptions, picks: bytes, *, ask: bool) -> None:
        """`picks` are the decisions, two to an octet."""
        self.options = options
        self.picks = picks
        self.connection = Connection(
            options, ask=OPTIONAL_QUESTIONS if ask else (), entropy=ENTROPY, tls_available=True,
            remote=_PEERS[bool(options.use_xclient)],
        )  # fmt: skip
        self.core = self.connection
        self.session = self.connection.session
        self.limits = _limits(self.connection)
        self.events: list[object] = []
        self.sent: list[bytes] = []
        self.asked = 0
        self.closed = False
        self.open = False  # a message has begun whose end has not come
        self.aborted = False  # and it is known that it will not be kept
        self.finished: DataFinished | None = None  # the latest
        self.content: list[bytes] = []  # of the latest message

    # --- playing ------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Answer what is asked and take events until more input is needed."""
        question = self.connection.question
        if question is not None:
            self._answer(question)
        next_event, core = self.connection.next_event, self.core
        while True:
            event = next_event()
            if isinstance(event, Signal):
                assert len(core.out) <= MANY_REPLIES + 3, "replies pile up"
                if core.out:
                    self.sent.append(self.connection.data_to_send())
                if event is not Signal.SEND:
                    assert event is (Signal.CLOSED if self.closed else Signal.NEED_DATA), event
                    return
                continue
            if isinstance(event, DataChunk):
                self.content.append(event.data)
                assert event.data, "an empty chunk"
                continue
            self.take(event)
            if core.question is event:
                self._answer(event)

    def take(self, event: Any) -> None:
        """Look at one event."""
        assert not self.closed, event  # I6
        assert len(self.core.events) <= MOST_EVENTS, "events pile up"  # I5
        kind = cast("type[Event]", type(event))
        fact = _FACTS.get(kind)
        self.events.append(event if fact is None else fact(event))
        look = _LOOKS.get(kind)
        if look is not None:
            look(self, event)

    def _answer(self, event: Event) -> None:
        kind = type(event)
        if kind is NeedsStartTLS or kind is NeedsTLS:
            self.connection.tls_established(TLS)
            self._insist_on_a_new_session()
            return
        choices = CHOICES[kind]
        octet, low = divmod(self.asked, 2)
        self.asked += 1
        pick = 0 if octet >= len(self.picks) else self.picks[octet] >> 4 * low & 15
        given: Any = choices[pick % len(choices)]
        if kind is AuthRequested:
            given = self._login(event, given)
        elif given is EACH:
            given = self._each()
        recipients = len(self.session.envelope.rcpt_to)
        self.connection.decide(given)
        if kind is RcptRequested:  # I8, I12
            assert len(self.session.envelope.rcpt_to) == recipients + isinstance(given, Accept)
        elif kind is DataFinished:
            self._look_at_verdict(event, given)
        elif kind is SecureRequested:
            assert self.connection.state in _ALL_IS_NEW  # I7: EHLO again (RFC 3207 §4.2)

    def _login(self, event: Any, given: Any) -> Any:
        if given is ACCEPT:
            return Accept(user=event.auth.username)
        # XCLIENT's login has no exchange that could go on.
        return (
            Reject() if isinstance(given, Challenge) and isinstance(event.auth, XClientCredentials) else given
        )

    def _each(self) -> Any:
        if not self.options.lmtp:
            return ACCEPT
        return [NO[i % 4] if i % 2 else ACCEPT for i in range(len(self.session.envelope.rcpt_to))]

    # --- looking on ---------------------------------------------------------------------------------

    def _look_at_start(self, _event: DataStarted) -> None:  # I12
        session, options = self.session, self.options
        envelope = session.envelope
        assert not self.open, "a message within a message"
        assert envelope.mail_from is not None
        assert 0 < len(envelope.rcpt_to) <= (options.max_recipients or 1000)
        assert session.secure or not options.needs_upgrade
        assert session.user is not None or not options.login_required
        assert session.opening_command
        self.open, self.aborted = True, False
        self.finished = None
        self.content.clear()

    def _look_at_finish(self, event: DataFinished) -> None:
        assert self.open, "a message that ends twice"
        assert self.aborted is (event.refusal is not None and event.refusal.code == BARE_NEWLINE), (
            "kept or not?"
        )
        assert sum(map(len, self.content)) <= event.byte_length
        self.open = False
        self.finished = event
        self.events.append(b"".join(self.content))

    def _look_at_abortion(self, _event: Event) -> None:
        assert self.open, "nothing to abort"
        assert not self.aborted, "aborted twice"
        self.aborted = True

    def _look_at_address(self, event: Any) -> None:  # I11
        address = event.address
        assert not CONTROL.search(address.address)
        for keyword, value in address.args.items():
            assert keyword.isascii()
            assert value is True or not CONTROL.search(value)

    def _look_at_verdict(self, event: Any, given: Any) -> None:  # I9
        """A message that was not accepted is not said to be."""
        if event.refusal is not None or isinstance(given, Reject):
            assert not any(reply.startswith(b"2") for reply in self.core.out)

    def _look_at_close(self, _event: Event) -> None:
        assert not self.open or self.aborted, "a message without an end"
        self.closed = True

    def _insist_on_a_new_session(self) -> None:  # I7
        """RFC 3207 §4.2: nothing that was said in the clear is known any more."""
        core, session = self.core, self.session
        assert session.secure
        assert not session.opening_command
        assert not session.host_name_appears_as
        assert session.user is None
        assert not session.xclient
        assert not session.xforward
        assert is_fresh(session.envelope)
        assert len(core.buffer) == 0
        assert not core.buffer.line_pending
        assert not core.buffer.continuation
        assert core.exchange is None
        assert core.transfer is None

    # --- the end ------------------------------------------------------------------------------------

    def insist_on_the_end(self) -> None:
        """What holds when all has been said."""
        insist_on_replies(b"".join(self.sent), coded=self.options.coded)
        assert _limits(self.connection) == self.limits  # I13
        if not self.closed:
            return
        connection = self.connection
        connection.receive_data(b"NOOP\r\n")  # I6
        connection.timeout("socket_timeout")
        connection.shutdown(now=True)
        assert connection.next_event() is Signal.CLOSED
        assert connection.data_to_send() == b""
        assert len(self.core.buffer) == 0

    def summary(self) -> tuple[object, ...]:
        """All that must not depend on how the octets were cut."""
        return b"".join(self.sent), self.events, b"".join(self.content), self.asked, _facts(self.connection)


_LOOKS: Final[Mapping[Any, Callable[[Play, Any], None]]] = {
    DataStarted: Play._look_at_start,
    DataFinished: Play._look_at_finish,
    DataAborted: Play._look_at_abortion,
    MailRequested: Play._look_at_address,
    RcptRequested: Play._look_at_address,
    ConnectionClosed: Play._look_at_close,
}


_ALL_IS_NEW: Final = frozenset({State.GREETED, State.CLOSED})


def is_fresh(envelope: Envelope) -> bool:
    """Whether nothing has been said of this transaction."""
    return (
        envelope.mail_from is None and not envelope.rcpt_to and envelope.body_type == "7bit"
        and not envelope.smtp_utf8 and not envelope.require_tls and envelope.declared_size is None
        and envelope.dsn.ret is None and envelope.dsn.envid is None
    )  # fmt: skip


def _limits(connection: Connection) -> tuple[object, ...]:
    core = connection
    return core.options, core.high_water, core.buffer._limit, core.buffer._auth_limit, core.coded


def _facts(connection: Connection) -> tuple[object, ...]:
    """Every fact that a later command could notice, compared as values."""
    core, session = connection, connection.session
    envelope = session.envelope
    return (
        *[getattr(session, name) for name in _SESSION], repr(session.proxy), vars(session),
        *[getattr(envelope, name) for name in _ENVELOPE], repr(envelope.dsn),
        *[getattr(core, name) for name in _CORE],
        len(core.buffer), core.buffer.line_pending, core.buffer.continuation, core.exchange is None,
        core.transfer is None
        or (core.transfer.byte_length, core.transfer.has_bare_newline, core.transfer.refusal),
    )  # fmt: skip


_SESSION: Final = (
    "client_hostname", "error", "host_name_appears_as", "local_address", "local_port", "opening_command",
    "remote_address", "remote_port", "secure", "servername", "tls_options", "transaction", "user", "xclient",
    "xforward",
)  # fmt: skip
_ENVELOPE: Final = ("body_type", "declared_size", "mail_from", "rcpt_to", "require_tls", "smtp_utf8")
_CORE: Final = (
    "connect_due", "eof", "exchanges", "failed_logins", "peer", "state", "unauthenticated", "unknown",
    "xclient_done",
)  # fmt: skip
