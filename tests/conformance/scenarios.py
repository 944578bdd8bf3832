# How each row of rows.csv is played: as data, for the core and for adapters alike.
#
# A row whose input is octets is read from the row; one that is written in words has a recipe here
# that says the same in octets. The expectation always comes from the row (of `A|B` the first),
# unless DEPARTURES says that the specification decided otherwise, and why. Each row is in exactly
# one of three places: played, LATER, or JUDGED_BY another test.

from __future__ import annotations

import ast
import csv
import re
from base64 import b64encode
from dataclasses import dataclass, field, replace
from enum import Enum, unique
from functools import cache, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from smtpproto import CramMd5, CramMd5Credentials, Mechanism, Reject, XOAuth2Credentials

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from smtpproto import AuthRequest, Challenge, Session, TimerKind

__all__ = [
    "DEPARTURES", "JUDGED_BY", "LATER", "RECIPES", "SETUPS", "Action", "Answer", "Departure", "Each",
    "Expectation", "Expire", "Message", "Raises", "Recipe", "Returns", "Row", "Scenario", "Slow", "Step",
    "Turn", "expectation", "fact", "judge", "judge_end", "judge_login", "judge_reply", "played", "rows",
    "scenario",
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
        return auth.access_token == "t"
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
    "secured": {"secured": True},
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


def octets(text: str) -> bytes:
    """The body of a bytes literal."""
    value = ast.literal_eval('b"' + re.sub(r'(?<!\\)"', r"\"", text) + '"')
    assert isinstance(value, bytes)
    return value


def scenario(id: str) -> Scenario:  # noqa: A002 - what the table calls it
    """How the row is played."""
    row = rows()[id]
    recipe = RECIPES.get(id) or LITERAL
    name, words = _setup_words(row.setup)
    setup = recipe.setup or name
    turns, options = _reach(setup)
    say = recipe.say or tuple(octets(each) for each in row.input.split(" | "))
    own = Turn(say, expectation(id))
    configured = {k: v for word in words for k, v in CONFIGURATION.get(word, {}).items()}
    return Scenario(
        id=id,
        recipe=recipe,
        options={**COMMON, **options, **configured, **recipe.options},
        turns=(*turns, *recipe.given, own, *recipe.after),
        input_at=len(turns) + len(recipe.given),
    )


def _setup_words(text: str) -> tuple[str, list[str]]:
    found = re.match(r"(?P<name>\w+)[^\[]*(?:\[(?P<words>[^\]]*)\])?", text)
    assert found is not None, text
    words = (found["words"] or "").split(",")
    return found["name"], [word.strip() for word in words if word.strip()]


def _reach(name: str) -> tuple[tuple[Turn, ...], dict[str, Any]]:
    """All turns from the connection to a setup, and the options it stands for."""
    turns: tuple[Turn, ...] = ()
    options: dict[str, Any] = {}
    while name:
        setup = SETUPS[name]
        turns, options, name = (*setup.turns, *turns), {**setup.options, **options}, setup.base
    return turns, options


def expectation(id: str) -> Expectation:  # noqa: A002
    """What must come back: the row's first choice, or what DEPARTURES puts in its place."""
    row, recipe, departure = rows()[id], RECIPES.get(id) or LITERAL, DEPARTURES.get(id)
    codes, enhanced = recipe.codes or row.code, recipe.enhanced or row.enhanced
    if departure is not None:
        codes, enhanced = departure.codes or codes, departure.enhanced or enhanced
    return Expectation.read(codes, enhanced)


def played() -> list[str]:
    """The ids of all rows that are played."""
    return [id_ for id_ in rows() if id_ not in LATER and id_ not in JUDGED_BY]


def fact(session: object, path: str) -> Any:
    """What a session says: `envelope.rcpt_to.0.dsn.notify`; `#` is a length."""
    return reduce(_look_up, path.split("."), session)


def _look_up(value: Any, name: str) -> Any:
    if name == "#":
        return len(value)
    if hasattr(value, name):
        return getattr(value, name)
    return value[int(name) if name.isdigit() else name]


# --- rows in words --------------------------------------------------------------------------------


class Declining(Mechanism):
    """A mechanism that this server knows and does not want to use."""

    server_first = True

    def __init__(self, reason: Reject) -> None:
        self.reason: Reject = reason

    def step(self, response: bytes | None) -> Challenge | Reject | AuthRequest:  # noqa: ARG002
        return self.reason


def cram_md5(make: Callable[[], Mechanism]) -> dict[str, Any]:
    """Options in which CRAM-MD5 is done by another mechanism."""

    def factory(_session: Session) -> Mechanism:
        return make()

    return {"sasl_mechanisms": {"CRAM-MD5": factory}}


def auth(mechanism: str, secret: bytes) -> tuple[bytes]:
    """An AUTH with its initial response."""
    return (b"AUTH %s %s\r\n" % (mechanism.encode(), b64encode(secret)),)


def with_data(*messages: bytes, recipients: int = 1) -> Recipe:
    """A literal row that delivers these messages."""
    return Recipe(messages=tuple(Message(each, recipients) for each in messages))


def about(**facts: Any) -> Recipe:
    """A literal row, and what the session must say in the end."""
    return Recipe(facts={path.replace("__", "."): value for path, value in facts.items()})


def mail_of(address: str) -> Recipe:
    return about(envelope__mail_from__address=address)


SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"  # PROXY protocol 2.2
ADDRESSES: Final = "01020304 05060708 04d2 0019"
V1: Final = b"PROXY TCP4 1.2.3.4 5.6.7.8 1234 25\r\n"


def v2(head: str, rest: str = ADDRESSES, *, signature: bytes = SIGNATURE) -> Recipe:
    """A binary header: version/command and family as two octets, then the length and `rest`."""
    body = bytes.fromhex(rest)
    header = signature + bytes.fromhex(head) + len(body).to_bytes(2, "big") + body
    return Recipe(setup="CONNECT", say=(header,))


def from_1234(recipe: Recipe) -> Recipe:
    return replace(recipe, facts={"remote_address": "1.2.3.4", "remote_port": 1234})


def from_peer(recipe: Recipe) -> Recipe:
    return replace(recipe, facts={"remote_address": "PEER"})


LITERAL: Final = Recipe()
OFFERED: Final = ("PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES")
AUTH_LINE: Final = "AUTH PLAIN LOGIN CRAM-MD5 XOAUTH2"
REFUSED_RCPT: Final = turn(RCPT, "550", "5.1.1")
REFUSING_RCPT: Final[Mapping[str, tuple[Answer, ...]]] = {"on_rcpt_to": (Reject(),)}
LMTP_RCPT: Final = turn(RCPT, "250", "2.1.5")
ANOTHER: Final = turn(b"RCPT TO:<c@y.test>\r\n", "250", "2.1.5")
START: Final = turn(DATA, "354", "n")
ALIVE: Final = turn(NOOP, "250", "2.0.0")
SMUGGLED: Final = b"MAIL FROM:<evil@x.test>\r\n..\r\n"
LINE_LIMIT: Final = 4096  # the default of max_line_length
XOAUTH2: Final = b"user=u@x.test\1auth=Bearer %s\1\1"

RECIPES: Final[Mapping[str, Recipe]] = {
    # Before the greeting
    "C001": Recipe(say=(b"",), says="220 mx.test ESMTP"),
    "C002": Recipe(say=(b"",), hooks={"on_connect": (Reject(),)}),
    "C004": Recipe(say=(REFUSE,), server_options={"max_clients": 1}),
    "C005": Recipe(say=(EHLO,), early=True, server_options={"early_talker_delay": 30.0}),
    # Commands
    "C007": Recipe(keywords=()),
    "C020": Recipe(say=(EHLO,), keywords=(*OFFERED, "STARTTLS")),
    "C040": Recipe(say=(b"NOOP " + b"x" * (LINE_LIMIT + 1 - 7) + b"\r\n",), after=(ALIVE,)),
    "P001": Recipe(say=(b"NOOP " + b"x" * (LINE_LIMIT - 7) + b"\r\n",)),
    "C041": Recipe(say=(b"NOOP " + b"x" * (10 * LINE_LIMIT - 5),)),
    "C049": Recipe(setup="S_EHLO", say=(SHUTDOWN,)),
    "C050": Recipe(say=(Expire("socket_timeout"),), options={"socket_timeout": 0.2}),
    "P031": Recipe(say=(NOOP * 10,), codes="250 " * 9 + "421 close", enhanced="2.0.0 " * 9 + "4.7.0"),
    "P032": Recipe(say=(b"FOO\r\n" * 10,), codes="500 " * 9 + "421 close", enhanced="5.5.2 " * 9 + "4.7.0"),
    "P045": Recipe(hooks={"on_rcpt_to": (None, Reject(421))}),
    "P046": Recipe(say=(Expire("proxy_timeout"),), options={"use_proxy": True, "proxy_timeout": 0.2}),
    "P047": Recipe(say=(b"NOO", Expire("command_timeout")), options={"command_timeout": 0.2}),
    "P048": Recipe(say=(b"x\r\n", Expire("data_timeout")), options={"data_timeout": 0.2}),
    "C383": Recipe(setup="S_EHLO"),
    # MAIL and RCPT
    "C055": mail_of("a@x.test"),
    "C062": mail_of("a@x.test"),
    # A bytes literal would eat the backslashes of the quoted pair.
    "C064": Recipe(
        say=(b'MAIL FROM:<"a\\"b"@x.test>\r\n',), facts={"envelope.mail_from.address": '"a\\"b"@x.test'}
    ),
    "C071": mail_of("=?utf-8?q?=41?=@x.test"),
    "C073": Recipe(say=(b"MAIL FROM:<%s@x.test>\r\n" % (b"a" * 64),)),
    "C074": Recipe(say=(b"MAIL FROM:<%s@x.test>\r\n" % (b"a" * 65),)),
    "C076": Recipe(say=(b"MAIL FROM:<%s@x.test>\r\n" % (b"a" * (257 - 9)),)),
    "C085": about(envelope__rcpt_to__0__address="pOsTmAsTeR@y.test"),
    "C094": Recipe(
        given=(Turn((RCPT * 100,), Expectation.read("250 " * 100)),),
        say=(RCPT,),
        after=(START, turn(b"x\r\n.\r\n", "250", "2.6.0")),
        options={"max_recipients": 100},
        messages=(Message(b"x\r\n", 100),),
    ),
    "C095": Recipe(
        given=(Turn((RCPT * 1000,), Expectation.read("250 " * 1000)),),
        say=(RCPT * 19_000,),
        codes="452 " * 19_000,
        enhanced="4.5.3 " * 19_000,
        facts={"envelope.rcpt_to.#": 1000},
    ),
    "C097": Recipe(hooks={"on_rcpt_to": (Reject(556),)}),
    "C098": Recipe(hooks={"on_rcpt_to": (Reject(450, "4.2.0"),)}),
    "P002": mail_of(""),
    "P003": about(envelope__rcpt_to__0__address="pOstMaster"),
    # The message
    "C103": Recipe(given=(REFUSED_RCPT,), say=(DATA,), hooks=REFUSING_RCPT),
    "C104": Recipe(after=(START,)),
    "C106": with_data(b""),
    "C107": with_data(b".a\r\n"),
    "C109": with_data(b"a\r\n"),
    "C110": with_data(b"x\r\n.\r\n"),
    "C119": with_data(b"body\r\n\0\r\n" + SMUGGLED),
    "C122": with_data(b"body\r\n \r\n" + SMUGGLED),
    "C125": with_data(b"body\r\n\x0b.\r\n" + SMUGGLED),
    "C130": Recipe(say=(b"y" * 998 + b"\r\n.\r\n",), messages=(Message(b"y" * 998 + b"\r\n"),)),
    "C131": Recipe(say=(b"." + b"y" * 999 + b"\r\n.\r\n",), messages=(Message(b"y" * 999 + b"\r\n"),)),
    "C133": Recipe(
        say=(b"a" * 512 + b".\r\nMAIL FROM:<e@x.test>\r\n.\r\n",),
        codes="250",
        options={"max_line_length": 512},
        messages=(Message(b"a" * 512 + b".\r\nMAIL FROM:<e@x.test>\r\n"),),
    ),
    "C134": Recipe(
        say=(b"0123456789abcd\r\n" * 4096 + END_OF_DATA,), messages=(Message(b"0123456789abcd\r\n" * 4096),)
    ),
    "C136": Recipe(hooks={"on_data": (Reject(452, "4.3.1"),)}, messages=(Message(b"x\r\n"),)),
    "C137": Recipe(hooks={"on_data": (FAULT,)}, messages=(Message(b"x\r\n"),)),
    "C139": Recipe(say=(b"half a mess", END)),
    "C140": Recipe(say=(b"x\r\n.\r", END)),
    "C142": Recipe(
        setup="S_DATA",
        given=(turn(b"x\r\n.\r\n", "550", "5.7.1"),),
        hooks={"on_data": (Reject(550),)},
        messages=(Message(b"x\r\n"),),
    ),
    "C143": Recipe(
        say=(bytes(range(0x80, 0x100)) + b"\r\n.\r\n",),
        messages=(Message(bytes(range(0x80, 0x100)) + b"\r\n"),),
    ),
    "C145": Recipe(say=(TRICKLE,), options={"socket_timeout": 0.3, "min_data_rate": 500.0}),
    "C146": Recipe(
        hooks={"on_data": (Reject(550, text="no\r\n250 ok"),)},
        messages=(Message(b"x\r\n"),),
        says="550-5.7.1 no\n550 5.7.1 250 ok",
    ),
    "C148": Recipe(
        given=(turn(b"x\r\n.\r\n", "451", "4.3.0"), turn(MAIL, "250"), turn(RCPT, "250"), START),
        hooks={"on_data": (Returns(354), Returns(999))},
        messages=(Message(b"x\r\n"), Message(b"x\r\n")),
    ),
    "C382": Recipe(
        hooks={"on_data": (Slow(0.5),)}, options={"socket_timeout": 0.2}, messages=(Message(b"x\r\n"),)
    ),
    "P006": with_data(b"x\r\n", b"y\r\n"),
    "P009": with_data(b"a\n.\nb\r\n"),
    "P010": with_data(b"a\n.\r\nb\r\n"),
    "P011": with_data(b"a\r\n\nb\r\n"),
    "P012": with_data(b"a\r.\rb\r\n"),
    "P013": with_data(b"a\r\n\rb\r\n"),
    "P014": with_data(b"a\r.\r\nb\r\n"),
    "P015": with_data(b"x\r\r\n"),
    "P023": Recipe(say=(b"x" * 999 + b"\r\n.\r\n",), after=(ALIVE,)),
    "P044": Recipe(say=(SHUTDOWN, b"x\r\n.\r\n"), messages=(Message(b"x\r\n"),)),
    # Extensions
    "C149": Recipe(say=(MAIL + RCPT + b"RCPT TO:<c@y.test>\r\n" + DATA,), facts={"envelope.rcpt_to.#": 2}),
    "C151": Recipe(say=(MAIL,)),
    "C154": Recipe(
        say=(MAIL + RCPT + DATA + b"Subject: x\r\n\r\nMAIL FROM:<evil@x.test>\r\n.\r\n",), hooks=REFUSING_RCPT
    ),
    "C155": Recipe(say=(MAIL + RCPT + DATA + END_OF_DATA,), hooks=REFUSING_RCPT),
    "C157": Recipe(say=(MAIL + RCPT,), enhanced="2.1.0 2.1.5"),
    "C164": Recipe(codes="250", keywords=(*OFFERED, "STARTTLS", "SIZE 1000")),
    "C166": about(envelope__declared_size=1000),
    "C167": Recipe(hooks={"on_mail_from": (Reject(452, "4.3.1"),)}, facts={"envelope.declared_size": None}),
    "C175": about(envelope__body_type="8bitmime"),
    "C176": about(envelope__body_type="8bitmime"),
    "C179": Recipe(keywords=(*OFFERED, "STARTTLS")),
    "C184": about(envelope__smtp_utf8=True),
    "C190": Recipe(
        setup="S_EHLO",
        given=(turn(b"MAIL FROM:<a@x.test> SMTPUTF8\r\n", "250"), turn(RCPT, "250"), START),
        say=("Subject: Grüße\r\n\r\nö\r\n.\r\n".encode(),),
        messages=(Message("Subject: Grüße\r\n\r\nö\r\n".encode()),),
    ),
    "P022": mail_of("é@x.test"),
    "C286": Recipe(facts={"envelope.rcpt_to.0.dsn.notify": ["SUCCESS", "FAILURE", "DELAY"]}),
    "C290": Recipe(facts={"envelope.rcpt_to.0.dsn.orcpt": "rfc822;b+c@y.test"}),
    "C293": Recipe(
        say=(b"RCPT TO:<b@y.test> ORCPT=utf-8;\\x{E9}@y.test\r\n",),
        facts={"envelope.rcpt_to.0.dsn.orcpt": "utf-8;é@y.test"},
    ),
    "C296": about(envelope__dsn__envid="QQ314159"),
    "C298": Recipe(enhanced="2.1.0", facts={"envelope.dsn.envid": "a+c"}),
    "P024": about(envelope__dsn__ret="HDRS"),
    "P025": Recipe(facts={"envelope.rcpt_to.0.dsn.notify": ["NEVER"]}),
    "C304": Recipe(say=(EHLO,), options={"hide_requiretls": False}, keywords=(*OFFERED, "STARTTLS")),
    "C305": about(envelope__require_tls=True),
    "C308": Recipe(
        setup="S_TLS_EHLO",
        given=(turn(b"MAIL FROM:<a@x.test> REQUIRETLS\r\n", "250", "2.1.0"),),
        hooks={"on_rcpt_to": (Reject(550, "5.7.30"),)},
    ),
    # TLS
    "C217": Recipe(keywords=(*OFFERED, "STARTTLS")),
    "C220": Recipe(tls_available=False),
    "C226": Recipe(
        setup="S_EHLO",
        given=(
            turn(b"AUTH PLAIN AHUAcA==\r\n", "235"),
            turn(b"STARTTLS\r\n", "220", "2.0.0"),
            turn(TLS),
        ),
        say=(EHLO,),
        codes="250",
        enhanced="n",
        options={"allow_insecure_auth": True},
        keywords=(*OFFERED, AUTH_LINE),
        facts={"user": None, "secure": True},
    ),
    "C227": Recipe(say=(b"STARTTLS\r\nNOOP\r\n",), whole=True),
    "C229": Recipe(given=(turn(b"STARTTLS\r\n", "220", "2.0.0"),), say=(b"garbage\r\nNOOP\r\n",)),
    "C232": Recipe(say=(b"STARTTLS\r\n" + MAIL,), whole=True),
    "C233": Recipe(
        say=(TLS,),
        codes="220",
        after=(turn(EHLO, "250", "n"),),
        options={"secure": True},
        keywords=(*OFFERED, AUTH_LINE),
        facts={"secure": True},
    ),
    "P039": Recipe(
        given=(turn(V1), turn(TLS, "220", "n")),
        say=(EHLO,),
        codes="250",
        options={"use_proxy": True, "secure": True},
        facts={"remote_address": "1.2.3.4", "secure": True, "transmission_type": "ESMTPS"},
    ),
    "P042": Recipe(given=(turn(b"STARTTLS\r\n", "220", "2.0.0"), turn(TLS), turn(EHLO, "250")), say=(DATA,)),
    # AUTH
    "C236": Recipe(say=(EHLO,), codes="250", keywords=(*OFFERED, AUTH_LINE)),
    "C238": about(user="u"),
    "C241": Recipe(after=(turn(b"AUTH PLAIN AHUAcA==\r\n", "235"),)),
    "C256": Recipe(
        say=(b"AUTH PLAIN\r\n", b"A" * 12_289 + b"\r\n"), after=(turn(b"AUTH PLAIN AHUAcA==\r\n", "235"),)
    ),
    "C259": Recipe(options=cram_md5(lambda: Declining(Reject(534, "5.7.9")))),
    "C260": Recipe(options=cram_md5(lambda: Declining(Reject(432, "4.7.12")))),
    "C262": Recipe(
        say=(b"AUTH PLAIN AHUAeA==\r\n" * 5,), codes="535 535 421 close", enhanced="5.7.8 5.7.8 4.7.0"
    ),
    "C263": Recipe(
        say=(b"RSET\r\n",), after=(turn(EHLO, "250", "n"),), keywords=OFFERED, facts={"user": "u"}
    ),
    "C265": Recipe(facts={"envelope.mail_from.args.AUTH": "e=mc2@example.com"}),
    "C268": Recipe(say=auth("PLAIN", b"\0u\0p\0x")),
    "C269": Recipe(say=auth("PLAIN", b"\0\0p")),
    "C271": Recipe(say=auth("PLAIN", b"\0\xff\0p")),
    "C272": Recipe(
        options=cram_md5(lambda: CramMd5(b"<1896.697170952@postoffice.reston.mci.net>")),
        facts={"user": "tim"},
    ),
    "C283": Recipe(say=auth("XOAUTH2", XOAUTH2 % b"t"), facts={"user": "u@x.test"}),
    "C284": Recipe(say=(*auth("XOAUTH2", XOAUTH2 % b"bad"), b"\r\n"), facts={"user": None}),
    "P021": about(user="u"),
    "P043": Recipe(hooks={"on_auth": (FAULT,)}, facts={"user": None}),
    # LMTP
    "C313": Recipe(keywords=(*OFFERED, "STARTTLS")),
    "C316": Recipe(say=(LHLO,), keywords=(*OFFERED, "STARTTLS")),
    "C317": Recipe(
        setup="S_LMTP_MAIL",
        given=(LMTP_RCPT, ANOTHER),
        say=(b"DATA\r\nx\r\n.\r\n",),
        codes="354 250 250",
        enhanced="- 2.1.5|2.6.0 2.1.5|2.6.0",
        messages=(Message(b"x\r\n", 2),),
    ),
    "C319": Recipe(
        setup="S_LMTP_MAIL",
        given=(LMTP_RCPT, LMTP_RCPT, START),
        say=(b"x\r\n.\r\n",),
        codes="250 250",
        messages=(Message(b"x\r\n", 2),),
    ),
    "C320": Recipe(setup="S_LMTP_MAIL", given=(REFUSED_RCPT,), say=(DATA,), hooks=REFUSING_RCPT),
    "C323": Recipe(
        setup="S_LMTP_MAIL",
        given=(LMTP_RCPT, ANOTHER, START),
        say=(b"x\r\n.\r\n",),
        hooks={"on_data": (Each((None,)),)},
        messages=(Message(b"x\r\n", 2),),
    ),
    "P027": Recipe(
        setup="S_LMTP_MAIL",
        given=(LMTP_RCPT, turn(b"RCPT TO:<n@y.test>\r\n", "550"), ANOTHER, START),
        say=(b"x\r\n.\r\n",),
        codes="250 250",
        enhanced="2.6.0 2.6.0",
        hooks={"on_rcpt_to": (None, Reject())},
        messages=(Message(b"x\r\n", 2),),
    ),
    "P028": Recipe(
        setup="S_LMTP_MAIL",
        given=(LMTP_RCPT, ANOTHER, START),
        say=(b"x\r\n.\r\n",),
        hooks={"on_data": (Each((None, Reject(452))),)},
        messages=(Message(b"x\r\n", 2),),
    ),
    # XCLIENT, XFORWARD
    "C325": Recipe(
        say=(EHLO,),
        codes="250",
        options={"use_xclient": True},
        keywords=(*OFFERED, "STARTTLS", "XCLIENT NAME ADDR PORT PROTO HELO LOGIN"),
    ),
    "C329": about(remote_address="PEER"),
    "C334": Recipe(facts={"x_client.NAME": None}),
    "C337": Recipe(say=(b"XCLIENT NAME=%s\r\n" % (b"a" * 256),)),
    "C338": Recipe(
        given=(turn(b"XCLIENT ADDR=198.51.100.7\r\n", "220", "n"), turn(EHLO, "250", "n")),
        options={"use_xclient": True},
        facts={"remote_address": "198.51.100.7"},
    ),
    "C343": Recipe(
        setup="S_EHLO",
        given=(turn(b"XFORWARD NAME=s.test\r\n", "250"), turn(MAIL, "250"), turn(RCPT, "250"), START),
        say=(b"x\r\n.\r\n",),
        codes="250",
        options={"use_xforward": True},
        messages=(Message(b"x\r\n"),),
        facts={"x_forward": {}},
    ),
    "P033": Recipe(
        facts={
            "x_forward": {
                **dict.fromkeys(("ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE")),
                "NAME": "s.test",
            }
        }
    ),
    "P034": Recipe(
        after=(turn(MAIL, "503", "5.5.1"),),
        facts={
            "remote_address": "2001:db8::1",
            "remote_port": 99,
            "client_hostname": "c.test",
            "x_client.ADDR:DEFAULT": "PEER",
        },
    ),
    "P035": about(user="u"),
    # PROXY
    "C344": from_1234(LITERAL),
    "C346": from_peer(LITERAL),
    "C356": Recipe(say=(b"PROXY UNKNOWN " + b"x" * 200 + b"\r\n",)),
    "C359": from_1234(v2("21 11")),
    "C361": from_peer(v2("20 11")),
    "C362": from_peer(v2("21 00", "")),
    "C364": v2("11 11"),
    "C365": v2("22 11"),
    "C367": v2("21 13"),
    "C368": v2("21 12"),
    "C370": v2("21 11", ""),
    "C371": v2("21 11", ADDRESSES + "02 ffff 616263"),
    "C373": v2("21 11", ADDRESSES + "03 0004 00000000"),
    "C374": v2("21 11", signature=SIGNATURE[:-1] + b"\r"),
    "C376": Recipe(say=(V1, V1), facts={"remote_address": "1.2.3.4"}),
    "C377": Recipe(say=(V1,), facts={"remote_address": "1.2.3.4"}),
    "P036": about(remote_address="2001:db8::1", remote_port=1234),
    "P037": replace(
        v2("21 21", "20010db8" + "00" * 11 + "01" + "20010db8" + "00" * 11 + "02" + "04d2 0019"),
        facts={"remote_address": "2001:db8::1", "remote_port": 1234},
    ),
    "P038": from_peer(v2("21 31", "2f61" + "00" * 106 + "2f62" + "00" * 106)),
    "P041": Recipe(say=(V1 + EHLO,), whole=True, enhanced="n"),
}


# --- rows that are not played here ----------------------------------------------------------------

_BDAT: Final = "BDAT and CHUNKING (RFC 3030) are a later feature; until then BDAT is 502, see P008"
_SCRAM: Final = "SCRAM-SHA-256 (RFC 7677) is a later mechanism"
_OAUTH: Final = "OAUTHBEARER (RFC 7628) is a later mechanism"
_LIMITS: Final = "LIMITS (RFC 9422) is not announced yet"

LATER: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        (
            "C191", "C193", "C194", "C196", "C197", "C199", "C200", "C202", "C203", "C205", "C206",
            "C208", "C209", "C211", "C212", "C322",
        ),
        _BDAT,
    ),
    "C214": "BINARYMIME (RFC 3030 §3) is a later feature; until then BODY=BINARYMIME is 501, see C215",
    **dict.fromkeys(("C274", "C275", "C277", "C278"), _SCRAM),
    **dict.fromkeys(("C280", "C281"), _OAUTH),
    "C310": f"{_LIMITS}; the limit on recipients itself is in force, see C094",
    "C311": f"{_LIMITS}, and there is no MAILMAX",
}  # fmt: skip

