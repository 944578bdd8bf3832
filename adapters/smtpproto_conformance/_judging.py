# What replies are allowed, and what it means when another one comes.
#
# A wrong accusation is the worst that can happen here. What a server may refuse for reasons of its
# own (RFC 5321 §4.2.1, §7.9) is therefore not told, and only what contradicts the row is counted.

from __future__ import annotations

import re
from enum import Enum, unique
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from smtpproto_conformance._wire import Reply

__all__ = ["Judgement", "Level", "Verdict", "derived", "judged_keywords", "judged_replies"]


@unique
class Level(Enum):
    """On whose word a row rests."""

    MUST = "MUST"
    SHOULD = "SHOULD"
    """The RFC recommends it, or demands it in words that leave a server a way out."""
    STRICT = "STRICT"
    """Our choice where the RFC leaves one, most often to refuse what the grammar does not allow."""


@unique
class Verdict(Enum):
    """What became of a row."""

    PASS = "pass"  # noqa: S105 - it is no password
    FAIL = "fail"
    """A row that rests on a MUST, and the server does otherwise."""
    DIFFERS = "differs"
    """The server does otherwise, as it may."""
    NOT_TOLD = "not told"
    """Nothing can be said, for the reason that stands beside it."""


class Judgement(NamedTuple):
    """What the replies say: None for well, and otherwise why not."""

    reason: str | None = None
    told: bool = True
    """Whether the reason is one to count."""


WELL: Final = Judgement()
FINAL: Final = "2yz|4yz|5yz"  # every reply that ends a command
# Codes that speak of the command's form or place; any other 5yz is the server's own policy.
OF_FORM: Final = frozenset({500, 501, 502, 503, 504, 555})
# "Log in first", "TLS first": the row has not been reached.
NOT_YET: Final = frozenset({530, 538})


def derived(codes: str) -> str:
    """What is allowed where the row says `250|501`: the classes `2yz|5yz`, and 3yz exactly."""
    words = codes.replace("(one reply)", "").replace(" close", "").split()
    return " ".join("|".join(dict.fromkeys(map(_class, word.split("|")))) for word in words)


def _class(code: str) -> str:
    return code if code[0] == "3" else f"{code[0]}yz"


def judged_replies(allowed: list[str], replies: list[Reply]) -> Judgement:
    """Compare the replies one by one; the first that is not allowed decides."""
    for word, reply in zip(allowed, replies, strict=False):
        if not _allows(word, reply.code):
            return _otherwise(word, reply)
    return WELL


def _allows(word: str, code: int) -> bool:
    if word.startswith("!"):
        return code != int(word[1:])
    ways = FINAL if word == "final" else word
    return any(re.fullmatch(way.replace("yz", "[0-9]{2}"), str(code)) for way in ways.split("|"))


def _otherwise(word: str, reply: Reply) -> Judgement:
    return Judgement(f"answered {reply}", told=not _own_reason(word, reply.code))


def _own_reason(word: str, code: int) -> bool:
    if word.startswith("!"):
        return False
    if code // 100 == 4 or code in NOT_YET:  # noqa: PLR2004 - 4yz, "not now"
        return True
    wants_refusal = any(way.startswith(("4", "5")) for way in word.split("|"))
    return code // 100 == 5 and not wants_refusal and code not in OF_FORM  # noqa: PLR2004 - 5yz


# --- the lines of a reply to EHLO -----------------------------------------------------------------


def judged_keywords(words: list[str], reply: Reply) -> Judgement:
    """Whether the reply has these keywords, has not those with "!", or has each `once`."""
    if reply.code != 250:  # noqa: PLR2004 - RFC 5321 §4.3.2
        return Judgement(f"answered {reply}", told=False)
    for word in words:
        if word == "once":
            twice = {each for each in reply.keywords if reply.keywords.count(each) > 1}
            if twice:
                return Judgement(f"offers {', '.join(sorted(twice))} twice")
        elif word.startswith("!"):
            if reply.offers(word[1:]):
                return Judgement(f"offers {word[1:]}")
        elif not reply.offers(word):
            return Judgement(f"does not offer {word}")
    return WELL
