# The store, on real file systems with real failures: disks that are full, descriptors that cannot
# be synced, a libc whose fsync fails, a process that is killed.

from __future__ import annotations

import errno
import hashlib
import os
import re
import resource
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from smtpproto import Reject, Session
from smtpproto.testing import make_session
from smtpproto_server._delivery import IN_MEMORY, Incoming
from smtpproto_server._maildir import STALE_AFTER, Maildir
from smtpproto_server._stream import StreamAborted

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

PATIENCE: Final = 60.0  # seconds
NOW: Final = 1_700_000_000.25
BODY: Final = b"Subject: hi\r\n\r\nhello\x00\xff\r\n"
LARGE: Final = BODY.ljust(IN_MEMORY, b"x")  # has a file before its end has come


class Message:
    """A message as it comes, with what a stream says of it."""

    def __init__(
        self, chunks: Iterable[bytes] = (BODY,), *, refusal: Reject | None = None, complete: bool = True
    ) -> None:
        self.chunks: Iterable[bytes] = chunks
        self.refusal: Reject | None = refusal
        self.complete: bool = complete
        self.given_up: bool = False

    def claim(self) -> bool:
        return not self.given_up

    def __iter__(self) -> Iterator[bytes]:
        yield from self.chunks


def then(*chunks: bytes, happens: Callable[[], object], more: bytes = b"more") -> Iterator[bytes]:
    """Chunks, then a misfortune, then one chunk more."""
    yield from chunks
    happens()
    yield more


def session(*recipients: str, lmtp: bool = False) -> Session:
    return make_session(
        "a@example.com",
        recipients or ("b@example.org",),
        remote_address="192.0.2.1",
        remote_port=4711,
        lmtp=lmtp,
        opening_command="LHLO" if lmtp else "EHLO",
        host_name_appears_as="mx.example",
    )


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Maildir]:
    with Maildir(tmp_path / "box", trace=False, name="here.example", clock=lambda: NOW) as made:
        yield made


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def open_descriptors() -> int:
    return len(names(Path("/proc/self/fd")))


def files(box: Maildir, folder: str) -> list[str]:
    return names(box.path / folder)


def settle(box: Maildir) -> None:
    """Let the store's thread do what it was handed."""
    box._writer.worker.submit(int).result(PATIENCE)


def is_empty(box: Maildir) -> bool:
    settle(box)
    return not files(box, "tmp") and not files(box, "new")


def only_message(box: Maildir) -> bytes:
    (name,) = files(box, "new")
    return (box.path / "new" / name).read_bytes()


def descriptor_of(path: Path) -> int:
    """The descriptor by which this process has the file or directory open."""
    for entry in Path("/proc/self/fd").iterdir():
        try:
            if entry.readlink() == path:
                return int(entry.name)
        except FileNotFoundError:  # the one by which the entries are listed
            continue
    raise AssertionError(f"{path} is not open")


def put_in_place_of(path: Path, other: str, flags: int) -> None:
    """Let the descriptor that is open on `path` lead to `other` instead."""
    stand_in = os.open(other, flags)
    os.dup2(stand_in, descriptor_of(path), inheritable=False)
    os.close(stand_in)


def message_in_tmp(box: Maildir) -> Path:
    (name,) = files(box, "tmp")
    return box.path / "tmp" / name


def stored(message: Incoming) -> None:
    storing = message.commit()
    assert storing is not None
    storing.result(PATIENCE)


@contextmanager
def held_up(box: Maildir) -> Generator[None]:
    """Let messages wait for the store's thread meanwhile."""
    gate = threading.Event()
    box._writer.worker.put(gate.wait)
    try:
        yield
    finally:
        gate.set()


# What is stored


def test_a_message_is_stored_octet_for_octet(box: Maildir) -> None:
    reply = box.on_data(Message([BODY[:7], b"", BODY[7:]]), session())
    assert only_message(box) == BODY
    assert reply == f"OK: queued as {files(box, 'new')[0]}"
    assert files(box, "tmp") == files(box, "cur") == []


