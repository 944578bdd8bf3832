# The command at work: real clients deliver, and what it stores, prints and says is looked at.

from __future__ import annotations

import contextlib
import re
import shlex
import signal
import smtplib
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

import pytest

import smtpproto
from cli.serving import COMMAND, ENVIRONMENT, PATIENCE, OnTerminal, command
from smtpproto_cli._runtimes import RUNTIMES

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from cli.serving import Running, Serve

MESSAGE: Final = b"Subject: hi\r\n\r\nhello\r\n.dotted\r\n"
SENDER: Final = "a@example.com"
RECIPIENTS: Final = ["b@example.com", "c@example.com"]


def client(server: Running) -> smtplib.SMTP:
    return smtplib.SMTP(server.host, server.port, local_hostname="client.test", timeout=PATIENCE)


@contextlib.contextmanager
def started(
    arguments: list[str], directory: Path, *, stderr: int | None = None
) -> Generator[subprocess.Popen[bytes]]:
    """A process that does not outlive the test, however that ends."""
    with subprocess.Popen(
        arguments, cwd=directory, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=stderr
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def connected(port: int) -> smtplib.SMTP:
    """A client of a server that cannot say when it listens."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE)
        except ConnectionRefusedError:
            assert time.monotonic() < deadline


def send(server: Running, message: bytes = MESSAGE, to: list[str] = RECIPIENTS) -> None:
    with client(server) as smtp:
        assert smtp.sendmail(SENDER, to, message) == {}


# --- being there ------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_message_comes_through_on_every_runtime(serve: Serve, runtime: str) -> None:
    server = serve("--runtime", runtime, "--no-trace")
    send(server)
    assert server.message_line()["size"] == str(len(MESSAGE))
    assert server.stop() is not None
    assert server.new_mail() == [MESSAGE]


def test_it_says_where_it_listens_and_on_which_port(serve: Serve) -> None:
    server = serve()
    assert re.fullmatch(r"127\.0\.0\.1:[1-9]\d*", server.place)
    send(server)


def test_the_port_asked_for_is_the_port_used(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert serve("--port", str(port)).port == port


def test_an_address_of_ipv6_stands_in_brackets(serve: Serve) -> None:
    server = serve("--host", "::1")
    assert server.place == f"[::1]:{server.port}"
    send(server)


def test_all_addresses_of_a_name_stand_on_one_line(serve: Serve) -> None:
    places = serve("--host", "localhost").place.split(", ")
    assert {re.sub(r":\d+$", "", place) for place in places} <= {"127.0.0.1", "[::1]"}


def test_a_unix_socket_takes_lmtp(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "lmtp"
    server = serve("--unix", path, "--lmtp", "--no-trace")
    assert server.place == str(path)
    with smtplib.LMTP(str(path)) as lmtp:
        assert lmtp.sendmail(SENDER, RECIPIENTS[0], MESSAGE) == {}
    assert server.new_mail() == [MESSAGE]
    server.stop()
    assert not path.exists()


def test_a_unix_socket_that_is_another_server_s_by_now_stays(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "lmtp"
    server = serve("--unix", path, "--lmtp")
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        server.stop()
        assert path.exists()


def test_lmtp_answers_for_each_recipient(serve: Serve) -> None:
    server = serve("--lmtp")
    with smtplib.LMTP(server.host, server.port, timeout=PATIENCE) as lmtp:
        assert lmtp.docmd("EHLO", "client.test")[0] == 500
        assert lmtp.sendmail(SENDER, RECIPIENTS, MESSAGE) == {}
        assert lmtp.getreply()[0] == 250  # smtplib reads one reply, whatever was agreed on
    assert server.message_line()["to"] == "<b@example.com>,<c@example.com>"


@pytest.mark.parametrize("arguments", [["--version"], ["serve", "--version"]])
def test_it_tells_its_version(arguments: list[str]) -> None:
    done = command(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"smtpproto {smtpproto.__version__}\n", "")


def test_help_names_every_flag() -> None:
    done = command("serve", "--help")
    flags = (
        "--host", "--port", "--unix", "--runtime", "--workers", "--maildir", "--print", "--discard",
        "--no-trace", "--config", "--set", "--user", "--tls-cert", "--tls-key", "--implicit-tls", "--lmtp",
        "--verbose", "--version",
    )  # fmt: skip
    assert done.returncode == 0
    assert [flag for flag in flags if flag not in done.stdout] == []


# --- what becomes of messages -----------------------------------------------------------------------


def test_a_message_stands_behind_its_trace_octet_for_octet(serve: Serve) -> None:
    body = bytes(range(128, 256)) + b"\r\n..\r\n" + b"x" * 5000 + b"\r\n"
    server = serve("--set", "name=mx.test")
    send(server, body)
    facts = server.message_line()
    [stored] = server.new_mail()
    trace = stored.removesuffix(body).decode("ascii")
    assert len(trace) + len(body) == len(stored)
    fields = re.sub(r"\r\n[ \t]+", " ", trace).split("\r\n")
    assert fields[:3] == [
        "Return-Path: <a@example.com>", "Delivered-To: b@example.com", "Delivered-To: c@example.com",
    ]  # fmt: skip
    assert re.match(r"Received: from client\.test \(.*\) by mx\.test with ESMTP id ", fields[3])
    assert f"id {facts['id']};" in fields[3]
    assert fields[4:] == [""]


def test_without_trace_a_file_is_the_message(serve: Serve) -> None:
    server = serve("--no-trace", "--maildir", "some/where")
    for number in range(3):
        send(server, b"Subject: %d\r\n\r\n.\r\n" % number)
    assert server.new_mail("some/where") == [b"Subject: %d\r\n\r\n.\r\n" % number for number in range(3)]


def test_the_line_of_a_message_tells_all_that_was_asked_for(serve: Serve) -> None:
    server = serve()
    send(server)
    facts = server.message_line()
    assert re.fullmatch(r"[0-9a-v]{16}-1", facts.pop("id"))
    stored = server.directory / facts.pop("stored")
    assert stored.parent == server.directory / "mail" / "new"
    assert stored.read_bytes().endswith(MESSAGE)
    assert facts == {
        "sender": "<a@example.com>", "to": "<b@example.com>,<c@example.com>",
        "size": str(len(MESSAGE)), "tls": "no", "user": "-",
    }  # fmt: skip


def test_each_message_of_a_connection_has_a_number(serve: Serve) -> None:
    server = serve("--discard")
    with client(server) as smtp:
        for _ in range(2):
            smtp.sendmail(SENDER, RECIPIENTS, MESSAGE)
    first, second = server.message_line()["id"], server.message_line()["id"]
    assert (first[-2:], second) == ("-1", f"{first[:-1]}2")


def test_many_recipients_do_not_fill_the_screen(serve: Serve) -> None:
    server = serve("--discard")
    send(server, to=[f"{number}@example.com" for number in range(12)])
    assert server.message_line()["to"].endswith(",<9@example.com>,+2 more")


def test_the_null_sender_is_shown_as_it_is_written(serve: Serve) -> None:
    server = serve("--discard")
    with client(server) as smtp:
        smtp.sendmail("", RECIPIENTS, MESSAGE)
    assert server.message_line()["sender"] == "<>"


def test_discard_accepts_and_keeps_nothing(serve: Serve) -> None:
    server = serve("--discard")
    send(server)
    assert server.message_line()["stored"] == "discarded"
    assert list(server.directory.iterdir()) == []


def test_print_shows_the_message_and_keeps_nothing(serve: Serve) -> None:
    server = serve("--print")
    send(server, "Subject: gr\u00fc\u00df\r\n\r\n\thi\r\n\r\n.\r\nid=x from=<>\r\n".encode())
    assert server.message_line()["stored"] == "printed"
    server.stop()
    assert server.out.rest() == ["  Subject: gr\u00fc\u00df", "  ", "  \thi", "  ", "  .", "  id=x from=<>"]
    assert list(server.directory.iterdir()) == []


def test_a_printed_message_cannot_drive_the_terminal(serve: Serve) -> None:
    server = serve("--print", "--set", "bare_newlines=accept")
    # smtplib would mend the line ends.
    with client(server) as smtp:
        smtp.ehlo()
        smtp.mail(SENDER)
        smtp.rcpt(RECIPIENTS[0])
        assert smtp.docmd("DATA")[0] == 354
        smtp.send(
            b"\x1b[2J\x07\x00\x08\x7f\r\n\xc2\x9b1m\xff\r\nover\rwritten\nid=1\r\n"
            + "\u202egnp\u202c[bold]:smile:[/bold]\u00a0\r\n.\r\n".encode()
        )
        assert smtp.getreply()[0] == 250
    server.message_line()
    server.stop()
    assert server.out.rest() == [
        r"  \x1b[2J\x07\x00\x08\x7f",
        r"  \x9b1m\xff",
        r"  over\rwritten\nid=1",
        "  \\u202egnp\\u202c[bold]:smile:[/bold]\u00a0",
    ]


def test_a_long_line_is_printed_whole_and_an_empty_message_too(serve: Serve) -> None:
    server = serve("--print")
    send(server, b"x" * 3_000_000 + b"\r\n")
    send(server, b"")
    for _ in range(2):
        server.message_line()
    server.stop()
    assert sum(map(len, server.out.seen)) > 3_000_000
    assert f"  {'x' * 3_000_000}" in server.out.seen


@pytest.mark.parametrize("sink", ["--print", "--discard", "--no-trace"])
def test_of_a_refused_message_nothing_is_said_or_kept(serve: Serve, sink: str) -> None:
    server = serve(sink, "--set", "size=10")
    with client(server) as smtp:
        smtp.ehlo()
        smtp.mail(SENDER)
        smtp.rcpt(RECIPIENTS[0])
        assert smtp.data(MESSAGE)[0] == 552
        smtp.mail(SENDER)
        smtp.rcpt(RECIPIENTS[0])
        smtp.docmd("DATA")
        smtp.send(b"bare\nnewline\r\n.\r\n")
        assert smtp.getreply()[0] == 550
    server.stop()
    assert server.out.rest() == []
    assert sink != "--no-trace" or server.new_mail() == []


def test_output_that_nobody_reads_does_not_stop_mail(tmp_path: Path) -> None:
    arguments = [*COMMAND, "serve", "--port", "0", "--no-trace"]
    with started(arguments, tmp_path, stderr=subprocess.PIPE) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline().rpartition(b":")[2])
        server.stdout.close()  # as `| head -1` does
        for _ in range(2):
            with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as smtp:
                assert smtp.sendmail(SENDER, RECIPIENTS, MESSAGE) == {}
        server.send_signal(signal.SIGTERM)
        _, said = server.communicate(timeout=PATIENCE)
    assert (server.returncode, said.count(b"cannot write to standard output")) == (0, 1)
    assert b"Traceback" not in said
    assert [path.read_bytes() for path in (tmp_path / "mail" / "new").iterdir()] == [MESSAGE, MESSAGE]


def test_a_message_that_could_not_be_printed_is_not_accepted(tmp_path: Path) -> None:
    arguments = [*COMMAND, "serve", "--port", "0", "--print"]
    with started(arguments, tmp_path, stderr=subprocess.DEVNULL) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline().rpartition(b":")[2])
        server.stdout.close()
        with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as smtp:
            with pytest.raises(smtplib.SMTPDataError) as info:
                smtp.sendmail(SENDER, RECIPIENTS, MESSAGE)
            assert info.value.smtp_code == 451
        server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE) == 0


def test_without_any_output_mail_comes_in(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    line = f"exec {shlex.join(COMMAND)} serve --port {port} --no-trace -v 2>&1 >&-"
    with subprocess.Popen(
        ["sh", "-c", line], cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        assert b"set cert and key" in server.stdout.readline()  # the log; the next thing it does is to listen
        with connected(port) as smtp:
            smtp.sendmail(SENDER, RECIPIENTS, MESSAGE)
        server.send_signal(signal.SIGTERM)
        assert b"Traceback" not in server.stdout.read()
        assert server.wait(PATIENCE) == 0
    [stored] = (tmp_path / "mail" / "new").iterdir()
    assert stored.read_bytes() == MESSAGE


def test_on_a_terminal_lines_have_colours_and_the_words_of_clients_have_none(tmp_path: Path) -> None:
    with OnTerminal(tmp_path, "--print", columns=40) as server:
        port = int(server.until(rb"^listening on 127\.0\.0\.1:(\d+)\r\n")[1])
        with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as smtp:
            smtp.sendmail(SENDER, ['"[red]x :smile:"@example.com'], b"\x1b]0;owned\x07[bold]hi[/bold]\r\n")
        assert server.stop() == 0
        assert rb'<"[red]x :smile:"@example.com> ' in re.sub(rb"\x1b\[[\d;]*m", b"", server.said)
        assert b"\x1b[2mid=\x1b[0m" in server.said
        assert b"\r\n  \\x1b]0;owned\\x07[bold]hi[/bold]\r\n" in server.said


def test_an_output_in_ascii_shows_other_characters_escaped(serve: Serve) -> None:
    server = serve("--discard", environment={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    with client(server) as smtp:
        smtp.sendmail("\u00fc@example.com", RECIPIENTS, MESSAGE, mail_options=["SMTPUTF8"])
    assert server.message_line()["sender"] == r"<\xfc@example.com>"


# --- the end ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_idle_server_ends_at_once_with_0(serve: Serve, number: signal.Signals, runtime: str) -> None:
    server = serve("--runtime", runtime)
    server.send(number)
    assert server.status() == 0
    assert server.out.rest() == []
    assert [line for line in server.err.rest() if "development only" not in line] == []


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_open_transaction_goes_on_to_its_250(serve: Serve, number: signal.Signals, runtime: str) -> None:
    server = serve("--no-trace", "--runtime", runtime)
    smtp, idle = client(server), client(server)
    idle.ehlo()
    smtp.ehlo()
    assert smtp.mail(SENDER)[0] == 250
    server.send(number)
    assert "2 connected" in server.err.until("^closing: ")
    assert idle.getreply()[0] == 421
    with pytest.raises(ConnectionRefusedError):
        client(server)
    assert smtp.rcpt(RECIPIENTS[0])[0] == 250
    assert smtp.data(MESSAGE)[0] == 250
    assert smtp.getreply()[0] == 421
    for each in (smtp, idle):
        each.close()
    assert server.status() == 0
    assert server.new_mail() == [MESSAGE]
    assert server.message_line()["size"] == str(len(MESSAGE))


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_ends_it_at_once(
    serve: Serve, number: signal.Signals, status: int, runtime: str
) -> None:
    server = serve("--runtime", runtime)
    with client(server) as smtp:
        smtp.ehlo()
        smtp.mail(SENDER)
        server.send(number)
        server.err.until("^closing: ")
        server.send(number)
        assert server.status() == status
        smtp.close()
    assert "Traceback" not in "\n".join(server.err.rest())


def test_a_transaction_that_does_not_end_is_ended_after_close_timeout(serve: Serve) -> None:
    server = serve("--set", "close_timeout=0.1")
    with client(server) as smtp:
        smtp.ehlo()
        smtp.mail(SENDER)
        server.send(signal.SIGTERM)
        assert smtp.getreply()[0] == 421
        smtp.close()
    assert server.status() == 0


# --- options ----------------------------------------------------------------------------------------


def test_options_come_from_the_file_and_set_wins(serve: Serve, tmp_path: Path) -> None:
    config = tmp_path / "server.toml"
    config.write_text('name = "file.test"\nbanner = "from the file"\nsize = 1000\nhide_dsn = false\n')
    server = serve("--config", config, "--set", "banner=from the line", "--set", "size=2_000")
    with client(server) as smtp:
        code, said = smtp.ehlo()
        smtp.rset()
    assert (code, smtp.esmtp_features["size"], "dsn" in smtp.esmtp_features) == (250, "2000", True)
    assert said.startswith(b"file.test ")
    with socket.create_connection((server.host, server.port), PATIENCE) as raw:
        assert raw.recv(1000) == b"220 file.test ESMTP from the line\r\n"


def test_a_flag_wins_over_the_file_and_set_over_the_flag(serve: Serve, tmp_path: Path) -> None:
    config = tmp_path / "server.toml"
    config.write_text("lmtp = false\n")
    with socket.create_connection(("127.0.0.1", serve("--config", config, "--lmtp").port), PATIENCE) as raw:
        assert b" LMTP" in raw.recv(1000)
    plain = serve("--lmtp", "--set", "lmtp=False")
    with socket.create_connection(("127.0.0.1", plain.port), PATIENCE) as raw:
        assert b" ESMTP" in raw.recv(1000)


def test_verbose_logs_what_goes_on_and_no_password(serve: Serve) -> None:
    server = serve("-v", "--user", "alice:wonderland", "--set", "allow_insecure_auth=true")
    with client(server) as smtp, pytest.raises(smtplib.SMTPAuthenticationError):
        smtp.login("alice", "looking-glass")
    log = "\n".join(server.stop())
    assert "connection from [127.0.0.1]" in log
    assert not re.search(r"wonderland|looking-glass|AGFsaWNl", log)


def test_without_verbose_only_warnings_are_logged(serve: Serve) -> None:
    server = serve("--set", "use_proxy=true", "--set", "use_xforward=127.0.0.1,10.0.0.0/8")
    with socket.create_connection((server.host, server.port), PATIENCE) as raw:
        raw.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\n")
        assert raw.recv(1000).startswith(b"220 ")
        raw.sendall(b"QUIT\r\n")
        assert raw.recv(1000).startswith(b"221 ")
    log = server.stop()
    assert [re.sub(r"^\S+ \S+ ", "", line)[:20] for line in log] == [
        "WARNING no TLS optio",
        "WARNING use_proxy=Tr",
    ]


def test_the_log_on_a_terminal_cannot_drive_it_either(tmp_path: Path) -> None:
    with OnTerminal(tmp_path, "-v", "--discard", columns=200) as server:
        port = int(server.until(rb"^listening on 127\.0\.0\.1:(\d+)\r\n")[1])
        with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as smtp:
            smtp.docmd("EHLO", "[bold]x\x1b]0;owned")
        server.until(rb"closed: quit")
        assert server.stop() == 0
        assert b"connection from [127.0.0.1]" in server.said
        assert b"\x1b]" not in server.said


# --- what it is made of -----------------------------------------------------------------------------


def test_without_the_extra_one_line_says_what_to_install() -> None:
    # -S leaves the installed packages out; ours come by PYTHONPATH.
    done = subprocess.run(
        [sys.executable, "-S", "-m", "smtpproto_cli", "serve"],
        env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    said = "smtpproto: the package click is missing; pip install 'smtpproto-server[cli]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


@pytest.mark.parametrize(
    ("runtime", "package"),
    [("uvloop", "uvloop"), ("anyio", "anyio"), ("trio", "anyio"), ("trio", "trio"), ("gevent", "gevent")],
)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_without_its_package_a_runtime_says_in_one_line_what_to_install(
    runtime: str, package: str, workers: str
) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None; import smtpproto_cli; sys.exit(smtpproto_cli.main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "serve", "--runtime", runtime, "--discard", "--workers", workers],
        env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    said = (
        f"smtpproto: --runtime {runtime}: {package} is not installed; "
        f"pip install 'smtpproto-server[cli,{runtime}]'\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


def test_the_adapter_is_imported_for_serving_only() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "smtpproto_cli", "serve", "--help"],
        env=ENVIRONMENT, capture_output=True, text=True, check=True, timeout=PATIENCE,
    )  # fmt: skip
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "smtpproto_cli._command" in imported
    others = ("smtpproto_a", "smtpproto_b", "smtpproto_g", "anyio", "gevent", "trio", "uvloop")
    assert not {name for name in imported if name.startswith(others)}
