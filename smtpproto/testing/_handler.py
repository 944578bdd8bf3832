# Hostile sessions for somebody's hooks, and what they find, as tests to be pasted.
#
# A session is a list of segments: a text is a command line, octets are themselves, and each is sent
# when everything before it was answered. So the shortest that fails can be read, and played again.

from __future__ import annotations

import base64
import contextlib
import itertools
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity
from hypothesis import strategies as st
from hypothesis.errors import Flaky

from smtpproto.testing._conversation import octets
from smtpproto.testing._pasted import as_test, readable
from smtpproto.testing._visits import Fault, Trial
from smtpproto.testing.strategies import segments, stuffed, valid_addresses

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterator, Sequence

    from smtpproto.testing._visits import Check, Said
    from smtpproto_server import Options

__all__ = ["HandlerFault", "check_handler", "fuzz_handler", "handler_faults", "handler_sessions"]

MAX_EXAMPLES: Final = 500
MAX_SECONDS: Final = 30.0
SHORTENING: Final = 5.0  # seconds for each of the two ways to make shorter what was found


class HandlerFault(AssertionError):  # noqa: N818 - an assertion of a test, that found a fault
    """Something is wrong with a handler. Its text says what, and ends with a test that shows it."""

    def __init__(self, fault: Fault, said: Said, test: str = "") -> None:
        parts = [f"{fault.kind}: {fault.text}", fault.trace, f"The client says:\n\n{readable(said)}", test]
        super().__init__("\n\n".join(filter(None, parts)))
        self.kind: str = fault.kind
        """One of the words that `allow` takes."""
        self.text: str = fault.text
        """What is wrong, in one line."""
        self.said: Said = tuple(said)
        """The shortest session found that shows it."""
        self.test: str = test
        """A module with a test that fails because of it."""


def check_handler(
    handler: Any,
    *said: str | bytes,
    options: Options | None = None,
    check: Check | None = None,
    allow: Collection[str] = (),
) -> None:
    """Play one session to a handler's hooks, in several cuts; raises HandlerFault.

    `said` are command lines (str, without CRLF) or octets (bytes). Each is sent when everything
    before it was answered; behind the last one the client goes. The rest is as for `fuzz_handler`.
    """
    with Trial(handler, options, check, allow) as trial:
        try:
            trial.play(*said)
        except Fault as fault:
            raise HandlerFault(fault, said) from fault.error


def fuzz_handler(
    handler: Any,
    options: Options | None = None,
    *,
    check: Check | None = None,
    allow: Collection[str] = (),
    mailboxes: Sequence[str] = (),
    login: tuple[str, str] | None = None,
    max_examples: int = MAX_EXAMPLES,
    seconds: float = MAX_SECONDS,
    seed: int = 0,
) -> None:
    """Throw hostile sessions at a handler's hooks; raises HandlerFault with the shortest that fails.

    `handler` is what servers take, or better its class, or a function that makes one: then every
    session meets a new one. It may be None when `options` have the hooks. What counts as a fault is
    in `FAULTS`; `allow` names those that are meant so. `mailboxes` are addresses that the handler
    knows, `login` a name and a password that it lets in. `check(visit)` is called after every session
    and may raise; what it returns must not depend on how the octets were cut.

    Ends after `max_examples` sessions or so many `seconds`; the same `seed` gives the same sessions.
    """
    found = handler_faults(
        handler, options, check=check, allow=allow, mailboxes=mailboxes, login=login,
        max_examples=max_examples, seconds=seconds, seed=seed,
    )  # fmt: skip
    with contextlib.closing(found):  # now, and not when somebody drops the traceback
        for fault in found:
            raise fault


def handler_faults(
    handler: Any,
    options: Options | None = None,
    *,
    check: Check | None = None,
    allow: Collection[str] = (),
    mailboxes: Sequence[str] = (),
    login: tuple[str, str] | None = None,
    max_examples: int = MAX_EXAMPLES,
    seconds: float = MAX_SECONDS,
    seed: int = 0,
) -> Generator[HandlerFault]:
    """All that `fuzz_handler` can find, one after the other, in the same time."""
    deadline = time.monotonic() + seconds
    known: set[tuple[object, ...]] = set()
    names: Counter[str] = Counter()
    with Trial(handler, options, check, allow) as trial:
        sessions = handler_sessions(trial.options, mailboxes=mailboxes, login=login)
        while (hunt := _Hunt(trial, deadline, known)).finds(sessions, max_examples, seed):
            fault = hunt.fault
            known.add(fault.key)
            name = "_".join(["test", fault.hook or "handler", fault.kind])
            names[name] += 1
            name += f"_{names[name]}" if names[name] > 1 else ""
            test = as_test(name, hunt.said, handler, options, check=check, allow=allow)
            yield HandlerFault(fault, hunt.said, test)


class _TimeIsUp(BaseException):
    """Goes through Hypothesis as it is."""


