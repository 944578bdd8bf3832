# Decisions: what the application answers to an event that asks.
#
# A decision that exists is well formed: codes and enhanced codes are checked when it is made, so
# that a wrong one fails where it was written and not in the middle of a session.

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from smtpproto._reply import ENHANCED, Reply, default_enhanced, default_text, is_blank, split_enhanced
from smtpproto._values import ReadOnly, Value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["ACCEPT", "Accept", "Challenge", "Decision", "Reject"]


class Accept(Value):
    """Yes. Without fields: with the reply that the command has for success.

    Raises ValueError for a code outside 200-299 or an enhanced code of another class.
    """

    __slots__ = ("_code", "_enhanced", "_text", "_user")

    code: ReadOnly[int | None] = ReadOnly()
    """None for the command's own; RCPT also takes 251 (RFC 5321 §3.4), a verb of your own any 2yz."""
    enhanced: ReadOnly[str | None] = ReadOnly()
    """RFC 3463 code, None for the one that goes with the command."""
    text: ReadOnly[str | tuple[str, ...] | None] = ReadOnly()
    """One text or several lines; None for the command's own. In `on_connect` it is the banner's text."""
    user: ReadOnly[Any] = ReadOnly()
    """AuthRequested only: who has logged in; must be true."""

    def __init__(
        self,
        code: int | None = None,
        enhanced: str | None = None,
        text: str | Iterable[str] | None = None,
        *,
        user: Any = None,
    ) -> None:
        _check("Accept", code, range(200, 300), enhanced, "2")
        self._code: int | None = code
        self._enhanced: str | None = enhanced
        self._text: str | tuple[str, ...] | None = _frozen(text)
        self._user: Any = user

    def __hash__(self) -> int:
        return hash((self.code, self.enhanced, self.text))

    def __repr__(self) -> str:
        user = None if self.user is None else "***"  # an object of the application's
        return f"Accept({self.code!r}, {self.enhanced!r}, {self.text!r}, user={user})"


class Reject(Exception):  # noqa: N818 - a decision that may also be raised, not an error of ours
    """No. Without fields: with the reply that the place has for refusal.

    May be returned from a hook or raised in it. A code of 421 also closes the connection.
    Raises ValueError for a code outside 400-599 or an enhanced code of another class, TypeError or
    ValueError for a challenge that is no JSON.
    """

    code: ReadOnly[int | None] = ReadOnly()
    """None for the place's own."""
    enhanced: ReadOnly[str | None] = ReadOnly()
    """RFC 3463 code, None for the one that goes with the place or the code."""
    text: ReadOnly[str | tuple[str, ...] | None] = ReadOnly()
    """One text or several lines; None for the place's or the code's own."""
    challenge: ReadOnly[Mapping[str, Any] | None] = ReadOnly()
    """XOAUTH2 only: sent to the client as JSON before the refusal."""

    def __init__(
        self,
        code: int | None = None,
        enhanced: str | None = None,
        text: str | Iterable[str] | None = None,
        *,
        challenge: Mapping[str, Any] | None = None,
    ) -> None:
        _check("Reject", code, range(400, 600), enhanced, "45")
        lines = _frozen(text)
        super().__init__(code, enhanced, lines)
        self._code: int | None = code
        self._enhanced: str | None = enhanced
        self._text: str | tuple[str, ...] | None = lines
        self._challenge: Mapping[str, Any] | None = None if challenge is None else _json_object(challenge)

    @classmethod
    def parse(cls, line: str) -> Reject:
        """A reply as it is written: `550 5.1.1 No such user`; further lines may leave the code out.

        One of another server's with 421 closes this connection as well, if it is used as it is.
        Raises ValueError for what is no reply of 400 to 599.
        """
        lines: list[tuple[str, str]] = [found for each in line.splitlines() for found in _REPLY_LINE(each)]
        if not lines or not lines[0][0]:
            raise ValueError(f"{line!r} is not a reply: '550 5.1.1 text' is one")
        codes = {code for code, _ in lines} - {""}
        if len(codes) != 1:
            raise ValueError(f"{line!r} has {len(codes)} codes; a reply has one")
        code = int(codes.pop())
        read = [split_enhanced(code, text) for _, text in lines]
        texts = [text for _, text in read]
        return cls(code, read[0][0], texts if len(texts) > 1 else texts[0] or None)

    def __str__(self) -> str:
        """As `parse` reads it; what is None is left out, or for the code the place's most frequent one."""
        texts = (self.text,) if isinstance(self.text, str) else self.text or ()
        lines = [line for text in texts for line in text.splitlines() or ("",)] or [""]
        code = self.code or _code_like(self.enhanced or "5", 550)
        coded = f"{self.enhanced} " if self.enhanced else ""
        *first, last = [f"{coded}{line}".rstrip() for line in lines]
        return "\n".join([*(f"{code}-{line}" for line in first), f"{code} {last}".rstrip()])

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Reject, challenge=self.challenge), (self.code, self.enhanced, self.text)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Reject):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in _REJECT_FIELDS)

    def __hash__(self) -> int:
        return hash((self.code, self.enhanced, self.text))

    def __repr__(self) -> str:
        return f"Reject({self.code!r}, {self.enhanced!r}, {self.text!r})"


