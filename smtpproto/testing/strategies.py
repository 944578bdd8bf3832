"""Hypothesis strategies for what a client may say, what a server may be told, and what it may decide.

They are made for short failures: lists of lines and not blobs, and the plainest choice first. A
session is a list of segments; a segment is a list of lines that are sent at once, and the next one
begins when everything before it has been answered.
"""

# Whoever adds a choice puts it behind the plainer ones: a failure shrinks towards the first.

from __future__ import annotations

import base64
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any, Final

from hypothesis import strategies as st

from smtpproto import (
    ACCEPT,
    Accept,
    AuthRequested,
    Challenge,
    CommandRequested,
    ConnectRequested,
    DataFinished,
    DataRequested,
    Event,
    ExpandRequested,
    HelloRequested,
    HelpRequested,
    MailRequested,
    ProtocolOptions,
    RcptRequested,
    Reject,
    SecureRequested,
    VerifyRequested,
)
from smtpproto.testing._conversation import in_lines, stuffed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = [
    "EHLO", "LHLO", "STARTTLS", "Fields", "Given", "Lines", "Said", "addresses", "bodies",
    "command_lines", "contents", "cut", "cuts", "decisions", "ending_lines", "hostile_sessions",
    "in_lines", "in_lmtp", "items", "lines", "long_lines", "make_options", "messages",
    "nearly_valid_sessions", "noise", "options", "parameters", "proxy_headers", "reply_texts",
    "sasl_exchanges", "segments", "sessions", "single_decisions", "stuffed", "valid_addresses",
    "valid_proxy_headers", "valid_sasl_exchanges", "valid_sessions", "xclient_lines", "xforward_lines",
]  # fmt: skip

Lines = list[bytes]
"""Lines with their CRLF (or what stands for it), sent at once."""
Said = list[Lines]
"""A session: its segments."""
Fields = dict[str, Any]
"""Fields of `ProtocolOptions`, as keyword arguments."""
Given = dict[type[Event], list[Any]]
"""Decisions by kind of question, used up in turn; `play` and `converse` take them as `answers`."""

EHLO: Final = b"EHLO c.test\r\n"
LHLO: Final = b"LHLO c.test\r\n"
STARTTLS: Final = b"STARTTLS\r\n"
CRLF: Final = b"\r\n"


# --- what is done with them -----------------------------------------------------------------------


def in_lmtp(session: Iterable[Lines]) -> Said:
    """The same session for an LMTP server: LHLO in the place of EHLO (RFC 2033 §4.1)."""
    return [[LHLO if line == EHLO else line for line in segment] for segment in session]


def cut(octets: bytes, places: Iterable[int]) -> list[bytes]:
    """Octets in pieces: cut at the given places, each taken modulo their number and one."""
    edges = sorted({0, len(octets), *(place % (len(octets) + 1) for place in places)})
    return [octets[a:b] for a, b in pairwise(edges)]


def make_options(fields: Mapping[str, Any]) -> ProtocolOptions:
    """ProtocolOptions with the given fields; what is not given is set so that much can be said.

    The server is mx.test, knows all mechanisms, needs no login, takes one in the clear, shows its
    enhanced status codes, and takes lines of 512 octets.
    """
    return ProtocolOptions(**{**_TALKATIVE, **fields})


_TALKATIVE: Final[Fields] = {
    "name": "mx.test", "auth_methods": ("PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2"), "max_line_length": 512,
    "auth_optional": True, "allow_insecure_auth": True, "hide_enhancedstatuscodes": False,
}  # fmt: skip


def _joined(parts: Iterable[Iterable[bytes]]) -> Lines:
    return list(chain.from_iterable(parts))


def _ended(line: bytes) -> bytes:
    return line + CRLF


# --- addresses and parameters ---------------------------------------------------------------------

_words = st.lists(
    st.sampled_from([
        "a", "b.c", "é", "@", "x.test", "xn--bcher-kva", "[192.0.2.1]", "[IPv6:2001:DB8::1]", '"', "\\", " ",
        ".", "-", "+", "postmaster", "@r.test:", "\u200b", "\x85", "<", ">", "+41", "+0d", "\t",
    ]),
    max_size=5,
).map("".join)  # fmt: skip

