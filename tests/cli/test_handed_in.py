# Sockets that a service manager listens on, and what it is told.

from __future__ import annotations

import smtplib
import socket
import subprocess
from typing import TYPE_CHECKING, Final

import pytest

from cli.serving import COMMAND, ENVIRONMENT, HANDS_IN, PATIENCE, Running
from smtpproto_cli._runtimes import RUNTIMES

if TYPE_CHECKING:
    from pathlib import Path

    from cli.serving import Serve

MESSAGE: Final = b"Subject: hi\r\n\r\nhello\r\n"


def deliver(sock: socket.socket) -> None:
    address = sock.getsockname()
    host, port = (address, 0) if isinstance(address, str) else address[:2]
    with smtplib.LMTP(host, port, timeout=PATIENCE) as lmtp:
        assert lmtp.sendmail("a@example.com", "b@example.com", MESSAGE) == {}


def unix_listener(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen(5)
    return sock


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_mail_comes_in_over_sockets_that_were_handed_in_and_they_outlive_the_server(
    serve: Serve, tmp_path: Path, runtime: str, workers: str
) -> None:
    path = tmp_path / "lmtp"
    with socket.create_server(("127.0.0.1", 0)) as tcp, unix_listener(path) as unix:
        waiting = socket.create_connection(tcp.getsockname(), PATIENCE)
        server = serve(
            "--lmtp", "--no-trace", "--runtime", runtime, "--workers", workers, sockets=[tcp, unix]
        )
        assert server.place == f"127.0.0.1:{tcp.getsockname()[1]}, {path}"
        with waiting:
            assert waiting.recv(1000).startswith(b"220 ")
        deliver(tcp)
        deliver(unix)
        server.stop()
        assert server.new_mail() == [MESSAGE, MESSAGE]
        # The next one begins where this one ended.
        waiting = socket.create_connection(tcp.getsockname(), PATIENCE)
        again = serve("--lmtp", "--no-trace", "--workers", workers, sockets=[unix, tcp])
        with waiting:
            assert waiting.recv(1000).startswith(b"220 ")
        deliver(unix)
        again.stop()
        assert path.exists()


def test_sockets_for_another_process_are_left_alone(serve: Serve) -> None:
    server = serve("--discard", environment={"LISTEN_FDS": "1", "LISTEN_PID": "1"})
    assert server.place.startswith("127.0.0.1:")


def test_no_sockets_are_as_good_as_none(serve: Serve) -> None:
    assert serve("--discard", environment={"LISTEN_PID": "1"}).place.startswith("127.0.0.1:")


def faulty(directory: Path, descriptor: int, *arguments: str) -> str:
    """What the command says of a descriptor."""
    done = subprocess.run(
        [*HANDS_IN, str(descriptor), *COMMAND, "serve", "--discard", *arguments],
        cwd=directory, env=ENVIRONMENT, pass_fds=[descriptor], stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done
    return done.stderr


NO_LISTENER: Final = "smtpproto: LISTEN_FDS: descriptor 3 is no listening stream socket; see ListenStream=\n"


def test_a_descriptor_that_is_no_listening_stream_socket_is_a_fault(tmp_path: Path) -> None:
    with (
        socket.socket() as not_listening,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as packets,
        (tmp_path / "file").open("w") as file,
    ):
        packets.bind(str(tmp_path / "packets"))
        packets.listen()
        for each in (not_listening, datagrams, packets, file):
            assert faulty(tmp_path, each.fileno()) == NO_LISTENER


@pytest.mark.parametrize("arguments", [["--port", "0"], ["--host", "::1"], ["--unix", "x"]])
def test_a_place_besides_sockets_that_are_handed_in_is_a_fault(tmp_path: Path, arguments: list[str]) -> None:
    said = "smtpproto: sockets are handed in (LISTEN_FDS); leave out --host, --port, --unix and --listen\n"
    with socket.create_server(("127.0.0.1", 0)) as sock:
        assert faulty(tmp_path, sock.fileno(), *arguments) == said


@pytest.mark.parametrize(("number", "said"), [("x", "not 'x'"), ("-1", "not '-1'"), ("", "not ''")])
def test_a_number_of_sockets_that_is_none_is_a_fault(tmp_path: Path, number: str, said: str) -> None:
    line = f'LISTEN_PID=$$ LISTEN_FDS="{number}" exec "$@"'
    done = subprocess.run(
        ["sh", "-c", line, "sh", *COMMAND, "serve", "--discard"],
        cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    expected = f"smtpproto: LISTEN_FDS must be the number of sockets, {said}\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)


def test_more_sockets_than_there_are_is_a_fault(tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", 'LISTEN_PID=$$ LISTEN_FDS=9999999999999999999 exec "$@"', "sh", *COMMAND, "serve"],
        cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (2, "", NO_LISTENER)


@pytest.mark.parametrize("abstract", [False, True])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_service_manager_is_told_once_when_it_is_ready_and_once_when_it_ends(
    serve: Serve, tmp_path: Path, workers: str, *, abstract: bool
) -> None:
    name = f"@{tmp_path}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(PATIENCE)
        manager.bind(name.replace("@", "\0"))
        server = serve("--discard", "--workers", workers, environment={"NOTIFY_SOCKET": name})
        assert manager.recv(100) == b"READY=1"
        server.stop()
        assert manager.recv(100) == b"STOPPING=1"
        manager.settimeout(0)
        with pytest.raises(BlockingIOError):
            manager.recv(100)


@pytest.mark.parametrize("name", ["", "nothing", "/nothing/there"])
def test_a_service_manager_that_cannot_be_told_is_no_fault(serve: Serve, name: str) -> None:
    server: Running = serve("--discard", "--set", "tls_upstream=true", environment={"NOTIFY_SOCKET": name})
    assert server.stop() == []
