# What pytest loads: an option, a marker and two fixtures.
#
# It is loaded into every run where the package is installed. So it imports nothing but pytest until
# a fixture is used, and has no hook that runs for each test.

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from smtpproto_pytest import CapturingServer

__all__ = ["pytest_addoption", "pytest_configure", "smtp_server", "smtp_server_factory"]

MARKER = (
    "smtp_server(runtime=None, tls=None, users=None, **options): what the fixture `smtp_server` gives; "
    "tls is None, 'starttls' or 'implicit', users maps names to passwords, "
    "options are those of smtpproto's servers."
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--smtp-server-runtime NAME`, and the same as a line of the configuration."""
    parser.getgroup("smtpproto", "mail servers for tests").addoption(
        "--smtp-server-runtime",
        metavar="NAME",
        help="the runtime of smtp_server: asyncio (the default), uvloop, anyio, trio, gevent or blocking",
    )
    parser.addini("smtp_server_runtime", "the runtime of smtp_server", default="asyncio")


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", MARKER)


@pytest.fixture
def smtp_server_factory(request: pytest.FixtureRequest) -> Generator[Callable[..., CapturingServer]]:
    """Start mail servers: `smtp_server_factory(tls="starttls", users={"ann": "secret"})`.

    It takes what the marker `smtp_server` takes, and what it is not given is as the marker says.
    The servers end with the test, which fails if one of them has failed.
    """
    from smtpproto_pytest import capturing  # noqa: PLC0415 - for tests that use it

    usual = _settings(request)
    servers = contextlib.ExitStack()

    def start(**settings: Any) -> CapturingServer:
        return servers.enter_context(capturing(**{**usual, **settings}))

    yield start
    fault = ""
    try:
        servers.close()
    except AssertionError as error:
        fault = str(error)
    if fault:
        pytest.fail(fault, pytrace=False)


@pytest.fixture
def smtp_server(smtp_server_factory: Callable[..., CapturingServer]) -> CapturingServer:
    """A mail server on 127.0.0.1 that keeps what it is sent; the marker `smtp_server` configures it."""
    try:
        return smtp_server_factory()
    except (LookupError, TypeError, ValueError) as error:
        fault = str(error)
    pytest.fail(f"smtp_server: {fault}", pytrace=False)  # here, where no other error hangs on it


def _settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Of the configuration, and of the markers: the nearest has the last word."""
    config = request.config
    runtime = config.getoption("smtp_server_runtime") or config.getini("smtp_server_runtime")
    settings: dict[str, Any] = {"runtime": runtime}
    for marker in reversed(list(request.node.iter_markers("smtp_server"))):
        if marker.args:
            kind = type(marker.args[0]).__name__  # not the value: it may be the users with their passwords
            pytest.fail(f"smtp_server takes no {kind} without a name: {MARKER}", pytrace=False)
        settings.update(marker.kwargs)
    return settings