valid_addresses: st.SearchStrategy[str] = st.tuples(
    st.sampled_from(["b", "a.b", "a+b=c", "a!b%c", '"a b"', r'"a\"b"', '"a@b"', "a" * 64]),
    st.sampled_from(["y.test", "localhost", "[192.0.2.1]", "[IPv6:2001:db8::1]", "xn--bcher-kva.test"]),
).map("@".join)
"""Mailboxes as RFC 5321 §4.1.2 has them, without their angle brackets; ASCII."""

addresses: st.SearchStrategy[str] = st.one_of(
    st.just("a@x.test"), valid_addresses, st.tuples(_words, _words).map("@".join), _words
)
"""What may stand between the angle brackets: right, nearly right, and hostile."""

parameters: st.SearchStrategy[str] = st.lists(
    st.one_of(
        st.sampled_from([
            "SIZE=1", "BODY=8BITMIME", "BODY=7bit", "SMTPUTF8", "RET=full", "ENVID=a+20b", "ENVID=a+0Db",
            "AUTH=<>", "AUTH=a+40x.test", "AUTH=a+2Bb@x.test", "X-Y", "x=é", "NOTIFY=never",
            "NOTIFY=success,DELAY", "ORCPT=rfc822;a+40b", "ORCPT=utf-8;\\x{E9}@x.test", "ORCPT=x;+01",
            "ORCPT=utf-8;é@x.test", "ORCPT=UTF-8;a\\x{2B}b@x.test", "REQUIRETLS", "X+=1", "=", "SIZE=",
        ]),
        st.tuples(
            st.sampled_from(["ENVID=", "AUTH=", "ORCPT=rfc822;", "ORCPT=utf-8;", "X="]), _words
        ).map("".join),
    ),
    max_size=4,
).map(lambda each: "".join(f" {word}" for word in each))  # fmt: skip
"""What may stand behind a path of MAIL or RCPT, with the blank before each: right and wrong."""


# --- command lines --------------------------------------------------------------------------------

_COMMANDS: Final = [
    b"NOOP", b"RSET", EHLO[:-2], b"HELO c.test", LHLO[:-2], b"EHLO", b"rset x", b"VRFY b", b"HELP",
    b"EXPN b", b"FOO", b"", b" ", b"BDAT 1", b"QUIT x", b"X-OWN 1 2",
    b"MAIL FROM:<a@x.test>", b"MAIL FROM:<>", b"mail from:<a@x.test> SIZE=9 BODY=8BITMIME",
    b"MAIL FROM:<a@x.test> X=1", b"MAIL FROM:a", "MAIL FROM:<é@x.test> SMTPUTF8".encode(),
    b"RCPT TO:<b@y.test>", b"RCPT TO:<c@y.test> NOTIFY=NEVER", b"RCPT TO:<postmaster>", b"RCPT TO:<>",
    b"DATA", b"DATA x", b".", b"..", b"x",
    b"AUTH PLAIN AHUAcA==", b"AUTH PLAIN", b"AHUAcA==", b"AUTH LOGIN", b"dQ==", b"*", b"AUTH CRAM-MD5",
    b"AUTH XOAUTH2 dXNlcj11AWF1dGg9QmVhcmVyIHQBAQ==", b"AUTH", b"AUTH FOO",
    b"XCLIENT NAME=c.test", b"XCLIENT ADDR=198.51.100.7", b"XCLIENT LOGIN=u", b"XCLIENT",
    b"XFORWARD NAME=c.test", b"XFORWARD",
]  # fmt: skip
_ENDINGS: Final = [b"QUIT", b"GET / HTTP/1.1", b"Subject: x"]

command_lines: st.SearchStrategy[bytes] = st.sampled_from(_COMMANDS).map(_ended)
"""Lines that go where a command is awaited: right ones, wrong ones, and answers to no question."""

ending_lines: st.SearchStrategy[bytes] = st.sampled_from(_ENDINGS).map(_ended)
"""Lines each of which ends a connection. Rare in sessions, so that there is something to end."""

long_lines: st.SearchStrategy[bytes] = st.integers(505, 1100).map(lambda size: b"NOOP " + b"x" * size + CRLF)
"""Lines about and beyond 512 octets (RFC 5321 §4.5.3.1.4)."""

noise: st.SearchStrategy[bytes] = st.lists(
    st.sampled_from([b"A", b" ", b".", b"\r\n", b"\n", b"\r", b"\0", b"\xc3", b"\xff"])
).map(b"".join)
"""Octets without a meaning, line ends of all kinds among them."""

