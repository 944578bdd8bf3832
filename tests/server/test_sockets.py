# Listening sockets: every address of a host on one port, unix sockets, and no socket left behind.

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest

from smtpproto_server.adapting import bind_tcp, bind_unix, listener_address

if TYPE_CHECKING:
    from pathlib import Path


ANY = "0.0.0.0"


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


def close(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def test_no_host_is_every_interface_on_one_port() -> None:
    sockets = bind_tcp(None, 0, 5)
    try:
        addresses = [listener_address(sock) for sock in sockets]
        assert [address[0] for address in addresses] == ([ANY, "::"] if has_ipv6() else [ANY])
        assert len({address[1] for address in addresses}) == 1
        assert all(sock.gettimeout() == 0 for sock in sockets)
    finally:
        close(sockets)


def test_a_port_that_is_taken_is_an_oserror_and_nothing_is_left_bound() -> None:
    (taken,) = bind_tcp("127.0.0.1", 0, 5)
    with taken:
        port = taken.getsockname()[1]
        for host in ("127.0.0.1", None):
            with pytest.raises(OSError, match="in use"):
                bind_tcp(host, port, 5)
    close(bind_tcp("127.0.0.1", port, 5))


def test_a_host_that_is_none_is_an_oserror() -> None:
    with pytest.raises(OSError, match=r"."):
        bind_tcp("no.such.host.invalid", 0, 5)


def test_a_host_in_the_place_of_the_port_is_a_typeerror_that_says_so() -> None:
    host: Any = "127.0.0.1"
    port: Any = 2525
    with pytest.raises(
        TypeError, match=r"^the port comes first, then the host, and it is a number, not '127\.0\.0\.1'$"
    ):
        bind_tcp(port, host, 5)  # listen("127.0.0.1", 2525)


@pytest.mark.filterwarnings("error")
def test_a_port_that_is_none_leaves_no_socket_behind() -> None:
    with pytest.raises(OverflowError):
        bind_tcp("127.0.0.1", 70000, 5)


def resolved(*addresses: tuple[socket.AddressFamily, tuple[Any, ...]]) -> Any:
    def getaddrinfo(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [(family, socket.SOCK_STREAM, 6, "", address) for family, address in addresses]

    return getaddrinfo


def test_a_free_port_that_another_address_has_taken_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    two = resolved((socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_INET, ("127.0.0.2", 0)))
    monkeypatch.setattr(socket, "getaddrinfo", two)
    bind, faults = socket.socket.bind, [2]

    class Unlucky(socket.socket):
        def bind(self, address: Any, /) -> None:
            if address[0] == "127.0.0.2" and faults[0]:
                faults[0] -= 1
                raise OSError(98, "Address already in use")
            bind(self, address)

    monkeypatch.setattr(socket, "socket", Unlucky)
    sockets = bind_tcp("two.test", 0, 5)
    close(sockets)
    assert len(sockets) == 2
    faults[0] = 1000
    with pytest.raises(OSError, match="in use"):
        bind_tcp("two.test", 0, 5)


def test_a_machine_without_ipv6_listens_on_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old(socket.socket):
        def __init__(self, family: int, *args: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(97, "Address family not supported by protocol")
            super().__init__(family, *args)

    both = resolved((socket.AF_INET6, ("::", 0, 0, 0)), (socket.AF_INET, (ANY, 0)))
    monkeypatch.setattr(socket, "getaddrinfo", both)
    monkeypatch.setattr(socket, "socket", Old)
    sockets = bind_tcp(None, 0, 5)
    close(sockets)
    assert len(sockets) == 1
    with pytest.raises(OSError, match="not supported"):
        bind_tcp("both.test", 0, 5)


def test_a_unix_socket_is_its_path(tmp_path: Path) -> None:
    path = str(tmp_path / "mx")
    with bind_unix(path, 5) as sock:
        assert listener_address(sock) == path


def test_a_unix_socket_that_somebody_listens_on_is_left_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "mx")
    with bind_unix(path, 5), pytest.raises(OSError, match="in use"):
        bind_unix(path, 5)


def test_a_unix_socket_whose_backlog_is_full_is_left_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "mx")
    clients: list[socket.socket] = []
    with bind_unix(path, 0):
        try:
            while True:
                clients.append(socket.socket(socket.AF_UNIX))
                clients[-1].settimeout(0)
                clients[-1].connect(path)
        except BlockingIOError:
            pass
        with pytest.raises(OSError, match="in use"):
            bind_unix(path, 5)
    close(clients)


def test_a_unix_socket_that_nobody_listens_on_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "mx")
    bind_unix(path, 5).close()
    with bind_unix(path, 5) as sock:
        assert listener_address(sock) == path


def test_a_file_in_the_place_of_a_unix_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mx"
    path.write_text("precious")
    with pytest.raises(OSError, match="in use"):
        bind_unix(str(path), 5)
    assert path.read_text() == "precious"


def test_a_name_in_the_abstract_space_is_a_name() -> None:
    name = "\0smtpproto-test"
    with bind_unix(name, 5) as sock:
        assert listener_address(sock) == name
