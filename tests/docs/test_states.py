# The picture of the state machine is the one that the core's tables make.

from __future__ import annotations

import re
import runpy
from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree as ET

import pytest

from docs.blocks import DOCS
from smtpproto._state import AFTER, BEGIN, State, Step

if TYPE_CHECKING:
    from collections.abc import Iterator

SVG: Final = "{http://www.w3.org/2000/svg}"
PICTURE: Final = DOCS / "states.svg"
TREE: Final = ET.fromstring(PICTURE.read_text("utf-8"))  # noqa: S314 - our own file
EDGES: Final = {
    (path.get("data-from"), path.get("data-step"), path.get("data-to")): path.get("d", "")
    for path in TREE.iter(f"{SVG}path")
    if path.get("data-step")
}


def entries() -> Iterator[tuple[str, str, str]]:
    """What the tables say, as the picture names it."""
    for step, state in BEGIN.items():
        yield "", step.name, state.name
    for before, steps in AFTER.items():
        for step, after in steps.items():
            yield before.name, step.name, after.name


def boxes() -> dict[str, tuple[float, float, float, float]]:
    """Left, top, right and bottom of each state's box."""
    found: dict[str, tuple[float, float, float, float]] = {}
    for group in TREE.iter(f"{SVG}g"):
        box = group.find(f"{SVG}rect")
        assert box is not None
        x, y, width, height = (float(box.get(name, "")) for name in ("x", "y", "width", "height"))
        found[group.get("data-state", "")] = (x, y, x + width, y + height)
    return found


def on_edge(point: tuple[float, float], box: tuple[float, float, float, float]) -> bool:
    (x, y), (left, top, right, bottom) = point, box
    return left <= x <= right and top <= y <= bottom and (x in {left, right} or y in {top, bottom})


@pytest.fixture(scope="module")
def drawing() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "draw_states.py"))


def test_the_picture_is_not_stale(drawing: dict[str, Any]) -> None:
    assert PICTURE.read_text("utf-8") == drawing["draw"](), "python docs/draw_states.py draws it anew"


def test_the_picture_has_every_entry_of_the_tables_and_no_other() -> None:
    assert sorted(EDGES) == sorted(entries())


def test_the_picture_has_every_state_with_its_words() -> None:
    assert set(boxes()) == {state.name for state in State}
    written = {text.text for text in TREE.iter(f"{SVG}text")}
    assert {state.value for state in State} <= written


def test_every_step_is_written_beside_its_line() -> None:
    written = " · ".join(text.text or "" for text in TREE.iter(f"{SVG}text"))
    assert [step for step in Step if step.value not in written] == []


@pytest.mark.parametrize("edge", EDGES, ids="-".join)
def test_a_line_begins_and_ends_at_the_states_it_joins(edge: tuple[str, str, str]) -> None:
    before, _, after = edge
    numbers = [float(number) for number in re.findall(r"-?\d+", EDGES[edge])]
    assert on_edge((numbers[-2], numbers[-1]), boxes()[after])
    if before:
        assert on_edge((numbers[0], numbers[1]), boxes()[before])


def test_no_two_boxes_lie_on_each_other() -> None:
    every = list(boxes().values())
    for i, (left, top, right, bottom) in enumerate(every):
        for x1, y1, x2, y2 in every[:i]:
            assert x2 < left or right < x1 or y2 < top or bottom < y1


def test_an_entry_without_a_place_stops_the_drawing(drawing: dict[str, Any]) -> None:
    for table in ("ROUTES", "CAPTIONS"):
        whole = dict(drawing[table])
        for ends in whole:
            drawing[table].pop(ends)
            with pytest.raises(KeyError):
                drawing["draw"]()
            drawing[table].update(whole)
