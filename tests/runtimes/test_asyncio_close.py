# close() on asyncio with the times it really has. All else about it is in the kit (cases/test_close.py).

from __future__ import annotations

import socket
import time
from typing import Any

from running import DEADLINE, Client, Running, running, wait_until


def stuffed(server: Running) -> Client:
    """A client that reads nothing and has asked for more than the sockets hold."""
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    narrow.bind(("127.0.0.1", 0))
    port = narrow.getsockname()[1]
    server.call(lambda: server.server.listen(sock=narrow))
    client = Client.__new__(Client)
    client.buffer, client.sock = b"", socket.socket()
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.sock.settimeout(DEADLINE)
    client.sock.connect(("127.0.0.1", port))
    client.reply()
    client.send(b"EHLO a\r\n" * 1000)
    peer: Any
    (peer,) = server.server.peers
    wait_until(lambda: peer.full)
    return client


def test_the_real_times_end_within_six_seconds_of_close_timeout() -> None:
    with running(close_timeout=0.2) as server:
        with stuffed(server):
            begun = time.monotonic()
            server.close()
            assert time.monotonic() - begun < 0.2 + 6
