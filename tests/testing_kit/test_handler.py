# Faulty handlers are found, each with a short conversation; right ones are not.

from __future__ import annotations

import ast
import asyncio
import base64
import contextlib
import email
import logging
import math
import re
import runpy
import subprocess
import sys
import time
from email.policy import default
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final

import pytest

from docs.blocks import DOCS, ENVIRONMENT, Block, assert_shown, blocks_of
from smtpproto import Accept, Reject, Session
from smtpproto.testing import FAULTS, HandlerFault, Visit, check_handler, fuzz_handler
from smtpproto.testing.__main__ import main
from smtpproto.testing._handler import _Hunt, _shorter, _transaction, handler_faults
from smtpproto.testing._pasted import readable
from smtpproto.testing._visits import LOOKS, Hangs, Trial, Watchdog
from smtpproto_server import AsyncStream, Maildir, Options, Stream, StreamAborted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TRANSACTION: Final = ("EHLO c.test", "MAIL FROM:<a@x.test>", "RCPT TO:<b@y.test>", "DATA")
MESSAGE: Final = b"Subject: hello\r\n\r\nhello\r\n.\r\n"


# --- faulty handlers ------------------------------------------------------------------------------


class Store:
    """What most of them have."""

    def __init__(self) -> None:
        self.kept: list[Any] = []


class NullSender(Store):
    async def on_mail_from(self, address: object, _session: Session) -> None:
        _user, _host = str(address).split("@")


class Ascii(Store):
    def on_data(self, stream: Stream, _session: Session) -> None:
        self.kept.append(stream.read().decode("ascii"))


class FirstChunk(Store):
    """Takes the first chunk for the header."""

    async def on_data(self, stream: AsyncStream, _session: Session) -> None:
        chunks = [chunk async for chunk in stream]
        self.kept += [line for line in b"".join(chunks[:1]).splitlines() if line.startswith(b"Subject:")]


class ChunkIsLine(Store):
    """Takes each chunk for a line."""

    def on_data(self, stream: Stream, _session: Session) -> None:
        for line in stream:
            if line.startswith(b"From:"):
                raise Reject(554)


class FullStore(Store):
    """Says 250 to what it had no room for."""

    async def on_data(self, stream: AsyncStream, _session: Session) -> str:
        content = await stream.read()
        if len(self.kept) >= 1:
            return "no room left"
        self.kept.append(content)
        return "kept"


class KeepsBroken(Store):
    """Keeps messages that broke off."""

    async def on_data(self, stream: AsyncStream, _session: Session) -> None:
        content = b""
        try:
            async for chunk in stream:
                content += chunk
        except StreamAborted:
            pass
        self.kept.append(content)


class OldRecipients(Store):
    """Keeps the recipients of the message before."""

    def __init__(self) -> None:
        super().__init__()
        self.recipients: list[str] = []

    async def on_rcpt_to(self, address: object, _session: Session) -> None:
        self.recipients.append(str(address))
        if len(self.recipients) > 3:
            raise Reject(452, "4.5.3")

    async def on_data(self, stream: AsyncStream, _session: Session) -> None:
        await stream.read()


class ForEver(Store):
    """Looks for a blank line that need not be there."""

    async def on_data(self, stream: AsyncStream, _session: Session) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.read(1000)
        await stream.read()


class Waits(Store):
    async def on_rcpt_to(self, address: object, _session: Session) -> None:
        if '"' in str(address):
            await asyncio.Event().wait()


class Unread(Store):
    async def on_data(self, stream: AsyncStream, _session: Session) -> None:
        self.kept.append(await stream.read(10))


class Numbers(Store):
    def on_rcpt_to(self, *_: object) -> int:
        return 550


class ShortList(Store):
    def on_data(self, stream: Stream, session: Session) -> list[None]:
        stream.read()
        return [None for _ in set(session.envelope.rcpt_to)]


class Forgetful(Store):
    """Returns its answer to a login only where it is bad."""

    def on_auth(self, auth: Any, _session: Session) -> Any:
        if auth.username == "nobody":
            return Reject(535, text=f"{auth.password} is not the password of {auth.username}")
        return True


class Header(Store):
    """Lets its parser see what it was not made for."""

    async def on_data(self, stream: AsyncStream, _session: Session) -> None:
        message = email.message_from_bytes(await stream.read())
        self.kept.append(message["Subject"].upper())


