# Values: what events and hooks carry. An application compares, copies and pickles them, and changes none.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar, dataclass_transform

__all__ = ["Frozen", "Value", "frozen", "write"]

write: Final = object.__setattr__
"""How the core writes a field of a frozen value."""

_Kind = TypeVar("_Kind")


@dataclass_transform(frozen_default=True, eq_default=False, kw_only_default=True)
def frozen(kind: type[_Kind]) -> type[_Kind]:
    """Say to checkers of types that the fields are read-only; the class itself sees to it when it runs."""
    return kind


class Value:
    """Equal to another of its class when all fields are."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return _fields(self) == _fields(other)

    __hash__: Any = None  # fields may change, or have none


class Frozen(Value):
    """A value whose fields only the core writes."""

    __slots__ = ()

    if not TYPE_CHECKING:  # checkers would take it for leave to set anything

        def __setattr__(self, name: str, value: object) -> NoReturn:
            raise AttributeError(f"{type(self).__name__}.{name} cannot be set: the server relies on it")

        def __delattr__(self, name: str) -> NoReturn:
            raise AttributeError(f"{type(self).__name__}.{name} cannot be deleted: the server relies on it")


def _fields(value: object) -> dict[str, Any]:
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    found = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    return found | getattr(value, "__dict__", {})