def test_an_empty_message_is_a_message(box: Maildir) -> None:
    box.on_data(Message([]), session())
    assert only_message(box) == b""


def test_trace_lines_stand_before_the_message(box: Maildir) -> None:
    box.trace = True
    box.on_data(Message(), session())
    head, _, message = only_message(box).partition(b"+0000\r\n")
    assert message == BODY
    assert head.startswith(
        b"Return-Path: <a@example.com>\r\nDelivered-To: b@example.org\r\nReceived: from mx.example "
    )
    assert b" by here.example with ESMTP" in head
    assert head.endswith(b"Tue, 14 Nov 2023 22:13:20 ")


def test_trace_lines_are_written_unless_switched_off(tmp_path: Path) -> None:
    with Maildir(tmp_path / "box") as box:
        box.on_data(Message(), session())
        assert only_message(box).startswith(b"Return-Path: ")


def test_lmtp_stores_one_copy_for_all_recipients(box: Maildir) -> None:
    box.trace = True
    reply = box.on_data(Message(), session("b@x.org", "c@x.org", "b@x.org", lmtp=True))
    assert isinstance(reply, str)
    stored = only_message(box)
    assert re.findall(rb"Delivered-To: (.*)\r\n", stored) == [b"b@x.org", b"c@x.org", b"b@x.org"]
    assert b" with LMTP\r\n\tid 0123456789abcdef-1; " in stored


def test_nothing_is_in_new_before_commit(box: Maildir) -> None:
    seen: list[list[str]] = []
    box.on_data(Message(then(LARGE, happens=lambda: seen.append(files(box, "new")))), session())
    assert seen == [[]]
    assert only_message(box) == LARGE + b"more"


def test_names_follow_the_maildir_custom(box: Maildir) -> None:
    with box.delivery() as delivery:
        delivery.write(BODY)
        path = delivery.commit()
    assert re.fullmatch(rf"1700000000\.M250000P{os.getpid()}Q[0-9]+\.here\.example,S={len(BODY)}", path.name)
    assert path == box.path / "new" / path.name
    assert path.read_bytes() == BODY
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("a/b:c", r"a\057b\072c"),
        ("a,S=1 \x00", r"a\054S\0751\040\000"),
        ("ü", r"\303\274"),
        ("\ud800", r"\077"),
        ("x" * 300, "x" * 128),
    ],
)
def test_the_host_in_a_name_is_escaped(tmp_path: Path, name: str, written: str) -> None:
    with Maildir(tmp_path / "box", name=name) as box:
        box.on_data(Message(), session())
        assert files(box, "new")[0].partition("Q")[2].partition(".")[2].rpartition(",")[0] == written


def test_without_a_name_the_host_name_is_used(tmp_path: Path) -> None:
    with Maildir(tmp_path / "box") as box:
        assert box.name == os.uname().nodename


def test_names_differ_although_the_clock_stands_still(tmp_path: Path, box: Maildir) -> None:
    with Maildir(tmp_path / "box", trace=False, name="here.example", clock=lambda: NOW) as other:
        for each in (box, other, box, other):
            each.on_data(Message(), session())
    assert len(files(box, "new")) == 4


def test_a_name_that_is_taken_is_not_used(box: Maildir) -> None:
    def name_after(name: str, by: int) -> str:
        return re.sub(r"Q([0-9]+)", lambda count: f"Q{int(count[1]) + by}", name)

    with box.delivery() as first:
        taken = box.path / "tmp" / name_after(first.name, 1)
        taken.write_bytes(b"another's")
        with box.delivery() as second:
            assert second.name == name_after(first.name, 2)
    assert taken.read_bytes() == b"another's"