class _Hunt:
    """The search for one fault that is not known yet, and for the shortest session that shows it."""

    def __init__(self, trial: Trial, deadline: float, known: Collection[object]) -> None:
        self.fault: Fault = _NONE
        self.said: Said = ()
        self._trial: Trial = trial
        self._deadline: float = deadline
        self._known: Collection[object] = known

    def finds(self, sessions: st.SearchStrategy[Said], max_examples: int, seed: int) -> bool:
        """Look for it; False if there is none, or no time."""
        run = hypothesis.settings(
            max_examples=max_examples, database=None, deadline=None, derandomize=False, print_blob=False,
            phases=[Phase.generate, Phase.shrink], report_multiple_bugs=False, verbosity=Verbosity.quiet,
            suppress_health_check=[
                HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much,
            ],
        )(hypothesis.seed(seed)(hypothesis.given(sessions)(self._test())))  # fmt: skip
        # Flaky: it did not fail again, as the handler remembers. What was seen was seen.
        with contextlib.suppress(Fault, Flaky, _TimeIsUp):
            run()
        self._deadline = time.monotonic() + SHORTENING
        with contextlib.suppress(_TimeIsUp):
            while any(map(self._fails, _shorter(self.said))):
                pass
        return self.fault is not _NONE

    def _test(self) -> Callable[[Said], None]:
        def play(said: Said) -> None:  # Hypothesis takes no methods of objects
            self._play(said)

        return play

    def _play(self, said: Said) -> None:
        if time.monotonic() > self._deadline:
            raise _TimeIsUp
        try:
            self._trial.play(*said)
        except Fault as fault:
            if fault.key in self._known or self.fault.key not in {fault.key, _NONE.key}:
                return
            if self.fault is _NONE:
                self._deadline = time.monotonic() + SHORTENING
            if self.fault is _NONE or _size(said) < _size(self.said):
                self.fault, self.said = fault, tuple(said)
            raise

    def _fails(self, said: Said) -> bool:
        try:
            self._play(said)
        except Fault:
            return True
        return False


def _size(said: Said) -> tuple[int, int, int]:
    """Short for those who read it: of what is as long, that which is not sent at once."""
    whole = b"".join(map(octets, said))
    return whole.count(b"\n"), len(whole), -len(said)


def _shorter(said: Said) -> Iterator[Said]:
    """With one segment less, or one line less of what is sent at once, or sent one by one."""
    for i in reversed(range(len(said))):
        yield (*said[:i], *said[i + 1 :])
    for i, segment in enumerate(said):
        if isinstance(segment, bytes):
            lines = segment.splitlines(keepends=True)
            for k in range(len(lines)):
                yield (*said[:i], b"".join([*lines[:k], *lines[k + 1 :]]), *said[i + 1 :])
            if segment.startswith(b"MAIL") and segment.isascii():
                yield (*said[:i], *segment.decode().removesuffix("\r\n").split("\r\n"), *said[i + 1 :])


# --- sessions -------------------------------------------------------------------------------------


def handler_sessions(
    options: Options, *, mailboxes: Sequence[str] = (), login: tuple[str, str] | None = None
) -> st.SearchStrategy[Said]:
    """Sessions that come as far as a handler's hooks, with what it knows: `said` for `check_handler`."""
    hello = "LHLO client.test" if options.lmtp else "EHLO client.test"
    name, password = login or _NOBODY
    logins = _logins(name, password)
    start: tuple[str, ...] = (hello,)
    if options.needs_upgrade or (login and not (options.tls_upstream or options.allow_insecure_auth)):
        start += ("STARTTLS", hello)
    if login:
        start += logins[0]
    commands: list[Said] = [("STARTTLS", hello), (hello,), *logins, *_COMMANDS]
    exchange = st.one_of(*[_transactions(mailboxes)] * 4, st.sampled_from(commands), segments.map(_at_once))
    ends: list[Said] = [(), ("QUIT",)]
    return st.builds(
        _session, st.just(start), st.lists(exchange, min_size=1, max_size=4), st.sampled_from(ends)
    )


def _session(start: Said, exchanges: Sequence[Said], end: Said) -> Said:
    return (*start, *itertools.chain.from_iterable(exchanges), *end)


def _at_once(lines: Sequence[bytes]) -> Said:
    return (b"".join(lines),)


def _logins(name: str, password: str) -> list[tuple[str, ...]]:
    plain, user, secret, wrong = (
        base64.b64encode(each.encode()).decode()
        for each in (f"\0{name}\0{password}", name, password, f"\0{name}\0not-{password}")
    )
    return [
        (f"AUTH PLAIN {plain}",), ("AUTH LOGIN", user, secret), (f"AUTH PLAIN {wrong}",), ("AUTH LOGIN", "*"),
        ("AUTH PLAIN AAA=",),
    ]  # fmt: skip