lines: st.SearchStrategy[bytes] = st.one_of(*[command_lines] * 6, long_lines, noise.map(_ended), ending_lines)
"""Lines with their CRLF, of all the kinds above."""

_X_VALUES: Final = [
    "NAME=c.test", "ADDR=198.51.100.7", "ADDR=IPV6:2001:db8::7", "PORT=4321", "PROTO=ESMTP", "HELO=h.test",
    "LOGIN=u", "LOGIN=", "NAME=[UNAVAILABLE]", "ADDR=[tempunavail]", "IDENT=7", "SOURCE=LOCAL",
    "ADDR=300.1.1.1", "PORT=65536", "PROTO=HTTP", "NAME=a+0d+0ab", "NAME=", "NAME", "=", "FOO=1",
    "NAME=" + "n" * 256,
]  # fmt: skip


def _x_lines(verb: str) -> st.SearchStrategy[bytes]:
    attributes = st.lists(st.sampled_from(_X_VALUES), max_size=4)
    return attributes.map(lambda each: " ".join([verb, *each]).encode() + CRLF)


xclient_lines: st.SearchStrategy[bytes] = _x_lines("XCLIENT")
"""XCLIENT with attributes: right, doubled, unknown, out of range, with line ends in xtext."""

xforward_lines: st.SearchStrategy[bytes] = _x_lines("XFORWARD")
"""The same for XFORWARD."""


# --- logins -------------------------------------------------------------------------------------


def _base64(octets: bytes) -> bytes:
    return base64.b64encode(octets)


def _exchange(mechanism: bytes, *answers: bytes, at_once: bool) -> Lines:
    """AUTH and the answers; `at_once`: the first stands behind the mechanism (RFC 4954 §4)."""
    encoded = [_base64(each) for each in answers]
    command = b"AUTH " + mechanism
    if at_once:
        first, *encoded = encoded
        command += b" " + (first or b"=")
    return [_ended(line) for line in (command, *encoded)]


_names = st.sampled_from([b"u", "ü".encode(), b"u@x.test", b"u" * 255])
_secrets = st.sampled_from([b"p", b"", "pä".encode(), b"p" * 255])
_DIGEST: Final = b"0123456789abcdef" * 2


def _plain(authzid: bytes, name: bytes, secret: bytes, at_once: bool) -> Lines:  # noqa: FBT001 - drawn
    return _exchange(b"PLAIN", b"\0".join([authzid, name, secret]), at_once=at_once)


def _login(name: bytes, secret: bytes, at_once: bool) -> Lines:  # noqa: FBT001 - drawn
    return _exchange(b"LOGIN", name, secret, at_once=at_once)


def _cram_md5(name: bytes) -> Lines:
    return _exchange(b"CRAM-MD5", name + b" " + _DIGEST, at_once=False)


def _xoauth2(name: bytes, at_once: bool) -> Lines:  # noqa: FBT001 - drawn
    return _exchange(b"XOAUTH2", b"user=" + name + b"\1auth=Bearer t\1\1", at_once=at_once)


valid_sasl_exchanges: st.SearchStrategy[Lines] = st.one_of(
    st.builds(_plain, st.sampled_from([b"", b"other"]), _names, _secrets, st.booleans()),
    st.builds(_login, _names, _secrets, st.booleans()),
    st.builds(_cram_md5, _names),
    st.builds(_xoauth2, _names, st.booleans()),
)
"""AUTH and its answers, well formed, for PLAIN, LOGIN, CRAM-MD5 and XOAUTH2: a line each.

Whether the name and the secret are right is the server's to say; the digest of CRAM-MD5 never is.
"""

_answers = st.one_of(
    st.sampled_from([b"*", b"", b"=", b"dQ==", b"dQ", b"dR==", b"d===", b"d Q=", b"* ", b"GET / HTTP/1.1"]),
    st.binary(max_size=12).map(_base64),
    st.sampled_from([b"x", b"\xff", b"\0"]),
)


def _otherwise(exchange: Lines, answer: bytes) -> Lines:
    """With another last answer; the command itself stays."""
    return [*exchange[:1], *exchange[1:-1], _ended(answer)]


def _any_exchange(mechanism: bytes, initial: bytes, answers: list[bytes]) -> Lines:
    return [_ended(line) for line in (b"AUTH " + mechanism + initial, *answers)]


