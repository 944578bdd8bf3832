# Tells Postfix where a message goes, from its recipient's domain: 2525.smtp.test is port 2525 over SMTP.
#
# Postfix asks over a socket (socketmap_table(5)), because a table that it reads could not know the ports
# of servers that start later, and it builds no destination from an address by itself.

from __future__ import annotations

import re
import selectors
import socket
import threading
from typing import Final, Self

DESTINATION: Final = re.compile(rb"(?:.*[.@])?([0-9]+)\.([a-z]+)\.test", re.DOTALL)
REQUEST: Final = re.compile(rb"[0-9]+:\w+ (.*),", re.DOTALL)  # a netstring: the table's name, and the key
PIECE: Final = 4096  # octets; more than a request has


class Routing:
    """The answering side, in a thread of its own. A context manager."""

    def __init__(self) -> None:
        self._listener: Final = socket.create_server(("127.0.0.1", 0))
        self._stop, self._stopped = socket.socketpair()
        self._selector: Final = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._stopped, selectors.EVENT_READ)
        self._thread: Final = threading.Thread(target=self._run)

    @property
    def table(self) -> str:
        """What Postfix calls it in its configuration."""
        return f"socketmap:inet:127.0.0.1:{self._listener.getsockname()[1]}:transport"

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if sock is self._stopped:
                    return
                if sock is self._listener:
                    self._selector.register(sock.accept()[0], selectors.EVENT_READ)
                else:
                    self._serve(sock)

    def _serve(self, sock: socket.socket) -> None:
        # Postfix waits for each answer, so that a request is never cut and never followed by another.
        asked = REQUEST.fullmatch(sock.recv(PIECE))
        if asked is None:
            self._selector.unregister(sock)
            sock.close()
            return
        said = answer(asked[1])
        sock.sendall(b"%d:%b," % (len(said), said))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.close()
        self._thread.join()
        sockets = [key.fileobj for key in self._selector.get_map().values()]
        self._selector.close()
        for sock in sockets:
            assert isinstance(sock, socket.socket)
            sock.close()


def answer(key: bytes) -> bytes:
    """The transport and the place for an address or a domain."""
    found = DESTINATION.fullmatch(key)
    return b"OK %b:[127.0.0.1]:%b" % (found[2], found[1]) if found else b"NOTFOUND "
