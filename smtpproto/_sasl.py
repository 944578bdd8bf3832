# SASL mechanisms (RFC 4422, RFC 4954 §4).
#
# A mechanism is a small machine: it is given the client's responses and says what comes next. It
# knows its own dialogue, never who may log in: complete credentials go to the application. What
# a client says wrongly is a Reject, not an exception.

from __future__ import annotations

import binascii
import hmac
import re
from typing import TYPE_CHECKING, ClassVar, Final, TypeAlias

from smtpproto._decisions import Accept, Challenge, Reject
from smtpproto._values import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from smtpproto._reply import Reply
    from smtpproto._session import Session

    MechanismFactory = Callable[[Session], "Mechanism"]
    Result: TypeAlias = "Challenge | Accept | Reject | AuthRequest"

__all__ = [
    "BUILT_IN_MECHANISMS", "AuthRequest", "CramMd5", "CramMd5Credentials", "Credentials", "Exchange",
    "Login", "LoginCredentials", "Mechanism", "Plain", "PlainCredentials",
    "XClientCredentials", "XOAuth2", "XOAuth2Credentials", "built_in_mechanism", "challenge_text",
    "decode_base64",
]  # fmt: skip

MAX_NAME: Final = 255  # octets of an authcid, authzid or password, RFC 4616 §2

INVALID_USERDATA: Final = Reject(501, "5.5.2", "Error: invalid userdata")
MISSING_USERNAME: Final = Reject(501, "5.5.2", "Error: missing username")


# --- what the application is given ------------------------------------------------------------------


class Credentials(Value):
    """What a client claims. Secrets are not in the repr."""

    __slots__ = ("method", "password", "response", "username")

    def __init__(self, method: str, username: str, password: str | None = None) -> None:
        self.method: str = method
        """The mechanism's name."""
        self.username: str = username
        """Who wants to log in."""
        self.password: str | None = password
        """The password of PLAIN and LOGIN; None for mechanisms that do not send it."""
        self.response: bytes | None = None
        """What the client answered to a Challenge of the application's own."""

    def validate_password(self, password: str | None) -> bool:
        """Whether the client knows `password`, by any mechanism; takes the same time for all wrong ones.

        None is the password of a user who is not known: it is always wrong.
        """
        if self.password is None or password is None:
            return False
        return hmac.compare_digest(self.password.encode(), password.encode())

    def __repr__(self) -> str:
        return f"<{self.method} credentials of {self.username!r}: ***>"


class PlainCredentials(Credentials):
    """PLAIN (RFC 4616)."""

    __slots__ = ("authcid", "authzid")

    password: str  # pyright: ignore[reportIncompatibleVariableOverride] - here it is always told

    def __init__(self, authzid: str, authcid: str, password: str) -> None:
        super().__init__("PLAIN", authcid or authzid, password)
        self.authzid: str = authzid
        """Whom the client wants to act as; the application decides whether it may."""
        self.authcid: str = authcid
        """Whose password it is."""


class LoginCredentials(Credentials):
    """LOGIN."""

    __slots__ = ()

    password: str  # pyright: ignore[reportIncompatibleVariableOverride] - here it is always told

    def __init__(self, username: str, password: str) -> None:
        super().__init__("LOGIN", username, password)


class CramMd5Credentials(Credentials):
    """CRAM-MD5 (RFC 2195): proof of a password that is never sent."""

    __slots__ = ("challenge", "challenge_response")

    def __init__(self, username: str, challenge: str, challenge_response: str) -> None:
        super().__init__("CRAM-MD5", username)
        self.challenge: str = challenge
        self.challenge_response: str = challenge_response
        """The client's digest in lower case."""

    def validate_password(self, password: str | None) -> bool:
        if password is None:
            return False
        digest = hmac.new(password.encode(), self.challenge.encode(), "md5").hexdigest()
        return hmac.compare_digest(digest.encode(), self.challenge_response.encode())


class XOAuth2Credentials(Credentials):
    """XOAUTH2."""

    __slots__ = ("access_token",)

    def __init__(self, username: str, access_token: str) -> None:
        super().__init__("XOAUTH2", username)
        self.access_token: str = access_token


class XClientCredentials(Credentials):
    """LOGIN of an XCLIENT: a trusted peer names the user; there is no password."""

    __slots__ = ()

    def __init__(self, username: str) -> None:
        super().__init__("XCLIENT", username)


class AuthRequest:
    """A mechanism's last step: these credentials are the application's to judge."""

    __slots__ = ("credentials",)

    def __init__(self, credentials: Credentials) -> None:
        self.credentials: Credentials = credentials

    def __repr__(self) -> str:
        return f"AuthRequest({self.credentials!r})"


# --- mechanisms ---------------------------------------------------------------------------------------


class Mechanism:
    """Base of mechanisms; an application's own are made by factories in `sasl_mechanisms`."""

    __slots__ = ()

    server_first: ClassVar[bool] = False
    """The server speaks first: an initial response is refused with 501 (RFC 4954 §4)."""
    refusal_text: ClassVar[str | None] = None
    """What a refusal of the credentials says when the application gives no text."""

    def step(self, response: bytes | None) -> Result:
        """What follows a response; None where the exchange begins without one.

        A Challenge, an Accept with a user, a Reject, or an AuthRequest for the application.
        """
        raise NotImplementedError

    def refused(self, refusal: Reject | None) -> Challenge | None:  # noqa: ARG002 - for those that do
        """A last challenge before the refusal of the credentials is told, if there is one."""
        return None