class LastOne(Store):
    """Fails when everything is over."""

    def on_close(self, session: Session) -> None:
        self.kept.append(session.envelope.mail_from.address)  # type: ignore[union-attr] # pyright: ignore[reportOptionalMemberAccess] - the mistake


def kept(visit: Visit) -> object:
    """The handler has what it has accepted."""
    assert visit.handler.kept == [mail.content for mail in visit.mails if mail.accepted]
    return None


def seen(visit: Visit) -> object:
    return visit.handler.kept


LMTP: Final = Options(name="mx.test", lmtp=True, auth_optional=True)
INSECURE: Final = Options(name="mx.test", auth_optional=True, allow_insecure_auth=True)
QUICK: Final = Options(name="mx.test", auth_optional=True, hook_timeout=0.1)

FAULTY: Final[list[tuple[type[Store], str, int, dict[str, Any]]]] = [
    (NullSender, "raises", 2, {}),
    (Ascii, "raises", 6, {}),
    (FirstChunk, "cut", 6, {"check": seen}),
    (ChunkIsLine, "cut", 7, {}),
    (FullStore, "check", 12, {"check": kept}),
    (KeepsBroken, "check", 7, {"check": kept}),
    (OldRecipients, "memory", 6, {}),
    (ForEver, "hangs", 6, {}),
    (Waits, "hangs", 3, {"options": QUICK}),
    (Unread, "unread", 6, {}),
    (Numbers, "nonsense", 3, {}),
    (ShortList, "nonsense", 8, {"options": LMTP}),
    (Forgetful, "secret", 2, {"options": INSECURE}),
    (Header, "raises", 5, {}),
    (LastOne, "raises", 1, {}),
]


@pytest.mark.parametrize(
    ("handler", "kind", "lines", "how"), FAULTY, ids=lambda each: getattr(each, "__name__", "")
)
def test_a_faulty_handler_is_found_with_a_short_conversation(
    handler: type[Store], kind: str, lines: int, how: dict[str, Any]
) -> None:
    with pytest.raises(HandlerFault) as caught:
        fuzz_handler(handler, seconds=60, **how)
    fault = caught.value
    assert fault.kind == kind
    said = b"".join(each if isinstance(each, bytes) else each.encode() + b"\n" for each in fault.said)
    assert said.count(b"\n") <= lines, fault
    assert fault.text in str(fault)
    with pytest.raises(HandlerFault, match=rf"^{kind}: "):
        check_handler(handler, *fault.said, **how)
    name = re.findall(r"def (test_\w+)", fault.test)
    assert len(name) == 1
    pasted: dict[str, Any] = {}
    exec(compile(fault.test, "pasted", "exec"), pasted)  # noqa: S102 - that is what a pasted test is
    with pytest.raises(HandlerFault):
        pasted[name[0]]()


# --- right handlers -------------------------------------------------------------------------------


class Nothing:
    async def on_close(self, _session: Session) -> None: ...


class ReadsAll(Store):
    async def on_data(self, stream: AsyncStream, _session: Session) -> str | None:
        content = await stream.read()
        if stream.refusal is not None:
            return None
        self.kept.append(content)
        return f"kept as {len(self.kept)}"


class ReadsInPieces(Store):
    def on_data(self, stream: Stream, _session: Session) -> None:
        content = b""
        while piece := stream.read(7):
            content += piece
        self.kept.append(content)


class Iterates(Store):
    def on_data(self, stream: Stream, _session: Session) -> None:
        self.kept.append(b"".join(stream))


class Locks(Store):
    def __init__(self) -> None:
        super().__init__()
        self.lock = asyncio.Lock()

    async def on_data(self, stream: AsyncStream, _session: Session) -> None:
        async with self.lock, asyncio.timeout(50):
            content = await stream.read()
            await asyncio.sleep(0)
            await asyncio.to_thread(self.kept.append, content)


class Parses(Store):
    async def on_data(self, stream: AsyncStream, _session: Session) -> None:
        content = await stream.read()
        email.message_from_bytes(content, policy=default)
        self.kept.append(content)


class Refuses(Store):
    async def on_rcpt_to(self, *_: object) -> Reject:
        return Reject(550, "5.1.1", "\r\n250 \x00 é")


