# Directives whose content is taken from the code, so that it cannot go out of date.
#
#     {options-table}      every option: type, default, what it does, who reads it
#     {events-table}       every event: which decisions it takes, what it says
#     {steps-table}        every state of the machine and the steps out of it
#     {commands-table}     what a command that depends on the state is told in each
#     {unreleased}         the fragments in changes/

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from docutils import nodes
from facts import OptionRow, answers, event_types, first_line, option_rows, steps_of
from sphinx.util.docutils import SphinxDirective

import smtpproto
from smtpproto._state import COMMANDS, State

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sphinx.application import Sphinx

__all__ = ["setup"]

CHANGES: Final = Path(__file__).parents[1] / "changes"


class Tables(SphinxDirective):
    """Base of directives that are tables: a title for each column, and rows of Markdown cells."""

    columns: ClassVar[tuple[tuple[str, int], ...]] = ()

    def table(self, rows: Sequence[Sequence[str]]) -> nodes.table:
        """The table; cells are Markdown of one line."""
        table = nodes.table(classes=["colwidths-given"])
        group = nodes.tgroup(cols=len(self.columns))
        group += [nodes.colspec(colwidth=width) for _, width in self.columns]
        head, body = nodes.thead(), nodes.tbody()
        head += self._row([title for title, _ in self.columns])
        body += [self._row(row) for row in rows]
        group += [head, body]
        table += group
        return table

    def _row(self, cells: Sequence[str]) -> nodes.row:
        row = nodes.row()
        for cell in cells:
            entry = nodes.entry()
            parsed, messages = self.parse_inline(cell)
            entry += nodes.paragraph("", "", *parsed, *messages)
            row += entry
        return row


class OptionsTable(Tables):
    """Every option, a table for each group."""

    columns = (("option", 28), ("type, default", 24), ("what it does", 48))

    def run(self) -> list[nodes.Node]:
        """The tables."""
        groups: dict[str, list[OptionRow]] = {}
        for row in option_rows():
            groups.setdefault(row.group, []).append(row)
        made: list[nodes.Node] = []
        for title, rows in groups.items():
            section = nodes.section("", nodes.title("", title), ids=[f"options-{nodes.make_id(title)}"])
            section += self.table([self._cells(row) for row in rows])
            made.append(section)
        return made

    def _cells(self, row: OptionRow) -> tuple[str, str, str]:
        mark = "" if row.in_core else " \\*"
        return f"`{row.name}`{mark}", f"`{row.kind}`, `{row.default}`", _escaped(row.text)


class EventsTable(Tables):
    """Every event in a line."""

    columns = (("event", 26), ("decisions it takes", 30), ("what it says", 44))

    def run(self) -> list[nodes.Node]:
        """The table."""
        return [self.table([self._cells(kind) for kind in event_types()])]

    def _cells(self, kind: type[smtpproto.Event]) -> tuple[str, str, str]:
        takes = ", ".join(f"`{each.__name__ if each else None}`" for each in kind.takes)
        if kind in (smtpproto.NeedsTLS, smtpproto.NeedsStartTLS):
            takes = "`tls_established(...)`"
        star = " (only if asked for)" if kind in smtpproto.OPTIONAL_QUESTIONS else ""
        return f"`{kind.__name__}`{star}", takes or "none", _escaped(first_line(kind))


class StepsTable(Tables):
    """Every state and the steps out of it."""

    columns = (("state", 18), ("what it means", 34), ("steps out of it", 48))

    def run(self) -> list[nodes.Node]:
        """The table."""
        return [self.table([(f"`{state.name}`", state.value, steps_of(state)) for state in State])]


class CommandsTable(Tables):
    """What each command whose answer depends on the state leads to, or is told."""

    columns = (("command", 16), *((state.name, 21) for state in State if state in COMMANDS))

    def run(self) -> list[nodes.Node]:
        """The table."""
        rows = [(f"`{name}`", *map(_escaped, cells)) for name, cells in answers()]
        return [self.table(rows)]


class Unreleased(SphinxDirective):
    """The fragments that wait for a release."""

    def run(self) -> list[nodes.Node]:
        """Each fragment's own text, one after the other."""
        fragments = sorted(path for path in CHANGES.glob("*.md") if path.name != "README.md")
        made: list[nodes.Node] = []
        for path in fragments:
            self.env.note_dependency(str(path))
            made += self.parse_text_to_nodes(path.read_text("utf-8"))
        return made or [nodes.paragraph("", "Nothing yet.")]


def _escaped(text: str) -> str:
    """Text of the code as Markdown: code spans are the same in both, markup is none in the first."""
    parts = re.split(r"(`[^`]*`)", text.replace("\n", " "))
    return "".join(
        part if part.startswith("`") else re.sub(r"([\\<>*_\[\]])", r"\\\1", part) for part in parts
    )


DIRECTIVES: Final[Mapping[str, type[SphinxDirective]]] = {
    "options-table": OptionsTable,
    "events-table": EventsTable,
    "steps-table": StepsTable,
    "commands-table": CommandsTable,
    "unreleased": Unreleased,
}


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    for name, directive in DIRECTIVES.items():
        app.add_directive(name, directive)
    return {"parallel_read_safe": True}