class Plain(Mechanism):
    """One response: authzid NUL authcid NUL password."""

    __slots__ = ()

    def step(self, response: bytes | None) -> Result:
        if response is None:
            return Challenge(b"")
        parts = [_text(part) for part in response.split(b"\0", 3)]
        if len(parts) != 3 or None in parts:  # noqa: PLR2004 - RFC 4616 §2
            return INVALID_USERDATA
        authzid, authcid, password = (part or "" for part in parts)
        if not authzid and not authcid:
            return INVALID_USERDATA
        return AuthRequest(PlainCredentials(authzid, authcid, password))


class Login(Mechanism):
    """Two questions: the name, which may be the initial response, and the password."""

    __slots__ = ("_username",)

    def __init__(self) -> None:
        self._username: str = ""

    def step(self, response: bytes | None) -> Result:
        if response is None:
            return Challenge(b"Username:")
        text = _text(response)
        if text is None:
            return INVALID_USERDATA
        if self._username:
            return AuthRequest(LoginCredentials(self._username, text))
        if not text:
            return MISSING_USERNAME
        self._username = text
        return Challenge(b"Password:")


class CramMd5(Mechanism):
    """The client proves the password on a challenge that is used once."""

    __slots__ = ("_challenge",)

    server_first: ClassVar[bool] = True

    def __init__(self, challenge: bytes) -> None:
        self._challenge: bytes = challenge

    def step(self, response: bytes | None) -> Result:
        if response is None:
            return Challenge(self._challenge)
        name, blank, digest = response.rpartition(b" ")
        username = _text(name)
        if not blank or not username or _HEX_DIGEST(digest) is None:
            return INVALID_USERDATA
        return AuthRequest(
            CramMd5Credentials(username, self._challenge.decode(), digest.decode("ascii").lower())
        )


class XOAuth2(Mechanism):
    """A bearer token: `user=<name>^Aauth=Bearer <token>^A^A`."""

    __slots__ = ()

    refusal_text: ClassVar[str | None] = "Error: Username and Password not accepted"

    def step(self, response: bytes | None) -> Result:
        if response is None:
            return Challenge(b"")
        fields: dict[bytes, bytes] = {}
        for part in response.split(b"\1"):
            key, _, value = part.partition(b"=")
            fields.setdefault(key.lower(), value)
        username = _text(fields.get(b"user", b""))
        kind, _, token = fields.get(b"auth", b"").partition(b" ")
        secret = _text(token.strip(), limit=None)
        if not username or not secret or kind.lower() != b"bearer":
            return INVALID_USERDATA
        return AuthRequest(XOAuth2Credentials(username, secret))

    def refused(self, refusal: Reject | None) -> Challenge | None:
        """The details as JSON; the client answers with an empty line and is then refused."""
        if refusal is not None and not _is_failed_login(refusal):
            return None
        import json  # noqa: PLC0415 - a large module for a rare refusal

        details = (refusal.challenge if refusal is not None else None) or {}
        return Challenge(json.dumps(dict(details)).encode())


class Exchange:
    """A SASL exchange on its way."""

    __slots__ = ("credentials", "last_word", "mechanism")

    def __init__(self, mechanism: Mechanism) -> None:
        self.mechanism: Mechanism = mechanism
        self.credentials: Credentials | None = None
        """Set while the application itself asks for more (Challenge)."""
        self.last_word: Reply | None = None
        """Set when the exchange has failed and only waits for the client's next line."""


def _is_failed_login(refusal: Reject) -> bool:
    """Whether the refusal will be a 535; an enhanced code of class 4 alone makes it a 451."""
    if refusal.code is None:
        return refusal.enhanced is None or refusal.enhanced.startswith("5")
    return refusal.code == 535  # noqa: PLR2004 - RFC 4954 §6


_BUILT_IN: Final[Mapping[str, Callable[[bytes], Mechanism]]] = {
    "PLAIN": lambda _challenge: Plain(),
    "LOGIN": lambda _challenge: Login(),
    "CRAM-MD5": CramMd5,
    "XOAUTH2": lambda _challenge: XOAuth2(),
}
BUILT_IN_MECHANISMS: Final = tuple(_BUILT_IN)


def built_in_mechanism(name: str, *, challenge: bytes) -> Mechanism:
    """A fresh mechanism for one exchange."""
    return _BUILT_IN[name](challenge)


def challenge_text(entropy: bytes, attempt: int, started: int, name: str) -> bytes:
    """`<random.time@name>` (RFC 2195 §2): 128 bits from `entropy`, new for each attempt."""
    random = hmac.new(entropy, attempt.to_bytes(8, "big"), "sha256").digest()[:16]
    return f"<{int.from_bytes(random, 'big')}.{started}@{name}>".encode()


# --- octets -------------------------------------------------------------------------------------------


def decode_base64(text: str, *, initial: bool) -> bytes | None:
    """Canonical base64 (RFC 4648 §3.5) or None; "=" is the empty initial response (RFC 4954 §4)."""
    if initial and text == "=":
        return b""
    try:
        octets = binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError):
        return None
    # Spare bits in the last character would let one response be written in several ways.
    return octets if binascii.b2a_base64(octets, newline=False) == text.encode() else None


def _text(octets: bytes, *, limit: int | None = MAX_NAME) -> str | None:
    """UTF-8 without control characters and not too long, or None."""
    if limit is not None and len(octets) > limit:
        return None
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        return None
    return None if _CONTROL(text) else text


_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]").search
_HEX_DIGEST: Final = re.compile(rb"[0-9a-fA-F]{32}").fullmatch