sasl_exchanges: st.SearchStrategy[Lines] = st.one_of(
    valid_sasl_exchanges,
    st.builds(_otherwise, valid_sasl_exchanges, _answers),
    st.builds(
        _any_exchange,
        st.sampled_from([b"PLAIN", b"LOGIN", b"cram-md5", b"XOAUTH2", b"FOO", b""]),
        st.one_of(st.just(b""), _answers.map(lambda answer: b" " + answer)),
        st.lists(_answers, max_size=3),
    ),
)
"""Exchanges right and wrong: cancelled, in bad base64, with too few answers and too many."""


# --- the message --------------------------------------------------------------------------------

bodies: st.SearchStrategy[bytes] = st.lists(
    st.sampled_from([b"a", b".", b"..", b"\r\n", b"\r\n.", b"\n", b"\r", b"xyz" * 9])
).map(b"".join)
"""What stands between the 354 and the CRLF of the end: dots and line ends in all places, bare ones too."""

contents: st.SearchStrategy[bytes] = st.lists(
    st.sampled_from([b"a", b".", b"..", b"\r\n", b"\r\n.", b"\r\n.\r\n", b"\xff\0"]), max_size=12
).map(lambda parts: b"".join([*parts, CRLF]))
"""Messages before dot-stuffing: any octets, line ends always CRLF, ending in one. `stuffed` sends them."""

_MAIL: Final = b"MAIL FROM:<a@x.test>\r\n"
_RCPT: Final = b"RCPT TO:<b@y.test>\r\n"
_DATA: Final = b"DATA\r\n"

messages: st.SearchStrategy[Lines] = bodies.map(lambda body: [_MAIL, _RCPT, _DATA, body + b"\r\n.\r\n"])
"""Whole transactions: MAIL, RCPT, DATA, and a body of `bodies` with its end."""


# --- PROXY headers --------------------------------------------------------------------------------

_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_V4: Final = b"\xc6\x33\x64\x07\xc0\x00\x02\x19\x10\xe1\x00\x19"  # 198.51.100.7:4321 to 192.0.2.25:25
_V6: Final = bytes.fromhex("20010db8") + bytes(11) + b"\7" + bytes.fromhex("20010db8") + bytes(11) + b"\x19"
_BLOCKS: Final = [  # family and transport, addresses
    (b"\x11", _V4), (b"\x21", _V6 + _V4[-4:]), (b"\x31", b"/run/mail".ljust(108, b"\0") * 2), (b"\x00", b""),
]  # fmt: skip
_TLVS: Final = [b"", b"\x04\0\0", b"\x04\0\x02xx", b"\x02\0\x06x.test", b"\x20\0\x05\0\0\0\0\0"]


def _version_2(version_and_command: bytes, block: tuple[bytes, bytes], tlvs: bytes, lie: int = 0) -> bytes:
    """A binary header; `lie` is added to the length it declares."""
    family, content = block[0], block[1] + tlvs
    declared = max(0, len(content) + lie)
    return _SIGNATURE + version_and_command + family + declared.to_bytes(2, "big") + content


valid_proxy_headers: st.SearchStrategy[bytes] = st.one_of(
    st.sampled_from([
        b"PROXY TCP4 198.51.100.7 192.0.2.25 4321 25\r\n", b"PROXY TCP6 2001:db8::7 2001:db8::19 4321 25\r\n",
        b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN whatever follows\r\n",
        b"PROXY TCP6 ::ffff:198.51.100.7 ::1 0 65535\r\n",
    ]),
    st.builds(
        _version_2, st.sampled_from([b"\x21", b"\x20"]), st.sampled_from(_BLOCKS), st.sampled_from(_TLVS)
    ),
)  # fmt: skip
"""Headers of the PROXY protocol, versions 1 and 2, as its text has them (§2.1, §2.2)."""

