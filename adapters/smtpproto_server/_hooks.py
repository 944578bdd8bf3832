# What a hook said, as a decision.
#
# Hooks answer in Python's own words: None, a text, True, a Reject returned or raised. Each place
# has its reading of them, a row below. Whatever has no reading is the application's error: the
# client is told 451 (421 before the session has begun) and nothing of the reason.

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Final

from smtpproto import ACCEPT, Accept, Challenge, Decision, Reject, SmtpProtoError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from smtpproto import Credentials

__all__ = ["NOT_IMPLEMENTED", "HookError", "alone", "failure", "read_result", "read_results"]

NOT_IMPLEMENTED: Final = Reject(535, "5.7.8", "Authentication not implemented")
INTERNAL_ERROR: Final = Reject(451, "4.3.0", "Error: internal error, please try again later")
INTERNAL_ERROR_AND_CLOSE: Final = Reject(421, "4.3.0", "Error: internal error, please try again later")

_CLOSING_HOOKS: Final = frozenset({"on_connect", "on_secure"})


class HookError(SmtpProtoError, TypeError):
    """A hook returned what its place has no reading for."""


def failure(name: str) -> Reject:
    """What the client is told when the hook `name` has failed."""
    return INTERNAL_ERROR_AND_CLOSE if name in _CLOSING_HOOKS else INTERNAL_ERROR


def alone(error: BaseException) -> BaseException:
    """What a hook raised: itself, or what a group holds that holds nothing else, as task groups make."""
    inside: Sequence[BaseException] = (error,)
    while len(inside) == 1:
        error = inside[0]
        inside = getattr(error, "exceptions", ()) if issubclass(type(error), BaseExceptionGroup) else ()
    return error


def read_result(name: str, value: Any, auth: Credentials | None = None) -> Decision | None:
    """The decision a hook's return value stands for; raises HookError for one that stands for none."""
    if isinstance(value, Accept | Reject):
        return value
    return _READINGS.get(name, _none_accepts)(name, value, auth)


def read_results(value: Sequence[Any], recipients: int) -> tuple[list[Accept | Reject], str]:
    """One decision for each LMTP recipient from on_data's list, and what was wrong with its length."""
    decisions = [_of_message(each) for each in value[:recipients]]
    wrong = ""
    if len(value) != recipients:
        wrong = f"on_data returned {len(value)} results for {recipients} recipients"
        decisions += [INTERNAL_ERROR] * (recipients - len(value))
    return decisions, wrong


def _of_message(value: Any) -> Accept | Reject:
    if isinstance(value, Accept | Reject):
        return value
    if value is None:
        return ACCEPT
    if isinstance(value, str):
        return Accept(text=value)
    raise _no_reading("on_data", value)


def _none_accepts(name: str, value: Any, _auth: Credentials | None) -> Decision:
    if value is None:
        return ACCEPT
    raise _no_reading(name, value)


def _none_declines(name: str, value: Any, _auth: Credentials | None) -> None:
    if value is not None:
        raise _no_reading(name, value)


def _text_accepts(_name: str, value: Any, _auth: Credentials | None) -> Decision:
    return _of_message(value)


def _user_accepts(name: str, value: Any, auth: Credentials | None) -> Decision:
    """None, False and "" are no success: a hook that forgets to return lets nobody in.

    Nor is an exception or a class a user, such as one that was to be raised or made, nor what was to be
    awaited: `return check(auth)` would let everybody in.
    """
    if isinstance(value, Challenge):
        return value
    if isinstance(value, BaseException | type | Awaitable):
        raise _no_reading(name, value)
    if not value:
        return ACCEPT  # an Accept without user is a refusal here
    if value is True and auth is not None:
        return Accept(user=auth.username)
    return Accept(user=value)


_READINGS: Final[Mapping[str, Callable[[str, Any, Credentials | None], Decision | None]]] = {
    "on_auth": _user_accepts,
    "on_data": _text_accepts,
    "on_command": _none_declines,
}


_ALSO: Final[Mapping[str, str]] = {
    "on_auth": ", Accept, Reject, Challenge, True or a user",
    "on_data": ", a text, Accept or Reject, in LMTP a list of these",
}


def _no_reading(name: str, value: Any) -> HookError:
    kind = type(value).__name__
    if isinstance(value, Awaitable):
        return HookError(f"{name} returned {kind}, which must be awaited: is there an `await` missing?")
    return HookError(f"{name} returned {kind}; it may return None{_ALSO.get(name, ', Accept or Reject')}")
