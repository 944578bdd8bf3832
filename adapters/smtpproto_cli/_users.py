# Who may log in: the users of the command line.
#
# An answer must not tell whether a user exists, not by how long it takes either. So an unknown
# name is checked against a password as well, one that nobody has, and every comparison takes
# the same time whatever is compared.

from __future__ import annotations

import hmac
import secrets
from typing import TYPE_CHECKING

from smtpproto import CramMd5Credentials, LoginCredentials, PlainCredentials, XClientCredentials
from smtpproto_cli._faults import Fault

if TYPE_CHECKING:
    from collections.abc import Iterable

    from smtpproto import Credentials, Session

__all__ = ["Users"]


class Users:
    """Users and their passwords, from texts `name:password`. Use `on_auth` as the hook.

    Raises Fault for a text that is none.
    """

    __slots__ = ("_key", "_nobody", "_passwords")

    def __init__(self, texts: Iterable[str]) -> None:
        self._passwords: dict[str, str] = {}
        self._nobody: str = secrets.token_hex(16)
        self._key: bytes = secrets.token_bytes(32)
        for text in texts:
            name, password = _read(text)
            if name in self._passwords:
                raise Fault(f"--user: {name!r} is there twice; remove one")
            self._passwords[name] = password

    def __bool__(self) -> bool:
        return bool(self._passwords)

    def on_auth(self, auth: Credentials, session: Session) -> bool:  # noqa: ARG002 - a hook's signature
        """Whether these credentials are those of a user; the user is then `auth.username`."""
        known = auth.username in self._passwords
        proven = self._proven(auth, self._passwords.get(auth.username, self._nobody))
        return proven and known

    def _proven(self, auth: Credentials, password: str) -> bool:
        match auth:
            case PlainCredentials():
                # Nobody may act for another here (RFC 4616 §2, authzid).
                return self._same(auth.password, password) and auth.authzid in ("", auth.username)
            case LoginCredentials():
                return self._same(auth.password, password)
            case CramMd5Credentials():
                return auth.validate_password(password)
            case XClientCredentials():
                return True  # a peer that `use_xclient` trusts has seen the password
            case _:
                return False  # a token, for instance: there are only passwords here

    def _same(self, said: str, password: str) -> bool:
        # Digests, because the length of a password is not to be measured either.
        return hmac.compare_digest(self._digest(said), self._digest(password))

    def _digest(self, text: str) -> bytes:
        return hmac.digest(self._key, text.encode(), "sha256")


def _read(text: str) -> tuple[str, str]:
    name, colon, password = text.partition(":")
    if not (name and colon and password):
        raise Fault("--user wants name:password, neither of them empty")
    if any("\ud800" <= char <= "\udfff" for char in text):  # octets of the command line that are not UTF-8
        raise Fault("--user: name and password must be UTF-8")
    return name, password
