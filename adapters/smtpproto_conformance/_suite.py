# A run: every row once, within a time.

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from smtpproto_conformance._judging import Judgement, Verdict
from smtpproto_conformance._playing import Outcome, needs_clear, play, verdict_of
from smtpproto_conformance._session import Hung, NotTold, Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from smtpproto_conformance._table import Case
    from smtpproto_conformance._target import Target
    from smtpproto_conformance._wire import Reply

__all__ = ["Report", "Result", "Suite", "Unreachable"]

MAX_HUNG: Final = 3  # rows one after another that do not get to EHLO, until the server is given up
DEADLINE: Final = 900.0  # seconds for all rows


class Unreachable(Exception):  # noqa: N818 - it says what the server is
    """The server does not speak with us; the text says what it does."""


@dataclass(frozen=True)
class Result:
    """A row and what became of it."""

    case: Case
    outcome: Outcome


@dataclass(frozen=True)
class Report:
    """What a run found."""

    results: tuple[Result, ...]
    ended: str = ""
    """Why the run ended before its last row; "" if it did not."""

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many rows have each verdict."""
        found = Counter(result.outcome.verdict for result in self.results)
        return {verdict: found[verdict] for verdict in Verdict}

    def passes(self, *, strict: bool = False) -> bool:
        """Whether no row failed, and with `strict` none differs."""
        wrong = {Verdict.FAIL, Verdict.DIFFERS} if strict else {Verdict.FAIL}
        return all(result.outcome.verdict not in wrong for result in self.results)


class Suite:
    """The rows to be asked, and the server."""

    def __init__(self, target: Target, cases: Iterable[Case], deadline: float = DEADLINE) -> None:
        self._target: Target = target
        self._cases: tuple[Case, ...] = tuple(cases)
        self._deadline: float = deadline
        self._seen: _Seen = _Seen()
        self._hung: int = 0

    def __len__(self) -> int:
        return len(self._cases)

    def run(self, progress: Callable[[Result], None] = lambda _: None) -> Report:
        """Ask all rows; `progress` is called with each. Raises Unreachable if there is no server at all."""
        self._survey()
        found: dict[str, Result] = {}
        ended = ""
        for result in self._results():
            found[result.case.id] = result
            progress(result)
            ended = self._ended(result)
            if ended:
                break
        for case in self._cases:
            if case.observed:
                found[case.id] = Result(case, self._seen.outcome(case))
                progress(found[case.id])
        rest = Outcome(Verdict.NOT_TOLD, ended)
        return Report(tuple(found.get(case.id, Result(case, rest)) for case in self._cases), ended)

    def _survey(self) -> None:
        """See whether there is a server, before rows are judged by what it does not say."""
        try:
            session = Session(self._target)
            try:
                session.reach("S_EHLO")
            finally:
                self._seen.add(session)
                session.close()
        except Hung as error:
            raise Unreachable(self._hidden(str(error))) from None
        except NotTold:
            return  # the rows will say so, each for itself

    def _results(self) -> Iterator[Result]:
        self._until = time.monotonic() + self._deadline
        for case in self._cases:
            if not case.observed:
                yield Result(case, self._outcome(case))

    def _outcome(self, case: Case) -> Outcome:
        if case.not_told:
            return Outcome(Verdict.NOT_TOLD, case.not_told)
        try:
            outcome = self._played(case)
            self._hung = 0
        except Hung as error:
            self._hung += 1
            outcome = Outcome(Verdict.NOT_TOLD, str(error))
        except NotTold as error:
            self._hung = 0
            outcome = Outcome(Verdict.NOT_TOLD, str(error))
        return outcome._replace(reason=self._hidden(outcome.reason))

    def _played(self, case: Case) -> Outcome:
        session = Session(self._target, clear=needs_clear(case))
        try:
            return play(case, session)
        finally:
            self._seen.add(session)
            session.close()

    def _ended(self, result: Result) -> str:
        if self._hung >= MAX_HUNG:
            return f"the server was given up: {result.outcome.reason}"
        if time.monotonic() > self._until:
            return f"the run's {self._deadline:g} s were over"
        return ""

    def _hidden(self, text: str) -> str:
        return self._target.login.hide(text) if self._target.login else text


# --- what holds for every reply -------------------------------------------------------------------

NUMBERS: Final = re.compile(r"([0-9]+)\.([0-9]+)\.([0-9]+)(?: |$)")  # RFC 3463 §2, but for its limits


@dataclass
class _Seen:
    """The replies of all rows."""

    replies: list[Reply] = field(default_factory=list["Reply"])
    plain: list[Reply] = field(default_factory=list["Reply"])
    malformed: list[str] = field(default_factory=list[str])
    enhanced: bool = False

    def add(self, session: Session) -> None:
        self.replies += session.replies
        self.plain += session.plain_replies
        self.malformed += session.wire.malformed
        self.enhanced |= session.offers("ENHANCEDSTATUSCODES")

    def outcome(self, case: Case) -> Outcome:
        if case.id != "C047" and not self.enhanced:
            return Outcome(Verdict.NOT_TOLD, "ENHANCEDSTATUSCODES is not offered")
        wrong = next(iter(self._wrong(case.id)), None)
        return verdict_of(case, Judgement(None if wrong is None else f"a reply was {wrong}"))

    def _wrong(self, id: str) -> Iterable[str]:  # noqa: A002 - what the table calls it
        match id:
            case "C047":
                return self.malformed
            case "C160":
                bare = [each for each in self.replies if each.code // 100 == 3]  # noqa: PLR2004 - 3yz
                return (str(each) for each in (*self.plain, *bare) if _numbers(each))
            case "C161":
                return (
                    str(each)
                    for each in self.replies
                    if any(klass != str(each.code)[0] for klass, _, _ in _numbers(each))
                )
            case _:
                return (str(each) for each in self.replies if any(map(_is_malformed, _numbers(each))))


def _numbers(reply: Reply) -> list[tuple[str, str, str]]:
    return [(each[1], each[2], each[3]) for line in reply.lines if (each := NUMBERS.match(line))]


def _is_malformed(numbers: tuple[str, str, str]) -> bool:
    klass, *others = numbers
    return klass not in {"2", "4", "5"} or any(
        len(each) > 3 or (each[0] == "0" and each != "0")  # noqa: PLR2004 - RFC 3463 §2
        for each in others
    )