def test_an_older_message_is_never_replaced(box: Maildir) -> None:
    with box.delivery() as delivery:
        delivery.write(BODY)
        older = box.path / "new" / f"{delivery.name},S={len(BODY)}"
        older.write_bytes(b"older")
        with pytest.raises(FileExistsError):
            delivery.commit()
    assert only_message(box) == b"older"
    assert files(box, "tmp") == []


# The directories


def test_directories_are_made_with_all_above_them(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "box"
    Maildir(path).close()
    for folder in (path.parent, path, *path.iterdir()):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert names(path) == ["cur", "new", "tmp"]


def test_a_maildir_that_exists_keeps_its_mail(box: Maildir) -> None:
    box.on_data(Message(), session())
    with Maildir(str(box.path)) as again:
        assert only_message(again) == BODY


def test_a_relative_path_holds_when_the_process_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Maildir("box") as box:
        monkeypatch.chdir("/")
        with box.delivery() as delivery:
            assert delivery.commit().parent == tmp_path / "box" / "new"
        assert len(files(box, "new")) == 1


def test_a_file_in_the_place_of_a_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "box").write_bytes(b"")
    with pytest.raises(FileExistsError):
        Maildir(tmp_path / "box")


def test_a_directory_that_went_away_is_no_success(box: Maildir) -> None:
    (box.path / "new").rmdir()
    (box.path / "new").mkdir()
    with pytest.raises(FileNotFoundError):
        box.on_data(Message(), session())
    assert is_empty(box)


def test_close_gives_the_descriptors_back_once(tmp_path: Path) -> None:
    before = open_descriptors()
    box = Maildir(tmp_path / "box")
    assert open_descriptors() == before + 2
    box.close()
    box.close()
    assert open_descriptors() == before
    with pytest.raises(OSError, match="Bad file descriptor"):
        box.delivery()


def test_stale_files_of_tmp_are_removed_at_the_start(tmp_path: Path) -> None:
    tmp = tmp_path / "box" / "tmp"
    (tmp / "directory").mkdir(parents=True)
    (tmp / "link").symlink_to("stale")
    for name, age in (("stale", STALE_AFTER + 1), ("fresh", STALE_AFTER - 60)):
        (tmp / name).write_bytes(b"")
        os.utime(tmp / name, (NOW, NOW - age))
    os.utime(tmp / "directory", (0, 0))
    os.utime(tmp / "link", (0, 0), follow_symlinks=False)
    with Maildir(tmp_path / "box", clock=lambda: NOW):
        assert names(tmp) == ["directory", "fresh", "link"]


# What is not stored


@pytest.mark.parametrize("reason", ["connection_lost", "timeout", "shutdown", "bare_newline"])
def test_nothing_is_left_of_a_message_that_broke_off(box: Maildir, reason: str) -> None:
    def breaks_off() -> None:
        raise StreamAborted(reason)

    with pytest.raises(StreamAborted, match=reason):
        box.on_data(Message(then(LARGE, happens=breaks_off)), session())
    assert is_empty(box)


@pytest.mark.parametrize("error", [ValueError("boom"), KeyboardInterrupt()])
def test_any_exception_goes_on_and_leaves_nothing(box: Maildir, error: BaseException) -> None:
    def fails() -> None:
        raise error

    with pytest.raises(type(error)):
        box.on_data(Message(then(LARGE, happens=fails)), session())
    assert is_empty(box)


def test_a_message_that_will_be_refused_is_not_stored(box: Maildir) -> None:
    with pytest.raises(RuntimeError, match="the message will be refused"):
        box.on_data(Message(refusal=Reject(552, "5.3.4", "too big")), session())
    assert is_empty(box)


def test_a_stream_that_just_stops_is_not_a_message(box: Maildir) -> None:
    with pytest.raises(RuntimeError, match="the stream ended before the message did"):
        box.on_data(Message(complete=False), session())
    assert is_empty(box)


def test_a_delivery_that_is_left_is_aborted(box: Maildir) -> None:
    with box.delivery() as delivery:
        delivery.write(BODY)
    assert is_empty(box)