class Answers:
    """Has all the hooks there are."""

    def on_connect(self, _session: Session) -> None: ...
    def on_secure(self, ssl_object: Any, _session: Session) -> None:
        assert ssl_object.cipher()

    def on_helo(self, *_: object) -> None: ...
    async def on_auth(self, auth: Any, _session: Session) -> bool:
        return bool(auth.username == "ann" and auth.password == "secret phrase")

    def on_mail_from(self, *_: object) -> Accept:
        return Accept(text="go on")

    async def on_vrfy(self, argument: str, _session: Session) -> Accept:
        return Accept(252, text=argument)

    async def on_expn(self, argument: str, _session: Session) -> Reject:
        return Reject(text=argument)

    async def on_help(self, argument: str, _session: Session) -> Accept:
        return Accept(214, text=argument)

    def on_command(self, verb: str, _argument: str, _session: Session) -> Accept | None:
        return Accept(250) if verb == "X-OWN" else None

    def on_data_start(self, session: Session) -> None:
        if len(session.envelope.rcpt_to) > 2:
            raise Reject(554)

    def on_close(self, _session: Session) -> None: ...


class PerRecipient(Store):
    async def on_data(self, stream: AsyncStream, session: Session) -> list[Reject | None]:
        await stream.read()
        return [Reject(452) if str(to) == "c@y.test" else None for to in session.envelope.rcpt_to]


@pytest.fixture
def shown_handler() -> type:
    """The handler of the tutorial, without the server it runs in."""
    source = (DOCS / "examples" / "handler.py").read_text("utf-8")
    names: dict[str, Any] = {}
    exec(source.removesuffix("asyncio.run(main())\n"), names)  # noqa: S102 - our own file
    handler: type = names["Mail"]
    return handler


RIGHT: Final[list[tuple[type, dict[str, Any]]]] = [
    (Nothing, {}),
    (ReadsAll, {"check": kept}),
    (ReadsAll, {"check": kept, "options": Options(name="mx.test", auth_optional=True, size=40)}),
    (ReadsInPieces, {"check": kept}),
    (Iterates, {"check": kept}),
    (Locks, {"check": kept}),
    (Parses, {"check": kept}),
    (Refuses, {"check": kept}),
    (Answers, {"login": ("ann", "secret phrase"), "options": Options(name="mx.test")}),
    (Answers, {"options": Options(name="mx.test", needs_upgrade=True, auth_optional=True)}),
    (PerRecipient, {"options": LMTP}),
    (Unread, {"allow": ["unread"]}),
    (OldRecipients, {"allow": ["memory"]}),
    (Numbers, {"allow": ["nonsense"]}),
]


@pytest.mark.parametrize(("handler", "how"), RIGHT, ids=lambda each: getattr(each, "__name__", ""))
def test_nothing_is_found_where_nothing_is_wrong(handler: type, how: dict[str, Any]) -> None:
    fuzz_handler(handler, max_examples=40, **how)


def test_nothing_is_found_in_the_handler_of_the_tutorial(shown_handler: type) -> None:
    fuzz_handler(shown_handler, max_examples=40, mailboxes=["me@example.com"])


def test_the_maildir_keeps_what_it_has_accepted_whatever_clients_say(tmp_path: Path) -> None:
    def make() -> Maildir:
        return Maildir(tmp_path / f"{time.monotonic_ns()}", trace=False)

    def is_in_new(visit: Visit) -> object:
        stored = sorted(path.read_bytes() for path in (visit.handler.path / "new").iterdir())
        assert stored == sorted(m.content for m in visit.mails if m.accepted)
        assert not list((visit.handler.path / "tmp").iterdir())
        return stored

    fuzz_handler(make, check=is_in_new, max_examples=25)


def test_hooks_can_be_options() -> None:
    async def on_data(stream: AsyncStream, _session: Session) -> None:
        (await stream.read()).decode("ascii")

    options = Options(name="mx.test", auth_optional=True, on_data=on_data)
    with pytest.raises(HandlerFault, match="on_data raised UnicodeDecodeError"):
        fuzz_handler(None, options)
    fuzz_handler(None, options, allow=["raises"], max_examples=10)


# --- what is reported -----------------------------------------------------------------------------


