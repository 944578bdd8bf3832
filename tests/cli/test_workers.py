# Several processes: who serves, what happens when one dies, and how they end.

from __future__ import annotations

import os
import re
import shlex
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Final

import pytest

from cli.serving import COMMAND, ENVIRONMENT, PATIENCE
from smtpproto_cli._runtimes import RUNTIMES
from smtpproto_kit import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from cli.serving import Running, Serve

MESSAGE: Final = b"Subject: hi\r\n\r\nhello\r\n"
SENDER: Final = "a@example.com"
RECIPIENT: Final = "b@example.com"
TRIES: Final = 64  # connections; that the kernel gives them all to one of two workers is no chance
GIVING_UP: Final = 5  # workers in a row


def client(server: Running) -> smtplib.SMTP:
    return smtplib.SMTP(server.host, server.port, local_hostname="client.test", timeout=PATIENCE)


def refuses(server: Running) -> bool:
    """Whether nobody listens any more; what meets a socket that is just being closed is reset."""
    try:
        connection(server).close()
    except ConnectionResetError:
        return False
    except ConnectionRefusedError:
        return True
    return False


def connection(server: Running) -> socket.socket:
    return socket.create_connection((server.host, server.port), PATIENCE)


def in_transaction(server: Running) -> smtplib.SMTP:
    smtp = client(server)
    smtp.ehlo()
    assert smtp.mail(SENDER)[0] == 250
    return smtp


def complete(smtp: smtplib.SMTP) -> None:
    """Send the message, and be told that the server ends."""
    assert smtp.rcpt(RECIPIENT)[0] == 250
    assert smtp.data(MESSAGE)[0] == 250
    assert smtp.getreply()[0] == 421
    smtp.close()


def stored_by(server: Running) -> set[int]:
    """The processes that have stored messages: a file's name says it."""
    names = [path.name for path in (server.directory / "mail" / "new").iterdir()]
    return {int(found[1]) for name in names if (found := re.search(r"P(\d+)Q", name))}


def served_by(server: Running, processes: Iterable[int]) -> bool:
    """Whether each of these processes serves."""
    wanted = set(processes)
    for _ in range(TRIES):
        if wanted <= stored_by(server):
            return True
        with client(server) as smtp:
            assert smtp.sendmail(SENDER, [RECIPIENT], MESSAGE) == {}
    return False


def gone(processes: Iterable[int]) -> bool:
    return not any(map(alive, processes))


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def another(server: Running, before: set[int]) -> int:
    """The process that takes the place of one of those before."""
    wait_until(lambda: len(server.workers() - before) == 1, PATIENCE)
    [process] = server.workers() - before
    return process


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_all_serve_and_one_that_is_killed_is_replaced_and_a_signal_drains_all(
    serve: Serve, runtime: str
) -> None:
    server = serve("--runtime", runtime, "--workers", "2", "--no-trace")
    workers = server.workers()
    assert len(workers) == 2
    assert served_by(server, workers)
    victim = min(workers)
    os.kill(victim, signal.SIGKILL)
    assert server.err.until(f"process {victim}").endswith("has ended: signal 9")
    new = another(server, workers)
    assert served_by(server, [new])
    smtp = in_transaction(server)
    server.send(signal.SIGTERM)
    assert re.match(
        r"closing: worker [12]: \d connected; a second signal ends it at once$",
        server.err.until("^closing: "),
    )
    wait_until(lambda: refuses(server), PATIENCE)
    complete(smtp)
    assert server.status() == 0
    assert gone({*workers, new})
    assert set(server.new_mail()) == {MESSAGE}
    assert [line for line in server.err.rest() if "closing: " not in line] == []


def test_it_says_once_where_it_listens_and_warns_once(serve: Serve) -> None:
    server = serve("--workers", "3", "--discard")
    log = server.stop()
    assert [re.sub(r"^\S+ \S+ ", "", line)[:22] for line in log] == ["WARNING no TLS option "]
    assert server.out.rest() == []


