# A mechanism of one's own: SCRAM-SHA-256 (RFC 7677). No password crosses the wire, and none is kept here.
from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, NamedTuple

from smtpproto.extending import Mechanism
from smtpproto_asyncio import Accept, Challenge, Reject, Session, SMTPServer

if TYPE_CHECKING:
    from collections.abc import Generator

ITERATIONS = 15_000
EMPTY = Challenge(b"")
MALFORMED = Reject(501, "5.5.2", "That is not SCRAM-SHA-256")
WRONG = Reject(535, "5.7.8", "Wrong name or password")
CLIENT_FIRST = re.compile(rb"([ny],,)(n=([^,]+),r=([!-+.-~-]+))")  # RFC 5802 §7, without channel binding


class Secret(NamedTuple):
    """What is kept of a password (RFC 5802 §3)."""

    salt: bytes
    stored_key: bytes
    server_key: bytes


def secret_of(password: str, salt: bytes) -> Secret:
    """For a new user; it is slow on purpose."""
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, ITERATIONS)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    return Secret(salt, hashlib.sha256(client_key).digest(), hmac.digest(salted, b"Server Key", "sha256"))


USERS = {"ann": secret_of("secret", secrets.token_bytes(16))}
NOBODY = secrets.token_bytes(32)  # a name that is not known has a salt, too, and always the same one


class Scram(Mechanism):
    """One exchange. `sasl_mechanisms` takes the class, which is called with the session."""

    def __init__(self, _session: Session) -> None:
        self.dialogue = self.speak()
        next(self.dialogue)

    def step(self, response: bytes | None) -> Challenge | Accept | Reject:
        """Take in a response, None for an AUTH without an initial one, and say what comes next."""
        try:
            return self.dialogue.send(response)
        except ValueError:  # what is no UTF-8 or no base64
            return MALFORMED

    def speak(self) -> Generator[Challenge | Accept | Reject, bytes | None, None]:
        """The whole dialogue, from top to bottom."""
        message = None
        while message is None:
            message = yield EMPTY
        first = CLIENT_FIRST.fullmatch(message)
        if first is None:
            yield MALFORMED
            return
        header, bare, saslname, client_nonce = first.groups()
        user = saslname.decode().replace("=2C", ",").replace("=3D", "=")
        nonce = client_nonce + secrets.token_urlsafe(18).encode()
        secret = USERS.get(user) or Secret(hmac.digest(NOBODY, user.encode(), "sha256")[:16], b"", b"")
        server_first = b"r=%s,s=%s,i=%d" % (nonce, b64encode(secret.salt), ITERATIONS)

        message = yield Challenge(server_first)
        final, _, proof = (message or b"").rpartition(b",p=")
        if final != b"c=%s,r=%s" % (b64encode(header), nonce):
            yield MALFORMED
            return
        said = b",".join((bare, server_first, final))
        signature = hmac.digest(secret.stored_key, said, "sha256")
        client_key = bytes(a ^ b for a, b in zip(b64decode(proof, validate=True), signature, strict=True))
        if not hmac.compare_digest(hashlib.sha256(client_key).digest(), secret.stored_key):
            yield WRONG
            return
        yield Challenge(b"v=" + b64encode(hmac.digest(secret.server_key, said, "sha256")))
        yield Accept(user=user)


async def main() -> None:
    """Listen until the program is interrupted."""
    async with SMTPServer(auth_methods=["SCRAM-SHA-256"], sasl_mechanisms={"SCRAM-SHA-256": Scram}) as server:
        await server.listen(2525, "127.0.0.1")
        print("listening on", server.address(), flush=True)
        await asyncio.Event().wait()


asyncio.run(main())