def test_a_report_says_what_is_wrong_where_and_for_which_session() -> None:
    with pytest.raises(HandlerFault) as caught:
        check_handler(NullSender, "EHLO c.test", "MAIL FROM:<>")
    assert isinstance(caught.value.__cause__, ValueError)
    told = str(caught.value)
    assert told.startswith("raises: on_mail_from raised ValueError: not enough values to unpack")
    assert re.search(
        r'Traceback .*\n  File ".*test_handler\.py", line \d+, in on_mail_from\n    _user, _host = ', told
    )
    assert "_loop.py" not in told
    assert told.endswith('The client says:\n\n    "EHLO c.test"\n    "MAIL FROM:<>"')


def test_all_faults_of_a_handler_are_found_one_after_the_other() -> None:
    class Both(NullSender, Ascii): ...

    found = list(handler_faults(Both, seconds=60, max_examples=150))
    assert sorted(fault.text.split()[0] for fault in found) == ["on_data", "on_mail_from"]


def test_two_faults_of_a_kind_have_tests_of_different_names() -> None:
    class Twice:
        async def on_mail_from(self, address: Any, _session: Session) -> None:
            assert address.local
            assert address.domain != "y.test"

    found = list(handler_faults(Twice, seconds=60, max_examples=300))
    assert [re.findall(r"def (\w+)", fault.test) for fault in found] == [
        ["test_on_mail_from_raises"], ["test_on_mail_from_raises_2"],
    ]  # fmt: skip


async def end_in(error: type[BaseException]) -> None:
    await asyncio.sleep(0)
    raise error


@pytest.mark.parametrize("error", [GeneratorExit, SystemExit, asyncio.CancelledError, BaseException])
def test_a_hook_that_ends_in_whatever_is_no_reject_is_found(error: type[BaseException]) -> None:
    class Plain:
        def on_mail_from(self, *_: object) -> None:
            raise error

    class AtOnce:
        async def on_rcpt_to(self, *_: object) -> None:
            raise error

    class Later:
        async def on_data(self, *_: object) -> None:
            await end_in(error)

    class Last:
        async def on_close(self, *_: object) -> None:
            await end_in(error)

    said = ("EHLO c.test", "MAIL FROM:<>", "RCPT TO:<b@y.test>", "DATA", b"a\r\n.\r\n")
    for handler, hook in (
        (Plain, "on_mail_from"),
        (AtOnce, "on_rcpt_to"),
        (Later, "on_data"),
        (Last, "on_close"),
    ):
        with pytest.raises(HandlerFault, match=rf"^raises: {hook} raised (asyncio.*\.)?{error.__name__}"):
            check_handler(handler, *said)


def test_a_hook_that_lets_its_cancellation_through_is_found_as_one_that_hangs() -> None:
    class Sleeps:
        async def on_mail_from(self, *_: object) -> None:
            await asyncio.sleep(60)

    with pytest.raises(HandlerFault, match=r"^hangs: on_mail_from took longer"):
        check_handler(Sleeps, "EHLO c.test", "MAIL FROM:<>", options=with_option(hook_timeout=0.05))


def test_a_fault_that_is_known_is_not_found_again() -> None:
    said = ("EHLO c.test", "MAIL FROM:<>")
    with Trial(NullSender, None, None, ()) as trial:
        hunt = _Hunt(trial, math.inf, ())
        assert hunt._fails(said)
        assert not _Hunt(trial, math.inf, {hunt.fault.key})._fails(said)


def test_an_address_that_needs_it_comes_with_smtputf8() -> None:
    assert _transaction("é@x.test", "", ["b@y.test"], b".\r\n", at_once=False) == (
        "MAIL FROM:<é@x.test> SMTPUTF8", "RCPT TO:<b@y.test>", "DATA", b".\r\n",
    )  # fmt: skip


def test_the_same_seed_finds_the_same() -> None:
    said: list[object] = []
    for _ in range(2):
        with pytest.raises(HandlerFault) as caught:
            fuzz_handler(Header, seed=7)
        said.append(caught.value.said)
    assert said[0] == said[1]


def test_the_search_ends_in_time() -> None:
    began = time.monotonic()
    fuzz_handler(ReadsAll, max_examples=1_000_000, seconds=1)
    assert time.monotonic() - began < 30
    fuzz_handler(Numbers, seconds=0)


def test_an_object_that_remembers_is_found_though_it_never_fails_again() -> None:
    class Once:
        calls = 0

        async def on_mail_from(self, *_: object) -> None:
            self.calls += 1
            if self.calls == 20:
                raise ValueError("once only")

    with pytest.raises(HandlerFault, match="once only"):
        fuzz_handler(Once())