@pytest.mark.skipif("linux" not in os.uname().sysname.lower(), reason="elsewhere all accept from one socket")
def test_nothing_that_waited_for_workers_that_died_is_lost(serve: Serve) -> None:
    server = serve("--workers", "2", "--discard")
    workers = server.workers()
    for each in workers:
        os.kill(each, signal.SIGSTOP)
    waiting = [connection(server) for _ in range(16)]
    for each in workers:
        os.kill(each, signal.SIGKILL)
    for sock in waiting:
        with sock:
            assert sock.recv(1000).startswith(b"220 ")
    assert not workers & server.workers()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_each_of_them_drains_like_one_to_the_first(serve: Serve, number: signal.Signals) -> None:
    # As a service manager does that knows them all, and a terminal.
    server = serve("--workers", "2", "--no-trace")
    workers = server.workers()
    smtp = in_transaction(server)
    for process in (*workers, server.process.pid):
        os.kill(process, number)
    server.err.until("^closing: ")
    complete(smtp)
    assert server.status() == 0
    assert gone(workers)
    assert server.new_mail() == [MESSAGE]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_ends_all_at_once(serve: Serve, number: signal.Signals, status: int) -> None:
    server = serve("--workers", "2")
    workers = server.workers()
    smtp = in_transaction(server)
    server.send(number)
    server.err.until("^closing: ")
    server.send(number)
    assert server.status() == status
    wait_until(lambda: gone(workers), PATIENCE)
    smtp.close()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_when_the_supervisor_is_killed_the_workers_end_and_what_is_open_is_stored(
    serve: Serve, runtime: str
) -> None:
    server = serve("--runtime", runtime, "--workers", "2", "--no-trace")
    workers = server.workers()
    smtp = in_transaction(server)
    server.process.kill()
    complete(smtp)
    wait_until(lambda: gone(workers), PATIENCE)
    assert server.new_mail() == [MESSAGE]


def test_when_the_supervisor_is_killed_no_worker_waits_for_another(serve: Serve) -> None:
    server = serve("--workers", "2", "--discard")
    busy = [in_transaction(server) for _ in range(16)]
    idle = [client(server) for _ in range(16)]
    server.process.kill()
    for smtp in idle:
        assert smtp.getreply()[0] == 421
    for smtp in (*busy, *idle):
        smtp.close()


def test_workers_that_are_ended_by_hand_are_replaced_before_their_clients_are_done(serve: Serve) -> None:
    server = serve("--workers", "2", "--no-trace", "-v")
    workers = server.workers()
    smtp = in_transaction(server)
    for each in workers:
        os.kill(each, signal.SIGTERM)
    wait_until(lambda: len(server.workers() - workers) == 2, PATIENCE)
    assert served_by(server, server.workers() - workers)
    complete(smtp)
    wait_until(lambda: gone(workers), PATIENCE)
    assert [line for line in server.stop() if "WARNING worker" in line] == []


def test_workers_that_end_at_once_again_and_again_end_everything(serve: Serve) -> None:
    server = serve("--workers", "2", "--discard")
    [victim, other] = server.workers()
    seen = {victim, other}
    for last in [*[False] * (GIVING_UP - 1), True]:
        os.kill(victim, signal.SIGKILL)
        if not last:
            victim = another(server, seen)
            seen.add(victim)
    said = r"CRITICAL worker [12] ended 5 times soon after its start; giving up$"
    assert server.err.until(said)
    assert server.status() == 1
    assert gone(seen)


def test_the_log_says_which_worker(serve: Serve) -> None:
    server = serve("--workers", "2", "--discard", "-v")
    with client(server) as smtp:
        smtp.sendmail(SENDER, [RECIPIENT], MESSAGE)
    assert re.search(r" DEBUG worker [12]: \S+: connection from \[", server.err.until("connection from"))
    assert not [line for line in server.stop() if re.search("worker.*worker", line)]


