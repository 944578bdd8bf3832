# The lines of the command, on outputs that take them, take none, or go away.

from __future__ import annotations

import io
import os
import re
from typing import TYPE_CHECKING, Final, TextIO

import pytest

import smtpproto_cli._journal
from smtpproto.testing import make_session
from smtpproto_cli._journal import MAX_WAITING, Journal
from smtpproto_kit import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from smtpproto import Session

PATIENCE: Final = 60.0  # seconds
TOO_MANY: Final = 3 * MAX_WAITING


class Pipe:
    """A standard output, and who reads it."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self.output: TextIO = os.fdopen(self.writing, "w")
        self.text: str = ""

    def until(self, pattern: str) -> str:
        """Read until the pattern is found; the text so far."""
        while not re.search(pattern, self.text):
            self.more()
        return self.text

    def more(self) -> str:
        """Read what there is, or wait for it; the text so far."""
        self.text += os.read(self.reading, 65536).decode()
        return self.text

    def fill(self) -> None:
        """Leave no room, as a reader does who has stopped."""
        os.set_blocking(self.writing, False)
        try:
            while os.write(self.writing, b"." * 4096):
                pass
        except BlockingIOError:
            os.set_blocking(self.writing, True)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    with made.output:
        yield made
        os.close(made.reading)


@pytest.fixture
def journal(pipe: Pipe) -> Iterator[Journal]:
    made = Journal(pipe.output)
    yield made
    made.close(PATIENCE)


def wanted() -> bool:
    """The hook was not given up."""
    return False


def session(*recipients: str) -> Session:
    to = recipients or ("b@example.org",)
    return make_session("a@example.com", to, remote_address="192.0.2.1", remote_port=4711)


def test_a_line_tells_the_facts(journal: Journal, pipe: Pipe) -> None:
    journal.message(session("b@example.org", "c@example.org"), 12, "discarded")
    assert pipe.until("\n") == (
        "id=0123456789abcdef-1 from=<a@example.com> to=<b@example.org>,<c@example.org> size=12 tls=no user=- "
        "stored=discarded\n"
    )


def test_what_does_not_print_is_escaped(journal: Journal, pipe: Pipe) -> None:
    made = session()
    made.user = "\x1b[2J"
    journal.message(made, 12, "mail\nid=")
    assert r" user=\x1b[2J stored=mail\nid=" in pipe.until("\n")


def test_lines_that_have_no_room_are_counted_and_reported_when_somebody_reads(
    journal: Journal, pipe: Pipe
) -> None:
    pipe.fill()
    for number in range(TOO_MANY):
        journal.message(session(), number, "discarded")
    sizes: list[int] = []
    lost: list[str] = []
    while len(sizes) + sum(map(int, lost)) < TOO_MANY:
        text = pipe.more()
        sizes = [int(size) for size in re.findall(r"id=.* size=(\d+) .*\n", text)]
        lost = re.findall(r"journal: (\d+) lines were not written, as nobody read them\n", text)
    assert len(sizes) + sum(map(int, lost)) == TOO_MANY
    assert sizes == sorted(sizes)
    assert lost
    journal.message(session(), TOO_MANY, "discarded")
    assert len(re.findall("journal:", pipe.until(rf"size={TOO_MANY} .*\n"))) == len(lost)


def test_a_stalled_reader_delays_the_end_no_longer_than_asked(pipe: Pipe) -> None:
    journal = Journal(pipe.output)
    pipe.fill()
    journal.message(session(), 1, "discarded")
    journal.close(0.01)
    pipe.until("size=1 ")  # lets its thread end


def test_an_output_that_was_closed_is_logged_once(
    journal: Journal, pipe: Pipe, caplog: pytest.LogCaptureFixture
) -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), pipe.reading)  # nobody has the other end any more
    for _ in range(3):
        journal.message(session(), 1, "discarded")
        wait_until(lambda: not journal._begun, PATIENCE)
    assert [record.getMessage() for record in caplog.records] == [
        "cannot write to standard output: Broken pipe; lines are lost"
    ]


# --- printed messages -------------------------------------------------------------------------------


def test_a_message_is_accepted_when_it_has_been_printed(journal: Journal, pipe: Pipe) -> None:
    journal.printed(session(), 4, io.BytesIO(b"one\r\ntwo\r\n"), wanted).result(PATIENCE)
    assert pipe.until("two\n").endswith(" stored=printed\n  one\n  two\n")


def test_if_nobody_reads_a_printed_message_fails_and_those_after_it_at_once(
    journal: Journal, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smtpproto_cli._journal, "PRINT_WITHIN", 0.01)
    pipe.fill()
    messages = [journal.printed(session(), 4, io.BytesIO(b"x\r\n"), wanted) for _ in range(100)]
    for each in messages:
        with pytest.raises(TimeoutError, match="nobody reads it"):
            each.result(PATIENCE)
    os.read(pipe.reading, 1 << 20)
    journal.printed(session(), 4, io.BytesIO(b"y\r\n"), wanted).result(PATIENCE)
    assert re.fullmatch(r"\.*id=.*\n  y\n", pipe.until("  y\n"))


def test_a_message_that_was_cut_off_is_said_to_be_before_the_next(
    journal: Journal, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smtpproto_cli._journal, "PRINT_WITHIN", 0.01)
    with pytest.raises(TimeoutError):
        journal.printed(session(), 4, io.BytesIO(b"x" * 1_000_000), wanted).result(PATIENCE)
    pipe.text = os.read(pipe.reading, 1 << 20).decode()
    journal.printed(session(), 4, io.BytesIO(b"y\r\n"), wanted).result(PATIENCE)
    cut, said, line, text, rest = pipe.until("  y\n").split("\n")[1:]
    assert set(cut) == {" ", "x"}
    assert said == "journal: the message above was cut off; it was not accepted"
    assert line.startswith("id=")
    assert (text, rest) == ("  y", "")


def test_a_message_whose_hook_was_given_up_is_not_printed(journal: Journal, pipe: Pipe) -> None:
    with pytest.raises(RuntimeError, match="the hook was given up"):
        journal.printed(session(), 4, io.BytesIO(b"x\r\n"), lambda: True).result(PATIENCE)
    journal.printed(session(), 4, io.BytesIO(b"y\r\n"), wanted).result(PATIENCE)
    assert pipe.until("  y\n").count("\n") == 2
