# The yardstick: h11 reads a request and writes a reply.
#
# It is a sans-I/O library of pure Python that many have measured, and what it does is of the same
# kind. So "a quarter of h11" means something on every machine, where microseconds do not.

from __future__ import annotations

from typing import Final

import h11

REQUEST: Final = (
    b"GET /index.html HTTP/1.1\r\n"
    b"Host: www.example.com\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101\r\n"
    b"Accept: text/html,application/xhtml+xml\r\n"
    b"Accept-Language: en-US,en;q=0.5\r\n"
    b"Accept-Encoding: gzip, deflate, br\r\n"
    b"Connection: keep-alive\r\n"
    b"Cookie: session=0123456789abcdef0123456789abcdef\r\n"
    b"Cache-Control: no-cache\r\n"
    b"DNT: 1\r\n\r\n"
)


def requests(times: int = 1) -> bytes:
    """Read and answer so many requests on one connection; the last reply."""
    connection, reply = h11.Connection(h11.SERVER), b""
    for _ in range(times):
        connection.receive_data(REQUEST)
        while type(connection.next_event()) is not h11.EndOfMessage:
            pass
        reply = connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")])) or b""
        connection.send(h11.EndOfMessage())
        connection.start_next_cycle()
    return reply
