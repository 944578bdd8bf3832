# How a row of rows.csv is played, as data: what a client does, what hooks answer, what must come back.
#
# These are the words; `_recipes.py` says in them what rows.csv says in English, and `_rows.py`
# puts the two together. Nothing here knows of sockets.

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, field, replace
from enum import Enum, unique
from functools import cache, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from smtpproto import CramMd5Credentials, Reject, XOAuth2Credentials

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from smtpproto import TimerKind

__all__ = [
    "COMMON", "CONFIGURATION", "FAULT", "SETUPS", "Action", "Answer", "Each", "Expectation", "Expire",
    "Message", "Raises", "Recipe", "Returns", "Row", "Scenario", "Setup", "Slow", "Step", "Turn", "fact",
    "judge", "judge_end", "judge_login", "judge_reply", "rows", "turn",
]  # fmt: skip


class Row(NamedTuple):
    """A row of the table, as it stands there."""

    id: str
    source: str
    setup: str
    input: str
    code: str
    enhanced: str
    note: str


@cache
def rows() -> dict[str, Row]:
    """The table, by id."""
    with (Path(__file__).parent / "rows.csv").open(encoding="utf-8", newline="") as file:
        _, *table = csv.reader(file)
    by_id = {line[0]: Row(*line) for line in table}
    assert len(by_id) == len(table), "an id is there twice"
    return by_id


# --- what is done besides sending octets ----------------------------------------------------------


@unique
class Action(Enum):
    """What a client or its surroundings do."""

    TLS = "the handshake"
    END = "the client sends no more"
    SHUTDOWN = "the server is told to close"
    TRICKLE = "an octet now and then"
    REFUSE = "one client too many"


class Expire(NamedTuple):
    """A time limit runs out."""

    kind: TimerKind


Step = bytes | Action | Expire

TLS, END, SHUTDOWN, TRICKLE, REFUSE = Action

# --- what hooks answer ----------------------------------------------------------------------------


class Raises(NamedTuple):
    """The hook raises this."""

    error: Exception


class Returns(NamedTuple):
    """The hook returns what nobody can read as a decision."""

    value: Any


class Slow(NamedTuple):
    """The hook takes this many seconds and accepts."""

    seconds: float


class Each(NamedTuple):
    """on_data's list, one for each LMTP recipient; too short a list is filled with 451."""

    decisions: tuple[Reject | None, ...]


Answer = Reject | Raises | Returns | Slow | Each | None
FAULT: Final = Raises(RuntimeError("a fault of the application"))
USERS: Final = {"u": "p", "tim": "tanstaaftanstaaf"}


def judge_login(auth: object) -> bool:
    """What on_auth says in every row: the users above, and the token "t"."""
    if isinstance(auth, CramMd5Credentials):
        return auth.validate_password(USERS.get(auth.username, ""))
    if isinstance(auth, XOAuth2Credentials):
        return auth.access_token == "t"  # noqa: S105 - everybody may know it
    name, password = getattr(auth, "username", ""), getattr(auth, "password", None)
    return name in USERS and password in {USERS[name], None}  # None: XCLIENT LOGIN


# --- expectations ---------------------------------------------------------------------------------


class Expectation(NamedTuple):
    """What must come back, exactly: these replies and no other."""

    replies: tuple[tuple[int, str], ...]
    """Code, and enhanced code: "-" for any or none, "n" for none."""
    close: bool = False

    @classmethod
    def read(cls, codes: str, enhanced: str = "-") -> Expectation:
        """Read the two columns; of `A|B` the first. Raises ValueError for words."""
        return cls.choices(codes, enhanced)[0]

    @classmethod
    def choices(cls, codes: str, enhanced: str = "-") -> list[Expectation]:
        """All that the two columns allow, our choice first."""
        text = codes.replace("(one reply)", "").replace(" close", "+close").strip()
        tokens = text.split()
        ways = max(token.count("|") for token in tokens) + 1
        return [cls._choice(tokens, enhanced.split(), way) for way in range(ways)]

    @classmethod
    def _choice(cls, tokens: list[str], enhanced: list[str], way: int) -> Expectation:
        numbers: list[int] = []
        close = False
        for token in tokens:
            ways = token.split("|")
            for part in ways[min(way, len(ways) - 1)].split("+"):
                if part == "close":
                    close = True
                elif part != "(none)":
                    # `250-KEYWORD`: the keywords are compared exactly, see Recipe.keywords.
                    numbers.append(_code(part))
        if enhanced == ["-"]:
            enhanced *= len(numbers)
        if len(enhanced) != len(numbers):
            raise ValueError(f"{len(enhanced)} enhanced codes for {len(numbers)} replies")
        chosen = [each.split("|")[min(way, each.count("|"))] for each in enhanced]
        replies = tuple(zip(numbers, chosen, strict=True))
        return cls(replies, close or (bool(numbers) and numbers[-1] in LAST_WORDS))


