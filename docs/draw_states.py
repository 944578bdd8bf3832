# Draws states.svg, the picture of the state machine, from the core's own tables.
#
# What is drawn are the entries of BEGIN and AFTER, each as one path that names its entry. What is
# laid down here is where a state stands and how a line runs between two of them; a state or an
# entry without a place stops the drawing. The same tables always give the same octets.

from __future__ import annotations

from html import escape
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

from smtpproto._state import AFTER, BEGIN, COMMANDS, State, Step

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["PICTURE", "draw"]

PICTURE: Final = Path(__file__).with_name("states.svg")


def draw() -> str:
    """The picture as SVG."""
    lines = [HEAD, *_boxes(), *_edges(), *_captions(), *_notes(), "</svg>"]
    return "\n".join(lines) + "\n"


# --- the layout -----------------------------------------------------------------------------------

WIDTH: Final = 1080
HEIGHT: Final = 850
BOX: Final = (250, 46)

# The middle of each state's box.
PLACES: Final[Mapping[State, tuple[int, int]]] = {
    State.PROXY: (145, 95),
    State.HANDSHAKE: (935, 95),
    State.ARRIVED: (545, 190),
    State.GREETED: (545, 310),
    State.READY: (545, 440),
    State.AUTH: (935, 440),
    State.MAIL: (545, 560),
    State.RCPT: (545, 680),
    State.DATA: (545, 800),
    State.UPGRADED: (145, 310),
    State.UPGRADE: (145, 440),
    State.CLOSED: (145, 800),
}

# Where each line runs: the corners, from a state (None: from nowhere) to a state.
ROUTES: Final[Mapping[tuple[State | None, State], tuple[tuple[int, int], ...]]] = {
    (None, State.PROXY): ((145, 30), (145, 72)),
    (None, State.HANDSHAKE): ((935, 30), (935, 72)),
    (None, State.ARRIVED): ((545, 125), (545, 167)),
    (State.PROXY, State.HANDSHAKE): ((270, 95), (810, 95)),
    (State.PROXY, State.ARRIVED): ((145, 118), (145, 190), (420, 190)),
    (State.HANDSHAKE, State.ARRIVED): ((935, 118), (935, 190), (670, 190)),
    (State.ARRIVED, State.GREETED): ((545, 213), (545, 287)),
    (State.GREETED, State.GREETED): ((635, 287), (635, 262), (615, 262), (615, 287)),
    (State.GREETED, State.READY): ((545, 333), (545, 417)),
    (State.READY, State.GREETED): ((470, 417), (470, 333)),
    (State.READY, State.READY): ((635, 417), (635, 392), (615, 392), (615, 417)),
    (State.READY, State.AUTH): ((670, 430), (810, 430)),
    (State.AUTH, State.READY): ((810, 450), (670, 450)),
    (State.READY, State.MAIL): ((545, 463), (545, 537)),
    (State.MAIL, State.RCPT): ((545, 583), (545, 657)),
    (State.RCPT, State.RCPT): ((635, 657), (635, 632), (615, 632), (615, 657)),
    (State.RCPT, State.DATA): ((545, 703), (545, 777)),
    # Back to READY: up on the right, and in from below.
    (State.MAIL, State.READY): ((670, 560), (860, 560), (860, 500), (625, 500), (625, 463)),
    (State.RCPT, State.READY): ((670, 680), (860, 680), (860, 500), (625, 500), (625, 463)),
    (State.DATA, State.READY): ((670, 800), (860, 800), (860, 500), (625, 500), (625, 463)),
    # To the handshake: on the left.
    (State.GREETED, State.UPGRADE): ((420, 325), (300, 325), (300, 440), (270, 440)),
    (State.READY, State.UPGRADE): ((420, 440), (270, 440)),
    (State.MAIL, State.UPGRADE): ((420, 560), (300, 560), (300, 440), (270, 440)),
    (State.RCPT, State.UPGRADE): ((420, 680), (300, 680), (300, 440), (270, 440)),
    (State.UPGRADE, State.UPGRADED): ((145, 417), (145, 333)),
    (State.UPGRADED, State.GREETED): ((270, 300), (420, 300)),
}

# Where the name of a line stands: the beginning, middle or end of its first row.
CAPTIONS: Final[Mapping[tuple[State | None, State], tuple[int, int, str]]] = {
    (None, State.PROXY): (157, 50, "start"),
    (None, State.HANDSHAKE): (923, 50, "end"),
    (None, State.ARRIVED): (557, 143, "start"),
    (State.PROXY, State.HANDSHAKE): (545, 87, "middle"),
    (State.PROXY, State.ARRIVED): (157, 182, "start"),
    (State.HANDSHAKE, State.ARRIVED): (923, 182, "end"),
    (State.ARRIVED, State.GREETED): (535, 246, "end"),
    (State.GREETED, State.GREETED): (645, 270, "start"),
    (State.GREETED, State.READY): (555, 363, "start"),
    (State.READY, State.GREETED): (460, 362, "end"),
    (State.READY, State.READY): (645, 400, "start"),
    (State.READY, State.AUTH): (740, 422, "middle"),
    (State.AUTH, State.READY): (740, 466, "middle"),
    (State.READY, State.MAIL): (535, 504, "end"),
    (State.MAIL, State.RCPT): (535, 624, "end"),
    (State.RCPT, State.RCPT): (645, 640, "start"),
    (State.RCPT, State.DATA): (535, 744, "end"),
    (State.MAIL, State.READY): (680, 552, "start"),
    (State.RCPT, State.READY): (680, 696, "start"),
    (State.DATA, State.READY): (680, 792, "start"),
    (State.GREETED, State.UPGRADE): (310, 379, "start"),
    (State.READY, State.UPGRADE): (412, 432, "end"),
    (State.MAIL, State.UPGRADE): (412, 552, "end"),
    (State.RCPT, State.UPGRADE): (412, 672, "end"),
    (State.UPGRADE, State.UPGRADED): (157, 379, "start"),
    (State.UPGRADED, State.GREETED): (345, 292, "middle"),
}