def test_abort_never_raises_and_may_be_repeated(box: Maildir) -> None:
    delivery = box.delivery()
    message_in_tmp(box).unlink()
    os.close(descriptor_of(box.path / "tmp" / f"{delivery.name} (deleted)"))
    delivery.abort()
    delivery.abort()
    assert is_empty(box)


def test_abort_after_commit_keeps_the_message(box: Maildir) -> None:
    delivery = box.delivery()
    delivery.write(BODY)
    delivery.commit()
    delivery.abort()
    assert only_message(box) == BODY


@pytest.mark.parametrize("end", ["commit", "abort"])
def test_a_delivery_that_is_over_takes_nothing_more(box: Maildir, end: str) -> None:
    delivery = box.delivery()
    getattr(delivery, end)()
    with pytest.raises(ValueError, match="the delivery is over"):
        delivery.write(BODY)
    with pytest.raises(ValueError, match="the delivery is over"):
        delivery.commit()


# Hooks that are given up


def test_a_message_whose_hook_was_given_up_is_not_stored(box: Maildir) -> None:
    message = Message()
    message.given_up = True
    with pytest.raises(RuntimeError, match="the hook was given up"):
        box.on_data(message, session())
    assert is_empty(box)


def test_a_message_is_removed_if_its_hook_was_given_up_while_it_was_stored(box: Maildir) -> None:
    stream = Message()
    with box.incoming(stream, session()) as message:
        message.write(BODY)
        stored(message)
        assert only_message(box) == BODY
        stream.given_up = True
        with pytest.raises(RuntimeError, match="the hook was given up"):
            message.stored()
    assert is_empty(box)


def test_a_hook_that_is_cancelled_while_its_message_waits_stores_nothing(box: Maildir) -> None:
    with held_up(box):
        with box.incoming(Message(), session()) as first:
            first.write(BODY)
            first.commit()
        second = box.incoming(Message(), session())
        second.write(BODY)
        storing = second.commit()
        assert storing is not None
        assert storing.cancel()  # as asyncio.wrap_future does
        second.abort()
    assert is_empty(box)


def test_a_hook_that_is_cancelled_before_the_reply_stores_nothing(box: Maildir) -> None:
    with box.incoming(Message(), session()) as message:
        message.write(BODY)
        stored(message)
    assert is_empty(box)


def test_a_message_that_is_not_stored_has_no_reply(box: Maildir) -> None:
    with box.incoming(Message(), session()) as message, pytest.raises(ValueError, match="not stored"):
        message.stored()


def test_a_message_waits_in_memory_up_to_a_mark(box: Maildir) -> None:
    with box.incoming(Message(), session()) as message:
        assert message.write(b"x" * (IN_MEMORY - 1)) is None
        assert files(box, "tmp") == []
        writing = message.write(b"x")
        assert writing is not None
        writing.result(PATIENCE)
        assert message_in_tmp(box).stat().st_size == IN_MEMORY
        assert message.write(b"y") is None
        stored(message)
        message.stored()
    assert only_message(box) == b"x" * IN_MEMORY + b"y"


# Being told


def test_on_stored_is_told_of_each_message(box: Maildir) -> None:
    told: list[tuple[Session, bytes, int]] = []
    box._on_stored = lambda session, path, size: told.append((session, path.read_bytes(), size))
    made = session()
    box.on_data(Message(), made)
    with pytest.raises(RuntimeError):
        box.on_data(Message(refusal=Reject(552)), made)
    assert told == [(made, BODY, len(BODY))]


def test_on_stored_cannot_undo_what_is_stored(box: Maildir, caplog: pytest.LogCaptureFixture) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.ENOSPC, "the log is full")

    box._on_stored = fails
    reply = box.on_data(Message(), session())
    assert reply == f"OK: queued as {files(box, 'new')[0]}"
    assert "the log is full" in caplog.text


# Disks