def test_an_object_is_asked_for_the_same_answers_in_every_cut() -> None:
    with pytest.raises(
        HandlerFault, match=r"^cut: cut into octets, the client is told 250 where it was told 554"
    ):
        check_handler(ChunkIsLine(), *TRANSACTION, b"From:\r\n.\r\n")
    check_handler(ChunkIsLine(), *TRANSACTION, b"From:\r\n.\r\n", allow=["memory"])
    check_handler(ChunkIsLine(), *TRANSACTION, b"From:\r\n.\r\n", allow=["cut"])


def test_a_reply_more_or_less_is_a_difference() -> None:
    class Hangup(Store):
        async def on_helo(self, *_: object) -> None:
            self.kept.append(1)
            if len(self.kept) > 1:
                raise Reject(421)

    with pytest.raises(
        HandlerFault, match=r"^memory: come again, the client is told 421 where it was told 250"
    ):
        check_handler(Hangup, "EHLO c.test", "NOOP")


def test_what_breaks_off_raises_in_a_hook_and_is_no_fault() -> None:
    check_handler(ReadsAll, *TRANSACTION, b"half", check=kept)
    check_handler(Iterates, *TRANSACTION, b"bare\nnewline\r\n.\r\n", "NOOP", check=kept)


def test_what_a_hook_raises_when_a_message_broke_off_is_found_though_nobody_is_told() -> None:
    class Late:
        async def on_data(self, stream: AsyncStream, _session: Session) -> None:
            try:
                await stream.read()
            except StreamAborted:
                raise ValueError("too late") from None

    with pytest.raises(HandlerFault, match="on_data raised ValueError: too late"):
        check_handler(Late, *TRANSACTION, b"half")


def test_a_hook_that_never_comes_back_is_interrupted() -> None:
    class Spins:
        async def on_mail_from(self, *_: object) -> None:
            while True:
                pass

    class Sleeps:
        def on_mail_from(self, *_: object) -> None:
            while True:
                time.sleep(0.001)

    class Swallows:
        async def on_mail_from(self, *_: object) -> None:
            with contextlib.suppress(BaseException):
                while True:
                    pass
            while True:
                pass

    for handler in (Spins, Sleeps, Swallows):
        with pytest.raises(HandlerFault, match=r"^hangs: on_mail_from"):
            check_handler(handler, "EHLO c.test", "MAIL FROM:<>", options=QUICK)


def test_only_the_same_call_looked_at_often_enough_goes_round_in_circles() -> None:
    watchdog = Watchdog(1e9)  # not started: the test looks in its place
    for _ in range(5):
        watchdog.begin()
        for _ in range(LOOKS):
            watchdog.look()
        watchdog.end()
        watchdog.look()
    watchdog.begin()
    for _ in range(3):  # once more is too often, each time
        for _ in range(LOOKS):
            watchdog.look()
        with pytest.raises(Hangs):
            watchdog.look()


def test_a_hook_that_reads_on_behind_the_end_is_interrupted() -> None:
    with pytest.raises(HandlerFault, match=r"^hangs: on_data goes round in circles"):
        check_handler(ForEver, *TRANSACTION, b"no blank line\r\n.\r\n")


def test_what_is_allowed_is_no_fault() -> None:
    said = (*TRANSACTION, b"more than ten octets\r\n.\r\n")
    with pytest.raises(HandlerFault, match=r"^unread: "):
        check_handler(Unread, *said)
    check_handler(Unread, *said, allow=["unread"])


def test_a_hook_that_leaves_its_reader_behind_has_not_read() -> None:
    class Leaves:
        async def on_data(self, stream: AsyncStream, _session: Session) -> None:
            self.task = asyncio.create_task(stream.read())
            await asyncio.sleep(0)

    with pytest.raises(HandlerFault, match=r"^unread: "):
        check_handler(Leaves, *TRANSACTION, b"hel", b"lo\r\n.\r\n")


def test_a_password_is_a_secret_in_every_reply() -> None:
    password = base64.b64encode(b"\0nobody\0a long secret").decode()
    with pytest.raises(HandlerFault, match=r"^secret: a reply tells the password"):
        check_handler(Forgetful, "EHLO c.test", f"AUTH PLAIN {password}", options=INSECURE)


