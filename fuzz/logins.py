# Whatever a client answers in a SASL exchange, and whatever the application decides: one reply for each
# line, an end that comes, a login only if the application said so, and no secret where it can be read.
#
# The input: options (1), mechanisms (1), decisions (8), and the client's answers, parted by FF. They are
# sent in base64; those that begin with FE as they are.

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any, Final

from fuzz.playing import CONTROL, OPTIONS, Play, note
from smtpproto import Accept, AuthRequested, CramMd5Credentials, State
from smtpproto._sasl import decode_base64

if TYPE_CHECKING:
    from smtpproto import ProtocolOptions

__all__ = ["target"]

HEADER: Final = 10
AUTHS: Final = tuple(
    each for each in OPTIONS if each.has_auth and not each.use_proxy and not each.needs_upgrade
)
MECHANISMS: Final = (b"PLAIN", b"LOGIN", b"CRAM-MD5", b"XOAUTH2")
SECRETS: Final = ("password", "access_token", "response")
MIN_SECRET: Final = 6  # characters; a shorter one may stand in a repr by chance
MAX_NAME: Final = 255  # octets, RFC 4616 §2
CRAM_MD5: Final = b"334 PD"  # "<" in base64, as its challenges begin
STARTTLS: Final = b"220 "
MAX_ANSWERS: Final = 12
INITIAL: Final = 0x80  # in the octet of mechanisms: the first answer goes with the command


class Login(Play):
    """A play that looks at logins."""

    __slots__ = ("accepted", "challenges", "failures")

    def __init__(self, options: ProtocolOptions, picks: bytes, *, ask: bool) -> None:
        super().__init__(options, picks, ask=ask)
        self.accepted = False  # the last answer was a login
        self.challenges: set[bytes] = set()
        self.failures = 0  # of exchanges that had begun

    def _login(self, event: Any, given: Any) -> Any:
        _insist_on_credentials(event)
        given = super()._login(event, given)
        self.accepted = isinstance(given, Accept) and bool(given.user)
        return given


def target(data: bytes) -> None:
    """One session of logins."""
    if len(data) < HEADER:
        return
    options = AUTHS[data[0] % len(AUTHS)]
    order = data[1]
    play = Login(options, data[2:HEADER], ask=False)
    play.settle()
    _say(play, b"LHLO c.test" if options.lmtp else b"EHLO c.test")
    for answer in data[HEADER:].split(b"\xff")[:MAX_ANSWERS]:
        line = answer[1:].partition(b"\r\n")[0] if answer.startswith(b"\xfe") else base64.b64encode(answer)
        _insist_on_base64(line)
        if play.connection.state is not State.AUTH:
            mechanism = MECHANISMS[order & 3]
            order >>= 2
            if order & (INITIAL >> 2):
                line = b"AUTH %b %b" % (mechanism, line or b"=")
            else:
                _say(play, b"AUTH " + mechanism)
        _say(play, line)
    play.insist_on_the_end()


def _say(play: Login, line: bytes) -> None:
    state, before = play.connection.state, len(play.sent)
    user = play.session.user
    play.accepted = False
    play.connection.receive_data(line + b"\r\n")
    play.settle()
    sent = b"".join(play.sent[before:])
    if state is State.CLOSED:
        assert not sent
        return
    replies = [each for each in sent.split(b"\r\n") if each[3:4] == b" "]
    if replies[0].startswith(STARTTLS):  # behind the handshake on_secure may have had its last word
        return
    assert len(replies) == 1, (line, sent)  # I3
    code = replies[0][:3]
    note(len(play.events), int(code))
    assert (code == b"235") is play.accepted  # I12
    assert play.session.user in {user, None} or play.accepted  # XCLIENT logs out
    assert (code == b"334") is (play.connection.state is State.AUTH)
    play.failures += state is State.AUTH and code.startswith(b"5")
    most = play.options.max_auth_attempts
    assert play.closed or most is None or play.failures < most  # I13
    if replies[0].startswith(CRAM_MD5):
        assert replies[0] not in play.challenges, "a challenge that was there before"  # RFC 2195 §2
        play.challenges.add(replies[0])


def _insist_on_credentials(event: AuthRequested) -> None:
    credentials = event.auth
    assert 0 < len(credentials.username.encode()) <= MAX_NAME
    assert not CONTROL.search(credentials.username)
    shown = repr(event) + repr(credentials) + str(credentials) + repr(event.session)
    for name in SECRETS:  # I20
        secret = getattr(credentials, name, None)
        text = secret.decode(errors="replace") if isinstance(secret, bytes) else secret
        assert (
            not text
            or len(text) < MIN_SECRET
            or text in KNOWN
            or text in credentials.username
            or text not in shown
        )
    if isinstance(credentials, CramMd5Credentials):
        binascii.unhexlify(credentials.challenge_response)
        assert credentials.challenge_response.islower() or credentials.challenge_response.isdigit()
        assert not credentials.validate_password("another")


KNOWN: Final = (
    "AuthRequested(auth=<PLAIN LOGIN CRAM-MD5 XOAUTH2 credentials of : ***>, "
    "session=<Session  [local] ESMTPSA"
)
"""What a repr says anyway."""


def _insist_on_base64(line: bytes) -> None:
    """RFC 4648 §3.5: one spelling for each response."""
    try:
        text = line.decode("ascii")
        octets = base64.b64decode(text, validate=True)
    except (UnicodeDecodeError, binascii.Error):
        assert decode_base64(line.decode(errors="replace"), initial=False) is None
        return
    canonical = base64.b64encode(octets).decode() == text
    assert decode_base64(text, initial=False) == (octets if canonical else None)