def test_a_full_disk_is_a_452_and_leaves_nothing(box: Maildir) -> None:
    def fills_up() -> None:
        put_in_place_of(message_in_tmp(box), "/dev/full", os.O_WRONLY)

    with pytest.raises(Reject) as caught:
        box.on_data(Message(then(LARGE, happens=fills_up)), session())
    assert caught.value == Reject(452, "4.3.1", "Error: insufficient system storage")
    assert isinstance(caught.value.__cause__, OSError)
    assert is_empty(box)


def test_a_hook_that_passes_over_a_failed_write_still_stores_nothing(box: Maildir) -> None:
    delivery = box.delivery()
    put_in_place_of(message_in_tmp(box), "/dev/full", os.O_WRONLY)
    with pytest.raises(Reject):
        delivery.write(BODY)
    with pytest.raises(ValueError, match="the delivery is over"):
        delivery.commit()
    assert is_empty(box)


def test_a_file_that_cannot_be_synced_is_no_success(box: Maildir) -> None:
    def cannot_be_synced() -> None:
        put_in_place_of(message_in_tmp(box), "/dev/null", os.O_WRONLY)

    with pytest.raises(OSError, match="Invalid argument"):
        box.on_data(Message(then(LARGE, happens=cannot_be_synced)), session())
    assert is_empty(box)


def test_a_directory_that_cannot_be_synced_is_no_success(box: Maildir) -> None:
    new = box.path / "new"
    put_in_place_of(new, str(new), os.O_PATH | os.O_DIRECTORY)  # renames, but does not sync
    with pytest.raises(OSError, match="Bad file descriptor"):
        box.on_data(Message(), session())
    assert is_empty(box)


def test_every_other_fault_stays_what_it_is(box: Maildir) -> None:
    limit, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (100_000, hard)
    )  # the second write is cut short, the third fails
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            box.on_data(Message([b"x" * 60_000] * 3), session())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    assert caught.value.errno == errno.EFBIG
    assert is_empty(box)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB and ten files, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=10", "none", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.real("mount")
def test_a_small_disk_fills_up_and_takes_mail_again_when_there_is_room(small_disk: Path) -> None:
    with Maildir(small_disk / "box", trace=False) as box:
        box.on_data(Message([b"x" * 30_000]), session())
        for _ in range(3):
            with pytest.raises(Reject) as caught:
                box.on_data(Message([b"x" * 30_000] * 2), session())
            assert caught.value.code == 452
            settle(box)
            assert files(box, "tmp") == []
        box.on_data(Message(), session())
        assert sorted(path.stat().st_size for path in (box.path / "new").iterdir()) == [len(BODY), 30_000]


@pytest.mark.real("mount")
def test_a_disk_that_has_no_room_for_another_file_is_a_452_too(small_disk: Path) -> None:
    def fill(box: Maildir) -> None:
        for _ in range(10):
            box.on_data(Message(), session())

    with Maildir(small_disk / "box", trace=False) as box:
        with pytest.raises(Reject) as caught:
            fill(box)
        assert caught.value.code == 452
        settle(box)
        assert files(box, "tmp") == []
        assert len(files(box, "new")) in range(1, 10)


# Many at once


def test_a_directory_that_cannot_be_synced_is_no_success_for_any_of_a_batch(box: Maildir) -> None:
    new = box.path / "new"
    put_in_place_of(new, str(new), os.O_PATH | os.O_DIRECTORY)
    messages = [box.incoming(Message(), session()) for _ in range(5)]
    with held_up(box):
        storing = [message.commit() for message in messages]
    for each in storing:
        assert each is not None
        with pytest.raises(OSError, match="Bad file descriptor"):
            each.result(PATIENCE)
    assert is_empty(box)


