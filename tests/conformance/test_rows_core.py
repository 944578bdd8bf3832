# The rows against the bare core, in every cut of their input.

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from smtpproto import (
    ACCEPT,
    Accept,
    AuthRequested,
    Connection,
    ConnectRequested,
    DataFinished,
    DataStarted,
    Event,
    MailRequested,
    NeedsStartTLS,
    NeedsTLS,
    ProtocolOptions,
    RcptRequested,
    Reject,
    Signal,
)
from smtpproto.testing import ENTROPY, TLS, Outcome, cuts
from smtpproto_kit._recipes import RECIPES
from smtpproto_kit._rows import DEPARTURES, JUDGED_BY, LATER, played, scenario
from smtpproto_kit._scenarios import (
    Action,
    Each,
    Expectation,
    Expire,
    Message,
    Raises,
    Returns,
    Scenario,
    judge,
    judge_end,
    judge_login,
    judge_reply,
    rows,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from smtpproto_kit._scenarios import Answer, Step

ROOT = Path(__file__).parents[2]
PEER = "192.0.2.1"
LONG = 100_000  # octets; what is longer is not cut at every one of them
INTERNAL_ERROR = Reject(451, "4.3.0", "Error: internal error, please try again later")
HOOK_OF: dict[object, str] = {
    ConnectRequested: "on_connect",
    AuthRequested: "on_auth",
    MailRequested: "on_mail_from",
    RcptRequested: "on_rcpt_to",
    DataFinished: "on_data",
}


class Play(Outcome):
    """A row being played: what was answered, and which messages were handed over whole."""

    def __init__(self, scene: Scenario, *, early: bool = False) -> None:
        connection = Connection(
            ProtocolOptions(**scene.options),
            remote=(PEER, 4321),
            local=("192.0.2.25", 25),
            tls_available=scene.recipe.tls_available,
            entropy=ENTROPY,
        )
        super().__init__(connection)
        self.answers: dict[str, Iterator[Answer]] = {
            hook: iter(given) for hook, given in scene.recipe.hooks.items()
        }
        self.messages: list[Message] = []
        self.recipients: int = 0
        self.data_at: int = 0
        if not early:
            self.settle()

    def settle(self) -> None:
        """Take events and answer questions until more input, or a handshake, is needed."""
        core = self.connection
        while True:
            event = core.next_event()
            if isinstance(event, Signal):
                self.sent += core.data_to_send()
                if event is not Signal.SEND:
                    return
                continue
            self.events.append(event)
            if isinstance(event, DataStarted):
                self.recipients, self.data_at = len(self.session.envelope.rcpt_to), len(self.data)
            if isinstance(event, DataFinished) and event.refusal is None:
                self.messages.append(Message(self.data[self.data_at :], self.recipients))
            if core.question is event and not isinstance(event, NeedsTLS | NeedsStartTLS):
                self.decide(event)

    def decide(self, event: Event) -> None:
        """Answer as the adapters do what a hook answers."""
        given = next(self.answers.get(HOOK_OF.get(type(event), ""), iter(())), None)
        if isinstance(given, Returns):
            with pytest.raises(ValueError, match="code"):
                Reject(given.value)
            given = Raises(ValueError())
        if isinstance(given, Raises):
            self.connection.decide(INTERNAL_ERROR)
        elif isinstance(given, Each):
            surplus = [INTERNAL_ERROR] * (self.recipients - len(given.decisions))
            self.connection.decide([*(each or ACCEPT for each in given.decisions), *surplus])
        elif isinstance(given, Reject):
            self.connection.decide(given)
        elif isinstance(event, AuthRequested):
            self.connection.decide(Accept(user=event.auth.username if judge_login(event.auth) else None))
        else:
            self.connection.decide(ACCEPT)

    def take(self, step: Step, pieces: Iterable[bytes]) -> None:
        """Do one thing, and see what comes of it."""
        core = self.connection
        match step:
            case Action.TLS:
                core.tls_established(TLS)
            case Action.END:
                core.receive_eof()
            case Action.SHUTDOWN:
                core.shutdown()
            case Action.REFUSE:
                core.refuse()
            case Action.TRICKLE:
                core.timeout("min_data_rate")
            case Expire(kind):
                core.timeout(kind)
            case _:
                for piece in pieces:
                    core.receive_data(piece)
                    self.settle()
        self.settle()


def ways(step: Step) -> list[list[bytes]]:
    """All cuts of what a step sends."""
    if not isinstance(step, bytes):
        return [[]]
    if len(step) > LONG:
        return [[step], [step[i : i + 1009] for i in range(0, len(step), 1009)]]
    return list(cuts(step))


def play(scene: Scenario, plan: Sequence[Iterable[bytes]] | None = None) -> Play:
    """Play a row with its own turn in these pieces (else whole), and judge every turn."""
    if plan is None:
        plan = [[step] if isinstance(step, bytes) else [] for step in scene.own]
    outcome = Play(scene, early=scene.recipe.early or Action.REFUSE in scene.own)
    seen = 0
    for number, (steps, expected) in enumerate(scene.turns):
        for i, step in enumerate(steps):
            whole = [step] if isinstance(step, bytes) else []
            outcome.take(step, plan[i] if number == scene.input_at else whole)
        replies = outcome.replies
        judge(expected, replies[seen:], closed=outcome.closed is not None)
        seen = len(replies)
    judge_end(scene, outcome.replies, outcome.messages, outcome.session, PEER)
    return outcome


def plans(scene: Scenario) -> list[list[list[bytes]]]:
    """The cuts of a row's own turn, its steps side by side."""
    each = [ways(step)[: 1 if scene.recipe.whole else None] for step in scene.own]
    return [[way[min(i, len(way) - 1)] for way in each] for i in range(max(map(len, each)))]


# --- the rows -------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", played())
def test_a_row_holds_in_every_cut(row: str) -> None:
    scene = scenario(row)
    summaries = [play(scene, plan).summary() for plan in plans(scene)]
    assert all(each == summaries[0] for each in summaries)


@pytest.mark.parametrize("row", played())
def test_a_wrong_expectation_fails(row: str) -> None:
    scene = scenario(row)
    codes, close = scene.turns[scene.input_at].expected
    wrong = [Expectation((*codes, (250, "-")), close), Expectation(codes, not close)]
    if codes:
        (code, enhanced), *others = codes
        wrong += [
            Expectation(codes[:-1], close),
            Expectation(((299, enhanced), *others), close),
            Expectation(((code, f"{str(code)[0]}.9.9"), *others), close),
        ]
    for each in wrong:
        with pytest.raises(AssertionError):
            play(scene.expecting(each))


@pytest.mark.parametrize("row", [row for row in played() if scenario(row).recipe.messages])
def test_a_wrong_message_fails(row: str) -> None:
    scene = scenario(row)
    *before, last = scene.recipe.messages
    for wrong in ((*before, Message(last.data + b"x", last.recipients)), tuple(before)):
        with pytest.raises(AssertionError):
            play(scene.judged_by(messages=wrong))


@pytest.mark.parametrize("row", [row for row in played() if scenario(row).recipe.facts])
def test_a_wrong_fact_fails(row: str) -> None:
    scene = scenario(row)
    for path in scene.recipe.facts:
        with pytest.raises(AssertionError):
            play(scene.judged_by(facts={**scene.recipe.facts, path: "something else"}))


@pytest.mark.parametrize("row", [row for row in played() if scenario(row).recipe.keywords is not None])
def test_a_wrong_keyword_fails(row: str) -> None:
    scene = scenario(row)
    with pytest.raises(AssertionError):
        play(scene.judged_by(keywords=("PIPELINING",)))


def test_every_reply_is_well_formed() -> None:
    replies = {reply for scene in map(scenario, played()) for reply in play(scene).replies}
    coded = {reply for reply in replies if judge_reply(reply)}
    assert len(coded) > 50
    assert {reply[0] for reply in coded} == set("245")
    assert {reply[0] for reply in replies - coded} == set("2345")


@pytest.mark.parametrize(
    "reply",
    [
        "250 2.0.0 a\x1bb", "250-2.0.0 a\n550 5.0.0 b", "250-2.0.0 a", "250 2.0.0 a\n250 2.0.0 b",
        "250 5.0.0 a", "354 3.0.0 a", "250 2.00.0 a", "250 2.0 a" + "x" * 512, "999 a", "250a",
        "250-2.0.0 a\n250 2.0.1 b", "250-2.0.0 a\n250 b", "250 1.0.0 a", "220 2.1000.0 a",
    ],
)  # fmt: skip
def test_a_reply_that_is_not_well_formed_fails(reply: str) -> None:
    with pytest.raises(AssertionError):
        judge_reply(reply)


# RFC 2920 §3.2 (5). The core says SEND where what is ready must not wait for the next command.
@pytest.mark.parametrize(
    ("command", "reply"),
    [
        (b"NOOP", "250"), (b"EHLO c.test", "250"), (b"HELO c.test", "250"), (b"VRFY b", "252"),
        (b"EXPN b", "502"), (b"TURN", "502"), (b"DATA", "503"), (b"AUTH FOO", "504"),
    ],
)  # fmt: skip
def test_a_reply_that_ends_a_group_does_not_wait_for_what_follows(command: bytes, reply: str) -> None:
    scene = scenario("C020")
    outcome = Play(scene)
    outcome.take(b"", [b"EHLO c.test\r\n"])
    outcome.connection.receive_data(command + b"\r\nRSET\r\nRSET\r\n")
    assert outcome.connection.next_event() is Signal.SEND
    assert outcome.connection.data_to_send()[:3].decode() == reply
    assert outcome.connection.next_event() is Signal.NEED_DATA
    assert outcome.connection.data_to_send() == b"250 2.0.0 Flushed\r\n" * 2


# --- the tables -----------------------------------------------------------------------------------


def test_every_row_is_played_left_for_later_or_judged_elsewhere() -> None:
    places = [*played(), *LATER, *JUDGED_BY]
    assert sorted(places) == sorted(rows())
    assert all(reason for reason in (*LATER.values(), *JUDGED_BY.values()))
    assert not RECIPES.keys() - set(played())
    assert not DEPARTURES.keys() - set(played())


def test_a_row_names_its_source() -> None:
    assert all(re.fullmatch(r"[CP][0-9]{3}", row.id) and row.source for row in rows().values())
    assert all(
        re.search(r"RFC ?\d+ \d|XCLIENT_README|XFORWARD_README|PROXY 2", row.source)
        for row in rows().values()
        if row.id.startswith("P")
    )


@pytest.mark.parametrize("place", sorted(set(JUDGED_BY.values())))
def test_the_test_that_judges_a_row_exists(place: str) -> None:
    path, _, name = place.partition("::")
    assert f"\ndef {name}(" in (ROOT / path).read_text(encoding="utf-8")


def test_a_recipe_gives_codes_only_where_the_row_has_words() -> None:
    for row in rows().values():
        recipe = RECIPES.get(row.id)
        if recipe is not None and recipe.codes:
            with pytest.raises(ValueError, match="code"):
                Expectation.read(row.code, row.enhanced)


@pytest.mark.parametrize("row", DEPARTURES)
def test_a_departure_departs_and_gives_its_reason(row: str) -> None:
    recipe, departure = RECIPES.get(row), DEPARTURES[row]
    codes = (recipe.codes if recipe else "") or rows()[row].code
    enhanced = departure.enhanced or rows()[row].enhanced
    assert departure.reason
    if departure.codes or departure.enhanced:
        try:
            first = Expectation.read(codes, (recipe.enhanced if recipe else "") or rows()[row].enhanced)
        except ValueError:
            return  # the row has one enhanced code for several replies
        assert Expectation.read(departure.codes or codes, enhanced) != first
    else:
        assert recipe is not None
        assert recipe.keywords is not None


@pytest.mark.parametrize(
    ("codes", "enhanced", "read"),
    [
        ("250", "2.1.0", [Expectation(((250, "2.1.0"),))]),
        ("250 354", "2.0.0 -", [Expectation(((250, "2.0.0"), (354, "-")))]),
        ("501|500", "5.5.2", [Expectation(((501, "5.5.2"),)), Expectation(((500, "5.5.2"),))]),
        ("554 close|220", "-", [Expectation(((554, "-"),), close=True), Expectation(((220, "-"),))]),
        ("221", "-", [Expectation(((221, "-"),), close=True)]),
        ("(none) close", "-", [Expectation((), close=True)]),
        ("550|250 (one reply)", "5.6.0|5.5.2", [
            Expectation(((550, "5.6.0"),)),
            Expectation(((250, "5.5.2"),)),
        ]),
        ("250-STARTTLS", "-", [Expectation(((250, "-"),))]),
        ("250 550 554|503", "-", [
            Expectation(((250, "-"), (550, "-"), (554, "-"))),
            Expectation(((250, "-"), (550, "-"), (503, "-"))),
        ]),
    ],
)  # fmt: skip
def test_the_columns_are_read_with_their_choices(codes: str, enhanced: str, read: list[Expectation]) -> None:
    assert Expectation.choices(codes, enhanced) == read


@pytest.mark.parametrize(("codes", "enhanced"), [("2 replies", "-"), ("250 250", "2.0.0"), ("600", "-")])
def test_words_are_not_read_as_codes(codes: str, enhanced: str) -> None:
    with pytest.raises(ValueError, match="code"):
        Expectation.read(codes, enhanced)
