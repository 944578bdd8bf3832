# Random conversations: what a client says, what happens meanwhile, and what the application answers.
#
# A conversation is data. It is the same for every version and every player, and pieces of it can be
# left out. What is answered to the n-th question of a kind follows from the seed alone, so an answer
# stays where it is when pieces before it are dropped.

from __future__ import annotations

import base64
import hmac
import random
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["CHALLENGE", "ENTROPY", "HELLO", "SETTINGS", "TAIL", "Step", "Talk", "cut", "talk"]

ENTROPY: Final = bytes(range(16))
CHALLENGE: Final = b"what else?"
HELLO: Final = b"\x16\x03"
"""What stands for the client's TLS handshake."""
GOODBYE: Final = b"\x15"
"""What stands for the end of TLS."""
MOST_PIECES: Final = 25  # of octets that come together
WAITS: Final = 4  # of eight questions in a conversation with hooks that wait, so many are waited for

EVERY: Final[Mapping[str, Any]] = {
    "name": "mx.test", "auth_methods": ("PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2"), "auth_optional": True,
    "allow_insecure_auth": True, "disable_reverse_lookup": True, "hide_enhancedstatuscodes": False,
    "max_line_length": 512, "max_unknown_commands": 6,
}  # fmt: skip
SETTINGS: Final[Sequence[Mapping[str, Any]]] = tuple(
    {**EVERY, **each}
    for each in (
        {"max_line_length": 4096},
        {"max_line_length": 4096, "hide_enhancedstatuscodes": True},
        {"max_line_length": 4096, "lmtp": True},
        {"size": 60},
        {"size": 60, "enforce_size": False, "max_line_length": 4096},
        {"bare_newlines": "accept", "max_line_length": 4096},
        {"lmtp": True, "size": 60, "bare_newlines": "accept"},
        {"auth_optional": False, "max_line_length": 4096},
        {"auth_optional": False, "lmtp": True, "max_allowed_unauthenticated_commands": 4},
        {"auth_optional": False, "allow_insecure_auth": False},
        {"use_proxy": True},
        {"use_proxy": True, "secure": True},
        {"use_proxy": True, "use_xclient": True, "auth_optional": False},
        {"use_xclient": True, "use_xforward": True},
        {"secure": True, "max_line_length": 4096},
        {"needs_upgrade": True, "max_line_length": 4096},
        {"needs_upgrade": True, "lmtp": True, "auth_optional": False},
        {"tls_upstream": True},
        {"max_recipients": 2, "lmtp": True, "max_line_length": 4096},
        {"max_recipients": 1, "max_unknown_commands": 2, "max_auth_attempts": 1},
        {"hide_dsn": False, "hide_requiretls": False, "unknown_parameters": "accept"},
        {"lenient_addresses": True, "require_smtputf8": False, "max_line_length": 4096},
        {"disabled_commands": ("RSET", "VRFY", "AUTH")},
        {"disabled_commands": ("DATA", "STARTTLS", "HELP")},
        {"hook_timeout": 30.0, "max_line_length": 4096},
        {"hook_timeout": 90.0, "lmtp": True, "data_timeout": 40.0},
        {"socket_timeout": None, "command_timeout": 20.0, "data_timeout": None},
        {"min_data_rate": 3.0, "socket_timeout": 10.0, "max_line_length": 4096},
        {"min_data_rate": 1.0, "data_timeout": 30.0, "session_timeout": 100.0},
        {"session_timeout": 50.0, "socket_timeout": 20.0},
        {"early_talker_delay": 1.0},
        {"early_talker_delay": 2.0, "secure": True, "greeting_timeout": 1.5},
        {"disable_reverse_lookup": False},
        {"disable_reverse_lookup": False, "early_talker_delay": 1.0, "reverse_lookup_timeout": 40.0},
        {"max_clients": 1},
        {"max_clients": 1, "secure": True},
    )
)


class Step(NamedTuple):
    """One thing that happens; `of` says more of it."""

    what: str
    """octets, hook (a waiting hook goes on), time, stop, eof, lost."""
    of: Any = None


