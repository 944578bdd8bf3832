# Whatever text an application says: one reply of well-formed lines, and no word of it lost or added.
#
# The input: code (1), enhanced code (1), how (1), and the text; U+001F parts its lines.

from __future__ import annotations

import re
from typing import Final

from fuzz.playing import insist_on_replies
from smtpproto import Accept, Reject
from smtpproto._decisions import decided_reply
from smtpproto._reply import Reply
from smtpproto.extending import single_line

__all__ = ["target"]

HEADER: Final = 3
CODES: Final = (250, 251, 252, 211, 214, 220, 221, 235, 421, 450, 451, 452, 454, 500, 501, 502, 503, 504, 530,
                535, 538, 550, 551, 552, 553, 554, 555, 556, 299, 499, 599)  # fmt: skip
SUBJECTS: Final = (None, "0.0", "1.5", "7.8", "3.4", "99.999", "999.999")
MAX_LINES: Final = 100
STRETCH: Final = re.compile(r"(?s)~(.)")
UTF8, LIST = 1, 2


def target(data: bytes) -> None:
    """One text in every place where an application may say one."""
    if len(data) < HEADER:
        return
    code = CODES[data[0] % len(CODES)]
    subject = SUBJECTS[data[1] % len(SUBJECTS)]
    enhanced = None if subject is None else f"{code // 100}.{subject}"
    utf8 = bool(data[2] & UTF8)
    # Surrogates, too: an application's text need not come from UTF-8.
    said = data[HEADER:].decode(errors="surrogateescape")
    said = STRETCH.sub(lambda match: match[1] * (64 + ord(match[1]) % 64), said, 6)
    text = said.split("\x1f") if data[2] & LIST else said
    reply = Reply(code, enhanced, text, utf8=utf8)
    _insist_on(reply, utf8=utf8)
    _insist_on_words(reply, [text] if isinstance(text, str) else text, utf8=utf8)
    decision = (Reject if code >= 400 else Accept)(code, enhanced, text)  # noqa: PLR2004 - RFC 5321 §4.2.1
    for default in (Reply(250, "2.6.0", "OK"), Reply(450, "4.2.1", "no")):
        _insist_on(decided_reply(decision, default, utf8=utf8), utf8=utf8)
    line = single_line(said)
    assert line.isascii()
    assert line.isprintable()
    assert single_line(line) == line


def _insist_on(reply: Reply, *, utf8: bool) -> None:
    assert 0 < len(reply.lines) <= MAX_LINES
    for coded in (True, False):
        octets = reply.encode(coded=coded)
        insist_on_replies(octets, coded=coded)
        assert octets.count(b"\r\n") == len(reply.lines)
        shown = octets.decode().replace("\r\n", "")
        assert shown.isprintable()
        assert utf8 or shown.isascii()


def _insist_on_words(reply: Reply, texts: list[str], *, utf8: bool) -> None:
    """What is read is what was said, blanks and line breaks apart, and what lies behind the last line."""
    if not any(text.strip() for text in texts[:MAX_LINES]):
        return  # the code's own text then, as what lies behind so many is not looked at
    said = "".join(
        char if char.isprintable() and (utf8 or char.isascii()) else "?"
        for char in "".join(texts) if char not in " \r\n"
    )  # fmt: skip
    read = "".join(reply.lines).replace(" ", "")
    lines = len(texts) + sum(text.count("\r") + text.count("\n") for text in texts)
    whole = lines <= MAX_LINES and len(reply.lines) < MAX_LINES
    assert read == said if whole else said.startswith(read)
