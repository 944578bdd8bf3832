# What is timed and counted: conversations with the core, in the pieces in which a client sends them.
#
# A benchmark that does less than it says is worse than none. So each conversation names the replies
# that it must get, and a test has them all. Only the public names of the core are used.

from __future__ import annotations

import math
from base64 import b64encode
from itertools import cycle, islice
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from smtpproto import ACCEPT, Accept, Connection, ProtocolOptions, Signal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

KIB: Final = 1024
MIB: Final = 1024 * KIB
BareNewlines: TypeAlias = Literal["reject", "accept"]
PIECE: Final = 64 * KIB  # octets, what a server reads at once

OPTIONS: Final = ProtocolOptions(name="mx.example.com", auth_optional=True)


class Conversation(NamedTuple):
    """What a client says, and what it is to hear."""

    name: str
    says: Sequence[bytes]
    """As it is cut: behind each piece the core is asked until it wants more."""
    codes: str
    """Those of all replies, with a blank between two."""
    options: ProtocolOptions = OPTIONS
    session: bool = False
    """Each time a session of its own, with its greeting; else again and again in one, behind EHLO."""
    decision: Accept = ACCEPT
    """The answer to every question."""
    octets: int = 0
    """Those of the message, where the conversation is about one."""


def play(conversation: Conversation, times: int = 1) -> bytes:
    """Have the conversation so many times; the replies of the last time."""
    replies: list[bytes] = []
    if conversation.session:
        for _ in range(times):
            replies.clear()
            connection = _greeted(conversation.options, replies)
            _say(connection, conversation.says, conversation.decision, replies)
    else:
        connection = _greeted(conversation.options, replies)
        _say(connection, HELLO, ACCEPT, replies)
        for _ in range(times):
            replies.clear()
            _say(connection, conversation.says, conversation.decision, replies)
    return b"".join(replies)


def codes(replies: bytes) -> str:
    """The codes of replies, with a blank between two."""
    return " ".join(line[:3] for line in replies.decode().splitlines() if line[3] == " ")


def _greeted(options: ProtocolOptions, replies: list[bytes]) -> Connection:
    connection = Connection(options, local=("192.0.2.1", 25), remote=("192.0.2.2", 40001))
    _settle(connection, ACCEPT, replies)
    return connection


def _say(connection: Connection, says: Iterable[bytes], decision: Accept, replies: list[bytes]) -> None:
    for octets in says:
        connection.receive_data(octets)
        _settle(connection, decision, replies)


def _settle(connection: Connection, decision: Accept, replies: list[bytes]) -> None:
    """Answer whatever is asked, until the core wants more."""
    while True:
        event = connection.next_event()
        if isinstance(event, Signal):
            replies.append(connection.data_to_send())
            if event is not Signal.SEND:
                return
        elif event.takes:
            connection.decide(decision)


# --- commands -----------------------------------------------------------------------------------

HELLO: Final = (b"EHLO client.example.com\r\n",)
MAIL: Final = b"MAIL FROM:<someone@example.com>\r\n"
RCPT: Final = b"RCPT TO:<user0@example.com>\r\n"
RSET: Final = b"RSET\r\n"
DATA: Final = b"DATA\r\n"
END: Final = b".\r\n"

RCPTS: Final = b"".join(b"RCPT TO:<user%d@example.com>\r\n" % number for number in range(100))
KIBIBYTE: Final = (b"X" * 76 + b"\r\n") * 13 + b"X" * 8 + b"\r\n"

MESSAGE: Final = Conversation(
    "message of 1 KiB, pipelined", (MAIL + RCPT + DATA, KIBIBYTE + END), "250 250 354 250"
)
OCTETS: Final = Conversation(
    "the same octet by octet", [bytes([octet]) for octet in b"".join(MESSAGE.says)], MESSAGE.codes
)
RECIPIENTS: Final = Conversation(
    "message of 1 KiB to 100 recipients",
    (MAIL + RCPTS + DATA, KIBIBYTE + END),
    " ".join(["250"] * 101 + ["354", "250"]),
)
BOUNCE: Final = Conversation(
    "message from <>", (b"MAIL FROM:<>\r\n" + RCPT + DATA, KIBIBYTE + END), MESSAGE.codes
)
ENVELOPE: Final = Conversation("MAIL, RCPT, RSET", (MAIL + RCPT + RSET,), "250 250 250")

# --- sessions -----------------------------------------------------------------------------------

LOGIN: Final = b"AUTH PLAIN %s\r\n" % b64encode(b"\0user@example.com\0correct horse battery staple")
PROXY_V1: Final = b"PROXY TCP4 192.0.2.9 192.0.2.1 40001 25\r\n"
# §2.2 of the protocol's text: signature, PROXY over TCP4, twelve octets of addresses.
PROXY_V2: Final = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(
    [192, 0, 2, 9, 192, 0, 2, 1, 0x9C, 0x41, 0, 25]
)
PROXIED: Final = ProtocolOptions(name="mx.example.com", auth_optional=True, use_proxy=True)

HELLO_SESSION: Final = Conversation("session: EHLO", HELLO, "220 250", session=True)
LOGIN_SESSION: Final = Conversation(
    "session: EHLO, AUTH PLAIN",
    (*HELLO, LOGIN),
    "220 250 235",
    options=ProtocolOptions(name="mx.example.com", allow_insecure_auth=True),
    session=True,
    decision=Accept(user="user"),
)
PROXY_V1_SESSION: Final = Conversation(
    "session: PROXY v1, EHLO", (PROXY_V1, *HELLO), "220 250", options=PROXIED, session=True
)
PROXY_V2_SESSION: Final = Conversation(
    "session: PROXY v2, EHLO", (PROXY_V2, *HELLO), "220 250", options=PROXIED, session=True
)

CONVERSATIONS: Final = (
    MESSAGE, OCTETS, RECIPIENTS, ENVELOPE,
    HELLO_SESSION, LOGIN_SESSION, PROXY_V1_SESSION, PROXY_V2_SESSION,
)  # fmt: skip

# --- bodies -------------------------------------------------------------------------------------

LINES: Final[Mapping[str, bytes]] = {
    "no dot": b"X" * 76 + b"\r\n",
    "prose": b"X" * 60 + b". Xxx. " + b"X" * 9 + b"\r\n",
    "every line dotted": b".." + b"X" * 74 + b"\r\n",
}


def body(kind: str, size: int, piece: int, bare_newlines: BareNewlines = "reject") -> Conversation:
    """A message of `size` octets and the rest of a line, cut into pieces of `piece` octets."""
    line = LINES[kind]
    lines = line * (math.lcm(len(line), piece) // len(line))
    pieces = cycle([lines[at : at + piece] for at in range(0, len(lines), piece)])
    begun = size % len(line)
    rest = line[begun:] if begun else b""
    return Conversation(
        f"body: {kind}, pieces of {_octets(piece)}, bare newlines {bare_newlines}ed",
        (MAIL + RCPT + DATA, *islice(pieces, size // piece), rest + END),
        MESSAGE.codes,
        options=ProtocolOptions(name="mx.example.com", auth_optional=True, bare_newlines=bare_newlines),
        octets=size,
    )


def _octets(count: int) -> str:
    return f"{count // KIB} KiB" if count >= KIB else f"{count} octet"
