# `python tests/record_conversations.py` writes down what the tests of the core say to it, for the kit.
#
# Whatever a conversation is made of must be plain data there. What cannot be written down so is
# left out, and counted with its reason; the rest is in the file, each once.

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from smtpproto import testing
from smtpproto.testing import _conversation as conversation
from smtpproto_kit._conversations import COMMON, HOOK_OF, Conversation, from_json, to_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT: Final = Path(__file__).parents[1]
FILE: Final = ROOT / "adapters" / "smtpproto_kit" / "conversations.jsonl"
PEER: Final = ("192.0.2.1", 4321)  # what `drive` takes
LONGEST: Final = 5000  # octets; longer ones would make the file hard to read, and rows.csv has some
CONVERSING: Final = re.compile(r"^from smtpproto.testing import .*\b(converse|play)\b", re.MULTILINE)
JUDGING_PEERS: Final = ("use_proxy", "use_xclient", "use_xforward")


class CannotBeSaid(Exception):  # noqa: N818 - no error: a conversation that stays where it is
    """Why a conversation is left out."""


def whole(segment: bytes) -> Iterator[list[bytes]]:
    """The one cut that is none."""
    yield [segment]


class Recorder:
    """A plugin of pytest: it listens to `converse`, and spares the suite the cutting."""

    def __init__(self) -> None:
        self.lines: dict[str, str] = {}  # by what is said, so that each is there once
        self.left_out: Counter[str] = Counter()
        self.again: int = 0
        self._item: str = ""
        self._number: Counter[str] = Counter()
        self._converse: Any = testing.converse

    def pytest_configure(self) -> None:
        """Before any test has imported it."""
        conversation.cuts = whole
        testing.converse = conversation.converse = self.listen

    def pytest_runtest_call(self, item: pytest.Item) -> None:
        """Note whose conversations these are."""
        self._item = item.nodeid.removeprefix("tests/core/").replace(".py::", "::")

    def listen(self, *said: Any, **how: Any) -> Any:
        """`converse`, and a line for the file if it came to an end."""
        outcome = self._converse(*said, **how)
        try:
            self.write_down(said, how, outcome)
        except CannotBeSaid as reason:
            self.left_out[str(reason)] += 1
        return outcome

    def write_down(self, said: Sequence[Any], how: Mapping[str, Any], outcome: Any) -> None:
        """Take one conversation in."""
        if b"\r\n334 PD" in outcome.sent:  # "<" in base64: CRAM-MD5
            raise CannotBeSaid("its challenge is a server's own")
        self._number[self._item] += 1
        number = self._number[self._item]
        made = _conversation(self._item if number == 1 else f"{self._item}#{number}", said, **how)
        line = to_json(made)
        if from_json(line) != made:
            raise CannotBeSaid("it does not survive being written down")
        content = line.partition('", ')[2]
        if content in self.lines:
            self.again += 1
        self.lines.setdefault(content, line)


def _conversation(
    test: str,
    said: Sequence[Any],
    /,
    answers: Mapping[Any, Any] | None = None,
    made_with: Mapping[str, Any] | None = None,
    eof: bool = False,  # noqa: ARG001, FBT002 - as `converse`; in the kit all end so
    **options: Any,
) -> Conversation:
    made_with = dict(made_with or {})
    peer, ask = made_with.pop("remote", None), made_with.pop("ask", ())
    tls_available = made_with.pop("tls_available", True)
    if made_with:
        raise CannotBeSaid(f"made with {', '.join(made_with)}")
    if peer is None and any(_is_list(options.get(name)) for name in JUDGING_PEERS):
        peer = PEER
    if not options.get("name", "given"):
        raise CannotBeSaid("an adapter knows the machine's name")
    segments = tuple(_segments(said))
    if sum(map(len, segments)) > LONGEST:
        raise CannotBeSaid(f"longer than {LONGEST} octets")
    return Conversation(
        name=test,
        said=segments,
        options={k: _plain(v) for k, v in options.items() if k not in COMMON or COMMON[k] != v},
        answers={HOOK_OF[kind]: _answer(kind, each) for kind, each in (answers or {}).items()},
        asks=tuple(hook for kind, hook in HOOK_OF.items() if kind in ask),
        peer=peer,
        tls_available=tls_available,
    )


def _segments(said: Sequence[str | bytes | None]) -> Iterator[bytes]:
    segment = b""
    for each in (*said, None):
        if each is not None:
            segment += conversation.octets(each)
        elif segment:
            yield segment
            segment = b""


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)


def _plain(value: Any) -> Any:
    """An option as JSON has it."""
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]  # pyright: ignore[reportUnknownVariableType]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise CannotBeSaid(f"an option is a {type(value).__name__}")


def _answer(kind: type[Any], answer: Any) -> Any:
    if isinstance(answer, list):
        return [_answer(kind, each) for each in answer]  # pyright: ignore[reportUnknownVariableType]
    if callable(answer):
        raise CannotBeSaid("a function answers")
    try:
        to_json(Conversation(name="", said=(), answers={"": answer}))
    except (KeyError, TypeError):
        raise CannotBeSaid(f"the answer is a {type(answer).__name__} of the test's own") from None
    return answer


def record() -> tuple[list[str], str]:
    """The lines of the file, and an account. Runs the tests of the core that converse, once each."""
    files = [
        str(path)
        for path in sorted((ROOT / "tests" / "core").glob("test_*.py"))
        if CONVERSING.search(path.read_text("utf-8"))
    ]
    recorder = Recorder()
    quiet = ["-q", "--no-header", "-x", "-p", "no:cacheprovider", f"--rootdir={ROOT}"]
    if pytest.main([*quiet, *files], plugins=[recorder]) != pytest.ExitCode.OK:
        raise SystemExit("the tests of the core fail")
    account = [f"{len(recorder.lines)} conversations, {recorder.again} of them had more than once"]
    account += [f"{count} left out: {reason}" for reason, count in recorder.left_out.most_common()]
    return [*recorder.lines.values()], "\n".join(account)


if __name__ == "__main__":
    lines, account = record()
    text = "".join(f"{line}\n" for line in lines)
    if sys.argv[1:] == ["--check"]:
        if FILE.read_text("ascii") != text:
            raise SystemExit(f"{FILE} is out of date: run {Path(__file__).name}")
    else:
        FILE.write_text(text, "ascii")
    sys.stdout.write(f"{account}\n")
