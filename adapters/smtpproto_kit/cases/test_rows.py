# The rows of rows.csv: the RFCs and the specification as a table, each row a conversation.

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from smtpproto_kit._rows import played, scenario
from smtpproto_kit._stage import Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from smtpproto_kit import Runtime


@pytest.fixture(scope="module")
def stage() -> Stage:
    return Stage()


@pytest.mark.parametrize("row", played())
def test_a_row_holds(
    runtime: Runtime,
    row: str,
    stage: Stage,
    caplog: pytest.LogCaptureFixture,
    record_property: Callable[[str, object], None],
) -> None:
    caplog.set_level(logging.DEBUG, "smtpproto")
    stage.play(scenario(row), runtime)
    for record in caplog.records:
        # What clients write must not write in the log, and their passwords must not be in it.
        assert record.getMessage().isprintable()
        assert "AHUAcA" not in record.getMessage()
    record_property("rows", 1)
