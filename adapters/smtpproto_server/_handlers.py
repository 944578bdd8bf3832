# What hooks are called with and may return: for type checkers, and checked where a hook is set.
#
# The bases of handlers have their hooks for type checkers only. At run time a hook that is there is
# called, so a base that had them would answer every question.

from __future__ import annotations

import difflib
import inspect
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from typing import TypeAlias

    from smtpproto import Accept, Address, Challenge, Credentials, Reject, Session
    from smtpproto_server._stream import AsyncStream, Stream

    Answer: TypeAlias = Accept | Reject | None
    # A str is one of its own; and what says yes to one recipient says so in a list, too.
    MessageAnswer: TypeAlias = Answer | str | Sequence[Answer | str]
    # Whatever is true is a user; `object` says that none of these needs to be written down.
    LoginAnswer: TypeAlias = Accept | Reject | Challenge | object

    OnSession: TypeAlias = Callable[[Session], Answer | Awaitable[Answer]]
    OnSecure: TypeAlias = Callable[[ssl.SSLObject | None, Session], Answer | Awaitable[Answer]]
    OnAuth: TypeAlias = Callable[[Credentials, Session], LoginAnswer]
    OnAddress: TypeAlias = Callable[[Address, Session], Answer | Awaitable[Answer]]
    OnData: TypeAlias = (
        Callable[[AsyncStream, Session], Awaitable[MessageAnswer]]
        | Callable[[Stream, Session], MessageAnswer]
    )
    OnClose: TypeAlias = Callable[[Session], Awaitable[None] | None]
    OnText: TypeAlias = Callable[[str, Session], Answer | Awaitable[Answer]]
    OnTwoTexts: TypeAlias = Callable[[str, str, Session], Answer | Awaitable[Answer]]

__all__ = ["HOOKS", "OPTIONAL_HOOKS", "Handler", "PlainHandler", "check_handler", "check_hook", "nearest"]

HOOKS: Final = ("on_connect", "on_secure", "on_auth", "on_mail_from", "on_rcpt_to", "on_data", "on_close")
OPTIONAL_HOOKS: Final = ("on_helo", "on_data_start", "on_vrfy", "on_expn", "on_help", "on_command")

ARGUMENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "on_connect": ("session",),
    "on_secure": ("ssl_object", "session"),
    "on_auth": ("auth", "session"),
    "on_mail_from": ("address", "session"),
    "on_rcpt_to": ("address", "session"),
    "on_data": ("stream", "session"),
    "on_close": ("session",),
    "on_helo": ("verb", "name", "session"),
    "on_data_start": ("session",),
    "on_vrfy": ("argument", "session"),
    "on_expn": ("argument", "session"),
    "on_help": ("argument", "session"),
    "on_command": ("verb", "argument", "session"),
    "resolver": ("ip",),
}
"""What each hook is called with, by position."""


class Handler:
    """Base of handlers whose hooks are coroutine functions, for type checkers.

    It has no hooks and changes nothing at run time: a method that you leave out is not called. mypy and
    pyright compare those that you write with what they are called with and may return.
    """

    __slots__ = ()

    if TYPE_CHECKING:

        async def on_connect(self, session: Session, /) -> Answer: ...
        async def on_secure(self, ssl_object: ssl.SSLObject | None, session: Session, /) -> Answer: ...
        async def on_auth(self, auth: Credentials, session: Session, /) -> LoginAnswer: ...
        async def on_mail_from(self, address: Address, session: Session, /) -> Answer: ...
        async def on_rcpt_to(self, address: Address, session: Session, /) -> Answer: ...
        async def on_data(self, stream: AsyncStream, session: Session, /) -> MessageAnswer: ...
        async def on_close(self, session: Session, /) -> None: ...
        async def on_helo(self, verb: str, name: str, session: Session, /) -> Answer: ...
        async def on_data_start(self, session: Session, /) -> Answer: ...
        async def on_vrfy(self, argument: str, session: Session, /) -> Answer: ...
        async def on_expn(self, argument: str, session: Session, /) -> Answer: ...
        async def on_help(self, argument: str, session: Session, /) -> Answer: ...
        async def on_command(self, verb: str, argument: str, session: Session, /) -> Answer: ...


