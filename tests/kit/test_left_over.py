# What a test leaves behind is found, whatever else there is in the process.

from __future__ import annotations

from typing import Any

import gevent
import pytest

from smtpproto_kit import runtime_named


def unconfigured(_self: object) -> type:
    raise RuntimeError("not configured")


# Raises as soon as somebody asks what it is, as an application's settings may.
Lazy = type("Lazy", (), {"__class__": property(unconfigured)})


def sleeping() -> Any:
    return gevent.spawn(gevent.sleep, 60)  # pyright: ignore[reportUnknownVariableType] - it ships half of its types


def test_greenlets_are_looked_for_among_objects_that_do_not_want_to_be_asked() -> None:
    lazy = Lazy()
    with pytest.raises(RuntimeError, match="not configured"):
        isinstance(lazy, str)
    left = sleeping()
    try:
        assert any(repr(left) in each for each in runtime_named("gevent").left_over())
    finally:
        left.kill()
