# Mutants: what mutmut's operators make of a file's functions.
#
# A mutant is found again by its function and by the line before and after, not by a number that
# every edit would shift.

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import libcst as cst
from mutmut.mutation.file_mutation import Mutation, create_mutations

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["Mutant", "mutants"]


@dataclass(frozen=True, eq=False)
class Mutant:
    """One change to one function."""

    path: Path
    name: str
    """Where it is: `_buffer.LineBuffer.feed`."""
    definition: cst.FunctionDef
    mutation: Mutation

    @property
    def function(self) -> str:
        """Its name with its class: `LineBuffer.feed`."""
        return self.name.partition(".")[2]

    def before(self) -> str:
        """The function alone, in its class."""
        return _alone(self.definition, self.function)

    def source(self) -> str:
        """The same with the change in it; made only when asked for, it takes a while."""
        changed = self.definition.deep_replace(self.mutation.original_node, self.mutation.mutated_node)
        assert isinstance(changed, cst.FunctionDef)
        return _alone(changed, self.function)

    @cached_property
    def difference(self) -> tuple[str, str]:
        """The lines of the change, before and after it."""
        old, new = self.before().splitlines(), self.source().splitlines()
        same = range(min(len(old), len(new)))
        first = next((at for at in same if old[at] != new[at]), len(same))
        last = next((at for at in same if old[-1 - at] != new[-1 - at]), len(same))
        last = min(last, len(same) - first)
        was, becomes = (
            " ".join(line.strip() for line in lines[first : len(lines) - last]) for lines in (old, new)
        )
        return was, becomes

    @property
    def key(self) -> tuple[str, str, str]:
        """What survivors.toml names it by."""
        return (self.name, *self.difference)

    def __str__(self) -> str:
        was, becomes = self.difference
        return f"{self.name}\n  - {was}\n  + {becomes}"


def mutants(path: Path) -> Iterator[Mutant]:
    """All mutants of the functions and methods of a file, in the file's order."""
    text = path.read_text()
    module, mutations, _, _ = create_mutations(str(path), text)
    names = dict(_functions(module.body))
    for mutation in mutations:
        function = mutation.contained_by_top_level_function
        if isinstance(function, cst.FunctionDef) and function in names:  # no tables: see survivors.toml
            yield Mutant(path, f"{path.stem}.{names[function]}", function, mutation)


def _functions(body: Sequence[object], inside: str = "") -> Iterator[tuple[cst.FunctionDef, str]]:
    for each in body:
        if isinstance(each, cst.FunctionDef):
            yield each, inside + each.name.value
        elif isinstance(each, cst.ClassDef):
            yield from _functions(each.body.body, f"{inside}{each.name.value}.")


def _alone(definition: cst.FunctionDef, path: str) -> str:
    *classes, _ = path.split(".")
    code = cst.Module([definition]).code
    for name in reversed(classes):
        code = f"class {name}:\n{textwrap.indent(code, '    ')}"
    return f"from __future__ import annotations\n{code}"