CORNER: Final = 8  # radius


# --- the drawing ------------------------------------------------------------------------------------

HEAD: Final = f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"
     aria-label="The states of a connection and the steps between them"
     font-family="system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif" font-size="12">
<defs>
<marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">
<path d="M 0 1 L 9 5 L 0 9 z" fill="#475569"/>
</marker>
</defs>
<rect width="{WIDTH}" height="{HEIGHT}" rx="10" fill="#ffffff"/>"""

PLAIN: Final = ("#f8fafc", "#94a3b8")
AWAITING: Final = ("#dbeafe", "#3b82f6")  # a command is awaited


def _boxes() -> Iterator[str]:
    width, height = BOX
    for state in State:
        x, y = PLACES[state]
        fill, line = AWAITING if state in COMMANDS else PLAIN
        yield (
            f'<g data-state="{state.name}">'
            f'<rect x="{x - width // 2}" y="{y - height // 2}" width="{width}" height="{height}" rx="8"'
            f' fill="{fill}" stroke="{line}" stroke-width="1.5"/>'
            f'<text x="{x}" y="{y - 4}" text-anchor="middle" font-weight="700" font-size="13"'
            f' fill="#0f172a">{state.name}</text>'
            f'<text x="{x}" y="{y + 13}" text-anchor="middle" font-size="11"'
            f' fill="#334155">{escape(state.value)}</text></g>'
        )


def entries() -> Iterator[tuple[State | None, Step, State]]:
    """Every entry of the tables: from where, by which step, to where."""
    for step, state in BEGIN.items():
        yield None, step, state
    for state, steps in AFTER.items():
        for step, after in steps.items():
            yield state, step, after


def _edges() -> Iterator[str]:
    for before, step, after in entries():
        if before is None:
            (x, y), *_ = ROUTES[before, after]
            yield f'<circle cx="{x}" cy="{y}" r="5" fill="#475569"/>'
        yield (
            f'<path data-from="{before.name if before else ""}" data-step="{step.name}"'
            f' data-to="{after.name}" d="{_line(ROUTES[before, after])}"'
            ' fill="none" stroke="#475569" stroke-width="1.3" marker-end="url(#tip)"/>'
        )


def _line(corners: tuple[tuple[int, int], ...]) -> str:
    """A line along the corners, which are rounded."""
    (x, y), *rest = corners
    parts = [f"M {x} {y}"]
    for (bx, by), (cx, cy) in pairwise(rest):
        ax, ay = _towards((bx, by), (x, y))
        ex, ey = _towards((bx, by), (cx, cy))
        parts.append(f"L {ax} {ay} Q {bx} {by} {ex} {ey}")
        x, y = bx, by
    parts.append(f"L {rest[-1][0]} {rest[-1][1]}")
    return " ".join(parts)


def _towards(corner: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    """The point of the line from `corner` to `other` at which the rounding begins."""
    (x, y), (ox, oy) = corner, other
    return x + _sign(ox - x) * CORNER, y + _sign(oy - y) * CORNER


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)


def _captions() -> Iterator[str]:
    names: dict[tuple[State | None, State], list[str]] = {}
    for before, step, after in entries():
        names.setdefault((before, after), []).append(step.value)
    for ends, steps in names.items():
        x, y, anchor = CAPTIONS[ends]
        yield _text(x, y, anchor, " · ".join(steps))


def _notes() -> Iterator[str]:
    x, y = PLACES[State.CLOSED]
    top = y - BOX[1] // 2
    yield (
        f'<path d="M {x} {top - 40} L {x} {top}" fill="none" stroke="#475569" stroke-width="1.3"'
        ' stroke-dasharray="4 3" marker-end="url(#tip)"/>'
    )
    yield _text(x, top - 62, "middle", "from every state:")
    yield _text(x, top - 47, "middle", "QUIT, a 421, the end of the input")
    yield (
        f'<rect x="{WIDTH - 36}" y="{y - 7}" width="16" height="12" rx="3"'
        f' fill="{AWAITING[0]}" stroke="{AWAITING[1]}"/>'
    )
    yield _text(WIDTH - 44, y + 3, "end", "a command is awaited")


def _text(x: int, y: int, anchor: str, text: str) -> str:
    """A text with a rim, so that a line behind it does not strike it out."""
    return (
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="#0f172a" stroke="#ffffff" stroke-width="3"'
        f' paint-order="stroke">{escape(text)}</text>'
    )


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
    print(f"wrote {PICTURE}")