def test_a_message_that_cannot_be_stored_spoils_no_other_of_its_batch(box: Maildir) -> None:
    messages = [box.incoming(Message(), session()) for _ in range(3)]
    bad = messages[1]
    writing = bad.write(LARGE)
    assert writing is not None
    writing.result(PATIENCE)
    put_in_place_of(message_in_tmp(box), "/dev/null", os.O_WRONLY)
    with held_up(box):
        storing = [message.commit() for message in messages]
    for message, each in zip(messages, storing, strict=True):
        assert each is not None
        if message is bad:
            with pytest.raises(OSError, match="Invalid argument"):
                each.result(PATIENCE)
        else:
            each.result(PATIENCE)
            message.stored()
    assert len(files(box, "new")) == 2
    assert files(box, "tmp") == []


def test_many_threads_deliver_into_one_store(box: Maildir) -> None:
    replies: list[str | None] = []

    def deliver(number: int) -> None:
        replies.extend(box.on_data(Message([b"%d" % number] * 50), session()) for _ in range(10))

    threads = [threading.Thread(target=deliver, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(str(reply) for reply in replies) == [f"OK: queued as {name}" for name in files(box, "new")]
    assert sorted((box.path / "new" / name).read_bytes() for name in files(box, "new")) == sorted(
        b"%d" % number * 50 for number in range(8) for _ in range(10)
    )


# Processes: the order of the system calls, failing ones, and kill -9

# Writes down, in one file, what the store asks of the system, and lets an fsync fail on request.
SHIM: Final = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static void note(const char *call, int descriptor) {
    char link[64], path[PATH_MAX + 1], line[PATH_MAX + 64];
    ssize_t (*real)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, PATH_MAX);
    path[length < 0 ? 0 : length] = 0;
    if (strstr(path, "/box/") == NULL) return;
    int log = open(getenv("CALLS"), O_WRONLY | O_CREAT | O_APPEND, 0600);
    int size = snprintf(line, sizeof line, "%s %s\n", call, strstr(path, "/box/") + 5);
    if (real(log, line, size) != size) abort();
    close(log);
}

ssize_t write(int descriptor, const void *data, size_t size) {
    ssize_t (*real)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
    note("write", descriptor);
    return real(descriptor, data, size);
}

int fsync(int descriptor) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
    char link[64], path[PATH_MAX + 1];
    const char *failing = getenv("FAILING");
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, PATH_MAX);
    path[length < 0 ? 0 : length] = 0;
    note("fsync", descriptor);
    if (failing && strstr(path, failing)) {
        errno = EIO;
        return -1;
    }
    return real(descriptor);
}

int renameat(int from, const char *old, int to, const char *new) {
    int (*real)(int, const char *, int, const char *) = dlsym(RTLD_NEXT, "renameat");
    note("rename", to);
    return real(from, old, to, new);
}
"""

# One delivery; what came of it is written down behind the calls.
DELIVER_ONCE: Final = """
import os, sys
from smtpproto_server._maildir import Maildir

class Message(list):
    refusal, complete, given_up = None, True, False
    def claim(self): return True

box = Maildir(sys.argv[1], trace=False)
try:
    outcome = box.on_data(Message([b"one", b"two"]), None)
except Exception as error:
    outcome = repr(error)
with open(os.environ["CALLS"], "a") as calls:
    print(outcome, file=calls)
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shim")
    (folder / "shim.c").write_text(SHIM)
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O", "-o", folder / "shim.so", folder / "shim.c", "-ldl"], check=True
    )
    return folder / "shim.so"


def calls_of_one_delivery(shim: Path, folder: Path, **environment: str) -> list[str]:
    return calls_of(DELIVER_ONCE, shim, folder, **environment)


def calls_of(program: str, shim: Path, folder: Path, **environment: str) -> list[str]:
    calls = folder / "calls"
    subprocess.run(
        [sys.executable, "-c", program, folder / "box"],
        env={**os.environ, "LD_PRELOAD": str(shim), "CALLS": str(calls), **environment},
        check=True,
    )
    return calls.read_text().splitlines()


