# The kit's part in pytest: which runtimes are tried, and the fixture that its cases take.

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from smtpproto_kit._runtime import Runtime
from smtpproto_kit._runtimes import RUNTIMES, runtime_named
from smtpproto_kit._shown import NOTED

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["pytest_addoption", "pytest_generate_tests", "pytest_itemcollected", "pytest_runtest_call"]


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
    module: str = metafunc.function.__module__
    if "runtime" in metafunc.fixturenames and module.startswith("smtpproto_kit.cases"):
        names: list[str] = metafunc.config.getoption("--adapter") or list(RUNTIMES)
        try:
            runtimes = [runtime_named(name) for name in names]
        except (LookupError, TypeError) as error:
            raise pytest.UsageError(str(error)) from error
        metafunc.parametrize("runtime", runtimes, ids=names)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Whoever counts cases can tell their runtimes."""
    callspec = getattr(item, "callspec", None)
    if callspec is not None and isinstance(callspec.params.get("runtime"), Runtime):
        item.user_properties.append(("runtime", str(callspec.params["runtime"])))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Note in a case's report what it shows."""
    NOTED.clear()
    result = yield
    item.user_properties.append(("shows", sorted(NOTED)))
    return result
