# What a corpus begins with: the conversations of the tests and the rows of the conformance table, said in
# the inputs that each target takes.

from __future__ import annotations

import base64
import re
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Final

from fuzz import connection, driving, hellos, logins, scripts
from fuzz.markers import HELLO
from fuzz.playing import OPTIONS
from fuzz.targets import TARGETS
from smtpproto_kit._conversations import conversations
from smtpproto_kit._rows import played, scenario

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["seeds"]

STARTTLS: Final = re.compile(rb"(?i)(STARTTLS\r\n)")
PATH: Final = re.compile(rb"(?i)(?:MAIL|RCPT) ((FROM|TO):[^\r\n]*)")
PARAMETERS: Final = re.compile(rb"(?i)(MAIL|RCPT) [^>\r\n]*>([^\r\n]+)")
BODY: Final = re.compile(rb"(?s)DATA\r\n(.+)")
DELIVERY: Final = b"EHLO c\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nDATA\r\nHello\r\n.\r\n"
LONG_RUN: Final = re.compile(rb"(?s)(.)\1{300,}")


def seeds(target: str) -> set[bytes]:
    """The inputs for a target, none longer than it takes."""
    longest = TARGETS[target].max_len
    return {each[:longest] for each in _MAKERS[target]()}


def _said() -> Iterator[tuple[bytes, bool]]:
    """What clients say, and whether in LMTP."""
    for server in conversations().values():
        for each in chain.from_iterable(server.values()):
            yield _shortened(b"".join(each.said)), bool(each.options.get("lmtp"))
    for name in played():
        row = scenario(name)
        steps = [step for turn in row.turns for step in turn.steps if isinstance(step, bytes)]
        yield _shortened(b"".join(steps)), bool(row.options.get("lmtp"))


def _shortened(octets: bytes) -> bytes:
    return LONG_RUN.sub(lambda match: match[1] + b"\xfe\x20", octets)


def _connections() -> Iterator[bytes]:
    for number, (octets, lmtp) in enumerate(_said()):
        proxy = octets.startswith((b"PROXY", b"\r\n\r\n\0"))
        rows = [i for i, row in enumerate(OPTIONS) if (row.lmtp, bool(row.use_proxy)) == (lmtp, proxy)]
        if not number % 3 and octets[:5].upper() in {b"EHLO ", b"LHLO "}:  # with a text of the application's
            yield bytes([rows[0], 0x82, 255, 63, 63, 0xB0]) + bytes(7) + octets
        for row in {rows[0], rows[number % len(rows)]}:
            yield bytes([row, 2 + 0x80 * (number % 2), number % 40, number % 7, 63]) + bytes(8) + octets


def _driven() -> Iterator[bytes]:
    for number, (octets, lmtp) in enumerate(_said()):
        rows = [
            i
            for i, row in enumerate(driving.SERVERS)
            if row.options.lmtp == lmtp and not row.options.use_proxy
        ]
        row = rows[number % len(rows)]
        hello = HELLO if driving.SERVERS[row].options.secure else b""
        shaken = STARTTLS.sub(rb"\1" + HELLO, octets)
        yield bytes([row, 255, 63]) + bytes(driving.HEADER - 3) + hello + shaken
    yield from _moments()
    yield from _floods()


def _moments() -> Iterator[bytes]:
    """Two deliveries, with everything that can come from outside at every moment of theirs."""
    deliveries = DELIVERY + DELIVERY.replace(b"a@x", b"c@x") + b"QUIT\r\n"
    for place in range(32):
        for outside in driving.OUTSIDES:
            outsides = [0] * 32
            outsides[place] = outside
            packed = bytes(one | two << 4 for one, two in zip(outsides[::2], outsides[1::2], strict=True))
            for number, how in enumerate((1, 6, 9, 15, 3)):
                row = driving.PLAIN[(place + outside + number) % len(driving.PLAIN)]
                choices = [how << 4] * 16
                choices[3] |= (place + number) % 16  # of on_data
                yield bytes([row, (0, 25, 255)[place % 3], 63]) + packed + bytes(choices) + deliveries


def _floods() -> Iterator[bytes]:
    """More commands than may wait, while a hook is waited for."""
    outsides = bytes(3) + bytes([driving.RECEIVE * 0x11] * 13)
    for row in driving.PLAIN:
        header = bytes([row, 22, driving.LARGE]) + outsides + b"\0" + b"\x30" * 15
        yield header + b"EHLO c\r\nMAIL FROM:<>\r\n" + b"\xfe\xff" * 85