proxy_headers: st.SearchStrategy[bytes] = st.one_of(
    valid_proxy_headers,
    st.sampled_from([
        b"PROXY\r\n", b"PROXY \r\n", b"proxy TCP4 198.51.100.7 192.0.2.25 4321 25\r\n",
        b"PROXY TCP4 198.51.100.07 192.0.2.25 4321 25\r\n", b"PROXY TCP4 ::1 ::1 1 1\r\n",
        b"PROXY TCP6 198.51.100.7 192.0.2.25 4321 25\r\n", b"PROXY TCP4 198.51.100.7 192.0.2.25 65536 25\r\n",
        b"PROXY TCP4 198.51.100.7 192.0.2.25 +1 025\r\n", b"PROXY TCP4 198.51.100.7 192.0.2.25 4321 25 x\r\n",
        b"PROXY TCP4  198.51.100.7 192.0.2.25 4321 25\r\n", b"PROXY TCP4 198.51.100.7 192.0.2.25 4321 25\n",
        b"PROXY UNKNOWN " + b"x" * 100 + CRLF, b"PROXY UNKNOWN\rx\r\n", EHLO, b"",
    ]),
    st.builds(
        _version_2, st.sampled_from([b"\x21", b"\x11", b"\x2f", b"\x20"]),
        st.sampled_from([*_BLOCKS, (b"\x12", _V4), (b"\x11", _V4[:5]), (b"\x51", b"x")]),
        st.sampled_from([*_TLVS, b"\x03\0\x04\0\0\0\0", b"\x04\0\xffx", b"\x04"]),
        st.sampled_from([0, 1, -1, 4096]),
    ),
    st.tuples(valid_proxy_headers, st.integers(0, 40)).map(lambda each: each[0][: each[1]]),
    st.tuples(valid_proxy_headers, valid_proxy_headers).map(b"".join),
)  # fmt: skip
"""The first octets where a PROXY header is due: right, nearly right, cut short, doubled, none."""


# --- sessions -----------------------------------------------------------------------------------

items: st.SearchStrategy[Lines] = st.one_of(
    *[command_lines.map(lambda line: [line])] * 6,
    *[messages] * 2,
    sasl_exchanges,
    st.one_of(long_lines, noise, xclient_lines, xforward_lines).map(lambda line: [line]),
    ending_lines.map(lambda line: [line]),
)
"""One thing that a client says, as lines: mostly a command; a message, an exchange, or a nuisance."""

# STARTTLS stands at the end of what is sent at once: octets behind it are an attack, and another test.
segments: st.SearchStrategy[Lines] = st.tuples(
    st.lists(items, max_size=8).map(_joined), st.sampled_from([[], [], [STARTTLS]])
).map(_joined)
"""What a client says at once, of `items`; STARTTLS at its end or nowhere."""

hostile_sessions: st.SearchStrategy[Said] = st.lists(segments, min_size=1, max_size=4).map(
    lambda said: [[EHLO], *said]
)
"""EHLO, and then anything in any order."""


def _transaction(recipients: list[str], content: bytes) -> Lines:
    return [_MAIL, *(f"RCPT TO:<{each}>\r\n".encode() for each in recipients), _DATA, stuffed(content)]


def _good_client(tls: bool, login: Lines, transactions: list[Lines]) -> Said:  # noqa: FBT001 - drawn
    """Each line of a login behind the reply to the one before, each transaction at once."""
    before: Said = [[EHLO, STARTTLS]] if tls else []
    return [*before, [EHLO], *([line] for line in login), *transactions, [b"QUIT\r\n"]]


valid_sessions: st.SearchStrategy[Said] = st.builds(
    _good_client,
    st.booleans(),
    st.one_of(st.just([]), valid_sasl_exchanges),
    st.lists(
        st.builds(_transaction, st.lists(valid_addresses, min_size=1, max_size=2), contents), max_size=2
    ),
)
"""What a good client says: perhaps STARTTLS, perhaps a login, some messages, QUIT.

Good for a server that takes logins in the clear and again behind STARTTLS, and asks for neither.
"""


def _dropped(line: bytes) -> Lines:  # noqa: ARG001 - that is the point
    return []


def _doubled(line: bytes) -> Lines:
    return [line, line]


def _with_bare_newline(line: bytes) -> Lines:
    return [line.replace(CRLF, b"\n")]


def _without_end(line: bytes) -> Lines:
    return [line.removesuffix(CRLF)]


def _in_lower_case(line: bytes) -> Lines:
    return [line.lower()]


def _with_surplus(line: bytes) -> Lines:
    return [line.removesuffix(CRLF) + b" x\r\n"]


def _nearly(session: Said, place: int, change: Callable[[bytes], Lines]) -> Said:
    """The session with one line changed; STARTTLS stays the last of its segment."""
    place %= sum(map(len, session))
    changed: Said = []
    for segment in session:
        at = place if 0 <= place < len(segment) and segment[place] != STARTTLS else None
        changed.append(segment if at is None else [*segment[:at], *change(segment[at]), *segment[at + 1 :]])
        place -= len(segment)
    return changed


