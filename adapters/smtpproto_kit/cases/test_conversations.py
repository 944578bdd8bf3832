# The conversations of the core's own tests: every adapter's replies are the core's, octet for octet.

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING, Final

import pytest

from smtpproto_kit._conversations import conversations
from smtpproto_kit._conversing import Conversing

if TYPE_CHECKING:
    from collections.abc import Callable

    from smtpproto_kit import Runtime

ENOUGH: Final = 3  # differences; each may have waited for what did not come


@pytest.fixture(scope="module")
def conversing() -> Conversing:
    return Conversing()


@pytest.mark.parametrize("chunk", conversations())
def test_the_replies_are_those_of_the_bare_core(
    runtime: Runtime,
    chunk: str,
    conversing: Conversing,
    record_property: Callable[[str, object], None],
) -> None:
    servers = conversations()[chunk].values()
    differences = chain.from_iterable(conversing.differences(runtime, each) for each in servers)
    found = list(islice(differences, ENOUGH))
    assert not found, "\n".join(found)
    record_property("conversations", sum(map(len, servers)))
