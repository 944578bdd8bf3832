# Conversations of the core's own tests, to be had again with a server.
#
# An adapter adds nothing and loses nothing: the same octets and the same decisions give the same
# replies as from the bare core, octet for octet. conversations.jsonl says what is said and what
# hooks answer; what must come back is in no file, the core is asked for it.

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from smtpproto import (
    Accept,
    AuthRequested,
    Challenge,
    CommandRequested,
    Connection,
    ConnectRequested,
    DataChunk,
    DataFinished,
    DataRequested,
    DataStarted,
    ExpandRequested,
    HelloRequested,
    HelpRequested,
    MailRequested,
    NeedsStartTLS,
    NeedsTLS,
    ProtocolOptions,
    RcptRequested,
    Reject,
    SecureRequested,
    Signal,
    TlsDetails,
    VerifyRequested,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from smtpproto import Event

__all__ = [
    "COMMON", "HANDSHAKE", "HOOK_OF", "INFORMED", "LOCAL", "Answers", "Conversation", "Exchange",
    "conversations", "from_json", "replies_of_core", "to_json",
]  # fmt: skip

COMMON: Final[Mapping[str, Any]] = {
    "name": "mx.test",
    "auth_optional": True,
    "hide_enhancedstatuscodes": False,
}
"""ProtocolOptions of every conversation that names others; also what `running` takes."""
LOCAL: Final = ("192.0.2.25", 25)
"""The server's own address, in a conversation that names its client's."""
HANDSHAKE: Final = None
"""TLS begins here."""
TLS: Final = TlsDetails({"name": "TLS_X", "standard_name": "TLS_X", "version": "TLSv1.3"})

HOOK_OF: Final[Mapping[type[Event], str]] = {
    ConnectRequested: "on_connect",
    SecureRequested: "on_secure",
    AuthRequested: "on_auth",
    MailRequested: "on_mail_from",
    RcptRequested: "on_rcpt_to",
    DataFinished: "on_data",
    HelloRequested: "on_helo",
    DataRequested: "on_data_start",
    VerifyRequested: "on_vrfy",
    ExpandRequested: "on_expn",
    HelpRequested: "on_help",
    CommandRequested: "on_command",
}
INFORMED: Final = ("on_connect", "on_secure", "on_auth", "on_mail_from", "on_rcpt_to", "on_data")
"""Hooks that a server always has; the others are there if a conversation asks for them."""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """What one conversation is made of."""

    name: str
    """The test it comes from."""
    said: tuple[bytes, ...]
    """The client waits for all replies before it says the next."""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Those that are not in COMMON."""
    answers: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What a hook says each time, or, as a list, the first times; otherwise it accepts."""
    asks: tuple[str, ...] = ()
    """The optional hooks that are there."""
    peer: tuple[str, int] | None = None
    """The client's address where it matters."""
    tls_available: bool = True

    @property
    def chunk(self) -> str:
        """Where it comes from, roughly."""
        return self.name.partition("::")[0]

    @property
    def server(self) -> str:
        """The same for conversations that one server can have."""
        return json.dumps([self.options, self.asks, self.tls_available], sort_keys=True)


class Answers:
    """What hooks say in one connection."""

    def __init__(self, given: Mapping[str, Any] = MappingProxyType({})) -> None:
        self._queues: dict[str, list[Any]] = {}
        self._always: dict[str, Any] = {}
        self.messages: list[bytes] = []
        """Those that were handed over whole."""
        self.data: bytes = b""
        """What there is so far of the one under way."""
        for hook, each in given.items():
            if isinstance(each, list):
                self._queues[hook] = [*each]  # pyright: ignore[reportUnknownArgumentType] - of answers
            else:
                self._always[hook] = each

    def next(self, hook: str, auth: Any = None) -> Any:
        """What it says this time."""
        queue = self._queues.get(hook)
        given = queue.pop(0) if queue else self._always.get(hook, _NOTHING)
        if given is not _NOTHING and not (given == Accept() and auth is not None):
            return given
        if hook == "on_command":
            return None
        return Accept() if auth is None else Accept(user=auth.username)


_NOTHING: Final = object()


# --- the bare core --------------------------------------------------------------------------------


class Exchange(NamedTuple):
    """One turn of a conversation."""

    said: bytes | None
    """None: no more."""
    replies: tuple[bytes | None, ...]
    """Octets, and HANDSHAKE where TLS begins."""


def replies_of_core(
    conversation: Conversation, options: Mapping[str, Any], peer: tuple[str, int], local: tuple[str, int]
) -> tuple[list[Exchange], list[bytes]]:
    """What comes back when the client says all this and then no more, and the messages that arrived."""
    core = Connection(
        ProtocolOptions(**options),
        remote=peer,
        local=local,
        ask=[kind for kind, hook in HOOK_OF.items() if hook in conversation.asks],
        tls_available=conversation.tls_available,
        entropy=bytes(16),
    )
    answers = Answers(conversation.answers)
    exchanges: list[Exchange] = []
    for said in (b"", *conversation.said, None):
        if said is None:
            core.receive_eof()
        elif said:
            core.receive_data(said)
        exchanges.append(Exchange(said, _settled(core, answers)))
    return exchanges, answers.messages


def _settled(core: Connection, answers: Answers) -> tuple[bytes | None, ...]:
    """Run the core until it needs more octets, or will never need any."""
    replies: list[bytes | None] = []
    octets: list[bytes] = []
    while True:
        event = core.next_event()
        if isinstance(event, Signal):
            octets.append(core.data_to_send())
            if event is Signal.SEND:
                continue
            return (*replies, b"".join(octets))
        if isinstance(event, DataStarted):
            answers.data = b""
        elif isinstance(event, DataChunk):
            answers.data += event.data
        elif isinstance(event, NeedsTLS | NeedsStartTLS):
            replies += [b"".join(octets) + core.data_to_send(), HANDSHAKE]
            octets.clear()
            core.tls_established(TLS)
        elif core.question is event:
            if isinstance(event, DataFinished) and event.refusal is None:
                answers.messages.append(answers.data)
            core.decide(answers.next(HOOK_OF[type(event)], getattr(event, "auth", None)))


# --- the file -------------------------------------------------------------------------------------


@cache
def conversations() -> Mapping[str, Mapping[str, list[Conversation]]]:
    """All of them: by `chunk`, and in it by `server`."""
    found: defaultdict[str, defaultdict[str, list[Conversation]]] = defaultdict(lambda: defaultdict(list))
    with (Path(__file__).parent / "conversations.jsonl").open(encoding="ascii") as file:
        for each in map(from_json, file):
            found[each.chunk][each.server].append(each)
    return found


def to_json(conversation: Conversation) -> str:
    """A line of the file. Octets are the characters of the same numbers."""
    fields: dict[str, Any] = {
        "name": conversation.name,
        "options": dict(conversation.options),
        "asks": conversation.asks,
        "answers": {hook: _written(each) for hook, each in conversation.answers.items()},
        "peer": conversation.peer,
        "tls_available": conversation.tls_available,
        "said": [each.decode("latin-1") for each in conversation.said],
    }
    left_out: dict[str, Any] = {"options": {}, "asks": (), "answers": {}, "peer": None, "tls_available": True}
    return json.dumps({name: each for name, each in fields.items() if left_out.get(name, ...) != each})


def from_json(line: str) -> Conversation:
    """Read a line of the file."""
    fields: dict[str, Any] = json.loads(line)
    peer = fields.get("peer")
    return Conversation(
        name=fields["name"],
        said=tuple(each.encode("latin-1") for each in fields["said"]),
        options=fields.get("options", {}),
        answers={hook: _read(each) for hook, each in fields.get("answers", {}).items()},
        asks=tuple(fields.get("asks", ())),
        peer=None if peer is None else (peer[0], peer[1]),
        tls_available=fields.get("tls_available", True),
    )


def _written(answer: Any) -> Any:
    """An answer as JSON; KeyError for one that cannot be written."""
    match answer:
        case list():
            return [_written(each) for each in answer]  # pyright: ignore[reportUnknownVariableType]
        case tuple():
            return {"each": [_written(each) for each in answer]}  # pyright: ignore[reportUnknownVariableType]
        case Challenge(data=data):
            return {"challenge": data.decode("latin-1")}
        case None:
            return None
        case _:
            names = _FIELDS[type(answer)]
            said = {name: getattr(answer, name) for name in names if getattr(answer, name) is not None}
            return {type(answer).__name__.lower(): said}


def _read(answer: Any) -> Any:
    match answer:
        case list():
            return [_read(each) for each in answer]  # pyright: ignore[reportUnknownVariableType]
        case {"each": decisions}:
            return tuple(_read(each) for each in decisions)
        case {"challenge": text}:
            return Challenge(text.encode("latin-1"))
        case {"accept": fields}:
            return Accept(**fields)
        case {"reject": fields}:
            return Reject(**fields)
        case _:
            return answer


_FIELDS: Final[Mapping[type[Any], tuple[str, ...]]] = {
    Accept: ("code", "enhanced", "text", "user"),
    Reject: ("code", "enhanced", "text", "challenge"),
}