LAST_WORDS: Final = frozenset({221, 421})


def _code(text: str) -> int:
    found = re.fullmatch(r"([2-5][0-5][0-9])(-[A-Z0-9]+.*)?", text)
    if found is None:
        raise ValueError(f"{text!r} is no code")
    return int(found[1])


# RFC 5321 §4.2: digits, "-" or a blank, text; HT is the only control character in it.
REPLY_LINE: Final = re.compile(r"(?P<code>[2-5][0-5][0-9])[ -](?P<text>[\t -~]*)")
# RFC 3463 §2: no leading zeros.
ENHANCED: Final = re.compile(r"([245])\.(0|[1-9][0-9]{0,2})\.(0|[1-9][0-9]{0,2})(?= )")
LOOKS_ENHANCED: Final = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+")
MAX_REPLY_LINE: Final = 512  # octets with CRLF, RFC 5321 §4.5.3.1.5


def judge_reply(reply: str) -> str:
    """What holds for every reply (RFC 5321 §4.2, RFC 2034 §3-4); returns its enhanced code or ""."""
    lines = reply.split("\n")
    found = [REPLY_LINE.fullmatch(line) for line in lines]
    assert all(found), reply
    codes = {line[:3] for line in lines}
    assert len(codes) == 1, reply
    assert all(len(line) + 2 <= MAX_REPLY_LINE for line in lines), reply
    assert [line[3] for line in lines] == ["-"] * (len(lines) - 1) + [" "], reply
    enhanced = {ENHANCED.match(line, 4) for line in lines}
    if None in enhanced:
        assert not any(LOOKS_ENHANCED.match(line, 4) for line in lines), reply
        return ""
    said = {each[0] for each in enhanced if each is not None}
    assert len(said) == 1, f"lines of one reply have several enhanced codes: {reply}"
    word = said.pop()
    assert word[0] == reply[0], f"class of the enhanced code: {reply}"
    assert reply[0] != "3", f"3yz carry none: {reply}"
    return word


def judge(expected: Expectation, replies: Sequence[str], *, closed: bool) -> None:
    """Compare what came with what must come; raises AssertionError for every difference."""
    assert [int(reply[:3]) for reply in replies] == [code for code, _ in expected.replies], replies
    for reply, (_, enhanced) in zip(replies, expected.replies, strict=True):
        said = judge_reply(reply)
        if enhanced != "-":
            assert said == enhanced.replace("n", ""), f"{reply} should have {enhanced}"
    assert closed == expected.close, f"{'closed' if closed else 'open'} behind {replies}"


def judge_end(
    scene: Scenario, replies: Sequence[str], messages: Sequence[Message], session: object, peer: str
) -> None:
    """What must hold when all turns are over."""
    recipe = scene.recipe
    assert list(messages) == list(recipe.messages)
    if recipe.keywords is not None:
        assert tuple(line[4:] for line in replies[-1].split("\n")[1:]) == recipe.keywords
    if recipe.says:
        assert replies[-1] == recipe.says
    for path, value in recipe.facts.items():
        assert fact(session, path) == (peer if value == "PEER" else value), path


# --- setups ---------------------------------------------------------------------------------------


class Turn(NamedTuple):
    """The client's turn: what it does, and what comes back.

    Octets behind octets wait for one reply to those before.
    """

    steps: tuple[Step, ...]
    expected: Expectation


def turn(said: Step, codes: str = "", enhanced: str = "-") -> Turn:
    """One step and its replies."""
    return Turn((said,), Expectation.read(codes, enhanced) if codes else Expectation(()))


class Setup(NamedTuple):
    """A state, and how it is reached from another."""

    base: str
    turns: tuple[Turn, ...] = ()
    options: Mapping[str, Any] = {}


MAIL: Final = b"MAIL FROM:<a@x.test>\r\n"
RCPT: Final = b"RCPT TO:<b@y.test>\r\n"
DATA: Final = b"DATA\r\n"
EHLO: Final = b"EHLO c.test\r\n"
LHLO: Final = b"LHLO c.test\r\n"
NOOP: Final = b"NOOP\r\n"
END_OF_DATA: Final = b".\r\n"