def test_a_printed_message_stands_alone_whichever_worker_prints(serve: Serve) -> None:
    server = serve("--workers", "2", "--print")

    def send(letter: str) -> None:
        with client(server) as smtp:
            smtp.sendmail(SENDER, [RECIPIENT], (letter * 70 + "\r\n") * 4000)

    threads = [threading.Thread(target=send, args=(letter,)) for letter in "abcdefgh"]
    for each in threads:
        each.start()
    for each in threads:
        each.join(PATIENCE)
    server.stop()
    lines = server.out.rest()
    assert [line[:3] for line in lines[::4001]] == ["id="] * 8
    for begin in range(0, len(lines), 4001):
        assert len(set(lines[begin + 1 : begin + 4001])) == 1


def test_all_present_the_same_certificate_made_for_the_occasion(serve: Serve) -> None:
    server = serve("--workers", "2", "--discard", "--implicit-tls")
    seen: set[bytes | None] = set()
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for _ in range(16):
        with context.wrap_socket(connection(server)) as tls:
            seen.add(tls.getpeercert(binary_form=True))
    assert len(seen) == 1


def test_all_accept_from_a_unix_socket_whose_file_goes_with_them(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "lmtp"
    server = serve("--unix", path, "--lmtp", "--workers", "2", "--no-trace")
    assert server.place == str(path)
    workers = server.workers()
    for each in workers:
        os.kill(each, signal.SIGSTOP)  # so that it is the other one's
        with smtplib.LMTP(str(path), timeout=PATIENCE) as lmtp:
            assert lmtp.sendmail(SENDER, RECIPIENT, MESSAGE) == {}
        os.kill(each, signal.SIGCONT)
    assert stored_by(server) == workers
    server.stop()
    assert not path.exists()


def test_a_crash_while_draining_is_told(serve: Serve) -> None:
    server = serve("--workers", "2", "--discard")
    workers = server.workers()
    smtp = in_transaction(server)
    server.send(signal.SIGTERM)
    server.err.until("^closing: ")
    wait_until(lambda: len(server.workers()) == 1, PATIENCE)
    [last] = server.workers()
    assert last in workers
    os.kill(last, signal.SIGKILL)
    assert server.err.until(f"process {last}").endswith("has ended: signal 9")
    assert server.status() == 0
    smtp.close()


def test_it_can_be_started_by_what_does_not_wait_for_its_children(tmp_path: Path) -> None:
    ignoring = "signal.signal(signal.SIGCHLD, signal.SIG_IGN)"
    program = f"import os, signal, sys; {ignoring}; os.execv(sys.argv[1], sys.argv[1:])"
    line = [sys.executable, "-c", program, *COMMAND, "serve", "--workers", "2", "--port", "0", "--discard"]
    with subprocess.Popen(
        line, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("listening on ")
        server.send_signal(signal.SIGTERM)
        assert "Traceback" not in server.communicate(timeout=PATIENCE)[1]
    assert server.returncode == 0


def test_more_workers_than_descriptors_is_one_line(tmp_path: Path) -> None:
    command = [
        *COMMAND,
        "serve",
        "--port",
        "0",
        "--workers",
        "100",
        "--discard",
        "--set",
        "tls_upstream=true",
    ]
    line = f"ulimit -n 64; exec {shlex.join(command)}"
    done = subprocess.run(
        ["sh", "-c", line], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip
    said = "smtpproto: --workers: cannot listen 100 times: Too many open files; choose fewer"
    assert (done.returncode, done.stdout, done.stderr.splitlines()[:1]) == (2, "", [said])


def test_two_servers_do_not_share_a_port_by_accident(serve: Serve) -> None:
    server = serve("--workers", "2", "--discard")
    with pytest.raises(AssertionError, match="Address already in use"):
        serve("--workers", "2", "--discard", "--port", str(server.port))