@dataclass(frozen=True, slots=True)
class Talk:
    """A conversation."""

    seed: int
    setting: int
    """Which of SETTINGS."""
    asks: bool
    """The optional questions are asked."""
    waits: bool
    """Some hooks are waited for."""
    early: bool
    """What the client says first is there before the connection is served."""
    steps: tuple[Step, ...]

    @property
    def refused(self) -> bool:
        """The client is over the limit."""
        return "max_clients" in SETTINGS[self.setting] and self.seed % 4 == 0

    @property
    def lacks(self) -> int:
        """Which hooks are not set, 0 to 7: most often none."""
        return self.seed // 64 % 8

    def pick(self, name: str, number: int) -> int:
        """A number for the n-th question of this name."""
        return zlib.crc32(b"%d %d %s" % (self.seed, number, name.encode()))

    def waits_for(self, name: str, number: int) -> int:
        """How often a hook waits before it answers."""
        picked = self.pick(name, number) >> 20
        return picked >> 3 & 1 | 1 if self.waits and picked & 7 < WAITS else 0


def cut(given: Talk) -> Talk:
    """The same conversation, its octets in random pieces."""
    rng = random.Random(given.seed)  # noqa: S311 - tests, to be repeated
    most = rng.choice([1, 3, 10, 60, 400])
    steps: list[Step] = []
    for step in given.steps:
        if step.what != "octets":
            steps.append(step)
            continue
        at, octets = 0, step.of
        least = 1 + len(octets) // MOST_PIECES
        while at < len(octets):
            size = rng.randint(least, least + most)
            steps.append(Step("octets", octets[at : at + size]))
            at += size
    return replace(given, steps=tuple(steps))


# --- what clients say ---------------------------------------------------------------------------------


def _b64(octets: bytes) -> bytes:
    return base64.b64encode(octets)


MAIL: Final = (
    *[b"MAIL FROM:<a@example.com>\r\n"] * 6,
    b"MAIL FROM:<>\r\n",
    b"mail from: <x@y.z> SIZE=100\r\n",
    b"MAIL FROM:<a@b.c> SIZE=9999999 BODY=8BITMIME\r\n",
    b"MAIL FROM:<\xc3\xa9@b.c> SMTPUTF8\r\n",
    b"MAIL FROM:<a@b.c> RET=HDRS ENVID=x+2By REQUIRETLS\r\n",
    b"MAIL FROM:<a@-b.c>\r\n", b"MAIL FROM:<a..b@c>\r\n", b"MAIL FROM:<a@b.c> X=1\r\n",
    b"MAIL FROM:<a@[192.0.2.9]>\r\n", b"MAIL FROM:<@r:a@b.c>\r\n", b"MAIL TO:<a@b.c>\r\n",
    b"MAIL FROM:<" + b"a" * 64 + b"@" + b"b." * 95 + b"c>\r\n",
)  # fmt: skip
RCPT: Final = (
    *[b"RCPT TO:<u@example.com>\r\n"] * 6,
    *[b"RCPT TO:<v@example.com>\r\n"] * 3,
    b"rcpt to:<Postmaster>\r\n",
    b'RCPT TO:<"q q"@example.com> NOTIFY=NEVER\r\n',
    b"RCPT TO:<" + b"a" * 250 + b"@example.com>\r\n",
    b"RCPT TO:<u@" + b"l" * 64 + b".com>\r\n",
    b"RCPT TO:<\xc3\xa9@example.com>\r\n", b"RCPT TO:<>\r\n", b"RCPT TO:<u@example.com> X\r\n", b"RCPT\r\n",
)  # fmt: skip
BODIES: Final = (
    b".\r\n", b"Subject: x\r\n\r\nhello\r\n.\r\n", b"..dot\r\n.x\r\n..\r\n.\r\n", b"bare\nnewline\r\n.\r\n",
    b"cr\ralone\r\n.\r\n", b"a\n.\nb\r\n.\r\n", b"a\r\n.\rb\r\n.\r\n", b"X" * 61 + b"\r\n.\r\n",
    b"X" * 58 + b"\r\n.\r\n", b"X" * 57 + b"\r\n\r\n.\r\n", b"long " * 700 + b"\r\n.\r\n", b"never\r\n",
    b"\r\n\r\n.\r\n", b"a\r\n.b\r\n\n.\r\n", b"\r.\r\n.\r\n", b"Y" * 70_000 + b"\r\n.\r\n",
)  # fmt: skip
OTHER: Final = (
    b"RSET\r\n", b"RSET\r\n", b"NOOP\r\n", b"NOOP x\r\n", b"VRFY x\r\n", b"EXPN l\r\n", b"HELP\r\n",
    b"HELP MAIL\r\n", b"XYZZY a b\r\n", b"xyzzy\r\n", b"\x00bad\r\n", b"BARE\nLF\r\n", b"BARE\rCR\r\n",
    b"\r\n",
    b"A" * 5000 + b"\r\n", b"NOOP " + b"n" * 505 + b"\r\n", b"NOOP " + b"n" * 506 + b"\r\n", b"DATA\r\n",
    b"DATA x\r\n", b"data\r\n", b"RSET x\r\n", b"BDAT 3\r\n", b"\xff\xfe\r\n", b"QUIT x\r\n", b"EHLO\r\n",
    b"EHLO a_b\r\n", b"HELO h.example\r\n", b"LHLO l.example\r\n", b"EHLO [192.0.2.4]\r\n",
    b"EHLO e.test\r\n",
    b"MAIL FROM:<a@b.c>\r\n", b"RCPT TO:<u@example.com>\r\n", b"GET / HTTP/1.1\r\n", b"NOOP\r\n" * 70,
    b"STARTTLS x\r\n", b"AUTH\r\n", b"AUTH NTLM\r\n", b"XCLIENT NAME=x\r\n", b"XFORWARD NAME=x\r\n",
)  # fmt: skip
XCLIENT: Final = (
    b"XCLIENT ADDR=192.0.2.77 PORT=99 NAME=mail.test\r\n", b"XCLIENT LOGIN=joe HELO=x.test PROTO=ESMTP\r\n",
    b"XCLIENT ADDR=IPV6:2001:db8::1 NAME=[UNAVAILABLE]\r\n", b"XCLIENT LOGIN=\r\n", b"XCLIENT ADDR=x\r\n",
)  # fmt: skip
XFORWARD: Final = (
    b"XFORWARD ADDR=192.0.2.78 NAME=far.test SOURCE=REMOTE\r\n", b"XFORWARD IDENT=q HELO=far\r\n",
    b"XFORWARD\r\n",
)  # fmt: skip
_V2: Final = b"\r\n\r\n\x00\r\nQUIT\n"
PROXY: Final = (
    *[b"PROXY TCP4 192.0.2.50 192.0.2.25 5000 25\r\n"] * 4,
    b"PROXY TCP6 2001:db8::5 2001:db8::25 5000 25\r\n", b"PROXY UNKNOWN\r\n",
    _V2 + b"\x21\x11\x00\x0c" + b"\xc0\x00\x02\x33\xc0\x00\x02\x19" + b"\x13\x88\x00\x19",
    _V2 + b"\x20\x00\x00\x00", _V2 + b"\x21\x11\x00\x04abcd", b"PROXY TCP4 x\r\n", b"EHLO a\r\n",
)  # fmt: skip


