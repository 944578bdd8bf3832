# One pytest, forked for each mutant.
#
# First every test runs once unchanged, and it is noted which functions of the core it calls and how
# long it takes. A mutant then meets the tests that call its function, the quickest first; first
# with conversations played whole, and if that shows nothing, once more in every cut.

from __future__ import annotations

import ast
import functools
import gc
import importlib
import inspect
import os
import random
import resource
import signal
import sys
import time
from collections import Counter
from enum import Enum
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, Final

import pytest

from smtpproto.testing import _conversation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mutation.mutants import Mutant

__all__ = ["Verdict", "Verdicts"]

TOO_LONG: Final = 10  # times what the test took unchanged ...
AT_LEAST: Final = 1.0  # ... but at least that many seconds of processor time
IN_EVERY_CUT: Final = 1.0  # seconds for the second round of one mutant; what is not killed then has survived
MEMORY: Final = 2 << 30  # octets: a loop that collects for ever ends here
EVERY_CUT: Final = _conversation.cuts


class Verdict(Enum):
    """What came of a mutant."""

    KILLED = "killed"
    TIMEOUT = "timeout"
    SURVIVED = "survived"
    NO_TESTS = "no tests"
    UNMADE = "unmade"
    """It could not be put in place, so no test has met it."""


# What a mutant's fork exits with, and the signal of its clock. Any other end is that of one noticed.
UNNOTICED: Final = 0
NOTICED: Final = 1
UNMADE: Final = 2
VERDICT_OF: Final = {
    UNNOTICED: Verdict.SURVIVED,
    UNMADE: Verdict.UNMADE,
    -signal.SIGPROF: Verdict.TIMEOUT,
}


class Verdicts:
    """A pytest plugin that runs the mutants in place of the tests."""

    def __init__(self, mutants: Sequence[Mutant], *, jobs: int) -> None:
        self.mutants = mutants
        self.jobs = jobs
        self.verdicts: dict[Mutant, Verdict] = {}
        self.took: dict[pytest.Item, float] = {}
        self.calls: dict[str, list[pytest.Item]] = {}

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run everything unchanged, then a fork for each mutant."""
        _conversation.cuts = _whole
        self._run_unchanged(session.items)
        print(f"{len(session.items)} tests, {sum(self.took.values()):.1f} s; {len(self.mutants)} mutants")
        if not (control := os.fork()):
            _be(None, session.items, self.took)
        assert os.waitpid(control, 0)[1] == 0, "a test fails in a fork without any mutant"
        children: dict[int, Mutant] = {}
        # In an order in which every part of a run is a fair sample; no secret hangs on it.
        for mutant in random.Random(0).sample(self.mutants, len(self.mutants)):  # noqa: S311 - the same
            if len(children) >= self.jobs:
                self._wait(children)
            tests = self.calls.get(mutant.name, [])
            if not tests:
                self.verdicts[mutant] = Verdict.NO_TESTS
                continue
            child = os.fork()
            if not child:
                _be(mutant, tests, self.took)
            children[child] = mutant
        while children:
            self._wait(children)
        return True

    def _wait(self, children: dict[int, Mutant]) -> None:
        child, status = os.wait()
        mutant = children.pop(child)
        verdict = VERDICT_OF.get(os.waitstatus_to_exitcode(status), Verdict.KILLED)
        self.verdicts[mutant] = verdict
        if len(self.verdicts) % 100 == 0:
            print(len(self.verdicts), Counter(each.value for each in self.verdicts.values()), flush=True)
        if verdict in {Verdict.SURVIVED, Verdict.UNMADE}:
            print(f"{verdict.value}: {mutant}", flush=True)

    def _run_unchanged(self, items: Iterable[pytest.Item]) -> None:
        for item in items:
            called: set[str] = set()
            sys.settrace(functools.partial(_note, called))
            before = time.process_time()
            try:
                passed = _passes(item)
            finally:
                sys.settrace(None)
            assert passed, f"{item.nodeid} fails before anything is changed"
            self.took[item] = time.process_time() - before
            for name in called:
                self.calls.setdefault(name, []).append(item)
        for tests in self.calls.values():
            tests.sort(key=lambda item: self.took[item])


def _whole(segment: bytes) -> Iterator[list[bytes]]:
    yield [segment]


def _note(called: set[str], frame: Any, event: str, _: object) -> None:
    code = frame.f_code
    directory, _, file = code.co_filename.rpartition("/")
    if event == "call" and directory.endswith("smtpproto"):
        called.add(f"{file.removesuffix('.py')}.{code.co_qualname.partition('.<locals>')[0]}")


def _passes(item: pytest.Item) -> bool:
    """Run one test, fixtures and all, without the reports."""
    if not getattr(item, "_request", True):
        item._initrequest()  # type: ignore[attr-defined]  # as pytest does for a second run
    state = item.session._setupstate
    try:
        state.setup(item)
        item.runtest()
    except pytest.skip.Exception:
        return True
    except (Exception, pytest.fail.Exception):  # noqa: BLE001 - whatever it is, the test has failed
        return False
    finally:
        state.teardown_exact(None)
        if hasattr(item, "_request"):
            vars(item).update(_request=None, funcargs=None)
    return True


def _be(mutant: Mutant | None, tests: Sequence[pytest.Item], took: dict[pytest.Item, float]) -> None:
    """Live and die as a mutant; the status says whether a test noticed."""
    status = UNMADE
    try:
        os.setpgid(0, 0)
        silence = os.open(os.devnull, os.O_RDWR)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        if mutant:
            mutate(mutant)
        status = NOTICED  # also if it cannot even be run
        if not any(_fails(test, took[test]) for test in tests) and not _fails_in_a_cut(tests, took):
            status = UNNOTICED
    finally:
        os._exit(status)


def _fails(test: pytest.Item, took: float) -> bool:
    signal.setitimer(signal.ITIMER_PROF, max(AT_LEAST, TOO_LONG * took))
    passed = _passes(test)
    signal.setitimer(signal.ITIMER_PROF, 0)
    return not passed


def _fails_in_a_cut(tests: Sequence[pytest.Item], took: dict[pytest.Item, float]) -> bool:
    _conversation.cuts = EVERY_CUT
    started = time.process_time()
    for test in tests:
        if time.process_time() - started > IN_EVERY_CUT:
            return False
        if _fails(test, 100 * took[test]):
            return True
    return False


def mutate(mutant: Mutant) -> None:
    """Give the live function the mutant's code and defaults: whoever holds it, holds the mutant."""
    package = "smtpproto" if mutant.path.stem == "__init__" else f"smtpproto.{mutant.path.stem}"
    module = importlib.import_module(package)
    function = _live(module, mutant.function)
    tree = ast.parse(mutant.source())
    compiled = compile(tree, str(mutant.path), "exec", dont_inherit=True)
    _replace(function, _code(compiled, mutant.function))
    arguments = _definition(tree, mutant.function).args
    if arguments.defaults:
        function.__defaults__ = tuple(_value(each, vars(module)) for each in arguments.defaults)
    if function.__kwdefaults__:
        function.__kwdefaults__ = {
            argument.arg: _value(default, vars(module))
            for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
            if default is not None
        }


