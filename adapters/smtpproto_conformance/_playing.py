# How a row is played against the server.
#
# Each row has a connection of its own. Behind the row's replies stands QUIT, whose 221 shows that
# there was no reply more than commands: a smuggled command is seen by its answer.

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from smtpproto_conformance._judging import (
    WELL,
    Judgement,
    Level,
    Verdict,
    judged_keywords,
    judged_replies,
)
from smtpproto_conformance._session import NotTold, Session
from smtpproto_conformance._target import Security
from smtpproto_conformance._wire import Ended, Silent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from smtpproto_conformance._table import Case
    from smtpproto_conformance._wire import Reply

__all__ = ["Outcome", "play", "verdict_of"]

QUIET: Final = 0.5  # seconds in which a server that fell back to plaintext would have said something
MAX_MORE: Final = 20  # replies behind the row's that are read before it is clear that they are too many
END_OF_DATA: Final = b".\r\n"
NOTHING: Final = "(none)"
SECRET: Final = re.compile(rb"\{(?:plain|wrong|name|password)\}")


class Outcome(NamedTuple):
    """What became of a row."""

    verdict: Verdict
    reason: str = ""


def play(case: Case, session: Session) -> Outcome:
    """Play it. Raises NotTold if the server does not let us get there."""
    session.reach(case.setup)
    missing = next(filter(None, (_missing(need, session) for need in case.needs)), None)
    if missing:
        raise NotTold(missing)
    judgement = _Play(case, session).judged()
    if any(SECRET.search(step) for step in case.steps):
        judgement = judgement._replace(reason=judgement.reason and _code_only(judgement.reason))
    return verdict_of(case, judgement)


def verdict_of(case: Case, judgement: Judgement) -> Outcome:
    """What counts: a MUST fails, all else differs."""
    if judgement.reason is None:
        return Outcome(Verdict.PASS)
    if not judgement.told:
        return Outcome(Verdict.NOT_TOLD, judgement.reason)
    return Outcome(Verdict.FAIL if case.level is Level.MUST else Verdict.DIFFERS, judgement.reason)


def _code_only(reason: str) -> str:
    """Behind a password a server may repeat what it was sent, in whatever form."""
    return re.sub(r"([2-5][0-5][0-9]) .*", r"\1", reason, flags=re.DOTALL)


# --- what a row needs -----------------------------------------------------------------------------

NEEDS: Final[Mapping[str, tuple[str, Callable[[Session], bool]]]] = {
    "smtp": ("is of SMTP only", lambda session: not session.target.lmtp),
    "lmtp": ("needs --lmtp", lambda session: session.target.lmtp),
    "tls": ("needs TLS", lambda session: session.secure),
    "clear": ("needs a session without TLS", lambda session: not session.secure),
    "implicit": ("needs --tls", lambda session: session.target.security is Security.TLS),
    "user": ("needs --user", lambda session: session.target.login is not None),
    "together": ("", lambda _: True),
}


def needs_clear(case: Case) -> bool:
    """Whether the row begins before TLS, also where transactions do not."""
    return not {"clear", "STARTTLS"}.isdisjoint(case.needs)


def _missing(need: str, session: Session) -> str | None:
    if need in NEEDS:
        reason, met = NEEDS[need]
        return None if met(session) else reason
    name = need.removeprefix("!")
    if session.offers(name) is need.startswith("!"):
        return f"{name} is {'not ' * (name == need)}offered"
    return None


# --- the play -------------------------------------------------------------------------------------