class Challenge(Value):
    """Not yet: send `data` as one more 334 of the SASL exchange (RFC 4954 §4)."""

    __slots__ = ("_data",)

    data: ReadOnly[bytes] = ReadOnly()
    """The octets before base64."""

    def __init__(self, data: bytes) -> None:
        if not isinstance(data, bytes):  # pyright: ignore[reportUnnecessaryIsInstance] - callers without types
            raise TypeError(f"Challenge takes bytes, not {type(data).__name__}")
        self._data: bytes = data

    def __hash__(self) -> int:
        return hash(self.data)

    def __repr__(self) -> str:
        return f"Challenge(<{len(self.data)} octets>)"


Decision = Accept | Reject | Challenge


def decided_reply(
    decision: Accept | Reject,
    default: Reply,
    *,
    utf8: bool = False,
    code_defaults: Mapping[int, str] | None = None,
) -> Reply:
    """The reply for a decision, where `default` is what the place says when nothing is said.

    `code_defaults` are enhanced codes of the place that go before those of the code (docs/behaviour.md
    §13.2: an on_data 550 is a 5.7.1).
    """
    code, enhanced, text = decision.code, decision.enhanced, decision.text
    if code is None:
        code = default.code if enhanced is None else _code_like(enhanced, default.code)
    if enhanced is None and text:
        first, *more = (text,) if isinstance(text, str) else text
        enhanced, first = split_enhanced(code, first)
        text = (first, *more) if first else tuple(more)
    same = code == default.code
    if enhanced is None:
        if same and text is None:
            return default
        enhanced = default.enhanced if same else _enhanced_at(code, code_defaults)
    if text is None or is_blank(text):
        # 250 and 251 say the same thing of a command; a failure of another code is another failure.
        text = default.lines if same or code // 100 == 2 else default_text(code)  # noqa: PLR2004
    return Reply(code, enhanced, text, utf8=utf8)


def _enhanced_at(code: int, code_defaults: Mapping[int, str] | None) -> str:
    return (code_defaults or {}).get(code) or default_enhanced(code)


def _code_like(enhanced: str, code: int) -> int:
    """The place's code, moved into the class of an enhanced code that came alone."""
    return code if int(enhanced[0]) == code // 100 else _CODE_OF_CLASS[enhanced[0]]


_CODE_OF_CLASS: Final[Mapping[str, int]] = {"4": 451, "5": 550}  # an Accept stays what it is


def _check(kind: str, code: int | None, codes: range, enhanced: str | None, classes: str) -> None:
    if code is not None and (type(code) is not int or code not in codes):
        # Accept(user) in the place of Accept(user=user): of what is no number the type is enough.
        shown = code if isinstance(code, int | float) else type(code).__name__  # pyright: ignore[reportUnnecessaryIsInstance] - callers without types
        raise ValueError(f"{kind} takes a code from {codes.start} to {codes.stop - 1}, not {shown}")
    if enhanced is None:
        return
    if ENHANCED.fullmatch(enhanced) is None:
        such = f"such as {classes[-1]}.7.1 (RFC 3463 §2)"
        raise ValueError(f"{enhanced!r} is not an enhanced status code {such}; a text is text=...")
    allowed = classes if code is None else str(code)[0]
    if enhanced[0] not in allowed:
        raise ValueError(f"{kind}: enhanced code {enhanced} does not go with {code or 'class ' + classes}")


def _json_object(challenge: Mapping[str, Any]) -> dict[str, Any]:
    import json  # noqa: PLC0415 - a large module for a rare refusal

    members = dict(challenge)
    json.dumps(members, allow_nan=False)  # fails here, where it was written, and not in the exchange
    return members


def _frozen(text: str | Iterable[str] | None) -> str | tuple[str, ...] | None:
    if text is None or isinstance(text, str):
        return text
    lines = tuple(text)
    if not all(isinstance(line, str) for line in lines):  # pyright: ignore[reportUnnecessaryIsInstance]
        types = ", ".join(type(line).__name__ for line in lines)
        raise TypeError(f"a reply text is str or a list of str, not a list of {types}")
    return lines


_REJECT_FIELDS: Final = ("code", "enhanced", "text", "challenge")
_REPLY_LINE: Final = re.compile(r"\A(?:([0-9]{3})(?:[ -]|\Z))?(.*)").findall

ACCEPT: Final = Accept()
"""The plain yes, shared: it costs nothing."""
