# An authority that clients are told to trust, and a certificate by it.

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, NamedTuple

import pytest
import trustme

from real.receiving import MESSAGE
from running import RUNTIMES

if TYPE_CHECKING:
    from pathlib import Path


class Trust(NamedTuple):
    """TLS options of a server, and what its clients need to check it."""

    options: dict[str, Path]
    authority: Path
    context: ssl.SSLContext


@pytest.fixture(scope="session")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    folder = tmp_path_factory.mktemp("trust")
    ca = trustme.CA()
    issued = ca.issue_cert("localhost", "127.0.0.1", "mx.test")
    ca.cert_pem.write_to_path(folder / "ca.pem")
    issued.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    # Postfix reads it as a user of its own.
    folder.chmod(0o755)
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    return Trust({"cert": folder / "server.pem"}, folder / "ca.pem", context)


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    """Each loop that the asyncio adapter runs on."""
    name: str = request.param
    return name


@pytest.fixture
def message_file(tmp_path: Path) -> Path:
    """The message that most clients are given to send."""
    path = tmp_path / "message"
    path.write_bytes(MESSAGE)
    return path
