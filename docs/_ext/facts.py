# What the documentation takes from the code: texts, tables, replies. Needs nothing but smtpproto.
#
# The texts are the docstrings under fields and classes, so the pages say what the code says.

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import smtpproto
import smtpproto_server
from smtpproto._commands import VERBS
from smtpproto._state import AFTER, COMMANDS, OUT_OF_ORDER, State, Step

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["OptionRow", "answers", "event_types", "first_line", "option_rows", "steps_of"]

# What is said of options that have no docstring of their own because their name says it.
BY_NAME: Final[Mapping[str, str]] = {
    r"hide_(\w+)": "Leave {0} out of the reply to EHLO; it goes on working.",
    r"on_\w+": "A hook; see the page about hooks.",
}


class OptionRow(NamedTuple):
    """What the table says about one option."""

    name: str
    kind: str
    default: str
    text: str
    group: str
    in_core: bool
    """The core reads it; else the adapters do."""


def option_rows() -> list[OptionRow]:
    """Every option of `smtpproto_server.Options`, those of the core first."""
    core = {field.name for field in dataclasses.fields(smtpproto.ProtocolOptions)}
    said = {**_source_facts(smtpproto.ProtocolOptions), **_source_facts(smtpproto_server.Options)}
    rows: list[OptionRow] = []
    for field in dataclasses.fields(smtpproto_server.Options):
        text, group = said[field.name]
        text = text or _by_name(field.name)
        kind = str(field.type).replace('"', "")
        rows.append(OptionRow(field.name, kind, _default(field), text, group, field.name in core))
    return rows


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return repr(field.default_factory())
    return repr(field.default)


def _by_name(name: str) -> str:
    for pattern, text in BY_NAME.items():
        match = re.fullmatch(pattern, name)
        if match:
            return text.format(*(group.upper() if "hide" in pattern else group for group in match.groups()))
    return ""


def _source_facts(kind: type) -> dict[str, tuple[str, str]]:
    """The docstring under each field of a class, and the comment above its group."""
    source = textwrap.dedent(inspect.getsource(kind))
    lines = source.splitlines()
    body = next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)).body
    facts: dict[str, tuple[str, str]] = {}
    for at, node in enumerate(body):
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        follower = body[at + 1] if at + 1 < len(body) else None
        facts[node.target.id] = (_docstring(follower), _heading(lines[: node.lineno - 1]))
    return facts


def _docstring(node: ast.stmt | None) -> str:
    match node:
        case ast.Expr(value=ast.Constant(value=str(text))):
            return inspect.cleandoc(text)
        case _:
            return ""


def _heading(lines: Sequence[str]) -> str:
    """The last comment that stands alone above a group: "TLS; what they take ..." is TLS."""
    comments = [line for line in lines if re.match(r"    # [A-Z]", line)]
    return re.split(r"[;,.]", comments[-1].strip("# "))[0] if comments else "Other"


def event_types() -> Iterator[type[smtpproto.Event]]:
    """The events in the order of their file."""
    for kind in smtpproto.Event.__subclasses__():
        if getattr(smtpproto, kind.__name__, None) is kind:
            yield kind


def first_line(kind: type) -> str:
    """The first paragraph of a class's docstring."""
    return (inspect.getdoc(kind) or "").split("\n\n")[0]


def steps_of(state: State) -> str:
    """The steps out of a state, as Markdown."""
    return "; ".join(f"{step.value} → `{after.name}`" for step, after in AFTER[state].items()) or "none"


def answers() -> Iterator[tuple[str, list[str]]]:
    """For each command whose answer depends on the state: what it leads to or is told, state by state."""
    states = [state for state in State if state in COMMANDS]
    for step in Step:
        if any(step in AFTER[state] for state in states):
            yield step.name, [_answer(step, state) for state in states]


def _answer(step: Step, state: State) -> str:
    after = AFTER[state].get(step)
    if after is not None:
        return f"→ `{after.name}`"
    reply = OUT_OF_ORDER.get(step, {}).get(state)
    if reply is not None:
        return reply.text(coded=True)
    command = VERBS.get(step.name)
    return "503 5.5.1 Error: send HELO/EHLO first" if command and command.needs_hello else ""