@pytest.mark.real("gcc")
def test_success_is_told_after_file_and_directory_are_synced(shim: Path, tmp_path: Path) -> None:
    written, synced, renamed, told, reply = calls_of_one_delivery(shim, tmp_path)
    assert written.startswith("write tmp/")
    assert synced == written.replace("write", "fsync")
    assert renamed == "rename new"
    assert told == "fsync new"
    assert reply.startswith("OK: queued as ")


# Twenty hooks whose messages wait together.
DELIVER_TOGETHER: Final = """
import sys, threading
from smtpproto_server._maildir import Maildir

class Message(list):
    refusal, complete, given_up = None, True, False
    def claim(self): return True

box = Maildir(sys.argv[1], trace=False)
gate = threading.Event()
box._writer.worker.put(gate.wait)
messages = [box.incoming(Message(), None) for _ in range(20)]
storing = [message.commit() for message in messages]
gate.set()
for each in storing:
    each.result()
"""


@pytest.mark.real("gcc")
def test_messages_that_wait_together_share_one_sync_of_the_directory(shim: Path, tmp_path: Path) -> None:
    calls = calls_of(DELIVER_TOGETHER, shim, tmp_path)
    files_synced, renamed, synced = calls[:20], calls[20:40], calls[40:]
    assert {call.rpartition("/")[0] for call in files_synced} == {"fsync tmp"}
    assert renamed == ["rename new"] * 20
    assert synced == ["fsync new"]


@pytest.mark.real("gcc")
@pytest.mark.parametrize(
    ("failing", "calls"),
    [("box/tmp/", ["write", "fsync"]), ("box/new", ["write", "fsync", "rename", "fsync"])],
)
def test_an_fsync_that_fails_is_no_success(
    shim: Path, tmp_path: Path, failing: str, calls: list[str]
) -> None:
    *seen, outcome = calls_of_one_delivery(shim, tmp_path, FAILING=failing)
    assert [call.split()[0] for call in seen] == calls
    assert outcome == "OSError(5, 'Input/output error')"
    assert names(tmp_path / "box" / "new") == names(tmp_path / "box" / "tmp") == []


# Processes that deliver for ever, each killed at some moment of its short life. A line is written
# to standard output for each message that was acknowledged, in one write, which a kill cannot cut.
DELIVER_AND_DIE: Final = """
import hashlib, os, random, signal, sys, time
from smtpproto_server._maildir import Maildir

class Message(list):
    refusal, complete, given_up = None, True, False
    def claim(self): return True

def deliver_for_ever():
    box = Maildir(sys.argv[1], trace=False)
    while True:
        body = random.randbytes(random.choice([0, 10, 5000, 300000]))
        head = hashlib.sha256(body).hexdigest().encode()
        chunks = [body[at : at + 65536] for at in range(0, len(body), 65536)]
        os.write(1, box.on_data(Message([head, *chunks]), None).encode() + b"\\n")

for life in range(int(sys.argv[2])):
    victim = os.fork()
    if victim == 0:
        deliver_for_ever()
    time.sleep(random.uniform(0.001, 0.06))  # the moment is what is tried out
    os.kill(victim, signal.SIGKILL)
    os.waitpid(victim, 0)
"""


def test_what_was_acknowledged_survives_kill_9_and_nothing_in_new_is_partial(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", DELIVER_AND_DIE, tmp_path / "box", "50"],
        check=True,
        capture_output=True,
        text=True,
    )
    acknowledged = [line.removeprefix("OK: queued as ") for line in run.stdout.splitlines()]
    stored = {path.name: path.read_bytes() for path in (tmp_path / "box" / "new").iterdir()}
    assert len(acknowledged) > 50
    assert set(acknowledged) <= set(stored)
    assert len(stored) - len(acknowledged) <= 50
    for name, content in stored.items():
        assert name.endswith(f",S={len(content)}")
        assert content[:64].decode() == hashlib.sha256(content[64:]).hexdigest()
