# The rows, ready to be played.
#
# The expectation comes from the row (of `A|B` the first), unless DEPARTURES says that the
# specification decided otherwise, and why. Each row is in exactly one of three places: played,
# LATER, or JUDGED_BY another test, which is in the repository and not in this package.

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from smtpproto_kit._recipes import LITERAL, RECIPES
from smtpproto_kit._scenarios import COMMON, CONFIGURATION, SETUPS, Expectation, Scenario, Turn, rows

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DEPARTURES", "JUDGED_BY", "LATER", "Departure", "expectation", "played", "scenario"]


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


def octets(text: str) -> bytes:
    """The body of a bytes literal."""
    value = ast.literal_eval('b"' + re.sub(r'(?<!\\)"', r"\"", text) + '"')
    assert isinstance(value, bytes)
    return value


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