def test_mails_tell_what_became_of_them() -> None:
    visits: list[Visit] = []
    check_handler(
        PerRecipient, "LHLO c.test", "MAIL FROM:<>", "RCPT TO:<b@y.test>", "RCPT TO:<c@y.test>", "DATA",
        b"..dot\r\n.\r\n", options=LMTP, check=visits.append,
    )  # fmt: skip
    (mail,) = visits[0].mails
    assert (mail.mail_from, mail.rcpt_to, mail.content) == ("", ["b@y.test", "c@y.test"], b".dot\r\n")
    assert (mail.complete, mail.accepted, mail.unread) == (True, True, 0)
    assert mail.replies == ["250 2.6.0 OK: message accepted", "452 4.2.2 Insufficient resources"]
    assert repr(mail).startswith("<Mail from '' to ['b@y.test', 'c@y.test']: ['250 ")
    assert visits[0].codes[-3:] == ["354", "250 2.6.0", "452 4.2.2"]


def test_a_fault_of_the_server_is_told_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait_for_client(_driver: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("smtpproto_server.adapting.Driver._wait_for_client", wait_for_client)
    with pytest.raises(HandlerFault, match=r"^server: the server failed with ZeroDivisionError"):
        check_handler(Nothing, "EHLO c.test")


def test_what_the_network_did_is_no_fault_of_a_handler() -> None:
    check_handler(Nothing, b"PROXY nonsense\r\n", options=with_option(use_proxy=True))


def test_a_reply_that_is_none_is_a_fault_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def split_replies(_sent: bytes) -> list[str]:
        return ["250-one\n250 two", "nonsense"]

    monkeypatch.setattr("smtpproto.testing._visits.split_replies", split_replies)
    with pytest.raises(HandlerFault, match=r"^server: this is no reply: 'nonsense'"):
        check_handler(Nothing, "NOOP")


@pytest.mark.parametrize("handler", [Nothing, Nothing()])
def test_an_interruption_that_comes_outside_of_a_hook_is_found_as_well(
    handler: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def play(*_: object) -> bytes:
        raise Hangs

    monkeypatch.setattr("smtpproto.testing._visits._Server.play", play)
    with pytest.raises(HandlerFault, match=r"^hangs: a hook did not come back"):
        check_handler(handler, "NOOP")


def test_a_failed_check_says_which_line_it_was() -> None:
    with pytest.raises(
        HandlerFault, match=r"^check: the check failed: assert visit\.handler\.kept == .*: Assert"
    ):
        check_handler(KeepsBroken, *TRANSACTION, b"half", check=kept)
    check_handler(KeepsBroken, *TRANSACTION, b"half", check=kept, allow=["check"])


def test_a_long_difference_is_cut_short() -> None:
    def long(visit: Visit) -> object:
        return [b"x" * 1000, *visit.handler.kept]

    with pytest.raises(HandlerFault, match=r"x{200,}\.\.\.; else .*x{200,}\.\.\.\n") as caught:
        check_handler(FirstChunk, *TRANSACTION, MESSAGE, check=long)
    assert len(str(caught.value)) < 1200


# --- tests to be pasted ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "segment",
    [
        b"",
        b"a\r\n.\r\n",
        b"no end",
        b"x" * 998 + b"\r\n.\r\n",
        b"ab" + b"c" * 40 + b"'" * 50 + b'"e',
        b"\"'\xff\r\n",
    ],
)
def test_octets_are_written_as_they_were(segment: bytes) -> None:
    text = readable([segment])
    assert ast.literal_eval(f"({text})") == segment if "*" not in text else eval(f"({text})") == segment  # noqa: S307 - ours
    assert all(len(line) < 100 for line in text.splitlines())


def test_what_was_sent_at_once_is_tried_one_by_one() -> None:
    at_once = b"MAIL FROM:<>\r\nDATA\r\n"
    assert list(_shorter(("EHLO c.test", at_once))) == [
        ("EHLO c.test",),
        (at_once,),
        ("EHLO c.test", b"DATA\r\n"),
        ("EHLO c.test", b"MAIL FROM:<>\r\n"),
        ("EHLO c.test", "MAIL FROM:<>", "DATA"),
    ]
    assert ("MAIL",) not in _shorter((b"MAIL\xff\r\n",))


class Named:
    """Things that can be imported, and how they are written."""

    async def on_mail_from(self, address: Any, _session: Session) -> None:
        assert address.local

    @staticmethod
    async def refuse_null(address: Any, _session: Session) -> None:
        assert address.local


NAMED: Final = Named()
X: Final = ("X",)


def arguments_of(test: str) -> dict[str, str]:
    """The first argument and the keywords of the call in a pasted test, as source."""
    (body,) = [node.body for node in ast.parse(test).body if isinstance(node, ast.FunctionDef)]
    (statement,) = body
    assert isinstance(statement, ast.Expr)
    call = statement.value
    assert isinstance(call, ast.Call)
    given = {each.arg or "": ast.unparse(each.value) for each in call.keywords}
    return {"handler": ast.unparse(call.args[0]), **given}


def with_option(**fields: Any) -> Options:
    return Options(name="mx.test", auth_optional=True, **fields)


class MyOptions(Options): ...


MINE: Final = MyOptions(name="mx.test", auth_optional=True)


@pytest.mark.parametrize(
    ("handler", "how", "written"),
    [
        (Named, {}, {"handler": "Named"}),
        (NAMED, {}, {"handler": "NAMED"}),
        (Named(), {}, {"handler": "handler"}),
        (None, {"options": with_option(on_mail_from=NAMED.on_mail_from, max_clients=3, ehlo_keywords=X)}, {
            "handler": "None",
            "options": "Options(name='mx.test', ehlo_keywords=['X'], auth_optional=True, max_clients=3, "
            "on_mail_from=NAMED.on_mail_from)",
        }),
        (None, {"options": with_option(on_mail_from=Named.refuse_null)}, {
            "handler": "None",
            "options": "Options(name='mx.test', auth_optional=True, on_mail_from=Named.refuse_null)",
        }),
        (None, {"options": with_option(on_mail_from=Named().on_mail_from)}, {
            "handler": "None", "options": "options",
        }),
        (Named, {"options": MINE}, {"handler": "Named", "options": "MINE"}),
        (Named, {"options": with_option(ehlo_keywords=["X"], use_xclient=[ip_address("203.0.113.9")])}, {
            "handler": "Named", "options": "options",
        }),
        (Named, {"check": list[Any]}, {"handler": "Named", "check": "check"}),
        (Named, {"allow": ["unread", "cut"]}, {"handler": "Named", "allow": "['cut', 'unread']"}),
    ],
)  # fmt: skip
def test_what_was_given_is_imported_or_asked_for(
    handler: Any, how: dict[str, Any], written: dict[str, str]
) -> None:
    with pytest.raises(HandlerFault) as caught:
        fuzz_handler(handler, **how)
    test = caught.value.test
    assert arguments_of(test) == written
    for role in ("handler", "options", "check"):
        assert (f"\n{role} = ...  # " in test) == (written.get(role) == role)


# --- what is not taken ----------------------------------------------------------------------------


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="has no hook: none of on_connect, on_secure"):
        check_handler(object(), "NOOP")
    with pytest.raises(ValueError, match="nothing is called 'cuts' in allow; there are raises, nonsense"):
        fuzz_handler(Nothing, allow=["cuts"])


