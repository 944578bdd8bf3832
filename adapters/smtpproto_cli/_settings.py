# Options by name and value, from a file and from the command line.
#
# Nothing here knows an option: names, kinds and limits are those of the Options class, asked for
# its own checks. What is added is where a value came from, so that the message can say it.

from __future__ import annotations

import re
import tomllib
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final, cast

from smtpproto_cli._faults import Fault
from smtpproto_server import Options
from smtpproto_server.adapting import HOOKS, OPTIONAL_HOOKS, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

__all__ = ["Settings", "acceptable", "is_option"]

# Functions and objects: no text can say what they are.
PYTHON_ONLY: Final = frozenset(
    {*HOOKS, *OPTIONAL_HOOKS, "handler", "resolver", "sasl_mechanisms", "ssl_context"}
)
# What is no option of the server but of this command.
FLAGS: Final = frozenset(
    {
        "discard", "host", "listen", "maildir", "port", "print", "runtime", "trace", "unix", "user", "users",
        "verbose", "workers",
    }
)  # fmt: skip
# What TOML has no word for, and Python's spelling of what it has.
_WORDS: Final[Mapping[str, Any]] = {"none": None, "None": None, "True": True, "False": False}
# Passes as an option's name at the beginning of a message about it.
NAME: Final = re.compile(r"[a-z0-9_]+")
MISTYPED: Final = re.compile(r"[\w.=-]{0,40}")  # names have 36 characters at most

_CHECKS: Final[Mapping[str, Any]] = {
    spec.name: spec.metadata.get("check") for spec in fields(Options) if spec.name not in PYTHON_ONLY
}


class Settings:
    """Options that were given, and by whom. A later value of an option replaces an earlier one."""

    __slots__ = ("_origins", "listeners", "values")

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        """Values by the names of options."""
        self.listeners: list[tuple[Mapping[str, Any], str]] = []
        """What each `[[listen]]` says, and where it stands."""
        self._origins: dict[str, str] = {}

    def read_file(self, path: Path) -> None:
        """Take the options of a TOML file. Raises Fault if it cannot be read or names none of ours."""
        origin = str(path)
        for name, value in _toml_file(path).items():
            if name == "listen":
                self.listeners = _tables(value, origin)
                continue
            _insist_on_name(name, origin)
            self.put(name, acceptable(name, value), origin)

    def read_assignment(self, text: str) -> None:
        """Take one `name=value` of the command line; the value is TOML, or else plain text."""
        name, equals, value = text.partition("=")
        name = name.strip()
        if not (name and equals):
            raise Fault(f"--set wants name=value, not {_shown(text)}")
        _insist_on_name(name, "--set")
        self.put(name, _acceptable(name, _readings(value.strip())), "--set")

    def put(self, name: str, value: Any, origin: str) -> None:
        """Set an option to a value that stands in `origin`."""
        self.values[name] = value
        self._origins[name] = origin

    def default(self, **values: Any) -> None:
        """Set what was not given."""
        for name, value in values.items():
            self.values.setdefault(name, value)

    def options(self, **hooks: Any) -> Options:
        """The options with these hooks. Raises Fault for a value that an option does not take."""
        try:
            return Options(**self.values, **hooks)
        except (TypeError, ValueError) as error:
            raise self.fault(error) from None

    def fault(self, error: TypeError | ValueError) -> Fault:
        """An error of the server about an option, with the place where the option was set."""
        about = NAME.match(str(error))
        origin = self._origins.get(about[0]) if about else None
        return Fault(f"{origin}: {error}" if origin else str(error))


def _toml_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise Fault(f"--config: cannot read {str(path)!r}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # also octets that are not UTF-8
        raise Fault(f"{path} is not TOML: {error}") from None


def _tables(value: Any, origin: str) -> list[tuple[Mapping[str, Any], str]]:
    found: list[tuple[Any, str]] = []
    if isinstance(value, list):
        tables = cast("list[Any]", value)  # type: ignore[redundant-cast] # pyright needs it
        found = [(table, f"{origin}: [[listen]] {number}") for number, table in enumerate(tables, start=1)]
    if not found or not all(isinstance(table, dict) for table, _ in found):
        raise Fault(f"{origin}: listen must be tables; begin each with [[listen]]")
    return found


def is_option(name: str) -> bool:
    """Whether the server has an option of this name."""
    return name in _CHECKS or name in PYTHON_ONLY


def _insist_on_name(name: str, origin: str) -> None:
    if name in _CHECKS:
        return
    if name in PYTHON_ONLY:
        raise Fault(f"{origin}: {name} takes a Python object; set it in a program of your own")
    if name in FLAGS:
        raise Fault(f"{origin}: {name} is no option of the server; say it on the command line")
    hint = nearest(name, _CHECKS) or "the names are those of smtpproto_server.Options"
    raise Fault(f"{origin}: there is no option {_shown(name)}; {hint}")


def _shown(text: str) -> str:
    """The text if it may be a name that was mistyped; it may also be a key that lost its `key=`."""
    return repr(text) if MISTYPED.fullmatch(text) else "this text"


def _readings(text: str) -> Iterator[Any]:
    """What a text of the command line may stand for, the likeliest first."""
    try:
        # Only a value: with a line break in it, a text could go on to further keys.
        made = tomllib.loads(f"value = {text}")
        if len(made) == 1:
            yield made["value"]
    except (ValueError, RecursionError):
        pass
    yield text
    yield [
        part.strip() for part in text.split(",")
    ]  # PLAIN,LOGIN: TOML's quotes are hard to get past a shell


def acceptable(name: str, value: Any) -> Any:
    """A value of a TOML file as an option takes it."""
    return _acceptable(name, [value])


def _acceptable(name: str, readings: Iterable[Any]) -> Any:
    """The first that the option takes; else the first of all, for the message."""
    candidates = list(readings)
    # A text that is wanted as a text stays one: a host may be called "none".
    candidates += [_WORDS[value] for value in candidates if isinstance(value, str) and value in _WORDS]
    check = _CHECKS[name]
    return next((value for value in candidates if _passes(check, value)), candidates[0])


def _passes(check: Callable[[Any], Any] | None, value: Any) -> bool:
    if check is None:
        return True
    try:
        check(value)
    except (TypeError, ValueError):
        return False
    return True