def _replace(function: FunctionType, new: CodeType) -> None:
    """New code for a function, and for the functions that it made at import."""
    old_inner, new_inner = (
        [each for each in code.co_consts if isinstance(each, CodeType) and not each.co_name.startswith("<")]
        for code in (function.__code__, new)
    )
    if old_inner:
        for made in [each for each in gc.get_objects() if isinstance(each, FunctionType)]:
            for was, becomes in zip(old_inner, new_inner, strict=False):
                if made.__code__ is was and len(was.co_freevars) == len(becomes.co_freevars):
                    made.__code__ = becomes
    function.__code__ = new


def _value(node: ast.expr, names: dict[str, Any]) -> object:
    return eval(compile(ast.Expression(node), "default", "eval"), names)  # noqa: S307 - our own source


def _live(module: object, path: str) -> FunctionType:
    """The function behind properties, class methods and caches."""
    found = functools.reduce(_inside, path.split("."), module)
    wrapped: Any = getattr(found, "fget", None) or getattr(found, "__func__", found)
    getattr(wrapped, "cache_clear", int)()
    function = inspect.unwrap(wrapped)
    assert isinstance(function, FunctionType), function
    return function


def _inside(namespace: Any, name: str) -> Any:
    return namespace.__dict__[name]


def _code(module: CodeType, path: str) -> CodeType:
    """The last code of that name: a later definition hides an earlier one, as at import."""
    found = module
    for name in path.split("."):
        found = [each for each in found.co_consts if isinstance(each, CodeType) and each.co_name == name][-1]
    return found


def _definition(tree: ast.Module, path: str) -> ast.FunctionDef:
    found: ast.Module | ast.ClassDef | ast.FunctionDef = tree
    for name in path.split("."):
        kinds = (ast.FunctionDef, ast.ClassDef)
        found = [each for each in found.body if isinstance(each, kinds) and each.name == name][-1]
    assert isinstance(found, ast.FunctionDef)
    return found
