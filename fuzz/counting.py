# Coverage at a fifth of the price: one store into a bytearray for each branch, where atheris' own
# instrumentation makes a call. libFuzzer is handed the bytearray through the interface it has for
# compilers (SanitizerCoverage, inline 8-bit counters) and sees no difference.
#
# A place is counted as reached or not; how often is not said.

from __future__ import annotations

import ast
import ctypes
import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import SourceFileLoader
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

__all__ = ["COUNTED", "REACHED", "Counting", "hand_over"]

COUNTED: Final = ("smtpproto", "smtpproto_server", "fuzz.grammar", "fuzz.bodies", "fuzz.proxies")
"""What is counted. The readers that targets have for comparison look at each character, where the core
has a pattern, which tells nothing of how far it came."""
PLACES: Final = 1 << 13
REACHED: Final = bytearray(PLACES)
"""One octet for each place in the code, set when it is reached."""
_NAME: Final = "__reached__"


class Counting(MetaPathFinder):
    """Counts the branches of the packages and modules named, if they are imported from here on."""

    def __init__(self, *packages: str) -> None:
        self._prefixes = tuple(f"{package}." for package in packages)
        self.places = 0

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What imports the module: as the finders behind this one say, and counting."""
        if not f"{fullname}.".startswith(self._prefixes):
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None and type(spec.loader) is SourceFileLoader:
                spec.loader = _Loader(spec.loader.name, spec.loader.path, self)
            if spec is not None:
                return spec
        return None


class _Loader(SourceFileLoader):
    def __init__(self, fullname: str, path: str, counting: Counting) -> None:
        super().__init__(fullname, path)
        self._counting = counting

    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        tree = ast.parse(self.get_data(path), path)
        _Marking(self._counting).visit(tree)
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        vars(module)[_NAME] = REACHED
        super().exec_module(module)


class _Marking(ast.NodeTransformer):
    """Puts a store at the beginning of every function, branch, loop and handler."""

    def __init__(self, counting: Counting) -> None:
        self._counting = counting

    def visit(self, node: ast.AST) -> ast.AST:
        """Mark what is inside, then the node itself."""
        self.generic_visit(node)
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ExceptHandler() | ast.match_case():
                node.body.insert(0, self._mark(node.body[0]))
            case ast.If() | ast.For() | ast.AsyncFor() | ast.While():
                node.body.insert(0, self._mark(node))
                node.orelse.insert(0, self._mark(node))
            case ast.IfExp():
                node.body, node.orelse = self._marked(node.body), self._marked(node.orelse)
            case ast.BoolOp():
                node.values[1:] = [self._marked(value) for value in node.values[1:]]
            case _:
                pass
        return node

    def _mark(self, like: ast.AST) -> ast.stmt:
        index = ast.Subscript(ast.Name(_NAME, ast.Load()), ast.Constant(self._next()), ast.Store())
        return ast.copy_location(ast.Assign([index], ast.Constant(1)), like)

    def _marked(self, node: ast.expr) -> ast.expr:
        """The same value, and on the way to it a place that is reached."""
        store = ast.Attribute(ast.Name(_NAME, ast.Load()), "__setitem__", ast.Load())
        call = ast.Call(store, [ast.Constant(self._next()), ast.Constant(1)], [])
        return ast.copy_location(ast.BoolOp(ast.Or(), [call, node]), node)

    def _next(self) -> int:
        place = self._counting.places
        assert place < PLACES
        self._counting.places += 1
        return place


def hand_over(*counters: bytearray) -> None:
    """Tell libFuzzer where the counters are; it looks at them and clears them behind each run."""
    # Imported here: whoever only counts does not need it.
    library = ctypes.CDLL(import_module("atheris.core_with_libfuzzer").__file__ or "")
    for each in counters:
        array = (ctypes.c_uint8 * len(each)).from_buffer(each)
        _tell(library.__sanitizer_cov_8bit_counters_init, array)
        # A table of (address, flags) must go with them, or nothing is said of how much was covered.
        rows = (number for place in range(len(each)) for number in (len(_KEPT) << 16 | place + 1, 0))
        _tell(library.__sanitizer_cov_pcs_init, (ctypes.c_uint64 * (2 * len(each)))(*rows))


def _tell(function: Any, array: Any) -> None:
    begin = ctypes.addressof(array)
    function(ctypes.c_void_p(begin), ctypes.c_void_p(begin + ctypes.sizeof(array)))
    _KEPT.append(array)


_KEPT: Final[list[Any]] = []
