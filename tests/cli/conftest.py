# Servers of a test: started in its directory, gone with it.

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from cli.serving import Running, Serve

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start servers that listen when the call returns."""
    with ExitStack() as stack:

        def start(
            *arguments: str | Path,
            environment: Mapping[str, str] | None = None,
            sockets: Sequence[socket.socket] = (),
        ) -> Running:
            place = () if sockets or {"--port", "--unix", "--listen"} & set(arguments) else ("--port", "0")
            running = Running(tmp_path, *place, *arguments, environment=environment, sockets=sockets)
            stack.callback(running.kill)
            return running.ready()

        yield start