SETUPS: Final[Mapping[str, Setup]] = {
    "CONNECT": Setup(""),
    "S0": Setup("CONNECT", (turn(b"", "220", "n"),)),
    "S_EHLO": Setup("S0", (turn(EHLO, "250", "n"),)),
    "S_HELO": Setup("S0", (turn(b"HELO c.test\r\n", "250", "n"),)),
    "S_LHLO": Setup("S0", (turn(LHLO, "250", "n"),), {"lmtp": True}),
    "S_MAIL": Setup("S_EHLO", (turn(MAIL, "250", "2.1.0"),)),
    "S_RCPT": Setup("S_MAIL", (turn(RCPT, "250", "2.1.5"),)),
    "S_DATA": Setup("S_RCPT", (turn(DATA, "354", "n"),)),
    "S_TLS": Setup("S_EHLO", (turn(b"STARTTLS\r\n", "220", "2.0.0"), turn(TLS))),
    "S_TLS_EHLO": Setup("S_TLS", (turn(EHLO, "250", "n"),)),
    "S_AUTH_OK": Setup("S_TLS_EHLO", (turn(b"AUTH PLAIN AHUAcA==\r\n", "235", "2.7.0"),)),
    # Recipients of LMTP are given by the recipes.
    "S_LMTP_MAIL": Setup("S_LHLO", (turn(MAIL, "250", "2.1.0"),)),
}

# What stands in brackets behind a setup. Words that only say what the client sends mean no option.
CONFIGURATION: Final[Mapping[str, Mapping[str, Any]]] = {
    "size=1000": {"size": 1000},
    "barelf=reject": {"bare_newlines": "reject"},
    "barecr=reject": {"bare_newlines": "reject"},
    "bare_newlines=accept": {"bare_newlines": "accept"},
    "smtputf8": {},
    "no smtputf8": {"hide_smtputf8": True},
    "dsn": {"hide_dsn": False},
    "no binarymime": {},
    "tls": {},
    "tls=off": {"disabled_commands": ("STARTTLS",)},
    "tls required": {"needs_upgrade": True},
    "auth": {},
    "wrong password": {},
    "login": {"auth_optional": False},
    "requiretls": {"hide_requiretls": False},
    "lmtp": {"lmtp": True},
    "trusted": {"use_xclient": True, "use_xforward": True},
    "untrusted": {"use_xclient": ("203.0.113.1",), "use_xforward": ("203.0.113.1",)},
    "proxy": {"use_proxy": True},
    "tls_upstream": {"tls_upstream": True},
}

COMMON: Final[Mapping[str, Any]] = {
    "name": "mx.test",
    "auth_optional": True,
    "auth_methods": ("PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2"),
    "hide_enhancedstatuscodes": False,
    # A limit that is not the row's subject must not close for it.
    "proxy_timeout": 60.0,
}


class Message(NamedTuple):
    """A message that the application was given whole, to be answered for."""

    data: bytes
    recipients: int = 1


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a row says in words. What is left out is read from the row."""

    setup: str = ""
    given: tuple[Turn, ...] = ()
    """Behind the setup, before the input."""
    say: tuple[Step, ...] = ()
    """The input."""
    codes: str = ""
    """The expected codes, where the row has them in words."""
    enhanced: str = ""
    """The same, where the row's do not stand one for each reply."""
    after: tuple[Turn, ...] = ()
    """What shows how things stand behind the input."""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    server_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Options that only adapters have."""
    hooks: Mapping[str, tuple[Answer, ...]] = field(default_factory=dict[str, tuple[Answer, ...]])
    """What hooks answer in turn; afterwards they accept."""
    messages: tuple[Message, ...] = ()
    keywords: tuple[str, ...] | None = None
    """The lines of the last reply behind its first, exactly."""
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What the session says in the end; "PEER" is the socket's address."""
    says: str = ""
    """The last reply, exactly."""
    whole: bool = False
    """How the input is cut matters: it comes in one piece."""
    early: bool = False
    """The input comes before the greeting."""
    tls_available: bool = True


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A row, ready to be played."""

    id: str
    recipe: Recipe
    options: Mapping[str, Any]
    turns: tuple[Turn, ...]
    """Setup, given, input, after."""
    input_at: int
    """Which of the turns is the row's own; none of the others is cut."""

    @property
    def own(self) -> tuple[Step, ...]:
        """The steps of the row's own turn."""
        return self.turns[self.input_at].steps

    def expecting(self, expected: Expectation) -> Scenario:
        """The same with another expectation of the row's own turn."""
        turns = list(self.turns)
        turns[self.input_at] = Turn(self.own, expected)
        return replace(self, turns=tuple(turns))

    def judged_by(self, **changes: Any) -> Scenario:
        """The same with another recipe."""
        return replace(self, recipe=replace(self.recipe, **changes))


# --- what a session says --------------------------------------------------------------------------


def fact(session: object, path: str) -> Any:
    """What a session says: `envelope.rcpt_to.0.dsn.notify`; `#` is a length."""
    return reduce(_look_up, path.split("."), session)


def _look_up(value: Any, name: str) -> Any:
    if name == "#":
        return len(value)
    if hasattr(value, name):
        return getattr(value, name)
    return value[int(name) if name.isdigit() else name]
