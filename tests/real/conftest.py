# The runtimes, the message, an authority that clients are told to trust, and a certificate by it.
#
# Every test here takes the fixture `runtime` and so runs on each of them: a real client against each
# runtime's server. What is marked asyncio_only is one more variant of something that runs everywhere:
# it differs in what the core or the shared loop does, not in how octets come and go.

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, NamedTuple

import pytest
import trustme

from real.receiving import MESSAGE
from smtpproto_kit import RUNTIMES

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


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "asyncio_only: a variant that is left out on all other runtimes.")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked so, and say how much that is."""
    left_out = {
        item for item in items if item.get_closest_marker("asyncio_only") and _runtime(item) != "asyncio"
    }
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


def _runtime(item: pytest.Item) -> str:
    assert isinstance(item, pytest.Function)
    return str(item.callspec.params["runtime"])


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    """Each runtime, and each loop of asyncio's."""
    name: str = request.param
    return name


@pytest.fixture
def message_file(tmp_path: Path) -> Path:
    """The message that most clients are given to send."""
    path = tmp_path / "message"
    path.write_bytes(MESSAGE)
    return path