def _transactions(mailboxes: Sequence[str]) -> st.SearchStrategy[Said]:
    known = list(mailboxes) or ["b@y.test", "c@y.test"]
    senders = st.one_of(
        st.sampled_from(["a@x.test", ""]), st.sampled_from([*known, *_ODD_ADDRESSES]), valid_addresses
    )
    recipients = st.one_of(
        *[st.sampled_from(known)] * 3,
        st.sampled_from([*(each.upper() for each in known), "postmaster", *_ODD_ADDRESSES]),
        valid_addresses,
    )
    return st.builds(
        _transaction,
        senders,
        st.sampled_from(["", " SIZE=100", " BODY=8BITMIME", " SMTPUTF8", " BODY=8BITMIME SMTPUTF8"]),
        st.lists(recipients, min_size=1, max_size=3),
        _on_the_wire,
        at_once=st.booleans(),
    )


def _transaction(
    sender: str, parameters: str, recipients: Sequence[str], body: bytes, *, at_once: bool
) -> Said:
    if not sender.isascii() and "SMTPUTF8" not in parameters:
        parameters += " SMTPUTF8"
    lines = (f"MAIL FROM:<{sender}>{parameters}", *(f"RCPT TO:<{each}>" for each in recipients), "DATA")
    # RFC 2920 §3.1: these may be sent at once, and the message may not.
    return ("\r\n".join([*lines, ""]).encode(), body) if at_once else (*lines, body)


_NOBODY: Final = ("nobody", "correct horse battery")
_NONE: Final = Fault("", "")

_ODD_ADDRESSES: Final = [
    "a+b@x.test", '"a b"@x.test', r'"a\"@b"@x.test', "A@X.TEST", "é@x.test", "a@é.test", "a@xn--9ca.test",
    "a@[192.0.2.1]", "a@[IPv6:2001:db8::1]", "a" * 64 + "@x.test", "a@" + "x" * 60 + ".test", "a%b@x.test",
    "../../a@x.test", "a/b@x.test", "~root@x.test", "|cat@x.test", "-a@x.test", "{0}%s@x.test", "'a@x.test",
]  # fmt: skip

_COMMANDS: Final[list[Said]] = [
    ("RSET",), ("NOOP",), ("MAIL FROM:<a@x.test>",), ("MAIL FROM:<>",), ("RCPT TO:<b@y.test>",), ("DATA",),
    ("HELO client.test",), ("EHLO [192.0.2.7]",), ("EHLO é",), ("VRFY b",), ("VRFY é",), ("EXPN b",),
    ("HELP",), ("HELP DATA",), ("X-OWN",), ("X-OWN a b",), ("MAIL FROM:<a@x.test>", "RSET"),
    ("MAIL FROM:<a@x.test>", "RCPT TO:<b@y.test>", "RSET"), ("MAIL FROM:<a@x.test>", "EHLO client.test"),
    ("QUIT",),
]  # fmt: skip

_FIELDS: Final = [
    b"Subject: hello", b"From: A <a@x.test>", b"To: b@y.test", b" folded", b"Subject:", b"Subject: again",
    b"Subject: =?utf-8?q?caf=C3=A9?=", "Subject: café".encode(), b"Subject: \xff", b"no colon", b": no name",
    b"From:", b"From: a@x.test, b@x.test", b"From: <", b"Date: yesterday", b"Message-ID: x", b"\tfolded",
    b"Content-Type: text/plain; charset=unheard-of", b"Content-Type: multipart/mixed; boundary=x",
    b"Content-Type: x", b"Content-Transfer-Encoding: base64", b"Subject: " + b"x" * 980, b"X-\0: \0",
    b"Subject: =?unheard-of?q?x?=", b"Subject: =?utf-8?b?=?=",
]  # fmt: skip
_TEXT: Final = [
    b"hello", b"", b".", b"..", b"From me", "café".encode(), b"\xff\xfe", b"\0", b"x" * 998, b"=3D", b"--x",
]  # fmt: skip


def _content(head: Sequence[bytes], between: Sequence[bytes], text: Sequence[bytes], times: int) -> bytes:
    return b"".join(
        line + b"\r\n" for line in [*head, *between, *(each for _ in range(times) for each in text)]
    )


def _broken_off(body: bytes, size: int) -> bytes:
    return body[:size]


def _with_a_bare_newline(body: bytes) -> bytes:
    return body.replace(b"\r\n", b"\n", 1)


_bodies: st.SearchStrategy[bytes] = st.builds(
    _content,
    st.lists(st.sampled_from(_FIELDS), max_size=4),
    st.sampled_from([[b""], [b""], [b""], []]),
    st.lists(st.sampled_from(_TEXT), max_size=4),
    st.sampled_from([1, 1, 1, 1, 1, 1, 100]),
).map(stuffed)
_on_the_wire: st.SearchStrategy[bytes] = st.one_of(
    *[_bodies] * 6,
    st.builds(_broken_off, _bodies, st.integers(0, 40)),
    _bodies.map(_with_a_bare_newline),
)