def _scripts() -> Iterator[bytes]:
    known = {line: number for number, line in enumerate(scripts.LINES)}
    for number, (octets, lmtp) in enumerate(_said()):
        steps = bytes(known.get(line, 6) for line in re.findall(rb"[^\n]*\n", octets))
        yield bytes([int(lmtp), number % 256]) + bytes(8) + steps
    for step in range(len(scripts.STEPS)):
        yield bytes(10) + bytes([0, 3, 4, 5, step, 7, 6, step, 9])


def _logins() -> Iterator[bytes]:
    for octets, _ in _said():
        for line, answer in pairwise(octets.split(b"\r\n")):
            if line[:5].upper() == b"AUTH ":
                name, _, initial = line[5:].partition(b" ")
                number = logins.MECHANISMS.index(name) if name in logins.MECHANISMS else 0
                yield bytes([0, number | (0x20 if initial else 0)]) + bytes(8) + _decoded(initial or answer)
    digest = b"user " + b"0123456789abcdef" * 2
    for picks in (bytes(8), b"\xc0" + b"\xcc" * 7):  # refused each time
        yield bytes([2, 0b10_10_10]) + picks + digest + b"\xff" + digest + b"\xff" + digest
    answers = (b"\0u\0secret-word", b"u\xffsecret-word", digest, b"user=u\1auth=Bearer secret-word\1\1")
    for number, answer in enumerate(answers):
        for pick in range(16):  # the second question is the login's
            yield bytes([0, number, pick << 4]) + bytes(7) + answer + b"\xffmore"


def _decoded(text: bytes) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return b"\xfe" + text


def _bodies() -> Iterator[bytes]:
    for octets, _ in _said():
        for body in BODY.findall(octets):
            for how in (0, 1):
                yield bytes([how, len(body) // 2 % 256, 1]) + body


def _addresses() -> Iterator[bytes]:
    for octets, _ in _said():
        for path, keyword in PATH.findall(octets):
            yield bytes([keyword.upper() == b"FROM"]) + path


def _parameters() -> Iterator[bytes]:
    for octets, _ in _said():
        for verb, text in PARAMETERS.findall(octets):
            yield bytes([(verb.upper() == b"MAIL") | 2 | 4 | 8]) + text


def _xtexts() -> Iterator[bytes]:
    for octets in _parameters():
        yield from octets[1:].split(b"=")


def _replies() -> Iterator[bytes]:
    texts = (
        "ok",
        "5.7.1 no",
        "a\r\nb",
        "é",
        "x~x y~x",
        "\r\n~\n~\n",
        "250 OK\r\n250 OK",
        "\x1f~\x1f~\x1f",
        "\x85\u2028",
    )
    for number, text in enumerate(texts):
        for how in range(4):
            yield bytes([number, number % 7, how]) + text.encode()


def _proxies() -> Iterator[bytes]:
    for octets, _ in _said():
        if octets.startswith((b"PROXY", b"\r\n\r\n\0")):
            yield bytes([9, 9]) + octets
    for family, block in ((0x11, bytes(12)), (0x21, bytes(36)), (0x31, b"/a".ljust(216, b"\0"))):
        tlvs = b"\x04\0\1\0" + b"\x01\0\2h2"
        length = len(block + tlvs).to_bytes(2, "big")
        for command in b"\x20\x21":
            yield bytes([9, 9]) + connection.V2 + bytes([command, family]) + length + block + tlvs + b"EHLO"


def _hellos() -> Iterator[bytes]:
    name = b"\0\0\0\x0c\0\x0a\0\0\7Mx.Test"
    versions = b"\0\x2b\0\3\2\3\4"
    for octets in (hellos.MADE + name + versions, hellos.client_hello(versions + name), b"EHLO c\r\n"):
        yield bytes([7, 7]) + octets


_MAKERS: Final[Mapping[str, Callable[[], Iterator[bytes]]]] = {
    "connection": _connections, "script": _scripts, "driver": _driven, "login": _logins, "body": _bodies,
    "address": _addresses, "parameters": _parameters, "xtext": _xtexts, "reply": _replies, "proxy": _proxies,
    "hello": _hellos,
}  # fmt: skip
