# What a command found: a table to read, JSON to keep, and whether a limit was passed.

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path


class Row(NamedTuple):
    """One thing that was measured."""

    name: str
    figures: Mapping[str, float | str | None]
    """By column; the first row has all columns."""
    ratio: float
    """What it is judged by: to the yardstick, or of large to small."""
    limit: float | None = None
    """The most that the ratio may be."""

    @property
    def over(self) -> bool:
        """The limit was passed."""
        return self.limit is not None and self.ratio > self.limit


def told(rows: Sequence[Row], file: Path | None = None) -> int:
    """Print the rows, write them to the file; 1 if a limit was passed."""
    print("\n".join(table(rows)))
    if file is not None:
        as_json = [
            {"name": name, **figures, "ratio": ratio, "limit": limit} for name, figures, ratio, limit in rows
        ]
        file.write_text(json.dumps(as_json, indent=1))
    over = [row for row in rows if row.over]
    for row in over:
        print(f"over its limit: {row.name}, {row.ratio:.3f}")
    return int(bool(over))


def table(rows: Sequence[Row]) -> Iterator[str]:
    """The rows as lines, in columns: names to the left, figures to the right."""
    columns = list(rows[0].figures)
    cells = [["", *columns, "ratio", "limit"]] + [
        [
            row.name,
            *(_cell(row.figures.get(column)) for column in columns),
            _cell(row.ratio),
            _cell(row.limit),
        ]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for name, *figures in cells:
        aligned = [figure.rjust(width) for figure, width in zip(figures, widths[1:], strict=True)]
        yield "  ".join([name.ljust(widths[0]), *aligned]).rstrip()


def _cell(value: float | str | None) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