def _cram(_rng: random.Random) -> list[bytes]:
    digest = hmac.new(b"secret", b"", "md5").hexdigest()
    return [b"AUTH CRAM-MD5\r\n", _b64(b"joe " + digest.encode()) + b"\r\n"]


def _logins() -> Sequence[Callable[[random.Random], list[bytes]]]:
    plain = b"AUTH PLAIN " + _b64(b"\0joe\0secret") + b"\r\n"
    more = _b64(b"an answer") + b"\r\n"
    token = _b64(b"user=joe\x01auth=Bearer tok\x01\x01")
    given: list[list[bytes]] = [
        [plain], [plain], [plain], [plain, more], [b"AUTH PLAIN\r\n", _b64(b"z\0joe\0secret") + b"\r\n"],
        [b"AUTH PLAIN\r\n", b"*\r\n"], [b"AUTH PLAIN =\r\n"], [b"AUTH PLAIN !\r\n"],
        [b"AUTH LOGIN\r\n", _b64(b"joe") + b"\r\n", _b64(b"pw") + b"\r\n"],
        [b"AUTH LOGIN " + _b64(b"joe") + b"\r\n", _b64(b"pw") + b"\r\n", more],
        [b"AUTH LOGIN\r\n", b"*\r\n"], [b"AUTH LOGIN\r\n", b"=\r\n", b"=\r\n"],
        [b"AUTH XOAUTH2 " + token + b"\r\n"], [b"AUTH XOAUTH2 " + token + b"\r\n", b"\r\n"],
        [b"AUTH CRAM-MD5\r\n", b"*\r\n"], [b"AUTH CRAM-MD5 AA==\r\n"],
        [b"AUTH LOGIN\r\n", b"A" * 12400 + b"\r\n"],
    ]  # fmt: skip
    return [*(lambda _rng, said=said: list(said) for said in given), _cram]