class PlainHandler:
    """Base of handlers whose hooks are plain functions, for type checkers; else as Handler."""

    __slots__ = ()

    if TYPE_CHECKING:

        def on_connect(self, session: Session, /) -> Answer: ...
        def on_secure(self, ssl_object: ssl.SSLObject | None, session: Session, /) -> Answer: ...
        def on_auth(self, auth: Credentials, session: Session, /) -> LoginAnswer: ...
        def on_mail_from(self, address: Address, session: Session, /) -> Answer: ...
        def on_rcpt_to(self, address: Address, session: Session, /) -> Answer: ...
        def on_data(self, stream: Stream, session: Session, /) -> MessageAnswer: ...
        def on_close(self, session: Session, /) -> None: ...
        def on_helo(self, verb: str, name: str, session: Session, /) -> Answer: ...
        def on_data_start(self, session: Session, /) -> Answer: ...
        def on_vrfy(self, argument: str, session: Session, /) -> Answer: ...
        def on_expn(self, argument: str, session: Session, /) -> Answer: ...
        def on_help(self, argument: str, session: Session, /) -> Answer: ...
        def on_command(self, verb: str, argument: str, session: Session, /) -> Answer: ...


def check_handler(handler: Any) -> None:
    """Raise TypeError for an object that cannot be a handler, or not the one that was meant."""
    if isinstance(handler, type):
        name = handler.__qualname__
        raise TypeError(f"handler is the class {name}; give an instance of it: handler={name}()")
    check_names(handler)
    names = (*HOOKS, *OPTIONAL_HOOKS)
    hooks = {name: hook for name in names if (hook := getattr(handler, name, None)) is not None}
    if not hooks:
        raise TypeError(f"the handler {type(handler).__qualname__} has no hook; {_known_hooks()}")
    for name, hook in hooks.items():
        check_hook(name, hook)


def check_names(owner: object) -> None:
    """Raise TypeError if a method is called like a hook and is none."""
    for name in dir(owner):
        if _like_a_hook(name) and not is_hook(name) and callable(getattr(owner, name, None)):
            raise TypeError(f"{type(owner).__qualname__}.{no_hook(name)}")


def check_hook(name: str, hook: Any) -> None:
    """Raise TypeError for what is no hook, or cannot be called with what this one is called with."""
    if not callable(hook):
        raise TypeError(f"{name} must be a function, not {type(hook).__name__}")
    wanted = ARGUMENTS[name]
    try:
        # What a decorator hands on is its own affair.
        signature = inspect.signature(hook, follow_wrapped=False)
    except (TypeError, ValueError):  # it is not known
        return
    try:
        signature.bind(*wanted)
    except TypeError:
        where = getattr(hook, "__qualname__", type(hook).__qualname__)
        raise TypeError(
            f"{name} is called with ({', '.join(wanted)}), and {where} takes {_parameters(signature)}"
        ) from None


def is_hook(name: str) -> bool:
    """Whether hooks have this name."""
    return name in HOOKS or name in OPTIONAL_HOOKS


def no_hook(name: str) -> str:
    """What to say of an attribute that is called like a hook and is none."""
    return f"{name} is no hook; {_meant(name)}"


def nearest(name: str, names: Iterable[str]) -> str:
    """The name that was meant, as a question; "" if none is near."""
    near = difflib.get_close_matches(name.lower().replace("-", "_"), names, n=1)
    return f"did you mean {near[0]}?" if near else ""


def _like_a_hook(name: str) -> bool:
    return name.startswith("on_") or name.lower() in _RUN_TOGETHER


# By their names in camel case, onRcptTo, as they are in lower case.
_RUN_TOGETHER: Final = {name.replace("_", ""): name for name in (*HOOKS, *OPTIONAL_HOOKS)}


def _meant(name: str) -> str:
    if hook := _RUN_TOGETHER.get(name.lower()):
        return f"did you mean {hook}?"
    return nearest(name, (*HOOKS, *OPTIONAL_HOOKS)) or _known_hooks()


def _known_hooks() -> str:
    return f"hooks are {', '.join((*HOOKS, *OPTIONAL_HOOKS))}"


def _parameters(signature: inspect.Signature) -> str:
    return f"({', '.join(signature.parameters)})"