_CORE: Final = "tests/conformance/test_rows_core.py"
_KILL: Final = (
    "tests/server/test_maildir.py::test_what_was_acknowledged_survives_kill_9_and_nothing_in_new_is_partial"
)

JUDGED_BY: Final[Mapping[str, str]] = {
    # These hold for every reply and every cut of every row.
    "C047": f"{_CORE}::test_every_reply_is_well_formed",
    "C160": f"{_CORE}::test_every_reply_is_well_formed",
    "C161": f"{_CORE}::test_every_reply_is_well_formed",
    "C163": f"{_CORE}::test_every_reply_is_well_formed",
    "C158": f"{_CORE}::test_a_row_holds_in_every_cut",
    "C152": f"{_CORE}::test_a_reply_that_ends_a_group_does_not_wait_for_what_follows",
    "C235": "tests/server/test_tls.py::test_renegotiation_is_refused_and_the_session_goes_on",
    "C379": _KILL,
    "C380": _KILL,
}


# --- where the specification decides otherwise ----------------------------------------------------


class Departure(NamedTuple):
    """What is expected in the place of a row's first choice, and why."""

    reason: str
    codes: str = ""
    """"" for the row's."""
    enhanced: str = ""


_OWN_CODE: Final = "an address that cannot be read is 5.1.7, also where nothing of it is there (§5.4)"
_LINE: Final = "what cannot be in a command line is a fault of the line, seen before its verb (§5.1)"
_UTF8: Final = "invalid UTF-8 is a fault of the line, seen before its verb (§5.1)"
_NO_RCPT: Final = "DATA without a recipient is 503 for every reason; the transaction stays (§5.8)"
_DATA: Final = "no CR or LF outside CRLF is in it: octets of a message pass unchanged and end nothing (§5.9)"