LOGINS: Final = _logins()


def _transaction(rng: random.Random) -> list[bytes]:
    said = [rng.choice(MAIL)]
    said += [rng.choice(RCPT) for _ in range(rng.choice([1, 1, 1, 2, 3, 8]))]
    if rng.random() < 0.1:
        said.insert(rng.randrange(1, len(said) + 1), rng.choice(OTHER))
    if rng.random() < 0.85:
        said += [b"DATA\r\n", rng.choice(BODIES)]
    return said


def _start_tls(rng: random.Random) -> list[bytes]:
    return [b"STARTTLS\r\n", rng.choice([HELLO, HELLO, HELLO, HELLO, b"EHLO x\r\n"]), b"EHLO tls.test\r\n"]


_FRAGMENTS: Final[Sequence[tuple[int, Callable[[random.Random], list[bytes]]]]] = (
    (40, _transaction),
    (14, lambda rng: [rng.choice(OTHER) for _ in range(rng.choice([1, 1, 2, 4]))]),
    (8, lambda rng: rng.choice(LOGINS)(rng)),
    (4, _start_tls),
    (2, lambda rng: [rng.choice(XCLIENT), b"EHLO again.test\r\n"]),
    (3, lambda rng: [rng.choice(XFORWARD)]),
    (1, lambda _: [b"QUIT\r\n"]),
    (1, lambda _: [GOODBYE]),
)
_WEIGHTS: Final = [weight for weight, _ in _FRAGMENTS]
_MAKERS: Final = [make for _, make in _FRAGMENTS]

TAIL: Final = (
    *[Step("hook")] * 3,
    Step("eof"),
    *[Step("hook"), Step("time", (1000.0, "socket_timeout"))] * 6,
)
"""What sees every server to its end: hooks go on, the client goes, and time passes."""
TIMERS: Final = (
    "proxy_timeout", "tls_handshake_timeout", "greeting_timeout", "socket_timeout", "command_timeout",
    "data_timeout", "min_data_rate", "session_timeout",
)  # fmt: skip


def _happening(rng: random.Random) -> Step:
    """Something that is no octet of the client's."""
    match rng.randrange(10):
        case 0 | 1 | 2 | 3:
            return Step("time", (rng.choice([0.5, 2.0, 12.0, 35.0, 70.0, 400.0]), rng.choice(TIMERS)))
        case 4 | 5:
            return Step("stop", rng.random() < 0.5)
        case 6:
            return Step("eof")
        case 7:
            return Step("lost")
        case _:
            return Step("hook")


def talk(seed: int) -> Talk:
    """The conversation of a seed, its octets in the pieces that a pipelining client would send."""
    rng = random.Random(seed)  # noqa: S311 - as above
    setting = rng.randrange(len(SETTINGS))
    given = SETTINGS[setting]
    waits = rng.random() < 0.4
    happens = rng.choice([0.0, 0.0, 0.0, 0.05, 0.15])
    lines: list[bytes] = []
    if given.get("use_proxy"):
        lines.append(rng.choice(PROXY))
    if given.get("secure") and rng.random() < 0.95:
        lines.append(HELLO)
    if rng.random() < 0.95:
        lines.append(b"LHLO c.test\r\n" if given.get("lmtp") else b"EHLO c.test\r\n")
    for make in rng.choices(_MAKERS, _WEIGHTS, k=rng.choice([1, 2, 3, 5, 9])):
        lines += make(rng)
    if rng.random() < 0.1:
        lines.append(lines.pop()[: rng.randrange(1, 30)])
    together = rng.choice([0.0, 0.5, 0.9, 1.0])
    steps = [Step("hook")] * (rng.choice([3, 3, 3, 1]) if waits else 0)
    for line in lines:
        last = steps[-1] if steps else None
        if last is not None and last.what == "octets" and rng.random() < together and line != HELLO:
            steps[-1] = Step("octets", last.of + line)
        else:
            steps.append(Step("octets", line))
        while waits and rng.random() < 0.6:
            steps.append(Step("hook"))
        if rng.random() < happens:
            steps.append(_happening(rng))
    return Talk(
        seed, setting, asks=rng.random() < 0.4, waits=waits, early=rng.random() < 0.04, steps=tuple(steps)
    )
