# Values: what events and hooks carry. An application compares, copies and pickles them, and changes none.
#
# Each field is a private slot, which the core writes, and a property of the public name, which cannot
# be set.

from __future__ import annotations

from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Generic, TypeVar, dataclass_transform

__all__ = ["ReadOnly", "Value", "fields_of", "frozen"]

_T = TypeVar("_T")


class ReadOnly(Generic[_T]):
    """A field that is read: `name: ReadOnly[str] = ReadOnly()` is a property of the slot `_name`."""

    def __set_name__(self, owner: type, name: str) -> None:
        setattr(owner, name, property(attrgetter(f"_{name}")))

    if TYPE_CHECKING:

        def __get__(self, instance: object, owner: type | None = None) -> _T: ...


class Value:
    """Equal to another of its class when all fields are."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        added, others = (getattr(each, "__dict__", None) for each in (self, other))  # by a subclass
        return fields_of(self) == fields_of(other) and added == others

    __hash__: Any = None  # fields may change, or have none


def fields_of(value: object) -> dict[str, Any]:
    """What stands in the slots of a value, by name."""
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    return {name: getattr(value, name) for name in slots if name != "__dict__" and hasattr(value, name)}


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(kind: type[_T]) -> type[_T]:
    """A frozen dataclass, for what is made with every command.

    The `__init__` of dataclasses looks each field up by its name; this one does not.
    """
    made: Any = dataclass(frozen=True, slots=True)(kind)
    names = [each.name for each in fields(made)]
    scope = {f"set_{name}": getattr(made, name).__set__ for name in names}
    body = "; ".join(f"set_{name}(self, {name})" for name in names)
    exec(f"def __init__(self, {', '.join(names)}): {body or 'pass'}", scope)  # noqa: S102 - as dataclasses do
    scope["__init__"].__annotations__ = made.__init__.__annotations__
    made.__init__ = scope["__init__"]
    return made  # type: ignore[no-any-return] # dataclass gives back what it was given
