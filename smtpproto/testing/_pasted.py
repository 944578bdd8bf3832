# A found fault as a test: a module that fails as it stands, until the handler is mended.

from __future__ import annotations

import re
import sys
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final, cast

from smtpproto_server import Options

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from smtpproto.testing._visits import Check, Said

__all__ = ["as_test", "readable"]


def readable(said: Said) -> str:
    """What a client says, a line each."""
    return "\n".join(f"    {line}" for segment in said for line in _literals(segment))


def as_test(
    name: str,
    said: Said,
    handler: Any,
    options: Options | None,
    *,
    check: Check | None,
    allow: Collection[str],
) -> str:
    """The source of a module with a test of this name that plays `said`."""
    source = _Source()
    arguments = [source.named(handler, "handler")]
    arguments += ["\n        ".join(_literals(each)) for each in said]
    if options is not None:
        arguments.append(f"options={source.named(options, 'options')}")
    if check is not None:
        arguments.append(f"check={source.named(check, 'check')}")
    if allow:
        arguments.append(f"allow={sorted(allow)!r}")
    source.imports["smtpproto.testing"] = {"check_handler"}
    imports = [
        f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(source.imports.items())
    ]
    head = "\n".join([*imports, *source.missing])
    lines = "".join(f"        {each},\n" for each in arguments)
    return f"{head}\n\n\ndef {name}() -> None:\n    check_handler(\n{lines}    )\n"


class _Source:
    """How values are written, and what must be imported for it."""

    def __init__(self) -> None:
        self.imports: dict[str, set[str]] = {}
        self.missing: list[str] = []
        """Lines for what has no name that could be imported."""

    def named(self, value: Any, role: str) -> str:
        """An expression for a value; if there is none, `role` and a line that asks for it."""
        found = self._expression(value)
        if found is None:
            self.missing.append(f"\n{role} = ...  # what you gave: it cannot be imported from anywhere")
        return found or role

    def _expression(self, value: Any) -> str | None:
        if isinstance(value, str | bytes):
            return _quoted(value)
        if value is None or isinstance(value, bool | int | float):
            return repr(value)
        if isinstance(value, tuple | list):
            return self._items(cast("Sequence[Any]", value))
        if type(value) is Options:
            return self._options(value)
        return self._name(value)

    def _items(self, values: Sequence[Any]) -> str | None:
        items = [self._expression(each) for each in values]
        if None in items:
            return None
        return f"[{', '.join(map(str, items))}]"

    def _options(self, options: Options) -> str | None:
        default = Options()
        given: list[str] = []
        for field in fields(options):
            value = getattr(options, field.name)
            if value != getattr(default, field.name):
                expression = self._expression(value)
                if expression is None:
                    return None
                given.append(f"{field.name}={expression}")
        self.imports.setdefault("smtpproto_server", set()).add("Options")
        return f"Options({', '.join(given)})"

    def _name(self, value: Any) -> str | None:
        """A class or a function by its own name, a method by its object's, an object by its module's."""
        owner = getattr(value, "__self__", None)
        if owner is not None and not isinstance(owner, type):
            of = self._name(owner)
            return of and f"{of}.{value.__name__}"
        module = sys.modules.get(getattr(value, "__module__", None) or "")
        known = vars(module).items() if module is not None else ()
        name: str | None = getattr(value, "__qualname__", None)
        name = name or next((name for name, each in known if each is value), None)
        first, *rest = (name or "").split(".")
        found: Any = getattr(module, first, None)
        for each in rest:
            found = getattr(found, each, None)
        if module is None or found is not value:
            return None
        self.imports.setdefault(module.__name__, set()).add(first)
        return name


def _literals(segment: str | bytes) -> list[str]:
    """A segment as an expression on one or several lines."""
    if isinstance(segment, str):
        return [_quoted(segment)]
    if not _RUN.search(segment):
        return [_quoted(line) for line in segment.splitlines(keepends=True)] or ['b""']
    first, *rest = [_with_runs(line) for line in segment.splitlines(keepends=True)]
    return [first, *(f"+ {line}" for line in rest)]


def _with_runs(line: bytes) -> str:
    """What is long for its own sake is written as a number."""
    parts: list[str] = []
    at = 0
    for run in _RUN.finditer(line):
        parts += [_quoted(line[at : run.start()])] * (run.start() > at)
        parts.append(f"{_quoted(run[1])} * {len(run[0])}")
        at = run.end()
    return " + ".join([*parts, *([_quoted(line[at:])] * (at < len(line)))])


_RUN: Final = re.compile(rb"(.)\1{39,}")


def _quoted(value: str | bytes) -> str:
    """A literal, in double quotes if nothing is to be said against them."""
    literal = repr(value)
    return literal if '"' in literal or "\\'" in literal else literal.replace("'", '"')