def test_the_page_names_all_faults() -> None:
    page = (DOCS / "fuzzing.md").read_text("utf-8")
    table = page.partition("## What counts as a fault")[2].partition("What is meant that way")[0]
    assert re.findall(r"(?m)^\| `(\w+)` \|", table) == list(FAULTS)


def test_the_page_names_all_options_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    options = set(re.findall(r"--\w+", capsys.readouterr().out)) - {"--help"}
    page = (DOCS / "fuzzing.md").read_text("utf-8")
    assert set(re.findall(r"`(--\w+)", page.partition("| of the command |")[2])) == options


# --- the command ----------------------------------------------------------------------------------

MODULE: Final = """
class Right:
    async def on_data(self, stream, session):
        print(await stream.read())

class Wrong:
    def on_mail_from(self, address, session):
        print("asked")
        assert address.local
    def on_vrfy(self, argument, session):
        assert False

class Hopeless:
    def on_helo(self, *_):
        assert False

class Exits:
    async def on_mail_from(self, address, session):
        raise GeneratorExit

nothing = object()
"""


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    (tmp_path / "hooks_of_mine.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    yield lambda *arguments: main([f"hooks_of_mine:{arguments[0]}", *arguments[1:]])
    sys.modules.pop("hooks_of_mine", None)


def test_the_command_says_that_nothing_was_found(
    in_folder: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert in_folder("Right", "--examples", "20", "--login", "ann", "secret", "--mailbox", "b@x.test") == 0
    assert capsys.readouterr() == ("", "no faults found\n")


def test_the_command_finds_with_one_session_what_fails_in_every_one(
    in_folder: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert in_folder("Hopeless", "--examples", "1") == 1
    found = capsys.readouterr()
    assert found.err == "raises: on_helo raised AssertionError\n1 fault found\n"
    assert "\ndef test_on_helo_raises() -> None:\n    check_handler(\n        Hopeless,\n" in found.out


def test_the_command_finds_a_hook_that_ends_in_generator_exit(
    in_folder: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert in_folder("Exits", "--examples", "20") == 1
    assert capsys.readouterr().err == "raises: on_mail_from raised GeneratorExit\n1 fault found\n"


def test_the_command_writes_a_line_for_people_and_a_test_for_each_fault(
    in_folder: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert in_folder("Wrong", "--seconds", "60") == 1
    assert logging.getLogger("smtpproto").isEnabledFor(logging.ERROR)
    found = capsys.readouterr()
    assert sorted(found.err.splitlines()) == [
        "2 faults found",
        "raises: on_mail_from raised AssertionError",
        "raises: on_vrfy raised AssertionError",
    ]
    assert "\n\n\ndef " in found.out
    assert "\n\n\n\n" not in found.out, "two blank lines between tests"
    (tmp_path / "test_found.py").write_text(found.out)
    done = pytest_in(tmp_path, "test_found.py")
    assert done.returncode == 1
    assert "2 failed" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["Missing"], "cannot be had: module 'hooks_of_mine' has no attribute 'Missing'"),
        (["nothing"], "has no hook: none of on_connect"),
        (["Right", "--check", "no_such_module:check"], "cannot be had: No module named 'no_such_module'"),
        (["Right", "--options", ":x"], "cannot be had: Empty module name"),
        (["Right", "--allow", "everything"], "invalid choice: 'everything'"),
    ],
)
def test_the_command_says_in_one_line_what_it_cannot_take(
    arguments: list[str], told: str, in_folder: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        in_folder(*arguments)
    assert ended.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("python -m smtpproto.testing: ")
    assert told in line
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def hook(:\n", "'broken:Handler' cannot be had: SyntaxError: invalid syntax (broken.py, line 1)\n"),
        ("raise OSError('two\\nlines')\n", "'broken:Handler' cannot be had: OSError: two lines\n"),
    ],
)
def test_a_module_that_cannot_be_imported_is_told_in_one_line(
    text: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.py").write_text(text, "utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(SystemExit, match="2"):
        main(["broken:Handler"])
    assert capsys.readouterr().err.endswith(told)


# --- the tutorial ---------------------------------------------------------------------------------


def pytest_in(folder: Path, *files: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files],
        cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip


def test_the_command_is_the_module(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "nowhere:to_be_found"])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(main.__code__.co_filename, run_name="__main__")
    assert "cannot be had" in capsys.readouterr().err


@pytest.mark.timeout(300)
def test_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    """Files are written, commands are typed in, and what a page shows of their output comes."""
    said = ""
    for block in blocks_of(DOCS / "fuzzing.md"):
        name = re.match(r"# (\w+\.py)\n", block.text)
        if name is not None:
            (tmp_path / name[1]).write_text(block.text)
        elif block.text.startswith("$ "):
            said = run(block, tmp_path)
        elif block.kind == "{code-block} python":
            assert block.text in said


def run(block: Block, folder: Path) -> str:
    """Type a command in; all that it wrote, files too."""
    command, *shown = block.text.splitlines()
    program = command[2:].replace("python ", f"{sys.executable} ", 1)
    done = subprocess.run(
        ["bash", "-c", f"{program} 2>&1" if ">" not in program else program],
        cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    told = (done.stdout + done.stderr).splitlines()
    if "..." not in shown:  # which fault is found first is nobody's business
        shown, told = sorted(shown), sorted(told)
    assert_shown(shown, told)
    found = folder / "test_found.py"
    return found.read_text() if found.exists() else ""
