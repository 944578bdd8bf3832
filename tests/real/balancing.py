# A real HAProxy in front of servers of ours: TCP goes through as it comes, whatever is in it.
#
# It gets a socket that listens already, so that its port is known and nobody can take it away. A server
# that is not there is passed over at once; what a client had begun with it breaks off.

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Final

from real.programs import serving

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

CONFIGURATION: Final = """\
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  balance roundrobin
  retries 3
  option redispatch 1

listen mail
  bind fd@{listener}
"""


@contextlib.contextmanager
def haproxy(folder: Path, *ports: int, header: str) -> Generator[int]:
    """Its port. `header` is send-proxy or send-proxy-v2; `folder` takes its configuration and its log."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        servers = [f"  server on-{port} 127.0.0.1:{port} {header}\n" for port in ports]
        file = folder / "haproxy.cfg"
        file.write_text(CONFIGURATION.format(listener=listener.fileno()) + "".join(servers))
        with serving("haproxy", "-db", "-f", file, log=folder / "haproxy.log", pass_fds=[listener.fileno()]):
            place: tuple[str, int] = listener.getsockname()
            listener.close()  # with HAProxy nobody listens any more
            yield place[1]