class _Play:
    """A row's own turn."""

    def __init__(self, case: Case, session: Session) -> None:
        self._session: Session = session
        self._together: bool = not {"together", "PIPELINING"}.isdisjoint(case.needs)
        self._steps: list[bytes] = case.steps
        self._allowed: list[str] = list(case.allowed)
        self._close: bool = self._took("close")
        self._nothing: bool = self._took(NOTHING)
        self._replies: list[Reply] = []
        codes = [word for word in self._allowed if re.match(r"!?[2-5]|final", word)]
        self._on_keywords: bool = not codes
        self._wanted: int = len(codes) or 1

    def _took(self, word: str) -> bool:
        found = word in self._allowed
        self._allowed = [each for each in self._allowed if each != word]
        return found

    def judged(self) -> Judgement:
        """Say it all, and judge what came."""
        try:
            self._say()
        except (Silent, Ended) as failure:
            # A refusal on the way explains why no more came.
            earlier = self._compared()
            return earlier if earlier.reason else Judgement(self._shown(str(failure)))
        judgement = self._compared()
        return judgement if judgement.reason is not None else self._afterwards()

    def _compared(self) -> Judgement:
        if self._on_keywords and self._replies:
            return judged_keywords(self._allowed, self._replies[0])
        return judged_replies(self._allowed, self._replies)

    def _shown(self, failure: str) -> str:
        return f"{failure} after {', '.join(map(str, self._replies))}" if self._replies else failure

    def _say(self) -> None:
        units = [unit for step in self._steps for unit in self._units(step)]
        for left, unit in zip(range(len(units) - 1, -1, -1), units, strict=True):
            self._session.send(unit)
            last = left == (1 if self._nothing else 0)
            if self._nothing and not left:
                return
            for _ in range(self._wanted - len(self._replies) if last else 1):
                self._replies.append(self._reply())
            if not last and judged_replies(self._allowed, self._replies).reason:
                return  # the next step would be said to a server that is elsewhere

    def _units(self, step: bytes) -> list[bytes]:
        """What is sent before a reply is read: a command line, or a message or group whole."""
        is_message = step.endswith(b"\r\n.\r\n") or step == END_OF_DATA
        if self._together or is_message or not step:
            return [step]
        return re.findall(rb".*?\r\n|.+\Z", step, re.DOTALL)

    def _reply(self) -> Reply:
        reply = self._session.reply()
        word = self._allowed[len(self._replies)] if len(self._replies) < len(self._allowed) else ""
        if reply.code == 354 and "354" not in word and not self._together:  # noqa: PLR2004 - RFC 5321 §3.3
            # RFC 5321 §3.3 leaves it open when DATA is refused, now or behind an empty message.
            self._session.send(END_OF_DATA)
            with suppress(Silent, Ended):
                return self._session.reply()
        return reply

    def _afterwards(self) -> Judgement:
        if self._nothing:
            said = self._session.wire.quiet(QUIET)
            spoken = re.search(rb"^[2-5][0-5][0-9][ -][^\r\n]*", said, re.MULTILINE)
            return Judgement(f"answered {spoken[0].decode('latin-1')}") if spoken else WELL
        if self._close:
            return self._until_closed()
        if self._replies[-1].code // 100 == 3:  # noqa: PLR2004 - 3yz, a question is open
            return WELL
        if self._steps[-1].upper().startswith(b"STARTTLS") and self._replies[0].code == 220:  # noqa: PLR2004
            return self._after_starttls()
        return self._nothing_more()

    def _until_closed(self) -> Judgement:
        try:
            more = self._session.reply()
        except Ended:
            return WELL
        except Silent:
            return Judgement("the connection stays open")
        return Judgement(f"answered {more} as well")

    def _after_starttls(self) -> Judgement:
        """What came in the clear behind STARTTLS must have no answer, before the handshake or after."""
        wire = self._session.wire
        said = wire.quiet(QUIET) if self._together else b""
        if said:
            return Judgement("answered what came behind STARTTLS in the same segment")
        try:
            wire.start_tls()
        except Ended:
            return WELL  # it was given to TLS, which could not read it
        return self._nothing_more()

    def _nothing_more(self) -> Judgement:
        """Say QUIT, which has exactly one reply."""
        more: list[Reply] = []
        self._session.send(b"QUIT\r\n")
        with suppress(Silent, Ended):
            while len(more) < MAX_MORE and not (more and more[-1].code == 221):  # noqa: PLR2004 - RFC 5321 §4.1.1.10
                more.append(self._session.reply())
        if len(more) > 1:
            return Judgement(f"more replies than commands: {more[0]} came as well")
        return WELL