DEPARTURES: Final[Mapping[str, Departure]] = {
    "C002": Departure("a refused client is told 554 and not kept for its QUIT (§3.1)", "554 close"),
    "C004": Departure("what stands in the greeting's place has no enhanced code (§13.2)", enhanced="n"),
    "C005": Departure("RFC 5321 §3.8 lets a server close with 421 only (§3.1)", "421 close", "n"),
    "C014": Departure(_LINE, "500"),
    "C019": Departure("after HELO a parameter is one that is not known (§5.3)", "555"),
    "C038": Departure("252 is a 2.1.5 wherever it is said (§5.6, §13.2)", enhanced="2.1.5 -"),
    "C041": Departure(
        "the line is answered at its limit, the connection ends at eight times that (§5.1)",
        "500 421 close", "5.5.2 4.7.0",
    ),
    "C056": Departure(_OWN_CODE, enhanced="5.1.7"),
    "C061": Departure(_OWN_CODE, enhanced="5.1.7"),
    "C065": Departure(_LINE, "500", "5.5.2"),
    "C074": Departure("a local part has no limit of its own (§14.1)", "250", "2.1.0"),
    "C088": Departure("what stands behind the path is a fault of the parameters (§14.2)", enhanced="5.5.4"),
    "C103": Departure(_NO_RCPT, "503"),
    "C119": Departure(_DATA, "250", "2.6.0"),
    "C122": Departure(_DATA, "250", "2.6.0"),
    "C125": Departure(_DATA, "250", "2.6.0"),
    "C133": Departure("a message is taken with lines of any length (§5.9)", enhanced="2.6.0"),
    "C154": Departure(
        f"{_NO_RCPT}; the body's header is known for what it is and closes (§5.1)",
        "250 550 503 421 close", "2.1.0 5.1.1 5.5.1 4.7.0",
    ),
    "C155": Departure(
        f"{_NO_RCPT}: no 354 was sent, so the dot is a command",
        "250 550 503 500", "2.1.0 5.1.1 5.5.1 5.5.2",
    ),
    "C184": Departure("hiding SMTPUTF8 takes its EHLO line away, nothing else (§2.3)", "250", "2.1.0"),
    "C185": Departure(_UTF8, "500", "5.5.2"),
    "C187": Departure(_UTF8, "500", "5.5.2"),
    "C221": Departure("a disabled command is an unknown one (§2.3)", "500", "5.5.2"),
    "C254": Departure("AUTH is a known command that needs EHLO (§5.3)", "503"),
    "C269": Departure("without any name it is malformed, not wrong (§7.1)", enhanced="5.5.2"),
    "C307": Departure("the client asked for TLS and is told to use it (§6)", "530", "5.7.0"),
    "C314": Departure("no reply to EHLO has an enhanced code (§10, §13.2)", enhanced="n"),
    "C317": Departure("what is accepted there is the message (§10)", enhanced="- 2.6.0 2.6.0"),
    "C383": Departure(_LINE, "500"),
    "C325": Departure("DESTADDR and DESTPORT are not served, so not announced (§9.2)"),
}  # fmt: skip
