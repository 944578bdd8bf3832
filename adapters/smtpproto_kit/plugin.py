# The kit's part in pytest: which runtimes are tried, and the fixture that its cases take.

from __future__ import annotations

from typing import TYPE_CHECKING

from smtpproto_kit._runtimes import RUNTIMES, runtime_named

if TYPE_CHECKING:
    import pytest

__all__ = ["pytest_addoption", "pytest_generate_tests"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--adapter NAME`, which may be given again."""
    parser.addoption(
        "--adapter",
        action="append",
        metavar="NAME",
        help=f"a runtime the kit is run for: {', '.join(RUNTIMES)} or module:object; repeatable (all six)",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A case that takes `runtime` is run for each."""
    if "runtime" in metafunc.fixturenames and metafunc.module.__name__.startswith("smtpproto_kit.cases"):
        names: list[str] = metafunc.config.getoption("--adapter") or list(RUNTIMES)
        metafunc.parametrize("runtime", [runtime_named(name) for name in names], ids=names)
