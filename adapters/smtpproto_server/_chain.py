# Handlers in a row. A hook that several of them have asks them in order; one that a single handler has is
# that handler's own.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from smtpproto import ACCEPT, Accept
from smtpproto_server._handlers import HOOKS, OPTIONAL_HOOKS, check_handler
from smtpproto_server._steps import plain_result, take

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from smtpproto_server._steps import Steps

    Hooks = Sequence[Callable[..., Any]]

__all__ = ["Chain", "ChainedHook", "chain", "members_of", "parts_of"]


def chain(*handlers: object) -> Chain:
    """One handler made of several, which are asked in order.

    The first Reject counts, and those after it are not asked. If nobody refuses, the first Accept that
    says more than a plain yes counts. In `on_auth` and `on_command` the first answer that is not None
    counts. `on_close` is called of all. Only one of them may have `on_data`. Coroutine functions and
    plain functions mix in runtimes that have both.

    Raises TypeError for what cannot be a handler, and for a second `on_data`.
    """
    return Chain(handlers)


class Chain:
    """What `chain` gives. It has the hooks that its members have when it is made."""

    def __init__(self, handlers: Sequence[object]) -> None:
        self.members: Final = tuple(member for handler in handlers for member in members_of(handler))
        """The handlers; those of a chain in place of that chain."""
        for member in self.members:
            check_handler(member)
        for name in (*HOOKS, *OPTIONAL_HOOKS):
            owners = [member for member in self.members if getattr(member, name, None) is not None]
            if name == "on_data" and len(owners) > 1:
                names = " and ".join(type(owner).__qualname__ for owner in owners)
                raise TypeError(f"one handler of a chain may have on_data, and {names} have it")
            hooks = [getattr(owner, name) for owner in owners]
            if hooks:
                setattr(self, name, hooks[0] if len(hooks) == 1 else ChainedHook(name, hooks))


class ChainedHook:
    """The hooks of one name, as one that is called."""

    __slots__ = ("hooks", "name")

    def __init__(self, name: str, hooks: Hooks) -> None:
        self.name: str = name
        self.hooks: Hooks = hooks

    def __call__(self, *args: Any) -> Any:
        """Where hooks are plain functions."""
        return take(self.steps(), lambda hook: plain_result(self.name, hook, args))

    def steps(self) -> Steps:
        """Gives the hooks to call; returns the answer."""
        return _WAYS.get(self.name, _until_refused)(self.hooks)


def members_of(handler: object) -> tuple[object, ...]:
    """The handlers that a handler is made of."""
    return handler.members if isinstance(handler, Chain) else (handler,)


def parts_of(hook: Callable[..., Any]) -> Hooks:
    """The functions that a hook is made of."""
    return hook.hooks if isinstance(hook, ChainedHook) else (hook,)


def _until_refused(hooks: Hooks) -> Steps:
    """What is neither None nor an Accept ends it, also if it has no meaning: then the hook has failed."""
    answer = None
    for hook in hooks:
        said = yield hook
        if not (said is None or isinstance(said, Accept)):
            return said
        if answer is None and said != ACCEPT:
            answer = said
    return answer


def _until_answered(hooks: Hooks) -> Steps:
    for hook in hooks:
        said = yield hook
        if said is not None:
            return said
    return None


def _all(hooks: Hooks) -> Steps:
    """An exception ends none but its own. What cancels a hook is no Exception, and cancels all."""
    errors: list[Exception] = []
    for hook in hooks:
        try:
            yield hook
        except Exception as error:  # noqa: BLE001 - raised when all were called
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ExceptionGroup("several handlers of a chain have failed", errors)


_WAYS: Final[Mapping[str, Callable[[Hooks], Steps]]] = {
    "on_auth": _until_answered,
    "on_command": _until_answered,
    "on_close": _all,
}