nearly_valid_sessions: st.SearchStrategy[Said] = st.builds(
    _nearly,
    valid_sessions,
    st.integers(0, 40),
    st.sampled_from([
        _dropped, _doubled, _with_surplus, _in_lower_case, _with_bare_newline, _without_end
    ]),
)  # fmt: skip
"""A valid session with one line left out, doubled, or spoilt."""

sessions: st.SearchStrategy[Said] = st.one_of(*[hostile_sessions] * 3, nearly_valid_sessions, valid_sessions)
"""Sessions of all kinds. For an LMTP server use `in_lmtp`."""

cuts: st.SearchStrategy[list[int]] = st.lists(st.integers(0, 4000), max_size=12)
"""Where to cut what is sent at once: places for `cut`."""


# --- what a server is told, and what it decides ----------------------------------------------------


def _can_be_had(fields: Fields) -> bool:
    return not (fields.get("needs_upgrade") and "STARTTLS" in fields.get("disabled_commands", ()))


options: st.SearchStrategy[Fields] = st.fixed_dictionaries(
    {},
    optional={
        "auth_optional": st.booleans(),
        "allow_insecure_auth": st.booleans(),
        "needs_upgrade": st.booleans(),
        "lmtp": st.booleans(),
        "hide_enhancedstatuscodes": st.booleans(),
        "enforce_size": st.booleans(),
        "size": st.integers(1, 60),
        "bare_newlines": st.sampled_from(["accept", "reject"]),
        "unknown_parameters": st.sampled_from(["accept", "reject"]),
        "use_xclient": st.booleans(),
        "use_xforward": st.booleans(),
        "max_recipients": st.integers(1, 3),
        "max_unknown_commands": st.integers(1, 30),
        "max_allowed_unauthenticated_commands": st.integers(1, 30),
        "max_auth_attempts": st.integers(1, 4),
        "disabled_commands": st.lists(st.sampled_from(["HELP", "STARTTLS", "RSET", "AUTH"])),
    },
).filter(_can_be_had)
"""Fields of `ProtocolOptions` that a conversation can tell, small limits among them; for `make_options`."""

reply_texts: st.SearchStrategy[str] = st.one_of(
    st.sampled_from([
        "x", "", "5.7.1", "2.0.0 x", "250 OK\r\n250 OK", "%s%s%s", "\x85\u2028", "é" * 900, "\r\n" * 300,
        "a b " * 400, "x" * 2000,
    ]),
    st.text(st.characters(exclude_categories=()), max_size=40),
)  # fmt: skip
"""Texts an application may put into a reply, a name or a banner: any `str`, lone surrogates too."""

_NO: Final = [Reject(), Reject(451), Reject(text="é\r\n5.7.1 x"), Reject(421)]
# What is likely stands often; a tuple is for the recipients of an LMTP message, in turn.
_CHOICES: Final[Mapping[type[Event], list[Any]]] = {
    ConnectRequested: [*[ACCEPT] * 20, *_NO],
    SecureRequested: [*[ACCEPT] * 20, *_NO],
    HelloRequested: [*[ACCEPT] * 9, Accept(text="a\r\nb"), *_NO],
    AuthRequested: [*[ACCEPT] * 4, Accept(), Challenge(b"more"), Reject(challenge={"a": 1}), *_NO],
    MailRequested: [*[ACCEPT] * 9, *_NO],
    RcptRequested: [*[ACCEPT] * 9, Accept(251), *_NO],
    DataRequested: [*[ACCEPT] * 9, *_NO],
    DataFinished: [*[ACCEPT] * 3, Accept(text="as 1"), (ACCEPT, Reject(452)), *_NO],
    VerifyRequested: [ACCEPT, Accept(250, text=["b", "c"]), *_NO],
    ExpandRequested: [ACCEPT, *_NO],
    HelpRequested: [ACCEPT, *_NO],
    CommandRequested: [None, Accept(299), *_NO],
}

single_decisions: st.SearchStrategy[tuple[type[Event], Any]] = st.sampled_from(
    [(kind, choice) for kind, choices in _CHOICES.items() for choice in dict.fromkeys(choices)]
)
"""A kind of question, and a decision that answers it."""

decisions: st.SearchStrategy[Given] = st.fixed_dictionaries(
    {},
    optional={
        kind: st.lists(st.sampled_from(choices), min_size=1, max_size=4) for kind, choices in _CHOICES.items()
    },
)
"""What an application decides: for some kinds of question a list, used up in turn, and then yes."""
